// What the color network of a surface reads at a chunk of samples, and the way back: the loops of ops/radiance/surface_color.py, for a CPU only.
//
// `surface` has addresses of [channel, sample] arrays of `surface.count` samples. Rows of a block are `stride` apart; its column j is sample
// begin + j. First come the rows that the network reads, in its order: with reflections the cosine and the harmonics of the mirrored
// direction, then position, normal and features.

// section: rows
const int total = surface.count, number = end - begin;
const float* slopes = (const float*)surface.gradients + begin;
const int* ray_index = (const int*)surface.ray_index + begin;
const float* directions = (const float*)surface.directions;
const int reflected = reflections ? 1 + harmonics : 0;
float* place = (float*)block + (long long)reflected * stride;
float* normal = place + 3 * (long long)stride;
float* feature = normal + 3 * (long long)stride;
// Shorter vectors have no direction: unrender.numerics.normalized
const float smallest = 1e-24f;

// section: incoming
        const int ray = ray_index[j] < 0 || ray_index[j] >= surface.rays ? 0 : ray_index[j];
        const float dx = directions[3 * ray], dy = directions[3 * ray + 1], dz = directions[3 * ray + 2];

// section: inputs
// use: rows
for (int k = 0; k < 3; k++) memcpy(place + k * (long long)stride, (const float*)surface.positions + k * (long long)total + begin, 4 * number);
for (int k = 0; k < features; k++)
    memcpy(feature + k * (long long)stride, (const float*)surface.features + k * (long long)total + begin, 4 * number);
for (int j = 0; j < number; j++) {
    const float x = slopes[j], y = slopes[(long long)total + j], z = slopes[2 * (long long)total + j];
    const float squared = x * x + y * y + z * z;
    const float scale = 1.f / sqrtf(squared > smallest ? squared : smallest);
    normal[j] = x * scale;
    normal[stride + j] = y * scale;
    normal[2 * stride + j] = z * scale;
}
if (reflections)
    for (int j = 0; j < number; j++) {
        // use: incoming
        const float x = normal[j], y = normal[stride + j], z = normal[2 * stride + j];
        const float cosine = dx * x + dy * y + dz * z;
        ((float*)block)[j] = cosine;
        mirrored.data[j] = dx - 2.f * cosine * x;
        mirrored.data[stride + j] = dy - 2.f * cosine * y;
        mirrored.data[2 * stride + j] = dz - 2.f * cosine * z;
    }

// section: keep
// The colors and the normals of the chunk, into [channel, sample] arrays.
// use: rows
for (int k = 0; k < 3; k++) {
    memcpy((float*)colors + k * (long long)total + begin, (const float*)outputs + k * (long long)stride, 4 * number);
    memcpy((float*)normals + k * (long long)total + begin, normal + k * (long long)stride, 4 * number);
}

// section: slopes
// The gradients of what becomes the colors in a sigmoid, into a block.
const int total = surface.count, number = end - begin;
for (int k = 0; k < 3; k++) {
    const float* color = (const float*)colors + k * (long long)total + begin;
    const float* given = (const float*)grad_colors + k * (long long)total + begin;
    for (int j = 0; j < number; j++) ((float*)slopes)[k * (long long)stride + j] = given[j] * color[j] * (1.f - color[j]);
}

// section: inputs_adjoint
// From the gradients of a block to those of the surface. `block` holds the inputs, `grads` has their gradients, `grad_mirrored` those of the
// mirrored direction.
// use: rows
const float* grad = (const float*)grads;
float* by_gradient = (float*)grad_gradients + begin;
const float* grad_normal = grad + (long long)(reflected + 3) * stride;
const float* grad_feature = grad_normal + 3 * (long long)stride;
const float* given = (const float*)grad_normals;
for (int k = 0; k < features; k++)
    memcpy((float*)grad_features + k * (long long)total + begin, grad_feature + k * (long long)stride, 4 * number);
for (int j = 0; j < number; j++) {
    const float x = normal[j], y = normal[stride + j], z = normal[2 * stride + j];
    float gx = grad_normal[j], gy = grad_normal[stride + j], gz = grad_normal[2 * stride + j];
    if (given) {
        gx += given[begin + j];
        gy += given[(long long)total + begin + j];
        gz += given[2 * (long long)total + begin + j];
    }
    if (reflections) {
        // use: incoming
        const float mx = grad_mirrored.data[j], my = grad_mirrored.data[stride + j], mz = grad_mirrored.data[2 * stride + j];
        const float cosine = ((const float*)block)[j], by_cosine = grad[j] - 2.f * (mx * x + my * y + mz * z);
        gx += by_cosine * dx - 2.f * cosine * mx;
        gy += by_cosine * dy - 2.f * cosine * my;
        gz += by_cosine * dz - 2.f * cosine * mz;
    }
    const float sx = slopes[j], sy = slopes[(long long)total + j], sz = slopes[2 * (long long)total + j];
    const float squared = sx * sx + sy * sy + sz * sz;
    const float scale = 1.f / sqrtf(squared > smallest ? squared : smallest);
    const float along = squared >= smallest ? gx * x + gy * y + gz * z : 0.f;
    by_gradient[j] = scale * (gx - along * x);
    by_gradient[(long long)total + j] = scale * (gy - along * y);
    by_gradient[2 * (long long)total + j] = scale * (gz - along * z);
}

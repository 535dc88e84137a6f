// Rays through the layers of a multi-sphere image: the loops of ops/rays/multi_sphere.py.
//
// A record of a ray and a layer is [fx, fy, density, red, green, blue, light]: where it lies between texels, the color before it is clamped
// at zero, and the transmittance in front of it; `texels` has its texel with the smaller row and column, or -1 where nothing is seen.

// section: four
        // The texels around the sample, of which the columns go round, and their shares.
        const int column = texel % width, next = column + 1 < width ? 1 : 1 - width;
        const int below = texel / width + 1 < height ? width : 0;
        const long long base = (long long)layer * height * width;
        const long long four[4] = {base + texel, base + texel + next, base + texel + below, base + texel + below + next};
        const float share[4] = {(1.f - fx) * (1.f - fy), fx * (1.f - fy), (1.f - fx) * fy, fx * fy};

// section: render
// Composite the layers from near to far behind the light that `arriving` has left.
const float pi = 3.14159265358979f;
for (int ray = begin; ray < end; ray++) {
    const float* o = rays.origins.data + 3 * ray;
    const float* d = rays.directions.data + 3 * ray;
    const float along = o[0] * d[0] + o[1] * d[1] + o[2] * d[2], square = o[0] * o[0] + o[1] * o[1] + o[2] * o[2];
    float light = 1.f, sum[3] = {0.f, 0.f, 0.f}, distance = 0.f;
    for (int layer = 0; layer < layers; layer++) {
        const long long place = (long long)ray * layers + layer;
        texels.data[place] = -1;
        if (!(arriving.data[ray] * light > stop)) continue;
        const float radius = layers / (layers - layer - 0.5f), under = along * along - square + radius * radius;
        if (!(under >= 0.f)) continue;
        const float t = sqrtf(under) - along;
        if (!(t > 0.f)) continue;
        float u[3];
        for (int axis = 0; axis < 3; axis++) u[axis] = (o[axis] + t * d[axis]) / radius;
        const float z = u[2] > 1.f ? 1.f : (u[2] > -1.f ? u[2] : -1.f);
        const float x = (atan2f(u[1], u[0]) / (2.f * pi) + 0.5f) * width - 0.5f;
        float y = acosf(z) / pi * height - 0.5f;
        y = y > 0.f ? (y < height - 1 ? y : height - 1) : 0.f;
        if (!(x > -2.f && x < width + 2.f)) continue;
        int ix = (int)(x + 1.f) - 1, iy = (int)y;
        const float fx = x - ix, fy = y - iy;
        ix = ix < 0 ? ix + width : (ix < width ? ix : ix - width);
        const int texel = iy * width + ix;
        // use: four
        float value[4] = {0.f, 0.5f, 0.5f, 0.5f};
        for (int k = 0; k < 4; k++)
            for (int c = 0; c < 4; c++) value[c] += share[k] * image.data[4 * four[k] + c];
        value[0] *= unit;
        if (!(value[0] > 0.f)) continue;
        float* record = records.data + 7 * place;
        record[0] = fx; record[1] = fy;
        for (int c = 0; c < 4; c++) record[2 + c] = value[c];
        record[6] = light;
        texels.data[place] = texel;
        const float kept = expf(-value[0] / layers), weight = light * (1.f - kept);
        for (int c = 0; c < 3; c++) sum[c] += weight * (value[1 + c] > 0.f ? value[1 + c] : 0.f);
        distance += weight * t;
        light *= kept;
    }
    for (int c = 0; c < 3; c++) color.data[3 * ray + c] = sum[c];
    transmittance.data[ray] = light;
    distances.data[ray] = distance;
}

// section: sample_gradients
// The gradients to the density and the color of every sample, from back to front.
for (int ray = begin; ray < end; ray++) {
    float behind = of_light.data[ray] * transmittance.data[ray];
    for (int layer = layers - 1; layer >= 0; layer--) {
        const long long place = (long long)ray * layers + layer;
        if (texels.data[place] < 0) continue;
        const float* record = records.data + 7 * place;
        float* out = gradients.data + 4 * place;
        const float kept = expf(-record[2] / layers), light = record[6], weight = light * (1.f - kept);
        float here = 0.f;
        for (int c = 0; c < 3; c++) {
            const float g = of_color.data[3 * ray + c];
            here += (record[3 + c] > 0.f ? record[3 + c] : 0.f) * g;
            out[1 + c] = record[3 + c] > 0.f ? weight * g : 0.f;
        }
        out[0] = unit * (light * kept * here - behind) / layers;
        behind += weight * here;
    }
}

// section: scatter
// Add the gradients of the samples of the rays `begin` to `end` to the layers `layer_begin` to `layer_end`, after clearing these where they are
// the work item's own.
// use: kernels.add
if (clear)
    for (long long k = 4LL * layer_begin * height * width; k < 4LL * layer_end * height * width; k++) grad_image.data[k] = 0.f;
for (int layer = layer_begin; layer < layer_end; layer++)
    for (int ray = begin; ray < end; ray++) {
        const long long place = (long long)ray * layers + layer;
        const int texel = texels.data[place];
        if (texel < 0) continue;
        const float fx = records.data[7 * place], fy = records.data[7 * place + 1];
        // use: four
        for (int k = 0; k < 4; k++)
            for (int c = 0; c < 4; c++) UNRENDER_ADD(grad_image.data + 4 * four[k] + c, share[k] * gradients.data[4 * place + c]);
    }
// use: kernels.forget_add

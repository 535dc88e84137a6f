// Rays through sparse voxels: the loops of ops/rays/voxels.py.
//
// `sizes` are the vertices of the grid along each axis and the channels of a row of `harmonics`; `places` [Z, Y, X] is the number of a cell
// that may absorb light, or -1; `corners` [cells, 8] are the rows of its corners, or -1; `clearance` is the distance of each brick of 4^3 cells
// from the next one with such a cell, in bricks, and stays in the first cache. A record of a sample is [fx, fy, fz, density, red, green, blue, light]: where it lies in its cell, the color before it is clamped at zero,
// and the transmittance in front of it.

// section: sizes
const int size_x = sizes.size_x, size_y = sizes.size_y, size_z = sizes.size_z, channels = sizes.channels;
const int row = size_x, plane = size_y * size_x, bands = channels / 3;
const int bricks_x = (size_x + 2) >> 2, bricks_y = (size_y + 2) >> 2;
(void)row; (void)plane; (void)size_z; (void)bricks_x; (void)bricks_y;

// section: corners
        // The rows of the eight corners of `cell` and their weights, x fastest.
        const int* c = corners.data + 8 * (long long)cell;
        const int corner[8] = {c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]};
        const float x0 = 1.f - fx, y0 = 1.f - fy, z0 = 1.f - fz;
        const float w00 = y0 * z0, w10 = fy * z0, w01 = y0 * fz, w11 = fy * fz;
        const float share[8] = {x0 * w00, fx * w00, x0 * w10, fx * w10, x0 * w01, fx * w01, x0 * w11, fx * w11};

// section: interpolate
            // The harmonics of COUNT bands at the sample, and the color that they are in the direction of the ray.
            float sum[3 * COUNT];
            for (int c = 0; c < 3 * COUNT; c++) sum[c] = 0.f;
            for (int k = 0; k < 8; k++) {
                if ((unsigned)corner[k] >= row_count) continue;
                const float* from = harmonics.data + (long long)corner[k] * (3 * COUNT);
                for (int c = 0; c < 3 * COUNT; c++) sum[c] += share[k] * from[c];
            }
            for (int b = 0; b < COUNT; b++) {
                red += sum[b] * basis.data[ray * COUNT + b];
                green += sum[COUNT + b] * basis.data[ray * COUNT + b];
                blue += sum[2 * COUNT + b] * basis.data[ray * COUNT + b];
            }

// section: render
// Walk along the rays `begin` to `end`, whose samples are stored one after the other from `place` on. Where these need more than `room`, the
// count of the rays that are left is -1.
// use: sizes
const unsigned row_count = density.shape[0], cell_count = corners.shape[0] / 8;
int n = place;
for (int ray = begin; ray < end; ray++) {
    // Positions in cells from the first vertex: p + t q.
    float p[3], q[3], enter = near, leave = 3.0e38f, per_step[3];
    const int size[3] = {size_x, size_y, size_z};
    for (int axis = 0; axis < 3; axis++) {
        const float scale = 0.5f * (size[axis] - 1);
        p[axis] = (rays.origins.data[3 * ray + axis] + 1.f) * scale;
        q[axis] = rays.directions.data[3 * ray + axis] * scale;
    }
    const float speed = sqrtf(q[0] * q[0] + q[1] * q[1] + q[2] * q[2]);
    const float step = cells_per_step / (speed > 1e-12f ? speed : 1e-12f);
    steps.data[ray] = step;
    for (int axis = 0; axis < 3; axis++) {
        per_step[axis] = 1.f / (step * (q[axis] > 1e-12f || q[axis] < -1e-12f ? q[axis] : 1e-12f));
        if (q[axis] > 1e-12f || q[axis] < -1e-12f) {
            const float a = -p[axis] / q[axis], b = ((size[axis] - 1) - p[axis]) / q[axis];
            const float low = a < b ? a : b, high = a < b ? b : a;
            if (low > enter) enter = low;
            if (high < leave) leave = high;
        } else if (!(p[axis] >= 0.f && p[axis] <= size[axis] - 1)) {
            leave = -1.f;
        }
    }
    const float offset = offsets.data[ray];
    const int begin_of_ray = n;
    float light = 1.f, red_sum = 0.f, green_sum = 0.f, blue_sum = 0.f, distance = 0.f, logs = 0.f;
    int k = 0;
    while (k < most) {
        const float along = enter + (k + offset) * step;
        if (!(along < leave)) break;
        float u[3];
        int cell_of[3];
        for (int axis = 0; axis < 3; axis++) {
            const float v = p[axis] + along * q[axis];
            u[axis] = v > 0.f ? (v < size[axis] - 1 ? v : size[axis] - 1) : 0.f;
            cell_of[axis] = (int)u[axis] < size[axis] - 2 ? (int)u[axis] : size[axis] - 2;
        }
        const int brick = ((cell_of[2] >> 2) * bricks_y + (cell_of[1] >> 2)) * bricks_x + (cell_of[0] >> 2);
        const int clear = clearance.data[brick];
        if (clear) {
            // Leap to the end of the empty box of bricks around this one.
            float leap = 1e9f;
            for (int axis = 0; axis < 3; axis++) {
                const int edge = ((cell_of[axis] >> 2) + (q[axis] > 0.f ? clear : 1 - clear)) << 2;
                const float there = (edge - u[axis]) * per_step[axis];
                if (there >= 0.f && there < leap) leap = there;
            }
            k += leap > 1.f ? (int)leap : 1;
            continue;
        }
        const int cell = places.data[cell_of[2] * plane + cell_of[1] * row + cell_of[0]];
        if ((unsigned)cell >= cell_count) {
            k++;
            continue;
        }
        k++;
        const float fx = u[0] - cell_of[0], fy = u[1] - cell_of[1], fz = u[2] - cell_of[2];
        // use: corners
        float sigma = 0.f;
        for (int j = 0; j < 8; j++)
            if ((unsigned)corner[j] < row_count) sigma += share[j] * density.data[corner[j]];
        if (!(sigma > 0.f)) continue;
        float red = 0.5f, green = 0.5f, blue = 0.5f;
        if (bands == 1) {
            // use: interpolate with COUNT=1
        } else if (bands == 4) {
            // use: interpolate with COUNT=4
        } else {
            // use: interpolate with COUNT=9
        }
        if (n == place + room) {
            for (int other = ray; other < end; other++) count.data[other] = -1;
            return;
        }
        float* record = records.data + (long long)n * 8;
        record[0] = fx; record[1] = fy; record[2] = fz; record[3] = sigma;
        record[4] = red; record[5] = green; record[6] = blue; record[7] = light;
        cells.data[n] = cell;
        n++;
        const float kept = expf(-sigma * step), weight = light * (1.f - kept);
        red_sum += weight * (red > 0.f ? red : 0.f);
        green_sum += weight * (green > 0.f ? green : 0.f);
        blue_sum += weight * (blue > 0.f ? blue : 0.f);
        distance += weight * along;
        logs += logf(1.f + 2.f * sigma * sigma);
        light *= kept;
        if (light < stop) break;
    }
    color.data[3 * ray] = red_sum;
    color.data[3 * ray + 1] = green_sum;
    color.data[3 * ray + 2] = blue_sum;
    transmittance.data[ray] = light;
    distances.data[ray] = distance;
    sparsity.data[ray] = logs;
    first_sample.data[ray] = begin_of_ray;
    count.data[ray] = n - begin_of_ray;
}

// section: sample_gradients
// The gradients to density and color of every sample of the rays, from back to front:
// dL/dsigma = step (T_after c.g - what lies behind it . g) and dL/dc = w g where c > 0.
for (int ray = begin; ray < end; ray++) {
    const int from = first_sample.data[ray], number = count.data[ray];
    const float step = steps.data[ray];
    const float gr = of_color.data[3 * ray], gg = of_color.data[3 * ray + 1], gb = of_color.data[3 * ray + 2];
    const float gs = of_sparsity.data[ray];
    float behind = of_light.data[ray] * transmittance.data[ray];
    for (int n = from + number - 1; n >= from; n--) {
        const float* record = records.data + (long long)n * 8;
        float* out = gradients.data + (long long)n * 4;
        const float sigma = record[3], light = record[7];
        const float kept = expf(-sigma * step), weight = light * (1.f - kept);
        const float red = record[4] > 0.f ? record[4] : 0.f, green = record[5] > 0.f ? record[5] : 0.f;
        const float blue = record[6] > 0.f ? record[6] : 0.f;
        const float here = red * gr + green * gg + blue * gb;
        out[0] = step * (light * kept * here - behind) + gs * 4.f * sigma / (1.f + 2.f * sigma * sigma);
        out[1] = record[4] > 0.f ? weight * gr : 0.f;
        out[2] = record[5] > 0.f ? weight * gg : 0.f;
        out[3] = record[6] > 0.f ? weight * gb : 0.f;
        behind += weight * here;
    }
}

// section: spread
            // The gradient of COUNT bands, to the corners in the layers of this work item.
            float amount[3 * COUNT];
            for (int b = 0; b < COUNT; b++) {
                amount[b] = out[1] * basis.data[ray * COUNT + b];
                amount[COUNT + b] = out[2] * basis.data[ray * COUNT + b];
                amount[2 * COUNT + b] = out[3] * basis.data[ray * COUNT + b];
            }
            for (int j = 0; j < 8; j++) {
                if ((unsigned)corner[j] >= row_count || (j < 4 ? !lower : !upper)) continue;
                UNRENDER_ADD(grad_density.data + corner[j], share[j] * out[0]);
                float* to = grad_harmonics.data + (long long)corner[j] * (3 * COUNT);
                for (int c = 0; c < 3 * COUNT; c++) UNRENDER_ADD(to + c, share[j] * amount[c]);
            }

// section: scatter
// Add the gradients of the samples of the rays `begin` to `end` to some layers of vertices, after clearing the rows of these
// where they are the work item's own. These vertices are the lower corners of the cells `lower_begin` to `lower_end` and the upper ones of
// the cells `upper_begin` to `upper_end`.
// use: sizes
// use: kernels.add
const unsigned row_count = grad_density.shape[0];
for (int k = clear_begin; k < clear_end; k++) grad_density.data[k] = 0.f;
for (long long k = (long long)clear_begin * channels; k < (long long)clear_end * channels; k++) grad_harmonics.data[k] = 0.f;
for (int ray = begin; ray < end; ray++) {
    const int from = first_sample.data[ray], number = count.data[ray];
    for (int n = from; n < from + number; n++) {
        const int cell = cells.data[n];
        if (cell < upper_begin || cell >= lower_end) continue;
        const bool lower = cell >= lower_begin, upper = cell < upper_end;
        const float* record = records.data + (long long)n * 8;
        const float* out = gradients.data + (long long)n * 4;
        const float fx = record[0], fy = record[1], fz = record[2];
        // use: corners
        if (bands == 1) {
            // use: spread with COUNT=1
        } else if (bands == 4) {
            // use: spread with COUNT=4
        } else {
            // use: spread with COUNT=9
        }
    }
}
// use: kernels.forget_add

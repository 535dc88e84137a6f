// A signed distance in a dense grid over a box, at packed samples: the loops of ops/rays/grid_surface.py.
//
// `distances` are the sizes of the grid, `begin` to `end` the range of samples. Results are [channel, sample].

// section: frame
// Scales and offsets of the coordinates, from the world to the unit cube.
const float to_x = frame.data[0], to_y = frame.data[1], to_z = frame.data[2];
const float from_x = frame.data[3], from_y = frame.data[4], from_z = frame.data[5];

// section: unit_point
    const float px = to_x * x + from_x, py = to_y * y + from_y, pz = to_z * z + from_z;

// section: point
    // The cell of the point at distance `along` of `ray`.
    const float x = rays.origins.data[3 * ray] + along * rays.directions.data[3 * ray];
    const float y = rays.origins.data[3 * ray + 1] + along * rays.directions.data[3 * ray + 1];
    const float z = rays.origins.data[3 * ray + 2] + along * rays.directions.data[3 * ray + 2];
    // use: unit_point
    // use: kernels.grid_cell

// section: middle_of
    const int ray = samples.ray_index.data[n];
    const bool used = ray >= 0 && ray < rays.origins.shape[0];
    const float along = 0.5f * (samples.starts.data[n] + samples.ends.data[n]);
    const float x = used ? rays.origins.data[3 * ray] + along * rays.directions.data[3 * ray] : 0.f;
    const float y = used ? rays.origins.data[3 * ray + 1] + along * rays.directions.data[3 * ray + 1] : 0.f;
    const float z = used ? rays.origins.data[3 * ray + 2] + along * rays.directions.data[3 * ray + 2] : 0.f;
    // use: unit_point

// section: middles
// Position, distance and gradient in the middle of each interval, and the gradient of another grid, if there is one.
// use: kernels.grid_sizes with grid=distances
// use: frame
const int count = samples.starts.shape[0];
for (int n = begin; n < end; n++) {
    // use: middle_of
    positions.data[n] = x;
    positions.data[count + n] = y;
    positions.data[2 * count + n] = z;
    // use: kernels.grid_cell
    const int c = 0;
    {
        const float* g = vertices.data + base;
        // use: kernels.grid_corners
        sdf.data[n] = value;
        gradient.data[n] = to_x * slope_x;
        gradient.data[count + n] = to_y * slope_y;
        gradient.data[2 * count + n] = to_z * slope_z;
    }
    if (other.data) {
        const float* g = other.data + base;
        // use: kernels.grid_corners
        (void)value;
        other_gradient.data[n] = to_x * slope_x;
        other_gradient.data[count + n] = to_y * slope_y;
        other_gradient.data[2 * count + n] = to_z * slope_z;
    }
}

// section: ends
// The gradients of the distances at both ends from those of their mean and slope, and the layers of all cells: the z of a cell's first
// corner, by which the gradient of the grid is cut into slabs. A point at which one interval ends and the next one begins is one point,
// the end of the first; -2 is the layer of the start that it replaces.
const int count = samples.starts.shape[0];
const float* start = samples.starts.data;
const float* stop = samples.ends.data;
const int* ray_index = samples.ray_index.data;
auto gradients = [&](int n, float& at_start, float& at_end) {
    const float length = stop[n] - start[n];
    const float by_slope = grad_slope.data[n] / (length > 1e-6f ? length : 1e-6f);
    at_start = 0.5f * grad_middle.data[n] - by_slope;
    at_end = 0.5f * grad_middle.data[n] + by_slope;
};
const int size_z = distances.size_z;
auto layer = [&](float z) {
    const float pz = frame.data[2] * z + frame.data[5];
    const float uz = (pz > 0.f ? (pz < 1.f ? pz : 1.f) : 0.f) * (size_z - 1);
    return (short)((int)uz < size_z - 2 ? (int)uz : size_z - 2);
};
auto joined = [&](int n) { return n > 0 && ray_index[n] == ray_index[n - 1] && start[n] == stop[n - 1]; };
for (int n = begin; n < end; n++) {
    const int ray = ray_index[n];
    const bool used = ray >= 0 && ray < rays.origins.shape[0];
    const float origin = used ? rays.origins.data[3 * ray + 2] : 0.f, slope = used ? rays.directions.data[3 * ray + 2] : 0.f;
    const float middle = origin + 0.5f * (start[n] + stop[n]) * slope;
    layers.data[n] = used && !joined(n) ? layer(origin + start[n] * slope) : -2;
    layers.data[count + n] = used ? layer(origin + stop[n] * slope) : -2;
    layers.data[2 * count + n] = layer(middle);
    float at_start, at_end, next_start, next_end;
    gradients(n, at_start, at_end);
    if (n + 1 < count && joined(n + 1)) {
        gradients(n + 1, next_start, next_end);
        at_end += next_start;
    }
    end_gradients.data[n] = at_start;
    end_gradients.data[count + n] = at_end;
}

// section: clear
// On a CPU the slab is the work item's own, in memory that was not cleared before.
if (clear)
    for (int k = z_begin * size_y * size_x * channels; k < z_end * size_y * size_x * channels; k++) {
        grad_grid.data[k] = 0.f;
        if (other) grad_other.data[k] = 0.f;
    }

// section: distance_gradient
// The gradient of the distances with z_begin <= z < z_end.
// use: kernels.grid_sizes with grid=distances
// use: kernels.add
const bool other = grad_other.data != nullptr;
// use: clear
// use: frame
const int count = samples.starts.shape[0];
for (int side = 0; side < 2; side++)
    for (int n = begin; n < end; n++) {
        const short at = layers.data[side * count + n];
        if (at + 1 < z_begin || at >= z_end || at < 0) continue;
        const int ray = samples.ray_index.data[n];
        const float along = side ? samples.ends.data[n] : samples.starts.data[n];
        const float amount = end_gradients.data[side * count + n];
        // use: point
        for (int upper = 0; upper < 2; upper++) {
            if (iz + upper < z_begin || iz + upper >= z_end) continue;
            float* g = grad_grid.data + base + upper * plane;
            const float share = (upper ? fz : z0) * amount;
            UNRENDER_ADD(g, x0 * y0 * share);
            UNRENDER_ADD(g + 1, fx * y0 * share);
            UNRENDER_ADD(g + row, x0 * fy * share);
            UNRENDER_ADD(g + row + 1, fx * fy * share);
        }
    }
for (int n = begin; n < end; n++) {
    const short at = layers.data[2 * count + n];
    if (at + 1 < z_begin || at >= z_end) continue;
    // use: middle_of
    // use: kernels.grid_cell
    for (int upper = 0; upper < 2; upper++) {
        if (iz + upper < z_begin || iz + upper >= z_end) continue;
        const float wz = upper ? fz : z0, sz = upper ? gz : -gz;
        const int c = 0;
        {
            float* g = grad_grid.data + base + upper * plane;
            const float dv = with_sdf ? grad_sdf.data[n] : 0.f;
            const float jx = to_x * grad_gradient.data[n];
            const float jy = to_y * grad_gradient.data[count + n];
            const float jz = to_z * grad_gradient.data[2 * count + n];
            // use: kernels.grid_add_face
        }
        if (other) {
            float* g = grad_other.data + base + upper * plane;
            const float dv = 0.f;
            const float jx = to_x * grad_other_gradient.data[n];
            const float jy = to_y * grad_other_gradient.data[count + n];
            const float jz = to_z * grad_other_gradient.data[2 * count + n];
            // use: kernels.grid_add_face
        }
    }
}
// use: kernels.forget_add

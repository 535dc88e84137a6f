// Trilinear lookup in a dense grid: the loops over points of ops/encodings/grid_lookup.py.
//
// Every section is the body of a Warp function with `grid` (its sizes), `vertices`, `positions` [points, 3], `count`, and the range
// `begin` to `end` of points. Results are [channel, point]: neighboring points are neighbors in memory.

// section: cell
    // The cell of point n.
    const float px = positions.data[3 * n], py = positions.data[3 * n + 1], pz = positions.data[3 * n + 2];
    // use: kernels.grid_cell

// section: values
// use: kernels.grid_sizes
for (int n = begin; n < end; n++) {
    // use: cell
    const float* g = vertices.data + base;
    const float w000 = x0 * y0 * z0, w100 = fx * y0 * z0, w010 = x0 * fy * z0, w110 = fx * fy * z0;
    const float w001 = x0 * y0 * fz, w101 = fx * y0 * fz, w011 = x0 * fy * fz, w111 = fx * fy * fz;
    for (int c = 0; c < channels; c++) {
        const float* a = g + c;
        const float* b = a + plane;
        values.data[c * count + n] = w000 * a[0] + w100 * a[channels] + w010 * a[row] + w110 * a[row + channels]
                                   + w001 * b[0] + w101 * b[channels] + w011 * b[row] + w111 * b[row + channels];
    }
}

// section: values_and_jacobian
// use: kernels.grid_sizes
for (int n = begin; n < end; n++) {
    // use: cell
    const float* g = vertices.data + base;
    for (int c = 0; c < channels; c++) {
        // use: kernels.grid_corners
        values.data[c * count + n] = value;
        jacobian.data[(3 * c) * count + n] = slope_x;
        jacobian.data[(3 * c + 1) * count + n] = slope_y;
        jacobian.data[(3 * c + 2) * count + n] = slope_z;
    }
}

// section: scatter
// The gradient of the vertices with z_begin <= z < z_end, from those of the values and, where asked for, of the Jacobian.
// use: kernels.grid_sizes
// use: kernels.add
for (int n = begin; n < end; n++) {
    // use: cell
    if (iz + 1 < z_begin || iz >= z_end) continue;
    for (int k = 0; k < 2; k++) {
        if (iz + k < z_begin || iz + k >= z_end) continue;
        float* g = grad_grid.data + base + k * plane;
        const float wz = k ? fz : z0;
        const float sz = k ? gz : -gz;
        for (int c = 0; c < channels; c++) {
            const float dv = grad_values.data[c * count + n];
            const float jx = with_jacobian ? grad_jacobian.data[(3 * c) * count + n] : 0.f;
            const float jy = with_jacobian ? grad_jacobian.data[(3 * c + 1) * count + n] : 0.f;
            const float jz = with_jacobian ? grad_jacobian.data[(3 * c + 2) * count + n] : 0.f;
            // use: kernels.grid_add_face
        }
    }
}
// use: kernels.forget_add

// section: position_gradient
// From the gradients of the values and of the Jacobian; hxy, hxz and hyz are the only second derivatives of a trilinear function.
// use: kernels.grid_sizes
for (int n = begin; n < end; n++) {
    // use: cell
    const float* g = vertices.data + base;
    float dx = 0.f, dy = 0.f, dz = 0.f;
    for (int c = 0; c < channels; c++) {
        // use: kernels.grid_corners
        const float jx = grad_jacobian.data[(3 * c) * count + n];
        const float jy = grad_jacobian.data[(3 * c + 1) * count + n];
        const float jz = grad_jacobian.data[(3 * c + 2) * count + n];
        (void)value;
        const float hxy = gx * gy * (z0 * (e3 - e2 - e1 + e0) + fz * (e7 - e6 - e5 + e4));
        const float hxz = gx * gz * (y0 * (e5 - e4 - e1 + e0) + fy * (e7 - e6 - e3 + e2));
        const float hyz = gy * gz * (x0 * (e6 - e4 - e2 + e0) + fx * (e7 - e5 - e3 + e1));
        const float dv = grad_values.data[c * count + n];
        dx += dv * slope_x + jy * hxy + jz * hxz;
        dy += dv * slope_y + jx * hxy + jz * hyz;
        dz += dv * slope_z + jx * hxz + jy * hyz;
    }
    grad_positions.data[3 * n] = dx;
    grad_positions.data[3 * n + 1] = dy;
    grad_positions.data[3 * n + 2] = dz;
}

// What kernels of several families share; other headers take a section by "// use: kernels.NAME" (ops/kernels/native.py).

// section: add
// UNRENDER_ADD for kernels that scatter: atomic on a GPU, and plain on a CPU, where each work item owns what it adds to.
#if defined(__CUDA_ARCH__)
#define UNRENDER_ADD(address, amount) atomicAdd(address, amount)
#else
#define UNRENDER_ADD(address, amount) *(address) += (amount)
#endif

// section: forget_add
#undef UNRENDER_ADD

// section: vector_exp
// e^x within two units in the last place, as arithmetic alone: a compiler turns a loop over it into vector instructions. Arguments are
// clamped to the range of finite, normal results; NaN stays NaN.
auto vector_exp = [](float x) {
    const float y = x < -87.f ? -87.f : (x > 88.f ? 88.f : x);
    const int n = (int)(y * 1.44269504f + (y < 0.f ? -0.5f : 0.5f));
    const float r = y - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    union { int bits; float value; } power = {(n + 127) << 23};
    return (p * r * r + r + 1.f) * power.value;
};

// section: skip_others
        // In a loop over n up to `end`: skip, eight at once, the elements whose `mask` lacks the range's `bit`.
        if (n + 8 <= end) {
            int any = 0;
            for (int k = 0; k < 8; k++) any |= mask[n + k];
            if (!(any & bit)) { n += 7; continue; }
        }
        if (!(mask[n] & bit)) continue;

// section: grid_sizes
const int size_x = grid.size_x, size_y = grid.size_y, size_z = grid.size_z, channels = grid.channels;

// section: grid_cell
    // The cell of the point (px, py, pz) in a grid over [0, 1]^3, where it lies within (f), the derivative of that to the position (g), and
    // the offset of its first corner.
    const bool in_x = px >= 0.f && px <= 1.f, in_y = py >= 0.f && py <= 1.f, in_z = pz >= 0.f && pz <= 1.f;
    const float ux = (px > 0.f ? (px < 1.f ? px : 1.f) : 0.f) * (size_x - 1);
    const float uy = (py > 0.f ? (py < 1.f ? py : 1.f) : 0.f) * (size_y - 1);
    const float uz = (pz > 0.f ? (pz < 1.f ? pz : 1.f) : 0.f) * (size_z - 1);
    const int ix = (int)ux < size_x - 2 ? (int)ux : size_x - 2;
    const int iy = (int)uy < size_y - 2 ? (int)uy : size_y - 2;
    const int iz = (int)uz < size_z - 2 ? (int)uz : size_z - 2;
    const float fx = ux - ix, fy = uy - iy, fz = uz - iz;
    const float gx = in_x ? (float)(size_x - 1) : 0.f, gy = in_y ? (float)(size_y - 1) : 0.f, gz = in_z ? (float)(size_z - 1) : 0.f;
    const int row = size_x * channels, plane = size_y * row;
    const int base = iz * plane + iy * row + ix * channels;
    const float x0 = 1.f - fx, y0 = 1.f - fy, z0 = 1.f - fz;
    (void)gx; (void)gy; (void)gz;

// section: grid_corners
        // The eight corners of channel c around `g`, their interpolation within the faces z = 0 and z = 1 of the cell and between them, and
        // its derivative.
        const float* a = g + c;
        const float* b = a + plane;
        const float e0 = a[0], e1 = a[channels], e2 = a[row], e3 = a[row + channels];
        const float e4 = b[0], e5 = b[channels], e6 = b[row], e7 = b[row + channels];
        const float near_z = y0 * (x0 * e0 + fx * e1) + fy * (x0 * e2 + fx * e3);
        const float far_z = y0 * (x0 * e4 + fx * e5) + fy * (x0 * e6 + fx * e7);
        const float value = z0 * near_z + fz * far_z;
        const float slope_x = gx * (z0 * (y0 * (e1 - e0) + fy * (e3 - e2)) + fz * (y0 * (e5 - e4) + fy * (e7 - e6)));
        const float slope_y = gy * (z0 * (x0 * (e2 - e0) + fx * (e3 - e1)) + fz * (x0 * (e6 - e4) + fx * (e7 - e5)));
        const float slope_z = gz * (far_z - near_z);

// section: grid_add_face
            // To the corners of channel c in one of the two faces of the cell, around `g`: what the gradients of the value (dv) and of its
            // derivative (jx, jy, jz) give them. `wz` is the weight of the face and `sz` its derivative.
            const float kx = gx * wz * jx, ky = gy * wz * jy, kz = sz * jz + wz * dv;
            UNRENDER_ADD(g + c, -y0 * kx - x0 * ky + x0 * y0 * kz);
            UNRENDER_ADD(g + c + channels, y0 * kx - fx * ky + fx * y0 * kz);
            UNRENDER_ADD(g + c + row, -fy * kx + x0 * ky + x0 * fy * kz);
            UNRENDER_ADD(g + c + row + channels, fy * kx + fx * ky + fx * fy * kz);

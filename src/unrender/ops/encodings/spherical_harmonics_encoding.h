// Real spherical harmonics and their gradient: the loops over directions of ops/encodings/spherical_harmonics_encoding.py.
//
// `directions` and its gradient are [axis, point], the values and their gradient [harmonic, point]; `degree` is the number of bands.

// section: constants
    // Those of unrender.spherical_harmonics, which a test compares; a function may not need all of them.
    const float C0 = 0.28209479177387814f;
    const float C1 = 0.4886025119029199f;
    const float C2_XY = 1.0925484305920792f;
    const float C2_ZZ = 0.31539156525252005f;
    const float C2_XX = 0.5462742152960396f;
    const float C3_3 = 0.5900435899266435f;
    const float C3_XYZ = 2.890611442640554f;
    const float C3_1 = 0.4570457994644658f;
    const float C3_0 = 0.3731763325901154f;
    const float C3_2 = 1.445305721320277f;
    (void)C0; (void)C1; (void)C2_XY; (void)C2_ZZ; (void)C2_XX; (void)C3_3; (void)C3_XYZ; (void)C3_1; (void)C3_0; (void)C3_2;

// section: values
    // use: constants
    const float* xs = directions.data;
    const float* ys = xs + count;
    const float* zs = ys + count;
    auto row = [&](int k, auto value) {
        float* out = result.data + (size_t)k * count;
        for (int i = begin; i < end; ++i) out[i] = value(xs[i], ys[i], zs[i]);
    };
    row(0, [=](float x, float y, float z) { return C0; });
    if (degree > 1) {
        row(1, [=](float x, float y, float z) { return -C1 * y; });
        row(2, [=](float x, float y, float z) { return C1 * z; });
        row(3, [=](float x, float y, float z) { return -C1 * x; });
    }
    if (degree > 2) {
        row(4, [=](float x, float y, float z) { return C2_XY * x * y; });
        row(5, [=](float x, float y, float z) { return -C2_XY * y * z; });
        row(6, [=](float x, float y, float z) { return C2_ZZ * (3.0f * z * z - 1.0f); });
        row(7, [=](float x, float y, float z) { return -C2_XY * x * z; });
        row(8, [=](float x, float y, float z) { return C2_XX * (x * x - y * y); });
    }
    if (degree > 3) {
        row(9, [=](float x, float y, float z) { return C3_3 * y * (y * y - 3.0f * x * x); });
        row(10, [=](float x, float y, float z) { return C3_XYZ * x * y * z; });
        row(11, [=](float x, float y, float z) { return C3_1 * y * (1.0f - 5.0f * z * z); });
        row(12, [=](float x, float y, float z) { return C3_0 * z * (5.0f * z * z - 3.0f); });
        row(13, [=](float x, float y, float z) { return C3_1 * x * (1.0f - 5.0f * z * z); });
        row(14, [=](float x, float y, float z) { return C3_2 * z * (x * x - y * y); });
        row(15, [=](float x, float y, float z) { return C3_3 * x * (3.0f * y * y - x * x); });
    }

// section: direction_gradient
    // use: constants
    for (int i = begin; i < end; ++i) {
        const float x = directions.data[i], y = directions.data[(size_t)count + i], z = directions.data[2 * (size_t)count + i];
        const float* g = grad.data + i;
        const size_t n = count;
        float dx = 0.0f, dy = 0.0f, dz = 0.0f;
        if (degree > 1) {
            dx -= C1 * g[3 * n];
            dy -= C1 * g[n];
            dz += C1 * g[2 * n];
        }
        if (degree > 2) {
            dx += C2_XY * (y * g[4 * n] - z * g[7 * n]) + 2.0f * C2_XX * x * g[8 * n];
            dy += C2_XY * (x * g[4 * n] - z * g[5 * n]) - 2.0f * C2_XX * y * g[8 * n];
            dz += 6.0f * C2_ZZ * z * g[6 * n] - C2_XY * (y * g[5 * n] + x * g[7 * n]);
        }
        if (degree > 3) {
            const float across = 3.0f * C3_3 * (y * y - x * x), along = 6.0f * C3_3 * x * y, flat = C3_1 * (1.0f - 5.0f * z * z);
            dx += across * g[15 * n] - along * g[9 * n] + C3_XYZ * y * z * g[10 * n] + flat * g[13 * n] + 2.0f * C3_2 * x * z * g[14 * n];
            dy += across * g[9 * n] + along * g[15 * n] + C3_XYZ * x * z * g[10 * n] + flat * g[11 * n] - 2.0f * C3_2 * y * z * g[14 * n];
            dz += C3_XYZ * x * y * g[10 * n] - 10.0f * C3_1 * z * (y * g[11 * n] + x * g[13 * n])
                + C3_0 * (15.0f * z * z - 3.0f) * g[12 * n] + C3_2 * (x * x - y * y) * g[14 * n];
        }
        result.data[i] = dx;
        result.data[n + i] = dy;
        result.data[2 * n + i] = dz;
    }

// The three sums of the hash encoding over the corners of a level, for a CPU only: bodies of ops/encodings/_hash_cpu.py.
//
// `grid` has the constants of all levels. Points go in chunks of WIDTH, whose indices and weights are computed side by side in vector
// registers before the table is touched.

// section: locate
#if !defined(__CUDA_ARCH__)
    enum { WIDTH = 64 };
    const int features = grid.features;
    const bool smooth = grid.smooth != 0;
    const float scale = grid.scales.data[level];
    const unsigned resolution = grid.resolutions.data[level];
    const unsigned start = grid.offsets.data[level];
    const unsigned entries = grid.offsets.data[level + 1] - start;
    const bool dense = (unsigned long long)resolution * resolution * resolution <= entries;
    unsigned index[8][WIDTH];
    float weight[3][2][WIDTH], slope[3][WIDTH], bend[3][WIDTH], along[3][WIDTH], coefficient[8][WIDTH];

    auto load = [&](const float* row, int first, float* chunk) {
        if (first + WIDTH <= count) {
            for (int j = 0; j < WIDTH; ++j) chunk[j] = row[first + j];
        } else {
            for (int j = 0; j < WIDTH; ++j) chunk[j] = row[first + j < count ? first + j : count - 1];
        }
    };

    auto locate = [&](int first) {
        unsigned cell[3][WIDTH];
        for (int d = 0; d < 3; ++d) {
            float x[WIDTH];
            load(positions.data + (size_t)d * count, first, x);
            for (int j = 0; j < WIDTH; ++j) {
                const float p = x[j] * scale + 0.5f;
                const float below = floorf(p);
                const float low = below > -1073741824.0f ? below : -1073741824.0f;
                cell[d][j] = (unsigned)(int)(low < 1073741824.0f ? low : 1073741824.0f);
                const float f = p - below;
                const float u = smooth ? f * f * (3.0f - 2.0f * f) : f;
                weight[d][0][j] = 1.0f - u;
                weight[d][1][j] = u;
                slope[d][j] = smooth ? scale * 6.0f * f * (1.0f - f) : scale;
                bend[d][j] = smooth ? scale * scale * (6.0f - 12.0f * f) : 0.0f;
            }
        }
        if (dense) {
            unsigned overshoot = 0;
            for (int j = 0; j < WIDTH; ++j) {
                const unsigned corner = cell[0][j] + resolution * (cell[1][j] + resolution * cell[2][j]);
                for (int c = 0; c < 8; ++c) {
                    const unsigned i = corner + (c & 1) + ((c >> 1) & 1) * resolution + (c >> 2) * resolution * resolution;
                    const unsigned wrapped = i >= entries ? i - entries : i;
                    index[c][j] = wrapped;
                    overshoot |= wrapped >= entries ? 1u : 0u;
                }
            }
            if (overshoot) {
                for (int c = 0; c < 8; ++c)
                    for (int j = 0; j < WIDTH; ++j) index[c][j] %= entries;
            }
        } else {
            const unsigned mask = entries - 1u;
            for (int j = 0; j < WIDTH; ++j) {
                const unsigned x = cell[0][j], y = cell[1][j] * 2654435761u, z = cell[2][j] * 805459861u;
                const unsigned a = y ^ z, b = (y + 2654435761u) ^ z, c = y ^ (z + 805459861u), d = (y + 2654435761u) ^ (z + 805459861u);
                index[0][j] = (x ^ a) & mask;
                index[1][j] = ((x + 1u) ^ a) & mask;
                index[2][j] = (x ^ b) & mask;
                index[3][j] = ((x + 1u) ^ b) & mask;
                index[4][j] = (x ^ c) & mask;
                index[5][j] = ((x + 1u) ^ c) & mask;
                index[6][j] = (x ^ d) & mask;
                index[7][j] = ((x + 1u) ^ d) & mask;
            }
        }
    };

    auto weigh = [&](int first) {
        if (directional) {
            for (int d = 0; d < 3; ++d) load(directions.data + (size_t)d * count, first, along[d]);
        }
        for (int c = 0; c < 8; ++c) {
            const int bx = c & 1, by = (c >> 1) & 1, bz = c >> 2;
            if (directional) {
                const float sx = bx ? 1.0f : -1.0f, sy = by ? 1.0f : -1.0f, sz = bz ? 1.0f : -1.0f;
                for (int j = 0; j < WIDTH; ++j) {
                    coefficient[c][j] = sx * slope[0][j] * along[0][j] * (weight[1][by][j] * weight[2][bz][j])
                        + sy * slope[1][j] * along[1][j] * (weight[0][bx][j] * weight[2][bz][j])
                        + sz * slope[2][j] * along[2][j] * (weight[0][bx][j] * weight[1][by][j]);
                }
            } else {
                for (int j = 0; j < WIDTH; ++j)
                    coefficient[c][j] = weight[0][bx][j] * weight[1][by][j] * weight[2][bz][j];
            }
        }
    };

    auto specialize = [&](auto body) {
        struct One { enum { value = 1 }; };
        struct Two { enum { value = 2 }; };
        struct Four { enum { value = 4 }; };
        struct Eight { enum { value = 8 }; };
        if (features == 2) body(Two());
        else if (features == 4) body(Four());
        else if (features == 1) body(One());
        else body(Eight());
    };

// section: gather
    // use: locate
    specialize([&](auto width) {
        constexpr int F = decltype(width)::value;
        typedef float Entry __attribute__((ext_vector_type(F)));
        const float* rows = table.data + (size_t)start * F;
        float* out = result.data + (size_t)level * F * count;
        for (int first = begin; first < end; first += WIDTH) {
            locate(first);
            weigh(first);
            float found[8][WIDTH][F], sum[WIDTH];
            for (int j = 0; j < WIDTH; ++j) {
                for (int c = 0; c < 8; ++c) {
                    Entry e;
                    memcpy(&e, rows + (size_t)index[c][j] * F, sizeof(float) * F);
                    memcpy(found[c][j], &e, sizeof(float) * F);
                }
            }
            const int used = end - first < WIDTH ? end - first : WIDTH;
            for (int f = 0; f < F; ++f) {
                for (int j = 0; j < WIDTH; ++j) {
                    sum[j] = 0.0f;
                    for (int c = 0; c < 8; ++c) sum[j] += coefficient[c][j] * found[c][j][f];
                }
                for (int j = 0; j < used; ++j) out[(size_t)f * count + first + j] = sum[j];
            }
        }
    });
#endif

// section: scatter
    // use: locate
    specialize([&](auto width) {
        constexpr int F = decltype(width)::value;
        typedef float Entry __attribute__((ext_vector_type(F)));
        float* rows = result.data + (size_t)start * F;
        const float* g = grad.data + (size_t)level * F * count;
        for (size_t i = 0; i < (size_t)entries * F; ++i) rows[i] = 0.0f;
        if (level >= active_levels) return;
        for (int first = 0; first < count; first += WIDTH) {
            locate(first);
            weigh(first);
            float column[WIDTH], incoming[WIDTH][F];
            for (int f = 0; f < F; ++f) {
                load(g + (size_t)f * count, first, column);
                for (int j = 0; j < WIDTH; ++j) incoming[j][f] = column[j];
            }
            const int used = count - first < WIDTH ? count - first : WIDTH;
            for (int j = 0; j < used; ++j) {
                Entry e, g;
                memcpy(&g, incoming[j], sizeof(float) * F);
                for (int c = 0; c < 8; ++c) {
                    float* row = rows + (size_t)index[c][j] * F;
                    memcpy(&e, row, sizeof(float) * F);
                    e += coefficient[c][j] * g;
                    memcpy(row, &e, sizeof(float) * F);
                }
            }
        }
    });
#endif

// section: slope
    // use: locate
    specialize([&](auto width) {
        constexpr int F = decltype(width)::value;
        typedef float Entry __attribute__((ext_vector_type(F)));
        const float* rows = table.data + (size_t)start * F;
        const float* g = grad.data + (size_t)level * F * count;
        for (int first = begin; first < end; first += WIDTH) {
            locate(first);
            float incoming[F][WIDTH], found[8][WIDTH][F], t[8][WIDTH], sum[3][WIDTH];
            for (int f = 0; f < F; ++f) load(g + (size_t)f * count, first, incoming[f]);
            for (int j = 0; j < WIDTH; ++j) {
                for (int c = 0; c < 8; ++c) {
                    Entry e;
                    memcpy(&e, rows + (size_t)index[c][j] * F, sizeof(float) * F);
                    memcpy(found[c][j], &e, sizeof(float) * F);
                }
            }
            for (int c = 0; c < 8; ++c) {
                for (int j = 0; j < WIDTH; ++j) {
                    t[c][j] = 0.0f;
                    for (int f = 0; f < F; ++f) t[c][j] += incoming[f][j] * found[c][j][f];
                }
            }
            if (directional) {
                for (int d = 0; d < 3; ++d) load(directions.data + (size_t)d * count, first, along[d]);
            }
            for (int j = 0; j < WIDTH; ++j) {
                const float x0 = weight[0][0][j], x1 = weight[0][1][j], y0 = weight[1][0][j], y1 = weight[1][1][j];
                const float z0 = weight[2][0][j], z1 = weight[2][1][j];
                const float x00 = t[1][j] - t[0][j], x10 = t[3][j] - t[2][j], x01 = t[5][j] - t[4][j], x11 = t[7][j] - t[6][j];
                const float dx = z0 * (y0 * x00 + y1 * x10) + z1 * (y0 * x01 + y1 * x11);
                const float y_0 = x0 * (t[2][j] - t[0][j]) + x1 * (t[3][j] - t[1][j]);
                const float y_1 = x0 * (t[6][j] - t[4][j]) + x1 * (t[7][j] - t[5][j]);
                const float dy = z0 * y_0 + z1 * y_1;
                const float low = y0 * (x0 * t[0][j] + x1 * t[1][j]) + y1 * (x0 * t[2][j] + x1 * t[3][j]);
                const float high = y0 * (x0 * t[4][j] + x1 * t[5][j]) + y1 * (x0 * t[6][j] + x1 * t[7][j]);
                const float dz = high - low;
                if (directional) {
                    const float dxy = slope[0][j] * slope[1][j] * (z0 * (x10 - x00) + z1 * (x11 - x01));
                    const float dxz = slope[0][j] * slope[2][j] * (y0 * (x01 - x00) + y1 * (x11 - x10));
                    const float dyz = slope[1][j] * slope[2][j] * (y_1 - y_0);
                    sum[0][j] = bend[0][j] * dx * along[0][j] + dxy * along[1][j] + dxz * along[2][j];
                    sum[1][j] = dxy * along[0][j] + bend[1][j] * dy * along[1][j] + dyz * along[2][j];
                    sum[2][j] = dxz * along[0][j] + dyz * along[1][j] + bend[2][j] * dz * along[2][j];
                } else {
                    sum[0][j] = slope[0][j] * dx;
                    sum[1][j] = slope[1][j] * dy;
                    sum[2][j] = slope[2][j] * dz;
                }
            }
            const int used = end - first < WIDTH ? end - first : WIDTH;
            for (int d = 0; d < 3; ++d) {
                float* out = result.data + (size_t)d * count + first;
                if (level == 0) {
                    for (int j = 0; j < used; ++j) out[j] = sum[d][j];
                } else {
                    for (int j = 0; j < used; ++j) out[j] += sum[d][j];
                }
            }
        }
    });
#endif

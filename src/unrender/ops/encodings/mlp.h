// Small perceptrons, a panel of samples at a time through all layers: the two loops of ops/encodings/mlp.py, for a CPU only.
//
// `network` has the sizes and `weights` is the address of the parameters, layer after layer: the matrix [unit, input], then the bias.
// `rays` has what is added to the first layer per ray. All activations are [feature, sample], like `x` and the results, so a vector holds
// one feature of neighboring samples: nothing is turned or padded, and a weight is one number for all of them.
//
// Rows of `x` and of the results are far apart, often by a power of two, so that their lines evict each other from the caches. A panel is
// therefore copied: some dozens of neighboring samples of one feature, then of the next.

// section: tiles
#if defined(__AVX512F__)
#define LANES 16
#define VECTORS 4
#else
#define LANES 8
#define VECTORS 2
#endif
#define ROWS 4
#define SUMS (LANES / 4)
typedef float vec __attribute__((ext_vector_type(LANES)));
typedef float four __attribute__((ext_vector_type(4), aligned(4)));
const int BLOCK = LANES * VECTORS, MOST = 256, MEMORY = 160 * 1024, PREFERRED = 80 * 1024;
// out[u][n] = start[u] + sum_k w[u * row_step + k * k_step] * from[k][n], for all samples n of a panel. A block of samples at a time, for
// ROWS rows whose sums fit into registers; the last rows are computed again where there are fewer. `mode` is 1 for max(0, .) and 2 for zero
// where `mask` is not positive. With `starts`, the sums start at out[u][n].
auto product = [](const float* w, int row_step, int k_step, int depth, const float* from, const float* bias, bool starts, int mode,
                  const float* mask, float* out, int units, int samples, int step) {
    _Pragma("clang fp contract(fast)")  // Warp compiles without fused multiply-add, which halves the speed of a product
    for (int n = 0; n < samples; n += BLOCK)
        for (int u = 0; u < units; u += ROWS) {
            vec s[ROWS][VECTORS];
            const float* q[ROWS];
            _Pragma("unroll") for (int j = 0; j < ROWS; j++) {
                const int row = u + j < units ? u + j : units - 1;
                q[j] = w + (long long)row * row_step;
                const float first = bias ? bias[row] : 0.f;
                _Pragma("unroll") for (int v = 0; v < VECTORS; v++) {
                    s[j][v] = first;
                    if (starts) s[j][v] += *(const vec*)(out + (long long)row * step + n + LANES * v);
                }
            }
            const float* p = from + n;
            for (int k = 0; k < depth; k++, p += step) {
                vec x[VECTORS];
                _Pragma("unroll") for (int v = 0; v < VECTORS; v++) x[v] = *(const vec*)(p + LANES * v);
                _Pragma("unroll") for (int j = 0; j < ROWS; j++) {
                    const float weight = q[j][(long long)k * k_step];
                    _Pragma("unroll") for (int v = 0; v < VECTORS; v++) s[j][v] += weight * x[v];
                }
            }
            _Pragma("unroll") for (int j = 0; j < ROWS; j++) {
                if (u + j >= units) break;
                float* to = out + (long long)(u + j) * step + n;
                const float* kept = mask + (long long)(u + j) * step + n;
                _Pragma("unroll") for (int v = 0; v < VECTORS; v++) {
                    if (mode == 1) s[j][v] = s[j][v] > 0.f ? s[j][v] : 0.f;
                    if (mode == 2) s[j][v] = *(const vec*)(kept + LANES * v) > 0.f ? s[j][v] : 0.f;
                    *(vec*)(to + LANES * v) = s[j][v];
                }
            }
        }
};
// Sums of the lanes of LANES vectors, in turn: halves of two vectors are added to one another, then quarters of these, and so on.
#if LANES == 16
#define FOLD_8(a, b)                                                                                    \
    (__builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +            \
     __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
#define FOLD_4(a, b)                                                                                    \
    (__builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +          \
     __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31))
#define FOLD_2(a, b)                                                                                    \
    (__builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +          \
     __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31))
#define FOLD_1(a, b)                                                                                    \
    (__builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +         \
     __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31))
#else
#define FOLD_4(a, b) (__builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15))
#define FOLD_2(a, b) (__builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13) + __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15))
#define FOLD_1(a, b) (__builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14) + __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15))
#endif
auto folded = [](vec* s) {
#if LANES == 16
    _Pragma("unroll") for (int j = 0; j < 8; j++) s[j] = FOLD_8(s[2 * j], s[2 * j + 1]);
#endif
    _Pragma("unroll") for (int j = 0; j < 4; j++) s[j] = FOLD_4(s[2 * j], s[2 * j + 1]);
    _Pragma("unroll") for (int j = 0; j < 2; j++) s[j] = FOLD_2(s[2 * j], s[2 * j + 1]);
    return FOLD_1(s[0], s[1]);
};
#undef FOLD_8
#undef FOLD_4
#undef FOLD_2
#undef FOLD_1
// dw[u][k] += sum_n delta[u][n] from[k][n] and db[u] += sum_n delta[u][n], over the samples of a panel, SUMS rows and four columns at a time.
auto outer = [&](const float* delta, int units, const float* from, int depth, int samples, int step, float* dw, float* db) {
    _Pragma("clang fp contract(fast)")
    for (int u = 0; u < units; u += SUMS) {
        const float* p[SUMS];
        _Pragma("unroll") for (int j = 0; j < SUMS; j++) p[j] = delta + (long long)(u + j < units ? u + j : units - 1) * step;
        for (int k = 0; k < depth; k += 4) {
            const float* q[4];
            _Pragma("unroll") for (int i = 0; i < 4; i++) q[i] = from + (long long)(k + i < depth ? k + i : depth - 1) * step;
            vec s[LANES];
            _Pragma("unroll") for (int m = 0; m < LANES; m++) s[m] = 0.f;
            for (int n = 0; n < samples; n += LANES) {
                vec x[4];
                _Pragma("unroll") for (int i = 0; i < 4; i++) x[i] = *(const vec*)(q[i] + n);
                _Pragma("unroll") for (int j = 0; j < SUMS; j++) {
                    const vec slope = *(const vec*)(p[j] + n);
                    _Pragma("unroll") for (int i = 0; i < 4; i++) s[4 * j + i] += slope * x[i];
                }
            }
            const vec sums = folded(s);
            alignas(64) float values[LANES];
            *(vec*)values = sums;
            for (int j = 0; j < SUMS && u + j < units; j++) {
                float* row = dw + (long long)(u + j) * depth + k;
                if (k + 4 <= depth) *(four*)row += *(const four*)(values + 4 * j);
                else for (int i = 0; k + i < depth; i++) row[i] += values[4 * j + i];
            }
        }
    }
    for (int u = 0; u < units; u += LANES) {
        vec s[LANES];
        _Pragma("unroll") for (int j = 0; j < LANES; j++) s[j] = 0.f;
        for (int n = 0; n < samples; n += LANES)
            _Pragma("unroll") for (int j = 0; j < LANES; j++)
                s[j] += *(const vec*)(delta + (long long)(u + j < units ? u + j : units - 1) * step + n);
        alignas(64) float values[LANES];
        *(vec*)values = folded(s);
        for (int j = 0; j < LANES && u + j < units; j++) db[u + j] += values[j];
    }
};
// to[column][row] = from[row][column], for multiples of four rows and columns: four by four in registers
auto turn = [](const float* from, int from_step, int rows, int columns, float* to, int to_step) {
    for (int c = 0; c < columns; c += 4)
        for (int r = 0; r < rows; r += 4) {
            const float* p = from + r * from_step + c;
            const four a = *(const four*)p, b = *(const four*)(p + from_step);
            const four d = *(const four*)(p + 2 * from_step), e = *(const four*)(p + 3 * from_step);
            const four ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
            const four de_low = __builtin_shufflevector(d, e, 0, 4, 1, 5), de_high = __builtin_shufflevector(d, e, 2, 6, 3, 7);
            float* q = to + c * to_step + r;
            *(four*)q = __builtin_shufflevector(ab_low, de_low, 0, 1, 4, 5);
            *(four*)(q + to_step) = __builtin_shufflevector(ab_low, de_low, 2, 3, 6, 7);
            *(four*)(q + 2 * to_step) = __builtin_shufflevector(ab_high, de_high, 0, 1, 4, 5);
            *(four*)(q + 3 * to_step) = __builtin_shufflevector(ab_high, de_high, 2, 3, 6, 7);
        }
};
auto read_panel = [&](const float* from, int features, long long n, int samples, float* panel, int step) {
    const int whole = (samples + BLOCK - 1) / BLOCK * BLOCK;
    for (int k = 0; k < features; k++) {
        memcpy(panel + k * step, from + k * (long long)count + n, samples * sizeof(float));
        for (int j = samples; j < whole; j++) panel[k * step + j] = 0.f;
    }
};
auto write_panel = [&](const float* panel, int features, long long n, int samples, float* to, int step) {
    for (int k = 0; k < features; k++) memcpy(to + k * (long long)count + n, panel + k * step, samples * sizeof(float));
};
// use: kernels.vector_exp
const int layers = network.layers, outputs = network.units[network.layers];
int widest = 0, rows_of_layers = 0;
for (int l = 0; l <= layers; l++) {
    widest = network.units[l] > widest ? network.units[l] : widest;
    rows_of_layers += network.units[l];
}
const int* ray_index = (const int*)rays.index;
const int padded = (network.units[1] + 3) / 4 * 4;  // rows of what is added per ray
alignas(64) float memory[MEMORY];
// Samples of a panel of so many rows: as many as fit into half of the second-level cache, but at least a block.
auto samples_of = [&](int rows, int scratch) {
    const int fit = (PREFERRED - scratch) / rows - 16, most = fit > MOST ? MOST : fit;
    return most < BLOCK ? BLOCK : most / BLOCK * BLOCK;
};
// What the samples of the panel get from their rays, turned to [unit, sample].
auto add_rays = [&](long long p0, int taken, float* hidden, int step, float* rows) {
    for (int n0 = 0; n0 < taken; n0 += BLOCK) {
        for (int n = 0; n < BLOCK; n++) {
            const int ray = n0 + n < taken ? ray_index[p0 + n0 + n] : -1;
            float* row = rows + n * padded;
            if (ray < 0 || ray >= rays.count) for (int k = 0; k < padded; k++) row[k] = 0.f;
            else memcpy(row, (const float*)rays.added + (long long)ray * padded, padded * sizeof(float));
        }
        turn(rows, padded, BLOCK, padded, hidden + n0, step);
    }
};

// section: forward
#if !defined(__CUDA_ARCH__) && !defined(__CUDACC__)
// use: tiles
// All layers of a panel of samples lie in two buffers, in turn.
const int each = widest + 3, scratch = ray_index ? BLOCK * padded : 0;
const int panel = samples_of(2 * each, scratch), step = panel + 16;
float* buffers[2] = {memory, memory + each * step};
for (long long p0 = begin; p0 < end; p0 += panel) {
    const int taken = end - p0 < panel ? end - p0 : panel;
    read_panel((const float*)x, network.units[0], p0, taken, buffers[0], step);
    const float* w = (const float*)weights;
    for (int l = 0; l < layers; l++) {
        const int lower = network.units[l], units = network.units[l + 1];
        float* out = buffers[(l + 1) % 2];
        const bool added = l == 0 && ray_index;
        if (added) add_rays(p0, taken, out, step, memory + 2 * each * step);
        product(w, lower, 1, lower, buffers[l % 2], w + lower * units, added, l + 1 < layers, nullptr, out, units, taken, step);
        w += (lower + 1) * units;
    }
    if (network.sigmoid)
        for (int k = 0; k < outputs; k++) {
            float* row = buffers[layers % 2] + k * step;
            for (int j = 0; j < taken; j++) row[j] = 1.f / (1.f + vector_exp(-row[j]));
        }
    write_panel(buffers[layers % 2], outputs, p0, taken, (float*)y, step);
}
#endif

// section: backward
#if !defined(__CUDA_ARCH__) && !defined(__CUDACC__)
// use: tiles
// Of a panel of samples, the inputs and all hidden layers, and the gradients of a layer and the one below.
const int scratch = ray_index ? BLOCK * padded : 0, all = rows_of_layers - outputs + 3 + 2 * (widest + 3);
const int panel = samples_of(all, scratch), step = panel + 16;
float* hidden[8];
float* next = memory;
for (int l = 0; l < layers; l++) {
    hidden[l] = next;
    next += (network.units[l] + (l == 1 ? 3 : 0)) * step;
}
float* deltas[2] = {next, next + (widest + 3) * step};
float* rows = next + 2 * (widest + 3) * step;
int size = 0;
for (int l = 0; l < layers; l++) size += (network.units[l] + 1) * network.units[l + 1];
float* gradient = (float*)grad_weights + (long long)chunk * size;
for (int k = 0; k < size; k++) gradient[k] = 0.f;
// The ray a chunk begins with may have begun in the chunk before, which another thread works on: its sum is kept apart.
float* carry = (float*)rays.carries + (long long)chunk * padded;
const int carried = ray_index ? ray_index[begin] : -1;
if (ray_index) for (int k = 0; k < padded; k++) carry[k] = 0.f;
for (long long p0 = begin; p0 < end; p0 += panel) {
    const int taken = end - p0 < panel ? end - p0 : panel, whole = (taken + BLOCK - 1) / BLOCK * BLOCK;
    read_panel((const float*)x, network.units[0], p0, taken, hidden[0], step);
    const float* w = (const float*)weights;
    for (int l = 0; l + 1 < layers; l++) {
        const int lower = network.units[l], units = network.units[l + 1];
        const bool added = l == 0 && ray_index;
        if (added) add_rays(p0, taken, hidden[1], step, rows);
        product(w, lower, 1, lower, hidden[l], w + lower * units, added, 1, nullptr, hidden[l + 1], units, taken, step);
        w += (lower + 1) * units;
    }
    read_panel((const float*)grad_y, outputs, p0, taken, deltas[0], step);
    if (grad_first) for (int j = 0; j < taken; j++) deltas[0][j] += ((const float*)grad_first)[p0 + j];
    if (y)  // the results, where they have passed through a sigmoid
        for (int k = 0; k < outputs; k++)
            for (int j = 0; j < taken; j++) {
                const float value = ((const float*)y)[k * (long long)count + p0 + j];
                deltas[0][k * step + j] *= value * (1.f - value);
            }
    long long offset = size;
    for (int l = layers - 1, at = 0; l >= 0; l--, at = 1 - at) {
        const int lower = network.units[l], units = network.units[l + 1];
        offset -= (lower + 1) * units;
        const float* delta = deltas[at];
        outer(delta, units, hidden[l], lower, whole, step, gradient + offset, gradient + offset + lower * units);
        if (l == 0 && ray_index)
            for (int n0 = 0; n0 < taken; n0 += BLOCK) {
                turn(delta + n0, step, padded, BLOCK, rows, padded);
                for (int n = 0; n < BLOCK && n0 + n < taken; n++) {
                    const int ray = ray_index[p0 + n0 + n];
                    if (ray < 0 || ray >= rays.count) continue;
                    float* sum = ray == carried ? carry : (float*)rays.gradients + (long long)ray * padded;
                    for (int k = 0; k < padded; k++) sum[k] += rows[n * padded + k];
                }
            }
        if (l == 0 && !grad_x) break;
        const float* weight = (const float*)weights + offset;
        product(weight, 1, lower, units, delta, nullptr, false, l > 0 ? 2 : 0, hidden[l], deltas[1 - at], lower, taken, step);
        if (l == 0) write_panel(deltas[1 - at], lower, p0, taken, (float*)grad_x, step);
    }
}
#endif

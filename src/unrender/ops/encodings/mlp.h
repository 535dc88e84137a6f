// Small perceptrons, 32 samples at a time through all layers: the two loops of ops/encodings/mlp.py, for a CPU only.
//
// `network` has the sizes, `row_weights` and `column_weights` are the addresses of the weights, and `rays` has what is added to the first
// layer per ray; `x` and the results are [feature, sample]. Inside a block, activations are [sample, unit], and every product runs over
// vectors of 16 units.
//
// Rows of `x` and of the results are far apart, often by a power of two, so that their lines evict each other from the caches. They are
// therefore read and written a panel at a time: 128 neighboring samples of one feature, then of the next.

// section: tiles
#if defined(__AVX512F__)
#define LANES 16
#define ROWS 8
#else
#define LANES 8
#define ROWS 4
#endif
typedef float vec __attribute__((ext_vector_type(LANES)));
typedef float loose __attribute__((ext_vector_type(LANES), aligned(4)));
const int BLOCK = 32, WIDEST = 128, PANEL = 128, STEP = PANEL + 16;
// out[row][unit] = start[unit] + sum_k a[row * row_step + k * k_step] * w[k][unit], for ROWS rows and one or two vectors of units, whose
// sums all fit into registers
#define TILE(VECTORS)                                                                                                         \
    {                                                                                                                         \
        vec s[ROWS][VECTORS];                                                                                                 \
        _Pragma("unroll") for (int j = 0; j < ROWS; j++) _Pragma("unroll") for (int v = 0; v < VECTORS; v++) {                \
            if (add) s[j][v] = *(const loose*)(out + (r + j) * units + u + LANES * v);                                        \
            else if (start) s[j][v] = *(const loose*)(start + u + LANES * v);                                                 \
            else s[j][v] = 0.f;                                                                                               \
        }                                                                                                                     \
        const float* p = a + r * row_step;                                                                                    \
        const float* q = w + u;                                                                                               \
        for (int k = 0; k < depth; k++, p += k_step, q += units) {                                                            \
            vec weight[VECTORS];                                                                                              \
            _Pragma("unroll") for (int v = 0; v < VECTORS; v++) weight[v] = *(const loose*)(q + LANES * v);                   \
            _Pragma("unroll") for (int j = 0; j < ROWS; j++) {                                                                \
                const float x = p[j * row_step];                                                                              \
                _Pragma("unroll") for (int v = 0; v < VECTORS; v++) s[j][v] += x * weight[v];                                 \
            }                                                                                                                 \
        }                                                                                                                     \
        _Pragma("unroll") for (int j = 0; j < ROWS; j++) _Pragma("unroll") for (int v = 0; v < VECTORS; v++)                  \
            *(loose*)(out + (r + j) * units + u + LANES * v) = s[j][v];                                                       \
    }
auto product = [](const float* a, int row_step, int k_step, int depth, const float* w, int units, const float* start, float* out,
                  int rows, bool add) {
    _Pragma("clang fp contract(fast)")  // Warp compiles without fused multiply-add, which halves the speed of a product
    int u = 0;
    for (; u + LANES < units; u += 2 * LANES)
        for (int r = 0; r < rows; r += ROWS) TILE(2)
    if (u < units)
        for (int r = 0; r < rows; r += ROWS) TILE(1)
};
#undef TILE
// to[column][row] = from[row][column], for multiples of four rows and columns: four by four in registers
typedef float four __attribute__((ext_vector_type(4), aligned(4)));
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
auto read_panel = [&](const float* from, int features, int padded, long long n, int samples, float* panel) {
    const int whole = (samples + BLOCK - 1) / BLOCK * BLOCK;
    for (int k = 0; k < features; k++) {
        memcpy(panel + k * STEP, from + k * (long long)count + n, samples * sizeof(float));
        for (int j = samples; j < whole; j++) panel[k * STEP + j] = 0.f;
    }
    for (int k = features; k < padded; k++)
        for (int j = 0; j < whole; j++) panel[k * STEP + j] = 0.f;
};
auto write_panel = [&](const float* panel, int features, long long n, int samples, float* to) {
    for (int k = 0; k < features; k++) memcpy(to + k * (long long)count + n, panel + k * STEP, samples * sizeof(float));
};
const int layers = network.layers, inputs = network.inputs;
int width[6];
width[0] = (inputs + 15) / 16 * 16;
for (int l = 0; l < 4; l++) width[l + 1] = (network.units[l] + 15) / 16 * 16;
const int outputs = network.units[layers - 1];
alignas(64) float inputs_of_panel[WIDEST * STEP], outputs_of_panel[WIDEST * STEP];
alignas(64) float hidden[4][BLOCK * WIDEST];
const int* ray_index = (const int*)rays.index;

// section: forward_block
    // Samples n0 to n0 + used through all layers; the unused rows of the last block are zero.
    const int used = p0 + taken - n0 < BLOCK ? p0 + taken - n0 : BLOCK;
    const float* input = inputs_of_panel + (n0 - p0);
    const float* w = (const float*)row_weights;
    for (int l = 0; l < layers; l++) {
        const float* bias = w + width[l] * width[l + 1];
        if (l == 0) product(input, 1, STEP, inputs, w, width[1], bias, hidden[0], BLOCK, false);
        else product(hidden[l - 1], width[l], 1, width[l], w, width[l + 1], bias, hidden[l], BLOCK, false);
        if (l == 0 && ray_index)
            for (int n = 0; n < used; n++) {
                const int ray = ray_index[n0 + n];
                if (ray < 0 || ray >= rays.count) continue;
                const float* add = (const float*)rays.added + (long long)ray * width[1];
                for (int k = 0; k < width[1]; k++) hidden[0][n * width[1] + k] += add[k];
            }
        if (l + 1 < layers)
            for (int k = 0; k < BLOCK * width[l + 1]; k++) hidden[l][k] = hidden[l][k] > 0.f ? hidden[l][k] : 0.f;
        w = bias + width[l + 1];
    }

// section: forward
#if !defined(__CUDA_ARCH__) && !defined(__CUDACC__)
// use: tiles
for (int p0 = begin; p0 < end; p0 += PANEL) {
    const int taken = end - p0 < PANEL ? end - p0 : PANEL;
    read_panel(x.data, inputs, inputs, p0, taken, inputs_of_panel);
    for (int n0 = p0; n0 < p0 + taken; n0 += BLOCK) {
        // use: forward_block
        turn(hidden[layers - 1], width[layers], BLOCK, width[layers], outputs_of_panel + (n0 - p0), STEP);
    }
    write_panel(outputs_of_panel, outputs, p0, taken, y.data);
}
#endif

// section: backward
#if !defined(__CUDA_ARCH__) && !defined(__CUDACC__)
// use: tiles
const int size = network.size;
alignas(64) float delta[BLOCK * WIDEST];
alignas(64) float below[BLOCK * WIDEST];
alignas(64) float slopes_of_panel[WIDEST * STEP];
float* gradient = grad_weights.data + (long long)chunk * size;
for (int k = 0; k < size; k++) gradient[k] = 0.f;
// The ray a chunk begins with may have begun in the chunk before, which another thread works on: its sum is kept apart.
float* carry = (float*)rays.carries + (long long)chunk * width[1];
const int carried = ray_index ? ray_index[begin] : -1;
if (ray_index) for (int k = 0; k < width[1]; k++) carry[k] = 0.f;
for (int p0 = begin; p0 < end; p0 += PANEL) {
    const int taken = end - p0 < PANEL ? end - p0 : PANEL;
    read_panel(x.data, inputs, width[0], p0, taken, inputs_of_panel);
    read_panel(grad_y.data, outputs, width[layers], p0, taken, slopes_of_panel);
    if (grad_first) for (int j = 0; j < taken; j++) slopes_of_panel[j] += ((const float*)grad_first)[p0 + j];
    for (int n0 = p0; n0 < p0 + taken; n0 += BLOCK) {
        // use: forward_block
        turn(slopes_of_panel + (n0 - p0), STEP, width[layers], BLOCK, delta, width[layers]);
        long long offset = size;
        long long back = 0;
        for (int l = 0; l < layers; l++) back += width[l] * width[l + 1];
        for (int l = layers - 1; l >= 0; l--) {
            const int units = width[l + 1], lower = width[l];
            offset -= (long long)(lower + 1) * units;
            back -= (long long)lower * units;
            float* dw = gradient + offset;
            if (l == 0) product(input, STEP, 1, BLOCK, delta, units, nullptr, dw, lower, true);
            else product(hidden[l - 1], 1, lower, BLOCK, delta, units, nullptr, dw, lower, true);
            float* db = dw + lower * units;
            for (int n = 0; n < BLOCK; n++)
                for (int k = 0; k < units; k++) db[k] += delta[n * units + k];
            if (l == 0 && ray_index)
                for (int n = 0; n < used; n++) {
                    const int ray = ray_index[n0 + n];
                    if (ray < 0 || ray >= rays.count) continue;
                    float* sum = ray == carried ? carry : (float*)rays.gradients + (long long)ray * units;
                    for (int k = 0; k < units; k++) sum[k] += delta[n * units + k];
                }
            if (l == 0 && !with_inputs) break;
            product(delta, units, 1, units, (const float*)column_weights + back, lower, nullptr, below, BLOCK, false);
            if (l > 0) {
                for (int k = 0; k < BLOCK * lower; k++) delta[k] = hidden[l - 1][k] > 0.f ? below[k] : 0.f;
            } else {
                turn(below, lower, BLOCK, lower, outputs_of_panel + (n0 - p0), STEP);
            }
        }
    }
    if (with_inputs) write_panel(outputs_of_panel, inputs, p0, taken, grad_x.data);
}
#endif

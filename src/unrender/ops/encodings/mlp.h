// Small perceptrons, 32 samples at a time through all layers: the two loops of ops/encodings/mlp.py, for a CPU only.
//
// `network` has the sizes and the addresses of the weights, `rays` what is added to the first layer per ray; `x` and the results are
// [feature, sample]. Inside a block, activations are [sample, unit], and every product runs over vectors of 16 units.

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
const int BLOCK = 32, WIDEST = 64;
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
const int layers = network.layers, inputs = network.inputs;
int width[6];
width[0] = (inputs + 15) / 16 * 16;
for (int l = 0; l < 4; l++) width[l + 1] = (network.units[l] + 15) / 16 * 16;
const int outputs = network.units[layers - 1];
alignas(64) float input[WIDEST * BLOCK];
alignas(64) float hidden[4][BLOCK * WIDEST];
for (int k = inputs * BLOCK; k < width[0] * BLOCK; k++) input[k] = 0.f;
const int* ray_index = (const int*)rays.index;

// section: forward_block
    // Samples n0 to n0 + used through all layers; the unused rows of the last block are zero.
    const int used = end - n0 < BLOCK ? end - n0 : BLOCK;
    for (int k = 0; k < inputs; k++) {
        const float* row = x.data + (long long)k * count + n0;
        for (int n = 0; n < used; n++) input[k * BLOCK + n] = row[n];
        for (int n = used; n < BLOCK; n++) input[k * BLOCK + n] = 0.f;
    }
    const float* w = (const float*)network.rows;
    for (int l = 0; l < layers; l++) {
        const float* bias = w + width[l] * width[l + 1];
        if (l == 0) product(input, 1, BLOCK, inputs, w, width[1], bias, hidden[0], BLOCK, false);
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
for (int n0 = begin; n0 < end; n0 += BLOCK) {
    // use: forward_block
    const float* top = hidden[layers - 1];
    for (int k = 0; k < outputs; k++) {
        float* row = y.data + (long long)k * count + n0;
        for (int n = 0; n < used; n++) row[n] = top[n * width[layers] + k];
    }
}
#endif

// section: backward
#if !defined(__CUDA_ARCH__) && !defined(__CUDACC__)
// use: tiles
const int size = network.size;
alignas(64) float delta[BLOCK * WIDEST];
alignas(64) float below[BLOCK * WIDEST];
float* gradient = grad_weights.data + (long long)chunk * size;
for (int k = 0; k < size; k++) gradient[k] = 0.f;
// The ray a chunk begins with may have begun in the chunk before, which another thread works on: its sum is kept apart.
float* carry = (float*)rays.carries + (long long)chunk * width[1];
const int carried = ray_index ? ray_index[begin] : -1;
if (ray_index) for (int k = 0; k < width[1]; k++) carry[k] = 0.f;
for (int n0 = begin; n0 < end; n0 += BLOCK) {
    // use: forward_block
    for (int k = 0; k < BLOCK * width[layers]; k++) delta[k] = 0.f;
    for (int k = 0; k < outputs; k++) {
        const float* row = grad_y.data + (long long)k * count + n0;
        for (int n = 0; n < used; n++) delta[n * width[layers] + k] = row[n];
    }
    long long offset = size;
    long long back = 0;
    for (int l = 0; l < layers; l++) back += width[l] * width[l + 1];
    for (int l = layers - 1; l >= 0; l--) {
        const int units = width[l + 1], lower = width[l];
        offset -= (long long)(lower + 1) * units;
        back -= (long long)lower * units;
        float* dw = gradient + offset;
        if (l == 0) product(input, BLOCK, 1, BLOCK, delta, units, nullptr, dw, lower, true);
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
        product(delta, units, 1, units, (const float*)network.columns + back, lower, nullptr, below, BLOCK, false);
        if (l > 0) {
            for (int k = 0; k < BLOCK * lower; k++) delta[k] = hidden[l - 1][k] > 0.f ? below[k] : 0.f;
        } else {
            for (int k = 0; k < inputs; k++) {
                float* row = grad_x.data + (long long)k * count + n0;
                for (int n = 0; n < used; n++) row[n] = below[n * lower + k];
            }
        }
    }
}
#endif

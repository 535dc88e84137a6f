// C++ of interpolation: bodies of the functions in interpolate.py, by sections (ops/kernels/native.py).
//
// DIRECTIONS is 1 for values and 2 for derivatives along x and y, COLUMNS the number of channels taken, CHANNEL the k-th of them. Each loop
// stands once for every frequent number of columns, which the compiler then unrolls, and once for any other.

// section: pixels
// The members of `pixels`.
const float* const attributes = (const float*)pixels.attributes;
const float* const weights = (const float*)pixels.weights;
const int* const face = (const int*)pixels.face;
const int* const faces = (const int*)pixels.faces;
const int* const list = (const int*)pixels.columns;
const int channels = pixels.channels, columns = pixels.column_count;
(void)attributes; (void)weights; (void)list; (void)channels; (void)columns;
// The three corners as rows of the attributes of all views; false if there is no triangle, or a corner that does not exist.
auto corners_of = [&](int n, int& i0, int& i1, int& i2) {
    const int f = face[n];
    if (f < 0 || f >= pixels.face_count) return false;
    i0 = faces[3 * f];
    i1 = faces[3 * f + 1];
    i2 = faces[3 * f + 2];
    const unsigned count = (unsigned)pixels.vertex_count;
    if ((unsigned)i0 >= count || (unsigned)i1 >= count || (unsigned)i2 >= count) return false;
    const int first = pixels.per_view ? (n / pixels.pixels_per_view) * pixels.vertex_count : 0;
    i0 += first;
    i1 += first;
    i2 += first;
    return true;
};

// section: values_loop
// Interpolates pixels `begin` to `end`, and notes as bits of `range_bits` which ranges of vertices each pixel's gradient will reach.
for (int n = begin; n < end; n++) {
    int i0, i1, i2;
    float* out = values.data + (long long)n * COLUMNS * DIRECTIONS;
    if (!corners_of(n, i0, i1, i2)) {
        for (int k = 0; k < COLUMNS * DIRECTIONS; k++) out[k] = 0.f;
        if (pixels.shift >= 0) range_bits.data[n] = 0;
        continue;
    }
    if (pixels.shift >= 0) range_bits.data[n] = 1 << (i0 >> pixels.shift) | 1 << (i1 >> pixels.shift) | 1 << (i2 >> pixels.shift);
    const float* a0 = attributes + (long long)i0 * channels;
    const float* a1 = attributes + (long long)i1 * channels;
    const float* a2 = attributes + (long long)i2 * channels;
    for (int d = 0; d < DIRECTIONS; d++) {
        const float p = weights[2 * DIRECTIONS * n + d], q = weights[2 * DIRECTIONS * n + DIRECTIONS + d];
        for (int k = 0; k < COLUMNS; k++) {
            const float x0 = a0[CHANNEL], x1 = a1[CHANNEL], x2 = a2[CHANNEL];
            out[k * DIRECTIONS + d] = DIRECTIONS == 1 ? p * x0 + q * x1 + (1.f - p - q) * x2 : p * (x0 - x2) + q * (x1 - x2);
        }
    }
}

// section: values
// use: pixels
if (pixels.directions == 1 && columns == 1 && !list) {
    // use: values_loop with DIRECTIONS=1 COLUMNS=1 CHANNEL=k
} else if (pixels.directions == 1 && columns == 2 && !list) {
    // use: values_loop with DIRECTIONS=1 COLUMNS=2 CHANNEL=k
} else if (pixels.directions == 1 && columns == 3 && !list) {
    // use: values_loop with DIRECTIONS=1 COLUMNS=3 CHANNEL=k
} else if (pixels.directions == 1 && columns == 4 && !list) {
    // use: values_loop with DIRECTIONS=1 COLUMNS=4 CHANNEL=k
} else if (pixels.directions == 1) {
    // use: values_loop with DIRECTIONS=1 COLUMNS=columns CHANNEL=(list?list[k]:k)
} else {
    // use: values_loop with DIRECTIONS=2 COLUMNS=columns CHANNEL=(list?list[k]:k)
}

// section: weights_loop
// The gradients to the weights of pixels `begin` to `end`.
for (int n = begin; n < end; n++) {
    int i0, i1, i2;
    float* out = grad_weights.data + 2 * DIRECTIONS * n;
    const bool known = corners_of(n, i0, i1, i2);
    const float* g = grad_values.data + (long long)n * COLUMNS * DIRECTIONS;
    for (int d = 0; d < DIRECTIONS; d++) {
        float p = 0.f, q = 0.f;
        if (known) {
            const float* a0 = attributes + (long long)i0 * channels;
            const float* a1 = attributes + (long long)i1 * channels;
            const float* a2 = attributes + (long long)i2 * channels;
            for (int k = 0; k < COLUMNS; k++) {
                p += g[k * DIRECTIONS + d] * (a0[CHANNEL] - a2[CHANNEL]);
                q += g[k * DIRECTIONS + d] * (a1[CHANNEL] - a2[CHANNEL]);
            }
        }
        out[d] = p;
        out[DIRECTIONS + d] = q;
    }
}

// section: weight_gradients
// use: pixels
if (pixels.directions == 1 && columns == 1 && !list) {
    // use: weights_loop with DIRECTIONS=1 COLUMNS=1 CHANNEL=k
} else if (pixels.directions == 1 && columns == 2 && !list) {
    // use: weights_loop with DIRECTIONS=1 COLUMNS=2 CHANNEL=k
} else if (pixels.directions == 1 && columns == 3 && !list) {
    // use: weights_loop with DIRECTIONS=1 COLUMNS=3 CHANNEL=k
} else if (pixels.directions == 1 && columns == 4 && !list) {
    // use: weights_loop with DIRECTIONS=1 COLUMNS=4 CHANNEL=k
} else if (pixels.directions == 1) {
    // use: weights_loop with DIRECTIONS=1 COLUMNS=columns CHANNEL=(list?list[k]:k)
} else {
    // use: weights_loop with DIRECTIONS=2 COLUMNS=columns CHANNEL=(list?list[k]:k)
}

// section: scatter_loop
for (int n = begin; n < end; n++) {
    if (pixels.shift >= 0 && range >= 0) {
    // use: kernels.skip_others
    }
    int i0, i1, i2;
    if (!corners_of(n, i0, i1, i2)) continue;
    const float* g = grad_values.data + (long long)n * COLUMNS * DIRECTIONS;
    const bool own0 = range < 0 || i0 >> pixels.shift == range;
    const bool own1 = range < 0 || i1 >> pixels.shift == range;
    const bool own2 = range < 0 || i2 >> pixels.shift == range;
    float* a0 = grad_attributes + (long long)i0 * channels;
    float* a1 = grad_attributes + (long long)i1 * channels;
    float* a2 = grad_attributes + (long long)i2 * channels;
    for (int d = 0; d < DIRECTIONS; d++) {
        const float p = weights[2 * DIRECTIONS * n + d], q = weights[2 * DIRECTIONS * n + DIRECTIONS + d];
        const float r = (DIRECTIONS == 1 ? 1.f : 0.f) - p - q;
        if (own0) for (int k = 0; k < COLUMNS; k++) UNRENDER_ADD(a0 + CHANNEL, p * g[k * DIRECTIONS + d]);
        if (own1) for (int k = 0; k < COLUMNS; k++) UNRENDER_ADD(a1 + CHANNEL, q * g[k * DIRECTIONS + d]);
        if (own2) for (int k = 0; k < COLUMNS; k++) UNRENDER_ADD(a2 + CHANNEL, r * g[k * DIRECTIONS + d]);
    }
}

// section: scatter_gradients
// Adds the gradients of a chunk of pixels to the attributes: all, or with range >= 0 only those of the vertices of one range.
// use: kernels.add
// use: pixels
float* const grad_attributes = gradients.data + copy_offset;
const int* const mask = range_bits.data;
const int bit = range >= 0 ? 1 << range : 0;
if (pixels.directions == 1 && columns == 1 && !list) {
    // use: scatter_loop with DIRECTIONS=1 COLUMNS=1 CHANNEL=k
} else if (pixels.directions == 1 && columns == 2 && !list) {
    // use: scatter_loop with DIRECTIONS=1 COLUMNS=2 CHANNEL=k
} else if (pixels.directions == 1 && columns == 3 && !list) {
    // use: scatter_loop with DIRECTIONS=1 COLUMNS=3 CHANNEL=k
} else if (pixels.directions == 1 && columns == 4 && !list) {
    // use: scatter_loop with DIRECTIONS=1 COLUMNS=4 CHANNEL=k
} else if (pixels.directions == 1) {
    // use: scatter_loop with DIRECTIONS=1 COLUMNS=columns CHANNEL=(list?list[k]:k)
} else {
    // use: scatter_loop with DIRECTIONS=2 COLUMNS=columns CHANNEL=(list?list[k]:k)
}
// use: kernels.forget_add

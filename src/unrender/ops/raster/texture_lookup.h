// What the kernels of texture.h share: where a sample falls, at which level, and which texels it mixes.
//
// Every kernel begins with the section `lookup`; `lookup` is its argument, a TextureLookup of _texture_kernels.py. As in OpenGL, the
// texel (column, row) of a w x h level covers [column/w, (column + 1)/w] x [row/h, (row + 1)/h] of (s, t), and the faces of a cube are
// +x -x +y -y +z -z.

// section: lookup
// use: constants
// use: place
// use: level
// use: footprint
#if !defined(__CUDA_ARCH__)
// use: block
// use: vectors
#endif

// section: constants
const int WRAP = 0, CLAMP = 1, ZERO = 2, CUBE = 3;  // values of lookup.boundary
const int NEAREST = 0, LINEAR_MIPMAP_NEAREST = 2, LINEAR_MIPMAP_LINEAR = 3;  // of lookup.filter; LINEAR is 1, from 2 on there are levels
const float SHORTEST_DIRECTION = 1e-30f;  // along the major axis; the gradient to a shorter direction could leave float32
(void)WRAP; (void)CLAMP; (void)ZERO; (void)NEAREST; (void)LINEAR_MIPMAP_NEAREST; (void)LINEAR_MIPMAP_LINEAR;

// section: place
const int channels = lookup.channels;
const bool cube = lookup.boundary == CUBE;
const float* const uv = (const float*)lookup.uv;
const float* const uv_derivatives = (const float*)lookup.uv_derivatives;
const float* const level_bias = (const float*)lookup.level_bias;

struct Place {
    bool valid;            // false where a coordinate is not finite, or a direction is too short
    int face;              // 0 unless the texture is a cube
    float s, t;            // in [0, 1] on a cube
    float s_side, t_side;  // on a cube, the coordinates across the face before they are divided by the major one
    float major;           // on a cube, the length along the face's axis
};
struct Footprint {
    int taps;              // number of texels that are mixed: 0, 1 or 4
    int row[4], texel[4];  // the row and the texel, counted through all faces and views
    float weight[4], by_s[4], by_t[4];  // by_s = d weight / d s
};
// The axes along which s and t of a face run, and their directions.
struct Face {
    int major, s, t;
    float major_sign, s_sign, t_sign;
};

auto face_axes = [](int face) {
    Face f;
    f.major = face >> 1;
    f.major_sign = face & 1 ? -1.f : 1.f;
    f.s = f.major == 0 ? 2 : 0;
    f.t = f.major == 1 ? 2 : 1;
    f.s_sign = face == 0 || face == 5 ? -1.f : 1.f;
    f.t_sign = f.major == 1 ? f.major_sign : -1.f;
    return f;
};

auto locate = [&](int n) {
    Place p;
    p.face = 0;
    p.s_side = p.t_side = p.major = 0.f;
    if (!cube) {
        p.s = uv[2 * n];
        p.t = uv[2 * n + 1];
        p.valid = p.s - p.s == 0.f && p.t - p.t == 0.f;
        return p;
    }
    const float x[3] = {uv[3 * n], uv[3 * n + 1], uv[3 * n + 2]};
    const float ax = fabsf(x[0]), ay = fabsf(x[1]), az = fabsf(x[2]);
    const int axis = ax >= ay && ax >= az ? 0 : (ay >= az ? 1 : 2);
    p.face = 2 * axis + (x[axis] < 0.f ? 1 : 0);
    const Face f = face_axes(p.face);
    p.major = fabsf(x[axis]);
    p.s_side = f.s_sign * x[f.s];
    p.t_side = f.t_sign * x[f.t];
    p.valid = x[0] - x[0] == 0.f && x[1] - x[1] == 0.f && x[2] - x[2] == 0.f && p.major >= SHORTEST_DIRECTION;
    p.s = p.valid ? 0.5f * (p.s_side / p.major + 1.f) : 0.f;
    p.t = p.valid ? 0.5f * (p.t_side / p.major + 1.f) : 0.f;
    return p;
};

// section: level
// The derivatives of s and t along x and y of the picture, from those of the given coordinates.
struct Slopes {
    float s_x, s_y, t_x, t_y;
};
auto slopes_of = [&](int n, const Place& p) {
    Slopes d;
    if (!cube) {
        const float* given = uv_derivatives + 4 * n;
        d.s_x = given[0];
        d.s_y = given[1];
        d.t_x = given[2];
        d.t_y = given[3];
        return d;
    }
    const float* given = uv_derivatives + 6 * n;
    const Face f = face_axes(p.face);
    const float half = 0.5f / p.major;
    const float s = p.s_side / p.major, t = p.t_side / p.major;
    const float major_x = f.major_sign * given[2 * f.major], major_y = f.major_sign * given[2 * f.major + 1];
    d.s_x = half * (f.s_sign * given[2 * f.s] - s * major_x);
    d.s_y = half * (f.s_sign * given[2 * f.s + 1] - s * major_y);
    d.t_x = half * (f.t_sign * given[2 * f.t] - t * major_x);
    d.t_y = half * (f.t_sign * given[2 * f.t + 1] - t * major_y);
    return d;
};

// 1/2 log2 of the squared length, in texels, of the longer axis of the ellipse that a pixel covers; clamped to the existing levels.
auto level_of = [&](int n, const Place& p) {
    float level = 0.f;
    if (lookup.has_derivatives) {
        const Slopes d = slopes_of(n, p);
        const float sx = d.s_x * lookup.width, sy = d.s_y * lookup.width, tx = d.t_x * lookup.height, ty = d.t_y * lookup.height;
        const float a = sx * sx + tx * tx, b = sy * sy + ty * ty, c = sx * sy + tx * ty;
        const float half = 0.5f * (a - b), mean = 0.5f * (a + b);
        level = 0.5f * log2f(mean - mean == 0.f ? mean + sqrtf(half * half + c * c) : mean);
    }
    if (lookup.has_bias) level += level_bias[n];
    const float top = (float)lookup.top;
    return level > 0.f ? (level < top ? level : top) : 0.f;  // NaN fails both comparisons
};

// section: footprint
// Moves a texel one step outside one side of a face of w x w texels to its place on the neighboring face, and returns that face.
// Texel centers are the points (2i + 1 - w, 2j + 1 - w) of the face at height w: folding the edge swaps the step with that height.
auto fold = [&](int face, int w, int& i, int& j) {
    const Face f = face_axes(face);
    int a = 2 * i + 1 - w, b = 2 * j + 1 - w;
    const bool over_s = a > w || a < -w;
    a = a > w ? w : (a < -w ? -w : a);
    b = b > w ? w : (b < -w ? -w : b);
    int point[3];
    point[f.major] = (int)f.major_sign * (w - 1);
    point[f.s] = (int)f.s_sign * a;
    point[f.t] = (int)f.t_sign * b;
    const int axis = over_s ? f.s : f.t;
    const int next = 2 * axis + (point[axis] < 0 ? 1 : 0);
    const Face g = face_axes(next);
    i = ((int)g.s_sign * point[g.s] + w - 1) / 2;
    j = ((int)g.t_sign * point[g.t] + w - 1) / 2;
    return next;
};

auto footprint = [&](const Place& p, int view, int level, Footprint& out) {
    const int w = (lookup.width >> level) > 1 ? lookup.width >> level : 1;
    const int h = (lookup.height >> level) > 1 ? lookup.height >> level : 1;
    const int boundary = lookup.boundary;
    const float s = boundary == WRAP ? p.s - floorf(p.s) : p.s, t = boundary == WRAP ? p.t - floorf(p.t) : p.t;
    if (lookup.filter == NEAREST) {
        const float x = floorf(s * w), y = floorf(t * h);
        out.taps = boundary == ZERO && !(x >= 0.f && x < w && y >= 0.f && y < h) ? 0 : 1;
        int i = x > 0.f ? (x < w ? (int)x : (boundary == WRAP ? 0 : w - 1)) : 0;
        int j = y > 0.f ? (y < h ? (int)y : (boundary == WRAP ? 0 : h - 1)) : 0;
        out.row[0] = ((cube ? view * 6 + p.face : view) * h + j);
        out.texel[0] = out.row[0] * w + i;
        out.weight[0] = 1.f;
        return;
    }
    float x = s * w - 0.5f, y = t * h - 0.5f;
    float slope_s = (float)w, slope_t = (float)h;
    if (boundary == CLAMP) {
        if (!(x >= 0.f && x <= w - 1)) { slope_s = 0.f; x = x > 0.f ? w - 1 : 0.f; }
        if (!(y >= 0.f && y <= h - 1)) { slope_t = 0.f; y = y > 0.f ? h - 1 : 0.f; }
    }
    if (boundary == ZERO && !(x > -1.f && x < w && y > -1.f && y < h)) {
        out.taps = 0;
        return;
    }
    out.taps = 4;
    const float x_floor = floorf(x), y_floor = floorf(y);
    const float f = x - x_floor, g = y - y_floor, f0 = 1.f - f, g0 = 1.f - g;
    int i0 = (int)x_floor, j0 = (int)y_floor, i1 = i0 + 1, j1 = j0 + 1;
    out.weight[0] = f0 * g0;
    out.weight[1] = f * g0;
    out.weight[2] = f0 * g;
    out.weight[3] = f * g;
    out.by_s[0] = -slope_s * g0;
    out.by_s[1] = slope_s * g0;
    out.by_s[2] = -slope_s * g;
    out.by_s[3] = slope_s * g;
    out.by_t[0] = -slope_t * f0;
    out.by_t[1] = -slope_t * f;
    out.by_t[2] = slope_t * f0;
    out.by_t[3] = slope_t * f;
    if (boundary == CUBE) {
        const bool inside = i0 >= 0 && i1 < w && j0 >= 0 && j1 < w;
        const int first_face = view * 6;
        if (!inside) {
            int missing = -1, other = 0;
            for (int k = 0; k < 4; k++) {
                int i = k & 1 ? i1 : i0, j = k & 2 ? j1 : j0, face = p.face;
                const bool over_s = i < 0 || i >= w, over_t = j < 0 || j >= w;
                if (over_s && over_t) { missing = k; continue; }
                if (over_s || over_t) face = fold(face, w, i, j);
                out.row[k] = (first_face + face) * w + j;
                out.texel[k] = out.row[k] * w + i;
                other = k;
            }
            if (missing >= 0) {  // three texels meet at a corner of the cube: their mean replaces the fourth
                for (int k = 0; k < 4; k++) {
                    if (k == missing) continue;
                    out.weight[k] += out.weight[missing] * (1.f / 3.f);
                    out.by_s[k] += out.by_s[missing] * (1.f / 3.f);
                    out.by_t[k] += out.by_t[missing] * (1.f / 3.f);
                }
                out.row[missing] = out.row[other];
                out.texel[missing] = out.texel[other];
                out.weight[missing] = out.by_s[missing] = out.by_t[missing] = 0.f;
            }
            return;
        }
        out.row[0] = out.row[1] = (first_face + p.face) * w + j0;
        out.row[2] = out.row[3] = out.row[0] + 1;
    } else {
        if (boundary == ZERO) {
            const bool no_i0 = i0 < 0, no_i1 = i1 >= w, no_j0 = j0 < 0, no_j1 = j1 >= h;
            for (int k = 0; k < 4; k++)
                if ((k & 1 ? no_i1 : no_i0) || (k & 2 ? no_j1 : no_j0)) out.weight[k] = out.by_s[k] = out.by_t[k] = 0.f;
            if (no_i0) i0 = i1;
            if (no_i1) i1 = i0;
            if (no_j0) j0 = j1;
            if (no_j1) j1 = j0;
        } else {
            if (i0 < 0) i0 = boundary == WRAP ? w - 1 : 0;
            if (j0 < 0) j0 = boundary == WRAP ? h - 1 : 0;
            if (i1 >= w) i1 = boundary == WRAP ? 0 : w - 1;
            if (j1 >= h) j1 = boundary == WRAP ? 0 : h - 1;
        }
        out.row[0] = out.row[1] = view * h + j0;
        out.row[2] = out.row[3] = view * h + j1;
    }
    out.texel[0] = out.row[0] * w + i0;
    out.texel[1] = out.row[1] * w + i1;
    out.texel[2] = out.row[2] * w + i0;
    out.texel[3] = out.row[3] * w + i1;
};

// Rows go to the bands in groups, and the same part of the texture to the same band on every level: few samples read two bands.
auto band_of = [&](int row, int level) { return (int)((((unsigned)row << level) >> lookup.band_shift) & (unsigned)(lookup.bands - 1)); };

// section: taps
// The texels and weights of a block of samples on one level. `footprint` has the same boundaries for one sample: the two must agree.
for (int k = 0; k < m; k++) {
    const int here = level_0[k] + which;
    const int w = (lookup.width >> here) > 1 ? lookup.width >> here : 1;
    const int h = (lookup.height >> here) > 1 ? lookup.height >> here : 1;
    const float width = (float)w, height = (float)h;
    float x = s[k] * width - 0.5f, y = t[k] * height - 0.5f, slope_s = width, slope_t = height;
    if (BOUNDARY == CLAMP) {
        slope_s = x >= 0.f && x <= width - 1.f ? slope_s : 0.f;
        slope_t = y >= 0.f && y <= height - 1.f ? slope_t : 0.f;
        x = x > 0.f ? (x < width - 1.f ? x : width - 1.f) : 0.f;
        y = y > 0.f ? (y < height - 1.f ? y : height - 1.f) : 0.f;
    }
    if (BOUNDARY == ZERO) {  // all that is farther out is equally zero, and its column would not fit an integer
        slope_s = x > -1.f && x < width ? slope_s : 0.f;
        slope_t = y > -1.f && y < height ? slope_t : 0.f;
        x = x > -2.f ? (x < width + 1.f ? x : width + 1.f) : -2.f;
        y = y > -2.f ? (y < height + 1.f ? y : height + 1.f) : -2.f;
    }
    const float x_floor = __builtin_floorf(x), y_floor = __builtin_floorf(y);
    int i0 = (int)x_floor, j0 = (int)y_floor, i1 = i0 + 1, j1 = j0 + 1;
    float far_s = x - x_floor, far_t = y - y_floor, near_s = 1.f - far_s, near_t = 1.f - far_t;
    float by_far_s = slope_s, by_far_t = slope_t, by_near_s = -slope_s, by_near_t = -slope_t;
    if (BOUNDARY == ZERO) {
        const bool no_i0 = i0 < 0 || i0 >= w, no_i1 = i1 < 0 || i1 >= w, no_j0 = j0 < 0 || j0 >= h, no_j1 = j1 < 0 || j1 >= h;
        near_s = no_i0 ? 0.f : near_s; by_near_s = no_i0 ? 0.f : by_near_s;
        far_s = no_i1 ? 0.f : far_s; by_far_s = no_i1 ? 0.f : by_far_s;
        near_t = no_j0 ? 0.f : near_t; by_near_t = no_j0 ? 0.f : by_near_t;
        far_t = no_j1 ? 0.f : far_t; by_far_t = no_j1 ? 0.f : by_far_t;
        i0 = no_i0 ? (no_i1 ? 0 : i1) : i0;  // a texel without weight is read at the other's place: 0 times infinity is NaN
        i1 = no_i1 ? i0 : i1;
        j0 = no_j0 ? (no_j1 ? 0 : j1) : j0;
        j1 = no_j1 ? j0 : j1;
    } else if (BOUNDARY == CUBE) {
        over_edge[k] |= i0 < 0 || i1 >= w || j0 < 0 || j1 >= h ? 1 : 0;
    } else {
        i0 = i0 < 0 ? (BOUNDARY == WRAP ? w - 1 : 0) : i0;
        j0 = j0 < 0 ? (BOUNDARY == WRAP ? h - 1 : 0) : j0;
        i1 = i1 >= w ? (BOUNDARY == WRAP ? 0 : w - 1) : i1;
        j1 = j1 >= h ? (BOUNDARY == WRAP ? 0 : h - 1) : j1;
    }
    const int upper = image[k] * h + j0, lower = image[k] * h + j1;
    to.near_s[k] = near_s; to.far_s[k] = far_s; to.near_t[k] = near_t; to.far_t[k] = far_t;
    to.by_near_s[k] = by_near_s; to.by_far_s[k] = by_far_s; to.by_near_t[k] = by_near_t; to.by_far_t[k] = by_far_t;
    to.left[k] = i0; to.right[k] = i1; to.upper[k] = upper * w; to.lower[k] = lower * w;
    to.upper_row[k] = upper; to.lower_row[k] = lower;
}

// section: block
// On a CPU: up to LANES samples side by side, so that the compiler computes several at once. A weight is the product of one along s and one
// along t. Samples of a cube that reach over an edge are marked, and left to `one_sample`.
const int LANES = 64;
struct Taps {
    int left[LANES], right[LANES], upper[LANES], lower[LANES], upper_row[LANES], lower_row[LANES];  // columns, first texels of rows, rows
    float near_s[LANES], far_s[LANES], near_t[LANES], far_t[LANES];
    float by_near_s[LANES], by_far_s[LANES], by_near_t[LANES], by_far_t[LANES];
};
typedef float Quad __attribute__((ext_vector_type(4)));
typedef float Pair __attribute__((ext_vector_type(2)));
int id[LANES], image[LANES], level_0[LANES], over_edge[LANES];
float s[LANES], t[LANES], s_x[LANES], s_y[LANES], t_x[LANES], t_y[LANES], level[LANES], between[LANES];
Taps taps[2];
(void)id; (void)taps; (void)s_x; (void)s_y; (void)t_x; (void)t_y; (void)level_bias; (void)uv_derivatives;

// Loads the coordinates of the samples in `id`, all of them valid, and, with slopes, their derivatives along the picture.
auto gather = [&](int m, bool with_slopes) {
    for (int k = 0; k < m; k++) {
        const int n = id[k], view = lookup.texture_views > 1 ? n / lookup.samples_per_view : 0;
        over_edge[k] = 0;
        if (!cube) {
            s[k] = uv[2 * n]; t[k] = uv[2 * n + 1];
            image[k] = view;
            if (with_slopes) {
                const float* given = uv_derivatives + 4 * (long long)n;
                s_x[k] = given[0]; s_y[k] = given[1]; t_x[k] = given[2]; t_y[k] = given[3];
            }
        } else {
            const Place p = locate(n);
            s[k] = p.s; t[k] = p.t;
            image[k] = 6 * view + p.face;
            if (with_slopes) {
                const Slopes d = slopes_of(n, p);
                s_x[k] = d.s_x; s_y[k] = d.s_y; t_x[k] = d.t_x; t_y[k] = d.t_y;
            }
        }
    }
    if (lookup.boundary == WRAP)
        for (int k = 0; k < m; k++) { s[k] -= __builtin_floorf(s[k]); t[k] -= __builtin_floorf(t[k]); }
};
// Computes level_of for a block. log2(m 2^e) = e + 2 / ln 2 artanh z with z = (m - 1) / (m + 1); five terms reach float32's precision.
auto choose_levels = [&](int m) {
    const float width = (float)lookup.width, height = (float)lookup.height, top = (float)lookup.top;
    if (lookup.has_derivatives)
        for (int k = 0; k < m; k++) {
            const float sx = s_x[k] * width, sy = s_y[k] * width, tx = t_x[k] * height, ty = t_y[k] * height;
            const float a = sx * sx + tx * tx, b = sy * sy + ty * ty, c = sx * sy + tx * ty;
            const float half = 0.5f * (a - b), mean = 0.5f * (a + b);
            const float square = mean - mean == 0.f ? mean + __builtin_sqrtf(half * half + c * c) : mean;
            const bool tiny = square < 1e-30f;  // denormal soon: scale it by 2^64 to keep all digits
            const float scaled = tiny ? square * 18446744073709551616.f : square;
            unsigned bits;
            __builtin_memcpy(&bits, &scaled, sizeof(bits));
            const int large = (bits & 0x7fffff) > 0x3504f3 ? 1 : 0;  // above the square root of 2
            const int exponent = (int)(bits >> 23) - (tiny ? 191 : 127) + large;
            bits = (bits & 0x7fffff) | (large ? 0x3f000000 : 0x3f800000);
            float mantissa;
            __builtin_memcpy(&mantissa, &bits, sizeof(mantissa));
            const float z = (mantissa - 1.f) / (mantissa + 1.f), zz = z * z;
            const float sum = z * (2.8853901f + zz * (0.96179669f + zz * (0.57707802f + zz * (0.41219858f + zz * 0.32059890f))));
            const float found = 0.5f * ((float)exponent + sum);
            const float infinite = __builtin_inff();
            level[k] = square > 0.f && square < infinite ? found : (square == 0.f ? -infinite : square);
        }
    else
        for (int k = 0; k < m; k++) level[k] = 0.f;
    if (lookup.has_bias)
        for (int k = 0; k < m; k++) level[k] += level_bias[id[k]];
    for (int k = 0; k < m; k++) level[k] = level[k] > 0.f ? (level[k] < top ? level[k] : top) : 0.f;
};
// Finds the integer level below each `level`, the fraction of the way to the next one, and the texels and weights of both.
auto find_taps = [&](int m) {
    for (int k = 0; k < m; k++) {
        level_0[k] = (int)level[k];
        between[k] = lookup.filter == LINEAR_MIPMAP_LINEAR ? level[k] - level_0[k] : 0.f;
    }
    for (int which = 0; which < (lookup.filter == LINEAR_MIPMAP_LINEAR ? 2 : 1); which++) {
        Taps& to = taps[which];
        if (lookup.boundary == WRAP) {
            // use: taps with BOUNDARY=WRAP
        } else if (lookup.boundary == CLAMP) {
            // use: taps with BOUNDARY=CLAMP
        } else if (lookup.boundary == ZERO) {
            // use: taps with BOUNDARY=ZERO
        } else if (lookup.boundary == CUBE) {
            // use: taps with BOUNDARY=CUBE
        }
    }
};
auto valid = [&](int n) { return locate(n).valid; };
(void)gather; (void)choose_levels; (void)find_taps; (void)valid;

// section: vectors
auto load_three = [](const float* from) {
    Pair two;
    __builtin_memcpy(&two, from, sizeof(two));
    Quad all = {two.x, two.y, from[2], 0.f};
    return all;
};
auto load_four = [](const float* from) {
    Quad all;
    __builtin_memcpy(&all, from, sizeof(all));
    return all;
};
auto load_one = [](const float* from) { return *from; };
auto store_three = [](float* to, Quad all) {
    const Pair two = {all.x, all.y};
    __builtin_memcpy(to, &two, sizeof(two));
    to[2] = all.z;
};
auto store_four = [](float* to, Quad all) { __builtin_memcpy(to, &all, sizeof(all)); };
auto store_one = [](float* to, float one) { *to = one; };
auto sum_of_four = [](Quad all) { return (all.x + all.y) + (all.z + all.w); };
auto sum_of_one = [](float one) { return one; };
(void)load_three; (void)load_four; (void)load_one; (void)store_three; (void)store_four; (void)store_one;
(void)sum_of_four; (void)sum_of_one;

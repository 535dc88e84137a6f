// C++ of the rasterizer: bodies of the functions in _rasterize_kernels.py, by sections (ops/kernels/native.py). Notation: rasterize.py.

// section: arithmetic
// Products and sums that must not be contracted, or in one way only, are spelled out for a GPU.
#if defined(__CUDA_ARCH__)
#define UNRENDER_MUL(p, q) __dmul_rn(p, q)
#define UNRENDER_MULADD(p, q, r) __fma_rn(p, q, r)
#define UNRENDER_FLOOR(p) floor(p)
#else
#define UNRENDER_FLOOR(p) __builtin_floor(p)
#define UNRENDER_MUL(p, q) ((p) * (q))
#define UNRENDER_MULADD(p, q, r) ((p) * (q) + (r))
#endif

// section: forget_arithmetic
#undef UNRENDER_MUL
#undef UNRENDER_MULADD
#undef UNRENDER_FLOOR

// section: triangles
// The members of `triangles`, and the first pixel of `view` among all pixels.
    const float* const positions = (const float*)triangles.positions;
    const int* const faces = (const int*)triangles.faces;
    const int vertices = triangles.vertices, height = triangles.height, width = triangles.width;
    const long long view_stride = triangles.view_stride, first_pixel = (long long)view * height * width;
    (void)first_pixel;

// section: pixels
// The members of `pixels`; `keys` are those of this view.
    int* const face = (int*)pixels.face;
    float* const weights = (float*)pixels.weights;
    float* const depth = (float*)pixels.depth;
    float* const slopes = (float*)pixels.slopes;
    const int* const behind_face = (const int*)pixels.behind_face;
    const float* const behind_depth = (const float*)pixels.behind_depth;
    long long* const keys = (long long*)pixels.keys + (long long)(view - triangles.first_view) * height * width;
    const int face_bits = pixels.face_bits;
    (void)face; (void)weights; (void)depth; (void)slopes; (void)behind_face; (void)behind_depth;

// section: corners
// The corners of face `triangle` as seen in `view`; `usable` if all three exist and are finite.
    double x[3] = {0.0, 0.0, 0.0}, y[3] = {0.0, 0.0, 0.0}, z[3] = {0.0, 0.0, 0.0}, w[3] = {0.0, 0.0, 0.0};
    bool usable = true;
    for (int i = 0; i < 3; i++) {
        const int vertex = faces[3 * (long long)triangle + i];
        if (vertex < 0 || vertex >= vertices) { usable = false; break; }
        const float* corner = positions + 4 * (view_stride * view + vertex);
        x[i] = corner[0]; y[i] = corner[1]; z[i] = corner[2]; w[i] = corner[3];
        const double sum = (x[i] - x[i]) + (y[i] - y[i]) + (z[i] - z[i]) + (w[i] - w[i]);
        if (!(sum == 0.0)) usable = false;
    }

// section: box
// Bounds of the pixels whose centers the triangle can cover: rows first_row..last_row and columns likewise, empty if there are none.
    int first_row = 0, last_row = -1, first_column = 0, last_column = -1;
    if (usable) {
        bool beyond[7] = {true, true, true, true, true, true, true};
        bool in_front = true;
        for (int i = 0; i < 3; i++) {
            beyond[0] = beyond[0] && x[i] > w[i];
            beyond[1] = beyond[1] && x[i] < -w[i];
            beyond[2] = beyond[2] && y[i] > w[i];
            beyond[3] = beyond[3] && y[i] < -w[i];
            beyond[4] = beyond[4] && z[i] > w[i];
            beyond[5] = beyond[5] && z[i] < -w[i];
            beyond[6] = beyond[6] && w[i] <= 0.0;
            in_front = in_front && w[i] > 0.0;
        }
        bool outside = false;
        for (int k = 0; k < 7; k++) outside = outside || beyond[k];
        // What is seen has z >= -w. Of a triangle that reaches behind the eye, only that part is projected.
        double px[4], py[4];
        int points = 0;
        bool everywhere = false;
        if (!outside && in_front) {
            for (int i = 0; i < 3; i++) { px[i] = x[i] / w[i]; py[i] = y[i] / w[i]; }
            points = 3;
        } else if (!outside) {
            double largest = 0.0;
            for (int i = 0; i < 3; i++) { const double size = w[i] < 0.0 ? -w[i] : w[i]; largest = size > largest ? size : largest; }
            for (int i = 0; i < 3; i++) {
                const int j = (i + 1) % 3;
                const double here = z[i] + w[i], there = z[j] + w[j];
                if (here >= 0.0) {
                    if (w[i] < 1e-6 * largest) { everywhere = true; break; }
                    px[points] = x[i] / w[i]; py[points] = y[i] / w[i]; points++;
                }
                if ((here >= 0.0) != (there >= 0.0)) {
                    const double t = here / (here - there);
                    const double wt = w[i] + t * (w[j] - w[i]);
                    if (wt < 1e-6 * largest) { everywhere = true; break; }
                    px[points] = (x[i] + t * (x[j] - x[i])) / wt; py[points] = (y[i] + t * (y[j] - y[i])) / wt; points++;
                }
            }
        }
        if (everywhere) {
            last_row = height - 1; last_column = width - 1;
        } else if (points > 0) {
            double left = px[0], right = px[0], low = py[0], high = py[0];
            for (int i = 1; i < points; i++) {
                left = px[i] < left ? px[i] : left; right = px[i] > right ? px[i] : right;
                low = py[i] < low ? py[i] : low; high = py[i] > high ? py[i] : high;
            }
            const double slack = in_front ? 1e-6 : 1.0;
            left = (0.5 * left + 0.5) * width - 0.5 - slack; right = (0.5 * right + 0.5) * width - 0.5 + slack;
            low = (0.5 * low + 0.5) * height - 0.5 - slack; high = (0.5 * high + 0.5) * height - 0.5 + slack;
            if (right >= 0.0 && left <= width - 1 && high >= 0.0 && low <= height - 1) {
                first_column = left > 0.0 ? (int)left + ((int)left < left) : 0;
                last_column = right < width - 1 ? (int)right : width - 1;
                first_row = low > 0.0 ? (int)low + ((int)low < low) : 0;
                last_row = high < height - 1 ? (int)high : height - 1;
            }
        }
    }

// section: setup
// Edge functions with the sign that makes the inside positive, the plane of depth, and the exact sign where float64 cannot tell it.
    auto sign_of_sum = [](const double* p, const double* q) -> int {
        // Of the sum of p[k] q[k]: p has at most 48 bits, q at most 27. Parts never overlap and grow, so the last one decides.
        double parts[12];
        int used = 0;
        for (int k = 0; k < 6; k++) {
            const double scaled = UNRENDER_MUL(134217729.0, p[k]);
            const double upper = scaled - (scaled - p[k]);
            const double halves[2] = {UNRENDER_MUL(p[k] - upper, q[k]), UNRENDER_MUL(upper, q[k])};
            for (int h = 0; h < 2; h++) {
                double carried = halves[h];
                for (int n = 0; n < used; n++) {
                    const double sum = carried + parts[n], other = sum - carried;
                    parts[n] = (carried - (sum - other)) + (parts[n] - other);
                    carried = sum;
                }
                parts[used++] = carried;
            }
        }
        for (int n = used - 1; n >= 0; n--)
            if (parts[n] != 0.0) return parts[n] > 0.0 ? 1 : -1;
        return 0;
    };
    double a[3], b[3], c[3], doubt[3];
    for (int i = 0; i < 3; i++) {
        const int j = (i + 1) % 3, k = (i + 2) % 3;
        a[i] = y[j] * w[k] - w[j] * y[k];
        b[i] = w[j] * x[k] - x[j] * w[k];
        c[i] = x[j] * y[k] - y[j] * x[k];
        doubt[i] = 1e-15 * ((a[i] < 0.0 ? -a[i] : a[i]) + (b[i] < 0.0 ? -b[i] : b[i]) + (c[i] < 0.0 ? -c[i] : c[i]));
    }
    double front = 0.0, det;
    {
        const double dx = x[0] * a[0], dy = y[0] * b[0], dw = w[0] * c[0];
        const double certain = 1e-15 * ((dx < 0.0 ? -dx : dx) + (dy < 0.0 ? -dy : dy) + (dw < 0.0 ? -dw : dw));
        det = dx + dy + dw;
        if (det > certain) front = 1.0;
        else if (det < -certain) { front = -1.0; det = -det; }
        else {
            const double p[6] = {y[1] * w[2], -w[1] * y[2], w[1] * x[2], -x[1] * w[2], x[1] * y[2], -y[1] * x[2]};
            const double q[6] = {x[0], x[0], y[0], y[0], w[0], w[0]};
            front = sign_of_sum(p, q);
            det = certain;
        }
    }
    usable = usable && front != 0.0 && det > 0.0;
    double depth_x = 0.0, depth_y = 0.0, depth_1 = 0.0, nearest = -1.0, farthest = 1.0;
    if (usable) {
        const double scale = 1.0 / det;
        for (int i = 0; i < 3; i++) {
            a[i] *= front; b[i] *= front; c[i] *= front;
            depth_x += a[i] * z[i]; depth_y += b[i] * z[i]; depth_1 += c[i] * z[i];
        }
        depth_x *= scale; depth_y *= scale; depth_1 *= scale;
        if (w[0] > 0.0 && w[1] > 0.0 && w[2] > 0.0) {
            nearest = farthest = z[0] / w[0];
            for (int i = 1; i < 3; i++) {
                const double corner_depth = z[i] / w[i];
                nearest = corner_depth < nearest ? corner_depth : nearest;
                farthest = corner_depth > farthest ? corner_depth : farthest;
            }
        } else { nearest = -2.0; farthest = 2.0; }
        // Beyond -1 and 1 it only matters that it is beyond; a bounded depth always fits its integer.
        nearest = nearest > -2.0 ? (nearest < 2.0 ? nearest : 2.0) : -2.0;
        farthest = farthest > -2.0 ? (farthest < 2.0 ? farthest : 2.0) : -2.0;
    }
    const double per_width = 1.0 / width, per_height = 1.0 / height;
    (void)depth_x; (void)depth_y; (void)depth_1; (void)nearest; (void)farthest; (void)per_width; (void)per_height; (void)doubt;

// section: spans
// The covered columns first..last of `row`, exactly.
    // Where an edge crosses the row y: column crossing + slope y, wrong by less than column_doubt.
    double crossing[3], slope[3], column_doubt[3];
    bool all_cross = true;
    for (int i = 0; i < 3; i++) {
        const double inverse_a = a[i] == 0.0 ? 0.0 : 1.0 / a[i];
        column_doubt[i] = 1e-9 + 4.0 * width * doubt[i] * (inverse_a < 0.0 ? -inverse_a : inverse_a);
        slope[i] = -0.5 * width * b[i] * inverse_a;
        crossing[i] = 0.5 * width * (1.0 - c[i] * inverse_a) - 0.5;
        all_cross = all_cross && a[i] != 0.0 && column_doubt[i] < 0.25;
    }
    auto covers = [&](int i, int column, int row) -> bool {
        const double e = a[i] * ((2 * column + 1 - width) * per_width) + (b[i] * ((2 * row + 1 - height) * per_height) + c[i]);
        if (e > doubt[i]) return true;
        if (e < -doubt[i]) return false;
        const int j = (i + 1) % 3, k = (i + 2) % 3;
        const double p[6] = {y[j] * w[k], -w[j] * y[k], w[j] * x[k], -x[j] * w[k], x[j] * y[k], -y[j] * x[k]};
        const double qx = (double)(2 * column + 1 - width) * height, qy = (double)(2 * row + 1 - height) * width;
        const double q1 = (double)width * height;
        const double q[6] = {qx, qx, qy, qy, q1, q1};
        const double sign = front * sign_of_sum(p, q);
        return sign > 0.0 || (sign == 0.0 && (a[i] > 0.0 || (a[i] == 0.0 && b[i] > 0.0)));
    };
    auto span = [&](int row, int& first, int& last) {
        const double center_y = (2 * row + 1 - height) * per_height;
        if (all_cross) {
            double low = first, high = last;
            bool certain = true;
            for (int i = 0; i < 3; i++) {
                double column = crossing[i] + slope[i] * center_y;
                column = column > -1.3 ? (column < width + 0.3 ? column : width + 0.3) : -1.3;
                const double below = UNRENDER_FLOOR(column), part = column - below;
                certain = certain && part > column_doubt[i] && part < 1.0 - column_doubt[i];
                const double start = a[i] > 0.0 ? below + 1.0 : low, stop = a[i] > 0.0 ? high : below;
                low = start > low ? start : low;
                high = stop < high ? stop : high;
            }
            if (certain) { first = (int)low; last = (int)high; return; }
        }
        for (int i = 0; i < 3; i++) {
            if (a[i] == 0.0) {
                if (!covers(i, 0, row)) { last = first - 1; return; }
            } else if (column_doubt[i] < 0.25) {
                double column = crossing[i] + slope[i] * center_y;
                column = column > -1.0 ? (column < width ? column : (double)width) : -1.0;
                const int near_column = (int)(column + 1.5) - 1;
                const double beyond = column - near_column;
                if (a[i] > 0.0) {
                    const bool whole = beyond > column_doubt[i] ? false : (beyond < -column_doubt[i] ? true : covers(i, near_column, row));
                    const int start = whole ? near_column : near_column + 1;
                    first = start > first ? start : first;
                } else {
                    const bool whole = beyond > column_doubt[i] ? true : (beyond < -column_doubt[i] ? false : covers(i, near_column, row));
                    const int stop = whole ? near_column : near_column - 1;
                    last = stop < last ? stop : last;
                }
            } else {  // an edge so nearly along the row that its crossing is uncertain: halve the interval
                int low = first - 1, high = last + 1;
                while (high - low > 1) {
                    const int middle = (low + high) / 2;
                    if (covers(i, middle, row) == (a[i] > 0.0)) high = middle; else low = middle;
                }
                if (a[i] > 0.0) first = high; else last = low;
            }
            if (first > last) return;
        }
    };

// section: depth_at
// `steps`: how many depths are told apart, so that 63 bits hold a depth above a face.
    const double steps = (double)(1LL << (62 - face_bits));
    auto depth_at = [&](double row_depth, double center_x) -> double {
        const double depth = UNRENDER_MULADD(depth_x, center_x, row_depth);
        return depth < nearest ? nearest : (depth > farthest ? farthest : depth);
    };

// section: rows_of
// Writes the rows that a triangle may cover, first | last << 16, or -1.
{
// use: triangles
// use: corners
// use: box
    rows.data[out] = (first_row <= last_row && first_column <= last_column) ? (first_row | (last_row << 16)) : -1;
}

// section: fill_band
// Keeps the smallest (depth, face) at each pixel of a band, of the triangles listed from `begin` to `end`.
#if !defined(__CUDA_ARCH__)
{
// use: arithmetic
// use: triangles
// use: pixels
const int top = band * band_rows, bottom = (top + band_rows < height ? top + band_rows : height) - 1;
const long long row_base = (long long)(view - triangles.first_view) * triangles.most_faces;
const long long nothing = 0x7fffffffffffffffLL;
for (long long n = (long long)top * width; n < (bottom + 1LL) * width; n++) keys[n] = nothing;
for (long long entry = begin; entry < end; entry++) {
    const int triangle = listed.data[entry];
    const int row_range = rows.data[row_base + (triangle - first_face)];
    int first_row = row_range & 0xffff, last_row = row_range >> 16;
    first_row = first_row > top ? first_row : top;
    last_row = last_row < bottom ? last_row : bottom;
// use: corners
// use: setup
    if (!usable) continue;
// use: spans
// use: depth_at
    for (int row = first_row; row <= last_row; row++) {
        int first = 0, last = width - 1;
        span(row, first, last);
        if (first > last) continue;
        const double row_depth = UNRENDER_MULADD(depth_y, (2 * row + 1 - height) * per_height, depth_1);
        long long* line = keys + (long long)row * width;
        if (behind_face) {
            const int* seen = behind_face + first_pixel + (long long)row * width;
            const float* limit = behind_depth + first_pixel + (long long)row * width;
            for (int column = first; column <= last; column++) {
                const double depth = depth_at(row_depth, (2 * column + 1 - width) * per_width);
                if (!(depth >= -1.0 && depth <= 1.0) || seen[column] < 0 || !((float)depth > limit[column])) continue;
                const long long number = ((long long)((depth + 1.0) * steps * 0.5) << face_bits) | triangle;
                line[column] = number < line[column] ? number : line[column];
            }
        } else {
            for (int column = first; column <= last; column++) {
                const double depth = depth_at(row_depth, (2 * column + 1 - width) * per_width);
                const long long number = ((long long)((depth + 1.0) * steps * 0.5) << face_bits) | triangle;
                const bool nearer = depth >= -1.0 && depth <= 1.0 && number < line[column];
                line[column] = nearer ? number : line[column];
            }
        }
    }
}
// use: forget_arithmetic
}
#endif

// section: resolve
// Computes weights, depth and slopes of the faces kept at the pixels `begin` to `end` of a view.
{
// use: arithmetic
// use: triangles
// use: pixels
const long long nothing = 0x7fffffffffffffffLL, mask = (1LL << face_bits) - 1;
long long n = begin;
while (n < end) {
    const long long number = keys[n];
    const int triangle = number == nothing ? -1 : (int)(number & mask);
    const int row = (int)(n / width);
    const long long row_end = (row + 1LL) * width < end ? (row + 1LL) * width : end;
    long long stop = n + 1;
    if (triangle < 0) {
        while (stop < row_end && keys[stop] == nothing) stop++;
        for (long long k = first_pixel + n; k < first_pixel + stop; k++) {
            face[k] = -1;
            weights[2 * k] = 0.f; weights[2 * k + 1] = 0.f;
            depth[k] = 0.f;
        }
        if (slopes) for (long long k = 4 * (first_pixel + n); k < 4 * (first_pixel + stop); k++) slopes[k] = 0.f;
        n = stop;
        continue;
    }
    while (stop < row_end && keys[stop] != nothing && (int)(keys[stop] & mask) == triangle) stop++;
// use: corners
// use: setup
// use: depth_at
    (void)steps;
    const double center_y = (2 * row + 1 - height) * per_height;
    const double row_depth = UNRENDER_MULADD(depth_y, center_y, depth_1);
    const double sum_a = a[0] + a[1] + a[2], sum_b = b[0] + b[1] + b[2];
    for (; n < stop; n++) {
        const double center_x = (2 * (int)(n - (long long)row * width) + 1 - width) * per_width;
        double e[3];
        for (int i = 0; i < 3; i++) {
            const double value = a[i] * center_x + (b[i] * center_y + c[i]);
            e[i] = value > 0.0 ? value : 0.0;
        }
        const double total = e[0] + e[1] + e[2];
        const double inverse = total > 0.0 ? 1.0 / total : 0.0;
        const float u = (float)(e[0] * inverse);
        float v = (float)(e[1] * inverse);
        v = v < 1.f - u ? v : 1.f - u;
        const long long k = first_pixel + n;
        face[k] = triangle;
        weights[2 * k] = u; weights[2 * k + 1] = v;
        depth[k] = (float)depth_at(row_depth, center_x);
        if (slopes) {
            slopes[4 * k] = (float)((a[0] - e[0] * inverse * sum_a) * inverse * 2.0 * per_width);
            slopes[4 * k + 1] = (float)((b[0] - e[0] * inverse * sum_b) * inverse * 2.0 * per_height);
            slopes[4 * k + 2] = (float)((a[1] - e[1] * inverse * sum_a) * inverse * 2.0 * per_width);
            slopes[4 * k + 3] = (float)((b[1] - e[1] * inverse * sum_b) * inverse * 2.0 * per_height);
        }
    }
}
// use: forget_arithmetic
}

// section: fill_face
// Keeps one face at every row_step-th of its rows, where it is nearer than what is there.
{
#if defined(__CUDA_ARCH__)
#define UNRENDER_MIN(address, number) atomicMin(address, number)
#else
#define UNRENDER_MIN(address, number) *(address) = (number)
#endif
// use: arithmetic
// use: triangles
// use: pixels
// use: corners
// use: setup
if (usable) {
// use: spans
// use: depth_at
        for (int row = first_row; row <= last_row; row += row_step) {
        int first = 0, last = width - 1;
        span(row, first, last);
        const double row_depth = UNRENDER_MULADD(depth_y, (2 * row + 1 - height) * per_height, depth_1);
        unsigned long long* line = (unsigned long long*)keys + (long long)row * width;
        for (int column = first; column <= last; column++) {
            const double depth = depth_at(row_depth, (2 * column + 1 - width) * per_width);
            if (!(depth >= -1.0 && depth <= 1.0)) continue;
            if (behind_face) {
                const long long k = first_pixel + (long long)row * width + column;
                if (behind_face[k] < 0 || !((float)depth > behind_depth[k])) continue;
            }
            const unsigned long long number = ((unsigned long long)((depth + 1.0) * steps * 0.5) << face_bits) | (unsigned int)triangle;
            if (number < line[column]) UNRENDER_MIN(line + column, number);
        }
    }
}
// use: forget_arithmetic
#undef UNRENDER_MIN
}

// section: scatter_gradients
// Adds the gradients of the pixels `begin` to `end` of a view to the positions, with one addition for each run of a face in a row.
{
// use: arithmetic
// use: kernels.add
// use: triangles
const int* const face = (const int*)gradients.face;
const float* const grad_weights = (const float*)gradients.grad_weights;
const float* const grad_depth = (const float*)gradients.grad_depth;
const float* const grad_slopes = (const float*)gradients.grad_slopes;
float* const grad_positions = (float*)gradients.grad_positions + 4 * (long long)copy * vertices;
long long n = begin;
while (n < end) {
    const int triangle = face[first_pixel + n];
    const int row = (int)(n / width);
    const long long row_end = (row + 1LL) * width < end ? (row + 1LL) * width : end;
    long long stop = n + 1;
    while (stop < row_end && face[first_pixel + stop] == triangle) stop++;
    if (triangle < 0) { n = stop; continue; }
// use: corners
// use: setup
    if (!usable) { n = stop; continue; }
    const double inverse_det = 1.0 / det, pixel_x = 2.0 * per_width, pixel_y = 2.0 * per_height;
    const double center_y = (2 * row + 1 - height) * per_height;
    double mx[3], my[3], at_zero[3];
    for (int i = 0; i < 3; i++) {
        mx[i] = a[i] * inverse_det; my[i] = b[i] * inverse_det;
        at_zero[i] = (b[i] * center_y + c[i]) * inverse_det;
    }
    const double sum_x = mx[0] + mx[1] + mx[2], sum_y = my[0] + my[1] + my[2];
    // From d(M^-1 P) = -M^-1 dM M^-1 P: the gradient to column i of M is -(lambda_i h + mx_i hx + my_i hy), h = M^-T (gradient to lambda).
    double outer[3][3] = {{0.0, 0.0, 0.0}, {0.0, 0.0, 0.0}, {0.0, 0.0, 0.0}};
    double grad_mx[3] = {0.0, 0.0, 0.0}, grad_my[3] = {0.0, 0.0, 0.0}, grad_z[3] = {0.0, 0.0, 0.0};
    for (; n < stop; n++) {
        const long long k = first_pixel + n;
        const double center_x = (2 * (int)(n - (long long)row * width) + 1 - width) * per_width;
        double l[3], grad_l[3] = {0.0, 0.0, 0.0};
        for (int i = 0; i < 3; i++) l[i] = mx[i] * center_x + at_zero[i];
        const double inverse = 1.0 / (l[0] + l[1] + l[2]), u = l[0] * inverse, v = l[1] * inverse;
        double grad_u = 0.0, grad_v = 0.0, grad_total = 0.0;
        if (grad_weights) { grad_u = grad_weights[2 * k]; grad_v = grad_weights[2 * k + 1]; }
        if (grad_slopes) {
            const float* g = grad_slopes + 4 * k;
            const double ux = g[0] * pixel_x * inverse, uy = g[1] * pixel_y * inverse;
            const double vx = g[2] * pixel_x * inverse, vy = g[3] * pixel_y * inverse;
            grad_u -= ux * sum_x + uy * sum_y;
            grad_v -= vx * sum_x + vy * sum_y;
            grad_total = -inverse * (ux * (mx[0] - u * sum_x) + uy * (my[0] - u * sum_y)
                                   + vx * (mx[1] - v * sum_x) + vy * (my[1] - v * sum_y));
            const double shared_x = ux * u + vx * v, shared_y = uy * u + vy * v;
            grad_mx[0] += ux - shared_x; grad_mx[1] += vx - shared_x; grad_mx[2] -= shared_x;
            grad_my[0] += uy - shared_y; grad_my[1] += vy - shared_y; grad_my[2] -= shared_y;
        }
        const double shared = grad_total - (grad_u * u + grad_v * v) * inverse;
        grad_l[0] = grad_u * inverse + shared; grad_l[1] = grad_v * inverse + shared; grad_l[2] = shared;
        if (grad_depth) {
            const double g = grad_depth[k];
            for (int i = 0; i < 3; i++) { grad_l[i] += g * z[i]; grad_z[i] += g * l[i]; }
        }
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < 3; j++) outer[i][j] += l[i] * grad_l[j];
    }
    for (int i = 0; i < 3; i++) {
        double along_x = 0.0, along_y = 0.0, along_w = 0.0;
        for (int j = 0; j < 3; j++) {
            const double amount = -(outer[i][j] + mx[i] * grad_mx[j] + my[i] * grad_my[j]) * inverse_det;
            along_x += amount * a[j]; along_y += amount * b[j]; along_w += amount * c[j];
        }
        float* corner = grad_positions + 4 * (long long)faces[3 * (long long)triangle + i];
        // Skip slivers whose gradient would overflow float32; NaN passes this test and is added.
        const double size = along_x * along_x + along_y * along_y + along_w * along_w + grad_z[i] * grad_z[i];
        if (size >= 1e60) continue;
        UNRENDER_ADD(corner, (float)along_x);
        UNRENDER_ADD(corner + 1, (float)along_y);
        UNRENDER_ADD(corner + 2, (float)grad_z[i]);
        UNRENDER_ADD(corner + 3, (float)along_w);
    }
}
// use: kernels.forget_add
// use: forget_arithmetic
}

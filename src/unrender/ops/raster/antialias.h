// C++ of antialiasing: bodies of the functions in _antialias_kernels.py, by sections (ops/kernels/native.py). Notation: antialias.py.

// section: scene
// The members of `scene`, and the first pixel of `view` among all pixels.
    const int* const face = (const int*)scene.face;
    const float* const depth = (const float*)scene.depth;
    const float* const positions = (const float*)scene.positions;
    const int* const faces = (const int*)scene.faces;
    const int* const across = (const int*)scene.across;
    const int vertices = scene.vertices, face_count = scene.face_count, height = scene.height, width = scene.width;
    const long long view_stride = scene.view_stride, first_pixel = (long long)view * height * width;
    const bool walk = scene.walk != 0;
    (void)face; (void)depth; (void)positions; (void)faces; (void)across; (void)vertices; (void)face_count; (void)walk;
    (void)view_stride; (void)first_pixel;

// section: crossings
// The members of `crossings`.
    int* const crossing_edge = (int*)crossings.edge;
    int* const crossing_place = (int*)crossings.place;
    float* const crossing_alpha = (float*)crossings.alpha;
    const long long* const first_crossing = (const long long*)crossings.first;
    (void)crossing_edge; (void)crossing_place; (void)crossing_alpha; (void)first_crossing;

// section: picture
// The members of `picture`.
    const float* const color = (const float*)picture.color;
    const float* const grad_result = (const float*)picture.grad_result;
    float* const result = (float*)picture.result;
    float* const grad_color = (float*)picture.grad_color;
    float* const grad_positions = (float*)picture.grad_positions;
    const int channels = picture.channels;
    (void)color; (void)grad_result; (void)result; (void)grad_color; (void)grad_positions; (void)channels;

// section: viewpoint
// A vertex as seen from the center of (column, row): s along and t across the line to the neighbor's center.
    const float* view_positions = positions + view_stride * view;
    double center_x = 0.0, center_y = 0.0, direction = 1.0;
    bool down = false;
    auto stand = [&](int column, int row, bool along_column, bool backwards) -> void {
        center_x = 0.5 * width - 0.5 - column; center_y = 0.5 * height - 0.5 - row;
        down = along_column; direction = backwards ? -1.0 : 1.0;
    };
    auto corner = [&](int vertex, double& s, double& t, double& w) -> void {
        if (vertex < 0 || vertex >= vertices) { s = t = w = 0.0; return; }
        const float* p = view_positions + 4 * (long long)vertex;
        w = p[3];
        const double x = 0.5 * width * (double)p[0] + center_x * w, y = 0.5 * height * (double)p[1] + center_y * w;
        s = direction * (down ? y : x);
        t = down ? x : y;
    };

// section: search
// Finds the silhouette between a pixel and its neighbor: found_edge (-1: none), at found_s / found_w, seen from the second if found_backwards.
// use: viewpoint
    const int most_steps = 64;           // edges that a walk crosses before it gives up, and faces tried around one edge
    const double farthest_back = 3.0;    // pixels behind its start at which a walk that has turned back ends
    const double owner_reach = 0.0625;   // pixels beyond the two centers at which the rule "owner" still finds an edge
    int found_edge = -1;
    double found_s = 0.0, found_w = 1.0;
    bool found_backwards = false;
    // The edge by which the line leaves a face, its upper and lower end, and where.
    int edge = -1, upper_vertex = 0;
    double upper_s = 0.0, upper_t = 0.0, upper_w = 0.0, lower_s = 0.0, lower_t = 0.0, lower_w = 0.0, at_s = 0.0, at_w = 1.0;
    auto leave = [&](int face) -> void {
        int v[3];
        double s[3], t[3], w[3];
        for (int i = 0; i < 3; i++) { v[i] = faces[3 * face + i]; corner(v[i], s[i], t[i], w[i]); }
        edge = -1;
        for (int i = 0; i < 3; i++) {
            const int j = i < 2 ? i + 1 : 0;
            if ((t[i] > 0.0) == (t[j] > 0.0)) continue;
            const int a = t[i] > 0.0 ? i : j, b = t[i] > 0.0 ? j : i;
            const double next_s = t[a] * s[b] - t[b] * s[a], next_w = t[a] * w[b] - t[b] * w[a];
            if (edge >= 0 && !(next_s * at_w - at_s * next_w > 0.0)) continue;
            edge = 3 * face + i; upper_vertex = v[a]; at_s = next_s; at_w = next_w;
            upper_s = s[a]; upper_t = t[a]; upper_w = w[a];
            lower_s = s[b]; lower_t = t[b]; lower_w = w[b];
        }
    };
    auto steep = [&](int which) -> bool {
        const int face = which / 3, i = which - 3 * face;
        const int va = faces[which], vb = faces[3 * face + (i < 2 ? i + 1 : 0)];
        const float* a = view_positions + 4 * (long long)va;
        const float* b = view_positions + 4 * (long long)vb;
        double x = ((double)a[0] * b[3] - (double)b[0] * a[3]) * width, y = ((double)a[1] * b[3] - (double)b[1] * a[3]) * height;
        x = x < 0.0 ? -x : x; y = y < 0.0 ? -y : y;
        return down ? x > y : y >= x;
    };
    // Returns whether the surface goes on beyond the other center.
    auto walk_from = [&](int face, int goal) -> bool {
        found_edge = -1; found_s = -1.0; found_w = 1.0;
        leave(face);
        if (edge < 0) return false;
        bool forward = true;
        for (int n = 0; n < most_steps; n++) {
            if (forward) { if (!(at_w > 0.0 && at_s <= at_w)) return true; }
            else if (!(at_w > 0.0 && at_s > -farthest_back * at_w)) return false;
            // Around an edge of several faces: the first that leads on in the walk's direction or, if none does, the first of all.
            int entered = across[edge], chosen = -1, chosen_vertex = -1;
            bool chosen_upper = false, onward = false;
            double c_s = 0.0, c_t = 0.0, c_w = 0.0, chosen_s = 0.0, chosen_w = 0.0, new_s = 0.0, new_t = 0.0, new_w = 0.0;
            for (int m = 0; m < most_steps && entered >= 0 && entered < 3 * face_count && entered != edge; m++) {
                const int next = entered / 3, i = entered - 3 * next;
                if (next == goal) return false;
                const int vertex = faces[3 * next + (i > 0 ? i - 1 : 2)];
                corner(vertex, c_s, c_t, c_w);
                const bool is_upper = c_t > 0.0;
                const double next_s = is_upper ? c_t * lower_s - lower_t * c_s : upper_t * c_s - c_t * upper_s;
                const double next_w = is_upper ? c_t * lower_w - lower_t * c_w : upper_t * c_w - c_t * upper_w;
                const double advance = next_s * at_w - at_s * next_w;
                const bool leads = advance == 0.0 ? forward : advance > 0.0;
                if (chosen < 0 || leads == forward) {
                    const bool replaces_first = is_upper == (faces[entered] == upper_vertex);
                    chosen = 3 * next + (replaces_first ? (i < 2 ? i + 1 : 0) : (i > 0 ? i - 1 : 2));
                    chosen_vertex = vertex; chosen_upper = is_upper; onward = leads;
                    chosen_s = next_s; chosen_w = next_w; new_s = c_s; new_t = c_t; new_w = c_w;
                }
                if (leads == forward) break;
                entered = across[entered];
            }
            // The surface turns back here. It may turn again and reach farther, so the walk goes on and keeps the farthest turn.
            if (forward && !onward && at_s * found_w > found_s * at_w) { found_edge = edge; found_s = at_s; found_w = at_w; }
            if (chosen < 0) return false;
            if (chosen_upper) { upper_vertex = chosen_vertex; upper_s = new_s; upper_t = new_t; upper_w = new_w; }
            else { lower_s = new_s; lower_t = new_t; lower_w = new_w; }
            edge = chosen; at_s = chosen_s; at_w = chosen_w; forward = onward;
        }
        return false;
    };
    // On which side of the edge (a, b), as seen, vertex c lies: the sign of the determinant of their (x, y, w).
    auto side = [&](int a, int b, int c) -> double {
        if (c < 0 || c >= vertices || c == a || c == b) return 0.0;
        const float* p = view_positions + 4 * (long long)a;
        const float* q = view_positions + 4 * (long long)b;
        const float* r = view_positions + 4 * (long long)c;
        return (double)r[0] * ((double)p[1] * q[3] - (double)p[3] * q[1]) + (double)r[1] * ((double)p[3] * q[0] - (double)p[0] * q[3])
             + (double)r[3] * ((double)p[0] * q[1] - (double)p[1] * q[0]);
    };
    auto own_edge = [&](int face) -> void {
        found_edge = -1;
        leave(face);
        if (edge < 0 || !(at_w > 0.0 && at_s > -owner_reach * at_w && at_s < (1.0 + owner_reach) * at_w) || !steep(edge)) return;
        const int i = edge - 3 * face;
        const int a = faces[edge], b = faces[3 * face + (i < 2 ? i + 1 : 0)];
        const double own = side(a, b, faces[3 * face + (i > 0 ? i - 1 : 2)]);
        int entered = across[edge];
        for (int m = 0; m < most_steps && entered >= 0 && entered < 3 * face_count && entered != edge; m++) {
            const int next = entered / 3, k = entered - 3 * next;
            if (!(own * side(a, b, faces[3 * next + (k > 0 ? k - 1 : 2)]) > 0.0)) return;
            entered = across[entered];
        }
        found_edge = edge; found_s = at_s; found_w = at_w;
    };
    // The second pixel is to the right of the first, or below it.
    auto search = [&](int column, int row, bool along_column, int face, int other) -> void {
        found_edge = -1;
        const bool here = face >= 0 && face < face_count, there = other >= 0 && other < face_count;
        if (!here && !there) return;
        const long long pixel = first_pixel + (long long)row * width + column, neighbor = pixel + (along_column ? width : 1);
        bool backwards = !here || (there && depth[neighbor] < depth[pixel]);
        const int to_column = along_column ? column : column + 1, to_row = along_column ? row + 1 : row;
        if (walk) {
            stand(backwards ? to_column : column, backwards ? to_row : row, along_column, backwards);
            const bool beyond = walk_from(backwards ? other : face, backwards ? face : other);
            // The nearer surface continues, hidden, beyond the other center: the silhouette may be the other surface's.
            if (found_edge < 0 && beyond && here && there) {
                backwards = !backwards;
                stand(backwards ? to_column : column, backwards ? to_row : row, along_column, backwards);
                walk_from(backwards ? other : face, backwards ? face : other);
            }
            if (found_edge >= 0 && !steep(found_edge)) found_edge = -1;
        } else {
            stand(backwards ? to_column : column, backwards ? to_row : row, along_column, backwards);
            own_edge(backwards ? other : face);
        }
        found_backwards = backwards;
    };
    auto found_alpha = [&]() -> float {
        double d = found_s / found_w;
        d = d > 0.0 ? (d < 1.0 ? d : 1.0) : 0.0;
        return (float)(found_backwards ? d - 0.5 : 0.5 - d);
    };
    (void)found_alpha; (void)found_backwards;

// section: derivative
// share_a[3], share_b[3]: the derivatives of alpha to (x, y, w) of the ends `vertex_a`, `vertex_b` of an edge, times `amount`.
    // Times the product of the ends' w: keeps the derivative of the rule "owner" finite for edges that the line hardly crosses.
    const double owner_softening = 0.001;
    auto derivative = [&](
        int which, bool backwards, double amount, int& vertex_a, int& vertex_b, float* share_a, float* share_b
    ) -> void {
        const int face = which / 3, i = which - 3 * face;
        vertex_a = faces[which]; vertex_b = faces[3 * face + (i < 2 ? i + 1 : 0)];
        double sa, ta, wa, sb, tb, wb;
        corner(vertex_a, sa, ta, wa);
        corner(vertex_b, sb, tb, wb);
        const double w = ta * wb - tb * wa, d = (ta * sb - tb * sa) / w;
        double factor = backwards ? amount : -amount;
        if (!(d >= 0.0 && d <= 1.0)) factor = 0.0;
        if (!walk) {
            const double extent = w < 0.0 ? -w : w, scale = wa * wb < 0.0 ? -wa * wb : wa * wb;
            factor = d > 0.0 && d < 1.0 ? factor * extent / (extent + owner_softening * scale) : 0.0;
        }
        factor /= w;
        const double grad_sa = -tb * factor * direction, grad_ta = (sb - d * wb) * factor, grad_wa = d * tb * factor;
        const double grad_sb = ta * factor * direction, grad_tb = -(sa - d * wa) * factor, grad_wb = -d * ta * factor;
        const double xa = down ? grad_ta : grad_sa, ya = down ? grad_sa : grad_ta;
        const double xb = down ? grad_tb : grad_sb, yb = down ? grad_sb : grad_tb;
        share_a[0] = (float)(0.5 * width * xa); share_a[1] = (float)(0.5 * height * ya);
        share_a[2] = (float)(grad_wa + center_x * xa + center_y * ya);
        share_b[0] = (float)(0.5 * width * xb); share_b[1] = (float)(0.5 * height * yb);
        share_b[2] = (float)(grad_wb + center_x * xb + center_y * yb);
    };

// section: list_crossings
// Lists the crossings in a band of rows, from where there is room for one between any two of its pixels and those of the bands before.
{
// use: scene
// use: crossings
// use: search
    const int top = band * scene.band_rows, bottom = top + scene.band_rows < height ? top + scene.band_rows : height;
    const long long begin = 2LL * (first_pixel + (long long)top * width);
    int count = 0;
    auto examine = [&](int column, int row, bool along_column, int face, int other) -> void {
        search(column, row, along_column, face, other);
        if (found_edge < 0) return;
        crossing_edge[begin + count] = found_edge;
        crossing_place[begin + count] = 4 * (row * width + column) + (along_column ? 2 : 0) + (found_backwards ? 1 : 0);
        crossing_alpha[begin + count] = found_alpha();
        count++;
    };
    for (int row = top; row < bottom; row++) {
        const int* line = face + first_pixel + (long long)row * width;
        const int* below = row + 1 < height ? line + width : line;
        for (int column = 0; column < width; column++) {
            const int here = line[column];
            if (column + 1 < width && line[column + 1] != here) examine(column, row, false, here, line[column + 1]);
            if (below[column] != here) examine(column, row, true, here, below[column]);
        }
    }
    ((int*)crossings.count)[view * scene.bands + band] = count;
}

// section: blend_crossings
// Blends the colors of one view, crossing after crossing.
{
// use: scene
// use: crossings
// use: picture
    for (long long n = first_crossing[view * scene.bands]; n < first_crossing[(view + 1) * scene.bands]; n++) {
        const int place = crossing_place[n];
        const float alpha = crossing_alpha[n];
        const long long pixel = channels * (first_pixel + (place >> 2)), neighbor = pixel + channels * (place & 2 ? width : 1);
        float* changed = result + (alpha > 0.f ? pixel : neighbor);
        for (int c = 0; c < channels; c++) changed[c] += alpha * (color[neighbor + c] - color[pixel + c]);
    }
}

// section: color_gradients
// Moves a part of the gradient of each pixel that was changed to the pixel whose color it took.
{
// use: scene
// use: crossings
// use: picture
    for (long long n = first_crossing[view * scene.bands]; n < first_crossing[(view + 1) * scene.bands]; n++) {
        const int place = crossing_place[n];
        const float alpha = crossing_alpha[n], part = alpha > 0.f ? alpha : -alpha;
        const long long pixel = channels * (first_pixel + (place >> 2)), neighbor = pixel + channels * (place & 2 ? width : 1);
        const long long changed = alpha > 0.f ? pixel : neighbor, other = alpha > 0.f ? neighbor : pixel;
        for (int c = 0; c < channels; c++) {
            const float amount = part * grad_result[changed + c];
            grad_color[changed + c] -= amount;
            grad_color[other + c] += amount;
        }
    }
}

// section: share_crossings
// Writes what each crossing of one list gives to the (x, y, w) of the two ends of its edge, six numbers each.
{
// use: scene
// use: crossings
// use: picture
// use: viewpoint
// use: derivative
    for (long long n = first_crossing[list]; n < first_crossing[list + 1]; n++) {
        const int place = crossing_place[n];
        const bool along_column = place & 2, backwards = place & 1;
        const int row = (place >> 2) / width, column = (place >> 2) - row * width;
        const long long pixel = channels * (first_pixel + (place >> 2)), neighbor = pixel + channels * (along_column ? width : 1);
        const float* g = grad_result + (crossing_alpha[n] > 0.f ? pixel : neighbor);
        double amount = 0.0;
        for (int c = 0; c < channels; c++) amount += (double)g[c] * ((double)color[neighbor + c] - (double)color[pixel + c]);
        stand(backwards && !along_column ? column + 1 : column, backwards && along_column ? row + 1 : row, along_column, backwards);
        int a, b;
        derivative(crossing_edge[n], backwards, amount * picture.gradient_scale, a, b, shares.data + 6 * n, shares.data + 6 * n + 3);
    }
}

// section: add_shares
// Adds the shares of the crossings in lists `begin` to `end` to the positions, in order.
{
    const int view = begin / scene.bands;
// use: scene
// use: crossings
    for (int list = begin; list < end; list++) {
        float* gradient = grad_positions.data + view_stride * (list / scene.bands);
        for (long long n = first_crossing[list]; n < first_crossing[list + 1]; n++) {
            const int face = crossing_edge[n] / 3, i = crossing_edge[n] - 3 * face;
            float* a = gradient + 4 * (long long)faces[crossing_edge[n]];
            float* b = gradient + 4 * (long long)faces[3 * face + (i < 2 ? i + 1 : 0)];
            const float* share = shares.data + 6 * n;
            a[0] += share[0]; a[1] += share[1]; a[3] += share[2];
            b[0] += share[3]; b[1] += share[4]; b[3] += share[5];
        }
    }
}

// section: at_pixel
// Searches at one pixel and blends what it finds or, given the result's gradient, adds the gradients, with atomic additions.
{
// use: kernels.add
// use: scene
// use: picture
// use: search
// use: derivative
    const int row = place / width, column = place - row * width;
    for (int k = 0; k < 2; k++) {
        const bool along_column = k == 1;
        if (along_column ? row + 1 >= height : column + 1 >= width) continue;
        const long long at = first_pixel + place, to = at + (along_column ? width : 1);
        if (face[at] == face[to]) continue;
        search(column, row, along_column, face[at], face[to]);
        if (found_edge < 0) continue;
        const float alpha = found_alpha();
        const long long pixel = channels * at, neighbor = channels * to;
        const long long changed = alpha > 0.f ? pixel : neighbor, other = alpha > 0.f ? neighbor : pixel;
        if (!grad_result) {
            for (int c = 0; c < channels; c++) {
                const float step = color[neighbor + c] - color[pixel + c];
                UNRENDER_ADD(result + changed + c, alpha * step);
            }
            continue;
        }
        const float part = alpha > 0.f ? alpha : -alpha;
        double amount = 0.0;
        for (int c = 0; c < channels; c++) {
            const float g = grad_result[changed + c];
            amount += (double)g * ((double)color[neighbor + c] - (double)color[pixel + c]);
            if (grad_color) {
                UNRENDER_ADD(grad_color + changed + c, -part * g);
                UNRENDER_ADD(grad_color + other + c, part * g);
            }
        }
        if (!grad_positions) continue;
        int a, b;
        float share_a[3], share_b[3];
        derivative(found_edge, found_backwards, amount * picture.gradient_scale, a, b, share_a, share_b);
        if (a < 0 || a >= vertices || b < 0 || b >= vertices) continue;
        float* grad_a = grad_positions + view_stride * view + 4 * (long long)a;
        float* grad_b = grad_positions + view_stride * view + 4 * (long long)b;
        UNRENDER_ADD(grad_a, share_a[0]); UNRENDER_ADD(grad_a + 1, share_a[1]); UNRENDER_ADD(grad_a + 3, share_a[2]);
        UNRENDER_ADD(grad_b, share_b[0]); UNRENDER_ADD(grad_b + 1, share_b[1]); UNRENDER_ADD(grad_b + 3, share_b[2]);
    }
// use: kernels.forget_add
}

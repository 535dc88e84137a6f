"""Antialiasing of silhouettes: how a picture made at pixel centers comes to depend, smoothly, on where its outlines are.

Notation, for two neighboring pixels whose centers lie on different faces: s and t are a vertex's coordinates in pixels, times its w,
along and across the line from the center of the pixel a search starts from to the other's. Both are linear in the vertex's clip
position (x, y, w):

    s = ±(W/2 x + (W/2 − ½ − column) w),      t = H/2 y + (H/2 − ½ − row) w          (in a column x and y, W and H change places)

The line meets an edge from a, t_a > 0, to b, t_b ≤ 0, where its coordinates are

    (S, W) = (t_a s_b − t_b s_a,  t_a w_b − t_b w_a)                                 at the distance d = S / W

also where an end is behind the eye. If W ≤ 0 the line does not meet the visible part. With q = s − d w the derivatives are

    ∂d/∂(s, t, w)_a = (−t_b, q_b, d t_b) / W,      ∂d/∂(s, t, w)_b = (t_a, −q_a, −d t_a) / W

A pixel's color stands for the unit interval around its center on the line. Where an outline crosses at d, the pixel in which it does
gets the other's color on the part beyond: with c₀, c₁ the colors and α = ½ − d (negated where the search starts from the second),
c₀ += α (c₁ − c₀) if α > 0 and c₁ += α (c₁ − c₀) otherwise. So the sum over a row changes with d as the area does. Edges at more than
45° to the rows are counted in rows, the others in columns: each once.

The two rules differ in which edge they find.

- *walk*: from the face at a center along the line, across the edge by which the line leaves it into the next face, and so on through
  the strip of faces that the line cuts, to an edge where the surface ends or turns back. Only the signs of t decide which edges the
  line crosses, and these are exact: there is no tolerance, and no crossing is lost or found twice. After a turn the walk goes on, for
  the surface may turn again and reach farther: the farthest turn counts. It ends at the other pixel's face, beyond the other center,
  three pixels behind its own, or after 64 edges.
- *owner*: only the edges of the face at the center, as published in Laine et al., "Modular primitives for high-performance
  differentiable rendering" (2020), section 3.4. An outline is lost where the face at the center does not reach it.

On a CPU a band of rows is searched by one thread, which lists its crossings; those are few, and are applied in order. A GPU applies
them where it finds them, with atomic additions, and searches again on the way back.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, no_type_check

import torch
import warp as wp
from jaxtyping import Float, Int
from torch import Tensor

from unrender.devices import on_cpu, thread_count
from unrender.ops.kernels.checks import check_count, check_float32, check_same_device
from unrender.ops.kernels.derivatives import differentiable_once
from unrender.ops.kernels.launch import launch
from unrender.ops.kernels.work import ADD, FORGET_ADD
from unrender.ops.raster.checks import check_clip_positions, check_faces, check_raster
from unrender.ops.raster.raster import Raster
from unrender.ops.raster.topology import Topology, topology_of

wp.set_module_options({"enable_backward": False, "optimization_level": 3})

_BAND = 8
"""Rows of a band on a CPU."""

_PIECES_PER_THREAD = 4
"""How finely the bands are dealt out."""

_MOST_STEPS = 64
"""Edges that a walk crosses before it gives up, and faces looked at around one edge."""

_FARTHEST_BACK = 3.0
"""Pixels behind its beginning at which a walk that has turned back ends."""

_OWNER_REACH = 0.0625
"""Pixels beyond the two centers at which the rule "owner" still finds an edge."""

_OWNER_SOFTENING = 1e-3
"""Of the product of the ends' w: keeps the derivative of the rule "owner" finite for edges that the line hardly crosses."""

_LIMITS = f"""
    const int most_steps = {_MOST_STEPS};
    const double farthest_back = {_FARTHEST_BACK}, owner_reach = {_OWNER_REACH};
"""

# A vertex as seen from the center of (column, row): `along` and `beside` are s and t before the sign of the direction.
_VIEWPOINT = """
    const float* view_positions = positions.data + view_stride * view;
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
"""

# found_edge (-1: none), found_s, found_w: the outline between a pixel and its neighbor; found_backwards: seen from the second.
_SEARCH = (
    _VIEWPOINT
    + _LIMITS
    + """
    int found_edge = -1;
    double found_s = 0.0, found_w = 1.0;
    bool found_backwards = false;
    // The edge by which the line leaves a face, its upper and lower end, and where.
    int edge = -1, upper_vertex = 0;
    double upper_s = 0.0, upper_t = 0.0, upper_w = 0.0, lower_s = 0.0, lower_t = 0.0, lower_w = 0.0, at_s = 0.0, at_w = 1.0;
    auto leave = [&](int face) -> void {
        int v[3];
        double s[3], t[3], w[3];
        for (int i = 0; i < 3; i++) { v[i] = faces.data[3 * face + i]; corner(v[i], s[i], t[i], w[i]); }
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
        const int va = faces.data[which], vb = faces.data[3 * face + (i < 2 ? i + 1 : 0)];
        const float* a = view_positions + 4 * (long long)va;
        const float* b = view_positions + 4 * (long long)vb;
        double x = ((double)a[0] * b[3] - (double)b[0] * a[3]) * width, y = ((double)a[1] * b[3] - (double)b[1] * a[3]) * height;
        x = x < 0.0 ? -x : x; y = y < 0.0 ? -y : y;
        return down ? x > y : y >= x;
    };
    // Whether the surface went beyond the other center.
    auto walk_from = [&](int face, int goal) -> bool {
        found_edge = -1; found_s = -1.0; found_w = 1.0;
        leave(face);
        if (edge < 0) return false;
        bool forward = true;
        for (int n = 0; n < most_steps; n++) {
            if (forward) { if (!(at_w > 0.0 && at_s <= at_w)) return true; }
            else if (!(at_w > 0.0 && at_s > -farthest_back * at_w)) return false;
            int entered = across.data[edge], chosen = -1, chosen_vertex = -1;
            bool chosen_upper = false, onward = false;
            double c_s = 0.0, c_t = 0.0, c_w = 0.0, chosen_s = 0.0, chosen_w = 0.0, new_s = 0.0, new_t = 0.0, new_w = 0.0;
            for (int m = 0; m < most_steps && entered >= 0 && entered < 3 * face_count && entered != edge; m++) {
                const int next = entered / 3, i = entered - 3 * next;
                if (next == goal) return false;
                const int vertex = faces.data[3 * next + (i > 0 ? i - 1 : 2)];
                corner(vertex, c_s, c_t, c_w);
                const bool is_upper = c_t > 0.0;
                const double next_s = is_upper ? c_t * lower_s - lower_t * c_s : upper_t * c_s - c_t * upper_s;
                const double next_w = is_upper ? c_t * lower_w - lower_t * c_w : upper_t * c_w - c_t * upper_w;
                const double turn = next_s * at_w - at_s * next_w;
                const bool leads = turn == 0.0 ? forward : turn > 0.0;
                if (chosen < 0 || leads == forward) {
                    const bool replaces_first = is_upper == (faces.data[entered] == upper_vertex);
                    chosen = 3 * next + (replaces_first ? (i < 2 ? i + 1 : 0) : (i > 0 ? i - 1 : 2));
                    chosen_vertex = vertex; chosen_upper = is_upper; onward = leads;
                    chosen_s = next_s; chosen_w = next_w; new_s = c_s; new_t = c_t; new_w = c_w;
                }
                if (leads == forward) break;
                entered = across.data[entered];
            }
            if (forward && !onward && at_s * found_w > found_s * at_w) { found_edge = edge; found_s = at_s; found_w = at_w; }
            if (chosen < 0) return false;
            if (chosen_upper) { upper_vertex = chosen_vertex; upper_s = new_s; upper_t = new_t; upper_w = new_w; }
            else { lower_s = new_s; lower_t = new_t; lower_w = new_w; }
            edge = chosen; at_s = chosen_s; at_w = chosen_w; forward = onward;
        }
        return false;
    };
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
        const int a = faces.data[edge], b = faces.data[3 * face + (i < 2 ? i + 1 : 0)];
        const double own = side(a, b, faces.data[3 * face + (i > 0 ? i - 1 : 2)]);
        int entered = across.data[edge];
        for (int m = 0; m < most_steps && entered >= 0 && entered < 3 * face_count && entered != edge; m++) {
            const int next = entered / 3, k = entered - 3 * next;
            if (!(own * side(a, b, faces.data[3 * next + (k > 0 ? k - 1 : 2)]) > 0.0)) return;
            entered = across.data[entered];
        }
        found_edge = edge; found_s = at_s; found_w = at_w;
    };
    const long long picture = (long long)view * height * width;
    // The second pixel is to the right of the first, or below it.
    auto search = [&](int column, int row, bool along_column, int face, int other) -> void {
        found_edge = -1;
        const bool here = face >= 0 && face < face_count, there = other >= 0 && other < face_count;
        if (!here && !there) return;
        const long long pixel = picture + (long long)row * width + column, neighbor = pixel + (along_column ? width : 1);
        bool backwards = !here || (there && depth.data[neighbor] < depth.data[pixel]);
        const int to_column = along_column ? column : column + 1, to_row = along_column ? row + 1 : row;
        if (walk) {
            stand(backwards ? to_column : column, backwards ? to_row : row, along_column, backwards);
            const bool beyond = walk_from(backwards ? other : face, backwards ? face : other);
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
"""
)

# share_a[3], share_b[3]: the derivatives of alpha to (x, y, w) of the ends `vertex_a`, `vertex_b` of edge `hit_edge`, times `amount`.
_DERIVATIVE = (
    f"""
    const double owner_softening = {_OWNER_SOFTENING};
"""
    + """
    auto derivative = [&](
        int hit_edge, bool backwards, double amount, int& vertex_a, int& vertex_b, float* share_a, float* share_b
    ) -> void {
        const int face = hit_edge / 3, i = hit_edge - 3 * face;
        vertex_a = faces.data[hit_edge]; vertex_b = faces.data[3 * face + (i < 2 ? i + 1 : 0)];
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
        const double to_sa = -tb * factor * direction, to_ta = (sb - d * wb) * factor, to_wa = d * tb * factor;
        const double to_sb = ta * factor * direction, to_tb = -(sa - d * wa) * factor, to_wb = -d * ta * factor;
        const double xa = down ? to_ta : to_sa, ya = down ? to_sa : to_ta, xb = down ? to_tb : to_sb, yb = down ? to_sb : to_tb;
        share_a[0] = (float)(0.5 * width * xa); share_a[1] = (float)(0.5 * height * ya);
        share_a[2] = (float)(to_wa + center_x * xa + center_y * ya);
        share_b[0] = (float)(0.5 * width * xb); share_b[1] = (float)(0.5 * height * yb);
        share_b[2] = (float)(to_wb + center_x * xb + center_y * yb);
    };
"""
)


@no_type_check
@wp.func_native(
    """
{"""
    + _SEARCH
    + """
    const int top = band * band_rows, bottom = top + band_rows < height ? top + band_rows : height;
    const long long first_hit = 2LL * (picture + (long long)top * width);
    int hits = 0;
    auto examine = [&](int column, int row, bool along_column, int face, int other) -> void {
        search(column, row, along_column, face, other);
        if (found_edge < 0) return;
        hit_edge.data[first_hit + hits] = found_edge;
        hit_place.data[first_hit + hits] = 4 * (row * width + column) + (along_column ? 2 : 0) + (found_backwards ? 1 : 0);
        hit_alpha.data[first_hit + hits] = found_alpha();
        hits++;
    };
    for (int row = top; row < bottom; row++) {
        const int* line = face.data + picture + (long long)row * width;
        const int* below = row + 1 < height ? line + width : line;
        for (int column = 0; column < width; column++) {
            const int here = line[column];
            if (column + 1 < width && line[column + 1] != here) examine(column, row, false, here, line[column + 1]);
            if (below[column] != here) examine(column, row, true, here, below[column]);
        }
    }
    hit_count.data[view * bands + band] = hits;
}
"""
)
def _list_hits(
    face: wp.array(dtype=wp.int32),
    depth: wp.array(dtype=wp.float32),
    positions: wp.array(dtype=wp.float32),
    faces: wp.array(dtype=wp.int32),
    across: wp.array(dtype=wp.int32),
    vertices: int,
    face_count: int,
    view_stride: wp.int64,
    height: int,
    width: int,
    walk: bool,
    view: int,
    band: int,
    bands: int,
    band_rows: int,
    hit_edge: wp.array(dtype=wp.int32),
    hit_place: wp.array(dtype=wp.int32),
    hit_alpha: wp.array(dtype=wp.float32),
    hit_count: wp.array(dtype=wp.int32),
): ...


@no_type_check
@wp.func_native(
    """
const long long picture = (long long)view * height * width;
for (long long n = first_hit.data[view * bands]; n < first_hit.data[(view + 1) * bands]; n++) {
    const int place = hit_place.data[n];
    const float alpha = hit_alpha.data[n];
    const long long pixel = channels * (picture + (place >> 2)), neighbor = pixel + channels * (place & 2 ? width : 1);
    if (back) {  // of the cotangent, the pixel that was changed passes a part on
        const float part = alpha > 0.f ? alpha : -alpha;
        const long long changed = alpha > 0.f ? pixel : neighbor, other = alpha > 0.f ? neighbor : pixel;
        for (int c = 0; c < channels; c++) {
            const float amount = part * original.data[changed + c];
            result.data[changed + c] -= amount;
            result.data[other + c] += amount;
        }
    } else {
        float* changed = result.data + (alpha > 0.f ? pixel : neighbor);
        for (int c = 0; c < channels; c++) changed[c] += alpha * (original.data[neighbor + c] - original.data[pixel + c]);
    }
}
"""
)
def _apply_hits(
    original: wp.array(dtype=wp.float32),
    back: bool,
    channels: int,
    height: int,
    width: int,
    view: int,
    bands: int,
    hit_place: wp.array(dtype=wp.int32),
    hit_alpha: wp.array(dtype=wp.float32),
    first_hit: wp.array(dtype=wp.int64),
    result: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(
    """
{"""
    + _VIEWPOINT
    + _DERIVATIVE
    + """
    const long long picture = (long long)view * height * width;
    for (long long n = first_hit.data[list]; n < first_hit.data[list + 1]; n++) {
        const int place = hit_place.data[n];
        const bool along_column = place & 2, backwards = place & 1;
        const int row = (place >> 2) / width, column = (place >> 2) - row * width;
        const long long pixel = channels * (picture + (place >> 2)), neighbor = pixel + channels * (along_column ? width : 1);
        const float* g = cotangent.data + (hit_alpha.data[n] > 0.f ? pixel : neighbor);
        double amount = 0.0;
        for (int c = 0; c < channels; c++) amount += (double)g[c] * ((double)color.data[neighbor + c] - (double)color.data[pixel + c]);
        stand(backwards && !along_column ? column + 1 : column, backwards && along_column ? row + 1 : row, along_column, backwards);
        int a, b;
        derivative(hit_edge.data[n], backwards, amount * gradient_scale, a, b, shares.data + 6 * n, shares.data + 6 * n + 3);
    }
}
"""
)
def _share_hits(
    color: wp.array(dtype=wp.float32),
    cotangent: wp.array(dtype=wp.float32),
    positions: wp.array(dtype=wp.float32),
    faces: wp.array(dtype=wp.int32),
    vertices: int,
    view_stride: wp.int64,
    channels: int,
    height: int,
    width: int,
    walk: bool,
    gradient_scale: float,
    view: int,
    list: int,
    hit_edge: wp.array(dtype=wp.int32),
    hit_place: wp.array(dtype=wp.int32),
    hit_alpha: wp.array(dtype=wp.float32),
    first_hit: wp.array(dtype=wp.int64),
    shares: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(
    """
for (int list = begin; list < end; list++) {
    float* gradient = position_gradient.data + view_stride * (list / bands);
    for (long long n = first_hit.data[list]; n < first_hit.data[list + 1]; n++) {
        const int face = hit_edge.data[n] / 3, i = hit_edge.data[n] - 3 * face;
        float* a = gradient + 4 * (long long)faces.data[hit_edge.data[n]];
        float* b = gradient + 4 * (long long)faces.data[3 * face + (i < 2 ? i + 1 : 0)];
        const float* share = shares.data + 6 * n;
        a[0] += share[0]; a[1] += share[1]; a[3] += share[2];
        b[0] += share[3]; b[1] += share[4]; b[3] += share[5];
    }
}
"""
)
def _add_shares(
    shares: wp.array(dtype=wp.float32),
    faces: wp.array(dtype=wp.int32),
    view_stride: wp.int64,
    bands: int,
    begin: int,
    end: int,
    hit_edge: wp.array(dtype=wp.int32),
    first_hit: wp.array(dtype=wp.int64),
    position_gradient: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(
    """
{"""
    + ADD
    + _SEARCH
    + _DERIVATIVE
    + """
    const int row = place / width, column = place - row * width;
    for (int k = 0; k < 2; k++) {
        const bool along_column = k == 1;
        if (along_column ? row + 1 >= height : column + 1 >= width) continue;
        const long long at = picture + place, to = at + (along_column ? width : 1);
        if (face.data[at] == face.data[to]) continue;
        search(column, row, along_column, face.data[at], face.data[to]);
        if (found_edge < 0) continue;
        const float alpha = found_alpha();
        const long long pixel = channels * at, neighbor = channels * to;
        const long long changed = alpha > 0.f ? pixel : neighbor, other = alpha > 0.f ? neighbor : pixel;
        if (!back) {
            for (int c = 0; c < channels; c++) {
                const float step = color.data[neighbor + c] - color.data[pixel + c];
                UNRENDER_ADD(result.data + changed + c, alpha * step);
            }
            continue;
        }
        const float part = alpha > 0.f ? alpha : -alpha;
        double amount = 0.0;
        for (int c = 0; c < channels; c++) {
            const float g = cotangent.data[changed + c];
            amount += (double)g * ((double)color.data[neighbor + c] - (double)color.data[pixel + c]);
            if (to_color) {
                UNRENDER_ADD(result.data + changed + c, -part * g);
                UNRENDER_ADD(result.data + other + c, part * g);
            }
        }
        if (!to_positions) continue;
        int a, b;
        float share_a[3], share_b[3];
        derivative(found_edge, found_backwards, amount * gradient_scale, a, b, share_a, share_b);
        float* to_a = position_gradient.data + view_stride * view + 4 * (long long)a;
        float* to_b = position_gradient.data + view_stride * view + 4 * (long long)b;
        UNRENDER_ADD(to_a, share_a[0]); UNRENDER_ADD(to_a + 1, share_a[1]); UNRENDER_ADD(to_a + 3, share_a[2]);
        UNRENDER_ADD(to_b, share_b[0]); UNRENDER_ADD(to_b + 1, share_b[1]); UNRENDER_ADD(to_b + 3, share_b[2]);
    }
}
"""
    + FORGET_ADD
)
def _at_pixel(
    face: wp.array(dtype=wp.int32),
    depth: wp.array(dtype=wp.float32),
    positions: wp.array(dtype=wp.float32),
    faces: wp.array(dtype=wp.int32),
    across: wp.array(dtype=wp.int32),
    vertices: int,
    face_count: int,
    view_stride: wp.int64,
    height: int,
    width: int,
    walk: bool,
    view: int,
    place: int,
    channels: int,
    gradient_scale: float,
    back: bool,
    to_color: bool,
    to_positions: bool,
    color: wp.array(dtype=wp.float32),
    cotangent: wp.array(dtype=wp.float32),
    result: wp.array(dtype=wp.float32),
    position_gradient: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.kernel
def _list_hits_kernel(
    first: int,
    face: wp.array(dtype=wp.int32),
    depth: wp.array(dtype=wp.float32),
    positions: wp.array(dtype=wp.float32),
    faces: wp.array(dtype=wp.int32),
    across: wp.array(dtype=wp.int32),
    vertices: int,
    face_count: int,
    view_stride: wp.int64,
    height: int,
    width: int,
    walk: bool,
    bands: int,
    band_rows: int,
    hit_edge: wp.array(dtype=wp.int32),
    hit_place: wp.array(dtype=wp.int32),
    hit_alpha: wp.array(dtype=wp.float32),
    hit_count: wp.array(dtype=wp.int32),
):
    i = first + wp.tid()
    _list_hits(
        face, depth, positions, faces, across, vertices, face_count, view_stride, height, width, walk,
        i / bands, i % bands, bands, band_rows, hit_edge, hit_place, hit_alpha, hit_count,
    )  # fmt: skip


@no_type_check
@wp.kernel
def _apply_hits_kernel(
    first: int,
    original: wp.array(dtype=wp.float32),
    back: bool,
    channels: int,
    height: int,
    width: int,
    bands: int,
    hit_place: wp.array(dtype=wp.int32),
    hit_alpha: wp.array(dtype=wp.float32),
    first_hit: wp.array(dtype=wp.int64),
    result: wp.array(dtype=wp.float32),
):
    view = first + wp.tid()
    _apply_hits(original, back, channels, height, width, view, bands, hit_place, hit_alpha, first_hit, result)


@no_type_check
@wp.kernel
def _share_hits_kernel(
    first: int,
    color: wp.array(dtype=wp.float32),
    cotangent: wp.array(dtype=wp.float32),
    positions: wp.array(dtype=wp.float32),
    faces: wp.array(dtype=wp.int32),
    vertices: int,
    view_stride: wp.int64,
    channels: int,
    height: int,
    width: int,
    walk: bool,
    gradient_scale: float,
    bands: int,
    hit_edge: wp.array(dtype=wp.int32),
    hit_place: wp.array(dtype=wp.int32),
    hit_alpha: wp.array(dtype=wp.float32),
    first_hit: wp.array(dtype=wp.int64),
    shares: wp.array(dtype=wp.float32),
):
    i = first + wp.tid()
    _share_hits(
        color, cotangent, positions, faces, vertices, view_stride, channels, height, width, walk, gradient_scale,
        i / bands, i, hit_edge, hit_place, hit_alpha, first_hit, shares,
    )  # fmt: skip


@no_type_check
@wp.kernel
def _add_shares_kernel(
    first: int,
    shares: wp.array(dtype=wp.float32),
    faces: wp.array(dtype=wp.int32),
    view_stride: wp.int64,
    bands: int,
    lists: int,
    hit_edge: wp.array(dtype=wp.int32),
    first_hit: wp.array(dtype=wp.int64),
    position_gradient: wp.array(dtype=wp.float32),
):
    i = first + wp.tid()
    _add_shares(shares, faces, view_stride, bands, i * lists, (i + 1) * lists, hit_edge, first_hit, position_gradient)


@no_type_check
@wp.kernel
def _pixels_kernel(
    first: int,
    face: wp.array(dtype=wp.int32),
    depth: wp.array(dtype=wp.float32),
    positions: wp.array(dtype=wp.float32),
    faces: wp.array(dtype=wp.int32),
    across: wp.array(dtype=wp.int32),
    vertices: int,
    face_count: int,
    view_stride: wp.int64,
    height: int,
    width: int,
    walk: bool,
    channels: int,
    gradient_scale: float,
    back: bool,
    to_color: bool,
    to_positions: bool,
    color: wp.array(dtype=wp.float32),
    cotangent: wp.array(dtype=wp.float32),
    result: wp.array(dtype=wp.float32),
    position_gradient: wp.array(dtype=wp.float32),
):
    i = first + wp.tid()
    _at_pixel(
        face, depth, positions, faces, across, vertices, face_count, view_stride, height, width, walk,
        i / (height * width), i % (height * width), channels, gradient_scale, back, to_color, to_positions,
        color, cotangent, result, position_gradient,
    )  # fmt: skip


class _Scene(NamedTuple):
    """What does not change between forward and backward besides the tensors autograd keeps."""

    walk: bool
    gradient_scale: float
    views: int
    height: int
    width: int
    channels: int
    vertices: int
    view_stride: int
    """Floats from one view's vertices to the next's; 0 where all views share them."""

    @property
    def bands(self) -> int:
        return (self.height + _BAND - 1) // _BAND


class _Hits(NamedTuple):
    """On a CPU: the outlines found between neighboring pixels, band after band."""

    edge: Tensor
    """int32 number of the edge"""
    place: Tensor
    """int32, 4 · pixel + 2 if the second pixel is below the first + 1 if the search started from the second"""
    alpha: Tensor
    """float32, how much the first takes of the second's color, or if negative the second of the first's"""
    first: Tensor
    """int64 [bands of all views + 1], where each band's begin"""


class _Mesh(NamedTuple):
    """What a search for outlines looks at."""

    face: Tensor
    depth: Tensor
    positions: Tensor
    faces: Tensor
    across: Tensor

    def flat(self) -> list[Tensor]:
        return [tensor.view(-1) for tensor in self]


class _Wanted(NamedTuple):
    """What the kernel of a GPU makes: the picture, or on the way back one gradient or both."""

    back: bool
    to_color: bool
    to_positions: bool


def _pieces(items: int) -> int:
    return min(items, _PIECES_PER_THREAD * thread_count())


class _Antialias(torch.autograd.Function):
    @staticmethod
    def forward(ctx, color: Tensor, positions: Tensor, face: Tensor, depth: Tensor, faces: Tensor, across: Tensor, scene: _Scene) -> Tensor:
        result = color.clone()
        ctx.scene = scene
        mesh = _Mesh(face, depth, positions, faces, across)
        if not on_cpu(color.device):
            ctx.save_for_backward(color, *mesh)
            _at_pixels(scene, mesh, _Wanted(back=False, to_color=False, to_positions=False), color, color, result, positions)
            return result
        hits = _hits(scene, mesh)
        _apply(scene, color, False, hits, result)
        ctx.save_for_backward(color, positions, faces, *hits)
        return result

    @staticmethod
    @differentiable_once("antialias")
    def backward(ctx, cotangent: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        scene: _Scene = ctx.scene
        to_color, to_positions = ctx.needs_input_grad[:2]
        cotangent = cotangent.contiguous()
        color_gradient = cotangent.clone() if to_color else None
        if not on_cpu(cotangent.device):
            color, *rest = ctx.saved_tensors
            mesh = _Mesh(*rest)
            position_gradient = torch.zeros_like(mesh.positions) if to_positions else None
            into = cotangent if color_gradient is None else color_gradient
            onto = mesh.positions if position_gradient is None else position_gradient
            _at_pixels(scene, mesh, _Wanted(True, to_color, to_positions), color, cotangent, into, onto)
            return color_gradient, position_gradient, *[None] * 5
        color, positions, faces, *rest = ctx.saved_tensors
        hits = _Hits(*rest)
        position_gradient = torch.zeros_like(positions) if to_positions else None
        if color_gradient is not None:
            _apply(scene, cotangent, True, hits, color_gradient)
        if position_gradient is not None:
            items = scene.views * scene.bands
            shares = color.new_empty(6 * hits.edge.shape[0])
            arguments = [color.view(-1), cotangent.view(-1), positions.view(-1), faces.view(-1), scene.vertices, scene.view_stride]
            arguments += [scene.channels, scene.height, scene.width, scene.walk, scene.gradient_scale, scene.bands, *hits, shares]
            launch(_share_hits_kernel, items, arguments, color.device, pieces=_pieces(items))
            owners, lists = (scene.views, scene.bands) if scene.view_stride else (1, items)
            arguments = [shares, faces.view(-1), scene.view_stride, scene.bands, lists, hits.edge, hits.first, position_gradient.view(-1)]
            launch(_add_shares_kernel, owners, arguments, color.device, pieces=owners)
        return color_gradient, position_gradient, *[None] * 5


def _hits(scene: _Scene, mesh: _Mesh) -> _Hits:
    bands, items, device = scene.bands, scene.views * scene.bands, mesh.face.device
    # Room for an outline between any two pixels: memory that is never written costs nothing.
    room = 2 * scene.views * scene.height * scene.width
    edge, place, alpha = (torch.empty(room, dtype=dtype, device=device) for dtype in (torch.int32, torch.int32, torch.float32))
    count = torch.empty(items, dtype=torch.int32, device=device)
    counts = [scene.vertices, mesh.faces.shape[0], scene.view_stride, scene.height, scene.width, scene.walk, bands, _BAND]
    launch(_list_hits_kernel, items, [*mesh.flat(), *counts, edge, place, alpha, count], device, pieces=_pieces(items))
    first = torch.cat([torch.zeros(1, dtype=torch.int64, device=device), count.cumsum(0)])
    view, band = torch.arange(scene.views, device=device)[:, None], torch.arange(bands, device=device)
    begin = 2 * scene.width * (view * scene.height + band * _BAND).flatten()
    used = torch.repeat_interleave(begin - first[:-1], count) + torch.arange(int(first[-1]), device=device)
    return _Hits(edge[used], place[used], alpha[used], first)


def _apply(scene: _Scene, original: Tensor, back: bool, hits: _Hits, result: Tensor) -> None:
    counts = [scene.channels, scene.height, scene.width, scene.bands]
    arguments = [original.view(-1), back, *counts, hits.place, hits.alpha, hits.first, result.view(-1)]
    launch(_apply_hits_kernel, scene.views, arguments, original.device, pieces=scene.views)


def _at_pixels(
    scene: _Scene, mesh: _Mesh, wanted: _Wanted, color: Tensor, cotangent: Tensor, result: Tensor, position_gradient: Tensor
) -> None:
    sizes = [scene.vertices, mesh.faces.shape[0], scene.view_stride, scene.height, scene.width]
    how = [scene.walk, scene.channels, scene.gradient_scale, *wanted]
    pictures = [color.view(-1), cotangent.view(-1), result.view(-1), position_gradient.view(-1)]
    launch(_pixels_kernel, mesh.face.numel(), [*mesh.flat(), *sizes, *how, *pictures], color.device)


def antialias(
    color: Float[Tensor, "views height width channels"],
    raster: Raster,
    clip_positions: Float[Tensor, "views vertices 4"] | Float[Tensor, "vertices 4"],
    faces: Int[Tensor, "faces 3"],
    topology: Topology | None = None,
    *,
    rule: Literal["walk", "owner"] = "walk",
    position_gradient_scale: float = 1.0,
) -> Float[Tensor, "views height width channels"]:
    """Blends neighboring pixels where an outline of the mesh runs between their centers, by how far it has come.

    An outline is an edge of the mesh with no face on its other side, as seen: the surface ends there or turns back. Where it crosses
    the line between two centers at a distance d of the first, the first gets the part ½ − d of the second's color if d < ½, and
    otherwise the second gets the part d − ½ of the first's.

    Differentiable to the colors, and to x, y and w of the ends of outlines: this is how a difference of pictures moves a silhouette.
    There is no derivative to z, and none to the raster. What no center sees is not found, nor are the lines in which two surfaces cut
    each other.

    Args:
        color: what was computed at the centers, any number of channels.
        raster: of the same mesh at the same positions.
        clip_positions: homogeneous; with shape [vertices, 4] all views share them.
        faces: rows of vertices.
        topology: from :func:`~unrender.ops.raster.edge_topology`. Left out, a CPU remembers those of the last few meshes, and a GPU
            finds it anew: while ``faces`` stays the same, find it once.
        rule: ``"walk"`` goes through the mesh to the outline, however small the triangles are. ``"owner"`` looks only at the edges of the
            triangle seen at a center, as published; it loses half of the derivative where triangles are as small as pixels.
        position_gradient_scale: multiplies the derivative to the positions.

    Raises:
        ValueError: for other types than float32, shapes that do not fit each other, tensors on several devices, a corner that is no
            vertex, a topology of other faces, or another rule.
        RuntimeError: where the derivative of the gradient is asked for.

    A triangle whose right edge is a quarter of a pixel beyond the center of the pixel it ends in:

    >>> from unrender.ops.raster.rasterize import rasterize
    >>> corners = torch.tensor([[-4.0, -9.0, 0.0, 1.0], [0.375, -9.0, 0.0, 1.0], [0.375, 9.0, 0.0, 1.0]])
    >>> faces = torch.tensor([[0, 1, 2]])
    >>> raster = rasterize(corners[None], faces, (1, 4))
    >>> antialias((raster.face >= 0).float()[..., None], raster, corners[None], faces).flatten().tolist()
    [1.0, 1.0, 0.75, 0.0]
    """
    _check(color, raster, clip_positions, faces, topology, rule, position_gradient_scale)
    views, height, width, channels = color.shape
    across = (topology_of(faces) if topology is None else topology).across
    if color.numel() == 0 or faces.shape[0] == 0:
        return color + clip_positions[..., :0].sum()  # a sum of nothing: the positions have a gradient, of zeros
    vertices = clip_positions.shape[-2]
    stride = 4 * vertices if clip_positions.ndim == 3 else 0
    scene = _Scene(rule == "walk", position_gradient_scale, views, height, width, channels, vertices, stride)
    face, depth = raster.face.contiguous(), raster.depth.detach().contiguous()
    corners = faces.to(torch.int32).contiguous()
    return _Antialias.apply(color.contiguous(), clip_positions.contiguous(), face, depth, corners, across.contiguous(), scene)


def _check(
    color: Tensor,
    raster: Raster,
    clip_positions: Tensor,
    faces: Tensor,
    topology: Topology | None,
    rule: str,
    position_gradient_scale: float,
) -> None:
    verb = "antialias"
    if color.ndim != 4:
        raise ValueError(f"antialias takes a color of shape [views, height, width, channels], got {tuple(color.shape)}")
    check_float32(color, "color", verb)
    check_raster(raster, verb)
    check_clip_positions(clip_positions, verb)
    check_faces(faces, clip_positions.shape[-2], verb)
    tensors: dict[str, Tensor | None] = {"color": color, "raster": raster.face, "clip_positions": clip_positions, "faces": faces}
    check_same_device(tensors | {"topology": None if topology is None else topology.across}, verb)
    if raster.face.shape != color.shape[:3]:
        raise ValueError(
            f"antialias: the color has views, height and width {tuple(color.shape[:3])} and the raster {tuple(raster.face.shape)}: "
            "they must be equal"
        )
    check_count(raster.face.numel() * max(color.shape[3], 4), "the pixels' channels or neighbors", verb)
    if clip_positions.ndim == 3 and clip_positions.shape[0] != color.shape[0]:
        raise ValueError(f"antialias: {clip_positions.shape[0]} views of clip positions for {color.shape[0]} views of color")
    if topology is not None and topology.across.dtype != torch.int32:
        raise ValueError(f"antialias takes a topology of type int32, got {topology.across.dtype}: call edge_topology(faces)")
    if topology is not None and topology.across.shape != faces.shape:
        raise ValueError(
            f"antialias: the topology is of {topology.across.shape[0]} faces and the mesh has {faces.shape[0]}: call edge_topology(faces)"
        )
    if rule not in ("walk", "owner"):
        raise ValueError(f'antialias knows the rules "walk" and "owner", got {rule!r}')
    if not math.isfinite(position_gradient_scale):
        raise ValueError(f"antialias takes a finite position_gradient_scale, got {position_gradient_scale}")

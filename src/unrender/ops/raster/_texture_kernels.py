"""The kernels of :mod:`unrender.ops.raster.texture`: the lookup, its gradient to the samples, and its gradient to the texels."""

from __future__ import annotations

import re
from typing import no_type_check

import warp as wp

from unrender.ops.kernels.work import ADD, FORGET_ADD, SKIP_OTHERS
from unrender.ops.raster import _texture_native as native
from unrender.ops.raster._mip_levels import Levels

# Packing neighboring scalars into vectors makes loads wait for the stores before them: a bilinear lookup takes a quarter longer.
wp.set_module_options({"enable_backward": False, "optimization_level": 3, "cpu_compiler_flags": "-fno-slp-vectorize"})


class _Lookup:
    """What every kernel needs to know. Addresses stand for float32 arrays in memory."""

    levels: Levels  # pyright: ignore[reportInvalidTypeForm]
    uv: wp.uint64
    uv_derivatives: wp.uint64
    level_bias: wp.uint64
    has_derivatives: wp.int32
    has_bias: wp.int32
    width: wp.int32
    height: wp.int32
    channels: wp.int32
    texture_views: wp.int32
    samples_per_view: wp.int32
    top: wp.int32
    filter: wp.int32
    boundary: wp.int32
    bands: wp.int32
    band_shift: wp.int32
    in_blocks: wp.int32


Lookup = wp.struct(_Lookup)


def _by_channels(body: str) -> str:
    """The loop once for each frequent number of channels, which the compiler then unrolls, and once for any other."""
    cases = "".join(f"if (channels == {n}) {{{body.replace('CHANNELS', str(n))}}} else " for n in (1, 3, 4))
    return cases + "{" + body.replace("CHANNELS", "channels") + "}"


def _by_lanes(body: str) -> str:
    """The loop for three and for four channels with a vector of these, and for any other number with one channel after the other.

    In the text, NUMBER is the type, LOAD, STORE and SUM are what its name says, and STEPS is how often the loop over c runs.
    """
    three = {
        "NUMBER": "Quad",
        "STEPS": "1",
        "CHANNELS": "3",
        "LOAD": "load_three",
        "STORE": "store_three",
        "SUM": "sum_of_four",
    }
    four = three | {"CHANNELS": "4", "LOAD": "load_four", "STORE": "store_four"}
    any_ = {"NUMBER": "float", "STEPS": "channels", "CHANNELS": "channels", "LOAD": "load_one", "STORE": "store_one", "SUM": "sum_of_one"}

    def filled(words: dict[str, str]) -> str:
        return re.sub("|".join(words), lambda found: words[found.group()], body)

    return f"if (channels == 3) {{{filled(three)}}} else if (channels == 4) {{{filled(four)}}} else {{{filled(any_)}}}"


_VECTORS = """
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
"""


_IDLE = """
auto idle = [&](int n) {
    const float* g = cotangent.data + (long long)n * channels;
    for (int c = 0; c < channels; c++)
        if (g[c] != 0.f) return false;
    return true;
};
"""


_MIX_BLOCK = """
        auto mix = [&](const Taps& a, int level, int k, int c) {
#pragma clang fp contract(fast)
            const float* texels = (const float*)lookup.levels[level] + c;
            const NUMBER t00 = LOAD(texels + (long long)(a.upper[k] + a.left[k]) * CHANNELS);
            const NUMBER t01 = LOAD(texels + (long long)(a.upper[k] + a.right[k]) * CHANNELS);
            const NUMBER t10 = LOAD(texels + (long long)(a.lower[k] + a.left[k]) * CHANNELS);
            const NUMBER t11 = LOAD(texels + (long long)(a.lower[k] + a.right[k]) * CHANNELS);
            const NUMBER upper = a.near_s[k] * t00 + a.far_s[k] * t01, lower = a.near_s[k] * t10 + a.far_s[k] * t11;
            const NUMBER sum = a.near_t[k] * upper + a.far_t[k] * lower;
            return sum;
        };
        for (int k = 0; k < m; k++) {
            if (over_edge[k]) { one(id[k]); continue; }
            float* out = values.data + (long long)id[k] * CHANNELS;
            for (int c = 0; c < STEPS; c++) {
                NUMBER sum = mix(taps[0], level_0[k], k, c);
                if (between[k] > 0.f) sum = (1.f - between[k]) * sum + between[k] * mix(taps[1], level_0[k] + 1, k, c);
                STORE(out + c, sum);
            }
        }
"""

_MIX = """
        for (int c = 0; c < CHANNELS; c++) {
            float sum = fine.weight[0] * base[fine.texel[0] * CHANNELS + c];
            for (int k = 1; k < 4; k++) sum += fine.weight[k] * base[fine.texel[k] * CHANNELS + c];
            if (between > 0.f) {
                float sum_above = coarse.weight[0] * above[coarse.texel[0] * CHANNELS + c];
                for (int k = 1; k < 4; k++) sum_above += coarse.weight[k] * above[coarse.texel[k] * CHANNELS + c];
                sum = (1.f - between) * sum + between * sum_above;
            }
            out[c] = sum;
        }
"""


@no_type_check
@wp.func_native(
    native.PLACE
    + native.LEVEL
    + native.FOOTPRINT
    + """
auto one = [&](int n) {
    float* out = values.data + (long long)n * channels;
    const Place p = locate(n);
    if (!p.known) {
        for (int c = 0; c < channels; c++) out[c] = 0.f;
        if (lookup.bands > 1) reach.data[n] = 0;
        if (lookup.filter >= LINEAR_MIPMAP_NEAREST) chosen.data[n] = 0.f;
        return;
    }
    const int view = lookup.texture_views > 1 ? n / lookup.samples_per_view : 0;
    const float level = lookup.filter >= LINEAR_MIPMAP_NEAREST ? level_of(n, p) : 0.f;
    const int level_0 = (int)level;
    const float between = lookup.filter == LINEAR_MIPMAP_LINEAR ? level - level_0 : 0.f;
    if (lookup.filter >= LINEAR_MIPMAP_NEAREST) chosen.data[n] = level;
    Footprint fine, coarse;
    footprint(p, view, level_0, fine);
    const float* base = (const float*)lookup.levels[level_0];
    const float* above = base;
    coarse.taps = 0;
    if (between > 0.f) {
        footprint(p, view, level_0 + 1, coarse);
        above = (const float*)lookup.levels[level_0 + 1];
    }
    if (lookup.bands > 1) {
        int mask = 0;
        for (int k = 0; k < fine.taps; k++) mask |= 1 << band_of(fine.row[k], level_0);
        for (int k = 0; k < coarse.taps; k++) mask |= 1 << band_of(coarse.row[k], level_0 + 1);
        reach.data[n] = mask;
    }
    if (fine.taps == 1) {
        for (int c = 0; c < channels; c++) out[c] = base[fine.texel[0] * channels + c];
        return;
    }
    if (fine.taps == 0) fine.weight[0] = fine.weight[1] = fine.weight[2] = fine.weight[3] = 0.f;
    if (coarse.taps == 0) coarse.weight[0] = coarse.weight[1] = coarse.weight[2] = coarse.weight[3] = 0.f;
    if (fine.taps == 0) fine.texel[0] = fine.texel[1] = fine.texel[2] = fine.texel[3] = 0;
    if (coarse.taps == 0) coarse.texel[0] = coarse.texel[1] = coarse.texel[2] = coarse.texel[3] = 0;
"""
    + _by_channels(_MIX)
    + """
};
#if defined(__CUDA_ARCH__)
for (int n = begin; n < end; n++) one(n);
#else
if (!lookup.in_blocks) {
    for (int n = begin; n < end; n++) one(n);
    return;
}
"""
    + native.BLOCK
    + _VECTORS
    + """
int m = 0;
for (int n = begin; n < end; n++) {
    if (known(n)) id[m++] = n; else one(n);
    if (m < LANES && n + 1 < end) continue;
    gather(m, lookup.has_derivatives);
    if (lookup.filter >= LINEAR_MIPMAP_NEAREST) {
        choose_levels(m);
        for (int k = 0; k < m; k++) chosen.data[id[k]] = level[k];
    } else {
        for (int k = 0; k < m; k++) level[k] = 0.f;
    }
    spread(m);
    if (lookup.bands > 1) {
        int mask[LANES];
        for (int k = 0; k < m; k++) {
            const Taps& a = taps[0];
            mask[k] = 1 << band_of(a.upper_row[k], level_0[k]) | 1 << band_of(a.lower_row[k], level_0[k]);
        }
        if (lookup.filter == LINEAR_MIPMAP_LINEAR)
            for (int k = 0; k < m; k++) {
                const Taps& b = taps[1];
                const int more = 1 << band_of(b.upper_row[k], level_0[k] + 1) | 1 << band_of(b.lower_row[k], level_0[k] + 1);
                mask[k] |= between[k] > 0.f ? more : 0;
            }
        for (int k = 0; k < m; k++) reach.data[id[k]] = mask[k];
    }
"""
    + _by_lanes(_MIX_BLOCK)
    + """
    m = 0;
}
#endif
"""
)
def _values(
    lookup: Lookup,
    begin: int,
    end: int,
    values: wp.array(dtype=wp.float32),
    chosen: wp.array(dtype=wp.float32),
    reach: wp.array(dtype=wp.int32),
): ...


_PROJECT = """
        for (int k = 0; k < 4; k++) {
            float dot = 0.f;
            for (int c = 0; c < CHANNELS; c++) dot += g[c] * texels[foot.texel[k] * CHANNELS + c];
            along[k] = dot;
        }
"""

_PROJECT_BLOCK = """
        auto project_sample = [&](const Taps& a, int level, int k, float& value, float& along_s, float& along_t) {
#pragma clang fp contract(fast)
            const float* g = cotangent.data + (long long)id[k] * CHANNELS;
            const float* texels = (const float*)lookup.levels[level];
            const float* p00 = texels + (long long)(a.upper[k] + a.left[k]) * CHANNELS;
            const float* p01 = texels + (long long)(a.upper[k] + a.right[k]) * CHANNELS;
            const float* p10 = texels + (long long)(a.lower[k] + a.left[k]) * CHANNELS;
            const float* p11 = texels + (long long)(a.lower[k] + a.right[k]) * CHANNELS;
            value = along_s = along_t = 0.f;
            for (int c = 0; c < STEPS; c++) {
                const NUMBER part = LOAD(g + c), t00 = LOAD(p00 + c), t01 = LOAD(p01 + c), t10 = LOAD(p10 + c), t11 = LOAD(p11 + c);
                const NUMBER upper = a.near_s[k] * t00 + a.far_s[k] * t01, lower = a.near_s[k] * t10 + a.far_s[k] * t11;
                const NUMBER upper_by_s = a.by_near_s[k] * t00 + a.by_far_s[k] * t01;
                const NUMBER lower_by_s = a.by_near_s[k] * t10 + a.by_far_s[k] * t11;
                value += SUM(part * (a.near_t[k] * upper + a.far_t[k] * lower));
                along_s += SUM(part * (a.near_t[k] * upper_by_s + a.far_t[k] * lower_by_s));
                along_t += SUM(part * (a.by_near_t[k] * upper + a.by_far_t[k] * lower));
            }
        };
        for (int k = 0; k < m; k++) {
            if (over_edge[k]) { d_level[k] = 0.f; continue; }
            float value, along_s, along_t, rise = 0.f;
            project_sample(taps[0], level_0[k], k, value, along_s, along_t);
            if (interior[k]) {
                float value_above, along_s_above, along_t_above;
                project_sample(taps[1], level_0[k] + 1, k, value_above, along_s_above, along_t_above);
                rise = value_above - value;
                along_s += between[k] * (along_s_above - along_s);
                along_t += between[k] * (along_t_above - along_t);
            }
            by_s[k] = along_s; by_t[k] = along_t; d_level[k] = rise;
        }
"""


@no_type_check
@wp.func_native(
    native.PLACE
    + native.LEVEL
    + native.FOOTPRINT
    + """
// The sum over channels of the cotangent times the value of one level, and its derivatives to s and t.
auto project = [&](const Place& p, int view, int level, const float* g, float& value, float& by_s, float& by_t) {
    Footprint foot;
    footprint(p, view, level, foot);
    value = by_s = by_t = 0.f;
    if (foot.taps == 0) return;
    const float* texels = (const float*)lookup.levels[level];
    float along[4];
"""
    + _by_channels(_PROJECT)
    + """
    for (int k = 0; k < 4; k++) {
        value += foot.weight[k] * along[k];
        by_s += foot.by_s[k] * along[k];
        by_t += foot.by_t[k] * along[k];
    }
};
const int axes = cube ? 3 : 2;
const int TO_UV = 1, TO_UV_DERIVATIVES = 2, TO_BIAS = 4;
auto none = [&](int n) {
    if (wanted & TO_UV)
        for (int k = 0; k < axes; k++) to_uv.data[axes * n + k] = 0.f;
    if (wanted & TO_UV_DERIVATIVES)
        for (int k = 0; k < 2 * axes; k++) to_derivatives.data[2 * axes * n + k] = 0.f;
    if (wanted & TO_BIAS) to_bias.data[n] = 0.f;
};
// From the level to the derivatives d of s and t, which are replaced by theirs of the loss.
auto through_level_to = [&](float d_level, float& s_x, float& s_y, float& t_x, float& t_y) {
    const float w = (float)lookup.width, h = (float)lookup.height;
    const float sx = s_x * w, sy = s_y * w, tx = t_x * h, ty = t_y * h;
    const float a = sx * sx + tx * tx, b = sy * sy + ty * ty, c = sx * sy + tx * ty;
    const float half = 0.5f * (a - b), root = sqrtf(half * half + c * c);
    const float longest = 0.5f * (a + b) + root;
    const float scale = d_level * 0.72134752f / longest;  // 1 / (2 ln 2)
    const float turn = root > 0.f ? 0.5f * half / root : 0.f, cross = root > 0.f ? c / root : 0.f;
    const float d_a = scale * (0.5f + turn), d_b = scale * (0.5f - turn), d_c = scale * cross;
    s_x = w * (2.f * d_a * sx + d_c * sy);
    s_y = w * (2.f * d_b * sy + d_c * sx);
    t_x = h * (2.f * d_a * tx + d_c * ty);
    t_y = h * (2.f * d_b * ty + d_c * tx);
};
// Of a cube map: from s, t and their derivatives d, whose own derivatives of the loss are given, to the direction and its derivatives.
auto write_direction = [&](
    int n, const Place& p, bool through_level, const Slopes& d, float by_s, float by_t, float s_x, float s_y, float t_x, float t_y
) {
    const Face f = face_axes(p.face);
    const float half = 0.5f / p.major, s = p.s_side / p.major, t = p.t_side / p.major;
    float d_uv[3], d_derivatives[6] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
    float d_s = 0.5f * by_s, d_t = 0.5f * by_t, d_major = 0.f;
    if (through_level) {
        const float* given = uv_derivatives + 6 * (long long)n;
        const float major_x = f.major_sign * given[2 * f.major], major_y = f.major_sign * given[2 * f.major + 1];
        d_s -= half * (major_x * s_x + major_y * s_y);
        d_t -= half * (major_x * t_x + major_y * t_y);
        d_major = -(s_x * d.s_x + s_y * d.s_y + t_x * d.t_x + t_y * d.t_y) / p.major;
        d_derivatives[2 * f.s] = f.s_sign * half * s_x;
        d_derivatives[2 * f.s + 1] = f.s_sign * half * s_y;
        d_derivatives[2 * f.t] = f.t_sign * half * t_x;
        d_derivatives[2 * f.t + 1] = f.t_sign * half * t_y;
        d_derivatives[2 * f.major] = -f.major_sign * half * (s * s_x + t * t_x);
        d_derivatives[2 * f.major + 1] = -f.major_sign * half * (s * s_y + t * t_y);
    }
    d_major -= (d_s * s + d_t * t) / p.major;
    d_uv[f.s] = f.s_sign * d_s / p.major;
    d_uv[f.t] = f.t_sign * d_t / p.major;
    d_uv[f.major] = f.major_sign * d_major;
    if (wanted & TO_UV)
        for (int k = 0; k < 3; k++) to_uv.data[3 * n + k] = d_uv[k];
    if (wanted & TO_UV_DERIVATIVES)
        for (int k = 0; k < 6; k++) to_derivatives.data[6 * n + k] = d_derivatives[k];
};
"""
    + _IDLE
    + """auto one = [&](int n) {
    const float* g = cotangent.data + (long long)n * channels;
    const Place p = locate(n);
    if (!p.known || idle(n)) { none(n); return; }
    const int view = lookup.texture_views > 1 ? n / lookup.samples_per_view : 0;
    const float level = lookup.filter >= LINEAR_MIPMAP_NEAREST ? chosen.data[n] : 0.f;
    const int level_0 = (int)level;
    const bool interior = lookup.filter == LINEAR_MIPMAP_LINEAR && level > 0.f && level < (float)lookup.top;
    float value, by_s, by_t, d_level = 0.f;
    project(p, view, level_0, g, value, by_s, by_t);
    if (interior) {
        const float between = level - level_0;
        float value_above, by_s_above, by_t_above;
        project(p, view, level_0 + 1, g, value_above, by_s_above, by_t_above);
        d_level = value_above - value;
        by_s += between * (by_s_above - by_s);
        by_t += between * (by_t_above - by_t);
    }
    const bool through_level = interior && lookup.has_derivatives;
    Slopes d = {0.f, 0.f, 0.f, 0.f};
    if (through_level) d = slopes_of(n, p);
    float s_x = d.s_x, s_y = d.s_y, t_x = d.t_x, t_y = d.t_y;
    if (through_level) through_level_to(d_level, s_x, s_y, t_x, t_y);
    if (wanted & TO_BIAS) to_bias.data[n] = d_level;
    if (cube) { write_direction(n, p, through_level, d, by_s, by_t, s_x, s_y, t_x, t_y); return; }
    if (wanted & TO_UV) { to_uv.data[2 * n] = by_s; to_uv.data[2 * n + 1] = by_t; }
    if (wanted & TO_UV_DERIVATIVES) {
        float* to = to_derivatives.data + 4 * (long long)n;
        to[0] = s_x; to[1] = s_y; to[2] = t_x; to[3] = t_y;
    }
};
#if defined(__CUDA_ARCH__)
for (int n = begin; n < end; n++) one(n);
#else
if (!lookup.in_blocks) {
    for (int n = begin; n < end; n++) one(n);
    return;
}
"""
    + native.BLOCK
    + _VECTORS
    + """
int interior[LANES];
float by_s[LANES], by_t[LANES], d_level[LANES], from_s_x[LANES], from_s_y[LANES], from_t_x[LANES], from_t_y[LANES];
const bool has_levels = lookup.filter >= LINEAR_MIPMAP_NEAREST;
const bool with_slopes = lookup.filter == LINEAR_MIPMAP_LINEAR && lookup.has_derivatives;
int m = 0;
for (int n = begin; n < end; n++) {
    if (idle(n) || !known(n)) none(n); else id[m++] = n;
    if (m < LANES && n + 1 < end) continue;
    gather(m, with_slopes);
    for (int k = 0; k < m; k++) level[k] = has_levels ? chosen.data[id[k]] : 0.f;
    spread(m);
    for (int k = 0; k < m; k++)
        interior[k] = lookup.filter == LINEAR_MIPMAP_LINEAR && level[k] > 0.f && level[k] < (float)lookup.top ? 1 : 0;
"""
    + _by_lanes(_PROJECT_BLOCK)
    + """
    if (with_slopes)
        for (int k = 0; k < m; k++) {
            from_s_x[k] = s_x[k]; from_s_y[k] = s_y[k]; from_t_x[k] = t_x[k]; from_t_y[k] = t_y[k];
            through_level_to(d_level[k], from_s_x[k], from_s_y[k], from_t_x[k], from_t_y[k]);
            if (!interior[k]) from_s_x[k] = from_s_y[k] = from_t_x[k] = from_t_y[k] = 0.f;
        }
    else
        for (int k = 0; k < m; k++) from_s_x[k] = from_s_y[k] = from_t_x[k] = from_t_y[k] = 0.f;
    for (int k = 0; k < m; k++) {
        if (over_edge[k]) { one(id[k]); continue; }
        const int n = id[k];
        if (wanted & TO_BIAS) to_bias.data[n] = d_level[k];
        if (cube) {
            const Slopes d = {s_x[k], s_y[k], t_x[k], t_y[k]};
            const bool through_level = with_slopes && interior[k];
            write_direction(
                n, locate(n), through_level, d, by_s[k], by_t[k], from_s_x[k], from_s_y[k], from_t_x[k], from_t_y[k]);
            continue;
        }
        if (wanted & TO_UV) { to_uv.data[2 * n] = by_s[k]; to_uv.data[2 * n + 1] = by_t[k]; }
        if (wanted & TO_UV_DERIVATIVES) {
            float* to = to_derivatives.data + 4 * (long long)n;
            to[0] = from_s_x[k]; to[1] = from_s_y[k]; to[2] = from_t_x[k]; to[3] = from_t_y[k];
        }
    }
    m = 0;
}
#endif
"""
)
def _sample_gradients(
    lookup: Lookup,
    begin: int,
    end: int,
    wanted: int,
    cotangent: wp.array(dtype=wp.float32),
    chosen: wp.array(dtype=wp.float32),
    to_uv: wp.array(dtype=wp.float32),
    to_derivatives: wp.array(dtype=wp.float32),
    to_bias: wp.array(dtype=wp.float32),
): ...


_ADD_BLOCK = """
#pragma clang fp contract(fast)
        for (int k = 0; k < m; k++) {
            if (over_edge[k]) { one(id[k]); continue; }
            const float* g = cotangent.data + (long long)id[k] * CHANNELS;
            for (int which = 0; which < 2; which++) {
                const int here = level_0[k] + which;
                const float share = which ? between[k] : 1.f - between[k];
                if (share == 0.f) continue;
                const Taps& a = taps[which];
                float* texels = (float*)gradients[here];
                for (int low = 0; low < 2; low++) {
                    const int row = low ? a.lower_row[k] : a.upper_row[k];
                    const float weight = share * (low ? a.far_t[k] : a.near_t[k]);
                    if (weight == 0.f || (lookup.bands > 1 && band_of(row, here) != band)) continue;
                    const int texel = low ? a.lower[k] : a.upper[k];
                    float* left = texels + (long long)(texel + a.left[k]) * CHANNELS;
                    float* right = texels + (long long)(texel + a.right[k]) * CHANNELS;
                    const float to_left = weight * a.near_s[k], to_right = weight * a.far_s[k];
                    for (int c = 0; c < STEPS; c++) {
                        const NUMBER part = LOAD(g + c);
                        if (to_left != 0.f) STORE(left + c, LOAD(left + c) + to_left * part);
                        if (to_right != 0.f) STORE(right + c, LOAD(right + c) + to_right * part);
                    }
                    if (mark) written.data[here * base_rows + row] = 1;
                }
            }
        }
"""

_ADD_FOOTPRINT = """
        for (int k = 0; k < foot.taps; k++) {
            if (foot.weight[k] == 0.f || (lookup.bands > 1 && band_of(foot.row[k], level) != band)) continue;
            const float weight = share * foot.weight[k];
            float* to = texels + foot.texel[k] * CHANNELS;
            for (int c = 0; c < CHANNELS; c++) UNRENDER_ADD(to + c, weight * g[c]);
            if (mark) written.data[level * base_rows + foot.row[k]] = 1;
        }
"""


@no_type_check
@wp.func_native(
    ADD
    + native.PLACE
    + native.LEVEL  # BLOCK names it, though levels are chosen on the way forward
    + native.FOOTPRINT
    + """
const int base_rows = lookup.texture_views * (cube ? 6 : 1) * lookup.height;
auto add = [&](const Place& p, int view, int level, float share, const float* g) {
    Footprint foot;
    footprint(p, view, level, foot);
    float* texels = (float*)gradients[level];
"""
    + _by_channels(_ADD_FOOTPRINT)
    + """
};
const int bit = 1 << band;
const int* mask = reach.data;
"""
    + _IDLE
    + """auto one = [&](int n) {
    const float* g = cotangent.data + (long long)n * channels;
    const Place p = locate(n);
    if (!p.known || idle(n)) return;
    const int view = lookup.texture_views > 1 ? n / lookup.samples_per_view : 0;
    const float level = lookup.filter >= LINEAR_MIPMAP_NEAREST ? chosen.data[n] : 0.f;
    const int level_0 = (int)level;
    const float between = lookup.filter == LINEAR_MIPMAP_LINEAR ? level - level_0 : 0.f;
    add(p, view, level_0, 1.f - between, g);
    if (between > 0.f) add(p, view, level_0 + 1, between, g);
};
#if defined(__CUDA_ARCH__)
for (int n = begin; n < end; n++) one(n);
#else
"""
    + native.BLOCK
    + _VECTORS
    + """
const bool has_levels = lookup.filter >= LINEAR_MIPMAP_NEAREST;
int m = 0;
auto flush = [&]() {
    gather(m, false);
    for (int k = 0; k < m; k++) level[k] = has_levels ? chosen.data[id[k]] : 0.f;
    spread(m);
"""
    + _by_lanes(_ADD_BLOCK)
    + """
    m = 0;
};
for (int n = begin; n < end; n++) {
    if (lookup.bands > 1) {"""
    + SKIP_OTHERS
    + """
    }
    if (!lookup.in_blocks) { one(n); continue; }
    if (idle(n) || !known(n)) continue;
    id[m++] = n;
    if (m == LANES) flush();
}
if (m > 0) flush();
#endif
"""
    + FORGET_ADD
)
def _scatter(
    lookup: Lookup,
    begin: int,
    end: int,
    band: int,
    cotangent: wp.array(dtype=wp.float32),
    chosen: wp.array(dtype=wp.float32),
    reach: wp.array(dtype=wp.int32),
    gradients: Levels,
    mark: bool,
    written: wp.array(dtype=wp.uint8),
): ...


@no_type_check
@wp.kernel
def values_kernel(
    first: int,
    lookup: Lookup,
    count: int,
    block: int,
    values: wp.array(dtype=wp.float32),
    chosen: wp.array(dtype=wp.float32),
    reach: wp.array(dtype=wp.int32),
):
    i = first + wp.tid()
    _values(lookup, i * block, wp.min(count, (i + 1) * block), values, chosen, reach)


@no_type_check
@wp.kernel
def sample_gradients_kernel(
    first: int,
    lookup: Lookup,
    count: int,
    block: int,
    wanted: int,
    cotangent: wp.array(dtype=wp.float32),
    chosen: wp.array(dtype=wp.float32),
    to_uv: wp.array(dtype=wp.float32),
    to_derivatives: wp.array(dtype=wp.float32),
    to_bias: wp.array(dtype=wp.float32),
):
    i = first + wp.tid()
    end = wp.min(count, (i + 1) * block)
    _sample_gradients(lookup, i * block, end, wanted, cotangent, chosen, to_uv, to_derivatives, to_bias)


@no_type_check
@wp.kernel
def scatter_kernel(
    first: int,
    lookup: Lookup,
    count: int,
    pieces: int,
    bytes_per_copy: int,
    cotangent: wp.array(dtype=wp.float32),
    chosen: wp.array(dtype=wp.float32),
    reach: wp.array(dtype=wp.int32),
    gradients: Levels,
    mark: bool,
    written: wp.array(dtype=wp.uint8),
):
    i = first + wp.tid()
    piece = i / lookup.bands
    begin = int(wp.int64(count) * wp.int64(piece) / wp.int64(pieces))
    end = int(wp.int64(count) * wp.int64(piece + 1) / wp.int64(pieces))
    copy = gradients
    for level in range(wp.static(17)):
        copy[level] = gradients[level] + wp.uint64(piece) * wp.uint64(bytes_per_copy)
    _scatter(lookup, begin, end, i % lookup.bands, cotangent, chosen, reach, copy, mark, written)

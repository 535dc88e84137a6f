"""The kernels of :mod:`unrender.ops.texture`: the lookup, its gradient to the samples, and its gradient to the texels."""

from __future__ import annotations

from typing import no_type_check

import warp as wp

from unrender.ops import _texture_native as native
from unrender.ops._mip_levels import Levels
from unrender.ops._work import ADD, FORGET_ADD, SKIP_OTHERS

# Packing neighbouring scalars into vectors makes loads wait for the stores before them: a bilinear lookup takes a quarter longer.
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


Lookup = wp.struct(_Lookup)


def _by_channels(body: str) -> str:
    """The loop once for each frequent number of channels, which the compiler then unrolls, and once for any other."""
    cases = "".join(f"if (channels == {n}) {{{body.replace('CHANNELS', str(n))}}} else " for n in (1, 3, 4))
    return cases + "{" + body.replace("CHANNELS", "channels") + "}"


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
for (int n = begin; n < end; n++) {
    float* out = values.data + (long long)n * channels;
    const Place p = locate(n);
    if (!p.known) {
        for (int c = 0; c < channels; c++) out[c] = 0.f;
        if (lookup.bands > 1) reach.data[n] = 0;
        if (lookup.filter >= LINEAR_MIPMAP_NEAREST) chosen.data[n] = 0.f;
        continue;
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
        continue;
    }
    if (fine.taps == 0) fine.weight[0] = fine.weight[1] = fine.weight[2] = fine.weight[3] = 0.f;
    if (coarse.taps == 0) coarse.weight[0] = coarse.weight[1] = coarse.weight[2] = coarse.weight[3] = 0.f;
    if (fine.taps == 0) fine.texel[0] = fine.texel[1] = fine.texel[2] = fine.texel[3] = 0;
    if (coarse.taps == 0) coarse.texel[0] = coarse.texel[1] = coarse.texel[2] = coarse.texel[3] = 0;
"""
    + _by_channels(_MIX)
    + """
}
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
for (int n = begin; n < end; n++) {
    float d_uv[3] = {0.f, 0.f, 0.f}, d_derivatives[6] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f}, d_level = 0.f;
    const float* g = cotangent.data + (long long)n * channels;
    bool idle = true;
    for (int c = 0; c < channels; c++) idle = idle && g[c] == 0.f;
    const Place p = locate(n);
    if (p.known && !idle) {
        const int view = lookup.texture_views > 1 ? n / lookup.samples_per_view : 0;
        const float level = lookup.filter >= LINEAR_MIPMAP_NEAREST ? chosen.data[n] : 0.f;
        const int level_0 = (int)level;
        const bool interior = lookup.filter == LINEAR_MIPMAP_LINEAR && level > 0.f && level < (float)lookup.top;
        float value, by_s, by_t;
        project(p, view, level_0, g, value, by_s, by_t);
        if (interior) {
            const float between = level - level_0;
            float value_above, by_s_above, by_t_above;
            project(p, view, level_0 + 1, g, value_above, by_s_above, by_t_above);
            d_level = value_above - value;
            by_s += between * (by_s_above - by_s);
            by_t += between * (by_t_above - by_t);
        }
        // From the level to the derivatives of s and t.
        float s_x = 0.f, s_y = 0.f, t_x = 0.f, t_y = 0.f;
        Slopes d = {0.f, 0.f, 0.f, 0.f};
        const bool through_level = interior && lookup.has_derivatives;
        if (through_level) {
            d = slopes_of(n, p);
            const float w = (float)lookup.width, h = (float)lookup.height;
            const float sx = d.s_x * w, sy = d.s_y * w, tx = d.t_x * h, ty = d.t_y * h;
            const float a = sx * sx + tx * tx, b = sy * sy + ty * ty, c = sx * sy + tx * ty;
            const float half = 0.5f * (a - b), root = sqrtf(half * half + c * c);
            const float longest = 0.5f * (a + b) + root;
            const float scale = d_level * 0.72134752f / longest;  // 1 / (2 ln 2)
            const float turn = root > 0.f ? 0.5f * half / root : 0.f;
            const float d_a = scale * (0.5f + turn), d_b = scale * (0.5f - turn), d_c = root > 0.f ? scale * c / root : 0.f;
            s_x = w * (2.f * d_a * sx + d_c * sy);
            s_y = w * (2.f * d_b * sy + d_c * sx);
            t_x = h * (2.f * d_a * tx + d_c * ty);
            t_y = h * (2.f * d_b * ty + d_c * tx);
        }
        if (!cube) {
            d_uv[0] = by_s;
            d_uv[1] = by_t;
            d_derivatives[0] = s_x;
            d_derivatives[1] = s_y;
            d_derivatives[2] = t_x;
            d_derivatives[3] = t_y;
        } else {
            const Face f = face_axes(p.face);
            const float half = 0.5f / p.major, s = p.s_side / p.major, t = p.t_side / p.major;
            float d_s = 0.5f * by_s, d_t = 0.5f * by_t, d_major = 0.f;
            if (through_level) {
                const float* given = uv_derivatives + 6 * n;
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
        }
    }
    if (wanted & TO_UV)
        for (int k = 0; k < axes; k++) to_uv.data[axes * n + k] = d_uv[k];
    if (wanted & TO_UV_DERIVATIVES)
        for (int k = 0; k < 2 * axes; k++) to_derivatives.data[2 * axes * n + k] = d_derivatives[k];
    if (wanted & TO_BIAS) to_bias.data[n] = d_level;
}
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
for (int n = begin; n < end; n++) {
    if (lookup.bands > 1) {"""
    + SKIP_OTHERS
    + """
    }
    const float* g = cotangent.data + (long long)n * channels;
    bool idle = true;
    for (int c = 0; c < channels; c++) idle = idle && g[c] == 0.f;
    if (idle) continue;
    const Place p = locate(n);
    if (!p.known) continue;
    const int view = lookup.texture_views > 1 ? n / lookup.samples_per_view : 0;
    const float level = lookup.filter >= LINEAR_MIPMAP_NEAREST ? chosen.data[n] : 0.f;
    const int level_0 = (int)level;
    const float between = lookup.filter == LINEAR_MIPMAP_LINEAR ? level - level_0 : 0.f;
    add(p, view, level_0, 1.f - between, g);
    if (between > 0.f) add(p, view, level_0 + 1, between, g);
}
(void)uv_derivatives; (void)level_bias;
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

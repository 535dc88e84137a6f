"""GPU kernels of the hash encoding: the three sums of :mod:`unrender.ops.encodings.hash_encoding`.

One thread per point of a level (gather, scatter) or per point (slope); neighboring threads are neighboring points.
"""

from __future__ import annotations

from typing import Any, no_type_check

import warp as wp

from unrender.ops.encodings.hash_grid import Levels

wp.set_module_options({"enable_backward": False})

_Floats8 = wp.types.vector(length=8, dtype=wp.float32)
_Ints8 = wp.types.vector(length=8, dtype=wp.int32)
_PRIME_Y = wp.constant(wp.uint32(2654435761))
_PRIME_Z = wp.constant(wp.uint32(805459861))


@no_type_check
@wp.func
def _cell(p: float):
    below = wp.floor(p)
    low = wp.where(below > -1073741824.0, below, -1073741824.0)
    return wp.uint32(wp.int32(wp.where(low < 1073741824.0, low, 1073741824.0)))


@no_type_check
@wp.func
def _blend(f: float, smooth: int):
    return wp.where(smooth == 1, f * f * (3.0 - 2.0 * f), f)


@no_type_check
@wp.func
def _blend_slope(f: float, smooth: int):
    return wp.where(smooth == 1, 6.0 * f * (1.0 - f), 1.0)


@no_type_check
@wp.func
def _corners(p: wp.vec3, grid: Levels, level: int):
    resolution = grid.resolutions[level]
    start = grid.offsets[level]
    entries = grid.offsets[level + 1] - start
    x = _cell(p[0])
    y = _cell(p[1])
    z = _cell(p[2])
    r = wp.uint32(resolution)
    size = wp.uint32(entries)
    rows = _Ints8()
    dense = wp.int64(resolution) * wp.int64(resolution) * wp.int64(resolution) <= wp.int64(entries)
    for c in range(8):
        cx = x + wp.uint32(c & 1)
        cy = y + wp.uint32((c >> 1) & 1)
        cz = z + wp.uint32(c >> 2)
        i = cx ^ (cy * _PRIME_Y) ^ (cz * _PRIME_Z)
        if dense:
            i = cx + r * (cy + r * cz)
        rows[c] = start + wp.int32(i % size)
    return rows


@no_type_check
@wp.func
def _weights(p: wp.vec3, scale: float, smooth: int, directional: int, direction: wp.vec3):
    f = wp.vec3(p[0] - wp.floor(p[0]), p[1] - wp.floor(p[1]), p[2] - wp.floor(p[2]))
    u = wp.vec3(_blend(f[0], smooth), _blend(f[1], smooth), _blend(f[2], smooth))
    s = wp.vec3(_blend_slope(f[0], smooth), _blend_slope(f[1], smooth), _blend_slope(f[2], smooth)) * scale
    v = wp.cw_mul(s, direction)
    weights = _Floats8()
    for c in range(8):
        x = wp.where((c & 1) == 1, u[0], 1.0 - u[0])
        y = wp.where(((c >> 1) & 1) == 1, u[1], 1.0 - u[1])
        z = wp.where((c >> 2) == 1, u[2], 1.0 - u[2])
        dx = wp.where((c & 1) == 1, v[0], -v[0])
        dy = wp.where(((c >> 1) & 1) == 1, v[1], -v[1])
        dz = wp.where((c >> 2) == 1, v[2], -v[2])
        weights[c] = wp.where(directional == 1, dx * y * z + x * dy * z + x * y * dz, x * y * z)
    return weights


@no_type_check
@wp.func
def _point(array: wp.array(dtype=wp.float32), i: int, count: int):
    return wp.vec3(array[i], array[count + i], array[2 * count + i])


@no_type_check
@wp.kernel
def gather_cuda(
    first: int,
    count: int,
    grid: Levels,
    directional: int,
    positions: wp.array(dtype=wp.float32),
    directions: wp.array(dtype=wp.float32),
    table: wp.array(dtype=Any),
    result: wp.array(dtype=wp.float32),
):
    i = first + wp.tid()
    level = i // count
    point = i % count
    scale = grid.scales[level]
    p = _point(positions, point, count) * scale + wp.vec3(0.5, 0.5, 0.5)
    rows = _corners(p, grid, level)
    weights = _weights(p, scale, grid.smooth, directional, _point(directions, point, count))
    features = grid.features
    for f in range(features):
        total = 0.0
        for c in range(8):
            total += weights[c] * wp.float32(table[rows[c] * features + f])
        result[(level * features + f) * count + point] = total


@no_type_check
@wp.kernel
def scatter_cuda(
    first: int,
    count: int,
    grid: Levels,
    directional: int,
    positions: wp.array(dtype=wp.float32),
    directions: wp.array(dtype=wp.float32),
    grad: wp.array(dtype=wp.float32),
    result: wp.array(dtype=wp.float32),
):
    i = first + wp.tid()
    level = i // count
    point = i % count
    scale = grid.scales[level]
    p = _point(positions, point, count) * scale + wp.vec3(0.5, 0.5, 0.5)
    rows = _corners(p, grid, level)
    weights = _weights(p, scale, grid.smooth, directional, _point(directions, point, count))
    features = grid.features
    for f in range(features):
        g = grad[(level * features + f) * count + point]
        for c in range(8):
            wp.atomic_add(result, rows[c] * features + f, weights[c] * g)


@no_type_check
@wp.kernel
def slope_cuda(
    first: int,
    levels: int,
    count: int,
    grid: Levels,
    directional: int,
    positions: wp.array(dtype=wp.float32),
    directions: wp.array(dtype=wp.float32),
    table: wp.array(dtype=Any),
    grad: wp.array(dtype=wp.float32),
    result: wp.array(dtype=wp.float32),
):
    point = first + wp.tid()
    x = _point(positions, point, count)
    v = _point(directions, point, count)
    features = grid.features
    smooth = grid.smooth
    total = wp.vec3()
    for level in range(levels):
        scale = grid.scales[level]
        p = x * scale + wp.vec3(0.5, 0.5, 0.5)
        rows = _corners(p, grid, level)
        t = _Floats8()
        for f in range(features):
            g = grad[(level * features + f) * count + point]
            for c in range(8):
                t[c] += g * wp.float32(table[rows[c] * features + f])
        fx = p[0] - wp.floor(p[0])
        fy = p[1] - wp.floor(p[1])
        fz = p[2] - wp.floor(p[2])
        ux = _blend(fx, smooth)
        uy = _blend(fy, smooth)
        uz = _blend(fz, smooth)
        sx = scale * _blend_slope(fx, smooth)
        sy = scale * _blend_slope(fy, smooth)
        sz = scale * _blend_slope(fz, smooth)
        x00 = t[1] - t[0]
        x10 = t[3] - t[2]
        x01 = t[5] - t[4]
        x11 = t[7] - t[6]
        y0 = wp.lerp(t[2] - t[0], t[3] - t[1], ux)
        y1 = wp.lerp(t[6] - t[4], t[7] - t[5], ux)
        dx = wp.lerp(wp.lerp(x00, x10, uy), wp.lerp(x01, x11, uy), uz)
        dy = wp.lerp(y0, y1, uz)
        dz = wp.lerp(wp.lerp(t[4] - t[0], t[5] - t[1], ux), wp.lerp(t[6] - t[2], t[7] - t[3], ux), uy)
        if directional == 1:
            bend = wp.where(smooth == 1, scale * scale, 0.0)
            dxy = sx * sy * wp.lerp(x10 - x00, x11 - x01, uz)
            dxz = sx * sz * wp.lerp(x01 - x00, x11 - x10, uy)
            dyz = sy * sz * (y1 - y0)
            dxx = bend * (6.0 - 12.0 * fx) * dx
            dyy = bend * (6.0 - 12.0 * fy) * dy
            dzz = bend * (6.0 - 12.0 * fz) * dz
            total += wp.vec3(
                dxx * v[0] + dxy * v[1] + dxz * v[2], dxy * v[0] + dyy * v[1] + dyz * v[2], dxz * v[0] + dyz * v[1] + dzz * v[2]
            )
        else:
            total += wp.vec3(sx * dx, sy * dy, sz * dz)
    result[point] = total[0]
    result[count + point] = total[1]
    result[2 * count + point] = total[2]


for _dtype in (wp.float32, wp.float16):
    wp.overload(gather_cuda, {"table": wp.array(dtype=_dtype)})
    wp.overload(slope_cuda, {"table": wp.array(dtype=_dtype)})

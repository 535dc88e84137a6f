"""Texture lookups in plain PyTorch: the twin of :mod:`unrender.ops.raster.texture`, in any floating type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unrender.reference.mips import build_mips

_FACES = torch.tensor(
    [
        [[0, 0, -1], [0, -1, 0], [1, 0, 0]],
        [[0, 0, 1], [0, -1, 0], [-1, 0, 0]],
        [[1, 0, 0], [0, 0, 1], [0, 1, 0]],
        [[1, 0, 0], [0, 0, -1], [0, -1, 0]],
        [[1, 0, 0], [0, -1, 0], [0, 0, 1]],
        [[-1, 0, 0], [0, -1, 0], [0, 0, -1]],
    ]
)
"""The directions of the s, t and outward axes of the faces +x −x +y −y +z −z (OpenGL 4.6, table 8.19)."""

_SHORTEST_DIRECTION = 1e-30
"""Along the major axis, as in the kernel."""


def texture(
    texels: Float[Tensor, ...],
    uv: Float[Tensor, ...],
    uv_derivatives: Float[Tensor, ...] | None = None,
    level_bias: Float[Tensor, ...] | None = None,
    *,
    mips: Sequence[Tensor] | None = None,
    filter: Literal["auto", "nearest", "linear", "linear-mipmap-nearest", "linear-mipmap-linear"] = "auto",
    boundary: Literal["wrap", "clamp", "zero", "cube"] = "wrap",
    max_level: int | None = None,
) -> Float[Tensor, "views height width channels"]:
    """Look up every sample in every level, and add up the levels by weight; see :func:`unrender.ops.raster.texture`."""
    cube = boundary == "cube"
    if filter == "auto":
        filter = "linear" if uv_derivatives is None and level_bias is None else "linear-mipmap-linear"
    levels = [texels]
    if "mipmap" in filter:
        levels += build_mips(texels, max_level, cube=cube) if mips is None else list(mips[:max_level])
    valid = uv.isfinite().all(-1) & (uv.abs().amax(-1) >= _SHORTEST_DIRECTION if cube else True)
    safe = torch.where(valid[..., None], uv, torch.ones_like(uv))
    derivatives = None if "mipmap" not in filter else uv_derivatives
    face, st, slopes = _project(safe, derivatives) if cube else (torch.zeros_like(safe[..., 0], dtype=torch.long), safe, derivatives)
    if "mipmap" not in filter:
        values = _lookup(texels, face, st, boundary, nearest=filter == "nearest")
        return torch.where(valid[..., None], values, torch.zeros_like(values))
    level = _level(slopes, level_bias, texels.shape[-3], texels.shape[-2], len(levels) - 1)
    below = level.detach().floor()
    between = level - below if filter == "linear-mipmap-linear" else torch.zeros_like(level)
    total = texels.new_zeros(*uv.shape[:-1], texels.shape[-1])
    for k, level_texels in enumerate(levels):
        weight = torch.where(below == k, 1 - between, torch.where(below == k - 1, between, torch.zeros_like(between)))
        total = total + weight[..., None] * _lookup(level_texels, face, st, boundary, nearest=False)
    return torch.where(valid[..., None], total, torch.zeros_like(total))


def _project(
    directions: Float[Tensor, "*pixels 3"], derivatives: Float[Tensor, "*pixels 6"] | None
) -> tuple[Int[Tensor, "*pixels"], Float[Tensor, "*pixels 2"], Float[Tensor, "*pixels 4"] | None]:
    """Return the face that a direction meets, (s, t) in [0, 1] on it, and the derivatives of (s, t)."""
    size = directions.detach().abs()
    x, y, z = size.unbind(-1)
    axis = torch.where((x >= y) & (x >= z), 0, torch.where(y >= z, 1, 2))
    face = 2 * axis + (directions.detach().gather(-1, axis[..., None])[..., 0] < 0).long()
    axes = _FACES.to(directions)[face]
    s, t, major = (axes * directions[..., None, :]).sum(-1).unbind(-1)
    st = torch.stack([(s / major + 1) / 2, (t / major + 1) / 2], dim=-1)
    if derivatives is None:
        return face, st, None
    finite = derivatives.isfinite().all(-1)
    slopes = _slopes(axes, s, t, major, torch.where(finite[..., None], derivatives, 0))
    # Infinite derivatives choose the coarsest level as well, but have no gradient.
    infinite = _slopes(*(tensor.detach() for tensor in (axes, s, t, major, derivatives)))
    return face, st, torch.where(finite[..., None], slopes, infinite)


def _slopes(axes: Tensor, s: Tensor, t: Tensor, major: Tensor, derivatives: Tensor) -> Float[Tensor, "*pixels 4"]:
    """Return the derivatives of (s, t) by the chain rule. Where an axis has a zero, 0 · ∞ counts as 0."""
    parts = axes[..., None] * derivatives.unflatten(-1, (3, 2))[..., None, :, :]
    along = torch.where(axes[..., None] == 0, 0, parts).sum(-2)
    of_major = along[..., 2, :]
    slopes = [(along[..., k, :] - (value / major)[..., None] * of_major) / (2 * major[..., None]) for k, value in ((0, s), (1, t))]
    return torch.cat(slopes, dim=-1)


def _level(
    slopes: Float[Tensor, "*pixels 4"] | None, bias: Float[Tensor, "*pixels"] | None, height: int, width: int, top: int
) -> Float[Tensor, "*pixels"]:
    """Return ½ log₂ of the squared longer axis of a pixel's footprint, plus the bias, clamped.

    There is no gradient where the level is clamped or NaN.
    """
    if slopes is None:
        level = torch.zeros(()) if bias is None else bias
    else:
        sizes = slopes.new_tensor([width, width, height, height])
        longest = _longer_axis((slopes * sizes).detach())
        usable = longest.isfinite() & (longest > 0)
        unit = slopes.new_tensor([1.0, 0.0, 0.0, 0.5])  # an arbitrary footprint where there is no gradient, to keep it finite
        level = torch.where(usable, _longer_axis(torch.where(usable[..., None], slopes * sizes, unit)).log2(), longest.log2()) / 2
        level = level if bias is None else level + bias
    interior = (level > 0) & (level < top)
    clamped = level.detach().nan_to_num(nan=0.0, posinf=float(top), neginf=0.0).clamp(0, top)
    return torch.where(interior, level, clamped)


def _longer_axis(slopes: Float[Tensor, "*pixels 4"]) -> Float[Tensor, "*pixels"]:
    """Return (a + b)/2 + √((a − b)²/4 + c²), where the root of zero has no gradient."""
    sx, sy, tx, ty = slopes.unbind(-1)
    a, b, c = sx**2 + tx**2, sy**2 + ty**2, sx * sy + tx * ty
    square = (a - b) ** 2 / 4 + c**2
    circular = square == 0
    root = torch.where(circular, square.detach(), torch.where(circular, torch.ones_like(square), square).sqrt())
    return torch.where((a + b).isfinite(), (a + b) / 2 + root, a + b)


def _lookup(
    texels: Float[Tensor, ...], face: Int[Tensor, "*pixels"], st: Float[Tensor, "*pixels 2"], boundary: str, *, nearest: bool
) -> Float[Tensor, "*pixels channels"]:
    """Look up one level, nearest or bilinear.

    The texels are padded by one on every side, so that the boundary is a matter of the padding.
    """
    height, width = texels.shape[-3:-1]
    size = st.new_tensor([width, height])
    if boundary == "wrap":
        st = st - st.detach().floor()
    elif boundary == "clamp" and nearest:
        st = st.clamp(0, 1)
    padded = _pad(texels, boundary)
    view = torch.arange(st.shape[0], device=st.device).reshape(-1, 1, 1).clamp(max=texels.shape[0] - 1)
    if nearest:
        column, row = (st.detach() * size).floor().unbind(-1)
        if boundary == "wrap":
            column, row = column % width, row % height
        if boundary != "zero":
            column, row = column.clamp(0, width - 1), row.clamp(0, height - 1)
        return padded[view, face, row.clamp(-1, height).long() + 1, column.clamp(-1, width).long() + 1]
    x, y = (st * size - 0.5).unbind(-1)
    inside = torch.ones_like(x, dtype=torch.bool)
    if boundary == "clamp":
        x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    elif boundary == "zero":
        inside = (x > -1) & (x < width) & (y > -1) & (y < height)
        x, y = torch.where(inside, x, torch.zeros_like(x)), torch.where(inside, y, torch.zeros_like(y))
    i, j = x.detach().floor(), y.detach().floor()
    f, g = (x - i)[..., None], (y - j)[..., None]
    i, j = i.long() + 1, j.long() + 1
    near = (1 - f) * padded[view, face, j, i] + f * padded[view, face, j, i + 1]
    far = (1 - f) * padded[view, face, j + 1, i] + f * padded[view, face, j + 1, i + 1]
    return ((1 - g) * near + g * far) * inside[..., None]


def _pad(texels: Float[Tensor, ...], boundary: str) -> Float[Tensor, "views faces padded_height padded_width channels"]:
    """Return the texels with one more on every side, [views, faces, height + 2, width + 2, channels]."""
    if boundary == "cube":
        return _pad_cube(texels)
    height, width = texels.shape[1:3]
    rows, columns = torch.arange(-1, height + 1), torch.arange(-1, width + 1)
    if boundary == "wrap":
        padded = texels[:, rows % height][:, :, columns % width]
    else:
        padded = texels[:, rows.clamp(0, height - 1)][:, :, columns.clamp(0, width - 1)]
    if boundary == "zero":
        inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
        padded = padded * inside[..., None].to(padded)
    return padded[:, None]


def _pad_cube(texels: Float[Tensor, "views 6 side side channels"]) -> Float[Tensor, "views 6 padded padded channels"]:
    """Return each face with the adjacent rows of its four neighbors, and the mean of three texels at its corners.

    The neighbors are found by folding the centers of texels over the edge.
    """
    side = texels.shape[2]
    middle = torch.arange(side + 2).clamp(1, side) - 1
    centers = 2.0 * middle - (side - 1)
    outside = torch.arange(side + 2) - 1 - middle
    corner = (outside[:, None] * outside[None, :]) != 0
    # A step outside along s swaps s with the height of the face: the point lies on the neighbor, one texel from the edge.
    s = torch.where(outside[None, :] != 0, side * outside[None, :], centers[None, :]).expand(side + 2, -1)
    t = torch.where(outside[:, None] != 0, side * outside[:, None], centers[:, None]).expand(-1, side + 2)
    height = torch.where((outside[None, :] != 0) | (outside[:, None] != 0), side - 1.0, float(side)).expand(side + 2, -1)
    points = torch.stack([s, t, height], dim=-1) @ _FACES.float()[:, None]
    face, st, _ = _project(points, None)
    column, row = (st * side).floor().clamp(0, side - 1).long().unbind(-1)
    padded = texels[:, face, row, column]
    ends = torch.tensor([0, side + 1])
    inner = torch.tensor([1, side])
    total = padded[:, :, inner][:, :, :, inner] + padded[:, :, ends][:, :, :, inner] + padded[:, :, inner][:, :, :, ends]
    rows, columns = corner.nonzero(as_tuple=True)
    return padded.index_put((torch.arange(texels.shape[0])[:, None, None], torch.arange(6)[:, None], rows, columns),
                            (total / 3).reshape(texels.shape[0], 6, 4, texels.shape[-1]))  # fmt: skip

"""Rasterization in plain PyTorch: the twin of :mod:`unrender.ops.raster.rasterize`, in any floating type.

Every pixel is tested against every triangle. The nearest triangle is chosen in float64; weights, depth and derivatives are then computed
from its corners in the type of the positions, so that automatic differentiation gives their gradients.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unrender.ops.raster import Raster

_AT_ONCE = 2**21
"""Pairs of a triangle and a pixel that are tested together."""

_DEPTH_STEPS = 2.0**40
"""Depths distinguished between -1 and 1."""


def rasterize(
    clip_positions: Float[Tensor, "views vertices 4"] | Float[Tensor, "vertices 4"],
    faces: Int[Tensor, "faces 3"],
    resolution: tuple[int, int],
    ranges: Int[Tensor, "views 2"] | None = None,
    *,
    derivatives: bool = False,
    behind: Raster | None = None,
) -> Raster:
    """Find the nearest triangle at each pixel's center, with its weights and depth.

    λ = M⁻¹ P with P = (x_ndc, y_ndc, 1) and the corners' (x, y, w) as columns of M. The triangle covers the pixel if all λ ≥ 0; the weights
    are λ / Σ λ and the depth is Σ λ z.
    """
    height, width = resolution
    if ranges is None:
        every = clip_positions if clip_positions.ndim == 3 else clip_positions[None]
        face_ranges = [(0, faces.shape[0])] * every.shape[0]
    else:
        face_ranges = [(start, start + count) for start, count in ranges.tolist()]
        every = clip_positions[None].expand(len(face_ranges), -1, -1)
    x, y = _pixel_centers(resolution, every)
    found = []
    for view, face_range in enumerate(face_ranges):
        before = None if behind is None else (behind.face[view], behind.depth[view].detach())
        found.append(_nearest(every[view].detach().double(), faces, face_range, x.double(), y.double(), before))
    face = torch.stack(found) if found else torch.zeros(0, height, width, dtype=torch.int32, device=faces.device)
    covered = face >= 0
    corners = _corners(every, faces, face)
    a, b, c = _edges(corners)
    e = torch.where(covered[..., None], a * x[..., None] + b * y[..., None] + c, 1.0)
    total = torch.where(covered, e.sum(-1), 1.0)
    weights = torch.where(covered[..., None], e[..., :2] / total[..., None], 0.0)
    w = torch.where(covered, (e * corners[..., 3]).sum(-1), 1.0)
    depth = torch.where(covered, (e * corners[..., 2]).sum(-1) / w, 0.0)
    slopes = None
    if derivatives:
        u, v = weights.unbind(-1)
        along_x, along_y = 2.0 / width * a, 2.0 / height * b
        rows = [
            along_x[..., 0] - u * along_x.sum(-1),
            along_y[..., 0] - u * along_y.sum(-1),
            along_x[..., 1] - v * along_x.sum(-1),
            along_y[..., 1] - v * along_y.sum(-1),
        ]
        slopes = torch.where(covered[..., None], torch.stack(rows, dim=-1) / total[..., None], 0.0)
    return Raster(face, weights, depth, slopes)


def rasterize_layers(
    clip_positions: Float[Tensor, "views vertices 4"] | Float[Tensor, "vertices 4"],
    faces: Int[Tensor, "faces 3"],
    resolution: tuple[int, int],
    ranges: Int[Tensor, "views 2"] | None = None,
    *,
    layers: int,
    derivatives: bool = False,
) -> list[Raster]:
    """Rasterize the nearest triangles, those strictly behind them, and so on; surfaces at the same float32 depth count as one."""
    found: list[Raster] = []
    for _ in range(layers):
        found.append(rasterize(clip_positions, faces, resolution, ranges, derivatives=derivatives, behind=found[-1] if found else None))
    return found


def _pixel_centers(resolution: tuple[int, int], like: Tensor) -> tuple[Float[Tensor, "height width"], Float[Tensor, "height width"]]:
    height, width = resolution
    x = (2 * torch.arange(width, dtype=like.dtype, device=like.device) + 1 - width) / width
    y = (2 * torch.arange(height, dtype=like.dtype, device=like.device) + 1 - height) / height
    return x.expand(height, width), y[:, None].expand(height, width)


def _corners(
    positions: Float[Tensor, "views vertices 4"], faces: Int[Tensor, "faces 3"], face: Int[Tensor, "views height width"]
) -> Float[Tensor, "views height width 3 4"]:
    """Return the corners of the triangle at each pixel; zeros at empty pixels."""
    covered = face >= 0
    if faces.shape[0] == 0 or positions.shape[1] == 0:
        return positions.new_zeros(*face.shape, 3, 4)
    vertices = faces[face.clamp_min(0).long()].long().flatten(1)
    rows = torch.gather(positions, 1, vertices[..., None].expand(-1, -1, 4)).view(*face.shape, 3, 4)
    return torch.where(covered[..., None, None], rows, 0.0)


def _edges(corners: Float[Tensor, "*batch 3 4"]) -> tuple[Float[Tensor, "*batch 3"], Float[Tensor, "*batch 3"], Float[Tensor, "*batch 3"]]:
    """Return the coefficients of the edge functions a x + b y + c: the rows of det(M) M⁻¹."""
    x, y, _, w = corners.unbind(-1)
    x1, y1, w1 = x.roll(-1, -1), y.roll(-1, -1), w.roll(-1, -1)
    x2, y2, w2 = x.roll(-2, -1), y.roll(-2, -1), w.roll(-2, -1)
    return y1 * w2 - w1 * y2, w1 * x2 - x1 * w2, x1 * y2 - y1 * x2


def _nearest(
    positions: Float[Tensor, "vertices 4"],
    faces: Int[Tensor, "faces 3"],
    face_range: tuple[int, int],
    x: Float[Tensor, "height width"],
    y: Float[Tensor, "height width"],
    before: tuple[Int[Tensor, "height width"], Float[Tensor, "height width"]] | None,
) -> Int[Tensor, "height width"]:
    """Find the face at each pixel; -1 if there is none."""
    best = torch.full(x.shape, torch.inf, dtype=positions.dtype, device=positions.device)
    face = torch.full(x.shape, -1, dtype=torch.int32, device=positions.device)
    step = max(1, _AT_ONCE // max(1, x.numel()))
    for first in range(*face_range, step):
        last = min(first + step, face_range[1])
        covered, depth = _fragments(positions[faces[first:last].long()], x, y)
        if before is not None:
            itself = torch.arange(first, last, device=faces.device)[:, None, None] == before[0]
            covered = covered & (before[0] >= 0) & ~itself & (depth.float() > before[1].float())
        rank = torch.where(covered, (depth * (_DEPTH_STEPS / 2)).floor(), torch.inf)
        nearest, winner = rank.min(dim=0)
        nearer = nearest < best
        best = torch.where(nearer, nearest, best)
        face = torch.where(nearer, (winner + first).int(), face)
    return face


def _fragments(
    corners: Float[Tensor, "faces 3 4"], x: Float[Tensor, "height width"], y: Float[Tensor, "height width"]
) -> tuple[Bool[Tensor, "faces height width"], Float[Tensor, "faces height width"]]:
    """Tell which triangle covers which pixel's center, and compute its depth z / w there."""
    finite = corners.isfinite().flatten(1).all(1)
    a, b, c = _edges(corners)
    det = a[:, 0] * corners[:, 0, 0] + b[:, 0] * corners[:, 0, 1] + c[:, 0] * corners[:, 0, 3]
    front = det.sign()[:, None]
    a, b, c = a * front, b * front, c * front
    e = a[:, :, None, None] * x + b[:, :, None, None] * y + c[:, :, None, None]
    # A center exactly on an edge belongs to the triangle into which a step along +x, then along +y, leads.
    owns = (a > 0) | ((a == 0) & (b > 0))
    inside = ((e > 0) | ((e == 0) & owns[:, :, None, None])).all(1)
    depth = (e * corners[:, :, 2, None, None]).sum(1) / (e * corners[:, :, 3, None, None]).sum(1)
    return inside & (finite & (det != 0))[:, None, None] & (depth >= -1) & (depth <= 1), depth

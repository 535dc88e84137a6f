"""Antialiasing of silhouettes, which makes a picture depend smoothly on the position of its silhouettes.

Notation, for two neighboring pixels whose centers lie on different faces. A search starts at one center. With the line through both
centers, s and t are a vertex's coordinates along and across the line, from the start towards the other center, in pixels, times its w.
Both are linear in the vertex's clip position (x, y, w):

    s = ±(W/2 x + (W/2 − ½ − column) w),      t = H/2 y + (H/2 − ½ − row) w          (in a column x and y, W and H change places)

The line meets an edge from a, t_a > 0, to b, t_b ≤ 0, at the distance d = S / W with

    (S, W) = (t_a s_b − t_b s_a,  t_a w_b − t_b w_a)

even if one end is behind the eye. If W ≤ 0 the line does not meet the visible part. With q = s − d w the derivatives are

    ∂d/∂(s, t, w)_a = (−t_b, q_b, d t_b) / W,      ∂d/∂(s, t, w)_b = (t_a, −q_a, −d t_a) / W

A pixel's color stands for the unit interval around its center on the line. The pixel in which a silhouette crosses, at d, gets the other's
color on the part beyond: with colors c₀, c₁ and α = ½ − d (negated if the search starts from the second), c₀ += α (c₁ − c₀) if α > 0 and c₁
+= α (c₁ − c₀) otherwise. The sum over a row therefore changes with d as the area does. Edges at more than 45° to the rows count in rows,
the others in columns, so each counts once.

Two rules find the edge.

- *walk*: from the face at a center along the line, across the edge by which the line leaves it into the next face, and so on through
  the strip of faces that the line cuts, to an edge where the surface ends or turns back. Only the signs of t decide which edges the line
  crosses, and these are exact: there is no tolerance, and no crossing is lost or found twice. After a turn the walk continues, because the
  surface may turn again and reach farther: the farthest turn counts. It ends at the other pixel's face, beyond the other center, three
  pixels behind its start, or after 64 edges.
- *owner*: only the edges of the face at the center, as published in Laine et al., "Modular primitives for high-performance
  differentiable rendering" (2020), section 3.4. It misses silhouettes of other faces.

On a CPU one thread searches a band of rows and lists the crossings, which are few and applied in order. A GPU applies them where it finds
them, with atomic additions, and searches again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unrender.devices import on_cpu, thread_count
from unrender.ops.kernels.checks import Arguments, as_int32
from unrender.ops.kernels.derivatives import differentiable_once
from unrender.ops.kernels.launch import address, launch
from unrender.ops.raster._antialias_kernels import (
    Crossings,
    Picture,
    Scene,
    add_shares_kernel,
    blend_crossings_kernel,
    color_gradients_kernel,
    list_crossings_kernel,
    pixels_kernel,
    share_crossings_kernel,
)
from unrender.ops.raster.checks import checked_faces, checked_positions, checked_raster
from unrender.ops.raster.raster import Raster
from unrender.ops.raster.topology import Topology, topology_of

_BAND_ROWS = 8
"""Rows of a band on a CPU."""

_ITEMS_PER_THREAD = 4
"""Chunks of work for each thread of a CPU."""


class _Options(NamedTuple):
    """The arguments of :func:`antialias` that are not tensors."""

    walk: bool
    gradient_scale: float


class _Found(NamedTuple):
    """The crossings of all lists, one list after the other; :class:`Crossings` describes the tensors."""

    edge: Tensor
    place: Tensor
    alpha: Tensor
    first: Tensor

    def crossings(self) -> Any:
        """Describe the crossings to a kernel."""
        crossings = Crossings()
        crossings.edge, crossings.place = address(self.edge, torch.int32), address(self.place, torch.int32)
        crossings.alpha, crossings.first = address(self.alpha, torch.float32), address(self.first, torch.int64)
        return crossings


class _Antialias(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, color: Tensor, positions: Tensor, face: Tensor, depth: Tensor, faces: Tensor, across: Tensor, options: _Options
    ) -> Tensor:
        result = color.clone()
        picture = _picture(color, options)
        picture.result = address(result, torch.float32)
        scene = _scene(face.shape, positions, faces, options)
        scene.face, scene.depth = address(face, torch.int32), address(depth, torch.float32)
        scene.across = address(across, torch.int32)
        ctx.options = options
        if on_cpu(color.device):
            found = _find_crossings(scene, face.shape, color.device)
            views = face.shape[0]
            launch(blend_crossings_kernel, views, [scene, found.crossings(), picture], color.device, chunks=views)
            ctx.save_for_backward(color, positions, faces, *found)
        else:
            launch(pixels_kernel, face.numel(), [scene, picture], color.device)
            ctx.save_for_backward(color, positions, faces, face, depth, across)
        return result

    @staticmethod
    @differentiable_once("antialias")
    def backward(ctx, grad_result: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        color, positions, faces, *rest = ctx.saved_tensors
        grad_result = grad_result.contiguous()
        grad_color = grad_result.clone() if ctx.needs_input_grad[0] else None
        grad_positions = torch.zeros_like(positions) if ctx.needs_input_grad[1] else None
        picture = _picture(color, ctx.options)
        picture.grad_result, picture.grad_color = address(grad_result, torch.float32), address(grad_color, torch.float32)
        picture.grad_positions = address(grad_positions, torch.float32)
        scene = _scene(color.shape[:3], positions, faces, ctx.options)
        if on_cpu(color.device):
            found, views = _Found(*rest), color.shape[0]
            if grad_color is not None:
                launch(color_gradients_kernel, views, [scene, found.crossings(), picture], color.device, chunks=views)
            if grad_positions is not None:
                _add_position_gradients(scene, found, picture, views, grad_positions)
        else:
            face, depth, across = rest
            scene.face, scene.depth = address(face, torch.int32), address(depth, torch.float32)
            scene.across = address(across, torch.int32)
            launch(pixels_kernel, face.numel(), [scene, picture], color.device)
        return grad_color, grad_positions, *[None] * 5


def _scene(grid: Sequence[int], positions: Tensor, faces: Tensor, options: _Options) -> Any:
    """Describe a mesh to a kernel, for a raster of shape ``grid``; the raster itself is left out."""
    scene = Scene()
    scene.positions, scene.faces = address(positions, torch.float32), address(faces, torch.int32)
    scene.vertices, scene.face_count = positions.shape[-2], faces.shape[0]
    scene.view_stride = 4 * positions.shape[-2] if positions.ndim == 3 else 0
    _, scene.height, scene.width = grid
    scene.walk = int(options.walk)
    scene.band_rows, scene.bands = _BAND_ROWS, _bands(grid)
    return scene


def _picture(color: Tensor, options: _Options) -> Any:
    picture = Picture()
    picture.color = address(color, torch.float32)
    picture.channels, picture.gradient_scale = color.shape[3], options.gradient_scale
    return picture


def _bands(grid: Sequence[int]) -> int:
    """Return the number of bands of a view; each has its own list of crossings."""
    return -(-grid[1] // _BAND_ROWS)


def _chunks(lists: int) -> int:
    return min(lists, _ITEMS_PER_THREAD * thread_count())


def _find_crossings(scene: Any, grid: Sequence[int], device: torch.device) -> _Found:
    views, height, width = grid
    bands = _bands(grid)
    # Room for a crossing between any two pixels: memory that is never written costs nothing.
    room = 2 * views * height * width
    edge, place, alpha = (torch.empty(room, dtype=dtype, device=device) for dtype in (torch.int32, torch.int32, torch.float32))
    count = torch.empty(views * bands, dtype=torch.int32, device=device)
    crossings = Crossings()
    crossings.edge, crossings.place = address(edge, torch.int32), address(place, torch.int32)
    crossings.alpha, crossings.count = address(alpha, torch.float32), address(count, torch.int32)
    launch(list_crossings_kernel, views * bands, [scene, crossings], device, chunks=_chunks(views * bands))
    first = torch.cat([torch.zeros(1, dtype=torch.int64, device=device), count.cumsum(0)])
    view, band = torch.arange(views, device=device)[:, None], torch.arange(bands, device=device)
    begin = 2 * width * (view * height + band * _BAND_ROWS).flatten()
    used = torch.repeat_interleave(begin - first[:-1], count) + torch.arange(int(first[-1]), device=device)
    return _Found(edge[used], place[used], alpha[used], first)


def _add_position_gradients(scene: Any, found: _Found, picture: Any, views: int, grad_positions: Tensor) -> None:
    lists, device = found.first.shape[0] - 1, grad_positions.device
    crossings = found.crossings()
    shares = torch.empty(6 * found.edge.shape[0], dtype=torch.float32, device=device)
    launch(share_crossings_kernel, lists, [scene, crossings, picture, shares], device, chunks=_chunks(lists))
    # Views with vertices of their own are added in parallel; vertices that all views share get all shares in order.
    owners = views if grad_positions.ndim == 3 else 1
    arguments = [scene, crossings, lists // owners, shares, grad_positions.view(-1)]
    launch(add_shares_kernel, owners, arguments, device, chunks=owners)


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
    """Blend neighboring pixels across a silhouette, in proportion to its distance from their centers.

    A silhouette is an edge of the mesh at which the visible surface ends or turns back. If it crosses the
    line between two centers at the distance d from the first, the first gets the part ½ − d of the second's color if d < ½, and
    otherwise the second gets the part d − ½ of the first's.

    Differentiable in the colors, and in x, y and w of the ends of silhouette edges, through which a loss moves a silhouette. There is no
    gradient to z or to the raster. Silhouettes of surfaces between pixel centers are not found, nor are intersection lines of two surfaces.

    Args:
        color: computed at the pixel centers, with any number of channels.
        raster: of the same mesh at the same positions.
        clip_positions: homogeneous; all views share positions of shape [vertices, 4].
        faces: rows of vertices.
        topology: from :func:`~unrender.ops.raster.edge_topology`. By default it is computed, on a GPU in every call and on a CPU once for
            each of the last few meshes. On a GPU, pass it if ``faces`` stay the same.
        rule: ``"walk"`` walks through the mesh to the silhouette, however small the triangles are. ``"owner"`` tests only the edges of the
        triangle at a center, as published; it loses half of the gradient if triangles are as small as pixels.
        position_gradient_scale: multiplies the gradient to the positions.

    Raises:
        ValueError: for types other than float32, shapes that do not match, tensors on several devices, a corner that is not a vertex, a
        topology of other faces, or an unknown rule.
        RuntimeError: when its gradient is differentiated.

    A triangle whose right edge is a quarter of a pixel beyond the center of a pixel:

    >>> from unrender.ops.raster.rasterize import rasterize
    >>> corners = torch.tensor([[-4.0, -9.0, 0.0, 1.0], [0.375, -9.0, 0.0, 1.0], [0.375, 9.0, 0.0, 1.0]])
    >>> faces = torch.tensor([[0, 1, 2]])
    >>> raster = rasterize(corners[None], faces, (1, 4))
    >>> antialias((raster.face >= 0).float()[..., None], raster, corners[None], faces).flatten().tolist()
    [1.0, 1.0, 0.75, 0.0]
    """
    takes = Arguments("antialias")
    color = takes.float32(color, "color", ("views", "height", "width", "channels"))
    grid = tuple(checked_raster(takes, raster).face.shape)
    if grid != tuple(color.shape[:3]):
        wanted = "{} views of {} × {} pixels, as color has,".format(*color.shape[:3])
        raise ValueError(f"antialias takes {wanted} as the raster, got {grid[0]} of {grid[1]} × {grid[2]}")
    clip_positions = checked_positions(takes, clip_positions)
    if clip_positions.ndim == 3 and clip_positions.shape[0] != grid[0]:
        raise ValueError(f"antialias takes {grid[0]} views, as color has, as clip_positions, got {clip_positions.shape[0]} views")
    faces = checked_faces(takes, faces, clip_positions.shape[-2])
    if topology is not None:
        edges = takes.instance(topology, "topology", Topology).across
        if takes.integers(edges, "topology", ("faces", 3)).shape != faces.shape:
            found = f"one of {edges.shape[0]}"
            raise ValueError(
                f"antialias takes a topology of the {faces.shape[0]} faces as topology, got {found}: call edge_topology(faces)"
            )
    rule = takes.choice(rule, "rule", ("walk", "owner"))
    scale = takes.number(position_gradient_scale, "position_gradient_scale")
    takes.count(grid[0] * grid[1] * grid[2] * max(color.shape[3], 4), "the pixels' channels or neighbors")
    across = (topology_of(faces) if topology is None else topology).across
    if color.numel() == 0 or faces.shape[0] == 0:
        return color + clip_positions[..., :0].sum()  # an empty sum gives the positions a gradient of zeros
    face, depth = raster.face.contiguous(), raster.depth.detach().contiguous()
    corners = as_int32(faces).contiguous()
    options = _Options(rule == "walk", scale)
    return _Antialias.apply(color.contiguous(), clip_positions.contiguous(), face, depth, corners, across.contiguous(), options)

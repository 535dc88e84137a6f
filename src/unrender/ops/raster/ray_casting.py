"""Ray casting: intersections of rays with the triangles of a mesh, with a bounding volume hierarchy.

Look along a ray x(t) = o + t d. With z the axis along which d is longest, every corner p becomes the point

    p' = (p_x − o_x − (d_x / d_z) (p_z − o_z),  p_y − o_y − (d_y / d_z) (p_z − o_z))

of a plane in which the ray is the origin. The ray meets the triangle (a, b, c) if U = c' × b', V = a' × c' and W = b' × a' have the same
sign; then (U, V, W) / (U + V + W) are the barycentric weights (Woop, Benthin and Wald 2013). Here p' is computed in float64 and rounded to
float32, whose products are exact in float64. All triangles that share a corner therefore have it at the same point, and no ray slips
between them, at edges or at corners, with or without fused multiply-add.

The tree is Warp's (``warp.Bvh``, the surface area heuristic on a CPU, Morton order on a GPU) over boxes that are a few rounding errors
larger than their triangles. Warp's own ``mesh_query_ray`` tests exact boxes in float32 and loses up to one percent of the rays that are
aimed at edges. For the same reason rays that start far away are tested from where they enter the sphere around the mesh.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import torch
import warp as wp
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unrender.ops.kernels.checks import Arguments
from unrender.ops.kernels.launch import launch
from unrender.ops.kernels.native import native_sections
from unrender.ops.raster.checks import checked_faces
from unrender.printing import of_fields

wp.set_module_options({"enable_backward": False, "optimization_level": 3})

_PADDING = 1e-6
"""Margin of boxes as a share of the largest coordinate: 8 float32 roundings, more than the error of a slab test within the scene."""


@dataclass(frozen=True)
class RayHits:
    """The first triangle along every ray."""

    distance: Float[Tensor, " rays"]
    """Distance along the ray in world units, for directions of any length; infinite for a miss."""
    face: Int[Tensor, " rays"]
    """int32 row of ``faces``, -1 for a miss. At exactly equal distances the lowest row wins."""
    barycentrics: Float[Tensor, "rays 2"]
    """Weights of the triangle's first two corners, as in a :class:`unrender.ops.raster.Raster`; zero for a miss."""

    __repr__ = of_fields


@no_type_check
@wp.func_native(native_sections(__file__, "ray_casting.h").meet)
def _meet(
    corners: wp.array(dtype=wp.float32),
    origins: wp.array(dtype=wp.float32),
    units: wp.array(dtype=wp.float64),
    face: int,
    ray: int,
    nearest: wp.float64,
    hits: wp.array(dtype=wp.float64),
    faces: wp.array(dtype=wp.int32),
): ...


@no_type_check
@wp.func
def _box_component(x: wp.float64):
    """Return a float32 direction component away from zero, because slab tests divide by it."""
    y = wp.float32(x)
    if wp.abs(y) < 1.0e-20:
        y = 1.0e-20
    return y


@no_type_check
@wp.kernel
def _cast_kernel(
    first: int,
    tree: wp.uint64,
    corners: wp.array(dtype=wp.float32),
    sphere: wp.array(dtype=wp.float64),
    origins: wp.array(dtype=wp.float32),
    units: wp.array(dtype=wp.float64),
    nearest: wp.float64,
    any_hit: bool,
    hits: wp.array(dtype=wp.float64),
    faces: wp.array(dtype=wp.int32),
):
    i = first + wp.tid()
    d = wp.vec3d(units[3 * i], units[3 * i + 1], units[3 * i + 2])
    o = wp.vec3d(wp.float64(origins[3 * i]), wp.float64(origins[3 * i + 1]), wp.float64(origins[3 * i + 2]))
    if wp.isfinite(o[0] + o[1] + o[2]) and wp.length_sq(d) > wp.float64(0.5):
        to_center = wp.vec3d(sphere[0], sphere[1], sphere[2]) - o
        radius = sphere[3]
        entry = wp.max(wp.dot(to_center, d) - radius, wp.float64(0.0))
        missed_by = to_center - wp.dot(to_center, d) * d
        if wp.length_sq(missed_by) <= radius * radius:
            start = o + entry * d
            query = wp.bvh_query_ray(
                tree,
                wp.vec3(wp.float32(start[0]), wp.float32(start[1]), wp.float32(start[2])),
                wp.vec3(_box_component(d[0]), _box_component(d[1]), _box_component(d[2])),
            )
            slack = wp.float64(1.0e-6) * radius
            face = int(0)
            while wp.bvh_query_next(query, face, wp.float32(hits[3 * i] - entry + slack)):
                _meet(corners, origins, units, face, i, nearest, hits, faces)
                if any_hit and faces[i] >= 0:
                    break


class TriangleTree:
    """The triangles of a mesh in a tree of boxes, for :func:`cast_rays` and :func:`occluded`.

    Building takes about a second per million triangles on a CPU core. A tree does not follow its vertices: build a new one when they move.
    Triangles without area, or with a vertex that is not finite, are never hit; a mesh without triangles is allowed.

    Raises:
        ValueError: for other shapes, vertices that are not float32, tensors on two devices, or on a CPU a face whose vertex does not exist;
            on a GPU that triangle is never hit.
    """

    def __init__(self, vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]) -> None:
        takes = Arguments("TriangleTree")
        vertices = takes.float32(vertices, "vertices", ("vertices", 3))
        faces = checked_faces(takes, faces, vertices.shape[0])
        takes.count(9 * faces.shape[0], "the corners of the faces")
        self.vertices = vertices
        self.faces = faces
        with torch.no_grad():
            corners = _corners(vertices.detach(), faces).contiguous()
            self._corners = corners.view(-1)
            finite = corners.isfinite().all(-1).all(-1)
            safe = torch.where(finite[:, None, None], corners, torch.zeros_like(corners))
            lower, upper = safe.amin(1), safe.amax(1)
            self._sphere = vertices.new_zeros(4, dtype=torch.float64)
            self._tree: wp.Bvh | None = None
            if faces.shape[0] == 0:
                return
            lowest, highest = lower.amin(0).double(), upper.amax(0).double()
            padding = _PADDING * torch.maximum(lowest.abs().amax(), highest.abs().amax())
            self._sphere[:3] = (lowest + highest) / 2
            self._sphere[3] = 1.00001 * (highest - lowest).norm() / 2 + 4 * padding
            self._lower, self._upper = (lower - padding.float()).contiguous(), (upper + padding.float()).contiguous()
            self._tree = _build_tree(self._lower, self._upper)

    def _cast(
        self, origins: Tensor, directions: Tensor, min_distance: float, max_distance: float | Tensor, any_hit: bool
    ) -> tuple[Tensor, Tensor]:
        """Return (t, u, v) in float64 [rays, 3] and the face; a miss has t = max_distance and face -1."""
        takes = Arguments("occluded" if any_hit else "cast_rays", self.vertices.device, "the tree")
        origins = takes.float32(origins, "origins", ("rays", 3))
        rays, device = origins.shape[0], origins.device
        directions = takes.float32(directions, "directions", ((rays, "rays"), 3))
        min_distance = takes.number(min_distance, "min_distance")
        if isinstance(max_distance, Tensor):
            max_distance = takes.float32(max_distance, "max_distance", ((rays, "rays"),), ())
        else:
            max_distance = takes.number(max_distance, "max_distance", infinite=True)
        hits = torch.zeros(rays, 3, dtype=torch.float64, device=device)
        hits[:, 0] = max_distance
        faces = torch.full((rays,), -1, dtype=torch.int32, device=device)
        if self._tree is not None:
            exact = directions.detach().double()
            length = exact.norm(dim=-1, keepdim=True)
            usable = length.isfinite() & (length > 0)
            units = torch.where(usable, exact / torch.where(usable, length, 1.0), 0.0).contiguous()
            flat = [self._corners, self._sphere, origins.detach().contiguous().view(-1), units.view(-1)]
            launch(_cast_kernel, rays, [int(self._tree.id), *flat, min_distance, any_hit, hits.view(-1), faces], device,
                   chunks=(rays + 1023) // 1024)  # fmt: skip
        return hits, faces


def _build_tree(lower: Tensor, upper: Tensor) -> wp.Bvh:
    boxes = wp.from_torch(lower, dtype=wp.vec3), wp.from_torch(upper, dtype=wp.vec3)
    if lower.device.type == "cpu":
        return wp.Bvh(*boxes)
    with wp.ScopedStream(wp.stream_from_torch(torch.cuda.current_stream(lower.device))):
        return wp.Bvh(*boxes)


def _corners(vertices: Tensor, faces: Tensor) -> Tensor:
    """Return the corners of all faces, [faces, 3, 3]; NaN for a face whose vertex does not exist."""
    index, count = faces.long(), vertices.shape[0]
    if count == 0:
        return vertices.new_full((faces.shape[0], 3, 3), torch.nan)
    known = ((index >= 0) & (index < count)).all(1)
    return torch.where(known[:, None, None], vertices[index.clamp(0, count - 1)], torch.nan)


def cast_rays(
    tree: TriangleTree,
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    *,
    min_distance: float = 0.0,
    max_distance: float | Float[Tensor, " rays"] = float("inf"),
) -> RayHits:
    """Find the nearest triangle that each ray hits, from either side.

    Directions may have any length; distances are Euclidean. A ray that is not finite, or has direction zero, misses. If
    the vertices, the origins or the directions require gradients, ``distance`` and ``barycentrics`` are differentiable functions of them
    with the face held fixed, t = n · (a − o) / (n · d); the choice of the face has no derivative.

    Args:
        tree: the triangles.
        origins: in world units.
        directions: of any length but zero.
        min_distance: hits nearer than this are ignored; a value slightly above zero avoids hits of the surface on which a ray starts.
        max_distance: hits farther than this are ignored; one number for all rays or one for each.

    Raises:
        ValueError: for types other than float32, other shapes, or tensors on another device than the tree.

    >>> tree = TriangleTree(torch.tensor([[0.0, 0, 2], [4, 0, 2], [0, 4, 2]]), torch.tensor([[0, 1, 2]]))
    >>> hits = cast_rays(tree, torch.tensor([[1.0, 2, 0], [3, 3, 0]]), torch.tensor([[0.0, 0, 5], [0, 0, 5]]))
    >>> hits.distance.tolist(), hits.face.tolist(), hits.barycentrics[0].tolist()
    ([2.0, inf], [0, -1], [0.25, 0.25])
    """
    tree = Arguments("cast_rays").instance(tree, "tree", TriangleTree)
    found, face = tree._cast(origins, directions, min_distance, max_distance, any_hit=False)
    hit = face >= 0
    distance, weights = found[:, 0], found[:, 1:]
    if torch.is_grad_enabled() and (tree.vertices.requires_grad or origins.requires_grad or directions.requires_grad):
        distance, weights = _on_plane(tree, face.clamp_min(0).long(), hit, origins, directions)
    distance = torch.where(hit, distance, torch.inf).float()
    return RayHits(distance, face, torch.where(hit[:, None], weights, 0.0).float())


def occluded(
    tree: TriangleTree,
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    *,
    min_distance: float = 0.0,
    max_distance: float | Float[Tensor, " rays"] = float("inf"),
) -> Bool[Tensor, " rays"]:
    """Tell whether each ray hits anything: ``cast_rays(...).face >= 0``, but stops at the first triangle found.

    Raises:
        ValueError: for types other than float32, other shapes, or tensors on another device than the tree.

    >>> tree = TriangleTree(torch.tensor([[0.0, 0, 2], [4, 0, 2], [0, 4, 2]]), torch.tensor([[0, 1, 2]]))
    >>> up = torch.tensor([[0.0, 0, 1], [0, 0, 1]])
    >>> occluded(tree, torch.tensor([[1.0, 1, 0], [1, 1, 3]]), up).tolist()
    [True, False]
    """
    tree = Arguments("occluded").instance(tree, "tree", TriangleTree)
    return tree._cast(origins, directions, min_distance, max_distance, any_hit=True)[1] >= 0


def _on_plane(tree: TriangleTree, face: Tensor, hit: Tensor, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Compute distance and weights again in differentiable operations, for rays without a hit from an arbitrary triangle."""
    if tree.faces.shape[0] == 0 or tree.vertices.shape[0] == 0:
        nothing = (tree.vertices.sum() + origins.sum() + directions.sum()) * 0
        return nothing.expand(len(face)), nothing.expand(len(face), 2)
    away = torch.eye(3, dtype=torch.float64, device=face.device)
    corners = _corners(tree.vertices, tree.faces[face]).double()
    corners = torch.where(hit[:, None, None], corners, away)
    a, b, c = (corners - torch.where(hit[:, None], origins, 0.0).double()[:, None]).unbind(1)
    d = torch.where(hit[:, None], directions, 1.0).double()
    d = d / d.norm(dim=-1, keepdim=True)
    volumes = torch.stack([(d * torch.linalg.cross(p, q)).sum(-1) for p, q in ((b, c), (c, a), (a, b))], -1)
    weights = volumes / volumes.sum(-1, keepdim=True)
    distance = (weights * torch.stack([(p * d).sum(-1) for p in (a, b, c)], -1)).sum(-1)
    return distance, weights[:, :2]

"""Shadows and reflected light of a mesh under an environment: what prefiltered light leaves out.

For each vertex, with its normal n and the directions l of a small cube map, w(l) ∝ max(n · l, 0) dl are the weights of diffuse light, with
sum 1. Where another part of the mesh hides the direction, the light that this part reflects arrives instead of the environment's (the
radiosity of Goral et al., 1984):

    E = Σ V(l) w(l) L(l) + Σ (1 − V(l)) w(l) ρ' E',

with V = 1 for directions that are free, ρ' the base color and E' the light at the vertex that the ray hits. Light that is reflected
more than ``BOUNCES`` times is left out. The quotient E / Σ w(l) L(l), interpolated over triangles, scales diffuse light; specular light is
scaled by an estimate from the open share of the directions (Lagarde and de Rousiers, Moving Frostbite to physically based rendering, 2014,
section 4.10.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unrender.geometry.mesh import Mesh
from unrender.numerics import normalized
from unrender.ops.raster import TriangleTree, cast_rays, interpolate
from unrender.shading.cubes import cube_directions, reduced, solid_angles
from unrender.shading.gbuffer import GBuffer
from unrender.shading.lights import EnvironmentLight, PrefilteredLight
from unrender.shading.sparse import Entries, SparseMatrix, sparse_matrix

BOUNCES = 2
"""Reflections between parts of the mesh."""
_SIZES = (16, 8)
"""Texels along an edge of the cube map of directions, and for meshes of many vertices."""
_MANY = 30_000
"""Vertices from which a mesh has many."""
_STEP = 2
"""Texels that are hidden in part are divided into this many along an edge: lamps cast shadows with edges."""
_NEAREST = 1e-3
"""Distance below which a ray hits nothing, as a share of the mesh's size: the surface on which it starts."""
_DARKEST = 1e-4
"""Radiance below which the light that arrives without shadows counts as no smaller: the quotient stays finite."""
_AT_ONCE = 1_024
"""Vertices whose rays are cast together."""


@dataclass(frozen=True)
class LightTransport:
    """The light that reaches each vertex of a mesh, from every direction and from other vertices.

    Few directions are hidden, so these are stored instead of the visible ones: w V = w − w (1 − V). Directions are the texels of a cube
    map, and those of a finer one for texels that are hidden in part.
    """

    faces: Int[Tensor, "faces 3"]
    free: Float[Tensor, "vertices directions"]
    """Weights w of the texels, as if there were no other parts."""
    hidden: SparseMatrix
    """w (1 − V) [vertices, texels and finer ones]. A finer texel has the cosine of its texel, and the share of its solid angle."""
    exchanged: SparseMatrix
    """Weight of the directions in which a vertex sees another one from outside [vertices, vertices]."""
    openness: Float[Tensor, " vertices"]
    """Share of the light that arrives at each vertex under a constant environment: its ambient occlusion."""

    @property
    def size(self) -> int:
        """Texels along an edge of the cube map."""
        return math.isqrt(self.free.shape[1] // 6)


@torch.no_grad()
def light_transport(mesh: Mesh) -> LightTransport:
    """Cast rays from all vertices of a mesh, to the directions in front of their normals.

    First to the texels of a cube map, 16 along an edge, or 8 for a mesh of more than 30,000 vertices; then to the parts of those of which
    not all neighbors are hidden or all free. Takes about six seconds per 10,000 vertices on two cores, or two and a half.

    Args:
        mesh: with or without vertex normals.
    """
    mesh = mesh if mesh.normals is not None else mesh.with_vertex_normals()
    assert mesh.normals is not None
    vertices, faces, normals = mesh.vertices.detach(), mesh.faces, mesh.normals.detach()
    device = vertices.device
    size = _SIZES[len(vertices) > _MANY]
    whole, part = (normalized(cube_directions(along, device=device).reshape(-1, 3)) for along in (size, _STEP * size))
    angles = solid_angles(size, device=device).expand(6, -1, -1).reshape(-1)
    free = (normals @ whole.T).clamp_min_(0).mul_(angles)
    free /= free.sum(-1, keepdim=True).clamp_min(_DARKEST)
    around, parts, share = (table.to(device) for table in _neighbors_and_parts(size))
    low, high = mesh.bounding_box
    tree, nearest = TriangleTree(vertices, faces), _NEAREST * float((high - low).max())

    def seen_from(vertex: Int[Tensor, " rays"], towards: Float[Tensor, "rays 3"]) -> Int[Tensor, " rays"]:
        """Return the vertex nearest to where each ray meets the mesh, -1 where it meets nothing."""
        hits = cast_rays(tree, vertices[vertex], towards, min_distance=nearest)
        weights = torch.cat([hits.barycentrics, 1 - hits.barycentrics.sum(-1, keepdim=True)], -1)
        corners = faces[hits.face.long().clamp_min(0)].long()
        return torch.where(hits.face >= 0, corners.gather(-1, weights.argmax(-1, keepdim=True))[:, 0], -1)

    directions = torch.cat([whole, part])
    hidden: list[Entries] = []
    exchanged: list[Entries] = []

    def store(vertex: Tensor, column: Tensor, weight: Tensor, seen: Tensor) -> None:
        hit = (seen >= 0).nonzero()[:, 0]
        vertex, column, weight, seen = vertex[hit], column[hit], weight[hit], seen[hit]
        hidden.append((vertex, column, weight))
        outside = (normals[seen] * directions[column]).sum(-1) < 0  # the inner side reflects nothing
        exchanged.append((vertex[outside], seen[outside], weight[outside]))

    for start in range(0, len(vertices), _AT_ONCE):
        weights = free[start : start + _AT_ONCE]
        row, texel = weights.nonzero().unbind(-1)
        vertex, weight = row + start, weights[row, texel]
        seen = seen_from(vertex, whole[texel])
        blocked = torch.zeros(weights.shape[::-1], dtype=torch.bool, device=device)  # [texels, rows]: neighbors are rows
        blocked[texel, row] = seen >= 0
        front, differs = (weights.T > 0).contiguous(), torch.zeros_like(blocked)
        for neighbor in around.unbind(1):
            differs |= (blocked[neighbor] != blocked) & front[neighbor]
        at_edge = differs[texel, row]
        edge, inner = at_edge.nonzero()[:, 0], (~at_edge).nonzero()[:, 0]
        store(vertex[inner], texel[inner], weight[inner], seen[inner])
        finer, weight = parts[texel[edge]].flatten(), (weight[edge][:, None] * share[texel[edge]]).flatten()
        vertex = vertex[edge].repeat_interleave(parts.shape[1])
        store(vertex, len(whole) + finer, weight, seen_from(vertex, part[finer]))
    count = len(vertices)
    dark = sparse_matrix(hidden, (count, len(directions)), free)
    openness = (free.sum(-1, keepdim=True) - dark @ free.new_ones(len(directions), 1)).clamp_min(0)[:, 0]
    return LightTransport(faces, free, dark, sparse_matrix(exchanged, (count, count), free), openness)


@lru_cache(maxsize=len(_SIZES))
def _neighbors_and_parts(size: int) -> tuple[Int[Tensor, "texels 8"], Int[Tensor, "texels parts"], Float[Tensor, "texels parts"]]:
    """Return the eight texels nearest to each, its parts, and their shares of its solid angle."""
    directions = normalized(cube_directions(size, torch.float64).reshape(-1, 3))
    around = (directions @ directions.T).topk(9, dim=-1).indices[:, 1:]
    fine = _STEP * size

    def by_texel(table: Tensor) -> Tensor:
        return table.reshape(6, size, _STEP, size, _STEP).permute(0, 1, 3, 2, 4).reshape(-1, _STEP**2)

    angles = by_texel(solid_angles(fine, torch.float64).expand(6, -1, -1))
    return around, by_texel(torch.arange(6 * fine**2)), (angles / angles.sum(-1, keepdim=True)).float()


@dataclass(frozen=True)
class ShadowedLight:
    """A prefiltered environment with the shadows of a mesh, made by :func:`shadowed`.

    It lights the mesh's own triangles only.
    """

    light: PrefilteredLight
    faces: Int[Tensor, "faces 3"]
    shares: Float[Tensor, "views_or_1 vertices 3"]
    """Quotient of the diffuse light at each vertex and that without shadows; one for each view if the light turns with the camera."""
    openness: Float[Tensor, "vertices 1"]

    def diffuse(self, surface: GBuffer) -> Float[Tensor, "views height width 3"]:
        return self.light.diffuse(surface) * interpolate(self.shares, surface.raster, self.faces)

    def glossy(self, surface: GBuffer, exponent: Float[Tensor, "*#shape"]) -> Float[Tensor, "views height width 3"]:
        return self.light.glossy(surface, exponent)

    def specular(
        self, surface: GBuffer, roughness: Float[Tensor, "views height width"], f0: Float[Tensor, "views height width 3"]
    ) -> Float[Tensor, "views height width 3"]:
        """Scale by the open share of the lobe.

        It is max(0, min(1, (n · v + o)^e − 1 + o)) with the openness o, e = 2^(−16 α − 1) and α = roughness².
        """
        openness = interpolate(self.openness, surface.raster, self.faces)[..., 0]
        cosine = (surface.normal * surface.to_viewer).sum(-1).clamp(0, 1)
        exponent = torch.exp2(-16 * roughness.square() - 1)
        share = ((cosine + openness).clamp_min(_DARKEST) ** exponent - 1 + openness).clamp(0, 1)
        return self.light.specular(surface, roughness, f0) * share[..., None]


def shadowed(light: PrefilteredLight, transport: LightTransport, base_color: Float[Tensor, "vertices 3"]) -> ShadowedLight:
    """Return an environment with the shadows of a mesh, and the light that its parts reflect to each other.

    Gradients flow to the environment through the light that arrives directly; reflected light is taken as given.

    Args:
        light: in the axes of the world, or turning with the camera, where each view has shadows of its own.
        transport: of the mesh that is lit.
        base_color: of each vertex, linear.
    """
    whole, part = (arriving.transpose(0, 1).flatten(1) for arriving in _arriving(light.environment, transport.size))
    without = F.linear(transport.free, whole.T.contiguous())  # three times as fast as a product with as few columns
    direct = (without - transport.hidden @ torch.cat([whole, part])).clamp_min(0)
    with torch.no_grad():
        color, reflected = base_color.detach().repeat(1, direct.shape[1] // 3), torch.zeros_like(direct)
        for _ in range(BOUNCES):
            reflected = transport.exchanged @ (color * (direct + reflected))
    shares = (direct + reflected) / without.clamp_min(_DARKEST)
    return ShadowedLight(light, transport.faces, shares.unflatten(1, (-1, 3)).transpose(0, 1), transport.openness[:, None])


def _arriving(environment: EnvironmentLight, size: int) -> tuple[Float[Tensor, "views_or_1 texels 3"], Float[Tensor, "views_or_1 parts 3"]]:
    """Return the radiance from the directions of the transport; for each view, where the light turns with the camera."""
    fine = _STEP * size
    texels = reduced(environment.texels, fine)
    directions = cube_directions(fine, device=texels.device)
    if fine % texels.shape[1] == 0:  # a larger texel is as bright all over, as in the irradiance
        times = fine // texels.shape[1]
        texels = texels.repeat_interleave(times, 1).repeat_interleave(times, 2)
    else:
        texels = environment.radiance(directions)
    views = texels[None]
    if environment.light_from_world is not None:
        turned = directions.reshape(1, 1, -1, 3) @ environment.light_from_world.mT[:, None]
        views = replace(environment, texels=texels).radiance(turned)[:, 0].unflatten(1, (6, fine, fine))
    return torch.stack([reduced(view, size) for view in views]).flatten(1, 3), views.flatten(1, 3)

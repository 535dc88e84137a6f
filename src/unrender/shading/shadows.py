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

from dataclasses import dataclass, replace

import torch
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
_SIZE = 8
"""Texels along an edge of the cube map of directions."""
_NEAREST = 1e-3
"""Distance below which a ray hits nothing, as a share of the mesh's size: the surface on which it starts."""
_DARKEST = 1e-4
"""Radiance below which the light that arrives without shadows counts as no smaller: the quotient stays finite."""
_AT_ONCE = 2_048
"""Vertices whose rays are cast together."""


@dataclass(frozen=True)
class LightTransport:
    """The light that reaches each vertex of a mesh, from every direction and from other vertices.

    Few directions are hidden, so these are stored instead of the visible ones: w V = w − w (1 − V).
    """

    faces: Int[Tensor, "faces 3"]
    free: Float[Tensor, "vertices directions"]
    """Weights w of the directions, as if there were no other parts."""
    hidden: SparseMatrix
    """w (1 − V) [vertices, directions]."""
    exchanged: SparseMatrix
    """Weight of the directions in which a vertex sees another one from outside [vertices, vertices]."""
    openness: Float[Tensor, " vertices"]
    """Share of the light that arrives at each vertex under a constant environment: its ambient occlusion."""


@torch.no_grad()
def light_transport(mesh: Mesh) -> LightTransport:
    """Cast rays from all vertices of a mesh, to the directions in front of their normals.

    Takes about two seconds per 10,000 vertices on a CPU.

    Args:
        mesh: with or without vertex normals.
    """
    mesh = mesh if mesh.normals is not None else mesh.with_vertex_normals()
    vertices, faces, normals = mesh.vertices.detach(), mesh.faces, mesh.normals
    assert normals is not None
    tree = TriangleTree(vertices, faces)
    directions = normalized(cube_directions(_SIZE, device=vertices.device).reshape(-1, 3))
    angles = solid_angles(_SIZE, device=vertices.device).expand(6, -1, -1).reshape(-1)
    free = (normals.detach() @ directions.T).clamp_min(0) * angles
    free = free / free.sum(-1, keepdim=True).clamp_min(_DARKEST)
    low, high = mesh.bounding_box
    nearest = _NEAREST * float((high - low).max())
    hidden: list[Entries] = []
    exchanged: list[Entries] = []
    for start in range(0, len(vertices), _AT_ONCE):
        vertex, direction = free[start : start + _AT_ONCE].nonzero().unbind(-1)
        vertex = vertex + start
        hits = cast_rays(tree, vertices[vertex], directions[direction], min_distance=nearest)
        blocked = hits.face >= 0
        vertex, direction, face = vertex[blocked], direction[blocked], hits.face[blocked].long()
        weight = free[vertex, direction]
        hidden.append((vertex, direction, weight))
        corner = hits.barycentrics[blocked].argmax(-1, keepdim=True)
        seen = faces[face].long().gather(-1, corner)[:, 0]
        outside = (normals[seen] * directions[direction]).sum(-1) < 0  # the inner side reflects nothing
        exchanged.append((vertex[outside], seen[outside], weight[outside]))
    count = len(vertices)
    dark = sparse_matrix(hidden, (count, len(directions)), free)
    openness = (free.sum(-1, keepdim=True) - dark @ free.new_ones(len(directions), 1)).clamp_min(0)[:, 0]
    return LightTransport(faces, free, dark, sparse_matrix(exchanged, (count, count), free), openness)


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
    arriving = _arriving(light.environment)
    radiance = arriving.transpose(0, 1).flatten(1)
    without = transport.free @ radiance
    direct = (without - transport.hidden @ radiance).clamp_min(0)
    with torch.no_grad():
        color, reflected = base_color.detach().repeat(1, len(arriving)), torch.zeros_like(direct)
        for _ in range(BOUNCES):
            reflected = transport.exchanged @ (color * (direct + reflected))
    shares = (direct + reflected) / without.clamp_min(_DARKEST)
    return ShadowedLight(light, transport.faces, shares.unflatten(1, (-1, 3)).transpose(0, 1), transport.openness[:, None])


def _arriving(environment: EnvironmentLight) -> Float[Tensor, "views_or_1 directions 3"]:
    """Return the radiance from the directions of the transport; for each view, where the light turns with the camera."""
    texels = reduced(environment.texels, _SIZE)
    directions = cube_directions(_SIZE, device=texels.device)
    if environment.light_from_world is not None:
        turned = directions.reshape(1, 1, -1, 3) @ environment.light_from_world.mT[:, None]
        return replace(environment, texels=texels).radiance(turned)[:, 0]
    if texels.shape[1] != _SIZE:
        texels = environment.radiance(directions)
    return texels.reshape(1, -1, 3)

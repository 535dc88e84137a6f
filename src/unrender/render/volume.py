"""The volume renderer: a field as a callable, samples along rays and a background become a :class:`~unrender.render.rendering.Rendering`.

    C = Σ w_i c_i + (1 − Σ w_i) background,    distance = Σ w_i t_i,    normal = Σ w_i n_i

A field returns for every sample its weight w, the share of the ray's light that ends in it, its color c and its normal n. The field
computes the weights itself: :func:`~unrender.ops.rays.weights_from_density` for radiance fields,
:func:`~unrender.ops.rays.weights_from_sdf` for signed distances.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.cameras import Rays
from unrender.devices import pytorch_on_one_thread
from unrender.geometry.isosurface import extract_surface
from unrender.geometry.mesh import Mesh
from unrender.numerics import normalized
from unrender.ops.rays import Samples, composite_over, ray_chunks
from unrender.render.asset import Asset
from unrender.render.rendering import Encoding, Rendering, concatenated

_VERTICES = 2**14
"""Vertices that are colored at once."""

_FRONTAL_VIEWS = 4
"""Viewpoints from which a vertex is seen; of a single one, the borders between vertices with different ones would be visible."""


@dataclass(frozen=True)
class FieldSamples:
    """A field evaluated at the samples of a batch of rays."""

    weights: Float[Tensor, " samples"]
    """Share of the ray's light that ends in each sample."""
    color: Float[Tensor, "samples 3"]
    normal: Float[Tensor, "samples 3"] | None = None
    """Unit normals; None for a field without a surface."""


Found = TypeVar("Found", bound=FieldSamples)


def render_volume(
    field: Callable[[Samples, Rays], Found],
    samples: Samples,
    rays: Rays,
    background: Float[Tensor, "rays 3"],
    *,
    encoding: Encoding = "srgb",
) -> tuple[Rendering, Found]:
    """Composite a field along rays.

    Args:
        field: evaluates the samples; a function or a lambda will do.
        samples: intervals along the rays.
        rays: one for each pixel.
        background: color behind each ray, in the field's color space.
        encoding: the color space of the field.

    Returns:
        The rendering [rays, ...], differentiable in the field and the background, and the evaluated field, for losses on its samples.

    >>> rays = Rays(torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]]))
    >>> ray, count = torch.zeros(2, dtype=torch.int32), torch.tensor([2], dtype=torch.int32)
    >>> samples = Samples(ray, torch.tensor([1.0, 2.0]), torch.tensor([2.0, 3.0]), torch.zeros(1, dtype=torch.int32), count)
    >>> fog = lambda samples, rays: FieldSamples(torch.tensor([0.5, 0.25]), torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]))
    >>> picture, _ = render_volume(fog, samples, rays, torch.ones(1, 3))
    >>> picture.color.tolist(), picture.distance.tolist()
    ([[0.75, 0.5, 0.25]], [1.375])
    """
    found = field(samples, rays)
    color, opacity, distance, normal = composite_over(found.weights, found.color, found.normal, samples, background)
    return Rendering(color, opacity, distance, normal, encoding), found


@torch.no_grad()
def render_in_chunks(rays: Rays, render: Callable[[Rays], Rendering]) -> Rendering:
    """Render any number of rays without gradients, in chunks that fit into memory."""
    with pytorch_on_one_thread():
        return concatenated([render(chunk) for chunk in ray_chunks(rays)])


def normals_from_density(
    density: Callable[[Float[Tensor, "points 3"]], Float[Tensor, " points"]],
    rays: Rays,
    rendering: Rendering,
    step: float | Float[Tensor, " rays"],
) -> Float[Tensor, "rays 3"]:
    """Compute opacity times -∇σ / |∇σ| at the mean distance of each ray, by central differences.

    Args:
        density: or any function that grows with it, of points of the world.
        rays: one for each pixel.
        rendering: along them.
        step: distance of the differences, in world units; one for all rays or for each.
    """
    distance = rendering.distance / rendering.opacity.clamp_min(1e-6)
    places = rays.origins + distance[:, None] * rays.directions
    steps = torch.as_tensor(step, device=places.device).expand(places.shape[0])
    offsets = torch.eye(3, device=places.device)[:, None] * steps[:, None]
    taps = torch.cat([places + offset for offset in (*offsets, *-offsets)])
    ahead, back = density(taps).reshape(2, 3, -1)
    return torch.nn.functional.normalize((back - ahead).t(), dim=-1) * rendering.opacity[:, None]


def asset_of_density(
    density: Callable[[Float[Tensor, "points 3"]], Float[Tensor, " points"]],
    color: Callable[[Float[Tensor, "points 3"], Float[Tensor, "points 3"]], Float[Tensor, "points 3"]],
    viewpoints: Float[Tensor, "views 3"],
    *,
    length: float,
    resolution: int,
    largest_only: bool,
) -> Asset:
    """Return the surface on which a length absorbs half of the light, colored as the fitted views see it.

    Args:
        density: of points in world space, in inverse world units.
        color: as :func:`color_vertices` takes it.
        viewpoints: positions of the cameras, on the device of the field.
        length: in world units: about twice the distance of its samples, since a field knows no finer border.
        resolution: cells along each side of the cube.
        largest_only: keep only the largest piece.
    """
    mesh = extract_surface(density, resolution=resolution, level=math.log(2) / length, keep_above=True, device=viewpoints.device)
    if mesh.is_empty:
        return Asset(mesh)
    left_out = mesh.component_count - 1 if largest_only else 0
    mesh = (mesh.largest_component() if largest_only else mesh).with_vertex_normals()
    return Asset(color_vertices(mesh, color, viewpoints), left_out=left_out)


@torch.no_grad()
def color_vertices(
    mesh: Mesh,
    color: Callable[[Float[Tensor, "points 3"], Float[Tensor, "points 3"]], Float[Tensor, "points 3"]],
    viewpoints: Float[Tensor, "views 3"] | None = None,
) -> Mesh:
    """Return the mesh with the colors of a field at its vertices, as the fitted views see them.

    A field knows its colors only along directions from which a photo was taken. The color of a vertex is therefore its mean as seen from
    the few viewpoints that look at it most frontally.

    Args:
        mesh: has vertex normals.
        color: returns sRGB of surface points, each seen along a unit direction away from the viewer.
        viewpoints: positions of the cameras; without any, vertices are seen along their normals.
    """
    assert mesh.normals is not None
    colors = []
    for points, normals in zip(mesh.vertices.split(_VERTICES), mesh.normals.split(_VERTICES), strict=True):
        if viewpoints is None or len(viewpoints) == 0:
            colors.append(color(points, -normals))
            continue
        cosines = (normals @ viewpoints.T - (normals * points).sum(-1, keepdim=True)) / torch.cdist(points, viewpoints)
        chosen = cosines.topk(min(_FRONTAL_VIEWS, len(viewpoints)), dim=1).indices
        seen = [color(points, normalized(points - viewpoints[view])) for view in chosen.unbind(1)]
        colors.append(torch.stack(seen).mean(0))
    return mesh.with_colors(torch.cat(colors))

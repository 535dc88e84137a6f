"""The surface renderer: mesh, material, lights and cameras become a :class:`~unrender.render.rendering.Rendering`.

For each of ``layers`` peeled surfaces: ``rasterize`` finds the triangle at every pixel, ``interpolate`` computes a
:class:`~unrender.shading.gbuffer.GBuffer`, and the material turns that into color and opacity. From the farthest layer to the nearest,
with straight color c and opacity α,

    C ← α c + (1 − α) C,    A ← α + (1 − α) A,

each followed by ``antialias`` at that layer's silhouettes, which provides the gradients of visibility. Distances and normals are composited
like colors. The result is C + (1 − A) background.

Everything is differentiable with respect to vertices, vertex attributes, textures, lights and poses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d

from unrender.cameras import Cameras
from unrender.color import linear_from_srgb
from unrender.devices import on_cpu
from unrender.geometry.mesh import Mesh
from unrender.numerics import normalized
from unrender.ops.raster import (
    Raster,
    Topology,
    antialias,
    interpolate,
    interpolate_with_derivatives,
    rasterize,
    rasterize_layers,
    topology_of,
)
from unrender.ops.raster.checks import LARGEST_RASTER_SIDE
from unrender.render.rendering import Rendering
from unrender.shading.gbuffer import GBuffer
from unrender.shading.lights import Light
from unrender.shading.materials import Material

_PACKED_WIDTH = 256
"""Row length, in pixels, of the image that is shaded on a CPU; threads share its rows."""


def render_surface(
    mesh: Mesh,
    material: Material,
    lights: Sequence[Light],
    cameras: Cameras,
    *,
    background: Float[Tensor, "*#shape 3"] | None = None,
    samples: int = 1,
    layers: int = 1,
    antialiasing: Literal["walk", "owner"] | None = "walk",
    topology: Topology | None = None,
    depth_range: tuple[float, float] = (0.1, 100.0),
) -> Rendering:
    """Render a mesh as all cameras see it, in linear light.

    Args:
        mesh: in world units. Its vertex normals are interpolated; without them, every triangle is flat. Both sides are visible.
        material: how the surface reflects light: a function of a GBuffer and lights. It treats pixels one by one: on a CPU it gets the
        covered pixels of all views packed into one image.
        lights: any number.
        cameras: pinhole cameras of one size, the size of the pictures.
        background: linear light behind everything: one color, or an image [height, width, 3] or [views, height, width, 3], where each of
            these sizes may be one; black by default.
        samples: number along each side of a pixel: ``samples``² are shaded and averaged, each with the mip level of its own footprint.
        layers: number of peeled surfaces; those behind the first are visible through materials that are not opaque.
        antialiasing: rule at silhouettes (:func:`unrender.ops.raster.antialias`); None for plain coverage, without gradients of visibility.
        topology: ``edge_topology(mesh.faces)``; pass it when rendering the same faces repeatedly on a GPU.
        depth_range: nearest and farthest visible depth.

    Returns:
        fields of shape [views, height, width, ...].

    Raises:
        ValueError: for no cameras, cameras that differ in size, lens distortion, fewer than one sample or layer, more than 8192 samples
            along a side of the picture, or a background of another size.
    """
    _check(cameras, background, samples, layers)
    clip_positions = cameras.clip_positions(mesh.vertices, *depth_range)
    resolution = samples * cameras.height, samples * cameras.width
    rasters = rasterize_layers(clip_positions, mesh.faces, resolution, layers=layers, derivatives=mesh.uvs is not None)
    if antialiasing is not None and topology is None:
        topology = topology_of(mesh.faces)

    def antialiased(fields: Tensor, raster: Raster) -> Tensor:
        if antialiasing is None:
            return fields
        return antialias(fields, raster, clip_positions, mesh.faces, topology, rule=antialiasing)

    *nearer, farthest = rasters
    layered = antialiased(_shaded(mesh, farthest, cameras.positions, material, lights), farthest)
    for raster in reversed(nearer):
        fields = _shaded(mesh, raster, cameras.positions, material, lights)
        layered = antialiased(fields + (1 - fields[..., 3:4]) * layered, raster)
    if samples > 1:
        layered = avg_pool2d(layered.permute(0, 3, 1, 2), samples).permute(0, 2, 3, 1)
    color, opacity, distance, normal = layered[..., :3], layered[..., 3], layered[..., 4], layered[..., 5:]
    if background is not None:
        color = color + (1 - opacity)[..., None] * background
    return Rendering(color, opacity, distance, normal, encoding="linear")


def _check(cameras: Cameras, background: Tensor | None, samples: int | float, layers: int | float) -> None:
    integers = isinstance(samples, int) and isinstance(layers, int)
    if not integers or samples < 1 or layers < 1:
        raise ValueError(f"render_surface takes integers from 1 on as samples and layers, got {samples} and {layers}")
    views, height, width = len(cameras), cameras.height, cameras.width
    if samples * max(height, width) > LARGEST_RASTER_SIDE:
        raise ValueError(
            f"samples is {samples}, which makes {samples * height} x {samples * width} samples of {height} x {width} pixels,"
            f" and at most {LARGEST_RASTER_SIDE} fit along a side: use fewer samples or smaller images"
        )
    if background is None:
        return
    *sizes, channels = background.shape or (0,)
    fits = all(size in (1, wanted) for size, wanted in zip(reversed(sizes), (width, height, views), strict=False))
    if channels != 3 or len(sizes) not in (0, 2, 3) or not fits:
        raise ValueError(
            "background is one color [3], or an image [height, width, 3] or [views, height, width, 3],"
            f" got {tuple(background.shape)} for {views} views of {height} x {width} pixels"
        )


def surface_seen(mesh: Mesh, raster: Raster, eyes: Float[Tensor, "views 3"]) -> GBuffer:
    """Compute the surface points of a raster of ``mesh``, seen from the camera centers ``eyes``.

    The normals of a triangle seen from behind are flipped. Texture coordinates have derivatives if the raster has.
    """
    return _seen(mesh, raster, eyes[:, None, None])


def surface_in_texture(mesh: Mesh, resolution: tuple[int, int]) -> GBuffer:
    """Compute the surface point of every texel of the mesh's texture, for baking and painting.

    The triangles are rasterized where ``uvs`` places them, with v = 0 in row 0; the result is one view, [1, height, width, ...]. There is
    no camera: each point is seen along its own normal, from a distance of zero. Where triangles overlap in the texture, the first one wins.

    Raises:
        ValueError: for a mesh without texture coordinates.
    """
    if mesh.uvs is None or mesh.uv_faces is None:
        raise ValueError("mesh has no texture coordinates: give it uvs and uv_faces")
    zero, one = torch.zeros_like(mesh.uvs[:, :1]), torch.ones_like(mesh.uvs[:, :1])
    raster = rasterize(torch.cat([2 * mesh.uvs - 1, zero, one], dim=-1)[None], mesh.uv_faces, resolution, derivatives=True)
    position, normal, color, tangent = _inside(mesh, raster)
    own = _flat_normals(mesh, raster)
    far = torch.zeros_like(raster.depth)
    return GBuffer(raster, position, normal, normal, far, color, *_texture_coordinates(mesh, raster), tangent, own)


def _shaded(
    mesh: Mesh, raster: Raster, eyes: Float[Tensor, "views 3"], material: Material, lights: Sequence[Light]
) -> Float[Tensor, "views height width 8"]:
    """Shade one layer: return color, one, distance and normal, each multiplied by the opacity."""
    if not on_cpu(raster.face.device) or raster.face.numel() == 0:
        return _fields(_seen(mesh, raster, eyes[:, None, None]), material, lights)
    views, height, width = raster.face.shape
    pixels = (raster.face.reshape(-1) >= 0).nonzero()[:, 0]
    packed = _fields(_seen(mesh, *_packed(raster, eyes, pixels)), material, lights)
    empty = packed.new_zeros(views * height * width, packed.shape[-1])
    return empty.index_copy(0, pixels, packed.flatten(0, 2)[: len(pixels)]).view(views, height, width, -1)


def _packed(
    raster: Raster, eyes: Float[Tensor, "views 3"], pixels: Int[Tensor, " covered"]
) -> tuple[Raster, Float[Tensor, "1 rows columns 3"], Int[Tensor, "1 rows columns"]]:
    """Pack the covered pixels into one image, with the camera center and the view of each.

    A CPU shades this image, because most pixels of a picture are background. A GPU shades all pixels, because the count would synchronize.
    The last row ends with uncovered pixels.
    """
    count = len(pixels)
    rows = max(1, -(-count // _PACKED_WIDTH))
    chosen = torch.nn.functional.pad(pixels, (0, rows * _PACKED_WIDTH - count))
    views, height, width = raster.face.shape
    face = raster.face.reshape(-1)[chosen]
    face[count:] = -1

    def image(tensor: Tensor) -> Tensor:
        return tensor.flatten(0, 2)[chosen].view(1, rows, _PACKED_WIDTH, *tensor.shape[3:])

    slopes = None if raster.barycentric_derivatives is None else image(raster.barycentric_derivatives)
    seen = Raster(face.view(1, rows, _PACKED_WIDTH), image(raster.barycentrics), image(raster.depth), slopes)
    view = (chosen // (height * width)).view(1, rows, _PACKED_WIDTH)
    return seen, eyes[view], view


def _fields(surface: GBuffer, material: Material, lights: Sequence[Light]) -> Float[Tensor, "views height width 8"]:
    color, opacity = material(surface, lights)
    fields = torch.cat([color, torch.ones_like(opacity)[..., None], surface.distance[..., None], surface.normal], dim=-1)
    return torch.where(surface.covered[..., None], opacity[..., None] * fields, 0.0)


def _seen(
    mesh: Mesh,
    raster: Raster,
    eyes: Float[Tensor, "#views #height #width 3"],
    view: Int[Tensor, "views height width"] | None = None,
) -> GBuffer:
    covered = (raster.face >= 0)[..., None]
    position, normal, color, tangent = _inside(mesh, raster)
    offset = torch.where(covered, eyes - position, 1.0)  # the root below has no gradient at zero
    distance = offset.square().sum(-1, keepdim=True).sqrt()
    to_viewer = torch.where(covered, offset / distance, 0.0)
    behind = _seen_from_behind(mesh, raster, to_viewer)
    own = _flat_normals(mesh, raster)
    own = None if own is None else torch.where(behind, -own, own)
    distance = torch.where(covered, distance, 0.0)[..., 0]
    coordinates, facing = _texture_coordinates(mesh, raster), torch.where(behind, -normal, normal)
    return GBuffer(raster, position, facing, to_viewer, distance, color, *coordinates, tangent, own, view, behind[..., 0])


def _inside(
    mesh: Mesh, raster: Raster
) -> tuple[
    Float[Tensor, "views height width 3"],
    Float[Tensor, "views height width 3"],
    Float[Tensor, "views height width 3"] | None,
    Float[Tensor, "views height width 4"] | None,
]:
    """Interpolate position, unit normal, linear color and tangent at every pixel."""
    attributes = [mesh.vertices]
    if mesh.normals is not None:
        attributes.append(mesh.normals)
    if mesh.colors is not None:
        attributes.append(linear_from_srgb(mesh.colors))
    found = list(interpolate(torch.cat(attributes, dim=-1), raster, mesh.faces).split(3, dim=-1))
    position = found.pop(0)
    normal = found.pop(0) if mesh.normals is not None else interpolate(_face_normals(mesh), raster, _constant_on_faces(mesh.faces))
    tangent = None
    if mesh.tangents is not None and mesh.uv_faces is not None:
        mixed = interpolate(mesh.tangents, raster, mesh.uv_faces)
        tangent = torch.cat([normalized(mixed[..., :3]), mixed[..., 3:].sign()], -1)
    return position, normalized(normal), found.pop(0) if found else None, tangent


def _flat_normals(mesh: Mesh, raster: Raster) -> Float[Tensor, "views height width 3"] | None:
    """Return the unit normal of every pixel's triangle, for a mesh with normals and tangents."""
    if mesh.normals is None or mesh.tangents is None:
        return None
    return interpolate(_face_normals(mesh), raster, _constant_on_faces(mesh.faces))


def _texture_coordinates(
    mesh: Mesh, raster: Raster
) -> tuple[Float[Tensor, "views height width 2"] | None, Float[Tensor, "views height width 4"] | None]:
    if mesh.uvs is None or mesh.uv_faces is None:
        return None, None
    if raster.barycentric_derivatives is None:
        return interpolate(mesh.uvs, raster, mesh.uv_faces), None
    return interpolate_with_derivatives(mesh.uvs, raster, mesh.uv_faces)


def _face_normals(mesh: Mesh) -> Float[Tensor, "faces 3"]:
    """Compute unit normals.

    A triangle with an invalid corner is never drawn, and gets a finite normal.
    """
    count = mesh.vertices.shape[0]
    if count == 0:
        return mesh.vertices.new_zeros(mesh.faces.shape[0], 3)
    index = mesh.faces.long()
    exist = ((index >= 0) & (index < count)).all(-1)
    corners = mesh.vertices[index.clamp(0, count - 1)]
    sound = exist & corners.isfinite().flatten(1).all(-1)
    harmless = torch.eye(3, dtype=corners.dtype, device=corners.device)
    a, b, c = torch.where(sound[:, None, None], corners, harmless).unbind(1)
    return normalized(torch.linalg.cross(b - a, c - a))


def _constant_on_faces(faces: Int[Tensor, "faces 3"]) -> Int[Tensor, "faces 3"]:
    """Return faces with three equal corners, so that interpolation is constant on every triangle."""
    return torch.arange(faces.shape[0], dtype=faces.dtype, device=faces.device)[:, None].expand(-1, 3).contiguous()


def _seen_from_behind(mesh: Mesh, raster: Raster, to_viewer: Float[Tensor, "views height width 3"]) -> Bool[Tensor, "views height width 1"]:
    """Tell whether the eye is on the inner side of the triangle's plane."""
    with torch.no_grad():
        if mesh.is_empty:
            return torch.zeros_like(to_viewer[..., :1], dtype=torch.bool)
        outward = _face_normals(mesh)[raster.face.clamp_min(0).long()]
        return (outward * to_viewer).sum(-1, keepdim=True) < 0

"""Pictures for the report: color maps, renderings, views of a mesh, and images as ``data:`` addresses."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor

from unrender.cameras import Cameras
from unrender.color import linear_from_srgb
from unrender.files.atomic import replacing
from unrender.geometry.mesh import Mesh
from unrender.numerics import normalized
from unrender.render.asset import Asset
from unrender.render.rendering import Rendering
from unrender.render.surface import render_surface
from unrender.runs.viewpoint import UPRIGHT, Viewpoint
from unrender.shading.gbuffer import GBuffer
from unrender.shading.lights import Light
from unrender.shading.materials import ColorSource, Shaded, Texture, Unlit, VertexColor
from unrender.transforms import look_at

Picture = UInt8[ndarray, "height width 3"]

LARGEST_ERROR = 0.25
"""Mean absolute difference of the three channels at which the error map reaches its brightest color."""

DARK_TO_HOT = np.array(
    [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]],
    dtype=np.float64,
)  # fmt: skip
"""Black over purple and orange to pale yellow, even in lightness; for errors."""

BLUE_TO_YELLOW = np.array(
    [[68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142],
     [31, 158, 137], [53, 183, 121], [110, 206, 88], [181, 222, 43], [253, 231, 37]],
    dtype=np.float64,
)  # fmt: skip
"""Dark blue over green to yellow, even in lightness; for distances."""


def color_map(values: Shaped[ndarray, "height width"], anchors: Float[ndarray, "anchors 3"]) -> Picture:
    """Turn values in [0, 1] into colors, linear between the anchors; values outside take the color at the end.

    >>> color_map(np.array([[0.0, 1.0]]), DARK_TO_HOT).tolist()
    [[[0, 0, 4], [252, 255, 164]]]
    """
    place = np.clip(np.nan_to_num(values), 0.0, 1.0) * (len(anchors) - 1)
    low = np.minimum(place.astype(np.int64), len(anchors) - 2)
    share = (place - low)[..., None]
    return np.round(anchors[low] * (1.0 - share) + anchors[low + 1] * share).astype(np.uint8)


def color_picture(color: Float[Tensor, "height width 3"]) -> Picture:
    """Clamp an sRGB image to [0, 1] and return its bytes."""
    return np.round(color.detach().float().clamp(0.0, 1.0).cpu().numpy() * 255.0).astype(np.uint8)


def error_picture(color: Float[Tensor, "height width 3"], truth: Float[Tensor, "height width 3"]) -> Picture:
    """Draw the mean absolute difference over the channels, black for none, brightest from :data:`LARGEST_ERROR`."""
    error = (color.clamp(0.0, 1.0) - truth).abs().mean(dim=-1).cpu().numpy()
    return color_map(error / LARGEST_ERROR, DARK_TO_HOT)


def distance_picture(rendering: Rendering) -> tuple[Picture, tuple[float, float]]:
    """Draw the distance to the surface, dark near and bright far, and return the range shown.

    The picture fades to gray where the scene is transparent.
    """
    opacity = rendering.opacity.detach().float().clamp(0.0, 1.0).cpu().numpy()
    distance = rendering.distance.detach().float().cpu().numpy() / np.maximum(opacity, 1e-6)
    seen = distance[(opacity > 0.5) & np.isfinite(distance)]
    near, far = (float(q) for q in np.quantile(seen, [0.02, 0.98])) if seen.size else (0.0, 1.0)
    picture = color_map((distance - near) / max(far - near, 1e-6), BLUE_TO_YELLOW)
    return _over_gray(picture, opacity), (near, far)


def normal_picture(rendering: Rendering) -> Picture:
    """Draw world-frame normals as (n + 1) / 2, fading to gray where the scene is transparent."""
    normal = rendering.normal.detach().float().cpu().numpy()
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    unit = normal / np.maximum(length, 1e-6)
    return _over_gray(np.round((unit * 0.5 + 0.5) * 255.0).astype(np.uint8), np.clip(length[..., 0], 0.0, 1.0))


def _over_gray(picture: Picture, opacity: Shaped[ndarray, "height width"]) -> Picture:
    share = opacity[..., None]
    return np.round(picture * share + 128.0 * (1.0 - share)).astype(np.uint8)


def side_by_side(pictures: Sequence[UInt8[ndarray, "height _ 3"]], gap: int = 8) -> UInt8[ndarray, "height total_width 3"]:
    """Put pictures of one height beside each other, with white between them.

    >>> side_by_side([np.zeros((1, 2, 3), np.uint8), np.ones((1, 1, 3), np.uint8)], gap=1)[0, :, 0].tolist()
    [0, 0, 255, 1]
    """
    white = np.full((pictures[0].shape[0], gap, 3), 255, dtype=np.uint8)
    return np.hstack([part for picture in pictures for part in (white, picture)][1:])


def write_picture(file: Path, picture: Picture) -> None:
    """Write a picture as PNG, atomically."""
    with replacing(file) as partial:
        Image.fromarray(picture).save(partial)


def read_picture(file: Path) -> Picture:
    """Read a picture that :func:`write_picture` wrote.

    Raises:
        OSError: when the file cannot be read as a picture.
    """
    with Image.open(file) as image:
        return np.array(image.convert("RGB"))


def data_uri(picture: Picture, *, largest_side: int = 360, quality: int = 86) -> str:
    """Pack a picture as JPEG into a ``data:`` address, downscaled to at most ``largest_side`` pixels a side."""
    image = Image.fromarray(picture)
    image.thumbnail((largest_side, largest_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


_CAMERA_DISTANCE = 100.0
"""From a mesh in the unit ball: near and far parts differ in scale by one per cent each way."""

_LIGHT = (-0.4, -0.55, -0.73)
"""Towards the light, in camera axes (+X right, +Y down, +Z forward): the viewer's upper left."""

_FRONT, _BACK = (232.0, 226.0, 216.0), (120.0, 150.0, 235.0)
"""sRGB of the two sides of a triangle, 0 to 255."""


def color_source(asset: Asset) -> ColorSource | None:
    """Return the color source of a surface: its texture, else its vertex colors, else None."""
    texels = None if asset.material is None else asset.material.base_color
    if texels is not None and asset.mesh.uvs is not None:
        return Texture(texels)
    return None if asset.mesh.colors is None else VertexColor()


@torch.no_grad()
def mesh_picture(
    mesh: Mesh,
    azimuth: float,
    elevation: float,
    *,
    viewpoint: Viewpoint = UPRIGHT,
    color: ColorSource | None = None,
    size: int = 420,
) -> Picture:
    """Draw a mesh over white, from far away, filling the picture.

    Without a color source this shows the shape: flat triangles lit from the viewer's upper left, bluish from behind, so holes and flipped
    faces stand out.

    Args:
        mesh: any mesh.
        azimuth: of the viewer, degrees to the right of the viewpoint's front; from +X towards +Y by default.
        elevation: of the viewer above the horizon, degrees.
        viewpoint: the directions up and front.
        color: color source of the surface, unlit.
        size: side of the picture in pixels.
    """
    if mesh.is_empty:
        return np.full((size, size, 3), 255, dtype=np.uint8)
    mesh = _in_unit_ball(mesh)
    camera = _distant_camera(mesh.vertices, viewpoint.direction(azimuth, elevation), viewpoint.direction(azimuth, elevation + 90.0), size)
    material = Unlit(color) if color is not None else _shape_material(mesh, camera)
    rendering = render_surface(
        replace(mesh, normals=None),
        material,
        [],
        camera,
        background=mesh.vertices.new_ones(3),
        samples=2,  # antialiasing alone leaves edges between two visible triangles jagged
        depth_range=(_CAMERA_DISTANCE - 1.5, _CAMERA_DISTANCE + 1.5),
    )
    return color_picture(rendering.srgb[0])


def _in_unit_ball(mesh: Mesh) -> Mesh:
    """Return the mesh in units of half its bounding box's diagonal, centered at the origin, as float32."""
    low, high = mesh.bounding_box.detach().double()
    radius = ((high - low).norm() / 2).clamp_min(1e-30)
    return replace(mesh, vertices=((mesh.vertices.detach().double() - (low + high) / 2) / radius).float())


def _distant_camera(vertices: Float[Tensor, "vertices 3"], towards: Float[Tensor, " 3"], up: Float[Tensor, " 3"], size: int) -> Cameras:
    """Return a nearly orthographic camera in the direction ``towards``, in whose picture the vertices span 92 %."""
    towards, up = towards.to(vertices), up.to(vertices)
    pose = look_at(_CAMERA_DISTANCE * towards, torch.zeros_like(towards), up)
    plane = (vertices @ pose[:3, :3])[:, :2]
    low, high = plane.amin(0), plane.amax(0)
    pose[:3, 3] += pose[:3, :2] @ ((low + high) / 2)
    focal = 0.92 * size * _CAMERA_DISTANCE / max(float((high - low).max()), 1e-6)
    intrinsics = vertices.new_tensor([[focal, focal, size / 2, size / 2]])
    return Cameras.alike(pose[None], intrinsics, None, size, size)


def _shape_material(mesh: Mesh, camera: Cameras) -> Callable[[GBuffer, Sequence[Light]], Shaded]:
    """Return the material that shades triangles by their direction and tints those seen from behind."""
    a, b, c = mesh.vertices[mesh.faces.long()].unbind(1)
    outward = normalized(torch.linalg.cross(b - a, c - a))
    light = camera.world_from_camera[0, :3, :3] @ outward.new_tensor(_LIGHT)
    front, back = outward.new_tensor(_FRONT) / 255, outward.new_tensor(_BACK) / 255

    def shaded(surface: GBuffer, lights: Sequence[Light]) -> Shaded:
        normal = outward[surface.raster.face.clamp_min(0).long()]
        behind = (normal * surface.to_viewer).sum(-1, keepdim=True) < 0
        shade = 0.25 + 0.75 * (surface.normal @ light).clamp(0, 1)
        color = linear_from_srgb(shade[..., None] * torch.where(behind, back, front))
        return Shaded(color, torch.ones_like(shade))

    return shaded

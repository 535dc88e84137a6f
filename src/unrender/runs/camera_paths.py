"""Camera paths for videos of a scene, and their pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from unrender.cameras import Cameras, arc_cameras, interpolated_cameras, orbit_cameras, spiral_cameras
from unrender.captures.capture import Capture
from unrender.color import linear_from_srgb
from unrender.forward_facing import faces_forward
from unrender.geometry.mesh import Mesh
from unrender.numerics import normalized
from unrender.render.scene import Scene, SurfaceColor
from unrender.render.surface import render_surface
from unrender.runs.figures import color_picture
from unrender.shading.gbuffer import GBuffer
from unrender.shading.lights import Light
from unrender.shading.materials import Material, Shaded

SMALLEST_VIDEO_SIDE = 480
"""Smallest longer side of a video, in pixels; frames that were rendered smaller are enlarged."""

FEWEST_VIDEO_FRAMES = 36
SMALLEST_RENDERED_SIDE = 160
"""Smallest shorter side of a rendered frame, in pixels."""

MOST_VIDEO_RAYS = 1_500_000
"""Rays of a video of a scene that must be rendered as a volume: half a minute on two CPU cores, however many pixels the photos have."""

_WIDEST_GAP = math.radians(150.0)
"""Largest angle between neighboring cameras of a capture from all sides, seen from above."""

_INWARD = 0.7
"""Cosine between the optical axis and the direction to the middle from which a camera looks inward."""

_CHUNK = 2**16
"""Surface points that are colored at once."""


def showing_path(capture: Capture, frames: int) -> Cameras:
    """Return the path that shows a capture best.

    An orbit for photos from all sides, a spiral for photos that face one way, and for others an arc, or a path between the photos if the
    surroundings belong to the scene.
    """
    cameras = capture.cameras
    if faces_forward(cameras):
        return spiral_cameras(cameras, frames)
    azimuth = torch.atan2(cameras.positions[:, 1], cameras.positions[:, 0]).sort().values
    gaps = torch.cat([azimuth[1:] - azimuth[:-1], azimuth[:1] + 2.0 * math.pi - azimuth[-1:]])
    if float(gaps.max()) < _WIDEST_GAP and _looks_inward(cameras):
        return orbit_cameras(cameras, frames)
    return interpolated_cameras(cameras, frames) if capture.unbounded else arc_cameras(cameras, frames)


def _looks_inward(cameras: Cameras) -> bool:
    """Tell whether most cameras look at the middle of the world more than past it."""
    towards = -normalized(cameras.positions)
    return float((towards * cameras.world_from_camera[:, :3, 2]).sum(-1).median()) > _INWARD


def within_budget(path: Cameras, rays: int) -> Cameras:
    """Reduce the size, then the number of pictures of a path, to at most about this many rays."""
    too_much = len(path) * path.width * path.height / rays
    largest_factor = max(1, min(path.width, path.height) // SMALLEST_RENDERED_SIDE)
    factor = min(largest_factor, max(1, math.ceil(math.sqrt(too_much))))
    every = 2 if too_much / factor**2 > 1.5 and len(path) // 2 >= FEWEST_VIDEO_FRAMES else 1
    return path.downscaled(factor)[::every] if factor > 1 else path[::every]


def render_path(scene: Scene, cameras: Cameras, device: torch.device) -> Iterator[UInt8[Tensor, "height width 3"]]:
    """Render a camera path, one frame at a time, as sRGB bytes."""
    cameras = cameras.to(device)
    for frame in range(len(cameras)):
        with torch.no_grad():
            yield torch.from_numpy(color_picture(scene.render_view(cameras, frame).srgb))


def large_enough(path: Cameras) -> Cameras:
    """Return a path whose pictures have at least :data:`SMALLEST_VIDEO_SIDE` pixels along their longer side."""
    factor = SMALLEST_VIDEO_SIDE / max(path.width, path.height)
    return path if factor <= 1 else path.resized(round(path.width * factor), round(path.height * factor))


def render_surface_path(
    mesh: Mesh, color: SurfaceColor, cameras: Cameras, device: torch.device
) -> Iterator[UInt8[Tensor, "height width 3"]]:
    """Rasterize the surface of a scene along a camera path, over white, one frame at a time, as sRGB bytes.

    Args:
        mesh: in the normalized world.
        color: of the scene: :meth:`~unrender.render.scene.Scene.surface_color`.
        cameras: the path.
        device: of the scene.
    """
    mesh, cameras = mesh.to(device), cameras.to(device)
    farthest = float(cameras.positions.norm(dim=-1).max() + mesh.vertices.norm(dim=-1).max())
    white = torch.ones(3, device=device)
    for frame in range(len(cameras)):
        with torch.no_grad():
            rendering = render_surface(
                mesh, _as_material(color), [], cameras[frame], background=white, depth_range=(1e-3 * farthest, 1.01 * farthest)
            )
        yield torch.from_numpy(color_picture(rendering.srgb[0]))


def _as_material(color: SurfaceColor) -> Material:
    """Return the material that shows a color seen along the ray."""

    def shaded(surface: GBuffer, lights: Sequence[Light]) -> Shaded:
        points, directions = surface.position.reshape(-1, 3), -surface.to_viewer.reshape(-1, 3)
        chunks = zip(points.split(_CHUNK), directions.split(_CHUNK), strict=True)
        srgb = torch.cat([color(*chunk) for chunk in chunks]).reshape(surface.position.shape)
        return Shaded(linear_from_srgb(srgb), torch.ones_like(srgb[..., 0]))

    return shaded

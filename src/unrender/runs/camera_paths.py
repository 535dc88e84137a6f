"""Camera paths for videos of a scene, and their pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import UInt8
from torch import Tensor

from unrender.cameras import Cameras, arc_cameras, interpolated_cameras, orbit_cameras
from unrender.captures.capture import Capture
from unrender.render.scene import Scene
from unrender.runs.figures import color_picture

FEWEST_VIDEO_FRAMES = 36
SMALLEST_VIDEO_SIDE = 160
VIDEO_SHARE = 0.1
"""Share of the training time that the video may take, if that is more than :data:`VIDEO_SECONDS`."""
VIDEO_SECONDS = 20.0


def showing_path(capture: Capture, frames: int) -> Cameras:
    """Return the path that shows a capture best.

    An orbit for photos from all sides, an arc for photos from one side, and a path between the photos if the surroundings belong to the
    scene.
    """
    cameras = capture.cameras
    if capture.unbounded:
        return interpolated_cameras(cameras, frames)
    azimuth = torch.atan2(cameras.positions[:, 1], cameras.positions[:, 0]).sort().values
    gaps = torch.cat([azimuth[1:] - azimuth[:-1], azimuth[:1] + 2.0 * math.pi - azimuth[-1:]])
    around = float(gaps.max()) < math.radians(150.0)
    return orbit_cameras(cameras, frames) if around else arc_cameras(cameras, frames)


def within_budget(path: Cameras, seconds_per_ray: float | None, fit_seconds: float) -> Cameras:
    """Reduce the size, then the number of pictures of a path, to limit rendering to a share of the fit."""
    if seconds_per_ray is None:
        return path
    budget = max(VIDEO_SECONDS, VIDEO_SHARE * fit_seconds)
    too_much = seconds_per_ray * len(path) * path.width * path.height / budget
    largest_factor = max(1, min(path.width, path.height) // SMALLEST_VIDEO_SIDE)
    factor = min(largest_factor, max(1, math.ceil(math.sqrt(too_much))))
    every = 2 if too_much / factor**2 > 1.5 and len(path) // 2 >= FEWEST_VIDEO_FRAMES else 1
    return path.downscaled(factor)[::every] if factor > 1 else path[::every]


def render_path(scene: Scene, cameras: Cameras, device: torch.device) -> Iterator[UInt8[Tensor, "height width 3"]]:
    """Render a camera path, one frame at a time, as sRGB bytes."""
    cameras = cameras.to(device)
    for frame in range(len(cameras)):
        with torch.no_grad():
            yield torch.from_numpy(color_picture(scene.render_view(cameras, frame).srgb))

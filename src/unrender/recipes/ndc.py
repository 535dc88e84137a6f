"""Fits in normalized device coordinates: which captures suit them, their frame, and renderings back in the world."""

from __future__ import annotations

from dataclasses import replace

from unrender.cameras import Rays
from unrender.captures.capture import Capture
from unrender.forward_facing import NdcFrame, faces_forward
from unrender.render.rendering import Rendering

NEAREST = 0.25
"""Where samples begin in open scenes, as a share of the usual distance of the cameras from the middle of the scene."""

_BEFORE_POINTS = 0.9
"""Depth of the near plane as a share of that of the nearest points."""


def suits_ndc(capture: Capture) -> bool:
    """Tell whether a capture shows an open scene whose training views look in nearly one direction."""
    return capture.unbounded and faces_forward(capture.cameras.select(capture.split.train))


def ndc_frame(capture: Capture, near: float | None = None) -> NdcFrame:
    """Return the frame of the training views.

    Args:
        capture: the photos.
        near: depth of the near plane, in world units; by default in front of the known points or, without any, of the region of interest.
    """
    cameras = capture.cameras.select(capture.split.train)
    return NdcFrame.of(cameras, near or _nearest_depth(capture, NdcFrame.of(cameras, 1.0)))


def _nearest_depth(capture: Capture, frame: NdcFrame) -> float:
    into_camera = frame.camera_from_world[2].float()
    middle = float(into_camera[3])
    if capture.points is not None and len(capture.points) > 0:
        depths = capture.points.float() @ into_camera[:3] + into_camera[3]
        depths = depths[depths > 0]
        if len(depths) > 0:
            return _BEFORE_POINTS * float(depths.quantile(0.01))
    return max(middle - 1.0, NEAREST * abs(middle), 1e-2)


def in_world(rendering: Rendering, rays: Rays, frame: NdcFrame | None) -> Rendering:
    """Return a rendering along mapped rays with distances in the world; without a frame it has them already."""
    if frame is None:
        return rendering
    mean = rendering.distance / rendering.opacity.clamp_min(1e-6)
    return replace(rendering, distance=rendering.opacity * frame.distances(rays, mean))

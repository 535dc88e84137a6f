"""A capture with the poses that were refined with a scene."""

from __future__ import annotations

from dataclasses import replace

from unrender.captures.capture import Capture
from unrender.render.scene import Scene


def refined(capture: Capture, scene: Scene) -> Capture:
    """Return a capture with the poses that were refined with a scene; the same one if none were.

    Raises:
        ValueError: the scene was fitted to another number of photos.
    """
    if scene.poses is None:
        return capture
    count = len(scene.poses.start)
    if len(capture) != count:
        raise ValueError(f"{capture.name} has {len(capture)} photos, and the scene has refined the poses of {count}; give its own capture")
    return replace(capture, cameras=scene.poses.corrected(capture.cameras))

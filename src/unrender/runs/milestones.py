"""Progress pictures of a fit: one view, rendered at certain training times.

They are in the run's ``renders/`` as ``progress_060s.png``, color on the left and normal on the right, named by seconds of training.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray

from unrender.cameras import Cameras
from unrender.captures.capture import Capture
from unrender.recipes.fitting import Progress
from unrender.render.scene import Scene
from unrender.runs.directory import RunDirectory
from unrender.runs.display import Display
from unrender.runs.figures import Picture, color_picture, normal_picture, write_picture

MARK_SECONDS = 60
"""Training time at which every fit takes a picture, so fits can be compared."""

MARK_FRACTIONS = (0.1, 0.25, 0.5, 1.0)
"""Fractions of the budget at which pictures are taken."""

SHORTEST_GAP = 2.0
"""Smallest training time between two pictures, in seconds."""

PREVIEW_SIDE = 160
"""Longest side of a picture in pixels; rendering one takes about a second on a CPU."""


def followed_view(capture: Capture) -> int:
    """Return the view that is shown: the first held-out one, or the first fitted one if none is held out."""
    return (capture.split.test or capture.split.train)[0]


def stacked(picture: Picture) -> UInt8[ndarray, "twice_height half_width 3"]:
    """Put the left half of a picture above its right half.

    >>> stacked(np.array([[[1, 1, 1], [2, 2, 2]]], dtype=np.uint8))[..., 0].tolist()
    [[1], [2]]
    """
    return np.vstack(np.hsplit(picture, 2))


class Milestones:
    """Takes the pictures of a fit; called with every progress report, while the clock is stopped.

    Of two marks closer than :data:`SHORTEST_GAP` the first is kept, except that :data:`MARK_SECONDS` takes precedence over the end of the
    fit, and the end over other fractions. No random number is drawn.
    """

    def __init__(
        self, directory: RunDirectory, capture: Capture, device: torch.device, display: Display, *, seconds: float, fraction: float
    ) -> None:
        """Prepare to take pictures, and remove those that a resumed fit will take again.

        Args:
            directory: of the run.
            capture: what is fitted.
            device: device of the scene.
            display: for messages about pictures that cannot be taken.
            seconds: of training so far.
            fraction: of the budget used so far.
        """
        directory.drop_stages(after=seconds)
        self._view = followed_view(capture)
        cameras = capture.cameras.select([self._view])
        factor = min(math.ceil(max(cameras.width, cameras.height) / PREVIEW_SIDE), cameras.width, cameras.height)
        self._cameras = cameras.downscaled(factor).to(device)
        self._directory = directory
        self._display = display
        self._seconds = seconds
        self._fraction = fraction

    def __call__(self, progress: Progress) -> None:
        seconds, fraction = self._seconds, self._fraction
        self._seconds, self._fraction = max(seconds, progress.seconds), max(fraction, progress.fraction)
        at_mark = seconds < MARK_SECONDS <= progress.seconds
        passed = [mark for mark in MARK_FRACTIONS if fraction < mark <= progress.fraction]
        if not (at_mark or passed):
            return
        recent = [taken for taken in self._directory.stages() if progress.seconds - taken < SHORTEST_GAP]
        if recent and not at_mark and (MARK_SECONDS in recent or 1.0 not in passed):
            return
        now = int(progress.seconds)
        if self._take(progress, now):
            for taken in recent:
                if taken != now:
                    self._directory.stage_file(taken).unlink(missing_ok=True)

    def _take(self, progress: Progress, now: int) -> bool:
        """Write one picture; return False for an empty scene, whose empty tensors some PyTorch operations refuse."""
        try:
            with torch.no_grad():
                rendering = progress.scene.render_view(self._cameras_now(progress.scene), 0)
        except (RuntimeError, IndexError) as error:
            self._display.say(f"note: no picture after {now} s of training ({error})")
            return False
        self._directory.renders.mkdir(exist_ok=True)
        write_picture(self._directory.stage_file(now), np.hstack([color_picture(rendering.srgb), normal_picture(rendering)]))
        return True

    def _cameras_now(self, scene: Scene) -> Cameras:
        """Return the camera of the picture, at its pose of now if poses are refined."""
        if scene.poses is None:
            return self._cameras
        return replace(self._cameras, world_from_camera=scene.poses.poses()[self._view][None].to(self._cameras.world_from_camera))

"""How a fit came along: small pictures of one view, taken when the training clock passes certain marks.

They lie in the run's ``renders/`` as ``progress_060s.png``, color on the left and normal on the right, named by whole seconds of training.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray

from unrender.captures.capture import Capture
from unrender.recipes.fitting import Progress
from unrender.runs.directory import RunDirectory
from unrender.runs.display import Display
from unrender.runs.figures import Picture, color_picture, normal_picture, write_picture

MARK_SECONDS = 60
"""Of training: what every fit that lasts as long is compared at."""

MARK_FRACTIONS = (0.1, 0.25, 0.5, 1.0)
"""Of the budget."""

CLOSEST = 2.0
"""Seconds of training between two pictures, at least."""

LARGEST_SIDE = 160
"""Pixels of a picture; rendering one takes a second or so on a CPU."""


def shown_view(capture: Capture) -> int:
    """The view that is followed: the first held-out one, or the first fitted one where none is held out."""
    return (capture.split.test or capture.split.train)[0]


def one_above_the_other(picture: Picture) -> UInt8[ndarray, "twice_height half_width 3"]:
    """The left half of a picture above its right half.

    >>> one_above_the_other(np.array([[[1, 1, 1], [2, 2, 2]]], dtype=np.uint8))[..., 0].tolist()
    [[1], [2]]
    """
    return np.vstack(np.hsplit(picture, 2))


class Milestones:
    """Takes the pictures of one fit; called with every report of it, while its clock stands still.

    Of two marks closer than :data:`CLOSEST` the first is kept, but :data:`MARK_SECONDS` and the end go before the other fractions, and
    :data:`MARK_SECONDS` before the end. Nothing random is drawn.
    """

    def __init__(
        self, directory: RunDirectory, capture: Capture, device: torch.device, display: Display, *, seconds: float, fraction: float
    ) -> None:
        """Goes on from ``seconds`` of training and ``fraction`` of the budget; pictures taken later than that are removed."""
        directory.drop_stages(after=seconds)
        cameras = capture.cameras.select([shown_view(capture)])
        factor = min(math.ceil(max(cameras.width, cameras.height) / LARGEST_SIDE), cameras.width, cameras.height)
        self._cameras = cameras.downscaled(factor).to(device)
        self._directory = directory
        self._display = display
        self._seconds = seconds
        self._fraction = fraction

    def __call__(self, progress: Progress) -> None:
        seconds, fraction = self._seconds, self._fraction
        self._seconds, self._fraction = max(seconds, progress.seconds), max(fraction, progress.fraction)
        fixed = seconds < MARK_SECONDS <= progress.seconds
        passed = [mark for mark in MARK_FRACTIONS if fraction < mark <= progress.fraction]
        if not (fixed or passed):
            return
        near = [taken for taken in self._directory.stages() if progress.seconds - taken < CLOSEST]
        if near and not fixed and (MARK_SECONDS in near or 1.0 not in passed):
            return
        now = int(progress.seconds)
        if self._take(progress, now):
            for taken in near:
                if taken != now:
                    self._directory.stage_file(taken).unlink(missing_ok=True)

    def _take(self, progress: Progress, now: int) -> bool:
        """Whether there was something to see: PyTorch refuses some operations on the empty tensors of an empty scene."""
        try:
            with torch.no_grad():
                rendering = progress.scene.render_view(self._cameras, 0)
        except (RuntimeError, IndexError) as error:
            self._display.say(f"note: no picture after {now} s of training ({error})")
            return False
        self._directory.renders.mkdir(exist_ok=True)
        write_picture(self._directory.stage_file(now), np.hstack([color_picture(rendering.srgb), normal_picture(rendering)]))
        return True

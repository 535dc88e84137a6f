"""Where in the photos the object is looked for: a box, or a sphere among the cameras."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from unrender.captures.normalization import normalize, source_cameras
from unrender.captures.source import Source
from unrender.transforms import scale_of, similarity

Around = Callable[[int, tuple[int, int]], Float[ndarray, "rows columns"]]
"""Returns for a view and a width and height how far each pixel is from the middle of the region; 1 at its border."""

_FILLED = 0.95
"""Share of half the shorter side of the photos that the sphere fills if its radius is unknown."""


def boxed(box: tuple[float, float, float, float]) -> Around:
    """Return the distance from the middle of a box.

    It is given by left, top, right and bottom as shares of width and height.
    """
    left, top, right, bottom = box

    def around(view: int, size: tuple[int, int]) -> Float[ndarray, "rows columns"]:
        width, height = size
        x = np.abs((np.arange(width) + 0.5) / width - (left + right) / 2) / ((right - left) / 2)
        y = np.abs((np.arange(height) + 0.5) / height - (top + bottom) / 2) / ((bottom - top) / 2)
        return np.maximum(x[None, :], y[:, None]).astype(np.float32)

    return around


def sphere_in(source: Source, center: tuple[float, float, float] | None, radius: float | None) -> tuple[Around, str]:
    """Return the distance from the middle of the picture of a sphere, and the sphere in words.

    Without a center and radius these are what the files say, else the point that the cameras look at and the largest sphere around it
    that nearly all photos show whole.
    """
    region = normalize(source, None, center=center, radius=radius)
    frame = region.source_from_world
    cameras = source_cameras(source, range(len(source.images)), frame)
    distance = cameras.positions.norm(dim=-1)
    whole = source.source_from_world is not None or radius is not None
    half = 1.0
    if not whole:
        shorter = cameras.sizes.amin(1) / 2 / cameras.intrinsics[:, :2].amax(1)
        half = _FILLED * float((distance * torch.sin(torch.atan(shorter))).quantile(0.1))
    frame = frame @ similarity(torch.zeros(3, dtype=torch.float64), half, torch.eye(3, dtype=torch.float64))
    cameras = source_cameras(source, range(len(source.images)), frame)

    def around(view: int, size: tuple[int, int]) -> Float[ndarray, "rows columns"]:
        middle, depth = cameras.project(torch.zeros(1, 3), view)
        width, height = cameras.sizes[view].tolist()
        away = float(cameras.positions[view].norm())
        x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
        if away <= 1.0 or float(depth) <= 0:
            return np.full((size[1], size[0]), 0.7, np.float32)  # the camera is inside of the sphere, or looks away
        focal = float(cameras.intrinsics[view, :2].max()) * size[0] / width
        reach = focal / math.sqrt(away * away - 1)
        column, row = float(middle[0, 0]) * size[0] / width, float(middle[0, 1]) * size[1] / height
        return (np.hypot(x - column, y - row) / reach).astype(np.float32)

    place = ", ".join(f"{value:.4g}" for value in frame[:3, 3].tolist())
    return around, f"with center ({place}) and radius {scale_of(frame):.4g} of the frame of the poses; --center and --radius change it"

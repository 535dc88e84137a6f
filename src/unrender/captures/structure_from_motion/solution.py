"""What structure from motion found: poses, lenses, points and where the photos see them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8


@dataclass(frozen=True)
class Solution:
    """A solved model, in the frame and scale of the solver; camera axes are OpenCV's, pixel centers at +0.5."""

    names: tuple[str, ...]
    """File names of the registered photos, sorted."""
    camera_from_world: Float[np.ndarray, "views 4 4"]
    lens_of_view: Int[np.ndarray, " views"]
    lenses: Float[np.ndarray, "lenses 8"]
    """fx, fy, cx, cy, k1, k2, p1, p2 in pixels."""
    sizes: Int[np.ndarray, "lenses 2"]
    """Width and height."""
    points: Float[np.ndarray, "points 3"]
    colors: UInt8[np.ndarray, "points 3"]
    observations: Int[np.ndarray, "observed 3"]
    """View, point, and number of the feature in its photo."""
    pixels: Float[np.ndarray, "observed 2"]
    """Where the photos show the points."""
    focal_rise: float = float("nan")
    """Share by which the mean error rises, at least, with focal lengths a fifth less or a quarter more; NaN if unknown."""

    @classmethod
    def read(cls, file: Path) -> Solution:
        """Read the file that the solver wrote."""
        with np.load(file, allow_pickle=False) as arrays:
            names = tuple(arrays["names"].tolist())
            rise = float(arrays["focal_rise"])
            return cls(names=names, focal_rise=rise, **{name: arrays[name] for name in arrays.files if name not in ("names", "focal_rise")})

    @property
    def world_from_camera(self) -> Float[np.ndarray, "views 4 4"]:
        """The poses of the cameras."""
        rotation = np.swapaxes(self.camera_from_world[:, :3, :3], 1, 2)
        poses = np.tile(np.eye(4), (len(self.names), 1, 1))
        poses[:, :3, :3] = rotation
        poses[:, :3, 3] = -(rotation @ self.camera_from_world[:, :3, 3:])[..., 0]
        return poses

    def errors(self) -> Float[np.ndarray, " observed"]:
        """Return the distance in pixels between each observation and the projection of its point."""
        view, point = self.observations[:, 0], self.observations[:, 1]
        pose, lens = self.camera_from_world[view], self.lenses[self.lens_of_view[view]]
        local = (pose[:, :3, :3] @ self.points[point][:, :, None])[..., 0] + pose[:, :3, 3]
        return np.linalg.norm(_projected(local, lens) - self.pixels, axis=-1)

    def mean_of_views(
        self, values: Float[np.ndarray, " observed"], chosen: Bool[np.ndarray, " observed"] | None = None
    ) -> Float[np.ndarray, " views"]:
        """Return the mean over the observations of each view; NaN for a view without any."""
        view = self.observations[:, 0] if chosen is None else self.observations[chosen, 0]
        values = values if chosen is None else values[chosen]
        count = np.bincount(view, minlength=len(self.names)).astype(np.float64)
        total = np.bincount(view, values, minlength=len(self.names))
        return np.divide(total, count, out=np.full(len(self.names), np.nan), where=count > 0)


def _projected(local: Float[np.ndarray, "n 3"], lens: Float[np.ndarray, "n 8"]) -> Float[np.ndarray, "n 2"]:
    """Project points in camera space through OpenCV's lens model."""
    fx, fy, cx, cy, k1, k2, p1, p2 = lens.T
    depth = np.where(np.abs(local[:, 2]) > 1e-12, local[:, 2], 1e-12)
    x, y = local[:, 0] / depth, local[:, 1] / depth
    square = x * x + y * y
    radial = 1 + k1 * square + k2 * square * square
    across = x * radial + 2 * p1 * x * y + p2 * (square + 2 * x * x)
    down = y * radial + p1 * (square + 2 * y * y) + 2 * p2 * x * y
    return np.stack([fx * across + cx, fy * down + cy], -1)

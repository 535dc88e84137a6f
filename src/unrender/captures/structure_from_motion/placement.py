"""Where up is, and where the object is, in what structure from motion solved: its frame, origin and scale are arbitrary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from unrender.captures.normalization import nearest_to_axes
from unrender.captures.structure_from_motion.solution import Solution
from unrender.captures.upright import upward_direction_of_cameras
from unrender.transforms import rotation_between

_FLAT = 0.05
"""Cameras form a ring in a plane if their least spread is below this share of the next one."""

_WIDE = 0.25
"""Least share of the second spread in the first of a ring."""

_FOCUS = 0.75
"""Points within this share of the median distance of the cameras from the middle may belong to the object."""

_QUANTILE = 0.95
_PADDING = 1.15
_LEAST_POINTS = 50


@dataclass(frozen=True)
class Placement:
    """The frame of a capture: its +Z is up, and its origin is the center of the object."""

    capture_from_solution: Float[np.ndarray, "4 4"]
    """A rigid motion."""
    half_side: float
    """Half the side of the cube around the object."""
    up_is_from: str
    """What the upward direction follows from, for people."""


def place(solution: Solution) -> Placement:
    """Find the upward direction, and the cube around the object."""
    poses = solution.world_from_camera
    up, source = upward(poses)
    z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    rotation = rotation_between(z, torch.from_numpy(up)).T.numpy()
    center, half = object_cube(solution, rotation)
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation, -rotation @ center
    return Placement(motion, half, source)


def upward(poses: Float[np.ndarray, "views 4 4"]) -> tuple[Float[np.ndarray, " 3"], str]:
    """Return the upward direction, a unit vector, and what it follows from.

    It is that of the cameras, which people hold level. Where their upward axes cancel, it is the normal of the plane in which the cameras
    stand, on the side from which they look down.
    """
    found = upward_direction_of_cameras(torch.from_numpy(poses[:, :3, :3]))
    if found is not None:
        return found.numpy(), "the cameras, held level"
    positions = poses[:, :3, 3] - poses[:, :3, 3].mean(0)
    spreads, directions = np.linalg.eigh(positions.T @ positions / len(positions))
    if spreads[0] < _FLAT * spreads[1] and spreads[1] > _WIDE * spreads[2]:
        normal = directions[:, 0]
        return normal * (-1.0 if normal @ poses[:, :3, 2].mean(0) > 0 else 1.0), "the ring in which the cameras stand"
    return -poses[0, :3, 1], "the first photo, because the cameras do not agree"


def object_cube(solution: Solution, rotation: Float[np.ndarray, "3 3"]) -> tuple[Float[np.ndarray, " 3"], float]:
    """Return the center and half the side of a cube around the object, with the axes of ``rotation``'s rows.

    The cameras look at its middle: the point nearest to their optical axes, or the median of the points if the axes do not meet. Of the
    points near it, those that many photos see decide center and size.
    """
    poses = solution.world_from_camera
    positions = poses[:, :3, 3]
    meeting = nearest_to_axes(torch.from_numpy(poses))
    views = np.bincount(solution.observations[:, 1], minlength=len(solution.points))
    middle = np.median(solution.points[views >= 3], axis=0) if meeting is None else meeting.numpy()
    distance = float(np.median(np.linalg.norm(positions - middle, axis=1)))
    near = (np.linalg.norm(solution.points - middle, axis=1) < _FOCUS * distance) & (views >= 3)
    if near.sum() < _LEAST_POINTS:
        return middle, distance
    well_seen = near & (views >= np.median(views[near]))
    points = solution.points[well_seen] @ rotation.T
    low, high = np.quantile(points, 1 - _QUANTILE, axis=0), np.quantile(points, _QUANTILE, axis=0)
    half = float((high - low).max()) / 2 / (2 * _QUANTILE - 1) * _PADDING
    return rotation.T @ ((low + high) / 2), min(half, distance)

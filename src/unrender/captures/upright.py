"""The upward direction of a capture, which exports turn to the up axis of their format."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.transforms import scale_of

_LEVEL = 0.1
"""The right axes of cameras lie in a plane if their least spread is below this share of the next one."""

_SPREAD = 0.02
"""Least spread of right axes, of one in total, that tells a plane."""


def upward_direction(capture: Capture) -> tuple[float, float, float]:
    """Return the upward direction in the frame of the input poses, a unit vector.

    It is the capture's own, if that is known, otherwise that of its cameras, otherwise +Z of the world.
    """
    if capture.up is not None:
        return capture.up
    rotation = capture.source_from_world[:3, :3].double().cpu() / scale_of(capture.source_from_world)
    found = upward_direction_of_cameras(capture.cameras.world_from_camera[:, :3, :3].double().cpu())
    x, y, z = (rotation @ (torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64) if found is None else found)).tolist()
    return x, y, z


def upward_direction_of_cameras(rotations: Float[Tensor, "views 3 3"]) -> Float[Tensor, " 3"] | None:
    """Estimate the upward direction from the orientations of cameras (+X right, +Y down, +Z forward).

    Cameras are usually held level: their right axes r lie in the horizontal plane, so that up is the direction of least Σ (r · up)². Where
    the right axes do not span a plane, up is the mean of the cameras' upward axes, which is tilted if they all look down from one side.

    Returns:
        a unit vector, or None if the upward axes cancel.

    >>> level = torch.tensor([[[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]]).double()
    >>> [value + 0.0 for value in upward_direction_of_cameras(level).tolist()]
    [0.0, 0.0, 1.0]
    """
    mean = -rotations[:, :, 1].mean(0)
    if float(mean.norm()) < 0.1:
        return None
    mean = mean / mean.norm()
    right = rotations[:, :, 0]
    spreads, directions = torch.linalg.eigh(right.T @ right / right.shape[0])
    level = directions[:, 0] * torch.sign(torch.dot(directions[:, 0], mean))
    is_plane = bool(spreads[0] < _LEVEL * spreads[1]) and bool(spreads[1] > _SPREAD)
    return level if is_plane and float(torch.dot(level, mean)) > 0.3 else mean

"""Lens polynomials of cameras: from directions in the camera to its image plane, and back.

Notation: ``distortion`` holds k1, k2, k3, k4, p1, p2, and the image plane is z = 1 in units of the focal length; the formulas stand at
:class:`~unrender.cameras.Cameras`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.numerics import SMALLEST_LENGTH, SMALLEST_PIVOT, away_from_zero, normalized

_NEWTON_STEPS = 12
"""Convergence is quadratic: photographic lenses need 4 to 6 steps to reach float64 rounding."""
_FAR = 1e3
"""Where a point is projected that a lens cannot show: a perspective lens so many times as far out as without distortion, a fisheye at this
radius; no image is as wide."""


@torch.no_grad()
def folds(distortion: Float[Tensor, "views 6"]) -> Float[Tensor, " views"]:
    """Return the squared radius (for a fisheye the squared angle) where each lens polynomial stops rising; infinite for none.

    It is the smallest positive root t of 1 + 3 k1 t + 5 k2 t² + 7 k3 t³ + 9 k4 t⁴, as 1 / t is the largest eigenvalue of the companion
    matrix of the reversed polynomial.

    >>> folds(torch.tensor([[-0.5, 0.1, 0.0, 0.0, 0.0, 0.0], [0.1, 0.0, 0.0, 0.0, 0.0, 0.0]])).tolist()
    [1.0, inf]
    """
    rows = torch.zeros(distortion.shape[0], 4, 4, dtype=torch.float64)
    rows[:, 0] = -torch.tensor([3.0, 5.0, 7.0, 9.0]) * distortion[:, :4].to("cpu", torch.float64).nan_to_num(0.0, 0.0, 0.0)
    rows[:, 1:, :3] = torch.eye(3)
    values = torch.linalg.eigvals(rows)
    inverse = torch.where(values.imag == 0, values.real, 0.0).amax(1)
    return torch.where(inverse > 0, 1 / inverse, torch.inf).to(distortion)


def on_plane(in_camera: Float[Tensor, "points 3"]) -> Float[Tensor, "points 2"]:
    """Project points without distortion."""
    return in_camera[:, :2] / away_from_zero(in_camera[:, 2:], SMALLEST_LENGTH)


def distorted_perspective(
    in_camera: Float[Tensor, "points 3"], distortion: Float[Tensor, " 6"], fold: Float[Tensor, ""]
) -> Float[Tensor, "points 2"]:
    """Project points, those at or beyond the fold far out."""
    k1, k2, k3, k4, p1, p2 = distortion.unbind()
    plane = on_plane(in_camera)
    x, y = plane.unbind(-1)
    r = x * x + y * y
    radial = 1 + r * (k1 + r * (k2 + r * (k3 + r * k4)))
    bent = torch.stack(
        (x * radial + 2 * p1 * x * y + p2 * (r + 2 * x * x), y * radial + p1 * (r + 2 * y * y) + 2 * p2 * x * y),
        -1,
    )
    return torch.where((r >= fold)[:, None], _FAR * plane, bent)


def distorted_fisheye(
    in_camera: Float[Tensor, "points 3"], distortion: Float[Tensor, " 6"], fold: Float[Tensor, ""]
) -> Float[Tensor, "points 2"]:
    """Project points, those at or beyond the fold, and one at the center of the camera, far out.

    What is exactly behind the camera is seen in all directions; it is projected to the right.
    """
    k1, k2, k3, k4 = distortion[:4].unbind()
    radius = in_camera[:, :2].norm(dim=-1)
    theta = torch.atan2(radius, in_camera[:, 2])
    t = theta * theta
    hidden = (t >= fold) | (in_camera == 0).all(-1)
    theta_d = torch.where(hidden, _FAR, theta * (1 + t * (k1 + t * (k2 + t * (k3 + t * k4)))))
    plane = in_camera[:, :2] * (theta_d / radius.clamp_min(SMALLEST_LENGTH))[:, None]
    behind = (radius < SMALLEST_LENGTH) & (in_camera[:, 2] <= 0)
    return torch.where(behind[:, None], torch.stack((theta_d, torch.zeros_like(theta_d)), -1), plane)


def undistorted_perspective(plane: Float[Tensor, "rays 2"], distortion: Float[Tensor, "*#rays 6"]) -> Float[Tensor, "rays 3"]:
    """Invert the polynomial by Newton's method on both coordinates of the image plane, from the distorted point."""
    k1, k2, k3, k4, p1, p2 = distortion.unbind(-1)
    goal_x, goal_y = plane.unbind(-1)
    x, y = goal_x, goal_y
    for _ in range(_NEWTON_STEPS):
        r = x * x + y * y
        radial = 1 + r * (k1 + r * (k2 + r * (k3 + r * k4)))
        by_r = k1 + r * (2 * k2 + r * (3 * k3 + r * 4 * k4))
        miss_x = x * radial + 2 * p1 * x * y + p2 * (r + 2 * x * x) - goal_x
        miss_y = y * radial + p1 * (r + 2 * y * y) + 2 * p2 * x * y - goal_y
        xx = radial + 2 * x * x * by_r + 2 * p1 * y + 6 * p2 * x
        yy = radial + 2 * y * y * by_r + 6 * p1 * y + 2 * p2 * x
        xy = 2 * x * y * by_r + 2 * p1 * x + 2 * p2 * y
        determinant = away_from_zero(xx * yy - xy * xy, SMALLEST_PIVOT)
        x, y = x - (yy * miss_x - xy * miss_y) / determinant, y - (xx * miss_y - xy * miss_x) / determinant
    return normalized(torch.stack((x, y, torch.ones_like(x)), -1))


def undistorted_fisheye(plane: Float[Tensor, "rays 2"], distortion: Float[Tensor, "*#rays 6"]) -> Float[Tensor, "rays 3"]:
    """Invert the polynomial by Newton's method on the angle from the optical axis, which may exceed a right angle."""
    k1, k2, k3, k4 = distortion[..., :4].unbind(-1)
    goal = plane.norm(dim=-1)
    theta = goal.clamp(max=torch.pi)
    for _ in range(_NEWTON_STEPS):
        t = theta * theta
        miss = theta * (1 + t * (k1 + t * (k2 + t * (k3 + t * k4)))) - goal
        slope = 1 + t * (3 * k1 + t * (5 * k2 + t * (7 * k3 + t * 9 * k4)))
        theta = (theta - miss / away_from_zero(slope, SMALLEST_PIVOT)).clamp(0, torch.pi)
    sideways = plane * (torch.sin(theta) / goal.clamp_min(SMALLEST_LENGTH))[:, None]
    return normalized(torch.cat((sideways, torch.cos(theta)[:, None]), -1))

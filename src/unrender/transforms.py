"""Rotations as matrices and unit quaternions (scalar first, ``wxyz``), and the pose of a camera that looks at a point."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.numerics import normalized


def matrix_from_wxyz(wxyz: Float[Tensor, "*shape 4"]) -> Float[Tensor, "*shape 3 3"]:
    """Return the rotation matrix of a quaternion, which is normalized first; q and -q give the same matrix.

    >>> matrix_from_wxyz(torch.tensor([0.0, 0.0, 0.0, 1.0])).tolist()  # half a turn about z
    [[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    w, x, y, z = normalized(wxyz).unbind(-1)
    rows = (
        torch.stack((1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)), -1),
        torch.stack((2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)), -1),
        torch.stack((2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)), -1),
    )
    return torch.stack(rows, -2)


def wxyz_from_matrix(rotation: Float[Tensor, "*shape 3 3"]) -> Float[Tensor, "*shape 4"]:
    """Return the unit quaternion of a rotation matrix, with w >= 0.

    Each row of the symmetric matrix 4 q qᵀ is a multiple of q; the row with the largest diagonal element is the one without cancellation.

    >>> wxyz_from_matrix(torch.eye(3)).tolist()
    [1.0, 0.0, 0.0, 0.0]
    """
    m = rotation
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    outer = torch.stack(
        (
            torch.stack((1 + xx + yy + zz, wx, wy, wz), -1),
            torch.stack((wx, 1 + xx - yy - zz, xy, xz), -1),
            torch.stack((wy, xy, 1 - xx + yy - zz, yz), -1),
            torch.stack((wz, xz, yz, 1 - xx - yy + zz), -1),
        ),
        -2,
    )
    best = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)
    wxyz = normalized(outer.take_along_dim(best[..., None, None], -2).squeeze(-2))
    return torch.where(wxyz[..., :1] < 0, -wxyz, wxyz)


def slerp(
    start: Float[Tensor, "*shape 4"], end: Float[Tensor, "*shape 4"], fraction: Float[Tensor, " *#shape"] | float
) -> Float[Tensor, "*shape 4"]:
    """Interpolate unit quaternions along the shorter great arc; outside [0, 1] the arc is continued.

    sin((1 - t) θ) / sin θ start + sin(t θ) / sin θ end (Shoemake 1985); below θ = 1e-4, where sin θ cancels, the straight line.

    >>> quarter = torch.tensor([0.5, 0.0, 0.0, 0.5], dtype=torch.float64) * 2**0.5  # a quarter turn about z
    >>> half_way = slerp(torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64), quarter, 0.5)
    >>> half_way.round(decimals=4).tolist()  # an eighth of a turn: cos and sin of π/8
    [0.9239, 0.0, 0.0, 0.3827]
    """
    start, end = normalized(start), normalized(end)
    cosine = (start * end).sum(-1, keepdim=True)
    end = torch.where(cosine < 0, -end, end)
    chord = 0.5 * (end - start).norm(dim=-1, keepdim=True)
    angle = 2 * torch.asin(chord.clamp(max=1.0))
    t = torch.as_tensor(fraction, dtype=start.dtype, device=start.device)[..., None]
    sine = torch.sin(angle)
    straight = angle < 1e-4
    sine = torch.where(straight, torch.ones_like(sine), sine)
    a = torch.where(straight, 1 - t, torch.sin((1 - t) * angle) / sine)
    b = torch.where(straight, t.expand_as(angle), torch.sin(t * angle) / sine)
    return normalized(a * start + b * end)


def look_at(
    position: Float[Tensor, "*shape 3"], target: Float[Tensor, "*#shape 3"], up: Float[Tensor, "*#shape 3"]
) -> Float[Tensor, "*shape 4 4"]:
    """Return ``world_from_camera`` of a camera that looks at a target, with ``up`` upright.

    Its axes are +X right, +Y down, +Z forward. If the camera looks along ``up``, another upright direction is used.

    >>> look_at(torch.tensor([0.0, -4.0, 0.0]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))[:3, :3].tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]
    """
    forward = normalized(target - position)
    up = normalized(up).expand_as(forward)
    spare = torch.where(up[..., 1:2].abs() < 0.9, torch.tensor([0.0, 1.0, 0.0]).to(up), torch.tensor([1.0, 0.0, 0.0]).to(up))
    side = torch.linalg.cross(forward, up)
    side = torch.where(side.norm(dim=-1, keepdim=True) < 1e-4, torch.linalg.cross(forward, spare), side)
    right = normalized(side)
    down = torch.linalg.cross(forward, right)
    top = torch.stack((right, down, forward, position), -1)
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0]).to(top).expand(*top.shape[:-2], 1, 4)
    return torch.cat((top, bottom), -2)


def rotation_between(start: Float[Tensor, " 3"], end: Float[Tensor, " 3"]) -> Float[Tensor, "3 3"]:
    """Return the smallest rotation that takes one direction to another, R start = end.

    Opposite directions are half a turn about x or y apart.

    >>> z, y = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0])
    >>> (rotation_between(z, y) @ z).round(decimals=4).tolist()
    [0.0, 1.0, 0.0]
    """
    start, end = normalized(start), normalized(end)
    cosine = torch.dot(start, end)
    if cosine < -1 + 1e-12:
        axis = torch.linalg.cross(start, torch.eye(3).to(start)[0 if abs(start[0]) < 0.9 else 1])
        return matrix_from_wxyz(torch.cat((torch.zeros(1).to(axis), axis)))
    return matrix_from_wxyz(torch.cat(((1 + cosine)[None], torch.linalg.cross(start, end))))


def similarity(center: Float[Tensor, " 3"], radius: float, rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "4 4"]:
    """Return the similarity [radius rotation | center].

    >>> similarity(torch.tensor([1.0, 2.0, 3.0]), 2.0, torch.eye(3)).tolist()[0]
    [2.0, 0.0, 0.0, 1.0]
    """
    matrix = torch.eye(4).to(center)
    matrix[:3, :3] = radius * rotation
    matrix[:3, 3] = center
    return matrix


def upright(matrix: Float[Tensor, "4 4"], up: tuple[float, float, float]) -> Float[Tensor, "4 4"]:
    """Follow a similarity by the smallest rotation of ``up`` to +Z.

    >>> (upright(torch.eye(4), (0.0, -1.0, 0.0))[2, :3] + 0.0).round(decimals=5).abs().tolist()
    [0.0, 1.0, 0.0]
    """
    straight = rotation_between(torch.tensor(up, dtype=torch.float64), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    turned_matrix = matrix.double().clone()
    turned_matrix[:3] = straight @ turned_matrix[:3]
    return turned_matrix.to(matrix.dtype)


def scale_of(matrix: Float[Tensor, "4 4"]) -> float:
    """Return the factor by which a similarity scales lengths: the cube root of its determinant."""
    return float(torch.linalg.det(matrix[:3, :3])) ** (1 / 3)


def inverse_similarity(matrix: Float[Tensor, "4 4"]) -> Float[Tensor, "4 4"]:
    """Invert a similarity without the rounding of a general inverse.

    [s R | c]⁻¹ = [Rᵀ / s | -Rᵀ c / s].
    """
    linear = matrix[:3, :3].T / scale_of(matrix) ** 2
    inverse = torch.eye(4).to(matrix)
    inverse[:3, :3] = linear
    inverse[:3, 3] = -linear @ matrix[:3, 3]
    return inverse


def aligning_similarity(points: Float[Tensor, "points 3"], targets: Float[Tensor, "points 3"]) -> Float[Tensor, "4 4"]:
    """Return the similarity that takes points to targets in the least squares, in float64 (Umeyama 1991).

    Points on a line leave the rotation about it open, and equal points all of it.

    >>> points = torch.eye(3)
    >>> moved = 2 * points @ matrix_from_wxyz(torch.tensor([1.0, 0.0, 0.0, 1.0])).T + 3
    >>> bool((transformed(points.double(), aligning_similarity(points, moved)) - moved).abs().max() < 1e-6)
    True
    """
    points, targets = points.double(), targets.double()
    centered, wanted = points - points.mean(0), targets - targets.mean(0)
    left, stretch, right = torch.linalg.svd(wanted.T @ centered)
    sign = torch.ones_like(stretch)
    sign[2] = torch.sign(torch.linalg.det(left @ right))
    rotation = left @ (sign[:, None] * right)
    scale = float((stretch * sign).sum() / centered.square().sum().clamp_min(1e-30))
    return similarity(targets.mean(0) - scale * rotation @ points.mean(0), scale, rotation)


def transformed(points: Float[Tensor, "points 3"], matrix: Float[Tensor, "4 4"]) -> Float[Tensor, "points 3"]:
    """Apply a 4 x 4 matrix to points."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def rigid_motion(twist: Float[Tensor, "*shape 6"]) -> Float[Tensor, "*shape 4 4"]:
    """Return the rigid motion exp(ξ^) of a twist ξ = (v, ω), differentiable, also at zero.

    ω is the axis of the rotation times its angle; a point x moves with the velocity ω × x + v.

    >>> rigid_motion(torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0, 0.0]))[:3, 3].tolist()
    [1.0, 2.0, 3.0]
    """
    vx, vy, vz, x, y, z = twist.unbind(-1)
    zero = torch.zeros_like(x)
    rows = ((zero, -z, y, vx), (z, zero, -x, vy), (-y, x, zero, vz), (zero, zero, zero, zero))
    return torch.linalg.matrix_exp(torch.stack([torch.stack(row, -1) for row in rows], -2))


def angle_between(first: Float[Tensor, "3 3"], second: Float[Tensor, "3 3"]) -> float:
    """Return the angle of the rotation from one orientation to another, in degrees, also exact for small ones.

    >>> quarter = matrix_from_wxyz(torch.tensor([1.0, 0.0, 0.0, 1.0]))
    >>> round(angle_between(torch.eye(3), quarter), 3)
    90.0
    """
    w, *axis = wxyz_from_matrix(first.double().T @ second.double()).tolist()
    return math.degrees(2 * math.atan2(math.hypot(*axis), w))

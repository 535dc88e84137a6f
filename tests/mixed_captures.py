"""Captures of an analytic scene by cameras of several sizes and lenses, so that every ray has a color that is known."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.cameras import Cameras, Rays
from unrender.captures.capture import Capture, Split
from unrender.transforms import look_at

RADIUS = 0.7
SIZES = torch.tensor([[48, 36], [30, 44], [48, 36], [40, 40], [30, 44], [48, 36]])
FISHEYE = torch.tensor([False, False, False, True, False, True])


def mixed_cameras(dtype: torch.dtype = torch.float32) -> Cameras:
    """Six cameras around the origin: two sizes of perspective lenses, one of them distorted, and two fisheyes."""
    angle = torch.arange(6, dtype=torch.float64)
    positions = 3 * torch.stack((torch.cos(angle), torch.sin(angle), 0.3 * torch.cos(2 * angle)), -1)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    focal = torch.tensor([60.0, 55.0, 60.0, 50.0, 55.0, 62.0], dtype=torch.float64)
    intrinsics = torch.cat((focal[:, None], 0.98 * focal[:, None], SIZES.double() / 2 + 0.25), 1)
    distortion = torch.zeros(6, 6, dtype=torch.float64)
    distortion[1] = distortion[4] = torch.tensor([-0.1, 0.03, 0.0, 0.0, 0.002, -0.001])
    distortion[3, :2] = torch.tensor([0.04, -0.01])
    poses = look_at(positions, torch.zeros(3, dtype=torch.float64), up)
    return Cameras(poses.to(dtype), intrinsics.to(dtype), distortion.to(dtype), SIZES, FISHEYE)


def seen(rays: Rays) -> tuple[Float[Tensor, "rays 3"], Float[Tensor, " rays"]]:
    """Color and opacity along rays: a ball of smooth colors at the origin; black and 0 beside it."""
    along = (rays.origins * rays.directions).sum(-1)
    inside = along**2 - (rays.origins**2).sum(-1) + RADIUS**2
    hit = inside > 0
    points = rays.origins + (-along - inside.clamp_min(0).sqrt())[:, None] * rays.directions
    color = 0.5 + 0.4 * torch.sin(3 * points + torch.tensor([0.0, 1.0, 2.0], dtype=points.dtype))
    return torch.where(hit[:, None], color, 0.0), hit.to(color.dtype)


def mixed_capture(cameras: Cameras | None = None) -> Capture:
    """Photos of the ball by :func:`mixed_cameras`, with masks; two views are held out."""
    cameras = mixed_cameras() if cameras is None else cameras
    images, masks = [], []
    for view, (width, height) in enumerate(cameras.sizes.tolist()):
        color, opacity = seen(cameras.image_rays(view))
        images.append((color * 255).round().to(torch.uint8).reshape(height, width, 3))
        masks.append((opacity * 255).to(torch.uint8).reshape(height, width))
    split = Split((0, 1, 3, 5), (2, 4), "views 2 and 4 are held out")
    return Capture.from_tensors(images, cameras, masks=masks, split=split, name="mixed", fingerprint="mixed")

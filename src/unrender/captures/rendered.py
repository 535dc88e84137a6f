"""Captures whose photos are rendered: cameras on a sphere, photos with alpha, and ``transforms.json``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.capture import KnownScene, Split
from unrender.captures.source import opencv_from
from unrender.color import srgb_from_linear
from unrender.files.atomic import write_json
from unrender.transforms import scale_of


def cameras_around(
    views: int,
    size: int,
    *,
    distance: float,
    field_of_view: float,
    elevations: tuple[float, float] = (-90.0, 90.0),
    start: float = 0.0,
) -> Cameras:
    """Place cameras that look at the origin on a Fibonacci spiral, evenly spread by area, from the top down.

    Args:
        views: how many.
        size: width and height of their pictures, in pixels.
        distance: from the origin.
        field_of_view: in radians.
        elevations: the lowest and the highest, in degrees above the horizon.
        start: azimuth of the first camera, in radians.
    """
    share = (torch.arange(views, dtype=torch.float64) + 0.5) / views
    lowest, highest = (math.sin(math.radians(angle)) for angle in elevations)
    height = highest + (lowest - highest) * share
    azimuth = start + math.pi * (3 - math.sqrt(5)) * torch.arange(views, dtype=torch.float64)
    level = torch.sqrt(1 - height**2)
    outward = torch.stack([level * azimuth.cos(), level * azimuth.sin(), height], 1)
    right = torch.stack([-azimuth.sin(), azimuth.cos(), torch.zeros_like(azimuth)], 1)
    forward = -outward
    poses = torch.eye(4, dtype=torch.float64).repeat(views, 1, 1)
    poses[:, :3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=2)
    poses[:, :3, 3] = distance * outward
    focal = 0.5 * size / math.tan(0.5 * field_of_view)
    intrinsics = torch.tensor([focal, focal, size / 2, size / 2]).repeat(views, 1)
    return Cameras.alike(poses.float(), intrinsics, torch.zeros(views, 6), size, size)


def photo_of(color: Float[Tensor, "*shape 3"], opacity: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape 4"]:
    """Return a photo with alpha: linear light, not multiplied by opacity, becomes sRGB of 8 bits.

    >>> photo_of(torch.tensor([0.2158, 0.0, 2.0]), torch.tensor(1.0)).tolist()
    [128, 0, 255, 255]
    """
    levels = torch.cat([srgb_from_linear(color.clamp(0, 1)), opacity[..., None]], -1)
    return (levels * 255).round().to(torch.uint8)


def write_transforms(
    folder: Path, cameras: Cameras, names: Sequence[str], split: Split, source_from_world: Float[Tensor, "4 4"], truth: KnownScene | None
) -> None:
    """Write the cameras of rendered photos as ``transforms.json``, which nerfstudio and NeRF programs read too.

    The key ``unrender`` has the region of the object, which is the cube [-1, 1]³ of the world, and the names of the true scene; other
    programs ignore it.

    Args:
        folder: of the capture.
        cameras: pinholes of one lens, in the world.
        names: of the photos below the folder.
        split: which of them are fitted and held out.
        source_from_world: similarity to the frame of the poses, which is +Z up.
        truth: the true scene, in files below the folder.

    Raises:
        OSError: the file cannot be written.
    """
    to_source = source_from_world.double()
    poses = to_source @ cameras.world_from_camera.double()
    poses[:, :3, :3] /= scale_of(to_source)
    poses = poses * opencv_from("opengl")
    width, height = cameras.width, cameras.height
    lens = dict(zip(("fl_x", "fl_y", "cx", "cy"), cameras.intrinsics[0].tolist(), strict=True))
    about: dict[str, Any] = {"center": to_source[:3, 3].tolist(), "radius": scale_of(to_source), "z_is_up": True}
    if truth is not None:
        about["truth_mesh"] = truth.mesh.relative_to(folder).as_posix()
        if truth.environment is not None:
            about["truth_environment"] = truth.environment.relative_to(folder).as_posix()
    content: dict[str, Any] = {"camera_model": "OPENCV", "camera_angle_x": 2 * math.atan(0.5 * width / lens["fl_x"]), **lens}
    content |= {"w": width, "h": height, "unrender": about}
    if split.test:
        fitted, held_out = ([names[view] for view in views] for views in (split.train, split.test))
        content |= {"train_filenames": fitted, "val_filenames": held_out, "test_filenames": held_out}
    frames = [{"file_path": name, "transform_matrix": pose.tolist()} for name, pose in zip(names, poses, strict=True)]
    write_json(folder / "transforms.json", {**content, "frames": frames})

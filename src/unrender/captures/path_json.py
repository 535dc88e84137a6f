"""Camera paths as JSON files of nerfstudio's viewer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.errors import CaptureError
from unrender.captures.normalization import normalized_poses
from unrender.captures.reading import is_regular_file, read_json, shown
from unrender.captures.source import opencv_from, rigid_motions

_MOST_FRAMES = 100_000
_LARGEST_SIDE = 2.0**14

DATAPARSER = "dataparser_transforms.json"
"""File in which nerfstudio keeps its normalization: {transform: 3x4, scale}, with x' = scale · transform · x."""


def read_camera_path(file: Path, source_from_world: Float[Tensor, "4 4"]) -> tuple[Cameras, str]:
    """Read the cameras of a path into the normalized world.

    Each frame has a ``camera_to_world`` of 16 numbers with OpenGL axes and a vertical ``fov`` in degrees, so its focal length is
    height / (2 tan(fov / 2)). Poses are in the frame that nerfstudio normalized, if ``dataparser_transforms.json`` lies beside the file,
    else in that of the input poses.

    Args:
        file: the path.
        source_from_world: similarity from the normalized world to the frame of the input poses.

    Returns:
        The cameras, and a sentence about their frame.

    Raises:
        CaptureError: the file cannot be read, or has no frames, another lens, or numbers that make no camera.
    """
    content = read_json(file)
    frames = content.get("camera_path")
    if not isinstance(frames, list) or not 0 < len(frames) <= _MOST_FRAMES or not all(isinstance(frame, dict) for frame in frames):
        raise CaptureError(f"{file} has no list of frames camera_path; give a camera path that the viewer of nerfstudio saved")
    if (kind := content.get("camera_type", "perspective")) != "perspective":
        raise CaptureError(f"camera_type of {file} is {shown(kind)}; only perspective paths are rendered")
    width, height = (_number(content, key, file, 1.0, _LARGEST_SIDE) for key in ("render_width", "render_height"))
    names = [f"frame {number}" for number in range(len(frames))]
    matrices = torch.stack([_matrix(frame.get("camera_to_world"), name, file) for frame, name in zip(frames, names, strict=True)])
    angles = torch.tensor([_number({**content, **frame}, "fov", file, 1.0, 170.0) for frame in frames], dtype=torch.float64)
    poses, _ = rigid_motions(matrices, names, file)
    poses = poses * opencv_from("opengl")
    beside = file.parent / DATAPARSER
    if is_regular_file(beside):
        poses = _before_normalization(poses, read_json(beside), beside)
    focal = int(height) / (2 * torch.tan(torch.deg2rad(angles) / 2))
    center = torch.tensor([int(width) / 2, int(height) / 2], dtype=torch.float64).expand(len(frames), 2)
    cameras = Cameras.alike(
        normalized_poses(poses, source_from_world).float(),
        torch.cat([focal[:, None], focal[:, None], center], 1).float(),
        None,
        int(width),
        int(height),
    )
    frame = f"that of nerfstudio, undone by {DATAPARSER}" if is_regular_file(beside) else "that of the input poses"
    return cameras, f"the frame of the path is {frame}"


def _before_normalization(poses: Float[Tensor, "frames 4 4"], content: Mapping[str, Any], file: Path) -> Float[Tensor, "frames 4 4"]:
    """Invert x' = s (R x + t), which moved camera positions and turned their axes."""
    rows = content.get("transform")
    rows = [value for row in rows for value in row] if isinstance(rows, list) and all(isinstance(row, list) for row in rows) else None
    transform = _matrix([*rows, 0.0, 0.0, 0.0, 1.0] if rows is not None and len(rows) == 12 else rows, "transform", file)
    scale = _number(content, "scale", file, 1e-12, 1e12)
    before = poses.clone()
    before[:, :3, 3] /= scale
    return torch.linalg.inv(rigid_motions(transform[None], ["transform"], file)[0][0]) @ before


def _matrix(values: Any, name: str, file: Path) -> Float[Tensor, "4 4"]:
    """Return 16 numbers, row by row, as a matrix, float64."""
    if isinstance(values, list) and len(values) == 4 and all(isinstance(row, list) for row in values):
        values = [value for row in values for value in row]
    are_numbers = isinstance(values, list) and all(isinstance(value, int | float) and abs(value) < math.inf for value in values)
    if not are_numbers or len(values) != 16:
        raise CaptureError(f"the pose of {name} in {file} is {shown(values)}; it must be 16 numbers, row by row")
    return torch.tensor([float(value) for value in values], dtype=torch.float64).reshape(4, 4)


def _number(content: Mapping[str, Any], key: str, file: Path, least: float, most: float) -> float:
    value = content.get(key, content.get("default_fov") if key == "fov" else None)
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise CaptureError(f"{key} in {file} is {shown(value)}; it must be a number from {least:g} to {most:g}")
    return float(value)

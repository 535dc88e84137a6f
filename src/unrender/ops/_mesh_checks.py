"""What the operations on meshes and rasters demand of their arguments, said in one sentence each."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

LARGEST_SIDE = 8192
"""Pixels; the largest height or width of a raster."""


def check_float32(tensor: Tensor, name: str, verb: str) -> None:
    """The kernels work in float32; the twins work in any type."""
    if tensor.dtype != torch.float32:
        raise ValueError(f"{verb} works in float32 and {name} is {tensor.dtype}: convert it, or use unrender.reference for other types")


def check_same_device(tensors: dict[str, Tensor | None], verb: str) -> None:
    """All tensors given live where the first one lives."""
    given = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    if len(set(given.values())) > 1:
        where = ", ".join(f"{name} on {device}" for name, device in given.items())
        raise ValueError(f"{verb} needs all its tensors on one device, got {where}")


def check_clip_positions(clip_positions: Tensor, verb: str) -> None:
    """[views, vertices, 4] or [vertices, 4] in float32."""
    if clip_positions.ndim not in (2, 3) or clip_positions.shape[-1] != 4:
        shape = tuple(clip_positions.shape)
        raise ValueError(f"{verb} takes clip positions of shape [views, vertices, 4] or [vertices, 4], got {shape}")
    check_float32(clip_positions, "clip_positions", verb)


def check_faces(faces: Tensor, vertex_count: int, verb: str) -> None:
    """[faces, 3] of int32 or int64, each corner the row of a vertex.

    The corners are looked at only on a CPU: reading them back from a GPU would make it wait, and there kernels leave out a face whose
    corners do not exist.
    """
    if faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(f"{verb} takes faces of shape [faces, 3], got {tuple(faces.shape)}")
    if faces.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{verb} takes faces of type int32 or int64, got {faces.dtype}")
    if faces.device.type != "cpu" or faces.numel() == 0:
        return
    smallest, largest = torch.aminmax(faces)
    if smallest >= 0 and largest < vertex_count:
        return
    face, corner = torch.nonzero((faces < 0) | (faces >= vertex_count))[0].tolist()
    vertex = int(faces[face, corner])
    raise ValueError(f"{verb}: corner {corner} of face {face} is vertex {vertex}, and the {vertex_count} vertices are counted from 0")


def check_resolution(resolution: tuple[int, int], verb: str) -> None:
    """(height, width), each from 1 to 8192."""
    height, width = resolution
    if not (1 <= height <= LARGEST_SIDE and 1 <= width <= LARGEST_SIDE):
        raise ValueError(f"{verb} takes a height and a width from 1 to {LARGEST_SIDE} pixels, got {height} x {width}")


def check_ranges(ranges: Int[Tensor, "views 2"], face_count: int, verb: str) -> None:
    """(first face, number of faces) of each view; looked at only on a CPU."""
    if ranges.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{verb} takes ranges of type int32 or int64, got {ranges.dtype}")
    if ranges.device.type != "cpu":
        return
    for view, (start, count) in enumerate(ranges.tolist()):
        if start < 0 or count < 0 or start + count > face_count:
            raise ValueError(f"{verb}: the range of view {view} is {count} faces from face {start}, and there are {face_count} faces")

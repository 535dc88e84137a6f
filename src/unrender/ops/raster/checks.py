"""Checks of meshes and rasters, each with one sentence for the user; :mod:`unrender.ops.kernels.checks` has those of any tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unrender.devices import on_cpu
from unrender.ops.kernels.checks import check_count, check_float32, check_same_device
from unrender.ops.raster.raster import Raster

LARGEST_RASTER_SIDE = 8192
"""Pixels."""


def check_raster(raster: object, verb: str) -> None:
    """Require a raster whose tensors fit each other: an int32 face [views, height, width], all else float32, on one device."""
    if not isinstance(raster, Raster):
        raise ValueError(f"{verb} takes a Raster, as rasterize returns it, got {type(raster).__name__}")
    shape = tuple(raster.face.shape)
    if raster.face.ndim != 3:
        raise ValueError(f"{verb} takes a raster whose face is [views, height, width], got {shape}")
    if raster.face.dtype != torch.int32:
        raise ValueError(f"{verb} takes a raster whose face is int32, got {raster.face.dtype}: convert it")
    numbers = {
        "barycentrics": (raster.barycentrics, (*shape, 2)),
        "depth": (raster.depth, shape),
        "barycentric_derivatives": (raster.barycentric_derivatives, (*shape, 4)),
    }
    for name, (tensor, expected) in numbers.items():
        if tensor is not None and tuple(tensor.shape) != expected:
            raise ValueError(f"{verb} takes {expected} as the raster's {name}, since its face is {shape}, got {tuple(tensor.shape)}")
        if tensor is not None:
            check_float32(tensor, f"the raster's {name}", verb)
    check_same_device({"the raster's face": raster.face} | {f"its {name}": tensor for name, (tensor, _) in numbers.items()}, verb)


def check_clip_positions(clip_positions: Tensor, verb: str) -> None:
    """Require [views, vertices, 4] or [vertices, 4] in float32."""
    if clip_positions.ndim not in (2, 3) or clip_positions.shape[-1] != 4:
        shape = tuple(clip_positions.shape)
        raise ValueError(f"{verb} takes clip positions of shape [views, vertices, 4] or [vertices, 4], got {shape}")
    check_float32(clip_positions, "clip_positions", verb)
    check_count(clip_positions.numel(), "the clip positions", verb)


def check_face_list(faces: Tensor, verb: str) -> None:
    """Require [faces, 3] of int32 or int64."""
    if faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(f"{verb} takes faces of shape [faces, 3], got {tuple(faces.shape)}")
    if faces.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{verb} takes faces of type int32 or int64, got {faces.dtype}")
    check_count(faces.numel(), "the corners of the faces", verb)


def check_faces(faces: Tensor, vertex_count: int, verb: str) -> None:
    """Require [faces, 3] of int32 or int64 whose corners are rows of vertices.

    Corners are read only on a CPU. On a GPU that would wait for the device; there kernels leave out a face whose corners do not exist.
    """
    check_face_list(faces, verb)
    if not on_cpu(faces.device) or faces.numel() == 0:
        return
    smallest, largest = torch.aminmax(faces)
    if smallest >= 0 and largest < vertex_count:
        return
    face, corner = torch.nonzero((faces < 0) | (faces >= vertex_count))[0].tolist()
    vertex = int(faces[face, corner])
    raise ValueError(f"{verb}: corner {corner} of face {face} is vertex {vertex}; the {vertex_count} vertices are counted from 0")


def check_resolution(resolution: object, verb: str) -> None:
    """Require (height, width), integers from 1 to 8192."""
    sides = list(resolution) if isinstance(resolution, Sequence) else []
    if len(sides) != 2 or any(isinstance(side, bool) or not isinstance(side, int) for side in sides):
        raise ValueError(f"{verb} takes two integers, (height, width), as resolution, got {resolution!r}")
    height, width = sides
    if not (1 <= height <= LARGEST_RASTER_SIDE and 1 <= width <= LARGEST_RASTER_SIDE):
        raise ValueError(f"{verb} takes a height and a width from 1 to {LARGEST_RASTER_SIDE} pixels, got {height} x {width}")


def check_ranges(ranges: Tensor, face_count: int, verb: str) -> None:
    """Require (first face, number of faces) of each view; the numbers are read only on a CPU."""
    if ranges.ndim != 2 or ranges.shape[1] != 2:
        raise ValueError(f"{verb} takes ranges of shape [views, 2], (first face, number of faces), got {tuple(ranges.shape)}")
    if ranges.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{verb} takes ranges of type int32 or int64, got {ranges.dtype}")
    if not on_cpu(ranges.device):
        return
    for view, (start, count) in enumerate(ranges.tolist()):
        if start < 0 or count < 0 or start + count > face_count:
            raise ValueError(f"{verb}: the range of view {view} is {count} faces from face {start}; there are {face_count} faces")

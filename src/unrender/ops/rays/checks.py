"""Checks of the arguments of operations along rays, made before any kernel reads them.

A kernel trusts its arrays: with one value too few it would read foreign memory. Counts, shapes, types and devices are checked here, but not
values, because that would synchronize with the GPU.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from unrender.cameras import Rays

Per = Literal["sample", "ray", "cell"]
"""What a tensor has one row for."""


def float_row(tensor: Tensor, name: str, verb: str, per: Per, count: int, device: torch.device) -> Tensor:
    """Return a tensor of one value per sample, ray or cell as contiguous float32.

    Raises:
        ValueError: the shape is not [count], the values are no floats, or they are on another device.
    """
    if tensor.shape != (count,):
        raise ValueError(f"{verb} takes one value per {per} as {name}, {count} in all, got shape {tuple(tensor.shape)}")
    _check_kind(tensor, name, verb, device)
    return tensor.float().contiguous()


def float_matrix(tensor: Tensor, name: str, verb: str, per: Per, count: int, device: torch.device, *, columns: int | None = None) -> Tensor:
    """Return a tensor of one row per sample or ray as float32, in the layout it has.

    Raises:
        ValueError: the shape is not [count, columns], the values are no floats, or they are on another device.
    """
    if tensor.ndim != 2 or tensor.shape[0] != count or (columns is not None and tensor.shape[1] != columns):
        shape = f"[{count}, {'channels' if columns is None else columns}]"
        raise ValueError(f"{verb} takes one row per {per} as {name}, of shape {shape}, got {tuple(tensor.shape)}")
    _check_kind(tensor, name, verb, device)
    return tensor.float()


def ray_tensors(rays: Rays, verb: str, count: int | None = None, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Return the origins and directions of rays as contiguous float32.

    Raises:
        ValueError: they are not [count, 3] floats on the device. None leaves it to the origins.
    """
    count = rays.origins.shape[0] if count is None and rays.origins.ndim else count or 0
    device = rays.origins.device if device is None else device
    origins = float_matrix(rays.origins, "the rays' origins", verb, "ray", count, device, columns=3)
    directions = float_matrix(rays.directions, "the rays' directions", verb, "ray", count, device, columns=3)
    return origins.contiguous(), directions.contiguous()


def int_row(tensor: Tensor, name: str, verb: str, count: int, device: torch.device) -> Tensor:
    """Return a tensor of one integer per ray as contiguous int32.

    Raises:
        ValueError: the shape is not [count], the values are no integers, or they are on another device.
    """
    if tensor.shape != (count,):
        raise ValueError(f"{verb} takes one integer per ray as {name}, {count} in all, got shape {tuple(tensor.shape)}")
    if tensor.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{verb} takes int32 or int64 as {name}, got {tensor.dtype}")
    _check_device(tensor, name, verb, device)
    return tensor.int().contiguous()


def bool_row(tensor: Tensor, name: str, verb: str, per: Per, count: int, device: torch.device) -> Tensor:
    """Return a tensor of one truth value per sample or cell, contiguous.

    Raises:
        ValueError: the shape is not [count], the type is not bool, or the device is another one.
    """
    if tensor.shape != (count,) or tensor.dtype != torch.bool:
        raise ValueError(f"{verb} takes one bool per {per} as {name}, {count} in all, got {tensor.dtype} of shape {tuple(tensor.shape)}")
    _check_device(tensor, name, verb, device)
    return tensor.contiguous()


def check_capacity(capacity: int | None, verb: str) -> None:
    """Require a capacity of at least zero, if there is one."""
    if capacity is not None and capacity < 0:
        raise ValueError(f"capacity is {capacity}; {verb} takes at least zero, or None")


def _check_kind(tensor: Tensor, name: str, verb: str, device: torch.device) -> None:
    if not tensor.is_floating_point():
        raise ValueError(f"{verb} takes floats as {name}, got {tensor.dtype}")
    _check_device(tensor, name, verb, device)


def _check_device(tensor: Tensor, name: str, verb: str, device: torch.device) -> None:
    if tensor.device != device:
        raise ValueError(f"{verb} takes tensors on one device, got {name} on {tensor.device} and others on {device}")

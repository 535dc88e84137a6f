"""Argument checks for operations of every family, each with a one-sentence message.

``verb`` is the function called, ``name`` the argument; a message says what the function takes, what it got, and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

MOST_ELEMENTS = 2**31 - 1
"""Limit on the elements of a tensor, because kernels count them in 32 bits."""


def check_float32(tensor: Tensor, name: str, verb: str) -> None:
    """Require float32, in which the kernels work; the twins in :mod:`unrender.reference` work in any float type."""
    if tensor.dtype != torch.float32:
        raise ValueError(f"{verb} takes float32 as {name}, got {tensor.dtype}: convert it, or use unrender.reference for other types")


def check_same_device(tensors: Mapping[str, Tensor | None], verb: str) -> None:
    """Require that all given tensors are on one device."""
    devices = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    if len(set(devices.values())) > 1:
        found = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"{verb} takes tensors on one device, got {found}")


def check_count(elements: int, name: str, verb: str) -> None:
    """Require no more elements than a kernel can count."""
    if elements > MOST_ELEMENTS:
        raise ValueError(f"{verb} takes fewer than 2^31 elements in {name}, got {elements}: split the call")


def check_integer(value: object, name: str, verb: str) -> None:
    """Require an int, not a bool or a float with an integer value."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{verb} takes an integer as {name}, got {value!r}")

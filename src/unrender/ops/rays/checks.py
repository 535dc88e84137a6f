"""Checks of rays, beside those of :mod:`unrender.ops.kernels.checks`."""

from __future__ import annotations

from torch import Tensor

from unrender.cameras import Rays
from unrender.devices import on_cpu
from unrender.ops.kernels.checks import Arguments, Size


def ray_tensors(takes: Arguments, rays: object, count: Size = "rays") -> tuple[Tensor, Tensor]:
    """Return the origins and directions of rays as contiguous tensors.

    Args:
        takes: the checks of the call.
        rays: the argument.
        count: number of rays that fits the call.

    Raises:
        ValueError: they are not float32 [rays, 3] on the device of the call.
    """
    given = takes.instance(rays, "rays", Rays)
    origins = takes.float32(given.origins, "rays.origins", (count, 3))
    directions = takes.float32(given.directions, "rays.directions", ((origins.shape[0], "rays"), 3))
    return origins.contiguous(), directions.contiguous()


def checked_capacity(takes: Arguments, capacity: object) -> int | None:
    """Return the capacity of packed samples.

    Raises:
        ValueError: it is negative or not an integer, or there is none on a GPU, where counting the samples would wait for the device.
    """
    if capacity is not None:
        return takes.integer(capacity, "capacity", 0)
    if takes.device is not None and not on_cpu(takes.device):
        raise ValueError(f"{takes.verb} takes an integer as capacity on a GPU, where counting the samples would wait for it, got None")
    return None


def checked_sharpness(takes: Arguments, sharpness: object) -> Tensor:
    """Return the sharpness of a surface as a tensor of shape [1]."""
    return takes.float32(sharpness, "sharpness", (), (1,)).reshape(1)

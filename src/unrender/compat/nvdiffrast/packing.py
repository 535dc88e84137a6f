"""A raster as one tensor of four channels, (u, v, z / w, triangle), as nvdiffrast lays it out.

The last channel is the row of the triangle plus one, 0 where there is nothing. Up to 2²⁴ a float holds that number itself. Beyond, it is
the float whose *bits*, read as an integer, are the number plus 0x4a800000: 2²⁴ itself has these bits, so the floats keep the order of the
numbers and go on where the exact ones end.

Weights are moved in pairs, as one number of 64 bits each, which is several times quicker on a CPU than moving channel by channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unrender.devices import on_cpu
from unrender.ops.raster import Raster

_LARGEST_EXACT = 2**24
_OFFSET = 0x4A800000


def float_from_face(face: Int[Tensor, "*shape"], face_count: int) -> Float[Tensor, "*shape"]:
    """The last channel for int32 rows of ``face_count`` triangles; -1 is nothing.

    >>> float_from_face(torch.tensor([-1, 0, 2**24 - 1], dtype=torch.int32), 2**24).tolist()
    [0.0, 1.0, 16777216.0]
    """
    number = face + 1
    if face_count <= _LARGEST_EXACT:
        return number.float()
    return torch.where(number > _LARGEST_EXACT, (number + _OFFSET).view(torch.float32), number.float())


def face_from_float(channel: Float[Tensor, "*shape"], face_count: int) -> Int[Tensor, "*shape"]:
    """int32 rows of triangles from the last channel, the inverse of :func:`float_from_face`."""
    number = channel.to(torch.int32)
    if face_count > _LARGEST_EXACT:
        number = torch.where(channel > _LARGEST_EXACT, channel.contiguous().view(torch.int32) - _OFFSET, number)
    return number.sub_(1)


def _pairs(values: Tensor) -> Tensor:
    """[..., 2 n] floats as [..., n] numbers of 64 bits."""
    values = values if values.is_contiguous() and values.storage_offset() % 2 == 0 else values.clone(memory_format=torch.contiguous_format)
    return values.view(torch.float64)


def _unset(shape: torch.Size, like: Tensor) -> Tensor:
    """Memory for a packed raster. On a CPU NumPy asks for huge pages, which are quicker to get than many small ones."""
    if on_cpu(like.device):
        return torch.from_numpy(np.empty((*shape, 4), np.float32))
    return like.new_empty(*shape, 4)


class _Pack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, depth: Tensor, triangle: Tensor) -> Tensor:
        packed = _unset(depth.shape, weights)
        packed.view(torch.float64)[..., 0] = _pairs(weights)[..., 0]
        packed[..., 2] = depth
        packed[..., 3] = triangle
        return packed

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _first_pair(cotangent), None, None


class _Weights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, packed: Tensor) -> Tensor:
        return _first_pair(packed)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        packed = _unset(cotangent.shape[:-1], cotangent)
        pairs = packed.view(torch.float64)
        pairs[..., 0] = _pairs(cotangent)[..., 0]
        pairs[..., 1] = 0
        return packed


def _first_pair(packed: Tensor) -> Tensor:
    return _pairs(packed)[..., :1].contiguous().view(torch.float32)


def pack(raster: Raster, face_count: int) -> Float[Tensor, "views height width 4"]:
    """(u, v, z / w, triangle) of a raster; only u and v have a gradient."""
    return _Pack.apply(raster.barycentrics, raster.depth.detach(), float_from_face(raster.face, face_count))


def unpack(
    packed: Float[Tensor, "views height width 4"], face_count: int, derivatives: Float[Tensor, "views height width 4"] | None = None
) -> Raster:
    """The raster that :func:`pack` packed. The gradient to its weights goes to ``packed``."""
    fixed = packed.detach()
    return Raster(face_from_float(fixed[..., 3], face_count), _Weights.apply(packed), fixed[..., 2], derivatives)


def unpack_visibility(packed: Float[Tensor, "views height width 4"], face_count: int) -> Raster:
    """As :func:`unpack` for who has no use for gradients; the weights are not copied."""
    fixed = packed.detach()
    return Raster(face_from_float(fixed[..., 3], face_count), fixed[..., :2], fixed[..., 2])

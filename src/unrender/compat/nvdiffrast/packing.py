"""A raster as one tensor of four channels, (u, v, z / w, triangle), in nvdiffrast's layout.

The last channel is the row of the triangle plus one, and 0 on the background. Up to 2²⁴ a float holds that integer itself. Beyond, it is
the float whose *bits*, read as an integer, are the row plus one plus 0x4a800000: this keeps the order of the rows, and continues where the
exact integers end.

Weights are copied in pairs, as one 64-bit element, which is several times faster on a CPU than channel by channel.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unrender.ops.kernels.derivatives import differentiable_once
from unrender.ops.kernels.work import empty
from unrender.ops.raster import Raster

_LARGEST_EXACT = 2**24
_OFFSET = 0x4A800000


def float_from_face(face: Int[Tensor, "*shape"], face_count: int) -> Float[Tensor, "*shape"]:
    """Return the last channel for int32 rows of ``face_count`` triangles; -1 is the background.

    >>> float_from_face(torch.tensor([-1, 0, 2**24 - 1], dtype=torch.int32), 2**24).tolist()
    [0.0, 1.0, 16777216.0]
    """
    number = face + 1
    if face_count <= _LARGEST_EXACT:
        return number.float()
    return torch.where(number > _LARGEST_EXACT, (number + _OFFSET).view(torch.float32), number.float())


def face_from_float(channel: Float[Tensor, "*shape"], face_count: int) -> Int[Tensor, "*shape"]:
    """Return int32 rows of triangles from the last channel, as the inverse of :func:`float_from_face`."""
    number = channel.to(torch.int32)
    if face_count > _LARGEST_EXACT:
        number = torch.where(channel > _LARGEST_EXACT, channel.contiguous().view(torch.int32) - _OFFSET, number)
    return number.sub_(1)


def _pairs(values: Tensor) -> Tensor:
    """View [..., 2 n] floats as [..., n] elements of 64 bits."""
    values = values if values.is_contiguous() and values.storage_offset() % 2 == 0 else values.clone(memory_format=torch.contiguous_format)
    return values.view(torch.float64)


class _Pack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, depth: Tensor, triangle: Tensor) -> Tensor:
        packed = empty((*depth.shape, 4), torch.float32, weights.device)
        packed.view(torch.float64)[..., 0] = _pairs(weights)[..., 0]
        packed[..., 2] = depth
        packed[..., 3] = triangle
        return packed

    @staticmethod
    @differentiable_once("rasterize")
    def backward(ctx: Any, grad_packed: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _first_pair(grad_packed), None, None


class _Weights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, packed: Tensor) -> Tensor:
        return _first_pair(packed)

    @staticmethod
    @differentiable_once("interpolate")
    def backward(ctx: Any, grad_weights: Tensor) -> tuple[Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad_packed = empty((*grad_weights.shape[:-1], 4), torch.float32, grad_weights.device)
        pairs = grad_packed.view(torch.float64)
        pairs[..., 0] = _pairs(grad_weights)[..., 0]
        pairs[..., 1] = 0
        return (grad_packed,)


def _first_pair(packed: Tensor) -> Tensor:
    return _pairs(packed)[..., :1].contiguous().view(torch.float32)


def pack(raster: Raster, face_count: int) -> Float[Tensor, "views height width 4"]:
    """Pack a raster as (u, v, z / w, triangle); only u and v have a gradient."""
    return _Pack.apply(raster.barycentrics, raster.depth.detach(), float_from_face(raster.face, face_count))


def unpack(
    packed: Float[Tensor, "views height width 4"], face_count: int, derivatives: Float[Tensor, "views height width 4"] | None = None
) -> Raster:
    """Unpack a raster that :func:`pack` packed; the gradient to its weights flows to ``packed``."""
    fixed = packed.detach()
    return Raster(face_from_float(fixed[..., 3], face_count), _Weights.apply(packed), fixed[..., 2], derivatives)


def unpack_visibility(packed: Float[Tensor, "views height width 4"], face_count: int) -> Raster:
    """Unpack a raster without gradients, and without copying its weights."""
    fixed = packed.detach()
    return Raster(face_from_float(fixed[..., 3], face_count), fixed[..., :2], fixed[..., 2])

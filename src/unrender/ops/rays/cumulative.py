"""Cumulative sums and products along rays, over numbers that are packed ray by ray.

A ray owns the slice ``first[ray] : first[ray] + count[ray]``. With x_k the numbers of one ray, near to far,

    inclusive    y_k = x_1 + ... + x_k,        exclusive    y_k = x_1 + ... + x_{k-1}    (0 for the first one)

and products likewise, with 1 for the first. The transmittance exp(-exclusive sum of sigma delta) is the one use that everybody knows.

The gradient of a sum is the sum from the far end, so sums have derivatives of every order. That of a product is, without a division that
would fail where a factor is zero,  dx_k = E_k S_k,  with E_k the exclusive product and S_k = g_k + x_{k+1} S_{k+1} (g_{k+1} if exclusive).
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import warp as wp
from jaxtyping import Float, Int
from torch import Tensor

from unrender.devices import thread_count
from unrender.ops.kernels.checks import Arguments, as_int32
from unrender.ops.kernels.derivatives import differentiable_once
from unrender.ops.kernels.launch import launch

wp.set_module_options({"enable_backward": False})

_NUMBERS_PER_CHUNK = 32768
"""Smallest number of values per thread."""


@no_type_check
@wp.func
def _slice(first: wp.array(dtype=wp.int32), count: wp.array(dtype=wp.int32), ray: int, size: int):
    begin = wp.clamp(first[ray], 0, size)
    return begin, wp.clamp(count[ray], 0, size - begin)


@no_type_check
@wp.kernel
def _sum_kernel(
    base: int,
    values: wp.array(dtype=wp.float32),
    first: wp.array(dtype=wp.int32),
    count: wp.array(dtype=wp.int32),
    exclusive: int,
    reverse: int,
    sums: wp.array(dtype=wp.float32),
):
    begin, length = _slice(first, count, base + wp.tid(), values.shape[0])
    total = float(0.0)
    for k in range(length):
        i = begin + k
        if reverse == 1:
            i = begin + length - 1 - k
        before = total
        total += values[i]
        sums[i] = wp.where(exclusive == 1, before, total)


@no_type_check
@wp.kernel
def _product_kernel(
    base: int,
    values: wp.array(dtype=wp.float32),
    first: wp.array(dtype=wp.int32),
    count: wp.array(dtype=wp.int32),
    exclusive: int,
    products: wp.array(dtype=wp.float32),
):
    begin, length = _slice(first, count, base + wp.tid(), values.shape[0])
    total = float(1.0)
    for i in range(begin, begin + length):
        before = total
        total *= values[i]
        products[i] = wp.where(exclusive == 1, before, total)


@no_type_check
@wp.kernel
def _product_adjoint_kernel(
    base: int,
    values: wp.array(dtype=wp.float32),
    first: wp.array(dtype=wp.int32),
    count: wp.array(dtype=wp.int32),
    exclusive: int,
    grad_products: wp.array(dtype=wp.float32),
    grad_values: wp.array(dtype=wp.float32),
):
    begin, length = _slice(first, count, base + wp.tid(), values.shape[0])
    total = float(1.0)
    for i in range(begin, begin + length):
        grad_values[i] = total
        total *= values[i]
    behind = float(0.0)
    for k in range(length):
        i = begin + length - 1 - k
        if exclusive == 0:
            behind += grad_products[i]
        grad_values[i] = grad_values[i] * behind
        behind *= values[i]
        if exclusive == 1:
            behind += grad_products[i]


def _launch(kernel: Any, rays: tuple[Tensor, Tensor], arguments: list[Any], values: Tensor) -> None:
    first, count = rays
    chunks = min(thread_count(), max(1, values.shape[0] // _NUMBERS_PER_CHUNK))
    launch(kernel, first.shape[0], [values, first, count, *arguments], values.device, chunks=chunks)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, rays: tuple[Tensor, Tensor], exclusive: bool, reverse: bool) -> Tensor:
        ctx.rays, ctx.exclusive, ctx.reverse = rays, exclusive, reverse
        sums = torch.zeros_like(values)
        _launch(_sum_kernel, rays, [int(exclusive), int(reverse), sums], values)
        return sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _Sum.apply(grads[0].contiguous(), ctx.rays, ctx.exclusive, not ctx.reverse), None, None, None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, rays: tuple[Tensor, Tensor], exclusive: bool) -> Tensor:
        ctx.rays, ctx.exclusive = rays, exclusive
        ctx.save_for_backward(values)
        products = torch.zeros_like(values)
        _launch(_product_kernel, rays, [int(exclusive), products], values)
        return products

    @staticmethod
    @differentiable_once("cumulative_product")
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (values,) = ctx.saved_tensors
        grad_values = torch.zeros_like(values)
        _launch(_product_adjoint_kernel, ctx.rays, [int(ctx.exclusive), grads[0].contiguous(), grad_values], values)
        return grad_values, None, None


def _checked(verb: str, values: object, first: object, count: object) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    takes = Arguments(verb)
    numbers = takes.float32(values, "values", ("samples",)).contiguous()
    begins = as_int32(takes.integers(first, "first", ("rays",))).contiguous()
    return numbers, (begins, as_int32(takes.integers(count, "count", ((begins.shape[0], "rays"),))).contiguous())


def cumulative_sum(
    values: Float[Tensor, " samples"], first: Int[Tensor, " rays"], count: Int[Tensor, " rays"], *, exclusive: bool = False
) -> Float[Tensor, " samples"]:
    """Add up the numbers of each ray, near to far.

    Args:
        values: packed ray by ray.
        first: index of each ray's first number; not checked, kernels stay within the array.
        count: how many numbers each ray has.
        exclusive: whether a number is left out of its own sum.

    Returns:
        One sum per number; zero on no ray. Differentiable any number of times.

    Raises:
        ValueError: a tensor has the wrong type, shape or device.

    >>> cumulative_sum(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 2]), torch.tensor([2, 1])).tolist()
    [1.0, 3.0, 3.0]
    """
    numbers, rays = _checked("cumulative_sum", values, first, count)
    return _Sum.apply(numbers, rays, exclusive, False)  # pyright: ignore[reportReturnType]


def cumulative_product(
    values: Float[Tensor, " samples"], first: Int[Tensor, " rays"], count: Int[Tensor, " rays"], *, exclusive: bool = False
) -> Float[Tensor, " samples"]:
    """Multiply the numbers of each ray, near to far.

    Args:
        values: packed ray by ray.
        first: index of each ray's first number; not checked, kernels stay within the array.
        count: how many numbers each ray has.
        exclusive: whether a number is left out of its own product.

    Returns:
        One product per number; zero on no ray. Differentiable once, also where a number is zero.

    Raises:
        ValueError: a tensor has the wrong type, shape or device.

    >>> cumulative_product(torch.tensor([2.0, 3.0, 4.0]), torch.tensor([0, 2]), torch.tensor([2, 1]), exclusive=True).tolist()
    [1.0, 2.0, 1.0]
    """
    numbers, rays = _checked("cumulative_product", values, first, count)
    return _Product.apply(numbers, rays, exclusive)  # pyright: ignore[reportReturnType]

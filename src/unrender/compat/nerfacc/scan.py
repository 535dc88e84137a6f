"""Cumulative sums and products along rays: of the rows of a table, or of packed numbers."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unrender.compat.nerfacc.pack import rays_of
from unrender.ops.rays import cumulative
from unrender.reference import cumulative as plain


def inclusive_sum(
    inputs: Float[Tensor, "*shape"], packed_info: Int[Tensor, "rays 2"] | None = None, indices: Int[Tensor, " samples"] | None = None
) -> Float[Tensor, "*shape"]:
    """Add up the numbers of each ray, each with those before it.

    Args:
        inputs: ``[..., samples]``, or packed ``[samples]`` with one of the next two.
        packed_info: first number and count of each ray.
        indices: ray of each number, ascending.

    >>> inclusive_sum(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([[0, 2], [2, 1]])).tolist()
    [1.0, 3.0, 3.0]
    """
    return _sum(inputs, rays_of(packed_info, indices, None), exclusive=False)


def exclusive_sum(
    inputs: Float[Tensor, "*shape"], packed_info: Int[Tensor, "rays 2"] | None = None, indices: Int[Tensor, " samples"] | None = None
) -> Float[Tensor, "*shape"]:
    """Add up the numbers of each ray that are before each one; arguments as :func:`inclusive_sum`.

    >>> exclusive_sum(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([[0, 2], [2, 1]])).tolist()
    [0.0, 1.0, 0.0]
    """
    return _sum(inputs, rays_of(packed_info, indices, None), exclusive=True)


def inclusive_prod(
    inputs: Float[Tensor, "*shape"], packed_info: Int[Tensor, "rays 2"] | None = None, indices: Int[Tensor, " samples"] | None = None
) -> Float[Tensor, "*shape"]:
    """Multiply the numbers of each ray, each with those before it; arguments as :func:`inclusive_sum`.

    >>> inclusive_prod(torch.tensor([2.0, 3.0, 4.0]), torch.tensor([[0, 2], [2, 1]])).tolist()
    [2.0, 6.0, 4.0]
    """
    return _product(inputs, rays_of(packed_info, indices, None), exclusive=False)


def exclusive_prod(
    inputs: Float[Tensor, "*shape"], packed_info: Int[Tensor, "rays 2"] | None = None, indices: Int[Tensor, " samples"] | None = None
) -> Float[Tensor, "*shape"]:
    """Multiply the numbers of each ray that are before each one; arguments as :func:`inclusive_sum`.

    >>> exclusive_prod(torch.tensor([2.0, 3.0, 4.0]), torch.tensor([[0, 2], [2, 1]])).tolist()
    [1.0, 2.0, 1.0]
    """
    return _product(inputs, rays_of(packed_info, indices, None), exclusive=True)


def _sum(values: Tensor, packing: Tensor | None, *, exclusive: bool) -> Tensor:
    if packing is None:
        return torch.cumsum(_shifted(values, 0.0) if exclusive else values, dim=-1)
    verb = cumulative.cumulative_sum if values.dtype == torch.float32 else plain.cumulative_sum
    return verb(values, packing[:, 0], packing[:, 1], exclusive=exclusive)


def _product(values: Tensor, packing: Tensor | None, *, exclusive: bool) -> Tensor:
    if packing is None:
        return torch.cumprod(_shifted(values, 1.0) if exclusive else values, dim=-1)
    verb = cumulative.cumulative_product if values.dtype == torch.float32 else plain.cumulative_product
    return verb(values, packing[:, 0], packing[:, 1], exclusive=exclusive)


def _shifted(values: Tensor, neutral: float) -> Tensor:
    """Return rows without their last number, behind a neutral one."""
    return torch.cat([torch.full_like(values[..., :1], neutral), values[..., :-1]], dim=-1)

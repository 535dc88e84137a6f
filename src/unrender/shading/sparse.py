"""Sparse matrices that multiply differentiable rows of numbers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

Entries = tuple[Int[Tensor, " _"], Int[Tensor, " _"], Float[Tensor, " _"]]
"""Rows, columns and values; those at the same place are added."""


@dataclass(frozen=True)
class SparseMatrix:
    """A constant matrix A in compressed rows, and its transpose.

    >>> entries = torch.tensor([0, 1, 1]), torch.tensor([1, 0, 0]), torch.tensor([2.0, 3.0, 4.0])
    >>> (sparse_matrix([entries], (2, 2), like=torch.zeros(0)) @ torch.eye(2)).tolist()
    [[0.0, 2.0], [7.0, 0.0]]
    """

    rows: Tensor
    columns: Tensor
    """The rows of the transpose."""

    def __matmul__(self, right: Float[Tensor, "columns channels"]) -> Float[Tensor, "rows channels"]:
        return _Product.apply(right, self.rows, self.columns)  # type: ignore[no-any-return]


class _Product(torch.autograd.Function):
    """A X, whose gradient by X is A^T G: PyTorch would transpose A in every step."""

    @staticmethod
    def forward(ctx: Any, right: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        ctx.matrix, ctx.transposed = matrix, transposed
        return matrix @ right

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _Product.apply(grads[0], ctx.transposed, ctx.matrix), None, None  # type: ignore[return-value]


def sparse_matrix(parts: Sequence[Entries], shape: tuple[int, int], like: Tensor) -> SparseMatrix:
    """Build a matrix of entries in any order, of the type and on the device of another tensor."""
    empty = torch.zeros(0, dtype=torch.int64, device=like.device)
    row = torch.cat([part[0] for part in parts] or [empty])
    column = torch.cat([part[1] for part in parts] or [empty])
    values = torch.cat([part[2].to(like) for part in parts] or [like.new_zeros(0)])

    def compressed(first: Tensor, second: Tensor, size: tuple[int, int]) -> Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            warnings.filterwarnings("ignore", message="Sparse invariant checks are implicitly disabled")
            return torch.sparse_coo_tensor(torch.stack([first, second]), values, size).coalesce().to_sparse_csr()

    return SparseMatrix(compressed(row, column, shape), compressed(column, row, (shape[1], shape[0])))

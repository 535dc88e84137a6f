"""Checks of arguments that the encodings share, beside those of :mod:`unrender.ops.kernels.checks`."""

from __future__ import annotations

from torch import Tensor


def check_columns(tensor: Tensor, columns: int | None, name: str, verb: str) -> None:
    """Require one row per point and the right number of columns; None allows any number."""
    if tensor.ndim != 2 or (columns is not None and tensor.shape[1] != columns):
        wanted = "" if columns is None else f" and {columns} columns"
        raise ValueError(f"{verb} takes one row per point{wanted} as {name}, got the shape {tuple(tensor.shape)}")

"""Posed photos: the data type, the readers of every format, normalization, images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unrender.captures.load import load_capture

__all__ = ["load_capture"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'unrender.captures' has no attribute {name!r}")
    from unrender.captures.load import load_capture  # needs PyTorch, which help pages do without

    return load_capture

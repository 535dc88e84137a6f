"""Posed photos: the data type, the readers and writers of every format, normalization, images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unrender.captures.load import load_capture
    from unrender.captures.writing.convert import convert_capture

__all__ = ["convert_capture", "load_capture"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'unrender.captures' has no attribute {name!r}")
    # These need PyTorch, which help pages do without.
    if name == "convert_capture":
        from unrender.captures.writing.convert import convert_capture

        return convert_capture
    from unrender.captures.load import load_capture

    return load_capture

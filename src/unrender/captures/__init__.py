"""Posed photos: the data type, the readers of every format, normalization, images."""

from __future__ import annotations

from unrender.captures.load import load_capture

__all__ = ["load_capture"]

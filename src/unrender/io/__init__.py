"""Every file format: captures in, runs and assets out."""

from __future__ import annotations

from unrender.io.load import load_capture

__all__ = ["load_capture"]

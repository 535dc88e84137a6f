"""Warnings that point at the program that called this package."""

from __future__ import annotations

import sys
import warnings


def warn(message: str) -> None:
    """Warn about the line of the program that called this package."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] == "unrender":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)

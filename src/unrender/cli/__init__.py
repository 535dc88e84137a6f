"""The command line."""

from __future__ import annotations

from unrender.cli.program import main

__all__ = ["main"]

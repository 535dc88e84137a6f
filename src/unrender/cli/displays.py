"""The display on which a command shows its progress."""

from __future__ import annotations

from rich.console import Console

from unrender.cli.options import OutputOptions
from unrender.runs.display import Display


def display_of(output: OutputOptions) -> Display:
    """Return the display of a command: silent for ``--quiet``, on standard error for ``--json``."""
    return Display(Console(quiet=output.quiet, stderr=output.json))

"""Options of reading each kind of input. PyTorch is not imported, so that help pages are fast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unrender.captures.options import CaptureOptions


@dataclass(frozen=True)
class RunOptions:
    """Options of reading a run."""

    capture: Path | None = None
    """Folder of the photos it was fitted to, if they have moved."""


@dataclass(frozen=True)
class NoOptions:
    """No options, for pictures and meshes."""


ReadOptions = CaptureOptions | RunOptions | NoOptions

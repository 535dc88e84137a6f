"""Options of reading each kind of input. PyTorch is not imported, so that help pages are fast."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from unrender.captures.options import CaptureOptions


@dataclass(frozen=True)
class RunOptions:
    """Options of reading a run."""

    capture: Path | None = None
    """Folder of the photos it was fitted to, if they have moved."""


@dataclass(frozen=True)
class StartOptions(CaptureOptions):
    """Options of reading a capture, and a mesh and a light to begin with."""

    mesh: Path | None = None
    """A mesh file, in the frame of the poses, to begin with, with the material of a GLB or of the MTL of an OBJ."""
    env: Path | None = None
    """The light to begin with: a lat-long picture of all directions, HDR or EXR; the middle of it is seen along +X."""

    @property
    def of_capture(self) -> CaptureOptions:
        """The options of the capture alone."""
        return CaptureOptions(**{field.name: getattr(self, field.name) for field in fields(CaptureOptions)})


@dataclass(frozen=True)
class NoOptions:
    """No options, for pictures and meshes."""


ReadOptions = CaptureOptions | RunOptions | NoOptions

"""The command ``unrender mask``."""

from __future__ import annotations

from pathlib import Path

from unrender.captures.mask_making.making import make_masks
from unrender.cli.displays import display_of
from unrender.cli.options import OutputOptions
from unrender.cli.terminal import Ending
from unrender.words import MaskMethod


def mask_photos(
    output: OutputOptions,
    *,
    capture: Path,
    method: MaskMethod | None,
    command: str | None,
    box: tuple[float, float, float, float] | None,
    center: tuple[float, float, float] | None,
    radius: float | None,
    independent: bool,
    out: Path | None,
    overwrite: bool,
) -> Ending:
    """Run ``unrender mask``."""
    display = display_of(output)
    result = make_masks(
        capture,
        method=method,
        command=command,
        out=out,
        overwrite=overwrite,
        box=box,
        center=center,
        radius=radius,
        hull=not independent,
        steps=display.steps,
    )
    for note in result.notes:
        display.say(f"note: {note}")
    display.say(result.verdict)
    display.say(f"{result.made} masks in {result.folder}; look at {result.report}")
    views = [{"name": view.name, "share": view.share, "agreement": view.agreement, "doubt": view.doubt} for view in result.views]
    about = {"method": result.method, "verdict": result.verdict, "notes": list(result.notes), "views": views}
    return Ending(0, {"masks": str(result.folder), "made": result.made, "report": str(result.report), **about})

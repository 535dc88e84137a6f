"""The command ``unrender convert``: the part of it that needs PyTorch."""

from __future__ import annotations

from pathlib import Path

from unrender.captures import convert_capture
from unrender.cli.displays import display_of
from unrender.cli.options import OutputOptions
from unrender.cli.terminal import Ending
from unrender.words import CameraAxes, CaptureLayout, HoldOut


def convert(
    output: OutputOptions,
    *,
    capture: Path,
    to: CaptureLayout,
    out: Path,
    test_every: int | HoldOut,
    camera_axes: CameraAxes | None,
    overwrite: bool,
) -> Ending:
    """Run ``unrender convert``."""
    display = display_of(output)
    with display.task("converting the capture"):
        done = convert_capture(capture, to, out, test_every=test_every, camera_axes=camera_axes, overwrite=overwrite)
    for note in done.notes:
        display.say(f"note: {note}")
    display.say(f"{done.folder}: {done.views} views as {to}")
    results = {"folder": str(done.folder), "layout": to, "views": done.views, "notes": list(done.notes)}
    return Ending(0, {**results, "files": [str(file) for file in done.files]})

"""The command ``unrender relight``."""

from __future__ import annotations

import math
from pathlib import Path

from unrender.cli.commands import photos_behind
from unrender.cli.displays import display_of
from unrender.cli.options import OutputOptions
from unrender.cli.terminal import Ending
from unrender.devices import select_device
from unrender.recipes import table
from unrender.runs.camera_paths import showing_path
from unrender.runs.opening import open_run
from unrender.runs.relighting import lit_asset, relight
from unrender.shading.latlong import turned


def relight_run(
    output: OutputOptions, *, run: Path, env: Path, turn: float, frames: int, fps: int, capture: Path | None, device: str | None
) -> Ending:
    """Run ``unrender relight``."""
    target, display = select_device(device), display_of(output)
    for name, value in (("--frames", frames), ("--fps", fps)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if not math.isfinite(turn):
        raise ValueError(f"--turn is {turn}; give a finite number")
    opened = open_run(run, table.recipes(), target)
    opened.directory.prepare()
    asset = lit_asset(opened)
    with display.task("reading the light"):
        environment = opened.light(env)
        environment = environment if turn == 0 else turned(environment, math.radians(turn))
    photos = photos_behind(opened, capture, display)
    relit = relight(opened, asset, photos, showing_path(photos, frames), environment, env.stem, target, fps=fps, display=display)
    display.say(f"{relit.count} pictures in {relit.pictures} and {relit.video}")
    results = {"run": str(opened.directory.path), "pictures": str(relit.pictures), "count": relit.count, "video": str(relit.video)}
    return Ending(0, results)

"""The command ``unrender capture``."""

from __future__ import annotations

from pathlib import Path

from unrender.cli.displays import display_of
from unrender.cli.options import OutputOptions
from unrender.cli.terminal import Ending
from unrender.devices import select_device
from unrender.runs.capturing import photograph
from unrender.runs.directory import input_name


def capture_mesh(
    output: OutputOptions,
    *,
    mesh: Path,
    env: Path,
    out: Path | None,
    views: int,
    held_out: int,
    resolution: int,
    exposure: float | None,
    seed: int,
    overwrite: bool,
    device: str | None,
) -> Ending:
    """Run ``unrender capture``."""
    display = display_of(output)
    done = photograph(
        mesh,
        env,
        out or Path("captures") / input_name(mesh),
        views=views,
        held_out=held_out,
        resolution=resolution,
        exposure=exposure,
        seed=seed,
        overwrite=overwrite,
        device=select_device(device),
        display=display,
    )
    for note in done.notes:
        display.say(f"note: {note}")
    display.say(
        f"{done.folder}: {done.fitted} photos to fit and {done.held_out} held out, with the truth in {done.truth.mesh.parent}; "
        f"next: unrender fit asset {done.folder}"
    )
    results = {"capture": str(done.folder), "fitted": done.fitted, "held_out": done.held_out, "exposure": done.exposure}
    return Ending(0, {**results, "truth": str(done.truth.mesh), "environment": str(done.truth.environment), "notes": list(done.notes)})

"""The Python side of the command line: ``unrender.load`` and ``unrender.fit``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from rich.console import Console

from unrender.captures import load_capture
from unrender.captures.capture import Capture
from unrender.devices import select_device
from unrender.recipes.fitting import FitResult, Observer
from unrender.recipes.table import recipes
from unrender.runs.directory import RunDirectory
from unrender.runs.display import Display
from unrender.runs.outputs import write_outputs
from unrender.runs.session import Job, fit_into
from unrender.words import suggestion

load = load_capture


def fit(
    recipe: str,
    capture: Capture,
    *,
    preset: str | None = None,
    config: Any = None,
    steps: int | None = None,
    max_seconds: float | int | None = None,
    device: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    observer: Observer | None = None,
) -> FitResult:
    """Fits a scene to a capture.

    Args:
        recipe: ``"nerf"`` or ``"neus"``.
        capture: posed photos, from :func:`unrender.load`.
        preset: where the configuration starts from; ``"cpu"`` or ``"gpu"`` by the device when left out.
        config: a whole configuration of the recipe instead of a preset.
        steps: number of steps; given alone, it replaces the preset's time budget.
        max_seconds: budget of training time.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; the best there is when left out.
        seed: of every random number.
        out: a run directory: with it the fit writes checkpoints, resumes, and leaves metrics, mesh, video and report there as
            ``unrender fit`` does; without it nothing is written.
        observer: sees every report of the running fit.

    Returns:
        The scene and how the fit ended; ``result.mesh()`` is the surface in the frame the poses came in.

    Raises:
        ValueError: for an unknown recipe, preset or device, or a configuration that is out of range.
        OSError: when ``out`` cannot be written.
    """
    table = recipes()
    if recipe not in table:
        raise ValueError(f"there is no recipe {recipe!r}; {suggestion(recipe, table)}")
    method = table[recipe]
    where = select_device(device)
    if config is None:
        preset = preset or method.default_preset(where)
        if preset not in method.presets:
            raise ValueError(f"the recipe {recipe} has no preset {preset!r}; {suggestion(preset, method.presets)}")
        config = method.presets[preset]
    elif preset is not None:
        raise ValueError("give a preset or a config, not both")
    budget = None if max_seconds is None else float(max_seconds)
    if steps is not None:
        config = dataclasses.replace(config, steps=steps, max_seconds=budget)
    elif budget is not None:
        config = dataclasses.replace(config, max_seconds=budget)
    if out is None:
        return method.fit(capture, config, device=where, seed=seed, observer=observer)
    directory = RunDirectory(Path(out))
    display = Display(Console(quiet=True))
    job = Job(method, preset, config, capture, "", {}, where, seed)
    result = fit_into(directory, job, display=display, observer=observer)
    if result.outcome != "interrupted":
        write_outputs(directory, result, capture, device=where, display=display)
    return result

"""The Python interface: ``unrender.load``, ``make_masks``, ``fit``, ``open_run`` and ``evaluate``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unrender.captures import load_capture
from unrender.captures.capture import Capture
from unrender.captures.mask_making import making
from unrender.captures.mask_making.making import MaskingResult
from unrender.devices import select_device
from unrender.recipes.fitting import FitResult, Observer, Progress
from unrender.recipes.kinds import Input
from unrender.recipes.settings import with_budget
from unrender.recipes.table import C, Config, I, Recipe, find_recipe, recipes
from unrender.runs import opening
from unrender.runs.config_json import read_config
from unrender.runs.directory import RunDirectory
from unrender.runs.display import Display
from unrender.runs.inputs import Origin, Reading, prepared, read_input
from unrender.runs.opening import OpenRun
from unrender.runs.scoring import RunScores, photos_of, score_run
from unrender.runs.session import Job, closing_sentence, ordinary_pytorch, run_job
from unrender.words import MaskMethod, RecipeName, TruthFrame, errors_in_python, in_python

load = load_capture

if TYPE_CHECKING:
    GivenInput = Input | str | Path
    GivenConfig = Config | str | Path | None
else:  # fit says itself what is wrong with other types
    GivenInput = GivenConfig = Any


def fit(
    recipe: RecipeName,
    input: GivenInput,
    *,
    preset: str | None = None,
    config: GivenConfig = None,
    steps: int | None = None,
    max_seconds: float | int | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    mesh_resolution: int = 256,
    overwrite: bool = False,
    observer: Observer | None = None,
    progress: bool | None = None,
) -> FitResult:
    """Fit a scene to a capture, or to another input that the recipe takes.

    >>> unrender.fit("neus", capture, steps=100, settings={"target_samples": 2**14})    # doctest: +SKIP

    Args:
        recipe: ``"nerf"`` or ``"neus"``.
        input: posed photos from :func:`unrender.load`, or another input of the recipe; a path is read with default options.
        preset: name of the configuration to start from, by default ``"cpu"`` or ``"gpu"``, depending on the device.
        config: a whole configuration of the recipe instead of a preset, or the ``run.json`` of another run.
        steps: number of steps.
        max_seconds: seconds of training. A budget given alone replaces the preset's; of both, the one that is used up first ends the fit.
        settings: single settings by name, which override the preset or configuration.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; by default the best available device.
        seed: of all random numbers.
        out: a run directory, into which the fit writes checkpoints, metrics, mesh, video and report, and from which it resumes, like
        ``unrender fit``; without it nothing is written. An output that cannot be written is a warning.
        mesh_resolution: cells along a side of the region of interest when the mesh is written into ``out``.
        overwrite: remove another run in ``out`` instead of raising an error.
        observer: called with the progress of the running fit.
        progress: whether to show the progress; by default in notebooks and interactive sessions.

    Returns:
        The scene and how the fit ended; ``result.mesh()`` is the surface in the frame of the input.

    Raises:
        ValueError: for an unknown recipe, preset, setting or device, or a value that is out of range.
        OSError: when ``out`` cannot be written.
    """
    with errors_in_python():
        table, display = recipes(), Display.in_python(progress)
        method, target = find_recipe(recipe, table), select_device(device)
        if config is None:
            preset, config = method.start(preset, target)
        elif preset is not None:
            raise ValueError("fit takes a preset or a config, got both")
        elif isinstance(config, str | Path):
            config = _config_in(Path(config), method)
        elif not isinstance(config, method.config_type):
            hint = "; single settings go into settings={...}" if isinstance(config, Mapping) else ""
            name = method.config_type.__name__
            raise ValueError(f"the recipe {recipe} takes {name} or the path of a run.json as config, got {type(config).__name__}{hint}")
        config = with_budget(method.configure(config, settings or {}), steps=steps, max_seconds=max_seconds)
        with ordinary_pytorch(target):
            if isinstance(input, str | Path):
                with display.task("reading the input"):
                    reading = read_input(method, config, Path(input), recipes=table, device=target)
            elif isinstance(input, Input):
                reading = Reading(prepared(method, config, input), Origin())
            else:
                raise ValueError(f"the recipe {recipe} takes {method.input.summary} or its path as input, got {type(input).__name__}")
            job = Job(method, preset, config, reading.input, reading.origin, target, seed)
            job.check()
            if out is None:
                return _fit_only(job, observer, display)
        directory = RunDirectory(Path(out))
        run = run_job(job, directory, overwrite=overwrite, display=display, observer=observer, mesh_resolution=mesh_resolution)
        for sentence in run.failures:
            warnings.warn(in_python(sentence), RuntimeWarning, stacklevel=2)
        return run.result


def _config_in(path: Path, recipe: Recipe[C, I]) -> C:
    """Return the configuration in a run.json; what does not fit this version is a warning."""
    reading = read_config(path, recipe)
    for note in reading.notes:
        warnings.warn(note, UserWarning, stacklevel=4)
    return reading.config


def _fit_only(job: Job[C, I], observer: Observer | None, display: Display) -> FitResult:
    """Fit without a folder; the display follows the fit."""

    def watch(state: Progress) -> None:
        display.follow(state)
        if observer is not None:
            observer(state)

    with display:
        result = job.recipe.fit(job.input, job.config, device=job.device, seed=job.seed, observer=watch)
    display.say(closing_sentence(result))
    return replace(result, planned_steps=job.planned_steps)


def make_masks(
    capture: str | Path,
    *,
    method: MaskMethod | None = None,
    command: str | None = None,
    box: tuple[float, float, float, float] | None = None,
    center: tuple[float, float, float] | None = None,
    radius: float | None = None,
    independent: bool = False,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> MaskingResult:
    """Make masks of the object in all photos, like ``unrender mask``.

    >>> result = unrender.make_masks("photos")      # doctest: +SKIP
    >>> result.verdict, result.doubtful             # doctest: +SKIP

    Args:
        capture: the folder of a capture, or of photos without poses.
        method: ``"background"`` (of one color), ``"static"`` (cameras stand still, the object turns) or ``"region"`` (within a box or
        sphere); by default the first of them that fits the photos.
        command: a program that makes the mask of one photo instead: ``"rembg i {image} {mask}"``. It is started without a shell.
        box: left, top, right and bottom of the object in all photos, as shares of width and height.
        center: of a sphere that contains the object, in the frame of the poses.
        radius: of this sphere.
        independent: keep each mask as its photo alone says, instead of making all agree with the visual hull.
        out: where the masks go, by default ``masks`` in the folder, where readers find them.
        overwrite: make masks again that exist.
        progress: whether to show the progress; by default in notebooks and interactive sessions.

    Returns:
        The masks, what is known about each, and a verdict.

    Raises:
        ValueError: there are no photos, no method fits them, or the program fails.
        OSError: ``out`` cannot be written.
    """
    with errors_in_python():
        return making.make_masks(
            Path(capture),
            method=method,
            command=command,
            out=None if out is None else Path(out),
            overwrite=overwrite,
            box=box,
            center=center,
            radius=radius,
            hull=not independent,
            steps=Display.in_python(progress).steps,
        )


def open_run(path: str | Path, *, device: str | None = None) -> OpenRun:
    """Read a run from its folder: its newest scene and its ``run.json``.

    Args:
        path: the folder that :func:`fit` or ``unrender fit`` wrote.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; by default the best available device.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: its recipe is unknown, or no checkpoint can be read.
    """
    with errors_in_python():
        return opening.open_run(path, recipes(), select_device(device))


def evaluate(
    run: OpenRun | str | Path,
    *,
    truth: str | Path | None = None,
    truth_frame: TruthFrame | None = None,
    relight: str | Path | None = None,
    split: Literal["test", "train"] = "test",
    capture: Capture | str | Path | None = None,
    progress: bool | None = None,
) -> RunScores:
    """Evaluate a run and write its metrics, pictures and report, like ``unrender eval``.

    >>> scores = unrender.evaluate("runs/photos", truth="scan.ply")     # doctest: +SKIP
    >>> [measure.text for measure in scores.measures]                   # doctest: +SKIP

    Args:
        run: a run, or its folder.
        truth: a mesh, points, or a folder of normal maps; by default the normal maps or the true scene that the capture brings.
        truth_frame: ``"source"`` or ``"normalized"`` for a mesh or points, by default ``"source"``, the frame of the poses; ``"source"``,
        ``"opengl"`` or ``"opencv"`` for normal maps, by default found from the maps.
        relight: a lat-long picture of another light, under which the asset is compared with the true scene that the capture brings.
        split: the held-out or the fitted views.
        capture: the photos or their folder, if they have moved or were passed to :func:`fit` as an object.
        progress: whether to show the progress and the numbers; by default in notebooks and interactive sessions.

    Returns:
        The scores of the views and the measures of the surface.

    Raises:
        ValueError: the photos or the truth cannot be read, or the truth lies elsewhere.
        FileNotFoundError: there is no such run or truth.
    """
    with errors_in_python():
        opened = run if isinstance(run, OpenRun) else open_run(run)
        device = next((tensor.device for tensor in opened.scene.parameters()), select_device("cpu"))
        with ordinary_pytorch(device):
            return score_run(
                opened,
                photos_of(opened, capture if isinstance(capture, Capture | None) else Path(capture)),
                split=split,
                truth=None if truth is None else Path(truth),
                truth_frame=truth_frame,
                relight=None if relight is None else Path(relight),
                device=device,
                display=Display.in_python(progress),
            )

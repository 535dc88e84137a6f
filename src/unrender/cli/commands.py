"""What the commands do once their options are read: the part of the command line that needs PyTorch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from rich.console import Console
from torch import Tensor

from unrender.cameras import Cameras, interpolated_cameras, orbit_cameras
from unrender.captures.capture import Capture
from unrender.captures.undistortion import undistorted
from unrender.cli.fit_options import read_options
from unrender.cli.options import DemoOptions, EvalOptions, ExportOptions, FitOptions, RenderOptions
from unrender.demo import AnalyticScene, make_demo_capture
from unrender.files.video import write_video
from unrender.geometry.distances import surface_distance
from unrender.geometry.mesh import Mesh
from unrender.recipes.fitting import Outcome
from unrender.recipes.inputs import Input
from unrender.recipes.settings import with_budget
from unrender.recipes.table import C, I, Recipe
from unrender.render.scene import Scene
from unrender.runs.camera_paths import render_path
from unrender.runs.directory import RunDirectory
from unrender.runs.display import Display
from unrender.runs.figures import write_picture
from unrender.runs.inputs import DEMO_CAPTURE, Origin, prepared, read_input, read_photos
from unrender.runs.measures import Measure
from unrender.runs.opening import OpenRun, open_run
from unrender.runs.outputs import EMPTY_MESH, evaluate_into, score_sentence, write_metrics
from unrender.runs.session import Job, RunResult, check_folder, run_job

EXIT_CODES: dict[Outcome, int] = {"finished": 0, "time budget reached": 0, "interrupted": 130, "diverged": 1, "empty": 1}
"""What the shell is told about each outcome; an output that could not be written is 1 as well."""


def exit_code(run: RunResult) -> int:
    """Return what a command that fits tells the shell."""
    return EXIT_CODES[run.result.outcome] or (1 if run.failures else 0)


def fit_input(
    recipe: Recipe[C, I],
    preset: str,
    options: FitOptions[Path, C, Any, Any],
    recipes: Mapping[str, Recipe[Any, Any]],
    device: torch.device,
    out: Path,
) -> int:
    """Run ``unrender fit``."""
    display = Display(Console())
    directory = RunDirectory(out)
    check_folder(directory, overwrite=options.overwrite)
    try:
        reading = read_input(recipe, options.input, read_options(options.reading), recipes=recipes, device=device)
    except (ValueError, OSError):
        directory.remove_if_empty()
        raise
    capture = recipe.input.capture_of(reading.input)
    describe_input(reading.input, capture, display)
    job = Job(recipe, preset, options.config, reading.input, reading.origin, device, options.seed)
    run = run_job(
        job,
        directory,
        overwrite=options.overwrite,
        display=display,
        mesh_resolution=options.mesh_resolution,
        strict=wants_traceback(),
    )
    return exit_code(run)


def wants_traceback() -> bool:
    """Tell whether errors show where they come from."""
    return os.environ.get("UNRENDER_TRACEBACK") == "1"


def describe_input(given: Input, capture: Capture | None, display: Display) -> None:
    """Say in a few lines what was read, the split rule among them."""
    if capture is None:
        display.say(given.name)
    else:
        sizes = [f"{width}×{height}" for width, height in capture.cameras.sizes.unique(dim=0).tolist()]
        size = " and ".join(sizes) if len(sizes) < 3 else f"{len(sizes)} sizes up to {sizes[-1]}"
        masks = "with masks" if capture.has_masks else "without masks"
        display.say(f"{given.name}: {len(capture)} views of {size} pixels, {masks}{', unbounded' if capture.unbounded else ''}")
        display.say(f"split: {len(capture.split.train)} fitted, {len(capture.split.test)} held out: {capture.split.rule}")
    for note in given.notes:
        display.say(f"note: {note}")


def photos_of(run: OpenRun, moved_to: Path | None) -> Capture:
    """Read the capture behind a run, as its recipe needs it."""
    capture = read_photos(run.record, moved_to)
    return undistorted(capture) if run.recipe.undistorted else capture


def evaluate_run(options: EvalOptions, recipes: Mapping[str, Recipe[Any, Any]], device: torch.device) -> int:
    """Run ``unrender eval``."""
    display = Display(Console())
    run = open_run(options.run, recipes, device)
    run.directory.prepare()
    capture = photos_of(run, options.capture)
    evaluation, _ = evaluate_into(run.directory, run.scene, capture, device=device, split=options.split)
    write_metrics(run.directory.metrics_file if options.split == "test" else run.directory.train_metrics_file, run.record, evaluation)
    for score in evaluation.per_view:
        display.say(f"{score.name}: {score.psnr:.2f} dB, SSIM {score.ssim:.4f}")
    display.say(score_sentence(evaluation))
    return 0


def render_run(options: RenderOptions, recipes: Mapping[str, Recipe[Any, Any]], device: torch.device) -> int:
    """Run ``unrender render``."""
    display = Display(Console())
    run = open_run(options.run, recipes, device)
    run.directory.prepare()
    capture = photos_of(run, options.capture)
    cameras = path_cameras(capture, options)
    folder = run.directory.renders / options.path
    folder.mkdir(parents=True, exist_ok=True)
    video = run.directory.path / f"{options.path}.mp4"
    count = write_video(video, _frames_written(run.scene, cameras, device, folder), fps=options.fps)
    display.say(f"{count} pictures in {folder} and {video}")
    return 0


def path_cameras(capture: Capture, options: RenderOptions) -> Cameras:
    """Return the cameras of a path, at the size asked for."""
    if options.path == "test":
        cameras = capture.cameras.select(capture.split.test)
    elif options.path == "orbit":
        cameras = orbit_cameras(capture.cameras, options.frames)
    else:
        cameras = interpolated_cameras(capture.cameras, options.frames)
    return cameras.downscaled(options.downscale) if options.downscale > 1 else cameras


def _frames_written(scene: Scene, cameras: Cameras, device: torch.device, folder: Path) -> Iterator[UInt8[Tensor, "height width 3"]]:
    """Render the frames of a path for the video, and write each as PNG too."""
    for frame, picture in enumerate(render_path(scene, cameras, device)):
        write_picture(folder / f"{frame:04d}.png", picture.numpy())
        yield picture


def export_run(options: ExportOptions, recipes: Mapping[str, Recipe[Any, Any]], device: torch.device) -> int:
    """Run ``unrender export``."""
    display = Display(Console())
    if options.resolution < 2:
        raise ValueError(f"--resolution is {options.resolution}; give at least 2 cells")
    run = open_run(options.run, recipes, device)
    asset = run.scene.asset(options.resolution, largest_only=not options.all_parts)
    if asset.is_empty:
        raise ValueError(EMPTY_MESH)
    if options.frame == "source":
        asset = asset.transformed(torch.tensor(run.record.input.source_from_world, dtype=torch.float64))
    name = "mesh" if options.frame == "source" else "mesh_normalized"
    out = options.out or run.directory.path / f"{name}.{options.format}"
    if out.suffix.lower() != f".{options.format}":
        raise ValueError(f"--out {out} does not end in .{options.format}; give a file name that does, or another --format")
    asset.export(out)
    display.say(f"{out}: {len(asset.mesh.vertices):,} vertices, {len(asset.mesh.faces):,} faces, {options.frame} frame")
    return 0


def run_demo(options: DemoOptions, recipe: Recipe[C, I], device: torch.device) -> int:
    """Run ``unrender demo``."""
    display = Display(Console())
    directory = RunDirectory(options.out)
    check_folder(directory, overwrite=options.overwrite)
    display.say("painting the photos of an analytic scene")
    capture = make_demo_capture()
    describe_input(capture, capture, display)
    preset, config = recipe.start(None, device)
    config = with_budget(config, max_seconds=options.max_seconds)
    job = Job(recipe, preset, config, prepared(recipe, capture), Origin(DEMO_CAPTURE, DEMO_CAPTURE), device, options.seed)
    run = run_job(job, directory, overwrite=options.overwrite, display=display, measure=compare_with_truth, strict=wants_traceback())
    return exit_code(run)


def compare_with_truth(mesh: Mesh) -> tuple[Measure, ...]:
    """Compute how far a mesh is from the demo's true surface."""
    truth = AnalyticScene().mesh(256)
    diagonal = float((truth.bounding_box[1] - truth.bounding_box[0]).norm())
    distance = surface_distance(mesh, truth, generator=torch.Generator().manual_seed(0))
    return (
        Measure("Chamfer", 100.0 * distance.chamfer / diagonal, "% of diagonal", digits=3),
        Measure("F-score at 1 % of diagonal", distance.f_score, digits=4),
    )

"""The commands themselves: the part of the command line that needs PyTorch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import UInt8
from rich.console import Console
from torch import Tensor

from unrender.cameras import Cameras, interpolated_cameras, orbit_cameras
from unrender.captures.capture import Capture
from unrender.captures.undistortion import undistorted
from unrender.cli.arguments import CameraPath, MeshFormat
from unrender.demo import DEMO_STEPS, AnalyticScene, make_demo_capture
from unrender.devices import select_device
from unrender.files.video import write_video
from unrender.geometry.distances import surface_distance
from unrender.geometry.mesh import Mesh
from unrender.recipes import table
from unrender.recipes.fitting import Frame, Outcome
from unrender.recipes.kinds import Input
from unrender.recipes.settings import with_budget
from unrender.recipes.table import C, I, Recipe
from unrender.render.scene import Scene
from unrender.runs.camera_paths import render_path
from unrender.runs.directory import RunDirectory, default_folder
from unrender.runs.display import Display
from unrender.runs.figures import write_picture
from unrender.runs.inputs import DEMO_CAPTURE, Origin, prepared, read_input, read_photos
from unrender.runs.measures import Measure
from unrender.runs.opening import OpenRun, open_run
from unrender.runs.outputs import EMPTY_MESH, evaluate_into, score_sentence, write_metrics
from unrender.runs.read_options import ReadOptions
from unrender.runs.session import Job, RunResult, check_folder, run_job

EXIT_CODES: dict[Outcome, int] = {"finished": 0, "time budget reached": 0, "interrupted": 130, "diverged": 1, "empty": 1}
"""Exit code of each outcome; an output that could not be written gives 1 too."""


def exit_code(run: RunResult) -> int:
    """Return the exit code of a command that fits."""
    return EXIT_CODES[run.result.outcome] or (1 if run.failures else 0)


def fit_input(
    recipe: Recipe[C, I],
    preset: str,
    config: C,
    path: Path,
    reading: ReadOptions,
    *,
    device: str | None,
    seed: int,
    out: Path | None,
    mesh_resolution: int,
    overwrite: bool,
) -> int:
    """Run ``unrender fit``."""
    where = select_device(device)
    display = Display(Console())
    directory = RunDirectory(out or default_folder(recipe.name, path))
    check_folder(directory, overwrite=overwrite)
    try:
        given = read_input(recipe, path, reading, recipes=table.recipes(), device=where)
    except (ValueError, OSError):
        directory.remove_if_empty()
        raise
    describe_input(given.input, recipe.input.capture_of(given.input), display)
    job = Job(recipe, preset, config, given.input, given.origin, where, seed)
    run = run_job(job, directory, overwrite=overwrite, display=display, mesh_resolution=mesh_resolution, strict=wants_traceback())
    return exit_code(run)


def wants_traceback() -> bool:
    """Tell whether errors show a traceback."""
    return os.environ.get("UNRENDER_TRACEBACK") == "1"


def describe_input(given: Input, capture: Capture | None, display: Display) -> None:
    """Describe the input in a few lines, including the split rule."""
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


def evaluate_run(folder: Path, *, split: Literal["train", "test"], moved_to: Path | None, device: str | None) -> int:
    """Run ``unrender eval``."""
    where = select_device(device)
    display = Display(Console())
    run = open_run(folder, table.recipes(), where)
    run.directory.prepare()
    capture = photos_of(run, moved_to)
    evaluation, _ = evaluate_into(run.directory, run.scene, capture, device=where, split=split)
    write_metrics(run.directory.metrics_file if split == "test" else run.directory.train_metrics_file, run.record, evaluation)
    for score in evaluation.per_view:
        display.say(f"{score.name}: {score.psnr:.2f} dB, SSIM {score.ssim:.4f}")
    display.say(score_sentence(evaluation))
    return 0


def render_run(folder: Path, *, path: CameraPath, frames: int, fps: int, downscale: int, moved_to: Path | None, device: str | None) -> int:
    """Run ``unrender render``."""
    where = select_device(device)
    display = Display(Console())
    run = open_run(folder, table.recipes(), where)
    run.directory.prepare()
    cameras = path_cameras(photos_of(run, moved_to), path, frames)
    cameras = cameras.downscaled(downscale) if downscale > 1 else cameras
    pictures = run.directory.renders / path
    pictures.mkdir(parents=True, exist_ok=True)
    video = run.directory.path / f"{path}.mp4"
    count = write_video(video, _frames_written(run.scene, cameras, where, pictures), fps=fps)
    display.say(f"{count} pictures in {pictures} and {video}")
    return 0


def path_cameras(capture: Capture, path: CameraPath, frames: int) -> Cameras:
    """Return the cameras of a path: the held-out views, or a number of frames around or between the photos."""
    if path == "test":
        return capture.cameras.select(capture.split.test)
    return orbit_cameras(capture.cameras, frames) if path == "orbit" else interpolated_cameras(capture.cameras, frames)


def _frames_written(scene: Scene, cameras: Cameras, device: torch.device, folder: Path) -> Iterator[UInt8[Tensor, "height width 3"]]:
    """Render the frames of a path for the video, and write each as PNG too."""
    for frame, picture in enumerate(render_path(scene, cameras, device)):
        write_picture(folder / f"{frame:04d}.png", picture.numpy())
        yield picture


def export_run(
    folder: Path, *, format: MeshFormat, resolution: int, frame: Frame, all_parts: bool, out: Path | None, device: str | None
) -> int:
    """Run ``unrender export``."""
    where = select_device(device)
    display = Display(Console())
    if resolution < 2:
        raise ValueError(f"--resolution is {resolution}; give at least 2 cells")
    run = open_run(folder, table.recipes(), where)
    asset = run.scene.asset(resolution, largest_only=not all_parts)
    if asset.is_empty:
        raise ValueError(EMPTY_MESH)
    if frame == "source":
        asset = asset.transformed(torch.tensor(run.record.input.source_from_world, dtype=torch.float64))
    out = out or run.directory.path / f"{'mesh' if frame == 'source' else 'mesh_normalized'}.{format}"
    if out.suffix.lower() != f".{format}":
        raise ValueError(f"--out {out} does not end in .{format}; give a file name that does, or another --format")
    asset.export(out)
    display.say(f"{out}: {len(asset.mesh.vertices):,} vertices, {len(asset.mesh.faces):,} faces, {frame} frame")
    return 0


def run_demo(out: Path, *, steps: int | None, max_seconds: float | None, device: str | None, seed: int, overwrite: bool) -> int:
    """Run ``unrender demo``."""
    where = select_device(device)
    recipe = table.recipes()["neus"]
    display = Display(Console())
    directory = RunDirectory(out)
    check_folder(directory, overwrite=overwrite)
    display.say("painting the photos of an analytic scene")
    capture = make_demo_capture()
    describe_input(capture, capture, display)
    preset, config = recipe.start(None, where)
    config = with_budget(config, steps=DEMO_STEPS if steps is None and max_seconds is None else steps, max_seconds=max_seconds)
    job = Job(recipe, preset, config, prepared(recipe, capture), Origin(DEMO_CAPTURE, DEMO_CAPTURE), where, seed)
    run = run_job(job, directory, overwrite=overwrite, display=display, measure=compare_with_truth, strict=wants_traceback())
    return exit_code(run)


def compare_with_truth(mesh: Mesh) -> tuple[Measure, ...]:
    """Compute the distance of a mesh from the demo's true surface."""
    truth = AnalyticScene().mesh(256)
    diagonal = float((truth.bounding_box[1] - truth.bounding_box[0]).norm())
    distance = surface_distance(mesh, truth, generator=torch.Generator().manual_seed(0))
    return (
        Measure("Chamfer", 100.0 * distance.chamfer / diagonal, "% of diagonal", digits=3),
        Measure("F-score at 1 % of diagonal", distance.f_score, digits=4),
    )

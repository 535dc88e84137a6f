"""What the commands do once their options are read: the part of the command line that needs PyTorch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from unrender.cameras import Cameras, interpolated_cameras, orbit_cameras
from unrender.captures import load_capture
from unrender.captures.capture import Capture
from unrender.cli.options import DemoOptions, EvalOptions, ExportOptions, FitOptions, RenderOptions
from unrender.files.video import write_video
from unrender.geometry.distances import surface_distance
from unrender.geometry.mesh import Mesh
from unrender.render.scene import Scene
from unrender.runs.directory import RunDirectory, RunRecord
from unrender.runs.display import Display
from unrender.runs.figures import write_picture
from unrender.runs.measures import Measure
from unrender.runs.outputs import (
    EMPTY_MESH,
    closing_sentence,
    evaluate_into,
    render_path,
    score_sentence,
    write_metrics,
    write_outputs,
)
from unrender.runs.session import Job, Recipe, check_folder, fit_into, open_run

DEMO_CAPTURE = "demo"
"""Stands in ``run.json`` for the path of the capture that ``unrender demo`` makes."""


def capture_options(options: FitOptions[Any]) -> dict[str, Any]:
    """What the reader is told beyond the path; what was not given is left to it."""
    told = {
        "downscale": options.downscale,
        "center": options.center,
        "radius": options.radius,
        "up": options.up,
        "test_every": options.test_every,
        "normals": None if options.normal_maps is None else os.path.abspath(options.normal_maps),
        "normals_frame": options.normal_maps_frame,
        "use_masks": options.masks,
    }
    return {name: value for name, value in told.items() if value is not None}


def fit_capture(recipe: Recipe, preset: str, options: FitOptions[Any], device: torch.device, out: Path) -> int:
    """``unrender fit``"""
    display = Display(Console())
    directory = RunDirectory(out)
    check_folder(directory, overwrite=options.overwrite)
    told = capture_options(options)
    try:
        capture = load_capture(options.capture, **told)
    except ValueError:
        directory.remove_if_empty()
        raise
    describe_capture(capture, display)
    job = Job(recipe, preset, options.config, capture, os.path.abspath(options.capture), told, device, options.seed)
    result = fit_into(directory, job, overwrite=options.overwrite, display=display)
    if result.outcome == "interrupted":
        display.say(f"stopped at step {result.steps}; the same command resumes it")
        return 130
    display.say(closing_sentence(result))
    write_outputs(directory, result, capture, device=device, display=display, mesh_resolution=options.mesh_resolution)
    return 1 if result.outcome == "diverged" else 0


def describe_capture(capture: Capture, display: Display) -> None:
    """Two or three lines about what was read, the split rule among them."""
    sizes = [f"{width}×{height}" for width, height in capture.cameras.sizes.unique(dim=0).tolist()]
    size = " and ".join(sizes) if len(sizes) < 3 else f"{len(sizes)} sizes up to {sizes[-1]}"
    masks = "with masks" if capture.has_masks else "without masks"
    display.say(f"{capture.name}: {len(capture.names)} views of {size} pixels, {masks}{', unbounded' if capture.unbounded else ''}")
    display.say(f"split: {len(capture.split.train)} fitted, {len(capture.split.test)} held out: {capture.split.rule}")
    for note in capture.notes:
        display.say(f"note: {note}")


def reload_capture(record: RunRecord, override: Path | None) -> Capture:
    """The capture a run was fitted to, read with the same options.

    Raises:
        ValueError: when it is not where it was, or its files have changed.
    """
    if override is None and record.capture.path == DEMO_CAPTURE:
        from unrender.demo import make_demo_capture

        return make_demo_capture()
    path = override or Path(record.capture.path)
    if override is None and (not record.capture.path or not path.exists()):
        where = f"at {path} any more" if record.capture.path else "named in run.json (it was handed over in Python)"
        raise ValueError(f"the capture is not {where}; say where it is with --capture DIR")
    options: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in record.capture.options.items()}
    capture = load_capture(path, **options)
    if capture.fingerprint != record.capture.fingerprint:
        raise ValueError(f"the files in {path} are not those the run was fitted to; give the original capture with --capture DIR")
    return capture


def evaluate_run(options: EvalOptions, recipes: Mapping[str, Recipe], device: torch.device) -> int:
    """``unrender eval``"""
    display = Display(Console())
    run = open_run(options.run, recipes, device)
    run.directory.prepare()
    capture = reload_capture(run.record, options.capture)
    evaluation, _ = evaluate_into(run.directory, run.scene, capture, device=device, split=options.split)
    write_metrics(run.directory.metrics_file if options.split == "test" else run.directory.train_metrics_file, run.record, evaluation)
    for score in evaluation.per_view:
        display.say(f"{score.name}: {score.psnr:.2f} dB, SSIM {score.ssim:.4f}")
    display.say(score_sentence(evaluation))
    return 0


def render_run(options: RenderOptions, recipes: Mapping[str, Recipe], device: torch.device) -> int:
    """``unrender render``"""
    display = Display(Console())
    run = open_run(options.run, recipes, device)
    run.directory.prepare()
    capture = reload_capture(run.record, options.capture)
    cameras = path_cameras(capture, options)
    folder = run.directory.renders / options.path
    folder.mkdir(parents=True, exist_ok=True)
    video = run.directory.path / f"{options.path}.mp4"
    count = write_video(video, _frames_written(run.scene, cameras, device, folder), fps=options.fps)
    display.say(f"{count} pictures in {folder} and {video}")
    return 0


def path_cameras(capture: Capture, options: RenderOptions) -> Cameras:
    """The cameras of a path, at the size asked for."""
    if options.path == "test":
        cameras = capture.cameras.select(capture.split.test)
    elif options.path == "orbit":
        cameras = orbit_cameras(capture.cameras, options.frames)
    else:
        cameras = interpolated_cameras(capture.cameras, options.frames)
    return cameras.downscaled(options.downscale) if options.downscale > 1 else cameras


def _frames_written(scene: Scene, cameras: Cameras, device: torch.device, folder: Path) -> Any:
    """The frames of a path for the video; each is written as PNG on its way."""
    for frame, picture in enumerate(render_path(scene, cameras, device)):
        write_picture(folder / f"{frame:04d}.png", picture.numpy())
        yield picture


def export_run(options: ExportOptions, recipes: Mapping[str, Recipe], device: torch.device) -> int:
    """``unrender export``"""
    display = Display(Console())
    if options.resolution < 2:
        raise ValueError(f"--resolution is {options.resolution}; give at least 2 cells")
    run = open_run(options.run, recipes, device)
    mesh = run.scene.mesh(options.resolution, largest_only=not options.all_parts)
    if mesh.is_empty:
        raise ValueError(EMPTY_MESH)
    if options.frame == "source":
        mesh = mesh.transformed(torch.tensor(run.record.capture.source_from_world, dtype=torch.float64))
    name = "mesh" if options.frame == "source" else "mesh_normalized"
    out = options.out or run.directory.path / f"{name}.{options.format}"
    if out.suffix.lower() != f".{options.format}":
        raise ValueError(f"--out {out} does not end in .{options.format}; give a file name that does, or another --format")
    mesh.export(out)
    display.say(f"{out}: {len(mesh.vertices):,} vertices, {len(mesh.faces):,} faces, {options.frame} frame")
    return 0


def run_demo(options: DemoOptions, recipe: Recipe, device: torch.device) -> int:
    """``unrender demo``"""
    from unrender.demo import make_demo_capture

    display = Display(Console())
    directory = RunDirectory(options.out)
    check_folder(directory, overwrite=options.overwrite)
    display.say("painting the photos of an analytic scene")
    capture = make_demo_capture()
    describe_capture(capture, display)
    preset = recipe.default_preset(device)
    config = dataclasses.replace(recipe.presets[preset], max_seconds=options.max_seconds)
    job = Job(recipe, preset, config, capture, DEMO_CAPTURE, {}, device, options.seed)
    result = fit_into(directory, job, overwrite=options.overwrite, display=display)
    if result.outcome == "interrupted":
        display.say(f"stopped at step {result.steps}; the same command resumes it")
        return 130
    display.say(closing_sentence(result))
    write_outputs(directory, result, capture, device=device, display=display, measure=compare_with_truth)
    return 0


def compare_with_truth(mesh: Mesh) -> tuple[Measure, ...]:
    """How far a mesh is from the demo's true surface, for ``run.json`` and the report."""
    from unrender.demo import AnalyticScene

    truth = AnalyticScene().mesh(256)
    diagonal = float((truth.bounding_box[1] - truth.bounding_box[0]).norm())
    distance = surface_distance(mesh, truth, generator=torch.Generator().manual_seed(0))
    return (
        Measure("Chamfer", 100.0 * distance.chamfer / diagonal, "% of diagonal", digits=3),
        Measure("F-score at 1 % of diagonal", distance.f_score, digits=4),
    )

"""What a finished fit leaves in its folder: metrics, pictures, mesh, video, report."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from unrender.cameras import Cameras, arc_cameras, interpolated_cameras, orbit_cameras
from unrender.captures.capture import Capture
from unrender.files.atomic import write_json, write_text
from unrender.files.video import write_video
from unrender.geometry.mesh import Mesh
from unrender.recipes.fitting import FitResult
from unrender.render.asset import Asset
from unrender.render.rendering import Rendering
from unrender.render.scene import Scene
from unrender.runs.directory import RunDirectory, RunRecord, finite
from unrender.runs.display import Display, duration
from unrender.runs.evaluation import Evaluation, ViewScore, evaluate, truth_of
from unrender.runs.figures import color_picture, data_uri, distance_picture, error_picture, normal_picture, read_picture, write_picture
from unrender.runs.measures import Measure
from unrender.runs.milestones import PREVIEW_SIDE, followed_view, stacked
from unrender.runs.report import Course, Report, ViewRow, build_report

CameraPath = Literal["test", "orbit", "interpolated"]

MOST_ROWS = 40
"""Test views shown in the report; all of them are in ``renders/``."""

VIDEO_FRAMES = 72
FEWEST_VIDEO_FRAMES = 36
SMALLEST_VIDEO_SIDE = 160
VIDEO_SHARE = 0.1
"""Of the training time that the video may take, where that is more than :data:`VIDEO_SECONDS`."""
VIDEO_SECONDS = 20.0

EMPTY_MESH = (
    "there is no surface: the fitted field nowhere crosses its threshold inside the region of interest. Usual reasons: the region is in "
    "the wrong place (set --center and --radius), the fit was too short, or the masks are inverted"
)


def write_outputs(
    directory: RunDirectory,
    result: FitResult,
    capture: Capture,
    *,
    device: torch.device,
    display: Display,
    mesh_resolution: int = 256,
    measure: Callable[[Mesh], tuple[Measure, ...]] | None = None,
) -> RunRecord:
    """Writes whatever of the outputs is missing, each file complete or not at all.

    Args:
        directory: of a run whose fit is finished.
        result: of the fit.
        capture: with the held-out views.
        device: where the scene lives.
        display: where the numbers are shown.
        mesh_resolution: cells along the longest side of the region of interest.
        measure: compares the mesh, in the normalized world, with a known truth; the numbers go into ``run.json`` and the report.

    Returns:
        The updated ``run.json``.

    Raises:
        OSError: when a file cannot be written.
    """
    record = directory.read_record()
    report_missing = not directory.report_file.exists()
    timings, measures, remarks = dict(record.timings), {known.name: known for known in record.measures}, list(record.remarks)
    if result.outcome == "diverged":
        remarks.append("the fit diverged: its loss stopped being finite; what is shown is the last good state")
    evaluation, rows, seconds_per_ray = None, [], None
    if report_missing or not directory.metrics_file.exists():
        started = time.perf_counter()
        split: Literal["train", "test"] = "test" if capture.split.test else "train"
        if split == "train":
            remarks.append(f"the numbers are of the fitted views, because none was held out ({capture.split.rule})")
        evaluation, rows = evaluate_into(directory, result.scene, capture, device=device, split=split)
        timings["evaluation"] = time.perf_counter() - started
        seconds_per_ray = timings["evaluation"] / int(capture.cameras.select([s.view for s in evaluation.per_view]).sizes.prod(1).sum())
        write_metrics(directory.metrics_file, record, evaluation)
        if evaluation.psnr_masked is not None and math.isfinite(evaluation.psnr_masked):
            inside = Measure("PSNR inside the mask", evaluation.psnr_masked, "dB", digits=2)
            measures[inside.name] = inside
        display.say(score_sentence(evaluation))
    mesh = None
    if report_missing or not all(directory.mesh_file(suffix).exists() for suffix in ("ply", "glb")):
        started = time.perf_counter()
        mesh = result.scene.mesh(mesh_resolution)
        timings["mesh"] = time.perf_counter() - started
        if mesh.is_empty:
            remarks.append(EMPTY_MESH)
            display.say(f"note: {EMPTY_MESH}")
        else:
            write_meshes(directory, mesh.transformed(capture.source_from_world))
            display.say(f"mesh: {len(mesh.vertices):,} vertices, {len(mesh.faces):,} faces, in the frame the poses came in")
            for known in measure(mesh) if measure is not None else ():
                measures[known.name] = known
                display.say(known.sentence)
    if not directory.video_file.exists():
        started = time.perf_counter()
        path = showing_path(capture, VIDEO_FRAMES)
        write_video(directory.video_file, render_path(result.scene, within_budget(path, seconds_per_ray, record.seconds), device))
        timings["video"] = time.perf_counter() - started
    record = dataclasses.replace(record, timings=timings, measures=tuple(measures.values()), remarks=list(dict.fromkeys(remarks)))
    directory.write_record(record)
    if report_missing and evaluation is not None:
        history, course = tuple(directory.read_history()), course_of(directory, capture)
        report = Report(record, evaluation, course, tuple(rows), history, None if mesh is None else Asset(mesh), directory.video_file)
        write_text(directory.report_file, build_report(report))
    display.say(f"all of it on one page: {directory.report_file}")
    return record


def evaluate_into(
    directory: RunDirectory, scene: Scene, capture: Capture, *, device: torch.device, split: Literal["train", "test"] = "test"
) -> tuple[Evaluation, list[ViewRow]]:
    """Evaluates a split, writes each view's color, distance and normal to ``renders/``, and keeps small pictures for the report."""
    directory.renders.mkdir(exist_ok=True)
    views = capture.split.test if split == "test" else capture.split.train
    shown = set(views[:: max(1, math.ceil(len(views) / MOST_ROWS))])
    rows: list[ViewRow] = []

    def on_view(score: ViewScore, truth: Tensor, rendering: Rendering) -> None:
        distance, span = distance_picture(rendering)
        color, normal = color_picture(rendering.srgb), normal_picture(rendering)
        stem = file_stem(score.view, score.name)
        for suffix, picture in (("", color), ("_depth", distance), ("_normal", normal)):
            write_picture(directory.renders / f"{stem}{suffix}.png", picture)
        if score.view in shown:
            error = error_picture(rendering.srgb, truth)
            rows.append(ViewRow.from_pictures(score, color_picture(truth), color, error, distance, normal, span))

    evaluation = evaluate(scene, capture, split, device=device, on_view=on_view)
    return evaluation, rows


def course_of(directory: RunDirectory, capture: Capture) -> Course | None:
    """The pictures taken while the fit ran, color above normal, and the photo they approach; None where none was taken."""
    stages = tuple((seconds, data_uri(stacked(read_picture(directory.stage_file(seconds))))) for seconds in directory.stages())
    if not stages:
        return None
    view = followed_view(capture)
    truth = color_picture(truth_of(capture, view, capture.photos.pixels.device))
    return Course(capture.names[view], stages, data_uri(truth, largest_side=PREVIEW_SIDE))


def write_metrics(file: Path, record: RunRecord, evaluation: Evaluation) -> None:
    """Writes the metrics of a split; a number that is not finite becomes null."""
    write_json(
        file,
        {
            "split": evaluation.split,
            "views": len(evaluation.per_view),
            "psnr": finite(evaluation.psnr),
            "ssim": finite(evaluation.ssim),
            "steps": record.steps,
            "seconds": record.seconds,
            "peak_memory_mb": record.peak_memory_mb,
            "per_view": [{"name": s.name, "psnr": finite(s.psnr), "ssim": finite(s.ssim)} for s in evaluation.per_view],
        },
    )


def score_sentence(evaluation: Evaluation) -> str:
    """The numbers of an evaluation as one line."""
    inside = "" if evaluation.psnr_masked is None else f" ({evaluation.psnr_masked:.2f} dB inside the mask)"
    count = len(evaluation.per_view)
    return f"{evaluation.split}: PSNR {evaluation.psnr:.2f} dB{inside}, SSIM {evaluation.ssim:.4f}, {count} view{'s' * (count > 1)}"


def write_meshes(directory: RunDirectory, mesh: Mesh) -> None:
    """Writes ``mesh.ply`` and ``mesh.glb``."""
    for suffix in ("ply", "glb"):
        mesh.export(directory.mesh_file(suffix))


def file_stem(view: int, name: str) -> str:
    """A file name for a view: its number, which makes it unique, and its name without what a file name cannot hold.

    >>> file_stem(7, "test/r 7.png")
    '007_test_r_7'
    """
    stem = re.sub(r"\.(png|jpe?g|webp|tiff?|bmp)$", "", name, flags=re.IGNORECASE)
    return f"{view:03d}_{re.sub(r'[^A-Za-z0-9.-]+', '_', stem)}"


def showing_path(capture: Capture, frames: int) -> Cameras:
    """The path that shows a capture best: an orbit where photos were taken all around, an arc where they were taken from one side,
    and between the photos themselves where the surroundings belong to the scene."""
    cameras = capture.cameras
    if capture.unbounded:
        return interpolated_cameras(cameras, frames)
    azimuth = torch.atan2(cameras.positions[:, 1], cameras.positions[:, 0]).sort().values
    gaps = torch.cat([azimuth[1:] - azimuth[:-1], azimuth[:1] + 2.0 * math.pi - azimuth[-1:]])
    around = float(gaps.max()) < math.radians(150.0)
    return orbit_cameras(cameras, frames) if around else arc_cameras(cameras, frames)


def within_budget(path: Cameras, seconds_per_ray: float | None, fit_seconds: float) -> Cameras:
    """The path with smaller pictures, then fewer of them, so that rendering takes no longer than a share of the fit."""
    if seconds_per_ray is None:
        return path
    budget = max(VIDEO_SECONDS, VIDEO_SHARE * fit_seconds)
    too_much = seconds_per_ray * len(path) * path.width * path.height / budget
    largest_factor = max(1, min(path.width, path.height) // SMALLEST_VIDEO_SIDE)
    factor = min(largest_factor, max(1, math.ceil(math.sqrt(too_much))))
    every = 2 if too_much / factor**2 > 1.5 and len(path) // 2 >= FEWEST_VIDEO_FRAMES else 1
    return path.downscaled(factor)[::every] if factor > 1 else path[::every]


def render_path(
    scene: Scene, cameras: Cameras, device: torch.device, on_frame: Callable[[int, Rendering], None] | None = None
) -> Iterator[UInt8[Tensor, "height width 3"]]:
    """The frames of a camera path, one at a time, as sRGB bytes."""
    cameras = cameras.to(device)
    for frame in range(len(cameras)):
        with torch.no_grad():
            rendering = scene.render_view(cameras, frame)
        if on_frame is not None:
            on_frame(frame, rendering)
        yield torch.from_numpy(color_picture(rendering.srgb))


def closing_sentence(result: FitResult) -> str:
    """How a fit ended, as one line."""
    skipped = f", {result.skipped_steps} of them skipped because they were not finite" if result.skipped_steps else ""
    return f"{result.outcome}: {result.steps} steps{skipped}, {duration(result.seconds)} of training"

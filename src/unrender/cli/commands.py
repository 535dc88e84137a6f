"""The commands themselves: the part of the command line that needs PyTorch."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import UInt8
from torch import Tensor

from unrender.cameras import Cameras, interpolated_cameras, orbit_cameras, spiral_cameras
from unrender.captures.capture import Capture
from unrender.captures.path_json import read_camera_path
from unrender.cli.arguments import UsageError
from unrender.cli.displays import display_of
from unrender.cli.options import AxisOrVector, CameraPath, ExportFrame, MeshFormat, OutputOptions, UpAxes
from unrender.cli.poses_command import posed
from unrender.cli.terminal import Ending
from unrender.demo import DEMO_STEPS, AnalyticScene, make_demo_capture
from unrender.devices import select_device
from unrender.files.atomic import write_json
from unrender.files.video import write_video
from unrender.geometry.distances import points_to_mesh_distance
from unrender.geometry.mesh import Mesh, read_mesh
from unrender.recipes import table
from unrender.recipes.fitting import Observer, Outcome
from unrender.recipes.kinds import Input
from unrender.recipes.settings import with_budget
from unrender.recipes.table import C, I, Recipe
from unrender.render.asset import Asset
from unrender.runs.camera_paths import render_path
from unrender.runs.check_summary import say_summary
from unrender.runs.directory import RunDirectory, default_folder
from unrender.runs.display import Display, Task
from unrender.runs.figures import write_picture
from unrender.runs.inputs import DEMO_CAPTURE, Origin, is_run, prepared, read_input
from unrender.runs.measures import Measure, measures_as_json
from unrender.runs.opening import OpenRun, open_run
from unrender.runs.output_words import EMPTY_MESH, LONGEST_STEM, offset_sentence
from unrender.runs.outputs import extract_asset, write_light
from unrender.runs.protocols import DtuTruth, dtu, nerf_synthetic, read_dtu_truth, scan_of
from unrender.runs.read_options import ReadOptions
from unrender.runs.report_writing import write_viewer
from unrender.runs.scores import metrics_of
from unrender.runs.scoring import photos_of, score_run
from unrender.runs.session import Job, RunResult, check_folder, run_job
from unrender.runs.stanford_orb import OrbViews
from unrender.runs.surface_measures import distance_measures
from unrender.shading.latlong import checked_suffix
from unrender.words import Protocol, TruthFrame, suggestion

EXIT_CODES: dict[Outcome, int] = {"finished": 0, "time budget reached": 0, "interrupted": 130, "diverged": 1, "empty": 1}
"""Exit code of each outcome; an output that could not be written gives 1 too."""


def exit_code(run: RunResult) -> int:
    """Return the exit code of a command that fits."""
    if run.result.outcome == "interrupted" and run.result.signal is not None:
        return 128 + run.result.signal
    return EXIT_CODES[run.result.outcome] or (1 if run.failures else 0)


def fit_input(
    recipe: Recipe[C, I],
    preset: str | None,
    config: C,
    path: Path,
    reading: ReadOptions,
    output: OutputOptions,
    *,
    out: Path | None,
    device: str | None,
    seed: int,
    mesh_resolution: int,
    overwrite: bool,
    tensorboard: bool,
) -> Ending:
    """Run ``unrender fit``."""
    target, display = select_device(device), display_of(output)
    directory = RunDirectory(out or default_folder(recipe.name, path))
    check_folder(directory, overwrite=overwrite)
    try:
        if recipe.input.name in ("capture", "capture|run") and not is_run(path):
            path = posed(path, display)
        with display.task("reading the input"):
            given = read_input(recipe, config, path, reading, recipes=table.recipes(), device=target)
    except (ValueError, OSError):
        directory.remove_if_empty()
        raise
    photos = recipe.input.capture_of(given.input)
    describe_input(given.input, photos, display)
    if photos is not None and (overwrite or not directory.record_file.exists()):
        say_summary(photos, display)
    job = Job(recipe, preset, config, given.input, given.origin, target, seed)
    observer = tensorboard_observer(directory, display) if tensorboard else None
    run = run_job(
        job,
        directory,
        overwrite=overwrite,
        display=display,
        observer=observer,
        mesh_resolution=mesh_resolution,
        strict=wants_traceback(),
    )
    return Ending(exit_code(run), results_of(run, directory))


def tensorboard_observer(directory: RunDirectory, display: Display) -> Observer | None:
    """Return an observer that writes curves for TensorBoard; None, with a note, if the package is not installed."""
    from unrender.runs.tensorboard import MISSING, TensorBoard, is_installed

    if not is_installed():
        display.say(f"note: {MISSING}")
        return None
    return TensorBoard(directory.path / "tensorboard")


def results_of(run: RunResult, directory: RunDirectory) -> dict[str, Any]:
    """Return what ``--json`` prints about a fit."""
    metrics = json.loads(directory.metrics_file.read_text(encoding="utf-8")) if directory.metrics_file.exists() else {}
    files = {
        "run": directory.record_file,
        "metrics": directory.metrics_file,
        "mesh": directory.mesh_file("glb"),
        "viewer": directory.viewer_file,
        "video": directory.video_file,
        "report": directory.report_file,
    }
    return {
        "run": str(directory.path),
        "outcome": run.result.outcome,
        "steps": run.result.steps,
        "seconds": round(run.result.seconds, 3),
        "psnr": metrics.get("psnr"),
        "ssim": metrics.get("ssim"),
        "measures": measures_as_json(run.record.measures),
        "files": {name: str(file) for name, file in files.items() if file.exists()},
        "failed": list(run.record.failed),
        "remarks": list(run.record.remarks),
    }


def wants_traceback() -> bool:
    """Tell whether errors show a traceback."""
    return os.environ.get("UNRENDER_TRACEBACK") == "1"


def describe_input(given: Input, capture: Capture | None, display: Display) -> None:
    """Describe the input in a few lines, including the split rule."""
    if capture is None:
        display.say(given.name)
    else:
        sizes = [f"{width} x {height}" for width, height in capture.cameras.sizes.unique(dim=0).tolist()]
        size = " and ".join(sizes) if len(sizes) < 3 else f"{len(sizes)} sizes up to {sizes[-1]}"
        masks = "with masks" if capture.has_masks else "without masks"
        display.say(f"{given.name}: {len(capture)} views of {size} pixels, {masks}{', unbounded' if capture.unbounded else ''}")
        display.say(f"split: {len(capture.split.train)} fitted, {len(capture.split.test)} held out: {capture.split.rule}")
    for note in given.notes:
        display.say(f"note: {note}")


def photos_behind(run: OpenRun, moved_to: Path | None, display: Display) -> Capture:
    """Read the capture behind a run, as its recipe needs it."""
    with display.task("reading the photos"):
        return photos_of(run, moved_to)


def evaluate_run(
    output: OutputOptions,
    *,
    run: Path,
    truth: Path | None,
    truth_frame: TruthFrame | None,
    relight: Path | None,
    protocol: Protocol | None,
    split: Literal["test", "train"],
    capture: Path | None,
    device: str | None,
) -> Ending:
    """Run ``unrender eval``."""
    target, display = select_device(device), display_of(output)
    opened = open_run(run, table.recipes(), target)
    opened.directory.prepare()
    photos = photos_behind(opened, capture, display)
    scanned = dtu_truth(photos, truth) if protocol == "dtu" else None
    orb = orb_views(opened, photos, truth) if protocol == "stanford-orb" else None
    scores = score_run(
        opened,
        photos,
        split=split,
        truth=None if protocol in ("dtu", "stanford-orb") else truth,
        truth_frame=truth_frame,
        relight=relight,
        measure=compare_with_truth if opened.record.input.path == DEMO_CAPTURE else None,
        also=orb,
        device=target,
        display=display,
    )
    metrics = metrics_of(scores.record, scores.evaluation)
    if protocol is not None:
        with display.task(f"measuring as {protocol} does"):
            if orb is not None:
                table_row = orb.result(written_mesh(opened))
            else:
                table_row = nerf_synthetic(photos, scores.evaluation) if scanned is None else dtu(written_mesh(opened), scanned)
        write_json(opened.directory.path / f"{protocol}.json", table_row)
        display.say(f"{protocol}: {', '.join(f'{name} {value}' for name, value in table_row.items() if name != 'protocol')}")
        metrics["protocol"] = table_row
    return Ending(0, {"run": str(opened.directory.path), **metrics, "notes": list(scores.notes), "file": str(scores.file)})


def dtu_truth(photos: Capture, folder: Path | None) -> DtuTruth:
    """Read the truth of the DTU scan that a capture shows.

    Raises:
        ValueError: there is none, or the capture's name does not say which scan it is.
    """
    return read_dtu_truth(Path("DTU") if folder is None else folder, scan_of(photos.name))


def orb_views(run: OpenRun, photos: Capture, data: Path | None) -> OrbViews:
    """Prepare to compare views with the truth of Stanford-ORB, by default in the folder above that of the capture's layout."""
    if data is not None and not data.is_dir():
        raise ValueError(f"{data} is no folder; give the folder with blender_HDR and ground_truth as --truth")
    return OrbViews(photos, Path(run.record.input.path).parent.parent if data is None else data, photos.name)


def written_mesh(run: OpenRun) -> Mesh:
    """Return the mesh that a run wrote, in the frame of the input.

    Raises:
        ValueError: it wrote none.
    """
    file = run.directory.mesh_file("ply")
    if not file.exists():
        raise ValueError(f"{file} is not there; the command that fitted the run writes it")
    return read_mesh(file)


def render_run(
    output: OutputOptions,
    *,
    run: Path,
    path: CameraPath | Path,
    frames: int,
    fps: int,
    downscale: int,
    capture: Path | None,
    device: str | None,
) -> Ending:
    """Run ``unrender render``."""
    target, display = select_device(device), display_of(output)
    for name, value in (("--frames", frames), ("--fps", fps), ("--downscale", downscale)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    name = path_name(path)
    opened = open_run(run, table.recipes(), target)
    opened.directory.prepare()
    if isinstance(path, Path):
        cameras, note = read_camera_path(path, opened.source_from_world)
        display.say(f"note: {note}")
    else:
        cameras = path_cameras(photos_behind(opened, capture, display), path, frames)
    cameras = cameras.downscaled(downscale) if downscale > 1 else cameras
    pictures = opened.directory.renders / name
    pictures.mkdir(parents=True, exist_ok=True)
    video = opened.directory.path / f"{name}.mp4"
    with display.task("rendering", len(cameras)) as task:
        count = write_video(video, _frames_written(render_path(opened.scene, cameras, target), pictures, task), fps=fps)
    display.say(f"{count} pictures in {pictures} and {video}")
    return Ending(0, {"run": str(opened.directory.path), "pictures": str(pictures), "count": count, "video": str(video)})


def path_name(path: CameraPath | Path) -> str:
    """Return the name of a path's outputs.

    Raises:
        UsageError: it is neither a known path nor a JSON file.
    """
    if not isinstance(path, Path):
        return path
    if path.suffix.lower() != ".json":
        raise UsageError(f"--path is {str(path)!r}; {suggestion(str(path), get_args(CameraPath))}")
    return f"path_{re.sub(r'[^A-Za-z0-9.-]+', '_', path.stem)[-LONGEST_STEM:]}"


def path_cameras(capture: Capture, path: CameraPath, frames: int) -> Cameras:
    """Return the cameras of a path: the held-out views, or a number of frames around, before or between the photos."""
    if path == "test":
        return capture.cameras.select(capture.split.test)
    if path == "orbit":
        return orbit_cameras(capture.cameras, frames)
    return spiral_cameras(capture.cameras, frames) if path == "spiral" else interpolated_cameras(capture.cameras, frames)


def _frames_written(
    frames: Iterator[UInt8[Tensor, "height width 3"]], folder: Path, task: Task
) -> Iterator[UInt8[Tensor, "height width 3"]]:
    """Write each frame as PNG, and pass it on to the video."""
    for frame, picture in enumerate(frames):
        write_picture(folder / f"{frame:04d}.png", picture.numpy())
        task.advance()
        yield picture


def export_run(
    output: OutputOptions,
    *,
    run: Path,
    format: MeshFormat,
    resolution: int,
    frame: ExportFrame | None,
    axes: UpAxes | None,
    up: AxisOrVector | None,
    all_parts: bool,
    faces: int | None,
    viewer: bool,
    capture: Path | None,
    out: Path | None,
    env: Path | None,
    device: str | None,
) -> Ending:
    """Run ``unrender export``."""
    display = display_of(output)
    if resolution < 2:
        raise ValueError(f"--resolution is {resolution}; give at least 2 cells")
    if env is not None:
        checked_suffix(env)
    if frame in ("source", "normalized") and (axes, up) != (None, None):
        raise ValueError(f"--axes and --up turn the mesh, and --frame {frame} keeps its coordinates; leave one of them out")
    if frame is None:
        frame = "source" if format == "ply" and (axes, up) == (None, None) else "upright"
    direction = None if up is None else direction_of(up)
    opened = open_run(run, table.recipes(), select_device(device))
    out = out or opened.directory.path / f"{'mesh_normalized' if frame == 'normalized' else 'mesh'}.{format}"
    if out.suffix.lower() != f".{format}":
        raise ValueError(f"--out {out} does not end in .{format}; give a file name that does, or another --format")
    photos = photos_for_colors(opened, capture, display)
    asset = extract_asset(opened.scene, resolution, photos, display=display, largest_only=not all_parts)
    if asset.is_empty:
        raise ValueError(EMPTY_MESH)
    if faces is not None:
        asset = simplified(asset, faces, display)
    known, source_from_world = opened.record.input.up, torch.tensor(opened.record.input.source_from_world, dtype=torch.float64)
    asset = asset.with_source_up(direction or (known[0], known[1], known[2]), source_from_world)
    page, shown = out.with_suffix(".html") if viewer else None, asset
    if frame != "normalized":
        asset = asset.transformed(source_from_world)
    axes = (axes or "y-up") if frame == "upright" else None
    if env is not None:
        if asset.environment is None:
            raise ValueError(f"{run} has no light to write to {env}: {opened.recipe.name} leaves it in the colors; leave out --env")
        env.parent.mkdir(parents=True, exist_ok=True)
        write_light(env, asset.environment, source_from_world, direction or (known[0], known[1], known[2]))
        display.say(f"{env}: the light, as a lat-long picture")
    asset.export(out, axes=axes or "source")
    vertices, triangles = len(asset.mesh.vertices), len(asset.mesh.faces)
    display.say(f"{out}: {vertices:,} vertices, {triangles:,} faces, {_frame_sentence(frame, axes, asset.mesh)}")
    if (far := offset_sentence(asset.mesh)) is not None:
        display.say(f"note: {far}")
    if page is not None:
        write_viewer(page, shown, photos, opened.record)
        display.say(f"{page}: the surface for a browser")
    results = {
        "file": str(out),
        "viewer": None if page is None else str(page),
        "environment": None if env is None else str(env),
        "vertices": vertices,
        "faces": triangles,
        "frame": frame,
        "axes": axes,
    }
    return Ending(0, {"run": str(opened.directory.path), **results})


def simplified(asset: Asset, faces: int, display: Display) -> Asset:
    """Simplify the mesh of an asset, and say how far it is from the original.

    Raises:
        ValueError: see :meth:`~unrender.geometry.mesh.Mesh.simplified`.
    """
    full = asset.mesh
    with display.task("simplifying the mesh"):
        small = full.simplified(faces)
        points, _ = small.sample_surface(20_000, torch.Generator().manual_seed(0))
        farthest = float(points_to_mesh_distance(points, full).max())
    lower, upper = full.bounding_box
    share = 100 * farthest / float((upper - lower).norm())
    display.say(
        f"simplified from {len(full.faces):,} to {len(small.faces):,} faces: at most {share:.2g} % of the diagonal from the original"
    )
    return replace(asset, mesh=small)


def photos_for_colors(run: OpenRun, moved_to: Path | None, display: Display) -> Capture | None:
    """Read the photos behind a run; None, with a note, if they are not where they were."""
    if run.record.capture is None:
        return None
    try:
        return photos_behind(run, moved_to, display)
    except (ValueError, OSError) as error:
        if moved_to is not None:
            raise
        display.say(f"note: the colors are those of the fitted field, as the cameras saw it, and not of the photos: {error}")
        return None


def direction_of(up: AxisOrVector) -> tuple[float, float, float]:
    """Return an upward direction as a vector.

    Raises:
        ValueError: its length is zero or not finite.

    >>> direction_of("-y")
    (0.0, -1.0, 0.0)
    """
    if isinstance(up, str):
        x, y, z = (float(up[-1] == axis) * (-1.0 if up.startswith("-") else 1.0) + 0.0 for axis in "xyz")
        return x, y, z
    if not 0 < math.hypot(*up) < math.inf:
        raise ValueError(f"--up is {up}; give a direction of finite length above zero")
    return up


def _frame_sentence(frame: ExportFrame, axes: UpAxes | None, mesh: Mesh) -> str:
    """Say in which frame a mesh was written."""
    if axes is None:
        return "in the frame of the input" if frame == "source" else "in the normalized world"
    x, y, z = mesh.up
    return f"turned until {'+Y' if axes == 'y-up' else '+Z'} is up, which is ({x:.3g}, {y:.3g}, {z:.3g}) in the frame of the input"


def run_demo(
    output: OutputOptions, *, out: Path, steps: int | None, max_seconds: float | None, device: str | None, seed: int, overwrite: bool
) -> Ending:
    """Run ``unrender demo``."""
    target, display = select_device(device), display_of(output)
    recipe = table.recipes()["neus"]
    directory = RunDirectory(out)
    check_folder(directory, overwrite=overwrite)
    with display.task("making the photos of an analytic scene"):
        capture = make_demo_capture()
    describe_input(capture, capture, display)
    preset, config = recipe.start(None, target)
    config = with_budget(config, steps=DEMO_STEPS if steps is None and max_seconds is None else steps, max_seconds=max_seconds)
    job = Job(recipe, preset, config, prepared(recipe, config, capture), Origin(DEMO_CAPTURE, DEMO_CAPTURE), target, seed)
    run = run_job(job, directory, overwrite=overwrite, display=display, measure=compare_with_truth, strict=wants_traceback())
    return Ending(exit_code(run), results_of(run, directory))


def compare_with_truth(mesh: Mesh) -> tuple[Measure, ...]:
    """Compare a mesh with the demo's true surface."""
    return distance_measures(mesh, AnalyticScene().mesh(256))

"""Outputs of a fit, one writer for each: scores with pictures, the asset, a video, the report.

A writer knows its files, whether they are missing, and how to write them. Writers run in the order of :data:`WRITERS`; later writers can
use the results of earlier ones. A writer that fails does not stop the others: ``run.json`` and the report get a sentence about it, and the
next call writes what is missing. The parts of one output, for example the mesh files, are independent in the same way.
"""

from __future__ import annotations

import dataclasses
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.captures.capture import Capture, CaptureError
from unrender.captures.normal_truth import understood_normals
from unrender.files.mesh_files import FILES_OF_MATERIALS, SUFFIXES
from unrender.files.video import write_video
from unrender.geometry.mesh import Mesh
from unrender.recipes.fitting import FitResult
from unrender.recipes.inputs import Picture
from unrender.recipes.table import Output
from unrender.render.asset import Asset
from unrender.render.photo_colors import photographed
from unrender.render.refined_poses import refined
from unrender.render.rendering import Rendering
from unrender.render.scene import PictureScene, Scene
from unrender.runs.camera_paths import (
    MOST_VIDEO_RAYS,
    SMALLEST_VIDEO_SIDE,
    large_enough,
    render_path,
    render_surface_path,
    showing_path,
    within_budget,
)
from unrender.runs.directory import RunDirectory, RunRecord
from unrender.runs.display import Display
from unrender.runs.evaluation import Evaluation, OnView, ViewScore, evaluate, views_to_evaluate
from unrender.runs.figures import (
    color_picture,
    distance_picture,
    error_picture,
    normal_picture,
    side_by_side,
    write_picture,
)
from unrender.runs.measures import Measure, merged, sentences
from unrender.runs.output_words import EMPTY_MESH, file_stem, mesh_sentence, offset_sentence
from unrender.runs.picture_scores import picture_measures, write_picture_metrics
from unrender.runs.pose_measures import pose_measures
from unrender.runs.refined_capture import write_refined
from unrender.runs.report import PictureRow, ViewRow
from unrender.runs.report_writing import write_report, write_viewer
from unrender.runs.scores import refines_poses, score_measures, score_sentence, write_measures, write_metrics
from unrender.runs.surface_measures import MESH_GROUP, mesh_measures, world_mesh
from unrender.runs.view_measures import ViewMeasures
from unrender.shading.latlong import write_environment
from unrender.shading.lights import EnvironmentLight
from unrender.transforms import upright
from unrender.words import SplitName, is_out_of_memory

CameraPath = Literal["test", "orbit", "spiral", "interpolated"]
"""Paths of ``unrender render``."""

MeasureMesh = Callable[[Mesh], Sequence[Measure]]
"""Compares a mesh, in the normalized world, with a known truth."""

MOST_ROWS = 40
"""Test views shown in the report; all of them are in ``renders/``."""

VIDEO_FRAMES = 60
VIDEO_DURATION = 3
"""Seconds."""

ENVIRONMENT_HEIGHT = 256
"""Rows of the picture of an environment; it has twice as many columns."""


@dataclass
class Results:
    """A finished fit, and the results of the writers so far."""

    directory: RunDirectory
    fit: FitResult
    capture: Capture | None
    device: torch.device
    display: Display
    mesh_resolution: int
    measure: MeasureMesh | None
    record: RunRecord
    """Grows while the outputs are written."""
    read: Capture | None = None
    """The capture as it was read."""
    picture: Picture | None = None
    """The truth of a recipe that fits a picture."""
    picture_row: PictureRow | None = None
    evaluation: Evaluation | None = None
    rows: list[ViewRow] = field(default_factory=list)
    views: ViewMeasures | None = None
    """What the views say about the surface; None before they are evaluated."""
    asset: Asset | None = None
    """In the normalized world; None if none was extracted."""

    @property
    def photos(self) -> Capture:
        """The capture, at refined poses if there are any, for writers that need one."""
        assert self.capture is not None
        return self.capture

    @property
    def given(self) -> Capture:
        """The capture as it was read."""
        assert self.read is not None
        return self.read

    def remark(self, sentence: str) -> None:
        """Add a sentence to the record, once."""
        if sentence not in self.record.remarks:
            self.record = dataclasses.replace(self.record, remarks=[*self.record.remarks, sentence])

    def add_measures(self, measures: Sequence[Measure]) -> None:
        """Add numbers to the record, in place of earlier groups of the same names, and print those with a group."""
        self.recall_measures(measures)
        for sentence in sentences(measure for measure in measures if measure.group):
            self.display.say(sentence)

    def recall_measures(self, measures: Sequence[Measure]) -> None:
        """Add numbers to the record without printing them."""
        self.record = dataclasses.replace(self.record, measures=merged(self.record.measures, measures))


class Parts:
    """Runs the parts of one output; a part that fails does not stop the others."""

    def __init__(self) -> None:
        self._first: Exception | None = None

    @contextmanager
    def part(self) -> Iterator[None]:
        """Keep an error of the block for :meth:`finish`."""
        try:
            yield
        except Exception as error:
            self._first = self._first or error

    def finish(self) -> None:
        """Raise the first error of any part."""
        if self._first is not None:
            raise self._first


class OutputWriter(ABC):
    """One output of a run."""

    name: Output
    needs_photos: bool

    @abstractmethod
    def files(self, directory: RunDirectory) -> tuple[Path, ...]:
        """Return every file that this output, or a later command, may write outside ``renders/``."""

    @abstractmethod
    def missing(self, directory: RunDirectory) -> bool:
        """Tell whether the output is still to be written."""

    @abstractmethod
    def write(self, results: Results) -> None:
        """Write the output, each file atomically, and record its results."""

    def recall(self, results: Results) -> None:  # noqa: B027  most outputs are shown from their files
        """Compute what the report shows of an output that is complete, without writing its files."""


class CamerasWriter(OutputWriter):
    """The poses that were refined with the scene, as a capture of its own, and how far they moved."""

    name = "cameras"
    needs_photos = True

    def files(self, directory: RunDirectory) -> tuple[Path, ...]:
        return (directory.cameras_file,)

    def missing(self, directory: RunDirectory) -> bool:
        return refines_poses(directory.read_record()) and not directory.cameras_file.exists()

    def write(self, results: Results) -> None:
        results.add_measures(pose_measures(results.given, results.photos))
        write_refined(results.directory.cameras_file, results.photos, results.record.capture)

    def recall(self, results: Results) -> None:
        if refines_poses(results.record):
            results.recall_measures(pose_measures(results.given, results.photos))


class MetricsWriter(OutputWriter):
    """Scores of the held-out views, and their pictures."""

    name = "metrics"
    needs_photos = True

    def files(self, directory: RunDirectory) -> tuple[Path, ...]:
        return directory.metrics_file, directory.train_metrics_file

    def missing(self, directory: RunDirectory) -> bool:
        return not directory.metrics_file.exists()

    def write(self, results: Results) -> None:
        parts = Parts()
        evaluation = self._evaluate(results, parts)
        results.display.say(score_sentence(evaluation))
        results.add_measures(score_measures(evaluation))
        if results.views is not None:
            results.add_measures(results.views.normals)
        with parts.part():
            write_metrics(results.directory.metrics_file, results.record, evaluation)
        parts.finish()

    def recall(self, results: Results) -> None:
        evaluation = self._evaluate(results, None)
        # A process that is killed right after metrics.json leaves them out of run.json.
        results.recall_measures((*score_measures(evaluation), *(results.views.normals if results.views is not None else ())))

    def _evaluate(self, results: Results, parts: Parts | None) -> Evaluation:
        photos = results.photos
        split = photos.split.evaluated
        if split == "train":
            results.remark(f"the numbers are of the fitted views, because none was held out ({photos.split.rule})")
        scene, display, views = results.fit.scene, results.display, bundled_view_measures(photos, split, results.display)
        scored = evaluate_views(
            results.directory, scene, photos, device=results.device, split=split, parts=parts, display=display, also=views
        )
        results.views = views
        results.evaluation, results.rows = scored
        return scored[0]


class AssetWriter(OutputWriter):
    """The surface with its material as ``mesh.ply``, ``mesh.glb`` and ``viewer.html``, and the light, if the recipe estimates one."""

    name = "mesh"
    needs_photos = False

    def files(self, directory: RunDirectory) -> tuple[Path, ...]:
        names = [*SUFFIXES, *FILES_OF_MATERIALS]
        exported = [directory.path / f"{stem}{name}" for stem in ("mesh", "mesh_normalized") for name in names]
        return *exported, directory.environment_file, directory.viewer_file

    def missing(self, directory: RunDirectory) -> bool:
        written = all(file.exists() for file in (directory.mesh_file("ply"), directory.mesh_file("glb"), directory.viewer_file))
        return not written or all(measure.group != MESH_GROUP for measure in directory.read_record().measures)

    def write(self, results: Results) -> None:
        directory, similarity, parts = results.directory, results.fit.source_from_world, Parts()
        results.asset = asset = self._extract(results)
        if asset.environment is not None:
            with parts.part():
                write_light(directory.environment_file, asset.environment, similarity, results.fit.up)
        if asset.is_empty:
            results.remark(EMPTY_MESH)
            results.display.say(f"note: {EMPTY_MESH}")
            parts.finish()
            return
        moved = asset.transformed(similarity)
        for suffix in ("ply", "glb"):
            with parts.part():
                moved.export(directory.mesh_file(suffix))
        with parts.part():
            write_viewer(directory.viewer_file, asset, results.capture, results.record)
        results.display.say(mesh_sentence(asset))
        if (far := offset_sentence(moved.mesh)) is not None:
            results.remark(far)
            results.display.say(f"note: {far}")
        with parts.part():
            self._measure(results)
        parts.finish()

    def _measure(self, results: Results) -> None:
        """Measure the mesh as it was written, so that a later evaluation gives the same numbers."""
        asset, capture, views = results.asset, results.capture, results.views
        assert asset is not None
        mesh = world_mesh(results.directory.mesh_file("ply"), results.fit.source_from_world)
        truth = () if results.measure is None else results.measure(mesh)
        if views is None and capture is not None:
            views = ViewMeasures(capture, capture.split.views(capture.split.evaluated), None)
        lit = asset.environment is not None
        measures = mesh_measures(mesh, None if lit else views, results.fit.scene, results.device, left_out=asset.left_out)
        results.add_measures((*measures, *truth))
        write_measures(results.directory.metrics_file, results.record)

    def recall(self, results: Results) -> None:
        results.asset = self._extract(results)

    def _extract(self, results: Results) -> Asset:
        """Return the asset in the normalized world, in the colors of the photos where there are any."""
        fit = results.fit
        asset = extract_asset(fit.scene, results.mesh_resolution, results.capture, display=results.display)
        return asset.with_source_up(fit.up, fit.source_from_world)


def write_light(path: Path, light: EnvironmentLight, source_from_world: Float[Tensor, "4 4"], up: tuple[float, float, float]) -> None:
    """Write the light of an asset as a lat-long picture in the axes of the input, turned upright.

    Raises:
        ValueError: the suffix is another, or a value is not finite.
        OSError: the file cannot be written.
    """
    write_environment(path, light, upright(source_from_world, up), ENVIRONMENT_HEIGHT)


class VideoWriter(OutputWriter):
    """A camera path around the scene."""

    name = "video"
    needs_photos = True

    def files(self, directory: RunDirectory) -> tuple[Path, ...]:
        return directory.video_file, *(directory.path / f"{path}.mp4" for path in get_args(CameraPath))

    def missing(self, directory: RunDirectory) -> bool:
        return not directory.video_file.exists()

    def write(self, results: Results) -> None:
        scene, asset = results.fit.scene, results.asset
        path, color = showing_path(results.photos, VIDEO_FRAMES), scene.surface_color()
        if asset is not None and not asset.is_empty and color is not None:
            path = large_enough(path)
            frames = render_surface_path(asset.mesh, color, path, results.device)
        else:
            path = within_budget(path, MOST_VIDEO_RAYS)
            frames = render_path(scene, path, results.device)
        with results.display.task("rendering the video", len(path)) as task:
            fps = max(1, len(path) // VIDEO_DURATION)
            write_video(results.directory.video_file, task.each(frames), fps=fps, smallest_side=SMALLEST_VIDEO_SIDE)


class PictureWriter(OutputWriter):
    """The picture that a network memorized, beside the truth and the error, and its scores."""

    name = "picture"
    needs_photos = False

    def files(self, directory: RunDirectory) -> tuple[Path, ...]:
        return directory.prediction_file, directory.comparison_file, directory.metrics_file

    def missing(self, directory: RunDirectory) -> bool:
        return not all(file.exists() for file in self.files(directory))

    def write(self, results: Results) -> None:
        directory, parts = results.directory, Parts()
        truth, prediction = self._compare(results)
        results.add_measures(measures := picture_measures(truth, prediction))
        results.display.say(f"picture: {', '.join(measure.text for measure in measures)}")
        pictures = [color_picture(truth.srgb), color_picture(prediction), error_picture(prediction, truth.srgb)]
        with parts.part():
            write_picture(directory.prediction_file, pictures[1])
        with parts.part():
            write_picture(directory.comparison_file, side_by_side(pictures))
        with parts.part():
            write_picture_metrics(directory.metrics_file, results.record, measures)
        parts.finish()

    def recall(self, results: Results) -> None:
        results.recall_measures(picture_measures(*self._compare(results)))

    def _compare(self, results: Results) -> tuple[Picture, Tensor]:
        truth, scene = results.picture, results.fit.scene
        assert truth is not None and isinstance(scene, PictureScene)
        prediction = scene.picture(*truth.linear.shape[:2]).cpu()
        results.picture_row = PictureRow.from_pictures(
            color_picture(truth.srgb), color_picture(prediction), error_picture(prediction, truth.srgb)
        )
        return truth, prediction


class ReportWriter(OutputWriter):
    """The report of all results on one page."""

    name = "report"
    needs_photos = False

    def files(self, directory: RunDirectory) -> tuple[Path, ...]:
        return (directory.report_file,)

    def missing(self, directory: RunDirectory) -> bool:
        return not directory.report_file.exists()

    def write(self, results: Results) -> None:
        directory = results.directory
        write_report(directory, results.record, results.evaluation, results.capture, results.rows, results.asset, results.picture_row)
        results.display.say(f"all of it on one page: {directory.report_file}")


WRITERS: tuple[OutputWriter, ...] = (CamerasWriter(), MetricsWriter(), AssetWriter(), VideoWriter(), PictureWriter(), ReportWriter())
"""In order; the report shows the results of the others."""


def write_outputs(
    directory: RunDirectory,
    fit: FitResult,
    capture: Capture | None,
    *,
    picture: Picture | None = None,
    outputs: Sequence[Output] = ("cameras", "metrics", "mesh", "video"),
    device: torch.device,
    display: Display,
    mesh_resolution: int = 256,
    measure: MeasureMesh | None = None,
    strict: bool = False,
) -> RunRecord:
    """Write the outputs that are missing or failed before.

    Args:
        directory: of a run whose fit is finished.
        fit: its result.
        capture: with the held-out views; None for inputs without photos.
        picture: the truth of a recipe that fits a picture.
        outputs: outputs of the recipe, besides the report.
        device: device of the scene.
        display: shows the numbers.
        mesh_resolution: cells along the longest side of the region of interest.
        measure: compares the mesh with a known truth; the numbers go into ``run.json`` and the report.
        strict: raise the error of an output instead of recording it.

    Returns:
        The updated ``run.json``; its ``failed`` names the outputs that could not be written.
    """
    photos = None if capture is None else refined(capture, fit.scene)
    results = Results(directory, fit, photos, device, display, mesh_resolution, measure, directory.read_record(), capture, picture)
    possible = [writer for writer in WRITERS if writer.name in (*outputs, "report") and not (writer.needs_photos and capture is None)]
    before = results.record.failed
    due = [writer for writer in possible if writer.missing(directory) or writer.name in before]
    if before or any(writer.name == "report" for writer in due):
        # The page shows pictures, curves, the mesh and failures, so these are computed again for it.
        due = [writer for writer in possible if writer in due or writer.name == "report"]
        shown = [writer for writer in possible if writer not in due]
    else:
        shown = [writer for writer in possible if writer.name == "mesh" and due]  # the video shows it
    for writer in possible:
        if writer in due:
            _write(writer, results, strict=strict)
        elif writer in shown:
            _attempt(writer.recall, writer, results, strict=strict)
    return results.record


def _write(writer: OutputWriter, results: Results, *, strict: bool) -> None:
    """Write one output, and note in ``run.json`` how long it took and whether it failed."""
    started, failure = time.perf_counter(), _failure(writer.name)
    results.record = dataclasses.replace(
        results.record,
        remarks=[sentence for sentence in results.record.remarks if not sentence.startswith(failure)],
        failed=[name for name in results.record.failed if name != writer.name],
    )
    _attempt(writer.write, writer, results, strict=strict)
    timings = {**results.record.timings, writer.name: time.perf_counter() - started}
    results.record = dataclasses.replace(results.record, timings=timings)
    _attempt(lambda results: results.directory.write_record(results.record), writer, results, strict=strict)


def _attempt(action: Callable[[Results], None], writer: OutputWriter, results: Results, *, strict: bool) -> None:
    """Run a part of a writer; an error becomes a sentence of the record."""
    try:
        action(results)
    except Exception as error:
        if strict:
            raise
        sentence = f"{_failure(writer.name)}: {reason_of(error)}"
        results.remark(sentence)
        failed = [name for name in results.record.failed if name != writer.name]
        results.record = dataclasses.replace(results.record, failed=[*failed, writer.name])
        results.display.say(f"note: {sentence}")


def reason_of(error: Exception) -> str:
    """Return the message of an error on one line."""
    text = " ".join(str(error).split())
    if is_out_of_memory(error):
        return "there is not enough memory; free some and run the same command again, with a smaller mesh resolution if that is the mesh"
    return text or type(error).__name__


def _failure(name: Output) -> str:
    """Return the beginning of the sentence about a failed output."""
    return f"{name} could not be written"


def failure_sentences(record: RunRecord) -> tuple[str, ...]:
    """Return the remarks about outputs that could not be written."""
    beginnings = tuple(_failure(name) for name in record.failed)
    return tuple(sentence for sentence in record.remarks if beginnings and sentence.startswith(beginnings))


def evaluate_into(
    directory: RunDirectory,
    scene: Scene,
    capture: Capture,
    *,
    device: torch.device,
    split: SplitName = "test",
    display: Display | None = None,
    also: OnView | None = None,
) -> tuple[Evaluation, list[ViewRow]]:
    """Evaluate a split, and write color, distance and normal of each view to ``renders/``. The display shows how far it is.

    ``also`` is called with each view.

    Returns:
        The evaluation, and small pictures of some views for the report.

    Raises:
        OSError: a picture cannot be written; the other pictures are.
    """
    parts = Parts()
    shown = display or Display.quiet()
    scored = evaluate_views(directory, scene, capture, device=device, split=split, parts=parts, display=shown, also=also)
    parts.finish()
    return scored


def evaluate_views(
    directory: RunDirectory,
    scene: Scene,
    capture: Capture,
    *,
    device: torch.device,
    split: SplitName,
    parts: Parts | None,
    display: Display,
    also: OnView | None = None,
) -> tuple[Evaluation, list[ViewRow]]:
    """Evaluate a split, and write its pictures as ``parts`` of an output; None writes none. ``also`` is called with each view."""
    views = views_to_evaluate(capture, split)
    shown = set(views[:: max(1, math.ceil(len(views) / MOST_ROWS))])
    rows: list[ViewRow] = []

    def on_view(score: ViewScore, truth: Tensor, rendering: Rendering) -> None:
        distance, span = distance_picture(rendering)
        srgb = rendering.srgb
        color, normal = color_picture(srgb), normal_picture(rendering)
        stem = file_stem(score.view, score.name)
        for suffix, picture in (("", color), ("_depth", distance), ("_normal", normal)):
            if parts is not None:
                with parts.part():
                    directory.renders.mkdir(exist_ok=True)
                    write_picture(directory.renders / f"{stem}{suffix}.png", picture)
        if score.view in shown:
            rows.append(ViewRow.from_pictures(score, color_picture(truth), color, error_picture(srgb, truth), distance, normal, span))
        if also is not None:
            also(score, truth, rendering)
        task.advance()

    with display.task("evaluating", len(views)) as task:
        return evaluate(scene, capture, split, device=device, on_view=on_view), rows


def bundled_view_measures(capture: Capture, split: SplitName, display: Display) -> ViewMeasures:
    """Return what collects the measures of the views of a split, with the true normals that the capture brings."""
    views, truth = capture.split.views(split), None
    if any(capture.normal_files[view] is not None for view in views if capture.normal_files):
        try:
            truth = understood_normals(capture, views)
            display.say(f"note: {truth.note}")
        except CaptureError as error:
            display.say(f"note: {error}")
    return ViewMeasures(capture, views, truth)


def extract_asset(scene: Scene, resolution: int, capture: Capture | None, *, display: Display, largest_only: bool = True) -> Asset:
    """Return the asset of a scene in the normalized world, in the colors of the photos if there are any."""
    with display.task("extracting the surface"):
        asset = scene.asset(resolution, largest_only=largest_only and capture is None)
    return asset if capture is None else photographed(asset, capture, largest_only=largest_only, progress=display.each)

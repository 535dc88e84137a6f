"""Evaluation of a run that is on disk, also against a true surface or true normals."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unrender.captures.capture import Capture, KnownScene
from unrender.captures.normal_truth import NormalTruth, understood_normals
from unrender.captures.reading import is_folder
from unrender.captures.undistortion import undistorted
from unrender.geometry.mesh import Mesh
from unrender.printing import of_fields
from unrender.render.asset import Asset
from unrender.render.photo_colors import surface_of
from unrender.render.refined_poses import refined
from unrender.render.rendering import Rendering
from unrender.runs.directory import RunRecord
from unrender.runs.display import Display
from unrender.runs.evaluation import Evaluation, OnView, ViewScore, views_to_evaluate
from unrender.runs.inputs import read_photos
from unrender.runs.material_measures import Relit, material_measures, true_asset
from unrender.runs.measures import Measure, merged, sentences
from unrender.runs.opening import OpenRun
from unrender.runs.output_words import EMPTY_MESH
from unrender.runs.outputs import bundled_view_measures, evaluate_into
from unrender.runs.relighting import lit_asset
from unrender.runs.report import ViewRow
from unrender.runs.report_writing import write_report
from unrender.runs.scores import score_measures, score_sentence, write_metrics
from unrender.runs.surface_measures import (
    LEFT_OUT,
    Surface,
    check_place,
    distance_measures,
    mesh_measures,
    read_surface,
    world_mesh,
)
from unrender.runs.view_measures import ViewMeasures
from unrender.shading.latlong import checked_suffix
from unrender.words import SplitName, TruthFrame

_RESOLUTION = 256
"""Cells along a side of the region of interest, for a run whose mesh was not written."""


@dataclass(frozen=True)
class RunScores:
    """The scores of a run and the measures of its surface."""

    evaluation: Evaluation
    measures: tuple[Measure, ...]
    notes: tuple[str, ...]
    """Sentences on how the truth was understood."""
    file: Path
    """``metrics.json``, or ``metrics_train.json``."""
    record: RunRecord
    """The content of ``run.json`` with these measures."""

    __repr__ = of_fields


@dataclass(frozen=True)
class _Truth:
    """What a run is compared with."""

    surface: Surface | None = None
    place: Path | None = None
    normals: NormalTruth | None = None


def score_run(
    run: OpenRun,
    photos: Capture,
    *,
    split: SplitName = "test",
    truth: Path | None = None,
    truth_frame: TruthFrame | None = None,
    relight: Path | None = None,
    measure: Callable[[Mesh], Sequence[Measure]] | None = None,
    also: OnView | None = None,
    device: torch.device,
    display: Display,
) -> RunScores:
    """Evaluate a run, and write its metrics, pictures and report.

    Args:
        run: the run.
        photos: its capture.
        split: the views.
        truth: a mesh, points, or a folder of normal maps; by default the normal maps or the true scene that the capture brings.
        truth_frame: the frame of the truth, by default that of the poses for a mesh and points; for normal maps it is found.
        relight: a lat-long picture of another light, under which the asset is compared with the true scene.
        measure: compares the mesh, in the world, with a truth that is known otherwise.
        also: called with each view.
        device: of the scene.
        display: where the numbers are shown.

    Raises:
        ValueError: there are no views, or the truth cannot be read or lies elsewhere; or there is nothing that could be relit.
        FileNotFoundError: there is no such truth.
    """
    run.directory.prepare()
    scene = photos.truth if truth is None else None
    asset = _lit_asset(run, scene, relight)
    notes: list[str] = []

    def note(sentence: str) -> None:
        notes.append(sentence)
        display.say(f"note: {sentence}")

    views = views_to_evaluate(photos, split)
    if scene is not None:
        truth, truth_frame = scene.mesh, None
        note(f"the truth is {scene.mesh}, of which the photos were rendered")
    known = _read(run, photos, views, truth, truth_frame)
    mesh = _mesh(run, photos)
    if known.surface is not None and known.place is not None:
        if mesh.is_empty:
            raise ValueError(EMPTY_MESH)
        other_size = check_place(mesh.transformed(run.source_from_world), known.surface, known.place, run.source_from_world)
        if other_size is not None:
            note(other_size)
    if known.normals is None:
        collected = bundled_view_measures(photos, split, display)
        notes += [] if collected.truth is None else [collected.truth.note]
    else:
        note(known.normals.note)
        collected = ViewMeasures(photos, views, known.normals)

    def on_view(score: ViewScore, truth: Tensor, rendering: Rendering) -> None:
        for called in (collected, also):
            if called is not None:
                called(score, truth, rendering)

    evaluation, rows = evaluate_into(run.directory, run.scene, photos, device=device, split=split, display=display, also=on_view)
    for score in evaluation.per_view:
        display.say(f"{score.name}: {score.psnr:.2f} dB, SSIM {score.ssim:.4f}")
    display.say(score_sentence(evaluation))
    measures = [*score_measures(evaluation), *collected.normals]
    with display.task("measuring the surface"):
        if not mesh.is_empty:
            measures += _of_mesh(run, mesh, collected, device)
            measures += () if measure is None else measure(mesh)
        if known.surface is not None:
            measures += distance_measures(mesh.transformed(run.source_from_world), known.surface)
    if scene is not None and asset is not None:
        light = None if relight is None else Relit(relight.stem, run.light(relight))
        measures += material_measures(asset, true_asset(scene, run.source_from_world), photos, views, light, device, display)
    for sentence in sentences(found for found in measures if found.group):
        display.say(sentence)
    record = run.record if split == "test" else dataclasses.replace(run.record, measures=())
    scores = RunScores(
        evaluation,
        tuple(measures),
        tuple(notes),
        run.directory.metrics_file if split == "test" else run.directory.train_metrics_file,
        dataclasses.replace(record, measures=merged(record.measures, measures)),
    )
    write_metrics(scores.file, scores.record, evaluation)
    if split == "test" and run.record.is_finished:
        _update(run, photos, scores, rows, mesh)
    return scores


def _lit_asset(run: OpenRun, scene: KnownScene | None, relight: Path | None) -> Asset | None:
    """Return the asset of a run, if its material can be compared with that of a known scene.

    Raises:
        ValueError: it has none, or there is no such scene, and another light is given.
    """
    if relight is not None:
        checked_suffix(relight)
        if scene is None:
            raise ValueError(
                f"--relight {relight} compares with the scene that photos were rendered of, and this capture brings none; "
                "`unrender capture` makes one that does, and `unrender relight` renders without a comparison"
            )
        return lit_asset(run)
    if scene is None or not run.directory.environment_file.exists():
        return None  # a surface without a material would be extracted in vain
    asset = run.scene.asset()
    return None if asset.material is None or asset.is_empty else asset


def photos_of(run: OpenRun, capture: Capture | Path | None) -> Capture:
    """Return the photos behind a run as its recipe needs them, at refined poses if there are any.

    By default they are read again.

    Raises:
        ValueError: they are not there any more, or have changed.
    """
    photos = capture if isinstance(capture, Capture) else read_photos(run.record, capture)
    photos = refined(photos, run.scene)
    return undistorted(photos) if run.recipe.undistorted else photos


def _read(run: OpenRun, photos: Capture, views: Sequence[int], path: Path | None, frame: TruthFrame | None) -> _Truth:
    """Read a truth; what lies in a folder are normal maps."""
    if path is None:
        return _Truth()
    if is_folder(path):
        return _Truth(normals=understood_normals(photos, views, folder=path, frame=frame))
    return _Truth(read_surface(path, frame=frame, source_from_world=run.source_from_world), path)


def _mesh(run: OpenRun, photos: Capture) -> Mesh:
    """Return the mesh of a run in the world: the one it wrote, or a new one."""
    file = run.directory.mesh_file("ply")
    return world_mesh(file, run.source_from_world) if file.exists() else surface_of(run.scene, _RESOLUTION, photos).mesh


def _of_mesh(run: OpenRun, mesh: Mesh, views: ViewMeasures, device: torch.device) -> tuple[Measure, ...]:
    """Measure color and topology of a mesh; what was left out of it is known from the fit alone."""
    left_out = next((int(known.value) for known in run.record.measures if known.name == LEFT_OUT), 0)
    lit = run.directory.environment_file.exists()
    return mesh_measures(mesh, None if lit else views, run.scene, device, left_out=left_out)


def _update(run: OpenRun, photos: Capture, scores: RunScores, rows: Sequence[ViewRow], mesh: Mesh) -> None:
    """Write the measures into ``run.json`` and the report of a finished run."""
    with run.directory.held():
        run.directory.write_record(dataclasses.replace(run.directory.read_record(), measures=scores.record.measures))
        if run.directory.report_file.exists():
            asset = Asset(mesh) if mesh.colors is not None else run.asset(_RESOLUTION, frame="normalized", capture=photos)
            write_report(run.directory, scores.record, scores.evaluation, photos, rows, asset)

"""The report of a run, from what is in its folder and what was computed for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from unrender.captures.capture import Capture
from unrender.files.atomic import write_text
from unrender.render.asset import Asset
from unrender.runs.directory import RunDirectory, RunRecord
from unrender.runs.evaluation import Evaluation, truth_of
from unrender.runs.figures import color_picture, data_uri, read_picture
from unrender.runs.milestones import PREVIEW_SIDE, followed_view, stacked
from unrender.runs.report import Course, FileLink, PictureRow, Report, ViewRow, build_report
from unrender.runs.viewer import viewer_page
from unrender.runs.viewpoint import WITHOUT_PHOTOS, viewpoint_of


def write_report(
    directory: RunDirectory,
    record: RunRecord,
    evaluation: Evaluation | None,
    capture: Capture | None,
    rows: Sequence[ViewRow],
    asset: Asset | None,
    picture: PictureRow | None = None,
) -> None:
    """Write the page of a run; the surface ``asset`` is in the normalized world."""
    report = Report(
        record,
        evaluation,
        None if capture is None else course_of(directory, capture),
        tuple(rows),
        tuple(directory.read_history()),
        asset,
        None if capture is None or asset is None else viewpoint_of(capture, asset.mesh.up),
        directory.video_file,
        written_files(directory),
        picture,
    )
    write_text(directory.report_file, build_report(report))


def write_viewer(file: Path, asset: Asset, capture: Capture | None, record: RunRecord) -> None:
    """Write the page that shows the surface of a run, ``asset`` in the normalized world."""
    viewpoint, azimuths = WITHOUT_PHOTOS if capture is None else viewpoint_of(capture, asset.mesh.up)
    write_text(file, viewer_page(asset, viewpoint, azimuths[0], title=f"{record.recipe} · {record.input.name}"))


def course_of(directory: RunDirectory, capture: Capture) -> Course | None:
    """Collect the progress pictures, color above normal, with their photo; None if there are none."""
    stages = tuple((seconds, data_uri(stacked(read_picture(directory.stage_file(seconds))))) for seconds in directory.stages())
    if not stages:
        return None
    view = followed_view(capture)
    truth = color_picture(truth_of(capture, view, torch.device("cpu")))
    return Course(capture.names[view], stages, data_uri(truth, largest_side=PREVIEW_SIDE))


def written_files(directory: RunDirectory) -> tuple[FileLink, ...]:
    """Return the files of a run that are there, for the links of its report."""
    listed = (
        (directory.viewer_file, "the surface on a page of its own"),
        (directory.mesh_file("glb"), "the mesh for other viewers and Blender"),
        (directory.mesh_file("ply"), "the mesh in the frame of the input"),
        (directory.environment_file, "the environment light"),
        (directory.video_file, "the video"),
        (directory.prediction_file, "the fitted picture"),
        (directory.comparison_file, "truth, fitted picture and error"),
        (directory.renders, "all rendered views, with depths and normals"),
        (directory.metrics_file, "the scores"),
        (directory.history_file, "losses and counts of every report of the fit"),
        (directory.record_file, "the configuration, versions and timings"),
    )
    return tuple(FileLink(file.name, note, file.stat().st_size if file.is_file() else None) for file, note in listed if file.exists())

"""The report of a run: one HTML file with its pictures, charts and video inside."""

from __future__ import annotations

import base64
import html
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from unrender.render.asset import Asset
from unrender.runs.charts import Curve, Level, Mark, line_chart
from unrender.runs.directory import HistoryLine, RunRecord, phases_of
from unrender.runs.display import duration
from unrender.runs.evaluation import Evaluation, ViewScore
from unrender.runs.figures import BLUE_TO_YELLOW, DARK_TO_HOT, LARGEST_ERROR, Picture, color_source, data_uri, mesh_picture
from unrender.runs.material_figures import Captioned, chart_count, environment_picture, material_pictures, texture_pictures
from unrender.runs.measures import grouped
from unrender.runs.surface_measures import DISTANCE_GROUP
from unrender.runs.viewer import STYLE, VIEWER_STYLE, viewer
from unrender.runs.viewpoint import ELEVATION, WITHOUT_PHOTOS, Viewpoint

LARGEST_EMBEDDED_VIDEO = 15 * 2**20
"""Largest embedded video, in bytes; a larger one is linked."""

COMPLETE = ("finished", "time budget reached")
"""Outcomes of fits that used their whole budget."""

_PICTURE_SIDE = 640
"""Longest side of a fitted picture in pixels."""

_STYLE = Path(__file__).with_name("report.css").read_text(encoding="utf-8")


@dataclass(frozen=True)
class ViewRow:
    """One view of the report; the pictures are ``data:`` addresses."""

    score: ViewScore
    truth: str
    render: str
    error: str
    distance: str
    normal: str
    span: tuple[float, float]
    """Distances at both ends of the color map."""

    @classmethod
    def from_pictures(
        cls,
        score: ViewScore,
        truth: Picture,
        render: Picture,
        error: Picture,
        distance: Picture,
        normal: Picture,
        span: tuple[float, float],
    ) -> ViewRow:
        """Pack full-size pictures into a row."""
        return cls(score, data_uri(truth), data_uri(render), data_uri(error), data_uri(distance), data_uri(normal), span)


@dataclass(frozen=True)
class PictureRow:
    """A fitted picture; the pictures are ``data:`` addresses."""

    truth: str
    prediction: str
    error: str

    @classmethod
    def from_pictures(cls, truth: Picture, prediction: Picture, error: Picture) -> PictureRow:
        """Pack full-size pictures into a row."""
        return cls(*(data_uri(picture, largest_side=_PICTURE_SIDE, quality=92) for picture in (truth, prediction, error)))


@dataclass(frozen=True)
class Course:
    """Progress pictures of one view, as ``data:`` addresses."""

    name: str
    """Of the view."""
    stages: tuple[tuple[int, str], ...]
    """Seconds of training, and the picture: color above normal."""
    truth: str


@dataclass(frozen=True)
class FileLink:
    """A file of the run."""

    name: str
    note: str
    """What it contains."""
    size: int | None
    """In bytes; None for a folder."""


@dataclass(frozen=True)
class Report:
    """The content of the page."""

    record: RunRecord
    evaluation: Evaluation | None
    """None for a run without views to compare with."""
    course: Course | None
    rows: tuple[ViewRow, ...]
    history: tuple[HistoryLine, ...]
    asset: Asset | None
    """In the normalized world."""
    viewpoint: tuple[Viewpoint, tuple[float, float]] | None
    """Of the surface, and the azimuths of its two pictures; None for an input without photos."""
    video: Path | None
    files: tuple[FileLink, ...] = ()
    picture: PictureRow | None = None

    @property
    def views(self) -> str:
        """Name of the evaluated views."""
        return "held-out" if self.evaluation is None or self.evaluation.split == "test" else "fitted"


def build_report(report: Report) -> str:
    """Build the page as self-contained HTML, except for a video too large to embed."""
    record = report.record
    title = f"{record.recipe} · {record.input.name}"
    sections = [
        _headline(report, title),
        _remarks(record),
        _result(report),
        _measures(record),
        _picture(report.picture),
        _views(report),
        _course(report),
        _surface(report),
        _material(report),
        _curves(report),
        _files(report.files),
        _run(report),
        _input(record),
        _config(record),
    ]
    body = "\n".join(section for section in sections if section)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{VIEWER_STYLE}{_STYLE}</style></head>\n<body><main>\n{body}\n"
        f"<footer>unrender {html.escape(record.versions.get('unrender', ''))}</footer></main></body></html>\n"
    )


def _headline(report: Report, title: str) -> str:
    record, evaluation = report.record, report.evaluation
    tiles = [] if evaluation is None else [(f"{evaluation.psnr:.2f}", "PSNR, dB"), (f"{evaluation.ssim:.4f}", "SSIM")]
    groups = grouped(record.measures)
    headlines = [*groups.get("", []), *groups.get(DISTANCE_GROUP, [])[:1]]
    tiles += [(measure.number, measure.label) for measure in headlines]
    tiles += [(duration(record.seconds), "training time"), (f"{record.steps:,}", "steps")]
    if record.peak_memory_mb is not None:
        tiles.append((f"{record.peak_memory_mb / 1024:.1f}", "peak memory, GB"))
    cells = "".join(f"<div><b>{html.escape(number)}</b><span>{html.escape(label)}</span></div>" for number, label in tiles)
    facts = [_ending(report), record.device_name]
    if evaluation is not None:
        count = len(evaluation.per_view)
        facts.insert(1, f"measured on {count} {report.views} view{'s' * (count != 1)}")
    lead = html.escape(" · ".join(facts))
    return f'<header><h1>{html.escape(title)}</h1><p class="lead">{lead}</p><div class="tiles">{cells}</div></header>'


def _ending(report: Report) -> str:
    """Describe how the fit ended and its progress."""
    record, last = report.record, report.history[-1] if report.history else None
    steps = record.steps or (0 if last is None else last.step)
    planned = f" of {record.planned_steps:,}" if (record.planned_steps or 0) > steps else ""
    text = f"{record.outcome or 'not finished'} after {steps:,}{planned} steps"
    if record.outcome in COMPLETE or last is None or planned:
        return text
    return f"{text}, {last.fraction:.0%} of the budget"


def _remarks(record: RunRecord) -> str:
    sentences = list(record.remarks)
    if record.skipped_steps:
        sentences.append(f"{record.skipped_steps:,} steps were skipped: their loss or gradient was not finite")
    return "".join(f'<p class="remark">{html.escape(sentence)}.</p>' for sentence in sentences)


def _result(report: Report) -> str:
    """Show the surface and the video side by side, or the one that there is."""
    shown, asset = [], report.asset
    if asset is not None and not asset.is_empty:
        viewpoint, azimuths = report.viewpoint or WITHOUT_PHOTOS
        shown.append(f"<div><h2>Surface</h2>{viewer(asset, viewpoint, azimuths[0])}</div>")
    video = _video(report.video)
    if video:
        shown.append(f"<div><h2>Video</h2>{video}</div>")
    return f'<section class="pair">{"".join(shown)}</section>' if shown else ""


def _measures(record: RunRecord) -> str:
    """Show the measures of each group in a table."""
    rows = ""
    for group, some in grouped(measure for measure in record.measures if measure.group).items():
        rows += f'<tr><th colspan="2" class="group">{html.escape(group)}</th></tr>'
        for measure in some:
            better = "" if measure.better is None else f", {measure.better} is better"
            rows += f"<tr><th>{html.escape(measure.name)}</th><td>{html.escape(measure.quantity + better)}</td></tr>"
    absolute = any(measure.in_input_units is not None for measure in record.measures)
    note = '<p class="note">In parentheses: lengths in units of the input.</p>' if absolute else ""
    return f"<section><h2>Measures</h2>{note}<table>{rows}</table></section>" if rows else ""


def _course(report: Report) -> str:
    course = report.course
    if course is None:
        return ""
    strip = [_figure(source, f"{seconds:,} s", f"{course.name} after {seconds:,} s of training") for seconds, source in course.stages]
    strip.append(_figure(course.truth, "truth", f"truth of {course.name}"))
    photos = report.record.capture
    kind = "Held-out" if photos is not None and photos.test_views else "Fitted"
    note = f"{kind} view {html.escape(course.name)} at several training times: color above, normal below."
    return f'<section><h2>Progress</h2><p class="note">{note}</p>{_row("".join(strip), "pictures of the progress")}</section>'


def _views(report: Report) -> str:
    if report.evaluation is None:
        return ""
    rows = []
    for row in report.rows:
        inside = "" if row.score.psnr_masked is None else f", {row.score.psnr_masked:.2f} dB inside the mask"
        pictures = [
            (row.truth, "truth"),
            (row.render, "render"),
            (row.error, "error"),
            (row.distance, f"depth {row.span[0]:.2f}–{row.span[1]:.2f}"),
            (row.normal, "normal"),
        ]
        figures = "".join(_figure(source, label, f"{label} of {row.score.name}") for source, label in pictures)
        rows.append(
            f"<h3>{html.escape(row.score.name)} <small>{row.score.psnr:.2f} dB{inside}, SSIM {row.score.ssim:.3f}</small></h3>"
            + _row(figures, f"pictures of {row.score.name}")
        )
    total = len(report.evaluation.per_view)
    shown = "" if len(rows) == total else f" {len(rows)} of {total} views are shown; all are in <code>renders/</code>."
    scales = _scale(DARK_TO_HOT.tolist(), "error", "0", f"{LARGEST_ERROR:g} or more")
    scales += _scale(BLUE_TO_YELLOW.tolist(), "depth", "near", "far")
    note = (
        "Error: mean absolute difference of the three sRGB channels. Depth: distance from the camera in units of the normalized world, "
        f"its range below each picture. Normal: (n + 1) / 2 in world axes. Gray is empty.{shown}"
    )
    heading = f'<h2>{report.views.capitalize()} views</h2><p class="note">{note}</p><div class="scales">{scales}</div>'
    return f"<section>{heading}{''.join(rows)}</section>"


def _picture(row: PictureRow | None) -> str:
    if row is None:
        return ""
    shown = ((row.truth, "truth"), (row.prediction, "prediction"), (row.error, "error"))
    figures = "".join(_figure(source, label, f"{label} of the picture") for source, label in shown)
    scale = f'<div class="scales">{_scale(DARK_TO_HOT.tolist(), "error", "0", f"{LARGEST_ERROR:g} or more")}</div>'
    note = "The pixels in even rows and columns were fitted; those in odd rows and columns were held out."
    return f'<section><h2>Picture</h2><p class="note">{note}</p>{scale}{_row(figures, "the pictures")}</section>'


def _figure(source: str, caption: str, described: str) -> str:
    picture = f'<img loading="lazy" src="{source}" alt="{html.escape(described)}">'
    return f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _row(figures: str, described: str) -> str:
    """Return a row of pictures; where it is wider than the page, it scrolls, with the keyboard too."""
    return f'<div class="row" tabindex="0" role="region" aria-label="{html.escape(described)}">{figures}</div>'


def _scale(anchors: Sequence[Sequence[float]], name: str, low: str, high: str) -> str:
    stops = ", ".join(f"rgb({r:.0f} {g:.0f} {b:.0f})" for r, g, b in anchors)
    return f'<span>{name}: {low} <i style="background: linear-gradient(90deg, {stops})"></i> {high}</span>'


def _curves(report: Report) -> str:
    lines = report.history
    if not lines:
        return ""
    seconds, marks = [line.seconds for line in lines], [Mark(phase.name, phase.start) for phase in phases_of(lines)]
    charts = []

    def add(title: str, curves: Sequence[Curve], *, logarithmic: bool, level: Level | None = None) -> None:
        chart = line_chart(curves, title=title, x_label="seconds of training", logarithmic=logarithmic, level=level, marks=marks)
        charts.append(f"<div>{chart}</div>")

    if any(line.psnr is not None for line in lines):
        views = None if report.evaluation is None else Level(f"mean of {report.views} views", report.evaluation.psnr)
        psnr = [Curve("training batches", seconds, [_or_nan(line.psnr) for line in lines])]
        if any(line.held_out_psnr is not None for line in lines):
            psnr.append(Curve("held out", seconds, [_or_nan(line.held_out_psnr) for line in lines]))
        add("PSNR, dB" if len(psnr) > 1 else "PSNR of training batches, dB", psnr, logarithmic=False, level=views)
    add("Losses", _curves_by_name(seconds, [line.losses for line in lines]), logarithmic=True)
    if any(line.counts for line in lines):
        counts = [{name: float(count) for name, count in line.counts.items()} for line in lines]
        add("Counts of a step", _curves_by_name(seconds, counts), logarithmic=True)
    return f'<section><h2>Charts</h2><div class="pair">{"".join(charts)}</div></section>'


def _curves_by_name(seconds: Sequence[float], values: Sequence[Mapping[str, float | None]]) -> list[Curve]:
    """Return one curve for every name, with NaN where the name is absent."""
    names = list(dict.fromkeys(name for line in values for name in line))
    return [Curve(name, seconds, [_or_nan(line.get(name)) for line in values]) for name in names]


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _surface(report: Report) -> str:
    asset = report.asset
    if asset is None or asset.is_empty:
        return ""
    mesh = asset.mesh
    low, high = (tuple(corner) for corner in mesh.bounding_box.cpu().tolist())
    facts = [
        ("vertices", f"{len(mesh.vertices):,}"),
        ("faces", f"{len(mesh.faces):,}"),
        ("components", str(mesh.component_count)),
        ("watertight", "yes" if mesh.is_watertight else "no"),
        ("bounding box, normalized world", f"{_point(low)} to {_point(high)}"),
    ]
    if asset.material is not None and asset.material.base_color is not None and mesh.uvs is not None:
        height, width = asset.material.base_color.shape[:2]
        facts[4:4] = [("texture", f"{width} × {height}"), ("charts", f"{chart_count(mesh):,}")]
    viewpoint, azimuths = report.viewpoint or WITHOUT_PHOTOS
    color = color_source(asset)
    pictures = ""
    for label, source in (("shape", None), ("color", color)) if color is not None else (("shape", None),):
        for side, azimuth in zip(("left", "right") if max(azimuths) < 90 else ("front", "back"), azimuths, strict=True):
            picture = data_uri(mesh_picture(mesh, azimuth, ELEVATION, viewpoint=viewpoint, color=source), largest_side=420)
            pictures += _figure(picture, f"{label}, {side}", f"{label} of the surface, {side}")
    note = "Triangles seen from behind are bluish."
    row = _row(pictures, "pictures of the surface")
    return f'<section><h2>Shape</h2><p class="note">{note}</p>{row}{_table(facts)}</section>'


def _material(report: Report) -> str:
    """Show the channels of a material on the surface, its textures, and the light."""
    asset = report.asset
    if asset is None or asset.is_empty:
        return ""
    viewpoint, azimuths = report.viewpoint or WITHOUT_PHOTOS
    on_surface, textures, light = material_pictures(asset, viewpoint, azimuths[0]), texture_pictures(asset), environment_picture(asset)
    if not on_surface and light is None:
        return ""

    def row(pictures: Sequence[Captioned], described: str) -> str:
        figures = (_figure(data_uri(shown.picture, largest_side=420), shown.caption, f"{shown.caption} {described}") for shown in pictures)
        return _row("".join(figures), f"pictures {described}") if pictures else ""

    rows = row(on_surface, "on the surface") + row(textures, "in the texture") + row([] if light is None else [light], "of the photos")
    note = "Base colors are without light. Roughness and metallic: black is 0, white is 1. The middle of the light is seen along +X."
    return f'<section><h2>Material and light</h2><p class="note">{note}</p>{rows}</section>'


def _point(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:.3f}" for value in values) + ")"


def _video(file: Path | None) -> str:
    if file is None or not file.exists():
        return ""
    if os.path.getsize(file) > LARGEST_EMBEDDED_VIDEO:
        return f'<p><a href="{quote(file.name)}">{html.escape(file.name)}</a></p>'
    source = "data:video/mp4;base64," + base64.b64encode(file.read_bytes()).decode("ascii")
    return f'<video controls loop muted autoplay playsinline src="{source}"></video>'


def _files(files: Sequence[FileLink]) -> str:
    rows = "".join(
        f'<tr><th><a href="{quote(file.name)}">{html.escape(file.name)}</a></th><td>{html.escape(file.note)}'
        + ("" if file.size is None else f", {_size(file.size)}")
        + "</td></tr>"
        for file in files
    )
    return f"<section><h2>Files</h2><table>{rows}</table></section>" if rows else ""


def _size(count: int) -> str:
    """Write a number of bytes.

    >>> _size(11_466_344), _size(740)
    ('11.5 MB', '1 kB')
    """
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{math.ceil(count / 1e3)} kB"


def _run(report: Report) -> str:
    record = report.record
    facts = [
        ("recipe", record.recipe + (f", preset {record.preset}" if record.preset else "")),
        ("device", f"{record.device}: {record.device_name}"),
        ("seed", str(record.seed)),
        ("training", f"{record.seconds:.1f} s, {record.steps:,} steps"),
        *((f"phase: {phase.name}", f"until {phase.last.seconds:.1f} s, step {phase.last.step:,}") for phase in phases_of(report.history)),
        *((f"{name}, wall clock", f"{value:.1f} s") for name, value in record.timings.items()),
        *((name, version) for name, version in record.versions.items()),
    ]
    return f"<section><h2>Run</h2>{_table(facts)}</section>"


def _input(record: RunRecord) -> str:
    given, capture = record.input, record.capture
    facts = [("kind", given.kind), ("path", given.path)]
    if capture is not None:
        options = ", ".join(f"{name} {value}" for name, value in capture.options.as_json().items())
        facts += [
            ("views", f"{capture.train_views} fitted, {capture.test_views} held out"),
            ("split", capture.split_rule),
            ("read with", options or "defaults"),
        ]
    facts.append(("fingerprint", given.fingerprint))
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in given.notes)
    return f"<section><h2>Input</h2>{_table(facts)}{f'<ul>{notes}</ul>' if notes else ''}</section>"


def _config(record: RunRecord) -> str:
    facts = [(name, "–" if value is None else str(value)) for name, value in _flat(record.config)]
    return f"<section><details><summary><h2>Configuration</h2></summary>{_table(facts)}</details></section>"


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in values.items():
        pairs += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(prefix + name, value)]
    return pairs


def _table(facts: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in facts)
    return f"<table>{rows}</table>"

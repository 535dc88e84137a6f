"""One page that shows a run: a single HTML file with its pictures, curves and video inside, which opens anywhere."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unrender.geometry.mesh import Mesh
from unrender.runs.directory import HistoryLine, RunRecord
from unrender.runs.display import duration
from unrender.runs.evaluation import Evaluation, ViewScore
from unrender.runs.figures import BLUE_TO_YELLOW, DARK_TO_HOT, LARGEST_ERROR, Curve, Picture, data_uri, line_chart, mesh_picture

LARGEST_EMBEDDED_VIDEO = 15 * 2**20
"""Bytes; a longer video is linked."""


@dataclass(frozen=True)
class ViewRow:
    """One test view of the report; the pictures are ``data:`` addresses."""

    score: ViewScore
    truth: str
    render: str
    error: str
    distance: str
    normal: str
    span: tuple[float, float]
    """Distances at the two ends of the colors."""

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
        """Packs full-size pictures into a row."""
        return cls(score, data_uri(truth), data_uri(render), data_uri(error), data_uri(distance), data_uri(normal), span)


@dataclass(frozen=True)
class Course:
    """One view while the fit ran; the pictures are ``data:`` addresses."""

    name: str
    """Of the view."""
    stages: tuple[tuple[int, str], ...]
    """Seconds of training, and the picture: color above normal."""
    truth: str


@dataclass(frozen=True)
class Report:
    """What the page is made of."""

    record: RunRecord
    evaluation: Evaluation
    course: Course | None
    rows: tuple[ViewRow, ...]
    history: tuple[HistoryLine, ...]
    mesh: Mesh | None
    """In the normalized world."""
    video: Path | None


def build_report(report: Report) -> str:
    """The page as HTML, with nothing to load from elsewhere but a video too large to embed."""
    record = report.record
    title = f"{record.recipe} · {record.capture.name}"
    sections = [
        _headline(report, title),
        _remarks(record),
        _course(report),
        _views(report),
        _curves(report),
        _surface(report),
        _video(report.video),
        _run(record),
        _capture(record),
        _config(record),
    ]
    body = "\n".join(section for section in sections if section)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n{body}\n"
        f"<footer>unrender {html.escape(record.versions.get('unrender', ''))}</footer></main></body></html>\n"
    )


def _headline(report: Report, title: str) -> str:
    record, evaluation = report.record, report.evaluation
    tiles = [(f"{evaluation.psnr:.2f}", "dB PSNR"), (f"{evaluation.ssim:.4f}", "SSIM")]
    tiles += [(measure.number, measure.label) for measure in record.measures]
    tiles += [(duration(record.seconds), "of training"), (f"{record.steps:,}", "steps")]
    if record.peak_memory_mb is not None:
        tiles.append((f"{record.peak_memory_mb / 1024:.1f}", "GB peak memory"))
    cells = "".join(f"<div><b>{html.escape(number)}</b><span>{html.escape(label)}</span></div>" for number, label in tiles)
    views = f"{len(evaluation.per_view)} {_kind(report)} view{'s' * (len(evaluation.per_view) != 1)}"
    return (
        f"<header><h1>{html.escape(title)}</h1>"
        f'<p class="lead">{views}; {html.escape(record.outcome or "unfinished")}; {html.escape(record.device_name)}</p>'
        f'<div class="tiles">{cells}</div></header>'
    )


def _kind(report: Report) -> str:
    return "held-out" if report.evaluation.split == "test" else "fitted"


def _remarks(record: RunRecord) -> str:
    sentences = list(record.remarks)
    if record.skipped_steps:
        sentences.append(f"{record.skipped_steps} steps were skipped because their loss or gradient was not finite")
    return "".join(f'<p class="remark">{html.escape(sentence)}.</p>' for sentence in sentences)


def _course(report: Report) -> str:
    course = report.course
    if course is None:
        return ""
    strip = [_figure(source, f"{seconds:,} s", f"{course.name} after {seconds:,} s of training") for seconds, source in course.stages]
    strip.append(_figure(course.truth, "truth", f"truth of {course.name}"))
    note = f"{_kind(report).capitalize()} view {html.escape(course.name)} after so many seconds of training: color above, normal below."
    return f'<section><h2>How it came along</h2><p class="note">{note}</p><div class="row">{"".join(strip)}</div></section>'


def _views(report: Report) -> str:
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
            f'<div class="row">{figures}</div>'
        )
    total = len(report.evaluation.per_view)
    left_out = "" if len(rows) == total else f" {len(rows)} of {total} views are shown; all are in <code>renders/</code>."
    scales = _scale(DARK_TO_HOT.tolist(), "error", "0", f"{LARGEST_ERROR:g} or more")
    scales += _scale(BLUE_TO_YELLOW.tolist(), "depth", "near", "far")
    note = (
        "Error is the mean absolute difference of the three sRGB channels. Depth is the distance from the camera in units of the "
        f"normalized world, its range under each picture. Normals are in world axes, (n + 1) / 2; gray is empty.{left_out}"
    )
    heading = f'<h2>{_kind(report).capitalize()} views</h2><p class="note">{note}</p><div class="scales">{scales}</div>'
    return f"<section>{heading}{''.join(rows)}</section>"


def _figure(source: str, caption: str, described: str) -> str:
    picture = f'<img loading="lazy" src="{source}" alt="{html.escape(described)}">'
    return f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _scale(anchors: Sequence[Sequence[float]], name: str, low: str, high: str) -> str:
    stops = ", ".join(f"rgb({r:.0f} {g:.0f} {b:.0f})" for r, g, b in anchors)
    return f'<span>{name}: {low} <i style="background: linear-gradient(90deg, {stops})"></i> {high}</span>'


def _curves(report: Report) -> str:
    lines = report.history
    if not lines:
        return ""
    seconds = [line.seconds for line in lines]
    psnr = Curve("training batches", seconds, [_number(line.psnr) for line in lines])
    held_out = (f"mean of {_kind(report)} views", report.evaluation.psnr)
    charts = line_chart([psnr], title="PSNR of training batches, dB", x_label="seconds of training", level=held_out)
    names = list(dict.fromkeys(name for line in lines for name in line.losses))
    losses = [Curve(name, seconds, [_number(line.losses.get(name)) for line in lines]) for name in names]
    second = line_chart(losses, title="Losses", x_label="seconds of training", logarithmic=True)
    return f'<section><h2>Curves</h2><div class="pair"><div>{charts}</div><div>{second}</div></div></section>'


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _surface(report: Report) -> str:
    mesh = report.mesh
    if mesh is None or mesh.is_empty:
        return ""
    low, high = (tuple(corner) for corner in mesh.bounding_box.cpu().tolist())
    facts = [
        ("vertices", f"{len(mesh.vertices):,}"),
        ("faces", f"{len(mesh.faces):,}"),
        ("components", str(mesh.component_count)),
        ("watertight", "yes" if mesh.is_watertight else "no"),
        ("bounding box, normalized world", f"{_point(low)} to {_point(high)}"),
        ("files", "mesh.ply and mesh.glb, in the frame the poses came in"),
    ]
    sides = [(data_uri(mesh_picture(mesh, azimuth, 20.0), largest_side=420), f"azimuth {azimuth:.0f}°") for azimuth in (35.0, 215.0)]
    pictures = "".join(_figure(source, label, f"the mesh, {label}") for source, label in sides)
    note = "Shaded triangles, without color; a triangle that shows its back is bluish."
    return f'<section><h2>Surface</h2><p class="note">{note}</p><div class="row">{pictures}</div>{_table(facts)}</section>'


def _point(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:.3f}" for value in values) + ")"


def _video(file: Path | None) -> str:
    if file is None or not file.exists():
        return ""
    if os.path.getsize(file) > LARGEST_EMBEDDED_VIDEO:
        return f'<section><h2>Video</h2><p><a href="{html.escape(file.name)}">{html.escape(file.name)}</a></p></section>'
    source = "data:video/mp4;base64," + base64.b64encode(file.read_bytes()).decode("ascii")
    return f'<section><h2>Video</h2><video controls loop muted autoplay playsinline src="{source}"></video></section>'


def _run(record: RunRecord) -> str:
    facts = [
        ("recipe", record.recipe + (f", preset {record.preset}" if record.preset else "")),
        ("device", f"{record.device}: {record.device_name}"),
        ("seed", str(record.seed)),
        ("training", f"{record.seconds:.1f} s, {record.steps:,} steps"),
        *((f"{name}, wall clock", f"{value:.1f} s") for name, value in record.timings.items()),
        *((name, version) for name, version in record.versions.items()),
    ]
    return f"<section><h2>Run</h2>{_table(facts)}</section>"


def _capture(record: RunRecord) -> str:
    capture = record.capture
    options = ", ".join(f"{name} {value}" for name, value in capture.options.items())
    facts = [
        ("path", capture.path),
        ("views", f"{capture.train_views} fitted, {capture.test_views} held out"),
        ("split", capture.split_rule),
        ("read with", options or "defaults"),
        ("fingerprint", capture.fingerprint),
    ]
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in capture.notes)
    return f"<section><h2>Capture</h2>{_table(facts)}{f'<ul>{notes}</ul>' if notes else ''}</section>"


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


STYLE = """
:root { color-scheme: light dark; --page: #fbfaf8; --card: #fff; --ink: #1d1f23; --soft: #6a6f78; --line: #e3e1dc; --accent: #0b6e63;
  --c0: #0b6e63; --c1: #c2541b; --c2: #4a63c8; --c3: #a5771a; --c4: #a03c86; --c5: #3c8f2f; --c6: #7a5cc0; --c7: #6b6b6b; }
@media (prefers-color-scheme: dark) { :root { --page: #14161a; --card: #1c1f24; --ink: #e8e6e1; --soft: #9aa0aa; --line: #30343b;
  --accent: #5fd0c0; --c0: #5fd0c0; --c1: #f0965c; --c2: #93a7ff; --c3: #e0bb62; --c4: #e58fcb;
  --c5: #8fd67f; --c6: #b9a1f5; --c7: #b0b0b0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 0 0 8px; }
h3 { font-size: 0.95rem; margin: 20px 0 6px; overflow-wrap: anywhere; }
h3 small { font-weight: 400; color: var(--soft); margin-left: 6px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px; margin-top: 18px; }
.lead, .note, footer { color: var(--soft); }
.lead { margin: 4px 0 16px; }
.note { font-size: 0.86rem; margin: 0 0 8px; max-width: 90ch; }
.remark { border-left: 4px solid var(--c1); padding: 8px 14px; margin: 16px 0 0; background: var(--card); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 10px; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 12px 16px; }
.tiles b { display: block; font-size: 1.6rem; line-height: 1.15; font-variant-numeric: tabular-nums; color: var(--accent); }
.tiles span { display: block; font-size: 0.82rem; line-height: 1.3; margin-top: 3px; color: var(--soft); }
.row { display: flex; gap: 8px; overflow-x: auto; scroll-snap-type: x proximity; padding-bottom: 4px; }
.row figure { margin: 0; flex: 1 0 150px; max-width: 420px; scroll-snap-align: start; }
.row img { display: block; width: 100%; height: auto; border-radius: 6px; background: #808080; border: 1px solid var(--line); }
figcaption { font-size: 0.76rem; color: var(--soft); text-align: center; padding-top: 3px; }
.scales { display: flex; flex-wrap: wrap; gap: 6px 24px; font-size: 0.8rem; color: var(--soft); }
.scales i { display: inline-block; width: 110px; height: 10px; border-radius: 5px; vertical-align: middle; margin: 0 4px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 18px; }
.pair > div { overflow-x: auto; }
.chart { display: block; width: 100%; min-width: 460px; height: auto; }
.chart text { fill: var(--soft); font-size: 12px; font-family: inherit; }
.chart .title { fill: var(--ink); font-size: 13px; font-weight: 600; }
.chart .grid { stroke: var(--line); stroke-width: 1; }
.chart .level { stroke: var(--c1); stroke-width: 1.5; stroke-dasharray: 5 4; }
.chart .curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 0.8rem; color: var(--soft); padding-left: 9%; }
.legend i { display: inline-block; width: 14px; height: 3px; margin-right: 6px; vertical-align: middle; }
.c0 { stroke: var(--c0); background: var(--c0); } .c1 { stroke: var(--c1); background: var(--c1); }
.c2 { stroke: var(--c2); background: var(--c2); } .c3 { stroke: var(--c3); background: var(--c3); }
.c4 { stroke: var(--c4); background: var(--c4); } .c5 { stroke: var(--c5); background: var(--c5); }
.c6 { stroke: var(--c6); background: var(--c6); } .c7 { stroke: var(--c7); background: var(--c7); }
video { display: block; width: 100%; max-width: 640px; border-radius: 8px; background: #808080; }
table { border-collapse: collapse; width: 100%; font-size: 0.88rem; margin-top: 8px; table-layout: fixed; }
th, td { text-align: left; padding: 5px 10px 5px 0; border-top: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
th { font-weight: 500; color: var(--soft); width: 34%; }
tr:first-child th, tr:first-child td { border-top: 0; }
ul { margin: 10px 0 0; padding-left: 20px; font-size: 0.9rem; }
summary { cursor: pointer; } summary h2 { display: inline; }
footer { font-size: 0.82rem; margin-top: 22px; text-align: center; }
@media (max-width: 560px) { main { padding: 16px 10px 40px; } section { padding: 14px 12px; } h1 { font-size: 1.5rem; }
  .row figure { flex-basis: 62%; } }
"""

"""The page of a check: verdict, findings, the picture of the cameras and the measures of each view, in one HTML file."""

from __future__ import annotations

import html
from pathlib import Path

from unrender.captures.check.findings import CheckReport, Finding, Severity, ViewCheck
from unrender.files.atomic import write_text
from unrender.files.png import png_uri
from unrender.runs.check_figure import check_picture
from unrender.runs.figures import Picture, write_picture

_STYLE = "".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "report.css", "check.css"))

_LABELS: dict[Severity, str] = {"ok": "good", "warning": "warning", "broken": "broken"}
_MOST_ROWS = 400


def write_check(report: CheckReport, folder: Path) -> dict[str, Path]:
    """Write ``check.html``, and ``check.png`` if the capture could be read, into a folder.

    Returns:
        The files by their kind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    picture = check_picture(report)
    files = {"page": folder / "check.html"}
    if picture is not None:
        files["picture"] = folder / "check.png"
        write_picture(files["picture"], picture)
    write_text(files["page"], check_page(report, picture))
    return files


def check_page(report: CheckReport, picture: Picture | None) -> str:
    """Build the page as self-contained HTML."""
    title = f"{report.name}: {report.headline}"
    lead = "A fit can start." if report.is_usable else "A fit will fail until this is repaired."
    command = "" if report.command is None else f"<section><h2>Next</h2><pre><code>{html.escape(report.command)}</code></pre></section>"
    source = None if picture is None else png_uri(picture, smallest=True)
    figure = "" if source is None else f'<figure><img src="{source}" alt="cameras, covered directions and photos"></figure>'
    sections = [
        f'<header><h1>{html.escape(report.name)}: <span class="{report.verdict}">{html.escape(report.headline)}</span></h1>'
        f'<p class="lead">{lead}</p></header>',
        f'<section><ul class="check">{"".join(map(_line, report.findings))}</ul></section>',
        command,
        f"<section><h2>Cameras and photos</h2>{figure}</section>" if figure else "",
        _numbers(report),
        _views(report.views),
        _notes(report.notes),
    ]
    body = "\n".join(section for section in sections if section)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def _line(finding: Finding) -> str:
    sentence = html.escape(finding.sentence[:1].upper() + finding.sentence[1:])
    return f'<li><b class="{finding.severity}">{_LABELS[finding.severity]}</b><span>{sentence}.</span></li>'


def _numbers(report: CheckReport) -> str:
    rows = "".join(f"<tr><th>{html.escape(name)}</th><td>{value:.4g}</td></tr>" for name, value in report.numbers.items())
    return f"<section><h2>Measures</h2><table>{rows}</table></section>" if rows else ""


def _views(views: tuple[ViewCheck, ...]) -> str:
    """List the views, those with the least agreement first."""
    measured = [view for view in views if view.iou is not None or view.agreement is not None or view.faults]
    measured.sort(key=lambda view: (not view.faults, min(1.0 if value is None else value for value in (view.iou, view.agreement))))
    rows = "".join(
        f"<tr><th>{html.escape(view.name)}</th><td>{_share(view.iou)}</td><td>{_share(view.agreement)}</td>"
        f"<td>{html.escape(', '.join(view.faults))}</td></tr>"
        for view in measured[:_MOST_ROWS]
    )
    if not rows:
        return ""
    note = (
        '<p class="note">IoU: intersection by union of the mask and the visual hull of all masks. Matches: share of the details found in '
        "this and other photos whose rays meet.</p>"
    )
    head = "<tr><th>photo</th><th>IoU</th><th>matches</th><th></th></tr>"
    return f"<section><details><summary><h2>Photos</h2></summary>{note}<table>{head}{rows}</table></details></section>"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _notes(notes: tuple[str, ...]) -> str:
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f"<section><h2>How it was read</h2><ul>{items}</ul></section>" if items else ""

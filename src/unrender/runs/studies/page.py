"""The page of a study: self-contained HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unrender.files.atomic import write_text
from unrender.runs.measures import Measure

_STYLE = "".join(Path(__file__).parents[1].joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "report.css"))


@dataclass(frozen=True)
class Finding:
    """A number of a study, with what theory or others say about it."""

    measure: Measure
    expected: str
    holds: bool


@dataclass(frozen=True)
class StudySection:
    """A heading, sentences, and charts, tables or pictures as HTML."""

    title: str
    text: str
    figures: Sequence[str] = ()


@dataclass(frozen=True)
class Study:
    """The results of a study."""

    name: str
    title: str
    lead: str
    sections: Sequence[StudySection]
    findings: Sequence[Finding]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as HTML."""
    first = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{first}</tr>{body}</table>"


def write_study(study: Study, folder: Path) -> Path:
    """Write the page of a study into a folder, and return its file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{study.name}.html"
    write_text(file, study_page(study))
    return file


def study_page(study: Study) -> str:
    """Build the page."""
    rows = [(found.measure.name, found.measure.quantity, found.expected, "yes" if found.holds else "no") for found in study.findings]
    results = table(("measured", "value", "expected", "holds"), rows)
    sections = "".join(_section(section) for section in study.sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(study.title)}</title><style>{_STYLE}</style></head>\n<body><main>"
        f'<header><h1>{html.escape(study.title)}</h1><p class="lead">{html.escape(study.lead)}</p></header>'
        f"<section><h2>Results</h2>{results}</section>{sections}</main></body></html>\n"
    )


def _section(section: StudySection) -> str:
    text = "".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in section.text.split("\n\n"))
    figures = "".join(f"<div>{figure}</div>" for figure in section.figures)
    shown = f'<div class="pair">{figures}</div>' if figures else ""
    return f"<section><h2>{html.escape(section.title)}</h2>{text}{shown}</section>"

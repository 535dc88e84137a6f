"""The summary of a check before a fit."""

from __future__ import annotations

from dataclasses import replace

from unrender.captures.capture import Capture, Split
from unrender.captures.check.checking import MOST_VIEWS, QUICK_VIEWS, check_capture
from unrender.captures.check.findings import CheckReport, in_order
from unrender.captures.check.photos import about_duplicates, copied_files
from unrender.numerics import evenly_spread
from unrender.runs.display import Display

_MOST_LINES = 4
_OF_MATCHES = ("poses", "focal length", "order", "camera axes", "inverted poses", "mirrored photos", "static background")
"""What matches between photos tell, better the more photos are compared."""

_FEW_PAIRS = 16
"""Fewer pairs of photos with matches say little about a focal length; decoding more photos for it would keep a fit waiting."""


def say_summary(capture: Capture, display: Display) -> None:
    """Print the verdict of a quick check and what it warns of."""
    with display.task("checking the capture"):
        report = quick_check(capture)
    for line in summary_of(report):
        display.say(line)


def quick_check(capture: Capture) -> CheckReport:
    """Check some views, and more of them if these do not speak for the capture.

    Copies are found among all photos.
    """
    report = _some_checked(capture, QUICK_VIEWS)
    doubtful = any(
        finding.severity == "broken" or (finding.cause in _OF_MATCHES and finding.severity != "ok") for finding in report.findings
    )
    few = report.numbers.get("pairs", 0.0) < _FEW_PAIRS and not capture.photos.waits
    if (doubtful or few) and len(capture) > QUICK_VIEWS:
        return _some_checked(capture, MOST_VIEWS)
    return report


def _some_checked(capture: Capture, most: int) -> CheckReport:
    some = decoded_soon(capture, most)
    report = check_capture(some, most_views=most)
    if some is capture:
        return report
    others = [finding for finding in report.findings if finding.cause != "duplicates"]
    findings = in_order([*about_duplicates(copied_files(capture), capture.names), *others])
    return replace(report, findings=findings, command=None if findings[0].severity == "broken" else report.command)


def decoded_soon(capture: Capture, most: int) -> Capture:
    """Return some views of a capture whose photos are still decoded, evenly spread.

    A fit need not wait for all of them.
    """
    count = len(capture)
    if not capture.photos.waits or count <= most:
        return capture
    views = evenly_spread(count, most)
    return replace(
        capture,
        photos=capture.photos.select(views),
        cameras=capture.cameras.select(views),
        names=tuple(capture.names[view] for view in views),
        split=Split(tuple(range(len(views))), (), f"{len(views)} of {count} views"),
        copies=(),
        ignored=None if capture.ignored is None else capture.ignored.select(views),
        normals=None,
        normal_files=(),
    )


def summary_of(report: CheckReport) -> list[str]:
    """Return the verdict and the most severe findings, five lines at most."""
    # Few views may have too few details in common and gaps between them, which says nothing about all of them.
    some = report.capture is not None and bool(report.capture.photos.waits)
    unsaid = ("features", "coverage") if some else ("features",)
    told = [finding for finding in report.findings if finding.severity != "ok" and finding.cause not in unsaid]
    if not told:
        return ["check: masks, poses and photos look usable"]
    lines = [f"check: {finding.severity}: {finding.sentence}" for finding in told[:_MOST_LINES]]
    more = len(told) - _MOST_LINES
    return [*lines, *([f"check: {more} more; `unrender check` tells all"] if more > 0 else [])]

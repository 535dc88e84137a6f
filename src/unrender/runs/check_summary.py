"""The summary of a check before a fit."""

from __future__ import annotations

from unrender.captures.capture import Capture
from unrender.captures.check.checking import QUICK_VIEWS, check_capture
from unrender.captures.check.findings import CheckReport
from unrender.runs.display import Display

_MOST_LINES = 4


def say_summary(capture: Capture, display: Display) -> None:
    """Print the verdict of a quick check and what it warns of."""
    with display.task("checking the capture"):
        report = check_capture(capture, most_views=QUICK_VIEWS)
    for line in summary_of(report):
        display.say(line)


def summary_of(report: CheckReport) -> list[str]:
    """Return the verdict and the most severe findings, five lines at most."""
    # Few views may have too few details in common, which says nothing about all of them.
    told = [finding for finding in report.findings if finding.severity != "ok" and finding.cause != "features"]
    if not told:
        return ["check: masks, poses and photos look usable"]
    lines = [f"check: {finding.severity}: {finding.sentence}" for finding in told[:_MOST_LINES]]
    more = len(told) - _MOST_LINES
    return [*lines, *([f"check: {more} more; `unrender check` tells all"] if more > 0 else [])]

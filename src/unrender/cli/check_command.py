"""The command ``unrender check``."""

from __future__ import annotations

from pathlib import Path

from unrender.captures.check.checking import check_capture
from unrender.captures.options import CaptureOptions
from unrender.cli.displays import display_of
from unrender.cli.options import OutputOptions
from unrender.cli.terminal import Ending
from unrender.runs.check_page import write_check

_MARKS = {"ok": "OK", "warning": " !", "broken": "!!"}


def check_folder(output: OutputOptions, reading: CaptureOptions, *, capture: Path, out: Path | None) -> Ending:
    """Run ``unrender check``."""
    display = display_of(output)
    with display.task("checking the capture"):
        report = check_capture(capture, reading)
        folder = out or Path("runs") / f"check-{capture.absolute().name}"
        files = write_check(report, folder)
    display.say(f"{report.name}: {report.headline}")
    for finding in report.findings:
        display.say(f"{_MARKS[finding.severity]}  {finding.sentence}")
    if report.command is not None:
        display.say(f"next: {report.command}")
    display.say(" and ".join(map(str, files.values())))
    written = {name: str(file) for name, file in files.items()}
    return Ending(0 if report.is_usable else 1, {"capture": str(capture), **report.as_json(), "files": written})

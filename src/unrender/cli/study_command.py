"""The command ``unrender study``."""

from __future__ import annotations

from pathlib import Path

from unrender.cli.arguments import UsageError
from unrender.cli.displays import display_of
from unrender.cli.options import OutputOptions, StudyName
from unrender.cli.terminal import Ending
from unrender.devices import select_device
from unrender.runs.measures import measures_as_json
from unrender.runs.studies.encodings import encodings_study
from unrender.runs.studies.fourier import fourier_study
from unrender.runs.studies.ntk import ntk_study
from unrender.runs.studies.page import write_study


def run_study(
    output: OutputOptions, *, study: StudyName, picture: Path | None, steps: int, out: Path | None, device: str | None, seed: int
) -> Ending:
    """Run ``unrender study``."""
    if picture is not None and study != "fourier":
        raise UsageError(f"the study {study} takes no --picture; fourier does")
    if steps < 1:
        raise UsageError(f"--steps is {steps}; it must be at least 1")
    target, display = select_device(device), display_of(output)
    folder = out or Path("runs") / f"study-{study}"
    if study == "fourier":
        found = fourier_study(folder, picture, steps=steps, seed=seed, device=target, display=display)
    else:
        found = encodings_study(seed) if study == "encodings" else ntk_study(seed, display)
    page = write_study(found, folder)
    for finding in found.findings:
        display.say(f"{'OK' if finding.holds else '!!'}  {finding.measure.text} (expected: {finding.expected})")
    display.say(f"all of it on one page: {page}")
    holds = {finding.measure.name: finding.holds for finding in found.findings}
    return Ending(0, {"study": study, "page": str(page), "measures": measures_as_json([f.measure for f in found.findings]), "holds": holds})

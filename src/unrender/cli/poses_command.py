"""``unrender poses``, and the poses that ``unrender fit`` solves when it is given plain photos or a video."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path

from unrender.captures.photo_files import IMAGE_FOLDERS
from unrender.captures.structure_from_motion.gathering import needs_poses
from unrender.captures.structure_from_motion.solve import Solved, describe, solve_poses
from unrender.cli.displays import display_of
from unrender.cli.options import OutputOptions
from unrender.cli.terminal import Ending
from unrender.runs.directory import input_name
from unrender.runs.display import Display, Task


class StagesShown:
    """Shows the stages of a solution one after the other."""

    def __init__(self, display: Display) -> None:
        """Show them on a display."""
        self._display = display
        self._title = ""
        self._task: Task | None = None
        self._open = contextlib.ExitStack()

    def __call__(self, title: str, done: int, total: int | None) -> None:
        """Show that ``done`` of ``total`` steps of a stage are done."""
        if title != self._title or self._task is None:
            self.close()
            self._title, self._task = title, self._open.enter_context(self._display.task(title, total))
        self._task.advance(done)

    def close(self) -> None:
        """End the last stage."""
        self._open.close()
        self._title = ""


def default_capture(photos: Path) -> Path:
    """Return the folder of a capture for which none was chosen: ``captures/INPUT``.

    >>> default_capture(Path("duck/images")).as_posix(), default_capture(Path("duck")).as_posix()
    ('captures/duck', 'captures/duck')
    """
    named = photos.absolute().parent if photos.name.lower() in IMAGE_FOLDERS else photos
    return Path("captures") / input_name(named)


def solved_poses(
    photos: Path, out: Path, display: Display, *, frames: int | None, focal: float | None, overwrite: bool
) -> tuple[Solved, bool]:
    """Solve poses and show the progress; see :func:`~unrender.captures.structure_from_motion.solve.solve_poses`."""
    shown = StagesShown(display)
    try:
        return solve_poses(photos, out, frames=frames, focal=focal, overwrite=overwrite, progress=shown)
    finally:
        shown.close()


def posed(path: Path, display: Display) -> Path:
    """Return the capture of an input; the poses of plain photos and videos are solved first."""
    if not needs_poses(path):
        return path
    capture = default_capture(path)
    solved, reused = solved_poses(path, capture, display, frames=None, focal=None, overwrite=False)
    display.say(f"note: {path} has no camera poses; they {'were' if reused else 'are'} solved into {capture}")
    for line in describe(solved) if not reused else []:
        display.say(line)
    return capture


def solve_command(
    output: OutputOptions, *, photos: Path, out: Path | None, frames: int | None, focal: float | None, overwrite: bool
) -> Ending:
    """Run ``unrender poses``."""
    display = display_of(output)
    capture = out or default_capture(photos)
    solved, reused = solved_poses(photos, capture, display, frames=frames, focal=focal, overwrite=overwrite)
    for line in describe(solved):
        display.say(line)
    display.say(f"{capture} {'was complete already' if reused else 'is complete'}; next: unrender fit neus {capture}")
    results = {
        "capture": str(capture),
        "grade": solved.verdict.grade,
        "verdict": solved.verdict.sentence,
        "registered": solved.registered,
        "total": solved.total,
        "mean_reprojection_error": solved.mean_error,
        "focal": solved.focal,
        "notes": list(solved.notes),
        "missing": [asdict(photo) for photo in solved.missing],
    }
    return Ending(0, results)

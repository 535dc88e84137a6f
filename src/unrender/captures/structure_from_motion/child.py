"""Runs the child process that calls pycolmap, stage by stage, and remembers which stages are done."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unrender.captures.errors import CaptureError
from unrender.captures.structure_from_motion.frames import Progress
from unrender.captures.structure_from_motion.gathering import Photo
from unrender.files.atomic import write_json

SOLVER = Path(__file__).with_name("solver.py")

_POLL = 0.3
"""Seconds between looks at the progress of the child."""


class Stages:
    """The stages of a solution; those that a former process has finished are skipped."""

    def __init__(self, folder: Path, fingerprint: str, progress: Progress) -> None:
        """Go on in a folder of intermediate results, or begin.

        Args:
            folder: of intermediate results.
            fingerprint: of the input; results of another one are not used.
            progress: shows how far the stages are.
        """
        self.folder = folder
        self.progress = progress
        self.photos: list[Photo] = []
        self.broken: dict[str, str] = {}
        self._fingerprint = fingerprint
        self._done: list[str] = []
        with contextlib.suppress(OSError, ValueError, TypeError):  # none, or of another version: begin
            known, photos, broken, done = json.loads(self._file.read_text(encoding="utf-8"))
            if known == fingerprint:
                self.photos = [Photo(**photo) for photo in photos]
                self.broken, self._done = broken, done

    @property
    def _file(self) -> Path:
        return self.folder / "state.json"

    def save(self) -> None:
        """Remember the photos and the finished stages."""
        photos = [dataclasses.asdict(photo) for photo in self.photos]
        write_json(self._file, [self._fingerprint, photos, self.broken, self._done])

    def run(self, stage: str, title: str, task: str, job: Mapping[str, Any], done: Callable[[], int], total: int) -> None:
        """Run a stage in the child process, unless it is done.

        Args:
            stage: its name, which no other stage has.
            title: what it does, for people.
            task: the function of :mod:`~unrender.captures.structure_from_motion.solver`.
            job: its arguments.
            done: tells how many of its steps are done.
            total: number of its steps.

        Raises:
            CaptureError: the child failed.
        """
        if stage in self._done:
            return
        job_file, log_file = self.folder / f"{stage}.json", self.folder / "log.txt"
        write_json(job_file, [task, job])
        with log_file.open("ab") as log:
            process = subprocess.Popen([sys.executable, str(SOLVER), str(job_file)], stdin=subprocess.PIPE, stdout=log, stderr=log)
            try:
                while process.poll() is None:
                    with contextlib.suppress(sqlite3.Error, OSError, ValueError):  # nothing is written yet, or the child is writing
                        self.progress(title, min(done(), total), total)
                    time.sleep(_POLL)
            finally:
                process.kill()
                process.communicate()
        if process.returncode != 0:
            lines = log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            why = lines[-1] if lines and process.returncode > 0 else f"signal {-process.returncode}; is there enough memory?"
            raise CaptureError(f"{title} failed ({why}); {log_file} has the whole message, and the same command tries again")
        self._done.append(stage)
        self.save()


def rows_in(database: Path, table: str) -> Callable[[], int]:
    """Return a function that counts the rows of a table which the child fills."""

    def count() -> int:
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=0.1)) as connection:
            return int(connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])

    return count


def number_in(file: Path) -> Callable[[], int]:
    """Return a function that reads the number which the child writes into a file."""
    return lambda: int(file.read_text(encoding="utf-8"))

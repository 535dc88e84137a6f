"""What a user sees while a fit runs: one bar on a terminal, a plain line now and then in a log file."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from unrender.recipes.fitting import Progress

PLAIN_LINE_EVERY = 10.0
"""Seconds between lines where output does not go to a terminal."""


def duration(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes.

    >>> duration(75.4), duration(3720.0)
    ('1:15', '1 h 02 min')
    """
    whole = int(seconds)
    return f"{whole // 60}:{whole % 60:02d}" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def thousands(number: float) -> str:
    """A rate with a unit prefix.

    >>> thousands(523.0), thousands(48_210.0), thousands(1_240_000.0)
    ('523', '48.2 k', '1.24 M')
    """
    if number < 1e3:
        return f"{number:.0f}"
    return f"{number / 1e3:.1f} k" if number < 1e6 else f"{number / 1e6:.2f} M"


class Display:
    """Prints sentences, and follows a fit between ``with display:`` and its end."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._last: Progress | None = None
        self._rate = 0.0
        self._last_line = time.monotonic()

    @classmethod
    def quiet(cls) -> Display:
        """Shows nothing; for use from Python."""
        return cls(Console(quiet=True))

    def say(self, sentence: str) -> None:
        """One line, wrapped by the terminal alone so that paths can be copied."""
        self.console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> Display:
        if self.console.is_terminal and not self.console.quiet:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[state]}"))
            self._bar = Bar(*columns, console=self.console)
            self._task = self._bar.add_task("fit", total=1.0, state="preparing (the first run on a machine compiles its kernels)")
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def follow(self, progress: Progress) -> None:
        """Shows a new state of the running fit."""
        self._measure(progress)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=progress.fraction, state=self._state(progress))
        elif time.monotonic() - self._last_line >= PLAIN_LINE_EVERY or progress.fraction >= 1.0:
            self._last_line = time.monotonic()
            self.say(self._state(progress))

    def _measure(self, progress: Progress) -> None:
        """Samples per second of training, smoothed over a few reports."""
        if self._last is not None and progress.seconds > self._last.seconds:
            rate = (progress.step - self._last.step) * progress.counts.get("samples", 1) / (progress.seconds - self._last.seconds)
            self._rate = rate if self._rate == 0.0 else 0.8 * self._rate + 0.2 * rate
        self._last = progress

    def _state(self, progress: Progress) -> str:
        left = progress.seconds * (1.0 - progress.fraction) / progress.fraction if progress.fraction > 0.0 else None
        eta = "-:--" if left is None else duration(left)
        psnr = "" if progress.psnr is None else f"PSNR {progress.psnr:.2f} dB  "
        unit = "samples" if "samples" in progress.counts else "steps"
        return (
            f"{100.0 * progress.fraction:3.0f} %  {duration(progress.seconds)} done, {eta} to go  step {progress.step}  "
            f"{psnr}{thousands(self._rate)} {unit}/s"
        )

"""Progress of a running fit: a bar on a terminal, occasional lines in a log file."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from unrender.recipes.fitting import Progress

PLAIN_LINE_EVERY = 10.0
"""Seconds between lines if the output is not a terminal."""


def duration(seconds: float) -> str:
    """Format a time as minutes and seconds, or hours and minutes.

    >>> duration(75.4), duration(3720.0)
    ('1:15', '1 h 02 min')
    """
    whole = int(seconds)
    return f"{whole // 60}:{whole % 60:02d}" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def thousands(number: float) -> str:
    """Format a rate with a unit prefix.

    >>> thousands(523.0), thousands(48_210.0), thousands(1_240_000.0)
    ('523', '48.2 k', '1.24 M')
    """
    if number < 1e3:
        return f"{number:.0f}"
    return f"{number / 1e3:.1f} k" if number < 1e6 else f"{number / 1e6:.2f} M"


class Rate:
    """Speed of a fit, smoothed over a few reports: in samples per second if the recipe counts samples, else in steps."""

    def __init__(self) -> None:
        self._last: Progress | None = None
        self._unit = "steps"
        self._value: float | None = None

    def update(self, progress: Progress) -> None:
        """Update the rate with one more report."""
        unit = "samples" if "samples" in progress.counts else "steps"
        if unit != self._unit:  # a new phase counts something else
            self._unit, self._value = unit, None
        last, self._last = self._last, progress
        if last is None or progress.seconds <= last.seconds:
            return
        now = (progress.step - last.step) * progress.counts.get("samples", 1) / (progress.seconds - last.seconds)
        self._value = now if self._value is None else 0.8 * self._value + 0.2 * now

    def __str__(self) -> str:
        return f"{thousands(self._value or 0.0)} {self._unit}/s"


class Display:
    """Prints sentences, and shows a fit that runs within ``with display:``."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._rate = Rate()
        self._last_line = time.monotonic()

    @classmethod
    def quiet(cls) -> Display:
        """Return a display that shows nothing, for use from Python."""
        return cls(Console(quiet=True))

    def say(self, sentence: str) -> None:
        """Print one line; only the terminal wraps it, so paths can be copied."""
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
        """Show a new state of the running fit."""
        self._rate.update(progress)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=progress.fraction, state=status_line(progress, self._rate))
        elif time.monotonic() - self._last_line >= PLAIN_LINE_EVERY or progress.fraction >= 1.0:
            self._last_line = time.monotonic()
            self.say(status_line(progress, self._rate))


def status_line(progress: Progress, rate: Rate) -> str:
    """Format a report of a running fit as one line."""
    left = progress.seconds * (1.0 - progress.fraction) / progress.fraction if progress.fraction > 0.0 else None
    parts = [
        f"{100.0 * progress.fraction:3.0f} %",
        f"{duration(progress.seconds)} done, {'-:--' if left is None else duration(left)} to go",
        progress.phase,
        f"step {progress.step}",
        "" if progress.psnr is None else f"PSNR {progress.psnr:.2f} dB",
        str(rate),
    ]
    return "  ".join(part for part in parts if part)

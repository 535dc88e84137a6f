"""Progress of long work: a bar on a terminal, a line in a notebook, occasional lines in a log file."""

from __future__ import annotations

import contextlib
import html
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from unrender.recipes.fitting import Progress

T = TypeVar("T")

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


class Line(ABC):
    """A line that shows how far some work is."""

    @abstractmethod
    def show(self, fraction: float | None, state: str) -> None:
        """Show a fraction from 0 to 1, or None if it is unknown, and a text."""

    @abstractmethod
    def close(self) -> None:
        """End the line."""


def bar_width(console: Console) -> int:
    """Return the columns of a bar."""
    return max(8, min(24, console.width // 6))


class TerminalLine(Line):
    """A bar that is redrawn in place and disappears at the end."""

    def __init__(self, console: Console, title: str, state: str) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=bar_width(console)),
            TextColumn("{task.fields[state]}"),
        )
        self._bar = Bar(*columns, console=console, transient=True)
        self._task = self._bar.add_task(title, total=None, state=state)
        self._bar.start()

    def show(self, fraction: float | None, state: str) -> None:
        self._bar.update(self._task, total=None if fraction is None else 1.0, completed=fraction or 0.0, state=state)

    def close(self) -> None:
        self._bar.stop()


class NotebookLine(Line):
    """A line in a notebook that is rewritten in place; it needs no widgets."""

    def __init__(self, title: str, state: str) -> None:
        from IPython.display import display  # pyright: ignore[reportMissingImports]  installed where there is a notebook

        self._title = title
        self._drawn = time.monotonic()
        self._handle = display(self._bundle(None, state), raw=True, display_id=True)

    def _bundle(self, fraction: float | None, state: str) -> dict[str, str]:
        bar = "" if fraction is None else f"<progress value={fraction:.3f} max=1></progress> "
        return {"text/plain": f"{self._title}: {state}", "text/html": f"{bar}{html.escape(self._title)}: {html.escape(state)}"}

    def show(self, fraction: float | None, state: str) -> None:
        if time.monotonic() - self._drawn >= 0.4 or fraction == 1.0:
            self._drawn = time.monotonic()
            self._handle.update(self._bundle(fraction, state), raw=True)

    def close(self) -> None:
        self._handle.update({"text/plain": "", "text/html": ""}, raw=True)


class LogLine(Line):
    """Occasional lines in a file, written by a thread, so work that reports nothing is shown too."""

    def __init__(self, say: Callable[[str], None], title: str, state: str, *, first: float) -> None:
        self._say = say
        self._title = title
        self._state = state
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write, args=(first,), daemon=True)
        self._thread.start()

    def _write(self, first: float) -> None:
        wait, started = first, time.monotonic()
        while not self._ended.wait(wait):
            wait = PLAIN_LINE_EVERY
            self._say(f"{self._title}: {self._state or duration(time.monotonic() - started)}")

    def show(self, fraction: float | None, state: str) -> None:
        self._state = state

    def close(self) -> None:
        self._ended.set()
        self._thread.join()


class Task:
    """A piece of work with a number of equal steps, or of unknown length."""

    def __init__(self, line: Line | None, total: int | None) -> None:
        self._line = line
        self._total = total
        self._done = 0
        self._started = time.monotonic()

    def advance(self, done: int | None = None) -> None:
        """Note that one more step is done, or how many are."""
        self._done = self._done + 1 if done is None else done
        if self._line is not None and self._total:
            fraction = min(self._done / self._total, 1.0)
            seconds = time.monotonic() - self._started
            left = duration(seconds * (1 - fraction) / fraction) if fraction > 0 else "-:--"
            self._line.show(fraction, f"{self._done} of {self._total}, {left} to go")

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """Pass items on, one step for each."""
        for item in items:
            yield item
            self.advance()


class Display:
    """Prints sentences, and shows work in progress: a fit within ``with display:``, anything else within ``display.task``."""

    def __init__(self, console: Console, *, notebook: bool = False) -> None:
        """Prepare to print.

        Args:
            console: where to.
            notebook: show progress in the output of a notebook cell.
        """
        self.console = console
        self._notebook = notebook
        self._line: Line | None = None
        self._rate = Rate()
        self._last_line = time.monotonic()

    @classmethod
    def quiet(cls) -> Display:
        """Return a display that shows nothing."""
        return cls(Console(quiet=True))

    @classmethod
    def in_python(cls, progress: bool | None) -> Display:
        """Return the display of a call from Python.

        Args:
            progress: whether to show anything; None for notebooks and interactive sessions only.
        """
        notebook = _is_notebook()
        if not (notebook or _is_interactive() if progress is None else progress):
            return cls.quiet()
        return cls(Console(stderr=not notebook, force_jupyter=False), notebook=notebook)

    def say(self, sentence: str) -> None:
        """Print one line; only the terminal wraps it, so paths can be copied.

        Characters that the code page lacks are replaced. A pipe that nobody reads ends no fit.
        """
        encoding = self.console.encoding or "utf-8"
        text = sentence.encode(encoding, "replace").decode(encoding)
        with contextlib.suppress(OSError, ValueError, SystemExit):  # rich ends the program at a broken pipe
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _start(self, title: str, state: str, *, first: float) -> Line | None:
        if self.console.quiet:
            return None
        if self._notebook:
            return NotebookLine(title, state)
        return TerminalLine(self.console, title, state) if self.console.is_terminal else LogLine(self.say, title, state, first=first)

    @contextlib.contextmanager
    def task(self, title: str, total: int | None = None) -> Iterator[Task]:
        """Show work in progress until the end of the block.

        Args:
            title: what is done, for example "rendering".
            total: number of steps; None if it is unknown.
        """
        line = self._start(title, "", first=2.0)
        try:
            yield Task(line, total)
        finally:
            if line is not None:
                line.close()

    @contextlib.contextmanager
    def steps(self, title: str, count: int) -> Iterator[Callable[[], None]]:
        """Show work in progress like :meth:`task`, and yield a function to call after each step."""
        with self.task(title, count) as task:
            yield task.advance

    def each(self, title: str, items: Sequence[T]) -> Iterator[T]:
        """Pass items on, and show how many are done."""
        with self.task(title, len(items)) as task:
            yield from task.each(items)

    def __enter__(self) -> Display:
        if self.console.is_terminal or self._notebook:
            self._line = self._start("fit", "preparing (the first run on a machine compiles its kernels)", first=PLAIN_LINE_EVERY)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def follow(self, progress: Progress) -> None:
        """Show a new state of the running fit."""
        self._rate.update(progress)
        if self._line is not None:
            room = self.console.width - bar_width(self.console) - 6
            self._line.show(progress.fraction, status_line(progress, self._rate, room=room))
        elif time.monotonic() - self._last_line >= PLAIN_LINE_EVERY or progress.fraction >= 1.0:
            self._last_line = time.monotonic()
            self.say(status_line(progress, self._rate))


def _is_notebook() -> bool:
    """Tell whether this is a cell of a notebook."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython  # pyright: ignore[reportMissingImports]  it is loaded already

    return type(get_ipython()).__name__ in ("ZMQInteractiveShell", "Shell")  # Jupyter; Colab


def _is_interactive() -> bool:
    """Tell whether somebody types at a prompt of Python."""
    return "ps1" in vars(sys)


def status_line(progress: Progress, rate: Rate, *, room: int = 1000) -> str:
    """Format a report of a running fit as one line, as far as there is room."""
    left = progress.seconds * (1.0 - progress.fraction) / progress.fraction if progress.fraction > 0.0 else None
    parts = [
        f"{100.0 * progress.fraction:3.0f} %",
        f"{duration(progress.seconds)} done, {'-:--' if left is None else duration(left)} to go",
        progress.phase,
        f"step {progress.step}",
        "" if progress.psnr is None else f"PSNR {progress.psnr:.2f} dB",
        str(rate),
    ]
    parts = [part for part in parts if part]
    while len(parts) > 2 and len("  ".join(parts)) > room:
        parts.pop()
    return "  ".join(parts)

"""How much of a fit's budget is used; every schedule follows it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Measures a budget: the larger of steps taken over ``steps`` and seconds used over ``max_seconds``.

    Schedules are functions of :attr:`fraction`, so they stretch to whatever budget is given. A fit in phases shares one clock;
    :meth:`enter` says which part of the budget the present phase has.
    """

    def __init__(self, steps: int, max_seconds: float | None = None) -> None:
        if steps < 1:
            raise ValueError(f"steps is {steps}; a fit needs at least 1")
        if max_seconds is not None and not max_seconds > 0:
            raise ValueError(f"max_seconds is {max_seconds}; give a positive number of seconds")
        self.steps = steps
        self.max_seconds = max_seconds
        self.step = 0
        self._seconds = 0.0
        self._started: float | None = None
        self._begin, self._end = 0.0, 1.0

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        running = 0.0 if self._started is None else time.perf_counter() - self._started
        return self._seconds + running

    @property
    def overall(self) -> float:
        """Share of the whole budget that is used, 0 to 1."""
        by_time = 0.0 if self.max_seconds is None else self.seconds / self.max_seconds
        return min(1.0, max(self.step / self.steps, by_time))

    @property
    def fraction(self) -> float:
        """Share of the present phase's part of the budget that is used, 0 to 1."""
        return min(1.0, max(0.0, (self.overall - self._begin) / (self._end - self._begin)))

    def enter(self, begin: float, end: float) -> None:
        """Begin a phase that has the budget from ``begin`` to ``end``, as shares of the whole.

        Raises:
            ValueError: unless 0 <= begin < end <= 1.
        """
        if not 0 <= begin < end <= 1:
            raise ValueError(f"a phase runs from {begin} to {end} of the budget; it must satisfy 0 <= begin < end <= 1")
        self._begin, self._end = begin, end

    def resume(self, step: int, seconds: float) -> None:
        """Go on from a step and a number of seconds of an earlier process."""
        self.step, self._seconds = step, seconds

    def start(self) -> None:
        """Start counting seconds."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Stop counting seconds."""
        self._seconds = self.seconds
        self._started = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the seconds inside the block, for work between two phases."""
        self.start()
        try:
            yield
        finally:
            self.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the seconds inside the block out."""
        self.stop()
        try:
            yield
        finally:
            self.start()

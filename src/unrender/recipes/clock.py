"""The budget of a fit, in steps and seconds, which every schedule follows."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """The used fraction of a budget: the larger of steps taken over ``steps`` and seconds used over ``max_seconds``.

    Schedules are functions of :attr:`fraction`, so they scale with the budget. The phases of a fit share one clock; :meth:`enter` sets the
    part of the budget that the current phase has.
    """

    def __init__(self, steps: int | None, max_seconds: float | None = None) -> None:
        """Start at zero.

        Raises:
            ValueError: see :func:`check_budget`.
        """
        check_budget(steps, max_seconds)
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
        """Fraction of the whole budget used, 0 to 1."""
        return self.overall_at(self.step, self.seconds)

    def overall_at(self, step: int, seconds: float) -> float:
        """Return the fraction of the whole budget that a number of steps and seconds uses, 0 to 1."""
        by_steps = 0.0 if self.steps is None else step / self.steps
        by_time = 0.0 if self.max_seconds is None else seconds / self.max_seconds
        return min(1.0, max(by_steps, by_time))

    @property
    def ended_by_time(self) -> bool:
        """Whether the seconds of the budget are used up, but not its steps."""
        return self.overall >= 1 and (self.steps is None or self.step < self.steps)

    @property
    def fraction(self) -> float:
        """Fraction of the current phase's budget used, 0 to 1."""
        return min(1.0, max(0.0, (self.overall - self._begin) / (self._end - self._begin)))

    def enter(self, begin: float, end: float) -> None:
        """Begin a phase that uses the budget from ``begin`` to ``end``, as fractions of the whole.

        Raises:
            ValueError: unless 0 <= begin < end <= 1.
        """
        if not 0 <= begin < end <= 1:
            raise ValueError(f"a phase runs from {begin} to {end} of the budget; it must satisfy 0 <= begin < end <= 1")
        self._begin, self._end = begin, end

    def resume(self, step: int, seconds: float) -> None:
        """Resume from the step and seconds of an earlier process."""
        self.step, self._seconds = step, seconds

    def start(self) -> None:
        """Start counting seconds; a running clock continues."""
        if self._started is None:
            self._started = time.perf_counter()

    def stop(self) -> None:
        """Stop counting seconds."""
        self._seconds = self.seconds
        self._started = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the seconds inside the block, for work between two phases; after it the clock is as it was."""
        was_running = self._started is not None
        self.start()
        try:
            yield
        finally:
            if not was_running:
                self.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the seconds inside the block; after it the clock is as it was."""
        was_running = self._started is not None
        self.stop()
        try:
            yield
        finally:
            if was_running:
                self.start()


def check_budget(steps: int | None, max_seconds: float | None) -> None:
    """Check the budget of a fit.

    Args:
        steps: number of steps; None for no limit.
        max_seconds: seconds of training; None for no limit.

    Raises:
        ValueError: there is no limit, or one that is not positive.
    """
    if steps is None and max_seconds is None:
        raise ValueError("steps and max_seconds are both None; a fit needs a budget in steps or in seconds")
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int)):
        raise ValueError(f"steps is {steps!r}; it must be an integer")
    if steps is not None and steps < 1:
        raise ValueError(f"steps is {steps}; a fit needs at least 1")
    if max_seconds is not None and not 0 < max_seconds < math.inf:
        raise ValueError(f"max_seconds is {max_seconds}; give a positive number of seconds")

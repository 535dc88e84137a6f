"""Schedules: functions of the used ``fraction`` of the budget, in [0, 1], which therefore fit any budget."""

from __future__ import annotations


def linear(start: float, end: float, fraction: float, *, over: tuple[float, float] = (0.0, 1.0)) -> float:
    """Interpolate from ``start`` to ``end`` over the interval ``over``; stay constant before and after.

    >>> linear(1.0, 3.0, 0.25, over=(0.0, 0.5))
    2.0
    """
    first, last = over
    if last <= first:
        return end if fraction >= first else start
    share = min(max((fraction - first) / (last - first), 0.0), 1.0)
    return start + (end - start) * share


def warm_up(fraction: float, *, over: float, start: float = 0.01) -> float:
    """Raise a factor from ``start`` to one over the first part of the budget.

    >>> warm_up(0.05, over=0.1, start=0.0)
    0.5
    """
    return 1.0 if over <= 0 else linear(start, 1.0, fraction, over=(0.0, over))


def exponential(end: float, fraction: float, *, after: float = 0.0) -> float:
    """Return one until ``after``, then fall geometrically to ``end`` at the end of the budget.

    >>> exponential(0.01, 0.5)
    0.1
    """
    return float(end ** linear(0.0, 1.0, fraction, over=(after, 1.0)))


def geometric(start: float, end: float, fraction: float) -> float:
    """Interpolate geometrically from ``start`` to ``end`` over the budget.

    >>> round(geometric(100.0, 1.0, 0.5), 6)
    10.0
    """
    return start * exponential(end / start, fraction)


def steps_down(factor: float, fraction: float, *, at: tuple[float, ...]) -> float:
    """Start at one and multiply by ``factor`` at each milestone.

    >>> steps_down(0.5, 0.8, at=(0.5, 0.75, 0.9))
    0.25
    """
    return float(factor ** sum(fraction >= milestone for milestone in at))


Ramp = float | tuple[float, float, float, float]
"""A weight: a constant, or (value before, value after, start, end), linear between the fractions ``start`` and ``end``."""


def ramp(weight: Ramp, fraction: float) -> float:
    """Return the value of a weight at this fraction of the budget.

    >>> ramp(0.1, 0.7), ramp((0.0, 1.0, 0.0, 0.5), 0.25)
    (0.1, 0.5)
    """
    if isinstance(weight, tuple):
        before, after, first, last = weight
        return linear(before, after, fraction, over=(first, last))
    return weight

"""Measuring: warmed up, in turn with a peer in one process, with medians and their spread.

A ratio of two times measured in turn survives a busy machine; a time measured alone does not. Published numbers come from ``compare``;
``measure`` is for work without a peer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    """The work with its size: "hash encoding 16 x 2, 2^19 entries, 131k points, forward"."""
    ours: float
    """Seconds, median."""
    peer: float | None
    """Seconds, median; None without a peer."""
    peer_name: str
    items: int
    """Points, samples, rays or steps of one call."""
    spread: float
    """(largest - smallest) / median of our times. Above 0.3 the machine was busy, and the row says little."""

    @property
    def ratio(self) -> float | None:
        """How many times faster than the peer."""
        return None if self.peer is None else self.peer / self.ours

    @property
    def ours_rate(self) -> float:
        """Items per second."""
        return self.items / self.ours

    @property
    def peer_rate(self) -> float | None:
        """Items per second of the peer."""
        return None if self.peer is None else self.items / self.peer


Clock = Callable[[], float]


def timed(work: Work, clock: Clock = time.perf_counter) -> float:
    """Return the seconds that one call takes until the device has finished."""
    _finish()
    started = clock()
    work()
    _finish()
    return clock() - started


def _finish() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def compare(
    name: str, ours: Work, peer: Work, *, peer_name: str, items: int, repeats: int = 7, warm_ups: int = 2, clock: Clock = time.perf_counter
) -> Row:
    """Time both in turn, ``repeats`` times each, after ``warm_ups`` calls that do not count.

    With ``clock=time.process_time`` seconds are those of the processor, of all threads together, which other processes hardly change.
    """
    for _ in range(warm_ups):
        ours()
        peer()
    ours_times, peer_times = [], []
    for _ in range(repeats):
        ours_times.append(timed(ours, clock))
        peer_times.append(timed(peer, clock))
    return Row(name, statistics.median(ours_times), statistics.median(peer_times), peer_name, items, _spread(ours_times))


def measure(name: str, work: Work, *, items: int, repeats: int = 7, warm_ups: int = 2) -> Row:
    """Time work that has no peer."""
    for _ in range(warm_ups):
        work()
    times = [timed(work) for _ in range(repeats)]
    return Row(name, statistics.median(times), None, "", items, _spread(times))


def _spread(times: Sequence[float]) -> float:
    return (max(times) - min(times)) / statistics.median(times)

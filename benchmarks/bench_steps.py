"""Steps of the recipes on all threads against one, in every phase, and the share of a step that one thread takes alone."""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from harness import Row

from unrender.captures.capture import Capture
from unrender.demo import make_demo_capture
from unrender.ops.kernels import launch
from unrender.recipes import nerf, neus
from unrender.recipes.fitting import Progress
from unrender.recipes.settings import with_budget

_PREDICTED = 8
"""Number of threads for which the time of a step is predicted."""


@dataclass(frozen=True)
class _Reading:
    """The clocks at a report of a fit."""

    step: int
    seconds: float
    processor: float
    """Seconds of processor time of all threads."""
    serial: float
    """Seconds of processor time of the main thread outside of kernels."""


@dataclass(frozen=True)
class _Step:
    """The mean of some steps."""

    seconds: float
    serial_share: float
    """Share of all processor time that the main thread spends outside of kernels."""


def rows(quick: bool) -> list[Row]:
    """Fit the same capture on all threads and on one, in turn.

    With the times T₁ of a step on one thread and its serial share s, Amdahl's law predicts T₈ = T₁ (s + (1 - s) / 8). The share is one of
    processor time, which other processes on the machine change little.
    """
    threads, capture = torch.get_num_threads(), make_demo_capture(views=24, size=160)
    if threads == 1 or torch.get_default_device().type != "cpu":
        return []
    found: dict[tuple[str, str, int], list[_Step]] = defaultdict(list)
    for _ in range(1 if quick else 2):
        for count in (threads, 1):
            torch.set_num_threads(count)
            for recipe in ("nerf", "neus"):
                for phase, step in _steps(recipe, capture, 60 if quick else 160):
                    found[recipe, phase, count].append(step)
    torch.set_num_threads(threads)
    return [_row(recipe, phase, found, threads) for recipe, phase, count in found if count == threads]


def _row(recipe: str, phase: str, found: dict[tuple[str, str, int], list[_Step]], threads: int) -> Row:
    ours = [step.seconds for step in found[recipe, phase, threads]]
    together, one = statistics.median(ours), statistics.median(step.seconds for step in found[recipe, phase, 1])
    serial = statistics.median(step.serial_share for step in found[recipe, phase, threads])
    predicted = one * (serial + (1 - serial) / _PREDICTED)
    return Row(
        name=f"`{recipe}` recipe, a step{f' of the {phase}' if phase else ''} on {threads} threads",
        ours=together,
        peer=one,
        peer_name=f"one thread; serial share {100 * serial:.0f} %, {_PREDICTED} threads predicted {1000 * predicted:.0f} ms",
        items=1,
        spread=(max(ours) - min(ours)) / together,
    )


def _steps(recipe: str, capture: Capture, steps: int) -> list[tuple[str, _Step]]:
    """Return the phase and the mean step between two reports, from the second half of each phase."""
    seen: dict[str, list[_Reading]] = defaultdict(list)
    with _time_in_kernels() as in_kernels:

        def observer(progress: Progress) -> None:
            serial = time.thread_time() - in_kernels()
            seen[progress.phase].append(_Reading(progress.step, progress.seconds, time.process_time(), serial))

        device = torch.device("cpu")
        if recipe == "nerf":
            nerf.fit(capture, with_budget(nerf.PRESETS["cpu"], steps=steps), device=device, seed=0, observer=observer)
        else:
            neus.fit(capture, with_budget(neus.PRESETS["cpu"], steps=steps), device=device, seed=0, observer=observer)
    return [
        (phase, _Step((b.seconds - a.seconds) / (b.step - a.step), (b.serial - a.serial) / (b.processor - a.processor)))
        for phase, readings in seen.items()
        for a, b in pairwise(readings[len(readings) // 2 :])
        if b.step > a.step
    ]


@contextmanager
def _time_in_kernels() -> Iterator[Callable[[], float]]:
    """Measure, inside the block, the seconds of processor time that the calling thread spends in kernels."""
    run, caller, total = launch.run_in_threads, threading.get_ident(), [0.0]

    def timed(work: Callable[[int], None], chunks: int, threads: int) -> None:
        def counted(k: int) -> None:
            started = time.thread_time()
            work(k)
            if threading.get_ident() == caller:
                total[0] += time.thread_time() - started

        run(counted, chunks, threads)

    launch.run_in_threads = timed
    try:
        yield lambda: total[0]
    finally:
        launch.run_in_threads = run

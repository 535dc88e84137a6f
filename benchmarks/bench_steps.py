"""Steps of the recipes on all threads against one, in every phase, and the share of a step that one thread takes alone."""

from __future__ import annotations

import statistics
from collections import defaultdict
from itertools import pairwise

import torch
from harness import Row

from unrender.captures.capture import Capture
from unrender.demo import make_demo_capture
from unrender.recipes import nerf, neus
from unrender.recipes.fitting import Progress
from unrender.recipes.settings import with_budget

_PREDICTED = 8
"""Number of threads for which the time of a step is predicted."""


def rows(quick: bool) -> list[Row]:
    """Fit the same capture on all threads and on one, in turn.

    With the times T₁ and Tₙ of a step, the serial share is s = (n Tₙ / T₁ - 1) / (n - 1) by Amdahl's law, and T₈ = T₁ (s + (1 - s) / 8).
    """
    threads, capture = torch.get_num_threads(), make_demo_capture(views=24, size=160)
    if threads == 1 or torch.get_default_device().type != "cpu":
        return []
    times: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for _ in range(1 if quick else 2):
        for count in (threads, 1):
            torch.set_num_threads(count)
            for recipe in ("nerf", "neus"):
                for phase, step in _steps(recipe, capture, 60 if quick else 160):
                    times[recipe, phase, count].append(step)
    torch.set_num_threads(threads)
    return [_row(recipe, phase, times, threads) for recipe, phase, count in times if count == threads]


def _row(recipe: str, phase: str, times: dict[tuple[str, str, int], list[float]], threads: int) -> Row:
    ours, alone = times[recipe, phase, threads], times[recipe, phase, 1]
    together, one = statistics.median(ours), statistics.median(alone)
    serial = min(1.0, max(0.0, (threads * together / one - 1) / (threads - 1)))
    predicted = one * (serial + (1 - serial) / _PREDICTED)
    return Row(
        name=f"`{recipe}` recipe, a step{f' of the {phase}' if phase else ''} on {threads} threads",
        ours=together,
        peer=one,
        peer_name=f"one thread; serial share {100 * serial:.0f} %, {_PREDICTED} threads predicted {1000 * predicted:.0f} ms",
        items=1,
        spread=(max(ours) - min(ours)) / together,
    )


def _steps(recipe: str, capture: Capture, steps: int) -> list[tuple[str, float]]:
    """Return the phase and the seconds of a step between two reports, from the second half of each phase."""
    seen: dict[str, list[Progress]] = defaultdict(list)

    def observer(progress: Progress) -> None:
        seen[progress.phase].append(progress)

    if recipe == "nerf":
        nerf.fit(capture, with_budget(nerf.PRESETS["cpu"], steps=steps), device=torch.device("cpu"), seed=0, observer=observer)
    else:
        neus.fit(capture, with_budget(neus.PRESETS["cpu"], steps=steps), device=torch.device("cpu"), seed=0, observer=observer)
    found = []
    for phase, reports in seen.items():
        late = reports[len(reports) // 2 :]
        found += [(phase, (b.seconds - a.seconds) / (b.step - a.step)) for a, b in pairwise(late) if b.step > a.step]
    return found

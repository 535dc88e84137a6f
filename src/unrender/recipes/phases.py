"""A fit in several phases: a radiance field before a surface, an isosurface before textures.

A fit lists its phases with their shares of the budget. All phases share one clock, snapshots record their phase, and skipped steps are
summed here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unrender.recipes.clock import Clock
from unrender.recipes.fitting import FitResult, Observer, Progress

_KEY = "phase"
"""Snapshot entry with the number of the phase and the steps skipped before it."""


@dataclass(frozen=True)
class PhaseStart:
    """The state in which a phase begins."""

    clock: Clock
    """Clock of the whole fit; its ``fraction`` is that of this phase."""
    resume: Mapping[str, Tensor] | None
    """A snapshot taken in this phase, or None for a fresh start."""
    observer: Observer | None
    previous: FitResult | None
    """Result of the previous phase; None for the first phase, and for a phase that resumes."""


@dataclass(frozen=True)
class Phase:
    """One part of a fit."""

    name: str
    share: float
    """Share of the budget; a phase with share 0 is skipped."""
    fit: Callable[[PhaseStart], FitResult]


def fit_in_phases(
    phases: Sequence[Phase],
    clock: Clock,
    *,
    resume: Mapping[str, Tensor] | None = None,
    observer: Observer | None = None,
) -> FitResult:
    """Run phases one after the other as one fit.

    A phase that is interrupted or diverges is the last one. The result has the scene of the last phase that ran.

    Args:
        phases: in order; their shares sum to one.
        clock: the budget of all phases together.
        resume: a snapshot of an interrupted fit; phases before its own are not run again.
        observer: called with the progress of the whole fit.

    Raises:
        ValueError: when shares are negative or do not sum to one.
    """
    total = sum(phase.share for phase in phases)
    if abs(total - 1) > 1e-6 or any(phase.share < 0 for phase in phases):
        raise ValueError(f"the shares of the phases are {[phase.share for phase in phases]}; they must be 0 or more and sum to 1")
    first = 0 if resume is None else phase_of(resume)
    skipped = 0 if resume is None else int(resume[_KEY][1])
    history: tuple[Progress, ...] = ()
    previous: FitResult | None = None
    begin = sum((phase.share for phase in phases[:first]), 0.0)
    for number in range(first, len(phases)):
        phase = phases[number]
        if phase.share == 0:
            continue
        is_last = not any(later.share for later in phases[number + 1 :])
        end = 1.0 if is_last else min(1.0, begin + phase.share)  # the shares may sum to slightly less than one
        clock.enter(begin, end)
        watching = None if observer is None else _named(observer, phase.name, number, skipped)
        previous = phase.fit(PhaseStart(clock, resume if number == first else None, watching, previous))
        history += tuple(_named_progress(progress, phase.name, number, skipped) for progress in previous.history)
        skipped += previous.skipped_steps
        if previous.outcome in ("interrupted", "diverged"):
            break
        begin = end
    assert previous is not None
    return replace(previous, steps=clock.step, seconds=clock.seconds, skipped_steps=skipped, history=history)


def phase_of(tensors: Mapping[str, Tensor]) -> int:
    """Return the number of the phase in which a snapshot was taken."""
    return int(tensors[_KEY][0])


def _named(observer: Observer, name: str, number: int, skipped: int) -> Observer:
    return lambda progress: observer(_named_progress(progress, name, number, skipped))


def _named_progress(progress: Progress, name: str, number: int, skipped: int) -> Progress:
    """Return progress that names its phase, with snapshots that record it."""

    def snapshot() -> dict[str, Tensor]:
        return progress.snapshot() | {_KEY: torch.tensor([number, skipped])}

    return dataclasses.replace(progress, phase=name, snapshot=snapshot)

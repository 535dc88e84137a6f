"""A fit in several phases: a radiance field before a surface, an isosurface before textures.

A fit lists its phases with their shares of the budget. All phases share one clock, snapshots record their phase, and skipped steps are
summed here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unrender.recipes.clock import Clock
from unrender.recipes.fitting import FitResult, Observer, Progress, clock_of
from unrender.render.scene import Scene

_KEY = "phase"
"""Snapshot entry: the number of the phase, the steps skipped before it, the fraction of the budget and the step at which it began, and the
fraction at which it ends; then the fraction of the snapshot."""

_LATE = 0.6
"""Share of the budget after which a phase that goes on takes all that is left."""


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
    first_step: int = 0
    """The step at which the phase began, in this process or an earlier one."""


@dataclass(frozen=True)
class Phase:
    """One part of a fit."""

    name: str
    share: float
    """Share of the budget; a phase with share 0 is skipped."""
    fit: Callable[[PhaseStart], FitResult]
    missing: Callable[[Scene], str | None] | None = None
    """A sentence on what its scene lacks for the next phase; None if nothing. While something is missing, the phase goes on: for half of
    the remaining budget, at last for all of it."""


def fit_in_phases(
    phases: Sequence[Phase],
    clock: Clock,
    *,
    resume: Mapping[str, Tensor] | None = None,
    observer: Observer | None = None,
) -> FitResult:
    """Run phases one after the other as one fit.

    A phase that is interrupted or diverges is the last one, and so is one that is not ready before the budget is used. The result has the
    scene of the last phase that ran.

    A fit may go on with a larger budget than it began with. A later phase that began at half of the old budget then begins where the fit
    is in the new one, if that is earlier.

    Args:
        phases: in order; their shares sum to one.
        clock: the budget of all phases together.
        resume: a snapshot of an earlier fit; phases before its own are not run again.
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
    begin = 0.0 if resume is None else _begin_of(resume, sum((phase.share for phase in phases[:first]), 0.0), clock)
    for number in range(first, len(phases)):
        phase = phases[number]
        if phase.share == 0:
            continue
        is_last = not any(later.share for later in phases[number + 1 :])
        snapshot = resume if number == first else None
        first_step = clock.step if snapshot is None else _first_step_of(snapshot)
        end = 1.0 if is_last else min(1.0, begin + phase.share)  # the shares may sum to slightly less than one
        end = end if snapshot is None else max(end, _end_of(snapshot, clock))
        while True:
            clock.enter(begin, end)
            state = torch.tensor([number, skipped, begin, first_step, end], dtype=torch.float64)
            watching = None if observer is None else _named(observer, phase.name, state)
            result = phase.fit(PhaseStart(clock, snapshot, watching, previous, first_step))
            history += tuple(_named_progress(progress, phase.name, state) for progress in result.history)
            failed = result.outcome in ("interrupted", "diverged")
            with clock.running():
                missing = None if failed or phase.missing is None else phase.missing(result.scene)
            if missing is None or end >= 1:
                break
            snapshot = history[-1].snapshot() if result.history else snapshot
            end = 0.5 * (end + 1) if end <= _LATE else 1.0
        skipped += result.skipped_steps
        previous = result if missing is None else replace(result, remarks=(*result.remarks, missing))
        if failed or end >= 1:
            break
        begin = end
    assert previous is not None
    return replace(previous, steps=clock.step, seconds=clock.seconds, skipped_steps=skipped, history=history)


def phase_of(tensors: Mapping[str, Tensor]) -> int:
    """Return the number of the phase in which a snapshot was taken."""
    return int(tensors[_KEY][0])


def _begin_of(tensors: Mapping[str, Tensor], share_before: float, clock: Clock) -> float:
    """Return the fraction of the budget at which the phase of a snapshot began, under the budget of ``clock``."""
    began = tensors[_KEY].tolist()[2:3]  # absent from snapshots of earlier versions
    return min(began[0] if began else share_before, clock.overall_at(*clock_of(tensors)))


def _first_step_of(tensors: Mapping[str, Tensor]) -> int:
    """Return the step at which the phase of a snapshot began; 0 for snapshots of earlier versions."""
    return int(sum(tensors[_KEY].tolist()[3:4]))


def _end_of(tensors: Mapping[str, Tensor], clock: Clock) -> float:
    """Return the fraction of the budget at which the phase of a snapshot was to end; 0 under another budget."""
    end, fraction = (tensors[_KEY].tolist()[4:6] + [0.0, 0.0])[:2]  # absent from snapshots of earlier versions
    return end if math.isclose(fraction, clock.overall_at(*clock_of(tensors)), rel_tol=1e-6) else 0.0


def _named(observer: Observer, name: str, state: Tensor) -> Observer:
    return lambda progress: observer(_named_progress(progress, name, state))


def _named_progress(progress: Progress, name: str, state: Tensor) -> Progress:
    """Return progress that names its phase, with snapshots that record its state."""

    def snapshot() -> dict[str, Tensor]:
        return progress.snapshot() | {_KEY: torch.cat([state, state.new_tensor([progress.fraction])])}

    return dataclasses.replace(progress, phase=name, snapshot=snapshot)

"""A fit in phases has one clock, one history, one count of skipped steps and one outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from tiny_recipe import TinyScene
from unrender.recipes.clock import Clock
from unrender.recipes.fitting import FitResult, Fitting, Outcome, Progress
from unrender.recipes.phases import Phase, PhaseStart, fit_in_phases, phase_of
from unrender.render.scene import Scene
from unrender.runs.checkpoints import same_tensors
from unrender.runs.directory import HistoryLine
from unrender.runs.session import remarks_about_phases

IDENTITY = torch.eye(4, dtype=torch.float64)


def ended(outcome: Outcome, *, skipped: int, reports: int, clock: Clock) -> FitResult:
    """What a phase returns."""
    scene = TinyScene()
    history = tuple(Progress(k + 1, 0.1, 1.0, None, {}, {}, dict, scene) for k in range(reports))
    return FitResult(scene, outcome, clock.step, clock.seconds, skipped, history, IDENTITY)


@pytest.mark.parametrize("outcome", ["diverged", "interrupted"])
def test_a_first_phase_that_fails_is_the_last_one_and_is_reported_as_it_was(outcome: Outcome) -> None:
    clock = Clock(100)

    def first(start: PhaseStart) -> FitResult:
        clock.step = 9
        return ended(outcome, skipped=7, reports=1, clock=start.clock)

    result = fit_in_phases((Phase("first", 0.5, first), Phase("second", 0.5, never)), clock)
    assert (result.outcome, result.skipped_steps, len(result.history), result.steps) == (outcome, 7, 1, 9)
    assert result.history[0].phase == "first"


def never(start: PhaseStart) -> FitResult:
    pytest.fail("this phase does not run")


class Fade:
    """A phase that pulls the color halfway to a target in every step; the loss of the first step is NaN."""

    def __init__(self, target: float, calls: list[str], name: str) -> None:
        self.target, self.calls, self.name = target, calls, name

    def __call__(self, start: PhaseStart) -> FitResult:
        self.calls.append(self.name)
        scene = TinyScene()
        if start.previous is not None:
            scene.load_state_dict(start.previous.scene.state_dict())
        fitting = Fitting(scene, torch.optim.SGD(scene.parameters(), lr=0.5), start.clock, start.observer, report_every=0.0)
        if start.resume is not None:
            fitting.restore(start.resume)
        first = start.clock.step if start.resume is None else -1
        for step in fitting:
            error = 0.5 * ((scene.color - self.target) ** 2).sum()
            fitting.take_step({"color": error * float("nan") if step == first else error})
        return fitting.result(IDENTITY)


def run(calls: list[str], *, resume: Mapping[str, Tensor] | None = None, observer: Callable[[Progress], None] | None = None) -> FitResult:
    phases = (Phase("dark", 0.25, Fade(0.0, calls, "dark")), Phase("bright", 0.75, Fade(1.0, calls, "bright")))
    return fit_in_phases(phases, Clock(8), resume=resume, observer=observer)


def test_phases_share_the_budget_and_their_sums() -> None:
    calls: list[str] = []
    result = run(calls)
    assert calls == ["dark", "bright"]
    assert (result.outcome, result.steps, result.skipped_steps) == ("finished", 8, 2)
    assert [progress.phase for progress in result.history] == ["dark"] * 2 + ["bright"] * 6
    assert [progress.step for progress in result.history] == list(range(1, 9))


@pytest.mark.parametrize(("stop_at", "again"), [(1, ["dark", "bright"]), (5, ["bright"])])
def test_an_interrupted_phase_resumes_where_it_was_with_its_sums(stop_at: int, again: list[str]) -> None:
    kept: list[dict[str, Tensor]] = []

    def stop(progress: Progress) -> None:
        if progress.step == stop_at:
            kept.append(progress.snapshot())
            raise KeyboardInterrupt

    whole = run([])
    part = run([], observer=stop)
    assert (part.outcome, part.steps) == ("interrupted", stop_at)
    assert phase_of(kept[0]) == (0 if stop_at == 1 else 1)
    calls: list[str] = []
    resumed = run(calls, resume=kept[0])
    assert calls == again
    assert (resumed.outcome, resumed.steps, resumed.skipped_steps) == (whole.outcome, 8, whole.skipped_steps)
    assert same_tensors(whole.scene.state_dict(), resumed.scene.state_dict())


@pytest.mark.parametrize("steps", [8, 16, 80])
def test_a_phase_that_resumes_knows_where_it_began_also_in_a_larger_budget(steps: int) -> None:
    """It began at step 2 of 8, a quarter. Step 5 is 5/16 of a larger budget, within the phase; 5/80 would be within the first phase."""
    kept: list[dict[str, Tensor]] = []
    run([], observer=lambda progress: kept.append(progress.snapshot()) if progress.step == 5 else None)
    seen: list[tuple[int, float]] = []

    def note(start: PhaseStart) -> FitResult:
        assert start.resume is not None
        start.clock.resume(5, 0.0)
        seen.append((start.first_step, start.clock.fraction))
        start.clock.step = steps
        return ended("finished", skipped=0, reports=0, clock=start.clock)

    fit_in_phases((Phase("dark", 0.25, never), Phase("bright", 0.75, note)), Clock(steps), resume=kept[0])
    begin = min(0.25, 5 / steps)
    assert seen == [(2, pytest.approx((5 / steps - begin) / (1 - begin)))]


def test_a_phase_without_budget_left_reports_its_scene_once() -> None:
    """Otherwise the last snapshot would be of another scene than the result."""

    def greedy(start: PhaseStart) -> FitResult:
        start.clock.step = 8
        return ended("finished", skipped=0, reports=1, clock=start.clock)

    reports: list[Progress] = []
    phases = (Phase("greedy", 0.25, greedy), Phase("late", 0.75, Fade(1.0, [], "late")))
    result = fit_in_phases(phases, Clock(8), observer=reports.append)
    assert (result.outcome, result.steps) == ("finished", 8)
    assert [(progress.phase, progress.step) for progress in reports] == [("late", 8)]
    assert phase_of(reports[0].snapshot()) == 1 and reports[0].scene is result.scene


def test_a_phase_without_a_share_is_left_out() -> None:
    calls: list[str] = []
    fit_in_phases((Phase("none", 0.0, never), Phase("all", 1.0, Fade(1.0, calls, "all"))), Clock(3))
    assert calls == ["all"]


def test_shares_that_do_not_sum_to_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shares of the phases are \[0.5, 0.4\]"):
        fit_in_phases((Phase("a", 0.5, never), Phase("b", 0.4, never)), Clock(3))


def test_shares_that_sum_to_slightly_less_than_one_use_the_whole_budget() -> None:
    clock, fractions = Clock(10_000_000), []

    def fit(start: PhaseStart) -> FitResult:
        clock.step = 9_999_998
        fractions.append(clock.fraction)
        return ended("finished", skipped=0, reports=0, clock=clock)

    fit_in_phases((Phase("first", 0.5, fit), Phase("second", 0.4999995, fit), Phase("none", 0.0, never)), clock)
    assert fractions[0] == 1.0 and fractions[1] == pytest.approx(1 - 4e-7, abs=1e-9)


@pytest.mark.parametrize(("ended", "is_told"), [(23.1, True), (23.9, True), (24.3, False), (26.0, False)])
def test_a_last_phase_that_fits_the_photos_worse_than_the_one_before_is_told(ended: float, is_told: bool) -> None:
    course = [("radiance field", 20.0), ("radiance field", 24.5), ("surface", 18.0), ("surface", ended), ("surface", None)]
    history = [HistoryLine(step, 0.1, 1.0, psnr, {}, {}, phase) for step, (phase, psnr) in enumerate(course)]
    remarks = remarks_about_phases(history)
    assert len(remarks) == is_told
    if is_told:
        fits = f"the surface fits the photos with {ended:.1f} dB, worse than the radiance field that it began with (24.5 dB)"
        assert remarks[0].startswith(fits) and ("its shape is not reliable" in remarks[0]) == (ended == 23.1)
    assert remarks_about_phases(history[:2]) == remarks_about_phases([]) == []


def run_when_ready(
    ready: Callable[[float], bool],
    calls: list[str],
    *,
    steps: int = 16,
    resume: Mapping[str, Tensor] | None = None,
    observer: Callable[[Progress], None] | None = None,
) -> FitResult:
    """A quarter of the budget for a color that falls to zero, and more while it is not ready; then one that rises to one."""

    def missing(scene: Scene) -> str | None:
        assert isinstance(scene, TinyScene)
        return None if ready(float(scene.color[0].detach())) else "it is not dark yet"

    phases = (Phase("dark", 0.25, Fade(0.0, calls, "dark"), missing), Phase("bright", 0.75, Fade(1.0, calls, "bright")))
    return fit_in_phases(phases, Clock(steps), resume=resume, observer=observer)


@pytest.mark.parametrize(
    ("color", "dark", "calls"),
    [
        (1.0, 4, ["dark", "bright"]),
        (0.3 * 0.5**5, 10, ["dark", "dark", "bright"]),  # half of the remaining budget more
        (0.0, 16, ["dark", "dark", "dark"]),  # never
    ],
)
def test_a_phase_goes_on_until_it_is_ready(color: float, dark: int, calls: list[str]) -> None:
    called: list[str] = []
    result = run_when_ready(lambda seen: seen < color, called)
    assert called == calls
    assert [progress.phase for progress in result.history] == ["dark"] * dark + ["bright"] * (16 - dark)
    assert [progress.step for progress in result.history] == list(range(1, 17))
    assert (result.outcome, result.steps, result.skipped_steps) == ("finished", 16, len(set(calls)))
    assert result.remarks == (("it is not dark yet",) if dark == 16 else ())


@pytest.mark.parametrize("stop_at", [3, 4, 6, 8, 12])
def test_a_phase_that_goes_on_resumes_bit_equal(stop_at: int) -> None:
    kept: list[dict[str, Tensor]] = []

    def is_ready(seen: float) -> bool:
        return seen < 0.3 * 0.5**5

    whole = run_when_ready(is_ready, [], observer=lambda progress: kept.append(progress.snapshot()))
    resumed = run_when_ready(is_ready, [], resume=kept[stop_at - 1])
    assert [progress.phase for progress in resumed.history] == [progress.phase for progress in whole.history[stop_at:]]
    assert same_tensors(whole.scene.state_dict(), resumed.scene.state_dict())
    assert resumed.skipped_steps == whole.skipped_steps == 2


def test_a_larger_budget_gives_a_phase_that_was_never_ready_another_chance() -> None:
    kept: list[dict[str, Tensor]] = []
    run_when_ready(lambda seen: False, [], observer=lambda progress: kept.append(progress.snapshot()))
    calls: list[str] = []
    result = run_when_ready(lambda seen: True, calls, steps=40, resume=kept[-1])
    assert calls == ["dark", "bright"]
    assert [progress.step for progress in result.history if progress.phase == "bright"] == list(range(17, 41))

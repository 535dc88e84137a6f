"""The bookkeeping around a loop works with any optimizer, and with none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from tiny_recipe import TinyScene
from unrender.devices import thread_count
from unrender.ops.encodings import Adam
from unrender.recipes.clock import Clock
from unrender.recipes.fitting import FitResult, Fitting, Progress
from unrender.recipes.state import flatten_state
from unrender.runs.checkpoints import same_tensors

TARGET = torch.tensor([0.6, 0.07, 0.03])
MakeOptimizer = Callable[[TinyScene], Optimizer]


def ours(scene: TinyScene) -> Optimizer:
    return Adam([{"params": [scene.color], "weight_decay": 0.0}], lr=0.05, betas=(0.9, 0.99), eps=1e-15)


def adam(scene: TinyScene) -> Optimizer:
    return torch.optim.Adam(scene.parameters(), lr=0.05)


def rmsprop(scene: TinyScene) -> Optimizer:
    return torch.optim.RMSprop(scene.parameters(), lr=0.05)


def momentum(scene: TinyScene) -> Optimizer:
    return torch.optim.SGD(scene.parameters(), lr=0.3, momentum=0.5)


def lbfgs(scene: TinyScene) -> Optimizer:
    return torch.optim.LBFGS(scene.parameters(), lr=0.5, max_iter=2)


OPTIMIZERS = [ours, adam, rmsprop, momentum, lbfgs]


def run(
    make: MakeOptimizer,
    steps: int = 12,
    *,
    resume: Mapping[str, Tensor] | None = None,
    observer: Callable[[Progress], None] | None = None,
    poisoned: frozenset[int] = frozenset(),
    seen: list[Tensor] | None = None,
) -> tuple[FitResult, dict[str, Tensor]]:
    """Pull a color towards noisy copies of a target; the losses of poisoned steps are NaN."""
    scene, generator = TinyScene(), torch.Generator().manual_seed(1)
    optimizer = make(scene)
    fitting = Fitting(scene, optimizer, Clock(steps), observer, generator=generator, report_every=0.0)
    if resume is not None:
        fitting.restore(resume)
    for step in fitting:
        target = TARGET + 0.01 * torch.randn(3, generator=generator)

        def losses(target: Tensor = target, step: int = step) -> dict[str, Tensor]:
            error = ((scene.color - target) ** 2).mean()
            return {"color": error * float("nan") if step in poisoned else error}

        error = losses()["color"].detach()
        fitting.take_step(losses if isinstance(optimizer, torch.optim.LBFGS) else losses(), error=error)
        if seen is not None:
            seen.append(scene.color.detach().clone())
    return fitting.result(torch.eye(4, dtype=torch.float64)), without_seconds(fitting.snapshot())


def without_seconds(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor[:1] if name == "clock" else tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_any_optimizer_finds_the_color(make: MakeOptimizer) -> None:
    result, _ = run(make, 60)
    assert result.outcome == "finished" and result.steps == 60 and result.skipped_steps == 0
    assert isinstance(result.scene, TinyScene)
    torch.testing.assert_close(result.scene.color.detach(), TARGET, atol=0.03, rtol=0)


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_a_fit_restored_from_a_snapshot_ends_bit_equal(make: MakeOptimizer) -> None:
    kept: list[dict[str, Tensor]] = []

    def stop(progress: Progress) -> None:
        if progress.step == 5:
            kept.append(progress.snapshot())
            raise KeyboardInterrupt

    whole, last = run(make, poisoned=frozenset({2}))
    part, _ = run(make, poisoned=frozenset({2}), observer=stop)
    resumed, resumed_last = run(make, poisoned=frozenset({2}), resume=kept[0])
    assert (part.outcome, part.steps) == ("interrupted", 5)
    assert (resumed.outcome, resumed.steps, resumed.skipped_steps) == ("finished", 12, whole.skipped_steps) and whole.skipped_steps == 1
    assert same_tensors(last, resumed_last)


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(make: MakeOptimizer) -> None:
    seen: list[Tensor] = []
    result, _ = run(make, poisoned=frozenset({3, 7}), seen=seen)
    assert result.skipped_steps == 2 and result.outcome == "finished"
    assert torch.equal(seen[3], seen[2]) and torch.equal(seen[7], seen[6])
    assert not torch.equal(seen[4], seen[3]) and bool(torch.isfinite(seen[-1]).all())
    assert result.history[-1].psnr is not None


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_a_fit_of_nothing_but_nan_diverges(make: MakeOptimizer) -> None:
    result, _ = run(make, 500, poisoned=frozenset(range(500)))
    assert result.outcome == "diverged" and result.skipped_steps == result.steps == 200
    assert isinstance(result.scene, TinyScene) and torch.equal(result.scene.color.detach(), torch.full((3,), 0.3))


def test_a_loop_that_takes_no_step_still_reports() -> None:
    reports: list[Progress] = []
    fitting = Fitting(TinyScene(), None, Clock(4), reports.append, report_every=0.0)
    assert list(fitting) == [0, 1, 2, 3]
    result = fitting.result(torch.eye(4, dtype=torch.float64))
    assert (result.outcome, result.steps, result.skipped_steps) == ("finished", 4, 0)
    assert [(progress.step, progress.psnr, dict(progress.losses), dict(progress.counts)) for progress in reports] == [
        (step, None, {}, {}) for step in (1, 2, 3, 4)
    ]


def test_a_loop_without_an_optimizer_records_and_resumes() -> None:
    def loop(resume: Mapping[str, Tensor] | None = None, stop_at: int = -1) -> tuple[FitResult, dict[str, Tensor]]:
        scene, kept = TinyScene(), {}

        def observe(progress: Progress) -> None:
            kept.update(progress.snapshot())
            if progress.step == stop_at:
                raise KeyboardInterrupt

        fitting = Fitting(scene, None, Clock(6), observe, report_every=0.0)
        if resume is not None:
            fitting.restore(resume)
        for _ in fitting:
            with torch.no_grad():
                scene.color.lerp_(TARGET, 0.5)
            error = ((scene.color.detach() - TARGET) ** 2).mean()
            fitting.record({"color": error}, error=error)
        return fitting.result(torch.eye(4, dtype=torch.float64)), without_seconds(kept)

    whole, last = loop()
    _, snapshot = loop(stop_at=3)
    resumed, resumed_last = loop({**snapshot, "clock": torch.cat([snapshot["clock"], torch.zeros(1, dtype=torch.float64)])})
    assert whole.history[-1].losses["color"] < whole.history[0].losses["color"] and resumed.steps == 6
    assert same_tensors(last, resumed_last)


def test_a_function_of_losses_steps_as_the_losses_do() -> None:
    def once(wrapped: bool) -> tuple[Tensor, int]:
        scene = TinyScene()
        fitting = Fitting(scene, ours(scene), Clock(3))
        for _ in fitting:

            def losses() -> dict[str, Tensor]:
                return {"color": ((scene.color - TARGET) ** 2).sum()}

            fitting.take_step(losses if wrapped else losses())
        return scene.color.detach(), fitting.result(torch.eye(4)).skipped_steps

    (wrapped, skipped), (plain, _) = once(True), once(False)
    assert torch.equal(wrapped, plain) and skipped == 0
    assert not torch.equal(plain, TinyScene().color.detach())


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_an_optimizer_goes_on_with_exchanged_parameters(make: MakeOptimizer) -> None:
    scene = TinyScene()
    fitting = Fitting(scene, make(scene), Clock(60))
    old, left_at = scene.color, torch.zeros(3)
    for step in fitting:
        if step == 2:
            left_at = old.detach().clone()
            scene.color = torch.nn.Parameter(left_at.clone())
            fitting.exchange([old], [scene.color])

        def losses() -> dict[str, Tensor]:
            return {"color": ((scene.color - TARGET) ** 2).mean()}

        fitting.take_step(losses if isinstance(fitting.optimizer, torch.optim.LBFGS) else losses())
    assert torch.equal(old.detach(), left_at)
    torch.testing.assert_close(scene.color.detach(), TARGET, atol=0.03, rtol=0)


def test_a_reported_error_keeps_no_graph_alive() -> None:
    scene = TinyScene()
    fitting = Fitting(scene, adam(scene), Clock(2), report_every=0.0)
    for _ in fitting:
        error = ((scene.color - TARGET) ** 2).mean()
        fitting.take_step({"color": error}, error=error)
    counts = fitting.snapshot()["counts"]
    assert not counts.requires_grad and float(counts[2]) < float(((TinyScene().color.detach() - TARGET) ** 2).mean())


def test_a_clock_is_after_a_block_as_it_was_before(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("unrender.recipes.clock.time.perf_counter", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    clock = Clock(10)
    with clock.paused():  # a clock that stands goes on standing
        wait(1)
    wait(2)
    assert clock.seconds == 0
    with pytest.raises(KeyError), clock.running():
        wait(4)
        with clock.running():
            wait(8)
        wait(16)
        with pytest.raises(KeyError), clock.paused():
            wait(32)
            raise KeyError
        wait(64)
        raise KeyError
    wait(128)
    assert clock.seconds == 4 + 8 + 16 + 64


@pytest.mark.parametrize("error", [None, KeyError])
def test_a_loop_that_is_left_stops_the_clock(error: type[Exception] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("unrender.recipes.clock.time.perf_counter", lambda: now[0])
    clock = Clock(10)

    def loop() -> None:
        for step in Fitting(TinyScene(), None, clock):
            now[0] += 1.0
            if step == 3:
                if error is not None:
                    raise error
                break

    if error is None:
        loop()
    else:
        with contextlib.suppress(error):
            loop()
    now[0] += 100.0
    assert clock.seconds == 3.0  # the first step is off the clock
    assert torch.get_num_threads() == thread_count()


def test_paths_of_a_state_must_differ() -> None:
    with pytest.raises(ValueError, match="two tensors of a state are at part.a.b"):
        flatten_state({"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}}, "part")

"""The parts that every recipe shares: bookkeeping around a training loop, progress reports, and the result.

A recipe is a function ``fit(input, config, ...) -> FitResult`` that contains its training loop. It writes nothing to disk; progress bar and
checkpoints are driven by the ``observer`` callback.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from unrender.captures.capture import Capture
from unrender.devices import keeping_freed_memory, pytorch_on_one_thread
from unrender.geometry.mesh import Mesh
from unrender.ops.encodings import all_finite
from unrender.ops.encodings.adam import SkippingOptimizer
from unrender.recipes.clock import Clock
from unrender.recipes.state import Stateful, flatten_state, unflatten_state
from unrender.render.asset import Asset
from unrender.render.photo_colors import surface_of
from unrender.render.scene import Scene

Outcome = Literal["finished", "time budget reached", "interrupted", "diverged", "empty"]

Frame = Literal["source", "normalized"]
"""Frame of a result: that of the input poses, or the normalized world, whose region of interest is [-1, 1]³."""


@dataclass(frozen=True)
class Progress:
    """The state of a running fit, passed to the observer."""

    step: int
    fraction: float
    """Fraction of the whole budget used, 0 to 1."""
    seconds: float
    """Seconds of training, without evaluation, checkpoints and the first compilation of kernels."""
    psnr: float | None
    """PSNR of the last training batches in dB; None for a recipe that reports no error."""
    losses: Mapping[str, float]
    """Loss terms of the last step by name."""
    counts: Mapping[str, int]
    """Counts of the last step by name, for example rays and samples."""
    snapshot: Callable[[], dict[str, Tensor]]
    """Returns everything needed to resume here: weights, optimizer, registered parts, random state, clock."""
    scene: Scene
    phase: str = ""
    """Name of the running phase; empty for a recipe with one phase."""
    held_out_psnr: float | None = None
    """PSNR of what is held out, when it was last measured, in dB; None for a recipe that does not measure it while it fits."""

    def __repr__(self) -> str:
        psnr = "" if self.psnr is None else f", PSNR {self.psnr:.2f} dB"
        phase = f"{self.phase}, " if self.phase else ""
        return f"Progress({phase}step {self.step}, {100 * self.fraction:.0f} %, {self.seconds:.1f} s{psnr})"


Observer = Callable[[Progress], None]
"""Called about every half second. It may raise KeyboardInterrupt, which ends the fit with its current scene."""


@dataclass(frozen=True)
class FitResult:
    """The result of a fit."""

    scene: Scene
    outcome: Outcome
    steps: int
    seconds: float
    skipped_steps: int
    """Number of steps that were skipped because the loss or a gradient was not finite."""
    history: tuple[Progress, ...]
    source_from_world: Float[Tensor, "4 4"]
    """Similarity from the normalized world to the frame of the input."""
    planned_steps: int | None = None
    """Number of steps of the whole fit; None if it is unknown, because only seconds were given."""
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)
    """The upward direction of the frame of the input."""
    signal: int | None = None
    """Number of the signal that interrupted the fit; None if there was none."""
    remarks: tuple[str, ...] = ()
    """Sentences of the recipe about what is unexpected in the result."""

    def __repr__(self) -> str:
        psnr = self.history[-1].psnr if self.history else None
        quality = "" if psnr is None else f", PSNR {psnr:.2f} dB"
        return f"FitResult({self.outcome}: {self.steps:,} steps in {self.seconds:.1f} s{quality}, {type(self.scene).__name__})"

    def asset(self, resolution: int = 256, *, frame: Frame = "source", capture: Capture | None = None) -> Asset:
        """Return the surface with its material or its colors, by default in the frame of the input poses.

        Args:
            resolution: cells along a side of the region of interest.
            frame: that of the input poses, or the normalized world.
            capture: the photos, which then give the colors. Without them the colors are those of the fitted field.
        """
        asset = surface_of(self.scene, resolution, capture).with_source_up(self.up, self.source_from_world)
        return asset if frame == "normalized" or asset.is_empty else asset.transformed(self.source_from_world)

    def mesh(self, resolution: int = 256, *, frame: Frame = "source", capture: Capture | None = None) -> Mesh:
        """Return the surface alone; see :meth:`asset`."""
        return self.asset(resolution, frame=frame, capture=capture).mesh


Losses = Mapping[str, Tensor]
"""Loss terms by name; the step minimizes their sum."""

_GENERATOR, _CLOCK, _COUNTS = "generator", "clock", "counts"
"""Names in a snapshot: random state; steps and seconds; skipped steps, those in a row, error, whether there is one."""
_HOPELESS = 200
"""A fit has diverged after this many skipped steps in a row."""


class Fitting:
    """The bookkeeping around a training loop, kept out of the recipes.

    Iterating yields step numbers until the budget is used, the observer interrupts or the fit diverges; :meth:`take_step` does the rest
    of a step. The first step compiles kernels and is not timed.
    """

    def __init__(
        self,
        scene: Scene,
        optimizer: Optimizer | None,
        clock: Clock,
        observer: Observer | None = None,
        *,
        generator: torch.Generator | None = None,
        parts: Mapping[str, Stateful] | None = None,
        finish: Callable[[], None] | None = None,
        report_every: float = 0.5,
    ) -> None:
        """Prepare a fit.

        Args:
            scene: what is fitted; its ``state_dict`` is part of every snapshot.
            optimizer: any PyTorch optimizer; None for a loop that updates the scene itself.
            clock: the budget.
            observer: called with the progress every ``report_every`` seconds.
            generator: source of everything random in the loop; its state is part of every snapshot.
            parts: other state to restore when the fit resumes, by name.
            finish: called after the last step, before it is reported.
            report_every: seconds between two calls of the observer.
        """
        self.scene = scene
        self.optimizer = optimizer
        self.clock = clock
        self.generator = generator
        self.history: list[Progress] = []
        self._parts = dict(parts or {})
        self._observer = observer
        self._finish = finish
        self._report_every = report_every
        self._base_rates = [] if optimizer is None else [group["lr"] for group in optimizer.param_groups]
        # Our own optimizers skip a step on the device, without a synchronization; other optimizers are only called for finite steps.
        self._skipping = optimizer if isinstance(optimizer, SkippingOptimizer) else None
        device = next((tensor.device for tensor in (*scene.parameters(), *scene.buffers())), torch.device("cpu"))
        self._skipped = torch.zeros((), device=device)
        self._in_a_row = torch.zeros((), device=device)
        self._error = torch.ones((), device=device)
        self._has_error = False
        self._held_out_error: Tensor | None = None
        self._losses: dict[str, Tensor] = {}
        self._counts: dict[str, int | Tensor] = {}
        self._outcome: Outcome = "finished"
        self._reported = 0.0
        self._restored = False

    def __iter__(self) -> Iterator[int]:
        with pytorch_on_one_thread(), keeping_freed_memory():
            yield from self._steps()

    def _steps(self) -> Iterator[int]:
        started = False
        try:
            while self.clock.fraction < 1:
                yield self.clock.step
                self.clock.step += 1
                if not started:
                    self.clock.start()
                    started = True
                last = self.clock.fraction >= 1
                if last and self._finish is not None:
                    self._finish()
                if last or self.clock.seconds - self._reported >= self._report_every:
                    self._report()
                if self._outcome != "finished":
                    break
            if not (started or self._restored):  # an earlier phase has used up the budget: the state of this one is reported all the same
                self._report()
        except KeyboardInterrupt:
            self._outcome = "interrupted"
        finally:  # also where the loop is left by break or by an error
            if started:
                self.clock.stop()
        if self._outcome == "finished" and self.clock.ended_by_time:
            self._outcome = "time budget reached"

    def set_learning_rate(self, factor: float) -> None:
        """Multiply the learning rate that each parameter group started with."""
        assert self.optimizer is not None
        for group, base in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * factor

    def exchange(self, old: Sequence[nn.Parameter], new: Sequence[nn.Parameter]) -> None:
        """Replace parameters in the optimizer by new ones with fresh state."""
        assert self.optimizer is not None
        new_of = {id(before): after for before, after in zip(old, new, strict=True)}
        for group in self.optimizer.param_groups:
            # In place, because some optimizers (L-BFGS) keep this list.
            group["params"][:] = [new_of.get(id(parameter), parameter) for parameter in group["params"]]
        for parameter in old:
            self.optimizer.state.pop(parameter, None)

    def take_step(
        self,
        losses: Losses | Callable[[], Losses],
        *,
        further: Callable[[], Losses] | None = None,
        error: Tensor | None = None,
        held_out_error: Tensor | None = None,
        counts: Mapping[str, int | Tensor] | None = None,
    ) -> None:
        """Run the backward pass and one step of the optimizer; a step that is not finite is skipped and counted.

        Args:
            losses: the terms of this step, or a function that computes them, for optimizers such as L-BFGS that evaluate several times.
            further: called after the backward pass; adds the gradients of more terms to those of the parameters, and returns the terms.
            error: mean squared error of the colors, for the reported PSNR.
            held_out_error: likewise of what is held out, in a step that measures it.
            counts: what the recipe counts in a step; tensors are read only when progress is reported.
        """
        if callable(losses) and self._skipping is None:
            self._step_by_closure(losses, further)
        else:  # our own optimizers need no closure
            self._step_once(losses() if callable(losses) else losses, further)
        self.record(error=error, held_out_error=held_out_error, counts=counts)

    def record(
        self,
        losses: Losses | None = None,
        *,
        error: Tensor | None = None,
        held_out_error: Tensor | None = None,
        counts: Mapping[str, int | Tensor] | None = None,
    ) -> None:
        """Record what a step reports; :meth:`take_step` calls this itself.

        Args:
            losses: terms by name, for loops that change the scene without an optimizer.
            error: mean squared error of the colors, for the reported PSNR.
            held_out_error: likewise of what is held out, in a step that measures it.
            counts: what the recipe counts in a step.
        """
        if losses is not None:
            self._losses = {name: value.detach() for name, value in losses.items()}
        if error is not None:
            seen = error.detach()  # a running mean must not hold on to the graph of every step
            share = 0.1 if self._has_error else 1.0
            self._error = torch.where(torch.isfinite(seen), self._error.lerp(seen, share), self._error)
            self._has_error = True
        if held_out_error is not None:
            self._held_out_error = held_out_error.detach()
        self._counts = dict(counts or {})

    def _step_once(self, losses: Losses, further: Callable[[], Losses] | None) -> None:
        assert self.optimizer is not None, "a fit without an optimizer takes no steps"
        total = self._backward(losses, further)
        gradients = [parameter.grad for parameter in parameters_of(self.optimizer) if parameter.grad is not None]
        finite = all_finite([total, *gradients])
        skip = (~finite).float()
        if self._skipping is not None:
            self._skipping.step(skip=skip)
        elif bool(finite):
            self.optimizer.step()
        self._count_skipped(skip)

    def _step_by_closure(self, losses: Callable[[], Losses], further: Callable[[], Losses] | None) -> None:
        assert self.optimizer is not None, "a fit without an optimizer takes no steps"
        parameters = parameters_of(self.optimizer)
        before = [parameter.detach().clone() for parameter in parameters]
        totals: list[Tensor] = []

        def evaluate() -> Tensor:
            totals.append(self._backward(losses(), further))
            return totals[-1]

        self.optimizer.step(evaluate)  # pyright: ignore[reportCallIssue, reportArgumentType]  a tensor will do for a float
        finite = all(bool(value.detach().isfinite().all()) for value in (*totals, *parameters))
        if not finite:  # the optimizer's curvature estimate is not finite either
            with torch.no_grad():
                for parameter, value in zip(parameters, before, strict=True):
                    parameter.copy_(value)
            self.optimizer.state.clear()
        self._count_skipped(torch.tensor(0.0 if finite else 1.0, device=self._skipped.device))

    def _backward(self, losses: Losses, further: Callable[[], Losses] | None) -> Tensor:
        assert self.optimizer is not None
        total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        more = {} if further is None else further()
        self._losses = {name: value.detach() for name, value in {**losses, **more}.items()}
        return torch.stack([total.detach(), *more.values()]).sum()

    def _count_skipped(self, skip: Tensor) -> None:
        self._skipped += skip
        self._in_a_row = (self._in_a_row + 1) * skip

    def last_count(self, name: str) -> int | None:
        """Return what the last step counted under a name; None before the first step of this process."""
        return None if name not in self._counts else int(self._counts[name])

    def _report(self) -> None:
        with self.clock.paused():
            progress = Progress(
                step=self.clock.step,
                fraction=self.clock.overall,
                seconds=self.clock.seconds,
                psnr=_decibels(self._error) if self._has_error else None,
                held_out_psnr=None if self._held_out_error is None else _decibels(self._held_out_error),
                losses={name: float(value) for name, value in self._losses.items()},
                counts={name: int(value) for name, value in self._counts.items()},
                snapshot=self.snapshot,
                scene=self.scene,
            )
            self.history.append(progress)
            if float(self._in_a_row) >= _HOPELESS:
                self._outcome = "diverged"
            if self._observer is not None:
                self._observer(progress)
            self._reported = self.clock.seconds

    def snapshot(self) -> dict[str, Tensor]:
        """Copy everything needed to resume: scene, optimizer, registered parts, random state, clock, counts."""
        tensors = {f"scene.{name}": value.detach().cpu().clone() for name, value in self.scene.state_dict().items()}
        if self.optimizer is not None:
            tensors |= flatten_state(_optimizer_state(self.optimizer), "optimizer")
        for name, part in self._parts.items():
            tensors |= flatten_state(part.state_dict(), f"part.{name}")
        if self.generator is not None:
            tensors[_GENERATOR] = self.generator.get_state()
        has_error = torch.tensor(float(self._has_error))
        return tensors | {
            _CLOCK: torch.tensor([float(self.clock.step), self.clock.seconds], dtype=torch.float64),
            _COUNTS: torch.stack([self._skipped.cpu(), self._in_a_row.cpu(), self._error.cpu(), has_error]),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state of a snapshot."""
        self._restored = True
        self.scene.load_state_dict(scene_state(tensors))
        if self.optimizer is not None:
            _load_optimizer_state(self.optimizer, unflatten_state(tensors, "optimizer"))
        for name, part in self._parts.items():
            if f"part.{name}" in tensors:  # snapshots of earlier versions lack some
                part.load_state_dict(unflatten_state(tensors, f"part.{name}"))
        if self.generator is not None:
            self.generator.set_state(tensors[_GENERATOR])
        self.clock.resume(*clock_of(tensors))
        skipped, in_a_row, error, has_error = tensors[_COUNTS].to(self._skipped.device)
        self._skipped, self._in_a_row, self._error = skipped.clone(), in_a_row.clone(), error.clone()
        self._has_error = bool(has_error)

    def result(
        self, source_from_world: Float[Tensor, "4 4"], *, up: tuple[float, float, float] = (0.0, 0.0, 1.0), empty: bool = False
    ) -> FitResult:
        """Return the fitted scene and how the fit ended.

        Args:
            source_from_world: similarity back to the frame of the input.
            up: the upward direction of that frame.
            empty: True if the recipe found nothing visible.
        """
        return FitResult(
            scene=self.scene,
            outcome="empty" if empty and self._outcome != "interrupted" else self._outcome,
            steps=self.clock.step,
            seconds=self.clock.seconds,
            skipped_steps=int(self._skipped),
            history=tuple(self.history),
            source_from_world=source_from_world,
            planned_steps=self.clock.steps,
            up=up,
        )


def _decibels(error: Tensor) -> float:
    return -10 * math.log10(max(float(error), 1e-10))


def clock_of(tensors: Mapping[str, Tensor]) -> tuple[int, float]:
    """Return the steps and seconds of a snapshot."""
    step, seconds = tensors[_CLOCK].tolist()
    return int(step), seconds


def scene_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the scene's ``state_dict`` from a snapshot."""
    return tensors_under("scene.", tensors)


def tensors_under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """Return the parameters of all groups of an optimizer."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _optimizer_state(optimizer: Optimizer) -> list[Any]:
    """Return the state of an optimizer and the settings of its groups, without the parameters."""
    saved = optimizer.state_dict()
    groups = [{name: value for name, value in group.items() if name != "params"} for group in saved["param_groups"]]
    return [saved["state"], groups]


def _load_optimizer_state(optimizer: Optimizer, saved: list[Any]) -> None:
    state, settings = saved
    groups = optimizer.state_dict()["param_groups"]
    groups = [group | values for group, values in zip(groups, settings, strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": groups})

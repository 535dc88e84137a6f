"""What every recipe shares: the clock of a fit, what it reports while running, and what it returns.

A recipe is a function ``fit(capture, config, ...) -> FitResult`` with its loop in view. It writes nothing to disk; what the
outside needs (progress bar, checkpoints, live view) hangs on the ``observer`` callback.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unrender.captures.capture import Capture
from unrender.devices import pytorch_on_one_thread
from unrender.geometry.mesh import Mesh
from unrender.ops.encodings import Adam
from unrender.ops.rays import Samples
from unrender.recipes.pixels import RayCount
from unrender.render.scene import Scene

Outcome = Literal["finished", "time budget reached", "interrupted", "diverged", "empty"]


@dataclass(frozen=True)
class Progress:
    """The state of a running fit, handed to the observer every few steps."""

    step: int
    fraction: float
    """Of the budget, 0 to 1; what every schedule follows."""
    seconds: float
    """Of training: evaluation, checkpoints and the first kernel compilation do not count."""
    psnr: float
    """Of the last training batches, dB."""
    rays: int
    samples: int
    """Samples in the last step."""
    losses: Mapping[str, float]
    """Each loss term of the last step by name, for the log."""
    snapshot: Callable[[], dict[str, Tensor]]
    """Everything needed to go on from here: weights, optimizer, occupancy, random state, clock."""
    scene: Scene


Observer = Callable[[Progress], None]
"""Called every few steps. It may raise KeyboardInterrupt: the fit then ends with what it has."""


@dataclass(frozen=True)
class FitResult:
    """What a fit leaves behind."""

    scene: Scene
    outcome: Outcome
    steps: int
    seconds: float
    skipped_steps: int
    """Steps whose loss or gradient was not finite and which were therefore not taken."""
    history: tuple[Progress, ...]
    capture_to_source: Float[Tensor, "4 4"]

    def mesh(self, resolution: int = 256, *, frame: Literal["source", "normalized"] = "source") -> Mesh:
        """The surface, in the frame the poses came in unless asked otherwise."""
        mesh = self.scene.mesh(resolution)
        return mesh if frame == "normalized" else mesh.transformed(self.capture_to_source)


class Clock:
    """Says how much of the budget is used: the larger of steps taken over ``steps`` and seconds used over ``max_seconds``.

    Schedules are functions of :attr:`fraction`, so they stretch to whatever budget is given.
    """

    def __init__(self, steps: int, max_seconds: float | None, *, done_steps: int = 0, done_seconds: float = 0.0) -> None:
        if steps < 1:
            raise ValueError(f"steps is {steps}; a fit needs at least 1")
        if max_seconds is not None and not max_seconds > 0:
            raise ValueError(f"max_seconds is {max_seconds}; give a positive number of seconds")
        self.steps = steps
        self.max_seconds = max_seconds
        self.step = done_steps
        self._seconds = done_seconds
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        running = 0.0 if self._started is None else time.perf_counter() - self._started
        return self._seconds + running

    @property
    def fraction(self) -> float:
        by_steps = self.step / self.steps
        by_time = 0.0 if self.max_seconds is None else self.seconds / self.max_seconds
        return min(1.0, max(by_steps, by_time))

    def start(self) -> None:
        self._started = time.perf_counter()

    def stop(self) -> None:
        self._seconds = self.seconds
        self._started = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside does not count."""
        self.stop()
        try:
            yield
        finally:
            self.start()


_REPORT_EVERY = 0.5
"""Seconds between two calls of the observer."""
_HOPELESS = 200
"""This many steps in a row that could not be taken mean that the fit has diverged."""


class Fitting:
    """The bookkeeping around a training loop, so that a recipe shows only its method.

    Iterating gives step numbers until the budget is used, the observer interrupts or the fit diverges; :meth:`take_step` does the
    rest of a step. The first step compiles kernels and stays off the clock.
    """

    def __init__(
        self,
        scene: Scene,
        optimizer: Adam,
        generator: torch.Generator,
        ray_count: RayCount,
        clock: Clock,
        observer: Observer | None,
    ) -> None:
        self.scene = scene
        self.optimizer = optimizer
        self.generator = generator
        self.ray_count = ray_count
        self.clock = clock
        self.history: list[Progress] = []
        self._observer = observer
        self._base_rates = [group["lr"] for group in optimizer.param_groups]
        device = generator.device
        self._skipped = torch.zeros((), device=device)
        self._in_a_row = torch.zeros((), device=device)
        self._error = torch.ones((), device=device)
        self._first_step = clock.step
        self._samples_in_use = torch.ones(1, dtype=torch.int32, device=device)
        self._outcome: Outcome = "finished"
        self._reported = 0.0

    def __iter__(self) -> Iterator[int]:
        with pytorch_on_one_thread():
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
                if self._outcome != "finished":
                    break
                last = self.clock.fraction >= 1
                if last or self.clock.seconds - self._reported >= _REPORT_EVERY:
                    self._report()
        except KeyboardInterrupt:
            self._outcome = "interrupted"
        if started:
            self.clock.stop()
        if self._outcome == "finished" and self.clock.step < self.clock.steps:
            self._outcome = "time budget reached"

    def set_learning_rate(self, factor: float) -> None:
        """Multiplies the learning rate each parameter group started with."""
        for group, base in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * factor

    def exchange(self, old: Sequence[nn.Parameter], new: Sequence[nn.Parameter]) -> None:
        """Lets the optimizer go on with new parameters in place of old ones, from a fresh state."""
        new_of = {id(before): after for before, after in zip(old, new, strict=True)}
        for group in self.optimizer.param_groups:
            group["params"] = [new_of.get(id(parameter), parameter) for parameter in group["params"]]
        for parameter in old:
            self.optimizer.state.pop(parameter, None)

    def take_step(self, losses: Mapping[str, Tensor], *, color_error: Tensor, rays: int, samples: Samples) -> None:
        """Backward pass and one step of the optimizer; a step that is not finite is not taken, and counted."""
        total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        finite = torch.isfinite(total.detach())
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    finite = finite & torch.isfinite(parameter.grad.sum())
        skip = (~finite).float()
        self.optimizer.step(skip=skip)
        self._skipped += skip
        self._in_a_row = (self._in_a_row + 1) * skip
        self._error = torch.where(finite, self._error.lerp(color_error, 1.0 if self.clock.step == self._first_step else 0.1), self._error)
        self._samples_in_use = samples.used()
        self._rays = rays
        self._losses = {name: value.detach() for name, value in losses.items()}

    def _report(self) -> None:
        with self.clock.paused():
            progress = Progress(
                step=self.clock.step,
                fraction=self.clock.fraction,
                seconds=self.clock.seconds,
                psnr=-10 * math.log10(max(float(self._error), 1e-10)),
                rays=self._rays,
                samples=int(self._samples_in_use),
                losses={name: float(value) for name, value in self._losses.items()},
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
        """Copies of everything needed to go on: scene, optimizer, random state, clock, counts."""
        tensors = {f"scene.{name}": value.detach().cpu().clone() for name, value in self.scene.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value.detach().cpu().clone() for name, value in state.items()}
        tensors["generator"] = self.generator.get_state()
        tensors["clock"] = torch.tensor([float(self.clock.step), self.clock.seconds], dtype=torch.float64)
        tensors["counts"] = torch.stack(
            [torch.tensor(float(self.ray_count.rays)), self._skipped.cpu(), self._in_a_row.cpu(), self._error.cpu()]
        )
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes back to where a snapshot was taken."""
        self.scene.load_state_dict({name.removeprefix("scene."): value for name, value in tensors.items() if name.startswith("scene.")})
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                states.setdefault(int(index), {})[key] = value.clone()
        self.optimizer.load_state_dict({"state": states, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.generator.set_state(tensors["generator"])
        self.clock = Clock(
            self.clock.steps, self.clock.max_seconds, done_steps=int(tensors["clock"][0]), done_seconds=float(tensors["clock"][1])
        )
        rays, skipped, in_a_row, error = tensors["counts"].to(self.generator.device)
        self.ray_count.rays = int(rays)
        self._skipped, self._in_a_row, self._error = skipped.clone(), in_a_row.clone(), error.clone()

    def result(self, capture: Capture) -> FitResult:
        empty = self._outcome != "interrupted" and int(self._samples_in_use) == 0
        return FitResult(
            scene=self.scene,
            outcome="empty" if empty else self._outcome,
            steps=self.clock.step,
            seconds=self.clock.seconds,
            skipped_steps=int(self._skipped),
            history=tuple(self.history),
            capture_to_source=capture.source_from_world,
        )

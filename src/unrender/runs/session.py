"""One fit from the first checkpoint to the report: resuming, interrupting, and writing what came out.

The recipe knows nothing of this: it is given an observer, and what the observer saves is given back to it as ``resume``.
"""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from unrender.captures.capture import Capture, CaptureError
from unrender.devices import device_name, peak_memory_mb, versions
from unrender.recipes.fitting import FitResult, Observer, Progress
from unrender.recipes.table import Recipe
from unrender.render.scene import Scene
from unrender.runs.checkpoints import CheckpointError, find_checkpoint, save_checkpoint
from unrender.runs.directory import (
    CaptureRecord,
    HistoryLine,
    OutputFolderError,
    RunDirectory,
    RunRecord,
    config_from_json,
    config_to_json,
    differences,
    finite,
)
from unrender.runs.display import Display, duration
from unrender.runs.milestones import Milestones

CHECKPOINT_EVERY = 30.0
"""Seconds of wall time between checkpoints: what a killed run loses at most."""

UNFINISHED = (None, "interrupted")
"""Outcomes after which the same command goes on fitting."""


@dataclass(frozen=True)
class Job:
    """Everything that decides the result of a fit."""

    recipe: Recipe
    preset: str | None
    config: Any
    capture: Capture
    capture_path: str
    capture_options: Mapping[str, Any]
    device: torch.device
    seed: int

    def record(self) -> RunRecord:
        """``run.json`` before the first step."""
        capture = self.capture
        return RunRecord(
            recipe=self.recipe.name,
            preset=self.preset,
            config=config_to_json(self.config),
            seed=self.seed,
            device=str(self.device),
            device_name=device_name(self.device),
            versions=versions(),
            capture=CaptureRecord(
                path=self.capture_path,
                name=capture.name,
                fingerprint=capture.fingerprint,
                options=config_to_json(self.capture_options),
                train_views=len(capture.split.train),
                test_views=len(capture.split.test),
                split_rule=capture.split.rule,
                source_from_world=capture.source_from_world.double().cpu().tolist(),
                notes=list(capture.notes),
            ),
        )


class RunConflictError(ValueError):
    """The output folder holds another run."""


@dataclass(frozen=True)
class OpenRun:
    """A run read back from its folder."""

    directory: RunDirectory
    record: RunRecord
    scene: Scene


def open_run(path: Path, recipes: Mapping[str, Recipe], device: torch.device) -> OpenRun:
    """Reads a run's newest good checkpoint as a scene.

    Raises:
        FileNotFoundError: when the folder holds no run.
        ValueError: when its recipe is not known here or no checkpoint can be read.
    """
    directory = RunDirectory(path)
    record = directory.read_record()
    if record.recipe not in recipes:
        raise ValueError(f"{path} was fitted with the recipe {record.recipe!r}, which this version does not have")
    recipe = recipes[record.recipe]
    config = config_from_json(type(next(iter(recipe.presets.values()))), record.config)
    return OpenRun(directory, record, _load_scene(directory, recipe, config, device))


def _load_scene(directory: RunDirectory, recipe: Recipe, config: Any, device: torch.device) -> Scene:
    search = find_checkpoint(directory.checkpoints, recipe.name)
    if search.checkpoint is None:
        reason = search.passed_over[0] if search.passed_over else "none was written yet"
        raise CheckpointError(f"{directory.path} has no checkpoint that can be read: {reason}")
    return recipe.load_scene(config, search.checkpoint.tensors, device)


def check_folder(directory: RunDirectory, *, overwrite: bool) -> None:
    """Makes sure the folder takes files and is ours to write to, before any photo is read.

    Raises:
        OutputFolderError: with one sentence that says what is in the way.
    """
    if directory.is_foreign() and not overwrite:
        raise OutputFolderError(f"{directory.path} holds files but no run; choose another --out or pass --overwrite to write among them")
    directory.prepare()


def fit_into(
    directory: RunDirectory, job: Job, *, overwrite: bool = False, display: Display, observer: Observer | None = None
) -> FitResult:
    """Fits, resuming where an earlier run of the same job stopped; a finished one is read back instead.

    Args:
        directory: of the run.
        job: what to fit and how.
        overwrite: removes another run's files instead of refusing.
        display: where progress is shown.
        observer: also sees every report of the running fit.

    Returns:
        The result; ``outcome == "interrupted"`` after Ctrl-C, with a checkpoint written.

    Raises:
        RunConflictError: when the folder holds a run of another job.
        OutputFolderError: when the folder cannot be written, or another process is fitting into it.
        CaptureError: when there are no views to fit.
        CheckpointError: when a checkpoint there comes from another recipe.
    """
    check_folder(directory, overwrite=overwrite)
    if not job.capture.split.train:
        raise CaptureError(f"{job.capture.name}: there are no views to fit ({job.capture.split.rule}); hold out fewer views")
    with directory.held():
        return _fit_alone(directory, job, overwrite, display, observer)


def _fit_alone(directory: RunDirectory, job: Job, overwrite: bool, display: Display, observer: Observer | None) -> FitResult:
    record = job.record()
    if overwrite:
        directory.clear()
    elif directory.record_file.exists():
        there = directory.read_record()
        unlike = differences(there, record)
        if unlike:
            reasons = "; ".join(unlike[:3])
            raise RunConflictError(f"{directory.path} holds another run ({reasons}); choose another --out or pass --overwrite")
        if there.outcome not in UNFINISHED:
            display.say(f"{directory.path} is finished ({there.outcome}, {there.steps} steps in {duration(there.seconds)}); nothing to fit")
            return _read_back(directory, job, there)
    search = find_checkpoint(directory.checkpoints, job.recipe.name)
    for sentence in search.passed_over:
        display.say(f"note: {sentence}")
    resume = search.checkpoint
    directory.truncate_history(resume.info.step if resume else -1)
    directory.write_record(record)
    if resume:
        display.say(f"resuming at step {resume.info.step} after {duration(resume.info.seconds)} of training")
    started = time.perf_counter()
    seconds, fraction = (resume.info.seconds, resume.info.fraction) if resume else (0.0, 0.0)
    milestones = Milestones(directory, job.capture, job.device, display, seconds=seconds, fraction=fraction)
    with display, _Stop(display) as stop:
        watcher = _Watcher(directory, job.recipe.name, display, milestones, stop, observer)
        tensors = resume.tensors if resume else None
        result = job.recipe.fit(job.capture, job.config, device=job.device, seed=job.seed, resume=tensors, observer=watcher)
    if result.outcome != "interrupted" and watcher.last is not None:
        last = dataclasses.replace(watcher.last, step=result.steps, fraction=1.0, seconds=result.seconds)
        milestones(last)
        watcher.save(last)
    directory.write_record(
        dataclasses.replace(
            record,
            outcome=result.outcome,
            steps=result.steps,
            seconds=result.seconds,
            skipped_steps=result.skipped_steps,
            peak_memory_mb=peak_memory_mb(job.device),
            timings={"fit": time.perf_counter() - started},
        )
    )
    return result


def _read_back(directory: RunDirectory, job: Job, record: RunRecord) -> FitResult:
    """The result of a finished run, without its in-memory history."""
    return FitResult(
        scene=_load_scene(directory, job.recipe, job.config, job.device),
        outcome=record.outcome,  # pyright: ignore[reportArgumentType]
        steps=record.steps,
        seconds=record.seconds,
        skipped_steps=record.skipped_steps,
        history=(),
        source_from_world=job.capture.source_from_world,
    )


class _Stop:
    """Turns the first Ctrl-C (or SIGTERM) into a wish that is granted between two steps; the second one stops at once."""

    def __init__(self, display: Display) -> None:
        self.requested = False
        self._display = display
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Stop:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()
        self._display.say("stopping after this step and saving a checkpoint; press Ctrl-C again to stop at once")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


class _Watcher:
    """The observer of a run: writes history, pictures and checkpoints, shows progress, and passes Ctrl-C on to the recipe."""

    def __init__(
        self, directory: RunDirectory, recipe: str, display: Display, milestones: Milestones, stop: _Stop, observer: Observer | None
    ) -> None:
        self.last: Progress | None = None
        self._directory = directory
        self._recipe = recipe
        self._display = display
        self._milestones = milestones
        self._stop = stop
        self._observer = observer
        self._saved_at = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        self.last = progress
        self._directory.append_history(history_line(progress))
        self._display.follow(progress)
        self._milestones(progress)
        try:
            if self._observer is not None:
                self._observer(progress)
            if self._stop.requested:
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            self.save(progress)
            raise
        if time.monotonic() - self._saved_at >= CHECKPOINT_EVERY:
            self.save(progress)

    def save(self, progress: Progress) -> None:
        """Writes the present state."""
        save_checkpoint(
            self._directory.checkpoints,
            progress.snapshot(),
            recipe=self._recipe,
            step=progress.step,
            fraction=progress.fraction,
            seconds=progress.seconds,
        )
        self._saved_at = time.monotonic()


def history_line(progress: Progress) -> HistoryLine:
    """A report of the running fit as one line of ``history.jsonl``."""
    return HistoryLine(
        step=progress.step,
        fraction=progress.fraction,
        seconds=progress.seconds,
        psnr=None if progress.psnr is None else finite(progress.psnr),
        counts=progress.counts,
        losses={name: finite(value) for name, value in progress.losses.items()},
        phase=progress.phase,
    )

"""A fit from its first checkpoint to its outputs: resuming, interrupting, and handling of each outcome.

The recipe only gets an observer, which saves snapshots, and a saved snapshot as ``resume``.
"""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, Generic

import torch

from unrender.captures.capture import Capture, CaptureError
from unrender.devices import device_name, peak_memory_mb, versions
from unrender.recipes.fitting import FitResult, Observer, Outcome, Progress
from unrender.recipes.table import C, I, Recipe
from unrender.runs.checkpoints import find_checkpoint, save_checkpoint
from unrender.runs.config_json import config_to_json
from unrender.runs.directory import (
    CaptureRecord,
    HistoryLine,
    InputRecord,
    OutputFolderError,
    RunDirectory,
    RunRecord,
    differences,
    finite,
)
from unrender.runs.display import Display, duration
from unrender.runs.inputs import Origin
from unrender.runs.milestones import Milestones
from unrender.runs.opening import read_scene
from unrender.runs.outputs import WRITERS, MeasureMesh, failure_sentences, write_outputs

Handler = Callable[[int, FrameType | None], Any] | int | None
"""What Python calls at a signal."""

CHECKPOINT_EVERY = 30.0
"""Seconds of wall time between checkpoints, the most that a killed run loses."""

REMARKS: dict[Outcome, str] = {
    "diverged": "the fit diverged: its loss stopped being finite; what is shown is the last good state",
    "empty": "the fit is empty: nothing is left of the scene that a ray meets. Usual reasons: the region of interest is in the wrong place "
    "(set --center and --radius), or the masks are inverted",
}
"""Remarks in the report about unsuccessful outcomes."""


@dataclass(frozen=True)
class Job(Generic[C, I]):
    """Everything that determines the result of a fit."""

    recipe: Recipe[C, I]
    preset: str | None
    config: C
    input: I
    origin: Origin
    device: torch.device
    seed: int = 0

    @property
    def capture(self) -> Capture | None:
        """The photos that come with the input."""
        return self.recipe.input.capture_of(self.input)

    def record(self) -> RunRecord:
        """Return ``run.json`` before the first step."""
        given, capture = self.input, self.capture
        return RunRecord(
            recipe=self.recipe.name,
            preset=self.preset,
            config=config_to_json(self.config),
            seed=self.seed,
            device=str(self.device),
            device_name=device_name(self.device),
            versions=versions(),
            input=InputRecord(
                kind=self.recipe.input.name,
                path=self.origin.path,
                name=given.name,
                fingerprint=given.fingerprint,
                source_from_world=self.recipe.input.source_from_world(given).double().cpu().tolist(),
                notes=list(given.notes),
            ),
            capture=None if capture is None else _capture_record(capture, self.origin),
        )


def _capture_record(capture: Capture, origin: Origin) -> CaptureRecord:
    return CaptureRecord(
        path=origin.photos,
        name=capture.name,
        fingerprint=capture.fingerprint,
        options=origin.options,
        train_views=len(capture.split.train),
        test_views=len(capture.split.test),
        split_rule=capture.split.rule,
    )


class RunConflictError(ValueError):
    """The output folder holds another run."""


@dataclass(frozen=True)
class RunResult:
    """A fit and its outputs."""

    result: FitResult
    record: RunRecord
    """The content of ``run.json``."""

    @property
    def failures(self) -> tuple[str, ...]:
        """A sentence about each output that could not be written."""
        return failure_sentences(self.record)


def run_job(
    job: Job[C, I],
    directory: RunDirectory,
    *,
    overwrite: bool = False,
    display: Display,
    observer: Observer | None = None,
    mesh_resolution: int = 256,
    measure: MeasureMesh | None = None,
    strict: bool = False,
) -> RunResult:
    """Fit, and write the outputs.

    An interrupted fit writes a checkpoint and no outputs; the same job resumes it. Every other outcome writes all outputs; those of a
    diverged or empty fit have a remark.

    Args:
        job: what to fit and how.
        directory: of the run.
        overwrite: remove another run's files instead of raising an error.
        display: where progress and numbers are shown.
        observer: also called with the progress of the running fit.
        mesh_resolution: cells along the longest side of the region of interest.
        measure: compares the mesh with a known truth; the numbers go into ``run.json`` and the report.
        strict: raise the error of an output instead of recording it in ``run.json`` and the report.

    Raises:
        RunConflictError: the folder holds a run of another job.
        OutputFolderError: the folder cannot be written, or another process is fitting into it.
        CaptureError: there are no views to fit.
        CheckpointError: a checkpoint there comes from another recipe.
    """
    result = fit_into(directory, job, overwrite=overwrite, display=display, observer=observer)
    if result.outcome == "interrupted":
        display.say(f"stopped at step {result.steps}; the same command resumes it")
        return RunResult(result, directory.read_record())
    display.say(closing_sentence(result))
    record = write_outputs(
        directory,
        result,
        job.capture,
        outputs=job.recipe.outputs,
        device=job.device,
        display=display,
        mesh_resolution=mesh_resolution,
        measure=measure,
        strict=strict,
    )
    return RunResult(result, record)


def closing_sentence(result: FitResult) -> str:
    """Describe in one line how a fit ended."""
    skipped = f", {result.skipped_steps} of them skipped because they were not finite" if result.skipped_steps else ""
    return f"{result.outcome}: {result.steps} steps{skipped}, {duration(result.seconds)} of training"


def check_folder(directory: RunDirectory, *, overwrite: bool) -> None:
    """Check that the folder is writable and belongs to a run, before reading photos.

    Raises:
        OutputFolderError: the folder cannot be used.
    """
    if directory.is_foreign() and not overwrite:
        raise OutputFolderError(f"{directory.path} holds files but no run; choose another --out or pass --overwrite to write among them")
    directory.prepare()


def fit_into(
    directory: RunDirectory, job: Job[C, I], *, overwrite: bool = False, display: Display, observer: Observer | None = None
) -> FitResult:
    """Fit, or resume an earlier run of the same job; a finished run is read instead.

    Args:
        directory: of the run.
        job: what to fit and how.
        overwrite: remove another run's files instead of raising an error.
        display: where progress is shown.
        observer: also called with the progress of the running fit.

    Returns:
        The result; ``outcome == "interrupted"`` after Ctrl-C, with a checkpoint written.

    Raises:
        ValueError: see :func:`run_job`.
        OSError: likewise.
    """
    check_folder(directory, overwrite=overwrite)
    capture = job.capture
    if capture is not None and not capture.split.train:
        raise CaptureError(f"{capture.name}: there are no views to fit ({capture.split.rule}); hold out fewer views")
    with directory.held():
        if overwrite:
            directory.clear(WRITERS)
        record = job.record()
        there = directory.read_record() if directory.record_file.exists() else None
        if there is not None:
            _refuse_another(directory, there, record)
            if there.is_finished:
                display.say(
                    f"{directory.path} is finished ({there.outcome}, {there.steps} steps in {duration(there.seconds)}); nothing to fit"
                )
                return _read_back(directory, job, there)
        return _fit_on(directory, job, record, display, observer)


def _refuse_another(directory: RunDirectory, there: RunRecord, here: RunRecord) -> None:
    unlike = differences(there, here)
    if unlike:
        reasons = "; ".join(unlike[:3])
        raise RunConflictError(f"{directory.path} holds another run ({reasons}); choose another --out or pass --overwrite")


def _fit_on(directory: RunDirectory, job: Job[C, I], record: RunRecord, display: Display, observer: Observer | None) -> FitResult:
    """Fit from the newest valid checkpoint, or from the start if there is none."""
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
    capture, milestones = job.capture, None
    if capture is not None:
        milestones = Milestones(directory, capture, job.device, display, seconds=seconds, fraction=fraction)
    with display, _Stop(display) as stop:
        watcher = _Watcher(directory, job.recipe.name, display, milestones, stop, observer)
        tensors = resume.tensors if resume else None
        result = job.recipe.fit(job.input, job.config, device=job.device, seed=job.seed, resume=tensors, observer=watcher)
    if result.outcome != "interrupted" and watcher.last is not None:
        watcher.end(dataclasses.replace(watcher.last, step=result.steps, fraction=1.0, seconds=result.seconds))
    directory.write_record(
        dataclasses.replace(
            record,
            outcome=result.outcome,
            steps=result.steps,
            seconds=result.seconds,
            skipped_steps=result.skipped_steps,
            peak_memory_mb=peak_memory_mb(job.device),
            timings={"fit": time.perf_counter() - started},
            remarks=[REMARKS[result.outcome]] if result.outcome in REMARKS else [],
        )
    )
    return result


def _read_back(directory: RunDirectory, job: Job[C, I], record: RunRecord) -> FitResult:
    """Return the result of a finished run, without its in-memory history."""
    assert record.outcome is not None
    return FitResult(
        scene=read_scene(directory, job.recipe, job.config, job.device)[0],
        outcome=record.outcome,
        steps=record.steps,
        seconds=record.seconds,
        skipped_steps=record.skipped_steps,
        history=(),
        source_from_world=job.recipe.input.source_from_world(job.input),
    )


class _Stop:
    """Defers the first Ctrl-C or SIGTERM to the end of the step; a second one stops immediately."""

    def __init__(self, display: Display) -> None:
        self.requested = False
        self._display = display
        self._before: dict[signal.Signals, Handler] = {}

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
    """Observes a fit: writes history, pictures and checkpoints, shows progress, and passes Ctrl-C to the recipe."""

    def __init__(
        self, directory: RunDirectory, recipe: str, display: Display, milestones: Milestones | None, stop: _Stop, observer: Observer | None
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
        if self._milestones is not None:
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

    def end(self, progress: Progress) -> None:
        """Take the last picture and save the last state."""
        if self._milestones is not None:
            self._milestones(progress)
        self.save(progress)

    def save(self, progress: Progress) -> None:
        """Write the current state as a checkpoint."""
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
    """Return a report of the running fit as one line of ``history.jsonl``."""
    return HistoryLine(
        step=progress.step,
        fraction=progress.fraction,
        seconds=progress.seconds,
        psnr=None if progress.psnr is None else finite(progress.psnr),
        counts=progress.counts,
        losses={name: finite(value) for name, value in progress.losses.items()},
        phase=progress.phase,
    )

"""A fit from its first checkpoint to its outputs: resuming, interrupting, and handling of each outcome.

The recipe only gets an observer, which saves snapshots, and a saved snapshot as ``resume``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor

from unrender.captures.capture import Capture, CaptureError
from unrender.captures.upright import upward_direction
from unrender.devices import device_name, peak_memory_mb, versions
from unrender.recipes.clock import Clock
from unrender.recipes.fitting import FitResult, Observer, Outcome, Progress
from unrender.recipes.inputs import MeshInput, Picture
from unrender.recipes.table import C, I, Recipe
from unrender.runs.checkpoints import CheckpointInfo, find_checkpoint, save_checkpoint
from unrender.runs.config_json import check_finite, config_to_json
from unrender.runs.directory import (
    BUDGET,
    CaptureRecord,
    HistoryLine,
    InputRecord,
    OutputFolderError,
    RunDirectory,
    RunRecord,
    differences,
    finite,
    phases_of,
)
from unrender.runs.display import Display, duration
from unrender.runs.inputs import Origin, kind_of
from unrender.runs.milestones import Milestones
from unrender.runs.opening import read_scene
from unrender.runs.outputs import WRITERS, MeasureMesh, failure_sentences, write_outputs
from unrender.runs.stopping import Stop

CHECKPOINT_EVERY = 30.0
"""Seconds of wall time between checkpoints, the most that a killed run loses."""

REMARKS: dict[Outcome, str] = {
    "diverged": "the fit diverged: its loss stopped being finite; what is shown is the last good state",
    "empty": "the fit is empty: nothing is left of the scene that a ray meets. Usual reasons: the region of interest is in the wrong place "
    "(set --center and --radius), or the masks are inverted",
}
"""Remarks in the report about unsuccessful outcomes."""

_NO_WORSE = 0.3
"""Decibels by which a phase may end below the one before it."""

_MUCH_WORSE = 1.0
"""Decibels below it from which on a surface is not where the light comes from; a smaller loss is one of gloss and of fine parts."""


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

    @property
    def up(self) -> tuple[float, float, float]:
        """The upward direction of the frame of the input."""
        if isinstance(self.input, MeshInput):
            return self.input.mesh.up
        return (0.0, 0.0, 1.0) if self.capture is None else upward_direction(self.capture)

    @property
    def planned_steps(self) -> int | None:
        """Steps of the whole fit; for a budget in seconds alone, those of the preset; None if there is none."""
        if self.config.steps is not None or self.preset is None or self.preset not in self.recipe.presets:
            return self.config.steps
        return self.recipe.presets[self.preset].steps

    @property
    def clock(self) -> Clock:
        """A new clock with the budget of the fit.

        Raises:
            ValueError: the budget is invalid.
        """
        return Clock(self.config.steps, self.config.max_seconds)

    def check(self) -> None:
        """Check what can be checked before anything is written.

        Raises:
            ValueError: the budget is invalid, a setting is not finite, or there are no views to fit.
        """
        assert self.clock.step == 0
        check_finite(config_to_json(self.config))
        if self.capture is not None and not self.capture.split.train:
            raise CaptureError(f"{self.capture.name}: there are no views to fit ({self.capture.split.rule}); hold out fewer views")

    def record(self) -> RunRecord:
        """Return ``run.json`` before the first step."""
        given, capture = self.input, self.capture
        return RunRecord(
            recipe=self.recipe.name,
            preset=self.preset,
            config=config_to_json(self.config),
            planned_steps=self.planned_steps,
            seed=self.seed,
            device=str(self.device),
            device_name=device_name(self.device),
            versions=versions(),
            input=InputRecord(
                kind=kind_of(self.recipe, given),
                path=self.origin.path,
                name=given.name,
                fingerprint=given.fingerprint,
                source_from_world=self.recipe.input.source_from_world(given).double().cpu().tolist(),
                notes=list(given.notes),
                up=list(self.up),
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
        RunConflictError: the folder holds a run of another job, or one that has used more than the budget.
        OutputFolderError: the folder cannot be written, or another process is fitting into it.
        CaptureError: there are no views to fit.
        CheckpointError: a checkpoint there comes from another recipe.
        ValueError: the configuration is invalid; nothing has been written.
    """
    job.check()
    check_folder(directory, overwrite=overwrite)
    with directory.held(), ordinary_pytorch(job.device):
        result = _fit_held(directory, job, overwrite=overwrite, display=display, observer=observer)
        if result.outcome == "interrupted":
            display.say(f"stopped at step {result.steps}; the same command resumes it")
            return RunResult(result, directory.read_record())
        display.say(closing_sentence(result))
        for sentence in result.remarks:
            display.say(f"note: {sentence}")
        record = write_outputs(
            directory,
            result,
            job.capture,
            picture=job.input if isinstance(job.input, Picture) else None,
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
    planned = result.planned_steps
    of_planned = f" of about {planned:,}" if result.outcome == "time budget reached" and planned and planned > result.steps else ""
    return f"{result.outcome}: {result.steps:,}{of_planned} steps{skipped}, {duration(result.seconds)} of training"


def check_folder(directory: RunDirectory, *, overwrite: bool) -> None:
    """Check that the folder is writable and belongs to a run, before reading photos.

    Raises:
        OutputFolderError: the folder cannot be used.
    """
    if directory.is_foreign() and not overwrite:
        raise OutputFolderError(f"{directory.path} holds files but no run; choose another --out or pass --overwrite to write among them")
    directory.prepare()


@contextlib.contextmanager
def ordinary_pytorch(device: torch.device) -> Iterator[None]:
    """Run the block as PyTorch runs by default, whatever modes the caller has switched on.

    Inference mode, ``no_grad``, autocast, anomaly detection, another default type or device: a fit needs gradients in float32, and its
    result does not depend on where it is called.
    """
    dtype = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autograd.set_detect_anomaly(False))
        for kind in {"cpu", device.type}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if dtype != torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        yield


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
    job.check()
    check_folder(directory, overwrite=overwrite)
    with directory.held(), ordinary_pytorch(job.device):
        return _fit_held(directory, job, overwrite=overwrite, display=display, observer=observer)


def _fit_held(directory: RunDirectory, job: Job[C, I], *, overwrite: bool, display: Display, observer: Observer | None) -> FitResult:
    """Fit into a folder whose lock is held."""
    if overwrite or not directory.holds_results(WRITERS):
        directory.clear(WRITERS)  # without a checkpoint nothing is lost, and a call that was wrong blocks no other
    record, there = job.record(), directory.read_record() if directory.record_file.exists() else None
    if there is not None:
        _refuse_another(directory, there, record)
        if there.is_finished and not _goes_on(directory, job, there):
            display.say(
                f"{directory.path} is finished ({there.outcome}, {there.steps:,} steps in {duration(there.seconds)}); nothing to fit"
            )
            return _read_back(directory, job, there)
    return _fit_on(directory, job, record, display, observer)


def _refuse_another(directory: RunDirectory, there: RunRecord, here: RunRecord) -> None:
    unlike = differences(there, here)
    if unlike:
        reasons = "; ".join(unlike[:3])
        raise RunConflictError(f"{directory.path} holds another run ({reasons}); choose another --out or pass --overwrite")


def _goes_on(directory: RunDirectory, job: Job[C, I], there: RunRecord) -> bool:
    """Tell whether a finished fit goes on, because its budget is larger now.

    Raises:
        RunConflictError: the fit has already used more than the new budget, or has failed.
    """
    if all(there.config.get(name) == value for name, value in _budget(job).items()):
        return False
    if there.outcome == "finished" and there.steps == job.config.steps:
        return False
    _refuse_used(directory, job, there.steps, there.seconds)
    if there.outcome in REMARKS:
        raise RunConflictError(
            f"{directory.path} holds a fit that ended as {there.outcome}, which a larger budget does not mend; "
            "choose another --out or pass --overwrite"
        )
    return True


def _budget(job: Job[C, I]) -> dict[str, float | int | None]:
    return dict(zip(BUDGET, (job.config.steps, job.config.max_seconds), strict=True))


def _refuse_used(directory: RunDirectory, job: Job[C, I], steps: int, seconds: float) -> None:
    if job.clock.overall_at(steps, seconds) >= 1:
        limits = {"steps": job.config.steps, "seconds": job.config.max_seconds}
        budget = " and ".join(f"{value:,g} {unit}" for unit, value in limits.items() if value is not None)
        raise RunConflictError(
            f"{directory.path} holds this fit after {steps:,} steps and {seconds:.0f} seconds of training, which uses up a budget of "
            f"{budget}; give a larger one, choose another --out or pass --overwrite"
        )


def _fit_on(directory: RunDirectory, job: Job[C, I], record: RunRecord, display: Display, observer: Observer | None) -> FitResult:
    """Fit from the newest valid checkpoint, or from the start if there is none."""
    search = find_checkpoint(directory.checkpoints, job.recipe.name)
    for sentence in search.passed_over:
        display.say(f"note: {sentence}")
    resume, fraction = search.checkpoint, 0.0
    if resume:
        fraction = job.clock.overall_at(resume.info.step, resume.info.seconds)
        if directory.record_file.exists():
            _check_used(directory, job, resume.info)
    # Outputs of a fit that goes on are out of date. They are removed first: a kill in between leaves a finished run without outputs.
    directory.clear_outputs(WRITERS)
    directory.truncate_history(resume.info.step if resume else -1)
    directory.write_record(record)
    if resume:
        display.say(f"resuming at step {resume.info.step} after {duration(resume.info.seconds)} of training")
    started = time.perf_counter()
    seconds = resume.info.seconds if resume else 0.0
    capture, milestones = job.capture, None
    if capture is not None:
        milestones = Milestones(directory, capture, job.device, display, seconds=seconds, fraction=fraction)
    with display, Stop(display) as stop:
        watcher = _Watcher(directory, job.recipe.name, display, milestones, stop, observer)
        tensors = resume.tensors if resume else None
        result = job.recipe.fit(job.input, job.config, device=job.device, seed=job.seed, resume=tensors, observer=watcher)
        result = dataclasses.replace(result, planned_steps=job.planned_steps, signal=stop.number)
        if result.outcome != "interrupted" and watcher.last is not None:
            watcher.end(dataclasses.replace(watcher.last, step=result.steps, fraction=1.0, seconds=result.seconds))
    worse = [] if result.outcome == "interrupted" else _settle(directory, record)
    directory.write_record(
        dataclasses.replace(
            record,
            outcome=result.outcome,
            steps=result.steps,
            seconds=result.seconds,
            skipped_steps=result.skipped_steps,
            peak_memory_mb=peak_memory_mb(job.device),
            timings={"fit": time.perf_counter() - started},
            remarks=[*remarks_about(result, job.config.max_seconds), *result.remarks, *worse, *watcher.remarks],
        )
    )
    if stop.number is not None and result.outcome != "interrupted":
        raise KeyboardInterrupt  # the signal came after the last step: the fit is finished, its outputs are not written
    return result


def _settle(directory: RunDirectory, record: RunRecord) -> list[str]:
    """Keep the scene before the last phase if that is better, and say so; otherwise remove it."""
    worse, before = remarks_about_phases(directory.read_history()), directory.before
    kept = find_checkpoint(before.checkpoints, record.recipe).checkpoint if worse else None
    if kept is None:
        shutil.rmtree(before.path, ignore_errors=True)
        return worse
    before.write_record(dataclasses.replace(record, outcome="finished", steps=kept.info.step, seconds=kept.info.seconds))
    return [*worse, f"what was before is kept: `unrender eval {shlex.quote(str(before.path))}` renders and scores it"]


def _check_used(directory: RunDirectory, job: Job[C, I], info: CheckpointInfo) -> None:
    """Refuse another budget than before that the unfinished fit has used up."""
    known = directory.read_record().config
    if any(known.get(name) != value for name, value in _budget(job).items()):
        _refuse_used(directory, job, info.step, info.seconds)


def remarks_about(result: FitResult, max_seconds: float | None) -> list[str]:
    """Return sentences about a fit that did not come to its end."""
    if result.outcome in REMARKS:
        return [REMARKS[result.outcome]]
    planned = result.planned_steps
    if result.outcome == "time budget reached" and planned is not None and max_seconds is not None and result.steps < planned:
        return [
            f"the fit was cut short by the budget of {max_seconds:g} s after {result.steps:,} of about {planned:,} steps; "
            "the same call with a larger budget continues it"
        ]
    return []


def remarks_about_phases(history: Sequence[HistoryLine]) -> list[str]:
    """Return a sentence about a last phase that fits the photos worse than the one before."""
    ends = [(phase.name, phase.last.psnr) for phase in phases_of([line for line in history if line.psnr is not None])]
    if not ends:
        return []
    (before, reached), (last, ended) = ends[-2:]
    if ended is None or reached is None or ended >= reached - _NO_WORSE:
        return []
    fits = f"the {last} fits the photos with {ended:.1f} dB, worse than the {before} that it began with ({reached:.1f} dB)"
    if ended >= reached - _MUCH_WORSE:
        return [f"{fits}; a larger budget helps"]
    return [f"{fits}: its shape is not reliable; a larger budget, masks, or more photos from around the object help"]


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
        planned_steps=record.planned_steps,
        up=job.up,
    )


class _Watcher:
    """Observes a fit: writes history, pictures and checkpoints, shows progress, and passes Ctrl-C to the recipe.

    What cannot be written while the fit runs does not end it: each kind of file is noted once, and a checkpoint is tried again.
    """

    def __init__(
        self, directory: RunDirectory, recipe: str, display: Display, milestones: Milestones | None, stop: Stop, observer: Observer | None
    ) -> None:
        self.last: Progress | None = None
        self.remarks: list[str] = []
        """Sentences about files that could not be written."""
        self._directory = directory
        self._recipe = recipe
        self._display = display
        self._milestones = milestones
        self._stop = stop
        self._observer = observer
        self._saved_at = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        if self.last is not None and self.last.phase != progress.phase:
            with self._noting("the scene before the last phase"):
                self._keep(self.last)
        self.last = progress
        with self._noting("a line of history.jsonl"):
            self._directory.append_history(history_line(progress))
        self._display.follow(progress)
        self._take_picture(progress)
        try:
            if self._observer is not None:
                self._observer(progress)
            if self._stop.number is not None:
                raise KeyboardInterrupt
        except (KeyboardInterrupt, Exception):
            self.save(progress)
            raise
        if time.monotonic() - self._saved_at >= CHECKPOINT_EVERY:
            self._saved_at = time.monotonic()
            with self._noting("a checkpoint"):
                self.save(progress)

    def end(self, progress: Progress) -> None:
        """Take the last picture and save the last state."""
        self._take_picture(progress)
        self.save(progress)

    def save(self, progress: Progress) -> None:
        """Write the current state as a checkpoint.

        Raises:
            OutputFolderError: it cannot be written.
        """
        try:
            self._write(self._directory, progress, progress.snapshot())
        except OSError as error:
            raise OutputFolderError(
                f"step {progress.step} could not be saved in {self._directory.checkpoints} ({error.strerror or error}); "
                "make room and run the same command again, which resumes from the last checkpoint"
            ) from error
        self._saved_at = time.monotonic()

    def _write(self, directory: RunDirectory, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
        save_checkpoint(
            directory.checkpoints,
            tensors,
            recipe=self._recipe,
            step=progress.step,
            fraction=progress.fraction,
            seconds=progress.seconds,
        )

    def _keep(self, ended: Progress) -> None:
        """Save the scene with which a phase ended."""
        scene = {name: tensor for name, tensor in ended.snapshot().items() if not name.startswith("optimizer.")}
        shutil.rmtree(self._directory.before.path, ignore_errors=True)
        self._write(self._directory.before, ended, scene)

    def _take_picture(self, progress: Progress) -> None:
        if self._milestones is not None:
            with self._noting("a progress picture"):
                self._milestones(progress)

    @contextlib.contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        """Note an error of the block, once for each kind of file."""
        try:
            yield
        except Exception as error:
            sentence = f"{what} could not be written"
            if not any(remark.startswith(sentence) for remark in self.remarks):
                self.remarks.append(f"{sentence}: {' '.join(str(error).split()) or type(error).__name__}")
                self._display.say(f"note: {self.remarks[-1]}")


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
        held_out_psnr=None if progress.held_out_psnr is None else finite(progress.held_out_psnr),
    )

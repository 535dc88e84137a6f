"""The folder of a run: its settings, progress and outputs.

===================  ==========================================================================================
``run.json``         recipe, full configuration, versions, seed, device, input, split, outcome, timings
``history.jsonl``    one line per report of the running fit: step, seconds, PSNR, losses
``checkpoints/``     the last two, see :mod:`unrender.runs.checkpoints`
``before/``          the run before its last phase, if that fits the photos worse
``metrics.json``     PSNR and SSIM of the held-out views
``renders/``         every held-out view: color, depth, normal; one view during the fit, as ``progress_060s.png``
``mesh.ply, .glb``   the surface with its material, in the frame of the input
``viewer.html``      the surface, to be turned in a browser
``environment.hdr``  the environment light, for recipes that estimate it
``video.mp4``        an orbit
``prediction.png``   the fitted picture, for recipes that fit one; beside truth and error in ``comparison.png``
``report.html``      all results on one page
``.lock``            held while a process fits into the folder
===================  ==========================================================================================

:mod:`unrender.runs.outputs` writes the files after the checkpoints. ``docs/runs.md`` describes them for users.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from filelock import FileLock, Timeout

from unrender.captures.options import CaptureOptions
from unrender.files.atomic import remove_partials, write_bytes, write_json
from unrender.recipes.fitting import Outcome
from unrender.recipes.kinds import InputName
from unrender.recipes.table import Output
from unrender.runs.config_json import config_from_json, config_to_json
from unrender.runs.measures import Measure

SMALLEST_FREE_SPACE = 256 * 2**20
"""Bytes that a run may need: two checkpoints, two meshes, a video, the pictures."""


BUDGET = ("steps", "max_seconds")
"""Settings of every configuration that may change when a fit goes on."""


class OutputFolderError(OSError):
    """The output folder cannot be written, is full, or belongs to something else."""


@runtime_checkable
class OutputFiles(Protocol):
    """An output with files in a run, which :meth:`RunDirectory.clear` removes."""

    def files(self, directory: RunDirectory) -> Sequence[Path]:
        """Return every file that the output may write."""
        ...


@dataclass(frozen=True)
class InputRecord:
    """The input of the fit."""

    kind: InputName
    path: str
    """Empty for inputs passed in Python."""
    name: str
    fingerprint: str
    source_from_world: list[list[float]]
    """4×4 similarity from the normalized world to the frame of the input."""
    notes: list[str]
    up: list[float] = field(default_factory=lambda: [0.0, 0.0, 1.0])
    """The upward direction of the frame of the input, for exports."""


@dataclass(frozen=True)
class CaptureRecord:
    """The photos of an input, with which a scene is evaluated, and how they were read."""

    path: str
    """Empty for photos passed in Python."""
    name: str
    fingerprint: str
    options: CaptureOptions
    train_views: int
    test_views: int
    split_rule: str


@dataclass(frozen=True)
class RunRecord:
    """The content of ``run.json``."""

    recipe: str
    preset: str | None
    config: Mapping[str, Any]
    seed: int
    device: str
    device_name: str
    versions: Mapping[str, str]
    input: InputRecord
    capture: CaptureRecord | None
    """None for an input without photos."""
    outcome: Outcome | None = None
    """None during the fit, or after it was killed."""
    planned_steps: int | None = None
    """Steps of the whole fit; for a budget in seconds alone, those of the preset; None if there is none."""
    steps: int = 0
    seconds: float = 0.0
    skipped_steps: int = 0
    peak_memory_mb: float | None = None
    timings: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Wall-clock seconds of the fit and of each output."""
    measures: tuple[Measure, ...] = ()
    """Numbers beyond ``metrics.json``: PSNR inside the mask, distances to a known truth."""
    remarks: list[str] = dataclasses.field(default_factory=list)
    """Sentences about unexpected results."""
    failed: list[Output] = dataclasses.field(default_factory=list)
    """Outputs that could not be written; ``remarks`` says why."""

    @property
    def is_finished(self) -> bool:
        """Whether the fit is finished; otherwise the same command resumes it."""
        return self.outcome not in (None, "interrupted")


@dataclass(frozen=True)
class HistoryLine:
    """One line of ``history.jsonl``."""

    step: int
    fraction: float
    seconds: float
    psnr: float | None
    counts: Mapping[str, int]
    losses: Mapping[str, float | None]
    phase: str = ""
    """Name of the phase; empty for a recipe with one phase."""
    held_out_psnr: float | None = None


@dataclass(frozen=True)
class PhaseSpan:
    """Time range of a phase."""

    name: str
    start: float
    """Seconds of training."""
    last: HistoryLine


def phases_of(lines: Sequence[HistoryLine]) -> list[PhaseSpan]:
    """Return the phases of a fit in order; none for a fit in a single phase."""
    spans: list[PhaseSpan] = []
    for line in lines:
        if spans and spans[-1].name == line.phase:
            spans[-1] = dataclasses.replace(spans[-1], last=line)
        else:
            spans.append(PhaseSpan(line.phase, spans[-1].last.seconds if spans else 0.0, line))
    return spans if len(spans) > 1 else []


@dataclass(frozen=True)
class RunDirectory:
    """Paths and files of one run."""

    path: Path

    @property
    def record_file(self) -> Path:
        return self.path / "run.json"

    @property
    def history_file(self) -> Path:
        return self.path / "history.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.json"

    @property
    def train_metrics_file(self) -> Path:
        return self.path / "metrics_train.json"

    @property
    def renders(self) -> Path:
        return self.path / "renders"

    @property
    def cameras_file(self) -> Path:
        return self.path / "cameras" / "transforms.json"

    @property
    def environment_file(self) -> Path:
        return self.path / "environment.hdr"

    @property
    def video_file(self) -> Path:
        return self.path / "video.mp4"

    @property
    def prediction_file(self) -> Path:
        return self.path / "prediction.png"

    @property
    def comparison_file(self) -> Path:
        return self.path / "comparison.png"

    @property
    def report_file(self) -> Path:
        return self.path / "report.html"

    @property
    def viewer_file(self) -> Path:
        return self.path / "viewer.html"

    @property
    def before(self) -> RunDirectory:
        """The run that ends before the last phase, kept if that phase fits the photos worse."""
        return RunDirectory(self.path / "before")

    def mesh_file(self, suffix: str) -> Path:
        """Return the file of the surface in one of the mesh formats."""
        return self.path / f"mesh.{suffix}"

    def stage_file(self, seconds: int) -> Path:
        """Return the file of the picture taken at this training time."""
        return self.renders / f"progress_{seconds:03d}s.png"

    def stages(self) -> list[int]:
        """List the training times of the pictures, in order."""
        names = (re.fullmatch(r"progress_(\d+)s\.png", file.name) for file in self.renders.glob("progress_*s.png"))
        return sorted(int(name.group(1)) for name in names if name is not None)

    def drop_stages(self, after: float) -> None:
        """Remove the pictures that a fit resumed at this training time will take again."""
        for seconds in self.stages():
            if seconds > after:
                self.stage_file(seconds).unlink(missing_ok=True)

    def prepare(self) -> None:
        """Make the folder, check that it is writable, and remove what a killed process left half written.

        Raises:
            OutputFolderError: the path is a file, the folder cannot be made or written, or its disk is nearly full.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path, prefix=".unrender-", suffix=".partial") as probe:
                probe.write(b"\0" * 65536)
                probe.flush()
                os.fsync(probe.fileno())
            free = shutil.disk_usage(self.path).free
        except FileExistsError as error:
            raise OutputFolderError(f"{self.path} is a file, not a folder; choose another output folder with --out") from error
        except OSError as error:
            raise OutputFolderError(
                f"cannot write to the output folder {self.path} ({error.strerror or error}); choose another one with --out"
            ) from error
        if free < SMALLEST_FREE_SPACE:
            raise OutputFolderError(
                f"only {free / 2**20:.0f} MB are free where {self.path} lies and a run may need {SMALLEST_FREE_SPACE / 2**20:.0f} MB; "
                "make room or choose another output folder with --out"
            )
        for folder in (self.path, self.checkpoints, self.renders, *self.renders.glob("*/")):
            remove_partials(folder)

    def remove_if_empty(self) -> None:
        """Undo :meth:`prepare` if nothing was written."""
        with contextlib.suppress(OSError):  # it is not empty, or gone
            self.path.rmdir()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder against other processes inside the block; the lock ends with the process.

        Raises:
            OutputFolderError: another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise OutputFolderError(f"another process is fitting into {self.path}; wait for it to end or choose another --out") from None
        try:
            yield
        finally:
            lock.release()

    def is_foreign(self) -> bool:
        """Tell whether the folder holds files but no run: writing into it could overwrite something else."""
        if not self.path.is_dir() or self.record_file.exists():
            return False
        return any(not name.startswith(".") for name in os.listdir(self.path))

    def read_record(self) -> RunRecord:
        """Read ``run.json``.

        Raises:
            FileNotFoundError: the folder holds no run.
            ValueError: the file is not one of ours.
        """
        if not self.record_file.is_file():
            raise FileNotFoundError(f"{self.path} holds no run (there is no run.json in it); give the folder that `unrender fit` wrote")
        try:
            return config_from_json(RunRecord, json.loads(self.record_file.read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{self.record_file} cannot be read ({error}); was it edited, or written by another version?") from error

    def write_record(self, record: RunRecord) -> None:
        """Write ``run.json``."""
        write_json(self.record_file, config_to_json(record))

    def holds_results(self, outputs: Iterable[OutputFiles]) -> bool:
        """Tell whether the folder has a checkpoint or an output, which took time to make."""
        made = any(file.exists() for output in outputs for file in output.files(self))
        return made or any(self.checkpoints.glob("step_*.json"))

    def clear(self, outputs: Iterable[OutputFiles]) -> None:
        """Remove the files of an earlier run and its outputs, and nothing else."""
        self.clear_outputs(outputs)
        for folder in (self.checkpoints, self.renders, self.before.path):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.history_file, self.record_file):
            file.unlink(missing_ok=True)

    def clear_outputs(self, outputs: Iterable[OutputFiles]) -> None:
        """Remove the outputs of a fit that goes on."""
        for file in (file for output in outputs for file in output.files(self)):
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not there, or something else is in it
            self.cameras_file.parent.rmdir()

    def append_history(self, line: HistoryLine) -> None:
        """Add a line to ``history.jsonl``, or nothing.

        Raises:
            OSError: the disk is full.
        """
        data = (json.dumps(dataclasses.asdict(line), allow_nan=False) + "\n").encode("utf-8")
        with self.history_file.open("ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.history_file))
            except OSError:
                file.truncate(size)  # part of a line would spoil the next one
                raise

    def read_history(self) -> list[HistoryLine]:
        """Read all complete lines; one that a kill cut off is left out."""
        if not self.history_file.exists():
            return []
        lines: list[HistoryLine] = []
        for text in self.history_file.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, TypeError):
                lines.append(HistoryLine(**json.loads(text)))
        return lines

    def truncate_history(self, step: int) -> None:
        """Keep the lines up to and including ``step``, which a resumed fit does not report again."""
        kept = [line for line in self.read_history() if line.step <= step]
        if not kept:  # an empty file before run.json would be one of nobody, if that cannot be written
            self.history_file.unlink(missing_ok=True)
            return
        text = "".join(json.dumps(dataclasses.asdict(line), allow_nan=False) + "\n" for line in kept)
        write_bytes(self.history_file, text.encode("utf-8"))


def finite(value: float) -> float | None:
    """Return a number, or None for infinities and NaN, which JSON does not have.

    >>> finite(1.5), finite(float("inf"))
    (1.5, None)
    """
    return value if math.isfinite(value) else None


_LONGEST_NAME = 100
"""Longest name of an input that is part of a folder's name, in bytes."""


def default_folder(recipe: str, given: Path) -> Path:
    """Return the folder of a run for which none was chosen: ``runs/RECIPE-INPUT``.

    >>> default_folder("neus", Path("photos/fox")).as_posix()
    'runs/neus-fox'
    """
    return Path("runs") / f"{recipe}-{input_name(given)}"


def input_name(given: Path) -> str:
    """Return the name of an input in the names of folders.

    A long name is cut and gets eight letters of its hash, so that other files fit beside it.
    """
    resolved = given.resolve()
    name = resolved.stem if resolved.is_file() else resolved.name
    data = os.fsencode(name)
    if len(data) > _LONGEST_NAME:
        name = f"{data[: _LONGEST_NAME - 9].decode('utf-8', 'ignore')}-{hashlib.sha256(data).hexdigest()[:8]}"
    return name


def differences(there: RunRecord, here: RunRecord) -> list[str]:
    """List the differences of two runs, one phrase each; empty if the second may resume the first.

    The device, the versions, the path of the input and the budget may change; recipe, other settings, seed and input may not.
    """
    if there.recipe != here.recipe:
        return [f"recipe is {there.recipe} there, {here.recipe} here"]
    old, new = _decisive(there), _decisive(here)
    names = sorted(old.keys() | new.keys())
    unlike = [name for name in names if old.get(name) != new.get(name)]
    phrases = [f"{name} is {old.get(name, 'absent')} there, {new.get(name, 'absent')} here" for name in unlike]
    if there.input.fingerprint != here.input.fingerprint:
        phrases.append(f"the {_CONTENT[here.input.kind]} not the same")
    return phrases


_CONTENT: Mapping[InputName, str] = {
    "capture": "photos or poses are",
    "picture": "picture is",
    "mesh": "mesh is",
    "run": "run it starts from is",
    "capture|run": "photos, poses or run are",
}


def _decisive(record: RunRecord) -> dict[str, Any]:
    """Collect the settings that decide a result, by name."""
    settings = _flatten({name: value for name, value in record.config.items() if name not in BUDGET}) | {"seed": record.seed}
    if record.capture is not None:
        # Where images are kept does not change the result, nor where the normal maps are: the fingerprint covers their content.
        options = record.capture.options
        options = dataclasses.replace(options, memory=None, normal_maps=None if options.normal_maps is None else Path("normal maps"))
        settings |= _flatten(config_to_json(options))
    return settings


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat

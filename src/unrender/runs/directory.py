"""The folder of one run: what was asked, how far it got, and what came out.

===================  ==========================================================================================
``run.json``         recipe, full configuration, versions, seed, device, capture, split, outcome, timings
``history.jsonl``    one line per report of the running fit: step, seconds, PSNR, losses
``checkpoints/``     the last two, see :mod:`unrender.runs.checkpoints`
``metrics.json``     PSNR and SSIM of the held-out views
``renders/``         every held-out view: color, depth, normal; one view on its way there, as ``progress_060s.png``
``mesh.ply, .glb``   the surface, in the frame the poses came in
``video.mp4``        an orbit
``report.html``      all of it on one page
``.lock``            held while a process fits into the folder
===================  ==========================================================================================
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from unrender.files.atomic import write_bytes, write_json
from unrender.runs.measures import Measure

SMALLEST_FREE_SPACE = 256 * 2**20
"""Bytes a run may need: two checkpoints, two meshes, a video, the pictures."""

C = TypeVar("C")


class OutputFolderError(OSError):
    """The output folder cannot be written, is full, or belongs to something else."""


@dataclass(frozen=True)
class CaptureRecord:
    """Which photos were fitted and how they were read."""

    path: str
    name: str
    fingerprint: str
    options: Mapping[str, Any]
    """Those given to the reader: downscale, center, radius, up, normals, test_every, use_masks."""
    train_views: int
    test_views: int
    split_rule: str
    source_from_world: list[list[float]]
    """4×4 similarity from the normalized world back to the frame the poses came in."""
    notes: list[str]


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
    capture: CaptureRecord
    outcome: str | None = None
    """None while the fit is under way, or after it was killed."""
    steps: int = 0
    seconds: float = 0.0
    skipped_steps: int = 0
    peak_memory_mb: float | None = None
    timings: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Wall-clock seconds of what is not training: evaluation, mesh, video."""
    measures: tuple[Measure, ...] = ()
    """Numbers beyond ``metrics.json``: PSNR inside the mask, distances to a known truth."""
    remarks: list[str] = dataclasses.field(default_factory=list)
    """Sentences about what came out otherwise than one would expect."""


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
    def video_file(self) -> Path:
        return self.path / "video.mp4"

    @property
    def report_file(self) -> Path:
        return self.path / "report.html"

    def mesh_file(self, suffix: str) -> Path:
        return self.path / f"mesh.{suffix}"

    def stage_file(self, seconds: int) -> Path:
        """The picture of the fit after so many seconds of training."""
        return self.renders / f"progress_{seconds:03d}s.png"

    def stages(self) -> list[int]:
        """Seconds of training at which there are pictures, in order."""
        names = (re.fullmatch(r"progress_(\d+)s\.png", file.name) for file in self.renders.glob("progress_*s.png"))
        return sorted(int(name.group(1)) for name in names if name is not None)

    def drop_stages(self, after: float) -> None:
        """Removes the pictures a fit that goes on after so many seconds of training has yet to take."""
        for seconds in self.stages():
            if seconds > after:
                self.stage_file(seconds).unlink(missing_ok=True)

    def prepare(self) -> None:
        """Makes the folder and tries it out by writing to it, so that a fit does not end in a folder that takes nothing.

        Raises:
            OutputFolderError: when the path is a file, the folder cannot be made or written, or its disk is nearly full.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_bytes(self.path / ".unrender-probe", b"\0" * 65536)
            (self.path / ".unrender-probe").unlink()
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

    def remove_if_empty(self) -> None:
        """Takes back :meth:`prepare` where nothing was written."""
        if self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other processes from fitting into this folder meanwhile; the system lets go of it when the process ends, however it does.

        Raises:
            OutputFolderError: when another process holds it.
        """
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
        """Whether the folder holds files but no run, so that writing into it could overwrite something else."""
        if not self.path.is_dir() or self.record_file.exists():
            return False
        return any(not name.startswith(".") for name in os.listdir(self.path))

    def read_record(self) -> RunRecord:
        """Reads ``run.json``.

        Raises:
            FileNotFoundError: when the folder holds no run.
            ValueError: when the file is not one of ours.
        """
        if not self.record_file.is_file():
            raise FileNotFoundError(f"{self.path} holds no run (there is no run.json in it); give the folder that `unrender fit` wrote")
        try:
            return config_from_json(RunRecord, json.loads(self.record_file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.record_file} cannot be read ({error}); was it written by another version?") from error

    def write_record(self, record: RunRecord) -> None:
        write_json(self.record_file, config_to_json(record))

    def clear(self) -> None:
        """Removes the files of an earlier run, and nothing else."""
        for folder in (self.checkpoints, self.renders):
            shutil.rmtree(folder, ignore_errors=True)
        files = [self.history_file, self.metrics_file, self.train_metrics_file, self.video_file, self.report_file]
        files += [self.mesh_file(suffix) for suffix in ("ply", "obj", "glb")] + [self.record_file]
        for file in files:
            file.unlink(missing_ok=True)

    def append_history(self, line: HistoryLine) -> None:
        with self.history_file.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(dataclasses.asdict(line), allow_nan=False) + "\n")

    def read_history(self) -> list[HistoryLine]:
        """All whole lines; one that was cut off by a kill ends the list."""
        if not self.history_file.exists():
            return []
        lines: list[HistoryLine] = []
        for text in self.history_file.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(HistoryLine(**json.loads(text)))
            except (ValueError, TypeError):
                break
        return lines

    def truncate_history(self, step: int) -> None:
        """Keeps what was reported up to and including ``step``: what a resumed fit does not report again."""
        kept = [line for line in self.read_history() if line.step <= step]
        text = "".join(json.dumps(dataclasses.asdict(line), allow_nan=False) + "\n" for line in kept)
        write_bytes(self.history_file, text.encode("utf-8"))


def finite(value: float) -> float | None:
    """The number, or None where JSON has no word for it.

    >>> finite(1.5), finite(float("inf"))
    (1.5, None)
    """
    return value if math.isfinite(value) else None


def differences(there: RunRecord, here: RunRecord) -> list[str]:
    """What makes two runs different runs, one phrase each; empty when the second may continue the first.

    The device, the versions and the capture's location may change; recipe, configuration, seed and photos may not.
    """
    phrases: list[str] = []
    if there.recipe != here.recipe:
        return [f"recipe is {there.recipe} there, {here.recipe} here"]
    old = _flatten(there.config) | {"seed": there.seed} | _flatten(there.capture.options)
    new = _flatten(here.config) | {"seed": here.seed} | _flatten(here.capture.options)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            phrases.append(f"{name} is {old.get(name, 'absent')} there, {new.get(name, 'absent')} here")
    if there.capture.fingerprint != here.capture.fingerprint:
        phrases.append("the photos or poses are not the same")
    return phrases


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def config_to_json(config: Any) -> Any:
    """A dataclass of plain values as what JSON can hold: tuples become lists, paths become text."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: config_to_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(name): config_to_json(value) for name, value in config.items()}
    if isinstance(config, str | bool | int | float | None):
        return config
    if isinstance(config, Iterable):
        return [config_to_json(value) for value in config]
    return str(config)


def config_from_json(kind: type[C], values: Mapping[str, Any]) -> C:
    """The inverse of :func:`config_to_json` for the dataclass ``kind``; missing fields take their defaults.

    Raises:
        ValueError: for a field ``kind`` does not have, or a value it refuses.
        TypeError: when a field without a default is missing.
    """
    known = {f.name for f in dataclasses.fields(typing.cast(Any, kind)) if f.init}
    unknown = sorted(values.keys() - known)
    if unknown:
        raise ValueError(f"{kind.__name__} has no field {unknown[0]!r}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _decode(hints[name], value) for name, value in values.items()})


def _decode(hint: Any, value: Any) -> Any:
    """``value`` as the type ``hint`` asks for, where JSON has lost it."""
    if value is None:
        return None
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        if len(options) == 1:
            return _decode(options[0], value)
        wanted = tuple if isinstance(value, list) else type(value)
        return next((_decode(option, value) for option in options if (typing.get_origin(option) or option) is wanted), value)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return config_from_json(hint, value)
    if origin is tuple and isinstance(value, list):
        arguments = typing.get_args(hint)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_decode(arguments[0], item) for item in value)
        return tuple(_decode(argument, item) for argument, item in zip(arguments, value, strict=True))
    if hint is float and isinstance(value, int):
        return float(value)
    if isinstance(hint, type) and issubclass(hint, Path):
        return Path(value)
    return value

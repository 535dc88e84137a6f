from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from unrender.captures.options import CaptureOptions
from unrender.runs.config_json import config_from_json, config_to_json
from unrender.runs.directory import (
    CaptureRecord,
    HistoryLine,
    InputRecord,
    OutputFolderError,
    RunDirectory,
    RunRecord,
    differences,
)
from unrender.runs.measures import Measure
from unrender.runs.outputs import WRITERS


@dataclass(frozen=True)
class Inner:
    weight: float = 0.1
    over: tuple[int, int] = (0, 5)


@dataclass(frozen=True)
class Coarse:
    cells: int = 8
    weight: float = 0.1


@dataclass(frozen=True)
class Fine:
    cells: int = 8
    weight: float = 0.1
    levels: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Config:
    steps: int = 10
    max_seconds: float | None = None
    background: Literal["random", "white"] = "random"
    layers: tuple[int, ...] = (64, 64)
    inner: Inner = Inner()
    maybe: Inner | None = None
    folder: Path | None = None
    field: Coarse | Fine | None = Fine()
    flags: dict[str, float] = dataclasses.field(default_factory=dict)


RECORD = RunRecord(
    recipe="neus",
    preset="cpu",
    config=config_to_json(Config()),
    seed=0,
    device="cpu",
    device_name="a processor",
    versions={"torch": "2.13"},
    input=InputRecord(
        kind="capture", path="/photos", name="photos", fingerprint="abc", source_from_world=torch.eye(4).tolist(), notes=["a note"]
    ),
    capture=CaptureRecord(
        path="/photos",
        name="photos",
        fingerprint="abc",
        options=CaptureOptions(center=(0.0, 1.0, 2.5), up="-y", normal_maps=Path("/normals")),
        train_views=7,
        test_views=1,
        split_rule="every 8th view is held out",
    ),
)

assert RECORD.capture is not None
CAPTURE = RECORD.capture


def line(step: int) -> HistoryLine:
    return HistoryLine(step, step / 10, step / 5, None if step == 1 else 20.0, {"rays": 100}, {"rgb": 0.1}, "surface" if step > 2 else "")


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(steps=3, max_seconds=60.0, background="white", layers=(), inner=Inner(0.5, (1, 2))),
        Config(field=Coarse(cells=3)),
        Config(field=Fine(levels=()), maybe=Inner(2.0)),
        Config(field=None),
        Config(maybe=Inner(2.0), folder=Path("a/b"), flags={"x": 1.0}, layers=(1, 2, 3)),
    ],
)
def test_a_config_survives_json(config: Config, tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.write_record(replace(RECORD, config=config_to_json(config)))
    assert config_from_json(Config, directory.read_record().config) == config


def test_the_member_of_a_union_is_the_one_whose_fields_fit() -> None:
    assert config_from_json(Config, {"field": {"levels": [3]}}).field == Fine(levels=(3,))
    assert config_from_json(Config, {"field": {"cells": 3}}).field == Coarse(cells=3)
    with pytest.raises(ValueError, match="none of Coarse, Fine has the fields depth"):
        config_from_json(Config, {"field": {"depth": 3}})


def test_an_unknown_field_of_a_config_is_named() -> None:
    with pytest.raises(ValueError, match="Config has no field 'stepz'"):
        config_from_json(Config, {"stepz": 3})


def test_a_record_survives_json(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    record = replace(RECORD, outcome="finished", timings={"fit": 1.5}, measures=(Measure("Chamfer", 0.25, "%"),), remarks=["odd"])
    directory.write_record(record)
    assert directory.read_record() == record


def test_runs_that_differ_only_in_place_and_versions_are_the_same_run() -> None:
    capture = replace(CAPTURE, path="/elsewhere", options=replace(CAPTURE.options, memory=2**30, normal_maps=Path("/moved")))
    config = config_to_json(Config(steps=9, max_seconds=3.0))
    moved = replace(RECORD, device="other", versions={}, input=replace(RECORD.input, path="/elsewhere"), capture=capture, config=config)
    assert differences(RECORD, moved) == []


@pytest.mark.parametrize(
    ("there", "phrase"),
    [
        (replace(RECORD, seed=3), "seed is 3 there, 0 here"),
        (replace(RECORD, recipe="nerf"), "recipe is nerf there, neus here"),
        (replace(RECORD, config=config_to_json(Config(background="white"))), "background is white there, random here"),
        (replace(RECORD, config=config_to_json(Config(inner=Inner(weight=0.2)))), "inner.weight is 0.2 there, 0.1 here"),
        (replace(RECORD, input=replace(RECORD.input, fingerprint="xyz")), "the photos or poses are not the same"),
        (replace(RECORD, capture=replace(CAPTURE, options=replace(CAPTURE.options, downscale=2))), "downscale is 2 there, 1 here"),
    ],
)
def test_what_makes_another_run_is_said(there: RunRecord, phrase: str) -> None:
    assert differences(there, RECORD) == [phrase]


def test_history_is_cut_at_the_step_a_fit_resumes_from(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    for step in (1, 2, 3, 4):
        directory.append_history(line(step))
    directory.truncate_history(2)
    directory.append_history(line(3))
    assert directory.read_history() == [line(1), line(2), line(3)]


def test_a_history_line_cut_off_by_a_kill_is_dropped(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.append_history(line(1))
    directory.append_history(line(2))
    text = directory.history_file.read_text()
    directory.history_file.write_text(text[:-20])
    assert directory.read_history() == [line(1)]
    directory.truncate_history(100)
    directory.append_history(line(2))
    assert directory.read_history() == [line(1), line(2)]


def test_an_output_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    for path in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(OutputFolderError, match="choose another"):
            RunDirectory(path).prepare()


def unwritable_folder(tmp_path: Path) -> Path:
    """A folder this process may not write to; for the superuser, whom no permission stops, one of the kernel's."""
    if os.geteuid() == 0:
        return Path("/proc/sys")
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o500)
    return folder


@pytest.mark.skipif(not Path("/proc/sys").is_dir(), reason="needs a Linux machine")
def test_a_read_only_output_folder_is_refused(tmp_path: Path) -> None:
    for path in (unwritable_folder(tmp_path), unwritable_folder(tmp_path) / "run") if os.geteuid() == 0 else (unwritable_folder(tmp_path),):
        with pytest.raises(OutputFolderError, match=r"cannot write to the output folder .* choose another one with --out"):
            RunDirectory(path).prepare()


def test_a_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=3 * 2**20))
    with pytest.raises(OutputFolderError, match="only 3 MB are free where .* a run may need 256 MB; make room"):
        RunDirectory(tmp_path).prepare()


def test_prepare_leaves_nothing_behind(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "a" / "b").prepare()
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_of_something_else_is_foreign(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    assert not directory.is_foreign()
    (tmp_path / ".hidden").write_text("")
    assert not directory.is_foreign()
    (tmp_path / "thesis.tex").write_text("")
    assert directory.is_foreign()
    directory.write_record(RECORD)
    assert not directory.is_foreign()


def test_clear_removes_a_run_and_nothing_else(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.write_record(RECORD)
    directory.append_history(line(1))
    directory.checkpoints.mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    for file in (file for writer in WRITERS for file in writer.files(directory)):
        file.parent.mkdir(exist_ok=True)
        file.write_text("made by a run")
    directory.clear(WRITERS)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no run"):
        RunDirectory(tmp_path).read_record()


@pytest.mark.parametrize("content", ["{", '{"recipe": "neus"}', '{"color": 3}'])
def test_a_broken_record_is_named(tmp_path: Path, content: Any) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json cannot be read"):
        RunDirectory(tmp_path).read_record()


def test_a_folder_another_process_fits_into_is_refused(tmp_path: Path) -> None:
    holder = "import sys; from pathlib import Path; from unrender.runs.directory import RunDirectory\n"
    holder += "with RunDirectory(Path(sys.argv[1])).held(): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", holder, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(OutputFolderError, match="another process is fitting"), RunDirectory(tmp_path).held():
            pass
        process.kill()
    with RunDirectory(tmp_path).held():
        pass
    assert not RunDirectory(tmp_path).is_foreign()

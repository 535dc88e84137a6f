from __future__ import annotations

import inspect
import json
from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image

from tiny_captures import SIZE, write_transforms
from unrender.captures import load_capture
from unrender.captures.load import read_capture
from unrender.captures.options import CaptureOptions


def test_the_function_and_the_options_have_the_same_names_and_defaults() -> None:
    parameters = {name: p.default for name, p in inspect.signature(load_capture).parameters.items() if name != "path"}
    assert parameters == {field.name: field.default for field in fields(CaptureOptions)}


def test_options_come_back_from_json(tmp_path: Path) -> None:
    options = CaptureOptions(downscale=3, up=(0.0, 1.0, 0.0), normal_maps=tmp_path, masks="ignore", principal_shift=(0.5, 0.5), memory=10)
    assert CaptureOptions.from_json(json.loads(json.dumps(options.as_json()))) == options
    assert CaptureOptions().as_json() == {}
    with pytest.raises(TypeError, match="upscale"):
        CaptureOptions.from_json({"upscale": 2})


def test_a_capture_is_the_same_however_its_options_are_given(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "ball")
    here = load_capture(folder, downscale=2, up="y")
    assert read_capture(folder, CaptureOptions(downscale=2, up="y")).fingerprint == here.fingerprint
    assert load_capture(folder, downscale=2, up="z").fingerprint != here.fingerprint


def test_a_capture_is_the_same_however_its_folders_are_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_transforms(tmp_path / "ball")
    (folder / "normals").mkdir()
    Image.new("RGB", SIZE, (128, 128, 255)).save(folder / "normals" / "000.png")
    monkeypatch.chdir(tmp_path)
    spellings = [(Path("ball"), Path("ball/normals")), (folder, Path("ball/normals")), (folder, folder / "normals")]
    assert len({load_capture(path, normal_maps=normals).fingerprint for path, normals in spellings}) == 1

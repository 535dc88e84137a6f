from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny_captures import write_transforms
from unrender.captures import load_capture
from unrender.captures.capture import Capture, CaptureError
from unrender.captures.options import CaptureOptions

GONE = ("images/002.png", "images/004.png", "images/005.png")


def shortened(folder: Path, **keys: Any) -> Path:
    """A capture whose file does not name the photos that are gone."""
    write_transforms(folder, **keys)
    content = json.loads((folder / "transforms.json").read_text())
    content["frames"] = [frame for frame in content["frames"] if frame["file_path"] not in GONE]
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def assert_same(one: Capture, other: Capture) -> None:
    assert one.names == other.names
    assert (one.split.train, one.split.test) == (other.split.train, other.split.test)
    assert torch.equal(one.cameras.world_from_camera, other.cameras.world_from_camera)
    assert torch.equal(one.cameras.intrinsics, other.cameras.intrinsics)
    assert torch.equal(one.source_from_world, other.source_from_world)
    assert all(torch.equal(one.photos[view], other.photos[view]) for view in range(len(one.names)))


@pytest.mark.parametrize(
    "names", [("002", "00[45]"), ("002.png", "images/004.png", "005.p*"), GONE, ("002", "004", "005", "*005*")], ids=" ".join
)
@pytest.mark.parametrize("test_every", [0, 3, "llff"])
def test_photos_that_are_left_out_count_as_if_they_were_not_there(tmp_path: Path, names: tuple[str, ...], test_every: int) -> None:
    folder, short = write_transforms(tmp_path / "whole", alpha=True), shortened(tmp_path / "short", alpha=True)
    part = load_capture(folder, leave_out=names, test_every=test_every)
    assert_same(part, load_capture(short, test_every=test_every))
    assert part.fingerprint != load_capture(folder, test_every=test_every).fingerprint
    assert f"3 of the 9 photos are left out ({' '.join(names)})" in part.notes


def test_a_split_of_the_files_keeps_what_is_left_of_it(tmp_path: Path) -> None:
    train, test = ([f"images/{k:03d}.png" for k in views] for views in (range(6), (6, 7)))
    folder = write_transforms(tmp_path / "ball", train_filenames=train, test_filenames=test)
    part = load_capture(folder, leave_out=("001", "007"))
    assert [part.names[view] for view in part.split.train] == [f"images/{k:03d}.png" for k in (0, 2, 3, 4, 5)]
    assert [part.names[view] for view in part.split.test] == ["images/006.png"]


def test_a_photo_that_cannot_be_decoded_may_be_left_out(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "ball")
    photo = folder / "images" / "003.png"
    photo.write_bytes(photo.read_bytes()[:80])
    with pytest.raises(CaptureError, match=r"003\.png cannot be decoded.*--leave-out 003"):
        load_capture(folder)
    assert len(load_capture(folder, leave_out=("003",)).names) == 8


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (("012",), r"leave_out names 012, and no photo has that name; the nearest is images/0.2\.png"),
        (("*",), r"leave_out \(\*\) leaves no photo to fit; name fewer"),
        (("",), r"leave_out is .*; give a tuple of names of photos"),
        ("002", r"leave_out is .*; give a tuple of names of photos"),
    ],
)
def test_names_that_make_no_sense_are_refused(tmp_path: Path, names: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(CaptureError, match=sentence):
        load_capture(write_transforms(tmp_path / "ball"), leave_out=names)


def test_it_comes_back_from_json() -> None:
    options = CaptureOptions(leave_out=("002", "images/00*"))
    assert CaptureOptions.from_json(json.loads(json.dumps(options.as_json()))) == options

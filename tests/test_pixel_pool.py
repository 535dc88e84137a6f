"""Photos that exceed the memory they may take: decoded in the background, drawn from a pool, within the budget."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tiny_captures import write_llff, write_neus, write_transforms
from unrender.cameras import Cameras
from unrender.captures import photos
from unrender.captures.capture import Capture, CaptureError
from unrender.captures.check.checking import QUICK_VIEWS
from unrender.captures.filling import Filling
from unrender.captures.images import Images
from unrender.captures.load import load_capture
from unrender.captures.silhouettes import outlines, without_contradicting_masks
from unrender.recipes.pixels import PixelBatch, PixelSampler
from unrender.recipes.visual_hull import seen_cells
from unrender.runs.check_summary import decoded_soon, say_summary
from unrender.runs.display import Display

CPU = torch.device("cpu")


def jpegs(folder: Path, *, count: int = 12, size: tuple[int, int] = (40, 30)) -> Path:
    """A capture of JPEG photos without masks, of random colors in large blocks."""
    write_transforms(folder, count=count, listed="images/{:03d}.jpg", w=size[0], h=size[1], cx=size[0] / 2, cy=size[1] / 2)
    for view in range(count):
        (folder / "images" / f"{view:03d}.png").unlink()
        blocks = np.random.default_rng(view).integers(0, 256, (size[1] // 10, size[0] // 10, 3), dtype=np.uint8)
        photo = np.kron(blocks, np.ones((10, 10, 1), np.uint8))
        Image.fromarray(photo).save(folder / "images" / f"{view:03d}.jpg", quality=95)
    return folder


def colors_of(capture: Capture, batch: PixelBatch) -> torch.Tensor:
    photos = [capture.color(view) for view in range(len(capture))]
    places = batch.pixels.long()
    return torch.stack([photos[view][y, x] for view, (x, y) in zip(batch.views.tolist(), places.tolist(), strict=True)])


@pytest.fixture
def disk(tmp_path: Path) -> Capture:
    return load_capture(jpegs(tmp_path / "scan"), memory=1000)


def test_photos_on_disk_are_those_in_memory(disk: Capture, tmp_path: Path) -> None:
    memory = load_capture(tmp_path / "scan")
    assert disk.photos.on_disk and disk.photos.waits and not memory.photos.on_disk
    assert all(torch.equal(a, b) for a, b in zip(disk.photos, memory.photos, strict=True))
    assert (disk.notes[:-1], disk.fingerprint, disk.split) == (memory.notes, memory.fingerprint, memory.split)


def test_drawn_pixels_are_those_of_the_photos_and_of_every_view(disk: Capture) -> None:
    sampler, generator, seen = PixelSampler(disk, CPU), torch.Generator().manual_seed(0), set[int]()
    for _ in range(40):
        batch = sampler.draw(64, generator)
        torch.testing.assert_close(batch.color, colors_of(disk, batch))
        torch.testing.assert_close(batch.rays.directions, disk.cameras.rays(batch.views, batch.pixels).directions)
        seen |= set(batch.views.tolist())
    assert seen == set(disk.split.train)


def test_all_pixels_of_a_view_are_drawn_in_the_end(disk: Capture) -> None:
    one = replace(disk, split=replace(disk.split, train=(3,)), photos=replace(disk.photos, spare=2**16))
    sampler, generator = PixelSampler(one, CPU), torch.Generator().manual_seed(0)
    drawn = torch.cat([sampler.draw(2000, generator).pixels for _ in range(60)])
    assert len(drawn.unique(dim=0)) > 0.98 * 40 * 30


def test_a_sampler_restored_draws_the_same_pixels(disk: Capture) -> None:
    for stop in (1, 3, 30):
        whole, generator = PixelSampler(disk, CPU), torch.Generator().manual_seed(0)
        for _ in range(stop):
            whole.draw(16, generator)
        again, same = PixelSampler(disk, CPU), torch.Generator()
        again.load_state_dict(whole.state_dict())
        same.set_state(generator.get_state())
        for _ in range(8):
            a, b = whole.draw(16, generator), again.draw(16, same)
            assert torch.equal(a.color, b.color) and torch.equal(a.pixels, b.pixels) and torch.equal(a.views, b.views)


def test_averaged_and_ignored_pixels_are_those_of_the_sampler_in_memory(disk: Capture, tmp_path: Path) -> None:
    ignored = Images.stacked(torch.rand(12, 30, 40, generator=torch.Generator().manual_seed(0)) < 0.3)
    ignored[disk.split.train[0]][:] = True  # no pixel of this view counts
    on_disk = replace(disk, ignored=ignored)
    small = load_capture(tmp_path / "scan", downscale=2)
    sampler, generator = PixelSampler(on_disk, CPU, downscale=2), torch.Generator().manual_seed(0)
    for _ in range(12):
        batch = sampler.draw(64, generator)
        torch.testing.assert_close(batch.color, colors_of(small, batch))
        assert disk.split.train[0] not in batch.views.tolist()
        for view, (x, y) in zip(batch.views.tolist(), batch.pixels.long().tolist(), strict=True):
            assert not bool(ignored[view][2 * y : 2 * y + 2, 2 * x : 2 * x + 2].any())
    everything = Images.stacked(torch.ones(12, 30, 40, dtype=torch.bool))
    with pytest.raises(ValueError, match="nothing to fit"):
        PixelSampler(replace(disk, ignored=everything), CPU).draw(4, generator)


def test_a_damaged_photo_is_named_when_it_is_needed(tmp_path: Path) -> None:
    folder = jpegs(tmp_path / "scan")
    file = folder / "images" / "005.jpg"
    file.write_bytes(file.read_bytes()[:-200])
    capture = load_capture(folder, memory=1000)
    assert capture.photos[4].shape == (30, 40, 4)
    with pytest.raises(CaptureError, match=r"005\.jpg"):
        capture.photos[5]


@pytest.mark.parametrize(("mode", "suffix"), [("RGB", "png"), ("L", "png"), ("P", "png"), ("RGB", "webp"), ("RGB", "tiff"), ("RGB", "bmp")])
def test_photos_of_other_formats_without_alpha_are_decoded_in_the_background(tmp_path: Path, mode: str, suffix: str) -> None:
    folder = write_transforms(tmp_path / "scan", listed=f"images/{{:03d}}.{suffix}")
    for file in sorted((folder / "images").iterdir()):
        with Image.open(file) as photo:
            pixels = photo.convert("RGB").convert(mode)
        file.unlink()
        pixels.save(file.with_suffix(f".{suffix}"))
    disk, memory = load_capture(folder, memory=1000), load_capture(folder)
    assert disk.photos.waits and not memory.photos.on_disk
    assert all(torch.equal(a, b) for a, b in zip(disk.photos, memory.photos, strict=True))


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_photos_with_a_transparent_color_are_those_in_memory(tmp_path: Path, mode: str) -> None:
    folder = write_transforms(tmp_path / "scan")
    for file in sorted((folder / "images").iterdir()):
        with Image.open(file) as photo:
            pixels = photo.convert("RGB").convert(mode)
        pixels.save(file, transparency=pixels.getpixel((0, 0)))
    assert_alike(load_capture(folder, memory=1000), load_capture(folder))


def test_the_check_before_a_fit_waits_for_a_few_photos_only(tmp_path: Path) -> None:
    capture = load_capture(jpegs(tmp_path / "scan", count=50), memory=1000)
    asked: list[int] = []

    def wait(view: int) -> None:
        asked.append(view)
        capture.photos.waits[view]()

    watched = replace(capture, photos=replace(capture.photos, waits=tuple(partial(wait, view) for view in range(50))))
    say_summary(watched, Display.quiet())
    assert len(set(asked)) == QUICK_VIEWS and {0, 49} <= set(asked)
    assert decoded_soon(load_capture(tmp_path / "scan"), QUICK_VIEWS).photos.count == 50 * 40 * 30


def assert_alike(disk: Capture, memory: Capture) -> None:
    assert disk.photos.on_disk and disk.photos.waits and not memory.photos.on_disk
    assert all(torch.equal(a, b) for a, b in zip(disk.photos, memory.photos, strict=True))
    assert disk.has_masks == memory.has_masks and torch.equal(disk.source_from_world, memory.source_from_world)
    assert (disk.ignored is None) == (memory.ignored is None)
    if disk.ignored is not None and memory.ignored is not None:
        assert all(torch.equal(a, b) for a, b in zip(disk.ignored, memory.ignored, strict=True))


def with_inverted_masks(folder: Path) -> Path:
    write_llff(folder)
    for file in (folder / "masks").iterdir():
        Image.fromarray(255 - np.array(Image.open(file))).save(file)
    return folder


MASKED: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "alpha": (lambda folder: write_transforms(folder, alpha=True), {}),
    "alpha that leaves out": (lambda folder: write_transforms(folder, alpha=True), {"masks": "ignore"}),
    "mask files": (write_neus, {}),
    "mask files, smaller": (write_llff, {"downscale": 2}),
    "mask files that leave out": (write_neus, {"masks": "ignore"}),
    "mask files, not used": (write_llff, {"masks": "none"}),
    "inverted": (with_inverted_masks, {}),
    "a transparent color": (lambda folder: write_transforms(folder, black_transparent=True), {}),
}


@pytest.mark.parametrize("kind", MASKED)
def test_photos_with_masks_on_disk_are_those_in_memory(tmp_path: Path, kind: str) -> None:
    write, options = MASKED[kind]
    folder = write(tmp_path / "scan")
    assert_alike(load_capture(folder, memory=1000, **options), load_capture(folder, **options))


def test_a_fit_within_masks_waits_for_some_photos_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OnDemand(Filling):
        def __init__(self, fill: Callable[[int], object], count: int, threads: int, first: Sequence[int] = ()) -> None:
            needed.extend(first)
            super().__init__(lambda view: (filled.append(view), fill(view)), count, threads=0)

    filled, needed = list[int](), list[int]()
    monkeypatch.setattr(photos, "Filling", OnDemand)
    capture = load_capture(write_llff(tmp_path / "scan", count=90), memory=1000)
    hull = seen_cells(without_contradicting_masks(capture), 32, CPU, within_masks=True).seen
    # 40, and where types are checked one or another at random, whose number depends on the calls
    assert capture.has_masks and 0 < len(filled) == len(set(filled)) <= 60
    assert len(needed) == 40 and set(needed) <= set(filled)
    every = seen_cells(load_capture(tmp_path / "scan"), 32, CPU, within_masks=True).seen
    assert bool((hull | ~every).all()) and float(hull.float().mean()) < 1.5 * float(every.float().mean())


def test_masks_of_large_photos_on_disk_are_averaged_before_they_carve() -> None:
    sizes = torch.tensor([[2400, 1800]] * 3)
    stored = Images.empty(sizes, (4,), torch.uint8, on_disk=True)
    stored.pixels.fill_(255)
    stored[1][:900, :, 3] = 0
    cameras = Cameras.alike(torch.eye(4).repeat(3, 1, 1), torch.tensor([[2000.0, 2000.0, 1200.0, 900.0]] * 3), None, 2400, 1800)
    pictures = torch.zeros(3, 1800, 2400, 3, dtype=torch.uint8)
    capture = replace(Capture.from_tensors(pictures, cameras, masks=pictures[..., 0]), photos=stored)
    small, masks = outlines(capture)
    assert small.sizes.tolist() == [[1200, 900]] * 3 and all(mask is not None and mask.shape == (900, 1200) for mask in masks)
    assert masks[1] is not None and int(masks[1][:450].max()) == 0 and int(masks[1][450:].min()) == 255


def test_what_is_needed_first_is_filled_by_the_thread_that_needs_it() -> None:
    by: dict[int, str] = {}
    gate = threading.Event()

    def fill(number: int) -> None:
        by[number] = threading.current_thread().name
        if number == 0:
            gate.wait(10)

    filling = Filling(fill, 3, threads=1)
    filling.wait(2)
    gate.set()
    for wait in filling.waits:
        wait()
    assert by[2] == threading.current_thread().name and len(by) == 3


def test_what_is_needed_before_the_others_is_filled_first() -> None:
    filled, done = list[int](), threading.Event()

    def fill(number: int) -> None:
        filled.append(number)
        if len(filled) == 5:
            done.set()

    Filling(fill, 5, threads=1, first=(3, 1))
    assert done.wait(10) and filled == [3, 1, 0, 2, 4]


SCRIPT = """
import sys, torch
from unrender.captures.load import load_capture
from unrender.recipes.pixels import PixelSampler

def used():
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return [1024 * int(lines[kind].split()[0]) for kind in ("RssAnon", "VmRSS")]

folder, budget = sys.argv[1], int(sys.argv[2])
load_capture(folder, downscale=50, memory=2**30)  # what decoders need once
before = used()
capture = load_capture(folder, memory=budget)
sampler, generator, most = PixelSampler(capture, torch.device("cpu")), torch.Generator().manual_seed(0), before
for _ in range(60):
    sampler.draw(1024, generator)
    most = [max(pair) for pair in zip(most, used())]
print(*(after - first for after, first in zip(most, before)), capture.photos.pixels.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_budget_holds(tmp_path: Path) -> None:
    """Also for the pages of the file, as far as they count as memory of the process, besides those of code that is loaded meanwhile."""
    folder, budget = jpegs(tmp_path / "large", count=160, size=(640, 480)), 32 * 2**20
    result = subprocess.run([sys.executable, "-c", SCRIPT, str(folder), str(budget)], capture_output=True, text=True, check=True)
    grown, resident, stored = map(int, result.stdout.split())
    assert stored > 180 * 10**6 and grown < budget and resident < budget + 20 * 2**20

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest
import torch

from unrender.captures.errors import CaptureError
from unrender.captures.images import ImageMemory, Images, averaged
from unrender.captures.memory import bytes_of

SIZES = ((4, 3), (2, 5), (6, 2))


def ragged(channels: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(256, (height, width, channels), generator=generator, dtype=torch.uint8) for width, height in SIZES]


def test_images_come_back_as_they_were_put_in() -> None:
    given = ragged()
    images = Images.of(given)
    assert images.sizes.tolist() == [list(size) for size in SIZES] and images.count == 34
    assert all(torch.equal(image, one) for image, one in zip(images, given, strict=True))
    assert torch.equal(images[-1], given[2])
    with pytest.raises(IndexError, match="view 3"):
        images[3]


def test_an_image_is_a_view_of_the_storage() -> None:
    images = Images.of(ragged())
    images[1].fill_(7)
    assert bool((images.pixels[12:22] == 7).all()) and not bool((images.pixels[22:] == 7).all())
    stack = torch.zeros(2, 3, 4, dtype=torch.uint8)
    assert Images.stacked(stack)[1].data_ptr() == stack[1].data_ptr()


def test_a_selection_shares_the_storage_and_counts_its_own_pixels() -> None:
    images = Images.of(ragged())
    some = images.select([2, 0])
    assert some.pixels is images.pixels and some.count == 24
    everything = torch.cat([image.flatten(0, 1) for image in some])
    assert torch.equal(some.gather(torch.arange(24)), everything)
    view, place = some.locate(torch.tensor([0, 11, 12, 23]))
    assert view.tolist() == [0, 0, 1, 1] and place.tolist() == [0, 11, 0, 11]


def test_images_of_one_size_are_located_by_division() -> None:
    same = Images.stacked(torch.arange(24, dtype=torch.uint8).reshape(4, 2, 3)).select([3, 1])
    assert same.gather(torch.tensor([0, 5, 6, 11])).tolist() == [18, 23, 6, 11]


@pytest.mark.parametrize("views", [[0, 1], [2, 0], [1]])
def test_moving_takes_the_chosen_images_only(views: list[int]) -> None:
    some = Images.of(ragged()).select(views)
    moved = some.to("meta")
    assert moved.pixels.shape == (some.count, 4) and moved.offsets[0] == 0
    assert moved.sizes.tolist() == some.sizes.tolist() and some.to("cpu") is some


def test_images_on_disk_are_those_in_memory_and_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unrender.captures.memory._disk_folder", lambda: str(tmp_path))
    images = Images.of(ragged())
    on_disk = ImageMemory(135).empty(images.sizes, (4,), torch.uint8)
    assert on_disk.on_disk and not ImageMemory(136).empty(images.sizes, (4,), torch.uint8).on_disk
    for view, image in enumerate(images):
        on_disk[view].copy_(image)
    index = torch.randint(34, (200,), generator=torch.Generator().manual_seed(1))
    assert torch.equal(on_disk.select([2, 1]).gather(index % 22), images.select([2, 1]).gather(index % 22))
    assert torch.equal(averaged(on_disk, 2).pixels, averaged(images, 2).pixels)
    assert on_disk.to("meta") is on_disk
    assert list(tmp_path.iterdir()) == []


def test_a_budget_is_shared() -> None:
    memory = ImageMemory(200)
    sizes = torch.tensor([[5, 6]])
    assert [memory.empty(sizes, (4,), torch.uint8).on_disk, memory.empty(sizes, (3,), torch.float32).on_disk] == [False, True]
    assert not memory.empty(sizes, (), torch.bool).on_disk


def test_a_full_disk_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unrender.captures.memory._disk_folder", lambda: str(tmp_path))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: namedtuple("Usage", "total used free")(10, 0, 10))
    with pytest.raises(ValueError, match="larger downscale, or set TMPDIR"):
        Images.empty(torch.tensor([[5, 6]]), (4,), torch.uint8, on_disk=True)
    assert list(tmp_path.iterdir()) == []


def test_averages_weight_colors_by_alpha_and_drop_the_rest_of_a_block() -> None:
    image = torch.zeros(3, 5, 4, dtype=torch.uint8)
    image[0, 0] = torch.tensor([200, 100, 0, 255])
    image[1, 1] = torch.tensor([100, 100, 0, 51])
    image[0, 1] = torch.tensor([0, 0, 255, 0])
    image[:2, 2:4] = torch.tensor([10, 20, 30, 0])
    small = averaged(Images.of([image]), 2)
    assert small.sizes.tolist() == [[2, 1]]
    assert small[0][0, 0].tolist() == [round((200 * 255 + 100 * 51) / 306), 100, 0, round(306 / 4)]
    assert small[0][0, 1].tolist() == [10, 20, 30, 0]


@pytest.mark.parametrize("amount", ["", "8 G B x", "GB", "-1", "1e9", "8GiBs", -1, True, "9" * 400])
def test_an_amount_of_memory_that_is_none_is_refused(amount: int | str) -> None:
    with pytest.raises(CaptureError, match="give a number of bytes, or an amount such as 8GB"):
        bytes_of(amount)

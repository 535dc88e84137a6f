"""Images of any sizes in one flat tensor, in memory or in a temporary file, and exact averages of their pixels.

The images of a capture are stored one after the other, each in row-major order, whether they share a size or not. A view is a slice, a
random pixel is one gather, and photos that exceed the memory budget are mapped from a file by the same code.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Int, UInt8
from numpy import ndarray
from torch import Tensor

from unrender.captures.memory import ImageBudget, allocated, mapped_file, release_pages
from unrender.printing import counted, size_range

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, eq=False)
class Images:
    """One image per view, of any sizes.

    >>> wide, tall = torch.zeros(2, 3, dtype=torch.uint8), torch.ones(4, 1, dtype=torch.uint8)
    >>> images = Images.of([wide, tall])
    >>> len(images), images.sizes.tolist(), images[1].tolist()
    (2, [[3, 2], [1, 4]], [[1], [1], [1], [1]])
    >>> images.gather(torch.tensor([0, 6])).tolist()  # the first pixel of either image
    [0, 1]
    """

    pixels: Tensor
    """The storage [total, *channels]: view after view, each in row-major order. It may also hold pixels of other views."""
    sizes: Int[Tensor, "views 2"]
    """Width and height of each image, int64, on the CPU."""
    offsets: Int[Tensor, " views"]
    """Where each image begins in ``pixels``, int64, on the CPU."""
    on_disk: bool = False
    """Whether ``pixels`` is mapped from a file; it then stays there when images move to a device."""
    spare: int = 0
    """Bytes of memory that the budget still has, for images on disk."""
    waits: tuple[Callable[[], None], ...] = ()
    """For each image a function that returns when its pixels are there; empty if all are."""

    @classmethod
    def empty(
        cls, sizes: Int[Tensor, "views 2"], channels: Sequence[int], dtype: torch.dtype, *, on_disk: bool = False, spare: int = 0
    ) -> Images:
        """Allocate storage for images of these sizes, without setting their pixels.

        Raises:
            CaptureError: neither memory nor disk has space for them.
        """
        counts = sizes.prod(1)
        shape = (int(counts.sum()), *channels)
        pixels = mapped_file(shape, dtype) if on_disk else allocated(shape, dtype)
        return cls(pixels, sizes, counts.cumsum(0) - counts, on_disk, spare)

    def __repr__(self) -> str:
        kind = str(self.pixels.dtype).removeprefix("torch.")
        channels = " x ".join(str(size) for size in self.pixels.shape[1:])
        place = "on disk" if self.on_disk else str(self.pixels.device)
        return f"Images({counted(len(self), 'image')}, {size_range(self.sizes)}, {kind}{f' x {channels}' if channels else ''}, {place})"

    @classmethod
    def of(cls, images: Sequence[Tensor]) -> Images:
        """Copy images [height, width, *channels] of any sizes, but of one type and device, into one storage."""
        sizes = torch.tensor([[image.shape[1], image.shape[0]] for image in images], device="cpu")
        counts = sizes.prod(1)
        return cls(torch.cat([image.flatten(0, 1) for image in images]), sizes, counts.cumsum(0) - counts)

    @classmethod
    def stacked(cls, images: Tensor) -> Images:
        """Take a stack [views, height, width, *channels] of images of one size, without a copy if it is contiguous."""
        views, height, width = images.shape[:3]
        sizes = torch.tensor([[width, height]], device="cpu").repeat(views, 1)
        return cls(images.flatten(0, 2).contiguous(), sizes, torch.arange(views, device="cpu") * (height * width))

    def __len__(self) -> int:
        return self.sizes.shape[0]

    def __getitem__(self, view: int) -> Tensor:
        """Return one image [height, width, *channels], a view of the storage.

        Raises:
            IndexError: there is no such view.
        """
        if not -len(self) <= view < len(self):
            raise IndexError(f"view {view} does not exist; there are {len(self)} images")
        if self.waits:
            self.waits[view]()
        (width, height), begin = self.sizes[view].tolist(), int(self.offsets[view])
        return self.pixels[begin : begin + width * height].unflatten(0, (height, width))

    def release(self, view: int) -> None:
        """Give the memory of an image on disk back to the system, which reads it again when it is taken."""
        if self.on_disk:
            begin = int(self.offsets[view])
            release_pages(self.pixels[begin : begin + int(self.sizes[view].prod())])

    def __iter__(self) -> Iterator[Tensor]:
        return (self[view] for view in range(len(self)))

    def select(self, views: Sequence[int] | Int[Tensor, " selected"]) -> Images:
        """Return the images of these views, in this order; they share the storage."""
        index = torch.as_tensor(views, dtype=torch.int64, device="cpu")
        waits = tuple(self.waits[view] for view in index.tolist()) if self.waits else ()
        return replace(self, sizes=self.sizes[index], offsets=self.offsets[index], waits=waits)

    def to(self, device: torch.device | str) -> Images:
        """Move only these images of the storage to a device; images on disk stay there."""
        if self.on_disk or self.pixels.device == torch.device(device):
            return self
        counts = self.sizes.prod(1)
        packed = counts.cumsum(0) - counts
        if torch.equal(self.offsets - self.offsets[:1], packed):
            begin = int(self.offsets[:1].sum())
            pixels = self.pixels[begin : begin + self.count]
        else:
            pixels = torch.cat([image.flatten(0, 1) for image in self])
        return Images(pixels.to(device), self.sizes, packed)

    @cached_property
    def count(self) -> int:
        """The number of pixels of all images together."""
        return int(self.sizes.prod(1).sum())

    def locate(self, index: Int[Tensor, " samples"]) -> tuple[Int[Tensor, " samples"], Int[Tensor, " samples"]]:
        """Return the view and position of pixels given by their index through all images in order."""
        if self._count_of_each is not None:
            view = index // self._count_of_each
            return view, index - view * self._count_of_each
        view = torch.searchsorted(self._first_of_each, index, right=True) - 1
        return view, index - self._first_of_each[view]

    def at(self, view: Int[Tensor, " samples"], place: Int[Tensor, " samples"]) -> Int[Tensor, " samples"]:
        """Return the indices into ``pixels`` of pixels that :meth:`locate` found."""
        return self._offset_of_each[view] + place

    def gather(self, index: Int[Tensor, " samples"]) -> Tensor:
        """Return pixels [samples, *channels] by index through all images in order; ``index`` is on the device of the storage."""
        for wait in self.waits:
            wait()
        return self.pixels[self.at(*self.locate(index))]

    @cached_property
    def _count_of_each(self) -> int | None:
        """The number of pixels of each image; None if sizes differ."""
        return int(self.sizes[0].prod()) if len(self) and bool((self.sizes == self.sizes[:1]).all()) else None

    @cached_property
    def _first_of_each(self) -> Int[Tensor, " views"]:
        counts = self.sizes.prod(1)
        return (counts.cumsum(0) - counts).to(self.pixels.device)

    @cached_property
    def _offset_of_each(self) -> Int[Tensor, " views"]:
        return self.offsets.to(self.pixels.device)


class ImageMemory(ImageBudget):
    """A memory budget that allocates images."""

    def empty(self, sizes: Int[Tensor, "views 2"], channels: Sequence[int], dtype: torch.dtype) -> Images:
        """Allocate storage for images, on disk if they exceed the rest of the budget.

        Raises:
            CaptureError: the disk has no space either.
        """
        needed = int(sizes.prod(1).sum()) * int(np.prod(channels)) * dtype.itemsize
        on_disk = not self.takes(needed)
        return Images.empty(sizes, channels, dtype, on_disk=on_disk, spare=max(0, self.left) if on_disk else 0)


def averaged(images: Images, block: int) -> Images:
    """Average blocks of ``block`` x ``block`` pixels of RGBA images; colors are weighted by alpha.

    Incomplete blocks at the right and bottom border are dropped. See :func:`averaged_pixels`.
    """
    small = Images.empty(images.sizes // block, (4,), torch.uint8, on_disk=images.on_disk)

    def average(view: int) -> None:
        small[view].numpy()[:] = averaged_pixels(images[view].cpu().numpy(), block)

    in_threads(average, range(len(images)))
    return small.to(images.pixels.device)


def averaged_pixels(rgba: UInt8[ndarray, "height width 4"], block: int) -> UInt8[ndarray, "rows columns 4"]:
    """Average blocks of pixels to straight color Σ α c / Σ α and alpha Σ α / block².

    Colors of transparent pixels do not bleed into edges; a fully transparent block gets the mean of the stored colors. Sums are exact in
    float32, and the result is rounded to the nearest even integer.
    """
    if block == 1:
        return rgba
    plain = _block_sum(rgba, block)
    if int(rgba[..., 3].min()) == 255:
        return np.rint(plain / (block * block)).astype(np.uint8)
    alpha = rgba[..., 3:]
    weight = plain[..., 3:]
    premultiplied = _block_sum(rgba[..., :3] * alpha.astype(np.float32), block)
    color = np.where(weight > 0, premultiplied / np.maximum(weight, 1), plain[..., :3] / (block * block))
    return np.rint(np.concatenate((color, weight / (block * block)), -1)).astype(np.uint8)


def averaged_gray(gray: UInt8[ndarray, "height width"], block: int) -> UInt8[ndarray, "rows columns"]:
    """Average blocks of pixels of one channel."""
    if block == 1:
        return gray
    return np.rint(_block_sum(gray[..., None], block)[..., 0] / (block * block)).astype(np.uint8)


def _block_sum(pixels: np.ndarray, block: int) -> np.ndarray:
    rows, columns, channels = pixels.shape[0] // block, pixels.shape[1] // block, pixels.shape[2]
    whole = pixels[: rows * block, : columns * block]
    strips = whole.reshape(rows, block, columns * block * channels).sum(1, dtype=np.float32)
    return strips.reshape(rows, columns, block, channels).sum(2)


def in_threads(work: Callable[[_Item], _Result], items: Sequence[_Item], *, most: int = 8) -> list[_Result]:
    """Apply ``work`` to every item on a pool of at most ``most`` threads.

    Results keep the order of the items, and the first error in that order is raised.
    """
    threads = min(most, os.cpu_count() or 1, len(items))
    if threads <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads, thread_name_prefix="unrender-read") as pool:
        return list(pool.map(work, items))

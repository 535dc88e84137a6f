"""A pool of random pixels in memory, for photos that exceed it.

Single pixels of a file cost a read of a whole page each, and photos that are decoded in the background are there one after the other. The
pool therefore holds a block of random pixels of each view, and the pixels of a step are drawn from the pool. At the beginning it holds the
blocks of a few views; each draw adds the block of another view, and when all are there, every few draws renew one. What the pool holds
depends on the number of draws alone, never on the speed of the disk.
"""

from __future__ import annotations

import math
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from unrender.captures.images import Images, averaged_pixels

_BYTES = 12
"""Of a pixel of the pool: its color, its view and its place."""

_MOST = 2**24
"""Pixels of a pool."""

_FIRST = 8
"""Views at the first draw."""

_EVERY = 4
"""Draws between two renewed blocks."""


class PixelPool:
    """Blocks of random pixels of each view, with their places in its image."""

    def __init__(self, photos: Images, ignored: Images | None, device: torch.device, *, downscale: int = 1) -> None:
        """Prepare a pool; nothing is read before the first draw.

        Args:
            photos: RGBA of the views, with the memory that a pool may take.
            ignored: True at pixels that are never drawn.
            device: where the pool is kept.
            downscale: side of the blocks of pixels that are averaged.
        """
        self._photos, self._ignored, self._downscale = photos, ignored, downscale
        sizes = photos.sizes // downscale
        counts, views = sizes.prod(1), len(photos)
        self._order = torch.randperm(views, generator=torch.Generator().manual_seed(0)).tolist()
        most = max(views, min(_MOST, photos.spare // (4 * _BYTES), int(counts.sum())))
        lengths = (counts * most // int(counts.sum())).clamp_min(1)[self._order]
        self._lengths = lengths.tolist()
        self._ends = lengths.cumsum(0).tolist()
        total = self._ends[-1]
        # Color, view and place of a pixel side by side, so that a random one is read from one place in memory.
        self._pixels = torch.empty(total, 3, dtype=torch.int32, device=device)
        self._draws, self._done = 0, 0
        self._next: Future[tuple[int, Tensor, Tensor]] | None = None
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="unrender-pool")

    def draw(
        self, count: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, " samples"], Int[Tensor, " samples"], Int[Tensor, " samples"]]:
        """Draw pixels: their views, their places in the image, and their colors as four bytes in an int32."""
        while self._done < self._due(self._draws):
            self._put(self._done, self._read(self._done))
            self._done += 1
        self._prepare(self._done)
        self._draws += 1
        end = self._ends[min(self._done, len(self._ends)) - 1]
        index = torch.randint(end, (count,), generator=generator, device=self._pixels.device)
        drawn = self._pixels.index_select(0, index)
        return drawn[:, 1].long(), drawn[:, 2].long(), torch.empty_like(index, dtype=torch.int32).copy_(drawn[:, 0])

    def state_dict(self) -> dict[str, Any]:
        """Return the number of draws, on which the content depends."""
        return {"draws": self._draws}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the content after a number of draws."""
        self._draws, self._next = state_dict["draws"], None
        self._done = self._due(max(0, self._draws - 1)) if self._draws else 0
        for task in range(max(0, self._done - len(self._order)), self._done):
            self._put(task, self._block(task))

    def _due(self, draws: int) -> int:
        """Return how many blocks were read when so many draws were made before."""
        views = len(self._order)
        first = min(_FIRST, views)
        return first + draws if first + draws <= views else views + (draws - views + first) // _EVERY

    def _prepare(self, task: int) -> None:
        if self._next is None:
            self._next = self._reader.submit(self._block, task)

    def _read(self, task: int) -> tuple[int, Tensor, Tensor]:
        """Return a block: the one that was read meanwhile, which is always the next one."""
        if self._next is None:
            return self._block(task)
        found, self._next = self._next.result(), None
        return found

    def _block(self, task: int) -> tuple[int, Tensor, Tensor]:
        """Return a view, and places and colors of random pixels of it; each time others.

        A view of which no pixel counts gives its place to the next one.

        Raises:
            ValueError: no pixel of any view counts.
        """
        slot = task % len(self._order)
        generator = torch.Generator().manual_seed(task)
        for view in (*self._order[slot:], *self._order[:slot]):
            image = self._photos[view].cpu()
            valid = torch.arange(0) if self._ignored is None else _counted(self._ignored[view].cpu(), self._downscale)
            number = math.prod(side // self._downscale for side in image.shape[:2]) if self._ignored is None else len(valid)
            if number:
                places = torch.randint(number, (self._lengths[slot],), generator=generator)
                places = places if self._ignored is None else valid[places]
                colors = averaged_at(image, places, self._downscale).view(torch.int32)[:, 0]
                self._photos.release(view)
                return view, places, colors
        raise ValueError("all pixels of the fitted views are ignored, so there is nothing to fit; correct the masks")

    def _put(self, task: int, block: tuple[int, Tensor, Tensor]) -> None:
        view, places, colors = block
        slot = task % len(self._order)
        part = slice(self._ends[slot] - self._lengths[slot], self._ends[slot])
        self._pixels[part, 0] = colors.to(self._pixels)
        self._pixels[part, 1] = view
        self._pixels[part, 2] = places.to(self._pixels)


def averaged_at(image: UInt8[Tensor, "height width 4"], places: Int[Tensor, " samples"], block: int) -> UInt8[Tensor, "samples 4"]:
    """Average some blocks of ``block`` x ``block`` pixels of an RGBA image, as :func:`averaged_pixels` does all of them.

    >>> image = torch.arange(64, dtype=torch.uint8).reshape(4, 4, 4)
    >>> averaged_at(image, torch.tensor([3]), 2)[0].tolist() == averaged_pixels(image.numpy(), 2)[1, 1].tolist()
    True
    """
    pixels, width = image.reshape(-1, 4), image.shape[1]
    if block == 1:  # four bytes at once
        return pixels.view(torch.int32)[:, 0].index_select(0, places).view(torch.uint8).reshape(-1, 4)
    row, column = places // (width // block), places % (width // block)
    within = torch.arange(block)
    index = (row * block + within[:, None])[:, :, None] * width + (column * block)[None, :, None] + within  # [block, samples, block]
    return torch.from_numpy(averaged_pixels(pixels[index.reshape(block, -1)].numpy(), block)[0])


def _counted(ignored: Tensor, block: int) -> Tensor:
    """Return the places of the pixels that are not ignored."""
    return (~any_in_block(ignored, block)).reshape(-1).nonzero()[:, 0]


def any_in_block(image: Tensor, block: int) -> Tensor:
    """Tell for each block of pixels of an image [height, width] whether any of them is True."""
    rows, columns = image.shape[0] // block, image.shape[1] // block
    return image[: rows * block, : columns * block].reshape(rows, block, columns, block).any(3).any(1)

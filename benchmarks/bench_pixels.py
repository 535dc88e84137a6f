"""Pixels drawn from photos on disk through a pool, against the same photos in memory, in seconds of the processor.

Those of the pool include the blocks of pixels that a thread reads meanwhile: a new one every fourth draw.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from harness import Row, Work, compare

from unrender.cameras import Cameras
from unrender.captures.capture import Capture
from unrender.captures.images import Images
from unrender.recipes.pixels import PixelSampler


def rows(quick: bool) -> list[Row]:
    """Measure one draw of a step's pixels with their rays."""
    views, side, count = (12, 200, 2**12) if quick else (100, 800, 2**14)
    device = torch.get_default_device()
    generator = torch.Generator(device).manual_seed(0)
    cameras = Cameras.alike(torch.eye(4).repeat(views, 1, 1), torch.full((views, 4), side / 2), None, side, side)
    photos = torch.randint(0, 256, (views, side, side, 3), dtype=torch.uint8, device="cpu", generator=torch.Generator().manual_seed(0))
    capture = Capture.from_tensors(photos, cameras.to("cpu"))
    stored = Images.empty(capture.photos.sizes, (4,), torch.uint8, on_disk=True, spare=2**29)
    stored.pixels.copy_(capture.photos.pixels)
    on_disk = replace(capture, photos=replace(stored, waits=tuple(_there for _ in range(views))))
    pool, memory = PixelSampler(on_disk, device), PixelSampler(capture, device)
    for _ in range(views):  # until the pool has all views
        pool.draw(1, generator)
    name = f"{count:,} pixels with rays of {views} photos of {side}²"
    draws = 4 if quick else 16

    def of(sampler: PixelSampler) -> Work:
        return lambda: [sampler.draw(count, generator) for _ in range(draws)]

    row = compare(
        f"{name}, {draws} times, of the processor",
        of(pool),
        of(memory),
        peer_name="photos in memory",
        items=count * draws,
        repeats=3 if quick else 15,
        clock=time.process_time,
    )
    return [row]


def _there() -> None:
    """Return at once, because the pixels are there."""

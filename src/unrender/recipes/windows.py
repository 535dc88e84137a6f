"""Windows of the training photos, for methods that render whole pictures instead of single rays.

A window is a rectangle of pixels with its own camera: the intrinsics of the photo, shifted by its corner. All windows of a step have one
size, whatever the sizes of the photos, so that they are rendered as one batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.capture import Capture
from unrender.captures.images import averaged
from unrender.color import linear_from_srgb
from unrender.recipes.pixel_pool import any_in_block


@dataclass(frozen=True)
class WindowBatch:
    """Windows of training photos, and their cameras."""

    cameras: Cameras
    views: Int[Tensor, " windows"]
    """The view of each window, as an index into all views of the capture."""
    color: Float[Tensor, "windows height width 3"]
    """Linear light with straight alpha."""
    alpha: Float[Tensor, "windows height width"]
    """Share of the pixel that the object covers; one everywhere without masks."""
    counts: Bool[Tensor, "windows height width"]
    """False beyond the border of the photo, and where its pixels are ignored."""


class WindowSampler:
    """Draws windows around the object; every photo once before any is drawn again.

    Photos larger than ``largest_side`` are averaged over blocks of pixels first. The order of the photos is part of a fit's state.
    """

    def __init__(self, capture: Capture, device: torch.device, *, largest_side: int, side: int) -> None:
        """Prepare to draw from the training views.

        Args:
            capture: the photos, of pinhole cameras.
            device: of the windows.
            largest_side: photos are averaged over the smallest block of pixels with which they are at most this large.
            side: of a window in pixels; smaller where all photos are smaller.
        """
        train = capture.split.train
        longest = int(capture.cameras.sizes[list(train)].max())
        self.block = -(-longest // largest_side)
        """Side of the averaged blocks of pixels."""
        photos = capture.photos.select(train)
        self._photos = averaged(photos, self.block) if self.block > 1 else photos
        self._ignored = None if capture.ignored is None else capture.ignored.select(train)
        self._cameras = capture.cameras.select(train).downscaled(self.block) if self.block > 1 else capture.cameras.select(train)
        self._views, self._device = torch.tensor(train), device
        self._side = min(side, int(self._cameras.sizes.max()))
        self._boxes: dict[int, tuple[int, int, int, int]] = {}
        self._order = torch.zeros(0, dtype=torch.int64)

    def state_dict(self) -> dict[str, Any]:
        """Return the photos still to be drawn."""
        return {"order": self._order}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore the photos still to be drawn."""
        self._order = state_dict["order"]

    def draw(self, count: int, generator: torch.Generator) -> WindowBatch:
        """Draw some windows."""
        while len(self._order) < count:
            more = torch.randperm(len(self._views), generator=generator, device=generator.device).cpu()
            self._order = torch.cat([self._order, more])
        chosen, self._order = self._order[:count], self._order[count:].clone()
        shifts = torch.rand(count, 2, generator=generator, device=generator.device).cpu()
        corners = [self._corner(int(photo), shift) for photo, shift in zip(chosen, shifts, strict=True)]
        cut = [self._cut(int(photo), *corner) for photo, corner in zip(chosen, corners, strict=True)]
        rgba = torch.stack([pixels for pixels, _ in cut]).to(self._device).float() / 255
        cameras = self._cameras.select(chosen.tolist())
        moved = cameras.intrinsics.clone()
        moved[:, 2:] -= torch.tensor(corners, dtype=moved.dtype, device=moved.device)
        windows = replace(cameras, intrinsics=moved, sizes=torch.full((count, 2), self._side)).to(self._device)
        return WindowBatch(
            cameras=windows,
            views=self._views[chosen].to(self._device),
            color=linear_from_srgb(rgba[..., :3]),
            alpha=rgba[..., 3],
            counts=torch.stack([counts for _, counts in cut]).to(self._device),
        )

    def _corner(self, photo: int, shift: Tensor) -> tuple[int, int]:
        """Return the left upper corner of a window whose center is a random place in the box of the object."""
        box = self._box(photo)
        found = []
        for axis, size in enumerate(self._cameras.sizes[photo].tolist()):
            center = box[axis] + float(shift[axis]) * (box[axis + 2] - box[axis])
            last = size - self._side
            found.append(last // 2 if last <= 0 else min(max(round(center - self._side / 2), 0), last))
        return found[0], found[1]

    def _box(self, photo: int) -> tuple[int, int, int, int]:
        """Return the left, upper, right and lower end of the object in a photo."""
        if photo not in self._boxes:
            solid = self._photos[photo][..., 3] > 0
            columns, rows = solid.any(0).nonzero()[:, 0], solid.any(1).nonzero()[:, 0]
            width, height = self._cameras.sizes[photo].tolist()
            empty = len(columns) == 0
            self._boxes[photo] = (
                (0, 0, width, height) if empty else (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
            )
        return self._boxes[photo]

    def _cut(self, photo: int, left: int, top: int) -> tuple[Tensor, Tensor]:
        """Return RGBA and whether each pixel counts, for a window that may reach beyond the photo."""
        side, image = self._side, self._photos[photo]
        height, width = image.shape[:2]
        rows, columns = slice(max(top, 0), min(top + side, height)), slice(max(left, 0), min(left + side, width))
        counts = torch.ones(rows.stop - rows.start, columns.stop - columns.start, dtype=torch.bool)
        if self._ignored is not None:
            counts &= ~any_in_block(self._ignored[photo].cpu(), self.block)[rows, columns]
        before, behind = (columns.start - left, rows.start - top), (left + side - columns.stop, top + side - rows.stop)
        pixels = F.pad(image[rows, columns].cpu(), (0, 0, before[0], behind[0], before[1], behind[1]))
        return pixels, F.pad(counts, (before[0], behind[0], before[1], behind[1]))

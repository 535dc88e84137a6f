"""Random training pixels with their rays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.cameras import Rays
from unrender.captures.capture import Capture

Background = Literal["random", "white", "black"]


def draw_background(kind: Background, like: Float[Tensor, "rays 3"], generator: torch.Generator) -> Float[Tensor, "rays 3"]:
    """What stands behind the scene while fitting, one color per ray."""
    if kind == "random":
        return torch.rand(like.shape, generator=generator, device=like.device)
    return torch.full_like(like, 1.0 if kind == "white" else 0.0)


@dataclass(frozen=True)
class PixelBatch:
    """Pixels drawn from the training views, and the rays through their centers."""

    rays: Rays
    color: Float[Tensor, "rays 3"]
    """sRGB, straight alpha."""
    alpha: Float[Tensor, " rays"] | None
    """Share of the pixel the object covers, where the capture has masks."""
    normal: Float[Tensor, "rays 3"] | None
    """Prior normal in the world, zero where unknown, where the capture has them."""


class PixelSampler:
    """Draws pixels uniformly over all training views, with replacement, except those the capture says to ignore.

    ``downscale`` averages k × k pixels into one: early training sees a smooth image with fewer, wider pixels.
    """

    def __init__(self, capture: Capture, device: torch.device, *, downscale: int = 1) -> None:
        views = list(capture.split.train)
        cameras = capture.cameras.select(views)
        images = capture.images[views]
        masks = None if capture.masks is None else capture.masks[views]
        if downscale > 1:
            images, masks = _averaged(images, masks, downscale)
            cameras = cameras.downscaled(downscale)
        self._alpha = masks is not None
        coverage = torch.full(images.shape[:3], 255, dtype=torch.uint8) if masks is None else masks
        rgba = torch.cat([images, coverage[..., None]], dim=-1).contiguous()
        self._rgba = rgba.view(torch.int32).reshape(-1).to(device)
        self._directions = cameras.directions_in_camera().reshape(-1, 3).to(device).contiguous()
        self._pixels = cameras.height * cameras.width
        self._views = len(views)
        self._shared = self._directions.shape[0] == self._pixels
        self._world_from_camera = cameras.world_from_camera.float().to(device)
        self._normals = None if capture.normals is None or downscale > 1 else capture.normals[views].reshape(-1, 3).to(device)
        self._valid = None
        if capture.ignored is not None:
            ignored = capture.ignored[views]
            if downscale > 1:
                height, width = cameras.height, cameras.width
                blocks = ignored[:, : height * downscale, : width * downscale]
                ignored = blocks.reshape(-1, height, downscale, width, downscale).any(4).any(2)
            self._valid = torch.nonzero(~ignored.reshape(-1))[:, 0].to(device)
        self._device = device

    def draw(self, count: int, generator: torch.Generator) -> PixelBatch:
        """``count`` pixels with their rays; the same generator state gives the same pixels."""
        if self._valid is None:
            index = torch.randint(self._views * self._pixels, (count,), generator=generator, device=self._device)
        else:
            index = self._valid[torch.randint(self._valid.shape[0], (count,), generator=generator, device=self._device)]
        view = index // self._pixels
        rgba = self._rgba[index].view(torch.uint8).reshape(count, 4).float() * (1 / 255)
        in_camera = self._directions[index - view * self._pixels if self._shared else index]
        pose = self._world_from_camera[view]
        directions = (pose[:, :3, :3] * in_camera[:, None, :]).sum(-1)
        return PixelBatch(
            rays=Rays(origins=pose[:, :3, 3].contiguous(), directions=directions),
            color=rgba[:, :3],
            alpha=rgba[:, 3] if self._alpha else None,
            normal=None if self._normals is None else self._normals[index],
        )


def _averaged(images: Tensor, masks: Tensor | None, k: int) -> tuple[Tensor, Tensor | None]:
    """Means over k × k pixels; colors are weighted by coverage, so that what lies outside the object does not bleed in."""

    def tiles(image: Tensor) -> Tensor:
        height, width = image.shape[0] // k, image.shape[1] // k
        return image[: height * k, : width * k].float().reshape(height, k, width, k, -1)

    if masks is None:
        return torch.stack([tiles(image).mean((1, 3)).round().byte() for image in images]), None
    colors, coverage = [], []
    for image, mask in zip(images, masks, strict=True):
        weight, color = tiles(mask), tiles(image)
        total = weight.sum((1, 3))
        mixed = torch.where(total > 0, (color * weight).sum((1, 3)) / total.clamp_min(1), color.mean((1, 3)))
        colors.append(mixed.round().byte())
        coverage.append((total[..., 0] / k**2).round().byte())
    return torch.stack(colors), torch.stack(coverage)


class RayCount:
    """Keeps the number of samples of a step near a target by adapting the number of rays: n ← 0.9 n + 0.1 n target / used.

    The count of the last step is read without waiting for the device: where it has not arrived yet, n stays.
    """

    def __init__(self, start: int, most: int, target_samples: int) -> None:
        self.rays = start
        self._most = most
        self._target = target_samples
        self._pending: tuple[Tensor, torch.Event, int] | None = None

    def observe(self, used: Tensor) -> None:
        """Takes the number of samples of the step just started, a tensor of one element on any device."""
        if used.device.type == "cpu":  # there it is known at once
            self._adapt(int(used), self.rays)
            return
        if self._pending is not None:
            count, event, rays = self._pending
            if not event.query():
                return
            self._adapt(int(count), rays)
        event = torch.Event(device=used.device)
        self._pending = (used.to("cpu", non_blocking=True), event, self.rays)
        event.record()

    def state_dict(self) -> dict[str, int]:
        """Return the number of rays, which a resumed fit goes on with."""
        return {"rays": self.rays}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Take over the number of rays of a saved state."""
        self.rays = state_dict["rays"]

    def _adapt(self, used: int, rays: int) -> None:
        wanted = rays * self._target / max(used, 1)
        self.rays = max(64, min(self._most, int(0.9 * self.rays + 0.1 * wanted)))

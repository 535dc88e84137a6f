"""Random training pixels with their rays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unrender.cameras import Cameras, Rays
from unrender.captures.capture import Capture
from unrender.captures.images import Images, averaged
from unrender.ops.rays import PixelMaps, pixel_rays
from unrender.recipes.pixel_pool import PixelPool, any_in_block
from unrender.words import Background

_MOST_MAPPED_PIXELS = 2**26
"""Ray directions are cached for up to this many pixels of different lenses (12 bytes each); beyond it, every draw computes them."""

_MOST_MAPPED_ON_DISK = 2**30
"""Pixels on disk that are still drawn one by one: the system keeps so many in memory where it can."""


def draw_background(kind: Background, like: Float[Tensor, "rays 3"], generator: torch.Generator) -> Float[Tensor, "rays 3"]:
    """Draw the background color of each ray for a training step."""
    if kind == "random":
        return torch.rand(like.shape, generator=generator, device=like.device)
    return torch.full_like(like, 1.0 if kind == "white" else 0.0)


def picture_background(kind: Background, *, masked: bool) -> float:
    """Return the gray value behind a scene in pictures.

    Photos with masks are compared over white. Without masks, a scene fitted over one color is shown over it; otherwise black is behind it.
    """
    return 1.0 if masked or kind == "white" else 0.0


@dataclass(frozen=True)
class PixelBatch:
    """Pixels drawn from the training views, and the rays through their centers."""

    rays: Rays
    views: Int[Tensor, " rays"]
    """The view of each pixel, as an index into all views of the capture."""
    pixels: Float[Tensor, "rays 2"]
    """The (x, y) of each pixel center."""
    color: Float[Tensor, "rays 3"]
    """sRGB with straight alpha."""
    alpha: Float[Tensor, " rays"] | None
    """Share of the pixel that the object covers, if the capture has masks."""
    normal: Float[Tensor, "rays 3"] | None
    """Prior normals in the world frame, zero where unknown, if the capture has them."""


class PixelSampler:
    """Draws pixels uniformly from all training views, with replacement, except those marked as ignored.

    Colors are gathered from the storage of the capture itself, in memory or on disk. If the photos on disk are still decoded in the
    background, or are many, they are gathered from a pool instead. ``downscale`` averages k × k pixels into one: early training uses a
    smooth image with fewer, wider pixels.
    """

    def __init__(self, capture: Capture, device: torch.device, *, downscale: int = 1) -> None:
        """Prepare to draw from a capture.

        Raises:
            ValueError: the capture has no training views, or ignores all pixels of them.
        """
        if not capture.split.train:
            raise ValueError(f"{capture.name} has no views to fit ({capture.split.rule}); hold out fewer views")
        photos = capture.photos.select(capture.split.train)
        ignored = None if capture.ignored is None else capture.ignored.select(capture.split.train)
        normals = None if capture.normals is None or downscale > 1 else capture.normals.select(capture.split.train)
        self._cameras = capture.cameras.select(capture.split.train)
        self._cameras = self._cameras.downscaled(downscale) if downscale > 1 else self._cameras
        pooled = photos.on_disk and (bool(photos.waits) or photos.count > _MOST_MAPPED_ON_DISK)
        self._pool = PixelPool(photos, ignored, device, downscale=downscale) if pooled else None
        if downscale > 1 and self._pool is None:
            photos = averaged(photos, downscale)
            ignored = None if ignored is None else Images.of([any_in_block(image, downscale) for image in ignored])
        self._photos = photos.to(device)
        self._rgba = self._photos.pixels.view(torch.int32).reshape(-1)
        self._normals = None if normals is None else normals.to(device)
        self._has_masks = capture.has_masks
        self._total_views = len(capture)
        self._downscale = downscale
        ignored = None if self._pool is not None else ignored
        self._valid = None if ignored is None else torch.cat([~image.reshape(-1) for image in ignored]).nonzero()[:, 0].to(device)
        if self._valid is not None and len(self._valid) == 0:
            raise ValueError(f"{capture.name} ignores all pixels of its training views, so there is nothing to fit; correct its masks")
        self._views = torch.tensor(capture.split.train, device=device)
        self._world_from_camera = self._cameras.world_from_camera.float().to(device)
        directions, begins = None, torch.zeros(len(self._cameras), dtype=torch.int64, device="cpu")
        lens = self._cameras.lens_of_view
        distinct = {int(number): int(size.prod()) for number, size in zip(lens, self._cameras.sizes, strict=True)}
        if sum(distinct.values()) <= _MOST_MAPPED_PIXELS:
            directions, begins = self._cameras.directions_in_camera()
            directions = directions.to(device, torch.float32).contiguous()
        else:
            exact = self._cameras.to(device)
            intrinsics, distortion = exact.intrinsics.float(), exact.distortion.float()
            self._cameras = replace(exact, world_from_camera=self._world_from_camera, intrinsics=intrinsics, distortion=distortion)
        poses = self._world_from_camera[:, :3].contiguous()
        self._maps = PixelMaps(self._cameras.sizes[:, 0].to(device).contiguous(), poses, begins.to(device).contiguous(), directions)
        self._device = device

    @property
    def count(self) -> int:
        """Number of pixels of all training views."""
        return self._photos.count

    def draw(self, count: int, generator: torch.Generator, cameras: Cameras | None = None) -> PixelBatch:
        """Draw pixels with their rays; the same generator state gives the same pixels.

        Args:
            count: number of pixels.
            generator: on the device of the sampler.
            cameras: of all views of the capture, at the size of its photos. Rays are computed from their poses, intrinsics and distortion,
            which receive gradients, and normals turn with their poses; by default the capture's own cameras.

        Raises:
            ValueError: the number of ``cameras`` is not that of the views of the capture.
        """
        if self._pool is not None:
            view, place, color = self._pool.draw(count, generator)
        else:
            view, place, color = self._drawn(count, generator)
        found, views = pixel_rays(view, place, color, self._maps), self._views[view]
        if cameras is not None:
            rays = self._rays_from(cameras, views, found.pixels)
        elif self._maps.directions is None:
            rays = self._cameras.rays(view, found.pixels)
        else:
            rays = Rays(found.origins, found.directions)
        return PixelBatch(
            rays=rays,
            views=views,
            pixels=found.pixels,
            color=found.color,
            alpha=found.alpha if self._has_masks else None,
            normal=None if self._normals is None else self._normal(view, place, cameras),
        )

    def _drawn(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw from the photos themselves; return view, place in the image, and color as four bytes in an int32."""
        if self._valid is None:
            index = torch.randint(self._photos.count, (count,), generator=generator, device=self._device)
        else:
            index = self._valid[torch.randint(self._valid.shape[0], (count,), generator=generator, device=self._device)]
        view, place = self._photos.locate(index)
        return view, place, self._rgba[self._photos.at(view, place)]

    def _normal(self, view: Tensor, place: Tensor, cameras: Cameras | None) -> Float[Tensor, "rays 3"]:
        assert self._normals is not None
        stored = self._normals.pixels.device  # another device only for normals on disk
        normal = self._normals.pixels[self._normals.at(view.to(stored), place.to(stored))].to(self._device)
        if cameras is None:
            return normal
        turns = cameras.world_from_camera[self._views, :3, :3] @ self._world_from_camera[:, :3, :3].mT
        return (turns[view] * normal[:, None, :]).sum(-1)

    def state_dict(self) -> dict[str, Any]:
        """Return what the next draws depend on besides the generator."""
        return {} if self._pool is None else self._pool.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state, so that the same pixels are drawn as after it was saved."""
        if self._pool is not None and state_dict:
            self._pool.load_state_dict(state_dict)

    def _rays_from(self, cameras: Cameras, views: Int[Tensor, " rays"], pixels: Float[Tensor, "rays 2"]) -> Rays:
        if len(cameras) != self._total_views:
            raise ValueError(f"draw takes the cameras of all {self._total_views} views of the capture, got {len(cameras)}")
        return (cameras.downscaled(self._downscale) if self._downscale > 1 else cameras).rays(views, pixels)


def central_part(capture: Capture, share: float) -> Capture:
    """Return a capture of which only the middle of each photo is drawn, this share of its width and height."""
    masks = []
    for view, (width, height) in enumerate(capture.cameras.sizes.tolist()):
        outside = torch.ones(height, width, dtype=torch.bool)
        left, top = round(width * (1 - share) / 2), round(height * (1 - share) / 2)
        outside[top : max(top + 1, height - top), left : max(left + 1, width - left)] = False
        masks.append(outside if capture.ignored is None else outside | capture.ignored[view].reshape(height, width))
    return replace(capture, ignored=Images.of(masks))


class RayCount:
    """Adapts the number of rays to a target number of samples per step: n ← 0.9 n + 0.1 n target / used.

    The count of the last step is read without waiting for the device; n stays the same until it has arrived.
    """

    def __init__(self, start: int, most: int, target_samples: int) -> None:
        self.rays = start
        self._most = most
        self._target = target_samples
        self._pending: tuple[Tensor, torch.Event, int] | None = None

    def observe(self, used: Tensor) -> None:
        """Pass the number of samples of the step just started, a tensor of one element on any device."""
        if used.device.type == "cpu":  # on a CPU the count is known at once
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
        """Return the number of rays, with which a resumed fit continues."""
        return {"rays": self.rays}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore the number of rays from a saved state."""
        self.rays = state_dict["rays"]

    def _adapt(self, used: int, rays: int) -> None:
        wanted = rays * self._target / max(used, 1)
        self.rays = max(64, min(self._most, int(0.9 * self.rays + 0.1 * wanted)))

"""The initial surface of ``neus``: the fused depths of a radiance field."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.capture import Capture
from unrender.devices import pytorch_on_one_thread
from unrender.geometry.first_surface import fuse_depth_maps, seen_through
from unrender.ops.rays import aabb_intersection
from unrender.recipes.nerf.loop import NerfScene

_RECOGNIZED = 0.8
"""Smallest share of the object's pixels that must be opaque for depths to be used."""
_CONTRADICTED = 0.1
"""Largest share of their points that other views may see through. It is up to 0.02 on dull objects, and 0.28 on a polished head."""
_SHOWN = 0.02
"""Smallest share of the rays through the world cube that must end in it; at first all light comes from the surroundings."""


@dataclass(frozen=True)
class FirstDepths:
    """The depths of a radiance field in the training views."""

    cameras: Cameras
    """They have enough pixels to cover the lattice."""
    distances: list[Tensor]
    """Along each ray [height, width], where half of its light is lost."""
    recognized: float
    """Share of the object's pixels that are opaque; 1 without masks."""
    shown: float
    """Share of the rays through the world cube that end in it."""
    contradicted: float
    """See :func:`~unrender.geometry.first_surface.seen_through`."""
    size: int
    """Vertices of the lattice along an axis."""

    @classmethod
    @torch.no_grad()
    def of(cls, scene: NerfScene, capture: Capture, size: int) -> FirstDepths:
        """Render the depths for a lattice of size³ vertices over the world cube."""
        cameras = capture.cameras.select(capture.split.train)
        shrink = math.ceil(math.sqrt(int(cameras.sizes.prod(1).sum()) / (1.5e5 if scene.unbounded else 5e5)))
        cameras = cameras.downscaled(shrink) if shrink > 1 else cameras
        there = cameras.to(scene.field.table.device)
        shapes = [(height, width) for width, height in cameras.sizes.tolist()]
        distances = [scene.median_distance(there.image_rays(view)).reshape(shape).cpu() for view, shape in enumerate(shapes)]
        opaque = pixels = 0
        if capture.has_masks:
            masks = (capture.mask(view).float()[None] for view in capture.split.train)  # one at a time: all may exceed the memory
            for mask, seen, shape in zip(masks, distances, shapes, strict=True):
                inside = F.adaptive_avg_pool2d(mask, shape)[0].cpu() > 127
                opaque, pixels = opaque + int((inside & seen.isfinite()).sum()), pixels + int(inside.sum())
        on_host = cameras.to("cpu")
        with pytorch_on_one_thread():
            contradicted = seen_through(on_host, distances, _truncation(size))
        return cls(on_host, distances, opaque / pixels if pixels else 1.0, _share_within(on_host, distances), contradicted, size)

    @property
    def missing(self) -> str | None:
        """A sentence on why no surface should begin with these depths yet; None if it may."""
        if self.shown < _SHOWN:
            reason = "the radiance field is still empty in the region of interest"
        elif self.contradicted > _CONTRADICTED:
            reason = f"{100 * self.contradicted:.0f} % of the points that one view of the radiance field shows are seen through from others"
        else:
            return None
        return (
            f"no surface was begun, because {reason}: what is shown is that field; a larger budget goes on from here, and masks or more "
            "photos from around the object help"
        )

    @property
    def are_usable(self) -> bool:
        """Whether a surface from these depths is better than one from the visual hull.

        It is not if the field is too transparent inside the masks, or if the depths contradict each other, as where a shiny surface was
        mistaken for what it mirrors.
        """
        return self.recognized >= _RECOGNIZED and self.contradicted <= _CONTRADICTED

    def surface(self) -> Tensor | None:
        """Fuse the depths into signed distances [size, size, size]; None if nothing, or everything, is inside."""
        with pytorch_on_one_thread():
            return fuse_depth_maps(self.cameras, self.distances, self.size, _truncation(self.size))


def _share_within(cameras: Cameras, distances: list[Tensor]) -> float:
    """Return the share of the rays through the world cube that end in it."""
    within = through = 0
    for view, distance in enumerate(distances):
        enters, leaves = aabb_intersection(cameras.image_rays(view))
        ends, meets = distance.reshape(-1), leaves > enters
        within, through = within + int((meets & (ends >= enters) & (ends <= leaves)).sum()), through + int(meets.sum())
    return within / max(1, through)


def _truncation(size: int) -> float:
    return 3 * 2.0 / size

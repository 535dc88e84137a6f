"""Ways to tell the object from its background in one photo, as evidence for a minimum cut.

Evidence is the log-odds of inside to outside at each pixel of a photo at its working size; :data:`CERTAIN` overrules everything else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image
from scipy.ndimage import binary_dilation, binary_opening, distance_transform_edt
from skimage.morphology import convex_hull_image

from unrender.captures.images import in_threads
from unrender.captures.mask_making.colors import PLAIN, Backdrop, ColorModels, border_of, fit_backdrop
from unrender.captures.mask_making.cuts import cut
from unrender.captures.mask_making.photos import PhotoSet
from unrender.captures.mask_making.shapes import main_parts

CERTAIN = 100.0
"""Evidence of pixels whose label is given."""

SMOOTHNESS = 3.0
"""Price of one pixel of border where the photo is flat, in units of evidence."""

_STRONGEST = 5.0
"""Bound of the evidence of one pixel's color."""

_SLOPE = 0.7
"""Evidence for each standard deviation of distance from a background."""

_SHADOW_SLOPE = 0.2
"""The same beyond a background on which shadows fall that cannot be told from a gray object."""

_SHADOW_LIKE = 0.015
"""Evidence of what may be a shadow: enough for a part of the object with sharp edges all around, not for a shadow that fades."""

_LOOKS = 12
"""Photos that are looked at to choose a method."""

_PLAIN_SHARE = 0.72
"""Share of the border that one slowly varying color explains, in the median photo, if the background is one."""

_GRAY_SHARE = 0.5
"""Share of what differs from the background that may be a shadow, in the median photo, if the object itself has no color."""

_STUDIES = 24
"""Photos that the models of color are fitted to."""

_STUDY_SIDE = 192
_ROUNDS = 4
_STILL_SHARE = 0.7
"""Share of the border that stands still, if the cameras do."""

_STILL = 6.0
"""Distance in CIELAB from the median over the views up to which a pixel stands still."""

_LEAST_MOVING = 0.005
"""Share of the pixels that a turning object changes at least."""

_MARGIN = 0.15
"""How far beyond the moving pixels the object may reach, as a share of their half width."""

_LEAST_STILL = 5
"""Fewer photos do not show what stands still."""

_FEW = 3
"""Views that must see the background at a pixel before its color there is known."""


class Method(ABC):
    """A way to find the object in a photo."""

    @abstractmethod
    def evidence(self, view: int, lab: Float[ndarray, "rows columns 3"]) -> Float[ndarray, "rows columns"]:
        """Return the evidence at each pixel of a photo."""


@dataclass(frozen=True)
class PlainBackground(Method):
    """The background of each photo has one color that varies slowly."""

    shadows: bool
    """Whether the object may cast shadows on it."""
    gray: bool
    """Whether the object has no color that would tell it from deep shadows."""

    def evidence(self, view: int, lab: Float[ndarray, "rows columns 3"]) -> Float[ndarray, "rows columns"]:
        backdrop = fit_backdrop(lab)
        beyond = backdrop.distance(lab, shadows=self.shadows) - PLAIN
        if self.shadows and self.gray:
            return np.clip(np.where(beyond > 0, _SHADOW_SLOPE, _SLOPE) * beyond, -_STRONGEST, _STRONGEST)
        evidence = np.clip(_SLOPE * beyond, -_STRONGEST, _STRONGEST)
        return np.where(self._unsure(backdrop, lab, beyond), _SHADOW_LIKE, evidence)

    def unsure(self, lab: Float[ndarray, "rows columns 3"]) -> Bool[ndarray, "rows columns"]:
        """Tell which pixels show a deep shadow or a gray part of the object.

        Their color says nothing, and the edges around them decide.
        """
        backdrop = fit_backdrop(lab)
        return self._unsure(backdrop, lab, backdrop.distance(lab, shadows=self.shadows) - PLAIN)

    def _unsure(
        self, backdrop: Backdrop, lab: Float[ndarray, "rows columns 3"], beyond: Float[ndarray, "rows columns"]
    ) -> Bool[ndarray, "rows columns"]:
        return (beyond > 0) & backdrop.may_be_shadow(lab) & (self.shadows and not self.gray)


@dataclass(frozen=True)
class StillBackground(Method):
    """The cameras stand still, and so does what lies behind the object."""

    background: Float[ndarray, "rows columns 3"]
    """Its color where it is known."""
    sigma: Float[ndarray, "rows columns"]
    """Standard deviation of its color; infinite where it is unknown."""
    still: Bool[ndarray, "rows columns"]
    """Pixels that never show the object."""
    colors: ColorModels

    def evidence(self, view: int, lab: Float[ndarray, "rows columns 3"]) -> Float[ndarray, "rows columns"]:
        size = (lab.shape[1], lab.shape[0])
        background = np.stack([_resized(self.background[..., channel], size) for channel in range(3)], -1)
        sigma = _resized(self.sigma, size)
        known = np.isfinite(sigma)
        distance = np.linalg.norm(lab - background, axis=-1) / np.where(known, sigma, 1.0)
        by_place = np.where(known, np.clip(_SLOPE * (distance - PLAIN / 2), -_STRONGEST, _STRONGEST), 0.0)
        by_color = np.clip(self.colors.evidence(lab), -_STRONGEST, _STRONGEST)
        # Where the background is known, a color like it tells little; its color decides only where it is not.
        total = np.where(known, by_place + 0.3 * by_color, by_color)
        return np.where(_resized(self.still.astype(np.float32), size) > 0.5, -CERTAIN, total)


@dataclass(frozen=True)
class Region(Method):
    """The object lies within a region of each photo, and what lies around it has other colors."""

    around: Callable[[int, tuple[int, int]], Float[ndarray, "rows columns"]]
    """Return for a view and a width and height how far each pixel is from the middle of the region: 1 at its border."""
    colors: ColorModels

    def evidence(self, view: int, lab: Float[ndarray, "rows columns 3"]) -> Float[ndarray, "rows columns"]:
        far = self.around(view, (lab.shape[1], lab.shape[0]))
        return np.where(far > 1, -CERTAIN, np.clip(self.colors.evidence(lab), -_STRONGEST, _STRONGEST))


def plain_background(photos: PhotoSet) -> tuple[PlainBackground, float]:
    """Look for a background of one color; return it and the share of the photos' border that it explains."""

    def look(view: int) -> tuple[Backdrop, float]:
        lab = photos.lab(view, _study_size(photos, view))
        backdrop = fit_backdrop(lab)
        other = backdrop.distance(lab, shadows=True) > PLAIN
        return backdrop, float(backdrop.may_be_shadow(lab)[other].mean()) if other.any() else 0.0

    looks = in_threads(look, photos.spread(_LOOKS))
    photographed = sum(backdrop.is_photographed for backdrop, _ in looks)
    gray = float(np.median([share for _, share in looks])) > _GRAY_SHARE
    return PlainBackground(3 * photographed > len(looks), gray), float(np.median([backdrop.share for backdrop, _ in looks]))


def is_plain(share: float) -> bool:
    """Tell whether a background that explains this share of the border is one color."""
    return share >= _PLAIN_SHARE


def still_background(photos: PhotoSet) -> StillBackground | None:
    """Look for a background that stands still in all photos; None if there is none."""
    if len(photos) < _LEAST_STILL or len(set(photos.sizes)) > 1:
        return None
    size = _study_size(photos, 0)
    labs = in_threads(lambda view: photos.lab(view, size), photos.spread(2 * _STUDIES))
    median = np.median(labs, 0)
    away = np.stack([np.linalg.norm(lab - median, axis=-1) for lab in labs])
    moved = np.quantile(away, 0.85, axis=0)
    border = border_of(*moved.shape)
    if float((moved[border] < _STILL).mean()) < _STILL_SHARE:
        return None
    noise = float(np.median(moved[border & (moved < _STILL)]))
    least = max(2.0, min(_STILL, 3 * noise))
    moving = main_parts(binary_opening(moved > least), 0.1)
    far = _around_what_moves(moving)
    still = far > 1
    if not _LEAST_MOVING < float(moving.mean()) or not still.any():
        return None
    # Where a color comes back again and again between others, it may be that of the background.
    returning = (away < least) & (moved > least)
    colors, labels = _studied(labs, [np.where(back, np.maximum(far, 0.5), far) for back in returning])
    outside = ~np.stack([np.asarray(binary_dilation(inside, iterations=1), bool) for inside in labels])
    background, sigma = _seen_between(np.stack(labs), outside)
    return StillBackground(background, sigma, still, colors)


def _around_what_moves(moving: Bool[ndarray, "rows columns"]) -> Float[ndarray, "rows columns"]:
    """Return a distance from the middle of what moves, 1 a little beyond its convex hull.

    The turning object may look the same at all times along its border, so this border lies outside of what moves.
    """
    if not moving.any():
        return np.full(moving.shape, 2.0, np.float32)
    hull = np.asarray(convex_hull_image(moving), bool)
    depth, beyond = np.asarray(distance_transform_edt(hull)), np.asarray(distance_transform_edt(~hull))
    reach = 2 * _MARGIN * depth.max()
    return np.where(hull, (1 - _MARGIN) * (1 - depth / depth.max()), 1 - _MARGIN + _MARGIN * beyond / reach).astype(np.float32)


def _seen_between(
    labs: Float[ndarray, "views rows columns 3"], outside: Bool[ndarray, "views rows columns"]
) -> tuple[Float[ndarray, "rows columns 3"], Float[ndarray, "rows columns"]]:
    """Return the median color of the background at each pixel over the views that show it, and its deviation."""
    masked = np.where(outside[..., None], labs, np.nan)
    seen = outside.sum(0) >= _FEW
    masked[:, ~seen] = 0.0
    background = np.nanmedian(masked, 0)
    away = np.linalg.norm(masked - background, axis=-1)
    sigma = np.clip(1.4826 * np.nanmedian(away, 0), 1.5, 4.0)
    return background.astype(np.float32), np.where(seen, sigma, np.inf).astype(np.float32)


def region(photos: PhotoSet, around: Callable[[int, tuple[int, int]], Float[ndarray, "rows columns"]]) -> Region:
    """Learn the colors inside and outside of an object that lies within a region of each photo.

    The first guess is that the inner half of the region shows the object; then labels and colors are found in turn.
    """
    views = photos.spread(_STUDIES)
    labs = in_threads(lambda view: photos.lab(view, _study_size(photos, view)), views)
    colors, _ = _studied(labs, [around(view, (lab.shape[1], lab.shape[0])) for view, lab in zip(views, labs, strict=True)])
    return Region(around, colors)


def _studied(
    labs: Sequence[Float[ndarray, "_ _ 3"]], fars: Sequence[Float[ndarray, "_ _"]]
) -> tuple[ColorModels, list[Bool[ndarray, "_ _"]]]:
    """Find colors and labels in turn, and return both."""
    inside = [far < 0.5 for far in fars]
    outside = [far > 1 for far in fars]
    colors = ColorModels()
    for turn in range(_ROUNDS):
        colors = ColorModels()
        for lab, within, beyond in zip(labs, inside, outside, strict=True):
            colors.add(lab, within, beyond)
        nearness = 2.0 * (1 - turn / (_ROUNDS - 1))
        evidences = [
            np.where(far > 1, -CERTAIN, np.clip(colors.evidence(lab), -_STRONGEST, _STRONGEST) + nearness * (0.7 - far))
            for lab, far in zip(labs, fars, strict=True)
        ]
        inside = in_threads(lambda pair: cut(pair[0], pair[1], SMOOTHNESS), list(zip(evidences, labs, strict=True)))
        outside = [~label for label in inside]
    return colors, inside


def _study_size(photos: PhotoSet, view: int) -> tuple[int, int]:
    width, height = photos.working_size(view)
    shrink = max(1.0, max(width, height) / _STUDY_SIDE)
    return max(1, round(width / shrink)), max(1, round(height / shrink))


def _resized(values: Float[ndarray, "_ _"], size: tuple[int, int]) -> Float[ndarray, "_ _"]:
    image = Image.fromarray(values.astype(np.float32))
    if not np.isfinite(values).all():
        return np.asarray(image.resize(size, Image.Resampling.NEAREST))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))

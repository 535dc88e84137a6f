"""Clean-up of masks, and their edges at the size of the photos."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter, label, uniform_filter

_SPECK = 0.002
"""Holes smaller than this share of the object are no holes."""

_HOLE = 0.03
"""Holes up to this share of the object are filled where all other views show it."""

_SOFT = 0.7
"""Standard deviation, in pixels, by which distances to the border are smoothed, so that its steps disappear."""

_FLAT_EDGE = 1e-3
"""Variance of the photo (from 0 to 1) within a window below which the guided filter averages."""


def main_parts(mask: Bool[ndarray, "rows columns"], least: float) -> Bool[ndarray, "rows columns"]:
    """Drop the parts that are smaller than a share of the largest one, and fill tiny holes."""
    parts, count = _labeled(mask)
    if count == 0:
        return mask
    sizes = np.bincount(parts.reshape(-1))
    sizes[0] = 0
    kept = (sizes >= least * sizes.max())[parts] & mask
    return kept | small_holes(kept, _SPECK)


def small_holes(mask: Bool[ndarray, "rows columns"], most: float = _HOLE) -> Bool[ndarray, "rows columns"]:
    """Return the pixels of holes that are smaller than a share of the object."""
    holes, count = _labeled(~mask)
    areas = np.bincount(holes.reshape(-1), minlength=count + 1)
    at_border = np.concatenate((holes[0], holes[-1], holes[:, 0], holes[:, -1]))
    small = np.asarray(areas < most * int(mask.sum()))
    small[at_border] = False
    small[0] = False
    return small[holes]


def _labeled(region: Bool[ndarray, "rows columns"]) -> tuple[Int[ndarray, "rows columns"], int]:
    parts, count = label(region)  # pyright: ignore[reportGeneralTypeIssues]
    return np.asarray(parts, np.int64), int(count)


def signed_distance(mask: Bool[ndarray, "rows columns"]) -> Float[ndarray, "rows columns"]:
    """Return the distance to the border of a mask in pixels, positive inside."""
    if not mask.any() or mask.all():
        return np.full(mask.shape, np.inf if mask.all() else -np.inf, np.float32)
    inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
    return (np.where(mask, np.asarray(inside) - 0.5, 0.5 - np.asarray(outside))).astype(np.float32)


def soft_mask(mask: Bool[ndarray, "rows columns"], rgb: UInt8[ndarray, "height width 3"]) -> UInt8[ndarray, "height width"]:
    """Enlarge a mask to the size of its photo, with a border that rises over about a pixel.

    If the photo is larger, the border is first moved to the nearest edge of the photo by a guided filter.

    Source: He, Sun and Tang, Guided image filtering, 2010.
    """
    height, width = rgb.shape[:2]
    distance = signed_distance(mask)
    if not np.isfinite(distance).all():
        return np.full((height, width), 255 if mask.all() else 0, np.uint8)
    reach = 8.0
    smooth = gaussian_filter(np.clip(distance, -reach, reach), _SOFT)
    scale = max(height / mask.shape[0], width / mask.shape[1])
    if (height, width) != mask.shape:
        large = Image.fromarray(smooth.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
        smooth = np.asarray(large) * scale
    alpha = np.clip(0.5 + smooth, 0, 1)
    if scale > 1.5:
        radius = round(1.5 * scale)
        guided = _guided((alpha > 0.5).astype(np.float32), np.asarray(Image.fromarray(rgb).convert("L"), np.float32) / 255, radius)
        band = np.abs(smooth) < 1.5 * scale
        # The filter blurs where the photo has no edge; the ramp is made steep again about its middle.
        alpha = np.where(band, np.clip(0.5 + (guided - 0.5) * scale, 0, 1), alpha)
    return np.rint(255 * alpha).astype(np.uint8)


def _guided(values: Float[ndarray, "rows columns"], guide: Float[ndarray, "rows columns"], radius: int) -> Float[ndarray, "rows columns"]:
    """Filter an image so that it becomes a local linear function of the guide."""

    def mean(image: ndarray) -> ndarray:
        return uniform_filter(image, 2 * radius + 1, mode="nearest")

    middle, level = mean(guide), mean(values)
    slope = (mean(guide * values) - middle * level) / (mean(guide * guide) - middle * middle + _FLAT_EDGE)
    return mean(slope) * guide + mean(level - slope * middle)

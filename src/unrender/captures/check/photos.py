"""Photos by themselves: small copies, duplicates, sharpness, exposure and color."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from scipy.ndimage import binary_erosion, gaussian_filter
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.captures.check.findings import Finding, named
from unrender.captures.images import averaged_pixels, in_threads

_SIDE = 480
"""Longer side of the copies in which features are looked for, at most."""
_SHARPNESS_SIDE = 1000
_THUMB, _AVERAGED = 256, 4
"""Photos are thinned to 256 pixels along a side and averaged over 4 x 4 to compare them."""

_SAME = 0.012
"""Mean difference of thumbnails, by their contrast, below which photos are duplicates (next to each other on a turntable: 0.05)."""
_LEAST_CONTRAST = 2.0
"""Standard deviation of a thumbnail, of 255, below which it shows nothing."""
_SAME_TURN, _SAME_SHIFT = 2.0, 0.02
"""Degrees, and share of the distance to the scene, by which the poses of equal photos may differ."""
_FEW_DUPLICATES = 0.04
"""Share of duplicates above which a fit fails."""
_ALL_ALIKE = 0.6
"""Share above which rather the object looks alike from all sides, as a plain vase does: copies leave the photos that they replace few."""

_BLURRED = -0.8
"""Ratio of fine to coarse detail, log2 against the median, of a blurred photo (blur of 1.5 pixels: -1 to -2; sharp ones above -0.4)."""
_DARKER, _TINTED = 1.0, 0.5
"""Log2 of brightness, and of red or blue by green, by which photos differ visibly."""
_OUTLIER = 6.0
"""And this many times the median difference."""
_CLIPPED = 0.25
"""Share of pixels at the end of the range that is too large."""
_LEAST_SIDE = 150


@dataclass(frozen=True)
class SmallPhoto:
    """A photo averaged over blocks of pixels."""

    gray: Float[ndarray, "rows columns"]
    """From 0 to 1, on black outside of the mask."""
    inside: Bool[ndarray, "rows columns"] | None
    """The mask; None without masks."""
    block: int


def small_photo(capture: Capture, view: int, mask: UInt8[Tensor, "_ _"] | None) -> SmallPhoto:
    """Return a small copy of a photo with the given mask, or with none."""
    rgba = capture.photos[view].numpy().copy()
    rgba[..., 3] = 255 if mask is None else mask.numpy()
    block = max(1, -(-max(rgba.shape[:2]) // _SIDE))
    small = averaged_pixels(rgba, block)
    gray = small[..., :3].astype(np.float32).mean(-1) / 255
    if mask is None:
        return SmallPhoto(gray, None, block)
    alpha = small[..., 3].astype(np.float32) / 255
    return SmallPhoto(gray * alpha, alpha >= 0.5, block)


def duplicates(capture: Capture) -> list[tuple[int, int]]:
    """Return the views whose photo looks like an earlier one's although their poses differ.

    The first such one stands beside each. All photos are decoded.
    """
    thumbs = in_threads(lambda view: _thumb(capture.photos[view].numpy()), range(len(capture)))
    means, apart = np.array([thumb.mean() for thumb in thumbs]), _posed_apart(capture)
    found: list[tuple[int, int]] = []
    for view, thumb in enumerate(thumbs):
        contrast = float(thumb.std())
        if contrast < _LEAST_CONTRAST:
            continue
        # The difference of the means is at most the mean of the differences, and leaves few thumbnails to compare.
        near = np.flatnonzero((np.abs(means[:view] - means[view]) <= _SAME * contrast) & apart[view, :view])
        same = (k for k in near if thumbs[k].shape == thumb.shape and float(np.abs(thumbs[k] - thumb).mean()) <= _SAME * contrast)
        found += [(view, int(earlier)) for earlier in itertools.islice(same, 1)]
    return found


def copied_files(capture: Capture) -> list[tuple[int, int]]:
    """Return the views whose photo is a copy of an earlier one's file although their poses differ.

    The first such one stands beside each. No photo is decoded.
    """
    apart = _posed_apart(capture) if capture.copies else None
    return [] if apart is None else [(view, earlier) for view, earlier in capture.copies if apart[view, earlier]]


def _posed_apart(capture: Capture) -> Bool[ndarray, "views views"]:
    """Tell which two views have different poses."""
    poses = capture.cameras.world_from_camera.double().cpu()
    axes, positions = poses[:, :3, :3].flatten(1), poses[:, :3, 3]
    angle = torch.rad2deg(torch.acos((((axes @ axes.T) - 1) / 2).clamp(-1, 1)))  # the trace of A⁻¹ B is the sum of the products
    shift = torch.cdist(positions, positions) / (float(positions.norm(dim=-1).median()) + 1e-9)
    return ((angle > _SAME_TURN) | (shift > _SAME_SHIFT)).numpy()


def _thumb(rgba: UInt8[ndarray, "height width 4"]) -> Float[ndarray, "rows columns"]:
    step = max(1, max(rgba.shape[:2]) // _THUMB)
    thin = rgba[::step, ::step].astype(np.float32)
    gray = thin[..., :3].mean(-1)  # masks may differ where photos are the same
    rows, columns = max(1, gray.shape[0] // _AVERAGED), max(1, gray.shape[1] // _AVERAGED)
    return gray[: rows * _AVERAGED, : columns * _AVERAGED].reshape(rows, -1, columns, min(_AVERAGED, gray.shape[1])).mean((1, 3))


def about_duplicates(pairs: Sequence[tuple[int, int]], names: Sequence[str]) -> list[Finding]:
    """Describe duplicated photos."""
    if not pairs:
        return []
    examples = named([f"{names[view]} = {names[earlier]}" for view, earlier in pairs])
    if len(pairs) > _ALL_ALIKE * len(names):
        sentence = (
            f"{len(pairs)} of {len(names)} photos look like another one although their poses differ ({examples}): if they are no copies, "
            "the object looks alike from these sides, and only its outlines show its shape"
        )
        return [Finding("warning", "duplicates", sentence)]
    severe = len(pairs) > max(1, _FEW_DUPLICATES * len(names))
    return [
        Finding(
            "broken" if severe else "warning",
            "duplicates",
            f"{len(pairs)} of {len(names)} photos repeat another one although their poses differ ({examples}): remove the copies, or put "
            "the right photos in their place",
        )
    ]


@dataclass(frozen=True)
class PhotoLooks:
    """Sharpness, exposure and color of some photos; rows are NaN where the object is too small."""

    views: tuple[int, ...]
    sharpness: Float[ndarray, " views"]
    """Fine by coarse detail, log2."""
    brightness: Float[ndarray, " views"]
    """Log2 of the median gray value."""
    tint: Float[ndarray, "views 2"]
    """Log2 of red by green and of blue by green."""
    clipped: Float[ndarray, "views 2"]
    """Share of black and of white pixels."""


def looks_of(capture: Capture, views: Sequence[int]) -> PhotoLooks:
    """Measure photos within their masks."""
    rows = np.array(in_threads(lambda view: _look(capture.photos[view].numpy(), capture.has_masks), views))
    return PhotoLooks(tuple(views), rows[:, 0], rows[:, 1], rows[:, 2:4], rows[:, 4:6])


def _look(rgba: UInt8[ndarray, "height width 4"], has_masks: bool) -> tuple[float, ...]:
    rgba = averaged_pixels(rgba, max(1, -(-max(rgba.shape[:2]) // _SHARPNESS_SIDE)))
    color = rgba[..., :3].astype(np.float32)
    inside = (
        np.asarray(binary_erosion(rgba[..., 3] >= 128, iterations=3), dtype=bool) if has_masks else np.ones(color.shape[:2], dtype=bool)
    )
    if inside.sum() < 64:
        return (float("nan"),) * 6
    gray = color.mean(-1)
    once, more = gaussian_filter(gray, 1.0), gaussian_filter(gray, 3.0)
    fine, coarse = float((gray - once)[inside].std()), float((once - more)[inside].std())
    shown = color[inside]
    red, green, blue = (float(value) for value in shown.mean(0) + 1)
    return (
        float(np.log2((fine + 1e-3) / (coarse + 1e-3))) if coarse > 0.5 else float("nan"),
        float(np.log2(np.median(gray[inside]) + 1)),
        float(np.log2(red / green)),
        float(np.log2(blue / green)),
        float((shown.max(-1) <= 4).mean()),
        float((shown.min(-1) >= 251).mean()),
    )


def about_looks(looks: PhotoLooks, capture: Capture) -> tuple[list[Finding], dict[int, str]]:
    """Describe photos that look unlike the others; every fault is named by view, too."""
    names, faults = capture.names, dict[int, str]()
    findings: list[Finding] = []

    def tell(views: Sequence[int], word: str, finding: Finding) -> None:
        if views:
            findings.append(finding)
            faults.update({view: word for view in views})

    blurred = _far_below(looks, looks.sharpness, _BLURRED)
    tell(
        blurred,
        "blurred",
        Finding(
            "warning",
            "blur",
            f"{len(blurred)} photos are blurred, compared with the others ({named([names[view] for view in blurred])}): leave them out",
        ),
    )
    apart = _apart(looks, looks.brightness, _DARKER)
    tell(
        apart,
        "exposure",
        Finding(
            "warning",
            "exposure",
            f"{len(apart)} photos are much darker or brighter than the others ({named([names[view] for view in apart])}): fix the "
            "exposure, or leave them out",
        ),
    )
    tinted = sorted({*_apart(looks, looks.tint[:, 0], _TINTED), *_apart(looks, looks.tint[:, 1], _TINTED)})
    tell(
        tinted,
        "white balance",
        Finding(
            "warning",
            "color",
            f"{len(tinted)} photos have another white balance than the others ({named([names[view] for view in tinted])}): develop all "
            "with the same one",
        ),
    )
    dark, bright = (float(np.nanmean(share)) if np.isfinite(share).any() else 0.0 for share in looks.clipped.T)
    for share, word in ((dark, "black"), (bright, "white")):
        if share > _CLIPPED and capture.has_masks:
            findings.append(
                Finding("warning", "exposure", f"{share:.0%} of the object's pixels are {word}, without any detail: fix the exposure")
            )
    return findings, faults


def _far_below(looks: PhotoLooks, values: Float[ndarray, " views"], limit: float) -> list[int]:
    return [] if np.isnan(values).all() else [looks.views[k] for k in np.flatnonzero(values - np.nanmedian(values) < limit)]


def _apart(looks: PhotoLooks, values: Float[ndarray, " views"], least: float) -> list[int]:
    if np.isnan(values).all():
        return []
    away = np.abs(values - np.nanmedian(values))
    return [looks.views[k] for k in np.flatnonzero(away > max(least, _OUTLIER * float(np.nanmedian(away))))]


def about_sizes(capture: Capture) -> list[Finding]:
    """Describe photos that are too small or of many sizes."""
    sizes = capture.cameras.sizes
    findings = []
    if int(sizes.amax(1).median()) < _LEAST_SIDE:
        width, height = sizes[0].tolist()
        findings.append(Finding("warning", "resolution", f"the photos are small ({width} x {height} pixels): use larger ones if there are"))
    counts = sizes.unique(dim=0, return_counts=True)[1]
    if len(counts) > 1 and int(counts.max()) < 0.5 * len(sizes):
        findings.append(
            Finding("warning", "resolution", f"the photos have {len(counts)} sizes: were they cropped after the cameras were solved?")
        )
    return findings

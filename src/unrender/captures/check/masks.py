"""What is wrong with the masks of a capture: missing, empty or inverted ones, and masks that contradict the cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.captures.check.findings import Cause, Finding, named
from unrender.captures.check.hull import HullAgreement, hull_agreement

_FULL, _EMPTY = 0.995, 0.002
"""Share of bright pixels above which a mask says nothing, and below which it hides the photo."""
_GOOD, _BAD = 0.85, 0.7
"""Mean intersection by union of masks that fit (right ones 0.9 to 0.98), and of masks that do not (shuffled ones 0.1 to 0.7)."""
_BRIGHT_BORDER = 0.5
"""Share of the border that is bright in masks that may be inverted."""
_OUTLIER = 0.75
"""Share of the median intersection by union below which a single mask is suspected."""
_MANY = 0.1
"""Share of wrong masks above which a fit fails."""


@dataclass(frozen=True)
class Masks:
    """Masks of some views, sorted by what is wrong with them."""

    views: tuple[int, ...]
    hull: HullAgreement
    """Of the masks that are neither full nor empty, inverted ones turned around; rows of the others are NaN."""
    full: tuple[int, ...]
    empty: tuple[int, ...]
    inverted: tuple[int, ...]
    usable: tuple[UInt8[Tensor, "_ _"] | None, ...]
    """Masks to look for features in; None where there is no sensible one."""

    @property
    def usable_by_view(self) -> dict[int, UInt8[Tensor, "_ _"]]:
        """The usable masks by their views."""
        return {view: mask for view, mask in zip(self.views, self.usable, strict=True) if mask is not None}

    @property
    def faults(self) -> dict[int, str]:
        """Words for the views with wrong masks."""
        kinds = ((self.full, "no mask"), (self.empty, "empty mask"), (self.inverted, "inverted mask"))
        return {view: word for views, word in kinds for view in views}


def examine_masks(capture: Capture, views: Sequence[int]) -> Masks:
    """Sort the masks of some views by what is wrong with them, and compare the right ones with the cameras."""
    masks = [capture.mask(view) for view in views]
    shares = [float((mask >= 128).float().mean()) for mask in masks]
    full = [share > _FULL for share in shares]
    empty = [share < _EMPTY for share in shares]
    kept = [place for place in range(len(views)) if not (full[place] or empty[place])]
    hull = _hull_of(masks, kept, capture, views)
    flipped = list[int]()
    if hull.mean < _GOOD:
        bright = [place for place in kept if _bright_border(masks[place]) > _BRIGHT_BORDER]
        for trial in (bright, kept) if len(bright) > 0.5 * len(kept) else (bright,):
            turned = [255 - mask if place in set(trial) else mask for place, mask in enumerate(masks)]
            again = _hull_of(turned, kept, capture, views) if trial else hull
            if again.mean > max(_BAD, hull.mean + 0.1):
                hull, flipped = again, trial
    masks = [255 - mask if place in set(flipped) else mask for place, mask in enumerate(masks)]
    return Masks(
        views=tuple(views),
        hull=hull,
        full=tuple(view for view, is_full in zip(views, full, strict=True) if is_full),
        empty=tuple(view for view, is_empty in zip(views, empty, strict=True) if is_empty),
        inverted=tuple(views[place] for place in flipped),
        usable=tuple(mask if place in set(kept) else None for place, mask in enumerate(masks)),
    )


def _hull_of(masks: Sequence[UInt8[Tensor, "_ _"]], kept: Sequence[int], capture: Capture, views: Sequence[int]) -> HullAgreement:
    nothing = torch.full((len(views),), float("nan"), dtype=torch.float64)
    if len(kept) < 2:
        return HullAgreement(nothing, nothing, torch.zeros(0, 3), 2 / 96)
    part = hull_agreement([masks[place] for place in kept], capture.cameras.select([views[place] for place in kept]))
    index = torch.tensor(kept)
    return HullAgreement(nothing.index_copy(0, index, part.iou), nothing.index_copy(0, index, part.covered), part.cells, part.cell)


def _bright_border(mask: UInt8[Tensor, "height width"]) -> float:
    border = torch.cat([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return float((border >= 128).float().mean())


def about_masks(masks: Masks, names: Sequence[str], cameras_fit: bool | None) -> list[Finding]:
    """Describe masks.

    Args:
        masks: of some views.
        names: of all views.
        cameras_fit: whether the cameras agree with matches between the photos; None if nobody knows.
    """
    count = len(masks.views)

    def about(cause: Cause, views: Sequence[int], what: str, advice: str) -> list[Finding]:
        severity = "broken" if len(views) > _MANY * count else "warning"
        sentence = f"{len(views)} of {count} masks are {what} ({named([names[view] for view in views])}){advice}"
        return [Finding(severity, cause, sentence)] if views else []

    missing = ", as of photos without a mask: make the missing masks, or fit without masks (--masks none)"
    findings = about("missing masks", masks.full, "bright everywhere", missing)
    findings += about("empty masks", masks.empty, "dark everywhere", ": make them again, or leave these photos out")
    findings += about("inverted masks", masks.inverted, "inverted", ": bright must be the object")
    return findings + _about_hull(masks, names, cameras_fit)


def _about_hull(masks: Masks, names: Sequence[str], cameras_fit: bool | None) -> list[Finding]:
    mean, iou = masks.hull.mean, masks.hull.iou
    if len(masks.full) + len(masks.empty) + 2 > len(masks.views):
        return []
    if mean >= _GOOD:
        found = [Finding("ok", "masks", f"masks and cameras agree: the visual hull covers the masks with an IoU of {mean:.3f}")]
        wrong = [masks.views[int(place)] for place in (iou < _OUTLIER * iou.nanmedian()).nonzero()[:, 0]]
        if wrong:
            found.append(
                Finding("warning", "masks", f"{len(wrong)} masks contradict the others ({named([names[v] for v in wrong])}): correct them")
            )
        return found
    if mean >= _BAD and not masks.inverted:
        return [
            Finding("warning", "masks", f"masks and cameras agree roughly (IoU {mean:.2f}, 0.95 is usual): look at the masks on check.html")
        ]
    if cameras_fit is False or masks.inverted:
        return []  # the cameras are the reason, and their finding is there
    if cameras_fit:
        sentence = (
            f"the masks do not outline one object (IoU of the visual hull {mean:.2f}, 0.95 is usual), although the cameras fit the photos: "
            "are the masks those of other photos? Correct them, or fit without (--masks none)"
        )
        return [Finding("broken", "masks", sentence)]
    sentence = (
        f"masks and cameras contradict each other (IoU of the visual hull {mean:.2f}, 0.95 is usual): photos or masks do not belong to "
        "their poses, or the camera axes are others (--camera-axes)"
    )
    return [Finding("broken", "masks", sentence)]

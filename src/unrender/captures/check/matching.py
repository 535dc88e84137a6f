"""Matches between the photos of a capture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from jaxtyping import UInt8
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.captures.check.epipolar import VerifiedMatches, verify
from unrender.captures.check.features import Features, Matches, find_features, match_all
from unrender.captures.check.photos import small_photo
from unrender.captures.images import in_threads

_FEATURES = 300
_PARTNERS = 5
"""Photos that each photo is compared with: those with which it has the most matches."""


def matches_between(capture: Capture, views: Sequence[int], masks: Mapping[int, UInt8[Tensor, "_ _"]] | None) -> VerifiedMatches | None:
    """Return matches between some photos that some epipolar geometry explains; None if there are none.

    Args:
        capture: the photos.
        views: some of them.
        masks: in which features are looked for. Views without one are left out: what is around an object may stand still while the
            cameras move. None to look everywhere.
    """
    if masks is not None:
        views = [view for view in views if view in masks]
    if len(views) < 2:
        return None

    def features(view: int) -> Features:
        small = small_photo(capture, view, None if masks is None else masks[view])
        found = find_features(small.gray, _FEATURES, small.inside)
        return replace(found, positions=found.positions * small.block)

    found = match_all(in_threads(features, views))
    partners: dict[int, list[Matches]] = {}
    for matches in sorted(found, key=lambda matches: -len(matches)):
        for side in (matches.first, matches.second):
            partners.setdefault(side, []).append(matches)
    best = {(m.first, m.second): m for of_view in partners.values() for m in of_view[:_PARTNERS]}
    renamed = [replace(m, first=views[m.first], second=views[m.second]) for _, m in sorted(best.items())]
    return verify(renamed, capture.cameras)

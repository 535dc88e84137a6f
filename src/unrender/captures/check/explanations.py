"""What matches between photos say about the cameras: whether they fit, and which change makes them fit."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unrender.captures.check.epipolar import Change, VerifiedMatches, agreement, residuals_under
from unrender.captures.check.evidence import at_least, at_most, ratio_at_least
from unrender.captures.check.findings import Finding, Severity, named
from unrender.captures.source import opencv_from
from unrender.printing import counted
from unrender.words import CameraAxes

_FITS, _FAILS = 0.6, 0.4
"""Mean agreement of cameras that fit (right ones 0.75 to 0.99), and of cameras that do not (shuffled ones 0.02 to 0.15)."""
_BETTER = 0.2
"""A change of the axes must raise the agreement by this much."""
_LEAST_PAIRS, _LEAST_MATCHES = 4, 80
"""Fewer verified pairs or matches say nothing."""
_FACTORS = torch.exp(torch.linspace(math.log(0.3), math.log(3.3), 49, dtype=torch.float64))
"""Factors of the focal length that are tried."""
_FOCAL_OFF, _FOCAL_UNSURE = math.log(1.22), math.log(1.08)
_FOCAL_GAIN, _FOCAL_CLEAR = 1.08, 1.6
"""The residual must be this many times as large as with the best focal length, the second for small differences."""
_FOCAL_SURE = 1.03
"""Lower bound of that ratio when pairs are resampled (right cameras at most 1.00; 0.6 times the focal length at least 1.04)."""
_VIEW_FAILS = 0.3
"""Agreement below which a single view is suspected."""
_MANY_PAIRS = 0.06
"""Share of contradicting pairs above which photos may be sorted otherwise: sorting by text keeps most neighbors together."""
_MANY_VIEWS = 0.1
"""Share of views that contradict the others above which a fit fails."""
_STATIC = 0.5
"""Share of matches that stay where they are in the photo."""


@dataclass(frozen=True)
class Explanation:
    """What the matches say."""

    findings: list[Finding]
    given: float
    """Mean agreement with the cameras as they are."""
    by_view: Float[Tensor, " views"]
    """Mean agreement of the pairs of each view; NaN without pairs."""
    focal: float
    """Factor of the focal length that fits best."""
    pairs: int
    """Pairs of photos whose matches were compared with the cameras."""
    fits: bool | None
    """Whether the cameras agree; None if the matches are too few to be sure that they do not."""


def explain(
    matches: VerifiedMatches | None,
    poses: Float[Tensor, "views 4 4"],
    source_poses: Float[Tensor, "views 4 4"],
    names: Sequence[str],
    axes: CameraAxes | None,
    *,
    has_masks: bool,
) -> Explanation | None:
    """Find out whether cameras explain matches, and if not, why.

    Args:
        matches: of photos that are no duplicates.
        poses: ``world_from_camera`` of all views.
        source_poses: the same in the frame of the files, float64, where an inverted pose can be inverted back.
        names: of all views.
        axes: the camera axes that the capture was read with, if they are known.
        has_masks: whether the matches are within masks.

    Returns:
        None if the matches are too few.
    """
    if matches is None or len(matches.pairs) < _LEAST_PAIRS or len(matches.pair) < _LEAST_MATCHES:
        return None
    by_pair = agreement(matches, poses, Change())
    given = float(by_pair.mean())
    by_view = _by_view(matches, by_pair, len(names))
    turned, inverted, best = _best_turn(matches, poses, source_poses)
    evidence = f"{given:.0%} of the {len(matches.pair):,} consistent matches between {len(matches.pairs)} pairs of photos"

    def broken(finding: Finding, sure: bool, focal: float = 1.0) -> Explanation:
        if sure:
            return Explanation([finding], given, by_view, focal, len(by_pair), False)
        sentence = f"perhaps {finding.sentence}; the matches between the photos are too few to be sure"
        return Explanation([Finding("warning", finding.cause, sentence)], given, by_view, focal, len(by_pair), None)

    if float(best.mean()) >= _FITS and float(best.mean()) > given + _BETTER:
        about = _about_turn(turned, inverted, float(best.mean()), evidence, axes)
        return broken(about, at_least(best - by_pair) > _BETTER / 2)
    focal, gain, sure = _best_focal(matches, poses)
    doubt = ""
    at_best = float(agreement(matches, poses, Change(focal=focal)).mean())
    off = abs(math.log(focal))
    if at_best >= _FITS - 0.1 and at_best > given - 0.05:
        share = (
            f"the focal length fits best at {focal:.2g} times what is given (the matches then lie {gain:.1f} times nearer to their lines)"
        )
        if off > _FOCAL_OFF and gain > _FOCAL_GAIN:
            sentence = f"{share}: correct fl_x, fl_y or camera_angle_x; was it given for another size, in millimeters, or for a crop?"
            if sure:
                return broken(Finding("broken", "focal length", sentence), sure, focal)
            doubt = f", and they are too few to tell whether the focal length is {focal:.2g} times what is given"
        elif off > _FOCAL_UNSURE and gain > _FOCAL_CLEAR:
            finding = Finding("warning", "focal length", f"{share}: check the intrinsics")
            return Explanation([finding], given, by_view, focal, len(by_pair), True)
    contradicting = float((by_pair < _VIEW_FAILS).double().mean())
    order = _best_order(matches, poses, names, by_pair) if given < _FITS or contradicting > _MANY_PAIRS else None
    if order is not None:
        words, surely = order
        sentence = f"{words}: as they are, the cameras explain only {evidence}; put poses and photos into the same order"
        return broken(Finding("broken", "order", sentence), surely)
    if given >= _FITS:
        good = Finding("warning" if doubt else "ok", "poses", f"the cameras explain {evidence}{doubt or '; the focal length fits'}")
        strangers = [int(view) for view in (by_view < _VIEW_FAILS).nonzero()[:, 0]]
        if _are_many(strangers, matches, by_pair, by_view):
            return broken(_about_wrong_views(strangers, "broken", names), True)
        return Explanation([good, *_about_single_views(strangers, names)], given, by_view, focal, len(by_pair), True)
    static = _static_matches(matches)
    if not has_masks and float(static.double().mean()) > _STATIC:
        return broken(
            Finding(
                "broken",
                "static background",
                "most of the photos stays where it is while the cameras move: the object turned before a still background; add masks",
            ),
            at_least(matches.mean_by_pair(static.double())) > _STATIC / 2,
        )
    wrong = _wrong_views(matches, by_pair, len(names))
    if wrong:
        severity: Severity = "broken" if _are_many(wrong, matches, by_pair, by_view) else "warning"
        return Explanation([_about_wrong_views(wrong, severity, names)], given, by_view, focal, len(by_pair), severity == "warning")
    if given >= _FAILS:
        unsure = Finding("warning", "poses", f"the cameras explain only {evidence}: the poses or the lens are inaccurate")
        return Explanation([unsure], given, by_view, focal, len(by_pair), True)
    return broken(
        Finding(
            "broken",
            "poses",
            f"the photos do not belong to their poses: the cameras explain only {evidence}, and no other axes or focal length do: were "
            "photos renamed, sorted or left out after the poses were solved?",
        ),
        at_most(by_pair) < _FITS,
    )


def _by_view(matches: VerifiedMatches, by_pair: Float[Tensor, " pairs"], views: int) -> Float[Tensor, " views"]:
    total, count = torch.zeros(views, dtype=torch.float64), torch.zeros(views, dtype=torch.float64)
    for side in (0, 1):
        total.index_add_(0, matches.pairs[:, side], by_pair)
        count.index_add_(0, matches.pairs[:, side], torch.ones_like(by_pair))
    return total / count  # NaN without pairs


def _turns() -> list[Float[Tensor, "3 3"]]:
    """Return the 24 rotations that permute the axes, the identity first."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = torch.zeros(3, 3, dtype=torch.float64)
            for row, (column, sign) in enumerate(zip(order, signs, strict=True)):
                matrix[row, column] = sign
            if float(torch.linalg.det(matrix)) > 0:
                found.append(matrix)
    return found


def _best_turn(
    matches: VerifiedMatches, poses: Float[Tensor, "views 4 4"], source_poses: Float[Tensor, "views 4 4"]
) -> tuple[Change, bool, Float[Tensor, " pairs"]]:
    """Return the change of camera axes that explains most matches.

    Whether poses are inverted for it is returned too, and the agreement of each pair. Of changes that explain equally many it is the
    simplest.
    """
    best, turned_round, most = Change(), False, torch.full((len(matches.pairs),), -1.0, dtype=torch.float64)
    back = torch.linalg.inv(source_poses)
    for inverted, mirrored in ((False, False), (False, True), (True, False), (True, True)):
        for turn in _turns():
            change = Change(turn=turn, mirrored=mirrored)
            shares = agreement(matches, back if inverted else poses, change)
            if float(shares.mean()) > float(most.mean()) + 0.02:
                best, turned_round, most = change, inverted, shares
    return best, turned_round, most


def _about_turn(change: Change, inverted: bool, share: float, evidence: str, axes: CameraAxes | None) -> Finding:
    assert change.turn is not None
    diagonal = change.turn.diagonal()
    plain = bool((change.turn.abs() == torch.eye(3, dtype=torch.float64)).all())
    fits = f"the cameras explain only {evidence}, and {share:.0%} if"
    if inverted:
        also = "" if plain and bool((diagonal > 0).all()) else " and their camera axes changed"
        return Finding(
            "broken",
            "inverted poses",
            f"{fits} the poses are inverted{also}: they are world-to-camera matrices where camera-to-world is expected; invert them",
        )
    upright = bool((diagonal == 1).all())
    if change.mirrored:
        if upright or (plain and bool((diagonal == torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)).all())):
            how = "left to right" if upright else "upside down"
            return Finding("broken", "mirrored photos", f"{fits} the photos are mirrored {how}: mirror them back")
        return Finding("broken", "mirrored photos", f"{fits} the photos are mirrored and the camera axes changed: mirror the photos back")
    sides = ("right", "down", "forward")
    opposite = {"right": "left", "down": "up", "forward": "backward"}
    words = []
    for place in range(3):  # column j of the turn is the photo's axis j in the axes of the pose
        row = change.turn[place]
        towards = sides[int(row.abs().argmax())]
        words.append(towards if float(row.sum()) > 0 else opposite[towards])
    known = next((name for name in get_args(CameraAxes) if axes and plain and _is(diagonal, axes, name)), None)
    advice = f"use --camera-axes {known}" if known else f"+X of each camera must point {words[0]}, +Y {words[1]} and +Z {words[2]}"
    return Finding("broken", "camera axes", f"{fits} the camera axes are {_axes_words(words)}: {advice}")


def _is(diagonal: Float[Tensor, " 3"], given: CameraAxes, other: CameraAxes) -> bool:
    """Tell whether reading poses with other axes changes them by this diagonal."""
    return torch.equal(diagonal, (opencv_from(given) * opencv_from(other))[:3])


def _axes_words(words: Sequence[str]) -> str:
    return f"others (+X {words[0]}, +Y {words[1]}, +Z {words[2]} of what was read)"


def _best_focal(matches: VerifiedMatches, poses: Float[Tensor, "views 4 4"]) -> tuple[float, float, bool]:
    """Return the factor of the focal length with the least median residual.

    How much less that residual is follows, and whether that is sure.
    """
    medians = torch.stack([residuals_under(matches, poses, Change(focal=float(factor)))[0].median() for factor in _FACTORS])
    k = int(medians.argmin())
    if not 0 < k < len(_FACTORS) - 1:
        return 1.0, 1.0, False
    here = residuals_under(matches, poses, Change())[0]
    there = residuals_under(matches, poses, Change(focal=float(_FACTORS[k])))[0]
    gain = float(here.median()) / max(float(medians[k]), 1e-9)
    return float(_FACTORS[k]), gain, ratio_at_least(matches, here, there) > _FOCAL_SURE


def _static_matches(matches: VerifiedMatches) -> Bool[Tensor, " matches"]:
    """Tell which matches are at the same place in both photos."""
    apart = (matches.directions[:, 0] - matches.directions[:, 1]).norm(dim=-1) * matches.focal
    return apart < 0.004


def _best_order(
    matches: VerifiedMatches, poses: Float[Tensor, "views 4 4"], names: Sequence[str], by_pair: Float[Tensor, " pairs"]
) -> tuple[str, bool] | None:
    """Return how photos must be sorted for the poses to fit, and whether that is sure.

    None if none of the usual mistakes was made.
    """
    count = len(names)
    by_text = sorted(range(count), key=lambda view: names[view])
    by_number = sorted(range(count), key=lambda view: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", names[view])])
    rank_by_text, rank_by_number = _ranks(by_text), _ranks(by_number)
    index = torch.arange(count)
    trials = {
        "the photos are in the order of the numbers in their names, the poses in that of their text": torch.tensor(by_number)[rank_by_text],
        "the photos are in the order of the text of their names, the poses in that of their numbers": torch.tensor(by_text)[rank_by_number],
        "the order of the poses is reversed": torch.tensor(by_text).flip(0)[rank_by_text],
        "each pose is listed one place too late": torch.tensor(by_text)[(rank_by_text + 1).clamp(max=count - 1)],
        "each pose is listed one place too early": torch.tensor(by_text)[(rank_by_text - 1).clamp(min=0)],
    }
    for words, order in trials.items():
        if torch.equal(order, index):
            continue
        shares = agreement(matches, poses, Change(order=order))
        if float(shares.mean()) > max(_FITS, float(by_pair.mean()) + 0.1):
            return words, at_least(shares - by_pair) > 0
    return None


def _ranks(order: Sequence[int]) -> Int[Tensor, " views"]:
    ranks = torch.empty(len(order), dtype=torch.int64)
    ranks[torch.tensor(order)] = torch.arange(len(order))
    return ranks


def _wrong_views(matches: VerifiedMatches, by_pair: Float[Tensor, " pairs"], views: int) -> list[int]:
    """Return the few views without which the others agree; empty if there are none such."""
    left = torch.ones(views, dtype=torch.bool)
    wrong: list[int] = []
    for _ in range(max(1, views // 4)):
        kept = left[matches.pairs].all(1)
        if int(kept.sum()) < _LEAST_PAIRS:
            return []
        if float(by_pair[kept].mean()) >= _FITS and float((by_pair[kept] < _VIEW_FAILS).double().mean()) < 0.1:
            return sorted(wrong)
        bad = torch.zeros(views, dtype=torch.float64)
        for side in (0, 1):
            bad.index_add_(0, matches.pairs[kept][:, side], 1 - by_pair[kept])
        worst = int(bad.argmax())
        wrong.append(worst)
        left[worst] = False
    return []


def _are_many(wrong: Sequence[int], matches: VerifiedMatches, by_pair: Float[Tensor, " pairs"], by_view: Float[Tensor, " views"]) -> bool:
    """Tell whether a fit would fail for wrong views: more than a tenth of those with matches, and surely wrong."""
    theirs = torch.isin(matches.pairs, torch.tensor(wrong)).any(1)
    many = len(wrong) > _MANY_VIEWS * int((~by_view.isnan()).sum()) and int(theirs.sum()) >= _LEAST_PAIRS
    return many and at_most(by_pair[theirs]) < _FITS


def _about_wrong_views(wrong: Sequence[int], severity: Severity, names: Sequence[str]) -> Finding:
    few = named([names[view] for view in wrong])
    sentence = (
        f"the poses of {counted(len(wrong), 'photo')} contradict the others ({few}): put the right photos in their place, leave them out, "
        "or solve them again"
    )
    return Finding(severity, "poses", sentence)


def _about_single_views(strangers: Sequence[int], names: Sequence[str]) -> list[Finding]:
    wrong = [names[view] for view in strangers]
    if not wrong:
        return []
    return [
        Finding(
            "warning",
            "poses",
            f"the poses of {counted(len(wrong), 'photo')} seem to contradict the others ({named(wrong)}): look at them, or leave them out",
        )  # fmt: skip
    ]

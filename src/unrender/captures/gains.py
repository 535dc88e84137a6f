"""The exposure and white balance of each photo, from the colors of features that photos share (Brown and Lowe 2007).

A feature that is matched between two photos shows one place of the scene, whose color differs by the gains of the photos, and by noise, by
highlights and by wrong matches. With the median d_ij of log(color in i / color in j) over the n_ij matches of a pair, the log gains g are
those of the smallest

    Σ w_ij |g_i − g_j − d_ij| + ridge · Σ g_i²,    w_ij = min(n_ij, 50),

found by reweighted least squares, for each channel. Their mean over all photos is zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.captures.check.matching import matches_between

_MOST_VIEWS = 64
"""Photos that are matched at once, every one with every other."""
_BLUR = 5
"""Side in pixels of the patch whose mean color a feature has."""
_DARKEST, _BRIGHTEST = 0.04, 0.96
"""sRGB values between which a color says something about a gain: others are noise, or clipped."""
_LEAST_MATCHES = 8
_MOST_MATCHES = 50
"""Number of matches of a pair from which on more do not count more."""
_RIDGE = 0.1
_ROUNDS = 20
_SMALLEST = 1e-3
"""Difference of log gains below which the absolute value is rounded."""


def matched_gains(capture: Capture, views: Sequence[int]) -> Float[Tensor, "photos 3"]:
    """Return the log gain of each channel of sRGB values of each photo, with mean zero.

    Photos that share no features with others have zero. Hundreds of photos are matched in overlapping groups, in their order.

    Args:
        capture: the photos; features are looked for within its masks.
        views: the photos whose gains are wanted.
    """
    capture = capture.to("cpu")
    place = {view: number for number, view in enumerate(views)}
    one, two, differences, counts = list[int](), list[int](), list[Tensor](), list[Tensor]()
    for group in _groups(views):
        masks = {view: capture.mask(view) for view in group} if capture.has_masks else None
        matches = matches_between(capture, group, masks)
        if matches is None:
            continue
        blurred = {view: _blurred(capture, view) for view in {int(view) for view in matches.pairs.flatten()}}
        for number, (first, second) in enumerate(matches.pairs.tolist()):
            directions = matches.directions[matches.pair == number].float()
            a, b = (_colors(capture, view, directions[:, side], blurred[view]) for side, view in enumerate((first, second)))
            usable = ((a > _DARKEST) & (a < _BRIGHTEST) & (b > _DARKEST) & (b < _BRIGHTEST)).all(-1)
            if int(usable.sum()) < _LEAST_MATCHES:
                continue
            one.append(place[first])
            two.append(place[second])
            differences.append((a[usable] / b[usable]).log().median(0).values)
            counts.append(usable.sum().clamp_max(_MOST_MATCHES).float())
    if not differences:
        return torch.zeros(len(views), 3)
    return solved_gains(torch.tensor(one), torch.tensor(two), torch.stack(differences), torch.stack(counts), len(views))


def solved_gains(
    one: Tensor, two: Tensor, differences: Float[Tensor, "pairs 3"], counts: Float[Tensor, " pairs"], photos: int
) -> Float[Tensor, "photos 3"]:
    """Return the log gains with mean zero that explain the differences of pairs; see the module's text.

    Args:
        one: the first photo of each pair.
        two: the second one.
        differences: log of the color in the first by that in the second.
        counts: weights of the pairs.
        photos: number of all photos.
    """
    rows = torch.zeros(len(one), photos, dtype=torch.float64)
    rows[torch.arange(len(one)), one] = 1
    rows[torch.arange(len(one)), two] = -1
    wanted, ridge = differences.double(), _RIDGE * torch.eye(photos, dtype=torch.float64)
    weights = counts.double()[:, None].expand_as(wanted)
    gains = torch.zeros(photos, 3, dtype=torch.float64)
    for _ in range(_ROUNDS):
        for channel in range(3):
            weighted = rows * weights[:, channel : channel + 1]
            gains[:, channel] = torch.linalg.solve(rows.T @ weighted + ridge, weighted.T @ wanted[:, channel])
        weights = counts.double()[:, None] * _SMALLEST / (rows @ gains - wanted).abs().clamp_min(_SMALLEST)
    return (gains - gains.mean(0)).float()


def _groups(views: Sequence[int]) -> list[list[int]]:
    """Return overlapping runs of views.

    >>> [len(group) for group in _groups(range(100))]
    [64, 64, 36]
    """
    half = _MOST_VIEWS // 2
    return [list(views[first : first + _MOST_VIEWS]) for first in range(0, max(1, len(views) - half), half)]


def _blurred(capture: Capture, view: int) -> Float[Tensor, "1 3 height width"]:
    color = capture.color(view)[..., :3].permute(2, 0, 1)[None]
    return F.avg_pool2d(color, _BLUR, stride=1, padding=_BLUR // 2, count_include_pad=False)


def _colors(
    capture: Capture, view: int, directions: Float[Tensor, "matches 3"], blurred: Float[Tensor, "1 3 height width"]
) -> Float[Tensor, "matches 3"]:
    """Return the colors of a photo where rays of its camera meet the image."""
    pose = capture.cameras.world_from_camera[view]
    pixels, _ = capture.cameras.project(pose[:3, 3] + directions @ pose[:3, :3].T, view)
    places = 2 * pixels / capture.cameras.sizes[view].to(pixels) - 1
    return F.grid_sample(blurred, places[None, None], align_corners=False, padding_mode="border")[0, :, 0].T

"""How well the cameras of a capture explain the matches between its photos, and which change of the cameras explains them.

Two rays with unit directions w and v from cameras a baseline b apart meet if v · (b × w) = 0. The residual is
|v · (b × w)| / √(|b × w|² + |b × v|²), an angle, times the focal length in pixels (Sampson's first-order distance). A match agrees with the
cameras if its residual is small and the rays meet in front of both cameras.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.check.features import Matches

TOLERANCE = 0.004
"""Residual of a match that agrees, as a share of the photo's longer side: 1.6 pixels of 400."""

_SAMPLES = 160
"""Samples of eight matches for each pair."""
_LEAST_MATCHES = 12
"""Fewer consistent matches say nothing about a pair."""
_SAME_PLACE = 1e-5
"""Distance of cameras that stand at one place."""
_LEAST_SHARE = 0.4
"""Share of a pair's matches that one epipolar geometry must explain."""


@dataclass(frozen=True)
class VerifiedMatches:
    """Matches of many pairs of photos that some epipolar geometry explains, whatever the cameras are."""

    pairs: Int[Tensor, "pairs 2"]
    pair: Int[Tensor, " matches"]
    """The pair of each match."""
    directions: Float[Tensor, "matches 2 3"]
    """Unit directions in the axes of either camera, float64."""
    focal: Float[Tensor, " matches"]
    """Focal length, as a share of the longer side of the photo."""

    def of_pairs(self, chosen: Bool[Tensor, " pairs"]) -> VerifiedMatches:
        kept = chosen[self.pair]
        number = chosen.long().cumsum(0) - 1
        return VerifiedMatches(self.pairs[chosen], number[self.pair[kept]], self.directions[kept], self.focal[kept])

    def mean_by_pair(self, values: Float[Tensor, " matches"]) -> Float[Tensor, " pairs"]:
        zero = torch.zeros(len(self.pairs), dtype=torch.float64)
        total = zero.index_add(0, self.pair, values.double())
        return total / zero.index_add(0, self.pair, torch.ones_like(values, dtype=torch.float64)).clamp_min(1)


def verify(found: Sequence[Matches], cameras: Cameras, seed: int = 0) -> VerifiedMatches | None:
    """Keep the matches that one epipolar geometry of their pair explains, found from samples of eight matches.

    None if there is no such pair. The cameras only turn pixels into directions.
    """
    found = [matches for matches in found if len(matches) >= _LEAST_MATCHES]
    if not found:
        return None
    generator = torch.Generator().manual_seed(seed)
    pairs, numbers, directions, focals = [], [], [], []
    for matches in found:
        sides = []
        for view, pixels in ((matches.first, matches.in_first), (matches.second, matches.in_second)):
            rays = cameras.rays(torch.full((len(pixels),), view), pixels)
            sides.append((rays.directions @ cameras.world_from_camera[view, :3, :3]).double())
        focal = sum(float(cameras.intrinsics[v, :2].mean() / cameras.sizes[v].max()) for v in (matches.first, matches.second)) / 2
        one, two = sides
        inliers = _consistent(one, two, TOLERANCE / focal, generator)
        if int(inliers.sum()) < max(_LEAST_MATCHES, _LEAST_SHARE * len(matches)):
            continue
        numbers.append(torch.full((int(inliers.sum()),), len(pairs)))
        pairs.append((matches.first, matches.second))
        directions.append(torch.stack([one[inliers], two[inliers]], 1))
        focals.append(torch.full((int(inliers.sum()),), focal, dtype=torch.float64))
    if not pairs:
        return None
    return VerifiedMatches(torch.tensor(pairs), torch.cat(numbers), torch.cat(directions), torch.cat(focals))


def _consistent(
    one: Float[Tensor, "matches 3"], two: Float[Tensor, "matches 3"], tolerance: float, generator: torch.Generator
) -> Bool[Tensor, " matches"]:
    """Return the matches that the best of many eight-point solutions explains (Hartley, In defense of the eight-point algorithm, 1997)."""
    count = len(one)
    # Directions are stretched around their mean, or the equations are ill-conditioned.
    stretch = [_conditioning(side) for side in (one, two)]
    rows = ((two @ stretch[1].T)[:, :, None] * (one @ stretch[0].T)[:, None, :]).reshape(count, 9)
    chosen = torch.rand(_SAMPLES, count, generator=generator).argsort(1)[:, :8]
    picked = rows[chosen]
    solutions = torch.linalg.eigh(picked.mT @ picked)[1][..., 0].reshape(-1, 3, 3)
    residuals = _residuals_of(stretch[1].T @ solutions @ stretch[0], one, two)
    best = (residuals < tolerance).sum(1).argmax()
    inliers = residuals[best] < tolerance
    if int(inliers.sum()) >= 8:  # once more, from all that agree
        again = torch.linalg.eigh(rows[inliers].T @ rows[inliers])[1][:, 0].reshape(1, 3, 3)
        refined = _residuals_of(stretch[1].T @ again @ stretch[0], one, two)[0] < tolerance
        inliers = refined if int(refined.sum()) >= int(inliers.sum()) else inliers
    return inliers


def _conditioning(side: Float[Tensor, "matches 3"]) -> Float[Tensor, "3 3"]:
    mean = side.mean(0)
    forward = mean / mean.norm().clamp_min(1e-9)
    helper = torch.eye(3, dtype=side.dtype)[forward.abs().argmin()]
    right = torch.linalg.cross(helper, forward)
    right = right / right.norm()
    turned = torch.stack([right, torch.linalg.cross(forward, right), forward])
    spread = (side @ turned[:2].T).norm(dim=1).mean().clamp_min(1e-9)
    return torch.diag(torch.tensor([1 / float(spread), 1 / float(spread), 1.0], dtype=side.dtype)) @ turned


def _residuals_of(
    essential: Float[Tensor, "samples 3 3"], one: Float[Tensor, "matches 3"], two: Float[Tensor, "matches 3"]
) -> Float[Tensor, "samples matches"]:
    """Return the first-order distance of matches from epipolar geometries, as an angle."""
    lines_two, lines_one = one @ essential.mT, two @ essential
    product = (lines_two * two).sum(-1)
    # The part of each line's normal that turns with the point on the sphere.
    length = (lines_two.square().sum(-1) + lines_one.square().sum(-1) - 2 * product.square()).clamp_min(1e-24).sqrt()
    return product.abs() / length


@dataclass(frozen=True)
class Change:
    """A change of all cameras, for a trial."""

    turn: Float[Tensor, "3 3"] | None = None
    """Signed permutation: the camera axes of the photos in those of the poses."""
    focal: float = 1.0
    """Factor of the focal length."""
    mirrored: bool = False
    """Whether photos are mirrored left to right."""
    order: Int[Tensor, " views"] | None = None
    """For each photo the view whose pose it gets."""


def agreement(matches: VerifiedMatches, poses: Float[Tensor, "views 4 4"], change: Change) -> Float[Tensor, " pairs"]:
    """Return the share of each pair's matches that agree with the changed cameras."""
    residuals, ahead = residuals_under(matches, poses, change)
    return matches.mean_by_pair(((residuals < TOLERANCE) & ahead).double())


def residuals_under(
    matches: VerifiedMatches, poses: Float[Tensor, "views 4 4"], change: Change
) -> tuple[Float[Tensor, " matches"], Bool[Tensor, " matches"]]:
    """Return the residual of each match, as a share of the longer side, and whether its rays meet in front."""
    poses = poses.double()
    if change.order is not None:
        poses = poses[change.order]
    local = matches.directions
    if change.mirrored:
        local = local * local.new_tensor([-1.0, 1.0, 1.0])
    if change.focal != 1.0:
        local = local * local.new_tensor([1 / change.focal, 1 / change.focal, 1.0])
        local = local / local.norm(dim=-1, keepdim=True)
    rotations = poses[:, :3, :3] if change.turn is None else poses[:, :3, :3] @ change.turn.double()
    views = matches.pairs[matches.pair]
    w, v = (torch.einsum("mij,mj->mi", rotations[views[:, side]], local[:, side]) for side in (0, 1))
    baseline = poses[views[:, 1], :3, 3] - poses[views[:, 0], :3, 3]
    length = baseline.norm(dim=-1, keepdim=True)
    baseline = baseline / length.clamp_min(1e-12)
    across_w, across_v = torch.linalg.cross(baseline, w), torch.linalg.cross(baseline, v)
    product = (across_w * v).sum(-1)
    both = (across_w.square().sum(-1) + across_v.square().sum(-1)).clamp_min(1e-12).sqrt()
    focal = matches.focal * change.focal
    # From one place, rays to the same point are parallel.
    angle = torch.where(length[:, 0] > _SAME_PLACE, product.abs() / both, (w - v).norm(dim=-1))
    residuals = angle * focal
    cosine, bw, bv = (w * v).sum(-1), (baseline * w).sum(-1), (baseline * v).sum(-1)
    noise = -2 * TOLERANCE / focal
    ahead = (bw - cosine * bv > noise) & (cosine * bw - bv > noise)
    return residuals, ahead

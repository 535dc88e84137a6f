"""How far refined cameras have moved, and how far they are from the true ones, if the capture brings these.

Refined poses are compared with true ones after the similarity that takes the centers of the fitted cameras onto the true ones in the least
squares: photos determine poses up to a similarity. Moved distances are in percent of the distance of a camera from the origin of the world.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.runs.measures import Measure
from unrender.transforms import aligning_similarity, angle_between, scale_of

_MOVED = "refined poses of the fitted photos against those of the capture"
_HELD_OUT_MOVED = "refined poses of the held-out photos against those of the capture"
_BEFORE = "poses of the capture against the true ones, up to a similarity"
_AFTER = "refined poses against the true ones, up to a similarity"


def pose_measures(given: Capture, now: Capture) -> tuple[Measure, ...]:
    """Return the measures of refined poses.

    Args:
        given: the capture as it was read.
        now: the same with refined poses.
    """
    start, poses = (one.cameras.world_from_camera.double().cpu() for one in (given, now))
    train, test = given.split.train, given.split.test
    found = _differences(poses, start, train, _MOVED)
    found += _differences(poses, start, test, _HELD_OUT_MOVED) if test else ()
    if given.true_poses is not None and len(train) >= 3:
        true = given.true_poses.double().cpu()
        for group, some in ((_BEFORE, start), (_AFTER, poses)):
            found += _differences(aligned(some, true, train), true, train, group)
    return found


def aligned(poses: Float[Tensor, "views 4 4"], true: Float[Tensor, "views 4 4"], views: Sequence[int]) -> Float[Tensor, "views 4 4"]:
    """Return poses after the similarity that takes the centers of some of them to the true ones."""
    index = list(views)
    similarity = aligning_similarity(poses[index, :3, 3], true[index, :3, 3]).to(poses)
    moved = similarity @ poses
    moved[:, :3, :3] /= scale_of(similarity)
    return moved


def _differences(poses: Tensor, others: Tensor, views: Sequence[int], group: str) -> tuple[Measure, ...]:
    index = list(views)
    angles = torch.tensor([angle_between(others[view, :3, :3], poses[view, :3, :3]) for view in index])
    places = others[index, :3, 3]
    apart = 100 * (poses[index, :3, 3] - places).norm(dim=1) / places.norm(dim=1).clamp_min(1e-6)
    return (
        Measure("rotation, mean", float(angles.mean()), "°", digits=3, group=group),
        Measure("rotation, largest", float(angles.max()), "°", digits=3, group=group),
        Measure("position, mean", float(apart.mean()), "% of the distance", digits=3, group=group),
        Measure("position, largest", float(apart.max()), "% of the distance", digits=3, group=group),
    )

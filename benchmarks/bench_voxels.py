"""Rays that a step of ``plenoxels`` trains per second, against ``nerf`` on the same photos."""

from __future__ import annotations

import statistics
from itertools import pairwise

import torch
from harness import Row

from unrender.captures.capture import Capture
from unrender.demo import make_demo_capture
from unrender.recipes import nerf, plenoxels
from unrender.recipes.fitting import Progress
from unrender.recipes.settings import with_budget

_RAYS = 8192


def rows(quick: bool) -> list[Row]:
    """Fit the same capture with both in turn, and take the second half of each fit."""
    capture, steps = make_demo_capture(views=24, size=160), 40 if quick else 160
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(1 if quick else 2):
        ours += _seconds_of_rays(plenoxels, capture, steps)
        theirs += _seconds_of_rays(nerf, capture, steps)
    middle = statistics.median(ours)
    name = f"`plenoxels` recipe, a step, time of {_RAYS:,} rays"
    return [Row(name, middle, statistics.median(theirs), "`nerf` recipe", _RAYS, (max(ours) - min(ours)) / middle)]


def _seconds_of_rays(recipe: object, capture: Capture, steps: int) -> list[float]:
    seen: list[Progress] = []
    device = torch.get_default_device()
    if recipe is nerf:
        nerf.fit(capture, with_budget(nerf.PRESETS["cpu"], steps=steps), device=device, seed=0, observer=seen.append)
    else:
        plenoxels.fit(capture, with_budget(plenoxels.PRESETS["cpu"], steps=steps), device=device, seed=0, observer=seen.append)
    late = seen[len(seen) // 2 :]
    return [_RAYS * (b.seconds - a.seconds) / (b.counts["rays"] * (b.step - a.step)) for a, b in pairwise(late) if b.step > a.step]

"""Poses of the photos as unknowns of a fit, besides its scene, from coarse to fine (Lin et al. 2021, BARF).

The loss of a training step is differentiated along its rays, which are those of the corrected cameras. A detailed scene has gradients that
lead nowhere when a photo is a few pixels off, so the finer levels of the hash grid and the dependence of colors on the direction come in
later; rays are sampled as coarsely meanwhile. Held-out photos have no effect on the scene: their poses follow it, each step, by gradients
of their own, which is the test-time refinement of BARF.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.optim import Optimizer

from unrender.cameras import Cameras
from unrender.captures.capture import Capture, Split
from unrender.color import over
from unrender.fields.pose_corrections import PoseCorrections
from unrender.losses.photometric import mse
from unrender.recipes.pixels import PixelSampler, draw_background
from unrender.recipes.schedules import exponential, linear
from unrender.render.scene import RayScene
from unrender.words import Background

_RATE = 3e-3
"""Learning rate of the motions, in radians."""
_FINAL_RATE = 0.01
"""The rate at the end as a share of the first, as published."""
_LATER_RATE = 0.05
"""The rate as a share of the first where a phase begins with poses that an earlier one has refined."""
_BEGIN, _RISE = 0.05, 0.05
"""Share of the budget before poses are refined, while the scene becomes recognizable, and that over which the rate rises."""
_CONSTANT_UNTIL = 0.3
"""Share of the budget before the rate falls."""
ALL_DETAIL = 0.45
"""Share of the budget after which the scene has all its detail, and held-out poses follow it."""
_FIRST_LEVELS = 2.0
"""Levels of the hash grid that are seen at the start."""
HULL_MARGIN = 1 / 8
"""Share of the image size by which masks are widened before the scene is confined to them: poses may be off by as much."""
_MOST_HELD_OUT = 0.5
"""Rays of held-out photos in a step as a share of the others, at most."""


def poses_of(capture: Capture, wanted: bool, device: torch.device) -> PoseCorrections | None:
    """Return the unknown poses of a capture; None if they are known."""
    if not wanted:
        return None
    return PoseCorrections(capture.cameras.world_from_camera, capture.split.train, capture.split.test).to(device)


def detail(fraction: float, levels: int) -> float:
    """Return the levels of a hash grid that are seen at a fraction of the budget."""
    return linear(min(_FIRST_LEVELS, levels), float(levels), fraction, over=(_BEGIN, ALL_DETAIL))


def rate(fraction: float, *, later: bool) -> float:
    """Return the learning rate of the motions of fitted views.

    Args:
        fraction: of the budget of a phase.
        later: whether an earlier phase has refined the poses.
    """
    if later:
        return _RATE * _LATER_RATE * exponential(_FINAL_RATE / _LATER_RATE, fraction)
    rising = linear(0.0, 1.0, fraction, over=(_BEGIN, _BEGIN + _RISE))
    return _RATE * rising * exponential(_FINAL_RATE, fraction, after=_CONSTANT_UNTIL)


class PoseRefinement:
    """The part of a training loop that refines poses."""

    def __init__(self, capture: Capture, poses: PoseCorrections, background: Background, *, later: bool, device: torch.device, seed: int):
        """Prepare a phase of a fit.

        Args:
            capture: the photos, at the poses before the fit.
            poses: the unknowns.
            background: drawn behind the scene.
            later: whether an earlier phase has refined the poses.
            device: of the scene.
            seed: of the pixels of held-out photos, which are drawn apart so that they do not change the fit.
        """
        self.poses = poses
        self._capture = capture
        self._cameras = capture.cameras.to(device)
        self._background: Background = background
        self._later, self._seed = later, seed
        self._pixels: PixelSampler | None = None
        self._places: Tensor | None = None
        if capture.split.test:
            swapped = Split(capture.split.test, capture.split.train, capture.split.rule)
            self._pixels = PixelSampler(replace(capture, split=swapped), device)
        self._share = min(_MOST_HELD_OUT, len(capture.split.test) / len(capture.split.train))

    def capture(self) -> Capture:
        """Return the capture with the poses as they are now."""
        return replace(self._capture, cameras=self.poses.corrected(self._capture.cameras))

    def cameras(self) -> Cameras:
        """Return the cameras of all views for a step, differentiable in the motions of the fitted ones."""
        poses = self.poses.fitted_poses()
        self._places = poses.detach()[self.poses.fitted, :3, 3]
        return replace(self._cameras, world_from_camera=poses)

    def set_rates(self, optimizer: Optimizer | None, fraction: float) -> None:
        """Set the learning rates of both groups of motions."""
        assert optimizer is not None
        begin = 0.0 if self._later else ALL_DETAIL
        rates = {
            id(self.poses.motions): rate(fraction, later=self._later),
            id(self.poses.held_out_motions): _RATE * exponential(_FINAL_RATE, fraction, after=begin) * (fraction >= begin),
        }
        for group in optimizer.param_groups:
            group["lr"] = rates.get(id(group["params"][0]), group["lr"])

    def follow(self, scene: RayScene, fraction: float, step: int, rays: int) -> dict[str, Tensor]:
        """Add the gradient of the held-out poses, after the backward pass of a step; return no terms.

        Args:
            scene: whose viewpoints follow the poses.
            fraction: of the budget of the phase.
            step: its number.
            rays: of the step.
        """
        assert self._places is not None, "follow belongs to the step of the last cameras"
        scene.viewpoints = self._places
        if self._pixels is None or (fraction < ALL_DETAIL and not self._later):
            return {}
        generator = torch.Generator(scene.viewpoints.device).manual_seed(self._seed * 1_000_003 + step)
        cameras = replace(self._cameras, world_from_camera=self.poses.held_out_poses())
        batch = self._pixels.draw(max(64, int(rays * self._share)), generator, cameras)
        background = draw_background(self._background, batch.color, generator)
        truth = batch.color if batch.alpha is None else over(batch.color, batch.alpha, background)
        seen = scene.render_differentiably(batch.rays, background)
        assert seen is not None, "a scene whose rays have no gradient refines no poses"
        motions = self.poses.held_out_motions
        (motions.grad,) = torch.autograd.grad(mse(seen.color, truth), motions)
        return {}

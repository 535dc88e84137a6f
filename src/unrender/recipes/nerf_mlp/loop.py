"""The training loop of ``nerf-mlp``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.captures.upright import upward_direction
from unrender.color import over
from unrender.losses.photometric import mse
from unrender.ops.encodings import Adam
from unrender.recipes.clock import Clock
from unrender.recipes.fitting import FitResult, Fitting, Observer, scene_state
from unrender.recipes.ndc import NEAREST, ndc_frame, suits_ndc
from unrender.recipes.nerf_mlp.config import NerfMlpConfig, Space
from unrender.recipes.nerf_mlp.scene import NerfMlpScene as NerfMlpScene
from unrender.recipes.nerf_mlp.scene import Place, place_of
from unrender.recipes.pixels import PixelSampler, central_part, draw_background
from unrender.recipes.schedules import exponential, linear


def place_in(capture: Capture, space: Space | Literal["auto"], near: float | None) -> Place:
    """Choose where samples of a capture lie; see :class:`~unrender.recipes.nerf_mlp.config.RaySettings`.

    Args:
        capture: the photos.
        space: "auto" chooses by the capture.
        near: None chooses by the capture.
    """
    if space == "auto":
        space = "cube" if not capture.unbounded else "ndc" if suits_ndc(capture) else "disparity"
    if space == "ndc":
        frame = ndc_frame(capture, near)
        return Place(space, frame.near, frame)
    cameras = capture.cameras.select(capture.split.train)
    return Place(space, near or NEAREST * max(1.0, float(cameras.positions.norm(dim=1).median())))


def load_scene(config: NerfMlpConfig, tensors: Mapping[str, Tensor], device: torch.device) -> NerfMlpScene:
    """Rebuild the scene of a snapshot."""
    state = scene_state(tensors)
    scene = NerfMlpScene(config.network, config.sampling, place_of(state), masked=bool(state["has_masks"]), generator=torch.Generator())
    scene.load_state_dict(state)
    scene.active_octaves = float(state["open_octaves"])
    return scene.to(device)


def fit(
    capture: Capture,
    config: NerfMlpConfig,
    *,
    device: torch.device,
    seed: int,
    resume: Mapping[str, Tensor] | None = None,
    observer: Observer | None = None,
) -> FitResult:
    """Fit two perceptrons to the training views of a capture."""
    generator = torch.Generator(device).manual_seed(seed)
    network, sampling, clock = config.network, config.sampling, Clock(config.steps, config.max_seconds)
    rate, last_rate, opening = config.learning_rate, config.final_rate, config.coarse_to_fine
    place, weights_generator = place_in(capture, sampling.space, sampling.near), torch.Generator().manual_seed(seed)
    scene = NerfMlpScene(network, sampling, place, masked=capture.has_masks, generator=weights_generator).to(device)
    scene.viewpoints = capture.cameras.select(capture.split.train).positions.to(device)
    pixels = PixelSampler(capture, device)
    middle = pixels if sampling.precrop_until == 0 else PixelSampler(central_part(capture, sampling.precrop), device)
    networks = [*scene.coarse.parameters(), *scene.fine.parameters()]
    optimizer = Adam(networks, lr=rate, betas=(0.9, 0.999), eps=1e-7)
    fitting = Fitting(scene, optimizer, clock, observer, generator=generator, parts={"pixels": pixels, "middle_pixels": middle})
    if resume is not None:
        fitting.restore(resume)

    for _ in fitting:
        fraction = clock.fraction
        fitting.set_learning_rate(exponential(last_rate, fraction, after=config.constant_until))
        scene.open_octaves_to(linear(0.0, float(network.octaves), fraction, over=(0.0, opening)))

        batch = (middle if fraction < sampling.precrop_until else pixels).draw(sampling.rays, generator)
        background = draw_background(sampling.background, batch.color, generator)
        truth = batch.color if batch.alpha is None else over(batch.color, batch.alpha, background)
        coarse, fine = scene.render(batch.rays, background, generator, sampling.density_noise)
        error = mse(fine.color, truth)
        fitting.take_step({"fine": error, "coarse": mse(coarse.color, truth)}, error=error)
    return fitting.result(capture.source_from_world, up=upward_direction(capture))

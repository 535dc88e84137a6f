"""Exposure and white balance of the photos as unknowns of a fit, besides its scene."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.captures.gains import matched_gains
from unrender.fields.exposure import Exposure
from unrender.recipes.clock import Clock
from unrender.recipes.state import Stateful
from unrender.render.rendering import Rendering
from unrender.words import OnOff

_FROM = 0.15
"""Share of the budget after which exposures are fitted. Before, they stay as features of the photos say: the scene explains too little of
what differs between the photos, so gains would take the mean color of each photo."""


def exposure_of(capture: Capture, wanted: OnOff, device: torch.device, *, resumes: bool = False) -> Exposure | None:
    """Return the exposures to begin with, from features that the photos share; None if they are not compensated.

    Args:
        capture: the photos.
        wanted: whether they are compensated.
        device: of the scene.
        resumes: whether a snapshot will replace them, which spares the search for features.
    """
    if wanted == "off":
        return None
    fitted = capture.split.train
    return Exposure(len(capture), fitted, None if resumes else matched_gains(capture, fitted)).to(device)


def part_of(exposure: Exposure | None) -> dict[str, Stateful]:
    """Return what a fit restores of the exposures when it resumes."""
    return {} if exposure is None else {"exposure": exposure}


def exposed(
    exposure: Exposure | None,
    clock: Clock,
    rendering: Rendering,
    background: Float[Tensor, "*pixels 3"] | None,
    views: Int[Tensor, "*pixels"],
    *,
    learned: bool = True,
) -> tuple[Rendering, dict[str, Tensor]]:
    """Return a rendering in the exposures of its photos, and the loss terms of these.

    Args:
        exposure: the unknown exposures, or None.
        clock: of the fit.
        rendering: of the rays or the pictures of a step.
        background: drawn behind the scene; None where all light comes from the scene.
        views: the view of each pixel.
        learned: whether the exposures may be fitted in this step; they are not before a share of the budget.
    """
    if exposure is None:
        return rendering, {}
    learned = learned and clock.overall >= _FROM
    color, linear = rendering.color, rendering.encoding == "linear"
    behind = torch.zeros_like(color) if background is None else background
    shown = exposure(
        color.reshape(-1, 3), rendering.opacity.reshape(-1), behind.reshape(-1, 3), views.reshape(-1), linear=linear, learned=learned
    )
    return replace(rendering, color=shown.view_as(color)), {"exposure": exposure.regularization()} if learned else {}

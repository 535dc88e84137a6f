"""Exposure and white balance of each photo, as gains of the rendered color.

A camera that chooses exposure and white balance for each photo shows one surface in different colors, which no single scene explains. With
the log gains g of view v, whose mean over all fitted views is taken off,

    corrected color = (color − background light) · exp(g_v) + background light

The scene then has the mean exposure of the photos: without that condition, a brighter scene and darker photos would be the same fit. The
gains are of sRGB values; one of sRGB values by k is nearly one of linear light by k^2.2. Source: Rematas et al. 2022, who solve for affine
colors of each image.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

_REGULARIZATION = 1e-3
"""Weight of the mean squared log gain: a hundredth of the curvature of a photometric loss at usual colors."""

_GAMMA = 2.2
"""Log gain of linear light by that of sRGB values."""

_RATE = 0.2
"""Learning rate of the log gains, relative to that of the scene."""


class Exposure(nn.Module):
    """A gain of each channel for each view.

    >>> exposure = Exposure(views=4, fitted=(0, 2))
    >>> with torch.no_grad():
    ...     exposure.raw[:, 0] = torch.tensor([0.5, 0.0])
    >>> gray = torch.full((2, 3), 0.5)
    >>> red = exposure(gray, torch.ones(2), torch.zeros(2, 3), torch.tensor([0, 2]))[:, 0]
    >>> (red / 0.5).log().tolist()  # the mean of both views is taken off
    [0.25, -0.25]
    """

    place: Tensor
    """For each view of the capture, its place among the fitted ones."""

    def __init__(self, views: int, fitted: tuple[int, ...], start: Float[Tensor, "fitted 3"] | None = None) -> None:
        """Start with log gains, by default without any.

        Args:
            views: number of all views of the capture.
            fitted: the views that are corrected, by their index into all.
            start: log gains of the fitted views.
        """
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(len(fitted), 3) if start is None else start.float().clone())
        place = torch.zeros(views, dtype=torch.int64)
        place[list(fitted)] = torch.arange(len(fitted))
        self.register_buffer("place", place, persistent=False)

    def log_gains(self) -> Float[Tensor, "fitted 3"]:
        """Return the log gains of the fitted views, with mean zero."""
        return self.raw - self.raw.mean(0)

    def forward(
        self,
        color: Float[Tensor, "rays 3"],
        opacity: Float[Tensor, " rays"],
        background: Float[Tensor, "rays 3"],
        views: Int[Tensor, " rays"],
        *,
        linear: bool = False,
        learned: bool = True,
    ) -> Float[Tensor, "rays 3"]:
        """Correct rendered colors as the photos of their views were exposed.

        Args:
            color: of the rendering, over its background.
            opacity: share of the light that comes from the scene, 0 to 1.
            background: drawn behind the scene, and exposed by no camera.
            views: the view of each ray, as an index into all views of the capture.
            linear: whether colors are linear light, instead of sRGB values.
            learned: whether the gains get a gradient.
        """
        behind = (1 - opacity)[:, None] * background
        gains = ((_GAMMA if linear else 1.0) * self.log_gains()).exp()
        return (color - behind) * (gains if learned else gains.detach())[self.place[views]] + behind

    def regularization(self) -> Float[Tensor, ""]:
        """Return the weighted mean square of the log gains, which decides where the photos do not."""
        return _REGULARIZATION * self.log_gains().square().mean()

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Return the group of all gains for an optimizer, without decay."""
        return [{"params": [self.raw], "lr": _RATE * learning_rate, "weight_decay": 0.0}]

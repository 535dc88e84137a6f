"""The result of every renderer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.color import linear_from_srgb, srgb_from_linear
from unrender.printing import picture_html

Encoding = Literal["linear", "srgb"]
"""Encoding of a color: linear light, or sRGB values."""


@dataclass(frozen=True)
class Rendering:
    """One image or one batch of rays, from either renderer."""

    color: Float[Tensor, "*shape 3"]
    """Composited over the background, in the space that ``encoding`` names."""
    opacity: Float[Tensor, "*shape"]
    """Share of the pixel that the scene covers, 0 to 1."""
    distance: Float[Tensor, "*shape"]
    """Along the unit ray, in world units; the opacity-weighted mean Σ w t (not divided by the opacity)."""
    normal: Float[Tensor, "*shape 3"]
    """Σ w n in the world frame; shorter than one where the opacity is below one."""
    encoding: Encoding
    """The volumetric recipes fit in sRGB, as published; the surface renderer works in linear light."""

    def __repr__(self) -> str:
        shape = " x ".join(str(size) for size in self.opacity.shape)
        where = "" if self.color.device.type == "cpu" else f", on {self.color.device}"
        return f"Rendering({shape} pixels, {self.encoding}{where})"

    def _repr_html_(self) -> str | None:
        """Return the picture for a notebook; None for rays that form none."""
        if self.color.ndim != 3 or not self.opacity.numel():
            return None
        srgb = (self.srgb.detach().clamp(0, 1) * 255).round().to(torch.uint8)
        return picture_html(srgb, f"{srgb.shape[1]} x {srgb.shape[0]} pixels")

    @property
    def srgb(self) -> Float[Tensor, "*shape 3"]:
        """The color as sRGB values, for photos, metrics and picture files."""
        return self.color if self.encoding == "srgb" else srgb_from_linear(self.color)

    @property
    def linear(self) -> Float[Tensor, "*shape 3"]:
        """The color as linear light."""
        return self.color if self.encoding == "linear" else linear_from_srgb(self.color)

    def reshaped(self, *shape: int) -> Rendering:
        """Reshape the pixels, for example from rays to an image [height, width]."""
        return replace(
            self,
            color=self.color.reshape(*shape, 3),
            opacity=self.opacity.reshape(shape),
            distance=self.distance.reshape(shape),
            normal=self.normal.reshape(*shape, 3),
        )

    def __getitem__(self, view: int) -> Rendering:
        """Return one view of a batch of views."""
        return replace(self, color=self.color[view], opacity=self.opacity[view], distance=self.distance[view], normal=self.normal[view])


def concatenated(parts: Sequence[Rendering]) -> Rendering:
    """Join the renderings of consecutive chunks of rays.

    Raises:
        ValueError: for no parts, or parts of different encodings.
    """
    encodings = {part.encoding for part in parts}
    if len(encodings) != 1:
        raise ValueError(f"renderings to join must share one encoding, got {sorted(encodings) or 'no renderings'}")
    return Rendering(
        color=torch.cat([part.color for part in parts]),
        opacity=torch.cat([part.opacity for part in parts]),
        distance=torch.cat([part.distance for part in parts]),
        normal=torch.cat([part.normal for part in parts]),
        encoding=parts[0].encoding,
    )

"""Inputs of recipes besides a capture: a picture, a mesh, or a finished run of another recipe."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.color import srgb_from_linear
from unrender.geometry.mesh import Mesh
from unrender.render.scene import Scene
from unrender.shading.lights import EnvironmentLight


@dataclass(frozen=True)
class Picture:
    """A picture, for methods that fit an image."""

    name: str
    linear: Float[Tensor, "height width 3"]
    fingerprint: str
    notes: tuple[str, ...] = ()

    @cached_property
    def srgb(self) -> Float[Tensor, "height width 3"]:
        """The picture as sRGB values."""
        return srgb_from_linear(self.linear)

    @property
    def is_fitted(self) -> Bool[Tensor, "height width"]:
        """The pixels in even rows and columns, a quarter of them."""
        return self._in(0)

    @property
    def is_held_out(self) -> Bool[Tensor, "height width"]:
        """The pixels in odd rows and columns, which are farthest from the fitted ones."""
        return self._in(1)

    def _in(self, first: int) -> Bool[Tensor, "height width"]:
        chosen = torch.zeros(self.linear.shape[:2], dtype=torch.bool)
        chosen[first::2, first::2] = True
        return chosen


@dataclass(frozen=True)
class MeshInput:
    """A mesh, for methods that start from a known shape."""

    name: str
    mesh: Mesh
    fingerprint: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FittedRun:
    """A finished run of another recipe, for methods that continue from it."""

    name: str
    recipe: str
    scene: Scene
    capture: Capture
    fingerprint: str
    """Hash of the checkpoint and the capture together."""
    notes: tuple[str, ...] = ()
    environment: EnvironmentLight | None = None
    """A known light, in the normalized world, instead of that of the scene."""

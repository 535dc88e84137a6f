"""Inputs of recipes besides a capture: a picture, a mesh, or a finished run of another recipe."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.geometry.mesh import Mesh
from unrender.render.scene import Scene


@dataclass(frozen=True)
class Picture:
    """A picture, for methods that fit an image."""

    name: str
    linear: Float[Tensor, "height width 3"]
    fingerprint: str
    notes: tuple[str, ...] = ()


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

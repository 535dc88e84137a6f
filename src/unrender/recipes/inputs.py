"""Inputs of recipes: a capture, a picture, a mesh, or a finished run of another recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.geometry.mesh import Mesh
from unrender.render.scene import Scene

InputName = Literal["capture", "picture", "mesh", "run"]


@runtime_checkable
class Input(Protocol):
    """The properties of every input, including :class:`Capture`."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """Hash of the input files; a fit resumes only on the same input."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that describe what the reader did."""
        ...


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


I = TypeVar("I", bound=Input)  # noqa: E741  the input of a recipe


@dataclass(frozen=True)
class InputKind(Generic[I]):
    """A kind of input, as listed in the table of recipes."""

    name: InputName
    input_type: type
    """The class of the input."""
    summary: str
    """Description for a recipe's help page."""
    capture_of: Callable[[I], Capture | None]
    """Returns the photos of an input, against which a scene can be evaluated."""
    source_from_world: Callable[[I], Float[Tensor, "4 4"]]
    """Returns the similarity from the normalized world to the frame of the input."""


def _none(_: object) -> None:
    return None


def _identity(_: object) -> Float[Tensor, "4 4"]:
    return torch.eye(4, dtype=torch.float64)


CAPTURE = InputKind[Capture](
    "capture", Capture, "a folder of posed photos", lambda capture: capture, lambda capture: capture.source_from_world
)
PICTURE = InputKind[Picture]("picture", Picture, "a picture file", _none, _identity)
MESH = InputKind[MeshInput]("mesh", MeshInput, "a mesh file", _none, _identity)
RUN = InputKind[FittedRun](
    "run", FittedRun, "a folder that `unrender fit` wrote", lambda run: run.capture, lambda run: run.capture.source_from_world
)

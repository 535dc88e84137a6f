"""Kinds of input: a capture, a picture, a mesh, or a finished run of another recipe.

The types themselves are in :mod:`unrender.recipes.inputs`. PyTorch is not imported, so that help pages are fast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from unrender.captures.capture import Capture
    from unrender.recipes.inputs import FittedRun, MeshInput, Picture

InputName = Literal["capture", "picture", "mesh", "run", "capture|run"]


@runtime_checkable
class Input(Protocol):
    """The properties of every input, including :class:`~unrender.captures.capture.Capture`."""

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


I = TypeVar("I", bound=Input)  # noqa: E741  the input of a recipe


@dataclass(frozen=True)
class InputKind(Generic[I]):
    """A kind of input, as listed in the table of recipes."""

    name: InputName
    summary: str
    """Description for a recipe's help page."""
    capture_of: Callable[[I], Capture | None]
    """Returns the photos of an input, against which a scene can be evaluated."""
    source_from_world: Callable[[I], Tensor]
    """Returns the similarity [4, 4] from the normalized world to the frame of the input."""


def _none(_: object) -> None:
    return None


def _identity(_: object) -> Tensor:
    import torch

    return torch.eye(4, dtype=torch.float64)


CAPTURE: InputKind[Capture] = InputKind(
    "capture", "a folder of posed photos", lambda capture: capture, lambda capture: capture.source_from_world
)
PICTURE: InputKind[Picture] = InputKind("picture", "a picture file", _none, _identity)
MESH: InputKind[MeshInput] = InputKind("mesh", "a mesh file", _none, _identity)


def _capture_of(given: Capture | FittedRun) -> Capture:
    from unrender.recipes.inputs import FittedRun

    return given.capture if isinstance(given, FittedRun) else given


CAPTURE_OR_RUN: InputKind[Capture | FittedRun] = InputKind(
    "capture|run",
    "a folder of posed photos, or one that `unrender fit` wrote, to go on from its surface",
    _capture_of,
    lambda given: _capture_of(given).source_from_world,
)
RUN: InputKind[FittedRun] = InputKind(
    "run", "a folder that `unrender fit` wrote", lambda run: run.capture, lambda run: run.capture.source_from_world
)

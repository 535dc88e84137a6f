"""The options of ``unrender fit``, composed of a recipe's preset, its choices and its kind of input."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from unrender.captures.options import CaptureOptions
from unrender.cli.options import FitOptions
from unrender.recipes.kinds import InputName
from unrender.recipes.table import C, I, Recipe
from unrender.runs.read_options import NoOptions, ReadOptions, RunOptions
from unrender.words import CameraAxes, MaskUse, NormalFrame, Up

FROM_CAPTURE = "(default: from the capture)"


@dataclass(frozen=True)
class CaptureArguments(CaptureOptions):
    """Options of reading the photos."""

    center: Annotated[tuple[float, float, float] | None, arg(metavar="X Y Z", help_behavior_hint=FROM_CAPTURE)] = None
    """Center of the region of interest, in the frame of the poses."""
    radius: Annotated[float | None, arg(metavar="R", help_behavior_hint=FROM_CAPTURE)] = None
    """Half the side of the region of interest, in the units of the poses."""
    up: Annotated[Up | None, arg(metavar="X Y Z|AXIS", help_behavior_hint=FROM_CAPTURE)] = None
    """The upward direction of the frame of the poses: a vector, x, y, z, -x, -y, -z, or cameras for the mean of the cameras'."""
    test_every: Annotated[int, arg(metavar="N")] = 8
    """Hold out every N-th view if the capture has no split of its own; 0 holds out none."""
    normals: Annotated[Path | None, arg(name="normal-maps", metavar="DIR", help_behavior_hint="(default: none)")] = None
    """A folder of normal maps, one for each view, as a prior."""
    normals_frame: Annotated[NormalFrame, arg(name="normal-maps-frame")] = "opengl"
    """The axes of the normals: of the camera with +Y up or +Y down, or of the frame of the poses."""
    masks: Annotated[MaskUse | None, arg(metavar="object|ignore|none", help_behavior_hint=FROM_CAPTURE)] = None
    """Masks and alpha channels outline the object, leave dark or transparent pixels out (ignore), or are not used (none)."""
    camera_axes: Annotated[CameraAxes | None, arg(metavar="opengl|opencv|mitsuba", help_behavior_hint=FROM_CAPTURE)] = None
    """The axes of the cameras in the files: +Y up and -Z forward, +Y down and +Z forward, or +X left, +Y up and +Z forward."""
    principal_shift: Annotated[tuple[float, float], arg(metavar="X Y")] = (0.0, 0.0)
    """Added to every principal point, in pixels of the photos, for cameras that do not follow the convention of their format."""
    memory: Annotated[int | None, arg(metavar="BYTES", help_behavior_hint="(default: half of the machine's)")] = None
    """Memory that the images may take before they are kept in a temporary file."""

    def plain(self) -> CaptureOptions:
        """Return the options for the reader."""
        return CaptureOptions(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})


@dataclass(frozen=True)
class RunArguments(RunOptions):
    """Options of reading the run."""

    capture: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: where it was when it was fitted)")] = None
    """The photos of the run, if they have moved."""


Arguments = CaptureArguments | RunArguments | NoOptions


def arguments_of(kind: InputName) -> type[Arguments]:
    """Return the options for reading an input."""
    if kind == "capture":
        return CaptureArguments
    return RunArguments if kind == "run" else NoOptions


def read_options(arguments: Arguments) -> ReadOptions:
    """Convert options of the command line for the reader."""
    return arguments.plain() if isinstance(arguments, CaptureArguments) else arguments


def fit_options(recipe: Recipe[C, I], config: C) -> Any:
    """Return the dataclass that the parser fills for a recipe, with the values of a configuration as defaults."""
    kind = recipe.input
    given = Annotated[Path, arg(metavar=kind.name.upper(), help=f"{kind.summary[0].upper()}{kind.summary[1:]}.")]
    fields = [
        (
            choice.setting,
            Annotated[Literal[tuple(choice.members)], arg(help=choice.summary)],
            dataclasses.field(default=choice.name_in(config)),
        )
        for choice in recipe.choices
    ]
    choices = dataclasses.make_dataclass("Choices", fields, frozen=True, namespace={"__doc__": "Which bundles of settings there are."})
    return FitOptions[given, Annotated[type(config), arg(default=config)], choices, arguments_of(kind.name)]  # pyright: ignore


def execute_fit(recipe: Recipe[C, I], preset: str, filled: FitOptions[Path, C, Any, Arguments]) -> int:
    """Run ``unrender fit`` with the options that the parser filled, and return the exit code."""
    from unrender.cli.commands import fit_input

    return fit_input(
        recipe,
        preset,
        filled.config,
        filled.input,
        read_options(filled.reading),
        device=filled.device,
        seed=filled.seed,
        out=filled.out,
        mesh_resolution=filled.mesh_resolution,
        overwrite=filled.overwrite,
    )

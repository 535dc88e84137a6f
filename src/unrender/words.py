"""Words that users type and read: names of a fixed set, suggestions for misspelled ones, options in the spelling of Python.

PyTorch is not imported, so that help pages are fast.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    # An editor sees misspelled ones; at run time the error suggests the nearest.
    RecipeName: TypeAlias = Literal["asset", "deform", "image", "light", "material", "mesh-pbr", "nerf", "nerf-mlp", "neus", "plenoxels"]
else:
    RecipeName = str

Up: TypeAlias = tuple[float, float, float] | Literal["cameras", "x", "y", "z", "-x", "-y", "-z"]
"""The upward direction of the source frame: a vector, an axis, or "cameras" for the mean of the cameras' upward axes."""

MaskUse: TypeAlias = Literal["object", "ignore", "none"]
"""What masks and alpha channels do: outline the object, leave dark or transparent pixels out, or nothing."""

MaskMethod: TypeAlias = Literal["background", "static", "region"]
"""How masks are made: from a background of one color, from one that stands still, or from the colors in and around a region."""

CameraAxes: TypeAlias = Literal["opengl", "opencv", "mitsuba"]
"""Directions of +X, +Y, +Z of a camera: right, up, backward; right, down, forward; or left, up, forward."""

CaptureLayout: TypeAlias = Literal["blender", "nerfstudio", "colmap", "neus", "llff"]
"""The layouts in which captures are written."""

NormalFrame: TypeAlias = Literal["opengl", "opencv", "world"]
"""Axes of stored normals: the camera's with +Y up and +Z backward, the camera's with +Y down and +Z forward, or those of the poses."""

SplitName: TypeAlias = Literal["train", "test"]
"""The fitted or the held-out views."""

HoldOut: TypeAlias = Literal["every-8", "llff", "nerfstudio", "dtu-7", "nerf-synthetic", "none"]
"""Rules that hold out views: those of published comparisons, every 8th view, or none."""

TruthFrame: TypeAlias = Literal["source", "normalized", "opengl", "opencv"]
"""Frame of a truth: that of the poses; the normalized world, for a mesh or points; or the camera's axes, for normal maps."""

OnOff: TypeAlias = Literal["on", "off"]
"""Values of a setting that is otherwise decided by the capture."""

Protocol: TypeAlias = Literal["nerf-synthetic", "dtu", "stanford-orb"]
"""Benchmarks whose tables a run's results are written for."""

Photometric: TypeAlias = Literal["l1", "mse", "smooth_l1", "logl1", "logl2", "smape", "relmse"]
"""Names of the photometric losses."""

Background: TypeAlias = Literal["random", "white", "black"]
"""Colors behind the scene while fitting."""

CoordinateEncoding: TypeAlias = Literal["none", "basic", "positional", "gaussian", "hash"]
"""Encodings of the coordinates that a network reads."""

Normals: TypeAlias = Literal["analytic", "taps6", "taps4"]
"""How the gradient of a distance field is computed: exactly, or by finite differences with six or four taps."""

_ARGUMENTS: Mapping[str, str] = {"--overwrite": "overwrite=True"}
"""Options whose arguments in Python have other names."""


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most like a word; None if none is.

    >>> closest("nues", ["nerf", "neus"])
    'neus'
    """
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return the nearest known word, or all of them, as the end of an error message.

    >>> suggestion("nues", ["nerf", "neus"])
    "did you mean 'neus'?"
    >>> suggestion("mesh", ["nerf", "neus"])
    'there are nerf and neus'
    """
    known = list(known)
    close = closest(word, known)
    if close:
        return f"did you mean {close!r}?"
    return f"there are {', '.join(known[:-1])} and {known[-1]}" if len(known) > 1 else f"there is only {known[0]}"


def in_python(sentence: str) -> str:
    """Return a message with the arguments of Python in place of the options of the command line.

    >>> in_python("choose another --out or pass --overwrite")
    'choose another out or pass overwrite=True'
    """
    return re.sub(r"(?<![\w-])--[a-z][a-z-]*[a-z]", lambda found: _ARGUMENTS.get(found[0], found[0][2:].replace("-", "_")), sentence)


@contextmanager
def errors_in_python() -> Iterator[None]:
    """Let the errors of the block name arguments of Python instead of options of the command line."""
    try:
        yield
    except (ValueError, OSError) as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (in_python(error.args[0]),)
        raise


_MEMORY = re.compile(r"(?i)out of memory|not enough memory|(can't|cannot|failed to|unable to) allocate|allocate memory|start new thread")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of Python, NumPy, Warp or PyTorch says that memory is used up.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    True
    """
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError | ValueError) and bool(_MEMORY.search(str(error))))

"""Conversion of a capture to the layout of another program."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from unrender.captures.errors import CaptureError, printable
from unrender.captures.images import in_threads
from unrender.captures.load import errors_of, read_source
from unrender.captures.reading import entries, is_folder, is_regular_file, read_json, shown
from unrender.captures.writing.blender import plan_blender
from unrender.captures.writing.colmap import plan_colmap
from unrender.captures.writing.llff import plan_llff
from unrender.captures.writing.nerfstudio import plan_nerfstudio
from unrender.captures.writing.neus import plan_neus
from unrender.captures.writing.plan import Given, Plan
from unrender.files.atomic import remove_partials, write_json
from unrender.words import CameraAxes, CaptureLayout, HoldOut

RECORD = "unrender_conversion.json"
"""The file that says what a conversion wrote; by it the folder is known as ours."""

_LAYOUTS: dict[CaptureLayout, Callable[[Given], Plan]] = {
    "blender": plan_blender,
    "nerfstudio": plan_nerfstudio,
    "colmap": plan_colmap,
    "neus": plan_neus,
    "llff": plan_llff,
}
"""What plans each layout."""


@dataclass(frozen=True)
class Conversion:
    """What a conversion wrote."""

    folder: Path
    layout: CaptureLayout
    views: int
    files: tuple[Path, ...]
    notes: tuple[str, ...]
    """What the reader decided, and what the layout cannot say."""


def convert_capture(
    path: Path | str,
    to: CaptureLayout,
    out: Path | str,
    *,
    test_every: int | HoldOut = 8,
    camera_axes: CameraAxes | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Write a capture in the layout of another program.

    Photos are copied; they are encoded again only if the layout cannot hold their files. Poses stay in the frame of the capture's files,
    in the convention of the layout.

    >>> convert_capture("photos", "colmap", "photos-colmap").notes      # doctest: +SKIP

    Args:
        path: the folder of the capture, in any format that is read.
        to: the layout: ``"blender"``, ``"nerfstudio"``, ``"colmap"``, ``"neus"`` or ``"llff"``.
        out: the folder to write; it must be new or empty.
        test_every: hold out every N-th view if the capture has no split of its own, 0 for none; or the name of a rule.
        camera_axes: the axes of the cameras in the files, if they are not those of the format.
        overwrite: replace an earlier conversion in ``out``.

    Raises:
        CaptureError: the capture cannot be read, or has cameras that the layout cannot hold; or ``out`` holds other files.
        OSError: ``out`` cannot be written.
    """
    folder, target = Path(path), Path(out)
    if to not in get_args(CaptureLayout):
        raise CaptureError(f"to is {shown(to)}; give one of {', '.join(get_args(CaptureLayout))}")
    if isinstance(test_every, str) and test_every not in get_args(HoldOut):
        raise CaptureError(f"test_every is {shown(test_every)}; give a number, or one of {', '.join(get_args(HoldOut))}")
    earlier = _earlier_files(target, overwrite)
    with errors_of(folder):
        source, notes = read_source(folder, test_every=test_every, camera_axes=camera_axes)
        _check_apart(target, [*source.files, *source.images, *(source.masks or ())])
        given = Given(folder, source, test_every, camera_axes)
        plan = _LAYOUTS[to](given)
    notes = tuple(map(printable, (*notes, *plan.notes)))
    files = (*plan.pictures, *plan.cameras)
    _remove(target, earlier)
    target.mkdir(parents=True, exist_ok=True)
    write_json(target / RECORD, {"layout": to, "from": str(folder), "notes": notes, "files": [file.name for file in files]})
    for place in {target / PurePosixPath(file.name).parent for file in files}:
        place.mkdir(parents=True, exist_ok=True)
    in_threads(lambda file: file.write(target / file.name), plan.pictures)
    for file in plan.cameras:
        file.write(target / file.name)
    return Conversion(target, to, given.count, tuple(target / file.name for file in files), notes)


def _earlier_files(target: Path, overwrite: bool) -> list[Path]:
    """Return the files of an earlier conversion, which may be removed.

    Raises:
        CaptureError: the folder is a file, holds other files, or a conversion that must not be overwritten.
    """
    if not is_folder(target):
        if os.path.lexists(target):
            raise CaptureError(f"{target} is a file; choose another --out")
        return []
    if not entries(target):
        return []
    record = target / RECORD
    if not is_regular_file(record):
        raise CaptureError(f"{target} holds files that no conversion wrote; choose another --out")
    if not overwrite:
        raise CaptureError(f"{target} holds an earlier conversion; choose another --out or pass --overwrite to replace it")
    return [*_below(target, read_json(record).get("files")), record]


def _below(target: Path, names: Any) -> Iterator[Path]:
    """Yield the files that a record names, but none outside of its folder."""
    root = os.path.realpath(target)
    for name in names if isinstance(names, list) else []:
        with suppress(ValueError, OSError):  # names that no file system takes
            file = target / str(name)
            if Path(os.path.realpath(file.parent)).is_relative_to(root) and is_regular_file(file):
                yield file


def _check_apart(target: Path, files: list[Path]) -> None:
    """Refuse a folder that holds files of the capture.

    Raises:
        CaptureError: it does.
    """
    root = Path(os.path.realpath(target))
    for file in files:
        real = Path(os.path.realpath(file))
        if real.is_relative_to(root):
            raise CaptureError(f"{target} holds files of the capture itself; choose another --out")


def _remove(target: Path, files: list[Path]) -> None:
    """Remove files, and the folders that are empty then."""
    for file in files:
        file.unlink(missing_ok=True)
    folders = {place for file in files for place in file.parents if target in place.parents}
    for place in sorted(folders, key=lambda place: -len(place.parts)):
        with suppress(OSError):  # other files are in it
            place.rmdir()
    if is_folder(target):
        remove_partials(target)

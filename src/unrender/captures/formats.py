"""The formats of posed photos that are recognized in a folder, in order of preference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unrender.captures.blender import read_blender
from unrender.captures.colmap import find_colmap, read_colmap
from unrender.captures.llff import read_llff
from unrender.captures.neus_npz import read_neus
from unrender.captures.reading import is_regular_file
from unrender.captures.source import Source
from unrender.captures.transforms_json import read_transforms

Reader = Callable[[Path, Path, int], Source]
"""Reads the cameras of a folder; takes the folder, the file or folder of cameras that was found in it, and ``test_every``."""


@dataclass(frozen=True)
class Format:
    """A layout of posed photos: how it is recognized, and how it is read."""

    name: str
    """The program or data set that writes it."""
    cameras: str
    """The file or folder of cameras, as messages and docs/captures.md name it."""
    find: Callable[[Path], Path | None]
    """Return the file or folder of cameras below a folder; None if the folder has another layout. It reads names only."""
    read: Reader


def file_named(name: str) -> Callable[[Path], Path | None]:
    """Return a function that finds a file of this name in a folder."""

    def find(folder: Path) -> Path | None:
        file = folder / name
        return file if is_regular_file(file) else None

    return find


FORMATS: tuple[Format, ...] = (
    Format("Blender", "transforms_train.json", file_named("transforms_train.json"), read_blender),
    Format("instant-ngp and nerfstudio", "transforms.json", file_named("transforms.json"), read_transforms),
    Format("NeuS", "cameras_sphere.npz", file_named("cameras_sphere.npz"), read_neus),
    Format("IDR and DVR", "cameras.npz", file_named("cameras.npz"), read_neus),
    Format("COLMAP", "sparse/", find_colmap, read_colmap),
    Format("LLFF", "poses_bounds.npy", file_named("poses_bounds.npy"), read_llff),
)
"""A new format only needs a line here."""

"""Bundler's ``bundle.out``, with the names of the photos in ``list.txt``.

A camera is f k1 k2, the rotation from world to camera and the translation, with OpenGL's axes. With p = -(x, y) / z and pixels counted
from the middle of the photo, +y up: p' = f (1 + k1 |p|² + k2 |p|⁴) p.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.captures.errors import CaptureError
from unrender.captures.neus_npz import images_of
from unrender.captures.points import MOST_POINTS
from unrender.captures.posed_photos import Lens, PosedPhoto, affine, first_three, place_of, posed_source
from unrender.captures.reading import is_regular_file
from unrender.captures.reading_text import count_of, numbers, read_text, text_lines
from unrender.captures.source import Source

_MOST_CAMERAS = 1_000_000


def read_bundler(folder: Path, file: Path, test_every: int) -> Source:
    """Read cameras and points of a ``bundle.out``.

    Cameras with a focal length of 0 were not solved. Without a ``list.txt`` the cameras are those of the images in order.

    Raises:
        CaptureError: the file ends before the cameras or points that it promises, or as in
            :func:`unrender.captures.posed_photos.posed_source`.
    """
    lines = (line for line in text_lines(file) if not line.isspace() and not line.startswith("#"))
    counts = next(lines, "").split()
    if len(counts) != 2:
        raise CaptureError(f"{file} does not begin with the numbers of cameras and points; write it again")
    cameras = count_of(counts[0], _MOST_CAMERAS, f"the number of cameras in {file}")
    points = count_of(counts[1], MOST_POINTS, f"the number of points in {file}")
    listing = next((place / "list.txt" for place in (file.parent, folder) if is_regular_file(place / "list.txt")), None)
    names = images_of(folder) if listing is None else [line.split()[0] for line in read_text(listing).splitlines() if line.strip()]
    if len(names) != cameras:
        raise CaptureError(f"{file} has {cameras} cameras for {len(names)} photos; put the list.txt of the same solution beside it")
    photos, unsolved = [], []
    for name in names:
        values = [numbers(_next(lines, file, "cameras").split(), 3, f"the camera of {name} in {file}") for _ in range(5)]
        focal, k1, k2 = values[0]
        if focal == 0:
            unsolved.append(str(name))
            continue
        lens = Lens((focal, focal), distortion=(k1, k2, 0.0, 0.0, 0.0, 0.0))
        photos.append(PosedPhoto(name, affine(sum(values[1:4], []), values[4]), lens))
    notes = [f"{len(unsolved)} photos were not solved and are left out ({first_three(unsolved)})"] if unsolved else []
    cloud = _points(lines, points, file)
    source = posed_source(
        folder,
        file,
        photos,
        test_every,
        axes="opengl",
        camera_from_source=True,
        places=place_of(folder, file),
        files=(file,) if listing is None else (file, listing),
        notes=notes,
    )
    return replace(source, points=cloud)


def _next(lines: Iterator[str], file: Path, what: str) -> str:
    line = next(lines, None)
    if line is None:
        raise CaptureError(f"{file} ends before the {what} that it promises; copy it again")
    return line


def _points(lines: Iterator[str], count: int, file: Path) -> Float[Tensor, "points 3"]:
    """Read points: a position, a color, and the photos that see it."""
    words: list[str] = []
    for _ in range(count):
        words += _next(lines, file, "points").split()
        for _ in range(2):
            _next(lines, file, "points")
    return torch.tensor(numbers(words, 3 * count, f"the positions of the points in {file}"), dtype=torch.float64).reshape(-1, 3)

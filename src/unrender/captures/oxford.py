"""Oxford's dinosaur, ``dino_Ps.mat``: a cell of 3x4 projection matrices in a MATLAB file, and the images in order.

Files of MATLAB 5 to 7.2 are read here, because SciPy allocates what their headers claim.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from unrender.captures.errors import CaptureError
from unrender.captures.neus_npz import cameras_of, check_invertible, decomposed, images_of
from unrender.captures.posed_photos import PosedPhoto, name_below, pinhole, posed_source
from unrender.captures.reading import read_bytes
from unrender.captures.source import Source

_MOST_BYTES = 4 * 2**20
_MATRIX, _COMPRESSED = 14, 15
_CELL = 1
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Types of the numbers in a data element."""


def read_oxford(folder: Path, file: Path, test_every: int) -> Source:
    """Read a cell of projection matrices, one for each image of the folder, sorted by the numbers in their names.

    Raises:
        CaptureError: no cell of 3x4 matrices, a matrix that is no camera, or other numbers of images and cameras.
    """
    projections = _cell(file)
    images = images_of(folder)
    notes: list[str] = []
    indices = cameras_of(images, list(range(len(projections))), file, notes)
    names = [name_below(folder, image) for image in images]
    chosen = torch.from_numpy(np.stack([projections[index] for index in indices]).astype(np.float64))
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64).expand(len(chosen), 1, 4)
    check_invertible(torch.cat((chosen, last), 1), "P", indices, names, file)
    lenses, poses = decomposed(chosen)
    photos = [
        PosedPhoto(image, pose, pinhole(lens, f"the camera of {image.name} in {file}"))
        for image, lens, pose in zip(images, lenses.numpy(), poses.numpy(), strict=True)
    ]
    return posed_source(folder, file, photos, test_every, notes=notes)


def _cell(file: Path) -> list[Float[np.ndarray, "3 4"]]:
    """Return the matrices in the first cell of a MATLAB file that holds nothing else."""
    data = read_bytes(file, _MOST_BYTES)
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    wrong = CaptureError(f"{file} has no cell of 3x4 matrices; write it with MATLAB's save(..., '-v7') or scipy.io.savemat")
    if order is None:
        raise wrong
    try:
        for element in _elements(data[128:], order):
            kind, content = _unpacked(element, order)
            matrices = _matrices(content, order) if kind == _MATRIX else []
            if matrices:
                return matrices
    except (struct.error, ValueError, StopIteration, IndexError, zlib.error) as error:
        raise CaptureError(f"{file} is damaged; copy it again") from error
    raise wrong


def _unpacked(element: tuple[int, bytes], order: str) -> tuple[int, bytes]:
    """Return an element, or the one within it if it is compressed."""
    kind, content = element
    if kind != _COMPRESSED:
        return element
    return next(_elements(zlib.decompressobj().decompress(content, _MOST_BYTES), order))


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield type and content of each data element.

    An element is a tag of eight bytes and what follows, or four bytes within the tag.
    """
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(order + "II", data, at)
        if kind >> 16:
            kind, size, begin, end = kind & 0xFFFF, min(kind >> 16, 4), at + 4, at + 8
        else:
            begin = at + 8
            end = begin + size if kind == _COMPRESSED else begin + -(-size // 8) * 8
        if begin + size > len(data):
            raise ValueError("an element is longer than the file")
        yield kind, data[begin : begin + size]
        at = end


def _array(content: bytes, order: str) -> tuple[int, tuple[int, ...], list[tuple[int, bytes]]]:
    """Return class, shape and the remaining elements of an array: for a cell its arrays, for numbers their real part."""
    parts = list(_elements(content, order))
    (flags,) = struct.unpack_from(order + "I", parts[0][1])
    shape = struct.unpack(f"{order}{len(parts[1][1]) // 4}i", parts[1][1])
    return flags & 0xFF, shape, parts[3:]


def _matrices(content: bytes, order: str) -> list[Float[np.ndarray, "3 4"]]:
    """Return the matrices of a cell; empty if the array is something else."""
    kind, shape, parts = _array(content, order)
    if kind != _CELL or prod(shape) != len(parts):
        return []
    found = []
    for part, inner in parts:
        if part != _MATRIX:
            return []
        _, size, values = _array(inner, order)
        if size != (3, 4) or not values or values[0][0] not in _TYPES:
            return []
        numbers = np.frombuffer(values[0][1], order + _TYPES[values[0][0]])
        if numbers.size != 12:
            return []
        found.append(numbers.astype(np.float64).reshape((3, 4), order="F"))
    return found

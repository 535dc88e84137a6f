"""Local features of photos: blobs of the difference of Gaussians, described by histograms of gradients, and matches between them.

Lowe, Distinctive image features from scale-invariant keypoints, 2004, with the square roots of Arandjelović and Zisserman, 2012. Positions
are (x, y) in pixels of the photo, whose top left corner is (0, 0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.ndimage import gaussian_filter, map_coordinates, zoom
from torch import Tensor

_LEVELS = 3
"""Scales of an octave at which blobs are looked for."""
_FIRST_BLUR = 1.6
_CAMERA_BLUR = 0.5
"""Blur of the photo itself, in its pixels."""
_CONTRAST = 0.004
"""Least difference of Gaussians of a blob, for gray values from 0 to 1."""
_EDGE = 10.0
"""Largest ratio of the principal curvatures of a blob; edges have larger ones."""
_DOUBLED = 320
"""Photos whose longer side is shorter than this are doubled in size first."""
_SMALLEST = 32
"""Shorter side of the smallest octave."""
_BORDER = 4
"""Pixels along the border without blobs."""
_PATCH = 12
"""Samples along a side of the patch around a blob."""
_CELLS, _DIRECTIONS = 4, 8
_RATIO = 0.85
"""A match must be this many times nearer than the second-nearest feature."""


@dataclass(frozen=True)
class Features:
    """The strongest blobs of one photo."""

    positions: Float[Tensor, "blobs 2"]
    descriptors: Float[Tensor, "blobs 128"]
    """Unit vectors."""


def find_features(gray: Float[ndarray, "height width"], most: int, inside: Bool[ndarray, "height width"] | None = None) -> Features:
    """Find the ``most`` strongest blobs of a photo and describe them.

    Args:
        gray: float32 from 0 to 1.
        most: number of blobs to keep.
        inside: where their centers must be.
    """
    scale = 2.0 if max(gray.shape) < _DOUBLED else 1.0
    base = zoom(gray, 2, order=1, mode="nearest", grid_mode=True) if scale == 2.0 else gray
    base = gaussian_filter(base, math.sqrt(max(_FIRST_BLUR**2 - (scale * _CAMERA_BLUR) ** 2, 0.01)), mode="nearest")
    octaves: list[_Octave] = []
    while min(base.shape) >= _SMALLEST:
        blurs = [_FIRST_BLUR * 2 ** (level / _LEVELS) for level in range(_LEVELS + 3)]
        stack = [base]
        for before, after in zip(blurs, blurs[1:], strict=False):
            stack.append(gaussian_filter(stack[-1], math.sqrt(after**2 - before**2), mode="nearest"))
        places, strength = _blobs(np.stack(stack))
        # A pixel (0, 0) of every octave has its center at half a pixel of that octave.
        positions = (places[:, :0:-1] + 0.5) / scale
        if inside is not None:
            column, row = positions.astype(np.int64).T
            kept = inside[row.clip(0, inside.shape[0] - 1), column.clip(0, inside.shape[1] - 1)]
            places, strength, positions = places[kept], strength[kept], positions[kept]
        octaves.append(_Octave(stack, blurs, places, strength, positions))
        base = _halved(stack[_LEVELS])
        scale /= 2
    every = np.concatenate([octave.strength for octave in octaves]) if octaves else np.zeros(0)
    weakest = np.sort(every)[-most] if len(every) > most else 0.0
    positions, descriptors = [np.zeros((0, 2))], [np.zeros((0, _CELLS**2 * _DIRECTIONS))]
    for octave in octaves:
        strong = octave.strength >= weakest
        positions.append(octave.positions[strong])
        descriptors.append(_described(octave.stack, octave.places[strong], octave.blurs))
    found = (np.concatenate(parts)[:most].astype(np.float32) for parts in (positions, descriptors))
    return Features(*map(torch.from_numpy, found))


@dataclass(frozen=True)
class _Octave:
    """The blobs of one octave."""

    stack: list[ndarray]
    """The photo, blurred more and more."""
    blurs: list[float]
    places: Float[ndarray, "blobs 3"]
    """Level, row and column."""
    strength: Float[ndarray, " blobs"]
    positions: Float[ndarray, "blobs 2"]


def _halved(image: Float[ndarray, "height width"]) -> Float[ndarray, "rows columns"]:
    """Average blocks of 2 x 2 pixels, so that positions scale about the corner of the photo."""
    rows, columns = image.shape[0] // 2, image.shape[1] // 2
    return image[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).mean((1, 3))


def _blobs(stack: Float[ndarray, "levels height width"]) -> tuple[Float[ndarray, "blobs 3"], Float[ndarray, " blobs"]]:
    """Return (level, row, column) of the extrema of the differences of neighboring levels, with their strengths."""
    difference = stack[1:] - stack[:-1]
    highest, lowest = difference, difference
    for axis in range(3):
        highest, lowest = _of_three(np.maximum, highest, axis), _of_three(np.minimum, lowest, axis)
    inner = difference[1:-1, 1:-1, 1:-1]
    extreme = ((inner == highest) | (inner == lowest)) & (np.abs(inner) > _CONTRAST)
    extreme[:, :_BORDER], extreme[:, -_BORDER:], extreme[:, :, :_BORDER], extreme[:, :, -_BORDER:] = False, False, False, False
    candidates = np.argwhere(extreme) + 1
    level, row, column = candidates.T
    around = {(i, j, k): difference[level + i, row + j, column + k] for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)}
    middle = around[0, 0, 0]
    axes = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    slope = np.stack([(around[axis] - around[-axis[0], -axis[1], -axis[2]]) / 2 for axis in axes], -1)
    curvature = np.zeros((len(candidates), 3, 3))
    for a, first in enumerate(axes):
        curvature[:, a, a] = around[first] + around[-first[0], -first[1], -first[2]] - 2 * middle
        for b in range(a):
            both, apart = np.add(first, axes[b]), np.subtract(first, axes[b])
            mixed = around[tuple(both)] + around[tuple(-both)] - around[tuple(apart)] - around[tuple(-apart)]
            curvature[:, a, b] = curvature[:, b, a] = mixed / 4
    trace = curvature[:, 1, 1] + curvature[:, 2, 2]
    determinant = curvature[:, 1, 1] * curvature[:, 2, 2] - curvature[:, 1, 2] ** 2
    kept = (determinant > 0) & (trace**2 * _EDGE < (_EDGE + 1) ** 2 * determinant)
    kept &= np.abs(np.linalg.det(curvature)) > 1e-12
    shift = -np.linalg.solve(curvature[kept], slope[kept][..., None])[..., 0]
    near = np.abs(shift).max(1, initial=0) < 1
    return (candidates[kept] + shift)[near], np.abs(middle[kept] + (slope[kept] * shift).sum(1) / 2)[near]


def _of_three(choose: np.ufunc, values: ndarray, axis: int) -> ndarray:
    """Reduce each value with its two neighbors along an axis; the ends are dropped."""
    count = values.shape[axis] - 2
    first, second, third = (values.take(range(k, k + count), axis) for k in range(3))
    return choose(choose(first, second), third)


def _described(stack: list[ndarray], places: Float[ndarray, "blobs 3"], blurs: list[float]) -> Float[ndarray, "blobs 128"]:
    """Describe blobs by histograms of the gradients around them, turned to their main direction."""
    descriptors = np.zeros((len(places), _CELLS**2 * _DIRECTIONS))
    nearest = np.rint(places[:, 0]).astype(np.int64).clip(1, _LEVELS)
    for level in range(1, _LEVELS + 1):
        of_level = nearest == level
        if not of_level.any():
            continue
        down, right = np.gradient(stack[level])
        centers = places[of_level, 1:]
        turn = _main_direction(down, right, centers, blurs[level])
        descriptors[of_level] = _histograms(down, right, centers, blurs[level], turn)
    return descriptors


def _samples(
    down: ndarray, right: ndarray, centers: Float[ndarray, "blobs 2"], spacing: float, turn: Float[ndarray, " blobs"]
) -> tuple[Float[ndarray, "blobs samples"], Float[ndarray, "blobs samples"]]:
    """Return length and direction of the gradients on a square of samples around each blob, turned by an angle."""
    along = (np.arange(_PATCH) - (_PATCH - 1) / 2) * spacing
    y, x = (part.reshape(-1) for part in np.meshgrid(along, along, indexing="ij"))
    cosine, sine = np.cos(turn)[:, None], np.sin(turn)[:, None]
    where = np.stack([centers[:, :1] + sine * x + cosine * y, centers[:, 1:] + cosine * x - sine * y])
    dy = map_coordinates(down, where, order=1, mode="nearest")
    dx = map_coordinates(right, where, order=1, mode="nearest")
    return np.hypot(dx, dy), np.arctan2(dy, dx) - turn[:, None]


def _main_direction(down: ndarray, right: ndarray, centers: Float[ndarray, "blobs 2"], blur: float) -> Float[ndarray, " blobs"]:
    length, direction = _samples(down, right, centers, 0.6 * blur, np.zeros(len(centers)))
    weight = length * _window(0.6 * blur, 1.5 * blur)
    bins = 36
    place = np.floor(direction / (2 * np.pi) * bins).astype(np.int64) % bins
    index = place + bins * np.arange(len(centers))[:, None]
    histogram = np.bincount(index.reshape(-1), weight.reshape(-1), bins * len(centers)).reshape(-1, bins)
    for _ in range(3):
        histogram = (np.roll(histogram, 1, 1) + histogram + np.roll(histogram, -1, 1)) / 3
    best = histogram.argmax(1)
    rows = np.arange(len(best))
    left, middle, after = histogram[rows, best - 1], histogram[rows, best], histogram[rows, (best + 1) % bins]
    shift = 0.5 * (left - after) / np.minimum(left + after - 2 * middle, -1e-12)
    return (best + 0.5 + shift) / bins * 2 * np.pi


def _window(spacing: float, width: float) -> Float[ndarray, " samples"]:
    along = (np.arange(_PATCH) - (_PATCH - 1) / 2) * spacing
    one = np.exp(-0.5 * (along / width) ** 2)
    return np.outer(one, one).reshape(-1)


def _histograms(
    down: ndarray, right: ndarray, centers: Float[ndarray, "blobs 2"], blur: float, turn: Float[ndarray, " blobs"]
) -> Float[ndarray, "blobs 128"]:
    spacing = 3 * blur * _CELLS / _PATCH
    length, direction = _samples(down, right, centers, spacing, turn)
    length = length * _window(1.0, _PATCH / 2)
    place = direction / (2 * np.pi) * _DIRECTIONS
    low = np.floor(place)
    share = place - low
    soft = np.zeros((*length.shape, _DIRECTIONS), np.float32)
    first = low.astype(np.int64) % _DIRECTIONS
    np.put_along_axis(soft, first[..., None], (length * (1 - share))[..., None], -1)
    np.put_along_axis(soft, ((first + 1) % _DIRECTIONS)[..., None], (length * share)[..., None], -1)
    cells = np.einsum("sc,bsd->bcd", _CELL_OF_SAMPLE, soft, optimize=True).reshape(len(centers), -1)
    cells /= np.maximum(np.linalg.norm(cells, axis=1, keepdims=True), 1e-9)
    cells = np.minimum(cells, 0.2)
    return np.sqrt(cells / np.maximum(cells.sum(1, keepdims=True), 1e-9))


def _cell_weights() -> Float[ndarray, "samples cells"]:
    """Return bilinear weights of samples in the cells of a patch."""
    place = (np.arange(_PATCH) + 0.5) / _PATCH * _CELLS - 0.5
    one = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(_CELLS)))
    return np.einsum("ac,bd->abcd", one, one).reshape(_PATCH**2, _CELLS**2).astype(np.float32)


_CELL_OF_SAMPLE = _cell_weights()


@dataclass(frozen=True)
class Matches:
    """Features of two photos that are each other's nearest."""

    first: int
    second: int
    in_first: Float[Tensor, "matches 2"]
    in_second: Float[Tensor, "matches 2"]

    def __len__(self) -> int:
        return len(self.in_first)


def match_all(features: Sequence[Features]) -> list[Matches]:
    """Match the features of every two photos: mutually nearest, and distinctly nearer than the second-nearest."""
    most = max(len(of.positions) for of in features)
    if most < 2:
        return []
    descriptors = torch.zeros(len(features), most, features[0].descriptors.shape[1])
    for photo, of in enumerate(features):
        descriptors[photo, : len(of.positions)] = of.descriptors
    found = []
    for first in range(len(features) - 1):
        count = len(features[first].positions)
        if count < 2:
            continue
        similar = (features[first].descriptors @ descriptors[first + 1 :].flatten(0, 1).T).reshape(count, -1, most)
        forward, there = similar.topk(2, 2)
        backward, back = similar.topk(2, 0)
        for other in range(similar.shape[1]):
            chosen = there[:, other, 0]
            kept = back[0, other, chosen] == torch.arange(count)
            # Of unit vectors, the squared distance is 2 - 2 a·b.
            for near, next_near in (
                (forward[:, other, 0], forward[:, other, 1]),
                (backward[0, other, chosen], backward[-1, other, chosen]),
            ):
                kept &= 1 - near < _RATIO**2 * (1 - next_near)
            second = first + 1 + other
            found.append(Matches(first, second, features[first].positions[kept], features[second].positions[chosen[kept]]))
    return found

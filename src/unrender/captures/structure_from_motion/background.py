"""Turntables: the object turns, and the background before which it stands does not.

Features of the background then say that the camera stands still, and those of the object that it goes around. A solver that is given both
follows either, or neither. Between two photos the background moves as a whole: by a shift and a small change of scale and angle. Features
that do so between many pairs of photos, near and far ones, belong to it. A camera that goes around a scene moves nothing like that.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from unrender.captures.structure_from_motion.solution import Solution

_MOST_IMAGES = 2**31 - 1
"""COLMAP numbers a pair of images ``a < b`` as 2147483647 a + b."""

_TOLERANCE = 0.006
"""Deviation from the common motion, as a share of the longer side."""

_MOST_TURN = 0.1
"""Largest change of scale and angle (in radians) of the background between two photos."""

_MOST_SHIFT = 0.25
"""Largest shift, as a share of the longer side."""

_LEAST_MATCHES = 12
_TRIALS = 200
_LEAST_VIEWS = 6
_VIEWS = 0.2
"""A feature belongs to the background if it stands still between its photo and this share of all."""

_SHARE = 0.1
"""Share of the matched features that belongs to the background in half of the photos, from which the background is taken out."""


@dataclass(frozen=True)
class Matches:
    """Features and matches in a database of COLMAP."""

    keypoints: Mapping[int, Float[np.ndarray, "_ 2"]]
    """By image."""
    names: Mapping[int, str]
    pairs: Mapping[tuple[int, int], Int[np.ndarray, "_ 2"]]
    """Numbers of the matched features, by pair of images."""
    longer_side: float


def read_matches(database: Path) -> Matches:
    """Read the features and raw matches of a database."""
    with closing(sqlite3.connect(database)) as connection:
        names = dict(connection.execute("SELECT image_id, name FROM images"))
        keypoints = {
            image: np.frombuffer(data or b"", np.float32).reshape(rows, columns)[:, :2].astype(np.float64)
            for image, rows, columns, data in connection.execute("SELECT image_id, rows, cols, data FROM keypoints")
            if rows
        }
        pairs = {
            (number // _MOST_IMAGES, number % _MOST_IMAGES): np.frombuffer(data, np.uint32).reshape(rows, 2).astype(np.int64)
            for number, rows, data in connection.execute("SELECT pair_id, rows, data FROM matches WHERE rows > 0")
        }
        (longer,) = connection.execute("SELECT MAX(MAX(width, height)) FROM cameras").fetchone()
    return Matches(keypoints, names, pairs, float(longer or 1))


def moving_together(
    first: Float[np.ndarray, "matches 2"], second: Float[np.ndarray, "matches 2"], longer_side: float, generator: np.random.Generator
) -> Bool[np.ndarray, " matches"]:
    """Find the matches that move as a whole, by nearly a shift: those of the background of a turntable.

    Points are complex numbers, so that a similarity is b = s a + t; it is the best of some from two random matches each.
    """
    count = len(first)
    nothing = np.zeros(count, bool)
    if count < _LEAST_MATCHES:
        return nothing
    a, b = first[:, 0] + 1j * first[:, 1], second[:, 0] + 1j * second[:, 1]
    i, j = generator.integers(0, count, (2, _TRIALS))
    apart = np.abs(a[i] - a[j]) > 0.1 * longer_side
    i, j = i[apart], j[apart]
    turn = (b[i] - b[j]) / (a[i] - a[j])
    small = np.abs(turn - 1) < _MOST_TURN
    i, turn = i[small], turn[small]
    if not len(i):
        return nothing
    shift = b[i] - turn * a[i]
    near = np.abs(b - a) < _MOST_SHIFT * longer_side
    fits = (np.abs(b - (turn[:, None] * a + shift[:, None])) < _TOLERANCE * longer_side) & near
    best = fits[fits.sum(1).argmax()]
    return best if best.sum() >= _LEAST_MATCHES else nothing


@dataclass(frozen=True)
class Background:
    """What stands still while the object turns."""

    still: Mapping[str, Bool[np.ndarray, " features"]]
    """Whether each feature of a photo belongs to the background."""
    kept: Mapping[tuple[int, int], Int[np.ndarray, "_ 2"]]
    """The matches of everything else."""

    def explained(self, solution: Solution) -> tuple[int, float]:
        """Return how many observations of the object a solution has, and their mean error in pixels."""
        by_view = [self.still.get(name) for name in solution.names]
        moving = np.array(
            [by_view[view] is None or not by_view[view][feature] for view, _, feature in solution.observations.tolist()], dtype=bool
        )
        return int(moving.sum()), float(solution.errors()[moving].mean()) if moving.any() else float("inf")


def find_background(matches: Matches) -> Background | None:
    """Find the background of a turntable; None if the photos show none."""
    counts = {image: np.zeros(len(points), np.int64) for image, points in matches.keypoints.items()}
    matched = {image: np.zeros(len(points), np.int64) for image, points in matches.keypoints.items()}
    generator = np.random.default_rng(0)
    together = {}
    for (a, b), rows in matches.pairs.items():
        still = moving_together(matches.keypoints[a][rows[:, 0]], matches.keypoints[b][rows[:, 1]], matches.longer_side, generator)
        together[a, b] = still
        for image, column in ((a, 0), (b, 1)):
            np.add.at(counts[image], rows[still, column], 1)
            np.add.at(matched[image], rows[:, column], 1)
    needed = max(_LEAST_VIEWS, _VIEWS * len(matches.keypoints))
    shares = [(count >= needed).sum() / max(1, (matched[image] >= 3).sum()) for image, count in counts.items()]
    if not shares or float(np.median(shares)) < _SHARE:
        return None
    kept = {}
    for (a, b), rows in matches.pairs.items():
        out = together[a, b] | (counts[a][rows[:, 0]] >= needed) | (counts[b][rows[:, 1]] >= needed)
        kept[a, b] = rows[~out]
    return Background({matches.names[image]: count >= needed for image, count in counts.items()}, kept)


def write_without(database: Path, background: Background, out: Path) -> None:
    """Copy a database without the matches of the background; the others must be verified again."""
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(out)) as target:
        source.backup(target)
        with target:
            target.execute("DELETE FROM matches")
            target.execute("DELETE FROM two_view_geometries")
            for (a, b), rows in background.kept.items():
                if len(rows) >= _LEAST_MATCHES:
                    row = (a * _MOST_IMAGES + b, len(rows), 2, rows.astype(np.uint32).tobytes())
                    target.execute("INSERT INTO matches (pair_id, rows, cols, data) VALUES (?, ?, ?, ?)", row)

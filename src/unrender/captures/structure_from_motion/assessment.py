"""Judges what structure from motion found: photo by photo, and as a whole."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from unrender.captures.structure_from_motion.gathering import Photo
from unrender.captures.structure_from_motion.solution import Solution

Grade = Literal["good", "usable", "poor"]

_BLURRED = 0.35
"""A photo is blurred if its sharpness is below this share of the median."""

_FEATURELESS = 0.3
_LEAST_FEATURES = 150
_LEAST_MATCHES = 30
"""Verified matches with one other photo, without which a photo is not registered."""

_FEATURE_SIDE = 1600
"""Longer side of the pictures in which errors are judged."""

_FLAT_RISE = 0.03
"""A focal length is uncertain if the mean error rises by less than this share with one a fifth less or a quarter more."""

_MOST_IMAGES = 2**31 - 1


@dataclass(frozen=True)
class PhotoReport:
    """What became of one photo."""

    name: str
    registered: bool
    keypoints: int
    matches: int
    """Verified matches with the photo with which it has most."""
    inliers: int
    """Points of the model that it shows."""
    error: float | None
    """Mean reprojection error in pixels."""
    sharpness: float
    reason: str | None
    """Likely reason why it is not registered."""


@dataclass(frozen=True)
class Verdict:
    """A judgment in words."""

    grade: Grade
    sentence: str
    """What is good or missing, and what to do."""


def count_features(database: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Return for each photo its number of features, and of verified matches with the photo with which it has most."""
    with closing(sqlite3.connect(database)) as connection:
        names = dict(connection.execute("SELECT image_id, name FROM images"))
        features = {names[image]: rows for image, rows in connection.execute("SELECT image_id, rows FROM keypoints")}
        best = dict.fromkeys(names.values(), 0)
        for number, rows in connection.execute("SELECT pair_id, rows FROM two_view_geometries WHERE rows > 0"):
            for image in (number // _MOST_IMAGES, number % _MOST_IMAGES):
                best[names[image]] = max(best[names[image]], rows)
    return features, best


def report_photos(
    photos: Sequence[Photo], solution: Solution, features: Mapping[str, int], matches: Mapping[str, int], broken: Mapping[str, str]
) -> list[PhotoReport]:
    """Report on every photo, with the likely reason for each that is not registered."""
    view = {name: index for index, name in enumerate(solution.names)}
    seen = np.bincount(solution.observations[:, 0], minlength=len(view))
    errors = solution.mean_of_views(solution.errors())
    sharp = float(np.median([photo.sharpness for photo in photos]))
    usual = float(np.median([features.get(photo.name, 0) for photo in photos]))
    sizes = [(photo.width, photo.height) for photo in photos]
    reports = []
    for photo in photos:
        index = view.get(photo.name)
        reports.append(
            PhotoReport(
                name=photo.name,
                registered=index is not None,
                keypoints=features.get(photo.name, 0),
                matches=matches.get(photo.name, 0),
                inliers=0 if index is None else int(seen[index]),
                error=None if index is None or not seen[index] else round(float(errors[index]), 3),
                sharpness=round(photo.sharpness, 2),
                reason=None
                if index is not None
                else reason_of(
                    photo,
                    sharpness=sharp,
                    keypoints=features.get(photo.name, 0),
                    usual_keypoints=usual,
                    matches=matches.get(photo.name, 0),
                    alone_in_size=len(set(sizes)) > 1 and sizes.count((photo.width, photo.height)) == 1,
                ),
            )
        )
    unread = [PhotoReport(name, False, 0, 0, 0, None, 0.0, f"cannot be read: {why}") for name, why in broken.items()]
    return sorted([*reports, *unread], key=lambda report: report.name)


def reason_of(photo: Photo, *, sharpness: float, keypoints: int, usual_keypoints: float, matches: int, alone_in_size: bool) -> str:
    """Return the likely reason why a photo is not registered.

    >>> photo = Photo("a.jpg", None, 640, 480, None, sharpness=10.0)
    >>> reason_of(photo, sharpness=100.0, keypoints=900, usual_keypoints=1000.0, matches=9, alone_in_size=False)
    'blurred: its sharpness is 10 % of the median'
    >>> reason_of(photo, sharpness=10.0, keypoints=900, usual_keypoints=1000.0, matches=9, alone_in_size=False)
    'no overlap: at most 9 matches with another photo'
    """
    if photo.sharpness < _BLURRED * sharpness:
        return f"blurred: its sharpness is {photo.sharpness / sharpness:.0%} of the median".replace("%", " %")
    if keypoints < max(_LEAST_FEATURES, _FEATURELESS * usual_keypoints):
        return f"few features: {keypoints}, the others have about {usual_keypoints:.0f}"
    if alone_in_size:
        return f"other size: no other photo is {photo.width}x{photo.height}, so its lens has to be found from it alone"
    if matches < _LEAST_MATCHES:
        return f"no overlap: at most {matches} matches with another photo"
    return "its matches contradict the other photos: something moved, or a pattern repeats"


def mean_error(solution: Solution) -> float:
    """Return the mean reprojection error in pixels; NaN without points."""
    return float(solution.errors().mean()) if len(solution.pixels) else float("nan")


def view_spread(solution: Solution) -> float:
    """Return the largest angle in degrees between the optical axis of a view and that of the first one."""
    axes = solution.camera_from_world[:, 2, :3]
    return float(np.degrees(np.arccos(np.clip(axes @ axes[0], -1, 1)).max()))


def has_uncertain_focal(solution: Solution) -> bool:
    """Tell whether another focal length would explain the photos about as well.

    One ring of similar views does not determine it.
    """
    return solution.focal_rise < _FLAT_RISE


def judge(solution: Solution, reports: Sequence[PhotoReport], *, focal_is_given: bool = False) -> Verdict:
    """Judge a solution by the share of registered photos, the reprojection error, the points per photo and the focal length."""
    registered, total = len(solution.names), len(reports)
    error = mean_error(solution)
    relative = error * min(1.0, _FEATURE_SIDE / float(solution.sizes.max()))
    points = float(np.median(np.bincount(solution.observations[:, 0], minlength=registered)))
    lacks, advice = [], "take more photos, each sharing two thirds of its view with the next; put newspaper below a plain object"
    if registered < 0.9 * total:
        lacks.append(f"{total - registered} photos have no pose")
    if relative > 1.0:
        lacks.append("the poses do not agree well")
    if points < 100:
        lacks.append(f"a photo shows only {points:.0f} points of the model")
    poor = registered < 0.6 * total or relative > 1.5 or points < 50
    if not poor:
        advice = "if the fit is blurred, take more photos around those that are missing" if registered < total else "look at the first fit"
    if has_uncertain_focal(solution) and not focal_is_given:
        focal = float(solution.lenses[solution.lens_of_view[0], 0])
        lacks.append(f"other focal lengths than {focal:.0f} pixels explain the photos as well")
        told = "give --focal if you know it, use photos with EXIF data, or take some from other heights and distances"
        advice = f"{told}; {advice}" if poor else told
    found = f"{registered} of {total} photos, mean reprojection error {error:.2f} pixels"
    if not lacks:
        return Verdict("good", found)
    return Verdict("poor" if poor else "usable", f"{found}: {', '.join(lacks)}; {advice}")

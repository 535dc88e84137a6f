"""Solves the poses of photos or of a video, in stages that are resumed after an interruption.

Two solutions of the same photos agree, but not bit for bit: the seeds are fixed, while sums of bundle adjustment follow the threads.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from unrender.captures.errors import CaptureError
from unrender.captures.structure_from_motion.assessment import (
    PhotoReport,
    Verdict,
    count_features,
    has_uncertain_focal,
    judge,
    mean_error,
    report_photos,
)
from unrender.captures.structure_from_motion.background import Background, find_background, read_matches, write_without
from unrender.captures.structure_from_motion.child import Stages, number_in, rows_in
from unrender.captures.structure_from_motion.frames import Progress, extract_frames
from unrender.captures.structure_from_motion.gathering import (
    Given,
    Photo,
    camera_groups,
    find_photos,
    fingerprint,
    frame_photos,
    lay_out,
    write_feature_masks,
)
from unrender.captures.structure_from_motion.placement import place
from unrender.captures.structure_from_motion.solution import Solution
from unrender.captures.structure_from_motion.writing import write_capture
from unrender.files.atomic import remove_partials, replacing, write_json

MISSING = 'poses are solved by pycolmap, which is not installed: pip install "unrender[sfm]"'

_MAX_SIDE = 1600
"""Longer side of the pictures in which features are detected."""

_FEW_PHOTOS = 40
_EXHAUSTIVE = 200
"""Up to so many photos every pair is matched."""

_NEIGHBORS = 10
_LOOPS = 40
"""Frames, evenly spread over a video, of which every pair is matched, so that a camera that comes back is recognized."""

_VIEWS_PER_LENS = 20
"""Photos of one lens from which a second coefficient of distortion is determined."""


@dataclass(frozen=True)
class Solved:
    """What ``poses.json`` says about a solved capture."""

    folder: Path
    fingerprint: str
    verdict: Verdict
    registered: int
    total: int
    mean_error: float
    focal: float
    """Focal length of the first lens in pixels."""
    turntable: bool
    """Whether a background that stands still was left out."""
    notes: tuple[str, ...]
    photos: tuple[PhotoReport, ...]

    @property
    def missing(self) -> tuple[PhotoReport, ...]:
        """The photos without a pose."""
        return tuple(photo for photo in self.photos if not photo.registered)

    def as_json(self) -> dict[str, Any]:
        """Return the content of ``poses.json``."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "folder"}

    @classmethod
    def read(cls, folder: Path) -> Solved | None:
        """Read the ``poses.json`` of a solved capture; None if there is none that is complete."""
        try:
            content = json.loads((folder / "poses.json").read_text(encoding="utf-8"))
            verdict, notes, photos = (content.pop(name) for name in ("verdict", "notes", "photos"))
            reports = tuple(PhotoReport(**photo) for photo in photos)
            return cls(folder=folder, verdict=Verdict(**verdict), notes=tuple(notes), photos=reports, **content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def silent(title: str, done: int, total: int | None) -> None:
    """Show no progress."""


def solve_poses(
    source: Path,
    folder: Path,
    *,
    frames: int | None = None,
    focal: float | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> tuple[Solved, bool]:
    """Solve the poses of photos or of a video, and write a capture.

    A capture of the same files that is complete is reused; one that was interrupted goes on with its next stage.

    Args:
        source: a folder of photos, or a video.
        folder: for the capture.
        frames: number of frames of a video, by default two per second, at least 60 and at most 150.
        focal: focal length of all photos in pixels, by default that of EXIF; held where the photos do not determine it.
        overwrite: whether to replace a capture of other files.
        progress: shows how far it is.

    Returns:
        What was found, and whether it was there already.

    Raises:
        CaptureError: pycolmap is not installed, the input cannot be read, the folder holds something else, or no poses were found.
        OSError: the folder cannot be written.
    """
    if frames is not None and frames < 3:
        raise CaptureError(f"frames is {frames}; poses need at least 3 frames, better 60 to 150")
    if focal is not None and not 0 < focal < math.inf:
        raise CaptureError(f"focal is {focal}; give the focal length in pixels, usually 0.7 to 3 times the longer side of the photos")
    given = find_photos(source)
    mark = fingerprint(given, frames, focal)
    known = Solved.read(folder)
    if known is not None and known.fingerprint == mark:
        if (folder / "transforms.json").is_file():
            return known, True
        overwrite = True
    if importlib.util.find_spec("pycolmap") is None:
        raise CaptureError(MISSING)
    _check_folder(source, folder, known, overwrite=overwrite)
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(work / ".lock").acquire(timeout=0)
    except Timeout:
        raise CaptureError(f"another process solves poses in {folder}; wait for it, or choose another --out") from None
    with lock:
        if known is not None:
            _clear(folder)
        stages = Stages(work, mark, progress)
        if not stages.photos:
            _empty(work)
            stages.save()
        remove_partials(work)
        solved = _solve(given, stages, folder, mark, frames, focal)
        write_json(folder / "poses.json", solved.as_json())
    shutil.rmtree(work, ignore_errors=True)
    return solved, False


def _check_folder(source: Path, folder: Path, known: Solved | None, *, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise CaptureError(f"{folder} is a file; choose another --out")
    if folder.resolve() in (source.resolve(), source.resolve().parent):
        raise CaptureError(f"{folder} is where the photos are; choose another --out, which the capture is written to")
    if known is not None and not overwrite:
        raise CaptureError(f"{folder} holds the poses of other photos; pass --overwrite, or choose another --out")
    if known is None and folder.is_dir() and any(folder.iterdir()) and not (folder / "work" / "state.json").is_file():
        raise CaptureError(f"{folder} is not empty, and not a capture of solved poses; choose another --out")


def _clear(folder: Path) -> None:
    """Remove a former capture, its report first."""
    for name in ("poses.json", "transforms.json", "sparse_pc.ply"):
        (folder / name).unlink(missing_ok=True)
    for name in ("images", "masks", "sparse"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _empty(work: Path) -> None:
    """Remove the intermediate results of other photos."""
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink()


def _solve(given: Given, stages: Stages, folder: Path, mark: str, frames: int | None, focal: float | None) -> Solved:
    if not stages.photos:
        for name in ("images", "masks"):
            shutil.rmtree(folder / name, ignore_errors=True)
        if given.video is not None:
            stages.photos = frame_photos(extract_frames(given.video, folder / "images", frames, stages.progress), stages.progress)
            if len(stages.photos) < 3:
                raise CaptureError(f"the video {given.video} has {len(stages.photos)} frames; poses need at least 3, better 60 to 150")
        else:
            stages.photos, stages.broken = lay_out(given, folder, stages.progress)
        if focal is not None:
            stages.photos = [dataclasses.replace(photo, focal=focal) for photo in stages.photos]
        stages.save()
    attempt = _best_attempt(stages, folder, is_video=given.video is not None)
    solution = attempt.solution
    if solution is None or len(solution.names) < 3:
        _, matches = count_features(attempt.database)
        raise CaptureError(
            f"no poses were found: two of the {len(stages.photos)} photos share at most {max(matches.values(), default=0)} matches; take "
            "more photos, sharp and with two thirds of their view in common, and put something with texture below a plain object"
        )
    sparse = folder / "sparse" / "0"
    shutil.rmtree(sparse.parent, ignore_errors=True)
    shutil.copytree(attempt.models / "largest", sparse)
    placement = place(solution)
    write_capture(folder, solution, placement, stages.photos)
    features, matches = count_features(attempt.database)
    reports = report_photos(stages.photos, solution, features, matches, stages.broken)
    notes = [f"up follows from {placement.up_is_from}; the scale is arbitrary"]
    if attempt.without_background:
        notes.append(
            "the background stands still while the object turns, so its features were left out; for a fit the background must be masked: "
            "add masks of the object"
        )
    if attempt.focal_is_held:
        notes.append("the photos do not determine the focal length, so the given one was kept")
    if attempt.remark:
        notes.append(attempt.remark)
    return Solved(
        folder=folder,
        fingerprint=mark,
        verdict=judge(solution, reports, focal_is_given=all(photo.focal is not None for photo in stages.photos)),
        registered=len(solution.names),
        total=len(reports),
        mean_error=round(mean_error(solution), 4),
        focal=round(float(solution.lenses[solution.lens_of_view[0], 0]), 3),
        turntable=attempt.without_background,
        notes=(*notes, f"solved by pycolmap {importlib.metadata.version('pycolmap')}"),
        photos=tuple(reports),
    )


@dataclass(frozen=True)
class _Attempt:
    """A solution and where it came from."""

    solution: Solution | None
    database: Path
    models: Path
    without_background: bool = False
    remark: str = ""
    focal_is_held: bool = False

    @property
    def registered(self) -> int:
        return 0 if self.solution is None else len(self.solution.names)


def _best_attempt(stages: Stages, folder: Path, *, is_video: bool) -> _Attempt:
    """Solve with the usual settings; while fewer than half of the photos are registered, with others."""
    most = 8192 if len(stages.photos) <= _FEW_PHOTOS else 4096
    usual = {"max_features": most, "peak": 0.0067, "affine": False}
    first = _with_features(stages, folder, "first", usual, guided=False, is_video=is_video)
    if 2 * first.registered >= len(stages.photos):
        return first
    relaxed = _mapped(stages, folder, first.database, "relaxed", relaxed=True)
    relaxed = dataclasses.replace(
        relaxed,
        without_background=first.without_background,
        remark="few photos agreed, so weaker matches were accepted",
    )
    best = max(first, relaxed, key=lambda attempt: attempt.registered)
    if 2 * best.registered >= len(stages.photos):
        return best
    many = {"max_features": 2 * most, "peak": 0.002, "affine": True}
    last = _with_features(stages, folder, "many", many, guided=True, is_video=is_video)
    last = dataclasses.replace(last, remark="few photos agreed, so weaker features were used too")
    return max(best, last, key=lambda attempt: attempt.registered)


def _with_features(stages: Stages, folder: Path, tag: str, settings: dict[str, Any], *, guided: bool, is_video: bool) -> _Attempt:
    """Detect features, match and solve; with and without the background, if it looks like that of a turntable."""
    photos, work = stages.photos, stages.folder
    database, images = work / f"{tag}.db", folder / "images"
    masks = write_feature_masks(photos, folder, work / "masks")
    extract = {
        "database": str(database),
        "images": str(images),
        "masks": None if masks is None else str(masks),
        "groups": [(_lens_prior(group[0]), [photo.name for photo in group]) for group in camera_groups(photos)],
        "max_side": _MAX_SIDE,
        **settings,
    }
    stages.run(f"{tag}_features", "detecting features", "extract", extract, rows_in(database, "keypoints"), len(photos))
    names = [photo.name for photo in photos]
    pairs = image_pairs(len(photos), is_video=is_video)
    listed = None if any(letter.isspace() for name in names for letter in name) or pairs is None else work / "pairs.txt"
    if listed is not None and pairs is not None:
        listed.write_text("".join(f"{names[a]} {names[b]}\n" for a, b in pairs), encoding="utf-8")
    total = len(pairs) if listed is not None and pairs is not None else len(photos) * (len(photos) - 1) // 2
    match = {"database": str(database), "pairs": None if listed is None else str(listed), "guided": guided}
    stages.run(f"{tag}_matches", "matching photos", "match", match, rows_in(database, "matches"), total)
    background = find_background(read_matches(database))
    everything = _mapped(stages, folder, database, tag, relaxed=False)
    if background is None:
        return everything
    without = work / f"{tag}_object.db"
    if not without.exists():
        with replacing(without) as partial:
            write_without(database, background, partial)
    verified = rows_in(without, "two_view_geometries")
    stages.run(f"{tag}_object_matches", "checking matches", "verify", {"database": str(without)}, verified, len(background.kept))
    moving = dataclasses.replace(_mapped(stages, folder, without, f"{tag}_object", relaxed=False), without_background=True)
    return moving if _explains_more(background, moving.solution, everything.solution) else everything


def _lens_prior(photo: Photo) -> str:
    """Return the parameters of a lens that EXIF tells, as the solver takes them; empty if it tells none."""
    return "" if photo.focal is None else f"{photo.focal},{photo.width / 2},{photo.height / 2},0"


def _explains_more(background: Background, moving: Solution | None, everything: Solution | None) -> bool:
    """Tell whether the solution without the background explains the object better than the one with it.

    In a scene that stands still as a whole the two agree, and the one with the background has more to go by.
    """
    if moving is None or everything is None:
        return moving is not None
    seen, error = background.explained(moving)
    seen_by_all, error_of_all = background.explained(everything)
    enough = len(moving.names) >= 0.8 * len(everything.names)
    return enough and (seen > 1.1 * seen_by_all or (seen > 0.7 * seen_by_all and error < 0.8 * error_of_all))


def _mapped(stages: Stages, folder: Path, database: Path, tag: str, *, relaxed: bool) -> _Attempt:
    """Solve with refined focal lengths, and again with given ones if the photos do not determine them."""
    refined = _mapped_once(stages, folder, database, tag, relaxed=relaxed, hold_focal=False)
    if refined.solution is None or not has_uncertain_focal(refined.solution) or any(photo.focal is None for photo in stages.photos):
        return refined
    held = _mapped_once(stages, folder, database, f"{tag}_held", relaxed=relaxed, hold_focal=True)
    return held if 10 * held.registered >= 9 * refined.registered else refined


def _mapped_once(stages: Stages, folder: Path, database: Path, tag: str, *, relaxed: bool, hold_focal: bool) -> _Attempt:
    models, counter = stages.folder / f"models_{tag}", stages.folder / f"progress_{tag}"
    job = {
        "database": str(database),
        "images": str(folder / "images"),
        "models": str(models),
        "progress": str(counter),
        "relaxed": relaxed,
        "hold_focal": hold_focal,
        "views_per_lens": _VIEWS_PER_LENS,
    }
    models.mkdir(exist_ok=True)
    stages.run(f"{tag}_poses", "solving poses", "reconstruct", job, number_in(counter), len(stages.photos))
    file = models / "solution.npz"
    return _Attempt(Solution.read(file) if file.exists() else None, database, models, focal_is_held=hold_focal)


def image_pairs(count: int, *, is_video: bool) -> list[tuple[int, int]] | None:
    """Return the pairs of photos to match; None for all of them.

    Frames of a video, and more than 200 photos in the order of their names, are matched with their neighbors, with frames at distances of
    powers of two, and every pair of 40 evenly spread ones.

    >>> image_pairs(100, is_video=False) is None, len(image_pairs(150, is_video=True)) < 150 * 149 // 4
    (True, True)
    """
    if count <= (_LOOPS if is_video else _EXHAUSTIVE):
        return None
    steps = [*range(1, _NEIGHBORS + 1), *(2**power for power in range(4, max(5, int(math.log2(count)) + 1)))]
    pairs = {(first, first + step) for step in steps for first in range(count - step)}
    spread = sorted({round(k * (count - 1) / (_LOOPS - 1)) for k in range(_LOOPS)})
    pairs |= {(a, b) for a in spread for b in spread if a < b}
    return sorted(pairs)


def describe(solved: Solved) -> Sequence[str]:
    """Return a few lines about a solution, for people."""
    lines = [f"{solved.verdict.grade}: {solved.verdict.sentence}", f"focal length {solved.focal:.1f} pixels"]
    lines += [f"no pose: {photo.name}, {photo.reason}" for photo in solved.missing[:8]]
    if len(solved.missing) > 8:
        lines.append(f"no pose: {len(solved.missing) - 8} more photos, see {solved.folder / 'poses.json'}")
    return [*lines, *(f"note: {note}" for note in solved.notes)]

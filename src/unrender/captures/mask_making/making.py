"""Making the masks of a whole capture: drafts from each photo, agreement through the visual hull, files and a report."""

from __future__ import annotations

import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from PIL import Image
from scipy.ndimage import binary_dilation, distance_transform_edt

from unrender.captures.errors import CaptureError
from unrender.captures.images import in_threads
from unrender.captures.mask_making.colors import ColorModels
from unrender.captures.mask_making.cuts import cut
from unrender.captures.mask_making.external import command_words, mask_by_command
from unrender.captures.mask_making.hulls import Expectation, Hull, agreement, carve, expectation
from unrender.captures.mask_making.methods import (
    CERTAIN,
    SMOOTHNESS,
    Method,
    PlainBackground,
    is_plain,
    plain_background,
    region,
    still_background,
)
from unrender.captures.mask_making.photos import PhotoSet, find_photos
from unrender.captures.mask_making.regions import boxed, sphere_in
from unrender.captures.mask_making.report import ViewMask, caption, mask_report, outlined
from unrender.captures.mask_making.shapes import main_parts, small_holes, soft_mask
from unrender.captures.mask_names import MASK_FOLDER, RECORD, FoundMasks, find_masks, mask_file_names
from unrender.captures.masks import decode_mask
from unrender.captures.photos import read_photo
from unrender.captures.reading import is_regular_file, read_json
from unrender.files.atomic import remove_partials, replacing, write_json, write_text
from unrender.words import MaskMethod

_Result = TypeVar("_Result")

Steps = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""Shows work in progress: takes what is done and the number of steps, and yields a function to call after each step."""

_HULL_ROUNDS = 2
_AGREED = 8.0
"""Evidence that all other views give a pixel together; it overrules the color of one photo."""

_AGREE = 0.5
"""The same for a mask that agrees with the others on the whole."""

_LEAN = 0.3
"""Evidence of lying within the hull at all."""

_CLEAR = -3.0
"""Evidence below which a hole shows the background and is not filled."""

_COLOR_SHARE = 0.7
"""Weight of the colors that all photos share beside the background of one photo."""

_DEEP = 0.06
"""Distance from the border at which a mask surely shows the object, as a share of the root of its area."""

_ALONE = 0.05
"""Parts of a mask smaller than this share of the largest are dropped; with a hull, only the smallest are."""

_WITH_HULL = 0.003
_DOUBTFUL = 0.8
"""Agreement with the hull below which a mask is doubtful, and how far below the median it must be."""

_BELOW_MEDIAN = 0.1
_ODD_SHARE = 4.0
"""Without poses a mask is doubtful if its share of the photo differs from the median by this factor."""

_MOST_PICTURES = 150
"""Views on the contact sheet, besides doubtful ones."""


@dataclass(frozen=True)
class MaskingResult:
    """Masks that were made."""

    folder: Path
    report: Path
    method: str
    """How they were made."""
    views: tuple[ViewMask, ...]
    made: int
    """How many masks were written; the others were there already."""
    verdict: str
    notes: tuple[str, ...]

    @property
    def doubtful(self) -> tuple[str, ...]:
        """The photos whose masks look wrong."""
        return tuple(view.name for view in self.views if view.doubt)


@contextmanager
def no_steps(title: str, count: int) -> Iterator[Callable[[], None]]:
    """Show nothing."""
    yield lambda: None


def make_masks(
    folder: Path,
    *,
    method: MaskMethod | None = None,
    command: str | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    box: tuple[float, float, float, float] | None = None,
    center: tuple[float, float, float] | None = None,
    radius: float | None = None,
    hull: bool = True,
    steps: Steps = no_steps,
) -> MaskingResult:
    """Make masks of the object in all photos of a capture, or of a folder of photos without poses.

    Args:
        folder: the capture, or the folder of photos.
        method: "background" (of one color), "static" (cameras stand still, the object turns) or "region" (within a box or sphere); by
        default the first of them that fits the photos.
        command: a program that makes the mask of one photo instead, with ``{image}`` and ``{mask}`` for its two files.
        out: where the masks go, by default ``masks`` in the folder, where readers find them.
        overwrite: make masks again that exist.
        box: left, top, right and bottom of the object in all photos, as shares of width and height.
        center: of a sphere that contains the object, in the frame of the poses.
        radius: of this sphere.
        hull: with poses, whether masks are made to agree with the visual hull of all.
        steps: shows progress.

    Raises:
        CaptureError: there are no photos, no method fits them, the capture has masks elsewhere, or the program fails.
    """
    _check_options(method, command, box, radius)
    photos = find_photos(folder)
    target = folder / MASK_FOLDER if out is None else out
    there = _existing(photos, target, elsewhere=out is None)
    job = _Job(photos, target, mask_file_names(photos.names), there if not overwrite else (None,) * len(photos), steps)
    how = f"command {command}" if command is not None else (method or "automatic")
    job.begin(how, overwrite)
    missing = job.missing
    notes: list[str] = []
    found: Method | None = None
    if missing and command is not None:
        masks = job.drafts_by_command(command_words(command))
    elif missing:
        with steps("looking at the photos", 1) as advance:
            found = _method(photos, method, box, center, radius, notes)
            advance()
        masks = job.drafts_by(found)
    else:
        notes.append(f"all {len(photos)} photos have masks already, and these were kept; --overwrite makes them again")
        masks = job.kept()
    if there.count(None) < len(there) and missing:
        notes.append(f"{len(photos) - len(missing)} masks were there already and were kept")
    masks, expected = _agreed(job, masks, found, hull, notes)
    views = _judged(photos, masks, expected)
    job.write(masks, drafts=command is not None)
    verdict = _verdict(views, expected is not None)
    report = job.report(masks, views, verdict, notes)
    job.finish()
    return MaskingResult(target, report, how, tuple(views), len(missing), verdict, tuple(notes))


def _check_options(method: MaskMethod | None, command: str | None, box: tuple[float, ...] | None, radius: float | None) -> None:
    if command is not None and method is not None:
        raise CaptureError("method and command both say how masks are made; give one of them")
    if box is not None and not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise CaptureError(f"box is {box}; give left, top, right and bottom as shares of width and height, from 0 to 1")
    if box is not None and method not in (None, "region"):
        raise CaptureError(f"box belongs to the method region, and the method is {method}; leave one of them out")
    if radius is not None and not 0 < radius < math.inf:
        raise CaptureError(f"radius is {radius}; give a positive number in the units of the poses")


def _existing(photos: PhotoSet, target: Path, *, elsewhere: bool) -> tuple[Path | None, ...]:
    """Return the masks that exist in the target.

    Raises:
        CaptureError: ``elsewhere`` matters, and the capture has masks in another place or in the photos themselves.
    """
    named = None if photos.source is None or photos.source.masks is None else FoundMasks(photos.source.masks[0].parent, photos.source.masks)
    found = named or find_masks(photos.folder, photos.files, photos.names)
    inside = found is not None and all(file is None or target in file.parents for file in found.files)
    if found is not None and not inside and elsewhere:
        raise CaptureError(
            f"the capture has masks already, for example {next(file for file in found.files if file is not None)}; give --out DIR to write "
            "others elsewhere, or move these away"
        )
    if elsewhere and found is None:
        few = photos.spread(3)
        if all(read_photo(photos.files[view], apply_exif=photos.apply_exif[view])[1] for view in few):
            raise CaptureError(
                f"the photos have alpha channels ({photos.names[0]}), which readers take as masks; give --out DIR to make others elsewhere"
            )
    names = mask_file_names(photos.names)
    at_target = [target / name if is_regular_file(target / name) else None for name in names]
    if found is None or not inside:
        return tuple(at_target)
    return tuple(own or other for own, other in zip(at_target, found.files, strict=True))


def _method(
    photos: PhotoSet,
    method: MaskMethod | None,
    box: tuple[float, float, float, float] | None,
    center: tuple[float, float, float] | None,
    radius: float | None,
    notes: list[str],
) -> Method:
    """Choose a way to find the object, and learn what it needs from a few photos."""
    wanted = method or ("region" if box is not None or radius is not None else None)
    if wanted in (None, "background"):
        plain, share = plain_background(photos)
        if wanted == "background" or is_plain(share):
            shadows = "with soft shadows" if plain.shadows else "without shadows"
            notes.append(f"method background: one slowly varying color explains {share:.0%} of the photos' border, {shadows}")
            if not is_plain(share):
                notes.append("that is little: the background has more than one color, so check the outlines, or try another method")
            return plain
    if wanted in (None, "static"):
        still = still_background(photos)
        if still is not None:
            notes.append(f"method static: the cameras stand still, and {float(still.still.mean()):.0%} of the pixels never show the object")
            return still
        if wanted == "static":
            raise CaptureError(
                "the background does not stand still over the photos (five or more of one size are needed); use method region "
                "with poses or a box, or a command"
            )
    if box is not None:
        notes.append("method region: the object is looked for in the box")
        return region(photos, boxed(box))
    if photos.source is None:
        raise CaptureError(
            "the photos have neither a background of one color nor one that stands still, and no poses; give --box LEFT TOP RIGHT BOTTOM "
            "around the object, solve the poses first, or run another program with --command"
        )
    around, about = sphere_in(photos.source, center, radius)
    notes.append(f"method region: the object is looked for in the sphere {about}")
    return region(photos, around)


@dataclass(frozen=True)
class _Job:
    """The files of one making of masks. They grow in a folder of their own, which is renamed when all are there."""

    photos: PhotoSet
    target: Path
    names: tuple[str, ...]
    """Of the mask files, below the folder."""
    kept_files: tuple[Path | None, ...]
    """Masks that are not made again."""
    steps: Steps

    @property
    def unfinished(self) -> Path:
        return self.target.with_name(f"{self.target.name}.unfinished")

    @property
    def missing(self) -> list[int]:
        return [view for view, file in enumerate(self.kept_files) if file is None]

    def begin(self, how: str, overwrite: bool) -> None:
        """Prepare the folder; what another way of making masks left there is an error.

        Raises:
            CaptureError: as said.
        """
        record = self.unfinished / RECORD
        if is_regular_file(record) and read_json(record).get("made_by") != how:
            if not overwrite:
                raise CaptureError(f"{self.unfinished} holds masks that were begun in another way; give --overwrite to begin again")
            shutil.rmtree(self.unfinished)
        self.unfinished.mkdir(parents=True, exist_ok=True)
        remove_partials(self.unfinished)
        write_json(record, {"made_by": how, "meaning": "object"})

    def drafts_by(self, method: Method) -> list[Bool[ndarray, "_ _"]]:
        """Make the first masks from each photo alone."""

        def draft(view: int) -> Bool[ndarray, "_ _"]:
            if (file := self.kept_files[view]) is not None:
                return self._read(view, file)
            lab = self.photos.lab(view)
            return main_parts(cut(method.evidence(view, lab), lab, SMOOTHNESS), _ALONE)

        return self._each("first masks", draft)

    def drafts_by_command(self, words: Sequence[str]) -> list[Bool[ndarray, "_ _"]]:
        """Run another program on each photo; masks that an interrupted run left are not made again."""
        masks = []
        with self.steps("running the command", len(self.photos)) as advance:
            for view in range(len(self.photos)):
                file, draft = self.kept_files[view], self.unfinished / self.names[view]
                if file is None and not is_regular_file(draft):
                    draft.parent.mkdir(parents=True, exist_ok=True)
                    made = mask_by_command(words, self.photos, view, self.unfinished / ".command.png")
                    _write_mask(draft, made)
                masks.append(self._read(view, draft if file is None else file))
                advance()
        return masks

    def kept(self) -> list[Bool[ndarray, "_ _"]]:
        """Read the masks that are there."""
        return self._each("reading the masks", lambda view: self._read(view, self.kept_files[view] or Path()))

    def refined(
        self, masks: Sequence[Bool[ndarray, "_ _"]], method: Method | None, colors: ColorModels, expected: Sequence[Expectation] | None
    ) -> list[Bool[ndarray, "_ _"]]:
        """Make each mask again from its photo, the colors of all photos, and what the other masks say."""

        wrong = [False] * len(masks) if expected is None else _are_wrong(masks, expected)

        def refine(view: int) -> Bool[ndarray, "_ _"]:
            mask, others = masks[view], None if expected is None else expected[view]
            if self.kept_files[view] is not None:
                return mask
            if method is None:
                return mask if others is None else _repaired(mask, others, wrong[view])
            lab = self.photos.lab(view)
            own = evidence = method.evidence(view, lab)
            unsure = np.zeros(own.shape, bool)
            if isinstance(method, PlainBackground) and method.shadows:
                unsure = method.unsure(lab)
                evidence = evidence + np.where(unsure, 0.0, np.clip(_COLOR_SHARE * colors.evidence(lab), -3.0, 3.0))
            if others is not None:
                evidence = _with_others(evidence, others, wrong[view], unsure)
            label = cut(evidence, lab, SMOOTHNESS)
            if others is None:
                return main_parts(label, _ALONE)
            return main_parts(label | (small_holes(label) & others.core & (own > _CLEAR)), _WITH_HULL)

        return self._each("masks that agree" if expected is not None else "second masks", refine)

    def write(self, masks: Sequence[Bool[ndarray, "_ _"]], *, drafts: bool) -> None:
        """Write the masks at the size of their photos.

        Drafts of another program are changed only where the masks differ from them.
        """

        def write(view: int) -> None:
            if self.kept_files[view] is not None:
                return
            file = self.unfinished / self.names[view]
            file.parent.mkdir(parents=True, exist_ok=True)
            mask = masks[view]
            if drafts:
                draft = decode_mask(file).values
                changed = mask != self._small(draft, self.photos.working_size(view))
                if not changed.any():
                    return
                size = (draft.shape[1], draft.shape[0])
                where = np.asarray(Image.fromarray(changed).resize(size, Image.Resampling.NEAREST))
                _write_mask(file, np.where(where, soft_mask(mask, self._photo(view)), draft))
                return
            _write_mask(file, soft_mask(mask, self._photo(view)))

        self._each("writing the masks", write)

    def report(self, masks: Sequence[Bool[ndarray, "_ _"]], views: Sequence[ViewMask], verdict: str, notes: Sequence[str]) -> Path:
        """Write the contact sheet."""
        shown = set(self.photos.spread(_MOST_PICTURES)) | {view for view, about in enumerate(views) if about.doubt}

        def picture(view: int) -> UInt8[ndarray, "_ _ 3"] | None:
            return outlined(self.photos.rgb(view), masks[view]) if view in shown else None

        pictures = self._each("writing the report", picture)
        rows = sorted(zip(views, pictures, strict=True), key=lambda row: not row[0].doubt)
        doubts = [caption(view) for view in views if view.doubt]
        title = f"Masks of {self.photos.folder.resolve().name}"
        write_text(self.unfinished / "report.html", mask_report(title, verdict, [*notes, *doubts], rows))
        return self.target / "report.html"

    def finish(self) -> None:
        """Move everything into place: all at once into a new folder, else file by file."""
        if not self.target.exists():
            self.unfinished.rename(self.target)
            return
        for name in (*(name for view, name in enumerate(self.names) if self.kept_files[view] is None), "report.html", RECORD):
            if name == RECORD and any(self.kept_files):
                continue  # masks of others are there too, whose meaning is not ours to say
            (self.target / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.unfinished / name, self.target / name)
        shutil.rmtree(self.unfinished)

    def _photo(self, view: int) -> UInt8[ndarray, "_ _ 3"]:
        return self.photos.rgb(view, self.photos.sizes[view])

    def _read(self, view: int, file: Path) -> Bool[ndarray, "_ _"]:
        decoded = decode_mask(file, apply_exif=self.photos.apply_exif[view])
        rows, columns = decoded.values.shape
        if (columns, rows) != self.photos.sizes[view]:
            width, height = self.photos.sizes[view]
            raise CaptureError(
                f"the mask {file} is {columns}x{rows} but {self.photos.names[view]} is {width}x{height}; resize the mask to it"
            )
        return self._small(decoded.as_bytes(1 if decoded.peak == 1 else decoded.full), self.photos.working_size(view))

    def _small(self, mask: UInt8[ndarray, "rows columns"], size: tuple[int, int]) -> Bool[ndarray, "_ _"]:
        return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.BOX)) >= 128

    def _each(self, title: str, work: Callable[[int], _Result]) -> list[_Result]:
        lock = threading.Lock()
        with self.steps(title, len(self.photos)) as advance:

            def counted(view: int) -> _Result:
                result = work(view)
                with lock:
                    advance()
                return result

            return in_threads(counted, range(len(self.photos)))


def _write_mask(file: Path, mask: UInt8[ndarray, "height width"]) -> None:
    with replacing(file) as partial:
        Image.fromarray(mask).save(partial, "PNG")


def _with_others(
    evidence: Float[ndarray, "rows columns"], others: Expectation, wrong: bool, unsure: Bool[ndarray, "rows columns"]
) -> Float[ndarray, "rows columns"]:
    """Add what the hull of the other masks says: nothing far outside of it, the object where nearly all agree.

    The hull fills gaps that few views show, so a mask that agrees on the whole keeps its own opinion about them. What may be a shadow is
    none of the hull's business: a shadow turns with the object, and all views agree on it.
    """
    margin = max(2.0, 1.5 * others.blur)
    core = _shrunk(others.core, margin)
    evidence = evidence + np.where(others.outline, np.where(unsure, 0.0, _LEAN), -_LEAN)
    inside = np.maximum(evidence, 0) + _AGREED if wrong else evidence + np.where(unsure, 0.0, _AGREE)
    return np.where(_grown(others.outline, margin), np.where(core, inside, evidence), -CERTAIN)


def _repaired(mask: Bool[ndarray, "rows columns"], others: Expectation, wrong: bool) -> Bool[ndarray, "rows columns"]:
    """Drop what lies outside of the hull, and fill what nearly all other views show.

    Of a mask that agrees on the whole, only holes are filled.
    """
    margin = max(2.0, 1.5 * others.blur)
    fillable = _shrunk(others.core, margin) if wrong else small_holes(mask) & others.core
    return (mask & _grown(others.outline, margin)) | fillable


def _are_wrong(masks: Sequence[Bool[ndarray, "_ _"]], expected: Sequence[Expectation]) -> list[bool]:
    """Tell which masks contradict the others."""
    agreements = [agreement(mask, others) for mask, others in zip(masks, expected, strict=True)]
    limit = min(_DOUBTFUL, float(np.median(agreements)) - _BELOW_MEDIAN)
    return [agrees < limit for agrees in agreements]


def _grown(mask: Bool[ndarray, "rows columns"], pixels: float) -> Bool[ndarray, "rows columns"]:
    return np.asarray(distance_transform_edt(~mask)) <= pixels if mask.any() else mask


def _shrunk(mask: Bool[ndarray, "rows columns"], pixels: float) -> Bool[ndarray, "rows columns"]:
    return mask if mask.all() else np.asarray(distance_transform_edt(mask)) > pixels


def _agreed(
    job: _Job, masks: list[Bool[ndarray, "_ _"]], method: Method | None, use_hull: bool, notes: list[str]
) -> tuple[list[Bool[ndarray, "_ _"]], list[Expectation] | None]:
    """Make the masks agree with each other, and return what the others say about each of them; None without poses."""
    source = job.photos.source
    hull: Hull | None = None
    if source is None:
        notes.append("the photos have no poses, so the masks were not compared with each other")
    elif use_hull:
        hull = carve(source, masks)
        if hull is None:
            notes.append("no point lies inside the masks of nearly all views, so they were not compared with each other; check the poses")
    if not job.missing:
        return masks, None if hull is None else _expected(job, masks, hull)
    if hull is None or source is None:
        return (masks if not isinstance(method, PlainBackground) else job.refined(masks, method, _colors(job, masks), None)), None
    expected = _expected(job, masks, hull)
    for _ in range(_HULL_ROUNDS):
        trusted = [mask & _grown(others.outline, 1.0) for mask, others in zip(masks, expected, strict=True)]
        masks = job.refined(masks, method, _colors(job, trusted), expected)
        again = carve(source, masks, hull.frame)
        expected = expected if again is None else _expected(job, masks, again)
    return masks, expected


def _expected(job: _Job, masks: Sequence[Bool[ndarray, "_ _"]], hull: Hull) -> list[Expectation]:
    return in_threads(lambda view: expectation(hull, view, masks[view]), range(len(masks)))


def _colors(job: _Job, masks: Sequence[Bool[ndarray, "_ _"]]) -> ColorModels:
    """Learn the colors of the object and of the background from masks.

    Those of the object are taken far inside, where no shadow on the background is mistaken for it.
    """
    colors = ColorModels()
    for view in job.photos.spread(24):
        mask = masks[view]
        deep = mask if mask.all() else np.asarray(distance_transform_edt(mask)) > _DEEP * math.sqrt(float(mask.sum()))
        colors.add(job.photos.lab(view), deep, ~np.asarray(binary_dilation(mask, iterations=2), bool))
    return colors


def _judged(photos: PhotoSet, masks: Sequence[Bool[ndarray, "_ _"]], expected: Sequence[Expectation] | None) -> list[ViewMask]:
    """Measure each mask, and say which look wrong."""
    shares = [float(mask.mean()) for mask in masks]
    agreements = (
        [None] * len(masks) if expected is None else [agreement(mask, others) for mask, others in zip(masks, expected, strict=True)]
    )
    usual = float(np.median(shares))
    typical = float(np.median([value for value in agreements if value is not None])) if expected is not None else 1.0
    views = []
    for name, share, agrees in zip(photos.names, shares, agreements, strict=True):
        doubt = ""
        if share == 0.0:
            doubt = "nothing was found"
        elif share > 0.97:
            doubt = "nearly the whole photo is inside"
        elif agrees is not None and agrees < min(_DOUBTFUL, typical - _BELOW_MEDIAN):
            doubt = "it contradicts the other masks"
        elif agrees is None and not usual / _ODD_SHARE <= share <= usual * _ODD_SHARE:
            doubt = f"its size is unusual (the median is {100 * usual:.0f} %)"
        views.append(ViewMask(name, share, agrees, doubt))
    return views


def _verdict(views: Sequence[ViewMask], compared: bool) -> str:
    """Say in words how good the masks are."""
    doubtful = [view.name for view in views if view.doubt]
    if compared:
        mean = float(np.mean([view.agreement for view in views if view.agreement is not None]))
        how = "agree well" if mean >= 0.85 else "agree roughly" if mean >= 0.7 else "contradict each other"
        about = f"the {len(views)} masks {how} ({mean:.0%} of each with the hull of the others)"
    else:
        about = f"{len(views)} masks, {float(np.mean([view.share for view in views])):.0%} of the photos on average"
    if not doubtful:
        return f"{about}; none looks wrong"
    named = ", ".join(doubtful[:5]) + (", ..." if len(doubtful) > 5 else "")
    return f"{about}; {len(doubtful)} look wrong: {named}"

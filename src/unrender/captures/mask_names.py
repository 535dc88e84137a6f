"""Where the masks of photos are kept if no file of the capture names them: in a folder of their own, or beside the photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from unrender.captures.errors import CaptureError
from unrender.captures.photo_files import MASK_FOLDERS
from unrender.captures.photos import IMAGE_SUFFIXES
from unrender.captures.reading import FileFinder, is_folder, is_regular_file
from unrender.captures.source import Source

MASK_FOLDER = "masks"
"""The folder of a capture into which masks are written."""

RECORD = "masks.json"
"""A file beside masks that were made from the photos; it says that they outline an object."""

_MARKS = ("_mask", ".mask", "-mask")
"""What is added to the name of a photo for a mask beside it."""

_MOST_NAMED = 3


def mask_file_names(photos: Sequence[str]) -> tuple[str, ...]:
    """Return the names of mask files below their folder for photos, given by their paths below the capture's folder.

    A folder that all photos share is left out. A name keeps its suffix where two photos differ by it alone.

    >>> mask_file_names(["images/a.jpg", "images/b.jpg"]), mask_file_names(["left/a.jpg", "right/a.jpg", "right/a.png"])
    (('a.png', 'b.png'), ('left/a.jpg.png', 'right/a.jpg.png', 'right/a.png.png'))
    """
    parts = [PurePosixPath(name.lstrip("/").replace("../", "").replace(":", "")).parts for name in photos]
    while all(len(part) > 1 and part[0] == parts[0][0] for part in parts):
        parts = [part[1:] for part in parts]
    paths = [PurePosixPath(*part) for part in parts]
    plain = [path.with_suffix(".png").as_posix() for path in paths]
    return tuple(plain) if len(set(plain)) == len(plain) else tuple(f"{path.as_posix()}.png" for path in paths)


def is_mask_beside(file: Path) -> bool:
    """Tell whether a picture is the mask of another one in its folder: ``NAME_mask.png`` or ``NAME.mask.png`` of ``NAME.jpg``."""
    return any(
        file.stem.endswith(mark) and any(is_regular_file(file.with_name(file.stem[: -len(mark)] + suffix)) for suffix in IMAGE_SUFFIXES)
        for mark in _MARKS
    )


@dataclass(frozen=True)
class FoundMasks:
    """Masks that are there for some or all photos."""

    folder: Path
    files: tuple[Path | None, ...]
    """For each photo its mask, if there is one."""

    @property
    def count(self) -> int:
        """How many photos have a mask."""
        return sum(file is not None for file in self.files)

    @property
    def were_made(self) -> bool:
        """Whether they were made from the photos, and so outline an object."""
        return is_regular_file(self.folder / RECORD)


def find_masks(folder: Path, images: Sequence[Path], names: Sequence[str]) -> FoundMasks | None:
    """Find the masks of photos by their names; None if there are none.

    Looked for are ``masks/NAME.png``, ``masks/NAME.jpg.png``, ``masks/NAME_mask.png`` and ``masks/NAME.mask.png``, with any image suffix,
    in the capture's folder, beside the folder of the photos and in it, and the latter two beside the photos themselves. ``mask``,
    ``object_mask`` and ``object_masks`` are other names of the folder, and a folder ``train`` of photos may have masks in ``train_mask``.
    Of several ways, the one that finds most is taken.
    """
    finder = FileFinder(folder)
    below = [PurePosixPath(name) for name in mask_file_names(names)]
    best: FoundMasks | None = None
    for home in dict.fromkeys((folder, *(image.parent.parent for image in images), *(image.parent for image in images))):
        for place in (home / name for name in MASK_FOLDERS if is_folder(home / name)):
            for where in (lambda view, place=place: place / below[view].parent, lambda _, place=place: place):
                best = _better(best, place, [_mask_of(finder, where(view), image, ("", *_MARKS)) for view, image in enumerate(images)])
    if best is None or best.count < len(images):
        beside = [image.parent.with_name(f"{image.parent.name}_mask") for image in images]
        best = _better(best, folder, [_mask_of(finder, place, image, ("",)) for place, image in zip(beside, images, strict=True)])
        best = _better(best, folder, [_mask_of(finder, image.parent, image, _MARKS) for image in images])
    return best


def _mask_of(finder: FileFinder, place: Path, image: Path, marks: Sequence[str]) -> Path | None:
    names = [f"{base}{mark}{suffix}" for mark in marks for base in (image.stem, image.name) for suffix in IMAGE_SUFFIXES]
    found = finder.first(place, names)
    return None if found is None or found == image else found


def _better(best: FoundMasks | None, place: Path, files: Sequence[Path | None]) -> FoundMasks | None:
    """Return the better of two ways to find masks. A file that would be the mask of two photos is of neither."""
    found = FoundMasks(place, tuple(file if file is not None and files.count(file) == 1 else None for file in files))
    if found.count == 0 or (best is not None and (best.count, best.were_made) >= (found.count, found.were_made)):
        return best
    return found


def with_masks_of_names(source: Source, folder: Path, written: Callable[[str], None]) -> Source:
    """Give a capture whose files name no masks those that are there, and leave out the views without one.

    Args:
        source: the capture.
        folder: of the capture.
        written: called with each note.

    Raises:
        CaptureError: at least half of the photos have a mask but no view that has one is fitted.
    """
    if source.masks is not None:
        return source
    found = find_masks(folder, source.images, source.names)
    if found is None:
        return source
    place = found.folder.relative_to(folder).as_posix() if found.folder.is_relative_to(folder) else str(found.folder)
    missing = [view for view, file in enumerate(found.files) if file is None]
    named = ", ".join(source.names[view] for view in missing[:_MOST_NAMED]) + (", ..." if len(missing) > _MOST_NAMED else "")
    if 2 * found.count < len(found.files):
        written(
            f"{found.count} of the {len(found.files)} photos have masks in {place}, fewer than half, so they are not used; "
            "`unrender mask` makes the missing ones"
        )
        return source
    if missing:
        source = source.keep([view for view, file in enumerate(found.files) if file is not None])
        if not source.split.train:
            raise CaptureError(
                f"no fitted view has a mask in {place} ({named} have none); make them with `unrender mask`, or give masks=none"
            )
        written(
            f"{len(missing)} of the {len(found.files)} photos have no mask in {place} and were left out ({named}); `unrender mask` makes "
            "the missing ones, masks=none does without any"
        )
    written(f"masks were found by their names in {place}")
    files = tuple(file for file in found.files if file is not None)
    return replace(source, masks=files, mask_meaning="object" if found.were_made else "by content")

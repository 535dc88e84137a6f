"""Finding photos and masks by the names that a file of the capture gives them.

A name may lack a suffix or have that of an earlier conversion, be decomposed Unicode, written by Windows, percent-encoded, or an absolute
path of another machine. See docs/captures.md.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from unrender.captures.capture import CaptureError
from unrender.captures.photos import IMAGE_SUFFIXES, image_files
from unrender.captures.reading import FileFinder, entries, is_folder

IMAGE_FOLDERS = ("image", "images", "rgb", "imgs")
MASK_FOLDERS = ("mask", "masks", "object_mask", "object_masks")

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".3gp", ".mts", ".m2ts", ".wmv")

_UNREAD = {
    **dict.fromkeys((".jxl",), "JPEG XL"),
    **dict.fromkeys((".hdr", ".pfm"), "a floating-point picture"),
    **dict.fromkeys((".raw", ".dds", ".psd", ".svg", ".pdf", ".eps", ".ico"), "a kind of image"),
}
"""Suffixes of photos in formats that are not read, and their names in messages."""

_MOST_PARTS = 32
"""Parts of a path, from its end, by which a file is looked for."""

_MOST_LISTED = 200_000
"""Files that are listed below a folder at most, to find one by the end of its path."""


def is_video(path: Path) -> bool:
    """Tell whether a file name is that of a video.

    >>> is_video(Path("a.MOV")), is_video(Path("a.png"))
    (True, False)
    """
    return path.suffix.lower() in VIDEO_SUFFIXES


def unread_format(name: str) -> str | None:
    """Return what a file name's suffix stands for if it is a format of images that is not read.

    >>> unread_format("a.jxl"), unread_format("a.png")
    ('JPEG XL', None)
    """
    return _UNREAD.get(PurePosixPath(name).suffix.lower())


def unread_message(path: Path) -> str:
    """Return the sentence that refuses a photo of a format that is not read."""
    return f"{path} is {unread_format(path.name)}, which is not read; convert the photos to PNG or JPEG"


def natural_key(path: Path) -> tuple[list[tuple[bool, int, str]], str]:
    """Return a key that sorts names by the numbers in them, as people count.

    >>> sorted([Path("10.png"), Path("2.png"), Path("002b.png")], key=natural_key)
    [PosixPath('2.png'), PosixPath('002b.png'), PosixPath('10.png')]
    """
    parts = re.findall(r"\d+|\D+", path.stem.casefold())
    return [(False, int(part), "") if part.isdecimal() else (True, 0, part) for part in parts], path.name


class PhotoFinder:
    """Finds the image files that a file of the capture names, relative to its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.moved: list[str] = []
        """Names that were found by the end of their path only."""
        self._finder = FileFinder(folder)
        self._folded_names: dict[Path, dict[str, list[str]]] = {}
        self._below: dict[str, list[tuple[str, ...]]] | None = None

    def path(self, written: str) -> Path:
        """Return the path that a name means, whether or not there is a file."""
        return self._finder.path(written)

    def find(self, written: str, *, prefer: Sequence[str] = IMAGE_FOLDERS) -> Path | None:
        """Return the file that a name means, or None.

        A path that leads to no folder here is found by its longest end that is below the capture's folder: the file must share a folder's
        name with it, or lie in the capture's folder itself or in one of ``prefer``. If several files end alike, the one in a folder of
        ``prefer`` is taken, and none if that does not decide.
        """
        spellings = [written.removeprefix("file://")]
        if "%" in written:
            spellings.append(unquote(spellings[0]))
        for spelling in spellings:
            path = self._finder.path(spelling)
            found = self._in_folder(path)
            if found is not None:
                return found
        for spelling in spellings:
            path = self._finder.path(spelling)
            if not is_folder(path.parent) and (found := self._by_end(spelling, prefer)) is not None:
                self.moved.append(written)
                return found
        return None

    def unread(self, written: str) -> Path | None:
        """Return the file that a name means if it is an image of a format that is not read."""
        path = self._finder.path(written)
        names = self._finder.names(path.parent)
        name = unicodedata.normalize("NFC", path.name)
        stem = PurePosixPath(name).stem if unread_format(name) or PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES else name
        for candidate in [name] + [stem + suffix for known in _UNREAD for suffix in (known, known.upper())]:
            if candidate in names and unread_format(candidate) is not None:
                return path.parent / names[candidate]
        return None

    def _in_folder(self, path: Path) -> Path | None:
        candidates = _candidates(path.name)
        found = self._finder.first(path.parent, candidates)
        if found is not None:
            return found
        if path.parent not in self._folded_names:
            by_folded = self._folded_names.setdefault(path.parent, {})
            for name in self._finder.names(path.parent).values():
                by_folded.setdefault(_folded(name), []).append(name)
        by_folded = self._folded_names[path.parent]
        alike = [name for folded in dict.fromkeys(map(_folded, candidates)) for name in by_folded.get(folded, ())]
        return path.parent / alike[0] if len(alike) == 1 else None

    def _by_end(self, written: str, prefer: Sequence[str]) -> Path | None:
        parts = [part for part in re.split(r"[\\/]+", written) if part not in ("", ".", "..") and not part.endswith(":")][-_MOST_PARTS:]
        for start in range(len(parts)):
            found = self._finder.first(self.folder.joinpath(*parts[start:-1]), _candidates(parts[-1]))
            if found is not None:
                return found
        below = self._listed()
        files = [file for name in dict.fromkeys(map(_folded, _candidates(parts[-1]))) for file in below.get(name, ())]
        wanted = [_folded(part) for part in parts[:-1]]

        def agreeing(file: tuple[str, ...]) -> int:
            pairs = zip(reversed(wanted), map(_folded, reversed(file[:-1])), strict=False)
            return next((count for count, (one, other) in enumerate(pairs) if one != other), min(len(wanted), len(file) - 1))

        files = [file for file in files if agreeing(file) or len(file) == 1 or file[-2].lower() in prefer]
        most = max(map(agreeing, files), default=0)
        best = [file for file in files if agreeing(file) == most]
        if len(best) > 1:
            best = [file for file in best if len(file) > 1 and file[-2].lower() in prefer]
        return self.folder.joinpath(*best[0]) if len(best) == 1 else None

    def _listed(self) -> dict[str, list[tuple[str, ...]]]:
        """List the images below the folder by their folded names, as parts of their relative paths."""
        if self._below is None:
            self._below = {}
            count = 0
            for place, folders, names in os.walk(self.folder):
                folders.sort()
                parents = Path(place).relative_to(self.folder).parts
                for name in names:
                    if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES:
                        self._below.setdefault(_folded(name), []).append((*parents, name))
                count += len(names)
                if count > _MOST_LISTED:
                    break
        return self._below


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _candidates(name: str) -> list[str]:
    """Return the file names that a written name may mean.

    It may lack a suffix, or have that of an earlier conversion.
    """
    path = PurePosixPath(name)
    has_suffix = path.suffix.lower() in IMAGE_SUFFIXES
    bases = [path.stem, path.name] if has_suffix or unread_format(name) else [path.name]
    suffixes = (*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES))
    return [path.name] * has_suffix + [base + suffix for base in bases for suffix in suffixes]


def smaller_folders(folder: Path) -> list[str]:
    """List the folders of smaller copies of the photos, ``images_2``, ``images_4`` and so on, the largest first."""
    names = [name for name in entries(folder) if re.fullmatch(r"images_\d{1,4}", name)] if is_folder(folder) else []
    return sorted(names, key=lambda name: int(name[7:]))


def check_format_of(folder: Path) -> None:
    """Refuse a folder without readable images if it holds photos of a format that is not read.

    Raises:
        CaptureError: naming the first of them.
    """
    for name in entries(folder) if is_folder(folder) else []:
        if unread_format(name) is not None and not name.startswith("."):
            raise CaptureError(unread_message(folder / name))


def matched_masks(folder: Path, images: Sequence[Path]) -> tuple[Path, ...] | None:
    """Find the mask of each image: by its name, by the number in it, or in order.

    None if there are no masks.

    Raises:
        CaptureError: some images have no mask, or the masks are of a format that is not read.
    """
    places = [folder / name for name in MASK_FOLDERS if is_folder(folder / name)]
    place, masks = next(((place, masks) for place in places if (masks := image_files(place))), (folder, []))
    if not masks:
        for place in places:
            check_format_of(place)
        return None
    for key in (lambda path: path.name, lambda path: path.stem, number_in):
        by_key = {key(mask): mask for mask in masks}
        found = [by_key.get(key(image)) for image in images]
        if len(by_key) == len(masks) and all(mask is not None for mask in found) and len(set(found)) == len(found):
            return tuple(mask for mask in found if mask is not None)
    if len(masks) == len(images):
        return tuple(sorted(masks, key=natural_key))
    have = {number_in(mask) for mask in masks}
    missing = next((image.name for image in images if number_in(image) not in have), images[0].name)
    raise CaptureError(
        f"{place} has {len(masks)} masks for {len(images)} images and none for {missing}; "
        "add the missing masks, or remove the folder to do without"
    )


def number_in(path: Path) -> int | None:
    """Return the last number in a file's name.

    >>> number_in(Path("img_012.png"))
    12
    """
    numbers = re.findall(r"\d{1,9}", path.stem)
    return int(numbers[-1]) if numbers else None

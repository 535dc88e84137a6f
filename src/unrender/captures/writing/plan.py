"""What a conversion writes, and the parts that all layouts share: photos, masks, names, and what a layout cannot say.

Photos and masks are copied as files. One is encoded again, as PNG, only if the layout cannot hold the file, or if it has an EXIF
orientation, which programs follow or ignore as they like.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.captures.decoding import exif_orientation, is_gray
from unrender.captures.errors import CaptureError
from unrender.captures.load import load_capture
from unrender.captures.masks import read_mask
from unrender.captures.photos import decoded_image, read_photo
from unrender.captures.source import Source, held_out
from unrender.files.atomic import replacing, write_copy
from unrender.printing import counted
from unrender.transforms import scale_of
from unrender.words import CameraAxes, HoldOut

COMMON_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"))
"""Suffixes of photos that most programs read."""

_EXACT, _MOST_ERROR = 1e-4, 0.25
"""Pixels by which a simpler lens may miss the camera without a note, and at all."""

_USUAL_SPLIT = 8
"""Programs without a split in their files hold out every 8th photo."""


@dataclass(frozen=True)
class NewFile:
    """A file of the new capture."""

    name: str
    """Its path below the folder, with forward slashes."""
    write: Callable[[Path], None]
    """Writes the whole file at a path."""


@dataclass(frozen=True)
class Plan:
    """Everything that a conversion writes."""

    pictures: tuple[NewFile, ...]
    cameras: tuple[NewFile, ...]
    """Written last, so that a capture whose photos are not all there is not recognized."""
    notes: tuple[str, ...]
    """What the layout cannot say, or says otherwise."""


@dataclass(frozen=True)
class Given:
    """The capture to write."""

    folder: Path
    source: Source
    test_every: int | HoldOut
    camera_axes: CameraAxes | None

    @cached_property
    def capture(self) -> Capture:
        """The decoded capture, for layouts that depend on what masks mean or where the object is."""
        return load_capture(self.folder, test_every=self.test_every, camera_axes=self.camera_axes)

    @property
    def count(self) -> int:
        """The number of views."""
        return len(self.source.names)

    @cached_property
    def paths(self) -> list[PurePosixPath]:
        """The path of each photo below the deepest folder that holds all of them."""
        files = [Path(os.path.abspath(image)) for image in self.source.images]
        common = os.path.commonpath([file.parent for file in files])
        return [PurePosixPath(file.relative_to(common).as_posix()) for file in files]

    def must_be_encoded(self, view: int, suffixes: frozenset[str]) -> bool:
        """Tell whether a photo cannot be copied as it is."""
        image = self.source.images[view]
        return image.suffix.lower() not in suffixes or exif_orientation(image) != 1

    def names(self, suffixes: frozenset[str], views: Sequence[int], *, flat: bool) -> list[str]:
        """Return a name for each photo: that of its file, with ``.png`` if it is encoded again.

        Names differ by more than capitals.

        Args:
            suffixes: those that are kept.
            views: the photos.
            flat: whether to name files in folders without them, if that is unique.
        """
        bases = [self.paths[view].name for view in views]
        short = flat and len({base.casefold() for base in bases}) == len(bases)
        taken: set[str] = set()
        names: list[str] = []
        for view, base in zip(views, bases, strict=True):
            path = PurePosixPath(base) if short else PurePosixPath("_".join(self.paths[view].parts)) if flat else self.paths[view]
            encoded = self.must_be_encoded(view, suffixes)
            name = path.with_suffix(".png") if encoded else path
            number = 1
            while str(name).casefold() in taken:
                name = path.with_name(f"{path.stem}_{path.suffix[1:]}{'' if number == 1 else number}{name.suffix}")
                number += 1
            taken.add(str(name).casefold())
            names.append(str(name))
        return names

    def photo(self, view: int, name: str, suffixes: frozenset[str]) -> NewFile:
        """Return a photo of the new capture: a copy, or a PNG file."""
        image = self.source.images[view]
        if not self.must_be_encoded(view, suffixes):
            return NewFile(name, copying(image))
        upright = self.source.apply_exif[view]
        return NewFile(name, encoding(lambda: read_photo(image, apply_exif=upright)))

    def encoding_notes(self, suffixes: frozenset[str]) -> list[str]:
        """Return a note about photos that are encoded again."""
        again = [self.source.images[view].name for view in range(self.count) if self.must_be_encoded(view, suffixes)]
        if not again:
            return []
        return [f"{counted(len(again), 'photo')} became PNG files, which this layout needs or their EXIF orientation ({again[0]})"]

    def copied_masks(self, names: Sequence[str]) -> list[NewFile]:
        """Return the mask files of the capture under new names, as gray pictures; nothing if there are none."""
        masks = self.source.masks or ()
        return [self._copied_mask(view, mask, name) for view, (mask, name) in enumerate(zip(masks, names, strict=False))]

    def _copied_mask(self, view: int, mask: Path, name: str) -> NewFile:
        if mask.suffix.lower() == ".png" and exif_orientation(mask) == 1 and is_gray(mask):  # programs take masks of one channel
            return NewFile(name, copying(mask))
        return NewFile(name, encoding(lambda: (read_mask(self.source, view, mask), False)))

    def outlines(self, names: Sequence[str]) -> list[NewFile]:
        """Return masks that outline the object, bright inside, under new names; nothing if the capture has none."""
        if not self.capture.has_masks:
            return []
        return [self._outline(view, name) for view, name in enumerate(names)]

    def _outline(self, view: int, name: str) -> NewFile:
        """Copy the mask file if it holds just this mask, else encode it."""
        outline = self.capture.mask(view).numpy()
        mask = None if self.source.masks is None else self.source.masks[view]
        if mask is not None and mask.suffix.lower() == ".png" and exif_orientation(mask) == 1:
            image = decoded_image(mask)
            if image.mode == "L" and np.array_equal(np.asarray(image), outline):
                return NewFile(name, copying(mask))
        return NewFile(name, encoding(lambda: (outline, False)))

    def ignored_notes(self, layout: str) -> list[str]:
        """Return a note about pixels that are left out, for layouts that only hold outlines."""
        if self.capture.ignored is None:
            return []
        return [f"which pixels count is not written, because masks of {layout} outline the object"]

    def split_notes(self, file: str, names: Sequence[str]) -> list[str]:
        """Return a note for files without a split, unless the split is the one that programs choose for them."""
        usual = held_out(names, _USUAL_SPLIT) if len(names) > 1 else self.source.split
        if set(usual.test) == set(self.source.split.test):
            return []
        held = counted(len(self.source.split.test), "held-out view")
        return [f"{file} has no place for the split: the {held} are listed like the others"]

    def lost_notes(self, *, up: bool = False, region: bool = False, points: bool = False, moving: bool = False) -> list[str]:
        """Return notes about facts that files cannot hold; the arguments say which they can."""
        source, notes = self.source, list[str]()
        if source.up is not None and not up:
            direction = " ".join(f"{value:.6g}" for value in source.up)
            notes.append(f"the upward direction of the capture is not written; give --up {direction} to what reads it")
        if source.source_from_world is not None and not region:
            notes.append(f"the unit sphere of the capture is not written; {region_options(source.source_from_world)} give it back")
        if source.focus is not None and not region and not self.capture.has_masks:
            notes.append(f"the box of the object is not written; {region_options(self.capture.source_from_world)} give it back")
        if source.points is not None and not points:
            notes.append(f"the {counted(len(source.points), 'point')} of the capture are not written")
        if any(source.ignored) and not moving:
            notes.append("the masks of moving things are not written")
        return notes

    def color_key_notes(self) -> list[str]:
        """Return a note about colors that count as transparent, for layouts whose photos are copied."""
        return ["that a color counts as transparent is not written"] if self.source.transparent_colors else []

    def check_pinholes(self, layout: str) -> None:
        """Refuse lenses with distortion.

        Raises:
            CaptureError: a view has one.
        """
        source = self.source
        bent = source.fisheye | source.distortion.any(1)
        if bool(bent.any()):
            name = source.names[int(bent.int().argmax())]
            raise CaptureError(
                f"{layout} holds pinhole cameras, and {name} has a lens with distortion; undistort the photos first, or write nerfstudio "
                "or colmap"
            )

    def centered_focal(self, layout: str, notes: list[str]) -> float:
        """Return the one focal length of all photos, for layouts with one size and a centered principal point.

        Raises:
            CaptureError: a camera is another one by more than a quarter of a pixel.
        """
        self.check_pinholes(layout)
        sizes, (focal, center) = self.source.sizes.double(), self.source.intrinsics.split(2, 1)
        if bool((sizes != sizes[:1]).any()):
            view = int((sizes != sizes[:1]).any(1).int().argmax())
            raise CaptureError(f"{layout} holds photos of one size, and {self.source.names[view]} differs; write nerfstudio or colmap")
        mean = float(focal[0, 0]) if bool((focal == focal[0, 0]).all()) else float(focal.mean())
        ends = torch.stack((torch.zeros_like(sizes), sizes))
        shift = (ends - center) * (mean / focal) + sizes / 2 - ends
        error = shift.abs().amax(0).norm(dim=1)
        worst = int(error.argmax())
        if float(error[worst]) > _MOST_ERROR:
            raise CaptureError(
                f"{layout} holds one focal length and a centered principal point for all photos, with which {self.source.names[worst]} "
                f"would be off by up to {float(error[worst]):.2g} pixels; write nerfstudio or colmap"
            )
        if float(error[worst]) > _EXACT:
            notes.append(
                f"all cameras got one focal length and a centered principal point, off by at most {float(error[worst]):.2g} pixels"
            )
        return mean


def copying(file: Path) -> Callable[[Path], None]:
    """Return a function that writes a copy of a file."""
    return partial(write_copy, original=file)


def encoding(pixels: Callable[[], tuple[UInt8[np.ndarray, "rows columns *channels"], bool]]) -> Callable[[Path], None]:
    """Return a function that writes pixels as PNG.

    Args:
        pixels: returns gray or RGBA, and whether any pixel is transparent; otherwise RGBA is written as RGB.
    """

    def write(path: Path) -> None:
        values, transparent = pixels()
        image = Image.fromarray(values if values.ndim == 2 or transparent else np.ascontiguousarray(values[..., :3]))
        with replacing(path) as unfinished:
            image.save(unfinished, "PNG")

    return write


def region_options(source_from_world: Tensor) -> str:
    """Return the options that give a region of interest."""
    center = " ".join(f"{value:.9g}" for value in source_from_world[:3, 3].tolist())
    return f"--center {center} --radius {scale_of(source_from_world):.9g}"


def gray_points(source: Source) -> UInt8[Tensor, "points 3"]:
    """Return the colors of the points, gray if they are unknown."""
    if source.point_colors is not None:
        return source.point_colors
    count = 0 if source.points is None else len(source.points)
    return torch.full((count, 3), 128, dtype=torch.uint8)

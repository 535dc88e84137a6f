"""Masks: how their files are decoded, and what they mean.

A mask either outlines the object (bright is inside) or says which pixels count (dark is left out). Formats disagree, and the same keys are
used for both, so the meaning is decided here by the rules of docs/captures.md. A note says how masks were understood, and the option
``masks`` overrides it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor

from unrender.captures.capture import CaptureError
from unrender.captures.decoding import is_opaque
from unrender.captures.images import ImageMemory, Images, averaged_gray, in_threads
from unrender.captures.photos import decoded_image, image_size, read_photos
from unrender.captures.silhouettes import outlining
from unrender.captures.source import Source
from unrender.numerics import evenly_spread
from unrender.words import MaskUse

Kind = Literal["alpha", "labels", "gray"]
"""Where the values of a mask come from: an alpha channel, labels (0 or 255 already), or brightness."""

_COLORED = 32
"""Difference between the channels of a pixel above which a mask file holds colors; compression leaves less in gray ones."""

_COLORED_SHARE = 5e-4
_BLACK = 24
"""Brightest channel of the background of colored labels."""

_SLACK = 1.05
"""Resampled masks of floating-point numbers exceed 1 a little."""

_MOSTLY = 0.8
"""Masks that are bright on a larger share of pixels leave pixels out: objects seldom cover so much of all photos."""

_DARK_BORDER = 0.75
"""Share of the border that is dark around an outlined object, on average."""

_LENS_SHARE = 0.4
"""Masks of a lens are bright on a larger share of the pixels."""

_SAME = 0.99
"""Overlap of the masks of two views from which they count as the same."""

_PLAIN = 0.9
"""Share of the photos' border that is white or black if an object stands before a plain background."""

_MOST_BORDERS = 8
"""Photos whose borders are looked at while the others are still decoded."""

_LOOKED_AT = 16
"""Views whose masks decide what all masks mean, if the photos exceed the memory and are decoded in the background."""

_LOOKED_SIDE = 800
"""Longer side, about, to which they are averaged for that."""

_NO_PIXEL = "no pixel has the color that the file declares transparent"

_NOTHING = 5e-4
"""Share of bright or dark pixels that counts as none."""


@dataclass(frozen=True)
class Pictures:
    """What is read from the image files of a capture."""

    photos: Images
    """RGBA; alpha is 255 everywhere unless it outlines the object."""
    has_masks: bool
    ignored: Images | None
    notes: tuple[str, ...]


def read_pictures(source: Source, *, downscale: int, masks: MaskUse | None, memory: ImageMemory) -> Pictures:
    """Read the photos and masks of a capture, and decide what the masks mean.

    Args:
        source: the files.
        downscale: as in :func:`unrender.captures.photos.read_photos`.
        masks: the meaning; None decides by format and content.
        memory: decides whether images are kept in memory or on disk.

    Raises:
        CaptureError: an image cannot be read or does not fit, or the masks are dark everywhere.
    """
    files = None if masks == "none" else source.masks
    if masks != "none" and 4 * int((source.sizes // downscale).prod(1).sum()) > memory.left and _may_be_masked(source):
        return _read_later(source, downscale=downscale, masks=masks, memory=memory)
    notes: list[str] = []
    photos, has_alpha = read_photos(
        source.images,
        source.sizes,
        downscale=downscale,
        use_alpha=masks != "none" and files is None,
        transparent_colors=source.transparent_colors if masks != "none" and files is None else (),
        apply_exif=source.apply_exif,
        memory=memory,
    )
    meaning: MaskUse = "none"
    if files is not None:
        kinds, _ = _read_mask_files(source, files, photos, downscale, notes)
        meaning, _ = _understood(source, photos, kinds, masks, notes)
    elif has_alpha:
        meaning, _ = _understood(source, photos, {"alpha"}, masks, notes)
    elif source.transparent_colors and masks != "none":
        notes.append(_NO_PIXEL)
    dynamic = source.ignored if masks != "none" else ()
    ignored = None
    if meaning == "ignore" or any(dynamic):
        ignored = memory.empty(photos.sizes, (), torch.bool)
        for view in range(len(photos)):
            ignored[view].numpy()[:] = _left_out(source, view, photos[view][..., 3].numpy(), meaning, dynamic, downscale)
    if meaning != "object" and (files is not None or has_alpha):
        for photo in photos:
            photo[..., 3] = 255
    return _pictures(photos, meaning, ignored, masks, notes, any(dynamic))


def _pictures(photos: Images, meaning: MaskUse, ignored: Images | None, masks: MaskUse | None, notes: list[str], dynamic: bool) -> Pictures:
    if dynamic:
        notes.append("pixels that are bright in the dynamic masks are left out")
    if meaning == "none":
        if masks != "none":
            notes.append("there are no masks: the surroundings are fitted too")
        notes += _plain_borders(photos)
    return Pictures(photos, meaning == "object", ignored, tuple(notes))


def _left_out(
    source: Source,
    view: int,
    alpha: UInt8[ndarray, "rows columns"],
    meaning: MaskUse,
    dynamic: Sequence[Path | None],
    downscale: int,
) -> Bool[ndarray, "rows columns"]:
    """Tell which pixels of a view are ignored."""
    left_out = alpha < 128 if meaning == "ignore" else np.zeros(alpha.shape, dtype=bool)
    if any(dynamic) and (file := dynamic[view]) is not None:
        left_out = left_out | (read_mask(source, view, file, downscale) > 0)
    return left_out


def _may_be_masked(source: Source) -> bool:
    """Tell whether photos have mask files, or may have transparent pixels."""
    return source.masks is not None or bool(source.transparent_colors) or not all(in_threads(is_opaque, source.images))


def _read_later(source: Source, *, downscale: int, masks: MaskUse | None, memory: ImageMemory) -> Pictures:
    """Decode photos and masks in the background; what masks mean is decided by those of some views, spread evenly.

    So a fit of photos that exceed the memory begins within seconds.
    """
    files = source.masks
    for view, file in enumerate(files or ()):
        _check_size(source, view, file, image_size(file, apply_exif=source.apply_exif[view]))
    some = source.select(evenly_spread(len(source.images), _LOOKED_AT), source.split)
    coarse = downscale * max(1, min(int(some.sizes.amax()) // (downscale * _LOOKED_SIDE), int(some.sizes.amin()) // downscale))
    notes, kinds, units, transparent = list[str](), set[Kind](), dict[int, int | None](), True
    if some.masks is not None:
        shown = Images.empty(some.sizes // coarse, (4,), torch.uint8)
        kinds, units = _read_mask_files(some, some.masks, shown, coarse, notes)
    else:
        colors, upright = some.transparent_colors, some.apply_exif
        shown, transparent = read_photos(some.images, some.sizes, downscale=coarse, transparent_colors=colors, apply_exif=upright)
        kinds.add("alpha")
    meaning, inverted = _understood(some, shown, kinds, masks, notes) if transparent else ("none", False)
    notes += [] if transparent or not source.transparent_colors else [_NO_PIXEL]
    dynamic = source.ignored
    ignored = memory.empty(source.sizes // downscale, (), torch.bool) if meaning == "ignore" or any(dynamic) else None

    def finish(view: int, rgba: UInt8[ndarray, "rows columns 4"]) -> None:
        if files is not None:
            mask = _decoded(source, view, files[view])
            rgba[..., 3] = averaged_gray(mask.as_bytes(units.get(mask.full, mask.full)), downscale)
        if inverted:
            rgba[..., 3] = 255 - rgba[..., 3]
        if ignored is not None:
            ignored[view].numpy()[:] = _left_out(source, view, rgba[..., 3], meaning, dynamic, downscale)
            ignored.release(view)
        if meaning != "object":
            rgba[..., 3] = 255

    photos, _ = read_photos(
        source.images,
        source.sizes,
        downscale=downscale,
        use_alpha=files is None,
        transparent_colors=source.transparent_colors if files is None else (),
        apply_exif=source.apply_exif,
        memory=memory,
        finish=finish,
        first=outlining(source.split.train) if meaning == "object" else (),
    )
    waiting = None if ignored is None else replace(ignored, waits=photos.waits)  # another name: the one above is still being filled
    return _pictures(photos, meaning, waiting, masks, notes, any(dynamic))


def read_mask(source: Source, view: int, file: Path, downscale: int = 1) -> UInt8[ndarray, "rows columns"]:
    """Decode one mask of a view to 0 to 255 by its own values, and average blocks of its pixels.

    Raises:
        CaptureError: the file cannot be decoded, or its size is not that of the photo.
    """
    mask = _decoded(source, view, file)
    return averaged_gray(mask.as_bytes(_unit(mask.peak, mask.full)), downscale)


@dataclass(frozen=True)
class DecodedMask:
    """A mask as stored."""

    values: ndarray
    """[rows, columns]; numbers of any type, not negative."""
    kind: Kind

    @property
    def full(self) -> int:
        """The value that usually stands for 1 in this type of file."""
        if self.values.dtype.kind == "f":
            return 1
        return 255 if self.values.dtype == np.uint8 else 65535

    @property
    def peak(self) -> float:
        """The largest value; 255 for masks that are scaled already."""
        return float(self.values.max(initial=0)) if self.kind == "gray" else 255.0

    def as_bytes(self, unit: int | None) -> UInt8[ndarray, "rows columns"]:
        """Scale ``unit`` to 255; without a unit the values are labels, and every one but 0 becomes 255."""
        if self.kind != "gray" or (unit == 255 and self.values.dtype == np.uint8):
            return self.values
        if unit is None:
            return np.where(self.values > 0, 255, 0).astype(np.uint8)
        return np.rint(np.clip(self.values * np.float64(255 / unit), 0, 255)).astype(np.uint8)


def decode_mask(file: Path, *, apply_exif: bool = True, cut_out: bool = False) -> DecodedMask:
    """Decode a mask file; of a cut-out photo, every pixel that is not black is inside.

    An alpha channel wins if it is not the same everywhere. In a palette with colors, label 0 is the background (or black, if label 0 has
    another color and black occurs); in colors without a palette, black is. Everything else is its brightness.

    Raises:
        CaptureError: the file cannot be decoded.
    """
    image = decoded_image(file, apply_exif=apply_exif)
    if "A" in image.getbands() or "a" in image.getbands() or ("transparency" in image.info and image.mode in ("1", "L", "P", "RGB")):
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
        if alpha.min() != alpha.max():
            return DecodedMask(alpha, "alpha")
    if image.mode == "P" and (labels := _palette_labels(image)) is not None:
        return DecodedMask(labels, "labels")
    if image.mode == "F":
        return DecodedMask(np.maximum(np.nan_to_num(np.asarray(image), posinf=0.0), 0), "gray")
    if image.mode.startswith("I"):
        return DecodedMask(np.maximum(np.asarray(image).astype(np.int64), 0), "gray")
    if len(image.getbands()) >= 3 or image.mode in ("P", "PA"):
        color = np.asarray(image.convert("RGB"))
        brightest = color.max(-1)
        if cut_out or np.count_nonzero(brightest - color.min(-1) > _COLORED) > _COLORED_SHARE * brightest.size:
            return DecodedMask(np.where(brightest > _BLACK, 255, 0).astype(np.uint8), "labels")
    return DecodedMask(np.asarray(image.convert("L")), "gray")


def _palette_labels(image: Image.Image) -> UInt8[ndarray, "rows columns"] | None:
    """Return 255 where a label is not the background; None if the palette has no colors."""
    palette = np.array(image.getpalette("RGB") or [0, 0, 0], dtype=np.uint8).reshape(-1, 3)
    if int((palette.max(1) - palette.min(1)).max()) <= _COLORED:
        return None
    index = np.asarray(image)
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(palette)] = palette
    black = colors.max(1) <= _BLACK
    background = index == 0
    if not black[0] and bool(black[index].any()):
        background = black[index]
    return np.where(background, 0, 255).astype(np.uint8)


def _decoded(source: Source, view: int, file: Path) -> DecodedMask:
    mask = decode_mask(file, apply_exif=source.apply_exif[view], cut_out=source.masks_are_cut_outs)
    rows, columns = mask.values.shape
    _check_size(source, view, file, (columns, rows))
    return mask


def _check_size(source: Source, view: int, file: Path, size: tuple[int, int]) -> None:
    width, height = source.sizes[view].tolist()
    if size != (width, height):
        raise CaptureError(
            f"the mask {file} is {size[0]}x{size[1]} but its image {source.images[view].name} is {width}x{height}; "
            "resize the mask to its image"
        )


def _unit(peak: float | int, full: int) -> int | None:
    """Return the value that stands for 1 in masks whose largest value is ``peak``; None if they hold labels.

    >>> [_unit(peak, 255) for peak in (255, 200, 1, 5)], [_unit(peak, 65535) for peak in (65535, 255, 1, 300)], _unit(0.9, 1)
    ([255, 255, 1, None], [65535, 255, 1, None], 1)
    """
    if peak == 0:
        return full
    unit = next((unit for unit in (1, 255, 65535) if peak <= unit * _SLACK), int(peak))
    return None if 2 * peak < unit else unit


def _read_mask_files(
    source: Source, files: Sequence[Path], photos: Images, downscale: int, notes: list[str]
) -> tuple[set[Kind], Mapping[int, int | None]]:
    """Write the masks into the alpha of the photos.

    Where their values come from is returned, and the value that stands for 1, by the usual one of their type of file; None for labels.
    """
    units: dict[int, int | None] = {}

    def read(view: int) -> tuple[Kind, int, float]:
        mask = _decoded(source, view, files[view])
        photos[view].numpy()[..., 3] = averaged_gray(mask.as_bytes(mask.full), downscale)
        return mask.kind, mask.full, mask.peak

    found = in_threads(read, range(len(files)))
    for full in {full for kind, full, _ in found if kind == "gray"}:
        # One scale for all masks of a capture: the mask of a view without the object must stay dark.
        same = [view for view, (kind, own, _) in enumerate(found) if kind == "gray" and own == full]
        peak = max(found[view][2] for view in same)
        units[full] = unit = _unit(peak, full)
        if unit == full:
            continue

        def scale(view: int, unit: int | None = unit) -> None:
            mask = _decoded(source, view, files[view])
            photos[view].numpy()[..., 3] = averaged_gray(mask.as_bytes(unit), downscale)

        in_threads(scale, same)
        if unit is None:
            notes.append(
                f"the masks hold values up to {peak:g}, so they are taken as labels: 0 is the background, every other one the object"
            )
    return {kind for kind, _, _ in found}, units


@dataclass(frozen=True)
class _Shape:
    """What the bright part of one mask looks like."""

    share: float
    """Share of the pixels that are bright."""
    dark_border: float
    """Share of the border that is dark."""
    opposite: bool
    """Whether the bright part touches two opposite sides."""
    around: bool
    """Whether it touches all four sides."""
    small: Bool[Tensor, "rows columns"]

    @classmethod
    def of(cls, alpha: UInt8[Tensor, "height width"]) -> _Shape:
        bright = alpha >= 128
        sides = (bright[0], bright[-1], bright[:, 0], bright[:, -1])
        top, bottom, left, right = (bool(side.any()) for side in sides)
        step = max(1, min(bright.shape) // 64)
        return cls(
            share=float(bright.float().mean()),
            dark_border=1 - float(torch.cat(sides).float().mean()),
            opposite=(top and bottom) or (left and right),
            around=top and bottom and left and right,
            small=bright[::step, ::step],
        )

    def is_like(self, other: _Shape) -> bool:
        """Tell whether two masks are the same but for rounding."""
        if self.small.shape != other.small.shape:
            return False
        together = int((self.small | other.small).sum())
        return int((self.small & other.small).sum()) >= _SAME * together


def _understood(source: Source, photos: Images, kinds: set[Kind], masks: MaskUse | None, notes: list[str]) -> tuple[MaskUse, bool]:
    """Decide what the alpha of the photos means, with a note, and turn inverted masks around, which is returned too."""
    from_files = source.masks is not None
    name = "masks" if from_files else "alpha channels"
    shapes = in_threads(lambda view: _Shape.of(photos[view][..., 3]), range(len(photos)))
    share = _mean([shape.share for shape in shapes])
    bright, dark = ("bright", "dark") if from_files else ("opaque", "transparent")
    if share <= _NOTHING:
        raise CaptureError(
            f"the {name} are {dark} everywhere, in all {len(shapes)} views, so nothing is left to fit; check them, or give masks=none"
        )
    if share >= 1 - _NOTHING and min(shape.share for shape in shapes) >= 1 - 10 * _NOTHING:
        notes.append(f"the {name} are {bright} everywhere, so they say nothing and are not used")
        return "none", False
    if not from_files and all(bool((photo[..., 3] == photo[0, 0, 3]).all()) for photo in photos):
        notes.append("the alpha channels are the same at every pixel, so they say nothing and are not used")
        return "none", False
    says = source.mask_meaning if from_files else source.alpha_meaning
    meaning = masks if masks in ("object", "ignore") else says if says != "by content" else _by_content(source, shapes, share, kinds)
    if meaning == "ignore":
        notes.append(
            f"the {name} leave {1 - share:.1%} of the pixels out (the {dark} ones) and outline no object, so the surroundings are fitted; "
            "masks=object reads them as outlines"
        )
        return "ignore", False
    inverted = kinds == {"gray"} and _mean([shape.dark_border for shape in shapes]) < 0.1
    if inverted:
        for photo in photos:
            photo[..., 3] = 255 - photo[..., 3]
        notes.append(
            f"the masks are bright along the border of the photos, so they are inverted: the dark {1 - share:.1%} of the pixels are the "
            "object; masks=ignore leaves these out instead"
        )
    elif source.transparent_colors and not from_files:
        notes.append(f"pixels of the color that the file declares transparent are not the object ({1 - share:.1%}); masks=none keeps them")
    else:
        where = "where they are bright" if from_files else "where they are opaque"
        notes.append(f"the {name} outline the object {where} ({share:.1%} of the pixels); masks=ignore leaves the rest out instead")
    return "object", inverted


def _by_content(source: Source, shapes: Sequence[_Shape], share: float, kinds: set[Kind]) -> MaskUse:
    """Tell outlines of an object from masks of the pixels that count."""
    if share > _MOSTLY:
        return "ignore"
    opposite = _mean([float(shape.opposite) for shape in shapes]) > 0.5
    alike = len(shapes) >= 3 and all(shape.is_like(shapes[0]) for shape in shapes)
    if alike and (opposite or share > _LENS_SHARE):  # the circle of a lens, or a part of the camera
        return "ignore"
    if kinds != {"gray"}:
        return "object"
    around = _mean([float(shape.around) for shape in shapes]) > 0.5
    if around or (bool(source.fisheye.all()) and _mean([float(shape.dark_border < 1) for shape in shapes]) > 0.5):
        return "ignore"
    return "ignore" if _mean([shape.dark_border for shape in shapes]) < _DARK_BORDER else "object"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _plain_borders(photos: Images) -> list[str]:
    """Return a note if the photos have borders of plain white or black, as renderings without alpha do."""
    some = range(0, len(photos), -(-len(photos) // _MOST_BORDERS)) if photos.waits else range(len(photos))
    borders = [torch.cat((color[0], color[-1], color[:, 0], color[:, -1])) for color in (photos[view][..., :3] for view in some)]
    for name, plain in (("white", lambda border: (border >= 250).all(-1)), ("black", lambda border: (border <= 5).all(-1))):
        share = _mean([float(plain(border).float().mean()) for border in borders])
        if share > _PLAIN:
            return [
                f"the photos have no masks and {share:.0%} of their border is {name}: if the object stands before plain {name}, fit with "
                f"background={name}, which lays the scene over {name} in fits and in pictures"
            ]
    return []

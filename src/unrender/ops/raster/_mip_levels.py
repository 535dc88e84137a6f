"""The kernels of :mod:`unrender.ops.raster.mips`: several levels at once in bands of rows, and their gradients back to the base.

On a CPU one work item computes its band of rows for several levels in turn, while the rows are in the cache; the coarse levels, which have
fewer rows than there are bands, are one work item. The backward pass skips zeros, so a large texture costs only as much as was looked up in
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, no_type_check

import torch
import warp as wp
from torch import Tensor

from unrender.devices import on_cpu
from unrender.ops.kernels.checks import MOST_ELEMENTS, Arguments, describe
from unrender.ops.kernels.launch import address, launch
from unrender.ops.kernels.native import native_sections

wp.set_module_options({"enable_backward": False, "optimization_level": 3})

LARGEST_TEXTURE_SIDE = 65536
"""In texels."""
MOST_LEVELS = 17
"""2¹⁶ can be halved 16 times."""

Levels = wp.types.vector(length=MOST_LEVELS, dtype=wp.uint64)
"""The memory addresses of the levels of a texture."""

_MOST_BANDS = 16
"""Work items that share the levels with enough rows."""
_SMALLEST_BAND = 65536
"""Elements of level 0 in a band, at least: starting a work item costs as much as a few thousand elements."""

_CPP = native_sections(__file__, "mip_levels.h")


class _Pyramid:
    """A texture with its mip levels, or their gradients; an image is a view, or a face of a cube map."""

    levels: Levels  # pyright: ignore[reportInvalidTypeForm]
    images: wp.int32
    height: wp.int32
    width: wp.int32
    channels: wp.int32
    written: wp.uint64
    """Address of the marks of :func:`rows_of_levels`; 0 for none."""


Pyramid = wp.struct(_Pyramid)


# The kernels of a CPU: a work item is a band of rows, on several levels.


@no_type_check
@wp.func_native(_CPP.build)
def _build(pyramid: Pyramid, first_level: int, end_level: int, band: int, bands: int): ...


@no_type_check
@wp.func_native(_CPP.pull)
def _pull(pyramid: Pyramid, first_level: int, end_level: int, band: int, bands: int): ...


@no_type_check
@wp.kernel
def _build_kernel(first: int, pyramid: Pyramid, first_level: int, end_level: int, bands: int):
    _build(pyramid, first_level, end_level, first + wp.tid(), bands)


@no_type_check
@wp.kernel
def _pull_kernel(first: int, pyramid: Pyramid, first_level: int, end_level: int, bands: int):
    _pull(pyramid, first_level, end_level, first + wp.tid(), bands)


# The kernels of a GPU: a work item is an element of one level.


@no_type_check
@wp.kernel
def _build_level_kernel(first: int, below: wp.array(dtype=wp.float32, ndim=4), above: wp.array(dtype=wp.float32)):
    i = first + wp.tid()
    channels = below.shape[3]
    w = wp.max(below.shape[2] / 2, 1)
    h = wp.max(below.shape[1] / 2, 1)
    c = i % channels
    column = i / channels % w
    row = i / channels / w % h
    image = i / channels / w / h
    # Where a side is already 1, both neighbors along it are the same texel.
    y = row * wp.min(below.shape[1], 2)
    x = column * wp.min(below.shape[2], 2)
    y_next = wp.min(y + 1, below.shape[1] - 1)
    x_next = wp.min(x + 1, below.shape[2] - 1)
    near = below[image, y, x, c] + below[image, y, x_next, c]
    far = below[image, y_next, x, c] + below[image, y_next, x_next, c]
    above[i] = 0.25 * (near + far)


@no_type_check
@wp.kernel
def _pull_level_kernel(first: int, above: wp.array(dtype=wp.float32, ndim=4), below: wp.array(dtype=wp.float32, ndim=4)):
    i = first + wp.tid()
    channels = below.shape[3]
    c = i % channels
    column = i / channels % below.shape[2]
    row = i / channels / below.shape[2] % below.shape[1]
    image = i / channels / below.shape[2] / below.shape[1]
    share = 1.0 / float(wp.min(below.shape[1], 2) * wp.min(below.shape[2], 2))  # number of texels averaged by the one above
    below[image, row, column, c] += share * above[image, row / wp.min(below.shape[1], 2), column / wp.min(below.shape[2], 2), c]


def addresses(levels: Sequence[Tensor]) -> Any:
    """Return the memory addresses of the levels, with the last one repeated for missing levels."""
    found = [address(level, torch.float32) for level in levels]
    return Levels(*found, *[found[-1]] * (MOST_LEVELS - len(found)))


def level_sizes(height: int, width: int, max_level: int | None) -> list[tuple[int, int]]:
    """Return (height, width) of the levels 0 to ``max_level``, or to that of a single texel if it comes first.

    Raises:
        ValueError: for a level to be halved with an odd side.
    """
    sizes = [(height, width)]
    while sizes[-1] != (1, 1) and (max_level is None or len(sizes) <= max_level):
        h, w = sizes[-1]
        if (h > 1 and h % 2) or (w > 1 and w % 2):
            level = len(sizes) - 1
            raise ValueError(
                f"mip level {level} is {h} × {w} texels, and only sides that are even or 1 can be halved: pass max_level={level}, or resize"
            )
        sizes.append((max(h // 2, 1), max(w // 2, 1)))
    return sizes


def _groups(sizes: list[tuple[int, int]], elements: int) -> list[tuple[int, int, int]]:
    """Return (first level, end level, bands) of each launch on a CPU.

    The first is for the levels whose rows the bands divide evenly, the second for the rest.
    """
    bands = 1
    while bands < _MOST_BANDS and 2 * bands * _SMALLEST_BAND <= elements:
        bands *= 2
    fine = 1
    while fine < len(sizes) and sizes[fine][0] % bands == 0:
        fine += 1
    return [group for group in ((1, fine, bands), (fine, len(sizes), 1)) if group[0] < group[1]]


def _pyramid(levels: Sequence[Tensor], written: Tensor | None = None) -> Any:
    pyramid = Pyramid()
    pyramid.levels = addresses(levels)
    pyramid.height, pyramid.width, pyramid.channels = levels[0].shape[-3:]
    pyramid.images = levels[0].shape[:-3].numel()
    pyramid.written = address(written, torch.uint8)
    return pyramid


def _as_images(level: Tensor) -> Tensor:
    return level.view(-1, *level.shape[-3:])


def build_levels(texels: Tensor, sizes: list[tuple[int, int]]) -> list[Tensor]:
    """Compute the levels 1 and up of contiguous texels [..., H, W, C], outside of autograd."""
    above = [texels.new_empty(*texels.shape[:-3], *size, texels.shape[-1]) for size in sizes[1:]]
    if texels.numel() == 0:
        return above
    if on_cpu(texels.device):
        pyramid = _pyramid([texels, *above])
        for first_level, end_level, bands in _groups(sizes, texels.numel()):
            launch(_build_kernel, bands, [pyramid, first_level, end_level, bands], texels.device, chunks=bands)
    else:
        for below, level in zip([texels, *above], above, strict=False):
            launch(_build_level_kernel, level.numel(), [_as_images(below), level.view(-1)], texels.device)
    return above


def rows_of_levels(levels: Sequence[Tensor]) -> Tensor | None:
    """Return zeros to mark the rows of gradients that are written, uint8 [levels, rows of level 0 in all images].

    None if a kernel could not count the marks; all rows are then read.
    """
    rows = levels[0].numel() // (levels[0].shape[-1] * levels[0].shape[-2])
    if len(levels) * rows > MOST_ELEMENTS:
        return None
    return torch.zeros(len(levels), rows, dtype=torch.uint8, device=levels[0].device)


def pull_to_base(grad_levels: Sequence[Tensor], sizes: list[tuple[int, int]], written: Tensor | None = None) -> None:
    """Add the gradients of levels 1 and up to that of level 0, in place; the others are modified too.

    ``written``, marks of :func:`rows_of_levels`, lets a CPU skip the rows that hold only zeros.
    """
    base = grad_levels[0]
    if base.numel() == 0:
        return
    if on_cpu(base.device):
        pyramid = _pyramid(grad_levels, written)
        for first_level, end_level, bands in reversed(_groups(sizes, base.numel())):
            launch(_pull_kernel, bands, [pyramid, first_level, end_level, bands], base.device, chunks=bands)
    else:
        for level in range(len(grad_levels) - 1, 0, -1):
            below = grad_levels[level - 1]
            launch(_pull_level_kernel, below.numel(), [_as_images(grad_levels[level]), _as_images(below)], below.device)


def checked_texels(takes: Arguments, texels: object, *, cube: bool) -> Tensor:
    """Return the texels of a texture.

    Raises:
        ValueError: they are not [views, height, width, channels], or [views, 6, side, side, channels] for a cube map.
    """
    if cube:
        tensor = takes.float32(texels, "texels", ("views", 6, "side", "side", "channels"))
        if tensor.shape[2] != tensor.shape[3]:
            raise ValueError(f"{takes.verb} takes square faces as texels of a cube map, got {describe(tensor)}")
    elif isinstance(texels, Tensor) and texels.ndim == 5:
        found = describe(texels)
        raise ValueError(f"{takes.verb} takes float32 [views, height, width, channels] as texels, got {found}: a cube map is asked for")
    else:
        tensor = takes.float32(texels, "texels", ("views", "height", "width", "channels"))
    if min(tensor.shape) < 1 or max(tensor.shape[-3:-1]) > LARGEST_TEXTURE_SIDE:
        raise ValueError(
            f"{takes.verb} takes sides of 1 to {LARGEST_TEXTURE_SIDE}, and a view and a channel, as texels, got {describe(tensor)}"
        )
    return tensor


def checked_max_level(takes: Arguments, max_level: object) -> int | None:
    """Return the coarsest level.

    Raises:
        ValueError: it is negative or not an integer.
    """
    return None if max_level is None else takes.integer(max_level, "max_level", 0)

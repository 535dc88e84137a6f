"""The kernels behind :mod:`unrender.ops.raster.mips`: several levels at once in bands of rows, and the way of the gradients back down.

On a CPU one work item makes its band of rows of several levels in turn, while the rows are in the cache; the coarse levels, which have
fewer rows than there are bands, are one work item. On the way back what is zero is not written, so that a large texture costs what was
looked up of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, no_type_check

import torch
import warp as wp
from torch import Tensor

from unrender.devices import on_cpu
from unrender.ops.kernels.checks import MOST_ELEMENTS, check_count, check_float32, check_integer
from unrender.ops.kernels.launch import launch

wp.set_module_options({"enable_backward": False, "optimization_level": 3})

LARGEST_SIDE = 65536
"""Texels along a side of a texture."""

Levels = wp.types.vector(length=17, dtype=wp.uint64)
"""Memory addresses of up to 17 levels: 2¹⁶ halves 16 times."""

_MOST_BANDS = 16
"""Work items that share the levels large enough for it."""
_SMALLEST_BAND = 65536
"""Numbers of level 0 in a band, at least: to start a work item costs as much as some thousand of them."""

_SIDES = """
    const int below_h = (height >> (level - 1)) > 1 ? height >> (level - 1) : 1;
    const int below_w = (width >> (level - 1)) > 1 ? width >> (level - 1) : 1;
    const int h = below_h > 1 ? below_h / 2 : 1, w = below_w > 1 ? below_w / 2 : 1;
    const int step_down = below_h > 1 ? below_w * channels : 0, step_right = below_w > 1 ? channels : 0;
    const float share = (below_h > 1 ? 0.5f : 1.f) * (below_w > 1 ? 0.5f : 1.f);
    const int band_begin = h * band / bands, band_end = h * (band + 1) / bands;
"""


@no_type_check
@wp.func_native(
    """
for (int level = first_level; level < end_level; level++) {"""
    + _SIDES
    + """
    for (int image = 0; image < images; image++)
    for (int row = band_begin; row < band_end; row++) {
        const float* top = (const float*)levels[level - 1] + (image * below_h + (below_h > 1 ? 2 : 1) * row) * below_w * channels;
        const float* bottom = top + step_down;
        float* out = (float*)levels[level] + (image * h + row) * w * channels;
        if (step_right && step_down && channels == 3) {
            for (int x = 0; x < w; x++)
                for (int c = 0; c < 3; c++)
                    out[3 * x + c] = share * (top[6 * x + c] + top[6 * x + 3 + c] + bottom[6 * x + c] + bottom[6 * x + 3 + c]);
        } else if (step_right && step_down) {
            for (int x = 0; x < w; x++) {
                const float* a = top + 2 * x * channels;
                const float* b = bottom + 2 * x * channels;
                for (int c = 0; c < channels; c++) out[x * channels + c] = share * (a[c] + a[channels + c] + b[c] + b[channels + c]);
            }
        } else {
            const float* other = step_right ? top + step_right : bottom;
            const int stride = (step_right ? 2 : 1) * channels;
            for (int x = 0; x < w; x++)
                for (int c = 0; c < channels; c++) out[x * channels + c] = share * (top[x * stride + c] + other[x * stride + c]);
        }
    }
}
"""
)
def _build(
    levels: Levels, images: int, height: int, width: int, channels: int, first_level: int, end_level: int, band: int, bands: int
): ...


@no_type_check
@wp.func_native(
    """
unsigned char* const rows = written.data;
const int image_rows = images * height;
for (int level = end_level - 1; level >= first_level; level--) {"""
    + _SIDES
    + """
    for (int image = 0; image < images; image++)
    for (int row = band_begin; row < band_end; row++) {
        if (marked) {
            if (!rows[level * image_rows + image * h + row]) continue;
            unsigned char* below = rows + (level - 1) * image_rows + image * below_h + (below_h > 1 ? 2 : 1) * row;
            below[0] = 1;
            if (below_h > 1) below[1] = 1;
        }
        float* top = (float*)levels[level - 1] + (image * below_h + (below_h > 1 ? 2 : 1) * row) * below_w * channels;
        const float* from = (const float*)levels[level] + (image * h + row) * w * channels;
        const int stride = (step_right ? 2 : 1) * channels;
        for (int begin = 0; begin < w; begin += 16) {  // sixteen texels of zeros are left out
            const int end = begin + 16 < w ? begin + 16 : w;
            int any = 0;
            for (int k = begin * channels; k < end * channels; k++) any |= from[k] != 0.f;
            if (!any) continue;
            if (step_right && step_down && channels == 3) {
                for (int x = begin; x < end; x++)
                    for (int c = 0; c < 3; c++) {
                        const float part = share * from[3 * x + c];
                        top[6 * x + c] += part;
                        top[6 * x + 3 + c] += part;
                        top[step_down + 6 * x + c] += part;
                        top[step_down + 6 * x + 3 + c] += part;
                    }
                continue;
            }
            for (int x = begin; x < end; x++) {
                float* to = top + x * stride;
                for (int c = 0; c < channels; c++) {
                    const float part = share * from[x * channels + c];
                    to[c] += part;
                    if (step_right) to[c + step_right] += part;
                    if (step_down) to[c + step_down] += part;
                    if (step_right && step_down) to[c + step_down + step_right] += part;
                }
            }
        }
    }
}
"""
)
def _pull(
    levels: Levels,
    images: int,
    height: int,
    width: int,
    channels: int,
    first_level: int,
    end_level: int,
    band: int,
    bands: int,
    marked: bool,
    written: wp.array(dtype=wp.uint8),
): ...


@no_type_check
@wp.kernel
def _build_kernel(
    first: int, levels: Levels, images: int, height: int, width: int, channels: int, first_level: int, end_level: int, bands: int
):
    _build(levels, images, height, width, channels, first_level, end_level, first + wp.tid(), bands)


@no_type_check
@wp.kernel
def _pull_kernel(
    first: int,
    levels: Levels,
    images: int,
    height: int,
    width: int,
    channels: int,
    first_level: int,
    end_level: int,
    bands: int,
    marked: bool,
    written: wp.array(dtype=wp.uint8),
):
    _pull(levels, images, height, width, channels, first_level, end_level, first + wp.tid(), bands, marked, written)


@no_type_check
@wp.kernel
def _halve_kernel(first: int, below: wp.array(dtype=wp.float32, ndim=4), above: wp.array(dtype=wp.float32)):
    i = first + wp.tid()
    channels = below.shape[3]
    w = wp.max(below.shape[2] / 2, 1)
    h = wp.max(below.shape[1] / 2, 1)
    c = i % channels
    column = i / channels % w
    row = i / channels / w % h
    image = i / channels / w / h
    y = row * wp.min(below.shape[1], 2)
    x = column * wp.min(below.shape[2], 2)
    y_next = wp.min(y + 1, below.shape[1] - 1)
    x_next = wp.min(x + 1, below.shape[2] - 1)
    near = below[image, y, x, c] + below[image, y, x_next, c]
    far = below[image, y_next, x, c] + below[image, y_next, x_next, c]
    above[i] = 0.25 * (near + far)


@no_type_check
@wp.kernel
def _spread_kernel(first: int, above: wp.array(dtype=wp.float32, ndim=4), below: wp.array(dtype=wp.float32, ndim=4)):
    i = first + wp.tid()
    channels = below.shape[3]
    c = i % channels
    column = i / channels % below.shape[2]
    row = i / channels / below.shape[2] % below.shape[1]
    image = i / channels / below.shape[2] / below.shape[1]
    share = 1.0 / float(wp.min(below.shape[1], 2) * wp.min(below.shape[2], 2))
    below[image, row, column, c] += share * above[image, row / wp.min(below.shape[1], 2), column / wp.min(below.shape[2], 2), c]


def addresses(levels: Sequence[Tensor]) -> Any:
    """Where the levels lie in memory, as a kernel takes it."""
    return Levels(*[levels[min(k, len(levels) - 1)].data_ptr() for k in range(17)])


def level_sizes(height: int, width: int, max_level: int | None) -> list[tuple[int, int]]:
    """(height, width) of the levels 0 to ``max_level``, or to the one of a single texel if that comes first.

    Raises:
        ValueError: where a level that has to be halved has an odd side, or for a ``max_level`` that is none.
    """
    if max_level is not None:
        check_integer(max_level, "max_level", "texture")
    if max_level is not None and max_level < 0:
        raise ValueError(f"max_level is the coarsest mip level to use, 0 or more, got {max_level}")
    sizes = [(height, width)]
    while sizes[-1] != (1, 1) and (max_level is None or len(sizes) <= max_level):
        h, w = sizes[-1]
        if (h > 1 and h % 2) or (w > 1 and w % 2):
            level = len(sizes) - 1
            raise ValueError(
                f"mip level {level} is {h} × {w} texels, and a side is halved only if it is even or 1: pass max_level={level}, or resize"
            )
        sizes.append((max(h // 2, 1), max(w // 2, 1)))
    return sizes


def _groups(sizes: list[tuple[int, int]], numbers: int) -> list[tuple[int, int, int]]:
    """(first level, end level, bands) of the launches on a CPU: the levels whose rows the bands divide, and the rest."""
    bands = 1
    while bands < _MOST_BANDS and 2 * bands * _SMALLEST_BAND <= numbers:
        bands *= 2
    fine = 1
    while fine < len(sizes) and sizes[fine][0] % bands == 0:
        fine += 1
    return [group for group in ((1, fine, bands), (fine, len(sizes), 1)) if group[0] < group[1]]


def _launch_in_bands(
    kernel: Any, levels: Sequence[Tensor], groups: list[tuple[int, int, int]], sizes: list[tuple[int, int]], *others: Any
) -> None:
    (height, width), channels = sizes[0], levels[0].shape[-1]
    images = levels[0].numel() // max(height * width * channels, 1)
    for first_level, end_level, bands in groups:
        arguments = [addresses(levels), images, height, width, channels, first_level, end_level, bands, *others]
        launch(kernel, bands, arguments, levels[0].device, pieces=bands)


def _as_images(level: Tensor) -> Tensor:
    return level.view(-1, *level.shape[-3:])


def build_levels(texels: Tensor, sizes: list[tuple[int, int]]) -> list[Tensor]:
    """The levels 1 and up of contiguous texels [..., H, W, C], outside of autograd."""
    above = [texels.new_empty(*texels.shape[:-3], *size, texels.shape[-1]) for size in sizes[1:]]
    if texels.numel() == 0:
        return above
    if on_cpu(texels.device):
        _launch_in_bands(_build_kernel, [texels, *above], _groups(sizes, texels.numel()), sizes)
    else:
        for below, level in zip([texels, *above], above, strict=False):
            launch(_halve_kernel, level.numel(), [_as_images(below), level.view(-1)], texels.device)
    return above


def rows_of_levels(levels: Sequence[Tensor]) -> Tensor | None:
    """uint8 [levels, rows of level 0 in all views and faces], zero: which rows of the gradients have been written.

    None where a kernel could not count them; all rows are then read.
    """
    rows = levels[0].numel() // (levels[0].shape[-1] * levels[0].shape[-2])
    if len(levels) * rows > MOST_ELEMENTS:
        return None
    return torch.zeros(len(levels), rows, dtype=torch.uint8, device=levels[0].device)


def pull_to_base(gradients: Sequence[Tensor], sizes: list[tuple[int, int]], written: Tensor | None = None) -> None:
    """Adds to the gradient of level 0, in place, what the others owe to it; these are changed on the way.

    ``written`` of :func:`rows_of_levels` spares a CPU the rows that hold nothing but zeros.
    """
    if gradients[0].numel() == 0:
        return
    if on_cpu(gradients[0].device):
        rows = torch.zeros(0, dtype=torch.uint8) if written is None else written.view(-1)
        _launch_in_bands(_pull_kernel, gradients, _groups(sizes, gradients[0].numel())[::-1], sizes, written is not None, rows)
    else:
        for level in range(len(gradients) - 1, 0, -1):
            below = gradients[level - 1]
            launch(_spread_kernel, below.numel(), [_as_images(gradients[level]), _as_images(below)], below.device)


def check_texels(texels: Tensor, *, cube: bool, what: str) -> None:
    """What is a texture: [views, height, width, channels], of a cube [views, 6, side, side, channels]."""
    check_float32(texels, "texels", what)
    shape = tuple(texels.shape)
    if cube and (texels.ndim != 5 or shape[1] != 6 or shape[2] != shape[3]):
        raise ValueError(f"the texels of a cube map are [views, 6, side, side, channels], got {shape}")
    if not cube and texels.ndim != 4:
        raise ValueError(f"texels are [views, height, width, channels], got {shape}; a cube map needs cube boundaries")
    if min(shape) < 1 or max(shape[-3:-1]) > LARGEST_SIDE:
        raise ValueError(f"a texture has sides of 1 to {LARGEST_SIDE} texels and at least one view and channel, got {shape}")
    check_count(texels.numel(), "the texels", what)

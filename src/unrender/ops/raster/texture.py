"""Filtered lookups in textures, cube maps and their mip levels, with gradients to texels, coordinates, their derivatives and the bias.

Notation: a sample has coordinates (s, t); texel (column i, row j) of a level of w × h texels has its center at ((i + ½)/w, (j + ½)/h), so
that x = s w − ½ and y = t h − ½ count in texels. With i = ⌊x⌋, f = x − i, j = ⌊y⌋ and g = y − j,

    bilinear = (1 − g) ((1 − f) T[j, i] + f T[j, i + 1]) + g ((1 − f) T[j + 1, i] + f T[j + 1, i + 1]).

The level follows from the derivatives of x and y of level 0 along the two axes of the picture: with a = x_X² + y_X², b = x_Y² + y_Y² and
c = x_X x_Y + y_X y_Y, the longer axis of the ellipse that a pixel covers has the squared length m = (a + b)/2 + √((a − b)²/4 + c²), and

    level = ½ log₂ m + bias,    clamped to the existing levels.

On a CPU the gradient to the texels is summed up in ranges, here called bands, which share the rows of every level; for a texture much
smaller than the picture, which has too few rows to share, in copies (:mod:`unrender.ops.kernels.work`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.devices import on_cpu
from unrender.ops.kernels.checks import Arguments
from unrender.ops.kernels.derivatives import differentiable_once
from unrender.ops.kernels.launch import address, launch
from unrender.ops.kernels.work import COPIES, MOST_RANGES, blocks, zeros
from unrender.ops.raster import _texture_kernels as kernels
from unrender.ops.raster._mip_levels import (
    addresses,
    build_levels,
    checked_max_level,
    checked_texels,
    level_sizes,
    pull_to_base,
    rows_of_levels,
)

Filter = Literal["auto", "nearest", "linear", "linear-mipmap-nearest", "linear-mipmap-linear"]
Boundary = Literal["wrap", "clamp", "zero", "cube"]

_FILTERS = {
    "nearest": kernels.NEAREST,
    "linear": kernels.LINEAR,
    "linear-mipmap-nearest": kernels.LINEAR_MIPMAP_NEAREST,
    "linear-mipmap-linear": kernels.LINEAR_MIPMAP_LINEAR,
}
_BOUNDARIES = {"wrap": kernels.WRAP, "clamp": kernels.CLAMP, "zero": kernels.ZERO, "cube": kernels.CUBE}

_SMALLEST_BLOCK = 4096
"""Smallest number of samples of a work item on a CPU: starting one costs as much as a few hundred samples."""


@dataclass(frozen=True)
class _Settings:
    """The lookup settings: all arguments that are not tensors."""

    filter: int
    boundary: int
    sizes: list[tuple[int, int]]
    """(height, width) of the levels in use."""
    builds_mips: bool
    """Whether the mip levels are built here, so that their gradients go to the base."""


def _describe(
    settings: _Settings, levels: Sequence[Tensor], uv: Tensor, derivatives: Tensor | None, bias: Tensor | None, bands: int
) -> Any:
    """Return the struct that describes texture and samples to a kernel."""
    lookup = kernels.TextureLookup()
    lookup.levels = addresses(levels)
    lookup.uv = address(uv, torch.float32)
    lookup.uv_derivatives = address(derivatives, torch.float32)
    lookup.level_bias = address(bias, torch.float32)
    lookup.has_derivatives, lookup.has_bias = int(derivatives is not None), int(bias is not None)
    lookup.height, lookup.width = settings.sizes[0]
    lookup.channels, lookup.texture_views = levels[0].shape[-1], levels[0].shape[0]
    lookup.samples_per_view = uv.shape[1] * uv.shape[2]
    lookup.top = len(levels) - 1
    lookup.filter, lookup.boundary, lookup.bands = settings.filter, settings.boundary, bands
    lookup.in_blocks = int(on_cpu(uv.device) and settings.filter != kernels.NEAREST)
    lookup.band_shift = max(settings.sizes[0][0].bit_length() - 6, 0)  # 32 to 63 groups of rows, which gives bands equal work
    return lookup


def _band_count(levels: Sequence[Tensor], count: int) -> int:
    """Return the number of bands of the gradient to the texels on a CPU; 0 where copies are summed up."""
    elements = sum(level.numel() for level in levels)
    if elements * COPIES <= max(count * levels[0].shape[-1], 4096):
        return 0
    bands = 1
    while bands < MOST_RANGES and bands * 4096 < count:
        bands *= 2
    return bands


class _Texture(torch.autograd.Function):
    @staticmethod
    def forward(ctx, settings: _Settings, uv: Tensor, derivatives: Tensor | None, bias: Tensor | None, *levels: Tensor) -> Tensor:
        if settings.builds_mips:
            levels = (levels[0], *build_levels(levels[0], settings.sizes))
        cpu = on_cpu(uv.device)
        count = uv.numel() // uv.shape[-1]
        bands = _band_count(levels, count) if cpu else 1
        notes_bands = cpu and any(ctx.needs_input_grad[4:]) and bands > 1
        values = uv.new_empty(*uv.shape[:-1], levels[0].shape[-1])
        chosen_level = uv.new_empty(count if settings.filter >= kernels.LINEAR_MIPMAP_NEAREST else 0)
        bands_read = uv.new_empty(count if notes_bands else 0, dtype=torch.int32)
        items, block = blocks(count, _SMALLEST_BLOCK, uv.device)
        lookup = _describe(settings, levels, uv, derivatives, bias, bands if notes_bands else 1)
        launch(kernels.values_kernel, items, [lookup, count, block, values.view(-1), chosen_level, bands_read], uv.device, chunks=items)
        ctx.settings, ctx.bands, ctx.has = settings, bands, (derivatives is not None, bias is not None)
        given = [tensor for tensor in (derivatives, bias) if tensor is not None]
        ctx.save_for_backward(uv, chosen_level, bands_read, *given, *levels)
        return values

    @staticmethod
    @differentiable_once("texture")
    def backward(ctx, grad_values: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        uv, chosen_level, bands_read, *rest = ctx.saved_tensors
        derivatives = rest.pop(0) if ctx.has[0] else None
        bias = rest.pop(0) if ctx.has[1] else None
        settings, levels = ctx.settings, rest
        grad_values = grad_values.contiguous()
        grad_samples = _gradients_to_samples(
            settings, levels, (uv, derivatives, bias), chosen_level, grad_values, ctx.needs_input_grad[1:4]
        )
        grad_levels: list[Tensor | None] = [None] * (len(ctx.needs_input_grad) - 4)
        if any(ctx.needs_input_grad[4:]):
            found = _gradients_to_levels(settings, levels, uv, chosen_level, bands_read, ctx.bands, grad_values)
            grad_levels = list(found[: len(grad_levels)])
        return None, *grad_samples, *grad_levels


def _gradients_to_samples(
    settings: _Settings,
    levels: Sequence[Tensor],
    samples: tuple[Tensor, Tensor | None, Tensor | None],
    chosen_level: Tensor,
    grad_values: Tensor,
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Return the gradients to uv, uv_derivatives and level_bias, if needed and defined for the filter."""
    uv, derivatives, bias = samples
    has_any = (settings.filter != kernels.NEAREST, *[settings.filter == kernels.LINEAR_MIPMAP_LINEAR] * 2)
    grads = [
        torch.empty_like(tensor) if need and has and tensor is not None else None
        for tensor, need, has in zip(samples, needed, has_any, strict=True)
    ]
    wanted = sum(1 << k for k, grad in enumerate(grads) if grad is not None)
    if wanted:
        count = uv.numel() // uv.shape[-1]
        items, block = blocks(count, _SMALLEST_BLOCK, uv.device)
        nothing = uv.new_empty(0)
        outputs = [nothing if grad is None else grad.view(-1) for grad in grads]
        lookup = _describe(settings, levels, uv, derivatives, bias, 1)
        arguments = [lookup, count, block, wanted, grad_values.view(-1), chosen_level, *outputs]
        launch(kernels.sample_gradients_kernel, items, arguments, uv.device, chunks=items)
    return grads


def _gradients_to_levels(
    settings: _Settings, levels: Sequence[Tensor], uv: Tensor, chosen_level: Tensor, bands_read: Tensor, bands: int, grad_values: Tensor
) -> list[Tensor]:
    """Return the gradient to every level; those of levels built here are added to the base's."""
    count, device, cpu = uv.numel() // uv.shape[-1], uv.device, on_cpu(uv.device)
    target = kernels.TexelGradient()
    if bands:
        grad_levels = [zeros(level.shape, device) for level in levels]
        copies, chunks = None, 1 if cpu else count
    else:
        sizes = [level.numel() for level in levels]
        copies, chunks = torch.zeros(COPIES, sum(sizes)), COPIES
        grad_levels = [part.view(level.shape) for part, level in zip(copies[0].split(sizes), levels, strict=True)]
        target.bytes_per_copy = 4 * sum(sizes)
    written = rows_of_levels(levels) if cpu and bands and settings.builds_mips else None
    target.grad_levels = addresses(grad_levels)
    target.written = address(written, torch.uint8)
    lookup = _describe(settings, levels, uv, None, None, max(bands, 1))
    items = chunks * max(bands, 1) if count else 0
    arguments = [lookup, count, chunks, grad_values.view(-1), chosen_level, bands_read, target]
    launch(kernels.scatter_kernel, items, arguments, device, chunks=items)
    if copies is not None:
        for copy in copies[1:]:
            copies[0] += copy
    if settings.builds_mips:
        pull_to_base(grad_levels, settings.sizes, written)
    return grad_levels


def _checked_mips(takes: Arguments, mips: object, texels: Tensor, sizes: list[tuple[int, int]]) -> list[Tensor]:
    """Return the given levels in use.

    Raises:
        ValueError: one does not fit the texels.
    """
    found: list[Tensor] = []
    for level, (given, size) in enumerate(zip(takes.items(mips, "mips"), sizes[1:], strict=False), start=1):
        shape = (*texels.shape[:-3], *size, texels.shape[-1])
        found.append(takes.float32(given, f"mip level {level}", shape).contiguous())
    return found


def texture(
    texels: Float[Tensor, ...],
    uv: Float[Tensor, ...],
    uv_derivatives: Float[Tensor, ...] | None = None,
    level_bias: Float[Tensor, ...] | None = None,
    *,
    mips: Sequence[Tensor] | None = None,
    filter: Filter = "auto",
    boundary: Boundary = "wrap",
    max_level: int | None = None,
) -> Float[Tensor, "views height width channels"]:
    """Look up a texture or a cube map at every pixel.

    uv (0, 0) is the corner of texel row 0, column 0, and (1, 1) the opposite corner of the texture; the texel coordinate is s·width − ½.
    The module docstring has the formulas of the filters and the mip level (Williams 1983, *Pyramidal Parametrics*; Heckbert 1989 for the
    ellipse). A cube map is looked up by a direction of any length. Its faces are +x −x +y −y +z −z with OpenGL's axes. Filtering is
    seamless across edges; at corners, the mean of the three adjacent texels replaces the fourth.

    If a coordinate is not finite, or all coordinates of a direction are below 1e-30, the value is 0 and has no gradient. A level that is
    NaN counts as 0.

    Args:
        texels: [views or 1, height, width, channels]; a cube map is [views or 1, 6, side, side, channels].
        uv: [views, height, width, 2], or 3 for directions.
        uv_derivatives: [views, height, width, 4 or 6], the derivatives of each coordinate with respect to the pixel's x and y, as returned
            by :func:`~unrender.ops.raster.interpolate_with_derivatives`.
        level_bias: [views, height, width], added to the level; without derivatives it is the level.
        mips: levels 1, 2, ... to use instead of those built from the texels; each then has its own gradient.
        filter: "nearest", "linear", "linear-mipmap-nearest" (bilinear at level ⌊level⌋) or "linear-mipmap-linear" (between two levels).
            "auto" is the last one if derivatives or a bias are given, and "linear" otherwise. Filters without mips ignore both.
        boundary: outside of [0, 1], "wrap" repeats, "clamp" continues the border texels, "zero" is 0. "cube" makes it a cube map.
        max_level: coarsest mip level to use; needed if a level has an odd side, as in an atlas.

    Returns:
        the filtered texels.

    Gradients always flow to texels and mips; to uv, except with "nearest"; to uv_derivatives and level_bias only with
    "linear-mipmap-linear", where the level is not clamped. The gradient of levels built here flows to the texels exactly.

    Raises:
        ValueError: for wrong types, shapes, devices and names, for a mip filter without derivatives or bias, and for odd sides with mips.
        RuntimeError: when a second derivative is computed.

    >>> texels = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).reshape(1, 2, 2, 1)
    >>> uv = torch.tensor([[0.25, 0.25], [0.5, 0.25], [0.5, 0.5]]).reshape(1, 1, 3, 2)
    >>> texture(texels, uv).flatten().tolist()
    [0.0, 0.5, 1.5]
    >>> texture(texels, uv, level_bias=torch.full((1, 1, 3), 0.5)).flatten().tolist()
    [0.75, 1.0, 1.5]
    """
    takes = Arguments("texture")
    takes.choice(boundary, "boundary", _BOUNDARIES)
    takes.choice(filter, "filter", ("auto", *_FILTERS))
    cube = boundary == "cube"
    texels = checked_texels(takes, texels, cube=cube)
    axes = 3 if cube else 2
    uv = takes.float32(uv, "uv", ("views", "height", "width", axes)).contiguous()
    views, height, width = uv.shape[:3]
    pixels = ((views, "views"), (height, "rows"), (width, "columns"))
    if uv_derivatives is not None:
        uv_derivatives = takes.float32(uv_derivatives, "uv_derivatives", (*pixels, 2 * axes)).contiguous()
    if level_bias is not None:
        level_bias = takes.float32(level_bias, "level_bias", pixels).contiguous()
    if texels.shape[0] not in (1, views):
        raise ValueError(f"texture takes 1 view for all or {views}, as uv has, as texels, got {texels.shape[0]} views")
    takes.count(views * height * width * max(texels.shape[-1], 2 * axes), "the pixels' channels or derivatives")
    max_level = checked_max_level(takes, max_level)
    without_level = uv_derivatives is None and level_bias is None
    if filter == "auto":
        filter = "linear" if without_level else "linear-mipmap-linear"
    mipmapped = filter in ("linear-mipmap-nearest", "linear-mipmap-linear")
    if mipmapped and without_level:
        raise ValueError(f"texture takes a filter without mip levels as filter, got {filter!r}: pass uv_derivatives or level_bias")
    last = max_level if mipmapped else 0
    if mipmapped and mips is not None:
        mips = takes.items(mips, "mips")
        last = len(mips) if max_level is None else min(max_level, len(mips))
    sizes = level_sizes(texels.shape[-3], texels.shape[-2], last)
    given = _checked_mips(takes, mips, texels, sizes) if mipmapped and mips is not None else []
    settings = _Settings(_FILTERS[filter], _BOUNDARIES[boundary], sizes, builds_mips=not given and len(sizes) > 1)
    derivatives, bias = (None, None) if not mipmapped else (uv_derivatives, level_bias)
    return _Texture.apply(settings, uv, derivatives, bias, texels.contiguous(), *given)

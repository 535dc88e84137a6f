"""The kernels of :mod:`unrender.ops.raster.texture`: the lookup, its gradient to the samples, and its gradient to the texels.

Their loops are C++, in ``texture.h``, based on ``texture_lookup.h``.
"""

from __future__ import annotations

from typing import no_type_check

import warp as wp

from unrender.ops.kernels.native import native_sections
from unrender.ops.raster._mip_levels import Levels

# Packing neighboring scalars into vectors makes loads wait for the stores before them: a bilinear lookup takes a quarter longer.
wp.set_module_options({"enable_backward": False, "optimization_level": 3, "cpu_compiler_flags": "-fno-slp-vectorize"})

WRAP, CLAMP, ZERO, CUBE = range(4)
"""The values of ``TextureLookup.boundary``, as in ``texture_lookup.h``."""
NEAREST, LINEAR, LINEAR_MIPMAP_NEAREST, LINEAR_MIPMAP_LINEAR = range(4)
"""The values of ``TextureLookup.filter``; mip levels are used from LINEAR_MIPMAP_NEAREST on."""

_LOOKUP = native_sections(__file__, "texture_lookup.h").lookup
_CPP = native_sections(__file__, "texture.h")


class _TextureLookup:
    """A texture, its samples, and the lookup settings. An address is that of a contiguous float32 array."""

    levels: Levels  # pyright: ignore[reportInvalidTypeForm]
    uv: wp.uint64
    uv_derivatives: wp.uint64
    level_bias: wp.uint64
    has_derivatives: wp.int32
    has_bias: wp.int32
    width: wp.int32
    height: wp.int32
    channels: wp.int32
    texture_views: wp.int32
    samples_per_view: wp.int32
    top: wp.int32
    filter: wp.int32
    boundary: wp.int32
    bands: wp.int32
    band_shift: wp.int32
    in_blocks: wp.int32


class _TexelGradient:
    """The destination of the gradient to the texels."""

    grad_levels: Levels  # pyright: ignore[reportInvalidTypeForm]
    bytes_per_copy: wp.uint64
    written: wp.uint64
    """Address of the uint8 marks of :func:`~unrender.ops.raster._mip_levels.rows_of_levels`; 0 for none."""


TextureLookup = wp.struct(_TextureLookup)
TexelGradient = wp.struct(_TexelGradient)


@no_type_check
@wp.func_native(_LOOKUP + _CPP.values)
def _values(
    lookup: TextureLookup,
    begin: int,
    end: int,
    values: wp.array(dtype=wp.float32),
    chosen_level: wp.array(dtype=wp.float32),
    bands_read: wp.array(dtype=wp.int32),
): ...


@no_type_check
@wp.func_native(_LOOKUP + _CPP.sample_gradients)
def _sample_gradients(
    lookup: TextureLookup,
    begin: int,
    end: int,
    wanted: int,
    grad_values: wp.array(dtype=wp.float32),
    chosen_level: wp.array(dtype=wp.float32),
    grad_uv: wp.array(dtype=wp.float32),
    grad_uv_derivatives: wp.array(dtype=wp.float32),
    grad_level_bias: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(_LOOKUP + _CPP.scatter)
def _scatter(
    lookup: TextureLookup,
    begin: int,
    end: int,
    band: int,
    grad_values: wp.array(dtype=wp.float32),
    chosen_level: wp.array(dtype=wp.float32),
    bands_read: wp.array(dtype=wp.int32),
    target: TexelGradient,
    copy: int,
): ...


@no_type_check
@wp.kernel
def values_kernel(
    first: int,
    lookup: TextureLookup,
    count: int,
    block: int,
    values: wp.array(dtype=wp.float32),
    chosen_level: wp.array(dtype=wp.float32),
    bands_read: wp.array(dtype=wp.int32),
):
    i = first + wp.tid()
    _values(lookup, i * block, i * block + wp.min(block, count - i * block), values, chosen_level, bands_read)


@no_type_check
@wp.kernel
def sample_gradients_kernel(
    first: int,
    lookup: TextureLookup,
    count: int,
    block: int,
    wanted: int,
    grad_values: wp.array(dtype=wp.float32),
    chosen_level: wp.array(dtype=wp.float32),
    grad_uv: wp.array(dtype=wp.float32),
    grad_uv_derivatives: wp.array(dtype=wp.float32),
    grad_level_bias: wp.array(dtype=wp.float32),
):
    i = first + wp.tid()
    end = i * block + wp.min(block, count - i * block)
    _sample_gradients(lookup, i * block, end, wanted, grad_values, chosen_level, grad_uv, grad_uv_derivatives, grad_level_bias)


@no_type_check
@wp.kernel
def scatter_kernel(
    first: int,
    lookup: TextureLookup,
    count: int,
    chunks: int,
    grad_values: wp.array(dtype=wp.float32),
    chosen_level: wp.array(dtype=wp.float32),
    bands_read: wp.array(dtype=wp.int32),
    target: TexelGradient,
):
    # A work item is one band of one chunk of the samples; either the bands are one, or the chunks.
    i = first + wp.tid()
    chunk = i / lookup.bands
    begin = int(wp.int64(count) * wp.int64(chunk) / wp.int64(chunks))
    end = int(wp.int64(count) * wp.int64(chunk + 1) / wp.int64(chunks))
    _scatter(lookup, begin, end, i % lookup.bands, grad_values, chosen_level, bands_read, target, chunk)

"""The loops of real spherical harmonics over directions, for the kernels that call them."""

from __future__ import annotations

from typing import no_type_check

import warp as wp

from unrender.ops.kernels.native import native_sections

_CPP = native_sections(__file__, "spherical_harmonics_encoding.h")


@no_type_check
@wp.func_native(_CPP.values)
def harmonic_values(
    begin: int,
    end: int,
    count: int,
    degree: int,
    directions: wp.array(dtype=wp.float32),
    result: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(_CPP.direction_gradient)
def harmonic_gradients(
    begin: int,
    end: int,
    count: int,
    degree: int,
    directions: wp.array(dtype=wp.float32),
    grad: wp.array(dtype=wp.float32),
    result: wp.array(dtype=wp.float32),
): ...

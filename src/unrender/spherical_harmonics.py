"""Real spherical harmonics up to band 3, as polynomials of a unit direction (x, y, z).

Order and signs are those of tiny-cuda-nn: band after band, m = -l .. l within a band, and the Condon-Shortley sign (-1)^m kept, so that
band 1 is ``(-y, z, -x)``. The functions are orthonormal over the unit sphere.

    band 0      C0
    band 1      -C1 y,  C1 z,  -C1 x
    band 2      C2_XY xy,  -C2_XY yz,  C2_ZZ (3 z^2 - 1),  -C2_XY xz,  C2_XX (x^2 - y^2)
    band 3      C3_3 y (y^2 - 3 x^2),  C3_XYZ xyz,  C3_1 y (1 - 5 z^2),  C3_0 z (5 z^2 - 3),
                C3_1 x (1 - 5 z^2),  C3_2 z (x^2 - y^2),  C3_3 x (3 y^2 - x^2)

Source: any table of real spherical harmonics, e.g. Green 2003, "Spherical Harmonic Lighting: The Gritty Details", with the sign above.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

LARGEST_DEGREE = 4
"""Largest number of bands."""

C0 = math.sqrt(1 / (4 * math.pi))
C1 = math.sqrt(3 / (4 * math.pi))
C2_XY = math.sqrt(15 / (4 * math.pi))
C2_ZZ = math.sqrt(5 / (16 * math.pi))
C2_XX = math.sqrt(15 / (16 * math.pi))
C3_3 = math.sqrt(35 / (32 * math.pi))
C3_XYZ = math.sqrt(105 / (4 * math.pi))
C3_1 = math.sqrt(21 / (32 * math.pi))
C3_0 = math.sqrt(7 / (16 * math.pi))
C3_2 = math.sqrt(105 / (16 * math.pi))


def real_spherical_harmonics(directions: Float[Tensor, "*shape 3"], degree: int = LARGEST_DEGREE) -> Float[Tensor, "*shape {degree**2}"]:
    """Evaluate the first ``degree`` bands at unit directions, in the order of the module docstring.

    Args:
        directions: unit vectors of any floating dtype; their length is not checked.
        degree: number of bands, 1 to 4.

    Returns:
        ``degree^2`` values per direction. Derivatives are those of the polynomials as written, in all of space.

    Raises:
        ValueError: for a ``degree`` out of range.

    >>> real_spherical_harmonics(torch.tensor([0.0, 0.0, 1.0]), 2)
    tensor([0.2821, -0.0000, 0.4886, -0.0000])
    """
    check_degree(degree)
    x, y, z = directions.unbind(-1)
    values = [C0 + 0 * x]  # a constant that autograd can still differentiate
    if degree > 1:
        values += [-C1 * y, C1 * z, -C1 * x]
    if degree > 2:
        values += [C2_XY * x * y, -C2_XY * y * z, C2_ZZ * (3 * z * z - 1), -C2_XY * x * z, C2_XX * (x * x - y * y)]
    if degree > 3:
        values += [C3_3 * y * (y * y - 3 * x * x), C3_XYZ * x * y * z, C3_1 * y * (1 - 5 * z * z), C3_0 * z * (5 * z * z - 3)]
        values += [C3_1 * x * (1 - 5 * z * z), C3_2 * z * (x * x - y * y), C3_3 * x * (3 * y * y - x * x)]
    return torch.stack(values, dim=-1)


def check_degree(degree: int) -> None:
    """Require a supported number of bands."""
    if not 1 <= degree <= LARGEST_DEGREE:
        raise ValueError(f"spherical harmonics take 1 to {LARGEST_DEGREE} bands as degree, got {degree}")

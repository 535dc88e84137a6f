"""Spherical harmonics in plain PyTorch: the twin of :mod:`unrender.ops.encodings.spherical_harmonics_encoding`."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from unrender.spherical_harmonics import real_spherical_harmonics


def spherical_harmonics_encode(directions: Float[Tensor, "points 3"], degree: int = 4) -> Float[Tensor, "points {degree**2}"]:
    """Compute real spherical harmonics of unit directions; see :func:`unrender.ops.encodings.spherical_harmonics_encode`.

    Any floating dtype; differentiable any number of times.
    """
    return real_spherical_harmonics(directions, degree)

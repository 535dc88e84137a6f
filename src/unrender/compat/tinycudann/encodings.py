"""Encodings of numbers without parameters, and their composition; formulas on tensors ``[points, dimensions]``.

=================== ======================================== ==============================================================
otype               columns                                  column
=================== ======================================== ==============================================================
Identity            dimensions                               scale x + offset
Frequency           2 n_frequencies dimensions               sin(2^k pi x), cos(2^k pi x); for each dimension, for each k
TriangleWave        n_frequencies dimensions                 4 abs(frac(2^(k-1) x) - 1/2) - 1; for each dimension, for each k
OneBlob             n_bins dimensions                        integral over a bin of a quartic kernel around x, see below
SphericalHarmonics  degree^2                                 real harmonics of the direction 2 x - 1, band after band
Composite           sum of the columns of the nested ones    those of the nested encodings, each of its own dimensions
=================== ======================================== ==============================================================

``Frequency``: Mildenhall et al. 2020, equation 4, in the order of tiny-cuda-nn's documentation. ``TriangleWave``: Müller et al. 2021,
"Real-time Neural Radiance Caching for Path Tracing". ``OneBlob``: Müller et al. 2019, "Neural Importance Sampling".
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.ops.encodings import frequency_encode, spherical_harmonics_encode

LARGEST_DEGREE = 8
"""Bands of spherical harmonics that an encoding may have."""

_KERNEL_DEGREE = 4
"""Bands up to which :func:`spherical_harmonics_encode` goes."""


class InputEncoding(ABC):
    """A map from ``inputs`` numbers to ``outputs`` numbers, with ``parameters`` trainable ones."""

    inputs: int

    @property
    def padding(self) -> float:
        """What a network reads in columns beyond ``outputs``, up to the width it needs: ones act as a bias."""
        return 1.0

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Columns of the result."""

    @property
    def parameters(self) -> int:
        """Length of the parameter vector."""
        return 0

    def initial(self, generator: torch.Generator) -> Float[Tensor, " parameters"]:
        """Draw initial parameters, float32 on the CPU."""
        return torch.zeros(0, device="cpu")

    @abstractmethod
    def encode(self, x: Float[Tensor, "points inputs"], parameters: Float[Tensor, " parameters"]) -> Float[Tensor, "points outputs"]:
        """Encode points; any floating dtype, differentiable at least twice."""


@dataclass(frozen=True)
class Identity(InputEncoding):
    """A scale and an offset."""

    inputs: int
    scale: float = 1.0
    offset: float = 0.0

    @property
    def outputs(self) -> int:
        """Columns of the result."""
        return self.inputs

    def encode(self, x: Float[Tensor, "points inputs"], parameters: Float[Tensor, " parameters"]) -> Float[Tensor, "points outputs"]:
        """Compute ``scale x + offset``."""
        return x if (self.scale, self.offset) == (1.0, 0.0) else x * self.scale + self.offset


@dataclass(frozen=True)
class Frequency(InputEncoding):
    """Sines and cosines in octaves."""

    inputs: int
    frequencies: int = 12

    @property
    def outputs(self) -> int:
        """Columns of the result."""
        return 2 * self.frequencies * self.inputs

    def encode(self, x: Float[Tensor, "points inputs"], parameters: Float[Tensor, " parameters"]) -> Float[Tensor, "points outputs"]:
        """Compute the sines and cosines of all octaves of one dimension after the other."""
        if x.dtype == torch.float32:
            waves = frequency_encode(x * math.pi, self.frequencies, include_input=False)
            return waves.view(len(x), self.frequencies, 2, self.inputs).permute(0, 3, 1, 2).reshape(len(x), self.outputs)
        angles = x[:, :, None] * (math.pi * _octaves(self.frequencies, x))
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


@dataclass(frozen=True)
class TriangleWave(InputEncoding):
    """Triangle waves in octaves, with the period of the sines of :class:`Frequency`."""

    inputs: int
    frequencies: int = 12

    @property
    def outputs(self) -> int:
        """Columns of the result."""
        return self.frequencies * self.inputs

    def encode(self, x: Float[Tensor, "points inputs"], parameters: Float[Tensor, " parameters"]) -> Float[Tensor, "points outputs"]:
        """Compute ``4 |frac(2^(k-1) x) - 1/2| - 1`` for all octaves of one dimension after the other."""
        periods = x[:, :, None] * (0.5 * _octaves(self.frequencies, x))
        return (4.0 * (periods - periods.floor() - 0.5).abs() - 1.0).flatten(1)


@dataclass(frozen=True)
class OneBlob(InputEncoding):
    """A soft one-hot vector: how much of a kernel around x falls into each of ``bins`` equal parts of [0, 1].

    The kernel is 15/16 (1 - u^2)^2 with u = bins (t - x), one bin wide to either side. It wraps around: what leaves at 1 enters at 0.
    """

    inputs: int
    bins: int = 16

    @property
    def outputs(self) -> int:
        """Columns of the result."""
        return self.bins * self.inputs

    def encode(self, x: Float[Tensor, "points inputs"], parameters: Float[Tensor, " parameters"]) -> Float[Tensor, "points outputs"]:
        """Compute the integrals over all bins of one dimension after the other."""
        edges = torch.linspace(0.0, 1.0, self.bins + 1, dtype=x.dtype, device=x.device)
        distances = edges - x[:, :, None]
        share = sum(self._below(distances + shift) for shift in (-1.0, 0.0, 1.0))
        assert isinstance(share, Tensor)
        return share.diff(dim=-1).flatten(1)

    def _below(self, distances: Tensor) -> Tensor:
        """Return the share of the kernel below a distance from its center."""
        u = (self.bins * distances).clamp(-1.0, 1.0)
        u2 = u * u
        return 0.5 + 15.0 / 16.0 * u * (1.0 + u2 * (u2 / 5.0 - 2.0 / 3.0))


@dataclass(frozen=True)
class SphericalHarmonics(InputEncoding):
    """Real spherical harmonics of a direction that is given as a point of the unit cube."""

    inputs: int = 3
    degree: int = 4

    @property
    def outputs(self) -> int:
        """Columns of the result."""
        return self.degree**2

    def encode(self, x: Float[Tensor, "points inputs"], parameters: Float[Tensor, " parameters"]) -> Float[Tensor, "points outputs"]:
        """Evaluate the harmonics in the order and with the signs of :mod:`unrender.spherical_harmonics`."""
        directions = 2.0 * x - 1.0
        if self.degree <= _KERNEL_DEGREE and x.dtype == torch.float32:
            return spherical_harmonics_encode(directions, self.degree)
        return _harmonics(directions, self.degree)


def _harmonics(directions: Float[Tensor, "points 3"], degree: int) -> Float[Tensor, "points columns"]:
    """Evaluate real spherical harmonics by the recurrences of the associated Legendre functions.

    Y_l^m = sqrt((2l + 1) / 4 pi (l - |m|)! / (l + |m|)!) P_l^|m|(z) / s^|m| times sqrt(2) Re (x + iy)^m, or sqrt(2) Im (x + iy)^|m| for
    m < 0, with s^2 = 1 - z^2 and the sign (-1)^m in P. P / s^|m| is a polynomial of z, so that there is no root.
    """
    x, y, z = directions.unbind(1)
    one = torch.ones_like(z)
    cosines, sines = [one], [torch.zeros_like(z)]
    for _ in range(1, degree):
        cosines, sines = [*cosines, x * cosines[-1] - y * sines[-1]], [*sines, x * sines[-1] + y * cosines[-1]]
    legendre: dict[tuple[int, int], Tensor] = {(0, 0): one}
    for m in range(degree):
        if m > 0:
            legendre[m, m] = -(2 * m - 1) * legendre[m - 1, m - 1]
        for band in range(m + 1, degree):
            lower = (band + m - 1) * legendre[band - 2, m] if band > m + 1 else 0.0
            legendre[band, m] = ((2 * band - 1) * z * legendre[band - 1, m] - lower) / (band - m)
    columns = []
    for band in range(degree):
        for m in range(-band, band + 1):
            k = abs(m)
            norm = math.sqrt((2 * band + 1) / (4 * math.pi) * math.factorial(band - k) / math.factorial(band + k))
            wave = one if m == 0 else math.sqrt(2.0) * (cosines[k] if m > 0 else sines[k])
            columns.append(norm * legendre[band, k] * wave)
    return torch.stack(columns, dim=1)


def _octaves(count: int, like: Tensor) -> Tensor:
    return torch.exp2(torch.arange(count, dtype=like.dtype, device=like.device))


@dataclass(frozen=True)
class Part:
    """An encoding of some dimensions of a larger input."""

    first: int
    encoding: InputEncoding


@dataclass(frozen=True)
class Composite(InputEncoding):
    """Encodings side by side, or added or multiplied; the parameters are those of the parts, one after the other."""

    inputs: int
    parts: Sequence[Part]
    join: Callable[[list[Tensor]], Tensor] | None = None
    """How the results become one if they are not put side by side: :func:`added` or :func:`multiplied`."""

    @property
    def outputs(self) -> int:
        """Columns of the result."""
        columns = [part.encoding.outputs for part in self.parts]
        return columns[0] if self.join else sum(columns)

    @property
    def padding(self) -> float:
        """What a network reads beyond the columns: as behind the last part."""
        return self.parts[-1].encoding.padding

    @property
    def parameters(self) -> int:
        """Length of the parameter vector."""
        return sum(part.encoding.parameters for part in self.parts)

    def initial(self, generator: torch.Generator) -> Float[Tensor, " parameters"]:
        """Draw the parameters of all parts."""
        return torch.cat([part.encoding.initial(generator) for part in self.parts])

    def encode(self, x: Float[Tensor, "points inputs"], parameters: Float[Tensor, " parameters"]) -> Float[Tensor, "points outputs"]:
        """Encode the dimensions of each part."""
        owned = parameters.split([part.encoding.parameters for part in self.parts])
        results = [
            part.encoding.encode(x[:, part.first : part.first + part.encoding.inputs], own)
            for part, own in zip(self.parts, owned, strict=True)
        ]
        return self.join(results) if self.join else torch.cat(results, dim=1)


def added(results: list[Tensor]) -> Tensor:
    """Add encodings of equal widths."""
    return torch.stack(results).sum(0)


def multiplied(results: list[Tensor]) -> Tensor:
    """Multiply encodings of equal widths."""
    return torch.stack(results).prod(0)

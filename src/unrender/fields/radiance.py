"""Density and color of space from a multiresolution hash grid: the field of instant-ngp."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unrender.cameras import Rays
from unrender.fields.perceptron import Perceptron, truncated_exp
from unrender.ops.encodings import HashGrid, contract, encoded_mlp, hash_encode, spherical_harmonics_encode
from unrender.ops.encodings._mlp_cpu import is_fused
from unrender.ops.encodings.encoded_mlp import Encoded
from unrender.ops.radiance import see_encoded
from unrender.ops.rays import Samples

_SH_DEGREE = 4
_DIRECTIONAL = 0.3
"""Last share of the levels, with which colors begin to depend on the direction: before, that would hide that poses are wrong."""
_DENSITY_BIAS = -1.0
"""Shifts the initial density below one, so that the first rays see through the volume (instant-nsr-pl)."""


class RadianceField(nn.Module):
    """σ(x) = exp(g_0(h(x)) - 1) and c(x, d) = sigmoid(m(g(h(x)), Y(d))), with h a hash encoding and Y spherical harmonics.

    Args:
        grid: shape of the hash grid.
        density_hidden: units of the hidden layers of the perceptron g.
        color_hidden: units of the hidden layers of the perceptron m.
        geometry_features: outputs of g, all inputs of m; the first is the raw density.
        unbounded: whether the hash grid covers all of space, through the sphere contraction, or only the world cube [-1, 1]³.
        generator: draws the initial weights, on the CPU.
    """

    def __init__(
        self,
        grid: HashGrid,
        *,
        density_hidden: tuple[int, ...],
        color_hidden: tuple[int, ...],
        geometry_features: int,
        unbounded: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.unbounded = unbounded
        self.detail = float(grid.levels)
        """Number of levels that are seen, from the coarsest; of the last one only a share. All, except while poses are refined."""

        self.table = nn.Parameter(grid.initial_table(generator))
        self.density_net = Perceptron((grid.columns, *density_hidden, geometry_features), generator)
        self.color_net = Perceptron((geometry_features + _SH_DEGREE**2, *color_hidden, 3), generator)

    @property
    def is_coarse(self) -> bool:
        """Whether some levels are not seen."""
        return self.detail < self.grid.levels

    @property
    def cell(self) -> float:
        """Edge of a cell of the finest level that is seen, in world units near the origin."""
        return 2.0 / (self.grid.base_resolution * self.grid.per_level_scale ** (self.detail - 1))

    def density(
        self, positions: Float[Tensor, "samples 3"], known: Encoded | None = None
    ) -> tuple[Float[Tensor, " samples"], Float[Tensor, "samples geometry"]]:
        """Compute the density per world unit and the geometry features, whose first is the raw density.

        Args:
            positions: in the world.
            known: what :meth:`seen` found there; then nothing is computed, and the positions are not read.
        """
        features, raw = self._evaluated(positions, known)
        return truncated_exp(raw + _DENSITY_BIAS), features

    @property
    def can_see(self) -> bool:
        """Whether :meth:`seen` takes the device and the size of this field, and all its levels are seen."""
        return not self.is_coarse and is_fused(self.grid.columns, list(self.density_net.parameters()))

    @torch.no_grad()
    def seen(self, samples: Samples, rays: Rays, *, threshold: float, expected: int) -> tuple[Samples, Encoded]:
        """Return the samples that light reaches, and the field at them, for :meth:`density`; see :func:`see_encoded`. On a CPU.

        Args:
            samples: along the rays.
            rays: they lie on.
            threshold: transmittance at which a ray ends.
            expected: number of samples for which memory is taken.
        """
        weights, biases = tuple(self.density_net.weights), tuple(self.density_net.biases)
        field = {"unbounded": self.unbounded, "density_bias": _DENSITY_BIAS}
        return see_encoded(samples, rays, self.table, self.grid, weights, biases, **field, threshold=threshold, expected=expected)

    def features(self, positions: Float[Tensor, "samples 3"]) -> Float[Tensor, "samples geometry"]:
        """Compute the geometry features g(h(x))."""
        return self._evaluated(positions, None)[0]

    def _evaluated(
        self, positions: Float[Tensor, "samples 3"], known: Encoded | None
    ) -> tuple[Float[Tensor, "samples geometry"], Float[Tensor, " samples"]]:
        """Compute the geometry features and the raw density."""
        if self.is_coarse:
            features = self._coarse_features(positions)
            return features, features[:, 0]
        weights, biases = tuple(self.density_net.weights), tuple(self.density_net.biases)
        unit = self.unit(positions) if known is None else known.positions.t()
        return encoded_mlp(unit, self.table, self.grid, weights, biases, known=known)

    def _coarse_features(self, positions: Float[Tensor, "samples 3"]) -> Float[Tensor, "samples geometry"]:
        """Compute the geometry features from the levels that are seen."""
        seen = level_weights(self.detail, self.grid.levels, like=positions)
        encoded = hash_encode(self.unit(positions), self.table, self.grid, active_levels=len(seen))
        return self.density_net((encoded.t() * seen.repeat_interleave(self.grid.features)[:, None]).t())

    def unit(self, positions: Float[Tensor, "samples 3"]) -> Float[Tensor, "samples 3"]:
        """Return positions in the unit cube of the hash grid."""
        inside = contract(positions) if self.unbounded else positions
        return inside * (0.25 if self.unbounded else 0.5) + 0.5

    @property
    def feature_count(self) -> int:
        """Columns of the geometry features."""
        return self.density_net.biases[-1].shape[0]

    def encode_directions(self, directions: Float[Tensor, "rays 3"]) -> Float[Tensor, "rays harmonics"]:
        """Encode viewing directions for :meth:`color`."""
        harmonics = spherical_harmonics_encode(directions, _SH_DEGREE)
        if not self.is_coarse:
            return harmonics
        share = max(0.0, 1 - (1 - self.detail / self.grid.levels) / _DIRECTIONAL)
        return torch.cat([harmonics[:, :1], share * harmonics[:, 1:]], 1)

    def color(
        self,
        features: Float[Tensor, "samples geometry"],
        harmonics: Float[Tensor, "rays harmonics"],
        ray_index: Int[Tensor, " samples"],
    ) -> Float[Tensor, "samples 3"]:
        """Compute the sRGB color of each sample as seen along its ray; directions are encoded once per ray."""
        return self.color_net.along_rays(features, harmonics, ray_index, sigmoid=True)

    def parameter_groups(self, learning_rate: float, *, weight_decay: float) -> list[dict[str, Any]]:
        """Return the groups of all parameters for an optimizer: the table without decay, and the perceptrons with it."""
        networks = [*self.density_net.parameters(), *self.color_net.parameters()]
        return [
            {"params": [self.table], "lr": learning_rate, "weight_decay": 0.0},
            {"params": networks, "lr": learning_rate, "weight_decay": weight_decay},
        ]


def level_weights(detail: float, levels: int, *, like: Tensor) -> Float[Tensor, " seen"]:
    """Return the weights of the levels that are seen, from the coarsest.

    They are (1 - cos(π clamp(detail - level, 0, 1))) / 2, and one for the first level (Lin et al. 2021).

    >>> level_weights(2.5, 4, like=torch.zeros(1)).tolist()
    [1.0, 1.0, 0.5]
    """
    seen = min(levels, max(1, math.ceil(detail)))
    share = (detail - torch.arange(seen)).clamp(0, 1)
    share[0] = 1.0
    return ((1 - torch.cos(math.pi * share)) / 2).to(like)

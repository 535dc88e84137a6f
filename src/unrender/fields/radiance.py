"""Density and color of space from a multiresolution hash grid: the field of instant-ngp."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unrender.fields.perceptron import Perceptron, truncated_exp
from unrender.ops.encodings import HashGrid, contract, hash_encode, spherical_harmonics_encode

_SH_DEGREE = 4
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
        self.table = nn.Parameter(grid.initial_table(generator))
        self.density_net = Perceptron((grid.columns, *density_hidden, geometry_features), generator)
        self.color_net = Perceptron((geometry_features + _SH_DEGREE**2, *color_hidden, 3), generator)

    def density(self, positions: Float[Tensor, "samples 3"]) -> tuple[Float[Tensor, " samples"], Float[Tensor, "samples geometry"]]:
        """Compute the density per world unit and the geometry features, whose first is the raw density."""
        features = self.features(positions)
        return self.density_of(features), features

    def density_of(self, features: Float[Tensor, "samples geometry"]) -> Float[Tensor, " samples"]:
        """Compute the density per world unit from the geometry features."""
        return truncated_exp(features[:, 0] + _DENSITY_BIAS)

    def features(self, positions: Float[Tensor, "samples 3"]) -> Float[Tensor, "samples geometry"]:
        """Compute the geometry features g(h(x))."""
        unit = (contract(positions) * 0.25 if self.unbounded else positions * 0.5) + 0.5
        return self.density_net(hash_encode(unit, self.table, self.grid))

    @property
    def feature_count(self) -> int:
        """Columns of the geometry features."""
        return self.density_net.biases[-1].shape[0]

    def encode_directions(self, directions: Float[Tensor, "rays 3"]) -> Float[Tensor, "rays harmonics"]:
        """Encode viewing directions for :meth:`color`."""
        return spherical_harmonics_encode(directions, _SH_DEGREE)

    def color(
        self,
        features: Float[Tensor, "samples geometry"],
        harmonics: Float[Tensor, "rays harmonics"],
        ray_index: Int[Tensor, " samples"],
    ) -> Float[Tensor, "samples 3"]:
        """Compute the sRGB color of each sample as seen along its ray; directions are encoded once per ray."""
        return torch.sigmoid(self.color_net.along_rays(features, harmonics, ray_index))

    def parameter_groups(self, learning_rate: float, *, weight_decay: float) -> list[dict[str, Any]]:
        """Return the groups of all parameters for an optimizer: the table without decay, and the perceptrons with it."""
        networks = [*self.density_net.parameters(), *self.color_net.parameters()]
        return [
            {"params": [self.table], "lr": learning_rate, "weight_decay": 0.0},
            {"params": networks, "lr": learning_rate, "weight_decay": weight_decay},
        ]

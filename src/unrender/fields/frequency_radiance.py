"""Density and color of space from one perceptron of encoded positions: the field of NeRF."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unrender.fields.perceptron import Perceptron
from unrender.ops.encodings import frequency_encode


class FrequencyRadiance(nn.Module):
    """A trunk of ReLU layers gives a raw density and features; a branch gives the color of (features, direction).

    Args:
        octaves: of the encoding of positions, L in γ(x) = (x, sin 2^k x, cos 2^k x), k = 0 .. L - 1.
        direction_octaves: of the encoding of directions.
        trunk: units of the layers of the trunk.
        skip: layers after which the encoded position is an input again; 0 for none.
        features: number of features that the trunk passes to the branch.
        color_hidden: units of the hidden layers of the branch.
        generator: draws the initial weights, on the CPU.

    Raises:
        ValueError: there are not more layers than ``skip``.
    """

    def __init__(
        self,
        *,
        octaves: int,
        direction_octaves: int,
        trunk: tuple[int, ...],
        skip: int,
        features: int,
        color_hidden: tuple[int, ...],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if not 0 <= skip < len(trunk):
            raise ValueError(f"skip is {skip}; it must be at least 0 and less than the {len(trunk)} layers of the trunk")
        self.octaves, self.direction_octaves = octaves, direction_octaves
        inputs, directions = 3 * (2 * octaves + 1), 3 * (2 * direction_octaves + 1)
        self.before = Perceptron((inputs, *trunk[:skip]), generator) if skip else None
        self.after = Perceptron((inputs + (trunk[skip - 1] if skip else 0), *trunk[skip:], 1 + features), generator)
        self.color_net = Perceptron((features + directions, *color_hidden, 3), generator)

    def raw(self, positions: Float[Tensor, "samples 3"], active_octaves: float) -> Float[Tensor, "samples outputs"]:
        """Compute the raw density, in the first column, and the features.

        Args:
            positions: in the space of the field.
            active_octaves: number of octaves that are not masked, the last one partly (coarse to fine).
        """
        encoded = frequency_encode(positions, self.octaves, active_frequencies=active_octaves)
        if self.before is None:
            return self.after(encoded)
        return self.after(torch.cat([torch.relu(self.before(encoded)).t(), encoded.t()]).t())

    def encode_directions(self, directions: Float[Tensor, "rays 3"]) -> Float[Tensor, "rays columns"]:
        """Encode viewing directions for :meth:`color`."""
        return frequency_encode(directions, self.direction_octaves)

    def color(
        self,
        raw: Float[Tensor, "samples outputs"],
        directions: Float[Tensor, "rays columns"],
        ray_index: Int[Tensor, " samples"],
    ) -> Float[Tensor, "samples 3"]:
        """Compute the sRGB color of each sample as seen along its ray; directions are encoded once per ray."""
        return torch.sigmoid(self.color_net.along_rays(raw[:, 1:], directions, ray_index))

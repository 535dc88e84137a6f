"""A material that varies in space: a hash encoding and a small perceptron (Munkberg et al. 2022)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unrender.fields.perceptron import Perceptron
from unrender.ops.encodings import HashGrid, hash_encode


class SpatialMaterial(nn.Module):
    """m(x) = low + (high − low) sigmoid(p(h(x))), with h a hash encoding of a box and p a perceptron.

    Args:
        grid: shape of the hash grid.
        hidden: units of the hidden layers of p.
        box: the smallest and the largest corner of the region that the grid covers; points beyond it take the values of its border.
        low: smallest value of each channel.
        high: largest value of each channel.
        start: value of each channel at first.
        generator: draws the initial weights, on the CPU.
    """

    box: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self,
        grid: HashGrid,
        *,
        hidden: tuple[int, ...],
        box: Float[Tensor, "2 3"],
        low: Float[Tensor, " channels"],
        high: Float[Tensor, " channels"],
        start: Float[Tensor, " channels"],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.table = nn.Parameter(grid.initial_table(generator))
        self.net = Perceptron((grid.columns, *hidden, len(low)), generator)
        share = ((start - low) / (high - low).clamp_min(1e-6)).clamp(0.01, 0.99)
        with torch.no_grad():
            self.net.biases[-1].copy_(torch.logit(share))
        self.register_buffer("box", box.float())
        self.register_buffer("low", low.float())
        self.register_buffer("high", high.float())

    def forward(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points channels"]:
        """Return the material at some points."""
        unit = ((points - self.box[0]) / (self.box[1] - self.box[0])).clamp(0, 1)
        return self.low + (self.high - self.low) * torch.sigmoid(self.net(hash_encode(unit, self.table, self.grid)))

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Return the group of all parameters for an optimizer, without decay."""
        return [{"params": [self.table, *self.net.parameters()], "lr": learning_rate, "weight_decay": 0.0}]

"""A signed distance field from a hash grid and a perceptron: the field of instant-nsr-pl's NeuS and of Neuralangelo."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unrender.cameras import Rays
from unrender.fields.surface import StepOpacity, SurfaceAlong, SurfaceField, SurfaceSample
from unrender.ops.encodings import HashGrid, hash_encode
from unrender.ops.rays import OccupancyGrid, Samples
from unrender.words import Normals

_TETRAHEDRON = ((1.0, -1.0, -1.0), (-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, 1.0, 1.0))
_SOFTPLUS_SHARPNESS = 100.0


class HashSdf(SurfaceField):
    """f(x) is the first output of a softplus perceptron on (x, h(x)), with h a hash encoding; all outputs are the features.

    The weights start as a sphere (Atzmon and Lipman 2020; with one hidden layer the directions are spread evenly instead of drawn at
    random, for a rounder sphere) and are normalized row by row (Salimans and Kingma 2016).

    Args:
        grid: shape of the hash grid.
        hidden: units of the hidden layers.
        features: outputs besides the distance.
        radius: of the initial sphere.
        normals: ``analytic`` differentiates through the encoding (second order while fitting); ``taps6`` are central differences along
            the axes; ``taps4`` use the corners of a tetrahedron, (1/4ε) Σ k_i f(x + ε k_i). ε is one cell of the finest active level.
        start_level: levels active from the start.
        level_every: share of the budget between two added levels; 0 activates all from the start.
        level_start: share of the budget before the first added level.
        generator: draws the initial weights, on the CPU.
    """

    level: Tensor
    """``active_levels`` as part of the saved state."""

    def __init__(
        self,
        grid: HashGrid,
        *,
        hidden: tuple[int, ...],
        features: int,
        radius: float,
        normals: Normals,
        start_level: int,
        level_every: float,
        level_start: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.normals: Normals = normals
        self.start_level = start_level
        self.level_every = level_every
        self.level_start = level_start
        self.active_levels = min(start_level, grid.levels)
        self.register_buffer("level", torch.tensor(self.active_levels))
        self.table = nn.Parameter(grid.initial_table(generator))
        self.directions = nn.ParameterList()
        self.gains = nn.ParameterList()
        self.biases = nn.ParameterList()
        sizes = (3 + grid.columns, *hidden, 1 + features)
        for layer, (inputs, outputs) in enumerate(zip(sizes, sizes[1:], strict=False)):
            last = layer == len(sizes) - 2
            if last:
                weight = torch.randn(outputs, inputs, generator=generator) * 1e-4 + math.sqrt(math.pi / inputs)
                bias = torch.full((outputs,), -radius)
            else:
                weight = torch.randn(outputs, inputs, generator=generator) * math.sqrt(2 / outputs)
                bias = torch.zeros(outputs)
                if layer == 0:
                    weight[:, 3:] = 0.0
                    if len(hidden) == 1:
                        weight[:, :3] = _even_directions(outputs) * (4 / math.sqrt(math.pi * outputs))
            self.directions.append(nn.Parameter(weight))
            self.gains.append(nn.Parameter(weight.norm(dim=1)))
            self.biases.append(nn.Parameter(bias))

    @property
    def epsilon(self) -> float:
        """Step of the finite differences: one cell of the finest active level, in world units."""
        return 2.0 / (self.grid.base_resolution * self.grid.per_level_scale ** (self.active_levels - 1))

    @property
    def feature_count(self) -> int:
        return self.biases[-1].shape[0]

    def advance(self, fraction: float) -> bool:
        if self.level_every <= 0:
            self.active_levels = self.grid.levels
        else:
            gained = int(max(0.0, fraction - self.level_start) / self.level_every)
            # The fraction falls where a fit goes on with a larger budget; levels that have been fitted stay.
            self.active_levels = max(self.active_levels, min(self.grid.levels, self.start_level + gained))
        self.level.fill_(self.active_levels)
        return False

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: dict[str, Any], prefix: str, *rest: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.active_levels = int(state_dict[f"{prefix}level"])

    def outputs(self, positions: Float[Tensor, "samples 3"]) -> Float[Tensor, "samples outputs"]:
        """Compute all outputs of the perceptron, the signed distance first."""
        encoded = hash_encode(positions * 0.5 + 0.5, self.table, self.grid, active_levels=self.active_levels)
        x = torch.cat([positions, encoded], dim=-1)
        for layer, (direction, gain, bias) in enumerate(zip(self.directions, self.gains, self.biases, strict=True)):
            weight = direction * (gain / direction.norm(dim=1))[:, None]
            x = F.linear(x, weight[:, : x.shape[1]] if layer == 0 else weight, bias)
            if layer + 1 < len(self.biases):
                x = F.softplus(x, beta=_SOFTPLUS_SHARPNESS)
        return x

    def sdf(self, positions: Float[Tensor, "samples 3"]) -> Float[Tensor, " samples"]:
        return self.outputs(positions)[:, 0]

    def sample(self, positions: Float[Tensor, "samples 3"]) -> SurfaceSample:
        if self.normals == "analytic":
            learning = torch.is_grad_enabled()
            with torch.enable_grad():
                x = positions if positions.requires_grad else positions.detach().requires_grad_()
                outputs = self.outputs(x)
                (gradient,) = torch.autograd.grad(outputs[:, 0].sum(), x, create_graph=learning)
            return SurfaceSample(outputs[:, 0], gradient, outputs, None)
        outputs = self.outputs(positions)
        value = outputs[:, 0]
        epsilon = self.epsilon
        if self.normals == "taps4":
            step = epsilon / math.sqrt(3)
            corners = torch.tensor(_TETRAHEDRON, device=positions.device)
            taps = self._taps(positions, corners * step)
            gradient = (taps[:, :, None] * corners).sum(1) / (4 * step)
            laplacian = (taps.sum(1) - 4 * value) / (2 * step**2)
        else:
            axes = torch.eye(3, device=positions.device)
            taps = self._taps(positions, torch.cat([axes, -axes]) * epsilon)
            gradient = (taps[:, :3] - taps[:, 3:]) / (2 * epsilon)
            laplacian = (taps.sum(1) - 6 * value) / epsilon**2
        return SurfaceSample(value, gradient, outputs, laplacian)

    def along(self, samples: Samples, rays: Rays) -> SurfaceAlong:
        positions = samples.positions(rays)
        surface = self.sample(positions)
        directions = rays.directions.index_select(0, samples.ray_index.clamp_min(0))
        return SurfaceAlong(positions, surface, surface.sdf, (directions * surface.normals).sum(-1))

    @torch.no_grad()
    def refresh_occupancy(
        self, occupancy: OccupancyGrid, opacity: StepOpacity, *, threshold: float, all_cells: bool, generator: torch.Generator
    ) -> None:
        half_diagonal = math.sqrt(3) / occupancy.resolution

        def opacity_at(positions: Tensor) -> Tensor:
            sdf = self.sdf(positions)
            return opacity(sdf, sdf + half_diagonal)

        cells = None if all_cells else occupancy.values.shape[0] // 4
        occupancy.update(opacity_at, threshold=threshold, cells=cells, generator=generator)

    def parameter_groups(self, learning_rate: float, *, weight_decay: float) -> list[dict[str, Any]]:
        networks = [*self.directions, *self.gains, *self.biases]
        return [
            {"params": [self.table], "lr": learning_rate, "weight_decay": 0.0},
            {"params": networks, "lr": learning_rate, "weight_decay": weight_decay},
        ]

    def regularize(self, step: int, weight: float) -> Mapping[str, Float[Tensor, ""]]:
        return {}

    def _taps(self, positions: Tensor, offsets: Tensor) -> Tensor:
        """Compute f at each position plus each offset, as [samples, offsets]."""
        points = (positions[None] + offsets[:, None]).clamp(-1, 1).reshape(-1, 3)
        return self.sdf(points).reshape(offsets.shape[0], -1).t()


def _even_directions(count: int) -> Float[Tensor, "count 3"]:
    """Return unit vectors spread evenly over the sphere, along a golden spiral."""
    index = torch.arange(count) + 0.5
    height = 1 - 2 * index / count
    angle = math.pi * (1 + math.sqrt(5)) * index
    radius = (1 - height * height).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), height], dim=-1)

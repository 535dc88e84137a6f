"""A signed distance field in a dense grid, refined from coarse to fine, for two CPU cores (after Voxurf and ProbeSDF)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unrender.cameras import Rays
from unrender.fields.stages import Stage
from unrender.fields.surface import StepOpacity, SurfaceAlong, SurfaceField, SurfaceSample
from unrender.ops.encodings import add_grid_bending, grid_lookup, grid_lookup_with_jacobian
from unrender.ops.rays import OccupancyGrid, Samples, grid_surface, grid_visible

_SLAB = 16
"""Layers of the distance grid whose bending energy one step measures, for a tenth of the cost of the whole grid."""
_SLAB_STRIDE = 7919
"""A prime, so that the slabs of successive steps spread over the grid."""


class GridSdf(SurfaceField):
    """f(x) and ∇f(x) by trilinear interpolation of one grid, features from another.

    A refinement keeps the function (trilinear upsampling) and makes new parameters.

    Args:
        stages: the sizes of the grids over a fit.
        features: features per vertex.
        initial: signed distances at the vertices of a grid of any size over the world cube.
        feature_rate: learning rate of the features relative to that of networks.
        distance_rate: learning rate of the distances, in cells of the first grid.
    """

    def __init__(
        self,
        stages: tuple[Stage, ...],
        features: int,
        initial: Float[Tensor, "Z Y X"],
        *,
        feature_rate: float = 4.0,
        distance_rate: float = 0.1,
    ) -> None:
        super().__init__()
        self.stages = stages
        self.stage = 0
        self.feature_rate = feature_rate
        self.distance_rate = distance_rate
        _, size, feature_size = stages[0]
        self.distance_grid = nn.Parameter(_resized(initial[..., None], size))
        self.feature_grid = nn.Parameter(torch.zeros(feature_size, feature_size, feature_size, features))

    @property
    def voxel(self) -> float:
        """Edge of a cell of the distance grid, in world units."""
        return 2.0 / (self.distance_grid.shape[0] - 1)

    @property
    def feature_count(self) -> int:
        return self.feature_grid.shape[3]

    def sdf(self, positions: Float[Tensor, "samples 3"]) -> Float[Tensor, " samples"]:
        return grid_lookup(positions * 0.5 + 0.5, self.distance_grid)[:, 0]

    def sample(self, positions: Float[Tensor, "samples 3"]) -> SurfaceSample:
        unit = positions * 0.5 + 0.5
        value, jacobian = grid_lookup_with_jacobian(unit, self.distance_grid)
        return SurfaceSample(value[:, 0], jacobian[:, 0] * 0.5, grid_lookup(unit, self.feature_grid), None)

    def along(self, samples: Samples, rays: Rays) -> SurfaceAlong:
        if rays.origins.requires_grad or rays.directions.requires_grad:
            positions = samples.positions(rays)
            return SurfaceAlong(positions, self.sample(positions), *self.secant(samples, rays))
        found = grid_surface(samples, rays, self.distance_grid, self.feature_grid)
        surface = SurfaceSample(found.sdf, found.gradient, found.features, None)
        return SurfaceAlong(found.positions, surface, found.middle, found.slope)

    def visible(
        self, samples: Samples, rays: Rays, sharpness: Float[Tensor, ""], *, anneal: float, threshold: float, alpha_threshold: float
    ) -> Bool[Tensor, " samples"]:
        grid = self.distance_grid
        return grid_visible(samples, rays, grid, sharpness, anneal=anneal, threshold=threshold, alpha_threshold=alpha_threshold)

    @torch.no_grad()
    def refresh_occupancy(
        self, occupancy: OccupancyGrid, opacity: StepOpacity, *, threshold: float, all_cells: bool, generator: torch.Generator
    ) -> None:
        # Lookups in the grid are cheap, so every cell is visited. The range of the distances at its corners is widened by a quarter,
        # because the distance is not linear within the cell.
        low, high = self._range_of_cells(occupancy.resolution)
        slack = 0.25 * (high - low)
        low, high = low - slack, high + slack
        nearest = torch.where(low > 0, low, torch.where(high < 0, high, 0.0))
        occupancy.set_from_values(opacity(nearest, high), threshold)

    def _range_of_cells(self, resolution: int) -> tuple[Tensor, Tensor]:
        """Return the smallest and the largest signed distance at the eight corners of every cell, x fastest."""
        axis = torch.linspace(-1, 1, resolution + 1, device=self.distance_grid.device)
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        corners = self.sdf(torch.stack([x, y, z], dim=-1).reshape(-1, 3)).reshape(1, 1, *x.shape)
        return -F.max_pool3d(-corners, 2, 1).reshape(-1), F.max_pool3d(corners, 2, 1).reshape(-1)

    @torch.no_grad()
    def advance(self, fraction: float) -> bool:
        wanted = max(k for k, (start, _, _) in enumerate(self.stages) if fraction >= start)
        if wanted <= self.stage:
            return False
        self.stage = wanted
        _, size, feature_size = self.stages[wanted]
        self.distance_grid = nn.Parameter(_resized(self.distance_grid, size))
        self.feature_grid = nn.Parameter(_resized(self.feature_grid, feature_size))
        return True

    def parameter_groups(self, learning_rate: float, *, weight_decay: float) -> list[dict[str, Any]]:
        return [
            {"params": [self.feature_grid], "lr": learning_rate * self.feature_rate, "weight_decay": 0.0},
            {"params": [self.distance_grid], "lr": self.distance_rate * self.voxel, "weight_decay": 0.0},
        ]

    def regularize(self, step: int, weight: float) -> Mapping[str, Float[Tensor, ""]]:
        """Add the gradient of ``bending``, the mean squared Laplacian of a slab of the distance grid, in cells.

        Each step takes another slab.
        """
        grid = self.distance_grid
        thickness = min(_SLAB, grid.shape[0])
        begin = step * _SLAB_STRIDE % (grid.shape[0] - thickness + 1)
        if grid.grad is None:
            grid.grad = torch.zeros_like(grid)
        scale = weight / self.voxel**2
        return {"bending": add_grid_bending(grid.detach(), grid.grad, begin=begin, end=begin + thickness, scale=scale)}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Resize to the stage of a saved state before its values are loaded."""
        saved = state_dict[f"{prefix}distance_grid"]
        self.distance_grid.data = torch.empty_like(saved, device=self.distance_grid.device)
        self.feature_grid.data = torch.empty_like(state_dict[f"{prefix}feature_grid"], device=self.feature_grid.device)
        sizes = (saved.shape[0], self.feature_grid.shape[0])
        self.stage = max((k for k, stage in enumerate(self.stages) if stage[1:] == sizes), default=0)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _resized(grid: Tensor, size: int) -> Tensor:
    """Resample a grid [Z, Y, X, C] trilinearly; the first and last vertices stay in place."""
    volume = grid.permute(3, 0, 1, 2)[None]
    return F.interpolate(volume, size=(size, size, size), mode="trilinear", align_corners=True)[0].permute(1, 2, 3, 0).contiguous()


def sphere_distance(size: int, radius: float) -> Float[Tensor, "size size size"]:
    """Return the signed distance to a sphere around the origin at the vertices of a grid over [-1, 1]³."""
    axis = torch.linspace(-1, 1, size)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return (x * x + y * y + z * z).sqrt() - radius

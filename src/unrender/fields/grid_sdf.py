"""A signed distance field stored in a dense grid, refined from coarse to fine: the field for two cores (after Voxurf and ProbeSDF)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unrender.fields.surface import SurfaceField, SurfaceSample
from unrender.ops.encodings import grid_lookup, grid_lookup_with_jacobian

Stage = tuple[float, int, int]
"""From this share of the budget on: vertices along an axis of the distance grid and of the feature grid."""


class GridSdf(SurfaceField):
    """f(x) and ∇f(x) by trilinear interpolation of one grid, features of another.

    A refinement keeps the function (trilinear upsampling) and makes new parameters.
    """

    def __init__(self, stages: tuple[Stage, ...], features: int, initial: Float[Tensor, "Z Y X"]) -> None:
        super().__init__()
        self.stages = stages
        self.stage = 0
        _, size, feature_size = stages[0]
        self.distance_grid = nn.Parameter(_resized(initial[..., None], size))
        self.feature_grid = nn.Parameter(torch.zeros(feature_size, feature_size, feature_size, features))

    @property
    def voxel(self) -> float:
        """Edge of a cell of the distance grid, in world units."""
        return 2.0 / (self.distance_grid.shape[0] - 1)

    def sdf(self, positions: Float[Tensor, "samples 3"]) -> Float[Tensor, " samples"]:
        return grid_lookup(positions * 0.5 + 0.5, self.distance_grid)[:, 0]

    def sample(self, positions: Float[Tensor, "samples 3"]) -> SurfaceSample:
        unit = positions * 0.5 + 0.5
        value, jacobian = grid_lookup_with_jacobian(unit, self.distance_grid)
        return SurfaceSample(value[:, 0], jacobian[:, 0] * 0.5, grid_lookup(unit, self.feature_grid), None)

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

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A saved state may be at any stage: take its sizes before its values."""
        saved = state_dict[f"{prefix}distance_grid"]
        self.distance_grid.data = torch.empty_like(saved, device=self.distance_grid.device)
        self.feature_grid.data = torch.empty_like(state_dict[f"{prefix}feature_grid"], device=self.feature_grid.device)
        sizes = (saved.shape[0], self.feature_grid.shape[0])
        self.stage = max((k for k, stage in enumerate(self.stages) if stage[1:] == sizes), default=0)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _resized(grid: Tensor, size: int) -> Tensor:
    """Trilinear resampling of [Z, Y, X, C] with the first and last vertices kept."""
    volume = grid.permute(3, 0, 1, 2)[None]
    return F.interpolate(volume, size=(size, size, size), mode="trilinear", align_corners=True)[0].permute(1, 2, 3, 0).contiguous()


def sphere_distance(size: int, radius: float) -> Float[Tensor, "size size size"]:
    """Signed distance to a sphere around the origin at the vertices of a grid over [-1, 1]³."""
    axis = torch.linspace(-1, 1, size)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return (x * x + y * y + z * z).sqrt() - radius

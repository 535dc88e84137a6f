"""A signed distance field in a dense grid, refined from coarse to fine, for two CPU cores (after Voxurf and ProbeSDF)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unrender.cameras import Rays
from unrender.fields.stages import Stage
from unrender.fields.surface import StepOpacity, SurfaceField, SurfaceSample
from unrender.geometry.distance_lattice import CUBE, DistanceLattice, lattice_shape
from unrender.ops.encodings import grid_lookup, grid_lookup_with_jacobian
from unrender.ops.rays import OccupancyGrid, Samples


class GridSdf(SurfaceField):
    """f(x) and ∇f(x) by trilinear interpolation of one grid, features from another.

    The grids cover a box, the object's where it is known, with nearly cubic cells; beyond it the distance is that of its border. A
    refinement keeps the function (trilinear upsampling) and makes new parameters.

    Args:
        stages: the sizes of the grids over a fit: a grid of size n has about n³ vertices, whatever the shape of the box.
        features: features per vertex.
        initial: signed distances at the vertices of a lattice of any size over the box.
        feature_rate: learning rate of the features relative to that of networks.
        distance_rate: learning rate of the distances, in cells of the first grid.
    """

    box: Tensor

    def __init__(
        self,
        stages: tuple[Stage, ...],
        features: int,
        initial: DistanceLattice,
        *,
        feature_rate: float = 4.0,
        distance_rate: float = 0.1,
    ) -> None:
        super().__init__()
        self.stages = stages
        self.stage = 0
        self.feature_rate = feature_rate
        self.distance_rate = distance_rate
        self.register_buffer("box", initial.bounds.float().clone())
        _, size, feature_size = stages[0]
        self.distance_grid = nn.Parameter(_resized(initial.values[..., None], lattice_shape(self.box, size)))
        self.feature_grid = nn.Parameter(torch.zeros(*lattice_shape(self.box, feature_size), features))

    @property
    def bounds(self) -> Float[Tensor, "2 3"]:
        return self.box

    @property
    def voxel(self) -> float:
        """Mean edge of a cell of the distance grid, in world units."""
        z, y, x, _ = self.distance_grid.shape
        return float(((self.box[1] - self.box[0]).prod() / ((z - 1) * (y - 1) * (x - 1))) ** (1 / 3))

    def _unit(self, positions: Float[Tensor, "samples 3"]) -> Float[Tensor, "samples 3"]:
        """Return positions in the box, from 0 to 1 along each axis."""
        return (positions - self.box[0]) * (1 / (self.box[1] - self.box[0]))

    @property
    def feature_count(self) -> int:
        return self.feature_grid.shape[3]

    def sdf(self, positions: Float[Tensor, "samples 3"]) -> Float[Tensor, " samples"]:
        return grid_lookup(self._unit(positions), self.distance_grid)[:, 0]

    def sample(self, positions: Float[Tensor, "samples 3"]) -> SurfaceSample:
        unit = self._unit(positions)
        value, jacobian = grid_lookup_with_jacobian(unit, self.distance_grid)
        return SurfaceSample(value[:, 0], jacobian[:, 0] / (self.box[1] - self.box[0]), grid_lookup(unit, self.feature_grid), None)

    def along(self, samples: Samples, rays: Rays, surface: SurfaceSample) -> tuple[Float[Tensor, " samples"], Float[Tensor, " samples"]]:
        return self.secant(samples, rays)

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
        self.distance_grid = nn.Parameter(_resized(self.distance_grid, lattice_shape(self.box, size)))
        self.feature_grid = nn.Parameter(_resized(self.feature_grid, lattice_shape(self.box, feature_size)))
        return True

    def parameter_groups(self, learning_rate: float, *, weight_decay: float) -> list[dict[str, Any]]:
        return [
            {"params": [self.feature_grid], "lr": learning_rate * self.feature_rate, "weight_decay": 0.0},
            {"params": [self.distance_grid], "lr": self.distance_rate * self.voxel, "weight_decay": 0.0},
        ]

    @torch.no_grad()
    def smooth(self, strength: float) -> None:
        """Damp ripples of a few cells.

        g ← g - strength (1 - B)² g, with B the binomial filter of three vertices along each axis. A ripple of two cells loses ``strength``
        of its amplitude, one of four cells a quarter of that along an axis, one of eight a fiftieth: shapes keep their size and curvature.
        Adam would scale the gradient of such a term like any other, so it is none.
        """
        grid = self.distance_grid[..., 0]
        rough = grid[1:-1, 1:-1, 1:-1] - _binomial(grid)
        grid[2:-2, 2:-2, 2:-2] -= strength * (rough[1:-1, 1:-1, 1:-1] - _binomial(rough))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Resize to the stage of a saved state before its values are loaded."""
        saved = state_dict[f"{prefix}distance_grid"]
        self.distance_grid.data = torch.empty_like(saved, device=self.distance_grid.device)
        self.feature_grid.data = torch.empty_like(state_dict[f"{prefix}feature_grid"], device=self.feature_grid.device)
        box = state_dict.setdefault(f"{prefix}box", torch.tensor(CUBE))  # absent from snapshots of earlier versions
        shapes = saved.shape[:3], self.feature_grid.shape[:3]
        fitting = [k for k, stage in enumerate(self.stages) if tuple(lattice_shape(box, size) for size in stage[1:]) == shapes]
        self.stage = max(fitting, default=0)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _binomial(volume: Float[Tensor, "Z Y X"]) -> Float[Tensor, "depth height width"]:
    """Filter with (1, 2, 1) / 4 along each axis; the result lacks the border."""
    for axis, size in enumerate(volume.shape):
        middles = (volume.narrow(axis, 0, size - 1) + volume.narrow(axis, 1, size - 1)).mul_(0.5)
        volume = (middles.narrow(axis, 0, size - 2) + middles.narrow(axis, 1, size - 2)).mul_(0.5)
    return volume


def _resized(grid: Float[Tensor, "Z Y X C"], shape: tuple[int, int, int]) -> Float[Tensor, "depth height width C"]:
    """Resample a grid trilinearly; the first and last vertices stay in place."""
    volume = grid.permute(3, 0, 1, 2)[None]
    return F.interpolate(volume, size=shape, mode="trilinear", align_corners=True)[0].permute(1, 2, 3, 0).contiguous()

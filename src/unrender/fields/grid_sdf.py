"""A signed distance field in a dense grid, refined from coarse to fine, for two CPU cores (after Voxurf and ProbeSDF)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unrender.cameras import Rays
from unrender.fields.radiance import RadianceField
from unrender.fields.stages import Stage
from unrender.fields.surface import StepOpacity, SurfaceAlong, SurfaceField, SurfaceSample
from unrender.ops.encodings import add_grid_bending, grid_lookup, grid_lookup_with_jacobian, smoothed_grid
from unrender.ops.rays import OccupancyGrid, Samples, grid_surface, grid_visible

_SLAB = 16
"""Layers of the distance grid whose bending energy one step measures, for a tenth of the cost of the whole grid."""
_SLAB_STRIDE = 7919
"""A prime, so that the slabs of successive steps spread over the grid."""
_AVERAGED_FROM, _AVERAGED_EVERY = 0.85, 4
"""The distances end as the mean over the steps from this fraction of the budget on, of which every so many enter."""


class GridSdf(SurfaceField):
    """f(x) and ∇f(x) by trilinear interpolation of a grid over a box; features of a radiance field, whose colors are those of the surface.

    Normals and colors take ∇f from the grid averaged with its neighbors, where it does not jump at every cell (Voxurf, Wu et al. 2023).
    Beyond the box f grows with the distance from it. A refinement keeps the function (trilinear upsampling) and makes new parameters. Every
    step moves a vertex by the noise of the few rays near it, so at the end the distances become their mean over the last steps (Polyak and
    Juditsky 1992), which is smoother and no less sharp.

    Args:
        stages: the sizes of the grid over a fit, as if it covered the world cube: its cells depend on the stage alone.
        radiance: the radiance field.
        initial: signed distances at the vertices of a grid of any size over the world cube.
        box: the smallest and the largest corner of the box within the world cube; by default that cube.
        distance_rate: learning rate of the distances, in cells of the first grid.
    """

    box: Tensor
    mean: Tensor
    entered: Tensor
    """How many steps of the end have been counted, for a saved state; read from there alone, because a GPU would have to be waited for."""

    def __init__(
        self,
        stages: tuple[Stage, ...],
        radiance: RadianceField,
        initial: Float[Tensor, "Z Y X"],
        *,
        box: Float[Tensor, "2 3"] | None = None,
        distance_rate: float = 0.1,
    ) -> None:
        super().__init__()
        self.stages = stages
        self.stage = 0
        self.distance_rate = distance_rate
        self.register_buffer("box", torch.tensor([[-1.0] * 3, [1.0] * 3]) if box is None else box.float().clone())
        self.distance_grid = nn.Parameter(_cropped(initial, self.box, _shape(self.box, stages[0][1])))
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("entered", torch.zeros((), dtype=torch.int64))
        self._entered = 0
        self._kept: tuple[Tensor, int, int, Tensor] | None = None
        self.color_source = radiance

    @property
    def radiance(self) -> RadianceField:
        return self.color_source

    @property
    def voxel(self) -> float:
        """Edge of a cell of the distance grid, in world units."""
        return 2.0 / (self.stages[self.stage][1] - 1)

    @property
    def feature_count(self) -> int:
        return self.radiance.feature_count

    def _unit(self, positions: Float[Tensor, "samples 3"]) -> Float[Tensor, "samples 3"]:
        """Return positions in the box, from 0 to 1 along each axis."""
        return (positions - self.box[0]) * (1 / (self.box[1] - self.box[0]))

    def sdf(self, positions: Float[Tensor, "samples 3"]) -> Float[Tensor, " samples"]:
        beyond = positions - torch.minimum(torch.maximum(positions, self.box[0]), self.box[1])
        return grid_lookup(self._unit(positions), self.distance_grid)[:, 0] + beyond.norm(dim=1)

    def sample(self, positions: Float[Tensor, "samples 3"]) -> SurfaceSample:
        unit, size = self._unit(positions), self.box[1] - self.box[0]
        value, jacobian = grid_lookup_with_jacobian(unit, self.distance_grid)
        averaged = grid_lookup_with_jacobian(unit, self._smoothed())[1][:, 0] / size
        return SurfaceSample(value[:, 0], jacobian[:, 0] / size, self.radiance.features(positions), None, averaged)

    def _smoothed(self) -> Tensor:
        """Return the averaged grid.

        Without gradients it is that of the last call if the distances are the same since, as they are in all chunks of a view.
        """
        grid, kept = self.distance_grid, self._kept
        if torch.is_grad_enabled() or grid.is_inference():  # a tensor of inference mode does not know whether it was changed
            self._kept = None
            return smoothed_grid(grid)
        address, version = grid.data_ptr(), grid._version
        if kept is None or kept[0] is not grid or kept[1:3] != (address, version):
            self._kept = kept = grid, address, version, smoothed_grid(grid)
        return kept[3]

    def along(self, samples: Samples, rays: Rays) -> SurfaceAlong:
        if rays.origins.requires_grad or rays.directions.requires_grad:
            positions = samples.positions(rays)
            return SurfaceAlong(positions, self.sample(positions), *self.secant(samples, rays))
        found = grid_surface(samples, rays, self.distance_grid, other=self._smoothed(), box=self.box)
        surface = SurfaceSample(found.sdf, found.gradient, self.radiance.features(found.positions), None, found.other_gradient)
        return SurfaceAlong(found.positions, surface, found.middle, found.slope)

    def visible(
        self, samples: Samples, rays: Rays, sharpness: Float[Tensor, ""], *, anneal: float, threshold: float, alpha_threshold: float
    ) -> Bool[Tensor, " samples"]:
        limits = {"threshold": threshold, "alpha_threshold": alpha_threshold}
        return grid_visible(samples, rays, self.distance_grid, sharpness, anneal=anneal, box=self.box, **limits)

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
        ticks = torch.linspace(-1, 1, resolution + 1, device=self.distance_grid.device)
        z, y, x = torch.meshgrid(ticks, ticks, ticks, indexing="ij")
        low = high = self.sdf(torch.stack([x, y, z], dim=-1).reshape(-1, 3)).reshape(x.shape)
        for axis in range(3):
            low = torch.minimum(low.narrow(axis, 0, resolution), low.narrow(axis, 1, resolution))
            high = torch.maximum(high.narrow(axis, 0, resolution), high.narrow(axis, 1, resolution))
        return low.reshape(-1), high.reshape(-1)

    @torch.no_grad()
    def advance(self, fraction: float) -> bool:
        wanted = max(k for k, (start, _) in enumerate(self.stages) if fraction >= start)
        if wanted > self.stage:
            self.stage = wanted
            self.distance_grid = nn.Parameter(_resized(self.distance_grid, _shape(self.box, self.stages[wanted][1])))
            self._forget_mean()
            return True
        if fraction >= _AVERAGED_FROM:
            self._entered += 1
            self.entered.fill_(self._entered)
            if self._entered % _AVERAGED_EVERY == 1:
                number = 1 + self._entered // _AVERAGED_EVERY
                self.mean = self.distance_grid.clone() if number == 1 else self.mean.lerp_(self.distance_grid, 1 / number)
        return False

    @torch.no_grad()
    def settle(self) -> None:
        if self.mean.numel():
            self.distance_grid.copy_(self.mean)
        self._forget_mean()

    def _forget_mean(self) -> None:
        self.mean = torch.empty(0, device=self.mean.device)
        self._entered = 0
        self.entered.zero_()

    def parameter_groups(self, learning_rate: float, *, weight_decay: float) -> list[dict[str, Any]]:
        distances = {"params": [self.distance_grid], "lr": self.distance_rate * self.voxel, "weight_decay": 0.0, "falls_early": True}
        return [distances, *self.radiance.parameter_groups(learning_rate, weight_decay=weight_decay)]

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
        saved, box = state_dict[f"{prefix}distance_grid"], state_dict[f"{prefix}box"]
        self.distance_grid.data = torch.empty_like(saved, device=self.distance_grid.device)
        self._forget_mean()
        for name in ("mean", "entered"):  # absent from states of earlier versions
            found = state_dict.setdefault(f"{prefix}{name}", getattr(self, name))
            setattr(self, name, torch.empty_like(found, device=self.distance_grid.device))
        self._entered = int(state_dict[f"{prefix}entered"])
        fitting = [number for number, (_, size) in enumerate(self.stages) if _shape(box, size) == tuple(saved.shape[:3])]
        self.stage = max(fitting, default=0)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _shape(box: Float[Tensor, "2 3"], size: int) -> tuple[int, int, int]:
    """Return the vertices along z, y and x of a grid over a box. Its cells are those of ``size``³ vertices over the world cube."""
    x, y, z = (max(2, round(side * (size - 1) / 2) + 1) for side in (box[1] - box[0]).tolist())
    return z, y, x


def _cropped(
    initial: Float[Tensor, "Z Y X"], box: Float[Tensor, "2 3"], shape: tuple[int, int, int]
) -> Float[Tensor, "depth height width 1"]:
    """Interpolate distances over the world cube at the vertices of a grid over a box."""
    axes = [torch.linspace(low, high, count) for low, high, count in zip(*box.tolist(), shape[::-1], strict=True)]
    z, y, x = torch.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    places = torch.stack([x, y, z], dim=-1)[None]
    return F.grid_sample(initial[None, None], places, padding_mode="border", align_corners=True)[0, 0, ..., None].contiguous()


def _resized(grid: Float[Tensor, "Z Y X C"], shape: tuple[int, int, int]) -> Float[Tensor, "depth height width C"]:
    """Resample a grid trilinearly; the first and last vertices stay in place."""
    volume = grid.permute(3, 0, 1, 2)[None]
    return F.interpolate(volume, size=shape, mode="trilinear", align_corners=True)[0].permute(1, 2, 3, 0).contiguous()


def sphere_distance(size: int, radius: float) -> Float[Tensor, "size size size"]:
    """Return the signed distance to a sphere around the origin at the vertices of a grid over [-1, 1]³."""
    axis = torch.linspace(-1, 1, size)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return (x * x + y * y + z * z).sqrt() - radius

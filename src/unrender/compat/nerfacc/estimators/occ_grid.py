"""Samples where an occupancy grid has seen density."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unrender.compat.nerfacc.grid import traverse_grids
from unrender.compat.nerfacc.volrend import render_visibility_from_alpha, render_visibility_from_density
from unrender.ops.kernels.checks import Arguments

_CHUNK = 2**18
"""Points evaluated at once in an update."""

_BELOW_MEAN = 0.999
"""What a cell needs, as a share of the mean. A new field is nearly the same everywhere: half of its cells would be below the mean."""


class OccGridEstimator(nn.Module):
    """Nested grids of cells around a scene, each twice as large as the one before, with a value and a bit per cell.

    All cells are empty until :meth:`update_every_n_steps` has evaluated the field.
    """

    DIM: int = 3
    resolution: Int[Tensor, " 3"]
    """Cells along each axis."""
    aabbs: Float[Tensor, "levels 6"]
    """Box of each grid."""
    occs: Float[Tensor, " cells"]
    """Decayed maximum of what was found in each cell, grid after grid in the order [x, y, z]; -1 in a cell that is never occupied."""
    binaries: Tensor
    """Whether cells are occupied, ``[levels, x, y, z]``."""
    grid_coords: Int[Tensor, "cells 3"]
    """Index along each axis of the cells of one grid."""
    grid_indices: Int[Tensor, " cells"]
    """Number of the cells of one grid."""

    def __init__(
        self, roi_aabb: Sequence[int | float] | Float[Tensor, " 6"], resolution: int | Sequence[int] | Tensor = 128, levels: int = 1
    ) -> None:
        """Make an empty grid.

        Args:
            roi_aabb: least and greatest corner of the region of interest, the first grid.
            resolution: cells along each axis, one number or three.
            levels: number of grids.

        Raises:
            ValueError: the box is not six ascending numbers, or a size is not positive.
        """
        super().__init__()
        takes = Arguments("OccGridEstimator")
        box = roi_aabb.detach() if isinstance(roi_aabb, Tensor) else torch.tensor([float(x) for x in takes.items(roi_aabb, "roi_aabb")])
        box = box.float()
        if box.shape != (6,) or not bool((box[:3] < box[3:]).all()):
            raise ValueError(f"OccGridEstimator takes least and greatest corner as roi_aabb, got {box.tolist()}")
        sizes = [resolution] * 3 if isinstance(resolution, int) else [int(size) for size in takes.items(list(resolution), "resolution")]
        sizes = [takes.integer(size, "resolution", 1) for size in sizes]
        if len(sizes) != 3:
            raise ValueError(f"OccGridEstimator takes one resolution or three, got {len(sizes)}")
        self.levels = takes.integer(levels, "levels", 1, 24)
        self.cells_per_lvl = sizes[0] * sizes[1] * sizes[2]
        takes.count(self.cells_per_lvl * levels, f"{levels} grids of {' × '.join(map(str, sizes))} cells")
        middle, half = (box[:3] + box[3:]) / 2, (box[3:] - box[:3]) / 2
        grown = [torch.cat([middle - half * 2.0**level, middle + half * 2.0**level]) for level in range(levels)]
        device = box.device
        axes = [torch.arange(size, device=device) for size in sizes]
        self.register_buffer("resolution", torch.tensor(sizes, dtype=torch.int32, device=device))
        self.register_buffer("aabbs", torch.stack(grown))
        self.register_buffer("occs", torch.zeros(levels * self.cells_per_lvl, device=device))
        self.register_buffer("binaries", torch.zeros([levels, *sizes], dtype=torch.bool, device=device))
        self.register_buffer("grid_coords", torch.cartesian_prod(*axes).view(-1, 3), persistent=False)
        self.register_buffer("grid_indices", torch.arange(self.cells_per_lvl, device=device), persistent=False)

    @property
    def device(self) -> torch.device:
        """Device of the grid."""
        return self.occs.device

    @torch.no_grad()
    def sampling(
        self,
        rays_o: Float[Tensor, "rays 3"],
        rays_d: Float[Tensor, "rays 3"],
        sigma_fn: Callable[..., Tensor] | None = None,
        alpha_fn: Callable[..., Tensor] | None = None,
        near_plane: float = 0.0,
        far_plane: float = 1e10,
        t_min: Float[Tensor, " rays"] | None = None,
        t_max: Float[Tensor, " rays"] | None = None,
        render_step_size: float = 1e-3,
        early_stop_eps: float = 1e-4,
        alpha_thre: float = 0.0,
        stratified: bool = False,
        cone_angle: float = 0.0,
    ) -> tuple[Int[Tensor, " samples"], Float[Tensor, " samples"], Float[Tensor, " samples"]]:
        """Sample rays in occupied cells, and with a field leave out what is hidden or nearly transparent.

        Args:
            rays_o: origins.
            rays_d: directions.
            sigma_fn: density of ``(t_starts, t_ends, ray_indices)``.
            alpha_fn: opacity of the same, instead.
            near_plane: where the samples of all rays begin.
            far_plane: where they end.
            t_min: where those of each ray begin, at least at ``near_plane``.
            t_max: where those of each ray end.
            render_step_size: length of the shortest interval.
            early_stop_eps: transmittance below which samples are left out.
            alpha_thre: opacity below which they are, if the mean value of the grid is not smaller.
            stratified: whether to begin each ray's samples up to a step later, at random.
            cone_angle: growth of the intervals with distance.

        Returns:
            ray of each sample, and where its interval begins and ends.

        Raises:
            ValueError: both functions are given, or one returns another shape.
        """
        if sigma_fn is not None and alpha_fn is not None:
            raise ValueError("sampling takes one of sigma_fn and alpha_fn, got both")
        near = torch.full_like(rays_o[:, 0], near_plane)
        far = torch.full_like(rays_o[:, 0], far_plane)
        near = near if t_min is None else torch.maximum(near, t_min)
        far = far if t_max is None else torch.minimum(far, t_max)
        if stratified:
            near = near + torch.rand_like(near) * render_step_size
        edges, samples, _ = traverse_grids(rays_o, rays_d, self.binaries, self.aabbs, near, far, render_step_size, cone_angle)
        assert edges.is_left is not None and edges.is_right is not None and samples.ray_indices is not None
        starts, ends, rays = edges.vals[edges.is_left], edges.vals[edges.is_right], samples.ray_indices
        field = alpha_fn or sigma_fn
        if field is None or (alpha_thre <= 0.0 and early_stop_eps <= 0.0) or len(rays) == 0:
            return rays, starts, ends
        alpha_thre = min(alpha_thre, float(self.occs.mean()))
        found = Arguments("sampling").tensor(
            field(starts, ends, rays),
            "the result of alpha_fn" if alpha_fn else "the result of sigma_fn",
            (torch.float32, torch.float16, torch.bfloat16, torch.float64),
            ((len(rays), "samples"),),
        )
        common = {"packed_info": samples.packed_info, "early_stop_eps": early_stop_eps, "alpha_thre": alpha_thre}
        if alpha_fn is not None:
            kept = render_visibility_from_alpha(found.float(), **common)
        else:
            kept = render_visibility_from_density(starts, ends, found.float(), **common)
        return rays[kept], starts[kept], ends[kept]

    @torch.no_grad()
    def update_every_n_steps(
        self,
        step: int,
        occ_eval_fn: Callable[[Float[Tensor, "points 3"]], Tensor],
        occ_thre: float = 1e-2,
        ema_decay: float = 0.95,
        warmup_steps: int = 256,
        n: int = 16,
    ) -> None:
        """Evaluate the field in some cells at every n-th step.

        Raises:
            RuntimeError: the module is not in training mode.
        """
        if not self.training:
            raise RuntimeError("update_every_n_steps needs the training mode of the module: call train() first")
        if step % n == 0:
            self._update(step, occ_eval_fn, occ_thre, ema_decay, warmup_steps)

    @torch.no_grad()
    def _update(
        self,
        step: int,
        occ_eval_fn: Callable[[Float[Tensor, "points 3"]], Tensor],
        occ_thre: float = 0.01,
        ema_decay: float = 0.95,
        warmup_steps: int = 256,
    ) -> None:
        """Set values to the greater of the decayed value and the field at a random point of the cell.

        All cells are visited at first, later a quarter of them and the occupied ones.
        """
        for level in range(self.levels):
            values = self.occs[level * self.cells_per_lvl : (level + 1) * self.cells_per_lvl]
            cells = self._cells_to_visit(level, every=step < warmup_steps)
            places = (self.grid_coords[cells] + torch.rand(len(cells), 3, device=self.device)) / self.resolution
            points = self.aabbs[level, :3] + places * (self.aabbs[level, 3:] - self.aabbs[level, :3])
            found = [occ_eval_fn(chunk).float().view(-1) for chunk in points.split(_CHUNK)]
            values[cells] = values[cells] * ema_decay
            if found:
                values.scatter_reduce_(0, cells, torch.cat(found).nan_to_num(nan=0.0), "amax")
        limit = (_BELOW_MEAN * self.occs[self.occs >= 0.0].mean()).clamp(max=occ_thre)
        self.binaries.copy_((self.occs > limit).view_as(self.binaries))

    def _cells_to_visit(self, level: int, *, every: bool) -> Tensor:
        allowed = self.occs[level * self.cells_per_lvl : (level + 1) * self.cells_per_lvl] >= 0.0
        if every:
            return self.grid_indices[allowed]
        number = max(self.cells_per_lvl // 4, 1)
        drawn = torch.randint(self.cells_per_lvl, (number,), device=self.device)
        occupied = self.binaries[level].flatten().nonzero()[:, 0]
        if len(occupied) > number:
            occupied = occupied[torch.randint(len(occupied), (number,), device=self.device)]
        return torch.cat([drawn[allowed[drawn]], occupied])

    @torch.no_grad()
    def mark_invisible_cells(
        self,
        K: Float[Tensor, "views 3 3"],  # noqa: N803
        c2w: Float[Tensor, "views 4 4"],
        width: int,
        height: int,
        near_plane: float = 0.0,
        chunk: int = 32**3,
    ) -> None:
        """Close the cells whose middles no camera sees, or which are nearer to one than its near plane.

        Args:
            K: intrinsics in pixels.
            c2w: poses of the cameras, x right, y down, z forward; ``[views, 3, 4]`` too.
            width: of the images.
            height: of the images.
            near_plane: distance along z within which nothing may be.
            chunk: cells projected at once.

        Raises:
            ValueError: there is not one pose for each matrix.
        """
        if K.ndim != 3 or K.shape[1:] != (3, 3) or c2w.ndim != 3 or c2w.shape[1:] not in ((4, 4), (3, 4)) or len(K) not in (1, len(c2w)):
            raise ValueError(f"mark_invisible_cells takes K [views, 3, 3] and c2w [views, 4, 4], got {list(K.shape)} and {list(c2w.shape)}")
        rotations = c2w[:, :3, :3].transpose(1, 2).to(self.device)
        shifts = -rotations @ c2w[:, :3, 3:].to(self.device)
        for level in range(self.levels):
            values = self.occs[level * self.cells_per_lvl : (level + 1) * self.cells_per_lvl]
            for cells in self.grid_indices.split(chunk):
                places = (self.grid_coords[cells] + 0.5) / self.resolution
                points = self.aabbs[level, :3] + places * (self.aabbs[level, 3:] - self.aabbs[level, :3])
                u, v, depth = (K.to(self.device) @ (rotations @ points.t() + shifts)).unbind(1)
                inside = (depth >= 0.0) & (u >= 0.0) & (u < width * depth) & (v >= 0.0) & (v < height * depth)
                seen = (inside & (depth >= near_plane)).any(0) & ~(inside & (depth < near_plane)).any(0)
                values[cells] = torch.where(seen, 0.0, -1.0)
        self.binaries &= (self.occs >= 0.0).view_as(self.binaries)

"""Marching cubes at high resolution in little memory: only the blocks of the lattice that the surface passes through are evaluated.

The lattice has ``resolution`` cells along the longest side of the region and is cut into small cubic blocks.

1. *Find.* The field f is evaluated at the center of every block. A block is kept if |f - level| at its center is at most the steepest slope
   observed around it times the half diagonal of the block, or if the sign differs from a neighboring block's.
2. *Follow.* Kept blocks are evaluated at every lattice point. If the sign changes on a face of a block, the block beyond the face is kept
   too, until nothing is added. A surface found anywhere is therefore extracted completely, without holes at block boundaries.
3. *March.* Lewiner's marching cubes (Lewiner, Lopes, Vieira, Tavares: Efficient implementation of marching cubes' cases with topological
   guarantees, Journal of Graphics Tools 8(2), 2003) gives the triangles. A vertex is identified by the lattice edge it lies on, so vertices
   of adjacent blocks are merged by integer keys instead of by distance.

A lattice of at most twice a chunk of points is evaluated whole. Every lattice point is evaluated once, whichever blocks share it, and time
and memory grow with the area of the surface: with the square of the resolution instead of its cube.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int64
from scipy.ndimage import maximum_filter
from skimage.measure import marching_cubes
from torch import Tensor

from unrender.geometry.mesh import Mesh

ScalarField = Callable[[Tensor], Tensor]
"""Positions [points, 3] to values [points]."""

_OFFSETS = tuple(np.array(offset) for offset in product((-1, 0, 1), repeat=3) if offset != (0, 0, 0))
"""The 26 neighbors of a block in lexicographic order: the first 13 come before it, the last 13 after it."""

_SLOPE_MARGIN = 1.1
"""The slope between block centers underestimates a steepest slope between them; this much is added."""

_END_OF_EDGE = 2.0**-14
"""Vertices stay this share of a cell away from lattice points. Closer, the edge a vertex lies on would be ambiguous and triangles would
degenerate."""

_MARCHED_CELLS = 64
"""Largest number of cells along a side in one call of marching cubes (unless a block is larger)."""

_NOT_KEPT, _OUTSIDE = -1, -2


def extract_surface(
    field: ScalarField,
    *,
    resolution: int,
    half_extent: float = 1.0,
    bounds: Float[Tensor, "2 3"] | None = None,
    level: float = 0.0,
    keep_above: bool = False,
    lipschitz: float | None = None,
    block: int | None = None,
    chunk: int = 2**18,
    device: torch.device | None = None,
) -> Mesh:
    """Extract the surface f(x) = level as a welded mesh in the coordinates of the field.

    Faces are counter-clockwise seen from outside. A closed surface inside the region is watertight; one that leaves it is open at the
    border. The mesh is that of dense marching cubes over the whole lattice. A separate component smaller than a block may be missed if the
    values at the surrounding block centers do not indicate it, unless ``lipschitz`` is given. No colors or normals are added.

    Args:
        field: positions [points, 3], float32 on ``device``, to values [points]; called without gradients with at most ``chunk`` positions.
        resolution: cells along the longest side of the region.
        half_extent: the region is [-half_extent, half_extent]³, unless ``bounds`` are given.
        bounds: smallest and largest corner of the region.
        level: value on the surface.
        keep_above: inside is f > level (a density) instead of f < level (a signed distance).
        lipschitz: a bound of |∇f|, if known (1 for a signed distance). Replaces the observed slope; no component is then missed.
        block: cells along the side of a block; smaller blocks evaluate fewer points near the surface and visit more block centers.
            By default 4 up to a resolution of 512 and 8 above.
        chunk: positions in one call of the field.
        device: where the field is evaluated and the mesh is returned; by default the CPU.

    Returns:
        The mesh; without triangles if the level is never crossed (see :func:`explain_empty`).

    Raises:
        ValueError: an argument is out of range, or the field returns the wrong shape or values that are not finite.

    >>> mesh = extract_surface(lambda x: x.norm(dim=1) - 0.5, resolution=32)
    >>> mesh.is_watertight, round(mesh.area, 2)
    (True, 3.13)
    """
    if block is None:
        block = min(4 if resolution <= 512 else 8, max(1, resolution // 4))
    if resolution < 1 or block < 1 or chunk < 1:
        raise ValueError(f"resolution, block and chunk must be at least 1, not {resolution}, {block} and {chunk}")
    if lipschitz is not None and not lipschitz > 0:
        raise ValueError(f"lipschitz is {lipschitz}; give a positive bound of the slope, or leave it out")
    device = torch.device("cpu") if device is None else device
    low, cell, cells = _lattice(resolution, half_extent, bounds)
    inside_sign = -1.0 if keep_above else 1.0

    def evaluate(points: Float32[np.ndarray, "points 3"]) -> Float32[np.ndarray, " points"]:
        """Return the field less the level, negative inside."""
        values = np.empty(len(points), np.float32)
        for start in range(0, len(points), chunk):
            part = torch.from_numpy(points[start : start + chunk]).to(device)
            result = field(part)
            if result.shape != part.shape[:1]:
                raise ValueError(f"the field returned shape {tuple(result.shape)} for {len(part)} positions; it must return one value each")
            values[start : start + chunk] = (inside_sign * (result.detach().float() - level)).cpu().numpy()
        if not np.isfinite(values).all():
            broken = points[~np.isfinite(values)]
            raise ValueError(f"the field is not finite at {len(broken)} of {len(points)} positions, the first at {broken[0].tolist()}")
        return values

    whole = int(np.prod(cells + 1)) <= 2 * chunk
    if not whole and 4 * block > resolution:
        raise ValueError(f"blocks of {block} cells are too coarse a view of {resolution} cells; give at most a quarter of the resolution")
    with torch.no_grad():
        grid = _Blocks(evaluate, low, cell, cells, block, chunk)
        kept = np.ones(grid.shape, np.bool_) if whole else grid.near_surface(lipschitz)
        grid.evaluate(np.argwhere(kept))
        while len(beyond := grid.beyond_crossed_faces()):
            grid.evaluate(beyond)
    vertices, faces = grid.march()
    return Mesh(torch.from_numpy(vertices).to(device), torch.from_numpy(faces).to(device))


def explain_empty(
    field: ScalarField,
    *,
    half_extent: float = 1.0,
    bounds: Float[Tensor, "2 3"] | None = None,
    level: float = 0.0,
    keep_above: bool = False,
    resolution: int = 48,
    device: torch.device | None = None,
) -> str:
    """Explain in one or two sentences why no surface was found, and what to try.

    Evaluates the range of the field over a coarse lattice.

    >>> print(explain_empty(lambda x: x.norm(dim=1) + 0.5, half_extent=1.0))
    There is no surface: the field lies between 0.5 and 2.23 in the region and never reaches the level 0. All of it counts as \
outside: fit for longer, or look at the masks and at the region.
    """
    low, cell, cells = _lattice(resolution, half_extent, bounds)
    axes = [low[axis] + cell * np.arange(cells[axis] + 1) for axis in range(3)]
    points = torch.from_numpy(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3).astype(np.float32))
    with torch.no_grad():
        values = field(points.to(device)).float().cpu()
    finite = values[values.isfinite()]
    if len(finite) < len(values):
        share = 1 - len(finite) / len(values)
        return f"There is no surface: the field is not finite at {share:.0%} of the positions. The fit diverged: lower the learning rate."
    least, most = float(finite.min()), float(finite.max())
    if least <= level < most:
        return (
            f"The field lies between {least:.3g} and {most:.3g} and does cross the level {level:g}; "
            "the surface may be thinner than a cell or outside the region: raise the resolution or widen the region."
        )
    all_outside = most <= level if keep_above else least > level
    state = (
        "All of it counts as outside: fit for longer, or look at the masks and at the region."
        if all_outside
        else "All of it counts as inside: the region lies within the object, so widen it or look at the scale of the cameras."
    )
    if keep_above:
        state += f" For a density, a level of {least + 0.25 * (most - least):.3g} would give a surface." if most > least else ""
    span = f"between {least:.3g} and {most:.3g} in the region"
    return f"There is no surface: the field lies {span} and never reaches the level {level:g}. {state}"


def _lattice(
    resolution: int, half_extent: float, bounds: Float[Tensor, "2 3"] | None
) -> tuple[Float[np.ndarray, " 3"], float, Int64[np.ndarray, " 3"]]:
    """Return the first lattice point, the side of a cell, and the number of cells along each axis."""
    if bounds is None:
        if not half_extent > 0:
            raise ValueError(f"half_extent is {half_extent}; give a positive number")
        corners = np.array([[-half_extent] * 3, [half_extent] * 3])
    else:
        corners = bounds.detach().cpu().double().numpy()
    sides = corners[1] - corners[0]
    if not (np.isfinite(sides).all() and (sides > 0).all()):
        raise ValueError(f"the region from {corners[0].tolist()} to {corners[1].tolist()} has no volume; the second corner must be larger")
    cell = float(sides.max()) / resolution
    return corners[0], cell, np.ceil(sides / cell - 1e-6).astype(np.int64)


class _Blocks:
    """The lattice values of the kept blocks.

    A block of b³ cells holds its (b + 1)³ corners, those it shares with its neighbors included. Along the far border of the region a block
    may reach beyond the lattice; there it repeats the last lattice point, and the cells beyond are not marched.
    """

    def __init__(
        self,
        evaluate: Callable[[Float32[np.ndarray, "points 3"]], Float32[np.ndarray, " points"]],
        low: Float[np.ndarray, " 3"],
        cell: float,
        cells: Int64[np.ndarray, " 3"],
        block: int,
        chunk: int,
    ) -> None:
        self.field = evaluate
        self.low = low
        self.cell = cell
        self.cells = cells
        self.block = block
        self.chunk = chunk
        self.shape = tuple(int(-(-count // block)) for count in cells)
        self.slot = np.full([count + 2 for count in self.shape], _OUTSIDE, np.int32)
        """Where in ``values`` a block lies; one block of padding on every side."""
        self.slot[1:-1, 1:-1, 1:-1] = _NOT_KEPT
        self.blocks = np.zeros((0, 3), np.int64)
        side = block + 1
        self.values = np.zeros((0, side, side, side), np.float32)
        self._followed = 0

    def near_surface(self, lipschitz: float | None) -> Bool[np.ndarray, "x y z"]:
        """Mark the blocks that the surface may pass through, judged from the values at the block centers."""
        axes = [
            (self.low[k] + self.cell * np.minimum((np.arange(self.shape[k]) + 0.5) * self.block, self.cells[k])).astype(np.float32)
            for k in range(3)
        ]
        centers = np.empty(self.shape, np.float32)
        for start in range(0, centers.size, self.chunk):
            index = np.unravel_index(np.arange(start, min(start + self.chunk, centers.size)), self.shape)
            centers.reshape(-1)[start : start + self.chunk] = self.field(np.stack([axes[k][index[k]] for k in range(3)], axis=1))
        side = self.block * self.cell
        kept = np.zeros(self.shape, np.bool_)
        squared = np.zeros(self.shape, np.float32)
        for k in range(3):
            first, second = [slice(None)] * 3, [slice(None)] * 3
            first[k], second[k] = slice(None, -1), slice(1, None)
            a, b = centers[tuple(first)], centers[tuple(second)]
            crossed = (a > 0) != (b > 0)
            kept[tuple(first)] |= crossed
            kept[tuple(second)] |= crossed
            steps = np.abs(b - a)
            # The larger of the steps to either neighbor bounds the slope along this axis.
            largest = np.zeros(self.shape, np.float32)
            largest[tuple(first)] = steps
            largest[tuple(second)] = np.maximum(largest[tuple(second)], steps)
            squared += largest**2
        half_diagonal = np.sqrt(3) / 2 * side
        if lipschitz is None:
            # A steeper neighbor may continue into this block, so the largest slope around it counts.
            reach = maximum_filter(np.sqrt(squared), 3, mode="nearest") * (_SLOPE_MARGIN * half_diagonal / side)
        else:
            reach = np.float32(lipschitz * half_diagonal)
        return kept | (np.abs(centers) <= reach)

    def evaluate(self, blocks: Int64[np.ndarray, "blocks 3"]) -> None:
        """Add blocks, evaluating the lattice points that no block has yet, each once.

        A point shared by several of the new blocks is evaluated for the one that comes first in lexicographic order.
        """
        known = len(self.blocks)
        slots = np.arange(known, known + len(blocks))
        self.blocks = np.concatenate([self.blocks, blocks])
        self.slot[tuple((blocks + 1).T)] = slots
        side = self.block + 1
        values = np.concatenate([self.values, np.empty((len(blocks), side, side, side), np.float32)])
        self.values = values

        owned = np.ones((len(blocks), side, side, side), np.bool_)
        for earlier, offset, sharing, _ in self._sharing(blocks, known):
            if earlier or tuple(offset) < (0, 0, 0):
                owned[(sharing, *_shared(offset, self.block))] = False
        axes = [(self.low[k] + self.cell * np.arange(self.cells[k] + 1)).astype(np.float32) for k in range(3)]
        group = max(1, 4 * self.chunk // side**3)
        for start in range(0, len(blocks), group):
            local, *corner = np.nonzero(owned[start : start + group])
            points = np.empty((len(local), 3), np.float32)
            for k in range(3):
                points[:, k] = axes[k][np.minimum(blocks[start : start + group, k][local] * self.block + corner[k], self.cells[k])]
            values[known + start : known + start + group][owned[start : start + group]] = self.field(points)

        shared = sorted(self._sharing(blocks, known), key=lambda item: (item[0], tuple(-item[1])))
        for earlier, offset, sharing, neighbors in shared:
            if earlier or tuple(offset) < (0, 0, 0):
                values[(slots[sharing], *_shared(offset, self.block))] = values[(neighbors, *_shared(-offset, self.block))]

    def _sharing(
        self, blocks: Int64[np.ndarray, "blocks 3"], known: int
    ) -> Iterator[tuple[bool, Int64[np.ndarray, " 3"], Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]]:
        """Yield, per neighbor offset, the pairs of a new block and its neighbor's slot.

        Each comes with whether the neighbors were known before.
        """
        for offset in _OFFSETS:
            neighbors = self.slot[tuple((blocks + 1 + offset).T)]
            for earlier in (False, True):
                sharing = np.flatnonzero((neighbors >= 0) & ((neighbors < known) == earlier))
                if len(sharing):
                    yield earlier, offset, sharing, neighbors[sharing]

    def beyond_crossed_faces(self) -> Int64[np.ndarray, "blocks 3"]:
        """Return the blocks not kept so far that lie beyond a face with a sign change.

        Only the faces of blocks added since the last call are looked at.
        """
        values, blocks = self.values[self._followed :], self.blocks[self._followed :]
        self._followed = len(self.blocks)
        found = []
        for offset in _OFFSETS:
            if np.abs(offset).sum() == 1:
                candidates = np.flatnonzero(self.slot[tuple((blocks + 1 + offset).T)] == _NOT_KEPT)
                positive = values[(candidates, *_shared(offset, self.block))] > 0
                crossed = positive.any(axis=(1, 2, 3)) & ~positive.all(axis=(1, 2, 3))
                found.append(blocks[candidates[crossed]] + offset)
        return np.unique(np.concatenate(found), axis=0)

    def march(self) -> tuple[Float32[np.ndarray, "vertices 3"], Int64[np.ndarray, "faces 3"]]:
        """Return the triangles of all kept blocks, welded."""
        crossed = np.flatnonzero([v.min() <= 0 < v.max() for v in self.values])
        smallest = _END_OF_EDGE * self._largest_at_crossing(crossed)
        blocks_per_part = max(1, _MARCHED_CELLS // self.block)
        part = self.blocks[crossed] // blocks_per_part
        order = np.lexsort(part.T[::-1])
        crossed, part = crossed[order], part[order]
        starts = np.flatnonzero(np.r_[True, (part[1:] != part[:-1]).any(1)]) if len(crossed) else np.zeros(0, np.int64)
        keys, places, triangles = [], [], []
        count = 0
        for start, stop in zip(starts, [*starts[1:], len(crossed)], strict=False):
            key, place, faces = self._march_part(crossed[start:stop], part[start] * blocks_per_part, blocks_per_part, smallest)
            keys.append(key)
            places.append(place)
            triangles.append(faces.astype(np.int64) + count)
            count += len(key)
        if not keys:
            return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64)
        # Vertices of adjacent parts have the same key where they lie on the same edge.
        _, first, vertex = np.unique(np.concatenate(keys), return_index=True, return_inverse=True)
        vertices = (self.low + self.cell * np.concatenate(places)[first]).astype(np.float32)
        return vertices, vertex.reshape(-1)[np.concatenate(triangles)]

    def _largest_at_crossing(self, crossed: Int64[np.ndarray, " blocks"]) -> float:
        """Return the largest |f| at an end of a lattice edge that the surface crosses."""
        largest = 0.0
        for start in range(0, len(crossed), 1024):
            values = self.values[crossed[start : start + 1024]]
            positive, size = values > 0, np.abs(values)
            for axis in (1, 2, 3):
                first, second = [slice(None)] * 4, [slice(None)] * 4
                first[axis], second[axis] = slice(None, -1), slice(1, None)
                edge = positive[tuple(first)] != positive[tuple(second)]
                ends = np.maximum(size[tuple(first)], size[tuple(second)])
                largest = max(largest, float(ends.max(where=edge, initial=0.0)))
        return largest

    def _march_part(
        self, slots: Int64[np.ndarray, " blocks"], first_block: Int64[np.ndarray, " 3"], blocks_per_part: int, smallest: float
    ) -> tuple[Int64[np.ndarray, " vertices"], Float[np.ndarray, "vertices 3"], Int[np.ndarray, "faces 3"]]:
        """March over neighboring blocks.

        Returns:
            For each vertex its key, 4 × (number of the lattice point it follows) + axis (3 for a vertex inside a cell), and its place in
            lattice coordinates; and the triangles.
        """
        side = blocks_per_part * self.block + 1
        values = np.ones((side, side, side), np.float32)
        marched = np.zeros((side, side, side), np.bool_)
        corner = np.arange(self.block + 1)
        base = (self.blocks[slots] - first_block) * self.block
        x, y, z = (base[:, k, None] + corner for k in range(3))
        values[x[:, :, None, None], y[:, None, :, None], z[:, None, None, :]] = self.values[slots]
        marched[x[:, 1:, None, None], y[:, None, 1:, None], z[:, None, None, 1:]] = True
        last = self.cells - first_block * self.block
        marched[last[0] + 1 :] = False
        marched[:, last[1] + 1 :] = False
        marched[:, :, last[2] + 1 :] = False

        # Values near zero would put vertices onto lattice points, where their edge is ambiguous.
        pushed = np.where(values > 0, np.maximum(values, smallest), np.minimum(values, -smallest))
        found, faces, _, _ = marching_cubes(pushed, 0.0, gradient_direction="descent", mask=marched)

        place = found.astype(np.float64)
        nearest = np.rint(place)
        between = np.abs(place - nearest) > _END_OF_EDGE / 4
        on_edge = between.sum(1) == 1
        point = np.where(between, np.floor(place), nearest).astype(np.int64)
        axis = np.where(on_edge, between.argmax(1), 3)
        step = np.eye(4, 3, dtype=np.int64)[axis[on_edge]]
        near = values[tuple(point[on_edge].T)].astype(np.float64)
        far = values[tuple((point[on_edge] + step).T)].astype(np.float64)
        # Marching cubes interpolated the pushed values; here is the place by the true ones.
        share = np.clip(near / (near - far), _END_OF_EDGE, 1 - _END_OF_EDGE)
        place[on_edge] = point[on_edge] + step * share[:, None]

        origin = first_block * self.block
        number = np.ravel_multi_index(tuple((point + origin).T), tuple(self.cells + 1))
        return number * 4 + axis, place + origin, faces


def _shared(offset: Int64[np.ndarray, " 3"], block: int) -> tuple[slice, slice, slice]:
    """Return the corners that a block shares with its neighbor at ``offset``.

    A slice has length one where the offset is not zero.
    """
    x, y, z = (slice(None) if step == 0 else slice(0, 1) if step < 0 else slice(block, block + 1) for step in offset)
    return x, y, z

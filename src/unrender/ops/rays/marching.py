"""Where along each ray the field is looked at: marching through an occupancy grid, and thinning what it gives.

The lattice of a ray is t_0 = near + offset · step, t_{k+1} = t_k + max(step, cone_angle t_k), whatever is occupied; where the cone angle
is zero, t_k = t_0 + k step. Interval k is [t_k, min(t_{k+1}, far)] for t_k < far, and is emitted if the cell at its middle is occupied.
Skipping empty cells and bricks only jumps over intervals whose middles surely lie within them, so the result equals that of testing every
interval.

The cell is taken from the finest level whose cube contains the point and whose cells are no smaller than the interval is long.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import warp as wp
from jaxtyping import Bool, Float
from torch import Tensor

from unrender.cameras import Rays
from unrender.devices import on_cpu
from unrender.ops.kernels.launch import launch
from unrender.ops.rays.occupancy import OccupancyGrid
from unrender.ops.rays.samples import Samples, allocate_samples, chunk_count

wp.set_module_options({"enable_backward": False})

_RAYS_PER_PIECE = 1024

_RUNS = 8
"""Runs of adjacent samples that the count leaves to the writing, less one; a ray with more is looked at again behind them."""

# Sums and products stand in separate statements: a compiler may fuse them within one statement, and the lattice would then differ by a bit
# from the plain one.
_MARCH = """
    const int quota = writing ? counts.data[ray] : (most > 0 ? most : 2147483647);
    if (!writing) counts.data[ray] = 0;
    if (quota == 0) return;
    const float entry = entries.data[ray], leave = leaves.data[ray];
    if (!(entry < leave)) return;

    const float ox = origins.data[3 * ray], oy = origins.data[3 * ray + 1], oz = origins.data[3 * ray + 2];
    const float dx = directions.data[3 * ray], dy = directions.data[3 * ray + 1], dz = directions.data[3 * ray + 2];
    const float half_resolution = 0.5f * resolution;
    const int bricks = resolution / 4;
    const float inv_step = 1.0f / step;
    const float first_length = cone > 0.0f ? wp::max(step, entry * cone) : step;
    const float jump = offsets.data[ray] * first_length;
    const float t0 = entry + jump;
    const float ix = dx != 0.0f ? 1.0f / dx : 0.0f, iy = dy != 0.0f ? 1.0f / dy : 0.0f, iz = dz != 0.0f ? 1.0f / dz : 0.0f;
    const float slack_x = wp::abs(ix) * 1e-6f, slack_y = wp::abs(iy) * 1e-6f, slack_z = wp::abs(iz) * 1e-6f;

    const int slots = RUNS * ray;
    int k = 0, found = 0, runs = 0;
    float t = t0;
    int out = writing ? first_sample.data[ray] : 0;
    bool in_run = false;
    if (writing) {
        // What the count has found, run by run; the last slot only says where to go on looking.
        for (;;) {
            k = run_k.data[slots + runs];
            t = run_t.data[slots + runs];
            if (runs == RUNS - 1) break;
            const int last = found + run_length.data[slots + runs];
            for (; found < last; found++, k++) {
                const float wide = t * cone;
                const float way = (k + 1) * step;
                const float next = cone > 0.0f ? t + wp::max(step, wide) : t0 + way;
                ray_index.data[out + found] = ray;
                starts.data[out + found] = t;
                ends.data[out + found] = wp::min(next, leave);
                t = next;
            }
            if (found == quota) return;
            runs++;
        }
    }
    while (t < leave) {
        float next;
        float length = step;
        if (cone > 0.0f) {
            const float wide = t * cone;
            length = wp::max(step, wide);
            next = t + length;
        } else {
            const float way = (k + 1) * step;
            next = t0 + way;
        }
        if (!(next > t)) break;
        const float end = wp::min(next, leave);
        const float sum = t + end;
        const float mid = 0.5f * sum;
        const float wx = mid * dx, wy = mid * dy, wz = mid * dz;
        const float px = ox + wx, py = oy + wy, pz = oz + wz;
        int level = 0;
        float extent = 1.0f, shrink = 1.0f;
        if (levels > 1) {
            const float reach = wp::max(wp::abs(px), wp::max(wp::abs(py), wp::abs(pz)));
            while (level < levels - 1 && (reach > extent || extent < length * half_resolution)) {
                level++;
                extent *= 2.0f;
                shrink *= 0.5f;
            }
        }
        const float qx = px * shrink, qy = py * shrink, qz = pz * shrink;
        const float rx = qx + 1.0f, ry = qy + 1.0f, rz = qz + 1.0f;
        const int cx = wp::min(wp::max((int)(rx * half_resolution), 0), resolution - 1);
        const int cy = wp::min(wp::max((int)(ry * half_resolution), 0), resolution - 1);
        const int cz = wp::min(wp::max((int)(rz * half_resolution), 0), resolution - 1);
        const int brick = ((level * bricks + (cz >> 2)) * bricks + (cy >> 2)) * bricks + (cx >> 2);
        // The box known to be empty, in cells: several bricks, a brick, or a cell.
        int low_x = cx, low_y = cy, low_z = cz, size = 1;
        const int clear = clearance.data[brick];
        if (clear > 0) {
            low_x = (cx & ~3) - 4 * (clear - 1);
            low_y = (cy & ~3) - 4 * (clear - 1);
            low_z = (cz & ~3) - 4 * (clear - 1);
            size = 8 * clear - 4;
        } else {
            const unsigned int word = (unsigned int)bits.data[2 * brick + ((cz & 2) >> 1)];
            if ((word >> (16 * (cz & 1) + 4 * (cy & 3) + (cx & 3))) & 1u) {
                if (writing) {
                    ray_index.data[out + found] = ray;
                    starts.data[out + found] = t;
                    ends.data[out + found] = end;
                } else if (runs < RUNS) {
                    if (!in_run) {
                        run_k.data[slots + runs] = k;
                        run_t.data[slots + runs] = t;
                        run_length.data[slots + runs] = 0;
                        in_run = true;
                    }
                    run_length.data[slots + runs]++;
                }
                found++;
                if (found == quota) break;
                k++;
                t = next;
                continue;
            }
        }
        if (in_run) { runs++; in_run = false; }
        const float cell = 2.0f * extent / resolution;
        float safe = leave;
        if (dx != 0.0f) {
            const float face = wp::min(wp::max(low_x + (dx > 0.0f ? size : 0), 0), resolution) * cell - extent;
            safe = wp::min(safe, (face - ox) * ix - slack_x * (wp::abs(ox) + wp::abs(face)));
        }
        if (dy != 0.0f) {
            const float face = wp::min(wp::max(low_y + (dy > 0.0f ? size : 0), 0), resolution) * cell - extent;
            safe = wp::min(safe, (face - oy) * iy - slack_y * (wp::abs(oy) + wp::abs(face)));
        }
        if (dz != 0.0f) {
            const float face = wp::min(wp::max(low_z + (dz > 0.0f ? size : 0), 0), resolution) * cell - extent;
            safe = wp::min(safe, (face - oz) * iz - slack_z * (wp::abs(oz) + wp::abs(face)));
        }
        if (cone > 0.0f) {
            if (level < levels - 1) safe = wp::min(safe, 0.9999f * cell / cone);
            t = next;
            while (t < safe) {
                const float wide = t * cone;
                const float ahead = t + wp::max(step, wide);
                if (!(0.5f * (t + ahead) < safe) || !(ahead > t)) break;
                t = ahead;
            }
        } else {
            safe = wp::max(safe, t);
            const int target = (int)((safe - t0) * inv_step + 0.49f);
            k = wp::max(k + 1, target);
            const float way = k * step;
            t = t0 + way;
        }
    }
    if (!writing) counts.data[ray] = found;
""".replace("RUNS", str(_RUNS))


@no_type_check
@wp.func_native(_MARCH)
def _march_ray(
    ray: int,
    origins: wp.array2d(dtype=wp.float32),
    directions: wp.array2d(dtype=wp.float32),
    entries: wp.array(dtype=wp.float32),
    leaves: wp.array(dtype=wp.float32),
    offsets: wp.array(dtype=wp.float32),
    bits: wp.array(dtype=wp.int32),
    clearance: wp.array(dtype=wp.int32),
    resolution: int,
    levels: int,
    step: float,
    cone: float,
    most: int,
    writing: int,
    counts: wp.array(dtype=wp.int32),
    first_sample: wp.array(dtype=wp.int32),
    run_k: wp.array(dtype=wp.int32),
    run_t: wp.array(dtype=wp.float32),
    run_length: wp.array(dtype=wp.int32),
    ray_index: wp.array(dtype=wp.int32),
    starts: wp.array(dtype=wp.float32),
    ends: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.kernel
def _march_kernel(
    first: int,
    origins: wp.array2d(dtype=wp.float32),
    directions: wp.array2d(dtype=wp.float32),
    entries: wp.array(dtype=wp.float32),
    leaves: wp.array(dtype=wp.float32),
    offsets: wp.array(dtype=wp.float32),
    bits: wp.array(dtype=wp.int32),
    clearance: wp.array(dtype=wp.int32),
    resolution: int,
    levels: int,
    step: float,
    cone: float,
    most: int,
    writing: int,
    counts: wp.array(dtype=wp.int32),
    first_sample: wp.array(dtype=wp.int32),
    run_k: wp.array(dtype=wp.int32),
    run_t: wp.array(dtype=wp.float32),
    run_length: wp.array(dtype=wp.int32),
    ray_index: wp.array(dtype=wp.int32),
    starts: wp.array(dtype=wp.float32),
    ends: wp.array(dtype=wp.float32),
):
    """Counts the samples of a ray, or writes them. One kernel does both, so that both see the same lattice to the last bit."""
    ray = first + wp.tid()
    _march_ray(
        ray,
        origins,
        directions,
        entries,
        leaves,
        offsets,
        bits,
        clearance,
        resolution,
        levels,
        step,
        cone,
        most,
        writing,
        counts,
        first_sample,
        run_k,
        run_t,
        run_length,
        ray_index,
        starts,
        ends,
    )


@no_type_check
@wp.kernel
def _box_kernel(
    first: int,
    origins: wp.array2d(dtype=wp.float32),
    directions: wp.array2d(dtype=wp.float32),
    half_extent: float,
    near: wp.array(dtype=wp.float32),
    far: wp.array(dtype=wp.float32),
):
    """The part of the ray within the cube, narrowed from what ``near`` and ``far`` hold; both zero where there is none."""
    ray = first + wp.tid()
    enter = wp.max(near[ray], 0.0)
    leave = far[ray]
    valid = True
    moving = False
    for c in range(3):
        o = origins[ray, c]
        d = directions[ray, c]
        if d > 0.0 or d < 0.0:
            moving = True
            a = (-half_extent - o) / d
            b = (half_extent - o) / d
            enter = wp.max(enter, wp.min(a, b))
            leave = wp.min(leave, wp.max(a, b))
            if not wp.isfinite(o) or not wp.isfinite(d):
                valid = False
        else:
            if not (d == 0.0 and wp.abs(o) <= half_extent):
                valid = False
    if valid and moving and enter < leave:
        near[ray] = enter
        far[ray] = leave
    else:
        near[ray] = 0.0
        far[ray] = 0.0


@no_type_check
@wp.kernel
def _keep_count_kernel(
    first: int,
    keep: wp.array(dtype=wp.uint8),
    ray_first: wp.array(dtype=wp.int32),
    ray_count: wp.array(dtype=wp.int32),
    kept: wp.array(dtype=wp.int32),
):
    ray = first + wp.tid()
    begin = ray_first[ray]
    total = int(0)
    for i in range(begin, begin + ray_count[ray]):
        total += int(keep[i])
    kept[ray] = total


@no_type_check
@wp.kernel
def _keep_kernel(
    first: int,
    keep: wp.array(dtype=wp.uint8),
    ray_first: wp.array(dtype=wp.int32),
    ray_count: wp.array(dtype=wp.int32),
    starts: wp.array(dtype=wp.float32),
    ends: wp.array(dtype=wp.float32),
    kept_first: wp.array(dtype=wp.int32),
    kept_index: wp.array(dtype=wp.int32),
    kept_starts: wp.array(dtype=wp.float32),
    kept_ends: wp.array(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin = ray_first[ray]
    out = kept_first[ray]
    for i in range(begin, begin + ray_count[ray]):
        if keep[i] != wp.uint8(0):
            kept_index[out] = ray
            kept_starts[out] = starts[i]
            kept_ends[out] = ends[i]
            out += 1


@no_type_check
@wp.kernel
def _visible_kernel(
    first: int,
    alpha: wp.array(dtype=wp.float32),
    ray_first: wp.array(dtype=wp.int32),
    ray_count: wp.array(dtype=wp.int32),
    threshold: float,
    alpha_threshold: float,
    visible: wp.array(dtype=wp.uint8),
):
    ray = first + wp.tid()
    begin = ray_first[ray]
    light = float(1.0)
    for i in range(begin, begin + ray_count[ray]):
        if light <= threshold:
            break
        if alpha[i] > alpha_threshold:
            visible[i] = wp.uint8(1)
        light = light * (1.0 - alpha[i])


def _box(rays: Rays, near: Tensor, far: Tensor, half_extent: float) -> tuple[Tensor, Tensor]:
    near, far = near.clone(), far.clone()
    arguments = [rays.origins.float().contiguous(), rays.directions.float().contiguous(), half_extent, near, far]
    launch(_box_kernel, near.shape[0], arguments, near.device)
    return near, far


@torch.no_grad()
def aabb_intersection(rays: Rays, half_extent: float = 1.0) -> tuple[Float[Tensor, " rays"], Float[Tensor, " rays"]]:
    """Distances at which rays enter and leave the cube [-half_extent, half_extent]³.

    Returns:
        near >= 0 (zero for an origin inside) and far; both zero where a ray misses the cube, points away from it or is not finite.

    Source: Kay and Kajiya, Ray tracing complex scenes, 1986.

    >>> import torch
    >>> from unrender.cameras import Rays
    >>> near, far = aabb_intersection(Rays(torch.tensor([[0.0, 0.0, -3.0]]), torch.tensor([[0.0, 0.0, 1.0]])))
    >>> near.item(), far.item()
    (2.0, 4.0)
    """
    near = torch.zeros(rays.origins.shape[0], device=rays.origins.device)
    return _box(rays, near, torch.full_like(near, torch.inf), half_extent)


@torch.no_grad()
def march(
    rays: Rays,
    grid: OccupancyGrid,
    *,
    step: float,
    near: Float[Tensor, " rays"] | float = 0.0,
    far: Float[Tensor, " rays"] | float = torch.inf,
    cone_angle: float = 0.0,
    offsets: Float[Tensor, " rays"] | None = None,
    capacity: int | None = None,
    max_samples_per_ray: int | None = None,
) -> Samples:
    """Cuts each ray into intervals of length max(step, cone_angle · t) and keeps those whose middle lies in an occupied cell.

    Rays that are not finite, miss the grid or see only empty cells get no sample. Nothing here is differentiated.

    Args:
        rays: half lines with unit directions.
        grid: which cells are occupied; rays are cut to its outermost cube.
        step: shortest interval, in world units, positive.
        near: where to begin, moved to the entry into the outermost cube.
        far: where to end, moved to the exit; the last interval is cut there.
        cone_angle: growth of the intervals with distance, dimensionless; 0 keeps them equal.
        offsets: in [0, 1), the share of the first interval by which a ray's lattice is moved, one random number a ray while fitting; None
            moves nothing.
        capacity: length of the arrays returned. Rays from the first that does not fit on get no samples, as ``count`` says. None fits
            them all, which needs the count on the host and is refused on a GPU.
        max_samples_per_ray: the nearest so many samples of a ray are kept.

    Raises:
        ValueError: step is not positive, cone_angle is negative, or capacity is missing on a GPU.

    Source: Müller et al., Instant neural graphics primitives, 2022, appendix E.
    """
    if not step > 0.0:
        raise ValueError(f"The marching step is {step}; it must be a positive length.")
    if cone_angle < 0.0:
        raise ValueError(f"The cone angle is {cone_angle}; it must not be negative.")
    origins, directions = rays.origins.float().contiguous(), rays.directions.float().contiguous()
    device = origins.device
    if capacity is None and not on_cpu(device):
        raise ValueError("march() needs a capacity on a GPU, where counting the samples would stop the device; pass capacity=...")
    number = origins.shape[0]
    entries, leaves = _box(
        rays,
        near.float() if isinstance(near, Tensor) else torch.full((number,), float(near), device=device),
        far.float() if isinstance(far, Tensor) else torch.full((number,), float(far), device=device),
        grid.half_extent,
    )
    moved = torch.zeros(number, device=device) if offsets is None else offsets.float().contiguous()
    counts = torch.zeros(number, dtype=torch.int32, device=device)
    run_k, run_length = (torch.empty(number * _RUNS, dtype=torch.int32, device=device) for _ in range(2))
    run_t = torch.empty(number * _RUNS, device=device)
    most = max_samples_per_ray or 0
    pieces = max(1, number // _RAYS_PER_PIECE) if on_cpu(device) else None
    shared = [
        origins,
        directions,
        entries,
        leaves,
        moved,
        grid.bits,
        grid.clearance,
        grid.resolution,
        grid.levels,
        float(step),
        float(cone_angle),
        most,
    ]
    nothing, no_rays = torch.zeros(0, device=device), torch.zeros(0, dtype=torch.int32, device=device)
    runs = [run_k, run_t, run_length]
    launch(_march_kernel, number, [*shared, 0, counts, no_rays, *runs, no_rays, nothing, nothing], device, pieces=pieces)
    samples = allocate_samples(counts, capacity)
    written = [samples.count, samples.first, *runs, samples.ray_index, samples.starts, samples.ends]
    launch(_march_kernel, number, [*shared, 1, *written], device, pieces=pieces)
    return samples


@torch.no_grad()
def prune(samples: Samples, keep: Bool[Tensor, " samples"], *, capacity: int | None = None) -> Samples:
    """The samples where ``keep`` holds, packed anew in the same order: exactly as many on a CPU, on a GPU with the same capacity or
    the one given, beyond which rays lose their samples.

    >>> import torch
    >>> from unrender.ops.rays.samples import Samples
    >>> two = Samples(torch.zeros(2, dtype=torch.int32), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]),
    ...               torch.tensor([0], dtype=torch.int32), torch.tensor([2], dtype=torch.int32))
    >>> prune(two, torch.tensor([False, True])).starts.tolist()
    [1.0]
    """
    device = samples.starts.device
    flags = keep.contiguous().view(torch.uint8)
    counts = torch.zeros_like(samples.count)
    pieces = chunk_count(samples)
    launch(_keep_count_kernel, counts.shape[0], [flags, samples.first, samples.count, counts], device, pieces=pieces)
    if on_cpu(device):
        capacity = None
    elif capacity is None:
        capacity = samples.starts.shape[0]
    kept = allocate_samples(counts, capacity)
    launch(
        _keep_kernel,
        counts.shape[0],
        [
            *(flags, samples.first, samples.count, samples.starts, samples.ends),
            *(kept.first, kept.ray_index, kept.starts, kept.ends),
        ],
        device,
        pieces=pieces,
    )
    return kept


@torch.no_grad()
def visible(
    samples: Samples, alpha: Float[Tensor, " samples"], *, threshold: float = 1e-4, alpha_threshold: float = 0.0
) -> Bool[Tensor, " samples"]:
    """Which samples matter to their pixel: the transmittance in front exceeds ``threshold`` and the opacity ``alpha_threshold``.

    Meant for a pass without gradients whose survivors, through ``prune``, are evaluated again with them.

    Args:
        samples: the intervals.
        alpha: opacity in [0, 1] of each.
        threshold: transmittance at which a ray ends.
        alpha_threshold: opacity up to which a sample is dropped; it still dims what is behind it.
    """
    flags = torch.zeros(samples.starts.shape[0], dtype=torch.uint8, device=samples.starts.device)
    launch(
        _visible_kernel,
        samples.first.shape[0],
        [alpha.float().contiguous(), samples.first, samples.count, float(threshold), float(alpha_threshold), flags],
        flags.device,
        pieces=chunk_count(samples),
    )
    return flags.view(torch.bool)

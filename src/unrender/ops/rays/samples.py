"""Packed samples: the intervals of a batch of rays in one flat list, ray by ray and near to far within a ray.

A ray owns the slice ``first[ray] : first[ray] + count[ray]``. The arrays may be longer than the samples in use (a fixed capacity keeps a
GPU step free of host synchronization); a sample in the unused tail has ray index -1 and no length, and weighs nothing everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, no_type_check

import torch
import warp as wp
from jaxtyping import Float, Int
from torch import Tensor

from unrender.cameras import Rays
from unrender.devices import thread_count
from unrender.ops.kernels.launch import launch

wp.set_module_options({"enable_backward": False})

_SAMPLES_PER_PIECE = 32768
"""A thread gets no fewer samples than this: they take about 0.2 ms, and waking a thread on a busy machine takes as long."""


@dataclass(frozen=True)
class Samples:
    """The intervals along a batch of rays, packed ray by ray, near to far."""

    ray_index: Int[Tensor, " samples"]
    """int32 index of the ray a sample lies on, -1 beyond the samples in use."""
    starts: Float[Tensor, " samples"]
    """Distance along the unit ray where the interval begins."""
    ends: Float[Tensor, " samples"]
    """Distance along the unit ray where the interval ends."""
    first: Int[Tensor, " rays"]
    """int32 index of the ray's first sample."""
    count: Int[Tensor, " rays"]
    """int32 number of samples on the ray, which may be zero."""

    @property
    def midpoints(self) -> Float[Tensor, " samples"]:
        """Distance along the unit ray of each interval's middle."""
        return 0.5 * (self.starts + self.ends)

    @property
    def lengths(self) -> Float[Tensor, " samples"]:
        """Length of each interval, zero in the unused tail."""
        return self.ends - self.starts

    def used(self) -> Int[Tensor, " 1"]:
        """Number of samples in use, as an int32 tensor that stays on the device."""
        return self.count.sum(dtype=torch.int32).reshape(1)

    def positions(self, rays: Rays) -> Float[Tensor, "samples 3"]:
        """Middle of each interval in the world, x = origin + t direction; the origin of the world in the unused tail.

        Differentiates the origins and directions of the rays, not the distances.
        """
        return _Positions.apply(rays.origins.float().contiguous(), rays.directions.float().contiguous(), self)

    def gather(self, per_ray: Float[Tensor, "rays channels"]) -> Float[Tensor, "samples channels"]:
        """Repeats a value of each ray, for example its direction, for all its samples; zero in the unused tail.

        Differentiates the values: the gradient of a ray is the sum over its samples, in their order.
        """
        return _Gather.apply(per_ray.float().contiguous(), self)


def allocate_samples(counts: Int[Tensor, " rays"], capacity: int | None) -> Samples:
    """Packed samples that are still to be filled in: without a ray and without length, as many as each ray has a count.

    Args:
        counts: int32, wanted on each ray.
        capacity: length of the arrays; rays from the first that does not fit on get a count of zero. None fits them all, which needs the
            sum on the host.
    """
    if capacity is not None:
        counts = counts.masked_fill(counts.cumsum(0) > capacity, 0)
    size = int(counts.sum()) if capacity is None else capacity
    starts = torch.zeros(size, device=counts.device)
    ray_index = torch.full((size,), -1, dtype=torch.int32, device=counts.device)
    return Samples(ray_index, starts, torch.zeros_like(starts), (counts.cumsum(0) - counts).int(), counts)


def chunk_count(samples: Samples) -> int:
    """How finely ``launch`` should cut a kernel whose work items are the rays of ``samples``."""
    return min(thread_count(), max(1, samples.starts.shape[0] // _SAMPLES_PER_PIECE))


@no_type_check
@wp.kernel
def _positions_kernel(
    first: int,
    origins: wp.array2d(dtype=wp.float32),
    directions: wp.array2d(dtype=wp.float32),
    ray_index: wp.array(dtype=wp.int32),
    starts: wp.array(dtype=wp.float32),
    ends: wp.array(dtype=wp.float32),
    positions: wp.array2d(dtype=wp.float32),
):
    i = first + wp.tid()
    ray = ray_index[i]
    if ray < 0:
        for c in range(3):
            positions[i, c] = 0.0
    else:
        t = 0.5 * (starts[i] + ends[i])
        for c in range(3):
            positions[i, c] = origins[ray, c] + t * directions[ray, c]


@no_type_check
@wp.kernel
def _positions_adjoint_kernel(
    first: int,
    grad: wp.array2d(dtype=wp.float32),
    starts: wp.array(dtype=wp.float32),
    ends: wp.array(dtype=wp.float32),
    ray_first: wp.array(dtype=wp.int32),
    ray_count: wp.array(dtype=wp.int32),
    grad_origins: wp.array2d(dtype=wp.float32),
    grad_directions: wp.array2d(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin = ray_first[ray]
    origin = wp.vec3(0.0, 0.0, 0.0)
    direction = wp.vec3(0.0, 0.0, 0.0)
    for i in range(begin, begin + ray_count[ray]):
        g = wp.vec3(grad[i, 0], grad[i, 1], grad[i, 2])
        origin += g
        direction += g * (0.5 * (starts[i] + ends[i]))
    for c in range(3):
        grad_origins[ray, c] = origin[c]
        grad_directions[ray, c] = direction[c]


@no_type_check
@wp.kernel
def _gather_kernel(
    first: int,
    per_ray: wp.array2d(dtype=wp.float32),
    ray_index: wp.array(dtype=wp.int32),
    per_sample: wp.array2d(dtype=wp.float32),
):
    i = first + wp.tid()
    ray = ray_index[i]
    for c in range(per_ray.shape[1]):
        if ray < 0:
            per_sample[i, c] = 0.0
        else:
            per_sample[i, c] = per_ray[ray, c]


@no_type_check
@wp.kernel
def _gather_adjoint_kernel(
    first: int,
    grad: wp.array2d(dtype=wp.float32),
    ray_first: wp.array(dtype=wp.int32),
    ray_count: wp.array(dtype=wp.int32),
    grad_per_ray: wp.array2d(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin = ray_first[ray]
    for c in range(grad.shape[1]):
        total = float(0.0)
        for i in range(begin, begin + ray_count[ray]):
            total += grad[i, c]
        grad_per_ray[ray, c] = total


class _Positions(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, origins: Tensor, directions: Tensor, samples: Samples) -> Tensor:
        ctx.samples = samples
        positions = torch.empty(samples.starts.shape[0], 3, device=origins.device)
        launch(
            _positions_kernel,
            positions.shape[0],
            [origins, directions, samples.ray_index, samples.starts, samples.ends, positions],
            origins.device,
        )
        return positions

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0].contiguous()
        samples: Samples = ctx.samples
        origins = torch.empty(samples.first.shape[0], 3, device=grad.device)
        directions = torch.empty_like(origins)
        launch(
            _positions_adjoint_kernel,
            origins.shape[0],
            [grad, samples.starts, samples.ends, samples.first, samples.count, origins, directions],
            grad.device,
            pieces=chunk_count(samples),
        )
        return origins, directions, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, per_ray: Tensor, samples: Samples) -> Tensor:
        ctx.samples = samples
        per_sample = torch.empty(samples.starts.shape[0], per_ray.shape[1], device=per_ray.device)
        launch(_gather_kernel, per_sample.shape[0], [per_ray, samples.ray_index, per_sample], per_ray.device)
        return per_sample

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0].contiguous()
        samples: Samples = ctx.samples
        per_ray = torch.empty(samples.first.shape[0], grad.shape[1], device=grad.device)
        launch(
            _gather_adjoint_kernel,
            per_ray.shape[0],
            [grad, samples.first, samples.count, per_ray],
            grad.device,
            pieces=chunk_count(samples),
        )
        return per_ray, None

"""Packed samples: the intervals of a batch of rays in one flat list, ray by ray and near to far within a ray.

A ray owns the slice ``first[ray] : first[ray] + count[ray]``. The arrays may be longer than the samples in use (a fixed capacity keeps a
GPU step free of host synchronization). A sample in the unused tail has ray index -1, length zero and weight zero.

:meth:`Samples.positions` and :meth:`Samples.gather` are linear. The backward pass of each is its transpose, and that of the transpose is
the operation again, so both have derivatives of every order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, no_type_check

import torch
import warp as wp
from jaxtyping import Float, Int
from torch import Tensor

from unrender.cameras import Rays
from unrender.devices import thread_count
from unrender.ops.kernels.checks import Arguments, as_int32
from unrender.ops.kernels.launch import launch
from unrender.ops.kernels.structs import filled
from unrender.ops.rays.checks import ray_tensors

wp.set_module_options({"enable_backward": False})

_SAMPLES_PER_CHUNK = 8192
"""Smallest number of samples of a chunk: they take 0.05 to 0.2 ms, about as long as a thread takes to wake."""
_CHUNKS_PER_THREAD = 4
"""A thread that wakes late, or whose rays are long, leaves chunks to the others."""


_FIELDS = ("ray_index", "starts", "ends", "first", "count")


class _SampleArrays:
    """The arrays of :class:`Samples`, for kernels."""

    ray_index: wp.array(dtype=wp.int32)  # pyright: ignore[reportInvalidTypeForm]
    starts: wp.array(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    ends: wp.array(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    first: wp.array(dtype=wp.int32)  # pyright: ignore[reportInvalidTypeForm]
    count: wp.array(dtype=wp.int32)  # pyright: ignore[reportInvalidTypeForm]


SampleArrays = wp.struct(_SampleArrays)


class _RayArrays:
    """The rays of :class:`Samples`, for kernels that look along them."""

    origins: wp.array2d(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    directions: wp.array2d(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]


RayArrays = wp.struct(_RayArrays)


@no_type_check
@wp.func
def span(samples: SampleArrays, ray: int):
    """Return begin and end of a ray's samples, clamped to the arrays."""
    size = samples.starts.shape[0]
    begin = wp.clamp(samples.first[ray], 0, size)
    return begin, begin + wp.clamp(samples.count[ray], 0, size - begin)


@no_type_check
@wp.func
def length(samples: SampleArrays, i: int):
    """Return the length of an interval."""
    return samples.ends[i] - samples.starts[i]


@no_type_check
@wp.func
def middle(samples: SampleArrays, i: int):
    """Return the distance of an interval's middle."""
    return 0.5 * (samples.starts[i] + samples.ends[i])


@no_type_check
@wp.func
def copy_sample(source: SampleArrays, from_: int, target: SampleArrays, to: int, ray: int):
    """Write an interval of ``source`` into ``target``."""
    target.ray_index[to] = ray
    target.starts[to] = source.starts[from_]
    target.ends[to] = source.ends[from_]


@dataclass(frozen=True)
class Samples:
    """The intervals along a batch of rays, packed ray by ray, near to far.

    Indices may be int64 and are converted. Their values are not checked: kernels stay within the arrays.

    Raises:
        ValueError: a tensor has the wrong type, size or device.
    """

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

    def __post_init__(self) -> None:
        """Check the tensors against each other."""
        takes = Arguments("Samples")
        takes.float32(self.starts, "starts", ("samples",))
        size = (self.starts.shape[0], "samples")
        takes.float32(self.ends, "ends", (size,))
        indices = [takes.integers(self.ray_index, "ray_index", (size,)), takes.integers(self.first, "first", ("rays",))]
        indices.append(takes.integers(self.count, "count", ((self.first.shape[0], "rays"),)))
        for name, tensor in zip(("ray_index", "first", "count"), indices, strict=True):
            if tensor.dtype != torch.int32:
                object.__setattr__(self, name, as_int32(tensor))

    @property
    def midpoints(self) -> Float[Tensor, " samples"]:
        """Distance along the unit ray of each interval's middle."""
        return 0.5 * (self.starts + self.ends)

    @property
    def lengths(self) -> Float[Tensor, " samples"]:
        """Length of each interval, zero in the unused tail."""
        return self.ends - self.starts

    @cached_property
    def arrays(self) -> Any:
        """A :class:`SampleArrays`, packed once for all kernels that take these samples."""
        return filled(SampleArrays, **{name: getattr(self, name).contiguous() for name in _FIELDS})

    def __getstate__(self) -> dict[str, Tensor]:
        """Leave out the packed arrays, which hold addresses, when copying."""
        return {name: getattr(self, name) for name in _FIELDS}

    def used(self) -> Int[Tensor, " 1"]:
        """Count the samples in use, as an int32 tensor that stays on the device."""
        return self.count.sum(dtype=torch.int32).reshape(1)

    def positions(self, rays: Rays) -> Float[Tensor, "samples 3"]:
        """Return the middle of each interval in the world, x = origin + t direction; zero in the unused tail.

        Differentiable in the origins and directions of the rays, not in the distances. The result is the transposed view of a [3, samples]
        buffer.

        Raises:
            ValueError: the rays do not match the samples in number, shape, type or device.
        """
        takes = Arguments("positions", self.starts.device, "the samples")
        origins, directions = ray_tensors(takes, rays, (self.count.shape[0], "rays"))
        return _Positions.apply(origins, directions, self)

    def gather(self, per_ray: Float[Tensor, "rays channels"]) -> Float[Tensor, "samples channels"]:
        """Repeat a value of each ray, such as its direction, for all its samples; zero in the unused tail.

        Differentiable in the values: the gradient of a ray is the sum over its samples, in order.

        Raises:
            ValueError: there is not one row for each ray, or its type or device is wrong.
        """
        takes = Arguments("gather", self.starts.device, "the samples")
        per_ray = takes.float32(per_ray, "per_ray", ((self.count.shape[0], "rays"), "channels"))
        takes.count(max(self.starts.shape[0], self.count.shape[0]) * per_ray.shape[1], "the result")
        return _Gather.apply(per_ray.contiguous(), self)


def allocate_samples(counts: Int[Tensor, " rays"], capacity: int | None, verb: str) -> Samples:
    """Allocate packed samples with the given count on each ray.

    Args:
        counts: int32, wanted on each ray.
        capacity: length of the arrays; the first ray that does not fit and all later ones get count zero. None fits all, which needs the
        sum on the host.
        verb: the function that allocates.

    Raises:
        ValueError: there are more samples than kernels can count.
    """
    if capacity is not None:
        counts = counts.masked_fill(counts.cumsum(0) > capacity, 0)
    ends = counts.cumsum(0)
    first = (ends - counts).int()
    if capacity is None:  # every place is written
        size = int(ends[-1]) if len(ends) else 0
        Arguments(verb).count(size, "the samples returned")
        starts, stops = torch.empty(size, device=counts.device), torch.empty(size, device=counts.device)
        return Samples(torch.empty(size, dtype=torch.int32, device=counts.device), starts, stops, first, counts)
    Arguments(verb).count(capacity, "the samples returned")
    starts = torch.zeros(capacity, device=counts.device)
    ray_index = torch.full((capacity,), -1, dtype=torch.int32, device=counts.device)
    return Samples(ray_index, starts, torch.zeros_like(starts), first, counts)


def arguments_of(verb: str, samples: object) -> Arguments:
    """Begin the checks of a call with samples, which decide its device.

    Raises:
        ValueError: they are no :class:`Samples`.
    """
    given = Arguments(verb).instance(samples, "samples", Samples)
    return Arguments(verb, given.starts.device, "samples")


def per_sample(takes: Arguments, tensor: object, name: str, samples: Samples) -> Tensor:
    """Return a tensor of one number per sample, contiguous.

    Raises:
        ValueError: its shape, type or device does not fit the samples.
    """
    return takes.float32(tensor, name, ((samples.starts.shape[0], "samples"),)).contiguous()


def chunk_count(samples: Samples) -> int:
    """Return how finely ``launch`` should cut a kernel whose work items are the rays of ``samples``."""
    return min(_CHUNKS_PER_THREAD * thread_count(), max(1, samples.starts.shape[0] // _SAMPLES_PER_CHUNK))


@no_type_check
@wp.kernel
def _positions_kernel(
    first: int,
    samples: SampleArrays,
    origins: wp.array2d(dtype=wp.float32),
    directions: wp.array2d(dtype=wp.float32),
    positions: wp.array2d(dtype=wp.float32),
):
    i = first + wp.tid()
    ray = samples.ray_index[i]
    if ray < 0 or ray >= origins.shape[0]:
        for c in range(3):
            positions[c, i] = 0.0
    else:
        t = middle(samples, i)
        for c in range(3):
            positions[c, i] = origins[ray, c] + t * directions[ray, c]


@no_type_check
@wp.kernel
def _positions_adjoint_kernel(
    first: int,
    samples: SampleArrays,
    grad_positions: wp.array2d(dtype=wp.float32),
    grad_origins: wp.array2d(dtype=wp.float32),
    grad_directions: wp.array2d(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin, end = span(samples, ray)
    origin = wp.vec3(0.0, 0.0, 0.0)
    direction = wp.vec3(0.0, 0.0, 0.0)
    for i in range(begin, end):
        g = wp.vec3(grad_positions[i, 0], grad_positions[i, 1], grad_positions[i, 2])
        origin += g
        direction += g * middle(samples, i)
    for c in range(3):
        grad_origins[ray, c] = origin[c]
        grad_directions[ray, c] = direction[c]


@no_type_check
@wp.kernel
def _gather_kernel(
    first: int,
    samples: SampleArrays,
    per_ray: wp.array2d(dtype=wp.float32),
    per_sample: wp.array2d(dtype=wp.float32),
):
    i = first + wp.tid()
    ray = samples.ray_index[i]
    for c in range(per_ray.shape[1]):
        if ray < 0 or ray >= per_ray.shape[0]:
            per_sample[i, c] = 0.0
        else:
            per_sample[i, c] = per_ray[ray, c]


@no_type_check
@wp.kernel
def _ray_sum_kernel(
    first: int,
    samples: SampleArrays,
    per_sample: wp.array2d(dtype=wp.float32),
    per_ray: wp.array2d(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin, end = span(samples, ray)
    for c in range(per_sample.shape[1]):
        total = float(0.0)
        for i in range(begin, end):
            total += per_sample[i, c]
        per_ray[ray, c] = total


class _Positions(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, origins: Tensor, directions: Tensor, samples: Samples) -> Tensor:
        ctx.samples = samples
        positions = torch.empty(3, samples.starts.shape[0], device=origins.device)
        launch(_positions_kernel, positions.shape[1], [samples.arrays, origins, directions, positions], origins.device)
        return positions.t()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *_PositionsTransposed.apply(grads[0].contiguous(), ctx.samples), None


class _PositionsTransposed(torch.autograd.Function):
    """Sums over each ray of its samples' values, and of these times their distance."""

    @staticmethod
    def forward(ctx: Any, grad_positions: Tensor, samples: Samples) -> tuple[Tensor, Tensor]:
        ctx.samples = samples
        grad_origins = torch.empty(samples.count.shape[0], 3, device=grad_positions.device)
        grad_directions = torch.empty_like(grad_origins)
        arguments = [samples.arrays, grad_positions, grad_origins, grad_directions]
        launch(_positions_adjoint_kernel, grad_origins.shape[0], arguments, grad_positions.device, chunks=chunk_count(samples))
        return grad_origins, grad_directions

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _Positions.apply(grads[0].contiguous(), grads[1].contiguous(), ctx.samples), None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, per_ray: Tensor, samples: Samples) -> Tensor:
        ctx.samples = samples
        per_sample = torch.empty(samples.starts.shape[0], per_ray.shape[1], device=per_ray.device)
        launch(_gather_kernel, per_sample.shape[0], [samples.arrays, per_ray, per_sample], per_ray.device)
        return per_sample

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return RaySum.apply(grads[0].contiguous(), ctx.samples), None


class RaySum(torch.autograd.Function):
    """The sum over the samples of each ray, [samples, channels] to [rays, channels]."""

    @staticmethod
    def forward(ctx: Any, per_sample: Tensor, samples: Samples) -> Tensor:
        ctx.samples = samples
        per_ray = torch.empty(samples.count.shape[0], per_sample.shape[1], device=per_sample.device)
        arguments = [samples.arrays, per_sample, per_ray]
        launch(_ray_sum_kernel, per_ray.shape[0], arguments, per_sample.device, chunks=chunk_count(samples))
        return per_ray

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _Gather.apply(grads[0].contiguous(), ctx.samples), None

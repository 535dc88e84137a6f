"""Rays through a multi-sphere image: layers of density and color on spheres around the world, for what lies beyond the unit ball.

The L spheres have radii r_l with 1/r_l = 1 − (l + ½) / L, from just outside the unit ball to far away. A layer is a picture of the sphere
by longitude and latitude. A ray meets each sphere where it leaves it; with the bilinear interpolation of density and color,

    α_l = 1 − exp(−unit max(0, σ_l) / L),   c_l = max(0, ½ + k_l),   w_l = α_l Π_{j<l} (1 − α_j),   C = Σ w_l c_l

The gradient of a layer belongs to one work item on a CPU. Source: Fridovich-Keil et al. 2022 (Plenoxels); Attal et al. 2020 (multi-sphere
images).
"""

from __future__ import annotations

from typing import Any, NamedTuple, no_type_check

import torch
import warp as wp
from jaxtyping import Float
from torch import Tensor

from unrender.cameras import Rays
from unrender.devices import on_cpu, thread_count
from unrender.ops.kernels.checks import Arguments
from unrender.ops.kernels.derivatives import differentiable_once
from unrender.ops.kernels.launch import launch
from unrender.ops.kernels.native import native_sections
from unrender.ops.kernels.structs import filled
from unrender.ops.kernels.work import recycled
from unrender.ops.rays.checks import ray_tensors
from unrender.ops.rays.samples import RayArrays

wp.set_module_options({"enable_backward": False, "optimization_level": 3})

_BLOCK = 64
"""Rays of a work item on a CPU."""
_CHUNKS_PER_THREAD = 8
_RECORD = 7

_CPP = native_sections(__file__, "multi_sphere.h")


@no_type_check
@wp.func_native(_CPP.render)
def _render(
    image: wp.array(dtype=wp.float32),
    rays: RayArrays,
    arriving: wp.array(dtype=wp.float32),
    layers: int,
    height: int,
    width: int,
    unit: float,
    stop: float,
    begin: int,
    end: int,
    records: wp.array(dtype=wp.float32),
    texels: wp.array(dtype=wp.int32),
    color: wp.array(dtype=wp.float32),
    transmittance: wp.array(dtype=wp.float32),
    distances: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(_CPP.sample_gradients)
def _sample_gradients(
    records: wp.array(dtype=wp.float32),
    texels: wp.array(dtype=wp.int32),
    transmittance: wp.array(dtype=wp.float32),
    of_color: wp.array(dtype=wp.float32),
    of_light: wp.array(dtype=wp.float32),
    layers: int,
    unit: float,
    begin: int,
    end: int,
    gradients: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(_CPP.scatter)
def _scatter(
    records: wp.array(dtype=wp.float32),
    texels: wp.array(dtype=wp.int32),
    gradients: wp.array(dtype=wp.float32),
    layers: int,
    height: int,
    width: int,
    begin: int,
    end: int,
    layer_begin: int,
    layer_end: int,
    clear: bool,
    grad_image: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.kernel
def _render_kernel(
    first: int,
    image: wp.array(dtype=wp.float32),
    rays: RayArrays,
    arriving: wp.array(dtype=wp.float32),
    layers: int,
    height: int,
    width: int,
    unit: float,
    stop: float,
    block: int,
    records: wp.array(dtype=wp.float32),
    texels: wp.array(dtype=wp.int32),
    color: wp.array(dtype=wp.float32),
    transmittance: wp.array(dtype=wp.float32),
    distances: wp.array(dtype=wp.float32),
):
    begin = (first + wp.tid()) * block
    end = begin + wp.min(block, arriving.shape[0] - begin)
    _render(image, rays, arriving, layers, height, width, unit, stop, begin, end, records, texels, color, transmittance, distances)


@no_type_check
@wp.kernel
def _sample_gradients_kernel(
    first: int,
    records: wp.array(dtype=wp.float32),
    texels: wp.array(dtype=wp.int32),
    transmittance: wp.array(dtype=wp.float32),
    of_color: wp.array(dtype=wp.float32),
    of_light: wp.array(dtype=wp.float32),
    layers: int,
    unit: float,
    block: int,
    gradients: wp.array(dtype=wp.float32),
):
    begin = (first + wp.tid()) * block
    end = begin + wp.min(block, transmittance.shape[0] - begin)
    _sample_gradients(records, texels, transmittance, of_color, of_light, layers, unit, begin, end, gradients)


@no_type_check
@wp.kernel
def _scatter_kernel(
    first: int,
    records: wp.array(dtype=wp.float32),
    texels: wp.array(dtype=wp.int32),
    gradients: wp.array(dtype=wp.float32),
    rays: int,
    layers: int,
    height: int,
    width: int,
    by_layer: bool,
    grad_image: wp.array(dtype=wp.float32),
):
    """Add to one layer on a CPU, and the samples of one ray on a GPU."""
    item = first + wp.tid()
    begin = item
    end = item + 1
    layer_begin = int(0)
    layer_end = int(layers)
    if by_layer:
        begin = int(0)
        end = int(rays)
        layer_begin = int(item)
        layer_end = item + 1
    _scatter(records, texels, gradients, layers, height, width, begin, end, layer_begin, layer_end, by_layer, grad_image)


class SphereRays(NamedTuple):
    """What rays see of the layers."""

    color: Float[Tensor, "rays 3"]
    """Σ w c, over black."""
    light: Float[Tensor, " rays"]
    """Share of the light that passes all layers."""
    distance: Float[Tensor, " rays"]
    """Σ w t; it has no gradient."""


class _Render(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, origins: Tensor, directions: Tensor, arriving: Tensor, unit: float, stop: float) -> Any:
        (layers, height, width, _), count, device = image.shape, origins.shape[0], image.device
        records, texels = (_scratch((count, layers, size), device) for size in (_RECORD, 1))
        texels = texels.view(torch.int32)
        color, (light, distance) = origins.new_empty(count, 3), (origins.new_empty(count) for _ in range(2))
        block = _BLOCK if on_cpu(device) else 1
        rays = filled(RayArrays, origins=origins, directions=directions)
        arguments = [image.view(-1), rays, arriving, layers, height, width, unit, stop, block, records.view(-1), texels.view(-1)]
        items, chunks = -(-count // block), _CHUNKS_PER_THREAD * thread_count()
        launch(_render_kernel, items, [*arguments, color.view(-1), light, distance], device, chunks=chunks)
        ctx.found, ctx.unit = (records, texels), unit
        ctx.save_for_backward(image, light)
        ctx.mark_non_differentiable(distance)
        return color, light, distance

    @staticmethod
    @differentiable_once("render_multi_sphere")
    def backward(ctx: Any, of_color: Tensor, of_light: Tensor, _: Tensor) -> Any:
        image, light = ctx.saved_tensors
        (records, texels), (layers, height, width, _), device = ctx.found, image.shape, image.device
        count, plain = light.shape[0], on_cpu(device)
        gradients, block = _scratch((count, layers, 4), device), _BLOCK if plain else 1
        flat = records.view(-1), texels.view(-1)
        arguments = [*flat, light, of_color.contiguous().view(-1), of_light.contiguous(), layers, ctx.unit, block, gradients.view(-1)]
        launch(_sample_gradients_kernel, -(-count // block), arguments, device, chunks=_CHUNKS_PER_THREAD * thread_count())
        grad_image = recycled(image.shape) if plain else torch.zeros_like(image)
        arguments = [*flat, gradients.view(-1), count, layers, height, width, plain, grad_image.view(-1)]
        items = layers if plain else count
        launch(_scatter_kernel, items, arguments, device, chunks=items)
        return grad_image, None, None, None, None, None


def _scratch(shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Return uninitialized memory; on a CPU that of the last step, whose number of rays was about the same."""
    count, *rest = shape
    room = (1 << max(0, count - 1).bit_length(), *rest)
    return (recycled(room) if on_cpu(device) else torch.empty(room, device=device))[:count]


def render_multi_sphere(
    rays: Rays,
    image: Float[Tensor, "layers height width 4"],
    *,
    unit: float = 1.0,
    arriving: Float[Tensor, " rays"] | None = None,
    stop: float = 1e-7,
) -> SphereRays:
    """Render rays through the layers of a multi-sphere image; see the formula of the module.

    Differentiable once in the image; rays and arriving light get no gradient.

    Args:
        rays: with unit directions.
        image: density, red, green and blue of each texel. Row 0 is at +Z; the middle column is at +X, and columns run towards +Y.
        unit: by which densities are multiplied, so that densities and colors can learn at one rate.
        arriving: share of the light of each ray that arrives at the first layer; by default all.
        stop: light at which a ray ends.

    Raises:
        ValueError: for other shapes or types, tensors on different devices, or a number out of its range.

    >>> fog = torch.zeros(4, 2, 4, 4)
    >>> fog[..., 0] = 1.0
    >>> seen = render_multi_sphere(Rays(torch.zeros(1, 3), torch.tensor([[0.0, 0.6, 0.8]])), fog)
    >>> round(seen.light.item(), 4), [round(x, 4) for x in seen.color[0].tolist()]
    (0.3679, [0.3161, 0.3161, 0.3161])
    """
    takes = Arguments("render_multi_sphere")
    origins, directions = ray_tensors(takes, rays)
    image = takes.float32(image, "image", ("layers", "height", "width", 4)).contiguous()
    if min(image.shape) < 1:
        raise ValueError(f"render_multi_sphere takes an image with layers, rows and columns, got {list(image.shape)}")
    size = (origins.shape[0], "rays")
    given = origins.new_ones(size[0]) if arriving is None else takes.float32(arriving, "arriving", (size,)).detach().contiguous()
    takes.count(2 * _RECORD * size[0] * image.shape[0], "the samples")
    numbers = takes.number(unit, "unit", 0.0), takes.number(stop, "stop", 0.0, 1.0)
    return SphereRays(*_Render.apply(image, origins.detach(), directions.detach(), given, *numbers))

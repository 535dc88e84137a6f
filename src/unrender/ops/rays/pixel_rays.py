"""Pixels drawn at random from photos, with their rays, in one launch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import no_type_check

import torch
import warp as wp
from jaxtyping import Float, Int
from torch import Tensor

from unrender.ops.kernels.checks import Arguments
from unrender.ops.kernels.launch import address, launch
from unrender.ops.kernels.native import native_sections
from unrender.ops.kernels.work import blocks

wp.set_module_options({"enable_backward": False})

_BLOCK = 1024
"""Smallest number of pixels of a work item on a CPU."""

_CPP = native_sections(__file__, "pixel_rays.h")


@no_type_check
@wp.func_native(_CPP.pixels)
def _pixels(
    view_address: wp.uint64,
    place_address: wp.uint64,
    packed_address: wp.uint64,
    width_address: wp.uint64,
    begin_address: wp.uint64,
    direction_address: wp.uint64,
    direction_count: wp.int64,
    view_count: int,
    poses: wp.array(dtype=wp.float32),
    begin: int,
    end: int,
    pixels: wp.array(dtype=wp.float32),
    color: wp.array(dtype=wp.float32),
    alpha: wp.array(dtype=wp.float32),
    ray_origins: wp.array(dtype=wp.float32),
    ray_directions: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.kernel
def _pixel_kernel(
    first: int,
    view_address: wp.uint64,
    place_address: wp.uint64,
    packed_address: wp.uint64,
    width_address: wp.uint64,
    begin_address: wp.uint64,
    direction_address: wp.uint64,
    direction_count: wp.int64,
    view_count: int,
    poses: wp.array(dtype=wp.float32),
    block: int,
    pixels: wp.array(dtype=wp.float32),
    color: wp.array(dtype=wp.float32),
    alpha: wp.array(dtype=wp.float32),
    ray_origins: wp.array(dtype=wp.float32),
    ray_directions: wp.array(dtype=wp.float32),
):
    begin = (first + wp.tid()) * block
    end = begin + wp.min(block, alpha.shape[0] - begin)
    _pixels(
        view_address,
        place_address,
        packed_address,
        width_address,
        begin_address,
        direction_address,
        direction_count,
        view_count,
        poses,
        begin,
        end,
        pixels,
        color,
        alpha,
        ray_origins,
        ray_directions,
    )


@dataclass(frozen=True)
class PixelRays:
    """What is known of drawn pixels."""

    pixels: Float[Tensor, "pixels 2"]
    """The (x, y) of each center."""
    color: Float[Tensor, "pixels 3"]
    """Red, green and blue, from 0 to 1."""
    alpha: Float[Tensor, " pixels"]
    origins: Float[Tensor, "pixels 3"]
    """Of the rays in the world; not set without maps of directions, like ``directions``."""
    directions: Float[Tensor, "pixels 3"]


@dataclass(frozen=True)
class PixelMaps:
    """What the pixels of some views have in common.

    Raises:
        ValueError: a tensor has the wrong type, size or device.
    """

    widths: Int[Tensor, " views"]
    """int64, of the images."""
    poses: Float[Tensor, "views 3 4"]
    """World from camera."""
    begins: Int[Tensor, " views"]
    """int64, where the directions of a view begin."""
    directions: Float[Tensor, "places 3"] | None
    """In the camera, through every pixel center in row-major order, for one lens after the other; None if rays are not wanted."""

    def __post_init__(self) -> None:
        """Check the tensors against each other."""
        takes = Arguments("PixelMaps")
        views = (takes.tensor(self.widths, "widths", (torch.int64,), ("views",)).shape[0], "views")
        made = {"widths": self.widths, "poses": takes.float32(self.poses, "poses", (views, 3, 4))}
        made |= {"begins": takes.tensor(self.begins, "begins", (torch.int64,), (views,))}
        if self.directions is not None:
            made |= {"directions": takes.float32(self.directions, "directions", ("places", 3))}
        for name, tensor in made.items():
            object.__setattr__(self, name, tensor.contiguous())


@torch.no_grad()
def pixel_rays(views: Int[Tensor, " pixels"], places: Int[Tensor, " pixels"], packed: Int[Tensor, " pixels"], maps: PixelMaps) -> PixelRays:
    """Unpack the colors of pixels and turn the directions through them into the world.

    The ray of a pixel is zero where its view does not exist, and where there is no direction at the place counted from the first one of its
    view. Whether a place is one of its own view is not checked: any other takes the direction of another view, if there is one.

    Args:
        views: int64.
        places: int64, the number of each pixel in its image, in row-major order.
        packed: int32, whose four bytes are red, green, blue and alpha.
        maps: of the views.

    Raises:
        ValueError: for types, sizes or devices that do not fit.

    >>> maps = PixelMaps(torch.tensor([2]), torch.eye(4)[None, :3], torch.tensor([0]), torch.tensor([[0.0, 0, 1], [0, 1, 0]]))
    >>> found = pixel_rays(torch.tensor([0]), torch.tensor([1]), torch.tensor([255], dtype=torch.int32), maps)
    >>> found.pixels.tolist(), found.color.tolist(), found.directions.tolist()
    ([[1.5, 0.5]], [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    """
    widths = Arguments("pixel_rays").instance(maps, "maps", PixelMaps).widths
    takes = Arguments("pixel_rays", widths.device, "the maps")
    packed = takes.tensor(packed, "packed", (torch.int32,), ("pixels",)).contiguous()
    count, device = (packed.shape[0], "pixels"), packed.device
    views = takes.tensor(views, "views", (torch.int64,), (count,)).contiguous()
    places = takes.tensor(places, "places", (torch.int64,), (count,)).contiguous()
    takes.count(3 * count[0], "the result")
    found = PixelRays(*(torch.empty(count[0], *shape, device=device) for shape in ((2,), (3,), (), (3,), (3,))))
    items, block = blocks(count[0], _BLOCK, device)
    integers = [tensor.data_ptr() for tensor in (views, places, packed, widths, maps.begins)]
    number = 0 if maps.directions is None else maps.directions.shape[0]
    known = [address(maps.directions, torch.float32), number, widths.shape[0], maps.poses.view(-1)]
    results = [getattr(found, field.name).view(-1) for field in fields(found)]
    launch(_pixel_kernel, items, [*integers, *known, block, *results], device, chunks=items)
    return found

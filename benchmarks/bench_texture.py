"""Interpolation of vertex attributes, texture lookups and mip levels, against PyTorch's own operations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from harness import Row, compare
from torch import Tensor

from unrender.ops.raster import Raster, build_mips, interpolate, texture
from unrender.reference.interpolate import interpolate as interpolate_twin
from unrender.reference.texture import texture as texture_twin


def rows(quick: bool) -> list[Row]:
    """Measure tilted planes with a texture of their size and a large one, a cube map, mip levels, small triangles."""
    repeats = 3 if quick else 7
    side = 128 if quick else 512
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    return [
        *_plane(side, side, generator, repeats),
        *_plane(side // 2, 4 * side, generator, repeats)[1:],
        _cube(side, side // 4, generator, repeats),
        _mips(4 * side, generator, repeats),
        _interpolation(side, generator, repeats),
    ]


def _tilted_plane(side: int) -> tuple[Tensor, Tensor]:
    """Return texture coordinates of a plane that recedes from the top of the picture to its bottom, and their derivatives."""
    centers = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(centers, centers, indexing="ij")
    depth = 1 + 0.8 * y
    uv = torch.stack([x / depth, y / depth], dim=-1)
    slopes = torch.stack([1 / depth, -0.8 * x / depth**2, torch.zeros_like(x), 1 / depth**2], dim=-1) / side
    return uv[None].contiguous(), slopes[None].contiguous()


def _plane(side: int, texture_side: int, generator: torch.Generator, repeats: int) -> list[Row]:
    uv, slopes = (tensor.requires_grad_() for tensor in _tilted_plane(side))
    texels = torch.rand(1, texture_side, texture_side, 3, generator=generator).requires_grad_()
    planes = texels.detach().movedim(-1, 1).contiguous().requires_grad_()
    grad_values = torch.randn(1, side, side, 3, generator=generator)
    of_planes = grad_values.movedim(-1, 1).contiguous()

    def bilinear() -> object:
        return torch.autograd.grad(texture(texels, uv, boundary="clamp"), (texels, uv), grad_values)

    def sampled() -> object:
        values = F.grid_sample(planes, uv * 2 - 1, padding_mode="border", align_corners=False)
        return torch.autograd.grad(values, (planes, uv), of_planes)

    def trilinear(function) -> object:
        return torch.autograd.grad(function(texels, uv, slopes), (texels, uv, slopes), grad_values)

    def forward(function) -> object:
        with torch.no_grad():
            return function(texels, uv, slopes)

    name = f"texture {texture_side}² × 3 seen at {side}²"
    count = side * side
    return [
        compare(f"{name}, bilinear, forward + backward", bilinear, sampled, peer_name="grid_sample", items=count, repeats=repeats),
        compare(
            f"{name}, trilinear, forward",
            lambda: forward(texture),
            lambda: forward(texture_twin),
            peer_name="PyTorch twin",
            items=count,
            repeats=repeats,
        ),
        compare(
            f"{name}, trilinear, forward + backward",
            lambda: trilinear(texture),
            lambda: trilinear(texture_twin),
            peer_name="PyTorch twin",
            items=count,
            repeats=min(repeats, 3),
            warm_ups=1,
        ),
    ]


def _cube(side: int, cube_side: int, generator: torch.Generator, repeats: int) -> Row:
    texels = torch.rand(1, 6, cube_side, cube_side, 3, generator=generator).requires_grad_()
    uv, _ = _tilted_plane(side)
    directions = torch.cat([2 * uv - 0.5, torch.full_like(uv[..., :1], 0.4)], dim=-1).contiguous()
    level = torch.full((1, side, side), 1.5)
    grad_values = torch.randn(1, side, side, 3, generator=generator)

    def run(function) -> object:
        return torch.autograd.grad(function(texels, directions, None, level, boundary="cube"), texels, grad_values)

    return compare(
        f"cube map 6 × {cube_side}² × 3 seen at {side}², trilinear, forward + backward",
        lambda: run(texture),
        lambda: run(texture_twin),
        peer_name="PyTorch twin",
        items=side * side,
        repeats=min(repeats, 3),
        warm_ups=1,
    )


def _mips(side: int, generator: torch.Generator, repeats: int) -> Row:
    texels = torch.rand(1, side, side, 3, generator=generator)
    planes = texels.movedim(-1, 1).contiguous()

    def pooled() -> Tensor:
        level = planes
        while level.shape[-1] > 1:
            level = F.avg_pool2d(level, 2)
        return level

    return compare(
        f"mip levels of {side}² × 3", lambda: build_mips(texels), pooled, peer_name="avg_pool2d", items=side * side, repeats=repeats
    )


def _interpolation(side: int, generator: torch.Generator, repeats: int) -> Row:
    """Interpolate over two triangles for every 4 × 4 pixels, like a finely tessellated surface."""
    cells = side // 4
    row, column = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
    corner = (row * (cells + 1) + column).reshape(-1)
    below = corner + cells + 1
    faces = torch.stack([torch.stack([corner, corner + 1, below], -1), torch.stack([below + 1, below, corner + 1], -1)], 1).reshape(-1, 3)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    f, g = (x % 4 + 0.5) / 4, (y % 4 + 0.5) / 4
    upper = f + g < 1
    face = (2 * ((y // 4) * cells + x // 4) + (~upper).int()).int()[None]
    u = torch.where(upper, 1 - f - g, f + g - 1)
    v = torch.where(upper, f, 1 - f)
    barycentrics = torch.stack([u, v], -1)[None].contiguous().requires_grad_()
    raster = Raster(face, barycentrics, torch.zeros(1, side, side))
    attributes = torch.randn((cells + 1) ** 2, 3, generator=generator).requires_grad_()
    grad_values = torch.randn(1, side, side, 3, generator=generator)
    faces = faces.int()

    def run(function) -> object:
        return torch.autograd.grad(function(attributes, raster, faces), (attributes, barycentrics), grad_values)

    return compare(
        f"interpolation of 3 attributes of {len(faces):,} triangles at {side}², forward + backward",
        lambda: run(interpolate),
        lambda: run(interpolate_twin),
        peer_name="PyTorch twin",
        items=side * side,
        repeats=repeats,
    )

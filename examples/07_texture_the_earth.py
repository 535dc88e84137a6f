"""Texture the Earth: learn a globe's texture from near and far photos, with and without mip levels.

    python examples/07_texture_the_earth.py [OUTPUT_FOLDER] [--size PIXELS] [--steps STEPS] [--full-size]

In a distant view one pixel covers many texels. Without mip levels its gradient goes only to the four texels around its center, so distant
views degrade what near views have fitted. The globe's texture is noise, six faces of a cube in an atlas of 4 x 3. Writes earth.png: truth |
learned with mip levels | learned without.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize
from torch.nn.functional import interpolate as resize

from unrender.ops.raster import interpolate, interpolate_with_derivatives, rasterize, texture
from unrender.transforms import matrix_from_wxyz

RADIUS = 0.5
PLACES = ((2, 1), (0, 1), (1, 0), (1, 2), (1, 1), (3, 1))
"""Column and row in the atlas of the faces +x -x +y -y +z -z."""


class Globe(NamedTuple):
    vertices: Tensor
    faces: Tensor
    uvs: Tensor


def cube_point(face: int, a: Tensor, b: Tensor) -> Tensor:
    """Return the point of a cube's face at (a, b), which grow from -1 to 1 along columns and rows."""
    one = torch.ones_like(a)
    return torch.stack(((one, -b, -a), (-one, -b, a), (a, one, b), (a, -one, -b), (a, -b, one), (-a, -b, -one))[face], -1)


def globe(cells: int = 16) -> Globe:
    """Return a cube of ``cells``² squares a side, projected to a sphere.

    Each side has its own vertices and its place in the atlas.
    """
    along = torch.linspace(0, 1, cells + 1)
    t, s = torch.meshgrid(along, along, indexing="ij")
    vertices = torch.cat([RADIUS * normalize(cube_point(face, 2 * s - 1, 2 * t - 1), dim=-1).view(-1, 3) for face in range(6)])
    uvs = torch.cat([torch.stack(((column + s) / 4, (row + t) / 3), -1).view(-1, 2) for column, row in PLACES])
    index = torch.arange((cells + 1) ** 2).view(cells + 1, cells + 1)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    side = torch.stack((torch.stack((a, b, c), -1), torch.stack((a, c, d), -1))).view(-1, 3)
    return Globe(vertices, torch.cat([side + face * index.numel() for face in range(6)]).int(), uvs)


def noise_atlas(face_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return an atlas of land, sea and clouds, and a mask of the texels in the interior of its faces.

    The atlas is octaves of noise, [1, 3 face_size, 4 face_size, 3].
    """
    lattices = [torch.rand(1, 1, *[2**octave + 3] * 3, generator=generator) for octave in range(1, 7)]
    atlas, inside = torch.full((1, 3 * face_size, 4 * face_size, 3), 0.2), torch.zeros(3 * face_size, 4 * face_size, dtype=torch.bool)
    centers = 2 * (torch.arange(face_size) + 0.5) / face_size - 1
    b, a = torch.meshgrid(centers, centers, indexing="ij")
    margin = max(1, round(face_size * 13 / 512))
    for face, (column, row) in enumerate(PLACES):
        directions = normalize(cube_point(face, a, b), dim=-1)[None, None]
        octaves = [torch.nn.functional.grid_sample(lattice, directions, align_corners=False)[0, 0, 0] - 0.5 for lattice in lattices]
        height = torch.stack([octave * 0.5**n for n, octave in enumerate(octaves)]).sum(0)
        cloud = torch.stack([octave.flip(0) * 0.5**n for n, octave in enumerate(octaves[1:])]).sum(0)
        land, white = torch.sigmoid(20 * height)[..., None], torch.sigmoid(12 * (cloud - 0.3))[..., None]
        color = land * torch.tensor([0.35, 0.45, 0.15]) + (1 - land) * torch.tensor([0.05, 0.15, 0.45])
        color = (color + 0.25 * height[..., None]).clamp(0, 1)
        rows, columns = slice(row * face_size, (row + 1) * face_size), slice(column * face_size, (column + 1) * face_size)
        atlas[0, rows, columns] = color + white * (0.95 - color)
        inside[rows, columns][margin:-margin, margin:-margin] = True
    return atlas, inside


def render(shape: Globe, clip_positions: Tensor, atlas: Tensor, size: int, max_level: int | None) -> Tensor:
    """Render the globe over black, with mip levels up to ``max_level``, or without any if that is None."""
    raster = rasterize(clip_positions, shape.faces, (size, size), derivatives=max_level is not None)
    if max_level is None:
        color = texture(atlas, interpolate(shape.uvs, raster, shape.faces))
    else:
        uv, uv_derivatives = interpolate_with_derivatives(shape.uvs, raster, shape.faces)
        color = texture(atlas, uv, uv_derivatives, max_level=max_level)
    return torch.where(raster.face[..., None] >= 0, color, 0.0)  # the background has uv 0, which is a valid texel


class Learned(NamedTuple):
    """An atlas, and its PSNR in dB inside the faces."""

    atlas: Tensor
    psnr: float


def fit(
    size: int, face_size: int, steps: int, *, seed: int = 0, reference_scale: int = 4, report: Callable[[str], None] = lambda line: None
) -> tuple[Tensor, Learned, Learned]:
    """Return the true atlas, and those fitted with and without mip levels, from the same views.

    Each step has one view, with random rotation and at a distance of 1.5 to 50. Its target is rendered ``reference_scale`` times as large,
    with mip levels, and averaged.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = globe()
    truth, inside = noise_atlas(face_size, generator)
    atlases = [torch.full_like(truth, 0.2).requires_grad_() for _ in range(2)]
    max_levels = (face_size.bit_length() - 1, None)  # until a face is one texel; coarser levels would mix faces
    optimizer = torch.optim.Adam(atlases, lr=1e-2, fused=True)  # one pass over the atlases
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1 ** (step / steps))

    def psnr(atlas: Tensor) -> float:
        return float(-10 * (atlas.detach() - truth)[0][inside].square().mean().log10())

    for step in range(steps):
        rotation = matrix_from_wxyz(torch.randn(4, generator=generator))
        distance = 1.5 + 48.5 * float(torch.rand((), generator=generator))
        x, y, z = (shape.vertices @ rotation.T + torch.tensor([0.0, 0.0, distance])).unbind(-1)
        clip_positions = torch.stack((x / 0.4, y / 0.4, (201 * z - 400) / 199, z), -1)  # the planes are at 1 and 200
        with torch.no_grad():
            large = render(shape, clip_positions, truth, reference_scale * size, max_levels[0])
            target = avg_pool2d(large.permute(0, 3, 1, 2), reference_scale).permute(0, 2, 3, 1)
        optimizer.zero_grad()
        for atlas, max_level in zip(atlases, max_levels, strict=True):
            (render(shape, clip_positions, atlas, size, max_level) - target).square().mean().backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % max(1, steps // 20) == 0:
            report(f"step {step + 1} of {steps}: {psnr(atlases[0]):.1f} dB with mip levels, {psnr(atlases[1]):.1f} dB without")
    with_mips, without = (Learned(atlas.detach(), psnr(atlas)) for atlas in atlases)
    return truth, with_mips, without


def main(
    folder: Path = Path("runs/07_texture_the_earth"),
    *,
    size: int = 64,
    face_size: int = 64,
    steps: int = int(os.environ.get("UNRENDER_EXAMPLE_STEPS", "2000")),
    full_size: bool = False,
    seed: int = 0,
) -> None:
    """Learn a globe's texture twice, from the same views.

    Args:
        folder: where to write earth.png.
        size: pixels along each side of a view.
        face_size: texels along each side of a cube face.
        steps: optimizer steps.
        full_size: 512 pixels, 512 texels and 10,000 steps: an hour or more on a CPU.
        seed: of the texture and the views.
    """
    if full_size:
        size, face_size, steps = 512, 512, 10_000
    truth, with_mips, without = fit(size, face_size, steps, seed=seed, report=lambda line: print(line, flush=True))
    print(f"{size} pixels, {steps} steps: {with_mips.psnr:.1f} dB with mip levels, {without.psnr:.1f} dB without")

    folder.mkdir(parents=True, exist_ok=True)
    atlases = torch.cat((truth, with_mips.atlas, without.atlas), 2).permute(0, 3, 1, 2)
    row = resize(atlases, scale_factor=max(1, 128 / face_size))[0].permute(1, 2, 0)
    Image.fromarray((row.clamp(0, 1) * 255).round().byte().numpy()).save(folder / "earth.png")
    print(f"wrote {folder}/earth.png")
    if steps >= 1000 and with_mips.psnr < without.psnr + 3:
        raise SystemExit("mip levels should gain 3 dB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/07_texture_the_earth"), help="where to write earth.png")
    parser.add_argument("--size", type=int, default=64, help="pixels along each side of a view")
    parser.add_argument("--face-size", type=int, default=64, help="texels along each side of a cube face")
    parser.add_argument("--steps", type=int, default=int(os.environ.get("UNRENDER_EXAMPLE_STEPS", "2000")), help="optimizer steps")
    parser.add_argument("--full-size", action="store_true", help="512 pixels, 512 texels and 10,000 steps: an hour or more on a CPU")
    parser.add_argument("--seed", type=int, default=0, help="of the texture and the views")
    main(**vars(parser.parse_args()))

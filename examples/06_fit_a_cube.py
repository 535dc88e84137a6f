"""Fit a cube: learn its corners and colors from pictures of a few pixels, from a random start.

    python examples/06_fit_a_cube.py [OUTPUT_FOLDER] [--size PIXELS] [--steps STEPS] [--sides-differ] [--samples N]
                                     [--rule walk|owner|off]

Only antialiasing gives the corners gradients at silhouettes: with ``--rule off`` they drift away. Writes cube.png: truth | start | fitted.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from unrender.ops.raster import antialias, edge_topology, interpolate, rasterize
from unrender.transforms import matrix_from_wxyz

Rule = Literal["walk", "owner", "off"]


class Cube(NamedTuple):
    """Eight corners, and colors: one for each corner, or, if the sides differ, one for each corner of each side."""

    corners: Tensor
    faces: Tensor
    colors: Tensor
    color_faces: Tensor


class Fit(NamedTuple):
    start: Cube
    end: Cube
    errors: list[float]
    """Mean distance of the corners to the nearest corners of the true cube, after each step."""


def true_cube(sides_differ: bool) -> Cube:
    corners = torch.tensor([[x, y, z] for z in (-0.5, 0.5) for y in (-0.5, 0.5) for x in (-0.5, 0.5)])
    sides = torch.tensor([[0, 2, 3, 1], [4, 5, 7, 6], [0, 1, 5, 4], [2, 6, 7, 3], [0, 4, 6, 2], [1, 3, 7, 5]], dtype=torch.int32)
    halves = torch.tensor([[0, 1, 2], [0, 2, 3]])
    faces = sides[:, halves].reshape(-1, 3)
    if not sides_differ:
        return Cube(corners, faces, corners + 0.5, faces)
    palette = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]])
    color_faces = torch.arange(24, dtype=torch.int32).view(6, 4)[:, halves].reshape(-1, 3)
    return Cube(corners, faces, palette.repeat_interleave(4, 0), color_faces)


def seen_from(corners: Tensor, rotation: Tensor, offset: Tensor) -> Tensor:
    """Project to clip space, for a camera 3.5 away from the origin.

    It looks along +z, with a focal length of 1 / 0.4 and clip planes at 1 and 50.
    """
    x, y, z = (corners @ rotation.T + offset + torch.tensor([0.0, 0.0, 3.5])).unbind(-1)
    return torch.stack((x / 0.4, y / 0.4, (51 * z - 100) / 49, z), -1)


def renderer(cube: Cube, rule: Rule, samples: int) -> Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]:
    """Return a function of corners, colors, rotation, offset and size that renders the triangles of ``cube``."""
    topology = edge_topology(cube.faces)  # the faces never change, so the topology is computed once

    def render(corners: Tensor, colors: Tensor, rotation: Tensor, offset: Tensor, size: int) -> Tensor:
        clip_positions = seen_from(corners, rotation, offset)
        raster = rasterize(clip_positions, cube.faces, (samples * size, samples * size))
        picture = interpolate(colors, raster, cube.color_faces)
        if rule != "off":
            picture = antialias(picture, raster, clip_positions, cube.faces, topology, rule=rule)
        return picture if samples == 1 else avg_pool2d(picture.permute(0, 3, 1, 2), samples).permute(0, 2, 3, 1)

    return render


def fit(size: int, steps: int, *, sides_differ: bool = False, rule: Rule = "walk", samples: int = 1, seed: int = 0) -> Fit:
    """Fit to one random view a step; the learning rate falls tenfold in 2,000 steps."""
    generator = torch.Generator().manual_seed(seed)
    truth = true_cube(sides_differ)
    start = truth._replace(
        corners=truth.corners + torch.rand(8, 3, generator=generator) - 0.5,
        colors=torch.rand(truth.colors.shape, generator=generator),
    )
    corners, colors = start.corners.clone().requires_grad_(), start.colors.clone().requires_grad_()
    optimizer = torch.optim.Adam([corners, colors], lr=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.01, 10 ** (-0.0005 * step)))
    render = renderer(truth, rule, samples)
    errors = []
    for _ in range(steps):
        rotation = matrix_from_wxyz(torch.randn(4, generator=generator))
        offset = 0.5 * torch.rand(3, generator=generator) - 0.25
        with torch.no_grad():
            target = render(truth.corners, truth.colors, rotation, offset, size)
        loss = (render(corners, colors, rotation, offset, size) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        errors.append(float((corners.detach().abs() - 0.5).norm(dim=1).mean()))
    return Fit(start, start._replace(corners=corners.detach(), colors=colors.detach()), errors)


def error_at(errors: list[float], step: int) -> float:
    """Average the ten steps up to this one."""
    recent = errors[max(0, step - 10) : step]
    return sum(recent) / len(recent)


def main(
    folder: Path = Path("runs/06_fit_a_cube"),
    *,
    size: int = 16,
    steps: int = int(os.environ.get("UNRENDER_EXAMPLE_STEPS", "1000")),
    sides_differ: bool = False,
    rule: Rule = "walk",
    samples: int = 1,
    seed: int = 0,
) -> None:
    """Fit a cube to pictures of itself.

    Args:
        folder: where to write cube.png.
        size: pixels along each side of the pictures: 16, 8, 4.
        steps: optimizer steps; 1000 are enough for 16 pixels, 8 and 4 need 5000.
        sides_differ: give every side its own colors, which jump at the edges.
        rule: antialiasing rule; off shows the result without.
        samples: along each side of a pixel. Only supersampling smooths edges inside the silhouette.
        seed: of the start and the views.
    """
    torch.set_num_threads(1)  # sharing such small pictures between threads costs more than it saves
    found = fit(size, steps, sides_differ=sides_differ, rule=rule, samples=samples, seed=seed)
    start, end = found.errors[0], error_at(found.errors, steps)
    print(f"{size} pixels, {rule}: mean corner error {start:.3f} -> {end:.2g} of a side, {steps} steps")

    truth = true_cube(sides_differ)
    render = renderer(truth, "walk", 1)
    rotation = matrix_from_wxyz(torch.tensor([math.cos(0.4), 0.3, 0.25, 0.1]))
    views = [render(cube.corners, cube.colors, rotation, torch.zeros(3), 256)[0] for cube in (truth, found.start, found.end)]
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray((torch.cat(views, 1).clamp(0, 1) * 255).round().byte().numpy()).save(folder / "cube.png")
    print(f"wrote {folder}/cube.png")
    if rule != "off" and end >= start:
        raise SystemExit("the corners are no closer to the cube's than at the start")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/06_fit_a_cube"), help="where to write cube.png")
    parser.add_argument("--size", type=int, default=16, help="pixels along each side of the pictures: 16, 8, 4")
    parser.add_argument(
        "--steps",
        type=int,
        default=int(os.environ.get("UNRENDER_EXAMPLE_STEPS", "1000")),
        help="8 and 4 pixels need 5000",
    )
    parser.add_argument("--sides-differ", action="store_true", help="give every side its own colors, which jump at the edges")
    parser.add_argument("--rule", choices=get_args(Rule), default="walk", help="antialiasing rule; off shows the result without")
    parser.add_argument("--samples", type=int, default=1, help="along each side of a pixel")
    parser.add_argument("--seed", type=int, default=0, help="of the start and the views")
    main(**vars(parser.parse_args()))

"""Recover a pose: find the orientation of a cube from one picture.

    python examples/10_recover_a_pose.py [OUTPUT_FOLDER] [--pictures COUNT]

Gradient descent only finds the nearest minimum, so the search starts globally: a thousand evenly spread orientations are rendered in one
call at 32 pixels and compared. The best few are then optimized together, as views of one batch, at 64, 128 and 256 pixels; their
quaternions are normalized after each step. Writes pose.png: target | best of the thousand | found.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from unrender.cameras import Cameras
from unrender.ops.raster import antialias, edge_topology, interpolate, rasterize
from unrender.transforms import matrix_from_wxyz

SIZE = 256
DISTANCE = 3.5
VERTICES = torch.tensor([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
SIDES = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
FACES = torch.tensor([face for a, b, c, d in SIDES for face in ((a, b, c), (a, c, d))], dtype=torch.int32)
SIDE_COLORS = torch.tensor([[0.9, 0.2, 0.2], [0.2, 0.8, 0.3], [0.2, 0.3, 0.9], [0.9, 0.8, 0.2], [0.8, 0.3, 0.8], [0.2, 0.8, 0.8]])
# Every side is darker towards one corner, so even a single visible side determines the rotation.
COLORS = (SIDE_COLORS[:, None] * torch.tensor([1.0, 0.8, 0.6, 0.8])[:, None]).reshape(24, 3)
COLOR_FACES = torch.arange(24, dtype=torch.int32).reshape(6, 4)[:, [[0, 1, 2], [0, 2, 3]]].reshape(12, 3)
TOPOLOGY = edge_topology(FACES)
CAMERA = Cameras.alike(torch.eye(4)[None], torch.tensor([[1.25 * SIZE, 1.25 * SIZE, SIZE / 2, SIZE / 2]]), torch.zeros(1, 6), SIZE, SIZE)
CLIP_FROM_CAMERA = CAMERA.clip_from_camera(near=1.0, far=10.0)[0]


def render(wxyz: Tensor, size: int) -> Tensor:
    """Render the cube rotated by each quaternion [candidates, 4], as pictures [candidates, size, size, 3]."""
    in_camera = VERTICES @ matrix_from_wxyz(normalize(wxyz, dim=-1)).mT + torch.tensor([0.0, 0.0, DISTANCE])
    positions = in_camera @ CLIP_FROM_CAMERA[:, :3].mT + CLIP_FROM_CAMERA[:, 3]
    raster = rasterize(positions, FACES, (size, size))
    return antialias(interpolate(COLORS, raster, COLOR_FACES), raster, positions, FACES, TOPOLOGY)


def evenly_spread(count: int) -> Tensor:
    """Return quaternions on a spiral through all rotations (Alexa, "Super-Fibonacci spirals", 2022)."""
    s = torch.arange(count) + 0.5
    inner, outer = torch.sqrt(s / count), torch.sqrt(1 - s / count)
    a, b = 2 * math.pi * s / math.sqrt(2), 2 * math.pi * s / 1.533751168755204
    return torch.stack((inner * torch.sin(a), inner * torch.cos(a), outer * torch.sin(b), outer * torch.cos(b)), -1)


def difference(pictures: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference of each picture from the target [SIZE, SIZE, 3], reduced to the pictures' size."""
    block = SIZE // pictures.shape[1]
    smaller = avg_pool2d(target.movedim(-1, 0), block).movedim(0, -1)
    return (pictures - smaller).square().mean((1, 2, 3))


def find(target: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return the best of the evenly spread quaternions, and the result of optimizing it."""
    with torch.no_grad():
        spread = evenly_spread(1024)
        wxyz = spread[difference(render(spread, 32), target).argsort()[:8]]
        start = wxyz[0].clone()
    for size, candidates, rate in ((64, 8, 0.05), (128, 2, 0.01), (256, 1, 0.002)):
        with torch.no_grad():
            wxyz = wxyz[difference(render(wxyz, size), target).argsort()[:candidates]]
        wxyz.requires_grad_()
        optimizer = torch.optim.Adam([wxyz], lr=rate, betas=(0.8, 0.95))
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1 ** (1 / steps))
        for _ in range(steps):
            optimizer.zero_grad()
            difference(render(wxyz, size), target).sum().backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                wxyz.copy_(normalize(wxyz, dim=-1))
        wxyz = wxyz.detach()
    return start, wxyz[0]


def degrees_between(a: Tensor, b: Tensor) -> float:
    a, b = normalize(a.double(), dim=-1), normalize(b.double(), dim=-1)
    return math.degrees(4 * math.asin(min(1.0, 0.5 * float(torch.minimum((a - b).norm(), (a + b).norm())))))


def main(
    folder: Path = Path("runs/10_recover_a_pose"),
    *,
    pictures: int = 2,
    steps: int = int(os.environ.get("UNRENDER_EXAMPLE_STEPS", "40")),
) -> None:
    """Find the orientation of the cube in pictures of random orientations.

    Args:
        folder: where to write pose.png.
        pictures: number of pictures.
        steps: gradient steps at each of the three sizes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    errors, began = [], time.perf_counter()
    for seed in range(pictures):
        truth = torch.randn(4, generator=torch.Generator().manual_seed(seed))
        target = render(truth[None], SIZE)[0]
        start, found = find(target, steps)
        errors.append(degrees_between(found, truth))
        print(f"picture {seed}: {degrees_between(start, truth):.1f} degrees off at the start, {errors[-1]:.4f} at the end")
        if seed == 0:
            row = torch.cat([target, *render(torch.stack((start, found)), SIZE)], 1)
            Image.fromarray((row.clamp(0, 1) * 255).round().byte().numpy()).save(folder / "pose.png")

    near = sum(error < 0.1 for error in errors)
    print(f"{near} of {pictures} within 0.1 degrees, {(time.perf_counter() - began) / pictures:.1f} s each; wrote {folder}/pose.png")
    if steps >= 40 and near < 0.95 * pictures:
        raise SystemExit("fewer than 95 % of the poses were found")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/10_recover_a_pose"), help="where to write pose.png")
    parser.add_argument("--pictures", type=int, default=2, help="number of pictures")
    parser.add_argument(
        "--steps", type=int, default=int(os.environ.get("UNRENDER_EXAMPLE_STEPS", "40")), help="gradient steps at each of the three sizes"
    )
    main(**vars(parser.parse_args()))

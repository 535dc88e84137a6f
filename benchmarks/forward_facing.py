"""``nerf-mlp`` and ``plenoxels`` on a forward-facing capture, with and without normalized device coordinates.

    python benchmarks/forward_facing.py [--steps-mlp 500] [--steps-voxels 150] [--size 64] [--seed 0]

The capture is made here: 25 cameras beside each other look at two patterned balls on a checkered floor before a patterned wall, without
masks; every sixth view is held out. Both fits of a method have the same steps, so the numbers do not depend on the load of the machine.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch
from torch import Tensor

from unrender.cameras import Cameras, Rays
from unrender.captures.capture import Capture, Split
from unrender.devices import select_device
from unrender.losses.metrics import psnr
from unrender.recipes import nerf_mlp, plenoxels
from unrender.recipes.fitting import FitResult
from unrender.recipes.settings import override
from unrender.transforms import look_at

_BALLS = (((-0.35, 0.1, -0.3), 0.4, (0.9, 0.5, 0.2)), ((0.45, -0.5, -0.45), 0.25, (0.2, 0.6, 0.9)))
_FLOOR, _WALL = -0.7, 5.0
_WAVES = ((1.1, 0.9, 0.4), (2.3, -0.5, 0.8), (3.7, 1.0, -0.2))
"""Frequency and direction of those on the wall."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps-mlp", type=int, default=500)
    parser.add_argument("--steps-voxels", type=int, default=150)
    parser.add_argument("--size", type=int, default=64, help="width of the photos")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    capture, device = forward_facing_capture(arguments.size), select_device(None)
    print("| recipe | samples lie in | steps | held-out PSNR, dB | seconds |\n|---|---|---|---|---|", flush=True)
    for space, name in (("ndc", "normalized device coordinates"), ("disparity", "the contracted world, evenly in disparity")):
        config = override(nerf_mlp.PRESETS["cpu"], steps=arguments.steps_mlp, space=space)
        begin = time.perf_counter()
        result = nerf_mlp.fit(capture, config, device=device, seed=arguments.seed)
        _print_row("nerf-mlp", name, arguments.steps_mlp, capture, result, time.perf_counter() - begin)
    for space, name in (("ndc", "normalized device coordinates"), ("cube", "the unit ball, a multi-sphere image around it")):
        config = override(plenoxels.PRESETS["cpu"], steps=arguments.steps_voxels, space=space)
        begin = time.perf_counter()
        result = plenoxels.fit(capture, config, device=device, seed=arguments.seed)
        _print_row("plenoxels", name, arguments.steps_voxels, capture, result, time.perf_counter() - begin)


def _print_row(recipe: str, space: str, steps: int, capture: Capture, result: FitResult, seconds: float) -> None:
    scores = []
    for view in capture.split.test:
        truth = capture.photos[view][..., :3].float() / 255
        scores.append(float(psnr(result.scene.render_view(capture.cameras, view).srgb.cpu().clamp(0, 1), truth)))
    print(f"| `{recipe}` | {space} | {steps:,} | {sum(scores) / len(scores):.2f} | {seconds:.0f} |", flush=True)


def forward_facing_capture(width: int) -> Capture:
    """Return the capture, with points of its surfaces as structure from motion would find them."""
    height = 3 * width // 4
    up, places = torch.tensor([0.0, 0.0, 1.0]), [(x, z) for z in (-0.3, -0.1, 0.1, 0.3, 0.5) for x in (-0.5, -0.25, 0.0, 0.25, 0.5)]
    poses = torch.stack([look_at(torch.tensor([x, -3.0, z]), torch.tensor([0.4 * x, 1.0, 0.3 * z]), up) for x, z in places])
    intrinsics = torch.tensor([[0.9 * width, 0.9 * width, width / 2, height / 2]]).expand(len(places), 4)
    cameras = Cameras.alike(poses, intrinsics, None, width, height)
    photos, points = zip(*(_photographed(cameras, view) for view in range(len(places))), strict=True)
    held_out = tuple(range(3, len(places), 6))
    split = Split(tuple(view for view in range(len(places)) if view not in held_out), held_out, "every sixth view is held out")
    capture = Capture.from_tensors(torch.stack(photos), cameras, unbounded=True, split=split)
    return replace(capture, points=torch.cat(points)[::50])


def _photographed(cameras: Cameras, view: int) -> tuple[Tensor, Tensor]:
    """Return a photo, the mean of four rays in each pixel, and the points that the pixels show."""
    camera, color, hits = cameras[view], torch.zeros(0), torch.zeros(0)
    for dx, dy in ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25)):
        pixels = camera.pixel_centers(0) + torch.tensor([dx, dy])
        found, hits = _seen(camera.rays(torch.zeros(len(pixels), dtype=torch.int64), pixels))
        color = found if color.numel() == 0 else color + found
    photo = (color / 4 * 255).round().to(torch.uint8).view(camera.height, camera.width, 3)
    return photo, hits


def _seen(rays: Rays) -> tuple[Tensor, Tensor]:
    """Return color and place of the nearest surface on each ray."""
    o, d = rays.origins, rays.directions
    nearest = (_WALL - o[:, 1]) / d[:, 1]
    at = o + nearest[:, None] * d
    color = 0.5 + 0.16 * sum(torch.sin(f * (at[:, :1] * a + at[:, 2:] * b) + torch.tensor([0.0, f, 2.5 * f])) for f, a, b in _WAVES)
    floor = torch.where(d[:, 2] < 0, (_FLOOR - o[:, 2]) / d[:, 2], torch.inf)
    at = o + floor.clamp(max=100)[:, None] * d
    tiles = 0.45 + 0.2 * torch.sign(torch.sin(4 * at[:, :1]) * torch.sin(4 * at[:, 1:2])) * torch.tensor([1.0, 0.9, 0.7])
    color, nearest = torch.where((floor < nearest)[:, None], tiles, color), torch.minimum(floor, nearest)
    for center, radius, base in _BALLS:
        away = o - torch.tensor(center)
        half = (away * d).sum(1)
        root = half.square() - away.square().sum(1) + radius**2
        distance = torch.where(root > 0, -half - root.clamp_min(0).sqrt(), torch.inf)
        normal = (away + distance.clamp(max=100)[:, None] * d) / radius
        stripes = 0.75 + 0.25 * torch.sign(torch.sin(9 * normal[:, 2:] + 4 * normal[:, :1]))
        lit = 0.35 + 0.65 * (normal @ torch.tensor([-0.48, -0.6, 0.64])).clamp_min(0)[:, None]
        color = torch.where((distance < nearest)[:, None], torch.tensor(base) * stripes * lit, color)
        nearest = torch.minimum(distance, nearest)
    return color.clamp(0, 1), o + nearest[:, None] * d


if __name__ == "__main__":
    main()

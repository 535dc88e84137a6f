"""Fit a radiance field to photos: a program written for nerfacc and tiny-cuda-nn, without unrender.

    python -m unrender.compat examples/nerfacc_radiance_field.py CAPTURE --steps 2000

CAPTURE has the layout of NeRF-synthetic: ``transforms_train.json``, ``transforms_test.json`` and RGBA photos. The field is two callbacks:
the density, for the samples that matter, and color with density, for the picture. Prints the mean PSNR of the test photos over white.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import nerfacc  # pyright: ignore[reportMissingImports]
import numpy as np
import tinycudann as tcnn  # pyright: ignore[reportMissingImports]
import torch
from PIL import Image
from torch import Tensor, nn


@dataclass(frozen=True)
class Settings:
    steps: int = 2000
    radius: float = 1.5
    """Half of the side of the cube that contains the scene."""
    steps_of_diagonal: int = 512
    samples: int = 2**16
    """Of a training step; the number of rays follows."""
    first_rays: int = 256
    most_rays: int = 2**15
    cells: int = 64
    """Along an axis of the occupancy grid."""
    levels: int = 8
    features: int = 4
    log2_entries: int = 16
    finest: int = 1024
    neurons: int = 32
    learning_rate: float = 1e-2
    warm_up: float = 0.005
    distortion: float = 0.005
    carve: bool = True
    """Whether cells outside the outline in some photo stay empty."""

    @property
    def step_length(self) -> float:
        return 2 * math.sqrt(3) * self.radius / self.steps_of_diagonal


class RadianceField(nn.Module):
    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.radius = settings.radius
        grid = {"otype": "HashGrid", "n_levels": settings.levels, "n_features_per_level": settings.features}
        grid |= {"log2_hashmap_size": settings.log2_entries, "base_resolution": 16}
        grid |= {"per_level_scale": (settings.finest / 16) ** (1 / (settings.levels - 1))}
        shape = {"otype": "FullyFusedMLP", "n_neurons": settings.neurons}
        self.grid = tcnn.Encoding(3, grid)
        self.geometry = tcnn.Network(self.grid.n_output_dims, 16, {**shape, "n_hidden_layers": 1})
        self.directions = tcnn.Encoding(3, {"otype": "SphericalHarmonics", "degree": 4})
        self.color = tcnn.Network(32, 3, {**shape, "n_hidden_layers": 2, "output_activation": "Sigmoid"})
        for network in (self.geometry, self.color):  # the variance that He et al. 2015 propose before ReLU learns faster than Glorot's
            network.params.data *= math.sqrt(2)

    def density(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.geometry(self.grid(x / (2 * self.radius) + 0.5))
        return torch.exp((features[:, 0] - 1).clamp(max=15)) / self.radius, features

    def forward(self, x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        sigma, features = self.density(x)
        return self.color(torch.cat([self.directions(d / 2 + 0.5), features], -1)), sigma


class Renderer:
    """A field, the cells where it is dense, and the two callbacks."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.field = RadianceField(settings)
        self.estimator = nerfacc.OccGridEstimator([-settings.radius] * 3 + [settings.radius] * 3, resolution=settings.cells)

    def render(self, origins: Tensor, directions: Tensor, background: Tensor, *, training: bool) -> tuple[Tensor, Tensor, int]:
        """Return the colors of rays, how far their weights are spread, and the number of samples."""

        def positions(t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor) -> Tensor:
            return origins[ray_indices] + directions[ray_indices] * ((t_starts + t_ends) / 2)[:, None]

        def sigma_fn(t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor) -> Tensor:
            return self.field.density(positions(t_starts, t_ends, ray_indices))[0]

        def rgb_sigma_fn(t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor) -> tuple[Tensor, Tensor]:
            return self.field(positions(t_starts, t_ends, ray_indices), directions[ray_indices])

        ray_indices, t_starts, t_ends = self.estimator.sampling(
            origins,
            directions,
            sigma_fn=sigma_fn,
            render_step_size=self.settings.step_length,
            early_stop_eps=1e-3,
            stratified=training,
        )
        color, _, _, extras = nerfacc.rendering(
            t_starts, t_ends, ray_indices, len(origins), rgb_sigma_fn=rgb_sigma_fn, render_bkgd=background
        )
        spread = nerfacc.distortion(extras["weights"], t_starts, t_ends, ray_indices, len(origins)).mean()
        return color, spread, len(ray_indices)


@dataclass(frozen=True)
class Views:
    """Photos with alpha [views, height, width, 4], intrinsics [views, 3, 3], and poses [views, 4, 4]: x right, y down, z forward."""

    photos: Tensor
    intrinsics: Tensor
    poses: Tensor

    def rays(self) -> tuple[Tensor, Tensor]:
        """Return origins and unit directions [views, pixels, 3]."""
        height, width = self.photos.shape[1:3]
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        pixels = torch.stack([x, y, torch.ones_like(x)], -1).view(-1, 3)
        directions = pixels @ torch.linalg.inv(self.intrinsics).mT @ self.poses[:, :3, :3].mT
        return self.poses[:, None, :3, 3].expand_as(directions), nn.functional.normalize(directions, dim=-1)


def carve(estimator: nerfacc.OccGridEstimator, views: Views, radius: float) -> None:
    """Close the cells that some photo shows empty: a value of -1 stays, as for cells that no camera sees."""
    size = int(estimator.resolution[0])
    centers = ((estimator.grid_coords + 0.5) / size * 2 - 1) * radius
    height, width = views.photos.shape[1:3]
    for photo, intrinsics, pose in zip(views.photos, views.intrinsics, views.poses, strict=True):
        u, v, depth = (intrinsics @ pose[:3, :3].T @ (centers - pose[:3, 3]).T).unbind()
        reach = math.ceil(float(intrinsics[0, 0]) * math.sqrt(3) * radius / size / float(depth.min())) + 1  # a cell's corner, in pixels
        covered = nn.functional.max_pool2d(photo[None, ..., 3], 2 * reach + 1, 1, reach)[0]
        column, row = (u / depth).long(), (v / depth).long()
        inside = (u >= 0) & (v >= 0) & (column < width) & (row < height)
        empty = covered[row.clamp(0, height - 1), column.clamp(0, width - 1)] < 0.1
        estimator.occs[inside & empty] = -1.0


def train(views: Views, settings: Settings, seed: int = 0) -> Renderer:
    """Fit the field to photos, over another random color on each ray."""
    torch.manual_seed(seed)
    pixels, (origins, directions) = views.photos.reshape(-1, 4), (rays.reshape(-1, 3) for rays in views.rays())
    renderer = Renderer(settings)
    if settings.carve:
        carve(renderer.estimator, views, settings.radius)
    optimizer = torch.optim.Adam(renderer.field.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), eps=1e-15)

    def rate(step: int) -> float:
        done = step / settings.steps
        return (1 / 30) ** done * min(1.0, 0.01 + 0.99 * done / settings.warm_up)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    count, begin = settings.first_rays, time.perf_counter()
    for step in range(settings.steps):
        renderer.estimator.update_every_n_steps(
            step, occ_eval_fn=lambda x: renderer.field.density(x)[0] * settings.step_length, occ_thre=1e-2
        )
        chosen = torch.randint(len(pixels), (count,))
        background = torch.rand(count, 3)
        color, spread, samples = renderer.render(origins[chosen], directions[chosen], background, training=True)
        truth = pixels[chosen, :3] * pixels[chosen, 3:] + background * (1 - pixels[chosen, 3:])
        loss = nn.functional.smooth_l1_loss(color, truth) + settings.distortion * spread
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        count = min(max(int(count * settings.samples / max(samples, 1)), 64), settings.most_rays)
        if (step + 1) % 100 == 0:
            psnr = -10 * math.log10(float((color - truth).detach().square().mean()))
            print(f"step {step + 1}: {count} rays, {samples} samples, {psnr:.2f} dB, {time.perf_counter() - begin:.0f} s", flush=True)
    return renderer


@torch.no_grad()
def picture(renderer: Renderer, origins: Tensor, directions: Tensor) -> Tensor:
    """Return the colors of all rays over white."""
    parts = zip(origins.split(8192), directions.split(8192), strict=True)
    return torch.cat([renderer.render(o, d, torch.ones(3), training=False)[0] for o, d in parts])


def read(folder: Path, split: str) -> Views:
    """Read photos and cameras; poses are written with y up and z backward."""
    told = json.loads((folder / f"transforms_{split}.json").read_text(encoding="utf-8"))
    photos, intrinsics, poses = [], [], []
    for frame in told["frames"]:
        name = folder / frame["file_path"]
        photo = Image.open(name if name.suffix else name.with_suffix(".png")).convert("RGBA")
        focal = 0.5 * photo.width / math.tan(0.5 * told["camera_angle_x"])
        photos.append(torch.from_numpy(np.asarray(photo).copy()).float() / 255)
        intrinsics.append(torch.tensor([[focal, 0, photo.width / 2], [0, focal, photo.height / 2], [0, 0, 1]]))
        poses.append(torch.tensor(frame["transform_matrix"]) @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])))
    return Views(torch.stack(photos), torch.stack(intrinsics), torch.stack(poses))


def score(renderer: Renderer, views: Views) -> float:
    """Return the mean PSNR of photos over white."""
    scores = []
    for photo, origins, directions in zip(views.photos, *views.rays(), strict=True):
        truth = (photo[..., :3] * photo[..., 3:] + 1 - photo[..., 3:]).view(-1, 3)
        scores.append(-10 * math.log10(float((picture(renderer, origins, directions).clamp(0, 1) - truth).square().mean())))
    return sum(scores) / len(scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--radius", type=float, default=1.5)
    arguments = parser.parse_args()
    settings = Settings(steps=arguments.steps, radius=arguments.radius)
    renderer = train(read(arguments.capture, "train"), settings)
    print(f"test photos: {score(renderer, read(arguments.capture, 'test')):.2f} dB over white")


if __name__ == "__main__":
    main()

"""Render a volume: march rays through an occupancy grid, and composite an analytic field.

    python examples/02_volume_render_a_sphere.py [OUTPUT_FOLDER]

There is no fit and no network: density and color are formulas. Writes sphere.png.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from unrender.cameras import Cameras, Rays
from unrender.ops.rays import OccupancyGrid, Samples, march, weights_from_density
from unrender.render.volume import FieldSamples, render_volume
from unrender.transforms import look_at

RADIUS = 0.7


def density(points: Tensor) -> Tensor:
    """Compute a sphere of fog that is thick inside and thins out over a shell 0.02 wide."""
    return 60 * torch.sigmoid((RADIUS - points.norm(dim=-1)) / 0.02)


def color(points: Tensor) -> Tensor:
    """Paint stripes along longitude and latitude."""
    x, y, z = points.unbind(-1)
    stripes = torch.sin(12 * torch.atan2(y, x)) * torch.sin(12 * z)
    return torch.stack((0.5 + 0.4 * stripes, 0.5 + 0.5 * z, 0.6 - 0.4 * stripes), -1)


def fog(samples: Samples, rays: Rays) -> FieldSamples:
    """Return weight, color and normal of each sample, all that the renderer needs of a field."""
    points = samples.positions(rays)
    return FieldSamples(weights_from_density(density(points), samples, early_stop=1e-3), color(points))


folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/02_volume_render_a_sphere")
folder.mkdir(parents=True, exist_ok=True)
size = min(256, 8 * int(os.environ.get("UNRENDER_EXAMPLE_STEPS", "32")))

# Cells with almost no fog at their center get no samples.
grid = OccupancyGrid(64)
grid.set_from_values(density(grid.cell_centers()), threshold=0.05)

pose = look_at(torch.tensor([1.5, -2.5, 1.2]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
camera = Cameras.alike(pose[None], torch.tensor([[1.6 * size, 1.6 * size, size / 2, size / 2]]), None, size, size)
rays = camera.image_rays(0)
samples = march(rays, grid, step=0.01)
white = torch.ones_like(rays.origins)
rendering, _ = render_volume(fog, samples, rays, white)

image = rendering.reshaped(size, size).srgb.clamp(0, 1)
Image.fromarray((image * 255).round().byte().numpy()).save(folder / "sphere.png")
print(f"{len(samples.starts) / len(white):.0f} samples per ray; wrote {folder}/sphere.png")

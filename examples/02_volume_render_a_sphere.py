"""Render a volume: march rays through an occupancy grid, ask a density where the samples are, composite.

    python examples/02_volume_render_a_sphere.py [OUTPUT_FOLDER]

Nothing is fitted and no network is involved: density and color are formulas. Writes sphere.png.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from unrender.cameras import Cameras
from unrender.ops.rays import OccupancyGrid, composite, march, opacity_and_distance, weights_from_density
from unrender.transforms import look_at

RADIUS = 0.7


def density(points: Tensor) -> Tensor:
    """A sphere of fog that is thick inside, with a shell 0.02 wide in which it thins out."""
    return 60 * torch.sigmoid((RADIUS - points.norm(dim=-1)) / 0.02)


def color(points: Tensor) -> Tensor:
    """Longitude and latitude in stripes."""
    x, y, z = points.unbind(-1)
    stripes = torch.sin(12 * torch.atan2(y, x)) * torch.sin(12 * z)
    return torch.stack((0.5 + 0.4 * stripes, 0.5 + 0.5 * z, 0.6 - 0.4 * stripes), -1)


folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/02_volume_render_a_sphere")
folder.mkdir(parents=True, exist_ok=True)
size = min(256, 8 * int(os.environ.get("UNRENDER_EXAMPLE_STEPS", "32")))

# Cells with practically no fog in their middle get no samples.
grid = OccupancyGrid(64)
grid.set_from_values(density(grid.cell_centers()), threshold=0.05)

pose = look_at(torch.tensor([1.5, -2.5, 1.2]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
camera = Cameras.alike(pose[None], torch.tensor([[1.6 * size, 1.6 * size, size / 2, size / 2]]), torch.zeros(1, 6), size, size)
rays = camera.image_rays(0)
samples = march(rays, grid, step=0.01)
points = samples.positions(rays)
weights = weights_from_density(density(points), samples, early_stop=1e-3)
opacity, _ = opacity_and_distance(weights, samples)
image = composite(weights, color(points), samples) + (1 - opacity)[:, None]  # over white

Image.fromarray((image.clamp(0, 1) * 255).byte().reshape(size, size, 3).numpy()).save(folder / "sphere.png")
print(f"{len(points) / len(opacity):.0f} samples a ray; wrote {folder}/sphere.png")

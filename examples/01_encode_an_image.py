"""Encode an image in the features of a hash grid and a small network.

    python examples/01_encode_an_image.py [OUTPUT_FOLDER]

The encoding is three-dimensional; the picture is the plane z = 0.5. Writes image.png: truth | learned.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from unrender.ops.encodings import HashGrid, hash_encode, mlp


def picture(points: Tensor) -> Tensor:
    """Return colors at points: rings that become finer towards the edge, and a sharp disc."""
    x, y = points[:, 0] - 0.5, points[:, 1] - 0.5
    radius = torch.sqrt(x * x + y * y)
    disc = ((x - 0.2) ** 2 + (y + 0.15) ** 2 < 0.01).float()
    return torch.stack((0.5 + 0.5 * torch.cos(300 * radius**2), 0.5 + x, disc), -1)


def pixel_centers(size: int) -> Tensor:
    along = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(along, along, indexing="ij")
    return torch.stack((x.flatten(), y.flatten(), torch.full((size * size,), 0.5)), -1)


torch.manual_seed(0)
steps = int(os.environ.get("UNRENDER_EXAMPLE_STEPS", "300"))
folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/01_encode_an_image")
folder.mkdir(parents=True, exist_ok=True)

grid = HashGrid(levels=10, features=2, log2_entries=15, base_resolution=8, per_level_scale=1.5)
table = nn.Parameter(grid.initial_table())
layers = [nn.Linear(grid.columns, 32), nn.Linear(32, 3)]
weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
optimizer = torch.optim.Adam([table, *weights, *biases], lr=1e-2, betas=(0.9, 0.99), eps=1e-15)

for step in range(steps):
    points = torch.cat((torch.rand(8_192, 2), torch.full((8_192, 1), 0.5)), -1)
    loss = (mlp(hash_encode(points, table, grid), weights, biases) - picture(points)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 100 == 0 or step == steps - 1:
        print(f"step {step}: {-10 * loss.detach().log10():.1f} dB")

points = pixel_centers(256)
encoded = mlp(hash_encode(points, table, grid), weights, biases).detach()
both = torch.cat([colors.clamp(0, 1).reshape(256, 256, 3) for colors in (picture(points), encoded)], 1)
Image.fromarray((both * 255).byte().numpy()).save(folder / "image.png")
print(f"wrote {folder}/image.png")

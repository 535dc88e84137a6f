"""Render a triangle: find it at every pixel, interpolate its colors, smooth its outline.

    python examples/05_render_a_triangle.py [OUTPUT_FOLDER] [--size PIXELS]

Checks the picture against what the corners' weights must be in the plane. Writes triangle.png: bare coverage | antialiased.
"""

from __future__ import annotations

from pathlib import Path

import torch
import tyro
from PIL import Image

from unrender.ops.raster import antialias, interpolate, rasterize


def main(folder: tyro.conf.Positional[Path] = Path("runs/05_render_a_triangle"), *, size: int = 256) -> None:
    """Renders a triangle with a red, a green and a blue corner.

    Args:
        folder: where triangle.png goes.
        size: pixels along each side of the picture.
    """
    # Clip space: x and y from -w to w across the picture, row 0 at y = -1.
    corners = torch.tensor([[-0.9, 0.6, 0.0, 1.0], [0.8, 0.8, 0.0, 1.0], [-0.3, -0.8, 0.0, 1.0]])
    colors = torch.eye(3)
    faces = torch.tensor([[0, 1, 2]], dtype=torch.int32)

    raster = rasterize(corners, faces, (size, size))
    bare = interpolate(colors, raster, faces)
    smooth = antialias(bare, raster, corners, faces)

    # The weights of the corners at a point (x, y) are those for which their sum is (x, y, 1).
    centers = 2 * (torch.arange(size, dtype=torch.float64) + 0.5) / size - 1
    y, x = torch.meshgrid(centers, centers, indexing="ij")
    weights = torch.stack((x, y, torch.ones_like(x)), -1) @ torch.linalg.inv(corners[:, [0, 1, 3]].double())
    inside = weights.amin(-1) > 0
    error = float((bare[0].double() - weights)[inside].abs().max())
    covered = raster.face[0] >= 0
    print(f"{int(covered.sum())} pixels of the triangle, {int(inside.sum())} by the formula; largest error of a color {error:.1e}")
    if error > 1e-5 or bool((inside & ~covered).any()) or bool((covered & (weights.amin(-1) < 0)).any()):
        raise SystemExit("the picture is not the triangle")

    folder.mkdir(parents=True, exist_ok=True)
    both = torch.cat((bare[0], smooth[0]), 1)
    enlarged = both.repeat_interleave(max(1, 512 // size), 0).repeat_interleave(max(1, 512 // size), 1)
    Image.fromarray((enlarged * 255).round().byte().numpy()).save(folder / "triangle.png")
    print(f"wrote {folder}/triangle.png")


if __name__ == "__main__":
    tyro.cli(main)

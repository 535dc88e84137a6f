"""Render a triangle: rasterize, interpolate its colors, antialias its silhouette.

    python examples/05_render_a_triangle.py [OUTPUT_FOLDER] [--size PIXELS]

The colors are compared with exact barycentric weights. Writes triangle.png: without antialiasing | antialiased.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image

from unrender.ops.raster import antialias, interpolate, rasterize


def main(folder: Path = Path("runs/05_render_a_triangle"), *, size: int = 256) -> None:
    """Render a triangle with a red, a green and a blue corner.

    Args:
        folder: where to write triangle.png.
        size: pixels along each side of the picture.
    """
    # Corners in clip space, (x, y, z, w): the picture spans -w to w in x and y, with row 0 at y = -w.
    corners = torch.tensor([[-0.9, 0.6, 0.0, 1.0], [0.8, 0.8, 0.0, 1.0], [-0.3, -0.8, 0.0, 1.0]])
    colors = torch.eye(3)
    faces = torch.tensor([[0, 1, 2]], dtype=torch.int32)

    raster = rasterize(corners, faces, (size, size))  # the triangle at each pixel center, and the position in it
    bare = interpolate(colors, raster, faces)
    smooth = antialias(bare, raster, corners, faces)  # only this makes the silhouette differentiable

    # The exact colors: at (x, y), the weights w of the corners solve Σ w (x_corner, y_corner, 1) = (x, y, 1).
    centers = 2 * (torch.arange(size, dtype=torch.float64) + 0.5) / size - 1
    y, x = torch.meshgrid(centers, centers, indexing="ij")
    weights = torch.stack((x, y, torch.ones_like(x)), -1) @ torch.linalg.inv(corners[:, [0, 1, 3]].double())
    inside = weights.amin(-1) > 0
    error = float((bare[0].double() - weights)[inside].abs().max())
    covered = raster.face[0] >= 0
    print(f"{int(covered.sum())} pixels covered, {int(inside.sum())} by the formula; largest color error {error:.1e}")
    if error > 1e-5 or bool((inside & ~covered).any()) or bool((covered & (weights.amin(-1) < 0)).any()):
        raise SystemExit("the picture does not show the triangle")

    folder.mkdir(parents=True, exist_ok=True)
    zoom = max(1, 512 // size)  # shows single pixels
    pictures = torch.cat((bare[0], smooth[0]), 1).repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
    Image.fromarray((pictures * 255).round().byte().numpy()).save(folder / "triangle.png")
    print(f"wrote {folder}/triangle.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/05_render_a_triangle"), help="where to write triangle.png")
    parser.add_argument("--size", type=int, default=256, help="pixels along each side of the picture")
    main(**vars(parser.parse_args()))

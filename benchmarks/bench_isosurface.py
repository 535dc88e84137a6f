"""Sparse isosurfaces against dense marching cubes: the same mesh from the same field."""

from __future__ import annotations

import numpy as np
import torch
from harness import Row, compare
from skimage.measure import marching_cubes
from torch import Tensor

from unrender.geometry.isosurface import extract_surface


def sphere(points: Tensor) -> Tensor:
    """Evaluate the cheapest field; the gain grows with the cost of the field."""
    return points.norm(dim=1) - 0.8


def network() -> torch.nn.Module:
    """Return a small signed distance network of three layers of 64."""
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for inputs in (3, 64, 64):
        layers += [torch.nn.Linear(inputs, 64), torch.nn.Softplus(100)]
    return torch.nn.Sequential(*layers)


def dense(field, resolution: int) -> None:  # type: ignore[no-untyped-def]
    """Evaluate the whole lattice, a slab at a time, and march over it."""
    axis = torch.linspace(-1, 1, resolution + 1)
    values = np.empty([resolution + 1] * 3, np.float32)
    with torch.no_grad():
        for k, x in enumerate(axis):
            slab = torch.stack(torch.meshgrid(x[None], axis, axis, indexing="ij"), -1).reshape(-1, 3)
            values[k] = field(slab).reshape(resolution + 1, resolution + 1).numpy()
    marching_cubes(values, 0.0, gradient_direction="descent")


def rows(quick: bool) -> list[Row]:
    """Measure the table; ratios grow with the resolution, as area does with its square and volume with its cube."""
    hidden = network()

    def learned(points: Tensor) -> Tensor:
        return sphere(points) + 1e-3 * hidden(points)[:, 0]

    resolutions = (96,) if quick else (128, 256)
    found = []
    for name, field in (("sphere", sphere), ("MLP 3 x 64", learned)):
        for resolution in resolutions:
            found.append(
                compare(
                    f"isosurface of {name}, {resolution} cells a side",
                    lambda field=field, resolution=resolution: extract_surface(field, resolution=resolution),
                    lambda field=field, resolution=resolution: dense(field, resolution),
                    peer_name="dense evaluation + scikit-image",
                    items=(resolution + 1) ** 3,
                    repeats=3,
                )
            )
    return found

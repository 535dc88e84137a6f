"""Rays against a tree of triangles: coherent and scattered, any hit, and building the tree."""

from __future__ import annotations

import torch
import trimesh
from harness import Row, compare, measure
from torch import Tensor

from unrender.cameras import Cameras
from unrender.ops.raster import TriangleTree, cast_rays, occluded
from unrender.reference import ray_casting as twin
from unrender.transforms import look_at


def rows(quick: bool) -> list[Row]:
    """Compare with the twin on few rays, because it tests every triangle; measure the rest alone."""
    repeats = 3 if quick else 7
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    vertices, faces = _sphere(3)
    count = 1024 if quick else 4096
    origins, directions = _scattered(count, generator)
    small, every = TriangleTree(vertices, faces), twin.TriangleTree(vertices, faces)
    results = [
        compare(
            f"rays, {len(faces):,} triangles, {count:,} rays",
            lambda: cast_rays(small, origins, directions),
            lambda: twin.cast_rays(every, origins, directions),
            peer_name="PyTorch twin",
            items=count,
            repeats=repeats,
        )
    ]
    vertices, faces = _sphere(5 if quick else 7)
    name = f"{len(faces):,} triangles"
    results.append(measure(f"tree of {name}", lambda: TriangleTree(vertices, faces), items=len(faces), repeats=repeats))
    tree = TriangleTree(vertices, faces)
    size = 256 if quick else 512
    pose = look_at(torch.tensor([0.0, -3.0, 0.0]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    camera = Cameras.alike(pose[None], torch.tensor([[1.2 * size, 1.2 * size, size / 2, size / 2]]), torch.zeros(1, 6), size, size)
    rays = camera.image_rays(0)
    image = rays.origins.contiguous(), rays.directions
    scattered = _scattered(size * size, generator)
    for kind, (o, d) in (("a camera's rays", image), ("scattered rays", scattered)):
        work = f"{size * size:,} of {kind}, {name}"
        results.append(measure(f"{work}, nearest", lambda o=o, d=d: cast_rays(tree, o, d), items=size * size, repeats=repeats))
        results.append(measure(f"{work}, any", lambda o=o, d=d: occluded(tree, o, d), items=size * size, repeats=repeats))
    return results


def _sphere(subdivisions: int) -> tuple[Tensor, Tensor]:
    mesh = trimesh.creation.icosphere(subdivisions)
    device = torch.get_default_device()
    return torch.from_numpy(mesh.vertices.copy()).float().to(device), torch.from_numpy(mesh.faces.copy()).to(device)


def _scattered(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    targets = torch.randn(count, 3, generator=generator)
    origins = 2 * torch.randn(count, 3, generator=generator)
    return origins, targets - origins

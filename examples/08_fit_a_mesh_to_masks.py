"""Fit a mesh to masks: deform a sphere until its silhouettes match masks from all sides.

    python examples/08_fit_a_mesh_to_masks.py [OUTPUT_FOLDER] [--size PIXELS] [--views VIEWS] [--steps STEPS] [--rule walk|owner]

A mask has no color and no shading, so all gradients come from antialiased silhouettes. Vertices away from silhouettes follow their
neighbors: the unknowns are u = (I + 5 L) v, with the vertices v and the mesh's Laplacian L, so a step moves whole regions (Nicolet,
Jacobson, Jakob, Large Steps in Inverse Rendering of Geometry, 2021). Dents never appear in a silhouette and stay unknown. Writes masks.png:
truth | start | fitted, and mesh.ply.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from unrender.cameras import Cameras
from unrender.geometry.distances import surface_distance
from unrender.geometry.isosurface import extract_surface
from unrender.geometry.mesh import Mesh
from unrender.ops.raster import Topology, antialias, edge_topology, rasterize
from unrender.render.surface import render_surface
from unrender.shading.lights import AmbientLight, DirectionalLight
from unrender.shading.materials import Lambert, Uniform
from unrender.transforms import look_at

Rule = Literal["walk", "owner"]


class Fit(NamedTuple):
    start: Mesh
    end: Mesh
    truth: Mesh
    overlap: float
    """Intersection over union of masks from held-out directions."""
    chamfer: float


def teddy(points: Tensor) -> Tensor:
    """Approximate the signed distance of a body, a head, two ears and two feet, smoothly joined."""
    centers = torch.tensor([[0, 0, -0.25], [0, 0, 0.35], [-0.25, 0, 0.6], [0.25, 0, 0.6], [-0.3, -0.3, -0.55], [0.3, -0.3, -0.55]])
    radii = torch.tensor([0.45, 0.3, 0.16, 0.16, 0.2, 0.2])
    return -torch.logsumexp(20 * (radii - (points[:, None] - centers).norm(dim=-1)), -1) / 20


def sphere(subdivisions: int) -> tuple[Tensor, Tensor]:
    """Return an octahedron whose triangles are split into four, ``subdivisions`` times, and projected to the unit sphere."""
    vertices = torch.cat((torch.eye(3), -torch.eye(3)))
    faces = torch.tensor([[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]])
    for _ in range(subdivisions):
        ends, edge = torch.unique(torch.stack((faces, faces.roll(-1, 1)), -1).sort(-1).values.view(-1, 2), dim=0, return_inverse=True)
        (a, b, c), (ab, bc, ca) = faces.unbind(1), (len(vertices) + edge.view(-1, 3)).unbind(1)
        faces = torch.stack((a, ab, ca, ab, b, bc, ca, bc, c, ab, bc, ca), 1).view(-1, 3)
        vertices = normalize(torch.cat((vertices, vertices[ends].sum(1))), dim=1)
    return vertices, faces.int()


def laplacian(vertices: int, faces: Tensor) -> Tensor:
    """Return the matrix of (number of neighbors) v - Σ neighbors."""
    matrix = torch.zeros(vertices, vertices)
    matrix[faces.long(), faces.roll(-1, 1).long()] = -1
    matrix = torch.minimum(matrix, matrix.T)
    return matrix - torch.diag(matrix.sum(1))


def cameras_around(views: int, size: int, start_angle: float = 0.0) -> Cameras:
    """Place cameras on a spiral from pole to pole, evenly spread by area."""
    index = torch.arange(views) + 0.5
    z, azimuth = 1 - 2 * index / views, 2.399963 * index + start_angle  # the golden angle
    radius = (1 - z * z).sqrt()
    positions = 3 * torch.stack((radius * azimuth.cos(), radius * azimuth.sin(), z), -1)
    poses = look_at(positions, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]).expand(views, 3))
    intrinsics = torch.tensor([1.4 * size, 1.4 * size, size / 2, size / 2]).expand(views, 4)
    return Cameras.alike(poses, intrinsics, torch.zeros(views, 6), size, size)


def exact_masks(mesh: Mesh, cameras: Cameras) -> Tensor:
    """Return coverage counted at 8 x 8 points of each pixel."""
    clip_positions = cameras.clip_positions(mesh.vertices, 0.1, 10.0)
    raster = rasterize(clip_positions, mesh.faces, (8 * cameras.height, 8 * cameras.width))
    return avg_pool2d((raster.face >= 0).float(), 8)


def masks(vertices: Tensor, faces: Tensor, topology: Topology, cameras: Cameras, rule: Rule) -> Tensor:
    """Return coverage that is differentiable with respect to the vertices."""
    clip_positions = cameras.clip_positions(vertices, 0.1, 10.0)
    raster = rasterize(clip_positions, faces, (cameras.height, cameras.width))
    covered = (raster.face >= 0).float()[..., None]
    return antialias(covered, raster, clip_positions, faces, topology, rule=rule)[..., 0]


def fit(size: int, views: int, steps: int, *, rule: Rule = "walk", subdivisions: int = 4) -> Fit:
    """Fit to all views at every step."""
    truth = extract_surface(teddy, resolution=96)
    cameras = cameras_around(views, size)
    targets = exact_masks(truth, cameras)

    vertices, faces = sphere(subdivisions)
    start = Mesh(0.7 * vertices, faces)
    topology = edge_topology(faces)
    bend = laplacian(len(vertices), faces)
    spread = torch.linalg.inv(torch.eye(len(vertices)) + 5 * bend)
    unknowns = torch.linalg.solve(spread, start.vertices).requires_grad_()
    optimizer = torch.optim.Adam([unknowns], lr=0.02, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1 ** (step / steps))
    for _ in range(steps):
        deformed = spread @ unknowns
        loss = (masks(deformed, faces, topology, cameras, rule) - targets).square().mean() + (bend @ deformed).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    end = Mesh((spread @ unknowns).detach(), faces)

    held_out = cameras_around(12, 64, start_angle=1.0)
    ours, theirs = exact_masks(end, held_out), exact_masks(truth, held_out)
    overlap = float(torch.minimum(ours, theirs).sum() / torch.maximum(ours, theirs).sum())
    distance = surface_distance(end, truth, generator=torch.Generator().manual_seed(0))
    return Fit(start, end, truth, overlap, distance.chamfer)


def main(
    folder: Path = Path("runs/08_fit_a_mesh_to_masks"),
    *,
    size: int = 64,
    views: int = 16,
    steps: int = int(os.environ.get("UNRENDER_EXAMPLE_STEPS", "300")),
    rule: Rule = "walk",
) -> None:
    """Fit a sphere of 2,048 triangles to masks.

    Args:
        folder: where to write the results.
        size: pixels along each side of a mask.
        views: number of masks.
        steps: optimizer steps.
        rule: antialiasing rule.
    """
    found = fit(size, views, steps, rule=rule)
    print(f"{views} masks of {size} pixels, {rule}, {steps} steps: held-out masks overlap {found.overlap:.1%}, Chamfer {found.chamfer:.4f}")

    folder.mkdir(parents=True, exist_ok=True)
    lights = [AmbientLight(torch.full((3,), 0.03)), DirectionalLight(torch.tensor([0.5, -1.0, 0.8]), torch.full((3,), 0.7))]
    pose = look_at(torch.tensor([0.9, -2.6, 0.9]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    camera = Cameras.alike(pose[None], torch.tensor([[384.0, 384.0, 128.0, 128.0]]), torch.zeros(1, 6), 256, 256)
    meshes = (found.truth, found.start, found.end)
    pictures = [render_surface(mesh, Lambert(Uniform(torch.ones(3))), lights, camera, samples=2).srgb[0] for mesh in meshes]
    Image.fromarray((torch.cat(pictures, 1).clamp(0, 1) * 255).round().byte().numpy()).save(folder / "masks.png")
    found.end.export(folder / "mesh.ply")
    print(f"wrote {folder}/masks.png and mesh.ply")
    if steps >= 100 and found.overlap < 0.95:
        raise SystemExit("the silhouettes of the shape do not match the masks")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/08_fit_a_mesh_to_masks"), help="where to write the results")
    parser.add_argument("--size", type=int, default=64, help="pixels along each side of a mask")
    parser.add_argument("--views", type=int, default=16, help="number of masks")
    parser.add_argument("--steps", type=int, default=int(os.environ.get("UNRENDER_EXAMPLE_STEPS", "300")), help="optimizer steps")
    parser.add_argument("--rule", choices=get_args(Rule), default="walk", help="antialiasing rule")
    main(**vars(parser.parse_args()))

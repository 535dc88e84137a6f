"""Differentiable surface extraction, forward and backward, against scikit-image's marching cubes, which is forward alone.

``python benchmarks/bench_extraction.py MESH`` compares the two extractors after fits to the exact signed distance of a mesh, at about
equally many triangles: distances, normals, and the share of triangles that intersect another.
"""

from __future__ import annotations

import math
import sys

import numpy as np
import torch
from harness import Row, compare
from scipy.spatial import KDTree
from skimage.measure import marching_cubes
from torch import Tensor

from unrender.geometry.distances import nearest_triangles, surface_distance
from unrender.geometry.flexicubes import WEIGHTS, flexicubes
from unrender.geometry.marching_tets import marching_tets
from unrender.geometry.mesh import Mesh, read_mesh
from unrender.geometry.tetrahedra import tetrahedral_lattice
from unrender.geometry.voxels import voxel_lattice


def rows(quick: bool) -> list[Row]:
    """Measure the table; the peer shares the field, a sphere, and its lattice of cells."""
    cells = 32 if quick else 64
    tetrahedra, voxels = tetrahedral_lattice(cells), voxel_lattice(cells)
    weights = torch.zeros(voxels.cell_count, WEIGHTS, requires_grad=True)
    volume = (voxels.vertices.norm(dim=1) - 0.7).view(cells + 1, cells + 1, cells + 1).cpu().numpy()
    found = []
    for name, lattice in (("marching tetrahedra", tetrahedra), ("FlexiCubes", voxels)):
        places = lattice.vertices.clone().requires_grad_()
        sdf = (lattice.vertices.norm(dim=1) - 0.7).requires_grad_()

        def tets(places: Tensor = places, sdf: Tensor = sdf) -> None:
            marching_tets(places, sdf, tetrahedra)[0].square().sum().backward()

        def flexi(places: Tensor = places, sdf: Tensor = sdf) -> None:
            surface = flexicubes(places, sdf, voxels, weights)
            (surface.vertices.square().sum() + surface.deviation).backward()

        found.append(
            compare(
                f"{name}, {cells} cells a side, forward and backward",
                tets if lattice is tetrahedra else flexi,
                lambda: marching_cubes(volume, 0.0),
                peer_name="scikit-image, forward",
                items=cells**3,
            )
        )
    return found


def signed_distance(points: Tensor, mesh: Mesh) -> Tensor:
    """Compute the distance to a closed mesh, negative inside, by the generalized winding number."""
    distance, _ = nearest_triangles(points, mesh)
    corners = mesh.vertices[mesh.faces].double()
    winding = []
    for chunk in points.double().split(512):
        a, b, c = (corners[None] - chunk[:, None, None]).unbind(2)
        x, y, z = a.norm(dim=-1), b.norm(dim=-1), c.norm(dim=-1)
        scalar = x * y * z + (a * b).sum(-1) * z + (b * c).sum(-1) * x + (c * a).sum(-1) * y
        winding.append(2 * torch.atan2((a * torch.linalg.cross(b, c)).sum(-1), scalar).sum(1) / (4 * math.pi))
    return torch.where(torch.cat(winding) > 0.5, -distance, distance)


def fitted(mesh: Mesh, kind: str, cells: int, steps: int) -> Mesh:
    """Fit the lattice of an extractor to a mesh.

    Points of both surfaces approach the planes of their nearest ones on the other, and normals turn to the true ones.
    """
    generator = torch.Generator().manual_seed(0)
    lattice = tetrahedral_lattice(cells) if kind == "tets" else voxel_lattice(cells)
    sdf = signed_distance(lattice.vertices, mesh).requires_grad_()
    moves = torch.zeros_like(lattice.vertices, requires_grad=True)
    weights = torch.zeros(0 if kind == "tets" else lattice.cell_count, WEIGHTS, requires_grad=True)  # type: ignore[union-attr]
    truth, normals = mesh.sample_surface(60_000, generator)
    tree, most = KDTree(truth.numpy()), 0.5 / cells
    optimizer = torch.optim.Adam([{"params": [sdf], "lr": 1e-3}, {"params": [moves, weights], "lr": 1e-2}])

    def extract(training: bool) -> tuple[Tensor, Tensor, Tensor]:
        places = lattice.vertices + most * moves.tanh()
        if kind == "tets":
            return *marching_tets(places, sdf, lattice), torch.zeros(())  # type: ignore[arg-type]
        return tuple(flexicubes(places, sdf, lattice, weights, training=training))  # type: ignore[arg-type, return-value]

    for _ in range(steps):
        vertices, faces, deviation = extract(True)
        corners = vertices[faces]
        crosses = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        areas = crosses.detach().norm(dim=1) + 1e-12
        chosen = torch.multinomial(areas, 10_000, replacement=True, generator=generator)
        shares = torch.distributions.Exponential(1.0).sample((10_000, 3))
        points = ((shares / shares.sum(1, keepdim=True))[..., None] * corners[chosen]).sum(1)
        near = torch.from_numpy(tree.query(points.detach().numpy())[1])
        back = torch.from_numpy(KDTree(points.detach().numpy()).query(truth[:10_000].numpy())[1])
        forth = ((points - truth[near]) * normals[near]).sum(1).abs().mean()
        plane = forth + ((points[back] - truth[:10_000]) * normals[:10_000]).sum(1).abs().mean()
        unit = crosses[chosen] / (crosses[chosen].norm(dim=1, keepdim=True) + 1e-12)
        turned = (1 - (unit * normals[near]).sum(1)).mean()
        optimizer.zero_grad()
        (plane + 2e-3 * turned + 0.25 * deviation).backward()
        optimizer.step()
    vertices, faces, _ = extract(False)
    return Mesh(vertices.detach(), faces)


def self_intersecting(mesh: Mesh) -> float:
    """Compute the share of triangles that intersect another one, with which they share no vertex."""
    corners, faces = mesh.vertices.double()[mesh.faces].numpy(), mesh.faces.numpy()
    centers = corners.mean(1)
    radius = np.linalg.norm(corners - centers[:, None], axis=2).max(1)
    pairs = KDTree(centers).query_pairs(2 * float(radius.max()), output_type="ndarray")
    near = np.linalg.norm(centers[pairs[:, 0]] - centers[pairs[:, 1]], axis=1) <= radius[pairs].sum(1)
    pairs = pairs[near]
    pairs = pairs[(faces[pairs[:, 0], :, None] != faces[pairs[:, 1], None]).all((1, 2))]
    crossing = np.zeros(len(pairs), np.bool_)
    for own, other in ((0, 1), (1, 0)):
        a, b, c = corners[pairs[:, other]].transpose(1, 0, 2)
        for k in range(3):
            start, end = corners[pairs[:, own], k], corners[pairs[:, own], (k + 1) % 3]
            sides = [_volume(start, a, b, c), _volume(end, a, b, c)]
            turns = [_volume(start, end, a, b), _volume(start, end, b, c), _volume(start, end, c, a)]
            same = (np.sign(turns[0]) == np.sign(turns[1])) & (np.sign(turns[1]) == np.sign(turns[2])) & (turns[0] != 0)
            crossing |= (sides[0] * sides[1] < 0) & same
    return len(np.unique(pairs[crossing])) / max(1, len(faces))


def _volume(p: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    return ((a - p) * np.cross(b - p, c - p)).sum(1)


def main() -> None:
    """Print one line for each extractor."""
    mesh = read_mesh(sys.argv[1], own_axes=True).welded()
    low, high = mesh.bounding_box
    similarity = torch.eye(4, dtype=torch.float64)
    similarity[:3, :3] *= 1.8 / float((high - low).max())
    similarity[:3, 3] = -similarity[0, 0] * (low + high).double() / 2
    mesh = mesh.transformed(similarity)
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    for kind, cells in (("tets", 14), ("flexi", 29)):
        for count in (0, steps):
            made = fitted(mesh, kind, cells, count)
            found = surface_distance(made, mesh, count=50_000, generator=torch.Generator().manual_seed(1))
            points, normals = made.sample_surface(20_000, torch.Generator().manual_seed(2))
            triangle = nearest_triangles(points, mesh)[1]
            a, b, c = mesh.vertices[mesh.faces[triangle]].unbind(1)
            true = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=1)
            angle = torch.rad2deg((normals * true).sum(1).clamp(-1, 1).arccos()).mean()
            exact = float(nearest_triangles(points, mesh)[0].mean())
            print(
                f"{kind:6} {cells} cells, {count} steps: {len(made.faces):,} triangles, Chamfer {found.chamfer:.5f},"
                f" to the mesh {exact:.5f}, normals {float(angle):.2f} degrees, intersecting {100 * self_intersecting(made):.2f} %",
                flush=True,
            )


if __name__ == "__main__":
    main()

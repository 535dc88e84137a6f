"""Measures of a mesh: its topology, and its distance from a true surface."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.captures.points import read_cloud
from unrender.captures.reading import check_file
from unrender.geometry.distances import nearest_triangles, surface_distance
from unrender.geometry.mesh import Mesh, read_mesh
from unrender.geometry.topology import genus
from unrender.render.scene import Scene
from unrender.runs.measures import Measure
from unrender.runs.view_measures import ViewMeasures, angle_between, angle_measures, color_measures
from unrender.transforms import inverse_similarity, transformed
from unrender.words import TruthFrame

Surface = Mesh | Float[Tensor, "points 3"]
"""A true surface: a mesh, or points on it."""

MESH_GROUP = "mesh"
DISTANCE_GROUP = "distance from the true surface"
NORMALS_GROUP = "mesh normals against the true ones"
LEFT_OUT = "smaller pieces left out"

_SAMPLES = 20_000
"""Points of a true mesh whose exact distances are computed, in about five seconds on a CPU core."""

_OTHER_SIZE = 5.0
"""Ratio of two sizes from which a note says that they differ."""

_FACES = re.compile(rb"element[ \t]+(face|tristrips)[ \t]+0*[1-9]")
_LONGEST_HEADER = 65536


def topology_measures(mesh: Mesh, *, left_out: int) -> tuple[Measure, ...]:
    """Count faces, pieces, pieces that were left out, and the handles of the largest piece."""
    handles = genus(mesh.largest_component())
    counts = {"pieces": mesh.component_count, LEFT_OUT: left_out, "genus": handles, "faces": len(mesh.faces)}
    return tuple(Measure(name, float(count), digits=0, group=MESH_GROUP) for name, count in counts.items() if count is not None)


def mesh_measures(mesh: Mesh, views: ViewMeasures | None, scene: Scene, device: torch.device, *, left_out: int) -> tuple[Measure, ...]:
    """Measure the vertex colors of a mesh and its topology.

    Args:
        mesh: in the world.
        views: the views in which its colors are compared with renderings of ``scene`` and with photos; None leaves that out.
        scene: the fitted scene.
        device: where to compute.
        left_out: number of pieces of the surface that are not in the mesh.
    """
    colors: tuple[Measure, ...] = ()
    if views is not None and mesh.colors is not None:
        kept = views.kept(scene, views.capture.cameras.to(device))
        colors = color_measures(mesh, kept, views.capture, MESH_GROUP, device)
    return *colors, *topology_measures(mesh, left_out=left_out)


def read_surface(path: Path, *, frame: TruthFrame | None, source_from_world: Float[Tensor, "4 4"]) -> Surface:
    """Read a true surface, a mesh or points, in the frame of the input poses.

    Points come from a PLY without faces, an ``.npz`` or an ``.npy`` file.

    Raises:
        ValueError: the file cannot be read, or the frame is one of normal maps.
        FileNotFoundError: there is no such file.
    """
    if frame not in (None, "source", "normalized"):
        raise ValueError(f"--truth-frame {frame} is for normal maps; a mesh or points are in the frame source or normalized")
    if not path.exists():
        raise FileNotFoundError(f"the truth {path} does not exist; give a mesh, points, or a folder of normal maps")
    suffix = path.suffix.lower()
    if suffix in (".npz", ".npy") or (suffix == ".ply" and not _has_faces(path)):
        points = read_cloud(path)
        return points if frame != "normalized" else transformed(points, source_from_world.to(points))
    mesh = read_mesh(path)
    return mesh if frame != "normalized" else mesh.transformed(source_from_world)


def _has_faces(file: Path) -> bool:
    check_file(file)
    with file.open("rb") as stream:
        return _FACES.search(stream.read(_LONGEST_HEADER).split(b"end_header")[0]) is not None


def distance_measures(mesh: Mesh, truth: Surface) -> tuple[Measure, ...]:
    """Compare a mesh with the true surface, in the same frame.

    Chamfer distance and F-score are those of :func:`unrender.geometry.distances.surface_distance`. The distances of the truth, the points
    or points drawn from the mesh, to the nearest triangle are exact, and so are the angles between the normals there, 0 to 90 degrees: the
    order of corners of a true mesh is often not known.
    """
    low, high = _box(truth)
    diagonal = float((high - low).norm())
    distance = surface_distance(mesh, truth, generator=torch.Generator().manual_seed(0))
    points, normals = truth.sample_surface(_SAMPLES, torch.Generator().manual_seed(1)) if isinstance(truth, Mesh) else (truth, None)
    gaps, faces = nearest_triangles(points.double(), mesh)

    def length(name: str, value: float) -> Measure:
        relative = 100 * value / diagonal
        return Measure(name, relative, "% of diagonal", group=DISTANCE_GROUP, better="lower", in_input_units=value)

    both = (
        length("Chamfer", distance.chamfer),
        Measure("F-score at 1 % of diagonal", distance.f_score, digits=4, group=DISTANCE_GROUP, better="higher"),
    )
    median, most = gaps.quantile(0.5), gaps.quantile(0.9)
    one_sided = length("truth to mesh, median", float(median)), length("truth to mesh, 90th percentile", float(most))
    if normals is None:
        return *one_sided, *both  # scattered points leave gaps, which the Chamfer distance counts as distance of the mesh
    a, b, c = mesh.vertices.double()[mesh.faces[faces].long()].unbind(1)
    angles = angle_between(torch.linalg.cross(b - a, c - a), normals)
    return *both, *one_sided, *angle_measures(torch.minimum(angles, 180 - angles), NORMALS_GROUP)


def check_place(mesh: Mesh, truth: Surface, place: Path, source_from_world: Float[Tensor, "4 4"]) -> str | None:
    """Check that a truth lies where a mesh lies, both in the frame of the input poses.

    Returns:
        A sentence about a truth of another size; None for one that fits.

    Raises:
        ValueError: their boxes are apart.
    """
    ours, theirs = _box(mesh), _box(truth)
    if not _meet(ours, theirs):
        inside = transformed(torch.stack(theirs), source_from_world.double())
        fits = _meet(ours, (inside.amin(0), inside.amax(0)))
        advice = "it would in the normalized world: give --truth-frame normalized" if fits else "move it into the frame of the input poses"
        raise ValueError(f"the truth {place} lies from {_corner(theirs[0])} to {_corner(theirs[1])}, wholly outside of the mesh from "
                         f"{_corner(ours[0])} to {_corner(ours[1])}; {advice}")  # fmt: skip
    ratio = float((theirs[1] - theirs[0]).norm() / (ours[1] - ours[0]).norm())
    if 1 / _OTHER_SIZE < ratio < _OTHER_SIZE:
        return None
    return f"the truth is {ratio:.3g} times as large as the mesh; is it in the frame and units of the input poses?"


def world_mesh(file: Path, source_from_world: Float[Tensor, "4 4"]) -> Mesh:
    """Read the mesh that a run wrote, into the world."""
    mesh = read_mesh(file).transformed(inverse_similarity(source_from_world.double().cpu()))
    return replace(mesh, vertices=mesh.vertices.float())


def _box(surface: Surface) -> tuple[Float[Tensor, " 3"], Float[Tensor, " 3"]]:
    points = (surface.vertices[surface.faces.unique().long()] if isinstance(surface, Mesh) else surface).double().cpu()
    return points.amin(0), points.amax(0)


def _meet(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    return bool((torch.maximum(a[0], b[0]) <= torch.minimum(a[1], b[1])).all())


def _corner(point: Float[Tensor, " 3"]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in point.tolist()) + ")"

"""Results as the tables of benchmarks state them.

``nerf-synthetic``
    mean PSNR and SSIM of the 200 test views of 800 × 800 pixels over white, fitted to the 100 training views.

``dtu``
    accuracy, completeness and their mean, the Chamfer distance, in millimeters (Jensen et al. 2014; Aanæs et al. 2016). The mesh becomes
    points that are at least 0.2 mm apart and leave no gap between them. Those inside the observability mask are matched with the scanned
    points, and the scanned points above the plane of the table with all of them. Distances of 20 mm and more do not count.

``stanford-orb``
    is in :mod:`unrender.runs.stanford_orb`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy.spatial import KDTree

from unrender.captures.capture import Capture
from unrender.captures.points import read_cloud
from unrender.captures.reading import check_file, is_regular_file, reason
from unrender.geometry.mesh import Mesh
from unrender.runs.evaluation import Evaluation

_SPACING = 0.2
_FARTHEST = 20.0
_MARGIN = 60.0
"""Millimeters around the box of the observability mask from which points of the mesh are taken."""

_DRAWN = 4
"""Points that are drawn for each square of the spacing on the surface."""

_LARGEST = 2**30
"""Bytes of a file of the truth."""

_OFFICIAL_VIEWS, _OFFICIAL_FITTED, _OFFICIAL_SIDE = 200, 100, 800


def nerf_synthetic(capture: Capture, evaluation: Evaluation) -> dict[str, Any]:
    """Return the scores of a scene of NeRF-synthetic, and how the views differ from the official ones."""
    split = capture.split
    differences = []
    if not split.given or "transforms_test.json" not in split.rule or evaluation.split != "test":
        differences.append(f"the views are not those of transforms_test.json ({split.rule}; split {evaluation.split})")
    if len(evaluation.per_view) != _OFFICIAL_VIEWS:
        differences.append(f"{len(evaluation.per_view)} views are scored, not {_OFFICIAL_VIEWS}")
    if len(split.train) != _OFFICIAL_FITTED:
        differences.append(f"{len(split.train)} views are fitted, not {_OFFICIAL_FITTED}")
    if bool((capture.cameras.sizes != _OFFICIAL_SIDE).any()):
        differences.append(f"the photos are not of {_OFFICIAL_SIDE} x {_OFFICIAL_SIDE} pixels")
    if not capture.has_masks:
        differences.append("the photos have no alpha, so they are not over white")
    return {
        "protocol": "nerf-synthetic",
        "scene": capture.name,
        "psnr": evaluation.psnr,
        "ssim": evaluation.ssim,
        "views": len(evaluation.per_view),
        "official": not differences,
        "differences": differences,
    }


@dataclass(frozen=True)
class DtuTruth:
    """The scanned surface of a DTU scene, in millimeters."""

    points: Float[ndarray, "points 3"]
    observed: ndarray
    """Observability: a bool lattice [x, y, z]."""
    box: Float[ndarray, "2 3"]
    """Smallest corner of the lattice, and largest one."""
    cell: float
    """Side of a cell of the lattice."""
    plane: Float[ndarray, " 4"]
    """Of the table: points with (x, y, z, 1) · plane > 0 are above it."""


def scan_of(*names: str) -> int:
    """Return the number of a DTU scan, which a name such as ``dtu_scan24`` says.

    >>> scan_of("photos", "scan024")
    24

    Raises:
        ValueError: none of the names says it.
    """
    found = next((match for name in names if (match := re.search(r"(?i)scan[_-]?0*(\d{1,3})(?!\d)", name))), None)
    if found is None:
        raise ValueError(f"none of the names {', '.join(names)} says which scan of DTU this is; rename the capture's folder to scanN")
    return int(found[1])


def read_dtu_truth(folder: Path, scan: int) -> DtuTruth:
    """Read the scanned points, the observability mask and the plane of a scene.

    Args:
        folder: with ``Points/stl/`` and ``ObsMask/`` of DTU's SampleSet and Points.
        scan: number of the scene.

    Raises:
        ValueError: a file is missing or cannot be read.
    """
    files = (
        folder / f"Points/stl/stl{scan:03d}_total.ply",
        *(folder / f"ObsMask/{name}.mat" for name in (f"ObsMask{scan}_10", f"Plane{scan}")),
    )
    missing = [file for file in files if not is_regular_file(file)]
    if missing:
        raise ValueError(
            f"the truth {missing[0]} is missing; download SampleSet.zip and Points.zip from roboimagedata.compute.dtu.dk, and give the "
            "folder with Points/stl and ObsMask as --truth"
        )
    mask, plane = _arrays(files[1], "ObsMask", "BB", "Res"), _arrays(files[2], "P")
    if mask["ObsMask"].ndim != 3 or mask["BB"].size != 6 or mask["Res"].size != 1 or plane["P"].size != 4:
        raise ValueError(f"{files[1]} or {files[2]} has arrays of other shapes than DTU's; download it again")
    return DtuTruth(
        points=read_cloud(files[0]).numpy(),
        observed=mask["ObsMask"] > 0,
        box=mask["BB"].reshape(2, 3).astype(np.float64),
        cell=float(mask["Res"].reshape(-1)[0]),
        plane=plane["P"].reshape(4).astype(np.float64),
    )


def _arrays(file: Path, *names: str) -> dict[str, ndarray]:
    if check_file(file) > _LARGEST:
        raise ValueError(f"{file} has more than {_LARGEST / 2**30:.0f} GB; download it again")
    try:
        content = scipy.io.loadmat(file, variable_names=list(names))
    except Exception as error:  # SciPy raises many types for damaged files
        raise ValueError(f"{file} cannot be read ({reason(error)}); download it again") from error
    arrays = {name: np.asarray(content.get(name)) for name in names}
    if any(array.dtype.kind not in "buif" for array in arrays.values()):
        raise ValueError(f"{file} lacks one of the arrays {', '.join(names)}; download it again")
    return arrays


def dtu(mesh: Mesh, truth: DtuTruth) -> dict[str, Any]:
    """Return accuracy, completeness and Chamfer distance of a mesh in DTU's frame, in millimeters.

    Raises:
        ValueError: no point of the mesh is inside the observability mask, or none within 20 mm of the truth.
    """
    points = surface_points(mesh, _SPACING)
    near = ((points >= truth.box[0] - _MARGIN) & (points < truth.box[1] + 2 * _MARGIN)).all(1)
    points = points[near]
    cells = np.rint((points - truth.box[0]) / truth.cell).astype(np.int64)
    inside = ((cells >= 0) & (cells < truth.observed.shape)).all(1)
    seen = points[inside][truth.observed[tuple(cells[inside].T)]]
    if not len(seen):
        raise ValueError("no point of the mesh is inside DTU's observability mask; the poses must be those of DTU, in millimeters")
    above = truth.points[np.concatenate([truth.points, np.ones((len(truth.points), 1))], 1) @ truth.plane > 0]
    accuracy, completeness = _mean_below(KDTree(truth.points), seen), _mean_below(KDTree(points), above)
    return {
        "protocol": "dtu",
        "accuracy_mm": accuracy,
        "completeness_mm": completeness,
        "chamfer_mm": (accuracy + completeness) / 2,
        "points_of_mesh": len(seen),
        "points_of_truth": len(above),
        "spacing_mm": _SPACING,
        "max_distance_mm": _FARTHEST,
    }


def surface_points(mesh: Mesh, spacing: float) -> Float[ndarray, "points 3"]:
    """Draw points of a surface, and thin them out to ``spacing``; see :func:`thinned`."""
    corners = mesh.vertices.double()[mesh.faces.long()]
    area = float(torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1).sum()) / 2
    count = max(1000, int(_DRAWN * area / spacing**2))
    whole = Mesh(mesh.vertices.double(), mesh.faces)
    return thinned(whole.sample_surface(count, torch.Generator().manual_seed(0))[0].cpu().numpy(), spacing)


def thinned(points: Float[ndarray, "points 3"], spacing: float) -> Float[ndarray, "kept 3"]:
    """Keep points that are at least ``spacing`` apart.

    Every other point is nearer than that to one of them.
    Points in different cells of a lattice whose coordinates are equal modulo two are at least a cell apart. So the first point of each
    of these cells is kept at once, and what is near to it is dropped, for each of the eight kinds of cells, until nothing is left.
    """
    cells = np.floor(points / spacing).astype(np.int64)
    cells -= cells.min(0)
    sides = cells.max(0) + 1
    keys = (cells[:, 0] * sides[1] + cells[:, 1]) * sides[2] + cells[:, 2]
    kinds = cells % 2 @ np.array([4, 2, 1])
    left, kept = np.arange(len(points)), []
    while len(left):
        for kind in range(8):
            of_kind = left[kinds[left] == kind]
            if len(of_kind):
                chosen = of_kind[np.unique(keys[of_kind], return_index=True)[1]]
                distances, _ = KDTree(points[chosen]).query(points[left], distance_upper_bound=spacing)
                left = left[distances >= spacing]
                kept.append(chosen)
    return points[np.sort(np.concatenate(kept))]


def _mean_below(tree: KDTree, points: ndarray) -> float:
    distances, _ = tree.query(points, distance_upper_bound=_FARTHEST)
    near = distances[distances < _FARTHEST]
    if not len(near):
        raise ValueError(f"no point of one surface is within {_FARTHEST:g} mm of the other; the poses must be those of DTU, in millimeters")
    return float(near.mean())

"""Texture coordinates for meshes that have none."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from unrender.geometry.mesh import Mesh

_CHILD = Path(__file__).with_name("unwrapping_child.py")

_THINNEST = 1e-7
"""Triangles whose height is less than this share of their longest side have no area for a texture, and xatlas may not end on them."""

_LARGEST_INSET = 0.25
"""Of a triangle in its cell, as a share of the cell, so that something is left of it at any padding."""


def unwrapped(mesh: Mesh, resolution: int = 1024, padding: int = 4, max_seconds: float = 120.0) -> Mesh:
    """Return the mesh with texture coordinates that do not overlap.

    The surface is cut into charts by xatlas, all of one orientation, so that tangents have w = 1. Vertices on seams are not split. xatlas
    runs in a process of its own, because it does not end on some meshes. If it takes too long or fails, a warning says so, and each
    triangle has a place of its own in the texture, which always works.

    Args:
        mesh: earlier texture coordinates are replaced, and triangles without area removed. Simplify large meshes first: xatlas takes
            seconds for 20,000 triangles, and minutes for 200,000.
        resolution: texels along a side of the square texture.
        padding: texels between charts.
        max_seconds: time for xatlas.

    Raises:
        ValueError: no triangle has an area, a vertex is not finite, or an argument is out of range.
    """
    if resolution < 1 or padding < 0 or not max_seconds > 0:
        raise ValueError(f"the resolution is {resolution}, the padding {padding} and the time {max_seconds} s; give positive numbers")
    bare = replace(mesh, uvs=None, uv_faces=None, tangents=None)
    if not bool(bare.vertices.isfinite().all()):
        raise ValueError("a mesh with vertices that are not finite cannot be unwrapped")
    has_area = _has_area(bare)
    if not bool(has_area.any()):
        raise ValueError("a mesh without a triangle that has an area cannot be unwrapped; check mesh.is_empty first")
    bare = bare if bool(has_area.all()) else bare.submesh(has_area)
    try:
        return _in_charts(bare, resolution, padding, max_seconds)
    except subprocess.TimeoutExpired:
        reason = f"takes longer than {max_seconds:g} seconds"
    except (subprocess.CalledProcessError, _UnusableError) as error:
        reason = f"fails ({error.returncode})" if isinstance(error, subprocess.CalledProcessError) else "gives charts of another mesh"
    warnings.warn(
        f"xatlas {reason} on a mesh of {len(bare.faces):,} triangles, so each has its own place in the texture; simplify the mesh first",
        stacklevel=2,
    )
    return _in_cells(bare, resolution, padding)


class _UnusableError(Exception):
    """The charts do not belong to the mesh."""


def _has_area(mesh: Mesh) -> Bool[Tensor, " faces"]:
    corners = mesh.vertices.detach().double()[mesh.faces.long()]
    sides = corners.roll(-1, 1) - corners
    doubled = torch.linalg.cross(sides[:, 0], sides[:, 1]).norm(dim=1)
    return doubled > _THINNEST * sides.square().sum(-1).amax(1)


def _in_charts(mesh: Mesh, resolution: int, padding: int, max_seconds: float) -> Mesh:
    faces = mesh.faces.cpu().numpy().astype(np.uint32)
    # Charts are measured in single precision: a shape of any place and size is brought to the unit cube.
    low, high = mesh.bounding_box.detach().double()
    vertices = ((mesh.vertices.detach().double() - low) / (high - low).max()).float().cpu().numpy()
    with tempfile.TemporaryDirectory(prefix="unrender-unwrapping-") as folder:
        given, found = Path(folder) / "given.npz", Path(folder) / "found.npz"
        np.savez(given, vertices=vertices, faces=faces, resolution=resolution, padding=padding)
        command = [sys.executable, str(_CHILD), str(given), str(found)]
        subprocess.run(command, check=True, timeout=max_seconds, stdin=subprocess.DEVNULL, capture_output=True)
        with np.load(found) as result:
            vertex, uv_faces, uvs, atlases = (result[name] for name in ("vertex", "uv_faces", "uvs", "atlases"))
    if int(atlases) != 1 or uv_faces.shape != faces.shape or not (vertex[uv_faces] == faces).all() or not np.isfinite(uvs).all():
        raise _UnusableError
    uvs = np.stack([uvs[:, 0], 1 - uvs[:, 1]], 1).astype(np.float32)
    return replace(
        mesh, uvs=torch.from_numpy(uvs).to(mesh.faces.device), uv_faces=torch.from_numpy(uv_faces.astype(np.int64)).to(mesh.faces)
    )


def _in_cells(mesh: Mesh, resolution: int, padding: int) -> Mesh:
    """Return the mesh with two triangles in each cell of a grid, half of the padding away from its borders."""
    count, device = len(mesh.faces), mesh.faces.device
    side = math.ceil(math.sqrt((count + 1) // 2))
    inset = min(_LARGEST_INSET, max(1, padding) / 2 * side / resolution)
    near, far = inset, 1 - 2 * inset
    first = torch.tensor([[near, near], [near, far], [far, near]], device=device)
    row = torch.arange(count, device=device)
    corners = torch.stack([first, 1 - first])[row % 2]
    cell = torch.stack([row // 2 % side, row // 2 // side], 1)
    uvs = ((cell[:, None] + corners) / side).reshape(-1, 2)
    return replace(mesh, uvs=uvs, uv_faces=torch.arange(3 * count, dtype=mesh.faces.dtype, device=device).view(-1, 3))

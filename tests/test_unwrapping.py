"""Texture coordinates of meshes: charts that do not overlap, of one orientation, and what happens without them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unrender.geometry import unwrapping
from unrender.geometry.flexicubes import flexicubes
from unrender.geometry.mesh import Mesh
from unrender.geometry.unwrapping import unwrapped
from unrender.geometry.voxels import voxel_lattice
from unrender.render.surface import surface_in_texture


def ball() -> Mesh:
    lattice = voxel_lattice(10)
    surface = flexicubes(lattice.vertices, lattice.vertices.norm(dim=1) - 0.71, lattice, training=False)
    return Mesh(surface.vertices, surface.faces)


def areas(mesh: Mesh) -> Tensor:
    """Return the area of each triangle in the texture, positive where it is not mirrored."""
    assert mesh.uvs is not None and mesh.uv_faces is not None
    a, b, c = mesh.uvs.double()[mesh.uv_faces].unbind(1)
    (u1, v1), (u2, v2) = (b - a).unbind(1), (c - a).unbind(1)
    return (u2 * v1 - u1 * v2) / 2


def check(mesh: Mesh, original: Mesh, covered: float) -> None:
    assert mesh.uvs is not None and mesh.uvs.min() >= 0 and mesh.uvs.max() <= 1
    assert torch.equal(mesh.vertices, original.vertices) and torch.equal(mesh.faces, original.faces)
    area = areas(mesh)
    assert (area > 0).double().mean() > 0.999
    assert covered < area.sum() <= 1
    size = 512
    texels = (surface_in_texture(mesh, (size, size)).raster.face >= 0).sum() / size**2
    assert texels == pytest.approx(float(area.sum()), rel=0.03)  # overlapping triangles would cover less than their areas
    assert (_given(mesh.with_tangents().tangents)[:, 3] == 1).double().mean() > 0.999


def test_charts_do_not_overlap_and_have_one_orientation() -> None:
    mesh = unwrapped(ball(), 512, 4)
    check(mesh, ball(), 0.3)
    assert mesh.uvs is not None and len(mesh.vertices) < len(mesh.uvs) < 2 * len(mesh.vertices)


@pytest.mark.parametrize("failure", ["late", "crash", "wrong"])
def test_triangles_have_their_own_places_where_charts_fail(failure: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = {
        "late": "import time; time.sleep(60)",
        "crash": "import os; os.abort()",
        "wrong": "import sys, numpy as np; np.savez(sys.argv[2], vertex=[0], uv_faces=[[0, 0, 0]], uvs=[[0, 0]], atlases=1)",
    }[failure]
    child = tmp_path / "child.py"
    child.write_text(program)
    monkeypatch.setattr(unwrapping, "_CHILD", child)
    said = {"late": "longer than 3 seconds", "crash": "fails", "wrong": "another mesh"}[failure]
    with pytest.warns(UserWarning, match=said):
        mesh = unwrapped(ball(), 512, 2, max_seconds=3.0)
    check(mesh, ball(), 0.3)


def test_triangles_without_area_are_removed_and_other_data_stays() -> None:
    full = ball()
    faces = torch.cat([torch.tensor([[0, 0, 1]]), full.faces])
    colored = replace(full, faces=faces, colors=torch.rand(len(full.vertices), 3), up=(0.0, 1.0, 0.0))
    mesh = unwrapped(colored)
    assert torch.equal(mesh.faces, full.faces) and mesh.colors is not None and torch.equal(mesh.colors, _given(colored.colors))
    assert mesh.up == (0.0, 1.0, 0.0)
    again = unwrapped(mesh.with_tangents())
    assert again.tangents is None and again.uvs is not None


def test_what_cannot_be_unwrapped_is_said() -> None:
    flat = Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))
    with pytest.raises(ValueError, match="has an area"):
        unwrapped(flat)
    with pytest.raises(ValueError, match="not finite"):
        unwrapped(replace(flat, vertices=torch.full((3, 3), torch.nan)))
    with pytest.raises(ValueError, match="give positive numbers"):
        unwrapped(ball(), 0)


def _given(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor

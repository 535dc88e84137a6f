"""Exports stand upright in other programs, keep their shape far from the origin, and come back to the frame of their mesh."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from mesh_samples import signed_volume
from unrender.cameras import Cameras
from unrender.captures.capture import Capture
from unrender.captures.upright import upward_direction, upward_direction_of_cameras
from unrender.geometry.distances import surface_distance
from unrender.geometry.mesh import Axes, Mesh, read_mesh
from unrender.render.asset import Asset, PbrMaterial
from unrender.transforms import look_at, rotation_between, similarity

UPS = [(0, 0, 1), (0, 0, -1), (0, 1, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0), (-0.275, -0.489, -0.7), (0.1, 0.99, -0.3)]
UTM = torch.tensor([447312.0, 5411878.0, 318.0], dtype=torch.float64)


def cone(up: tuple[float, ...] = (0, 0, 1), scale: float = 1.0) -> Mesh:
    """A colored cone whose tip points up."""
    solid = trimesh.creation.cone(0.3, 1.0)
    turn = rotation_between(torch.tensor([0.0, 0, 1]).double(), torch.tensor(up).double()).numpy()
    vertices = torch.tensor(scale * solid.vertices @ turn.T, dtype=torch.float32)
    x, y, z = (torch.tensor(up).double() / torch.tensor(up).double().norm()).tolist()
    colors = torch.rand(len(vertices), 3, generator=torch.Generator().manual_seed(1))
    return Mesh(vertices, torch.tensor(solid.faces), colors, up=(x, y, z)).with_vertex_normals()


def tip_of(vertices: np.ndarray) -> np.ndarray:
    """The direction from the middle of the cone's base to its tip; the tip is the vertex farthest from the mean."""
    centered = vertices - vertices.mean(0)
    tip = centered[np.linalg.norm(centered, axis=1).argmax()]
    return tip / np.linalg.norm(tip)


def document_of(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    length, _ = struct.unpack_from("<II", data, 12)
    return json.loads(data[20 : 20 + length])


def loaded(path: Path) -> trimesh.Trimesh:
    found = trimesh.load_mesh(path, process=False)
    assert isinstance(found, trimesh.Trimesh)
    return found


@pytest.mark.parametrize("up", UPS)
@pytest.mark.parametrize(
    ("suffix", "axes", "axis"),
    [("glb", None, 1), ("obj", None, 1), ("ply", "y-up", 1), ("glb", "z-up", 2), ("obj", "z-up", 2), ("ply", "z-up", 2)],
)
def test_an_export_stands_upright_and_reads_back(tmp_path: Path, up: tuple[float, ...], suffix: str, axes: Axes | None, axis: int) -> None:
    mesh = cone(up)
    path = tmp_path / f"cone.{suffix}"
    mesh.export(path, axes=axes)
    seen = loaded(path)
    assert tip_of(np.asarray(seen.vertices))[axis] > 0.999 and seen.volume == pytest.approx(signed_volume(mesh), rel=1e-5)
    back = read_mesh(path)
    torch.testing.assert_close(back.vertices, mesh.vertices, atol=2e-7, rtol=0)
    assert torch.equal(back.faces, mesh.faces) and back.up == pytest.approx(mesh.up)
    raw = read_mesh(path, own_axes=True)
    np.testing.assert_allclose(raw.vertices.numpy(), seen.vertices, atol=2e-7)


@pytest.mark.parametrize("up", UPS)
@pytest.mark.parametrize(("suffix", "axes"), [("ply", None), ("ply", "source"), ("obj", "source"), ("glb", "source")])
def test_the_source_frame_is_kept_exactly(tmp_path: Path, up: tuple[float, ...], suffix: str, axes: Axes | None) -> None:
    mesh = cone(up)
    path = tmp_path / f"cone.{suffix}"
    mesh.export(path, axes=axes)
    np.testing.assert_array_equal(np.asarray(loaded(path).vertices, np.float32), mesh.vertices.numpy())
    back = read_mesh(path)
    assert torch.equal(back.vertices, mesh.vertices) and back.up == pytest.approx(mesh.up)


def test_normals_turn_with_the_mesh(tmp_path: Path) -> None:
    mesh = cone((0, -1, 0))
    mesh.export(tmp_path / "cone.obj", axes="y-up")
    mesh.export(tmp_path / "cone.ply", axes="y-up")
    lines = (tmp_path / "cone.obj").read_text().splitlines()
    written = np.array([line.split()[1:] for line in lines if line.startswith("vn")], np.float64)
    flat = read_mesh(tmp_path / "cone.obj", own_axes=True).with_vertex_normals()
    assert flat.normals is not None
    np.testing.assert_allclose(written, flat.normals.numpy(), atol=1e-5)
    body = (tmp_path / "cone.ply").read_bytes().partition(b"end_header\n")[2]
    rows = np.frombuffer(body, [("position", "<f4", 3), ("normal", "<f4", 3), ("color", "u1", 3)], len(written))
    np.testing.assert_allclose(rows["normal"], written, atol=1e-6)


def test_up_follows_a_transform() -> None:
    mesh = cone()
    turn = torch.eye(4, dtype=torch.float64)
    turn[:3, :3] = 5 * rotation_between(torch.tensor([0.0, 0, 1]).double(), torch.tensor([0.0, -1, 0]).double())
    assert mesh.transformed(turn).up == pytest.approx((0, -1, 0)) and mesh.with_up((1.0, 0.0, 0.0)).up == (1, 0, 0)
    assert mesh.submesh(torch.ones(len(mesh.faces), dtype=torch.bool)).up == (0, 0, 1)
    with pytest.raises(ValueError, match=r"up of a mesh is \(0.0, 0.0, 0.0\); it must be a finite direction"):
        mesh.with_up((0.0, 0.0, 0.0))


def test_files_of_others_are_taken_for_what_importers_expect(tmp_path: Path) -> None:
    """Coordinates of an OBJ and a PLY are kept; +Y is up in the first and in glTF, +Z in the second."""
    (tmp_path / "a.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 2 0\nf 1 2 3\n")
    mesh = read_mesh(tmp_path / "a.obj")
    assert mesh.vertices[2].tolist() == [0, 2, 0] and mesh.up == (0, 1, 0)
    mesh.export(tmp_path / "b.obj")
    assert loaded(tmp_path / "b.obj").vertices[2].tolist() == [0, 2, 0]
    mesh.export(tmp_path / "a.glb")
    assert "matrix" not in document_of(tmp_path / "a.glb")["nodes"][0]
    mesh.with_up((0.0, 0.0, 1.0)).export(tmp_path / "a.ply")
    assert b"source_from_file" not in (tmp_path / "a.ply").read_bytes() and read_mesh(tmp_path / "a.ply").up == (0, 0, 1)


@pytest.mark.parametrize("damage", ["1 2 3", "nan 0 0 0 1 0 0 0 1 0 0 1", "2 0 0 0 1 0 0 0 1 0 0 1", "1 0 0 0 1 0 0 0 1 0 0 0", "x"])
def test_a_damaged_frame_is_refused(tmp_path: Path, damage: str) -> None:
    (tmp_path / "a.obj").write_text(f"# unrender source_from_file {damage}\nv 0 0 0\nv 1 0 0\nv 0 2 0\nf 1 2 3\n")
    with pytest.raises(ValueError, match="a.obj cannot be read as a mesh: .*source_from_file"):
        read_mesh(tmp_path / "a.obj")
    assert read_mesh(tmp_path / "a.obj", own_axes=True).vertices[2].tolist() == [0, 2, 0]


# Far from the origin


@pytest.mark.parametrize("axes", [None, "source", "z-up"])
@pytest.mark.parametrize("suffix", ["ply", "obj", "glb"])
@pytest.mark.parametrize("up", [(0, 0, 1), (0, -1, 0), (0.1, 0.99, -0.3)])
def test_a_georeferenced_mesh_keeps_its_shape(tmp_path: Path, suffix: str, axes: Axes | None, up: tuple[float, ...]) -> None:
    near = cone(up)
    far = near.transformed(similarity(UTM, 1.0, torch.eye(3).double()))
    assert far.vertices.dtype == torch.float64 and far.area == pytest.approx(near.area, rel=1e-6)
    path = tmp_path / f"cone.{suffix}"
    far.export(path, axes=axes)
    other = loaded(path)
    assert other.volume == pytest.approx(signed_volume(near), rel=1e-4 if suffix == "glb" else 1e-6)
    if axes == "source":
        np.testing.assert_allclose(other.vertices, far.vertices.numpy(), atol=2e-7)
    back = read_mesh(path)
    assert back.vertices.dtype == torch.float64
    torch.testing.assert_close(back.vertices, far.vertices, atol=2e-7, rtol=0)
    assert signed_volume(back) == pytest.approx(signed_volume(near), rel=1e-5)
    if suffix == "glb":  # what a viewer draws is near its own origin
        accessor = document_of(path)["accessors"][0]
        assert np.abs([accessor["min"], accessor["max"]]).max() < 2


def test_a_georeferenced_file_of_others_keeps_its_shape(tmp_path: Path) -> None:
    near = cone()
    far = near.vertices.double() + UTM
    lines = [f"v {x:.9f} {y:.9f} {z:.9f}" for x, y, z in far.tolist()]
    lines += [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in near.faces.tolist()]
    (tmp_path / "a.obj").write_text("\n".join(lines))
    rows = "".join(f"{x:.9f} {y:.9f} {z:.9f}\n" for x, y, z in far.tolist()) + "".join(
        f"3 {a} {b} {c}\n" for a, b, c in near.faces.tolist()
    )
    head = "ply\nformat ascii 1.0\nelement vertex %d\nproperty double x\nproperty double y\nproperty double z\nelement face %d\n"
    (tmp_path / "b.ply").write_text(head % (len(far), len(near.faces)) + "property list uchar int vertex_indices\nend_header\n" + rows)
    for name in ("a.obj", "b.ply"):
        mesh = read_mesh(tmp_path / name)
        torch.testing.assert_close(mesh.vertices, far, atol=1e-6, rtol=0)
        local, offset = mesh.recentered()
        assert local.vertices.dtype == torch.float32 and signed_volume(local) == pytest.approx(signed_volume(near), rel=1e-4)
        torch.testing.assert_close(local.vertices.double() + offset, far, atol=1e-6, rtol=0)


def test_ordinary_meshes_stay_in_single_precision() -> None:
    assert (
        cone(scale=250.0).transformed(similarity(torch.tensor([0.0, 10.0, 650.0]).double(), 1.0, torch.eye(3).double())).vertices.dtype
        == torch.float32
    )
    assert cone().transformed(torch.eye(4)).vertices.dtype == torch.float32
    double = replace(cone(), vertices=cone().vertices.double(), normals=None)
    assert double.transformed(torch.eye(4)).vertices.dtype == torch.float64


def test_distances_of_georeferenced_meshes_are_those_of_near_ones() -> None:
    matrix = similarity(UTM, 1.0, torch.eye(3).double())
    near, larger = cone(), cone(scale=1.1)
    expected = surface_distance(larger, near, count=2000, generator=torch.Generator().manual_seed(0))
    found = surface_distance(larger.transformed(matrix), near.transformed(matrix), count=2000, generator=torch.Generator().manual_seed(0))
    assert found.chamfer == pytest.approx(expected.chamfer, rel=1e-4) and found.f_score == pytest.approx(expected.f_score, abs=1e-3)


# Materials


def test_fitted_colors_are_unlit_and_materials_are_lit(tmp_path: Path) -> None:
    """Light that is in the colors must not be applied again."""
    mesh = cone()
    mesh.export(tmp_path / "fitted.glb")
    document = document_of(tmp_path / "fitted.glb")
    assert document["extensionsUsed"] == ["KHR_materials_unlit"] and "extensionsRequired" not in document
    surface = document["materials"][0]
    assert surface["extensions"] == {"KHR_materials_unlit": {}}
    fallback = surface["pbrMetallicRoughness"]
    assert fallback["metallicFactor"] == 0 and fallback["roughnessFactor"] > 0.5 and "emissiveFactor" not in surface
    for name, asset in (("lit", Asset(mesh, PbrMaterial(roughness=0.5))), ("bare", Asset(replace(mesh, colors=None)))):
        asset.export(tmp_path / f"{name}.glb")
        document = document_of(tmp_path / f"{name}.glb")
        assert "extensionsUsed" not in document and "extensions" not in document["materials"][0]


@pytest.mark.parametrize(("low", "high", "wrap"), [(0.0, 1.0, 33071), (0.2, 0.7, 33071), (-0.5, 1.0, 10497), (0.0, 3.0, 10497)])
def test_textures_repeat_only_where_coordinates_ask_for_it(tmp_path: Path, low: float, high: float, wrap: int) -> None:
    uvs = torch.tensor([[low, low], [high, low], [high, high]])
    triangle = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]), uvs=uvs, uv_faces=torch.tensor([[0, 1, 2]]))
    Asset(triangle, PbrMaterial(base_color=torch.rand(4, 4, 3))).export(tmp_path / "a.glb")
    sampler = document_of(tmp_path / "a.glb")["samplers"][0]
    assert sampler["wrapS"] == sampler["wrapT"] == wrap


# Folders


def test_an_export_makes_its_folder_but_not_for_a_refusal(tmp_path: Path) -> None:
    cone().export(tmp_path / "new" / "deep" / "cone.ply")
    assert (tmp_path / "new" / "deep" / "cone.ply").is_file()
    with pytest.raises(ValueError, match=r"unrender\.geometry\.isosurface\.explain_empty"):
        Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long)).export(tmp_path / "other" / "a.ply")
    assert not (tmp_path / "other").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        cone().export(tmp_path / "file" / "a.ply")


# Up of captures


def cameras_around(up: torch.Tensor, azimuths: list[float], elevation: float) -> Cameras:
    """Level cameras at some azimuths, which look down at the origin, in a frame where ``up`` is up."""
    turn = rotation_between(torch.tensor([0.0, 0, 1]).double(), up.double())
    positions = [[math.cos(a) * math.cos(elevation), math.sin(a) * math.cos(elevation), math.sin(elevation)] for a in azimuths]
    eyes = 4 * torch.tensor(positions, dtype=torch.float64) @ turn.T
    poses = look_at(eyes, torch.zeros_like(eyes), up.double().expand_as(eyes))
    return Cameras.alike(poses.float(), torch.tensor([[40.0, 40, 8, 8]]).expand(len(azimuths), 4), None, 16, 16)


@pytest.mark.parametrize("up", UPS)
def test_level_cameras_tell_up_even_if_all_look_down_from_one_side(up: tuple[float, ...]) -> None:
    direction = torch.tensor(up, dtype=torch.float64)
    direction = direction / direction.norm()
    cameras = cameras_around(direction, [0.1 * k for k in range(12)], 0.9)
    found = upward_direction_of_cameras(cameras.world_from_camera[:, :3, :3].double())
    assert found is not None
    torch.testing.assert_close(found, direction, atol=1e-5, rtol=0)
    capture = Capture.from_tensors(torch.zeros(12, 16, 16, 3, dtype=torch.uint8), cameras)
    moved = replace(capture, source_from_world=similarity(UTM, 3.0, rotation_between(torch.tensor([1.0, 2, 3]).double(), direction)))
    expected = moved.source_from_world[:3, :3] @ direction / 3
    torch.testing.assert_close(torch.tensor(upward_direction(moved)).double(), expected, atol=1e-5, rtol=0)
    assert upward_direction(replace(capture, up=(0.0, 1.0, 0.0))) == (0, 1, 0)


def test_one_camera_tells_its_own_up_and_rolled_ones_tell_none() -> None:
    one = cameras_around(torch.tensor([0.0, 0, 1]), [0.3], 0.0).world_from_camera[:, :3, :3].double()
    torch.testing.assert_close(upward_direction_of_cameras(one), torch.tensor([0.0, 0, 1]).double(), atol=1e-6, rtol=0)
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]).double()
    rolled = torch.stack([one[0], one[0] @ quarter, one[0] @ quarter @ quarter, one[0] @ quarter.T])
    assert upward_direction_of_cameras(rolled) is None

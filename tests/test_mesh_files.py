"""Mesh files as other programs write them: the right shape and colors, or one sentence."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from mesh_samples import (
    CUBE,
    CUBE_TRIANGLES,
    Gltf,
    cube_gltf,
    cube_obj,
    cube_off,
    cube_ply,
    cube_stl,
    signed_volume,
)
from unrender.files.mesh_files import MeshFileError, obj
from unrender.geometry.mesh import Mesh, read_mesh


def check_cube(mesh: Mesh, vertices: int = 8) -> None:
    assert len(mesh.vertices) == vertices and len(mesh.faces) == 12
    assert mesh.area == pytest.approx(6, abs=1e-4) and signed_volume(mesh) == pytest.approx(1, abs=1e-4)
    assert mesh.welded().is_watertight and mesh.welded().component_count == 1


def stored(tmp_path: Path, name: str, data: bytes) -> Path:
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


def linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


# PLY


ORDERS = ["ascii", "binary_little_endian", "binary_big_endian"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("names", [("red", "green", "blue", "alpha"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue")])
@pytest.mark.parametrize(
    ("kind", "one"), [("uchar", 255), ("ushort", 65535), ("float", 1.0), ("double", 1.0), ("float", 255.0), ("int", 255)]
)
def test_a_ply_has_its_shape_and_colors(tmp_path: Path, order: str, names: tuple[str, ...], kind: str, one: float) -> None:
    wanted = np.linspace(0, 1, 8 * len(names)).reshape(8, -1)
    codes = wanted * one if kind in ("float", "double") else np.rint(wanted * one).astype(np.int64)
    mesh = read_mesh(stored(tmp_path, "cube.ply", cube_ply(order, color_names=names, color_type=kind, colors=codes)))
    check_cube(mesh)
    assert mesh.colors is not None
    np.testing.assert_allclose(mesh.colors.numpy(), (codes / one)[:, :3], atol=1e-5)
    np.testing.assert_array_equal(mesh.vertices.numpy(), CUBE)


@pytest.mark.parametrize("order", ORDERS)
def test_a_ply_without_colors_has_none(tmp_path: Path, order: str) -> None:
    mesh = read_mesh(stored(tmp_path, "cube.ply", cube_ply(order)))
    check_cube(mesh)
    assert mesh.colors is None


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_text_ply_may_end_its_lines_in_any_way(tmp_path: Path, end: str) -> None:
    check_cube(read_mesh(stored(tmp_path, "cube.ply", cube_ply("ascii").replace(b"\n", end.encode()))))


@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
def test_a_binary_ply_may_begin_with_a_byte_that_looks_like_a_line_end(tmp_path: Path, end: bytes) -> None:
    triangle = np.array([[2.66246708e-44, 0, 0], [1, 0, 0], [0, 1, 0]], "<f4")  # 0x13 is the first byte
    triangle.view("u1")[0, 0] = 10
    head = end.join(
        [b"ply", b"format binary_little_endian 1.0", b"element vertex 3", *(b"property float " + name for name in (b"x", b"y", b"z"))]
        + [b"element face 1", b"property list uchar uint vertex_index", b"end_header", b""]
    )
    data = head + triangle.tobytes() + b"\3" + np.arange(3, dtype="<u4").tobytes()
    np.testing.assert_array_equal(read_mesh(stored(tmp_path, "one.ply", data)).vertices.numpy(), triangle)


def test_strips_of_a_ply_are_triangles_with_alternating_order(tmp_path: Path) -> None:
    text = "ply\nformat ascii 1.0\nelement vertex 5\nproperty float x\nproperty float y\nproperty float z\nelement tristrips 1\n"
    text += "property list int int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n1 1 0\n0 2 0\n9 0 1 2 3 4 -1 1 3 2\n"
    mesh = read_mesh(stored(tmp_path, "strips.ply", text.encode()))
    assert mesh.faces.tolist() == [[0, 1, 2], [2, 1, 3], [2, 3, 4], [1, 3, 2]]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (b"element vertex 8", b"element vertex 4000000000", "ends before the 4000000000 rows of its element vertex"),
        (b"element face 7", b"element face 8", "element face|corners"),
        (b"property float x", b"property float a", "no x, y and z"),
        (b"property float x", b"property float128 x", "not a property of a known type"),
        (b"property list uchar int", b"property list uchar float", None),
        (b"format ascii 1.0", b"format zip 1.0", "format is 'zip'"),
        (b"format ascii 1.0\n", b"", "names no format"),
        (b"end_header", b"end", "no PLY header"),
        (b"0 0 1", b"0 0 x", "something other than numbers"),
        (b"1 4 4 6 7 5", b"1 4 4 6 7 8", "not among its 8"),
        (b"1 4 4 6 7 5", b"1 4 4 6 7 -1", "not among its 8"),
        (b"1 4 4 6 7 5", b"1 4 4 6 7 nan", "not a finite number"),
        (b"0.25 1 1 1", b"0.25 1 inf 1", "1 of its vertices are not finite numbers, the first is vertex 7"),
    ],
)
def test_a_broken_ply_is_refused(tmp_path: Path, old: bytes, new: bytes, complaint: str | None) -> None:
    text = cube_ply("ascii")
    assert old in text
    path = stored(tmp_path, "cube.ply", text.replace(old, new))
    if complaint is None:
        check_cube(read_mesh(path))
        return
    with pytest.raises(MeshFileError, match=f"cube.ply cannot be read as a mesh: .*({complaint})"):
        read_mesh(path)


# OBJ


def messy(text: str) -> str:
    return text.replace("v 0", "v \t 0").replace("\nf ", " \r\n  f  ").replace("usemtl", "# a remark f 1 2\nusemtl")


@pytest.mark.parametrize(
    "change", [lambda text: text, messy, lambda text: text.replace("\n", "\r"), lambda text: text.replace(" 2/2/1", " \\\n 2/2/1")]
)
def test_an_obj_is_read_in_any_layout(tmp_path: Path, change: Callable[[str], str]) -> None:
    mesh = read_mesh(stored(tmp_path, "my cube.obj", change(cube_obj().decode()).encode()))
    check_cube(mesh)
    assert mesh.colors is not None and mesh.uvs is not None and mesh.uv_faces is not None
    torch.testing.assert_close(mesh.colors, torch.tensor([[1.0, 0.0, 0.2]]).expand(8, 3))
    assert mesh.uvs.tolist() == [[0, 1], [1, 1], [1, 0], [0, 0]] and mesh.uv_faces[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("form", ["{0}", "{0}/{1}", "{0}//{2}", "{0}/{1}/{2}"])
def test_reading_at_once_and_line_by_line_agree(form: str) -> None:
    generator = random.Random(7)
    rows = [[f"{generator.gauss(0, 1):.{generator.randint(1, 12)}g}" for _ in range(3)] for _ in range(40)]
    lines = [f"v {' '.join(row)}" for row in rows] + [f"vt {generator.random()} {generator.random()} 0" for _ in range(9)] + ["vn 0 0 1"]
    for _ in range(60):
        corners = generator.sample(range(1, 41), generator.randint(3, 7))
        lines.append("f " + " ".join(form.format(corner, generator.randint(1, 9), 1) for corner in corners))
    data = "\n".join(lines).encode()
    quick, slow = obj._quick(data), obj._line_by_line(data)
    assert quick is not None
    for a, b in zip(quick, slow, strict=True):
        assert (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b))


@pytest.mark.parametrize(
    "faces",
    [
        "f 1/2/3 4 5/6",
        "f 1/1 2/1 3",
        "f 1//1 2/1 3/1/1",
        "f 1/1/1/1 2 3/1/1",
        "f 1 2 3 -1",
        "f 1.0 2 3",
        "f 1 2",
        "f",
        "v",
        "f 1 2 99",
        "f 1/1 2/2 3/3",
    ],
)
def test_an_unusual_face_is_never_read_at_once(faces: str) -> None:
    assert obj._quick(f"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 1 0\nvt 0 0\n{faces}\n".encode()) is None


def test_positions_of_an_obj_may_have_a_weight(tmp_path: Path) -> None:
    mesh = read_mesh(stored(tmp_path, "w.obj", b"v 0 0 0 1\nv 1 0 0 1\nv 0 1 0 1\nf -3 -2 -1\n"))
    assert mesh.area == 0.5 and mesh.colors is None


def test_colors_and_texture_coordinates_are_read_only_where_all_are_there(tmp_path: Path) -> None:
    mesh = read_mesh(stored(tmp_path, "part.obj", b"v 0 0 0 1 0 0\nv 1 0 0\nv 0 1 0 0 0 1\nvt 0 0\nf 1/1 2/1 3/1\nf 3 2 1\n"))
    assert mesh.colors is None and mesh.uvs is None and len(mesh.faces) == 2


def test_a_vertex_that_is_not_finite_is_removed_or_refused(tmp_path: Path) -> None:
    text = b"v nan 0 0 1 0 0\nv 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 0 1 0 0 0 1\nf 2 3 4\n"
    mesh = read_mesh(stored(tmp_path, "unused.obj", text))
    assert mesh.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]] and mesh.faces.tolist() == [[0, 1, 2]]
    assert mesh.colors is not None and torch.equal(mesh.colors, torch.eye(3))
    with pytest.raises(MeshFileError, match="1 of its vertices are not finite numbers, the first is vertex 0"):
        read_mesh(stored(tmp_path, "used.obj", text + b"f 1 2 3\n"))


def test_faces_without_area_are_kept_and_do_not_open_a_solid(tmp_path: Path) -> None:
    mesh = read_mesh(stored(tmp_path, "cube.obj", cube_obj() + b"\nf 1/1/1 1/1/1 2/1/1\nl 1 2\np 3\n"))
    assert len(mesh.faces) == 13 and mesh.is_watertight and mesh.area == pytest.approx(6)


# STL and OFF


@pytest.mark.parametrize("text", [False, True])
def test_an_stl_is_joined_at_equal_positions(tmp_path: Path, text: bool) -> None:
    mesh = read_mesh(stored(tmp_path, "cube.stl", cube_stl(text)))
    check_cube(mesh)
    assert mesh.is_watertight and mesh.component_count == 1 and mesh.largest_component().area == pytest.approx(6)


@pytest.mark.parametrize("head", ["OFF", "COFF"])
def test_an_off_is_read_with_its_colors(tmp_path: Path, head: str) -> None:
    mesh = read_mesh(stored(tmp_path, "cube.off", cube_off(head)))
    check_cube(mesh)
    if head == "COFF":
        assert mesh.colors is not None
        torch.testing.assert_close(mesh.colors[3], torch.tensor([1.0, 0.0, 0.2]))


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("a.stl", cube_stl(False)[:-1], "ends before its 12 triangles do"),
        ("a.stl", b"", "ends before"),
        ("a.stl", cube_stl(True).replace(b"vertex 1 0", b"vertex one 0"), "not three numbers"),
        ("a.stl", b"solid nothing\nendsolid\n", "no triangles"),
        ("a.off", cube_off()[:60], "ends before them"),
        ("a.off", cube_off().replace(b"8 6 12", b"8 6000000000 12"), "ends before them"),
        ("a.off", cube_off().replace(b"4 4 6 7 5", b"4 4 6 7 9"), "not among its 8"),
        ("a.off", cube_off().replace(b"4 4 6 7 5", b"2 4 6"), "three or more corners"),
        ("a.off", b"4OFF\n1 1 1\n", "does not begin with OFF"),
        ("a.fbx", b"Kaydara", "suffix is '.fbx'; give a PLY, OBJ, GLB, GLTF, STL or OFF file"),
    ],
)
def test_other_broken_files_are_refused(tmp_path: Path, name: str, data: bytes, complaint: str) -> None:
    with pytest.raises(MeshFileError, match=f"{name} cannot be read as a mesh: .*{complaint}"):
        read_mesh(stored(tmp_path, name, data))


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    with pytest.raises(MeshFileError, match="is a folder"):
        read_mesh(tmp_path)
    os.mkfifo(tmp_path / "pipe.ply")
    with pytest.raises(MeshFileError, match="is not a regular file"):
        read_mesh(tmp_path / "pipe.ply")


# Joining


def test_welding_joins_hard_edges_and_keeps_colors_and_texture_coordinates(tmp_path: Path) -> None:
    soup = Mesh(
        torch.tensor(CUBE[CUBE_TRIANGLES.reshape(-1)], dtype=torch.float32),
        torch.arange(36).reshape(12, 3),
        colors=torch.tensor(CUBE[CUBE_TRIANGLES.reshape(-1)], dtype=torch.float32),
        uvs=torch.rand(36, 2),
        uv_faces=torch.arange(36).reshape(12, 3),
    )
    assert soup.component_count == 12 and not soup.is_watertight and soup.largest_component().area == pytest.approx(0.5)
    whole = soup.welded()
    check_cube(whole)
    assert whole.is_watertight and whole.colors is not None and whole.uv_faces is not None and soup.uv_faces is not None
    assert torch.equal(whole.colors, whole.vertices) and torch.equal(whole.uv_faces, soup.uv_faces)
    speck = Mesh(torch.cat([soup.vertices, soup.vertices[:3] + 5]), torch.cat([soup.faces, torch.tensor([[36, 37, 38]])]))
    assert speck.welded().largest_component().area == pytest.approx(6)


def test_welding_within_a_distance_joins_near_vertices_and_drops_what_collapses() -> None:
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1 + 1e-5, 0, 0], [1, 1, 0], [0, 1 - 1e-5, 0]])
    mesh = Mesh(vertices, torch.tensor([[0, 1, 2], [3, 4, 5], [1, 3, 4]]))
    assert mesh.welded().component_count == 1 and len(mesh.welded().vertices) == 6
    joined = mesh.welded(within=1e-4)
    assert len(joined.vertices) == 4 and joined.faces.tolist() == [[0, 1, 2], [1, 3, 2]]


# glTF


def test_glb_and_gltf_of_one_mesh_are_the_same(tmp_path: Path) -> None:
    colors = np.full((8, 3), 0.214041, np.float32)
    made = Gltf()
    made.scene(made.node(mesh=made.mesh(made.primitive(CUBE * [1, 2, 3], CUBE_TRIANGLES, COLOR_0=made.accessor(colors)))))
    (tmp_path / "data of it.bin").write_bytes(made.buffer)
    files = [made.glb(tmp_path / "a.glb"), made.gltf(tmp_path / "b.gltf"), made.gltf(tmp_path / "c.gltf", "data%20of%20it.bin")]
    for path in files:
        mesh = read_mesh(path)
        assert mesh.bounding_box.tolist() == [[0, -3, 0], [1, 0, 2]]  # +Y up becomes +Z up
        assert mesh.colors is not None
        torch.testing.assert_close(mesh.colors, torch.full((8, 3), 0.5), atol=1e-5, rtol=0)
        assert read_mesh(path, own_axes=True).bounding_box.tolist() == [[0, 0, 0], [1, 2, 3]]


@pytest.mark.parametrize(
    "uri", ["../outside.bin", "/etc/passwd", "file:///etc/passwd", "https://example.org/a.bin", "link.bin", "..%2foutside.bin"]
)
def test_buffers_outside_of_the_folder_are_refused(tmp_path: Path, uri: str) -> None:
    made = cube_gltf()
    (tmp_path / "outside.bin").write_bytes(made.buffer)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.bin").symlink_to(tmp_path / "outside.bin")
    with pytest.raises(MeshFileError, match="not in the folder"):
        read_mesh(made.gltf(tmp_path / "in" / "a.gltf", uri))
    with pytest.raises(MeshFileError, match="copy that file too"):
        read_mesh(made.gltf(tmp_path / "in" / "a.gltf", "missing.bin"))


@pytest.mark.parametrize(("kind", "one"), [("i1", 127), ("u1", 255), ("i2", 32767), ("u2", 65535)])
@pytest.mark.parametrize("normalized", [False, True])
def test_quantized_positions_are_scaled_by_their_node(tmp_path: Path, kind: str, one: int, normalized: bool) -> None:
    top = one if normalized else 100
    codes = (CUBE * top).astype(kind)
    stride = 4 * (1 if kind[1] == "1" else 2)
    padded = np.zeros((8, 4), kind)
    padded[:, :3] = codes
    made = Gltf()
    view = made.view(padded.tobytes(), byteStride=stride)
    described = {"bufferView": view, "componentType": {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123}[kind], "count": 8, "type": "VEC3"}
    made.json["accessors"].append(described | ({"normalized": True} if normalized else {}))
    faces = made.accessor(CUBE_TRIANGLES.reshape(-1).astype("u1"))
    scale = 1.0 if normalized else 1 / top
    made.scene(made.node(mesh=made.mesh({"attributes": {"POSITION": 0}, "indices": faces}), scale=[scale] * 3))
    made.json |= {"extensionsUsed": ["KHR_mesh_quantization"], "extensionsRequired": ["KHR_mesh_quantization"]}
    check_cube(read_mesh(made.glb(tmp_path / "a.glb")))


@pytest.mark.parametrize("kind", ["u1", "u2", "u4"])
def test_indices_of_every_type_are_read(tmp_path: Path, kind: str) -> None:
    made = Gltf()
    described = made.primitive(CUBE, None) | {"indices": made.accessor(CUBE_TRIANGLES.reshape(-1).astype(kind))}
    made.scene(made.node(mesh=made.mesh(described)))
    check_cube(read_mesh(made.glb(tmp_path / "a.glb")))
    made = Gltf()
    made.scene(made.node(mesh=made.mesh(made.primitive(CUBE[CUBE_TRIANGLES.reshape(-1)], None))))
    check_cube(read_mesh(made.glb(tmp_path / "b.glb")), vertices=36)


def test_sparse_accessors_replace_rows(tmp_path: Path) -> None:
    made = Gltf()
    for base in (True, False):
        moved = CUBE.copy()
        moved[[3, 6]] = [[9, 9, 9], [8, 8, 8]] if base else 0
        position = made.accessor((moved if base else np.zeros((8, 3))).astype("f4"))
        places = np.array([3, 6], "u1") if base else np.arange(8, dtype="u2")
        accessor = made.json["accessors"][position]
        accessor["sparse"] = {
            "count": len(places),
            "indices": {"bufferView": made.view(places.tobytes()), "componentType": 5121 if base else 5123},
            "values": {"bufferView": made.view(CUBE[places].astype("f4").tobytes())},
        }
        if not base:
            del accessor["bufferView"]
        faces = made.accessor(CUBE_TRIANGLES.reshape(-1).astype("u2"))
        made.scene(made.node(mesh=made.mesh({"attributes": {"POSITION": position}, "indices": faces})))
        check_cube(read_mesh(made.glb(tmp_path / "a.glb")))


def test_attributes_may_be_interleaved(tmp_path: Path) -> None:
    rows = np.zeros(8, [("position", "<f4", 3), ("normal", "<f4", 3), ("color", "u1", 4)])
    rows["position"], rows["color"] = CUBE, [[255, 0, 0, 128]]
    made = Gltf()
    view = made.view(rows.tobytes(), byteStride=28)
    made.json["accessors"] += [
        {"bufferView": view, "componentType": 5126, "count": 8, "type": "VEC3"},
        {"bufferView": view, "byteOffset": 24, "componentType": 5121, "normalized": True, "count": 8, "type": "VEC4"},
    ]
    faces = made.accessor(CUBE_TRIANGLES.reshape(-1).astype("u2"))
    made.scene(made.node(mesh=made.mesh({"attributes": {"POSITION": 0, "COLOR_0": 1}, "indices": faces})))
    mesh = read_mesh(made.glb(tmp_path / "a.glb"))
    check_cube(mesh)
    assert mesh.colors is not None and mesh.colors[5].tolist() == [1, 0, 0]


@pytest.mark.parametrize(("kind", "one"), [("u1", 255), ("u2", 65535), ("f4", 1)])
@pytest.mark.parametrize("channels", [3, 4])
def test_colors_of_every_type_are_converted_from_linear_light(tmp_path: Path, kind: str, one: int, channels: int) -> None:
    srgb = np.linspace(0, 1, 24).reshape(8, 3)
    codes = linear(srgb) * one
    codes = codes.astype("f4") if kind == "f4" else np.rint(codes).astype(kind)
    codes = np.pad(codes, ((0, 0), (0, channels - 3)), constant_values=one // 2)
    made = Gltf()
    made.scene(made.node(mesh=made.mesh(made.primitive(CUBE, CUBE_TRIANGLES, COLOR_0=made.accessor(codes, normalized=kind != "f4")))))
    mesh = read_mesh(made.glb(tmp_path / "a.glb"))
    assert mesh.colors is not None
    assert np.abs(linear(mesh.colors.numpy().astype(np.float64)) - codes[:, :3] / one).max() < 1e-6


def test_a_strip_and_a_fan_face_the_way_of_the_format(tmp_path: Path) -> None:
    square = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 2, 0]])
    fan = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    for points, mode, area in ((square, 5, 1.5), (fan, 6, 1.0)):
        made = Gltf()
        made.scene(made.node(mesh=made.mesh(made.primitive(points, None) | {"mode": mode})))
        path = made.glb(tmp_path / f"{mode}.glb")
        mesh = read_mesh(path, own_axes=True)
        a, b, c = mesh.vertices[mesh.faces].unbind(1)
        assert mesh.area == pytest.approx(area) and float((b - a).cross(c - a, dim=-1)[:, 2].min()) > 0


def test_points_and_lines_beside_triangles_are_left_out(tmp_path: Path) -> None:
    made = Gltf()
    others = [made.primitive(CUBE + 9, None) | {"mode": mode} for mode in (0, 1, 2, 3)]
    made.scene(made.node(mesh=made.mesh(*others, made.primitive(CUBE, CUBE_TRIANGLES))))
    check_cube(read_mesh(made.glb(tmp_path / "a.glb")))
    made.json["meshes"][0]["primitives"].pop()
    with pytest.raises(MeshFileError, match="no triangles"):
        read_mesh(made.glb(tmp_path / "a.glb"))


def test_transforms_of_nodes_agree_with_another_reader(tmp_path: Path) -> None:
    made = Gltf()
    cube = made.mesh(made.primitive(CUBE, CUBE_TRIANGLES))
    matrix = np.eye(4)
    matrix[:3] = [[0, 0, 2, 5], [1, 0.5, 0, 6], [0, 1, 0, 7]]
    leaf = made.node(mesh=cube, matrix=matrix.T.reshape(-1).tolist())
    turned = made.node(rotation=[0.5, 0.5, -0.5, 0.5], translation=[1, 2, 3], scale=[1, 2, 0.5], children=[leaf])
    mirrored = made.node(mesh=cube, scale=[-1, 1, 1], children=[made.node(mesh=cube, scale=[1, -1, 1], translation=[0, 9, 0])])
    made.node(mesh=cube, translation=[100, 0, 0])  # in no scene
    made.scene(made.node(children=[turned, mirrored], translation=[0, 0, 4]))
    path = made.glb(tmp_path / "a.glb")
    mesh = read_mesh(path, own_axes=True)
    other = trimesh.load_mesh(path, process=False)
    assert isinstance(other, trimesh.Trimesh)
    assert len(mesh.faces) == 36 and signed_volume(mesh) == pytest.approx(abs(np.linalg.det(matrix[:3, :3])) + 1 + 1, rel=1e-5)
    np.testing.assert_allclose(mesh.bounding_box.numpy(), other.bounds, atol=1e-5)
    np.testing.assert_allclose(mesh.vertices.sum(1).sort().values.numpy(), np.sort(other.vertices.sum(1)), atol=1e-4)
    assert mesh.area == pytest.approx(other.area, rel=1e-5)


@pytest.mark.parametrize("scale", [[-1, 1, 1], [1, -2, 1], [-1, -1, -1], [-1, -1, 1], [1, 1, 1]])
def test_a_mirrored_node_turns_the_triangles(tmp_path: Path, scale: list[float]) -> None:
    mesh = read_mesh(cube_gltf(scale=scale).glb(tmp_path / "a.glb"))
    assert signed_volume(mesh) == pytest.approx(abs(np.prod(scale)), rel=1e-5)


def test_a_node_of_scale_zero_is_hidden(tmp_path: Path) -> None:
    made = cube_gltf()
    made.scene(0, made.node(mesh=0, scale=[0, 0, 0]))
    check_cube(read_mesh(made.glb(tmp_path / "a.glb")))


def test_meshes_and_primitives_are_joined_with_their_colors(tmp_path: Path) -> None:
    made = Gltf()
    made.json["materials"] = [{"pbrMetallicRoughness": {"baseColorFactor": [0.214041, 1, 0, 0.5]}}, {"alphaMode": "BLEND"}]
    red = made.accessor(np.tile(np.array([[255, 0, 0, 255]], "u1"), (8, 1)), normalized=True)
    first = made.primitive(CUBE, CUBE_TRIANGLES, COLOR_0=red)
    tinted = made.primitive(CUBE, CUBE_TRIANGLES) | {"material": 0}
    plain = made.primitive(CUBE, CUBE_TRIANGLES) | {"material": 1}
    both = made.primitive(CUBE, CUBE_TRIANGLES, COLOR_0=red) | {"material": 0}
    a, b = made.mesh(first, tinted), made.mesh(plain, both)
    made.scene(made.node(mesh=a), made.node(mesh=b, translation=[5, 0, 0]))
    mesh = read_mesh(made.glb(tmp_path / "a.glb"))
    assert mesh.colors is not None and len(mesh.vertices) == 32 and len(mesh.faces) == 48
    expected = torch.tensor([[1.0, 0, 0], [0.5, 1, 0], [1, 1, 1], [0.5, 0, 0]])
    torch.testing.assert_close(mesh.colors[::8], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("extension", ["KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_meshopt_compression", "ACME_secret"])
def test_required_extensions_are_refused_by_name(tmp_path: Path, extension: str) -> None:
    made = cube_gltf()
    made.json["extensionsRequired"] = [extension]
    with pytest.raises(MeshFileError, match=f"{extension}.* not read; write the file without"):
        read_mesh(made.glb(tmp_path / "a.glb"))


def test_materials_of_a_required_extension_do_not_matter(tmp_path: Path) -> None:
    made = cube_gltf()
    made.json["extensionsRequired"] = ["KHR_materials_transmission", "KHR_texture_basisu", "EXT_texture_webp"]
    check_cube(read_mesh(made.glb(tmp_path / "a.glb")))


def change(*keys: str | int, to: object) -> Callable[[Gltf], None]:
    def apply(made: Gltf) -> None:
        at: Any = made.json
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = to

    return apply


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (change("asset", to={"version": "1.0"}), "glTF 1.0; it must be glTF 2.0"),
        (change("nodes", 0, "mesh", to=7), "entry 7 of its meshes"),
        (change("nodes", 0, "children", to=[0]), "node 0 has two parents, or is its own ancestor"),
        (change("nodes", 0, "matrix", to=[float("nan")] * 16), "transform of its node 0 is not finite"),
        (change("nodes", 0, "matrix", to=[1, 2]), "does not follow the format"),
        (change("scene", to=3), "entry 3 of its scenes"),
        (change("accessors", 0, "count", to=9), "ends before the 9 rows"),
        (change("accessors", 0, "count", to=-1), "count of its accessor 0 is -1"),
        (change("accessors", 0, "count", to=10**12), "ends before|integer of zero"),
        (change("accessors", 0, "componentType", to=5130), "componentType 5130"),
        (change("accessors", 0, "type", to="VEC7"), "type VEC7"),
        (change("accessors", 0, "type", to="VEC2"), r"is \[8, 2\]; it must be \[rows, 3\]"),
        (change("accessors", 1, to={"bufferView": 0, "componentType": 5125, "count": 24, "type": "SCALAR"}), "names vertex"),
        (change("bufferViews", 0, "byteStride", to=2), "ends before"),
        (change("bufferViews", 0, "byteLength", to=10**6), "cut short"),
        (change("meshes", 0, "primitives", 0, "attributes", to=5), "does not follow the format"),
        (change("meshes", 0, to={}), "mesh 0 has no primitives"),
        (change("accessors", 0, to={"componentType": 5126, "type": "VEC3", "count": 10**9}), "many times more"),
    ],
)
def test_a_broken_glb_is_refused(tmp_path: Path, spoil: Callable[[Gltf], None], complaint: str) -> None:
    made = cube_gltf()
    spoil(made)
    with pytest.raises(MeshFileError, match=f"a.glb cannot be read as a mesh: .*({complaint})"):
        read_mesh(made.glb(tmp_path / "a.glb"))


def test_deep_and_repeating_documents_end(tmp_path: Path) -> None:
    with pytest.raises(MeshFileError, match="JSON cannot be parsed"):
        read_mesh(stored(tmp_path, "deep.gltf", b'{"asset":' + b"[" * 200_000))
    made = Gltf()
    cube = made.mesh(made.primitive(CUBE, CUBE_TRIANGLES))
    nodes = [made.node(mesh=cube) for _ in range(2000)]
    made.scene(*nodes)
    assert len(read_mesh(made.glb(tmp_path / "many.glb")).faces) == 24_000
    many = made.accessor(np.tile(CUBE, (4000, 1)).astype("f4"))
    made.json["meshes"][0]["primitives"][0]["attributes"]["POSITION"] = many
    with pytest.raises(MeshFileError, match="many times more triangles than bytes"):
        read_mesh(made.glb(tmp_path / "bomb.glb"))


# Damaged files


def mutated(data: bytes, generator: random.Random) -> bytes:
    """The file with some bytes, numbers or parts changed."""
    out = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        at, kind = generator.randrange(len(out)), generator.randrange(6)
        if kind == 0:
            out[at] = generator.randrange(256)
        elif kind == 1:
            del out[at : at + generator.randint(1, 40)]
        elif kind == 2:
            out[at:at] = out[at : at + generator.randint(1, 60)]
        elif kind == 3:
            out[at : at + 4] = generator.choice([b"\xff\xff\xff\xff", b"\0\0\0\x80", b"\0\0\xc0\x7f", b"\x01\0\0\0"])
        elif kind == 4:
            digits = [k for k in range(len(out)) if chr(out[k]).isdigit()]
            if digits:
                place = generator.choice(digits)
                out[place : place + 1] = generator.choice([b"-1", b"999999999", b"1e400", b"nan", b"0", b"[]", b"null", b'"a"', b"0.5"])
        else:
            del out[at:]
        if not out:
            break
    return bytes(out)


def seeds() -> dict[str, list[bytes]]:
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    glb, gltf = folder / f"seed{os.getpid()}.glb", folder / f"seed{os.getpid()}.gltf"
    try:
        made = cube_gltf(rotation=[0, 0, 0, 1], scale=[1, -1, 1])
        made.json["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"] = made.accessor(np.zeros((8, 4), "u1"), normalized=True)
        document = [made.glb(glb).read_bytes()], [made.gltf(gltf).read_bytes()]
        made.json["asset"]["extras"] = {"source_from_file": np.eye(3).tolist(), "up_in_source": [0, 1, 0]}
        document[0].append(made.glb(glb).read_bytes())
    finally:
        glb.unlink(missing_ok=True)
        gltf.unlink(missing_ok=True)
    colored = {"color_names": ("red", "green", "blue"), "colors": np.zeros((8, 3), np.int64)}
    concave = b"# unrender source_from_file 1 0 0 0 1 0 0 0 1 0 0 1\nv 0 0 0\nv 2 0 0\nv 2 1 0\nv 1 1 0\nv 1 2 0\nv 0 2 0\n"
    concave += b"f 3 4 5 6 1 2\nf -1/ -2 -3\n"
    return {
        "ply": [cube_ply(order, **colored) for order in ORDERS],
        "obj": [cube_obj(), concave],
        "stl": [cube_stl(False), cube_stl(True)],
        "off": [cube_off(), cube_off("COFF")],
        "glb": document[0],
        "gltf": document[1],
    }


def check_damaged(tmp_path: Path, suffix: str, count: int, seed: int) -> None:
    generator, sources = random.Random(f"{suffix} {seed}"), seeds()[suffix]
    path = tmp_path / f"damaged.{suffix}"
    refused = 0
    for _ in range(count):
        path.write_bytes(mutated(generator.choice(sources), generator))
        started = time.perf_counter()
        try:
            mesh = read_mesh(path)
        except MeshFileError as error:
            refused += 1
            message = str(error)
            assert message.startswith(str(path)) and "\n" not in message and len(message) < len(str(path)) + 300
        else:
            assert bool(mesh.vertices.isfinite().all()) and 0 <= int(mesh.faces.min()) <= int(mesh.faces.max()) < len(mesh.vertices)
        assert time.perf_counter() - started < 10
    assert 0 < refused < count


@pytest.mark.parametrize("suffix", ["ply", "obj", "stl", "off", "glb", "gltf"])
def test_damaged_files_are_read_or_refused_in_a_sentence(tmp_path: Path, suffix: str) -> None:
    check_damaged(tmp_path, suffix, 150, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["ply", "obj", "stl", "off", "glb", "gltf"])
def test_many_damaged_files_are_read_or_refused_in_a_sentence(tmp_path: Path, suffix: str) -> None:
    check_damaged(tmp_path, suffix, 3_400, seed=2)

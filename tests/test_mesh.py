"""Laws of triangle meshes and of the files they are kept in."""

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
from trimesh.visual.color import ColorVisuals
from trimesh.visual.texture import TextureVisuals

from unrender.geometry.distances import points_to_mesh_distance
from unrender.geometry.isosurface import extract_surface
from unrender.geometry.mesh import Mesh, read_mesh
from unrender.geometry.simplification import simplified_within


def box(size: float = 1.0, offset: float = 0.0) -> Mesh:
    solid = trimesh.creation.box((size, size, size))
    return Mesh(torch.tensor(solid.vertices + offset, dtype=torch.float32), torch.tensor(solid.faces))


def ball() -> Mesh:
    solid = trimesh.creation.icosphere(3, 0.7)
    codes = torch.randint(0, 256, (len(solid.vertices), 3), generator=torch.Generator().manual_seed(3))
    bare = Mesh(torch.tensor(solid.vertices, dtype=torch.float32), torch.tensor(solid.faces), codes / 255.0)
    return bare.with_vertex_normals()


def joined(*meshes: Mesh) -> Mesh:
    offsets = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    faces = [mesh.faces + int(offset) for mesh, offset in zip(meshes, offsets[:-1], strict=True)]
    return Mesh(torch.cat([mesh.vertices for mesh in meshes]), torch.cat(faces))


def signed_volume(mesh: Mesh) -> float:
    a, b, c = mesh.vertices[mesh.faces].double().unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def wrapped() -> Mesh:
    """A colored tube whose texture goes round it once: along its seam each vertex has two texture coordinates."""
    around, along = 8, 3
    generator = torch.Generator().manual_seed(5)
    i, j = torch.meshgrid(torch.arange(along), torch.arange(around), indexing="ij")
    angle = 2 * math.pi * j / around
    vertices = torch.stack([torch.cos(angle), torch.sin(angle), 0.3 * i], -1).reshape(-1, 3)
    u, v = torch.meshgrid(torch.arange(around + 1) / around, torch.arange(along) / (along - 1), indexing="xy")
    faces, uv_faces = [], []
    for row in range(along - 1):
        for column in range(around):
            for columns, rows in (((0, 1, 1), (0, 0, 1)), ((0, 1, 0), (0, 1, 1))):
                faces.append([(row + r) * around + (column + c) % around for c, r in zip(columns, rows, strict=True)])
                uv_faces.append([(row + r) * (around + 1) + column + c for c, r in zip(columns, rows, strict=True)])
    colors = torch.rand(len(vertices), 3, generator=generator)
    uvs = torch.stack([u, 0.9 * v + 0.03], -1).reshape(-1, 2)
    return Mesh(vertices, torch.tensor(faces), colors, uvs=uvs, uv_faces=torch.tensor(uv_faces))


def similarity(scale: float, reflect: bool) -> torch.Tensor:
    matrix = torch.eye(4, dtype=torch.float64)
    c, s = math.cos(0.7), math.sin(0.7)
    turn = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
    if reflect:
        turn = turn @ torch.diag(torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64))
    matrix[:3, :3] = scale * turn
    matrix[:3, 3] = torch.tensor([1.0, -2.0, 3.0])
    return matrix


@pytest.mark.parametrize("reflect", [False, True])
def test_a_similarity_scales_area_and_volume_and_keeps_normals_pointing_out(reflect: bool) -> None:
    mesh = ball()
    moved = mesh.transformed(similarity(2.0, reflect))
    assert moved.area == pytest.approx(4 * mesh.area, rel=1e-5)
    assert signed_volume(moved) == pytest.approx(8 * signed_volume(mesh), rel=1e-5)
    assert moved.normals is not None
    outward = moved.vertices - torch.tensor([1.0, -2.0, 3.0])
    assert float((outward / outward.norm(dim=1, keepdim=True) * moved.normals).sum(1).min()) > 0.99
    torch.testing.assert_close(moved.normals, moved.with_vertex_normals().normals, atol=1e-5, rtol=0)


def test_a_similarity_and_its_inverse_cancel() -> None:
    mesh = ball()
    matrix = similarity(0.3, True)
    back = mesh.transformed(matrix).transformed(torch.linalg.inv(matrix))
    torch.testing.assert_close(back.vertices, mesh.vertices, atol=1e-6, rtol=0)
    assert torch.equal(back.faces, mesh.faces)


def test_a_singular_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="determinant"):
        box().transformed(torch.zeros(4, 4))


def test_the_box_has_known_area_bounds_and_pieces() -> None:
    mesh = box(2.0, offset=1.0)
    assert mesh.area == pytest.approx(24.0)
    assert mesh.bounding_box.tolist() == [[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]]
    assert mesh.component_count == 1
    assert mesh.is_watertight
    assert not Mesh(mesh.vertices, mesh.faces[1:]).is_watertight


def test_the_largest_component_is_the_one_with_the_largest_area() -> None:
    small_with_many_faces = Mesh(ball().vertices * 0.2 + 5.0, ball().faces)
    mesh = joined(small_with_many_faces, box(1.0), box(0.5, offset=3.0))
    assert mesh.component_count == 3
    kept = mesh.largest_component()
    torch.testing.assert_close(kept.vertices, box(1.0).vertices)
    assert torch.equal(kept.faces, box(1.0).faces)


def test_the_largest_component_carries_colors_and_normals() -> None:
    mesh = ball()
    assert mesh.colors is not None and mesh.normals is not None
    speck = torch.tensor([[9.0, 9, 9], [9, 9.01, 9], [9.01, 9, 9]])
    both = Mesh(
        torch.cat([speck, mesh.vertices]),
        torch.cat([torch.tensor([[0, 1, 2]]), mesh.faces + 3]),
        torch.cat([torch.zeros(3, 3), mesh.colors]),
        torch.cat([torch.zeros(3, 3), mesh.normals]),
    )
    kept = both.largest_component()
    assert kept.colors is not None and kept.normals is not None
    assert torch.equal(kept.vertices, mesh.vertices) and torch.equal(kept.faces, mesh.faces)
    assert torch.equal(kept.colors, mesh.colors) and torch.equal(kept.normals, mesh.normals)


def test_vertex_normals_of_a_sphere_are_its_radii() -> None:
    mesh = ball()
    assert mesh.normals is not None
    assert float((mesh.normals * mesh.vertices / 0.7).sum(1).min()) > 0.999


def test_vertex_normals_are_weighted_by_area() -> None:
    """A vertex shared by a triangle of area 2 facing +Z and one of area 0.5 facing +X leans 4 : 1 towards +Z."""
    vertices = torch.tensor([[0.0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 1, 0], [0, 0, 1]])
    mesh = Mesh(vertices, torch.tensor([[0, 1, 2], [0, 3, 4]])).with_vertex_normals()
    assert mesh.normals is not None
    torch.testing.assert_close(mesh.normals[0], torch.tensor([1.0, 0.0, 4.0]) / math.sqrt(17))


def test_surface_samples_lie_on_the_surface_and_follow_its_area() -> None:
    mesh = joined(box(2.0), box(1.0, offset=10.0))
    points, normals = mesh.sample_surface(20_000, torch.Generator().manual_seed(0))
    on_large = points.amax(1) < 5
    local = torch.where(on_large[:, None], points, (points - 10.0) * 2)
    torch.testing.assert_close(local.abs().amax(1), torch.ones(20_000), atol=1e-5, rtol=0)
    facing = (local * normals).sum(1)
    torch.testing.assert_close(facing, torch.ones(20_000), atol=1e-5, rtol=0)
    share = float(on_large.double().mean())
    assert share == pytest.approx(0.8, abs=4 * math.sqrt(0.8 * 0.2 / 20_000))
    octants = (local > 0).long() @ torch.tensor([1, 2, 4])
    counts = torch.bincount(octants, minlength=8)
    assert int((counts - 2500).abs().max()) < 4 * math.sqrt(2500)


def test_surface_samples_repeat_with_the_same_seed() -> None:
    first, _ = ball().sample_surface(100, torch.Generator().manual_seed(1))
    again, _ = ball().sample_surface(100, torch.Generator().manual_seed(1))
    assert torch.equal(first, again)


def test_an_empty_mesh_says_so() -> None:
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long))
    assert empty.is_empty and not empty.is_watertight and empty.component_count == 0 and empty.area == 0.0
    assert empty.largest_component().is_empty and empty.with_vertex_normals().is_empty
    assert empty.transformed(torch.eye(4)).is_empty
    with pytest.raises(ValueError, match="no bounding box"):
        _ = empty.bounding_box
    with pytest.raises(ValueError, match="without area"):
        empty.sample_surface(3, torch.Generator())


@pytest.mark.parametrize("suffix", ["ply", "obj", "glb"])
def test_a_written_mesh_reads_back_the_same(tmp_path: Path, suffix: str) -> None:
    mesh = ball()
    path = tmp_path / f"mesh.{suffix}"
    mesh.export(path)
    back = read_mesh(path)
    torch.testing.assert_close(back.vertices, mesh.vertices, atol=0 if suffix != "obj" else 1e-8, rtol=0)
    assert torch.equal(back.faces, mesh.faces)
    assert back.colors is not None and mesh.colors is not None
    torch.testing.assert_close(back.colors, mesh.colors, atol=1e-6, rtol=0)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("with_normals", [False, True])
@pytest.mark.parametrize("with_colors", [False, True])
@pytest.mark.parametrize("suffix", ["obj", "glb"])
def test_texture_coordinates_read_back_at_every_corner(tmp_path: Path, suffix: str, with_colors: bool, with_normals: bool) -> None:
    mesh = wrapped() if with_colors else replace(wrapped(), colors=None)
    mesh = mesh.with_vertex_normals() if with_normals else mesh
    mesh.export(tmp_path / f"mesh.{suffix}")
    back = read_mesh(tmp_path / f"mesh.{suffix}")
    assert mesh.uvs is not None and mesh.uv_faces is not None and back.uvs is not None and back.uv_faces is not None
    assert torch.equal(back.vertices[back.faces], mesh.vertices[mesh.faces])
    torch.testing.assert_close(back.uvs[back.uv_faces], mesh.uvs[mesh.uv_faces], atol=1e-8, rtol=1e-7)
    assert (back.colors is None) == (mesh.colors is None)
    if back.colors is not None and mesh.colors is not None:
        torch.testing.assert_close(back.colors[back.faces], mesh.colors[mesh.faces], atol=1e-7, rtol=0)
    if suffix == "obj":
        assert torch.equal(back.faces, mesh.faces) and torch.equal(back.uv_faces, mesh.uv_faces)
    else:
        assert len(back.vertices) == len(mesh.vertices) + 3  # those along the seam twice
    other = trimesh.load_mesh(tmp_path / f"mesh.{suffix}", process=False)
    assert isinstance(other.visual, TextureVisuals) and other.visual.uv is not None
    upwards = mesh.uvs[mesh.uv_faces] * torch.tensor([1.0, -1.0]) + torch.tensor([0.0, 1.0])
    np.testing.assert_allclose(other.visual.uv[other.faces], upwards.numpy(), atol=1e-6)


def test_a_glb_of_another_writer_may_interleave_its_texture_coordinates(tmp_path: Path) -> None:
    mesh, path = wrapped(), tmp_path / "mesh.glb"
    mesh.export(path)
    document, buffer = parts_of_glb(path)
    accessor = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["TEXCOORD_0"]]
    view = document["bufferViews"][accessor["bufferView"]]
    uvs = np.frombuffer(buffer, "<f4", 2 * accessor["count"], view["byteOffset"]).reshape(-1, 2)
    spaced = np.pad(uvs, ((0, 0), (1, 2)), constant_values=7.0)
    view.update(byteOffset=len(buffer), byteLength=spaced.nbytes, byteStride=20)
    accessor["byteOffset"] = 4
    rewrite_glb(path, document, buffer + spaced.tobytes())
    back = read_mesh(path)
    assert back.uvs is not None
    np.testing.assert_array_equal(back.uvs.numpy(), uvs)


def read_obj(path: Path, text: str) -> Mesh:
    path.write_text(text)
    return read_mesh(path)


SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"


@pytest.mark.parametrize(
    "faces",
    [
        "f 1 2 3 4",
        "f -4 -3 -2 -1",
        "f 1 2 3 # a half\nf 1 3 4 #and the other",
        "f 1 2 \\\n 3 4",
        "f 1// 2// 3// 4//",
        "vn 0 0 1\nf 1//1 2//1 3//1 4//1",
        "# f 9 9 9\no one\ng two\nusemtl three#4\ns off\nl 1 2\nf 1 2 3\nf 1 3 4",
        "vt 0 0\nf 1/1 2/1 3/1\nf 1 3 4",
    ],
)
def test_an_obj_names_its_corners_in_many_ways(tmp_path: Path, faces: str) -> None:
    mesh = read_obj(tmp_path / "mesh.obj", SQUARE + faces + "\n")
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]] and mesh.vertices[2].tolist() == [1, 1, 0]
    assert mesh.uvs is None and mesh.colors is None


def test_an_obj_counts_backwards_from_where_the_face_stands(tmp_path: Path) -> None:
    mesh = read_obj(tmp_path / "mesh.obj", f"{SQUARE}f -4 -3 -2\nv 5 5 5\nf -4 -3 -2\r\nf 5 1 2\n")
    assert mesh.faces.tolist() == [[0, 1, 2], [1, 2, 3], [4, 0, 1]]


def test_a_texture_coordinate_of_one_number_lies_on_the_bottom_edge(tmp_path: Path) -> None:
    mesh = read_obj(tmp_path / "mesh.obj", SQUARE + "vt 0.25\nf 1/1 2/1 3/1\n")
    assert mesh.uvs is not None and mesh.uvs.tolist() == [[0.25, 1.0]]


def test_colors_of_an_obj_may_be_given_up_to_255(tmp_path: Path) -> None:
    mesh = read_obj(tmp_path / "mesh.obj", "v 0 0 0 255 0 51\nv 1 0 0 0 0 0\nv 1 1 0 0 0 0\nf 1 2 3\n")
    assert mesh.colors is not None
    torch.testing.assert_close(mesh.colors[0], torch.tensor([1.0, 0.0, 0.2]))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("v 0 0\n", "line 5.*'v 0 0'.*three coordinates"),
        ("v 0 0 zero\n", "line 5.*zero"),
        ("vt\nf 1 2 3\n", "line 5.*at least one number"),
        ("f 1 2\n", "line 5.*three corners"),
        ("\nf 1 2 x\n", "line 6.*'f 1 2 x'"),
        ("f 0 1 2\n", "line 5.*no row 0"),
        ("f 1 2 -5\n", "line 5.*no row -5"),
        ("f 1 2 99999999999999999999\n", "line 5.*no row 9"),
        ("f 1 2 3\nf 1 2 5\n", "line 6.*position that is not among its 4"),
        ("vt 0 0\nf 1/1 2/1 3/2\n", "line 6.*texture coordinate that is not among its 1"),
        ("", "no triangles"),
    ],
)
def test_a_broken_obj_is_refused_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=f"broken.obj.*{complaint}"):
        read_obj(tmp_path / "broken.obj", SQUARE + text)


def check_mesh(**tensors: object) -> None:
    """What a mesh of these says, without the tests' own type checker, which would refuse them first."""
    mesh = object.__new__(Mesh)
    for name, tensor in tensors.items():
        object.__setattr__(mesh, name, tensor)
    mesh.__post_init__()


def test_rows_of_a_mesh_must_match() -> None:
    vertices, faces, uvs = torch.zeros(4, 3), torch.tensor([[0, 1, 2], [0, 2, 3]]), torch.zeros(6, 2)
    check_mesh(vertices=vertices, faces=faces, colors=vertices, normals=vertices, uvs=uvs, uv_faces=faces.int())
    with pytest.raises(ValueError, match="2 faces needs as many rows of uv_faces, got 1"):
        check_mesh(vertices=vertices, faces=faces, uvs=uvs, uv_faces=faces[:1])
    with pytest.raises(ValueError, match="4 vertices needs as many rows of colors, got 3"):
        check_mesh(vertices=vertices, faces=faces, colors=torch.zeros(3, 3))
    with pytest.raises(ValueError, match="4 vertices needs as many rows of normals, got 5"):
        check_mesh(vertices=vertices, faces=faces, normals=torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"faces of a mesh are of shape \[faces, 3\], got \(2, 4\)"):
        check_mesh(vertices=vertices, faces=torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"uvs of a mesh are of shape \[uvs, 2\], got \(6, 3\)"):
        check_mesh(vertices=vertices, faces=faces, uvs=torch.zeros(6, 3), uv_faces=faces)
    with pytest.raises(ValueError, match=r"uv_faces of a mesh are of shape \[faces, 3\], got \(6,\)"):
        check_mesh(vertices=vertices, faces=faces, uvs=uvs, uv_faces=faces.reshape(-1))
    with pytest.raises(ValueError, match="int32 or int64 rows, got torch.float32"):
        check_mesh(vertices=vertices, faces=faces.float())
    with pytest.raises(ValueError, match="its vertices are of type ndarray"):
        check_mesh(vertices=vertices.numpy(), faces=faces)


@pytest.mark.parametrize("suffix", ["ply", "obj", "glb"])
def test_a_mesh_without_colors_or_normals_reads_back_without_colors(tmp_path: Path, suffix: str) -> None:
    box().export(tmp_path / f"mesh.{suffix}")
    back = read_mesh(tmp_path / f"mesh.{suffix}")
    torch.testing.assert_close(back.vertices, box().vertices, atol=1e-7, rtol=0)
    assert back.colors is None


@pytest.mark.parametrize("suffix", ["ply", "obj"])
def test_another_reader_sees_the_same_colors(tmp_path: Path, suffix: str) -> None:
    mesh = ball()
    assert mesh.colors is not None
    mesh.export(tmp_path / f"mesh.{suffix}")
    other = trimesh.load_mesh(tmp_path / f"mesh.{suffix}", process=False)
    assert isinstance(other.visual, ColorVisuals)
    codes = torch.tensor(np.asarray(other.visual.vertex_colors)[:, :3])
    assert torch.equal(codes, (mesh.colors * 255).round().to(torch.uint8))


@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_the_text_format_keeps_float32_precision_at_any_scale(tmp_path: Path, scale: float) -> None:
    mesh = ball().transformed(torch.diag(torch.tensor([scale, scale, scale, 1.0])))
    mesh.export(tmp_path / "mesh.obj")
    torch.testing.assert_close(read_mesh(tmp_path / "mesh.obj").vertices, mesh.vertices, atol=1e-7 * scale, rtol=0)


def test_a_glb_stands_upright_in_a_viewer_with_y_up(tmp_path: Path) -> None:
    """Another reader applies the root node: what was up along +Z is then up along +Y, and right stays right."""
    mesh = ball()
    mesh.export(tmp_path / "mesh.glb")
    seen = trimesh.load_mesh(tmp_path / "mesh.glb", process=False)
    x, y, z = mesh.vertices.double().unbind(1)
    np.testing.assert_array_equal(seen.vertices, torch.stack([x, z, -y], 1).numpy())
    assert seen.volume > 0
    mesh.export(tmp_path / "flat.glb", axes="source")
    np.testing.assert_array_equal(trimesh.load_mesh(tmp_path / "flat.glb", process=False).vertices, mesh.vertices.double().numpy())
    torch.testing.assert_close(read_mesh(tmp_path / "flat.glb", own_axes=True).vertices, mesh.vertices, atol=0, rtol=0)


def parts_of_glb(path: Path) -> tuple[dict[str, Any], bytes]:
    """The document and the buffer of a GLB, after the checks every reader makes of the frame around them."""
    data = path.read_bytes()
    magic, version, total, length, kind = struct.unpack_from("<IIIII", data)
    assert (magic, version, total, kind) == (0x46546C67, 2, len(data), 0x4E4F534A)
    assert length % 4 == 0
    document = json.loads(data[20 : 20 + length])
    binary_length, binary_kind = struct.unpack_from("<II", data, 20 + length)
    assert binary_kind == 0x004E4942 and binary_length == document["buffers"][0]["byteLength"] == len(data) - 28 - length
    return document, data[28 + length :]


def rewrite_glb(path: Path, document: dict[str, Any], buffer: bytes) -> None:
    document["buffers"][0]["byteLength"] = len(buffer)
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<IIIII", 0x46546C67, 2, 28 + len(text) + len(buffer), len(text), 0x4E4F534A)
    path.write_bytes(head + text + struct.pack("<II", len(buffer), 0x004E4942) + buffer)


def attribute_of_glb(path: Path, name: str) -> np.ndarray:
    document, buffer = parts_of_glb(path)
    accessor = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"][name]]
    view = document["bufferViews"][accessor["bufferView"]]
    assert view["byteOffset"] % 4 == 0 and view["target"] == 34962
    return np.frombuffer(buffer, "<f4", accessor["count"] * 3, view["byteOffset"]).reshape(-1, 3)


def test_a_glb_follows_the_rules_of_its_format(tmp_path: Path) -> None:
    mesh = ball()
    assert mesh.colors is not None
    path = tmp_path / "mesh.glb"
    mesh.export(path)
    document, _ = parts_of_glb(path)
    positions = attribute_of_glb(path, "POSITION")
    accessor = document["accessors"][0]
    assert accessor["min"] == positions.min(0).tolist() and accessor["max"] == positions.max(0).tolist()
    np.testing.assert_allclose(np.linalg.norm(attribute_of_glb(path, "NORMAL"), axis=1), 1.0, atol=1e-6)
    srgb = mesh.colors.double().numpy()
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    np.testing.assert_allclose(attribute_of_glb(path, "COLOR_0"), linear, atol=1e-6)
    material = document["materials"][0]
    assert material["doubleSided"] and material["pbrMetallicRoughness"] == {"metallicFactor": 0.0, "roughnessFactor": 1.0}


def test_a_glb_has_unit_normals_even_where_the_mesh_has_none(tmp_path: Path) -> None:
    mesh = Mesh(torch.cat([box().vertices, torch.full((1, 3), 4.0)]), box().faces).with_vertex_normals()
    mesh.export(tmp_path / "mesh.glb")
    np.testing.assert_allclose(np.linalg.norm(attribute_of_glb(tmp_path / "mesh.glb", "NORMAL"), axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize(("kind", "component", "one"), [("<u1", 5121, 255), ("<u2", 5123, 65535)])
def test_integer_colors_of_other_writers_are_read(tmp_path: Path, kind: str, component: int, one: int) -> None:
    """The colors of an exported file are replaced by RGBA integers appended to the buffer, as other programs store them."""
    mesh = ball()
    path = tmp_path / "mesh.glb"
    mesh.export(path)
    document, buffer = parts_of_glb(path)
    linear = attribute_of_glb(path, "COLOR_0")
    codes = np.full((len(linear), 4), one, kind)
    codes[:, :3] = np.rint(linear * one)
    document["bufferViews"].append({"buffer": 0, "byteOffset": len(buffer), "byteLength": codes.nbytes})
    accessor = {
        "bufferView": len(document["bufferViews"]) - 1,
        "componentType": component,
        "count": len(codes),
        "type": "VEC4",
        "normalized": True,
    }
    document["accessors"].append(accessor)
    document["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"] = len(document["accessors"]) - 1
    buffer += codes.tobytes()
    rewrite_glb(path, document, buffer)
    back = read_mesh(path)
    assert back.colors is not None and mesh.colors is not None
    rounded = codes[:, :3] / one
    expected = np.where(rounded <= 0.0031308, rounded * 12.92, 1.055 * rounded ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(back.colors.numpy(), expected, atol=1e-6)


def test_writing_refuses_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no triangles"):
        Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long)).export(tmp_path / "mesh.ply")
    with pytest.raises(ValueError, match="suffix '.fbx'"):
        box().export(tmp_path / "mesh.fbx")
    with pytest.raises(ValueError, match="suffix '.fbx'"):
        box().export(tmp_path / "nowhere" / "mesh.fbx")
    broken = Mesh(torch.full_like(box().vertices, torch.nan), box().faces)
    with pytest.raises(ValueError, match="8 of 8 vertices"):
        broken.export(tmp_path / "mesh.ply")
    tube = wrapped()
    assert tube.uvs is not None
    with pytest.raises(ValueError, match="27 of 27 texture coordinates"):
        replace(tube, uvs=tube.uvs * torch.nan).export(tmp_path / "mesh.glb")
    assert list(tmp_path.iterdir()) == []


def test_reading_explains_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no mesh file"):
        read_mesh(tmp_path / "missing.ply")
    (tmp_path / "text.ply").write_text("not a mesh")
    with pytest.raises(ValueError, match="cannot be read as a mesh"):
        read_mesh(tmp_path / "text.ply")
    trimesh.PointCloud(np.zeros((4, 3))).export(tmp_path / "points.ply")
    with pytest.raises(ValueError, match="no triangles"):
        read_mesh(tmp_path / "points.ply")


def test_a_simplified_mesh_keeps_shape_and_colors() -> None:
    mesh = extract_surface(lambda points: points.norm(dim=-1) - 0.5, resolution=48, device=torch.device("cpu")).with_vertex_normals()
    mesh = mesh.with_colors(0.5 + mesh.vertices * 0.8)
    small = mesh.simplified(1000)
    assert 900 < len(small.faces) <= 1000 and small.is_watertight and small.normals is not None and small.colors is not None
    torch.testing.assert_close(small.vertices.norm(dim=-1), torch.full((len(small.vertices),), 0.5), atol=0.01, rtol=0)
    torch.testing.assert_close(small.colors, 0.5 + small.vertices * 0.8, atol=0.04, rtol=0)
    assert mesh.simplified(len(mesh.faces)) is mesh
    far = mesh.transformed(torch.tensor([[1.0, 0, 0, 5e5], [0, 1, 0, 5e6], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64))
    assert far.simplified(1000).vertices.dtype == torch.float64


@pytest.mark.parametrize(("seed", "faces"), [(2, 200), (2, 400), (12, 200), (31, 100), (37, 200), (39, 400)])
def test_two_sheets_of_a_thin_plate_do_not_meet_in_an_edge_when_it_is_simplified(seed: int, faces: int) -> None:
    ball, random = trimesh.creation.icosphere(4), np.random.default_rng(seed)
    frequency, phase = 4 * random.normal(size=(6, 3)), random.uniform(0, 6.28, 6)
    places = ball.vertices * (1 + 0.5 * np.sin(ball.vertices @ frequency.T + phase).mean(1, keepdims=True)) * (1, 1, 0.08)
    plate = Mesh(torch.tensor(places, dtype=torch.float32), torch.tensor(ball.faces.astype(np.int64)))
    small = plate.simplified(faces)
    assert len(small.faces) <= faces and small.is_watertight and small.component_count == 1
    assert np.linalg.norm(small.vertices.numpy().max(0) - places.max(0)) < 0.1


def test_a_mesh_simplified_within_a_distance_stays_there() -> None:
    mesh = extract_surface(lambda points: points.norm(dim=-1) - 0.5, resolution=20, device=torch.device("cpu"))
    tight, loose = simplified_within(mesh, 0.005), simplified_within(mesh, 0.02)
    assert len(loose.faces) < len(tight.faces) < 0.9 * len(mesh.faces)
    for small, distance in ((tight, 0.005), (loose, 0.02)):
        assert small.is_watertight and points_to_mesh_distance(small.vertices, mesh).max() <= distance
        assert points_to_mesh_distance(mesh.vertices, small).max() <= distance
    assert 300 < len(simplified_within(mesh, 0.1, faces=400).faces) <= 400
    with pytest.raises(ValueError, match="positive distance"):
        simplified_within(mesh, 0.0)


def test_what_cannot_be_simplified_is_said() -> None:
    mesh = extract_surface(lambda points: points.norm(dim=-1) - 0.5, resolution=12, device=torch.device("cpu"))
    with pytest.raises(ValueError, match="3 faces; give at least 4"):
        mesh.simplified(3)

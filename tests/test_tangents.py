"""Tangents of meshes: MikkTSpace's definition, and their way through operations and files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mesh_samples import Gltf
from test_assets import document_of
from tiny_captures import real_capture
from unrender.geometry.mesh import Mesh, read_mesh
from unrender.render.asset import Asset, PbrMaterial


def corners(mesh: Mesh) -> Tensor:
    """Return the tangents [triangles * 3, 4] of all corners."""
    assert mesh.tangents is not None and mesh.uv_faces is not None
    return mesh.tangents[mesh.uv_faces.long()].reshape(-1, 4)


def bumpy_ball(kind: torch.dtype = torch.float32, rows: int = 7, columns: int = 8) -> Mesh:
    """A ball with a seam, whose eastern half shows the texture mirrored."""
    generator = torch.Generator().manual_seed(3)
    polar = torch.linspace(0.3, math.pi - 0.3, rows, dtype=torch.float64)[:, None]
    around = torch.arange(columns, dtype=torch.float64)[None] * (2 * math.pi / columns)
    points = torch.stack([polar.sin() * around.cos(), polar.sin() * around.sin(), polar.cos() + 0 * around], -1)
    points = points * (1 + 0.2 * torch.rand((rows, columns, 1), generator=generator, dtype=torch.float64))
    faces, uv_faces = [], []
    for row in range(rows - 1):
        for column in range(columns):
            a, b = row * columns + column, row * columns + (column + 1) % columns
            c, d = a + columns, b + columns
            s, t = row * (columns + 1) + column, row * (columns + 1) + column + 1
            faces += [[a, c, d], [a, d, b]]
            uv_faces += [[s, s + columns + 1, t + columns + 1], [s, t + columns + 1, t]]
    u = torch.linspace(0, 2, columns + 1, dtype=torch.float64)
    u = torch.where(u > 1, 2 - u, u)
    uvs = torch.stack(torch.broadcast_tensors(u[None], torch.linspace(0, 1, rows, dtype=torch.float64)[:, None]), -1).reshape(-1, 2)
    return Mesh(
        points.reshape(-1, 3).to(kind), torch.tensor(faces), uvs=uvs.to(kind), uv_faces=torch.tensor(uv_faces)
    ).with_vertex_normals()


def by_definition(mesh: Mesh) -> np.ndarray:
    """Compute MikkTSpace corner by corner, each over all corners of its group."""
    assert mesh.uvs is not None and mesh.uv_faces is not None and mesh.normals is not None
    points, normals, uvs = (tensor.double().numpy() for tensor in (mesh.vertices, mesh.normals, mesh.uvs))
    groups: dict[tuple, list[tuple[int, int]]] = {}
    faces, uv_faces = mesh.faces.numpy(), mesh.uv_faces.numpy()

    def slopes(face: int) -> tuple[np.ndarray, float]:
        a, b, c = points[faces[face]]
        flat = uvs[uv_faces[face]] * [1, -1]  # v up
        edges = np.stack([flat[1] - flat[0], flat[2] - flat[0]])
        return (np.linalg.inv(edges) @ np.stack([b - a, c - a]))[0], float(np.sign(np.linalg.det(edges)))

    for face in range(len(faces)):
        for corner in range(3):
            vertex, row = faces[face, corner], uv_faces[face, corner]
            key = (*points[vertex], *normals[vertex], *uvs[row], slopes(face)[1])
            groups.setdefault(key, []).append((face, corner))
    found = np.zeros((len(faces), 3, 4))
    for key, members in groups.items():
        total, n = np.zeros(3), np.array(key[3:6])
        for face, corner in members:
            inside = [edge - n * (n @ edge) for edge in points[np.roll(faces[face], -corner)][1:] - points[faces[face, corner]]]
            cosine = inside[0] @ inside[1] / np.linalg.norm(inside[0]) / np.linalg.norm(inside[1])
            along = slopes(face)[0] - n * (n @ slopes(face)[0])
            total += math.acos(np.clip(cosine, -1, 1)) * along / np.linalg.norm(along)
        for face, corner in members:
            found[face, corner] = [*total / np.linalg.norm(total), key[-1]]
    return found.reshape(-1, 4)


def test_tangents_follow_the_definition_of_mikktspace() -> None:
    ball = bumpy_ball(torch.float64)
    mesh = ball.with_tangents()
    assert {-1.0, 1.0} == set(corners(mesh)[:, 3].tolist())
    assert np.allclose(corners(mesh), by_definition(ball), atol=1e-9)


@pytest.mark.data
def test_tangents_agree_with_those_of_a_published_asset() -> None:
    stored = read_mesh(real_capture("avocado_512") / "avocado.gltf")
    ours, theirs = corners(replace(stored, tangents=None).with_tangents()), corners(stored)
    angles = torch.rad2deg((ours[:, :3] * theirs[:, :3]).sum(1).clamp(-1, 1).arccos())
    assert angles.median() < 0.5 and angles.quantile(0.95) < 3
    assert (ours[:, 3] == theirs[:, 3]).double().mean() > 0.99


def test_the_bitangent_points_to_the_top_of_the_image() -> None:
    ball = bumpy_ball(torch.float64).with_tangents()
    assert ball.normals is not None and ball.uvs is not None and ball.uv_faces is not None
    a, b, c = ball.vertices[ball.faces].unbind(1)
    flat = ball.uvs[ball.uv_faces]
    edges = torch.stack([flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]], 1)
    rising_v = (torch.linalg.inv(edges) @ torch.stack([b - a, c - a], 1))[:, 1].repeat_interleave(3, 0)
    tangent, handedness = corners(ball).split([3, 1], 1)
    bitangent = handedness * ball.normals[ball.faces].reshape(-1, 3).cross(tangent, dim=1)
    assert ((bitangent * rising_v).sum(1) < 0).all()


def test_a_coordinate_of_two_orientations_is_split_and_equal_ones_are_joined() -> None:
    ball = bumpy_ball()
    assert ball.uvs is not None and ball.uv_faces is not None
    mesh = ball.with_tangents()
    assert mesh.uvs is not None and mesh.uv_faces is not None and mesh.tangents is not None
    assert len(mesh.uvs) > len(ball.uvs)  # where the texture turns round
    assert torch.equal(mesh.uvs[mesh.uv_faces], ball.uvs[ball.uv_faces])
    soup = replace(ball, uvs=ball.uvs[ball.uv_faces].reshape(-1, 2), uv_faces=torch.arange(3 * len(ball.faces)).reshape(-1, 3))
    assert torch.equal(corners(soup.with_tangents()), corners(mesh))
    assert mesh.with_tangents().uvs is mesh.uvs and torch.equal(_given(mesh.with_tangents().tangents), mesh.tangents)


@pytest.mark.parametrize("mirrors", [False, True])
def test_tangents_commute_with_similarities(mirrors: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = 2.5 * torch.linalg.qr(torch.rand((3, 3), generator=generator, dtype=torch.float64))[0]
    if (torch.linalg.det(matrix) < 0) != mirrors:
        matrix[:, 0] *= -1
    ball = bumpy_ball(torch.float64)
    assert torch.allclose(corners(ball.with_tangents().transformed(matrix)), corners(ball.transformed(matrix).with_tangents()), atol=1e-12)


def test_operations_keep_tangents_with_their_corners() -> None:
    mesh = bumpy_ball().with_tangents()
    keep = torch.arange(len(mesh.faces)) % 3 == 0
    assert torch.equal(corners(mesh.submesh(keep)), corners(mesh).reshape(-1, 3, 4)[keep].reshape(-1, 4))
    assert mesh.welded().tangents is None and "tangents" in repr(mesh)
    generator = torch.Generator().manual_seed(1)
    normals = torch.nn.functional.normalize(_given(mesh.normals) + 0.3 * torch.randn(mesh.vertices.shape, generator=generator), dim=1)
    tangent = corners(mesh.with_normals(normals))
    assert (tangent[:, :3] * normals[mesh.faces].reshape(-1, 3)).sum(1).abs().max() < 1e-6
    assert torch.allclose(tangent[:, :3].norm(dim=1), torch.ones(len(tangent)), atol=1e-6)


def test_a_texture_without_area_has_some_orthogonal_tangent() -> None:
    ball = bumpy_ball()
    mesh = replace(ball, uvs=torch.zeros_like(_given(ball.uvs))).with_tangents()
    tangent = corners(mesh)
    assert torch.allclose(tangent[:, :3].norm(dim=1), torch.ones(len(tangent)), atol=1e-6) and (tangent[:, 3] == 1).all()
    assert (tangent[:, :3] * _given(mesh.normals)[mesh.faces].reshape(-1, 3)).sum(1).abs().max() < 1e-6


def test_gradients_of_tangents_agree_with_finite_differences() -> None:
    ball = bumpy_ball(torch.float64, 3, 6).with_tangents()

    def tangents(vertices: Tensor) -> Tensor:
        return _given(replace(ball, vertices=vertices, normals=None).with_tangents().tangents)

    assert torch.autograd.gradcheck(tangents, ball.vertices.clone().requires_grad_())


def test_tangents_need_texture_coordinates() -> None:
    bare = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))
    with pytest.raises(ValueError, match="unwrap it first"):
        bare.with_tangents()
    with pytest.raises(ValueError, match="needs uvs"):
        replace(bare, tangents=torch.zeros(3, 4))


def test_a_glb_has_tangents_beside_a_normal_texture(tmp_path: Path) -> None:
    ball = bumpy_ball()
    rough, flat = torch.full((2, 2, 2), 0.5), torch.tensor([0.0, 0.0, 1.0]).expand(2, 2, 3)
    written = tmp_path / "ball.glb"
    Asset(ball, PbrMaterial(roughness_metallic=rough)).export(written)
    assert "TANGENT" not in document_of(written)[0]["meshes"][0]["primitives"][0]["attributes"]
    for mesh in (ball, ball.with_tangents(), replace(ball.with_tangents(), tangents=3 * _given(ball.with_tangents().tangents))):
        Asset(mesh, PbrMaterial(normal=flat)).export(written)
        document, binary = document_of(written)
        accessor = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["TANGENT"]]
        view = document["bufferViews"][accessor["bufferView"]]
        stored = np.frombuffer(binary, "<f4", 4 * accessor["count"], view["byteOffset"]).reshape(-1, 4)
        assert np.allclose(np.linalg.norm(stored[:, :3], axis=1), 1, atol=1e-6) and set(stored[:, 3]) == {-1.0, 1.0}
        read = read_mesh(written)
        assert torch.allclose(corners(read), corners(ball.with_tangents()), atol=1e-6)
        assert torch.allclose(_given(read.normals)[read.faces], _given(ball.normals)[ball.faces], atol=1e-6)
    Asset(replace(ball, normals=None), PbrMaterial(normal=flat)).export(written)
    assert read_mesh(written).tangents is None  # readers compute flat normals, to which no stored tangent is orthogonal


def test_tangents_of_a_gltf_follow_its_nodes(tmp_path: Path) -> None:
    ball = bumpy_ball().with_tangents()
    assert ball.uvs is not None and ball.uv_faces is not None
    vertex = torch.empty(len(ball.uvs), dtype=torch.int64)
    vertex[ball.uv_faces.reshape(-1)] = ball.faces.reshape(-1)
    gltf = Gltf()
    attributes = {
        "NORMAL": gltf.accessor(_given(ball.normals)[vertex].numpy()),
        "TANGENT": gltf.accessor(_given(ball.tangents).numpy()),
        "TEXCOORD_0": gltf.accessor(ball.uvs.numpy()),
    }
    mesh = gltf.mesh(gltf.primitive(ball.vertices[vertex].numpy(), ball.uv_faces.numpy(), **attributes))
    gltf.scene(gltf.node(mesh=mesh, scale=[-2.0, 2.0, 2.0]))
    read = read_mesh(gltf.glb(tmp_path / "mirrored.glb"), own_axes=True)
    expected = ball.transformed(torch.diag(torch.tensor([-2.0, 2.0, 2.0, 1.0])))
    assert torch.allclose(corners(read), corners(expected), atol=1e-5)
    assert torch.allclose(corners(read), corners(replace(read, tangents=None).with_tangents()), atol=1e-4)


def _given(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor

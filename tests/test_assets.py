"""What scenes leave for other programs: meshes with textures, read back by another reader."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from trimesh.visual.material import PBRMaterial
from trimesh.visual.texture import TextureVisuals

from unrender.color import srgb_from_linear
from unrender.geometry.mesh import Mesh
from unrender.render.asset import Asset, PbrMaterial


def square() -> Mesh:
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    return Mesh(corners, faces, uvs=corners[:, :2].contiguous(), uv_faces=faces).with_vertex_normals()


def material() -> PbrMaterial:
    generator = torch.Generator().manual_seed(0)
    normal = torch.nn.functional.normalize(torch.rand(4, 6, 3, generator=generator) + torch.tensor([0.0, 0.0, 1.0]), dim=-1)
    return PbrMaterial(
        base_color=torch.rand(8, 8, 3, generator=generator),
        roughness_metallic=torch.rand(5, 7, 2, generator=generator),
        normal=normal,
    )


def document_of(path: Path) -> tuple[dict, bytes]:
    data = path.read_bytes()
    length, _ = struct.unpack_from("<II", data, 12)
    return json.loads(data[20 : 20 + length]), data[28 + length :]


def picture(document: dict, binary: bytes, texture: dict) -> np.ndarray:
    view = document["bufferViews"][document["images"][document["textures"][texture["index"]]["source"]]["bufferView"]]
    return np.asarray(Image.open(io.BytesIO(binary[view["byteOffset"] :][: view["byteLength"]])))


def test_textures_are_embedded_as_gltf_defines_them(tmp_path: Path) -> None:
    made = material()
    assert made.base_color is not None and made.roughness_metallic is not None and made.normal is not None
    Asset(square(), made).export(tmp_path / "square.glb")
    document, binary = document_of(tmp_path / "square.glb")
    surface = document["materials"][0]
    pbr = surface["pbrMetallicRoughness"]
    base = picture(document, binary, pbr["baseColorTexture"])
    assert np.array_equal(base, (srgb_from_linear(made.base_color) * 255).round().byte().numpy())
    packed = picture(document, binary, pbr["metallicRoughnessTexture"])
    levels = (made.roughness_metallic * 255).round().byte().numpy()
    assert np.array_equal(packed[..., 1], levels[..., 0]) and np.array_equal(packed[..., 2], levels[..., 1])
    assert pbr["metallicFactor"] == pbr["roughnessFactor"] == 1.0
    normal = picture(document, binary, surface["normalTexture"]).astype(np.float64) / 255 * 2 - 1
    assert np.abs(normal - made.normal.numpy()).max() < 1 / 127
    assert all(view["byteOffset"] % 4 == 0 for view in document["bufferViews"])
    assert document["buffers"][0]["byteLength"] == len(binary)


def test_another_reader_sees_the_textures(tmp_path: Path) -> None:
    Asset(square(), material()).export(tmp_path / "square.glb")
    visual = trimesh.load_mesh(tmp_path / "square.glb", process=False).visual
    assert isinstance(visual, TextureVisuals) and isinstance(visual.material, PBRMaterial)
    base, packed = visual.material.baseColorTexture, visual.material.metallicRoughnessTexture
    assert base is not None and base.size == (8, 8) and packed is not None and packed.size == (7, 5)


def test_opacity_in_the_base_color_makes_the_material_blend(tmp_path: Path) -> None:
    Asset(square(), PbrMaterial(base_color=torch.rand(2, 2, 4))).export(tmp_path / "glass.glb")
    assert document_of(tmp_path / "glass.glb")[0]["materials"][0]["alphaMode"] == "BLEND"


def test_factors_stand_where_textures_are_left_out(tmp_path: Path) -> None:
    Asset(square(), PbrMaterial(roughness=0.25, metallic=0.5)).export(tmp_path / "plain.glb")
    document, _ = document_of(tmp_path / "plain.glb")
    pbr = document["materials"][0]["pbrMetallicRoughness"]
    assert pbr == {"metallicFactor": 0.5, "roughnessFactor": 0.25} and "images" not in document


def test_textures_need_texture_coordinates(tmp_path: Path) -> None:
    bare = Mesh(square().vertices, square().faces)
    with pytest.raises(ValueError, match="needs a mesh with texture coordinates"):
        Asset(bare, material()).export(tmp_path / "bare.glb")
    assert list(tmp_path.iterdir()) == []


def test_an_asset_moves_with_its_mesh_and_may_be_empty() -> None:
    similarity = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    moved = Asset(square(), material()).transformed(similarity)
    assert moved.mesh.area == pytest.approx(4.0) and moved.material is not None
    assert Asset.empty().is_empty


def test_vertex_colors_do_not_tint_a_base_color_texture(tmp_path: Path) -> None:
    colored = square().with_colors(torch.full((4, 3), 0.5))
    Asset(colored, material()).export(tmp_path / "textured.glb")
    Asset(colored, PbrMaterial(roughness=0.5)).export(tmp_path / "colored.glb")
    names = [set(document_of(tmp_path / file)[0]["meshes"][0]["primitives"][0]["attributes"]) for file in ("textured.glb", "colored.glb")]
    assert "COLOR_0" not in names[0] and "COLOR_0" in names[1]

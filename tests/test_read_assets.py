"""Reading of assets: textures and factors return from our own files, and from those of others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from unrender.geometry.mesh import Mesh
from unrender.numerics import normalized
from unrender.render.asset import Asset, PbrMaterial, read_asset


def square() -> Mesh:
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    return Mesh(vertices, faces, uvs=torch.tensor([[0.0, 1], [1, 1], [1, 0], [0, 0]]), uv_faces=faces).with_vertex_normals()


def test_an_asset_returns_from_its_glb(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    normal = normalized(torch.rand(4, 4, 3, generator=generator) + torch.tensor([-0.5, -0.5, 1.0]))
    material = PbrMaterial(torch.rand(4, 8, 3, generator=generator), torch.rand(8, 4, 2, generator=generator), normal)
    Asset(square(), material).export(tmp_path / "asset.glb")
    read = read_asset(tmp_path / "asset.glb")
    assert read.material is not None and read.mesh.tangents is not None
    for name, tolerance in (("base_color", 0.01), ("roughness_metallic", 0.003), ("normal", 0.02)):
        torch.testing.assert_close(getattr(read.material, name), getattr(material, name), atol=tolerance, rtol=0)


def test_a_material_without_textures_keeps_its_factors(tmp_path: Path) -> None:
    Asset(square(), PbrMaterial(roughness=0.25, metallic=0.75)).export(tmp_path / "asset.glb")
    read = read_asset(tmp_path / "asset.glb").material
    assert read is not None and (read.roughness, read.metallic, read.base_color) == (0.25, 0.75, None)


def test_an_obj_has_the_material_beside_it(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2), (188, 0, 255)).save(tmp_path / "color.png")
    (tmp_path / "one.mtl").write_text("newmtl other\nPr 0.1\nnewmtl skin\nPr 0.5\nPm 0.25\nmap_Kd color.png\n")
    lines = "mtllib one.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl skin\nf 1/1 2/2 3/3\n"
    (tmp_path / "one.obj").write_text(lines)
    read = read_asset(tmp_path / "one.obj").material
    assert read is not None and (read.roughness, read.metallic) == (0.5, 0.25) and read.base_color is not None
    torch.testing.assert_close(read.base_color[0, 0], torch.tensor([0.5029, 0.0, 1.0]), atol=1e-3, rtol=0)
    (tmp_path / "color.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="one.obj.*PNG or JPEG"):
        read_asset(tmp_path / "one.obj")
    (tmp_path / "two.obj").write_text(lines + "usemtl other\nf 1/1 3/3 2/2\n")
    with pytest.raises(ValueError, match="two.obj.*2 materials"):
        read_asset(tmp_path / "two.obj")

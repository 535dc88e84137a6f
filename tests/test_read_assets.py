"""Reading of assets: textures and factors return from our own files, and from those of others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from trimesh.visual.material import PBRMaterial, SimpleMaterial
from trimesh.visual.texture import TextureVisuals

from unrender.color import linear_from_srgb
from unrender.geometry.mesh import Mesh, read_mesh
from unrender.numerics import normalized
from unrender.ops.raster import texture
from unrender.render.asset import Asset, PbrMaterial, read_asset


def square() -> Mesh:
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    return Mesh(vertices, faces, uvs=torch.tensor([[0.0, 1], [1, 1], [1, 0], [0, 0]]), uv_faces=faces).with_vertex_normals()


def some_material(channels: int = 3) -> PbrMaterial:
    generator = torch.Generator().manual_seed(0)
    normal = normalized(torch.rand(4, 4, 3, generator=generator) + torch.tensor([-0.5, -0.5, 1.0]))
    return PbrMaterial(torch.rand(4, 8, channels, generator=generator), torch.rand(8, 4, 2, generator=generator), normal)


@pytest.mark.parametrize("suffix", ["glb", "obj"])
@pytest.mark.parametrize("channels", [3, 4])
def test_an_asset_returns_from_its_file(suffix: str, channels: int, tmp_path: Path) -> None:
    material = some_material(channels)
    Asset(square(), material).export(tmp_path / f"a duck.{suffix}")
    read = read_asset(tmp_path / f"a duck.{suffix}")
    assert read.material is not None and read.mesh.tangents is not None
    torch.testing.assert_close(read.mesh.vertices, square().vertices)
    for name, tolerance in (("base_color", 0.01), ("roughness_metallic", 0.003), ("normal", 0.02)):
        torch.testing.assert_close(getattr(read.material, name), getattr(material, name), atol=tolerance, rtol=0)


@pytest.mark.parametrize("suffix", ["glb", "obj"])
def test_a_material_without_textures_keeps_its_factors(suffix: str, tmp_path: Path) -> None:
    Asset(square(), PbrMaterial(roughness=0.25, metallic=0.75)).export(tmp_path / f"asset.{suffix}")
    read = read_asset(tmp_path / f"asset.{suffix}").material
    assert read is not None and (read.roughness, read.metallic, read.base_color) == (0.25, 0.75, None)


def test_another_program_shows_the_colors_of_an_obj(tmp_path: Path) -> None:
    material = some_material()
    Asset(square(), material).export(tmp_path / "square.obj", axes="source")
    visual = trimesh.load_mesh(tmp_path / "square.obj", process=False).visual
    assert isinstance(visual, TextureVisuals) and material.base_color is not None
    assert isinstance(visual.material, SimpleMaterial) and visual.material.image is not None
    picture = np.asarray(visual.material.image.convert("RGB"), np.float32) / 255
    torch.testing.assert_close(linear_from_srgb(torch.from_numpy(picture)), material.base_color, atol=0.01, rtol=0)
    assert visual.uv is not None and visual.uv.min() == 0 and visual.uv.max() == 1


def write_picture(path: Path, seed: int, size: tuple[int, int] = (16, 16)) -> Float[Tensor, "height width 3"]:
    """Write a smooth picture, and return it in linear light."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), np.uint8)
    image = Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    image.save(path)
    return linear_from_srgb(torch.from_numpy(np.asarray(image, np.float32) / 255))


CORNERS = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"


def colors_at(asset: Asset, face: int, weights: Float[Tensor, "points 3"]) -> Float[Tensor, "points channels"]:
    """Look up the base color of an asset at points of a triangle."""
    assert asset.mesh.uvs is not None and asset.mesh.uv_faces is not None
    assert asset.material is not None and asset.material.base_color is not None
    uv = weights @ asset.mesh.uvs[asset.mesh.uv_faces[face]]
    return texture(asset.material.base_color[None], uv[None, None].contiguous(), filter="linear", boundary="clamp")[0, 0]


def wrapped(picture: Float[Tensor, "height width 3"], uv: Float[Tensor, "points 2"]) -> Float[Tensor, "points 3"]:
    return texture(picture[None], uv[None, None].contiguous(), filter="linear", boundary="wrap")[0, 0]


def points_of_a_triangle() -> Float[Tensor, "points 3"]:
    found = torch.rand(50, 3, generator=torch.Generator().manual_seed(1)) + 1e-3
    return found / found.sum(1, keepdim=True)


def test_several_materials_become_one_atlas(tmp_path: Path) -> None:
    left, right = write_picture(tmp_path / "left.png", 0), write_picture(tmp_path / "Right.PNG", 1, (24, 40))
    (tmp_path / "all.mtl").write_text(
        "newmtl Material #1\nmap_Kd left.png\nPr 0.3\nnewmtl b\nmap_Kd -s 1 1 1 textures\\right.png\nPr 0.6\nPm 1\n"
        "newmtl plain\nKd 0.2 0.4 0.6\nnewmtl unused\nmap_Kd missing.png\n"
    )
    coordinates = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0), (-0.75, 2.5), (1.5, 2.5), (1.5, 4.0)]
    rows = "".join(f"vt {u} {v}\n" for u, v in coordinates)
    (tmp_path / "all.obj").write_text(
        f"mtllib all.mtl\n{CORNERS}{rows}f 1 2 3\nusemtl Material #1\nf 1/1 2/2 3/3 4/4\nusemtl b\nf 1/5 2/6 3/7\nusemtl plain\nf 1 2 4\n"
    )
    read, weights = read_asset(tmp_path / "all.obj"), points_of_a_triangle()
    material = read.material
    assert material is not None and material.roughness_metallic is not None and material.normal is None
    assert read.mesh.uvs is not None and read.mesh.uvs.min() > 0 and read.mesh.uvs.max() < 1
    uvs = torch.tensor([(u, 1 - v) for u, v in coordinates])
    expected = (
        torch.ones(50, 3),
        wrapped(left, weights @ uvs[[0, 1, 2]]),
        wrapped(left, weights @ uvs[[0, 2, 3]]),
        wrapped(right, weights @ uvs[[4, 5, 6]]),
        torch.tensor([0.2, 0.4, 0.6]).expand(50, 3),
    )
    inner = (weights > 0.08).all(1)  # a border without repetition continues, one with it does not
    for face, wanted in enumerate(expected):
        kept = inner if face in (1, 2) else torch.ones_like(inner)
        torch.testing.assert_close(colors_at(read, face, weights)[kept], wanted[kept], atol=1e-4, rtol=0)
    middle = read.mesh.uvs[read.mesh.uv_faces].mean(1) if read.mesh.uv_faces is not None else torch.zeros(0)
    found = texture(material.roughness_metallic[None], middle[None, None].contiguous(), filter="linear", boundary="clamp")[0, 0]
    torch.testing.assert_close(found, torch.tensor([[1.0, 0], [0.3, 0], [0.3, 0], [0.6, 1], [1, 0]]), atol=1e-6, rtol=0)


def test_the_tiles_of_an_atlas_do_not_mix_in_its_first_mip_levels(tmp_path: Path) -> None:
    for name, color in (("a", (255, 0, 0)), ("b", (0, 255, 0))):
        Image.new("RGB", (20, 12), color).save(tmp_path / f"{name}.png")
    (tmp_path / "two.mtl").write_text("newmtl a\nmap_Kd a.png\nnewmtl b\nmap_Kd b.png\n")
    rows = "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
    (tmp_path / "two.obj").write_text(f"mtllib two.mtl\n{CORNERS}{rows}usemtl a\nf 1/1 2/2 3/3\nusemtl b\nf 1/1 2/2 3/3\n")
    read = read_asset(tmp_path / "two.obj")
    assert read.material is not None and read.material.base_color is not None
    assert read.mesh.uvs is not None and read.mesh.uv_faces is not None
    rows, columns = read.material.base_color.shape[:2]
    for face, color in enumerate(torch.eye(3)[:2]):
        corners = read.mesh.uvs[read.mesh.uv_faces[face]]
        wide = torch.tensor([8.0 / columns, 0, 0, 8.0 / rows]).expand(1, 1, 3, 4).contiguous()
        found = texture(read.material.base_color[None], corners[None, None].contiguous(), wide, boundary="clamp", max_level=3)[0, 0]
        torch.testing.assert_close(found, color.expand(3, 3), atol=1e-5, rtol=0)


def test_a_texture_that_repeats_is_unrolled(tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "tile.png", 3)
    (tmp_path / "tile.mtl").write_text("newmtl t\nmap_Kd tile.png\n")
    (tmp_path / "tile.obj").write_text(f"mtllib tile.mtl\n{CORNERS}vt -1 0\nvt 2 0\nvt 2 3\nusemtl t\nf 1/1 2/2 3/3\n")
    read, weights = read_asset(tmp_path / "tile.obj"), points_of_a_triangle()
    wanted = wrapped(picture, weights @ torch.tensor([[-1.0, 1], [2, 1], [2, -2]]))
    torch.testing.assert_close(colors_at(read, 0, weights), wanted, atol=1e-4, rtol=0)


def test_an_obj_has_the_material_beside_it(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2), (188, 0, 255)).save(tmp_path / "color.png")
    (tmp_path / "one.mtl").write_text("newmtl other\nPr 0.1\nnewmtl skin\n\tPr\t0.5\nPm 0.25\nmap_Kd color.png\n")
    lines = "mtllib one.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl skin\nf 1/1 2/2 3/3\n"
    (tmp_path / "one.obj").write_text(lines)
    read = read_asset(tmp_path / "one.obj").material
    assert read is not None and (read.roughness, read.metallic) == (0.5, 0.25) and read.base_color is not None
    torch.testing.assert_close(read.base_color[0, 0], torch.tensor([0.5029, 0.0, 1.0]), atol=1e-3, rtol=0)
    (tmp_path / "color.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="one.obj.*PNG or JPEG"):
        read_asset(tmp_path / "one.obj")


MTL = "newmtl m\nmap_Kd c.png\n"
OBJ = f"mtllib m.mtl\n{CORNERS}vt 0 0\nvt 1 0\nvt 1 1\nusemtl m\nf 1/1 2/2 3/3\n"


@pytest.mark.parametrize(
    ("mtl", "obj", "sentence"),
    [
        (None, OBJ, r"material of .*x\.obj cannot be read: its file 'm\.mtl' is not in"),
        ("newmtl m\nmap_Kd gone.png\n", OBJ, "its file 'gone.png' is not in"),
        (MTL, OBJ.replace("usemtl m", "usemtl n"), r"its material 'n' is not in m\.mtl, which has 'm'"),
        ("newmtl m\nmap_Kd -s 2 2 c.png\n", OBJ, "moved or scaled"),
        ("newmtl m\nmap_Kd ../../c.png\n", OBJ, None),
        (MTL + "Pr rough\n", OBJ, "does not follow the format"),
        ("newmtl m\nKd 0.5\n", OBJ, None),
        (MTL, OBJ.replace("vt 1 1", "vt 1e9 0"), "repeats its texture"),
        (MTL, OBJ.replace("vt 1 1", "vt nan 0"), "not finite"),
    ],
)
def test_what_is_wrong_with_a_material_is_one_sentence(mtl: str | None, obj: str, sentence: str | None, tmp_path: Path) -> None:
    write_picture(tmp_path / "c.png", 0)
    (tmp_path / "x.obj").write_text(obj)
    if mtl is not None:
        (tmp_path / "m.mtl").write_text(mtl)
    if sentence is None:
        assert read_asset(tmp_path / "x.obj").material is not None
        return
    with pytest.raises(ValueError, match=sentence) as raised:
        read_asset(tmp_path / "x.obj")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("keys", "roughness", "metallic"),
    [
        (["Pr 0.4", "Pm 0.7"], 0.4, 0.7),
        (["Ks 0.5 0.5 0.5", "Ns 250"], 0.5, 0.0),
        (["Ks 0 0 0", "Ns 250"], 1.0, 0.0),
        (["bsdf pbr", "Ks 0 0.25 1"], 0.25, 1.0),
        (["map_Pr packed.png", "map_Pm packed.png"], 0.2, 0.6),
        (["map_Pr rough.png", "Pm 0.3"], 0.8, 0.3),
        (["bsdf pbr", "map_Ks packed.png"], 0.2, 0.6),
        (["map_Pr deep.png"], 0.25, 0.0),
    ],
)
def test_keys_of_several_programs_are_understood(keys: Sequence[str], roughness: float, metallic: float, tmp_path: Path) -> None:
    Image.new("RGB", (2, 2), (255, 51, 153)).save(tmp_path / "packed.png")
    Image.new("L", (4, 4), 204).save(tmp_path / "rough.png")
    Image.fromarray(np.full((2, 2), 16384, np.uint16)).save(tmp_path / "deep.png")
    write_picture(tmp_path / "c.png", 0)
    (tmp_path / "m.mtl").write_text("\n".join([MTL, *keys]))
    (tmp_path / "x.obj").write_text(OBJ)
    material = read_asset(tmp_path / "x.obj").material
    assert material is not None
    both = material.roughness_metallic
    found = (material.roughness, material.metallic) if both is None else both.mean((0, 1)).tolist()
    assert found == pytest.approx((roughness, metallic), abs=1e-4)


def test_heights_are_not_taken_for_normals(tmp_path: Path) -> None:
    write_picture(tmp_path / "c.png", 0)
    Image.new("L", (2, 2), 128).save(tmp_path / "height.png")
    Image.new("RGB", (2, 2), (128, 128, 255)).save(tmp_path / "normal.png")
    for name, is_read in (("height", False), ("normal", True)):
        (tmp_path / "m.mtl").write_text(f"{MTL}map_Bump -bm 0.5 {name}.png\n")
        (tmp_path / "x.obj").write_text(OBJ)
        material = read_asset(tmp_path / "x.obj").material
        assert material is not None and (material.normal is not None) == is_read


def test_an_obj_of_one_color_needs_no_coordinates(tmp_path: Path) -> None:
    (tmp_path / "m.mtl").write_text("newmtl m\nKd 0.1 0.2 0.3\n")
    (tmp_path / "x.obj").write_text(f"mtllib m.mtl\n{CORNERS}usemtl m\nf -4 -3 -2 -1\n")
    read = read_asset(tmp_path / "x.obj")
    assert len(read.mesh.faces) == 2
    torch.testing.assert_close(colors_at(read, 1, points_of_a_triangle()), torch.tensor([0.1, 0.2, 0.3]).expand(50, 3))


def test_materials_of_a_glb_become_one_atlas(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    for shift, color in ((0.0, (255, 0, 0)), (2.0, (0, 0, 255))):
        vertices = square().vertices.numpy() + [shift, 0, 0]
        skin = PBRMaterial(baseColorTexture=Image.new("RGB", (8, 8), color), roughnessFactor=0.5 + shift / 8)
        uv = np.array([[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]])
        scene.add_geometry(trimesh.Trimesh(vertices, square().faces.numpy(), visual=TextureVisuals(uv=uv, material=skin), process=False))
    scene.export(tmp_path / "two.glb")
    read = read_asset(tmp_path / "two.glb")
    assert read.material is not None and read.material.roughness_metallic is not None
    red = read.mesh.vertices[read.mesh.faces][:, :, 0].mean(1) < 1.5
    for face in range(4):
        wanted = torch.tensor([1.0, 0, 0] if red[face] else [0.0, 0, 1]).expand(50, 3)
        torch.testing.assert_close(colors_at(read, face, points_of_a_triangle()), wanted, atol=1e-5, rtol=0)


def test_normals_of_a_glb_are_turned_with_its_node(tmp_path: Path) -> None:
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    mesh = Mesh(corners, torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])).with_vertex_normals()
    for up in ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.6, 0.0, 0.8)):
        mesh.with_up(up).export(tmp_path / "solid.glb")
        normals = read_asset(tmp_path / "solid.glb").mesh.normals
        assert normals is not None and mesh.normals is not None
        torch.testing.assert_close(normals, mesh.normals, atol=1e-6, rtol=0)


@pytest.mark.parametrize("backwards", [False, True])
def test_hard_edges_of_an_obj_are_kept_where_it_is_rendered(backwards: bool, tmp_path: Path) -> None:
    rows = [f"v {x} {y} {z}" for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    sides = {(-1, 0, 0): (1, 2, 4, 3), (1, 0, 0): (5, 7, 8, 6), (0, -1, 0): (1, 5, 6, 2), (0, 1, 0): (3, 4, 8, 7), (0, 0, -1): (1, 3, 7, 5)}
    sides[0, 0, 1] = (2, 6, 8, 4)
    rows += [f"vn {x} {y} {z}" for x, y, z in sides]
    for number, corners in enumerate(sides.values(), 1):
        named = ((corner - 9, number - 7) if backwards else (corner, number) for corner in corners)
        rows.append("f " + " ".join(f"{corner}//{normal}" for corner, normal in named))
    (tmp_path / "cube.obj").write_text("\n".join(rows))
    hard, plain = read_asset(tmp_path / "cube.obj").mesh, read_mesh(tmp_path / "cube.obj")
    assert len(hard.vertices) == 24 and len(plain.vertices) == 8 and plain.normals is None and hard.normals is not None
    a, b, c = hard.vertices[hard.faces].unbind(1)
    flat = normalized(torch.linalg.cross(b - a, c - a))
    torch.testing.assert_close(hard.normals[hard.faces], flat[:, None].expand(-1, 3, -1))
    ball = Mesh(plain.vertices, plain.faces).with_vertex_normals()
    ball.export(tmp_path / "smooth.obj")
    assert len(read_asset(tmp_path / "smooth.obj").mesh.vertices) == 8


def test_obj_files_whose_names_differ_in_unusual_letters_keep_their_own_textures(tmp_path: Path) -> None:
    square = Mesh(
        torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]),
        torch.tensor([[0, 1, 2], [0, 2, 3]]),
        uvs=torch.tensor([[0.0, 1], [1, 1], [1, 0], [0, 0]]),
        uv_faces=torch.tensor([[0, 1, 2], [0, 2, 3]]),
    )
    names = ("a b", "a_b", "椅子", "机")
    for number, name in enumerate(names):
        Asset(square, PbrMaterial(base_color=torch.full((4, 4, 3), 0.2 * number))).export(tmp_path / f"{name}.obj")
    for number, name in enumerate(names):
        material = read_asset(tmp_path / f"{name}.obj").material
        assert material is not None and material.base_color is not None
        assert float((material.base_color - 0.2 * number).abs().max()) < 0.01


@pytest.mark.parametrize(("line", "opacity"), [("d 0.25", 0.25), ("Tr 0.75", 0.25), ("Tr 0.1\nd 0.25", 0.25), ("Tr 0", None)])
def test_an_mtl_states_opacity_or_transparency(line: str, opacity: float | None, tmp_path: Path) -> None:
    (tmp_path / "m.mtl").write_text(f"newmtl m\nKd 0.1 0.2 0.3\n{line}\n")
    (tmp_path / "m.obj").write_text(f"mtllib m.mtl\n{CORNERS}usemtl m\nf 1 2 3\n")
    material = read_asset(tmp_path / "m.obj").material
    assert material is not None and material.base_color is not None
    wanted = [0.1, 0.2, 0.3] if opacity is None else [0.1, 0.2, 0.3, opacity]
    torch.testing.assert_close(material.base_color[0, 0], torch.tensor(wanted))


@pytest.mark.parametrize("mode", ["BLEND", "OPAQUE"])
def test_the_opacity_of_a_gltf_factor_counts_without_a_texture(mode: str, tmp_path: Path) -> None:
    surface = PBRMaterial(baseColorFactor=[51, 102, 153, 51], alphaMode=mode)
    corners, uv = np.eye(3), np.zeros((3, 2))
    trimesh.Trimesh(corners, [[0, 1, 2]], visual=TextureVisuals(uv=uv, material=surface), process=False).export(tmp_path / "m.glb")
    read = read_asset(tmp_path / "m.glb")
    assert read.material is not None
    if mode == "OPAQUE":
        assert read.material.base_color is None and read.mesh.colors is not None
    else:
        assert read.material.base_color is not None
        torch.testing.assert_close(read.material.base_color[0, 0], torch.tensor([0.2, 0.4, 0.6, 0.2]))

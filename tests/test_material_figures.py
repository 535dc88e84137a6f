from __future__ import annotations

import numpy as np
import torch

from unrender.geometry.mesh import Mesh
from unrender.render.asset import Asset, PbrMaterial
from unrender.runs.material_figures import chart_count, environment_picture, material_pictures, texture_pictures
from unrender.runs.viewpoint import UPRIGHT
from unrender.shading.lights import EnvironmentLight


def two_squares() -> Mesh:
    """Two squares beside each other that share two vertices, but no texture coordinate."""
    vertices = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [0, 2, 0], [0, 2, 1]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [1, 4, 5], [1, 5, 2]])
    u = torch.tensor([[0.0, 1], [1, 1], [1, 0], [0, 0]])
    uvs = torch.cat([u * 0.4 + 0.05, u * 0.4 + torch.tensor([0.55, 0.05])])
    return Mesh(vertices, faces, uvs=uvs, uv_faces=torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]]))


def asset() -> Asset:
    color = torch.zeros(32, 32, 3)
    color[:, :16, 0], color[:, 16:, 1] = 1.0, 1.0
    gloss = torch.tensor([0.25, 1.0]).expand(32, 32, 2).contiguous()
    light = torch.full((6, 8, 8, 3), 2.0)
    return Asset(two_squares(), PbrMaterial(color, gloss), EnvironmentLight(light))


def test_charts_are_parts_of_the_texture_not_of_the_mesh() -> None:
    assert chart_count(two_squares()) == 2


def test_each_channel_is_drawn_with_its_own_value() -> None:
    pictures = {shown.caption: shown.picture for shown in material_pictures(asset(), UPRIGHT, 0.0)}
    assert list(pictures) == ["base color", "roughness", "metallic"]
    values = {name: {tuple(color) for color in picture.reshape(-1, 3).tolist()} for name, picture in pictures.items()}
    assert (255, 0, 0) in values["base color"] and (0, 255, 0) in values["base color"]
    assert any(abs(red - 64) <= 1 and red == green == blue for red, green, blue in values["roughness"])


def test_textures_are_shown_with_the_borders_of_their_triangles() -> None:
    plain, wired, gloss = (shown.picture for shown in texture_pictures(asset()))
    assert (plain != wired).any() and (plain == wired).any()
    assert tuple(gloss[5, 5]) == (0, 64, 255)


def test_the_mean_of_the_light_is_medium_gray() -> None:
    shown = environment_picture(asset())
    assert shown is not None and shown.picture.shape == (160, 320, 3)
    assert np.unique(shown.picture).tolist() == [124]  # sRGB of 0.2
    assert environment_picture(Asset(two_squares())) is None


def test_an_asset_without_textures_has_no_pictures() -> None:
    assert material_pictures(Asset(two_squares()), UPRIGHT, 0.0) == [] and texture_pictures(Asset(two_squares())) == []

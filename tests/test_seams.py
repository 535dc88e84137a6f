"""Baked textures beside the field they come from, near and far: charts leave no seams, neither at full size nor in the mip levels."""

import math

import pytest
import torch
import trimesh
from torch import Tensor
from torch.nn.functional import avg_pool2d

from unrender.cameras import Cameras
from unrender.fields.material import SpatialMaterial
from unrender.geometry.mesh import Mesh
from unrender.geometry.unwrapping import unwrapped
from unrender.recipes.settings import HashLevels
from unrender.render.baking import baked
from unrender.render.lit import looked_up
from unrender.render.surface import render_surface, surface_in_texture
from unrender.shading.gbuffer import GBuffer
from unrender.shading.lights import Light
from unrender.shading.materials import Shaded
from unrender.transforms import look_at

GRID = HashLevels(levels=4, features=2, log2_entries=12, base_resolution=4, finest_resolution=12).grid()


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    made = trimesh.creation.icosphere(3)
    plain = Mesh(torch.tensor(made.vertices, dtype=torch.float32), torch.tensor(made.faces, dtype=torch.int64))
    return unwrapped(plain, resolution=512).with_vertex_normals()


@pytest.fixture(scope="module")
def field() -> SpatialMaterial:
    """Return a material with details of a twelfth of its box, 2.5 pixels of the small picture."""
    low, high, start = torch.zeros(3), torch.ones(3), torch.full((3,), 0.5)
    generator = torch.Generator().manual_seed(0)
    made = SpatialMaterial(
        GRID, hidden=(16,), box=torch.tensor([[-1.1] * 3, [1.1] * 3]), low=low, high=high, start=start, generator=generator
    )
    with torch.no_grad():
        made.table.normal_(0, 1.5, generator=generator)
    return made


def pictures(mesh: Mesh, field: SpatialMaterial, texels: Tensor, distance: float, size: int, fine: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the ball with its texture, the mean of ``fine``² samples of the field in each pixel, and the pixels inside of the ball."""
    pose = look_at(torch.tensor([[0.3 * distance, -0.9 * distance, 0.3 * distance]]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))

    def camera(side: int) -> Cameras:
        focal = 0.42 * side * distance
        return Cameras.alike(pose, torch.tensor([[focal, focal, side / 2, side / 2]]), None, side, side)

    def textured(surface: GBuffer, lights: object) -> Shaded:
        return Shaded(looked_up(texels, surface), torch.ones_like(surface.distance))

    def exact(surface: GBuffer, lights: object) -> Shaded:
        color = field(surface.position.reshape(-1, 3)).reshape(surface.position.shape)
        return Shaded(color, torch.ones_like(surface.distance))

    no_lights: list[Light] = []
    with torch.no_grad():
        seen = render_surface(mesh, textured, no_lights, camera(size), antialiasing=None)
        truth = render_surface(mesh, exact, no_lights, camera(size * fine), antialiasing=None)
        mean = avg_pool2d(truth.color.permute(0, 3, 1, 2), fine).permute(0, 2, 3, 1)
        inside = avg_pool2d(truth.opacity[:, None], fine)[:, 0] == 1
    return seen.color, mean, inside & (seen.opacity == 1)


@pytest.mark.parametrize(("size", "fine"), [(256, 4), (32, 16)], ids=["full size", "mip level 3"])
def test_a_baked_texture_looks_like_its_field(mesh: Mesh, field: SpatialMaterial, size: int, fine: int) -> None:
    texels = baked(mesh, lambda surface: field(surface.position.reshape(-1, 3)).reshape(surface.position.shape), 512)
    black = texels * surface_in_texture(mesh, (512, 512)).covered[0][..., None]

    def psnr(texels: Tensor) -> float:
        color, truth, inside = pictures(mesh, field, texels, 4.0, size, fine)
        return -10 * math.log10(float((color - truth)[inside].square().mean()))

    assert psnr(texels) > 38
    assert psnr(black) < 33, "black texels between the charts would show"

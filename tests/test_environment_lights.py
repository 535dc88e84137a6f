"""Environment lights seen by rough surfaces: white furnaces, energies, references by quadrature, turns and gradients."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unrender.files.hdr import read_hdr
from unrender.numerics import normalized
from unrender.ops.raster import Raster
from unrender.shading.cubes import cube_directions, reduced, solid_angles, turned_texels, turns
from unrender.shading.gbuffer import GBuffer
from unrender.shading.latlong import cube_from_latlong, read_environment, write_environment
from unrender.shading.lights import AmbientLight, EnvironmentLight, prefiltered
from unrender.shading.prefilter import COSINE, Lobe, convolved
from unrender.shading.reflectance import directional_albedo
from unrender.transforms import rotation_between

GENERATOR = torch.Generator().manual_seed(0)


def points(normals: Tensor, to_viewer: Tensor) -> GBuffer:
    """Return surface points with these unit vectors, as one row of one view."""
    count = normals.shape[0]
    raster = Raster(torch.zeros(1, 1, count, dtype=torch.int32), torch.zeros(1, 1, count, 2), torch.zeros(1, 1, count))
    rows = normals.view(1, 1, count, 3)
    return GBuffer(raster, torch.zeros_like(rows), rows, to_viewer.view(1, 1, count, 3), torch.ones(1, 1, count))


def directions(count: int) -> Tensor:
    return normalized(torch.randn(count, 3, generator=GENERATOR))


def sky(size: int) -> Tensor:
    """Return 1 + k · l, whose convolutions are known."""
    return 1 + (normalized(cube_directions(size)) @ torch.tensor([0.3, -0.2, 0.8]))[..., None].expand(-1, -1, -1, 3)


@pytest.mark.parametrize("size", [1, 5, 16, 32, 64])
def test_solid_angles_add_up_to_the_sphere(size: int) -> None:
    assert float(6 * solid_angles(size, torch.float64).sum()) == pytest.approx(4 * math.pi, rel=1e-12)


def test_light_is_not_lost_in_a_smaller_cube_map() -> None:
    texels = torch.rand(6, 32, 32, 3, generator=GENERATOR)
    small = reduced(texels, 8)
    before = (texels * solid_angles(32)[..., None]).sum((0, 1, 2))
    torch.testing.assert_close((small * solid_angles(8)[..., None]).sum((0, 1, 2)), before, rtol=1e-5, atol=1e-5)
    assert reduced(small, 16) is small


def test_turns_map_texels_to_texels() -> None:
    around = cube_directions(6, torch.float64).reshape(-1, 3)
    places, matrices = turned_texels(6), torch.from_numpy(turns()).double()
    for place, matrix in zip(places, matrices, strict=True):
        torch.testing.assert_close(around[torch.from_numpy(place)], around @ matrix.T, atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [4, 12, 16, 32, 64])
def test_a_white_furnace_is_white_at_every_roughness(size: int) -> None:
    """Both means, the diffuse and the specular one, are 1; F0 A + B is the part of it that the facets reflect."""
    light = prefiltered(EnvironmentLight(torch.ones(6, size, size, 3)))
    around = directions(2000).view(1, 1, -1, 3)
    for roughness in torch.linspace(0, 1, 21):
        assert (light.blurred(around, torch.full((1, 1, 2000), float(roughness))) - 1).abs().max() < 1e-5
    surface = points(around[0, 0], around[0, 0])
    assert (light.diffuse(surface) - 1).abs().max() < 1e-5
    rough, f0 = torch.rand(1, 1, 2000, generator=GENERATOR), torch.rand(1, 1, 2000, 3, generator=GENERATOR)
    torch.testing.assert_close(light.specular(surface, rough, f0), AmbientLight(torch.ones(3)).specular(surface, rough, f0))


def test_facets_reflect_all_light_of_a_smooth_mirror_and_never_more() -> None:
    cosine, roughness = torch.rand(2, 1, 1, 4000, generator=GENERATOR)
    a, b = directional_albedo(cosine, roughness)
    assert (a >= 0).all() and (b >= -1e-6).all() and (a + b).max() <= 1 + 1e-3
    a, b = directional_albedo(cosine.clamp_min(0.02), torch.zeros_like(cosine))
    torch.testing.assert_close(a + b, torch.ones_like(a), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("cosine", "roughness"), [(0.9, 0.3), (0.5, 0.5), (0.3, 0.8), (0.75, 1.0), (0.15, 0.45)])
def test_the_albedo_is_the_integral_over_the_lights(cosine: float, roughness: float) -> None:
    """A sum over directions l, while the table sums over facets."""
    steps = 1500
    theta = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps * math.pi / 2
    phi = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps * math.pi
    theta, phi = torch.meshgrid(theta, phi, indexing="ij")
    l_x, l_z = theta.sin() * phi.cos(), theta.cos()
    v_x, alpha = math.sqrt(1 - cosine**2), roughness**2
    v_l = v_x * l_x + cosine * l_z
    length = (2 + 2 * v_l).sqrt()
    n_h, v_h = (cosine + l_z) / length, (1 + v_l) / length
    density = alpha**2 / (math.pi * (n_h**2 * (alpha**2 - 1) + 1) ** 2)

    def masked(c: Tensor) -> Tensor:
        return ((1 + alpha**2 * (1 / c**2 - 1)).sqrt() - 1) / 2

    masking = 1 / (1 + masked(l_z) + masked(torch.tensor(cosine, dtype=torch.float64)))
    value = density * masking / (4 * cosine) * theta.sin() * (math.pi / 2 / steps) * (math.pi / steps) * 2
    grazing = (1 - v_h) ** 5
    a, b = directional_albedo(torch.full((1, 1, 1), cosine), torch.full((1, 1, 1), roughness))
    assert a.item() == pytest.approx(float((value * (1 - grazing)).sum()), abs=2e-3)
    assert b.item() == pytest.approx(float((value * grazing).sum()), abs=1e-3)


@pytest.mark.parametrize("roughness", [0.185, 0.395, 0.7, 1.0])
def test_levels_are_the_means_of_a_fine_quadrature(roughness: float) -> None:
    """1 + k · l becomes 1 + s k · n, with s the mean cosine of the lobe."""
    theta = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000 * math.pi / 2
    squared = (1 + theta.cos()) / 2
    weight = theta.cos() * theta.sin() / (squared * roughness**4 + 1 - squared) ** 2
    slope = float((weight * theta.cos()).sum() / weight.sum())
    around = directions(500).view(1, 1, -1, 3)
    found = prefiltered(EnvironmentLight(sky(32))).blurred(around, torch.full((1, 1, 500), roughness))[..., 0]
    torch.testing.assert_close(found, 1 + slope * (around @ torch.tensor([0.3, -0.2, 0.8])), atol=1e-2, rtol=0)


def test_a_convolution_commutes_with_turns() -> None:
    texels = torch.rand(6 * 64, 3, generator=GENERATOR)
    place = torch.from_numpy(turned_texels(8)[17])
    lobes = (Lobe(0.4), COSINE)
    turned_first = convolved(texels[place].view(6, 8, 8, 3), lobes).flatten(1, 3)
    torch.testing.assert_close(turned_first, convolved(texels.view(6, 8, 8, 3), lobes).flatten(1, 3)[:, place], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [8, 32])
def test_the_gradient_of_a_convolution_is_its_transpose(size: int) -> None:
    texels = torch.rand(6, size, size, 3, generator=GENERATOR, dtype=torch.float64).requires_grad_()
    lobes = (Lobe(0.185, "core"), COSINE) if size == 8 else (Lobe(0.185, "core"),)
    result = convolved(texels, lobes)
    cotangent = torch.rand(result.shape, generator=GENERATOR, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((result * cotangent).sum(), texels)
    other = torch.rand(texels.shape, generator=GENERATOR, dtype=torch.float64)
    torch.testing.assert_close((gradient * other).sum(), (convolved(other, lobes) * cotangent).sum())


def test_a_light_that_turns_with_the_camera_looks_alike_in_every_view() -> None:
    turn = rotation_between(torch.tensor([1.0, 0, 0]), torch.tensor([0.3, -0.5, 0.8]))
    environment = EnvironmentLight(torch.rand(6, 16, 16, 3, generator=GENERATOR))
    normals, to_viewer = directions(50), directions(50)
    rough, f0 = torch.rand(1, 1, 50, generator=GENERATOR), torch.rand(1, 1, 50, 3, generator=GENERATOR)
    turned = points(normals @ turn.T, to_viewer @ turn.T)
    turned = replace(turned, seen_in=torch.ones(1, 1, 50, dtype=torch.int64))
    follows = replace(environment, light_from_world=torch.stack([torch.eye(3), turn.T]))
    for still, moved in ((environment, follows), (prefiltered(environment), prefiltered(follows))):
        surface = points(normals, to_viewer)
        torch.testing.assert_close(moved.diffuse(turned), still.diffuse(surface), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(moved.specular(turned, rough, f0), still.specular(surface, rough, f0), atol=1e-3, rtol=1e-3)


def test_gradients_reach_texels_roughness_and_normals() -> None:
    texels = torch.rand(6, 16, 16, 3, generator=GENERATOR).requires_grad_()
    normals = directions(20)
    normal = normals.clone().requires_grad_()
    rough = (0.3 + 0.5 * torch.rand(1, 1, 20, generator=GENERATOR)).requires_grad_()
    surface = points(normal, normalized(normals + 0.3 * directions(20)))
    light = prefiltered(EnvironmentLight(texels))
    value = (light.specular(surface, rough, torch.full((1, 1, 20, 3), 0.5)) + light.diffuse(surface)).square().sum()
    for gradient in torch.autograd.grad(value, (texels, normal, rough)):
        assert gradient.isfinite().all() and gradient.abs().max() > 1e-4


@pytest.mark.parametrize("suffix", [".hdr", ".exr"])
def test_an_environment_returns_from_its_file(suffix: str, tmp_path: Path) -> None:
    if suffix == ".exr":
        pytest.importorskip("OpenEXR")
    environment = EnvironmentLight(sky(16))
    source_from_world = torch.eye(4)
    source_from_world[:3, :3] = 3 * rotation_between(torch.tensor([1.0, 0, 0]), torch.tensor([0.2, 0.9, -0.4]))
    write_environment(tmp_path / f"sky{suffix}", environment, source_from_world)
    read = read_environment(tmp_path / f"sky{suffix}", 16, source_from_world)
    torch.testing.assert_close(read.texels, environment.texels, atol=0.02, rtol=0)
    with pytest.raises(ValueError, match="suffix"):
        read_environment(tmp_path / "sky.png")


def test_a_radiance_file_may_be_run_length_encoded(tmp_path: Path) -> None:
    row = bytes([2, 2, 0, 8]) + bytes([136, 128]) + bytes([136, 64]) + bytes([8, *range(8)]) + bytes([132, 129, 4, 128, 128, 128, 128])
    (tmp_path / "runs.hdr").write_bytes(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\nEXPOSURE=2\n\n-Y 1 +X 8\n" + row)
    found = read_hdr(tmp_path / "runs.hdr")
    bytes_of = torch.tensor([[128.0, 64.0, float(k)] for k in range(8)])
    torch.testing.assert_close(found[0], (bytes_of + 0.5) / torch.tensor([128.0] * 4 + [256.0] * 4)[:, None] / 2)
    for cut in (b"", row[:-1]):
        (tmp_path / "cut.hdr").write_bytes(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 8\n" + cut)
        with pytest.raises(ValueError, match="cut.hdr is cut off"):
            read_hdr(tmp_path / "cut.hdr")


def test_the_light_of_a_lat_long_picture_is_kept() -> None:
    """A small sun has the same energy on the cube, whatever its size."""
    picture = torch.zeros(64, 128, 3)
    picture[20, 77] = 1000.0
    sine = math.sin(math.pi * 20.5 / 64)
    energy = 1000 * sine * (math.pi / 64) * (2 * math.pi / 128)
    for size in (4, 16, 64):
        total = (cube_from_latlong(picture, size)[..., 0] * solid_angles(size)).sum()
        assert float(total) == pytest.approx(energy, rel=0.1)

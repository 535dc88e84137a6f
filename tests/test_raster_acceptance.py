"""The raster verbs reach what they are for: shape, color, texture and outlines learned from pictures, by the examples' own loops.

The slow tests are the full protocols; docs/rasterization.md has their numbers.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str) -> ModuleType:
    """Load an example as a module; names that begin with digits cannot be imported."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: pictures of 16 pixels are less work than sharing them, and the results are the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cube() -> ModuleType:
    return example("06_fit_a_cube")


@pytest.fixture(scope="module")
def earth() -> ModuleType:
    return example("07_texture_the_earth")


@pytest.fixture(scope="module")
def outlines() -> ModuleType:
    return example("08_fit_a_mesh_to_masks")


def test_a_triangle_is_its_corners_weights(tmp_path: Path) -> None:
    example("05_render_a_triangle").main(tmp_path, size=96)  # ends the process where it is not
    assert (tmp_path / "triangle.png").exists()


@pytest.mark.parametrize("rule", ["walk", "owner"])
@pytest.mark.parametrize("sides_differ", [False, True])
def test_a_cube_finds_its_corners_through_its_outlines(cube: ModuleType, rule: str, sides_differ: bool) -> None:
    errors = cube.fit(16, 200, sides_differ=sides_differ, rule=rule).errors
    assert cube.error_at(errors, 200) < 0.5 * errors[0]


@pytest.mark.parametrize("sides_differ", [False, True])
def test_a_cube_without_smoothed_outlines_does_not(cube: ModuleType, sides_differ: bool) -> None:
    errors = cube.fit(16, 200, sides_differ=sides_differ, rule="off").errors
    assert cube.error_at(errors, 200) > 0.8 * errors[0]


def test_a_cube_of_more_samples_is_a_larger_one_averaged(cube: ModuleType) -> None:
    truth = cube.true_cube(True)
    view = truth.corners, truth.colors, torch.linalg.qr(torch.randn(3, 3)).Q, torch.zeros(3)
    fine, one = (cube.renderer(truth, "walk", 1)(*view, size) for size in (16, 8))
    four = cube.renderer(truth, "walk", 2)(*view, 8)
    torch.testing.assert_close(four, fine.view(1, 8, 2, 8, 2, 3).mean((2, 4)))
    assert (four - one).abs().max() > 0.01
    errors = cube.fit(8, 20, samples=2).errors
    assert errors != cube.fit(8, 20, samples=1).errors


def test_a_fit_is_the_same_each_time(cube: ModuleType) -> None:
    first, again = (cube.fit(8, 20, rule="walk").end for _ in range(2))
    assert torch.equal(first.corners, again.corners) and torch.equal(first.colors, again.colors)


def test_mip_levels_help_to_learn_a_texture_from_far_and_near(earth: ModuleType) -> None:
    truth, with_mips, without = earth.fit(32, 32, 150)
    assert with_mips.psnr > without.psnr + 1
    assert truth.shape == with_mips.atlas.shape == without.atlas.shape == (1, 96, 128, 3)


def test_the_globe_is_seen_with_its_texture(earth: ModuleType) -> None:
    """Each texel of the atlas is the color of its own direction: its direction as a color, rendered, is the position of the surface."""
    size, face_size = 64, 64
    shape = earth.globe()
    atlas = torch.zeros(1, 3 * face_size, 4 * face_size, 3)
    centers = 2 * (torch.arange(face_size) + 0.5) / face_size - 1
    b, a = torch.meshgrid(centers, centers, indexing="ij")
    for face, (column, row) in enumerate(earth.PLACES):
        where = torch.nn.functional.normalize(earth.cube_point(face, a, b), dim=-1)
        atlas[0, row * face_size : (row + 1) * face_size, column * face_size : (column + 1) * face_size] = where
    x, y, z = shape.vertices.unbind(-1)
    facing = torch.stack((x / 0.5, y / 0.5, z, torch.ones_like(z)), -1)  # from afar along +z, filling the picture
    picture = earth.render(shape, facing, atlas, size, None)[0]
    centers = 2 * (torch.arange(size) + 0.5) / size - 1
    y, x = torch.meshgrid(centers, centers, indexing="ij")
    expected = torch.stack((x, y, -(1 - x * x - y * y).clamp_min(0).sqrt()), -1)
    largest, second = expected.abs().topk(2, dim=-1).values.unbind(-1)
    well_inside = (x * x + y * y < 0.8) & (second < 0.95 * largest)  # of the globe and of a face: beyond its border are other texels
    assert (picture - expected)[well_inside].abs().max() < 0.03  # half a texel, and the flatness of the triangles


def test_a_sphere_fits_itself_to_masks(outlines: ModuleType) -> None:
    walk = outlines.fit(32, 8, 100, subdivisions=3)
    owner = outlines.fit(32, 8, 100, subdivisions=3, rule="owner")
    assert walk.overlap > 0.8
    assert walk.overlap > owner.overlap
    assert walk.chamfer < owner.chamfer


def test_a_turntable_shows_something_in_each_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNRENDER_DATA", str(tmp_path / "nothing"))
    example("09_render_a_turntable").main(tmp_path, size=48, frames=3, samples=1)  # ends the process where one does not
    assert (tmp_path / "turntable.mp4").stat().st_size > 0
    assert (tmp_path / "turntable.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("sides_differ", [False, True])
@pytest.mark.parametrize("rule", ["walk", "owner"])
@pytest.mark.parametrize(("size", "goal"), [(8, 5e-3), (4, 0.15)])
def test_cube_of_few_pixels_in_full(cube: ModuleType, size: int, goal: float, rule: str, sides_differ: bool, seed: int) -> None:
    errors = cube.fit(size, 5000, sides_differ=sides_differ, rule=rule, seed=seed).errors
    assert cube.error_at(errors, 5000) < goal


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_cube_of_sixteen_pixels_in_full(cube: ModuleType, seed: int) -> None:
    assert cube.error_at(cube.fit(16, 1000, rule="walk", seed=seed).errors, 1000) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("rule", "sides_differ"), [("walk", True), ("owner", False), ("owner", True)])
def test_cube_of_sixteen_pixels_of_sixteen_samples_in_full(cube: ModuleType, rule: str, sides_differ: bool, seed: int) -> None:
    """With one sample per pixel half of the starts reach the goal: slivers of another color come and go between the centers."""
    errors = cube.fit(16, 1000, sides_differ=sides_differ, rule=rule, samples=4, seed=seed).errors
    assert cube.error_at(errors, 1000) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("sides_differ", [False, True])
@pytest.mark.parametrize(("size", "steps"), [(16, 1000), (8, 5000)])  # of four pixels the colors inside tell enough, from some starts
def test_cube_in_full_fails_without_smoothed_outlines(cube: ModuleType, size: int, steps: int, sides_differ: bool, seed: int) -> None:
    errors = cube.fit(size, steps, sides_differ=sides_differ, rule="off", seed=seed).errors
    assert cube.error_at(errors, steps) > 0.2


@pytest.mark.slow
def test_earth_in_full(earth: ModuleType) -> None:
    _, with_mips, without = earth.fit(64, 64, 2000)
    assert with_mips.psnr >= without.psnr + 3


@pytest.mark.slow
def test_outlines_in_full(outlines: ModuleType) -> None:
    found = outlines.fit(64, 16, 300)
    assert found.overlap > 0.98
    assert found.chamfer < 0.01

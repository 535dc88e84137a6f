"""A template mesh is deformed until its outlines fit: a ball becomes an ellipsoid and a box, with its triangles and textures kept."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
import torch

from lit_ball import RADIUS, ball, cameras_around, mapped_ball, photographed, stripes
from tiny_captures import write_blender
from unrender.captures.capture import Capture, CaptureError
from unrender.cli.program import main
from unrender.geometry.cage import cage_weights
from unrender.geometry.distances import surface_distance
from unrender.geometry.mesh import Mesh
from unrender.losses.surface import as_rigid_as_possible, edge_length_change
from unrender.recipes import deform
from unrender.recipes.fitting import FitResult, Fitting, Progress
from unrender.recipes.inputs import FittedRun
from unrender.recipes.settings import override
from unrender.render.asset import Asset
from unrender.render.lit import LitScene
from unrender.shading.lights import EnvironmentLight
from unrender.transforms import rotation_between

CPU = torch.device("cpu")
SMALL = override(deform.PRESETS["cpu"], steps=120, window=64)


def stretched() -> Mesh:
    """An ellipsoid beside the origin."""
    mesh = ball(24)
    return replace(mesh, vertices=mesh.vertices * torch.tensor([1.25, 0.8, 1.0]) + torch.tensor([0.05, 0.0, -0.05]))


def box() -> Mesh:
    """A box with round edges."""
    mesh = ball(24)
    place = mesh.vertices / RADIUS
    return replace(mesh, vertices=place / (place.abs() ** 6).sum(-1, keepdim=True) ** (1 / 6) * torch.tensor([0.45, 0.55, 0.5]))


def begun(capture: Capture, template: Asset) -> FittedRun:
    return FittedRun("given", "mesh", LitScene(template), capture, "given")


def fitted(capture: Capture, template: Asset, config: deform.DeformConfig = SMALL) -> FitResult:
    return deform.fit(begun(capture, template), config, device=CPU, seed=0)


def distance(mesh: Mesh, truth: Mesh) -> float:
    bare = Mesh(mesh.vertices, mesh.faces)
    return surface_distance(bare, truth, count=10_000, generator=torch.Generator().manual_seed(0)).chamfer


@pytest.mark.parametrize(("truth", "by", "bound"), [(stretched(), "vertices", 0.0125), (box(), "cage", 0.024)], ids=["ellipsoid", "box"])
def test_the_template_takes_the_shape_of_the_masks_and_keeps_its_texture(
    truth: Mesh, by: Literal["vertices", "cage"], bound: float
) -> None:
    template = Asset(mapped_ball(16), stripes())
    found = fitted(photographed(Asset(truth), cameras_around(16, 64)), template, override(SMALL, by=by)).asset(frame="normalized")
    mesh, start = found.mesh, template.mesh
    assert distance(start, truth) > 0.05 and distance(mesh, truth) < bound
    assert mesh.uvs is not None and mesh.uv_faces is not None and start.uvs is not None and start.uv_faces is not None
    assert torch.equal(mesh.faces, start.faces) and torch.equal(mesh.uvs[mesh.uv_faces.long()], start.uvs[start.uv_faces.long()])
    assert found.material is not None and found.material.base_color is not None and template.material is not None
    assert template.material.base_color is not None and torch.equal(found.material.base_color, template.material.base_color)
    a, b, c = mesh.vertices[mesh.faces.long()].unbind(1)
    outward = (torch.linalg.cross(b - a, c - a) * ((a + b + c) / 3 - mesh.vertices.mean(0))).sum(-1)
    assert bool((outward > 0).all()), "no triangle is flipped"


def test_a_cage_moves_everything_inside_by_the_affine_map_of_its_handles() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.tensor([[-1.0, -0.5, 0.0], [1.0, 2.0, 1.0]])
    points = corners[0] + (corners[1] - corners[0]) * torch.rand(50, 3, generator=generator)
    for handles in (2, 4, 5):
        weights = cage_weights(points, corners, handles)
        torch.testing.assert_close(weights.sum(1), torch.ones(50))
        axes = [torch.linspace(float(low), float(high), handles) for low, high in corners.T]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        torch.testing.assert_close(weights @ places, points, atol=1e-5, rtol=0)


def test_rigid_moves_cost_nothing_and_others_have_the_true_gradient() -> None:
    mesh = ball(5)
    start, edges = mesh.vertices.double(), torch.from_numpy(mesh.edges()[0])
    turn = rotation_between(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.5, 0.7, -0.2])).double()
    assert float(as_rigid_as_possible(start @ turn.T + 1, start, edges)) < 1e-12
    assert float(edge_length_change(3 * start @ turn.T + 1, start, edges)) < 1e-12
    generator = torch.Generator().manual_seed(0)
    moved = (start + 0.05 * torch.randn(start.shape, generator=generator, dtype=torch.float64)).requires_grad_()
    assert float(as_rigid_as_possible(moved, start, edges).detach()) > 1e-3
    assert torch.autograd.gradcheck(lambda vertices: as_rigid_as_possible(vertices, start, edges), moved)
    assert torch.autograd.gradcheck(lambda vertices: edge_length_change(vertices, start, edges), moved)
    assert as_rigid_as_possible(torch.where(start > 0, torch.nan, start), start, edges).isnan()


def test_a_resumed_fit_ends_bit_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unrender.recipes.deform.loop.Fitting", partial(Fitting, report_every=0.0))
    capture, config = photographed(Asset(box()), cameras_around(8)), override(SMALL, steps=6, window=32)
    given = begun(capture, Asset(mapped_ball(), stripes()))
    kept: list[dict[str, torch.Tensor]] = []

    def watch(progress: Progress) -> None:
        if progress.step == 3:
            kept.append(progress.snapshot())

    whole = deform.fit(given, config, device=CPU, seed=1, observer=watch)
    resumed = deform.fit(given, config, device=CPU, seed=1, resume=kept[0])
    rebuilt = deform.load_scene(config, kept[0], CPU)
    assert rebuilt.asset().material is not None and rebuilt.render_view(capture.cameras, 0).color.shape == (40, 40, 3)
    for name, value in whole.scene.state_dict().items():
        assert torch.equal(value, resumed.scene.state_dict()[name]), name


def test_what_a_template_cannot_be_fitted_to_is_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capture = photographed(Asset(box()), cameras_around(8))
    with pytest.raises(ValueError, match=r"ball comes without a template; give one with --mesh FILE"):
        deform.fit(capture, SMALL, device=CPU, seed=0)
    lit = replace(begun(capture, Asset(ball())), environment=EnvironmentLight(torch.ones(6, 4, 4, 3)))
    with pytest.raises(ValueError, match="a light has no part in that; leave --env out"):
        deform.fit(lit, SMALL, device=CPU, seed=0)
    with pytest.raises(CaptureError, match=r"ball has no masks.*unrender mask"):
        fitted(replace(capture, has_masks=False), Asset(ball()))
    folder, far = write_blender(tmp_path / "photos"), ball(6)
    Asset(replace(far, vertices=far.vertices + 1000.0)).export(tmp_path / "far.ply")
    fit = ["fit", "deform", str(folder), "--mesh", str(tmp_path / "far.ply"), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main(fit) == 1 and "far.ply lies outside of every photo of photos" in capfd.readouterr().err
    assert main([*fit, "--by", "handles"]) == 2 and "--by is 'handles'; it must be vertices or cage" in capfd.readouterr().err

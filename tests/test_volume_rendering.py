"""The one volume renderer: what it composites, and that pictures say what their numbers mean."""

from __future__ import annotations

import torch
from torch import Tensor

from unrender.cameras import Cameras, Rays
from unrender.color import srgb_from_linear
from unrender.geometry.mesh import Mesh
from unrender.ops.rays import Samples
from unrender.render.rendering import Rendering, concatenated
from unrender.render.scene import RayScene
from unrender.render.volume import FieldSamples, color_vertices, render_volume


def two_rays() -> tuple[Samples, Rays]:
    """One ray with three samples, one with none."""
    rays = Rays(torch.zeros(2, 3), torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))
    starts = torch.tensor([1.0, 2.0, 4.0])
    index, first, count = (torch.tensor(x, dtype=torch.int32) for x in ([0, 0, 0], [0, 3], [3, 0]))
    return Samples(index, starts, starts + 1, first, count), rays


def test_colors_distances_and_normals_are_weighted_sums() -> None:
    samples, rays = two_rays()
    weights, color, normal = torch.tensor([0.5, 0.25, 0.125]), torch.rand(3, 3), torch.randn(3, 3)
    background = torch.rand(2, 3)
    rendering, found = render_volume(lambda s, r: FieldSamples(weights, color, normal), samples, rays, background)
    torch.testing.assert_close(rendering.opacity, torch.tensor([0.875, 0.0]))
    torch.testing.assert_close(rendering.color[0], weights @ color + 0.125 * background[0])
    torch.testing.assert_close(rendering.color[1], background[1])
    torch.testing.assert_close(rendering.normal, torch.stack([weights @ normal, torch.zeros(3)]))
    torch.testing.assert_close(rendering.distance, torch.tensor([float(weights @ torch.tensor([1.5, 2.5, 4.5])), 0.0]))
    assert found.weights is weights


def test_a_field_without_normals_leaves_them_zero() -> None:
    samples, rays = two_rays()
    rendering, _ = render_volume(lambda s, r: FieldSamples(torch.full((3,), 0.3), torch.rand(3, 3)), samples, rays, torch.zeros(2, 3))
    assert rendering.normal.shape == (2, 3) and not rendering.normal.any()


def test_gradients_reach_weights_colors_normals_and_background() -> None:
    samples, rays = two_rays()
    inputs = [torch.rand(3), torch.rand(3, 3), torch.randn(3, 3), torch.rand(2, 3)]
    cotangents = [torch.randn(2, 3), torch.randn(2), torch.randn(2), torch.randn(2, 3)]

    def total(weights: Tensor, color: Tensor, normal: Tensor, background: Tensor) -> Tensor:
        rendering, _ = render_volume(lambda s, r: FieldSamples(weights, color, normal), samples, rays, background)
        parts = (rendering.color, rendering.opacity, rendering.distance, rendering.normal)
        return torch.stack([(part * cotangent).sum() for part, cotangent in zip(parts, cotangents, strict=True)]).sum()

    inputs = [value.requires_grad_() for value in inputs]
    gradients = torch.autograd.grad(total(*inputs), inputs)
    for which, (value, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        direction = torch.randn_like(value)
        ahead, back = (total(*[v + sign * 1e-2 * direction if k == which else v for k, v in enumerate(inputs)]) for sign in (1, -1))
        torch.testing.assert_close((gradient * direction).sum(), (ahead - back) / 2e-2, atol=2e-3, rtol=2e-3)


def test_the_encoding_of_a_rendering_decides_what_its_numbers_mean() -> None:
    numbers = torch.rand(4, 3)
    empty = torch.zeros(4)
    linear, srgb = (Rendering(numbers, empty, empty, torch.zeros(4, 3), encoding) for encoding in ("linear", "srgb"))
    assert torch.equal(linear.linear, numbers) and torch.equal(srgb.srgb, numbers)
    torch.testing.assert_close(linear.srgb, srgb_from_linear(numbers))
    torch.testing.assert_close(srgb_from_linear(srgb.linear), numbers)


def test_renderings_of_two_encodings_are_not_joined() -> None:
    empty = torch.zeros(4)
    parts = [Rendering(torch.zeros(4, 3), empty, empty, torch.zeros(4, 3), encoding) for encoding in ("linear", "srgb")]
    try:
        concatenated(parts)
    except ValueError as error:
        assert "share one encoding" in str(error)
    else:
        raise AssertionError("two encodings were joined")


class DirectionScene(RayScene):
    """Shows the direction of every ray as its color."""

    def render_chunk(self, rays: Rays) -> Rendering:
        ones = torch.ones(rays.origins.shape[0])
        return Rendering(rays.directions, ones, ones, -rays.directions, encoding="linear")


def test_a_scene_along_rays_renders_views_of_any_number_of_rays() -> None:
    """117 x 83 pixels are more than one chunk, and rows and columns must not be confused."""
    camera = Cameras.alike(torch.eye(4)[None], torch.tensor([[90.0, 80.0, 60.0, 40.0]]), torch.zeros(1, 6), 117, 83)
    rendering = DirectionScene().render_view(camera, 0)
    assert rendering.color.shape == (83, 117, 3) and rendering.opacity.shape == (83, 117)
    torch.testing.assert_close(rendering.color.reshape(-1, 3), camera.image_rays(0).directions)


def test_vertices_are_colored_as_the_most_frontal_viewpoints_see_them() -> None:
    up = torch.tensor([[0.0, 0.0, 1.0]])
    mesh = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]]), normals=up.expand(3, 3).contiguous())
    viewpoints = torch.tensor([[0.0, 0, -3], [0.2, 0, 3], [-0.2, 0, 3], [0, 0.2, 3], [0, -0.2, 3], [9, 0, 1]])

    def direction(points: Tensor, directions: Tensor) -> Tensor:
        return directions

    seen = color_vertices(mesh, direction, viewpoints).colors
    assert seen is not None
    away = torch.nn.functional.normalize(mesh.vertices - viewpoints[1:5, None], dim=-1)
    torch.testing.assert_close(seen, away.mean(0))
    torch.testing.assert_close(color_vertices(mesh, direction).colors, -up.expand(3, 3))

"""Image metrics against their definitions and an independent implementation; surface distances against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh
from skimage.metrics import structural_similarity
from torch import Tensor

from unrender.geometry.distances import SurfaceDistance, points_to_mesh_distance, surface_distance
from unrender.geometry.mesh import Mesh
from unrender.losses.metrics import psnr, ssim


def images(height: int = 40, width: int = 33) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(height, width, 3, generator=generator)
    return image, (image + 0.1 * torch.randn(image.shape, generator=generator)).clamp(0, 1)


def test_psnr_is_minus_ten_log_of_the_mean_squared_error() -> None:
    image, noisy = images()
    mean = np.mean((image.double().numpy() - noisy.double().numpy()) ** 2)
    assert float(psnr(image, noisy)) == pytest.approx(-10 * math.log10(mean), abs=1e-4)


def test_psnr_clamps_values_that_no_display_can_show() -> None:
    white = torch.ones(4, 4, 3)
    assert float(psnr(3 * white, white)) == math.inf
    assert float(psnr(-1 * white, white)) == pytest.approx(0.0, abs=1e-6)


def test_psnr_under_a_mask_sees_nothing_else() -> None:
    image = torch.zeros(2, 2, 3)
    reference = torch.tensor([[0.1, 0.5], [0.9, 0.7]])[..., None].expand(2, 2, 3)
    mask = torch.tensor([[True, False], [False, False]])
    assert float(psnr(image, reference, mask)) == pytest.approx(20.0, abs=1e-4)


@pytest.mark.parametrize("size", [(40, 33), (11, 11)])
def test_ssim_agrees_with_an_independent_implementation(size: tuple[int, int]) -> None:
    image, noisy = images(*size)
    expected = structural_similarity(
        image.numpy(), noisy.numpy(), channel_axis=2, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert float(ssim(image, noisy)) == pytest.approx(expected, abs=1e-6)


def test_ssim_is_symmetric_and_one_for_equal_images() -> None:
    image, noisy = images()
    assert float(ssim(image, noisy)) == pytest.approx(float(ssim(noisy, image)), abs=1e-12)
    assert float(ssim(image, image)) == pytest.approx(1.0, abs=1e-12)


def test_ssim_of_two_flat_images_is_its_luminance_term() -> None:
    a, b = torch.full((16, 16, 3), 0.2), torch.full((16, 16, 3), 0.6)
    assert float(ssim(a, b)) == pytest.approx((2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4), abs=1e-6)


@pytest.mark.parametrize(("height", "width", "side"), [(10, 12, 9), (5, 3, 3), (2, 40, 1), (1, 1, 1), (11, 12, 11)])
def test_ssim_of_an_image_smaller_than_its_window_has_a_smaller_window(height: int, width: int, side: int) -> None:
    """Against the definition: every window on its own, with normalized weights."""
    image, noisy = (x.double().numpy() for x in images(height, width))
    along = np.exp(-0.5 * ((np.arange(side) - side // 2) / 1.5) ** 2)
    weights = np.outer(along, along)[..., None] / along.sum() ** 2
    values = []
    for y in range(height - side + 1):
        for x in range(width - side + 1):
            a, b = image[y : y + side, x : x + side], noisy[y : y + side, x : x + side]
            mean_a, mean_b = (weights * a).sum((0, 1)), (weights * b).sum((0, 1))
            variances = (weights * ((a - mean_a) ** 2 + (b - mean_b) ** 2)).sum((0, 1))
            covariance = (weights * (a - mean_a) * (b - mean_b)).sum((0, 1))
            above = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
            values.append(above / ((mean_a**2 + mean_b**2 + 1e-4) * (variances + 9e-4)))
    assert float(ssim(*images(height, width))) == pytest.approx(np.mean(values), abs=1e-9)


def test_ssim_of_an_image_without_pixels_is_not_a_number() -> None:
    assert math.isnan(float(ssim(torch.zeros(0, 5, 3), torch.zeros(0, 5, 3))))


def brute_force(points: Tensor, mesh: Mesh) -> np.ndarray:
    """Every point against every triangle, with the closest point found by an independent implementation."""
    triangles = mesh.vertices[mesh.faces].double().numpy()
    best = np.full(len(points), np.inf)
    for triangle in triangles:
        closest = trimesh.triangles.closest_point(np.broadcast_to(triangle, (len(points), 3, 3)), points.double().numpy())
        best = np.minimum(best, np.linalg.norm(closest - points.double().numpy(), axis=1))
    return best


def slivers() -> Mesh:
    """Triangles of very different sizes and shapes, some of them very long."""
    generator = torch.Generator().manual_seed(5)
    scale = 10 ** (torch.rand(60, 1, 1, generator=generator) * 3 - 2.5)
    corners = 2 * torch.rand(60, 1, 3, generator=generator) - 1 + scale * torch.randn(60, 3, 3, generator=generator)
    return Mesh(corners.reshape(-1, 3), torch.arange(180).reshape(60, 3))


@pytest.mark.parametrize("mesh", [slivers(), Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))], ids=["slivers", "one triangle"])
def test_the_distance_to_a_mesh_is_exact(mesh: Mesh) -> None:
    points = 4 * torch.rand(300, 3, generator=torch.Generator().manual_seed(1)) - 2
    np.testing.assert_allclose(points_to_mesh_distance(points, mesh).numpy(), brute_force(points, mesh), atol=1e-6)


def test_the_distance_to_a_degenerate_triangle_is_the_distance_to_its_longest_side() -> None:
    line = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [5, 5, 5]]), torch.tensor([[0, 1, 2], [3, 3, 3]]))
    points = torch.tensor([[1.5, 1.0, 0.0], [3.0, 0.0, 0.0], [5.0, 5.0, 6.0]])
    assert points_to_mesh_distance(points, line).tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_the_distance_from_a_sphere_of_points_to_a_box_has_known_values() -> None:
    solid = trimesh.creation.box((2, 2, 2))
    box = Mesh(torch.tensor(solid.vertices, dtype=torch.float32), torch.tensor(solid.faces))
    points = torch.tensor([[3.0, 0, 0], [2.0, 2.0, 2.0], [0.0, 0.25, 0.0], [1.0, 0.3, -0.2], [0.0, 3.0, -4.0]])
    assert points_to_mesh_distance(points, box).tolist() == pytest.approx([2.0, math.sqrt(3), 0.75, 0.0, math.sqrt(13)], abs=1e-6)


def flat(height: float, side: float = 1.0) -> Mesh:
    vertices = torch.tensor([[0.0, 0, height], [side, 0, height], [side, side, height], [0, side, height]])
    return Mesh(vertices, torch.tensor([[0, 1, 2], [0, 2, 3]]))


def measured(a: Mesh | Tensor, b: Mesh | Tensor, threshold: float | None = None) -> SurfaceDistance:
    return surface_distance(a, b, count=20_000, threshold=threshold, generator=torch.Generator().manual_seed(0))


def test_parallel_squares_are_their_gap_apart() -> None:
    result = measured(flat(0.25), flat(0.0), threshold=0.1)
    assert result.accuracy == pytest.approx(0.25, abs=5e-4)
    assert result.completeness == pytest.approx(0.25, abs=5e-4)
    assert result.chamfer == pytest.approx(0.25, abs=5e-4)
    assert result.f_score == 0.0 and result.precision == 0.0 and result.recall == 0.0
    assert result.normal_consistency == pytest.approx(1.0, abs=1e-6)
    assert measured(flat(0.25), flat(0.0), threshold=0.3).f_score == 1.0


def test_a_missing_half_shows_in_completeness_and_not_in_accuracy() -> None:
    """The reference is 2 x 2, the mesh its lower left quarter: (x, y) is max(x - 1, 0) and max(y - 1, 0) away from it."""
    result = measured(flat(0.0, 1.0), flat(0.0, 2.0), threshold=0.05)
    assert result.accuracy < 0.01
    corner = (math.sqrt(2) + math.asinh(1)) / 3
    assert result.completeness == pytest.approx(0.25 * 0 + 0.5 * 0.5 + 0.25 * corner, abs=0.02)
    near = 1 + 2 * 0.05 + math.pi * 0.05**2 / 4
    assert result.recall == pytest.approx(near / 4, abs=0.02)
    assert result.precision > 0.999
    assert result.f_score == pytest.approx(2 * result.precision * result.recall / (result.precision + result.recall))


def test_the_threshold_is_a_hundredth_of_the_diagonal_of_the_reference() -> None:
    assert measured(flat(0.0), flat(0.0, 2.0)).threshold == pytest.approx(0.01 * math.sqrt(8), rel=1e-6)


def test_points_are_taken_as_they_are() -> None:
    cloud = torch.tensor([[0.5, 0.5, 0.125], [0.25, 0.5, 0.125]])
    result = measured(cloud, cloud + torch.tensor([0.0, 0.0, 0.5]), threshold=1.0)
    assert result.chamfer == pytest.approx(0.5) and result.f_score == 1.0
    assert result.normal_consistency is None


def test_nothing_to_measure_is_refused() -> None:
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="without triangles"):
        points_to_mesh_distance(torch.zeros(1, 3), empty)
    with pytest.raises(ValueError, match="without area"):
        measured(empty, flat(0.0))
    with pytest.raises(ValueError, match="no points"):
        measured(torch.zeros(0, 3), flat(0.0))

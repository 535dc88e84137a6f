"""Protocols of benchmarks, on truths so simple that the numbers follow by hand."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from skimage.metrics import structural_similarity

from unrender.cameras import Cameras
from unrender.captures.capture import Capture, Split
from unrender.geometry.mesh import Mesh
from unrender.render.rendering import Rendering
from unrender.render.scene import Scene
from unrender.runs.evaluation import Evaluation, ViewScore, evaluate
from unrender.runs.protocols import dtu, nerf_synthetic, read_dtu_truth, scan_of, surface_points, thinned


def square(side: float, height: float) -> Mesh:
    """A square [0, side]² at one height."""
    corners = torch.tensor([[0.0, 0.0, height], [side, 0.0, height], [side, side, height], [0.0, side, height]])
    return Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32))


def write_truth(folder: Path, points: np.ndarray, *, observed: tuple[int, int] = (0, 30)) -> Path:
    """Points as PLY, and a lattice of cells of 1 mm from (-5, -5, -5), observed where x is in cells from the first to the second."""
    (folder / "Points/stl").mkdir(parents=True)
    (folder / "ObsMask").mkdir()
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n" + "".join(f"property float {axis}\n" for axis in "xyz")
    data = b"".join(struct.pack("<3f", *point) for point in points)
    (folder / "Points/stl/stl024_total.ply").write_bytes(header.encode() + b"end_header\n" + data)
    mask = np.zeros((30, 30, 30), np.uint8)
    mask[observed[0] : observed[1]] = 1
    box = np.array([[-5.0, -5.0, -5.0], [25.0, 25.0, 25.0]])
    scipy.io.savemat(folder / "ObsMask/ObsMask24_10.mat", {"ObsMask": mask, "BB": box, "Res": 1.0})
    scipy.io.savemat(folder / "ObsMask/Plane24.mat", {"P": np.array([[0.0], [0.0], [1.0], [0.5]])})  # z > -0.5
    return folder


def lattice(side: float, height: float, step: float = 0.05) -> np.ndarray:
    x, y = np.meshgrid(np.arange(0, side, step), np.arange(0, side, step))
    return np.stack([x.ravel(), y.ravel(), np.full(x.size, height)], 1)


def test_two_parallel_squares_are_as_far_apart_as_they_are(tmp_path: Path) -> None:
    truth = read_dtu_truth(write_truth(tmp_path, lattice(10, 0.0)), 24)
    found = dtu(square(10, 3.0), truth)
    assert found["accuracy_mm"] == pytest.approx(3.0, abs=1e-3)
    assert found["completeness_mm"] == pytest.approx(3.0, abs=5e-3)  # of points 0.2 mm apart
    assert found["chamfer_mm"] == (found["accuracy_mm"] + found["completeness_mm"]) / 2


def test_what_is_not_observed_is_below_the_plane_or_is_too_far_does_not_count(tmp_path: Path) -> None:
    below = lattice(10, -4.0, 0.5)  # under the table
    far = lattice(2, 24.0, 0.5) + [0.0, 0.0, 2.0]  # 25 mm from the mesh
    truth = read_dtu_truth(write_truth(tmp_path, np.concatenate([lattice(10, 0.0), below, far]), observed=(0, 10)), 24)
    found = dtu(square(10, 0.9), truth)  # not at the border of cells of 0.2
    assert found["completeness_mm"] == pytest.approx(0.9, abs=0.01)
    assert found["points_of_truth"] == len(lattice(10, 0.0)) + len(far)
    assert found["accuracy_mm"] == pytest.approx(0.9, abs=1e-3)
    share = 0.45  # round(x + 5) < 10, so x < 4.5
    assert found["points_of_mesh"] == pytest.approx(share * len(surface_points(square(10, 0.9), 0.2)), rel=0.05)


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of all pairs, by NumPy alone."""
    return np.sqrt(np.square(a[:, None] - b[None]).sum(-1))


def test_points_of_a_surface_keep_their_distance_and_leave_no_gap() -> None:
    generator = np.random.default_rng(0)
    for drawn in (generator.random((3000, 3)) * [4, 4, 0], generator.random((3000, 3)) * 1.5 - 7):
        points = thinned(drawn, 0.2)
        between = distances(points, points) + np.eye(len(points))
        assert between.min() >= 0.2 and distances(drawn, points).min(1).max() < 0.2
        assert {tuple(point) for point in points} <= {tuple(point) for point in drawn}
    flat = surface_points(square(4, 0.0), 0.2)
    packed = len(flat) * np.pi * 0.1**2 / 16
    assert 0.45 < packed < 0.65  # discs in random order cover 0.547 of a plane


def test_distances_are_those_of_the_official_definition_by_brute_force(tmp_path: Path) -> None:
    """Mask, box, plane and largest distance decide about points one by one."""
    generator = np.random.default_rng(1)
    truth_points = generator.random((700, 3)) * [12, 12, 6] + [-1, -1, -3]
    truth_points[:40] += [0, 0, 60]  # farther than 20 mm
    folder = write_truth(tmp_path, truth_points)
    mask = generator.random((30, 30, 30)) < 0.4
    plane = np.array([0.3, -0.2, 1.0, 0.4])
    scipy.io.savemat(folder / "ObsMask/ObsMask24_10.mat", {"ObsMask": mask, "BB": np.array([[-5.0] * 3, [9.0] * 3]), "Res": 0.5})
    scipy.io.savemat(folder / "ObsMask/Plane24.mat", {"P": plane[:, None]})
    corners = torch.tensor([[0.0, 0, -1], [9, 0, 2], [0, 9, 1], [2, 2, 80], [130, 2, 90], [2, 3, 90]])
    mesh = Mesh(corners, torch.tensor([[0, 1, 2], [3, 4, 5]], dtype=torch.int32))
    found = dtu(mesh, read_dtu_truth(folder, 24))

    points = surface_points(mesh, 0.2)
    points = np.array([p for p in points if all(-5 - 60 <= x < 9 + 120 for x in p)])
    observed = []
    for point in points:
        cell = [round(x) for x in (point + 5) / 0.5]
        if all(0 <= index < 30 for index in cell) and mask[tuple(cell)]:
            observed.append(point)
    stored = truth_points.astype(np.float32).astype(np.float64)
    above = [p for p in stored if p @ plane[:3] + plane[3] > 0]
    accuracy, completeness = distances(np.array(observed), stored).min(1), distances(np.array(above), points).min(1)
    assert (accuracy >= 20).sum() == 0 < (completeness >= 20).sum() < len(above)
    assert found["accuracy_mm"] == pytest.approx(accuracy[accuracy < 20].mean(), rel=1e-9)
    assert found["completeness_mm"] == pytest.approx(completeness[completeness < 20].mean(), rel=1e-9)
    assert (found["points_of_mesh"], found["points_of_truth"]) == (len(observed), len(above))


def test_what_is_missing_or_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"download SampleSet\.zip"):
        read_dtu_truth(tmp_path, 24)
    folder = write_truth(tmp_path / "truth", lattice(10, 0.0, 1.0))
    with pytest.raises(ValueError, match="observability mask"):
        dtu(square(1, 900.0), read_dtu_truth(folder, 24))
    (folder / "ObsMask/Plane24.mat").write_bytes(b"nothing" * 40)
    with pytest.raises(ValueError, match=r"Plane24\.mat cannot be read"):
        read_dtu_truth(folder, 24)
    scipy.io.savemat(folder / "ObsMask/Plane24.mat", {"Q": np.ones(4)})
    with pytest.raises(ValueError, match="lacks one of the arrays P"):
        read_dtu_truth(folder, 24)
    with pytest.raises(ValueError, match="rename the capture"):
        scan_of("house", "scanned")
    assert [scan_of(name) for name in ("scan24", "dtu_scan_024", "DTU-Scan118-small")] == [24, 24, 118]


def scored(views: int, split: Split, *, side: int = 800, masks: bool = True) -> dict[str, object]:
    count = len(split.train) + len(split.test)
    cameras = Cameras.alike(torch.eye(4).repeat(count, 1, 1), torch.full((count, 4), 9.0), None, 1, 1)
    photos = torch.zeros(count, 1, 1, 3, dtype=torch.uint8)
    capture = Capture.from_tensors(photos, cameras, masks=photos[..., 0] if masks else None, split=split, name="lego")
    capture = replace(capture, cameras=replace(cameras, sizes=torch.full((count, 2), side)))
    scores = tuple(ViewScore(view, "", 30.0 + view % 2, 0.9, None) for view in range(views))
    return nerf_synthetic(capture, Evaluation("test", scores))


def test_the_official_split_is_recognized_and_differences_are_named() -> None:
    rule = "transforms_train.json is fitted, transforms_test.json is held out"
    official = Split(tuple(range(100)), tuple(range(100, 300)), rule, given=True)
    found = scored(200, official)
    assert (found["psnr"], found["ssim"], found["official"]) == (30.5, pytest.approx(0.9), True)
    for other, said in (
        (scored(25, official), "25 views are scored"),
        (scored(200, replace(official, given=False)), "not those of transforms_test.json"),
        (scored(200, official, side=400), "800 x 800"),
        (scored(200, official, masks=False), "white"),
        (scored(200, replace(official, train=tuple(range(50)))), "50 views are fitted"),
    ):
        assert not other["official"] and said in " ".join(map(str, other["differences"])), said  # pyright: ignore[reportArgumentType]


class Recorded(Scene):
    """Shows given pictures."""

    def __init__(self, pictures: torch.Tensor) -> None:
        super().__init__()
        self.pictures = pictures

    def render_view(self, cameras: Cameras, view: int) -> Rendering:
        color = self.pictures[view]
        return Rendering(color, torch.ones(color.shape[:2]), torch.ones(color.shape[:2]), torch.zeros_like(color), "srgb")


def test_scores_of_nerf_synthetic_are_means_over_the_views_on_white() -> None:
    """By NumPy and scikit-image, from photos with straight alpha; the mean of the PSNRs, not that of the mean error."""
    generator = np.random.default_rng(0)
    photos, alpha = (generator.integers(0, 256, shape, dtype=np.uint8) for shape in ((3, 30, 24, 3), (3, 30, 24)))
    share = alpha[..., None] / 255
    white = photos / 255 * share + (1 - share)
    noise = np.array([0.02, 0.1, 0.3])[:, None, None, None]
    pictures = (white + noise * generator.standard_normal(white.shape)).astype(np.float32)
    cameras = Cameras.alike(torch.eye(4).repeat(3, 1, 1), torch.full((3, 4), 12.0), None, 24, 30)
    split = Split((0,), (1, 2), "transforms_test.json is held out", given=True)
    capture = Capture.from_tensors(torch.from_numpy(photos), cameras, masks=torch.from_numpy(alpha), split=split, name="lego")
    row = nerf_synthetic(capture, evaluate(Recorded(torch.from_numpy(pictures)), capture, device=torch.device("cpu")))
    shown = pictures.clip(0, 1).astype(np.float64)
    psnr = [-10 * np.log10(np.square(shown[view] - white[view]).mean()) for view in (1, 2)]
    similar = [
        structural_similarity(
            shown[view], white[view], channel_axis=2, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for view in (1, 2)
    ]
    assert row["psnr"] == pytest.approx(np.mean(psnr), abs=1e-4) and row["ssim"] == pytest.approx(np.mean(similar), abs=1e-5)
    assert row["views"] == 2 and not row["official"]

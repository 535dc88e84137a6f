"""Protocols of benchmarks, on truths so simple that the numbers follow by hand."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

from unrender.cameras import Cameras
from unrender.captures.capture import Capture, Split
from unrender.geometry.mesh import Mesh
from unrender.runs.evaluation import Evaluation, ViewScore
from unrender.runs.protocols import dtu, nerf_synthetic, read_dtu_truth, scan_of, surface_points


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


def test_points_of_a_surface_are_one_a_cell() -> None:
    points = surface_points(square(4, 0.0), 0.2)
    assert 0.95 * 400 < len(points) <= 21 * 21
    assert len(np.unique(np.floor(points / 0.2), axis=0)) == len(points)


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

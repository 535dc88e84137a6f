"""The protocol of Stanford-ORB, against NumPy on a generated truth."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from tiny_captures import write_blender
from unrender.cameras import Cameras
from unrender.captures.capture import Capture, Split
from unrender.captures.load import load_capture
from unrender.geometry.mesh import Mesh
from unrender.render.rendering import Rendering
from unrender.runs.evaluation import ViewScore
from unrender.runs.stanford_orb import OrbViews, depth_si_mse, picture_scores, squared_chamfer
from unrender.transforms import look_at, similarity

OpenEXR = pytest.importorskip("OpenEXR")
SIDE, VIEWS = 24, 3


def srgb(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)


def test_pictures_are_scaled_by_channel_inside_the_mask_and_limited() -> None:
    generator = np.random.default_rng(0)
    truth = (generator.random((SIDE, SIDE, 3)) * 6).astype(np.float32)
    color = (truth * [0.5, 3.0, 1.0] * (1 + 0.2 * generator.standard_normal(truth.shape))).clip(0).astype(np.float32)
    inside = generator.random((SIDE, SIDE)) < 0.6
    color[~inside] = 99.0  # does not count
    found = picture_scores(torch.from_numpy(color), torch.from_numpy(truth), torch.from_numpy(inside))
    a, b = color[inside].astype(float), truth[inside].astype(float)
    for channel in range(3):
        a[:, channel] *= np.linalg.lstsq(a[:, [channel]], b[:, channel], rcond=None)[0][0]
    assert found.psnr_h == pytest.approx(-10 * np.log10(np.mean((a.clip(0, 4) - b.clip(0, 4)) ** 2)), abs=1e-4)
    low, high = srgb(a.clip(0, 1)), srgb(b.clip(0, 1))
    assert found.psnr_l == pytest.approx(-10 * np.log10(np.mean((low - high) ** 2)), abs=1e-4)
    pictures = np.zeros((2, SIDE, SIDE, 3))
    pictures[0][inside], pictures[1][inside] = low, high
    blurred = partial(gaussian_filter, sigma=1.5, axes=(0, 1), truncate=0.7)  # one pixel to each side
    (x, y), (c1, c2) = pictures, (0.01**2, 0.03**2)
    mean_x, mean_y = blurred(x), blurred(y)
    spread = blurred(x * x) - mean_x**2 + blurred(y * y) - mean_y**2
    similar = (2 * mean_x * mean_y + c1) * (2 * (blurred(x * y) - mean_x * mean_y) + c2) / ((mean_x**2 + mean_y**2 + c1) * (spread + c2))
    assert found.ssim == pytest.approx(similar[1:-1, 1:-1].mean(), abs=1e-5)


def test_a_channel_without_light_is_left_as_it_is() -> None:
    truth = torch.full((4, 4, 3), 0.5)
    dark = truth * torch.tensor([0.0, 1.0, 1.0])
    found = picture_scores(dark, truth, torch.ones(4, 4, dtype=torch.bool))
    assert found.psnr_h == pytest.approx(-10 * np.log10(0.25 / 3), abs=1e-6)


def test_depth_error_is_the_variance_of_the_log_ratio() -> None:
    generator = np.random.default_rng(0)
    z, truth = generator.random(500) + 2, generator.random(500) + 3
    pairs = np.log(z / truth)[:, None] - np.log(z / truth)[None]
    assert depth_si_mse(torch.from_numpy(z).float(), torch.from_numpy(truth).float()) == pytest.approx(
        np.square(pairs).mean() / 2, rel=1e-4
    )


def test_chamfer_is_squared_and_summed() -> None:
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    lower = Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32))
    upper = Mesh(corners + torch.tensor([0.0, 0.0, 0.3]), lower.faces)
    assert squared_chamfer(lower, upper) == pytest.approx(2 * 0.09, rel=1e-3)


def write_exr(file: Path, color: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    OpenEXR.File({"compression": OpenEXR.ZIP_COMPRESSION}, {"RGB": np.ascontiguousarray(color, np.float32)}).write(str(file))


def write_array(file: Path, array: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, array)


@pytest.mark.parametrize("stored", ["OpenGL axes of the camera", "OpenCV axes of the camera", "the frame of the poses"])
def test_a_row_of_the_table_is_right(tmp_path: Path, stored: str) -> None:
    """A plane seen by three cameras whose depths, normals and colors differ from the truth by known factors."""
    generator = np.random.default_rng(0)
    positions = torch.tensor([[2.0, -3.0, 1.5], [0.5, -2.5, 2.0], [-1.0, -3.5, 1.0]])
    poses = look_at(positions, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    turn = torch.linalg.qr(torch.from_numpy(generator.standard_normal((3, 3))))[0]
    turn *= torch.linalg.det(turn).sign()
    cameras = Cameras.alike(poses, torch.tensor([[30.0, 30.0, 12.0, 12.0]]).repeat(VIEWS, 1), None, SIDE, SIDE)
    masks = torch.zeros(VIEWS, SIDE, SIDE, dtype=torch.uint8)
    masks[:, 4:20, 6:18] = 255
    split = Split((), tuple(range(VIEWS)), "", given=True)
    photos = torch.randint(0, 256, (VIEWS, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    names = [f"test/{view:04d}.png" for view in range(VIEWS)]
    frame = similarity(torch.tensor([5.0, 6.0, 7.0]).double(), 2.5, turn)
    capture = Capture.from_tensors(photos, cameras, masks=masks, split=split, name="teapot_scene001", names=names, source_from_world=frame)

    views, depths, cosines = OrbViews(capture, tmp_path, capture.name), [], []
    truth_folder = tmp_path / "ground_truth/teapot_scene001"
    for view in range(VIEWS):
        rays = cameras[view].image_rays(0).directions.reshape(SIDE, SIDE, 3).double().numpy()
        pose = poses[view].double().numpy()
        normal = -rays + 0.4 * generator.standard_normal(rays.shape)
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        tilted = normal + 0.3 * generator.standard_normal(rays.shape)
        tilted /= np.linalg.norm(tilted, axis=-1, keepdims=True)
        distance = 3 + generator.random((SIDE, SIDE))
        noise = 1 + 0.05 * generator.standard_normal((SIDE, SIDE))
        z = distance * (rays @ pose[:3, 2])
        write_array(truth_folder / f"z_depth/{view:04d}.npy", (7 * z * noise).astype(np.float32))
        in_camera = tilted @ pose[:3, :3]
        in_axes = {"OpenGL axes of the camera": in_camera * [1, -1, -1], "OpenCV axes of the camera": in_camera}
        write_array(truth_folder / f"surface_normal/{view:04d}.npy", in_axes.get(stored, tilted @ turn.numpy().T).astype(np.float32))
        light = generator.random((SIDE, SIDE, 3)).astype(np.float32) * 3
        write_exr(tmp_path / f"blender_HDR/teapot_scene001/test/{view:04d}.exr", light)
        rendering = Rendering(
            torch.from_numpy(light * [2.0, 0.5, 1.0]).float(),
            torch.ones(SIDE, SIDE),
            torch.from_numpy(distance).float(),
            torch.from_numpy(normal).float(),
            encoding="linear",
        )
        views(ViewScore(view, names[view], 0.0, 0.0, None), capture.color(view), rendering)
        inside = masks[view].numpy() > 127
        depths.append(np.var(np.log(noise[inside])))
        cosines.append(1 - (normal * tilted).sum(-1)[inside].mean())
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    surface = Mesh(corners, torch.tensor([[0, 1, 2]], dtype=torch.int32))
    (truth_folder / "mesh_blender").mkdir()
    (truth_folder / "mesh_blender/mesh.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    row = views.result(surface)
    assert row["psnr_h"] > 60 and row["psnr_l"] > 60 and row["ssim"] > 0.9999
    assert row["depth_si_mse"] == pytest.approx(np.mean(depths), rel=1e-3)
    assert row["normal_cosine_distance"] == pytest.approx(np.mean(cosines), rel=1e-3) and row["normals_are_in"] == stored
    assert row["chamfer"] < 1e-4 and row["views"] == VIEWS and row["lpips"] is None
    assert not any("are not there" in said for said in row["differences"])


def test_what_is_missing_is_said_in_one_sentence(tmp_path: Path) -> None:
    cameras = Cameras.alike(torch.eye(4)[None], torch.tensor([[30.0, 30.0, 12.0, 12.0]]), None, SIDE, SIDE)
    photos = torch.full((1, SIDE, SIDE, 3), 99, dtype=torch.uint8)
    rendering = Rendering(
        torch.full((SIDE, SIDE, 3), 0.1), torch.ones(SIDE, SIDE), torch.ones(SIDE, SIDE), torch.zeros(SIDE, SIDE, 3), "srgb"
    )
    mesh = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]], dtype=torch.int32))
    for masks in (None, photos[..., 0] * 0 + 255):
        capture = Capture.from_tensors(photos, cameras, masks=masks, name="car_scene002")
        views = OrbViews(capture, tmp_path, capture.name)
        views(ViewScore(0, "test/0000.png", 0.0, 0.0, None), capture.color(0), rendering)
        if masks is None:
            with pytest.raises(ValueError, match="no view has a mask"):
                views.result(mesh)
    row = views.result(mesh)  # pyright: ignore[reportPossiblyUnboundVariable]
    assert row["psnr_h"] is row["chamfer"] is row["depth_si_mse"] is row["relighting"] is None and row["psnr_l"] > 100
    (sentence,) = [said for said in row["differences"] if "are not there" in said]
    assert "depths, normals, surface" in sentence and "stanfordorb.github.io" in sentence
    write_array(tmp_path / "ground_truth/car_scene002/z_depth/0000.npy", np.ones((3, 3)))
    with pytest.raises(ValueError, match=r"0000\.npy is \(3, 3\)"):
        views(ViewScore(0, "test/0000.png", 0.0, 0.0, None), torch.zeros(SIDE, SIDE, 3), rendering)
    (tmp_path / "ground_truth/car_scene002/z_depth/0000.npy").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        views(ViewScore(0, "test/0000.png", 0.0, 0.0, None), torch.zeros(SIDE, SIDE, 3), rendering)


def test_masks_in_folders_named_like_those_of_the_photos_are_found(tmp_path: Path) -> None:
    from PIL import Image

    folder = write_blender(tmp_path / "scan", alpha=False)
    for file in sorted(folder.glob("*/*.png")):
        with Image.open(file) as photo:
            size = photo.size
        mask = np.zeros((size[1], size[0]), np.uint8)
        mask[size[1] // 3 : 2 * size[1] // 3, size[0] // 3 : 2 * size[0] // 3] = 255
        place = file.parent.with_name(f"{file.parent.name}_mask")
        place.mkdir(exist_ok=True)
        Image.fromarray(mask).save(place / file.name)
    capture = load_capture(folder)
    assert capture.has_masks and float((capture.mask(0) > 127).float().mean()) == pytest.approx(1 / 9, abs=0.03)

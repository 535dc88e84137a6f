"""Captures of COLMAP: models as text and binary, their lenses, photos, masks, splits and points."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tiny_captures import (
    BALL,
    COLMAP_MODELS,
    COLMAP_POINTS,
    FOCAL,
    SIZE,
    ball_photo,
    opengl_poses,
    write_colmap,
    write_colmap_model,
    write_llff,
)
from unrender.cameras import Cameras
from unrender.captures import colmap_model, load_capture
from unrender.captures.capture import Capture, CaptureError
from unrender.captures.colmap import find_colmap, read_colmap
from unrender.captures.colmap_lenses import MODELS, PARAMETERS, Lens, lens_of
from unrender.captures.source import Source
from unrender.transforms import inverse_similarity, transformed


def source_of(folder: Path, test_every: int = 8) -> Source:
    place = find_colmap(folder)
    assert place is not None
    return read_colmap(folder, place, test_every)


def note_of(source: Source | Capture, words: str) -> str:
    found = [note for note in source.notes if words in note]
    assert len(found) == 1, source.notes
    return found[0]


@pytest.mark.parametrize("form", ["bin", "txt"])
@pytest.mark.parametrize("model", ["sparse/0", "colmap/sparse/0", "sparse", ""])
def test_poses_are_those_that_were_written(tmp_path: Path, form: str, model: str) -> None:
    source = source_of(write_colmap(tmp_path / "ball", form=form, model=model))
    expected = np.stack(opengl_poses(9)) @ np.diag([1.0, -1.0, -1.0, 1.0])
    np.testing.assert_allclose(source.source_from_camera.numpy(), expected, atol=1e-12)
    assert source.intrinsics.tolist() == [[FOCAL, FOCAL, SIZE[0] / 2, SIZE[1] / 2]] * 9
    assert source.names == tuple(f"images/{k:03d}.png" for k in range(9))
    assert source.points is not None and source.point_colors is not None
    np.testing.assert_allclose(source.points.numpy(), COLMAP_POINTS, atol=1e-12)
    assert source.point_colors.tolist() == [[k, 20, 30] for k in range(1, 7)]
    assert source.split.test == (0, 8) and not source.notes


def test_the_ball_is_seen_where_it_is(tmp_path: Path) -> None:
    capture = load_capture(write_colmap(tmp_path / "ball", masks="masks/{}.png"))
    assert capture.has_masks and not capture.unbounded
    center = transformed(torch.tensor(BALL)[None], inverse_similarity(capture.source_from_world)).float()
    for view in range(len(capture)):
        pixels, _ = capture.cameras.project(center, view)
        rows, columns = torch.nonzero(capture.mask(view), as_tuple=True)
        assert abs(float(columns.float().mean()) + 0.5 - float(pixels[0, 0])) < 0.5
        assert abs(float(rows.float().mean()) + 0.5 - float(pixels[0, 1])) < 0.5
    assert capture.points is not None
    torch.testing.assert_close((capture.points - center).norm(dim=-1), (capture.points[0] - center[0]).norm().expand(6))


@pytest.mark.parametrize("masks", ["masks/{}.png", "masks/{}", "mask/{}.png", "mask/{}"])
def test_masks_are_found_by_the_names_of_photos(tmp_path: Path, masks: str) -> None:
    folder = write_colmap(tmp_path / "ball", masks=masks)
    assert source_of(folder).masks == tuple(folder / masks.format(f"{k:03d}.png") for k in range(9))
    (folder / masks.format("004.png")).unlink()
    with pytest.raises(CaptureError, match=r"has no mask for 004.png"):
        source_of(folder)


def test_masks_of_lens_circles_say_which_pixels_count(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path / "ball", masks="masks/{}.png")
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    circle = np.where((x - 20) ** 2 + (y - 15) ** 2 < 17**2, 255, 0).astype(np.uint8)
    for file in (folder / "masks").iterdir():
        Image.fromarray(circle).save(file)
    capture = load_capture(folder)
    assert not capture.has_masks and capture.unbounded and capture.ignored is not None
    assert torch.equal(capture.ignored[3], torch.from_numpy(circle == 0))


def test_text_may_have_comments_blank_lines_and_names_with_blanks(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path / "ball", form="txt")
    (folder / "images" / "004.png").rename(folder / "images" / "photo 4 of 9.png")
    images = folder / "sparse" / "0" / "images.txt"
    text = images.read_text().replace("004.png", "photo 4 of 9.png")
    lines = text.splitlines()
    lines[2], lines[4] = "", "   "  # features of the first two images
    images.write_text("# a\r\n\r\n#b\r\n" + "\r\n".join(lines) + "\r\n")
    cameras = folder / "sparse" / "0" / "cameras.txt"
    cameras.write_text("\n# cameras\n\n" + cameras.read_text())
    source = source_of(folder)
    assert source.names[-1] == "images/photo 4 of 9.png" and len(source.names) == 9
    np.testing.assert_allclose(source.source_from_camera[4].numpy(), opengl_poses(9)[5] @ np.diag([1.0, -1.0, -1.0, 1.0]), atol=1e-12)


def test_text_without_lines_of_features_is_read_too(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path / "ball", form="txt")
    images = folder / "sparse" / "0" / "images.txt"
    images.write_text("".join(line + "\n" for line in images.read_text().splitlines() if ".png" in line))
    assert len(source_of(folder).names) == 9


def test_features_of_a_megabyte_are_skipped(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path / "ball", form="txt")
    images = folder / "sparse" / "0" / "images.txt"
    images.write_text(images.read_text().replace("1.5 2.5 1", "1.5 2.5 1 " * 100_000))
    assert len(source_of(folder).names) == 9


def test_of_several_models_the_largest_is_read(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path / "ball")
    camera = ("PINHOLE", *SIZE, [FOCAL, FOCAL, SIZE[0] / 2, SIZE[1] / 2])
    listed = [(f"{k:03d}.png", 1, pose) for k, pose in enumerate(opengl_poses(9))]
    write_colmap_model(folder / "sparse" / "0", {1: camera}, listed[:4])
    write_colmap_model(folder / "sparse" / "10", {1: camera}, listed)
    write_colmap_model(folder / "sparse" / "2", {1: camera}, listed[:3], form="txt")
    source = source_of(folder)
    assert len(source.names) == 9 and source.files[0] == folder / "sparse" / "10" / "cameras.bin"
    assert "sparse/10 (images: sparse/0: 4, sparse/2: 3, sparse/10: 9)" in note_of(source, "of 3 models")


def test_binary_wins_over_text_with_a_note(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path / "ball")
    for name in ("cameras", "images", "points3D"):
        (folder / "sparse" / "0" / f"{name}.txt").write_text("not read\n")
    (folder / "sparse" / "0" / "rigs.bin").write_bytes(b"ignored")
    source = source_of(folder)
    assert len(source.names) == 9
    note_of(source, "both cameras.bin and cameras.txt")


def test_photos_smaller_than_the_cameras_scale_each_axis(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path / "ball", images="images_4")
    camera = ("OPENCV", 4 * SIZE[0] + 1, 4 * SIZE[1] - 1, [180.0, 181.0, 81.0, 59.0, 0.1, 0.0, 0.0, 0.001])
    write_colmap_model(folder / "sparse" / "0", {1: camera}, [(f"{k:03d}.png", 1, pose) for k, pose in enumerate(opengl_poses(9))])
    source = source_of(folder)
    across, down = SIZE[0] / (4 * SIZE[0] + 1), SIZE[1] / (4 * SIZE[1] - 1)
    np.testing.assert_allclose(source.intrinsics[0].numpy(), [180 * across, 181 * down, 81 * across, 59 * down])
    assert source.distortion[0].tolist() == [0.1, 0, 0, 0, 0, 0.001]
    note_of(source, "the photos are those of images_4")
    note_of(source, "scaled from 161x119 to the 40x30 pixels of the photos in images_4")
    shutil.copytree(folder / "images_4", folder / "images")
    for file in (folder / "images").iterdir():
        Image.open(file).resize((4 * SIZE[0] + 1, 4 * SIZE[1] - 1)).save(file)
    assert source_of(folder).intrinsics[0].tolist() == [180.0, 181.0, 81.0, 59.0]


def test_cameras_of_several_sizes_and_lenses(tmp_path: Path) -> None:
    folder = tmp_path / "two"
    names = ["a/1.png", "b/1.png", "a/2.png", "b/2.png"]
    cameras = {
        7: ("PINHOLE", *SIZE, [FOCAL, FOCAL, SIZE[0] / 2, SIZE[1] / 2]),
        9: ("OPENCV_FISHEYE", 30, 40, [30.0, 31.0, 15.0, 20.0, 0.1, 0.02, 0.003, 0.0004]),
    }
    for name in names:
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE if name.startswith("a") else (30, 40)).save(folder / "images" / name)
    listed = [(name, 7 if name.startswith("a") else 9, pose) for name, pose in zip(names, opengl_poses(4), strict=True)]
    source = source_of(Path(write_colmap_model(folder / "sparse" / "0", cameras, listed)).parents[1])
    assert source.names == ("images/a/1.png", "images/a/2.png", "images/b/1.png", "images/b/2.png")
    assert source.sizes.tolist() == [[40, 30], [40, 30], [30, 40], [30, 40]]
    assert source.fisheye.tolist() == [False, False, True, True]
    assert source.distortion[3].tolist() == [0.1, 0.02, 0.003, 0.0004, 0.0, 0.0]


def test_photos_without_a_pose_and_images_without_a_photo_are_named(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path / "ball")
    (folder / "images" / "003.png").rename(folder / "images" / "blurred.png")
    source = source_of(folder)
    assert len(source.names) == 8
    assert "(blurred.png)" in note_of(source, "1 photos have no pose")
    assert "(003.png)" in note_of(source, "1 of the 9 images of the model have no photo")
    for k in (0, 1, 2, 4, 5):
        (folder / "images" / f"{k:03d}.png").unlink()
    with pytest.raises(CaptureError, match=r"6 of the 9 images .* have no photo"):
        source_of(folder)


def test_a_photo_turned_by_its_orientation_is_taken_as_stored(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path / "ball")
    exif = Image.Exif()
    for file in (folder / "images").iterdir():
        exif[0x0112] = 3 if file.name == "001.png" else 6
        Image.open(file).save(file, exif=exif)
    capture = load_capture(folder)
    for view, pose in enumerate(opengl_poses(9)):
        assert torch.equal(capture.photos[view][..., :3], torch.from_numpy(ball_photo(pose)[..., :3]))
    note_of(capture, "EXIF orientation is not applied")


@pytest.mark.parametrize(
    ("lists", "train", "test"),
    [
        ({"train": "000.png\n001.png\n", "test": "005.png\r\n007.png\r\n"}, (0, 1), (5, 7)),
        ({"test": "005.png\n"}, (0, 1, 2, 3, 4, 6, 7, 8), (5,)),
        ({"train": "000.png\n001\n"}, (0, 1), (2, 3, 4, 5, 6, 7, 8)),
        ({"train": "000.png\n", "validation": "images/004.JPG\n"}, (0,), (4,)),
    ],
)
def test_lists_beside_the_photos_are_the_split(
    tmp_path: Path, lists: dict[str, str], train: tuple[int, ...], test: tuple[int, ...]
) -> None:
    folder = write_colmap(tmp_path / "ball")
    for name, text in lists.items():
        (folder / f"{name}_list.txt").write_text(text)
    split = source_of(folder).split
    assert (split.train, split.test) == (train, test) and "_list.txt" in split.rule


def test_a_list_of_other_photos_is_an_error(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path / "ball")
    (folder / "train_list.txt").write_text("elsewhere.png\n")
    with pytest.raises(CaptureError, match=r"train_list.txt lists no view of the model \(elsewhere.png\)"):
        load_capture(folder)


def test_colmap_wins_over_llff(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path / "ball")
    write_llff(tmp_path / "other", masks=False)
    shutil.copy(tmp_path / "other" / "poses_bounds.npy", folder)
    assert "read sparse/ and not poses_bounds.npy, which is there too" in load_capture(folder).notes


def test_an_empty_file_of_points_is_none(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path / "ball", form="txt")
    (folder / "sparse" / "0" / "points3D.txt").write_bytes(b"")
    assert source_of(folder).points is None and load_capture(folder).points is None


@pytest.mark.parametrize("block", [60, 1000, 2**24])
def test_points_are_read_in_blocks_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    rng = np.random.default_rng(0)
    points, colors = rng.normal(size=(300, 3)), rng.integers(0, 256, (300, 3))
    data = struct.pack("<Q", 300)
    for point, color in zip(points.tolist(), colors.tolist(), strict=True):
        track = int(rng.integers(0, 400))
        data += struct.pack("<Q3d3BdQ", 1, *point, *color, 0.5, track) + bytes(8 * track)
    (tmp_path / "points3D.bin").write_bytes(data)
    monkeypatch.setattr(colmap_model, "_BLOCK", block)
    found, shades = colmap_model.read_model_points(tmp_path / "points3D.bin")
    assert np.array_equal(found, points) and np.array_equal(shades, colors)


# ------------------------------------------------------------------------------------------------------------------------------- lenses


def perspective(x: np.ndarray, y: np.ndarray, z: np.ndarray, f: list[float], c: list[float], k: dict[str, float]) -> np.ndarray:
    """OpenCV's model, rational where k4 to k6 are given."""
    u, v = x / z, y / z
    r = u**2 + v**2
    radial = 1 + sum(k.get(f"k{i}", 0) * r**i for i in (1, 2, 3))
    radial /= 1 + sum(k.get(f"k{i + 3}", 0) * r**i for i in (1, 2, 3))
    p1, p2 = k.get("p1", 0), k.get("p2", 0)
    across = u * radial + 2 * p1 * u * v + p2 * (r + 2 * u**2)
    down = v * radial + p1 * (r + 2 * v**2) + 2 * p2 * u * v
    return np.stack((f[0] * across + c[0], f[1] * down + c[1]), -1)


def fisheye(x: np.ndarray, y: np.ndarray, z: np.ndarray, f: list[float], c: list[float], k: list[float]) -> np.ndarray:
    theta, phi = np.arctan2(np.hypot(x, y), z), np.arctan2(y, x)
    bent = theta + sum(value * theta ** (2 * i + 3) for i, value in enumerate(k))
    return np.stack((f[0] * bent * np.cos(phi) + c[0], f[1] * bent * np.sin(phi) + c[1]), -1)


def rays_below(degrees: float, count: int = 400) -> np.ndarray:
    rng = np.random.default_rng(3)
    theta, phi = np.radians(degrees) * np.sqrt(rng.random(count)), 2 * np.pi * rng.random(count)
    return np.stack((np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)))


def projected(lens: Lens, rays: np.ndarray) -> np.ndarray:
    camera = Cameras.alike(
        torch.eye(4, dtype=torch.float64)[None],
        torch.tensor([lens.intrinsics], dtype=torch.float64),
        torch.tensor([lens.distortion], dtype=torch.float64),
        1000,
        800,
        "fisheye" if lens.fisheye else "opencv",
    )
    return camera.project(torch.from_numpy(rays.T.copy()) * 3, 0)[0].numpy()


Formula = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
F, C = [900.0, 910.0], [480.0, 390.0]
EXACT: dict[str, tuple[list[float], Formula]] = {
    "SIMPLE_PINHOLE": ([900, *C], lambda x, y, z: perspective(x, y, z, [900, 900], C, {})),
    "PINHOLE": ([*F, *C], lambda x, y, z: perspective(x, y, z, F, C, {})),
    "SIMPLE_RADIAL": ([900, *C, -0.1], lambda x, y, z: perspective(x, y, z, [900, 900], C, {"k1": -0.1})),
    "RADIAL": ([900, *C, -0.1, 0.03], lambda x, y, z: perspective(x, y, z, [900, 900], C, {"k1": -0.1, "k2": 0.03})),
    "OPENCV": (
        [*F, *C, -0.1, 0.03, 0.001, -0.002],
        lambda x, y, z: perspective(x, y, z, F, C, {"k1": -0.1, "k2": 0.03, "p1": 0.001, "p2": -0.002}),
    ),
    "FULL_OPENCV": (
        [*F, *C, -0.1, 0.03, 0.001, -0.002, 0.004, 0, 0, 0],
        lambda x, y, z: perspective(x, y, z, F, C, {"k1": -0.1, "k2": 0.03, "p1": 0.001, "p2": -0.002, "k3": 0.004}),
    ),
    "OPENCV_FISHEYE": ([*F, *C, 0.03, -0.01, 0.002, 0.001], lambda x, y, z: fisheye(x, y, z, F, C, [0.03, -0.01, 0.002, 0.001])),
    "SIMPLE_RADIAL_FISHEYE": ([900, *C, 0.03], lambda x, y, z: fisheye(x, y, z, [900, 900], C, [0.03])),
    "RADIAL_FISHEYE": ([900, *C, 0.03, 0.01], lambda x, y, z: fisheye(x, y, z, [900, 900], C, [0.03, 0.01])),
    "SIMPLE_FISHEYE": ([900, *C], lambda x, y, z: fisheye(x, y, z, [900, 900], C, [])),
    "FISHEYE": ([*F, *C], lambda x, y, z: fisheye(x, y, z, F, C, [])),
    "THIN_PRISM_FISHEYE": (
        [*F, *C, 0.03, -0.01, 0, 0, 0.002, 0.001, 0, 0],
        lambda x, y, z: fisheye(x, y, z, F, C, [0.03, -0.01, 0.002, 0.001]),
    ),
    "RAD_TAN_THIN_PRISM_FISHEYE": (
        [*F, *C, 0.03, -0.01, 0.002, 0.001, *[0] * 8],
        lambda x, y, z: fisheye(x, y, z, F, C, [0.03, -0.01, 0.002, 0.001]),
    ),
}


def fov(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Devernay and Faugeras (2001), ω = 0.9."""
    ru, phi = np.hypot(x, y) / z, np.arctan2(y, x)
    rd = np.arctan(2 * ru * np.tan(0.45)) / 0.9
    return np.stack((F[0] * rd * np.cos(phi) + C[0], F[1] * rd * np.sin(phi) + C[1]), -1)


def division(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Fitzgibbon (2001), k = -0.1, solved by bisection."""
    ru, phi = np.hypot(x, y) / z, np.arctan2(y, x)
    low, high = np.zeros_like(ru), np.full_like(ru, 3.0)
    for _ in range(60):
        middle = (low + high) / 2
        beyond = middle / (1 - 0.1 * middle**2) > ru
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    return np.stack((F[0] * low * np.cos(phi) + C[0], F[1] * low * np.sin(phi) + C[1]), -1)


def eucm(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    below = 0.6 * np.sqrt(1.1 * (x**2 + y**2) + z**2) + 0.4 * z
    return np.stack((F[0] * x / below + C[0], F[1] * y / below + C[1]), -1)


def thin_prism(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    u, v = ((fisheye(x, y, z, [1, 1], [0, 0], []))[:, i] for i in (0, 1))
    t = u**2 + v**2
    radial = 1 + 0.02 * t - 0.01 * t**2
    u, v = u * radial + 1e-4 * t, v * radial - 5e-5 * t
    return np.stack((F[0] * u + C[0], F[1] * v + C[1]), -1)


FITTED: dict[str, tuple[list[float], Formula]] = {
    "FULL_OPENCV": (
        [*F, *C, -0.2, 0.05, 0.001, -0.002, 0.01, 0.05, 0.01, 0.002],
        lambda x, y, z: perspective(
            x, y, z, F, C, {"k1": -0.2, "k2": 0.05, "p1": 0.001, "p2": -0.002, "k3": 0.01, "k4": 0.05, "k5": 0.01, "k6": 0.002}
        ),
    ),
    "FOV": ([*F, *C, 0.9], fov),
    "SIMPLE_DIVISION": ([900, *C, 0.0], lambda x, y, z: perspective(x, y, z, [900, 900], C, {})),
    "DIVISION": ([*F, *C, -0.1], division),
    "EUCM": ([*F, *C, 0.6, 1.1], eucm),
    "THIN_PRISM_FISHEYE": ([*F, *C, 0.02, -0.01, 0, 0, 0, 0, 1e-4, -5e-5], thin_prism),
    "RAD_TAN_THIN_PRISM_FISHEYE": (
        [*F, *C, 0.03, -0.01, 0.002, 0.001, -0.0005, 0.0001, *[0] * 6],
        lambda x, y, z: fisheye(x, y, z, F, C, [0.03, -0.01, 0.002, 0.001, -0.0005, 0.0001]),
    ),
}


@pytest.mark.parametrize("model", EXACT)
def test_lenses_that_our_polynomials_hold_are_exact(model: str) -> None:
    parameters, formula = EXACT[model]
    lens = lens_of(model, tuple(map(float, parameters)), 1000, 800, "camera 1")
    rays = rays_below(35)
    assert lens.error is None
    assert np.abs(projected(lens, rays) - formula(*rays)).max() < 1e-9


@pytest.mark.parametrize("model", FITTED)
def test_other_lenses_are_fitted_and_the_error_is_true(model: str) -> None:
    parameters, formula = FITTED[model]
    lens = lens_of(model, tuple(map(float, parameters)), 1000, 800, "camera 1")
    rays = rays_below(60, 4000)
    pixels = formula(*rays)
    inside = ((pixels >= 0) & (pixels <= [1000, 800])).all(-1)
    missed = np.linalg.norm(projected(lens, rays[:, inside]) - pixels[inside], axis=-1).max()
    assert inside.sum() > 500 and missed <= (lens.error or 1e-9) * 1.05
    assert (lens.error or 0) < (0.2 if "PRISM" in model else 1e-3)


def test_models_are_numbered_as_in_binary_files() -> None:
    assert tuple(MODELS) == COLMAP_MODELS and set(EXACT) | set(FITTED) == set(COLMAP_MODELS) - {"EQUIRECTANGULAR"}
    assert all(len(parameters) == PARAMETERS[model] for table in (EXACT, FITTED) for model, (parameters, _) in table.items())


@pytest.mark.parametrize(
    ("model", "parameters", "words"),
    [
        (
            "THIN_PRISM_FISHEYE",
            [500, 505, 500, 380, 0.02, -0.01, 0.001, -0.002, 0.003, -0.001, 0.002, -0.001],
            r"misses it by 3(.\d)? pixels; undi",
        ),
        ("EQUIRECTANGULAR", [1000, 800], "is a panorama"),
        ("FULL_OPENCV", [900, 900, 500, 400, 0, 0, 0, 0, 0, -50, 0, 0], "undistort the photos first"),
        ("FOV", [-5, 5, 500, 400, 0.9], "undistort the photos first"),
        ("EUCM", [500, 500, 1e30, 400, 0.6, -1e30], "undistort the photos first"),
    ],
)
def test_lenses_that_nothing_here_holds_are_refused(model: str, parameters: list[float], words: str) -> None:
    with pytest.raises(CaptureError, match=words):
        lens_of(model, tuple(map(float, parameters)), 1000, 800, "camera 1 in cameras.bin")


def test_a_fitted_lens_is_named_in_a_note(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path / "ball")
    camera = ("FOV", *SIZE, [FOCAL, FOCAL, SIZE[0] / 2, SIZE[1] / 2, 0.8])
    write_colmap_model(folder / "sparse" / "0", {1: camera}, [(f"{k:03d}.png", 1, pose) for k, pose in enumerate(opengl_poses(9))])
    assert "(FOV) is replaced by a polynomial, which is off by at most" in note_of(source_of(folder), "polynomial")


# ------------------------------------------------------------------------------------------------------------------------------- damage


def with_bytes(folder: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    file = folder / "sparse" / "0" / name
    file.write_bytes(change(file.read_bytes()))
    return folder


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("images.bin", lambda data: struct.pack("<Q", 2**60) + data[8:], "promises 1,152,921,504,606,846,976 images"),
        ("cameras.bin", lambda data: struct.pack("<Q", 2**60) + data[8:], "promises 1,152,921,504,606,846,976 cameras"),
        ("points3D.bin", lambda data: struct.pack("<Q", 2**60) + data[8:], "has 1,152,921,504,606,846,976 points, and at most"),
        ("points3D.bin", lambda data: struct.pack("<Q", 9_000_000) + data[8:], "promises 9,000,000 points"),
        ("points3D.bin", lambda data: data[:51] + struct.pack("<Q", 2**63) + data[59:], "ends before what it promises"),
        ("images.bin", lambda data: data[:80] + struct.pack("<Q", 2**62) + data[88:], "ends before what it promises"),
        ("images.bin", lambda data: data[:-30], "ends before what it promises"),
        ("images.bin", lambda data: data[:76] + b"x" * 4000, "a name without an end|promises"),
        ("images.bin", lambda data: struct.pack("<Q", 0), "has no images"),
        ("cameras.bin", lambda data: data[:12] + struct.pack("<i", 99) + data[16:], "the model 99, which COLMAP does not have"),
        ("cameras.bin", lambda data: data[:16] + struct.pack("<QQ", 0, 30) + data[32:], "is 0x30 pixels"),
        ("cameras.bin", lambda data: data[:32] + struct.pack("<d", np.nan) + data[40:], "a parameter that is not finite"),
        ("cameras.bin", lambda data: struct.pack("<Q", 0), "has the camera 1, which"),
        ("images.bin", lambda data: data[:12] + struct.pack("<4d", 0, 0, 0, 0) + data[44:], "has no rotation"),
    ],
)
def test_damaged_binary_files_are_refused(tmp_path: Path, name: str, change: Callable[[bytes], bytes], words: str) -> None:
    with pytest.raises(CaptureError, match=words):
        load_capture(with_bytes(write_colmap(tmp_path / "ball"), name, change))


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("cameras.txt", lambda data: data.replace(b"PINHOLE", b"PINHOLES"), "names no camera model"),
        ("cameras.txt", lambda data: data.replace(b"45.0 45.0", b"45.0"), "has 3 parameters, and PINHOLE has 4"),
        ("cameras.txt", lambda data: data.replace(b"45.0 45.0", b"45.0 x"), "'x' in place of a number"),
        ("cameras.txt", lambda data: data.replace(b"45.0 45.0", b"inf 45.0"), "a parameter that is not finite"),
        ("cameras.txt", lambda data: data + data, "two cameras with the number 1"),
        ("images.txt", lambda data: data.replace(b" 004.png", b""), "is no image"),
        ("images.txt", lambda data: data.replace(b" 1 004.png", b" 2 004.png"), "has the camera 2, which"),
        ("points3D.txt", lambda data: data.replace(b" 20 30 ", b" 20 "), "is no point|0.5"),
        ("points3D.txt", lambda data: data.replace(b" 20 30 ", b" 20 256 "), "is no point"),
    ],
)
def test_damaged_text_is_refused(tmp_path: Path, name: str, change: Callable[[bytes], bytes], words: str) -> None:
    with pytest.raises(CaptureError, match=words):
        load_capture(with_bytes(write_colmap(tmp_path / "ball", form="txt"), name, change))


def test_a_missing_file_of_the_model_is_named(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path / "ball")
    (folder / "sparse" / "0" / "images.bin").unlink()
    with pytest.raises(CaptureError, match=r"has no images.bin or images.txt; copy all files of the model"):
        load_capture(folder)


def test_the_folder_of_a_model_alone_points_to_that_of_the_photos(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path / "ball")
    with pytest.raises(CaptureError, match=r"the photos seem to be in .*ball, so give that folder"):
        load_capture(folder / "sparse" / "0")


def test_transforms_win_over_a_model_beside_them(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path / "ball")
    frames = [{"file_path": f"images/{k:03d}.png", "transform_matrix": pose.tolist()} for k, pose in enumerate(opengl_poses(9))]
    (folder / "transforms.json").write_text(json.dumps({"fl_x": FOCAL, "w": SIZE[0], "h": SIZE[1], "frames": frames}))
    assert "read transforms.json and not sparse/, which is there too" in load_capture(folder).notes

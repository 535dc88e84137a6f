from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tiny_captures import SIZE, rewrite, with_arrays, write_blender, write_neus, write_transforms
from unrender.captures import load_capture
from unrender.captures.capture import CaptureError


def refusal(folder: Path, **options: Any) -> str:
    """The one sentence with which a capture is refused."""
    with pytest.raises(CaptureError) as caught:
        load_capture(folder, **options)
    message = str(caught.value)
    assert "\n" not in message and 20 < len(message) < 500
    return message


def pose_changed(folder: Path, matrix: np.ndarray) -> Path:
    """The third pose times a matrix from the right."""

    def change(content: dict[str, Any]) -> None:
        frame = content["frames"][2]
        frame["transform_matrix"] = (np.array(frame["transform_matrix"]) @ matrix).tolist()

    return rewrite(folder, change)


def test_path_that_does_not_exist_suggests_a_near_one(tmp_path: Path) -> None:
    write_transforms(tmp_path / "statue")
    message = refusal(tmp_path / "statu")
    assert "does not exist" in message and str(tmp_path / "statue") in message


def test_path_that_is_a_file_points_to_its_folder(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "ball")
    message = refusal(folder / "transforms.json")
    assert "is a file" in message and f"give its folder {folder}" in message
    assert "is a file" in refusal(folder / "images" / "000.png")


def test_folder_without_cameras_lists_what_was_looked_for(tmp_path: Path) -> None:
    message = refusal(tmp_path)
    for name in ("transforms_train.json", "transforms.json", "cameras_sphere.npz", "cameras.npz"):
        assert name in message


def test_no_images(tmp_path: Path) -> None:
    folder = write_neus(tmp_path / "scan")
    for image in (folder / "image").iterdir():
        image.unlink()
    assert "has no images" in refusal(folder)
    (folder / "image").rmdir()
    assert "has no images" in refusal(folder)


def test_truncated_image(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "ball")
    file = folder / "images" / "004.png"
    file.write_bytes(file.read_bytes()[:-60])
    message = refusal(folder)
    assert str(file) in message and "cannot be decoded" in message


@pytest.mark.parametrize("view", [0, 4])
def test_file_that_is_no_image(tmp_path: Path, view: int) -> None:
    folder = write_transforms(tmp_path / "ball")
    (folder / "images" / f"{view:03d}.png").write_text("not an image")
    assert f"{view:03d}.png cannot be" in refusal(folder)


def test_photos_of_two_sizes_whose_intrinsics_are_of_neither(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "ball", w=None, h=None)
    Image.new("RGB", (20, 15)).save(folder / "images" / "005.png")
    message = refusal(folder)
    assert "005.png is 20x15 but 000.png is 40x30" in message and "w and h" in message
    Image.new("RGB", (20, 20)).save(folder / "images" / "005.png")
    message = refusal(rewrite(folder, lambda content: content.update(w=SIZE[0], h=SIZE[1])))
    assert "005.png is 20x20, another shape" in message


def test_mask_of_another_size(tmp_path: Path) -> None:
    folder = write_neus(tmp_path / "scan")
    Image.new("L", (20, 15)).save(folder / "mask" / "003.png")
    message = refusal(folder)
    assert "003.png is 20x15" in message and "000003.png is 40x30" in message


def test_missing_masks(tmp_path: Path) -> None:
    folder = write_neus(tmp_path / "scan")
    (folder / "mask" / "003.png").unlink()
    assert "none for 000003.png" in refusal(folder)
    folder = rewrite(write_transforms(tmp_path / "ball"), lambda content: content["frames"][0].update(mask_path="images/000.png"))
    assert "not to images/001.png" in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pose_that_is_not_finite(tmp_path: Path, value: float) -> None:
    def change(content: dict[str, Any]) -> None:
        content["frames"][2]["transform_matrix"][1][3] = value

    message = refusal(rewrite(write_transforms(tmp_path / "ball"), change))
    assert "images/002.png" in message and "not finite" in message


def test_pose_that_mirrors_shears_or_is_singular(tmp_path: Path) -> None:
    shear, flat = np.eye(4), np.eye(4)
    shear[0, 1] = 0.1
    flat[:3, 1] = flat[:3, 0]
    cases = {
        "it mirrors (its determinant is -1)": np.diag([1.0, -1.0, 1.0, 1.0]),
        "it mirrors (its determinant is -27)": np.diag([3.0, -3.0, 3.0, 1.0]),
        "shears by 10.5% (at most 5% is repaired): its columns meet at 84.3, 90.0, 90.0 degrees": shear,
        "is singular: its columns meet at 0.0, 90.0, 90.0 degrees": flat,
        "lengths 1, 0, 1": np.diag([1.0, 0.0, 1.0, 1.0]),
        "lengths 1e+04, 1e+04, 1e+04": np.diag([1e4, 1e4, 1e4, 1.0]),
    }
    for k, (wanted, matrix) in enumerate(cases.items()):
        message = refusal(pose_changed(write_transforms(tmp_path / str(k)), matrix))
        assert wanted in message and "images/002.png" in message, wanted


def test_pose_within_rounding_is_accepted_and_made_orthogonal(tmp_path: Path) -> None:
    capture = load_capture(pose_changed(write_transforms(tmp_path / "ball"), np.diag([1.0002, 1.0, 0.9998, 1.0])))
    rotation = capture.cameras.world_from_camera[2, :3, :3]
    assert float((rotation.T @ rotation - torch.eye(3)).abs().max()) < 1e-6


@pytest.mark.parametrize("rows", [[[1, 0], [0, 1]], "identity", [[1, 0, 0, 0], [0, 1, 0]], None])
def test_pose_that_is_no_matrix(tmp_path: Path, rows: object) -> None:
    folder = rewrite(write_transforms(tmp_path / "ball"), lambda content: content["frames"][2].update(transform_matrix=rows))
    message = refusal(folder)
    assert "images/002.png" in message and "four rows of four numbers" in message


def test_pose_with_another_last_row(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["frames"][2]["transform_matrix"][3] = [0, 0, 1, 1]

    assert "it must be 0 0 0 1" in refusal(rewrite(write_transforms(tmp_path / "ball"), change))


@pytest.mark.parametrize("key", ["file_path", "transform_matrix"])
def test_frame_with_a_missing_key(tmp_path: Path, key: str) -> None:
    folder = rewrite(write_transforms(tmp_path / "ball"), lambda content: content["frames"][1].pop(key))
    assert f'no "{key}"' in refusal(folder)


def test_missing_frames_focal_length_and_json_of_another_shape(tmp_path: Path) -> None:
    assert 'no list "frames"' in refusal(rewrite(write_transforms(tmp_path / "a"), lambda content: content.pop("frames")))
    assert "lists no frames" in refusal(rewrite(write_transforms(tmp_path / "b"), lambda content: content.update(frames=[])))

    def without_focal(content: dict[str, Any]) -> None:
        del content["fl_x"], content["fl_y"]

    assert "focal length of images/000.png" in refusal(rewrite(write_transforms(tmp_path / "c"), without_focal))
    folder = write_transforms(tmp_path / "d")
    (folder / "transforms.json").write_text("[1, 2]")
    assert "holds a list" in refusal(folder)
    assert '"fl_x"' in refusal(rewrite(write_transforms(tmp_path / "e"), lambda content: content.update(fl_x="wide")))


def test_invalid_json_says_where(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "ball")
    (folder / "transforms.json").write_text('{"frames": [,]}')
    assert re.search(r"not valid JSON .* line 1, column 13", refusal(folder))


def test_missing_photos_are_counted_and_the_first_named(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "ball")
    for k in (1, 2, 4, 5, 7, 8):
        (folder / "images" / f"{k:03d}.png").unlink()
    message = refusal(folder)
    assert "6 of the 9 image files" in message and "(images/001.png, images/002.png, images/004.png, ...)" in message
    folder = write_blender(tmp_path / "blender")
    (folder / "test" / "r_1.png").unlink()
    assert "1 of the 2 image files" in refusal(folder)


def test_split_without_views(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "ball")
    assert "leaves none to fit" in refusal(folder, test_every=1)
    assert "test_every is -1" in refusal(folder, test_every=-1)
    names = [f"images/{k:03d}.png" for k in range(9)]
    assert "train_filenames" in refusal(rewrite(folder, lambda content: content.update(train_filenames=[], test_filenames=names)))
    assert "test_filenames" in refusal(rewrite(folder, lambda content: content.update(train_filenames=names, test_filenames=[])))
    unknown = rewrite(folder, lambda content: content.update(train_filenames=["images/777.png"], test_filenames=names))
    assert "images/777.png" in refusal(unknown)
    empty = rewrite(write_blender(tmp_path / "blender"), lambda content: content.update(frames=[]), "transforms_train.json")
    assert "transforms_train.json lists no frames" in refusal(empty)


@pytest.mark.parametrize("focal", [0, -45.0])
def test_focal_length_that_is_not_positive(tmp_path: Path, focal: float) -> None:
    message = refusal(write_transforms(tmp_path / "ball", fl_x=focal, fl_y=focal))
    assert "focal length of images/000.png" in message and "positive" in message


@pytest.mark.parametrize("focal", [float("nan"), float("inf"), 1e39, 10**400])
def test_focal_length_that_is_not_finite(tmp_path: Path, focal: float) -> None:
    message = refusal(write_transforms(tmp_path / "ball", fl_x=focal))
    assert '"fl_x" of images/000.png' in message and "not finite" in message


def test_field_of_view_beyond_half_a_turn(tmp_path: Path) -> None:
    assert "between 0 and π" in refusal(write_transforms(tmp_path / "ball", fl_x=None, fl_y=None, camera_angle_x=50.0))


def test_lenses_that_are_not_supported(tmp_path: Path) -> None:
    assert "EQUIRECTANGULAR" in refusal(write_transforms(tmp_path / "a", camera_model="EQUIRECTANGULAR"))
    assert "F-theta" in refusal(write_transforms(tmp_path / "b", ftheta_p0=0.1))
    assert "not finite" in refusal(write_transforms(tmp_path / "d", k1=float("nan")))


def test_stated_size_of_another_shape(tmp_path: Path) -> None:
    message = refusal(write_transforms(tmp_path / "ball", w=100, h=100))
    assert "100x100" in message and "40x30" in message


@pytest.mark.parametrize("downscale", [0, -2, SIZE[1] + 1])
def test_downscale_that_does_not_fit(tmp_path: Path, downscale: int) -> None:
    assert f"downscale is {downscale}" in refusal(write_transforms(tmp_path / "ball"), downscale=downscale)


def test_archive_without_its_matrices(tmp_path: Path) -> None:
    assert "world_mat_0" in refusal(with_arrays(write_neus(tmp_path / "a"), lambda arrays: arrays.clear()))
    folder = write_neus(tmp_path / "c")
    (folder / "cameras_sphere.npz").write_bytes(b"PK not an archive")
    assert "cannot be read" in refusal(folder)
    (folder / "cameras_sphere.npz").write_bytes(b"")
    assert "cannot be read" in refusal(folder)


def test_archive_with_matrices_that_are_no_cameras(tmp_path: Path) -> None:
    def broken(key: str, matrix: np.ndarray) -> Callable[[dict[str, np.ndarray]], object]:
        return lambda arrays: arrays.update({key: matrix})

    assert "world_mat_3" in refusal(with_arrays(write_neus(tmp_path / "a"), broken("world_mat_3", np.zeros((4, 4)))))
    assert "world_mat_3" in refusal(with_arrays(write_neus(tmp_path / "b"), broken("world_mat_3", np.full((4, 4), np.nan))))
    assert "shape (2, 2)" in refusal(with_arrays(write_neus(tmp_path / "c"), broken("world_mat_3", np.eye(2))))
    stretched = np.diag([1.0, 2.0, 1.0, 1.0])
    assert "scales the axes differently" in refusal(with_arrays(write_neus(tmp_path / "d"), broken("scale_mat_0", stretched)))
    flat = np.diag([1.0, 0.0, 1.0, 1.0])
    assert "scale_mat_0" in refusal(with_arrays(write_neus(tmp_path / "e"), broken("scale_mat_0", flat)))
    skewed = np.eye(4)
    skewed[0, 1] = 0.2
    assert "skewed" in refusal(with_arrays(write_neus(tmp_path / "f"), broken("world_mat_3", skewed)))


def test_more_images_than_cameras(tmp_path: Path) -> None:
    folder = with_arrays(write_neus(tmp_path / "scan"), lambda arrays: arrays.pop("world_mat_7"))
    message = refusal(folder)
    assert "7 cameras" in message and "8 images" in message


def test_overrides_that_make_no_region(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "ball")
    assert "radius is 0" in refusal(folder, radius=0.0)
    assert "center is" in refusal(folder, center=(0.0, float("nan"), 0.0))
    assert "up is" in refusal(folder, up=(0.0, 0.0, 0.0))


def test_normals_that_do_not_belong(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "ball")
    assert "does not exist" in refusal(folder, normal_maps=tmp_path / "normals")
    (tmp_path / "normals").mkdir()
    Image.new("RGB", SIZE).save(tmp_path / "normals" / "other.png")
    assert "no image in" in refusal(folder, normal_maps=tmp_path / "normals")
    Image.new("RGB", (7, 7)).save(tmp_path / "normals" / "003.png")
    assert "003.png is 7x7" in refusal(folder, normal_maps=tmp_path / "normals")


def test_points_that_cannot_be_read(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "ball")
    np.savez(folder / "points3D.npz", other=np.zeros(3))
    assert "points3D.npz cannot be read" in refusal(folder)

"""Captures as they occur: other programs' keys, names, repairs, and doubts about intrinsics, each with the right value."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from tiny_captures import (
    BALL,
    FOCAL,
    RADIUS,
    SIZE,
    ball_photo,
    opengl_poses,
    rewrite,
    with_arrays,
    write_blender,
    write_neus,
    write_transforms,
)
from unrender.captures import load_capture
from unrender.captures.capture import Capture, CaptureError
from unrender.captures.photo_files import PhotoFinder, natural_key
from unrender.captures.source import rigid_motions
from unrender.cli.program import main
from unrender.transforms import inverse_similarity, scale_of, transformed

Content = dict[str, Any]


def with_poses(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    def each(content: Content) -> None:
        for frame in content["frames"]:
            frame["transform_matrix"] = change(np.array(frame["transform_matrix"])).tolist()

    return rewrite(folder, each)


def note(capture: Capture, *words: str) -> str:
    """The one note that has all the words."""
    found = [text for text in capture.notes if all(word in text for word in words)]
    assert len(found) == 1, capture.notes
    return found[0]


def poses_in_source(capture: Capture) -> np.ndarray:
    """Camera-to-source matrices with OpenGL axes."""
    pose = capture.source_from_world @ capture.cameras.world_from_camera.double()
    pose[:, :3, :3] /= scale_of(capture.source_from_world)
    return (pose * torch.tensor([1.0, -1.0, -1.0, 1.0])).numpy()


def check_poses(capture: Capture, count: int = 9) -> None:
    assert np.abs(poses_in_source(capture) - np.stack(opengl_poses(count))).max() < 1e-5


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(CaptureError) as caught:
        load_capture(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- the file


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("form", ["transforms", "blender"])
def test_json_in_every_encoding_and_with_windows_lines(tmp_path: Path, encoding: str, form: str) -> None:
    folder = write_transforms(tmp_path / "é") if form == "transforms" else write_blender(tmp_path / "é")
    before = load_capture(folder)
    for file in folder.glob("*.json"):
        text = json.dumps(json.loads(file.read_text()), indent=2).replace("\n", "\r\n")
        file.write_bytes(text.encode(encoding))
    after = load_capture(folder)
    assert len(after) == len(before) and torch.equal(after.cameras.world_from_camera, before.cameras.world_from_camera)


def test_json_of_another_code_page_is_refused_with_its_byte(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "a")
    (folder / "transforms.json").write_bytes('{"frames": [{"file_path": "é.png"}]}'.encode("cp1252"))
    assert "not UTF-8 text (byte 27 is 0xe9)" in refusal(folder)


@pytest.mark.parametrize("frames", ["poses only", "none"])
@pytest.mark.parametrize("there_is_val", [False, True])
def test_test_poses_without_photos_are_not_held_out(tmp_path: Path, frames: str, there_is_val: bool) -> None:
    """What the BlenderNeRF add-on writes: the pictures of transforms_test.json are still to be rendered."""
    folder = write_blender(tmp_path / "a")
    if there_is_val:
        (folder / "transforms_val.json").write_text((folder / "transforms_test.json").read_text().replace("./test", "./val"))
        (folder / "test").rename(folder / "val")
    else:
        for photo in (folder / "test").iterdir():
            photo.unlink()
        (folder / "test").rmdir()
    if frames == "none":
        rewrite(folder, lambda content: content.update(frames=[]), "transforms_test.json")
    capture = load_capture(folder)
    note(capture, "transforms_test.json", "none of its photos exist")
    if there_is_val:
        assert capture.split.test == (8, 9) and "transforms_val.json" in capture.split.rule
    else:
        assert capture.split.test == (0,) and len(capture) == 8


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("prefix", ["C:\\Users\\me\\scan\\", "/home/me/data/scan/", "D:/x/", "file:///mnt/scan/", "../../elsewhere/scan/"])
def test_absolute_paths_of_another_machine_are_found_by_their_ends(tmp_path: Path, prefix: str) -> None:
    listed = prefix + ("images\\{:03d}.png" if "\\" in prefix else "images/{:03d}.png")
    capture = load_capture(write_transforms(tmp_path / "a", listed=listed))
    assert capture.names == tuple(f"images/{k:03d}.png" for k in range(9))
    assert "9 paths" in note(capture, "ends of the paths")


def test_the_longest_end_of_a_path_decides(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "a", listed="/data/scan/left/images/{:03d}.png")
    for place, color in (("left", 10), ("right", 200)):
        (folder / place / "images").mkdir(parents=True)
        for k in range(9):
            Image.new("RGB", SIZE, (color, 0, 0)).save(folder / place / "images" / f"{k:03d}.png")
    capture = load_capture(folder)
    assert capture.names[2] == "left/images/002.png" and capture.photos[2][0, 0, 0] == 10


def test_another_folder_is_never_taken_for_a_missing_photo(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "a", listed="night/{:03d}.png")
    (folder / "images").rename(folder / "day")
    assert "9 of the 9 image files" in refusal(folder)
    folder = write_transforms(tmp_path / "b")
    (folder / "images" / "003.png").unlink()
    (folder / "images_2").mkdir()
    Image.new("RGB", SIZE).save(folder / "images_2" / "003.png")
    assert len(load_capture(folder)) == 8


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_names_with_accents_blanks_and_signs(tmp_path: Path, on_disk: Literal["NFC", "NFD"]) -> None:
    written: Literal["NFC", "NFD"] = "NFD" if on_disk == "NFC" else "NFC"
    folder = write_transforms(tmp_path / "é # 100%", listed=unicodedata.normalize(written, "images/à ü #{:03d} 5%.png"))
    for k in range(9):
        (folder / "images" / f"{k:03d}.png").rename(folder / "images" / unicodedata.normalize(on_disk, f"à ü #{k:03d} 5%.png"))
    capture = load_capture(folder)
    assert len(capture) == 9 and not any("paths" in text for text in capture.notes)


def test_percent_encoded_and_otherwise_cased_names(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "a", listed="images/my%20photo%20{:03d}.png")
    for k in range(9):
        (folder / "images" / f"{k:03d}.png").rename(folder / "images" / f"my photo {k:03d}.png")
    assert len(load_capture(folder)) == 9
    assert len(load_capture(write_transforms(tmp_path / "b", listed="Images/{:03d}.PNG"))) == 9


def test_missing_photos_in_a_format_that_is_not_read_are_said_so(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "a", listed="images/{:03d}.jxl")
    for photo in (folder / "images").iterdir():
        photo.rename(photo.with_suffix(".jxl"))
    assert "000.jxl is JPEG XL, which is not read; convert the photos" in refusal(folder)
    folder = write_neus(tmp_path / "b")
    for photo in (folder / "image").iterdir():
        photo.rename(photo.with_suffix(".jxl"))
    assert "000000.jxl is JPEG XL" in refusal(folder)


# ---------------------------------------------------------------- poses


def test_scaled_rotations_are_repaired_with_a_note(tmp_path: Path) -> None:
    for k, factors in enumerate([(0.2517,) * 3, (2.0, 2.0, 2.0), (0.78, 0.61, 1.0), (1.002, 1.002, 1.002)]):
        capture = load_capture(with_poses(write_transforms(tmp_path / str(k)), lambda pose, by=factors: pose @ np.diag([*by, 1.0])))
        check_poses(capture)
        assert f"{min(factors):.4g}" in note(capture, "9 of 9 poses", "scaled by")
    folder = write_transforms(tmp_path / "one")
    rewrite(folder, lambda content: content["frames"][2].update(transform_matrix=(opengl_poses(9)[2] @ np.diag([3, 3, 3, 1])).tolist()))
    capture = load_capture(folder)
    check_poses(capture)
    note(capture, "images/002.png", "scaled by 3")


def test_small_shears_are_repaired_and_large_ones_refused(tmp_path: Path) -> None:
    shear = np.eye(4)
    shear[0, 1] = shear[1, 0] = 0.01  # symmetric, so that the nearest rotation is the one before
    capture = load_capture(with_poses(write_transforms(tmp_path / "a"), lambda pose: pose @ shear))
    check_poses(capture)
    assert "2.0%" in note(capture, "shear")
    shear[0, 1] = shear[1, 0] = 0.03
    assert "shears by 6.2% (at most 5% is repaired)" in refusal(with_poses(write_transforms(tmp_path / "b"), lambda pose: pose @ shear))


def test_transposed_and_homogeneous_matrices(tmp_path: Path) -> None:
    capture = load_capture(with_poses(write_transforms(tmp_path / "a"), lambda pose: pose.T))
    check_poses(capture)
    note(capture, "transposed")
    capture = load_capture(with_poses(write_transforms(tmp_path / "b"), lambda pose: pose * 2.5))
    check_poses(capture)
    note(capture, "0 0 0 s")


def test_repairs_leave_exact_poses_alone() -> None:
    poses = torch.from_numpy(np.stack(opengl_poses(5)))
    again, notes = rigid_motions(poses, ["a"] * 5, Path("x.json"))
    assert notes == () and float((again - poses).abs().max()) < 1e-15


@pytest.mark.parametrize(("axes", "flip"), [("mitsuba", (-1, 1, -1)), ("opencv", (1, -1, -1)), ("opengl", (1, 1, 1))])
def test_axes_of_the_cameras_are_an_option(tmp_path: Path, axes: Any, flip: tuple[int, int, int]) -> None:
    folder = with_poses(write_transforms(tmp_path / "a", alpha=True), lambda pose: pose @ np.diag([*flip, 1.0]))
    capture = load_capture(folder, camera_axes=axes)
    check_poses(capture)
    if axes == "opengl":
        return
    wrong = load_capture(folder)
    assert "camera_axes=" in note(wrong, "meet behind the cameras") and axes in note(wrong, "meet behind the cameras")
    if axes == "mitsuba":
        said = load_capture(rewrite(folder, lambda content: content.update(from_mitsuba=True)))
        check_poses(said)
        note(said, "from_mitsuba")
        center = transformed(torch.tensor(BALL)[None], inverse_similarity(said.source_from_world)).float()
        assert min(float(said.cameras.project(center, view)[1]) for view in range(9)) > 0


def test_axes_of_neus_cameras_are_an_option(tmp_path: Path) -> None:
    folder = write_neus(tmp_path / "a", masks=False)
    plain, turned = load_capture(folder), load_capture(folder, camera_axes="opengl")
    flip = torch.tensor([1.0, -1.0, -1.0, 1.0])
    torch.testing.assert_close(turned.cameras.world_from_camera, plain.cameras.world_from_camera * flip)


def test_georeferenced_poses_keep_their_accuracy(tmp_path: Path) -> None:
    """UTM: float32 has steps of half a meter at this northing."""
    offset = np.array([447312.0, 5411878.0, 318.0])
    shift = np.eye(4)
    shift[:3, 3] = offset
    near = load_capture(write_transforms(tmp_path / "near", alpha=True))
    far = load_capture(with_poses(write_transforms(tmp_path / "far", alpha=True), lambda pose: shift @ pose))
    assert far.source_from_world.dtype == torch.float64
    torch.testing.assert_close(far.cameras.world_from_camera, near.cameras.world_from_camera, rtol=0, atol=2e-6)
    torch.testing.assert_close(far.source_from_world[:3, 3] - torch.from_numpy(offset), near.source_from_world[:3, 3], rtol=0, atol=1e-6)
    points = BALL + RADIUS * np.eye(3)
    for folder, moved in ((tmp_path / "near", points), (tmp_path / "far", points + offset)):
        np.savez(folder / "points3D.npz", points=moved)
    near, far = load_capture(tmp_path / "near"), load_capture(tmp_path / "far")
    assert near.points is not None and far.points is not None
    torch.testing.assert_close(far.points, near.points, rtol=0, atol=2e-6)
    open_near = load_capture(write_transforms(tmp_path / "open"))
    open_far = load_capture(with_poses(write_transforms(tmp_path / "open far"), lambda pose: shift @ pose))
    torch.testing.assert_close(open_far.cameras.world_from_camera, open_near.cameras.world_from_camera, rtol=0, atol=2e-6)


@pytest.mark.parametrize("form", ["one view", "copies", "turning"])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("center", [None, (0.2, -0.1, 0.3)])
def test_cameras_at_one_place(tmp_path: Path, form: str, alpha: bool, center: tuple[float, float, float] | None) -> None:
    folder = write_transforms(tmp_path / "a", alpha=alpha, count=1 if form == "one view" else 5)

    def at_one_place(content: Content) -> None:
        first = np.array(content["frames"][0]["transform_matrix"])
        for k, frame in enumerate(content["frames"]):
            turn = np.eye(4)
            angle = 0.1 * k if form == "turning" else 0.0
            turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
            pose = first.copy()
            pose[:3, :3] = turn[:3, :3] @ first[:3, :3]
            frame["transform_matrix"] = pose.tolist()
            if form != "turning" and k:
                frame["file_path"] = f"images/copy{k}.png"
                Image.open(folder / "images" / "000.png").save(folder / "images" / f"copy{k}.png")

    rewrite(folder, at_one_place)
    capture = load_capture(folder, test_every=0, center=center)
    assert bool(capture.cameras.world_from_camera.isfinite().all()) and bool(capture.source_from_world.isfinite().all())
    assert capture.has_masks == alpha
    if center is None:
        assert any("share one position" in text for text in capture.notes)
    else:
        torch.testing.assert_close(capture.source_from_world[:3, 3], torch.tensor(center, dtype=torch.float64))
    if alpha and form != "turning":  # the cone of the one outline, around the ball
        center_in_world = transformed(torch.tensor(BALL)[None], inverse_similarity(capture.source_from_world))[0]
        assert float(center_in_world.abs().max()) < 1


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("alpha", [False, True])
def test_few_views(tmp_path: Path, count: int, alpha: bool) -> None:
    capture = load_capture(write_transforms(tmp_path / "a", count=count, alpha=alpha), test_every=0)
    assert len(capture) == count and bool(capture.cameras.world_from_camera.isfinite().all())


def test_one_view_that_would_be_held_out_is_refused_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_transforms(tmp_path / "a", count=1, alpha=True)
    assert main(["fit", "nerf", str(folder), "--out", str(tmp_path / "run"), "--steps", "2"]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("unrender: error: ") and "holding out" in said


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["nerf", "neus"])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("alpha", [False, True])
def test_few_views_are_fitted(tmp_path: Path, count: int, alpha: bool, recipe: str) -> None:
    folder, every = write_transforms(tmp_path / "a", count=count, alpha=alpha), "0" if count == 1 else "8"
    words = ["--steps", "4", "--test-every", every, "--mesh-resolution", "32", "--out", str(tmp_path / "run")]
    assert main(["fit", recipe, str(folder), *words]) == 0
    assert (tmp_path / "run" / "metrics.json").exists()


def test_the_upward_direction_is_known_in_the_source_frame(tmp_path: Path) -> None:
    assert load_capture(write_blender(tmp_path / "a")).up == (0.0, 0.0, 1.0)
    scan = write_neus(tmp_path / "b")
    assert load_capture(scan).up is None
    assert load_capture(scan, up="-y").up == pytest.approx((0.0, -1.0, 0.0), abs=1e-12)
    tilted = np.eye(4)
    tilted[1:3, 1:3] = [[0.0, -1.0], [1.0, 0.0]]  # +Z becomes -Y
    capture = load_capture(with_poses(write_transforms(tmp_path / "c"), lambda pose: tilted @ pose))
    assert capture.up is not None and capture.up[1] < -0.99
    axis = capture.source_from_world[:3, 2] / scale_of(capture.source_from_world)
    torch.testing.assert_close(axis, torch.tensor(capture.up, dtype=torch.float64))


def test_projections_in_float32_lose_georeferenced_poses(tmp_path: Path) -> None:
    def moved(arrays: dict[str, np.ndarray]) -> None:
        back = np.eye(4)
        back[:3, 3] = -447312.0, -5411878.0, -318.0
        for key in list(arrays):
            arrays[key] = (arrays[key] @ back if key.startswith("world") else np.linalg.inv(back) @ arrays[key]).astype(np.float32)

    note(load_capture(with_arrays(write_neus(tmp_path / "a", masks=False), moved)), "float32", "steps of 0.6")
    assert not any("float32" in text for text in load_capture(write_neus(tmp_path / "b")).notes)


# ---------------------------------------------------------------- intrinsics


def angle_of(focal: float) -> float:
    return 2 * float(np.arctan(0.5 * SIZE[0] / focal))


def test_focal_length_and_angle_that_disagree(tmp_path: Path) -> None:
    capture = load_capture(write_transforms(tmp_path / "a", camera_angle_x=angle_of(90)))
    assert float(capture.cameras.intrinsics[0, 0]) == FOCAL
    assert "fl_x is 45 pixels but camera_angle_x means 90, in 9 of 9 views; fl_x is used" in note(capture, "camera_angle_x")
    assert not any("camera_angle" in text for text in load_capture(write_transforms(tmp_path / "b", camera_angle_x=angle_of(FOCAL))).notes)
    resized: Content = {"w": None, "h": None, "cx": None, "cy": None, "fl_x": 2 * FOCAL, "fl_y": None, "camera_angle_x": angle_of(FOCAL)}
    capture = load_capture(write_transforms(tmp_path / "c", **resized))
    torch.testing.assert_close(capture.cameras.intrinsics[0], torch.tensor([FOCAL, FOCAL, 20.0, 15.0]))
    note(capture, "camera_angle_x is used")


def test_focal_length_of_zero_counts_as_not_given(tmp_path: Path) -> None:
    spellings: list[Content] = [{"fl_x": 0}, {"fl_y": 0}, {"fl_x": 0, "fl_y": 0, "camera_angle_x": angle_of(FOCAL)}]
    for k, keys in enumerate(spellings):
        capture = load_capture(write_transforms(tmp_path / str(k), **keys))
        torch.testing.assert_close(capture.cameras.intrinsics[0], torch.tensor([FOCAL, FOCAL, 20.0, 15.0]))
        note(capture, "is 0, so it counts as not given")


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_photos_made_smaller_without_their_intrinsics(tmp_path: Path, factor: int) -> None:
    """Without w and h, or with those of the small photos: the principal point lies at the lower right corner or beyond."""
    big: Content = {"fl_x": factor * FOCAL, "fl_y": factor * FOCAL, "cx": factor * 20.6, "cy": factor * 15.4}
    sizes: list[Content] = [{"w": None, "h": None}, {}]
    for k, size in enumerate(sizes):
        capture = load_capture(write_transforms(tmp_path / str(k), **big, **size))
        torch.testing.assert_close(capture.cameras.intrinsics[4], torch.tensor([FOCAL, FOCAL, 20.6, 15.4]))
        note(capture, "principal point", f"smaller by {factor}")
    scan = write_neus(tmp_path / "scan")

    def enlarged(arrays: dict[str, np.ndarray]) -> None:
        grow = np.diag([factor, factor, 1.0, 1.0])
        grow[:2, 2] = 0.5 * factor - 0.5  # integer centers: x' + 0.5 = factor (x + 0.5)
        for key in list(arrays):
            arrays[key] = grow @ arrays[key] if key.startswith("world") else arrays[key]

    capture = load_capture(with_arrays(scan, enlarged))
    torch.testing.assert_close(capture.cameras.intrinsics[4], torch.tensor([FOCAL, FOCAL, 20.0, 15.0]))
    note(capture, f"smaller by {factor}")


def test_photos_made_smaller_by_a_factor_that_cannot_be_told(tmp_path: Path) -> None:
    keys: Content = {"fl_x": 2.6 * FOCAL, "fl_y": 2.6 * FOCAL, "cx": 52.0, "cy": 39.0, "w": None, "h": None}
    assert "(52, 39) in 40 x 30 pixels" in refusal(write_transforms(tmp_path / "a", **keys))
    assert "about 2.6 times smaller" in refusal(write_transforms(tmp_path / "b", **keys))


def test_principal_points_far_from_the_center_are_said(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "a")
    capture = load_capture(rewrite(folder, lambda content: content["frames"][5].update(cx=36.0)))
    assert capture.cameras.intrinsics[5, 2] == 36
    assert "1 of 9 views" in note(capture, "principal point of images/005.png is (36, 15)", "cropped")


def test_implausible_fields_of_view(tmp_path: Path) -> None:
    for k, focal in enumerate([1.2, 0.9, 0.035]):
        message = refusal(write_transforms(tmp_path / str(k), fl_x=focal, fl_y=focal))
        assert "not in millimeters" in message and f"{focal:.4g} pixels for 40 pixels" in message
    note(load_capture(write_transforms(tmp_path / "wide", fl_x=4.0, fl_y=4.0)), "unusual", "157")
    note(load_capture(write_transforms(tmp_path / "narrow", fl_x=9000.0, fl_y=9000.0)), "unusual", "0.255")
    note(load_capture(write_transforms(tmp_path / "stretched", fl_y=FOCAL / 2)), "were the photos stretched")


def test_camera_models_of_every_spelling(tmp_path: Path) -> None:
    for k, (model, fisheye) in enumerate(
        [("pinhole", False), ("OPENCV_FISHEYE", True), ("RADIAL_FISHEYE", True), ("SIMPLE_RADIAL", False)]
    ):
        assert load_capture(write_transforms(tmp_path / str(k), camera_model=model, k1=0.01)).cameras.fisheye.all() == fisheye
    note(load_capture(write_transforms(tmp_path / "a", camera_model="PINHOLE", k1=0.01)), "pinhole", "distortion, which is used")
    for k, model in enumerate(["FISHEYE624", "FOV", "FULL_OPENCV", "THIN_PRISM_FISHEYE", "SPHERICAL"]):
        assert model in refusal(write_transforms(tmp_path / f"b{k}", camera_model=model))
    assert "rational" in refusal(write_transforms(tmp_path / "c", k5=0.01))
    assert load_capture(write_transforms(tmp_path / "d", k5=0.0, k6=0.0)).cameras.fisheye.any() == False  # noqa: E712
    bent = load_capture(write_transforms(tmp_path / "e", camera_model="OPENCV_FISHEYE", p1=0.01))
    assert not bool(bent.cameras.distortion.any()) and note(bent, "p1 and p2 of a fisheye")
    assert "five" in refusal(write_transforms(tmp_path / "f", distortion_params=[0.1, 0, 0, 0, 0])).replace("5 numbers", "five")
    four = load_capture(write_transforms(tmp_path / "g", camera_model="OPENCV_FISHEYE", distortion_params=[0.01, 0.02, 0.0, 0.0]))
    torch.testing.assert_close(four.cameras.distortion[0], torch.tensor([0.01, 0.02, 0, 0, 0, 0]))


# ---------------------------------------------------------------- keys


def test_every_key_is_used_or_named(tmp_path: Path) -> None:
    folder = write_transforms(
        tmp_path / "a",
        aabb_scale=16,
        scale=0.33,
        offset=[0.5, 0.5, 0.5],
        n_extra_learnable_dims=0,
        enable_depth_loading=True,
        whatever={"a": 1},
    )

    def each(content: Content) -> None:
        for k, frame in enumerate(content["frames"]):
            frame |= {"sharpness": 30.0, "time": k / 9, "rolling_shutter": [0, 0, 0, 1], "depth_path": "x.png"}

    capture = load_capture(rewrite(folder, each))
    assert note(capture, "not used: ").endswith("not used: aabb_scale, scale, offset, whatever, sharpness")
    note(capture, "9 different times")
    note(capture, "rolling shutter")
    note(capture, "depth images are not used")
    check_poses(capture)
    plain = load_capture(write_transforms(tmp_path / "b"))
    assert not any("not used" in text for text in plain.notes)


def test_points_that_a_file_names_but_that_do_not_exist(tmp_path: Path) -> None:
    note(load_capture(write_transforms(tmp_path / "a", ply_file_path="sparse_pc.ply")), "sparse_pc.ply", "do not exist")


# ---------------------------------------------------------------- matrices in archives


def test_intrinsics_of_dvr_archives(tmp_path: Path) -> None:
    """world_mat is [R | t] and camera_mat maps to -1 to 1, as Differentiable Volumetric Rendering writes it."""
    width, height = SIZE
    lens = np.diag([2 * FOCAL / width, 2 * FOCAL / height, 1.0, 1.0])
    intrinsics = np.array([[FOCAL, 0, width / 2 - 0.5], [0, FOCAL, height / 2 - 0.5], [0, 0, 1]])
    for k, in_pixels in enumerate([False, True]):

        def split(arrays: dict[str, np.ndarray], in_pixels: bool = in_pixels) -> None:
            for view in range(8):
                world = np.linalg.inv(intrinsics) @ arrays[f"world_mat_{view}"][:3]
                arrays[f"world_mat_{view}"] = np.vstack((world / np.cbrt(np.linalg.det(world[:, :3])), [0, 0, 0, 1]))
                arrays[f"camera_mat_{view}"] = intrinsics if in_pixels else lens

        folder = write_neus(tmp_path / str(k))
        before = load_capture(folder)
        after = load_capture(with_arrays(folder, split))
        torch.testing.assert_close(after.cameras.intrinsics, before.cameras.intrinsics)
        torch.testing.assert_close(after.cameras.world_from_camera, before.cameras.world_from_camera)
        note(after, "those of camera_mat")
        without = with_arrays(folder, lambda arrays: [arrays.pop(f"camera_mat_{view}") for view in range(8)])
        assert "focal length of 1 pixels" in refusal(without) and "camera_mat_0" in refusal(without)


def test_full_projections_beside_camera_matrices_are_enough(tmp_path: Path) -> None:
    folder = write_neus(tmp_path / "a")
    before = load_capture(folder)
    after = load_capture(with_arrays(folder, lambda arrays: arrays.update({f"camera_mat_{view}": np.eye(4) for view in range(8)})))
    assert torch.equal(after.cameras.intrinsics, before.cameras.intrinsics)


def test_archives_without_a_unit_sphere_find_the_region_from_masks(tmp_path: Path) -> None:
    folder = with_arrays(write_neus(tmp_path / "a"), lambda arrays: [arrays.pop(key) for key in list(arrays) if key.startswith("scale")])
    capture = load_capture(folder)
    note(capture, "no scale_mat")
    ball = 2 * torch.tensor(BALL) + torch.tensor([10.0, 20.0, 30.0])
    center = transformed(ball[None], inverse_similarity(capture.source_from_world))[0]
    assert float(center.abs().max()) < 0.25 and 0.6 < 2 * RADIUS / scale_of(capture.source_from_world) < 1
    other = write_neus(tmp_path / "b")
    capture = load_capture(with_arrays(other, lambda arrays: arrays.update(scale_mat_3=np.eye(4))))
    note(capture, "scale_mat_3 differs from scale_mat_0")


def test_matrices_of_three_rows(tmp_path: Path) -> None:
    folder = write_neus(tmp_path / "a")
    before = load_capture(folder)

    def cut(arrays: dict[str, np.ndarray]) -> None:
        for key in list(arrays):
            arrays[key] = arrays[key][:3].astype(np.float32)

    torch.testing.assert_close(load_capture(with_arrays(folder, cut)).cameras.world_from_camera, before.cameras.world_from_camera)


@pytest.mark.parametrize("image", ["{}.png", "img_{}.png", "frame{}_rgb.png"])
@pytest.mark.parametrize("mask", ["{}.png", "mask-{}.png", "{:03d}_seg.png"])
@pytest.mark.parametrize("folder", ["image", "rgb"])
def test_numbers_without_zeros_are_in_natural_order(tmp_path: Path, image: str, mask: str, folder: str) -> None:
    scan = write_neus(tmp_path / "a", count=12)
    whole = load_capture(scan)
    for k in range(12):
        (scan / "image" / f"{k:06d}.png").rename(scan / "image" / image.format(k))
        (scan / "mask" / f"{k:03d}.png").rename(scan / "mask" / ("x" + mask).format(k))
    (scan / "image").rename(scan / folder)
    again = load_capture(scan)
    assert again.names == tuple(f"{folder}/{image.format(k)}" for k in range(12))
    assert torch.equal(again.cameras.world_from_camera, whole.cameras.world_from_camera)
    for view in range(12):
        assert torch.equal(again.photos[view], whole.photos[view])


def test_images_in_the_folder_itself(tmp_path: Path) -> None:
    scan = write_neus(tmp_path / "a", masks=False)
    for photo in (scan / "image").iterdir():
        photo.rename(scan / photo.name)
    (scan / "image").rmdir()
    assert load_capture(scan).names[3] == "000003.png"


def test_thousands_of_names_in_other_capitals_are_found_at_once(tmp_path: Path) -> None:
    for k in range(3000):
        (tmp_path / f"IMG_{k}.JPG").touch()
    finder = PhotoFinder(tmp_path)
    assert all(finder.find(f"img_{k}.jpg") == tmp_path / f"IMG_{k}.JPG" for k in range(3000))
    assert finder.find("img_3001.jpg") is None and finder.moved == []


def test_turned_photos_are_refused_as_such(tmp_path: Path) -> None:
    assert "turned by 90 degrees" in refusal(write_transforms(tmp_path / "a", w=SIZE[1], h=SIZE[0]))


def test_natural_order() -> None:
    names = ["10", "9", "1", "img2", "img10", "img1b", "IMG1"]
    assert [path.name for path in sorted(map(Path, names), key=natural_key)] == ["1", "9", "10", "IMG1", "img1b", "img2", "img10"]


# ---------------------------------------------------------------- backgrounds


@pytest.mark.parametrize(("name", "value"), [("white", 255), ("black", 0)])
def test_plain_borders_propose_a_background(tmp_path: Path, name: str, value: int) -> None:
    folder = write_blender(tmp_path / "a", alpha=False)
    for place, count in (("train", 8), ("test", 2)):
        for k, pose in enumerate(opengl_poses(count)):
            photo = ball_photo(pose)
            photo[photo[..., 3] == 0, :3] = value
            Image.fromarray(photo[..., :3]).save(folder / place / f"r_{k}.png")
    capture = load_capture(folder)
    assert not capture.has_masks and capture.unbounded
    assert f"100% of their border is {name}" in note(capture, f"background={name}")
    assert not any("background=" in text for text in load_capture(write_transforms(tmp_path / "b")).notes)


@pytest.mark.parametrize("background", ["random", "white", "black"])
@pytest.mark.parametrize("masked", [False, True])
def test_scenes_are_shown_over_the_background_they_are_compared_with(background: Any, masked: bool) -> None:
    from unrender.recipes.nerf.config import PRESETS as NERF
    from unrender.recipes.nerf.loop import NerfScene
    from unrender.recipes.neus.config import PRESETS as NEUS
    from unrender.recipes.neus.config import SurfaceStart
    from unrender.recipes.neus.scene import new_scene
    from unrender.recipes.settings import override

    expected = 1.0 if masked or background == "white" else 0.0
    generator = torch.Generator().manual_seed(0)
    small: Content = {"background": background, "levels": 2, "log2_entries": 8, "occupancy_resolution": 16}
    scene = NerfScene(override(NERF["cpu"], **small), unbounded=not masked, masked=masked, generator=generator)
    assert scene.background == expected
    config = override(NEUS["cpu"], background=background, occupancy_resolution=16)
    surface = new_scene(config, SurfaceStart(), surroundings=False, masked=masked, generator=generator)
    assert surface.background == expected

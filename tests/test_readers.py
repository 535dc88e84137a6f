from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tiny_captures import BALL, FOCAL, RADIUS, SIZE, ball_photo, opengl_poses, real_capture, write_blender, write_neus, write_transforms
from unrender.cameras import Cameras
from unrender.captures import load_capture
from unrender.captures.capture import Capture
from unrender.captures.masks import decode_mask
from unrender.captures.neus_npz import decomposed
from unrender.captures.photos import image_size, read_photo, read_photos
from unrender.transforms import inverse_similarity, transformed


def ball_in_world(capture: Capture) -> torch.Tensor:
    """The center of the ball of a tiny Blender or transforms capture, in the normalized world."""
    return transformed(torch.tensor(BALL)[None], inverse_similarity(capture.source_from_world)).float()


def rewrite(folder: Path, change) -> None:
    content = json.loads((folder / "transforms.json").read_text())
    change(content)
    (folder / "transforms.json").write_text(json.dumps(content))


def test_blender_ball_is_seen_where_it_is(tmp_path: Path) -> None:
    capture = load_capture(write_blender(tmp_path / "ball"))
    assert capture.name == "ball"
    assert len(capture) == 10 and all(photo.shape == (SIZE[1], SIZE[0], 4) for photo in capture.photos)
    assert capture.split.train == tuple(range(8)) and capture.split.test == (8, 9)
    assert "transforms_test.json" in capture.split.rule
    assert capture.names[0] == "train/r_0.png" and capture.names[9] == "test/r_1.png"
    assert not capture.unbounded and capture.has_masks
    torch.testing.assert_close(capture.cameras.intrinsics[0], torch.tensor([FOCAL, FOCAL, SIZE[0] / 2, SIZE[1] / 2]))
    for view in range(10):
        pixels, depth = capture.cameras.project(ball_in_world(capture), view)
        column, row = pixels[0].long().tolist()
        assert capture.mask(view)[row, column] == 255 and float(depth) > 0
        assert capture.photos[view][row, column, :3].tolist() == [255, 0, 0]
        ys, xs = torch.nonzero(capture.mask(view), as_tuple=True)
        assert abs(float(xs.float().mean()) + 0.5 - float(pixels[0, 0])) < 0.5
        assert abs(float(ys.float().mean()) + 0.5 - float(pixels[0, 1])) < 0.5


def test_colors_stay_straight_where_they_are_transparent(tmp_path: Path) -> None:
    capture = load_capture(write_blender(tmp_path / "ball"))
    assert capture.has_masks
    assert torch.equal(capture.photos[0], torch.from_numpy(ball_photo(opengl_poses(8)[0])))
    hidden = capture.photos[0][..., :3][capture.mask(0) == 0]
    assert bool((hidden == torch.tensor([0, 0, 255])).all())


def test_validation_file_serves_where_there_is_no_test_file(tmp_path: Path) -> None:
    folder = write_blender(tmp_path / "ball")
    (folder / "transforms_test.json").rename(folder / "transforms_val.json")
    capture = load_capture(folder)
    assert capture.split.test == (8, 9) and "transforms_val.json" in capture.split.rule
    (folder / "transforms_val.json").unlink()
    assert load_capture(folder, test_every=4).split.test == (0, 4)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("file", ["cameras_sphere.npz", "cameras.npz"])
def test_neus_cameras_see_the_ball_in_the_unit_sphere_frame(tmp_path: Path, file: str, suffix: str) -> None:
    capture = load_capture(write_neus(tmp_path / "scan", file=file, suffix=suffix))
    expected = torch.tensor([FOCAL, FOCAL, SIZE[0] / 2, SIZE[1] / 2])
    torch.testing.assert_close(capture.cameras.intrinsics, expected.expand(8, 4))
    for view, pose in enumerate(opengl_poses(8)):
        opencv = torch.from_numpy(pose @ np.diag([1.0, -1.0, -1.0, 1.0])).float()
        torch.testing.assert_close(capture.cameras.world_from_camera[view], opencv, atol=1e-5, rtol=0)
    assert capture.source_from_world.tolist() == [[2, 0, 0, 10], [0, 2, 0, 20], [0, 0, 2, 30], [0, 0, 0, 1]]
    assert capture.split.test == (0,) and not capture.unbounded
    assert capture.has_masks
    pixels, _ = capture.cameras.project(torch.tensor(BALL, dtype=torch.float32)[None], 3)
    column, row = pixels[0].long().tolist()
    assert capture.mask(3)[row, column] == 255


def test_neus_without_masks_is_unbounded(tmp_path: Path) -> None:
    capture = load_capture(write_neus(tmp_path / "scan", masks=False))
    assert not capture.has_masks and capture.unbounded
    assert any("no masks" in note for note in capture.notes)


def test_neus_images_without_a_camera_of_their_own_position_go_by_number(tmp_path: Path) -> None:
    folder = write_neus(tmp_path / "scan")
    whole = load_capture(folder)
    (folder / "image" / "000002.png").unlink()
    (folder / "mask" / "002.png").unlink()
    part = load_capture(folder)
    torch.testing.assert_close(part.cameras.world_from_camera[2], whole.cameras.world_from_camera[3])


def test_decomposition_restores_intrinsics_and_pose() -> None:
    generator = torch.Generator().manual_seed(5)
    axes = torch.linalg.qr(torch.randn(20, 3, 3, generator=generator, dtype=torch.float64))[0]
    axes = axes * torch.linalg.det(axes)[:, None, None]
    centers = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    intrinsics = torch.tensor([[2892.0, 0.3, 823.2], [0.0, 2883.0, 619.1], [0.0, 0.0, 1.0]], dtype=torch.float64)
    sign = torch.where(torch.arange(20) % 2 == 0, 1.0, -3.0).double()[:, None, None]
    projections = sign * intrinsics @ torch.cat((axes.mT, -(axes.mT @ centers[..., None])), -1)
    found, poses = decomposed(projections)
    torch.testing.assert_close(found, intrinsics.expand(20, 3, 3), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(poses[:, :3, :3], axes)
    torch.testing.assert_close(poses[:, :3, 3], centers)


@pytest.mark.parametrize("listed", ["./images/{:03d}.png", "images/{:03d}", "images\\{:03d}.jpg", "images/{:03d}.JPG"])
def test_photos_are_found_however_they_are_written(tmp_path: Path, listed: str) -> None:
    capture = load_capture(write_transforms(tmp_path / "ball", listed=listed))
    assert capture.names == tuple(f"images/{k:03d}.png" for k in range(9))
    assert capture.split.test == (0, 8) and len(capture.split.train) == 7
    assert capture.unbounded and not capture.has_masks


def test_intrinsics_of_every_spelling_agree(tmp_path: Path) -> None:
    half = [0.5 * extent / FOCAL for extent in SIZE]
    radians = [2 * float(np.arctan(value)) for value in half]
    spellings: dict[str, dict[str, Any]] = {
        "pixels": {},
        "radians": {"fl_x": None, "fl_y": None, "camera_angle_x": radians[0], "camera_angle_y": radians[1]},
        "one angle": {"fl_x": None, "fl_y": None, "cx": None, "cy": None, "camera_angle_x": radians[0]},
        "degrees": {"fl_x": None, "fl_y": None, "x_fov": np.degrees(radians[0]), "y_fov": np.degrees(radians[1])},
        "one length": {"fl_y": None, "w": None, "h": None},
        "twice the size": {"fl_x": 2 * FOCAL, "fl_y": 2 * FOCAL, "cx": SIZE[0], "cy": SIZE[1], "w": 2 * SIZE[0], "h": 2 * SIZE[1]},
    }
    for name, keys in spellings.items():
        capture = load_capture(write_transforms(tmp_path / name, **keys))
        expected = torch.tensor([FOCAL, FOCAL, SIZE[0] / 2, SIZE[1] / 2]).expand(9, 4)
        torch.testing.assert_close(capture.cameras.intrinsics, expected, msg=name)


def test_intrinsics_on_a_frame_win_over_global_ones(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "ball")
    rewrite(folder, lambda content: content["frames"][3].update(fl_x=50.0, k1=0.1))
    cameras = load_capture(folder).cameras
    assert cameras.intrinsics[3].tolist() == [50.0, 45.0, 20.0, 15.0]
    torch.testing.assert_close(cameras.distortion[3], torch.tensor([0.1, 0, 0, 0, 0, 0]))
    assert not bool(cameras.distortion[2].any()) and cameras.lens_of_view.unique().tolist() == [0, 1]


def test_distortion_and_lens_are_read(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"k1": 0.1, "k2": 0.02, "k3": 0.003, "k4": 0.0004, "p1": 0.005, "p2": 0.006}
    capture = load_capture(write_transforms(tmp_path / "a", **keys))
    torch.testing.assert_close(capture.cameras.distortion[0], torch.tensor([0.1, 0.02, 0.003, 0.0004, 0.005, 0.006]))
    assert capture.cameras.lens == "opencv"
    assert any("distortion" in note for note in capture.notes)
    listed = load_capture(write_transforms(tmp_path / "b", distortion_params=list(keys.values()), camera_model="OPENCV"))
    torch.testing.assert_close(listed.cameras.distortion, capture.cameras.distortion)
    assert load_capture(write_transforms(tmp_path / "c", camera_model="OPENCV_FISHEYE")).cameras.lens == "fisheye"
    assert load_capture(write_transforms(tmp_path / "d", is_fisheye=True)).cameras.lens == "fisheye"


def checked_against_the_ball(capture: Capture, sizes: Sequence[tuple[int, int]], ball: torch.Tensor) -> None:
    """Each view has its size and sees the ball where its mask is."""
    assert capture.photos.sizes.tolist() == capture.cameras.sizes.tolist() == [list(size) for size in sizes]
    for view in range(len(capture)):
        pixels, _ = capture.cameras.project(ball, view)
        ys, xs = torch.nonzero(capture.mask(view), as_tuple=True)
        size = sizes[view][0] / SIZE[0]
        assert abs(float(xs.float().mean()) + 0.5 - float(pixels[0, 0])) < 0.5 * size
        assert abs(float(ys.float().mean()) + 0.5 - float(pixels[0, 1])) < 0.5 * size


def test_frames_may_have_sizes_and_intrinsics_of_their_own(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "ball", alpha=True)
    sizes: list[tuple[int, int]] = [SIZE] * 9
    content = json.loads((folder / "transforms.json").read_text())
    for k, size, focal in ((2, (24, 36), 50.0), (5, (80, 60), 90.0)):
        photo = ball_photo(opengl_poses(9)[k], size=size, focal=focal)
        Image.fromarray(photo).save(folder / "images" / f"{k:03d}.png")
        content["frames"][k] |= {"w": size[0], "h": size[1], "fl_x": focal, "fl_y": focal, "cx": size[0] / 2, "cy": size[1] / 2}
        sizes[k] = size
    (folder / "transforms.json").write_text(json.dumps(content))
    capture = load_capture(folder)
    checked_against_the_ball(capture, sizes, ball_in_world(capture))
    center, radius = ball_in_world(capture)[0], RADIUS / float(capture.source_from_world[:3, 0].norm())
    assert float((center.abs() + radius).max()) < 1.0 and radius > 0.6
    small = load_capture(folder, downscale=2)
    assert small.cameras.sizes.tolist() == [[width // 2, height // 2] for width, height in sizes]
    assert small.photos[2].shape == (18, 12, 4)
    with pytest.raises(ValueError, match="differ in size"):
        _ = capture.cameras.width


def test_global_intrinsics_are_scaled_to_the_size_of_each_photo(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "ball", alpha=True)
    Image.fromarray(ball_photo(opengl_poses(9)[4], size=(80, 60), focal=2 * FOCAL)).save(folder / "images" / "004.png")
    capture = load_capture(folder)
    assert capture.cameras.intrinsics[4].tolist() == [2 * FOCAL, 2 * FOCAL, 40, 30] and capture.cameras.intrinsics[3, 0] == FOCAL
    assert any("intrinsics were scaled" in note for note in capture.notes)
    checked_against_the_ball(capture, [(80, 60) if k == 4 else SIZE for k in range(9)], ball_in_world(capture))


def test_frames_may_have_lenses_of_their_own(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "ball")
    rewrite(folder, lambda content: content["frames"][3].update(camera_model="OPENCV_FISHEYE", k1=0.05))
    cameras = load_capture(folder).cameras
    assert cameras.fisheye.tolist() == [k == 3 for k in range(9)] and cameras[3].lens == "fisheye"
    with pytest.raises(ValueError, match="differ in lens"):
        _ = cameras.lens
    for view in (2, 3):
        rays = cameras.image_rays(view)
        pixels, _ = cameras.project(rays.origins + 2 * rays.directions, view)
        assert float((pixels - cameras.pixel_centers(view)).abs().max()) < 1e-3


def test_blender_and_neus_photos_may_differ_in_size(tmp_path: Path) -> None:
    folder = write_blender(tmp_path / "a")
    Image.fromarray(ball_photo(opengl_poses(2)[1], size=(20, 15), focal=FOCAL / 2)).save(folder / "test" / "r_1.png")
    capture = load_capture(folder)
    checked_against_the_ball(capture, [*[SIZE] * 9, (20, 15)], ball_in_world(capture))
    folder = write_neus(tmp_path / "b")
    with np.load(folder / "cameras_sphere.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    # Twice the pixels: x' + 0.5 = 2 (x + 0.5), with centers at integers.
    arrays["world_mat_3"] = np.array([[2, 0, 0.5, 0], [0, 2, 0.5, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]) @ arrays["world_mat_3"]
    np.savez(folder / "cameras_sphere.npz", **arrays)
    photo = ball_photo(opengl_poses(8)[3], size=(80, 60), focal=2 * FOCAL)
    Image.fromarray(photo[..., :3]).save(folder / "image" / "000003.png")
    Image.fromarray(photo[..., 3]).save(folder / "mask" / "003.png")
    capture = load_capture(folder)
    torch.testing.assert_close(capture.cameras.intrinsics[3], torch.tensor([2 * FOCAL, 2 * FOCAL, 40.0, 30.0]))
    ball = torch.tensor(BALL, dtype=torch.float32)[None]
    checked_against_the_ball(capture, [(80, 60) if k == 3 else SIZE for k in range(8)], ball)


def test_exif_orientation_is_decided_photo_by_photo(tmp_path: Path) -> None:
    """Portrait and landscape photos of one phone: all stored as landscape, the cameras are of what is shown."""
    folder = write_transforms(tmp_path / "walk")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = ball_photo(opengl_poses(9)[4])[..., :3]
    Image.fromarray(photo).save(folder / "images" / "004.png", exif=exif)
    rewrite(folder, lambda content: content["frames"][4].update(w=SIZE[1], h=SIZE[0], cx=SIZE[1] / 2, cy=SIZE[0] / 2))
    capture = load_capture(folder)
    assert torch.equal(capture.photos[4][..., :3], torch.from_numpy(photo.copy()).rot90(-1))
    assert capture.photos[3].shape == (SIZE[1], SIZE[0], 4)
    assert not any("EXIF" in note for note in capture.notes)


def test_a_lens_that_folds_inside_the_image_is_noted(tmp_path: Path) -> None:
    capture = load_capture(write_transforms(tmp_path / "ball", k1=-1.5))
    assert any("folds back" in note for note in capture.notes)


def test_listed_splits_are_honored(tmp_path: Path) -> None:
    names = [f"images/{k:03d}.png" for k in range(9)]
    folder = write_transforms(tmp_path / "ball", train_filenames=names[:6], val_filenames=names[6:8], test_filenames=[f"./{names[8]}"])
    split = load_capture(folder).split
    assert split.train == tuple(range(6)) and split.test == (8,)
    assert "test_filenames" in split.rule


def test_alpha_and_mask_files_outline_the_object(tmp_path: Path) -> None:
    alpha = load_capture(write_transforms(tmp_path / "alpha", alpha=True))
    folder = write_transforms(tmp_path / "files")
    (folder / "masks").mkdir()
    for k, pose in enumerate(opengl_poses(9)):
        Image.fromarray(ball_photo(pose)[..., 3] // 255).save(folder / "masks" / f"{k:03d}.png")
    rewrite(folder, lambda content: [frame.update(mask_path=f"masks/{k:03d}.png") for k, frame in enumerate(content["frames"])])
    files = load_capture(folder)
    assert alpha.has_masks and files.has_masks
    for view in range(9):
        assert torch.equal(alpha.mask(view), files.mask(view))
    assert not alpha.unbounded and not files.unbounded
    ignored = load_capture(folder, masks="none")
    assert not ignored.has_masks and bool((ignored.mask(0) == 255).all()) and ignored.unbounded


def test_masks_that_are_bright_nearly_everywhere_leave_pixels_out(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "walk")
    (folder / "masks").mkdir()
    mask = np.full((SIZE[1], SIZE[0]), 255, np.uint8)
    mask[:5, :5] = 0
    for k in range(9):
        Image.fromarray(mask).save(folder / "masks" / f"{k:03d}.png")
    rewrite(folder, lambda content: [frame.update(mask_path=f"masks/{k:03d}.png") for k, frame in enumerate(content["frames"])])
    capture = load_capture(folder)
    assert not capture.has_masks and capture.unbounded and capture.ignored is not None
    assert torch.equal(capture.ignored[4], torch.from_numpy(mask == 0))


def test_dynamic_masks_leave_pixels_out(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "walk")
    mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    mask[3:9, 4:20] = 255
    Image.fromarray(mask).save(folder / "images" / "dynamic_mask_002.png")
    capture = load_capture(folder)
    assert capture.ignored is not None and len(capture) == 9
    assert torch.equal(capture.ignored[2], torch.from_numpy(mask > 0))
    assert sum(int(image.sum()) for image in capture.ignored) == int((mask > 0).sum())


def test_a_few_missing_photos_are_left_out_and_named(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "ball")
    for k in (1, 4, 5, 7):
        (folder / "images" / f"{k:03d}.png").unlink()
    capture = load_capture(folder, test_every=5)
    assert capture.names == tuple(f"images/{k:03d}.png" for k in (0, 2, 3, 6, 8))
    assert any("4 of the 9 frames" in note and "images/001.png" in note for note in capture.notes)


def test_exif_orientation_is_applied_unless_the_cameras_are_of_the_stored_pixels(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "ball")
    exif = Image.Exif()
    exif[0x0112] = 6
    for k, pose in enumerate(opengl_poses(9)):
        Image.fromarray(ball_photo(pose)[..., :3]).save(folder / "images" / f"{k:03d}.png", exif=exif)
    stored = load_capture(folder)
    assert stored.photos[0].shape[:2] == (SIZE[1], SIZE[0])
    assert any("EXIF" in note for note in stored.notes)
    rewrite(folder, lambda content: content.update(w=SIZE[1], h=SIZE[0]))
    turned = load_capture(folder)
    assert turned.photos[0].shape[:2] == (SIZE[0], SIZE[1])
    assert torch.equal(turned.photos[0], stored.photos[0].rot90(-1))


def test_two_candidates_are_both_named(tmp_path: Path) -> None:
    folder = write_neus(write_transforms(tmp_path / "both"))
    capture = load_capture(folder)
    assert any("transforms.json" in note and "cameras_sphere.npz" in note for note in capture.notes)


def test_points_of_structure_from_motion_come_along(tmp_path: Path) -> None:
    folder = write_neus(tmp_path / "scan")
    points = np.array([[10.0, 20.0, 30.0], [12.0, 20.0, 30.0], [np.nan, 0.0, 0.0]])
    np.savez(folder / "sparse_points.npz", points=points)
    capture = load_capture(folder)
    assert capture.points is not None
    torch.testing.assert_close(capture.points, torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    (folder / "sparse_points.npz").unlink()
    rows = "\n".join(f"{x} {y} {z}" for x, y, z in points[:2])
    header = "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    (folder / "sparse_points_interest.ply").write_text(header + rows + "\n")
    from_ply = load_capture(folder).points
    assert from_ply is not None
    torch.testing.assert_close(from_ply, capture.points)


@pytest.mark.parametrize("frame", ["opengl", "opencv", "world"])
def test_normal_images_become_world_normals(tmp_path: Path, frame) -> None:
    folder = write_neus(tmp_path / "scan")
    (tmp_path / "normals").mkdir()
    towards = {"opengl": (0.0, 0.0, 1.0), "opencv": (0.0, 0.0, -1.0), "world": (0.0, -0.6, 0.8)}[frame]
    image = np.full((SIZE[1], SIZE[0], 3), 128, np.uint8)
    image[10:20, 10:20] = np.rint((np.array(towards) + 1) * 127.5)
    for k in range(7):
        Image.fromarray(image).save(tmp_path / "normals" / f"{k:06d}_normal.png")
    capture = load_capture(folder, normal_maps=tmp_path / "normals", normal_maps_frame=frame, up=(0.0, 1.0, 0.0), downscale=2)
    assert capture.normals is not None and capture.normals[7].shape == (SIZE[1] // 2, SIZE[0] // 2, 3)
    assert any("1 of 8 views" in note for note in capture.notes)
    turn = capture.source_from_world[:3, :3].T.float() / 2
    for view in (0, 3):
        world = turn @ torch.tensor(towards) if frame == "world" else -capture.cameras.world_from_camera[view, :3, 2]
        torch.testing.assert_close(capture.normals[view][7, 7], world, atol=0.01, rtol=0)
    assert not bool(capture.normals[0][0].any()) and not bool(capture.normals[7].any())


def test_downscaling_weights_color_by_alpha_and_keeps_the_rays(tmp_path: Path) -> None:
    photo = np.zeros((5, 4, 4), np.uint8)
    photo[0, 0] = (200, 100, 0, 255)
    photo[0, 1] = (0, 0, 255, 0)
    photo[1, 0] = (100, 100, 0, 51)
    photo[2:4, 2:4] = (10, 20, 30, 0)
    Image.fromarray(photo).save(tmp_path / "a.png")
    pixels, transparent = read_photo(tmp_path / "a.png", downscale=2)
    assert transparent and pixels.shape == (2, 2, 4)
    assert pixels[0, 0].tolist() == [round((200 * 255 + 100 * 51) / 306), 100, 0, round(306 / 4)]
    assert pixels[..., 3].tolist() == [[round(306 / 4), 0], [0, 0]]
    assert pixels[1, 1].tolist() == [10, 20, 30, 0]


def test_every_kind_of_image_becomes_eight_bit_rgb(tmp_path: Path) -> None:
    ramp = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    gray = (ramp >> 8).astype(np.uint8)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    Image.fromarray(gray).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(np.stack((gray, np.full_like(gray, 255)), -1), "LA").save(tmp_path / "opaque.png")
    files = [tmp_path / f"{name}.png" for name in ("deep", "gray", "palette", "opaque")]
    photos, transparent = read_photos(files, torch.tensor([image_size(file) for file in files]))
    assert not transparent
    for view in range(4):
        assert torch.equal(photos[view][..., :3], torch.from_numpy(gray)[..., None].expand(3, 4, 3)), files[view]
        assert bool((photos[view][..., 3] == 255).all())


def test_masks_in_alpha_and_of_ones_are_understood(tmp_path: Path) -> None:
    shape = np.zeros((3, 4), np.uint8)
    shape[1] = 1
    Image.fromarray(shape).save(tmp_path / "ones.png")
    white = np.full((3, 4, 4), 255, np.uint8)
    white[..., 3] = shape * 255
    Image.fromarray(white).save(tmp_path / "alpha.png")
    for file in (tmp_path / "ones.png", tmp_path / "alpha.png"):
        mask = decode_mask(file)
        assert np.array_equal(mask.as_bytes(255 if mask.kind == "alpha" else 1), shape * 255)


def test_fingerprint_follows_files_and_options(tmp_path: Path) -> None:
    folder = write_blender(tmp_path / "ball")
    first = load_capture(folder).fingerprint
    assert len(first) == 64 and load_capture(folder).fingerprint == first
    assert load_capture(folder, downscale=2).fingerprint != first
    photo = np.asarray(Image.open(folder / "train" / "r_3.png")).copy()
    photo[0, 0, 0] ^= 1
    Image.fromarray(photo).save(folder / "train" / "r_3.png")
    assert load_capture(folder).fingerprint != first


def test_color_and_alpha_are_floats_of_one_view(tmp_path: Path) -> None:
    capture = load_capture(write_blender(tmp_path / "ball"))
    assert capture.has_masks
    torch.testing.assert_close(capture.color(2), capture.photos[2][..., :3].float() / 255)
    torch.testing.assert_close(capture.alpha(1), capture.photos[1][..., 3].float() / 255)
    assert float(capture.color(0, linear=True).max()) == pytest.approx(1.0)


def inside_share(capture: Capture, cameras: Cameras, points: torch.Tensor, view: int, grow: int = 0) -> float:
    """Share of the points an image shows that fall on its mask, grown by some pixels."""
    assert capture.has_masks
    mask = torch.nn.functional.max_pool2d(capture.mask(view)[None].float(), 2 * grow + 1, stride=1, padding=grow)[0]
    pixels, depth = cameras.project(points, view)
    shown = (depth > 0) & (pixels >= 0).all(-1) & (pixels[:, 0] < cameras.width) & (pixels[:, 1] < cameras.height)
    assert float(shown.float().mean()) > 0.8
    column, row = pixels[shown].long().unbind(-1)
    return float((mask[row, column] >= 128).float().mean())


@pytest.mark.data
def test_chair_depth_maps_lie_in_the_region_of_interest_and_in_other_masks() -> None:
    folder = real_capture("chair_200")
    capture = load_capture(folder)
    assert len(capture) == 120 and (capture.photos.sizes == 200).all() and len(capture.split.test) == 20
    view = capture.split.test[0]
    file = folder / capture.names[view].replace(".png", "_depth_0000.png")
    coded = torch.from_numpy(np.asarray(Image.open(file))[..., 0].copy()).float().reshape(-1)
    assert capture.has_masks
    whole = torch.nn.functional.avg_pool2d(capture.mask(view)[None].double(), 3, stride=1, padding=1).reshape(-1) == 255
    scale = float(capture.source_from_world[0, 0])
    rays = capture.cameras.image_rays(view)
    forward = capture.cameras.world_from_camera[view, :3, 2]
    depth = 8 * (1 - coded / 255) / scale
    points = rays.origins + rays.directions * (depth / (rays.directions @ forward))[:, None]
    points = points[whole]  # on the outline, depth is blended with the background's
    assert float((points.abs() <= 1).all(-1).float().mean()) > 0.999
    assert float(points.abs().max()) > 0.8
    pixels_in_a_step = 2  # one gray level of the 8-bit depth is 8 / 255, seen from 4 away with a focal length of 278 pixels
    shares = [inside_share(capture, capture.cameras, points, other, pixels_in_a_step) for other in range(0, 100, 10)]
    assert min(shares) > 0.995


@pytest.mark.data
def test_lego_loads_and_downscales() -> None:
    capture = load_capture(real_capture("lego_800"), downscale=8)
    assert len(capture) == 125 and (capture.photos.sizes == 100).all()
    assert capture.has_masks and 0.1 < float(capture.photos.pixels[:, 3].float().mean()) / 255 < 0.5
    torch.testing.assert_close(capture.cameras.intrinsics[0], torch.tensor([138.888, 138.888, 50.0, 50.0]), atol=1e-2, rtol=0)


@pytest.mark.data
def test_dtu_reference_points_project_onto_the_object() -> None:
    folder = real_capture("dtu_scan24_400")
    capture = load_capture(folder)
    with np.load(folder / "sparse_reference.npz") as reference:
        points, colors = torch.from_numpy(reference["xyz"]), torch.from_numpy(reference["rgb"]).float()
    assert len(capture) == 49 and float(points.norm(dim=-1).max()) < 1.1
    assert np.mean([inside_share(capture, capture.cameras, points, view) for view in range(49)]) > 0.99

    def color_error(shift: float) -> float:
        """Median difference of the points' colors from the images, moved sideways: least where the cameras are right."""
        errors = []
        for view in range(0, 49, 8):
            pixels, _ = capture.cameras.project(points, view)
            grid = 2 * (pixels + shift) / torch.tensor([400.0, 300.0]) - 1
            image = capture.photos[view][..., :3].permute(2, 0, 1)[None].float()
            found = torch.nn.functional.grid_sample(image, grid[None, None], align_corners=False)[0, :, 0].T
            errors.append(float((found - colors).abs().mean(-1).median()))
        return float(np.mean(errors))

    assert color_error(0.0) < min(color_error(-0.375), color_error(0.375))


@pytest.mark.data
def test_fox_rays_follow_its_lens() -> None:
    capture = load_capture(real_capture("fox_270"))
    assert capture.photos.sizes.tolist() == [[270, 480]] * 50 and capture.unbounded
    assert capture.cameras.has_distortion and not bool(capture.cameras.lens_of_view.any())
    assert any("17 of the 67 frames" in note for note in capture.notes)
    rays = capture.cameras.image_rays(7)
    pixels, _ = capture.cameras.project(rays.origins + 2.5 * rays.directions, 7)
    assert float((pixels - capture.cameras.pixel_centers(7)).abs().max()) < 2e-3
    assert float(capture.cameras.positions.norm(dim=-1).median()) == pytest.approx(1.0, abs=1e-5)


def test_the_ball_is_as_large_in_the_world_as_the_similarity_says(tmp_path: Path) -> None:
    capture = load_capture(write_blender(tmp_path / "ball"))
    assert capture.has_masks
    scale = float(capture.source_from_world[0, 0])
    generator = torch.Generator().manual_seed(0)
    shell = torch.randn(2000, 3, generator=generator)
    shell = shell / shell.norm(dim=-1, keepdim=True) * RADIUS / scale
    inner, outer = ball_in_world(capture) + 0.9 * shell, ball_in_world(capture) + 1.6 * shell
    for view in range(0, 10, 3):
        assert inside_share(capture, capture.cameras, inner, view) == 1.0
        assert inside_share(capture, capture.cameras, outer, view) < 0.9

"""Poses of plain photos and videos: frames, photos and masks, turntables, placement, the written capture, reports, the command."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from PIL import Image

from tiny_captures import real_capture
from tiny_photos import FOCAL, SIZE, camera, photo, write_photos
from unrender.captures import load_capture
from unrender.captures.errors import CaptureError
from unrender.captures.structure_from_motion import solve
from unrender.captures.structure_from_motion.assessment import judge, reason_of, report_photos
from unrender.captures.structure_from_motion.background import Matches, find_background
from unrender.captures.structure_from_motion.child import Stages
from unrender.captures.structure_from_motion.frames import extract_frames, sharpest_of_windows, sharpness
from unrender.captures.structure_from_motion.gathering import Given, Photo, camera_groups, find_photos, lay_out, needs_poses
from unrender.captures.structure_from_motion.placement import place, upward
from unrender.captures.structure_from_motion.solution import Solution
from unrender.captures.structure_from_motion.solve import image_pairs, silent, solve_poses
from unrender.captures.structure_from_motion.writing import write_capture
from unrender.cli import main

needs_pycolmap = pytest.mark.skipif(importlib.util.find_spec("pycolmap") is None, reason="needs unrender[sfm]")
PICTURE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)


def refusal(source: Path, folder: Path) -> str:
    with pytest.raises(CaptureError) as caught:
        solve_poses(source, folder)
    return str(caught.value)


def opened(file: Path) -> Image.Image:
    with Image.open(file) as image:
        image.load()
        return image


# Frames of a video


def write_clip(file: Path, *, count: int = 40, blurred: tuple[int, ...] = (), size: tuple[int, int] = (96, 64)) -> Path:
    """A video of a texture that moves; blurred frames are averages over 9 x 9 pixels."""
    random = np.random.default_rng(1)
    wide = np.asarray(Image.fromarray(random.integers(0, 255, (16, 64), dtype=np.uint8)).resize((8 * size[0], 2 * size[1])))
    frames = []
    for k in range(count):
        gray = Image.fromarray(wide[: size[1], 3 * k : 3 * k + size[0]])
        small = (size[0] // 9, size[1] // 9)
        gray = gray.resize(small, Image.Resampling.BOX).resize(size) if k in blurred else gray
        frames.append(np.repeat(np.asarray(gray)[..., None], 3, 2))
    imageio.mimwrite(file, frames, fps=10, macro_block_size=1, quality=9)  # pyright: ignore[reportArgumentType]
    return file


def test_the_sharpest_frame_of_each_window_is_taken(tmp_path: Path) -> None:
    sharp = {2, 7, 13, 18, 21, 29, 34, 39}
    clip = write_clip(tmp_path / "a clip.mp4", blurred=tuple(set(range(40)) - sharp))
    files = extract_frames(clip, tmp_path / "frames", 8, silent)
    assert [int(file.stem[6:]) - 1 for file in files] == sorted(sharp)
    assert opened(files[0]).size == (96, 64)


def test_windows_cover_a_video_evenly() -> None:
    chosen = sharpest_of_windows(np.random.default_rng(0).random(997), 60)
    assert len(chosen) == 60 and np.diff(chosen).max() < 2 * 997 / 60 and chosen[0] < 17 and chosen[-1] >= 980
    assert sharpest_of_windows(np.ones(5), 60) == [0, 1, 2, 3, 4]


def test_blur_lowers_sharpness() -> None:
    gray = Image.fromarray(PICTURE[..., 0])
    assert sharpness(np.asarray(gray.resize((16, 12)).resize((64, 48)))) < 0.2 * sharpness(np.asarray(gray))


def test_the_rotation_of_a_video_is_applied(tmp_path: Path) -> None:
    import subprocess

    from imageio_ffmpeg import get_ffmpeg_exe

    clip, turned = write_clip(tmp_path / "clip.mp4", count=6), tmp_path / "turned.mov"
    subprocess.run([get_ffmpeg_exe(), "-v", "error", "-display_rotation", "90", "-i", clip, "-c", "copy", turned], check=True)
    files = extract_frames(turned, tmp_path / "frames", 3, silent)
    assert opened(files[0]).size == (64, 96)
    upright = extract_frames(clip, tmp_path / "upright", 3, silent)
    first, second = (np.asarray(opened(f[0]).convert("L")).astype(float) for f in (files, upright))
    assert np.abs(first - np.rot90(second)).mean() < 4


def test_a_file_that_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"\0\1\2" * 1000)
    (tmp_path / "b.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    for name in ("a.mp4", "b.mp4"):
        assert "cannot be read" in refusal(tmp_path / name, tmp_path / "out")
    (tmp_path / "c.mp4").touch()
    assert "c.mp4 is empty" in refusal(tmp_path / "c.mp4", tmp_path / "out")


def test_a_cut_off_video_gives_the_frames_it_has(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mkv"  # MP4 has its index at the end
    write_clip(clip, count=60)
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) * 2 // 3])
    assert 3 <= len(extract_frames(clip, tmp_path / "frames", 5, silent)) <= 5


# Photos and masks


def test_upright_photos_are_linked_and_others_turned(tmp_path: Path) -> None:
    given = tmp_path / "photos"
    given.mkdir()
    image = Image.fromarray(PICTURE)
    image.save(given / "a.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(given / "b.jpg", exif=exif, quality=95)
    image.save(given / "c.png")
    image.save(given / "d.bmp")
    photos, broken = lay_out(find_photos(given), tmp_path / "out", silent)
    images = tmp_path / "out" / "images"
    assert broken == {} and [photo.name for photo in photos] == ["a.jpg", "b.jpg", "c.png", "d.png"]
    assert all((images / name).samefile(given / name) for name in ("a.jpg", "c.png"))
    assert [(photo.width, photo.height) for photo in photos] == [(64, 48), (48, 64), (64, 48), (64, 48)]
    assert opened(images / "b.jpg").getexif().get(0x0112, 1) == 1
    turned, stored = np.asarray(opened(images / "b.jpg")).astype(float), np.asarray(opened(given / "b.jpg"))
    assert turned.shape == (64, 48, 3) and np.abs(turned - np.rot90(stored, -1)).mean() < 5
    assert np.array_equal(np.asarray(opened(images / "d.png")), PICTURE)


def test_heic_photos_are_found_and_written_upright(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    given = tmp_path / "photos"
    given.mkdir()
    smooth = np.asarray(Image.fromarray(PICTURE[::12, ::16]).resize((64, 48), Image.Resampling.BICUBIC))
    for k, orientation in enumerate((1, 6, 3)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        exif.get_ifd(0x8769)[0xA405] = 26
        Image.fromarray(smooth).save(given / f"{k}.heic", exif=exif.tobytes(), quality=95)
    assert needs_poses(given)
    photos, broken = lay_out(find_photos(given), tmp_path / "out", silent)
    assert broken == {} and [photo.name for photo in photos] == ["0.jpg", "1.jpg", "2.jpg"]
    assert [(photo.width, photo.height) for photo in photos] == [(64, 48), (48, 64), (64, 48)]
    assert all(photo.focal == pytest.approx(26 * np.hypot(64, 48) / np.hypot(36, 24)) for photo in photos)
    for k, turns in enumerate((0, -1, 2)):
        upright = np.asarray(opened(tmp_path / "out" / "images" / f"{k}.jpg")).astype(float)
        assert np.abs(upright - np.rot90(smooth, turns)).mean() < 6


def test_photos_are_copied_where_links_are_impossible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    given = tmp_path / "photos"
    given.mkdir()
    for k in range(3):
        Image.fromarray(PICTURE).save(given / f"{k}.png")
    lay_out(find_photos(given), tmp_path / "out", silent)
    copy = tmp_path / "out" / "images" / "0.png"
    assert copy.read_bytes() == (given / "0.png").read_bytes() and not copy.samefile(given / "0.png")


def test_the_focal_length_of_exif_is_a_prior_and_separates_lenses(tmp_path: Path) -> None:
    given = tmp_path / "photos"
    given.mkdir()
    for k, film in enumerate((26, 26, 52)):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0xA405] = film
        Image.fromarray(PICTURE).save(given / f"{k}.jpg", exif=exif)
    photos, _ = lay_out(find_photos(given), tmp_path / "out", silent)
    expected = 26 * np.hypot(64, 48) / np.hypot(36, 24)
    assert photos[0].focal == pytest.approx(expected) and photos[2].focal == pytest.approx(2 * expected)
    assert [[photo.name for photo in group] for group in camera_groups(photos)] == [["0.jpg", "1.jpg"], ["2.jpg"]]


def test_masks_belong_to_photos_by_name(tmp_path: Path) -> None:
    given = tmp_path / "photos"
    (given / "masks").mkdir(parents=True)
    for k in range(3):
        Image.fromarray(PICTURE).save(given / f"{k}.jpg")
        Image.fromarray(PICTURE[..., 0]).save(given / "masks" / (f"{k}.png" if k else "0.jpg.png"))
    photos, _ = lay_out(find_photos(given), tmp_path / "out", silent)
    assert [photo.mask for photo in photos] == ["0.jpg.png", "1.jpg.png", "2.jpg.png"]
    assert (tmp_path / "out" / "masks" / "2.jpg.png").exists()
    Image.fromarray(PICTURE[:20, :, 0]).save(given / "masks" / "1.png")
    with pytest.raises(CaptureError, match="1.png is 64x20 but its photo is 64x48"):
        lay_out(find_photos(given), tmp_path / "again", silent)
    (given / "masks" / "1.png").unlink()
    with pytest.raises(CaptureError, match="has no mask for 1.jpg"):
        find_photos(given)


@pytest.mark.parametrize("kind", ["cut-out", "labels", "colors"])
def test_masks_of_several_channels_are_written_with_one(tmp_path: Path, kind: str) -> None:
    given = tmp_path / "photos"
    (given / "masks").mkdir(parents=True)
    inside = np.zeros((48, 64), np.uint8)
    inside[10:30, 20:50] = 255
    if kind == "cut-out":
        mask = Image.fromarray(np.dstack([PICTURE // 4, inside]))
    elif kind == "labels":
        mask = Image.fromarray((inside > 0).astype(np.uint8), "P")
        mask.putpalette([0, 0, 0, 128, 0, 0])
    else:
        mask = Image.fromarray(np.dstack([0 * inside, 0 * inside, inside // 2]))
    for k in range(3):
        Image.fromarray(PICTURE).save(given / f"{k}.jpg")
        mask.save(given / "masks" / f"{k}.png")
    photos, _ = lay_out(find_photos(given), tmp_path / "out", silent)
    assert [photo.mask for photo in photos] == ["0.jpg.png", "1.jpg.png", "2.jpg.png"]
    assert np.array_equal(np.asarray(opened(tmp_path / "out" / "masks" / "1.jpg.png")), inside)


def test_what_holds_no_photos_is_refused_in_one_sentence(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "does not exist" in refusal(tmp_path / "nowhere", out)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"{empty} holds no photos; give a folder of photos" in refusal(empty, out)
    (empty / "walk.MOV").touch()
    assert "give the video itself" in refusal(empty, out)
    (tmp_path / "notes.txt").touch()
    assert "neither a folder nor a video" in refusal(tmp_path / "notes.txt", out)
    Image.fromarray(PICTURE).save(empty / "one.png")
    assert "holds 1 photos; poses need at least 3" in refusal(empty, out)
    assert not out.exists()


def test_broken_photos_are_left_out_and_reported(tmp_path: Path) -> None:
    given = tmp_path / "photos"
    given.mkdir()
    for k in range(5):
        Image.fromarray(PICTURE).save(given / f"{k}.jpg")
    data = (given / "1.jpg").read_bytes()
    (given / "1.jpg").write_bytes(data[: len(data) // 2])
    photos, broken = lay_out(find_photos(given), tmp_path / "out", silent)
    assert len(photos) == 4 and "cannot be decoded" in broken["1.jpg"]
    for k in (0, 2):
        (given / f"{k}.jpg").write_bytes(b"no picture")
    with pytest.raises(CaptureError, match="only 2 of 5 photos can be read"):
        lay_out(find_photos(given), tmp_path / "again", silent)


# Which photos are compared


def test_neighbors_and_loops_of_a_video_are_matched() -> None:
    pairs = image_pairs(150, is_video=True)
    assert pairs is not None and len(pairs) == len(set(pairs)) and all(0 <= a < b < 150 for a, b in pairs)
    assert {(k, k + step) for step in range(1, 11) for k in range(150 - step)} <= set(pairs)
    assert (0, 149) in pairs and len(pairs) < 0.35 * 150 * 149 / 2
    assert image_pairs(30, is_video=True) is None and image_pairs(200, is_video=False) is None


# Turntables


def turntable_matches(*, turning: bool, views: int = 20) -> Matches:
    """Features of a background and of an object: it turns before the background, or the camera goes around both."""
    random = np.random.default_rng(3)
    background = np.stack([random.uniform(-4, 4, 60), random.uniform(2, 6, 60), random.uniform(-1, 3, 60)], -1)
    object_ = random.uniform(-0.6, 0.6, (80, 3)) + [0, 0, 0.4]
    keypoints = {}
    for view in range(views):
        angle = 2 * np.pi * view / views
        poses = [camera(0.3 if turning else angle, distance=5.0), camera(angle, distance=5.0)]
        pixels = []
        for points, pose in zip((background @ [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], object_), poses, strict=True):
            local = (points - pose[:3, 3]) @ pose[:3, :3]
            pixels.append(FOCAL * local[:, :2] / np.abs(local[:, 2:]) + np.array(SIZE) / 2)
        keypoints[view + 1] = np.concatenate(pixels) + random.normal(0, 0.2, (140, 2))
    every = np.stack([np.arange(140)] * 2, -1)
    pairs = {(a, b): every for a in keypoints for b in keypoints if a < b}
    return Matches(keypoints, {view: f"{view}.png" for view in keypoints}, pairs, float(max(SIZE)))


def test_the_background_of_a_turntable_is_found() -> None:
    found = find_background(turntable_matches(turning=True))
    assert found is not None
    still = np.stack(list(found.still.values()))
    assert still[:, :60].mean() > 0.95 and still[:, 60:].mean() < 0.05
    assert all((rows >= 60).mean() > 0.9 for rows in found.kept.values() if len(rows))


def test_a_camera_that_goes_around_has_no_background() -> None:
    assert find_background(turntable_matches(turning=False)) is None


# From the solver's frame to a capture


def ring(count: int = 12, points: int = 400) -> Solution:
    """Cameras around a ball of points of radius 0.5 at (0, 0, 0.4) with exact observations, in a turned, shifted frame."""
    random = np.random.default_rng(5)
    turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
    turn = turn * np.sign(np.linalg.det(turn))
    shift = np.array([3.0, -2.0, 7.0])
    xyz = random.normal(size=(points, 3))
    xyz = 0.5 * xyz / np.linalg.norm(xyz, axis=1, keepdims=True) + [0, 0, 0.4]
    poses = np.stack([camera(2 * np.pi * k / count) for k in range(count)])
    poses[:, :3, :3], poses[:, :3, 3] = turn @ poses[:, :3, :3], poses[:, :3, 3] @ turn.T + shift
    xyz = xyz @ turn.T + shift
    lens = np.array([[330.0, 332.0, 161.0, 119.0, -0.05, 0.01, 0.001, -0.002]])
    observations, pixels = [], []
    for view, pose in enumerate(poses):
        x, y, z = ((xyz - pose[:3, 3]) @ pose[:3, :3]).T
        x, y = x / z, y / z
        fx, fy, cx, cy, k1, k2, p1, p2 = lens[0]
        square = x * x + y * y
        bend = 1 + k1 * square + k2 * square**2
        across = fx * (x * bend + 2 * p1 * x * y + p2 * (square + 2 * x * x)) + cx
        down = fy * (y * bend + p1 * (square + 2 * y * y) + 2 * p2 * x * y) + cy
        observations += [(view, point, point) for point in range(points)]
        pixels.append(np.stack([across, down], -1))
    return Solution(
        names=tuple(f"{k:03d}.png" for k in range(count)),
        camera_from_world=np.linalg.inv(poses),
        lens_of_view=np.zeros(count, np.int64),
        lenses=lens,
        sizes=np.array([SIZE]),
        points=xyz,
        colors=np.full((points, 3), 128, np.uint8),
        observations=np.array(observations),
        pixels=np.concatenate(pixels),
    )


def photos_of(solution: Solution, folder: Path) -> list[Photo]:
    (folder / "images").mkdir(parents=True)
    for name in solution.names:
        Image.fromarray(np.resize(PICTURE, (SIZE[1], SIZE[0], 3))).save(folder / "images" / name)
    return [Photo(name, None, *SIZE, None, 100.0) for name in solution.names]


def test_reprojection_errors_follow_the_lens() -> None:
    solution = ring()
    assert solution.errors().max() < 1e-9
    moved = replace(solution, pixels=solution.pixels + [3.0, 4.0])
    assert np.allclose(moved.errors(), 5.0) and np.allclose(moved.mean_of_views(moved.errors()), 5.0)


def test_up_is_up_and_the_cube_holds_the_object() -> None:
    solution = ring()
    placement = place(solution)
    moved = solution.points @ placement.capture_from_solution[:3, :3].T + placement.capture_from_solution[:3, 3]
    assert np.abs(moved.mean(0)).max() < 0.05 and np.abs(moved).max() <= placement.half_side < 0.75
    up = placement.capture_from_solution[:3, :3] @ solution.world_from_camera[:, :3, 1].mean(0)
    assert up[2] < -0.5 and np.abs(up[:2]).max() < 1e-6


def test_up_is_the_axis_of_the_ring_where_cameras_are_held_every_way() -> None:
    poses = np.stack([camera(2 * np.pi * k / 12) for k in range(12)])
    for k, pose in enumerate(poses):
        roll = np.pi * (k % 2)
        pose[:3, :3] = pose[:3, :3] @ [[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]]
    up, source = upward(poses)
    assert up @ [0, 0, 1] > 0.999 and "ring" in source


def test_the_capture_has_the_rays_of_the_solution(tmp_path: Path) -> None:
    solution = ring()
    placement = place(solution)
    write_capture(tmp_path, solution, placement, photos_of(solution, tmp_path))
    capture = load_capture(tmp_path)
    motion = placement.capture_from_solution
    points = torch.from_numpy(solution.points @ motion[:3, :3].T + motion[:3, 3]).float() / placement.half_side
    for view in (0, 7):
        pixels, _ = capture.cameras.project(points, view)
        assert np.abs(pixels.numpy() - solution.pixels[view * 400 : (view + 1) * 400]).max() < 0.02
    assert torch.allclose(capture.source_from_world[:3, :3], placement.half_side * torch.eye(3).double(), atol=1e-6)
    assert torch.allclose(capture.source_from_world[:3, 3], torch.zeros(3).double(), atol=1e-6) and capture.up == (0.0, 0.0, 1.0)
    assert capture.points is not None and torch.allclose(capture.points, points, atol=1e-4)
    other = load_capture(tmp_path, center=(0.1, 0.2, 0.3), radius=2.0)
    assert other.source_from_world[:3, 3].tolist() == pytest.approx([0.1, 0.2, 0.3]) and float(other.source_from_world[0, 0]) == 2.0


def test_lenses_of_their_own_are_written_on_every_frame(tmp_path: Path) -> None:
    solution = ring()
    lenses = np.concatenate([solution.lenses, 2 * solution.lenses])
    solution = replace(solution, lenses=lenses, lens_of_view=np.arange(12) % 2, sizes=np.array([SIZE, SIZE]))
    write_capture(tmp_path, solution, place(solution), photos_of(solution, tmp_path))
    content = json.loads((tmp_path / "transforms.json").read_text())
    assert "fl_x" not in content and all(frame["w"] == SIZE[0] for frame in content["frames"])
    assert load_capture(tmp_path).cameras.intrinsics[:2, 0].tolist() == pytest.approx([330.0, 660.0])


def test_a_damaged_key_of_ours_is_refused(tmp_path: Path) -> None:
    solution = ring()
    write_capture(tmp_path, solution, place(solution), photos_of(solution, tmp_path))
    content = json.loads((tmp_path / "transforms.json").read_text())
    for value in ([], {"center": [0, 0, 0], "radius": -1}, {"radius": 1}, {"center": "a", "radius": 1}, {"z_is_up": "yes"}):
        (tmp_path / "transforms.json").write_text(json.dumps({**content, "unrender": value}))
        with pytest.raises(CaptureError, match="unrender"):
            load_capture(tmp_path)


# Reports


@pytest.mark.parametrize(
    ("sharp", "keypoints", "matches", "alone", "reason"),
    [
        (10.0, 900, 100, False, "blurred"),
        (90.0, 40, 100, False, "few features"),
        (90.0, 900, 100, True, "other size"),
        (90.0, 900, 12, False, "no overlap: at most 12"),
        (90.0, 900, 100, False, "contradict"),
    ],
)
def test_the_likely_reason_is_told(sharp: float, keypoints: int, matches: int, alone: bool, reason: str) -> None:
    taken = Photo("a.jpg", None, 640, 480, None, sharp)
    assert reason in reason_of(taken, sharpness=100.0, keypoints=keypoints, usual_keypoints=1000.0, matches=matches, alone_in_size=alone)


def test_the_verdict_follows_from_what_is_missing() -> None:
    solution = ring()
    photos = [Photo(name, None, *SIZE, None, 100.0) for name in solution.names]
    features = dict.fromkeys(solution.names, 500)

    def grade(given: Solution, extra: int) -> str:
        lost = [Photo(f"lost{k}.png", None, *SIZE, None, 5.0) for k in range(extra)]
        return judge(given, report_photos([*photos, *lost], given, features, features, {})).grade

    assert [grade(solution, extra) for extra in (0, 3, 12)] == ["good", "usable", "poor"]
    assert grade(replace(solution, pixels=solution.pixels + 5.0), 0) == "poor"
    reports = report_photos(photos, solution, features, features, {"broken.jpg": "no picture"})
    assert reports[-1].name == "broken.jpg" and not reports[-1].registered and reports[0].inliers == 400


def test_a_focal_length_that_the_photos_do_not_determine_is_told_unless_it_is_given() -> None:
    solution = ring()
    photos = [Photo(name, None, *SIZE, None, 100.0) for name in solution.names]
    features = dict.fromkeys(solution.names, 500)
    for rise, grade in ((0.2, "good"), (0.01, "usable"), (-0.1, "usable"), (float("nan"), "good")):
        turned = replace(solution, focal_rise=rise)
        reports = report_photos(photos, turned, features, features, {})
        verdict = judge(turned, reports)
        assert verdict.grade == grade and ("--focal" in verdict.sentence) == (grade == "usable")
        assert judge(turned, reports, focal_is_given=True).grade == "good"


# The whole


def aligned(found: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation errors in degrees, and position errors by the mean distance, after the best similarity."""
    left, _, right = np.linalg.svd(sum(t[:3, :3] @ f[:3, :3].T for f, t in zip(found, true, strict=True)))
    turn = left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right
    a, b = (found[:, :3, 3] - found[:, :3, 3].mean(0)) @ turn.T, true[:, :3, 3] - true[:, :3, 3].mean(0)
    scale = (a * b).sum() / (a * a).sum()
    angles = [(np.trace((turn @ f[:3, :3]).T @ t[:3, :3]) - 1) / 2 for f, t in zip(found, true, strict=True)]
    return np.degrees(np.arccos(np.clip(angles, -1, 1))), np.linalg.norm(scale * a - b, axis=1) / np.linalg.norm(b, axis=1).mean()


def poses_in(folder: Path) -> dict[str, np.ndarray]:
    content = json.loads((folder / "transforms.json").read_text())
    flip = np.diag([1, -1, -1, 1])
    return {Path(frame["file_path"]).name: np.array(frame["transform_matrix"]) @ flip for frame in content["frames"]}


@needs_pycolmap
def test_photos_become_a_capture_and_a_second_call_reuses_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    true = np.stack(write_photos(tmp_path / "my photos", 8, arc=1.1))
    out = tmp_path / "capture"
    assert main(["poses", str(tmp_path / "my photos"), "--out", str(out), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["registered"], told["total"], told["missing"]) == (8, 8, []) and told["mean_reprojection_error"] < 1
    found = poses_in(out)
    turn, shift = aligned(np.stack([found[f"{k:03d}.png"] for k in range(8)]), true)
    assert turn.max() < 0.5 and shift.max() < 0.01 and told["focal"] == pytest.approx(FOCAL, rel=0.02)
    assert sorted(path.name for path in out.iterdir()) == ["images", "poses.json", "sparse", "sparse_pc.ply", "transforms.json"]
    capture = load_capture(out)
    assert len(capture) == 8 and capture.up == (0.0, 0.0, 1.0)
    before = (out / "transforms.json").stat().st_mtime_ns
    assert main(["poses", str(tmp_path / "my photos"), "--out", str(out)]) == 0
    assert "was complete already" in capfd.readouterr().out and (out / "transforms.json").stat().st_mtime_ns == before
    (tmp_path / "my photos" / "007.png").unlink()
    assert "holds the poses of other photos; pass --overwrite" in refusal(tmp_path / "my photos", out)


def test_a_focal_length_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="give the focal length in pixels"):
        solve_poses(tmp_path, tmp_path / "out", focal=-1.0)


@pytest.mark.parametrize(("rise", "given", "held"), [(0.01, True, True), (0.01, False, False), (0.2, True, False)])
def test_a_given_focal_length_is_held_where_the_photos_do_not_determine_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rise: float, given: bool, held: bool
) -> None:
    monkeypatch.setattr(Stages, "run", lambda self, stage, *rest: jobs.append(rest[2]["hold_focal"]))
    monkeypatch.setattr(Solution, "read", lambda file: replace(ring(), focal_rise=rise))
    monkeypatch.setattr(Path, "exists", lambda path: True)
    jobs: list[bool] = []
    stages = Stages(tmp_path, "mark", silent)
    stages.photos = [Photo(f"{k:03d}.png", None, *SIZE, FOCAL if given else None, 1.0) for k in range(12)]
    attempt = solve._mapped(stages, tmp_path, tmp_path / "a.db", "first", relaxed=False)
    assert attempt.focal_is_held == held and jobs == ([False, True] if held else [False])


@needs_pycolmap
def test_the_command_starts_the_lens_from_the_given_focal_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: Stages, stage: str, title: str, task: str, job: dict, *rest: object) -> None:
        jobs.append(job)
        raise CaptureError("enough")

    write_photos(tmp_path / "photos", 3, arc=0.5)
    monkeypatch.setattr(Stages, "run", run)
    jobs: list[dict] = []
    assert main(["poses", str(tmp_path / "photos"), "--out", str(tmp_path / "out"), "--focal", "123.5"]) == 1
    ((prior, names),) = jobs[0]["groups"]
    assert prior == f"123.5,{SIZE[0] / 2},{SIZE[1] / 2},0" and len(names) == 3


def test_without_pycolmap_a_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tmp_path / "photos"
    given.mkdir()
    for k in range(3):
        Image.fromarray(PICTURE).save(given / f"{k}.png")
    monkeypatch.setattr(solve.importlib.util, "find_spec", lambda name: None)
    assert 'pip install "unrender[sfm]"' in refusal(given, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    given, out = tmp_path / "photos", tmp_path / "out"
    given.mkdir()
    out.mkdir()
    for k in range(3):
        Image.fromarray(PICTURE).save(given / f"{k}.png")
    (out / "precious.txt").write_text("mine")
    assert "is not empty" in refusal(given, out)
    assert "is where the photos are" in refusal(given, given)
    assert [path.name for path in out.iterdir()] == ["precious.txt"]


@needs_pycolmap
def test_photos_without_anything_in_common_are_refused(tmp_path: Path) -> None:
    given = tmp_path / "photos"
    given.mkdir()
    for k in range(3):
        noise = np.random.default_rng(k).integers(0, 255, (60, 80), dtype=np.uint8)
        Image.fromarray(noise).resize((160, 120)).save(given / f"{k}.png")
    assert "no poses were found" in refusal(given, tmp_path / "out")


def test_finished_stages_are_not_run_again(tmp_path: Path) -> None:
    stages = Stages(tmp_path, "mark", silent)
    stages.photos, stages.broken = [Photo("a.png", None, 4, 3, None, 1.0)], {"b.png": "broken"}
    stages._done.append("features")
    stages.save()
    again = Stages(tmp_path, "mark", silent)
    assert again.photos == stages.photos and again.broken == stages.broken
    again.run("features", "detecting features", "extract", {"none": "of this exists"}, lambda: 0, 1)
    assert Stages(tmp_path, "other", silent).photos == []
    with pytest.raises(CaptureError, match="matching photos failed .*log.txt has the whole message"):
        again.run("matches", "matching photos", "match", {"none": "of this exists"}, lambda: 0, 1)


def test_a_fit_recognizes_what_needs_poses(tmp_path: Path) -> None:
    given = tmp_path / "photos"
    (given / "images").mkdir(parents=True)
    assert not needs_poses(given) and not needs_poses(tmp_path / "nowhere")
    Image.fromarray(PICTURE).save(given / "images" / "0.png")
    assert needs_poses(given)
    (given / "transforms.json").write_text("{}")
    assert not needs_poses(given)
    (tmp_path / "a.mp4").touch()
    assert needs_poses(tmp_path / "a.mp4")
    with pytest.raises(CaptureError, match="solve them first: unrender poses"):
        load_capture(tmp_path / "a.mp4")


@needs_pycolmap
@pytest.mark.data
@pytest.mark.slow
def test_poses_of_real_photos(tmp_path: Path) -> None:
    castle = real_capture("sceaux_castle_944")
    solved, _ = solve_poses(castle, tmp_path / "castle")
    true = float((castle / "K.txt").read_text().split()[0])
    assert solved.registered == 11 and solved.mean_error < 1 and solved.focal == pytest.approx(true, rel=0.03)
    assert solved.verdict.grade == "good"
    tankard = real_capture("mary_rose_384")
    shutil.copytree(tankard / "images", tmp_path / "tankard")
    solved, _ = solve_poses(tmp_path / "tankard", tmp_path / "poses")
    given = np.load(tankard / "poses_bounds.npy")[:, :15].reshape(-1, 3, 5)
    poses = np.tile(np.eye(4), (len(given), 1, 1))
    poses[:, :3, :4] = np.stack([given[:, :, 1], given[:, :, 0], -given[:, :, 2], given[:, :, 3]], -1)
    found = poses_in(tmp_path / "poses")
    names = sorted(file.name for file in (tankard / "images").iterdir())
    kept = [k for k, name in enumerate(names) if name in found]
    turn, shift = aligned(np.stack([found[names[k]] for k in kept]), poses[kept])
    assert len(kept) >= 66 and np.median(turn) < 0.3 and np.median(shift) < 0.01


@needs_pycolmap
@pytest.mark.slow
def test_poses_of_a_video(tmp_path: Path) -> None:
    true = np.stack([camera(2 * np.pi * k / 72) for k in range(72)])
    frames = [np.repeat(photo(pose)[..., None], 3, 2) for pose in true]
    imageio.mimwrite(tmp_path / "walk.mp4", frames, fps=24, macro_block_size=1, quality=9)  # pyright: ignore
    solved, _ = solve_poses(tmp_path / "walk.mp4", tmp_path / "capture")
    found = poses_in(tmp_path / "capture")
    turn, shift = aligned(np.stack([*found.values()]), true[[int(name[6:11]) - 1 for name in found]])
    assert solved.registered == solved.total == 60 and turn.max() < 0.5 and shift.max() < 0.01
    assert solved.focal == pytest.approx(FOCAL, rel=0.01)


def test_a_video_is_given_as_such(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "walk.mp4", count=4)
    assert find_photos(clip) == Given((), None, clip)

"""Conversions between layouts: cameras, rays, masks, the split and points come back; what a layout cannot say is said or refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from tiny_captures import (
    COLMAP_POINTS,
    FOCAL,
    SIZE,
    ball_photo,
    opengl_poses,
    rewrite,
    write_blender,
    write_colmap,
    write_colmap_model,
    write_llff,
    write_neus,
    write_transforms,
)
from unrender.captures import convert_capture, load_capture, normalization
from unrender.captures.capture import CaptureError
from unrender.captures.images import ImageMemory
from unrender.captures.load import read_source
from unrender.captures.masks import read_pictures
from unrender.captures.normalization import source_cameras
from unrender.captures.source import Source
from unrender.captures.writing.convert import RECORD
from unrender.cli.program import main
from unrender.words import CaptureLayout


@pytest.fixture(autouse=True)
def coarse_carving(monkeypatch: pytest.MonkeyPatch) -> None:
    """How finely masks are carved changes no camera, and takes most of the time."""
    monkeypatch.setattr(normalization, "_COARSE_GRID", 12)


LAYOUTS: tuple[CaptureLayout, ...] = get_args(CaptureLayout)


def written(folder: Path, layout: str) -> Path:
    """A capture whose views all layouts can express."""
    if layout == "blender":
        return write_blender(folder, train=8, test=0)
    if layout == "nerfstudio":
        return write_transforms(folder, alpha=True)
    if layout == "colmap":
        return write_colmap(folder, masks="masks/{}.png")
    return write_neus(folder) if layout == "neus" else write_llff(folder)


def by_pose(source: Source, view: int, others: Source) -> int:
    """The view of another source with the nearest pose."""
    return int((others.source_from_camera - source.source_from_camera[view]).flatten(1).norm(dim=1).argmin())


def check_same_cameras(one: Source, other: Source) -> list[int]:
    """Views of ``other`` have the poses, and rays through the same pixels, as those of ``one``; returns which they are."""
    assert len(one.names) == len(other.names)
    pairs = [by_pose(one, view, other) for view in range(len(one.names))]
    assert sorted(pairs) == list(range(len(pairs)))
    frame = torch.eye(4, dtype=torch.float64)
    for view, again in enumerate(pairs):
        torch.testing.assert_close(other.source_from_camera[again], one.source_from_camera[view], atol=1e-6, rtol=0)
        assert other.sizes[again].tolist() == one.sizes[view].tolist()
        torch.testing.assert_close(other.intrinsics[again], one.intrinsics[view], atol=1e-6, rtol=0)
        cameras = [source_cameras(source, [chosen], frame) for source, chosen in ((one, view), (other, again))]
        width, height = one.sizes[view].tolist()
        pixels = torch.rand(50, 2, generator=torch.Generator().manual_seed(view)) * torch.tensor([width, height])
        rays = cameras[0].rays(torch.zeros(50, dtype=torch.int64), pixels)
        back, depth = cameras[1].project(rays.origins + 3 * rays.directions, 0)
        torch.testing.assert_close(back, pixels, atol=1e-4, rtol=0)
        assert bool(one.fisheye[view]) or bool((depth > 0).all())
    return pairs


@pytest.mark.parametrize("to", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_cameras_and_masks_come_back(tmp_path: Path, layout: str, to: CaptureLayout) -> None:
    folder = written(tmp_path / "a", layout)
    convert_capture(folder, to, tmp_path / "b", test_every=0 if to == "blender" else 8)
    one, other = (read_source(place, test_every=0)[0] for place in (folder, tmp_path / "b"))
    pairs = check_same_cameras(one, other)
    first, again = (read_pictures(source, downscale=1, masks=None, memory=ImageMemory()) for source in (one, other))
    assert first.has_masks and again.has_masks
    for view, pair in enumerate(pairs):
        assert torch.equal(again.photos[pair][..., 3], first.photos[view][..., 3])
        inside = first.photos[view][..., 3] > 0
        assert torch.equal(again.photos[pair][inside], first.photos[view][inside])


@pytest.mark.parametrize("to", ["blender", "nerfstudio", "colmap"])
def test_the_split_comes_back(tmp_path: Path, to: CaptureLayout) -> None:
    folder = write_blender(tmp_path / "a", train=5, test=3)
    rewrite(folder, lambda content: content["frames"][0]["transform_matrix"][2].__setitem__(3, 2.0), "transforms_test.json")
    done = convert_capture(folder, to, tmp_path / "b")
    one, other = (read_source(place)[0] for place in (folder, tmp_path / "b"))
    pairs = check_same_cameras(one, other)
    assert {pairs[view] for view in one.split.train} == set(other.split.train)
    assert {pairs[view] for view in one.split.test} == set(other.split.test)
    assert not any("split" in note for note in done.notes)


@pytest.mark.parametrize("to", ["neus", "llff"])
def test_a_layout_without_a_split_says_so(tmp_path: Path, to: CaptureLayout) -> None:
    done = convert_capture(write_blender(tmp_path / "a", train=5, test=3), to, tmp_path / "b")
    assert sum("no place for the split: the 3 held-out views are listed like the others" in note for note in done.notes) == 1
    again = convert_capture(write_llff(tmp_path / "c"), to, tmp_path / "d")
    assert not any("split" in note for note in again.notes)  # every eighth is what programs hold out


def test_without_held_out_views_colmap_lists_all_as_fitted(tmp_path: Path) -> None:
    convert_capture(write_llff(tmp_path / "a"), "colmap", tmp_path / "b", test_every=0)
    assert read_source(tmp_path / "b")[0].split.test == ()


LENSES: dict[str, dict[str, Any]] = {
    "pinhole": {"fl_y": 46.0, "cx": 19.0, "cy": 16.0},
    "radial": {"k1": -0.1, "k2": 0.02, "p1": 0.002, "p2": -0.001},
    "three": {"k1": -0.1, "k2": 0.02, "k3": 0.005},
    "fisheye": {"camera_model": "OPENCV_FISHEYE", "k1": 0.05, "k2": -0.01, "k3": 0.002, "k4": 0.001},
}


@pytest.mark.parametrize("to", ["nerfstudio", "colmap"])
@pytest.mark.parametrize("lens", LENSES)
def test_lenses_come_back(tmp_path: Path, lens: str, to: CaptureLayout) -> None:
    folder = write_transforms(tmp_path / "a", **LENSES[lens])
    convert_capture(folder, to, tmp_path / "b")
    one, other = (read_source(place)[0] for place in (folder, tmp_path / "b"))
    check_same_cameras(one, other)
    assert torch.equal(one.fisheye, other.fisheye)
    torch.testing.assert_close(other.distortion, one.distortion, atol=1e-12, rtol=0)


def two_lenses(folder: Path) -> Path:
    """Views of two sizes and lenses in two folders with equal names."""
    listed = []
    for k, pose in enumerate(opengl_poses(6)):
        size, name = ((30, 40), f"b/{k // 2}.jpg") if k % 2 else (SIZE, f"a/{k // 2}.jpg")
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (20 * k, 0, 0)).save(folder / "images" / name)
        listed.append((name, 1 + k % 2, pose))
    cameras = {
        1: ("PINHOLE", *SIZE, [FOCAL, FOCAL, SIZE[0] / 2, SIZE[1] / 2]),
        2: ("OPENCV", 30, 40, [30.0, 31.0, 15.0, 20.0, 0.1, 0.02, 0.0, 0.0]),
    }
    write_colmap_model(folder / "sparse" / "0", cameras, listed)
    return folder


@pytest.mark.parametrize("to", ["nerfstudio", "colmap"])
def test_several_sizes_and_lenses_come_back(tmp_path: Path, to: CaptureLayout) -> None:
    folder = two_lenses(tmp_path / "a")
    done = convert_capture(folder, to, tmp_path / "b")
    one, other = (read_source(place)[0] for place in (folder, tmp_path / "b"))
    check_same_cameras(one, other)
    assert one.names == other.names
    for view, image in enumerate(one.images):
        assert image.read_bytes() == other.images[view].read_bytes()
    assert not any("PNG" in note for note in done.notes)
    assert one.points is not None and other.points is not None
    torch.testing.assert_close(other.points, one.points)


def test_points_and_their_colors_come_back_from_colmap(tmp_path: Path) -> None:
    convert_capture(write_colmap(tmp_path / "a"), "colmap", tmp_path / "b")
    again = read_source(tmp_path / "b")[0]
    assert again.points is not None and again.point_colors is not None
    np.testing.assert_array_equal(again.points.numpy(), COLMAP_POINTS)
    assert again.point_colors.tolist() == [[k, 20, 30] for k in range(1, 7)]
    assert struct.unpack_from("<Q", (tmp_path / "b" / "sparse" / "0" / "points3D.bin").read_bytes()) == (6,)


@pytest.mark.parametrize("to", ["neus", "llff", "blender"])
def test_points_that_a_layout_cannot_hold_are_named(tmp_path: Path, to: CaptureLayout) -> None:
    done = convert_capture(write_colmap(tmp_path / "a", masks="masks/{}.png"), to, tmp_path / "b")
    assert "the 6 points of the capture are not written" in done.notes


@pytest.mark.parametrize(
    ("to", "keys", "words"),
    [
        ("blender", {"k1": 0.1}, "holds pinhole cameras, and images/000.png has a lens with distortion"),
        ("neus", {"k1": 0.1}, "NeuS holds pinhole cameras"),
        ("llff", {"is_fisheye": True}, "LLFF holds pinhole cameras"),
        ("blender", {"cx": 19.0}, "holds one focal length and a centered principal point .* off by up to 1 pixels"),
        ("llff", {"fl_y": 46.0}, "holds one focal length and a centered principal point"),
        ("colmap", {"k4": 0.1}, "a perspective lens with k4, which no model of COLMAP has; write nerfstudio"),
    ],
)
def test_cameras_that_a_layout_cannot_hold_are_refused(tmp_path: Path, to: CaptureLayout, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(CaptureError, match=words):
        convert_capture(write_transforms(tmp_path / "a", **keys), to, tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("to", ["blender", "llff"])
def test_several_sizes_are_refused(tmp_path: Path, to: CaptureLayout) -> None:
    folder = two_lenses(tmp_path / "a")
    write_colmap_model(
        folder / "sparse" / "0",
        {k: ("PINHOLE", w, h, [FOCAL, FOCAL, w / 2, h / 2]) for k, (w, h) in ((1, SIZE), (2, (30, 40)))},
        [(f"{'ab'[k % 2]}/{k // 2}.jpg", 1 + k % 2, pose) for k, pose in enumerate(opengl_poses(6))],
    )
    with pytest.raises(CaptureError, match="holds photos of one size, and images/b/0.jpg differs"):
        convert_capture(folder, to, tmp_path / "b")


def test_a_principal_point_off_by_a_fifth_of_a_pixel_is_centered_with_a_note(tmp_path: Path) -> None:
    done = convert_capture(write_transforms(tmp_path / "a", cx=20.2), "llff", tmp_path / "b")
    assert any("a centered principal point, off by at most 0.2 pixels" in note for note in done.notes)


def test_lenses_of_both_kinds_are_refused_by_nerfstudio(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "a")
    rewrite(folder, lambda content: content["frames"][3].update(is_fisheye=True))
    with pytest.raises(CaptureError, match="perspective or fisheye lenses but not both"):
        convert_capture(folder, "nerfstudio", tmp_path / "b")


@pytest.mark.parametrize("to", ["nerfstudio", "colmap", "llff"])
def test_photos_and_masks_are_copied_byte_by_byte(tmp_path: Path, to: CaptureLayout) -> None:
    folder = write_llff(tmp_path / "a")
    for file in (folder / "images").iterdir():
        Image.open(file).save(file.with_suffix(".jpg"))
        file.unlink()
    convert_capture(folder, to, tmp_path / "b")
    for k in range(9):
        mask = f"masks/{k:03d}.jpg.png" if to == "colmap" else f"masks/{k:03d}.png"
        assert (tmp_path / "b" / "images" / f"{k:03d}.jpg").read_bytes() == (folder / "images" / f"{k:03d}.jpg").read_bytes()
        assert (tmp_path / "b" / mask).read_bytes() == (folder / "masks" / f"{k:03d}.png").read_bytes()


@pytest.mark.parametrize("to", ["nerfstudio", "colmap"])
def test_masks_of_several_channels_are_written_with_one(tmp_path: Path, to: CaptureLayout) -> None:
    folder = write_llff(tmp_path / "a")
    for file in (folder / "masks").iterdir():
        with Image.open(file) as image:
            inside = np.asarray(image.convert("L"))
        Image.fromarray(np.dstack([inside // 2, 0 * inside, 0 * inside])).save(file)
    convert_capture(folder, to, tmp_path / "b")
    for file in (tmp_path / "b" / "masks").iterdir():
        with Image.open(file) as image:
            assert image.mode == "L"
    one, other = load_capture(folder, test_every=0), load_capture(tmp_path / "b", test_every=0)
    assert all(torch.equal(one.mask(view), other.mask(view)) for view in range(len(one)))


def test_alpha_becomes_the_masks_of_neus_in_the_same_frame(tmp_path: Path) -> None:
    convert_capture(write_blender(tmp_path / "a", train=9, test=0), "neus", tmp_path / "b")
    with np.load(tmp_path / "b" / "cameras_sphere.npz") as arrays:
        world, scale = arrays["world_mat_4"], arrays["scale_mat_4"]
    camera_from_source = np.linalg.inv(opengl_poses(9)[4] @ np.diag([1.0, -1.0, -1.0, 1.0]))
    intrinsics = np.array([[FOCAL, 0, SIZE[0] / 2 - 0.5], [0, FOCAL, SIZE[1] / 2 - 0.5], [0, 0, 1]])
    np.testing.assert_allclose(world[:3], intrinsics @ camera_from_source[:3], atol=1e-9)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b" / "mask" / "004.png")), ball_photo(opengl_poses(9)[4])[..., 3])
    # The unit sphere holds the whole ball, of radius 0.5 around (0.2, -0.1, 0.3), and not much more.
    assert np.linalg.norm(scale[:3, 3] - [0.2, -0.1, 0.3]) + 0.5 < scale[0, 0] < 1.2


def test_the_unit_sphere_of_neus_is_kept(tmp_path: Path) -> None:
    convert_capture(write_neus(tmp_path / "a"), "neus", tmp_path / "b")
    torch.testing.assert_close(load_capture(tmp_path / "b").source_from_world, load_capture(tmp_path / "a").source_from_world)
    done = convert_capture(tmp_path / "a", "colmap", tmp_path / "c")
    assert "the unit sphere of the capture is not written; --center 10 20 30 --radius 2 give it back" in done.notes


def test_bounds_of_llff_hold_the_points(tmp_path: Path) -> None:
    convert_capture(write_colmap(tmp_path / "a"), "llff", tmp_path / "b")
    rows = np.load(tmp_path / "b" / "poses_bounds.npy")
    for pose, (near, far) in zip(opengl_poses(9), rows[:, 15:], strict=True):
        depths = (COLMAP_POINTS - pose[:3, 3]) @ -pose[:3, 2]
        assert near == pytest.approx(depths.min(), abs=0.01) and far == pytest.approx(depths.max(), abs=0.01)


def test_a_photo_with_an_orientation_is_written_upright(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "a")
    exif = Image.Exif()
    exif[0x0112] = 3
    for file in (folder / "images").iterdir():
        Image.open(file).transpose(Image.Transpose.ROTATE_180).save(file, exif=exif)
    done = convert_capture(folder, "colmap", tmp_path / "b")
    assert any("9 photos became PNG files" in note for note in done.notes)
    for one, other in zip(load_capture(folder).photos, load_capture(tmp_path / "b").photos, strict=True):
        assert torch.equal(one, other)


def test_masks_of_pixels_that_count_are_copied_or_named(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path / "a", masks="masks/{}.png")
    circle = np.zeros(SIZE[::-1], np.uint8)
    circle[1:-1, 1:-1] = 255
    for file in (folder / "masks").iterdir():
        Image.fromarray(circle).save(file)
    convert_capture(folder, "nerfstudio", tmp_path / "b")
    ignored = load_capture(tmp_path / "b").ignored
    assert ignored is not None and torch.equal(ignored[0], torch.from_numpy(circle == 0))
    done = convert_capture(folder, "neus", tmp_path / "c")
    assert any("which pixels count is not written" in note for note in done.notes) and not (tmp_path / "c" / "mask").exists()


def test_dynamic_masks_go_along_to_nerfstudio(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "a")
    moving = np.zeros(SIZE[::-1], np.uint8)
    moving[:5] = 255
    Image.fromarray(moving).save(folder / "images" / "dynamic_mask_002.png")
    convert_capture(folder, "nerfstudio", tmp_path / "b")
    ignored = load_capture(tmp_path / "b").ignored
    assert ignored is not None and torch.equal(ignored[2], torch.from_numpy(moving > 0))
    assert any("moving things are not written" in note for note in convert_capture(folder, "colmap", tmp_path / "c").notes)


# ------------------------------------------------------------------------------------------------------------------------------- folders


def test_a_folder_with_other_files_is_never_written_to(tmp_path: Path) -> None:
    folder = write_llff(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(CaptureError, match="holds files that no conversion wrote"):
            convert_capture(folder, "colmap", tmp_path / "b", overwrite=overwrite)
    with pytest.raises(CaptureError, match="holds files that no conversion wrote"):
        convert_capture(folder, "colmap", folder, overwrite=True)
    assert [file.name for file in (tmp_path / "b").iterdir()] == ["thesis.txt"]


def test_an_earlier_conversion_is_replaced_but_nothing_else(tmp_path: Path) -> None:
    folder, target = write_llff(tmp_path / "a"), tmp_path / "b"
    convert_capture(folder, "colmap", target)
    (target / "images" / "notes.txt").write_text("mine")
    with pytest.raises(CaptureError, match="holds an earlier conversion; .* --overwrite"):
        convert_capture(folder, "nerfstudio", target)
    convert_capture(folder, "neus", target, overwrite=True)
    names = {str(file.relative_to(target)) for file in target.rglob("*") if file.is_file()}
    assert {"images/notes.txt", "cameras_sphere.npz", "image/000000.png", RECORD} <= names
    assert not any("sparse" in name or name.endswith(("000.png", ".txt")) and name.startswith("images/0") for name in names)
    assert not (target / "sparse").exists()


def test_a_record_cannot_name_files_outside_of_its_folder(tmp_path: Path) -> None:
    folder, target = write_llff(tmp_path / "a"), tmp_path / "b"
    target.mkdir()
    victim = tmp_path / "victim.txt"
    victim.write_text("x")
    names = ["../victim.txt", str(victim), "x\0", 7, "images/../../victim.txt"]
    (target / RECORD).write_text(json.dumps({"files": names}))
    convert_capture(folder, "colmap", target, overwrite=True)
    assert victim.read_text() == "x"


def test_a_conversion_cannot_replace_its_own_capture(tmp_path: Path) -> None:
    convert_capture(write_llff(tmp_path / "a"), "colmap", tmp_path / "b")
    with pytest.raises(CaptureError, match="holds files of the capture itself"):
        convert_capture(tmp_path / "b", "nerfstudio", tmp_path / "b", overwrite=True)
    assert len(read_source(tmp_path / "b")[0].names) == 9


def test_cameras_are_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    copies = []

    def copy(source: Path, target: Path) -> None:
        copies.append(source)
        if len(copies) == 7:
            raise OSError(28, "No space left on device", str(target))
        Path(target).write_bytes(Path(source).read_bytes())

    monkeypatch.setattr(shutil, "copyfile", copy)
    with pytest.raises(OSError):
        convert_capture(write_llff(tmp_path / "a"), "colmap", tmp_path / "b")
    assert not (tmp_path / "b" / "sparse" / "0" / "images.bin").exists()
    monkeypatch.undo()
    convert_capture(tmp_path / "a", "colmap", tmp_path / "b", overwrite=True)
    assert len(load_capture(tmp_path / "b")) == 9


def test_the_command_converts_and_says_what_it_wrote(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = str(write_llff(tmp_path / "a"))
    assert main(["convert", folder, "--to", "colmap", "--out", str(tmp_path / "b"), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["views"] == 9 and found["layout"] == "colmap" and all(Path(file).exists() for file in found["files"])
    assert main(["convert", folder, "--to", "colmap", "--out", str(tmp_path / "b")]) == 1
    assert "earlier conversion" in capfd.readouterr().err
    assert main(["convert", folder, "--to", "colmap"]) == 2
    assert "something is missing: --out DIR" in capfd.readouterr().err
    assert main(["convert", folder, "--to", "obj", "--out", str(tmp_path / "c")]) == 2


@pytest.mark.parametrize(("rule", "held"), [("llff", [0, 8]), ("every-8", [0, 8]), ("4", [0, 4, 8]), ("none", [])])
def test_the_command_writes_the_split_of_a_rule(tmp_path: Path, rule: str, held: list[int]) -> None:
    folder = str(write_llff(tmp_path / "a"))
    assert main(["convert", folder, "--to", "colmap", "--out", str(tmp_path / "b"), "--test-every", rule]) == 0
    source = read_source(tmp_path / "b")[0]
    assert [int(Path(source.names[view]).stem) for view in source.split.test] == held


def test_an_unknown_layout_is_refused_in_python(tmp_path: Path) -> None:
    layout: Any = "obj"
    with pytest.raises((CaptureError, TypeError), match="to"):
        convert_capture(write_llff(tmp_path / "a"), layout, tmp_path / "b")

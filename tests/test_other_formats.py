"""Formats of other programs: cameras, photos, masks and regions are those that independent code wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from camera_formats import COUNT, HEIGHT, METASHAPE, WIDTH, WRITERS, Written, image_bytes, metashape, opensfm, oxford
from test_bad_captures import refusal
from tiny_captures import BALL, ball_photo, opengl_poses, real_capture, rewrite
from unrender.cameras import Cameras
from unrender.captures import load_capture
from unrender.captures.load import _located
from unrender.captures.source import Source
from unrender.transforms import transformed

VARIANTS: dict[str, Callable[[], Written]] = {
    **WRITERS,
    "metashape fisheye": lambda: metashape("fisheye", {**METASHAPE, "p1": 0.0, "p2": 0.0}),
    "opensfm fisheye": lambda: opensfm("fisheye"),
    "oxford not compressed": lambda: oxford(False),
}


def source_of(folder: Path) -> Source:
    layout, file, _ = _located(folder)
    return layout.read(folder, file, 0)


def replace_text(path: Path, *pairs: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


@pytest.mark.parametrize("name", VARIANTS)
def test_cameras_are_the_true_ones(name: str, tmp_path: Path) -> None:
    made = VARIANTS[name]()
    source = source_of(made.write(tmp_path))
    assert source.names == made.images
    scale = max(1.0, float(np.abs(made.poses[0]).max()))
    for view, (pose, project) in enumerate(zip(made.poses, made.projections, strict=True)):
        np.testing.assert_allclose(source.source_from_camera[view].numpy(), pose, rtol=0, atol=1e-9 * scale)
        cameras = Cameras(source.source_from_camera, source.intrinsics, source.distortion, source.sizes, source.fisheye)
        pixels = np.random.default_rng(view).uniform((0, 0), (WIDTH, HEIGHT), (50, 2))
        rays = cameras.rays(torch.full((50,), view), torch.from_numpy(pixels))
        seen = project((rays.origins + 2.5 * rays.directions).numpy())
        np.testing.assert_allclose(seen, pixels, rtol=0, atol=1e-4 if scale > 1 else 1e-6)


@pytest.mark.parametrize("name", WRITERS)
def test_captures_load_by_their_path_alone(name: str, tmp_path: Path) -> None:
    made = WRITERS[name]()
    capture = load_capture(made.write(tmp_path))
    assert len(capture) == COUNT and len(capture.split.test) == 1
    ball = torch.from_numpy(BALL + made.poses[0][:3, 3] - WRITERS["middlebury"]().poses[0][:3, 3])
    middle = torch.linalg.solve(capture.source_from_world, torch.cat((ball, torch.ones(1).double())))[:3]
    for view in range(COUNT):
        (pixel,), _ = capture.cameras.project(middle[None].float(), view)
        red = (capture.photos[view][..., 0].float() > 128) & (capture.photos[view][..., 2].float() < 128 if name != "halcon" else True)
        rows, columns = red.nonzero(as_tuple=True)
        # Lenses here are distorted and their principal points moved, the photos are not: the ball is near where it is seen.
        assert abs(float(columns.float().mean()) - float(pixel[0])) < 4 and abs(float(rows.float().mean()) - float(pixel[1])) < 4


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "oxford"])
def test_a_few_absent_photos_are_left_out_and_named(name: str, tmp_path: Path) -> None:
    made = WRITERS[name]()
    folder = made.write(tmp_path)
    (folder / made.images[2]).unlink()
    source = source_of(folder)
    assert source.names == (*made.images[:2], *made.images[3:])
    assert any(note.startswith("1 of the 6 cameras have no photo") for note in source.notes)
    for image in made.images[3:5]:
        (folder / image).unlink()
    assert "do not exist" in refusal(folder)


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "oxford"])
def test_photos_without_a_camera_are_named(name: str, tmp_path: Path) -> None:
    made = WRITERS[name]()
    folder = made.write(tmp_path)
    extra = Path(made.images[0]).with_stem("zz_extra")
    (folder / extra).write_bytes(made.files[made.images[0]])
    assert any("have no camera" in note and extra.name in note for note in source_of(folder).notes)


def test_intrinsics_follow_the_size_of_the_photos(tmp_path: Path) -> None:
    for name in ("strecha", "metashape", "halcon", "opensfm", "polycam", "record3d", "sdfstudio", "reality_capture"):
        made = WRITERS[name]()
        whole = source_of(made.write(tmp_path / name))
        for image in (*made.images, *(file for file in made.files if "mask" in file)):
            with Image.open(tmp_path / name / image) as photo:
                photo.resize((WIDTH // 2, HEIGHT // 2)).save(tmp_path / name / image)
        half = source_of(tmp_path / name)
        torch.testing.assert_close(2 * half.intrinsics, whole.intrinsics)


def test_photos_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = WRITERS["metashape"]().write(tmp_path)
    Image.new("RGB", (WIDTH, HEIGHT + 8)).save(folder / "images" / "IMG_0001.jpg")
    assert "another shape" in refusal(folder)


def test_up_is_known_where_the_format_says_it(tmp_path: Path) -> None:
    up = {name: source_of(WRITERS[name]().write(tmp_path / name)).up for name in WRITERS}
    z = (0.0, 0.0, 1.0)
    known = {"polycam": (0.0, 1.0, 0.0), "metashape": z, "reality_capture": z, "opensfm": z, "odm": z}
    assert up == {name: known.get(name) for name in WRITERS}
    upward = load_capture(tmp_path / "polycam").source_from_world[:3, 2].numpy()
    np.testing.assert_allclose(upward / np.linalg.norm(upward), [0, 1, 0], atol=1e-9)


def test_boxes_of_middlebury_and_sdfstudio_are_where_the_object_is(tmp_path: Path) -> None:
    folder = WRITERS["middlebury"]().write(tmp_path / "a")
    tight = torch.tensor([[x, y, z] for x in (-0.4, 0.8) for y in (-0.7, 0.5) for z in (-0.3, 0.9)], dtype=torch.float64)
    for up in (None, (1.0, 1.0, 0.0)):
        box = load_capture(folder, up=up).source_from_world
        np.testing.assert_allclose(box[:3, 3].numpy(), [0.2, -0.1, 0.3])
        reach = float(transformed(tight, torch.linalg.inv(box)).abs().max())
        assert reach == pytest.approx(1 / 1.1)  # the cube holds the box, grown by a tenth, whichever way it is turned
    studio = WRITERS["sdfstudio"]().write(tmp_path / "b")
    plain = load_capture(studio, masks="none", up="z").source_from_world
    np.testing.assert_allclose(plain.numpy()[:3], [[1.25, 0, 0, 0], [0, 1.25, 0, 0], [0, 0, 1.25, 0.25]])
    masked = load_capture(studio)
    assert masked.has_masks
    assert float(masked.source_from_world[:3, 0].norm()) < 0.9  # masks narrow the box down to the ball
    rewrite(tmp_path / "b", lambda content: content["frames"][1].pop("foreground_mask"), "meta_data.json")
    assert "gives a mask to some photos but not to 000001_rgb.png" in refusal(tmp_path / "b")


def test_masked_copies_of_blendedmvs_outline_the_object(tmp_path: Path) -> None:
    """A gray object, which a mask file would show as its brightness; its darkest pixels are no hole."""
    folder = WRITERS["mvsnet"]().write(tmp_path)
    assert not load_capture(folder).has_masks
    for k, pose in enumerate(opengl_poses(COUNT)):
        gray = np.where(ball_photo(pose)[..., 3:] > 0, np.uint8(90), np.uint8(0)).repeat(3, -1)
        (folder / "blended_images" / f"{k:08d}_masked.jpg").write_bytes(image_bytes(gray, "jpg"))
    capture = load_capture(folder)
    assert capture.has_masks and len(capture) == COUNT
    for k, pose in enumerate(opengl_poses(COUNT)):
        assert int(((capture.photos[k][..., 3] > 128).numpy() != (ball_photo(pose)[..., 3] > 0)).sum()) < 20
    (folder / "blended_images" / "00000002_masked.jpg").unlink()
    assert any("00000002_masked.jpg is missing" in note for note in load_capture(folder).notes)


def test_alpha_of_halcon_leaves_pixels_out(tmp_path: Path) -> None:
    capture = load_capture(WRITERS["halcon"]().write(tmp_path))
    assert capture.ignored is not None and not capture.has_masks and capture.unbounded
    assert bool(capture.ignored[0][:3].all()) and not bool(capture.ignored[0][3:].any())


def test_points_are_read(tmp_path: Path) -> None:
    for name in ("bundler", "opensfm"):
        points = source_of(WRITERS[name]().write(tmp_path / name)).points
        assert points is not None
        np.testing.assert_allclose(points.numpy(), [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])


def test_what_is_not_solved_or_not_in_the_frame_is_named(tmp_path: Path) -> None:
    notes = {name: source_of(WRITERS[name]().write(tmp_path / name)).notes for name in ("bundler", "metashape", "opensfm")}
    assert any("images/unsolved.jpg" in note for note in notes["bundler"])
    assert any("lost" in note for note in notes["metashape"])
    assert any("1 shots of smaller reconstructions" in note for note in notes["opensfm"])


def test_bundler_without_a_list_takes_the_images_in_order(tmp_path: Path) -> None:
    made = WRITERS["bundler"]()
    folder = made.write(tmp_path)
    (folder / "list.txt").unlink()
    assert "7 cameras for 6 photos" in refusal(folder)
    (folder / "images" / "999.jpg").write_bytes(made.files[made.images[0]])
    assert source_of(folder).names == made.images


def test_counts_that_lie_are_refused(tmp_path: Path) -> None:
    folder = WRITERS["bundler"]().write(tmp_path / "bundler")
    for counts, said in (
        ("7 1099511627776", "at most"),
        ("7 3", "ends before the points"),
        ("99999 2", "cameras"),
        ("7", "does not begin"),
    ):
        lines = WRITERS["bundler"]().files["bundle/bundle.out"].decode().splitlines()
        (folder / "bundle" / "bundle.out").write_text("\n".join([lines[0], counts, *lines[2:]]))
        assert said in refusal(folder)
    folder = WRITERS["middlebury"]().write(tmp_path / "middlebury")
    replace_text(folder / "ball_par.txt", ("6\nball", "7\nball"))
    assert "promises 7 cameras and lists 6" in refusal(folder)


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    changes = {
        "middlebury": ("ball_par.txt", "45 0"),
        "strecha": ("0001.jpg.camera", "46"),
        "mvsnet": ("cams/00000003_cam.txt", "21.25"),
        "halcon": ("intrinsics_camera02.txt", "20.75"),
        "reality_capture": ("registration.csv", "0.02"),
    }
    for name, (file, number) in changes.items():
        for value in ("nan", "-inf", "1e400", "x"):
            folder = WRITERS[name]().write(tmp_path / f"{name}{value}")
            replace_text(folder / file, (number, value))
            assert "number" in refusal(folder)


def test_xml_with_entities_is_refused(tmp_path: Path) -> None:
    folder = WRITERS["metashape"]().write(tmp_path)
    bomb = '<!DOCTYPE document [<!ENTITY a "0 0 0 0"><!ENTITY b "&a;&a;&a;&a;">]>\n<document version'
    replace_text(folder / "cameras.xml", ("<document version", bomb))
    assert "declares a document type" in refusal(folder)
    (folder / "cameras.xml").write_bytes((folder / "cameras.xml").read_text().encode("utf-16"))
    assert "declares a document type" in refusal(folder)


def test_lenses_that_no_camera_here_has_are_refused(tmp_path: Path) -> None:
    folder = WRITERS["metashape"]().write(tmp_path / "a")
    replace_text(folder / "cameras.xml", ("<b1>", "<b2>0.1</b2><b1>"))
    assert "b2" in refusal(folder)
    folder = WRITERS["metashape"]().write(tmp_path / "b")
    replace_text(folder / "cameras.xml", ('type="frame"', 'type="spherical"'))
    assert "spherical" in refusal(folder)
    folder = opensfm("dual").write(tmp_path / "c")
    assert "projection_type" in refusal(folder)
    folder = WRITERS["middlebury"]().write(tmp_path / "d")
    replace_text(folder / "ball_par.txt", ("45 0 20.75", "45 2 20.75"))
    assert "skewed" in refusal(folder)


def test_other_components_and_disabled_cameras_of_metashape_are_left_out(tmp_path: Path) -> None:
    folder = WRITERS["metashape"]().write(tmp_path)
    replace_text(
        folder / "cameras.xml",
        ('id="1" sensor_id="0" component_id="0"', 'id="1" sensor_id="0" component_id="4"'),
        ('id="2" sensor_id="0"', 'id="2" enabled="false" sensor_id="0"'),
    )
    source = source_of(folder)
    assert len(source.names) == 4
    assert any("other components" in note for note in source.notes) and any("IMG_0002" in note for note in source.notes)


def test_geocentric_cameras_of_metashape_know_up(tmp_path: Path) -> None:
    folder = WRITERS["metashape"]().write(tmp_path)
    replace_text(
        folder / "cameras.xml",
        ("10 20 30", "4000000 0 5000000"),
        ('LOCAL_CS["Local Coordinates (m)"]', 'GEOGCS["WGS 84"]'),
    )
    up = source_of(folder).up
    assert up is not None
    np.testing.assert_allclose(up, np.array([4.0, 0.0, 5.0]) / np.sqrt(41), atol=1e-4)


def test_intrinsics_of_each_frame_win_in_record3d(tmp_path: Path) -> None:
    folder = WRITERS["record3d"]().write(tmp_path)
    each = [[40.0 + k, 41.0 + k, 20.0, 15.0] for k in range(COUNT)]
    content = json.loads((folder / "metadata").read_text())
    (folder / "metadata").write_text(json.dumps({**content, "perFrameIntrinsicCoeffs": each}))
    np.testing.assert_allclose(source_of(folder).intrinsics.numpy(), each)


def test_shots_that_fit_several_cameras_are_refused(tmp_path: Path) -> None:
    folder = WRITERS["odm"]().write(tmp_path)
    rewrite(folder, lambda content: content.update(b=content["a"]), "cameras.json")
    assert "fits 2 of the 2 cameras" in refusal(folder)
    (folder / "cameras.json").unlink()
    assert "cameras.json does not exist" in refusal(folder)


def test_files_of_other_programs_are_not_taken_for_cameras(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("name,x,y\na,1,2\n")
    (tmp_path / "other.xml").write_text("<html><body/></html>")
    (tmp_path / "metadata").write_text("version: 1\n")
    (tmp_path / "cams").write_text("a file\n")
    assert "has no camera poses" in refusal(tmp_path)


@pytest.mark.data
def test_the_real_temple_loads_by_its_path_alone() -> None:
    folder = real_capture("temple_sparse_ring")
    capture = load_capture(folder)
    assert len(capture) == 16 and {tuple(size) for size in capture.cameras.sizes.tolist()} == {(640, 480)}
    low, high = np.array([-0.073568, 0.021728, -0.012445]), np.array([0.028855, 0.181892, 0.062736])
    corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), -1).reshape(-1, 3)
    world_from_source = np.linalg.inv(capture.source_from_world.numpy())
    world = torch.from_numpy(corners @ world_from_source[:3, :3].T + world_from_source[:3, 3]).float()
    assert 0.85 < float(world.abs().max()) < 1
    lit = [photo[..., :3].float().mean(-1) > 50 for photo in capture.photos]
    for view in range(16):
        pixels, depth = capture.cameras.project(world, view)
        rows, columns = lit[view].nonzero(as_tuple=True)
        middle = torch.stack((columns.float().median(), rows.float().median()))
        assert bool((depth > 0).all()) and bool((pixels.amin(0) < middle).all() and (middle < pixels.amax(0)).all())

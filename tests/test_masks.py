"""What masks mean: every depth, palette and polarity, outlines against pixels that count, and the option that overrides the rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy import ndarray
from PIL import Image

from tiny_captures import SIZE, ball_photo, opengl_poses, write_blender, write_neus, write_transforms
from unrender.captures import load_capture
from unrender.captures.capture import Capture, CaptureError
from unrender.captures.masks import decode_mask

OUTLINES = [ball_photo(pose)[..., 3] // 255 for pose in opengl_poses(9)]
"""1 where each view of a tiny capture shows the ball."""


def palette_image(labels: ndarray, colors: list[tuple[int, int, int]]) -> Image.Image:
    image = Image.fromarray(labels.astype(np.uint8), "P")
    image.putpalette([part for color in colors for part in color])
    return image


def colored(labels: ndarray, *colors: tuple[int, int, int]) -> Image.Image:
    return Image.fromarray(np.array(colors, np.uint8)[labels])


def with_masks(folder: Path, images: list[Any], suffix: str = "png", **keys: Any) -> Path:
    """A transforms.json with a mask file for each of nine views."""
    write_transforms(folder, **keys)
    (folder / "masks").mkdir()
    content = json.loads((folder / "transforms.json").read_text())
    for k, image in enumerate(images):
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        picture.save(folder / "masks" / f"{k:03d}.{suffix}")
        content["frames"][k]["mask_path"] = f"masks/{k:03d}.{suffix}"
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def masks_of(capture: Capture) -> list[ndarray]:
    return [(capture.mask(view) >= 128).numpy().astype(np.uint8) for view in range(len(capture))]


def check_outlines(capture: Capture) -> None:
    assert capture.has_masks and not capture.unbounded and capture.ignored is None
    for found, outline in zip(masks_of(capture), OUTLINES, strict=True):
        assert np.array_equal(found, outline)
    assert {int(value) for value in capture.mask(0).unique()} == {0, 255}


def check_left_out(capture: Capture, left_out: list[ndarray]) -> None:
    assert not capture.has_masks and capture.unbounded and capture.ignored is not None
    assert all(bool((capture.mask(view) == 255).all()) for view in range(len(capture)))
    for view, expected in enumerate(left_out):
        assert np.array_equal(capture.ignored[view].numpy(), expected)


VOC = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), *[(64, 0, 0)] * 10]

KINDS: dict[str, Any] = {
    "1 bit": lambda shape: Image.fromarray(shape * np.uint8(255)).convert("1"),
    "8 bit": lambda shape: shape * np.uint8(255),
    "8 bit, ones": lambda shape: shape,
    "8 bit, labels": lambda shape: shape * np.uint8(7),
    "16 bit": lambda shape: shape.astype(np.uint16) * 65535,
    "16 bit, 255": lambda shape: shape.astype(np.uint16) * 255,
    "16 bit, ones": lambda shape: shape.astype(np.uint16),
    "16 bit, labels": lambda shape: shape.astype(np.uint16) * 300,
    "rgb": lambda shape: np.stack([shape * np.uint8(255)] * 3, -1),
    "red": lambda shape: colored(shape, (0, 0, 0), (255, 0, 0)),
    "dark blue": lambda shape: colored(shape, (0, 0, 0), (0, 0, 64)),
    "gray and alpha": lambda shape: np.stack((np.full_like(shape, 90), shape * np.uint8(255)), -1),
    "cut-out": lambda shape: np.stack([shape * np.uint8(40), shape * np.uint8(9), shape * np.uint8(30), shape * np.uint8(255)], -1),
    "gray and opaque alpha": lambda shape: np.stack([shape * np.uint8(255)] * 3 + [np.full_like(shape, 255)], -1),
    "gray and empty alpha": lambda shape: np.stack([shape * np.uint8(255)] * 3 + [np.zeros_like(shape)], -1),
    "palette, label 1": lambda shape: palette_image(shape, VOC),
    "palette, label 4": lambda shape: palette_image(shape * 4, VOC),
    "palette, black is not 0": lambda shape: palette_image(1 - shape, [(128, 0, 0), (0, 0, 0)]),
    "palette, no black": lambda shape: palette_image(shape, [(255, 255, 255), (128, 0, 0)]),
    "palette, gray": lambda shape: palette_image(1 - shape, [(255, 255, 255), (0, 0, 0)]),
    "palette, gray labels": lambda shape: palette_image(shape * 3, [(k, k, k) for k in range(256)]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_every_depth_and_palette_outline_the_ball(tmp_path: Path, kind: str) -> None:
    capture = load_capture(with_masks(tmp_path / "ball", [KINDS[kind](shape) for shape in OUTLINES]))
    check_outlines(capture)
    assert any("the masks outline the object" in note and "masks=ignore" in note for note in capture.notes)


@pytest.mark.parametrize("scale", [1.0, 255.0, 0.25, 7.0])
def test_masks_of_floating_point_numbers(tmp_path: Path, scale: float) -> None:
    images = [Image.fromarray(shape.astype(np.float32) * scale) for shape in OUTLINES]
    check_outlines(load_capture(with_masks(tmp_path / "ball", images, suffix="tif")))


def test_palette_with_a_transparent_color(tmp_path: Path) -> None:
    image = palette_image(OUTLINES[0], [(250, 250, 250), (250, 250, 250)])
    image.save(tmp_path / "mask.png", transparency=0)
    mask = decode_mask(tmp_path / "mask.png")
    assert mask.kind == "alpha" and np.array_equal(mask.values, OUTLINES[0] * 255)


def test_one_scale_holds_for_all_masks_of_a_capture(tmp_path: Path) -> None:
    """A view without the object, whose mask has a stray value of 1, stays empty."""
    images = [shape * np.uint8(255) for shape in OUTLINES]
    images[3] = np.zeros_like(images[3])
    images[3][0, 0] = 1
    capture = load_capture(with_masks(tmp_path / "ball", images))
    assert capture.has_masks and int(capture.mask(3).max()) == 1 and int(capture.mask(2).max()) == 255


def test_soft_edges_stay_soft(tmp_path: Path) -> None:
    soft = [shape * np.uint8(255) for shape in OUTLINES]
    for image in soft:
        image[0, 0] = 100
    assert int(load_capture(with_masks(tmp_path / "a", soft)).mask(0)[0, 0]) == 100
    deep = [image.astype(np.uint16) * 257 for image in soft]
    assert int(load_capture(with_masks(tmp_path / "b", deep)).mask(0)[0, 0]) == 100


def test_masks_are_averaged_like_photos(tmp_path: Path) -> None:
    capture = load_capture(with_masks(tmp_path / "ball", [shape * np.uint8(3) for shape in OUTLINES]), downscale=2)
    blocks = OUTLINES[4].reshape(SIZE[1] // 2, 2, SIZE[0] // 2, 2).mean((1, 3))
    assert np.array_equal(capture.mask(4).numpy(), np.rint(blocks * 255).astype(np.uint8))


def disc(share_of_height: float = 1.0, size: tuple[int, int] = SIZE) -> ndarray:
    """The bright circle of a fisheye, 1 inside."""
    x, y = np.meshgrid(np.arange(size[0]) + 0.5 - size[0] / 2, np.arange(size[1]) + 0.5 - size[1] / 2)
    return (np.hypot(x, y) < share_of_height * size[1] / 2).astype(np.uint8)


def operator(view: int) -> ndarray:
    """Somebody in the lower part of the picture, 1 elsewhere."""
    mask = np.ones((SIZE[1], SIZE[0]), np.uint8)
    mask[SIZE[1] // 2 + view % 3 :, 4 + view : 30 + view] = 0
    return mask


LEAVING_OUT: dict[str, list[ndarray]] = {
    "circle of a lens": [disc()] * 9,
    "small circle of a lens": [disc(0.95)] * 9,
    "operator": [operator(view) for view in range(9)],
    "half of the picture": [np.repeat([[0], [1]], [14 - view % 2, 16 + view % 2], 0).repeat(40, 1).astype(np.uint8) for view in range(9)],
    "tripod": [np.pad(np.ones((22, 40), np.uint8), ((0, 8), (0, 0)))] * 9,
    "passers-by": [1 - shape for shape in OUTLINES],
}


@pytest.mark.parametrize("kind", LEAVING_OUT)
def test_masks_of_pixels_that_count_leave_the_others_out(tmp_path: Path, kind: str) -> None:
    """The meaning of mask_path in nerfstudio: black pixels are left out of the loss, and the scene stays unbounded."""
    masks = LEAVING_OUT[kind]
    capture = load_capture(with_masks(tmp_path / "walk", [mask * np.uint8(255) for mask in masks]))
    check_left_out(capture, [mask == 0 for mask in masks])
    share = 1 - np.mean(masks)
    assert any(f"leave {share:.1%} of the pixels out" in note and "masks=object" in note for note in capture.notes)


def test_circle_of_a_fisheye_that_varies_leaves_pixels_out(tmp_path: Path) -> None:
    masks = [disc() * operator(view) for view in range(9)]
    images = [mask * np.uint8(255) for mask in masks]
    capture = load_capture(with_masks(tmp_path / "walk", images, camera_model="OPENCV_FISHEYE"))
    check_left_out(capture, [mask == 0 for mask in masks])


def test_the_option_overrides_the_rule(tmp_path: Path) -> None:
    images = [shape * np.uint8(255) for shape in OUTLINES]
    folder = with_masks(tmp_path / "ball", images)
    check_outlines(load_capture(folder, masks="object"))
    check_left_out(load_capture(folder, masks="ignore"), [shape == 0 for shape in OUTLINES])
    none = load_capture(folder, masks="none")
    assert not none.has_masks and none.ignored is None and none.unbounded
    circle = load_capture(with_masks(tmp_path / "lens", [disc() * np.uint8(255)] * 9), masks="object")
    assert circle.has_masks and np.array_equal(masks_of(circle)[0], disc())
    alpha = write_transforms(tmp_path / "alpha", alpha=True)
    check_outlines(load_capture(alpha))
    check_left_out(load_capture(alpha, masks="ignore"), [shape == 0 for shape in OUTLINES])
    assert not load_capture(alpha, masks="none").has_masks


def test_masks_of_neus_outline_the_object_even_if_bright(tmp_path: Path) -> None:
    folder = write_neus(tmp_path / "scan")
    for k in range(8):
        Image.fromarray(operator(k) * np.uint8(255)).save(folder / "mask" / f"{k:03d}.png")
    assert load_capture(folder).has_masks
    check_left_out(load_capture(folder, masks="ignore"), [operator(view) == 0 for view in range(8)])


def test_inverted_masks_of_an_object_are_turned_around(tmp_path: Path) -> None:
    folder = write_neus(tmp_path / "scan")
    for k, pose in enumerate(opengl_poses(8)):
        Image.fromarray(255 - ball_photo(pose)[..., 3]).save(folder / "mask" / f"{k:03d}.png")
    capture = load_capture(folder)
    for view, pose in enumerate(opengl_poses(8)):
        assert np.array_equal(capture.mask(view).numpy(), ball_photo(pose)[..., 3])
    assert any("inverted" in note for note in capture.notes)
    folder = with_masks(tmp_path / "ball", [(1 - shape) * np.uint8(255) for shape in OUTLINES])
    check_outlines(load_capture(folder, masks="object"))


def test_masks_that_say_nothing(tmp_path: Path) -> None:
    white = np.full((SIZE[1], SIZE[0]), 255, np.uint8)
    capture = load_capture(with_masks(tmp_path / "a", [white] * 9))
    assert not capture.has_masks and capture.ignored is None and any("say nothing" in note for note in capture.notes)
    with pytest.raises(CaptureError, match="dark everywhere"):
        load_capture(with_masks(tmp_path / "b", [white * 0] * 9))
    folder = write_transforms(tmp_path / "c")
    for k in range(9):
        photo = ball_photo(opengl_poses(9)[k])
        photo[..., 3] = 250
        Image.fromarray(photo).save(folder / "images" / f"{k:03d}.png")
    capture = load_capture(folder)
    assert not capture.has_masks and bool((capture.mask(3) == 255).all()) and any("say nothing" in note for note in capture.notes)


def test_alpha_that_only_marks_margins_leaves_them_out(tmp_path: Path) -> None:
    """Photos that were undistorted have transparent margins; these outline no object."""
    folder = write_transforms(tmp_path / "a")
    for k in range(9):
        photo = ball_photo(opengl_poses(9)[k])
        photo[..., 3] = 255
        photo[: 1 + k % 2, :, 3] = 0
        Image.fromarray(photo).save(folder / "images" / f"{k:03d}.png")
    capture = load_capture(folder)
    assert not capture.has_masks and capture.unbounded and capture.ignored is not None
    assert int(capture.ignored[1].sum()) == 2 * SIZE[0] and int(capture.ignored[2].sum()) == SIZE[0]


def test_alpha_files_beside_the_photos_outline_the_object(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "a")
    for k, shape in enumerate(OUTLINES):
        Image.fromarray(shape * np.uint8(255)).save(folder / "images" / f"{k:03d}.alpha.png")
    check_outlines(load_capture(folder))


def flattened(folder: Path, color: tuple[int, int, int]) -> Path:
    for k, shape in enumerate(OUTLINES):
        photo = ball_photo(opengl_poses(9)[k])[..., :3]
        photo[shape == 0] = color
        Image.fromarray(photo).save(folder / "images" / f"{k:03d}.png")
    return folder


def marked(folder: Path, key: str, value: bool) -> Path:
    keys: dict[str, Any] = {key: value}
    return write_transforms(folder, **keys)


@pytest.mark.parametrize(("key", "color"), [("white_transparent", (255, 255, 255)), ("black_transparent", (0, 0, 0))])
def test_transparent_colors_outline_the_object(tmp_path: Path, key: str, color: tuple[int, int, int]) -> None:
    folder = flattened(marked(tmp_path / "ball", key, True), color)
    capture = load_capture(folder)
    check_outlines(capture)
    assert any("transparent" in note for note in capture.notes)
    blocks = OUTLINES[0].reshape(SIZE[1] // 2, 2, SIZE[0] // 2, 2).mean((1, 3))
    small = load_capture(folder, downscale=2)
    assert np.array_equal(small.mask(0).numpy(), np.rint(blocks * 255).astype(np.uint8))
    assert small.photos[0][..., :3][small.mask(0) > 0].unique(dim=0).tolist() == [[255, 0, 0]]
    assert not load_capture(folder, masks="none").has_masks
    off = load_capture(flattened(marked(tmp_path / "off", key, False), color))
    assert not off.has_masks and any(f"background={key.split('_')[0]}" in note for note in off.notes)
    unused = load_capture(marked(tmp_path / "unused", key, True))
    assert not unused.has_masks and any("no pixel has the color" in note for note in unused.notes)


@pytest.mark.parametrize("written", [[0, 255, 0], "#00ff00", "0x00FF00", 0xFF00FF00, 0x0000FF00])
def test_mask_color_leaves_pixels_out(tmp_path: Path, written: object) -> None:
    folder = flattened(write_transforms(tmp_path / "ball", mask_color=written), (0, 255, 0))
    check_left_out(load_capture(folder), [shape == 0 for shape in OUTLINES])


def test_mask_color_that_is_no_color(tmp_path: Path) -> None:
    for k, written in enumerate(["green", [1, 2], [0, 300, 0], 0.5]):
        with pytest.raises(CaptureError, match="mask_color"):
            load_capture(write_transforms(tmp_path / str(k), mask_color=written))


def test_mask_files_of_blender_captures_follow_the_same_rules(tmp_path: Path) -> None:
    folder = write_blender(tmp_path / "ball", alpha=False)
    for split, count in (("train", 8), ("test", 2)):
        content = json.loads((folder / f"transforms_{split}.json").read_text())
        for k in range(count):
            Image.fromarray(operator(k) * np.uint8(255)).save(folder / split / f"mask_{k}.png")
            content["frames"][k]["mask_path"] = f"{split}/mask_{k}.png"
        (folder / f"transforms_{split}.json").write_text(json.dumps(content))
    check_left_out(load_capture(folder), [operator(k) == 0 for k in (*range(8), *range(2))])


def test_left_out_pixels_are_never_drawn(tmp_path: Path) -> None:
    from unrender.recipes.pixels import PixelSampler

    masks = [operator(view) for view in range(9)]
    capture = load_capture(with_masks(tmp_path / "walk", [mask * np.uint8(255) for mask in masks]), test_every=0)
    batch = PixelSampler(capture, torch.device("cpu")).draw(4000, torch.Generator().manual_seed(0))
    assert batch.alpha is None
    column, row = (batch.pixels - 0.5).long().unbind(-1)
    assert bool((torch.from_numpy(np.stack(masks))[batch.views.long(), row, column] == 1).all())

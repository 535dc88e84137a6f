"""Masks made from generated photos of two balls, whose true outlines are known."""

from __future__ import annotations

import itertools
import json
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

import unrender
from tiny_captures import opengl_poses, real_capture
from unrender.captures.errors import CaptureError
from unrender.captures.mask_making.colors import fit_backdrop, lab_of
from unrender.captures.mask_making.cuts import exact_cut
from unrender.captures.mask_making.making import MaskingResult, make_masks
from unrender.captures.mask_making.shapes import soft_mask
from unrender.captures.mask_names import find_masks, mask_file_names

SIZE, FOCAL, VIEWS = (96, 72), 110.0, 12
BALLS = ((np.array([0.0, 0.0, 0.0]), 0.5), (np.array([0.45, 0.0, 0.35]), 0.3))


def balls(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The true mask of a view, and the photo of striped red and yellow balls before black, in sRGB from 0 to 1."""
    width, height = SIZE
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    ray = np.stack(((x - width / 2) / FOCAL, -(y - height / 2) / FOCAL, -np.ones_like(x)), -1) @ pose[:3, :3].T
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    nearest, color = np.full(x.shape, np.inf), np.zeros((*x.shape, 3))
    for (center, radius), base in zip(BALLS, ((0.7, 0.12, 0.1), (0.75, 0.55, 0.1)), strict=True):
        along = ray @ (center - pose[:3, 3])
        inside = radius**2 - ((center - pose[:3, 3]) @ (center - pose[:3, 3]) - along**2)
        distance = along - np.sqrt(np.maximum(inside, 0))
        hit = (inside > 0) & (distance < nearest)
        point = pose[:3, 3] + distance[..., None] * ray
        normal = (point - center) / radius
        light = 0.35 + 0.65 * np.clip(normal @ np.array([0.3, 0.2, 0.93]), 0, 1)
        stripes = np.where(np.sin(9 * point[..., 2]) > 0, 1.0, 0.7)
        color[hit] = (np.array(base) * (light * stripes)[..., None])[hit]
        nearest[hit] = distance[hit]
    return np.isfinite(nearest), color


def shaded(view: int, random: np.random.Generator) -> np.ndarray:
    """A gray background that darkens toward one corner, with the noise of a camera."""
    x, y = np.meshgrid(np.linspace(0, 1, SIZE[0]), np.linspace(0, 1, SIZE[1]))
    level = 0.85 - 0.2 * x - 0.1 * y
    return level[..., None] * np.array([1.0, 0.98, 0.95]) + random.normal(0, 0.008, (SIZE[1], SIZE[0], 3))


def textured(view: int, random: np.random.Generator) -> np.ndarray:
    """Blotches of green and blue, the same in all views, and noise."""
    fixed = np.random.default_rng(5).normal(0, 1, (SIZE[1], SIZE[0], 3))
    blotches = np.stack([gaussian_filter(fixed[..., channel], 4) for channel in range(3)], -1)
    return np.clip(np.array([0.25, 0.45, 0.5]) + 2.2 * blotches * [0.5, 1, 1], 0, 1) + random.normal(0, 0.008, fixed.shape)


def wandering(view: int, random: np.random.Generator) -> np.ndarray:
    """The same blotches, moved from view to view."""
    return np.roll(textured(view, random), 7 * view, axis=1)


def write_capture(folder: Path, background=shaded, *, posed: bool = True, count: int = VIEWS) -> list[np.ndarray]:
    """Photos of the balls, with ``transforms.json`` if they are posed; returns the true masks."""
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    truths, frames = [], []
    for view, pose in enumerate(opengl_poses(count, distance=3.4)):
        mask, color = balls(pose)
        photo = np.where(mask[..., None], color, background(view, random))
        Image.fromarray(np.rint(255 * np.clip(photo, 0, 1)).astype(np.uint8)).save(folder / "images" / f"{view:02d}.png")
        truths.append(mask)
        frames.append({"file_path": f"images/{view:02d}.png", "transform_matrix": pose.tolist()})
    if posed:
        (folder / "transforms.json").write_text(json.dumps({"fl_x": FOCAL, "w": SIZE[0], "h": SIZE[1], "frames": frames}))
    return truths


def overlaps(folder: Path, truths: list[np.ndarray]) -> np.ndarray:
    """Intersection over union of each mask file with the truth."""
    masks = [np.asarray(Image.open(folder / f"{view:02d}.png").convert("L")) >= 128 for view in range(len(truths))]
    return np.array([(mask & truth).sum() / (mask | truth).sum() for mask, truth in zip(masks, truths, strict=True)])


def test_a_cut_has_the_least_energy_of_all_labelings() -> None:
    random = np.random.default_rng(0)
    for _ in range(5):
        evidence, lab = random.normal(0, 1, (3, 4)), random.normal(50, 3, (3, 4, 3))
        mean = max(4.0, float(np.concatenate([(np.diff(lab, axis=axis) ** 2).sum(-1).ravel() for axis in (0, 1)]).mean()))
        price = [0.7 * np.maximum(np.exp(-(np.diff(lab, axis=axis) ** 2).sum(-1) / (2 * mean)), 0.02) for axis in (0, 1)]

        def energy(label: np.ndarray, evidence=evidence, price=price) -> float:
            changes = [(weight * (np.diff(label.astype(int), axis=axis) != 0)).sum() for axis, weight in enumerate(price)]
            return float(-(evidence * label).sum() + sum(changes))

        least = min(energy(np.array(bits).reshape(3, 4)) for bits in itertools.product((False, True), repeat=12))
        assert energy(exact_cut(evidence, lab, 0.7)) == pytest.approx(least, abs=0.05)


def test_a_backdrop_follows_a_gradient_and_ignores_what_crosses_the_border() -> None:
    random = np.random.default_rng(1)
    photo = shaded(0, random)
    photo[:, 40:60] = (0.6, 0.1, 0.1)
    lab = lab_of(np.rint(255 * np.clip(photo, 0, 1)).astype(np.uint8))
    distance = fit_backdrop(lab).distance(lab, shadows=False)
    outside = np.ones(distance.shape, bool)
    outside[:, 39:61] = False
    assert np.quantile(distance[outside], 0.99) < 5
    assert distance[:, 41:59].min() > 15


def test_shadows_of_any_depth_are_told_from_colors_and_from_light() -> None:
    lab = lab_of(np.full((72, 96, 3), 225, np.uint8))
    backdrop = fit_backdrop(lab)
    patches = {(60, 55, 50): True, (150, 148, 145): True, (140, 80, 30): False, (60, 90, 140): False, (250, 250, 250): False}
    for color, expected in patches.items():
        assert backdrop.may_be_shadow(lab_of(np.full((72, 96, 3), color, np.uint8))).all() == expected, color


def test_a_shaded_background_needs_no_poses(tmp_path: Path) -> None:
    truths = write_capture(tmp_path, posed=False, count=4)
    result = make_masks(tmp_path)
    assert overlaps(tmp_path / "masks", truths).min() > 0.95
    assert "method background" in result.notes[0] and not result.doubtful
    assert "no poses" in " ".join(result.notes) and all(view.agreement is None for view in result.views)
    assert (tmp_path / "masks" / "report.html").read_text().count("<figure") == 4


@pytest.mark.parametrize("gray", ["neither", "small", "both"])
def test_gray_parts_of_an_object_are_told_from_its_soft_shadow(tmp_path: Path, gray: str) -> None:
    """Their color may be that of a shadow, but they end at edges."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    fading = np.exp(-(((x - 50) / 22) ** 2) - ((y - 56) / 7) ** 2)[..., None]

    def shadowed(view: int, random: np.random.Generator) -> np.ndarray:
        return (1 - 0.4 * fading) * shaded(view, random)

    truths = write_capture(tmp_path, shadowed)
    for view in range(VIEWS):
        file = tmp_path / "images" / f"{view:02d}.png"
        photo = np.array(Image.open(file))
        yellow = photo[..., 1] > 0.5 * photo[..., 0]
        pale = truths[view] & (yellow if gray == "small" else gray == "both")
        photo[pale] = photo[pale].max(-1, keepdims=True) * 0.6
        Image.fromarray(photo).save(file)
    result = make_masks(tmp_path)
    assert result.method == "automatic" and "with soft shadows" in result.notes[0]
    assert overlaps(tmp_path / "masks", truths).min() > 0.95


def test_a_still_background_may_have_any_texture(tmp_path: Path) -> None:
    truths = write_capture(tmp_path, textured, posed=False)
    result = make_masks(tmp_path)
    assert "method static" in " ".join(result.notes)
    assert overlaps(tmp_path / "masks", truths).mean() > 0.93


def test_a_region_is_enough_where_the_background_changes(tmp_path: Path) -> None:
    truths = write_capture(tmp_path, wandering)
    result = make_masks(tmp_path, center=(0.2, 0.0, 0.15), radius=0.85)
    assert "method region" in " ".join(result.notes)
    assert overlaps(tmp_path / "masks", truths).mean() > 0.93


def test_photos_that_no_method_fits_are_refused_with_what_to_do(tmp_path: Path) -> None:
    write_capture(tmp_path, wandering, posed=False, count=6)
    with pytest.raises(CaptureError, match="--box LEFT TOP RIGHT BOTTOM"):
        make_masks(tmp_path)
    assert not (tmp_path / "masks").exists()
    truths = write_capture(tmp_path / "box", wandering, posed=False, count=6)
    make_masks(tmp_path / "box", box=(0.1, 0.0, 0.9, 1.0))
    assert overlaps(tmp_path / "box" / "masks", truths).mean() > 0.8


COPY = """
import pathlib, sys
photo = pathlib.Path(sys.argv[1])
pathlib.Path(sys.argv[2]).write_bytes((photo.parents[1] / "true" / photo.name).read_bytes())
"""


def write_true_masks(folder: Path, truths: list[np.ndarray]) -> str:
    """Write masks that a program copies, and return its command."""
    (folder / "true").mkdir()
    for view, truth in enumerate(truths):
        Image.fromarray(truth).save(folder / "true" / f"{view:02d}.png")
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(COPY)} {{image}} {{mask}}"


@pytest.mark.parametrize("region", [None, 0.4, 4.0])
def test_a_wrong_mask_among_many_is_repaired_by_the_hull(tmp_path: Path, region: float | None) -> None:
    """Whatever the program that solved the poses says about the region of interest."""
    truths = write_capture(tmp_path)
    if region is not None:
        content = json.loads((tmp_path / "transforms.json").read_text())
        (tmp_path / "transforms.json").write_text(json.dumps({**content, "unrender": {"center": [0, 0, 0], "radius": region}}))
    wrong = [truth.copy() for truth in truths]
    wrong[3][:] = False
    wrong[3][40:60, 10:30] = True
    wrong[7][5:15, 3:13] = True  # something else beside the object
    command = write_true_masks(tmp_path, wrong)
    alone = make_masks(tmp_path, command=command, hull=False, out=tmp_path / "alone")
    result = make_masks(tmp_path, command=command)
    before, after = overlaps(tmp_path / "alone", truths), overlaps(tmp_path / "masks", truths)
    assert before[3] < 0.5 and after[3] > 0.85
    assert before[7] < 0.97 and after[7] > 0.97
    assert after[[0, 1, 2, 4, 5, 6, 8, 9, 10, 11]].min() > 0.97
    assert alone.views[3].agreement is None and min(view.agreement or 0 for view in result.views) > 0.7


def test_a_hopeless_mask_is_named(tmp_path: Path) -> None:
    truths = write_capture(tmp_path)
    (tmp_path / "masks").mkdir()
    for view, truth in enumerate(truths):
        Image.fromarray(truth if view != 5 else np.roll(truth, 30, axis=1)).save(tmp_path / "masks" / f"{view:02d}.png")
    result = make_masks(tmp_path)
    assert result.made == 0 and result.doubtful == ("images/05.png",)
    assert "1 look wrong: images/05.png" in result.verdict


def test_programs_that_fail_are_one_sentence(tmp_path: Path) -> None:
    write_capture(tmp_path, posed=False, count=2)
    python = shlex.quote(sys.executable)
    failing = {
        "'sys.exit(3)": "check its quotes",
        "segment {image}": "no {mask}",
        "no-such-program-here {image} {mask}": "cannot be run",
        f"{python} -c 'import sys; sys.exit(\"out of luck\")' {{image}} {{mask}}": "exit code 1 for images/00.png: out of luck",
        f"{python} -c 'pass' {{image}} {{mask}}": "wrote no mask",
        f"{python} -c 'import sys; from PIL import Image; Image.new(\"L\", (5, 4)).save(sys.argv[2])' {{image}} {{mask}}": "mask of 5x4",
    }
    for command, words in failing.items():
        with pytest.raises(CaptureError) as caught:
            make_masks(tmp_path, command=command, overwrite=True)
        assert words in str(caught.value), command
    assert not (tmp_path / "masks").exists()


def test_no_shell_sees_the_command(tmp_path: Path) -> None:
    truths = write_capture(tmp_path, posed=False, count=2)
    command = write_true_masks(tmp_path, truths)
    make_masks(tmp_path, command=f"{command} '; touch {tmp_path / 'touched'}' $(touch {tmp_path / 'touched'})")
    assert not (tmp_path / "touched").exists()
    assert overlaps(tmp_path / "masks", truths).min() == 1.0


def test_an_interrupted_program_goes_on_where_it_stopped(tmp_path: Path) -> None:
    truths = write_capture(tmp_path, posed=False, count=3)
    command = write_true_masks(tmp_path, truths)
    last = tmp_path / "true" / "02.png"
    moved = last.rename(tmp_path / "later.png")
    with pytest.raises(CaptureError, match="images/02.png"):
        make_masks(tmp_path, command=command)
    assert sorted(file.name for file in (tmp_path / "masks.unfinished").glob("*.png")) == ["00.png", "01.png"]
    moved.rename(last)
    (tmp_path / "true" / "00.png").unlink()
    make_masks(tmp_path, command=command)
    assert overlaps(tmp_path / "masks", truths).min() == 1.0
    assert not (tmp_path / "masks.unfinished").exists()


def test_masks_that_exist_are_kept(tmp_path: Path) -> None:
    truths = write_capture(tmp_path, posed=False, count=3)
    (tmp_path / "masks").mkdir()
    mine = tmp_path / "masks" / "01.png"
    Image.fromarray(truths[1]).save(mine)
    before = mine.read_bytes()
    result = make_masks(tmp_path)
    assert result.made == 2 and mine.read_bytes() == before
    assert overlaps(tmp_path / "masks", truths).min() > 0.95
    assert make_masks(tmp_path).made == 0
    assert make_masks(tmp_path, overwrite=True).made == 3 and mine.read_bytes() != before


def test_masks_elsewhere_are_not_overruled(tmp_path: Path) -> None:
    truths = write_capture(tmp_path, count=6)
    (tmp_path / "mask").mkdir()
    for view, truth in enumerate(truths):
        Image.fromarray(truth).save(tmp_path / "mask" / f"{view:02d}.png")
    with pytest.raises(CaptureError, match=r"has masks already.*--out DIR"):
        make_masks(tmp_path)
    assert make_masks(tmp_path, out=tmp_path / "others").made == 6


def test_readers_find_masks_that_were_made_and_take_them_as_outlines(tmp_path: Path) -> None:
    write_capture(tmp_path)
    result = make_masks(tmp_path)
    assert isinstance(result, MaskingResult)
    capture = unrender.load(tmp_path)
    assert capture.has_masks and not capture.unbounded
    assert "masks were found by their names in masks" in capture.notes
    share = np.mean([float((photo[..., 3] >= 128).float().mean()) for photo in capture.photos])
    assert share == pytest.approx(np.mean([view.share for view in result.views]), abs=0.01)
    assert not unrender.load(tmp_path, masks="none").has_masks


NAMINGS = ("masks/{stem}.png", "mask/{stem}.jpg", "masks/{stem}.png.png", "images/{stem}.mask.png", "images/{stem}_mask.png")


@pytest.mark.parametrize("naming", [*NAMINGS, "object_mask/{stem}_mask.png", "images/masks/{stem}.png"])
def test_masks_are_found_by_every_common_name(tmp_path: Path, naming: str) -> None:
    truths = write_capture(tmp_path, count=4)
    for view, truth in enumerate(truths):
        file = tmp_path / naming.format(stem=f"{view:02d}")
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(np.where(truth, 255, 0).astype(np.uint8)).save(file)
    assert unrender.load(tmp_path).has_masks


def test_some_photos_may_lack_a_mask(tmp_path: Path) -> None:
    truths = write_capture(tmp_path, count=6)
    (tmp_path / "masks").mkdir()
    for view in (0, 1, 2, 4):
        Image.fromarray(truths[view]).save(tmp_path / "masks" / f"{view:02d}.png")
    capture = unrender.load(tmp_path)
    assert capture.has_masks and len(capture) == 4
    assert any("2 of the 6 photos have no mask in masks and were left out (images/03.png, images/05.png)" in note for note in capture.notes)
    for view in (2, 4):
        (tmp_path / "masks" / f"{view:02d}.png").unlink()
    capture = unrender.load(tmp_path)
    assert not capture.has_masks and len(capture) == 6
    assert any("2 of the 6 photos have masks in masks, fewer than half" in note for note in capture.notes)


def test_inverted_masks_are_turned_around(tmp_path: Path) -> None:
    truths = write_capture(tmp_path)
    (tmp_path / "masks").mkdir()
    for view, truth in enumerate(truths):
        Image.fromarray(~truth).save(tmp_path / "masks" / f"{view:02d}.png")
    capture = unrender.load(tmp_path, masks="object")
    assert any("inverted" in note for note in capture.notes)
    assert np.array_equal(np.asarray(capture.photos[0][..., 3]) >= 128, truths[0])


def test_names_of_masks_differ(tmp_path: Path) -> None:
    assert mask_file_names(["train/r_0.png", "test/r_0.png"]) == ("train/r_0.png", "test/r_0.png")
    assert mask_file_names(["rgb/a/1.jpg", "rgb/b/1.jpg"]) == ("a/1.png", "b/1.png")
    assert find_masks(tmp_path, [tmp_path / "images" / "a.png"], ["images/a.png"]) is None


def test_edges_are_soft_and_follow_a_larger_photo() -> None:
    y, x = np.mgrid[:60, :80]
    small = (x - 40) ** 2 + (y - 30) ** 2 < 20**2
    same = soft_mask(small, np.zeros((60, 80, 3), np.uint8))
    assert 20 < ((same > 0) & (same < 255)).sum() < 2 * 2 * np.pi * 20
    assert same.sum() / 255 == pytest.approx(np.pi * 20**2, rel=0.02)
    y, x = (np.mgrid[:240, :320] + 0.5) / 4
    disc = (x - 40.6) ** 2 + (y - 30.5) ** 2 < 20**2
    photo = np.where(disc[..., None], np.array([180, 60, 20]), np.array([230, 230, 225])).astype(np.uint8)
    large = soft_mask(small, photo) >= 128
    assert (large & disc).sum() / (large | disc).sum() > 0.985


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"box": (0.5, 0.0, 0.4, 1.0)}, "shares of width and height"),
        ({"box": (0.1, 0.1, 0.9, 0.9), "method": "static"}, "box belongs to the method region"),
        ({"radius": -1.0}, "positive"),
        ({"method": "region", "command": "x {image} {mask}"}, "give one of them"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, options: dict, words: str) -> None:
    with pytest.raises(CaptureError, match=words):
        make_masks(tmp_path, **options)
    with pytest.raises(CaptureError, match="has no photos"):
        make_masks(tmp_path)


@pytest.mark.data
def test_a_white_chair_is_cut_from_white(tmp_path: Path) -> None:
    folder = real_capture("chair_200")
    content = json.loads((folder / "transforms_train.json").read_text())
    content["frames"] = content["frames"][::10]
    (tmp_path / "train").mkdir()
    truths = []
    for frame in content["frames"]:
        photo = Image.open(folder / f"{frame['file_path']}.png")
        white = Image.new("RGBA", photo.size, "white")
        white.alpha_composite(photo)
        white.convert("RGB").save(tmp_path / f"{frame['file_path']}.png")
        truths.append(np.asarray(photo)[..., 3] >= 128)
    (tmp_path / "transforms_train.json").write_text(json.dumps(content))
    make_masks(tmp_path)
    masks = [np.asarray(Image.open(tmp_path / "masks" / f"{Path(f['file_path']).name}.png")) >= 128 for f in content["frames"]]
    assert np.mean([(mask & truth).sum() / (mask | truth).sum() for mask, truth in zip(masks, truths, strict=True)]) > 0.9


@pytest.mark.data
@pytest.mark.slow
def test_masks_of_a_mug_on_a_white_table_are_those_drawn_by_hand(tmp_path: Path) -> None:
    folder = real_capture("mary_rose_384")
    shutil.copytree(folder / "images", tmp_path / "images")
    shutil.copy(folder / "poses_bounds.npy", tmp_path)
    made = make_masks(tmp_path).folder
    pairs = [(made / file.name, file) for file in sorted((folder / "masks").iterdir())]
    masks = [[np.asarray(Image.open(file).convert("L")) >= 128 for file in pair] for pair in pairs]
    assert np.mean([(mine & given).sum() / (mine | given).sum() for mine, given in masks]) > 0.95

"""The check of a capture: every damage has its reason, and what is not damaged is usable. Photos are traced with NumPy alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tiny_captures import opengl_poses, real_capture, write_blender, write_neus, write_transforms
from unrender.cameras import Cameras
from unrender.captures.capture import Capture
from unrender.captures.check.checking import MOST_VIEWS, QUICK_VIEWS, check_capture
from unrender.captures.check.epipolar import Change, VerifiedMatches, agreement
from unrender.captures.check.evidence import at_least, at_most
from unrender.captures.check.explanations import explain
from unrender.captures.check.findings import CheckReport, Finding, Severity, in_order
from unrender.captures.check.hull import hull_agreement
from unrender.captures.check.photos import about_duplicates
from unrender.captures.images import Images
from unrender.captures.load import load_capture
from unrender.cli.program import main
from unrender.runs import check_summary
from unrender.runs.check_summary import quick_check, summary_of

SIZE, FOCAL, COUNT = 160, 192.0, 16

Pose = np.ndarray


def noise(points: np.ndarray, seed: int, cells: int = 7) -> np.ndarray:
    """Smooth gray values in space: trilinear interpolation of random numbers on a lattice."""
    table = np.random.default_rng(seed).random((64, 64, 64))
    place = (points + 4) * cells
    low = np.floor(place).astype(int)
    share = place - low
    total = np.zeros(len(points))
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, share, 1 - share), axis=1)
        total += weight * table[tuple(((low + corner) % 64).T)]
    return total


def trace(pose: Pose) -> np.ndarray:
    """RGBA of a textured ball on a textured box, as a pinhole camera with OpenGL axes sees them."""
    x, y = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    local = np.stack(((x - SIZE / 2) / FOCAL, -(y - SIZE / 2) / FOCAL, -np.ones_like(x)), -1).reshape(-1, 3)
    ray = local @ pose[:3, :3].T
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    eye = pose[:3, 3]
    to_ball = np.array([0.15, -0.1, 0.35]) - eye
    along = ray @ to_ball
    inside = along**2 - to_ball @ to_ball + 0.45**2
    ball = np.where(inside > 0, along - np.sqrt(np.maximum(inside, 0)), np.inf)
    low, high = np.array([-0.7, -0.5, -0.6]), np.array([0.6, 0.6, 0.0])
    one, two = (low - eye) / ray, (high - eye) / ray
    enter, leave = np.minimum(one, two).max(1), np.maximum(one, two).min(1)
    box = np.where(enter < leave, enter, np.inf)
    near = np.minimum(ball, box)
    hit = np.isfinite(near)
    points = eye + np.where(hit, near, 0)[:, None] * ray
    photo = np.zeros((SIZE * SIZE, 4), np.uint8)
    for channel in range(3):
        photo[:, channel] = np.where(hit, 40 + 190 * (0.6 * noise(points, channel) + 0.4 * noise(points, 9, 16)), 0)
    photo[:, 3] = 255 * hit
    return photo.reshape(SIZE, SIZE, 4)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture of 16 photos with alpha in the format of instant-ngp."""
    folder = tmp_path_factory.mktemp("scene") / "ball"
    (folder / "images").mkdir(parents=True)
    frames = []
    for k, pose in enumerate(opengl_poses(COUNT, distance=3.2)):
        Image.fromarray(trace(pose)).save(folder / "images" / f"{k}.png")
        frames.append({"file_path": f"images/{k}.png", "transform_matrix": pose.tolist()})
    lens = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": SIZE / 2, "cy": SIZE / 2, "w": SIZE, "h": SIZE}
    (folder / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))
    return folder


def with_poses(change: Callable[[list[Pose]], list[Pose]]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / "transforms.json"
        content = json.loads(file.read_text())
        poses = change([np.array(frame["transform_matrix"]) for frame in content["frames"]])
        for frame, pose in zip(content["frames"], poses, strict=True):
            frame["transform_matrix"] = pose.tolist()
        file.write_text(json.dumps(content))

    return damage


def with_focal(factor: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / "transforms.json"
        content = json.loads(file.read_text())
        file.write_text(json.dumps({**content, "fl_x": factor * FOCAL, "fl_y": factor * FOCAL}))

    return damage


def with_photos(change: Callable[[int, np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for k in range(COUNT):
            file = folder / "images" / f"{k}.png"
            Image.fromarray(change(k, np.array(Image.open(file)))).save(file)

    return damage


def without_mask(k: int, photo: np.ndarray) -> np.ndarray:
    if k % 2:
        photo[..., 3] = 255
    return photo


def with_half_inverted(k: int, photo: np.ndarray) -> np.ndarray:
    if k % 2:
        photo[..., 3] = 255 - photo[..., 3]
    return photo


def swap_photos(folder: Path) -> None:
    one, two = (folder / "images" / f"{k}.png" for k in (1, 9))
    photo = one.read_bytes()
    shutil.copy(two, one)
    two.write_bytes(photo)


def copy_photos(folder: Path) -> None:
    for k in (3, 7, 11):
        shutil.copy(folder / "images" / f"{k - 3}.png", folder / "images" / f"{k}.png")


SHUFFLE = np.random.default_rng(3).permutation(COUNT)

DAMAGES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "shuffled poses": (with_poses(lambda poses: [poses[k] for k in SHUFFLE]), "poses", "do not belong to their poses"),
    "poses by text": (
        with_poses(lambda poses: [poses[k] for k in sorted(range(COUNT), key=str)]),
        "order",
        "the poses in that of their text",
    ),
    "flipped axes": (with_poses(lambda poses: [p @ np.diag([1, -1, -1, 1]) for p in poses]), "camera axes", "--camera-axes opencv"),
    "inverse poses": (with_poses(lambda poses: [np.linalg.inv(p) for p in poses]), "inverted poses", "world-to-camera"),
    "mirrored": (with_photos(lambda k, photo: photo[:, ::-1].copy()), "mirrored photos", "left to right"),
    "long focal": (with_focal(1.5), "focal length", "0.6"),
    "short focal": (with_focal(0.6), "focal length", "1.6"),
    "half masks": (with_photos(without_mask), "missing masks", "8 of 16"),
    "half inverted": (with_photos(with_half_inverted), "inverted masks", "8 of 16"),
    "copies": (copy_photos, "duplicates", "3 of 16"),
    "swaps": (swap_photos, "poses", "the poses of 2 photos contradict the others (images/1.png, images/9.png)"),
}


def damaged(scene: Path, tmp_path: Path, damage: Callable[[Path], None]) -> CheckReport:
    folder = tmp_path / "ball"
    shutil.copytree(scene, folder)
    damage(folder)
    return check_capture(folder)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_capture_is_broken_for_the_right_reason(name: str, scene: Path, tmp_path: Path) -> None:
    damage, cause, words = DAMAGES[name]
    report = damaged(scene, tmp_path, damage)
    worst = report.findings[0]
    assert (worst.severity, worst.cause) == ("broken", cause), report.findings
    assert words in worst.sentence and report.command is None and not report.is_usable


def test_an_undamaged_capture_is_usable(scene: Path) -> None:
    report = check_capture(scene)
    assert [finding for finding in report.findings if finding.severity != "ok"] == []
    assert report.numbers["hull IoU"] > 0.93 and report.numbers["agreement"] > 0.85
    assert abs(report.numbers["best focal factor"] - 1) < 0.08
    assert report.command is not None and report.command.startswith("unrender fit neus")


def test_an_undamaged_capture_without_masks_is_usable(scene: Path, tmp_path: Path) -> None:
    report = damaged(scene, tmp_path, with_photos(lambda k, photo: photo[..., :3]))
    assert report.is_usable and report.hull is None
    assert report.command is not None and report.command.startswith("unrender fit nerf")


def test_a_check_is_deterministic(scene: Path) -> None:
    capture = load_capture(scene)
    assert check_capture(capture, most_views=8).as_json() == check_capture(capture, most_views=8).as_json()


def test_a_folder_that_cannot_be_read_is_broken(tmp_path: Path) -> None:
    report = check_capture(tmp_path / "nothing")
    assert report.verdict == "broken" and report.findings[0].cause == "reading" and "does not exist" in report.findings[0].sentence


def blurred(k: int, photo: np.ndarray) -> np.ndarray:
    if k == 5:
        color = photo[..., :3].astype(float)
        for axis in (0, 1):
            color = sum(np.roll(color, shift, axis) for shift in range(-2, 3)) / 5
        photo[..., :3] = color
    return photo


def test_one_blurred_photo_is_a_warning(scene: Path, tmp_path: Path) -> None:
    report = damaged(scene, tmp_path, with_photos(blurred))
    assert report.verdict == "warning"
    assert [(finding.cause, "5.png" in finding.sentence) for finding in report.findings if finding.severity == "warning"] == [
        ("blur", True)
    ]
    assert report.views[5].faults == ("blurred",)


def test_one_wrong_pose_is_named(scene: Path, tmp_path: Path) -> None:
    report = damaged(scene, tmp_path, with_poses(lambda poses: [*poses[:5], poses[9], *poses[6:]]))
    told = [finding for finding in report.findings if finding.cause == "poses" and finding.severity != "ok"]
    assert told and all("5.png" in finding.sentence for finding in told)


def test_the_command_writes_its_page_and_says_what_is_wrong(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(scene), "--out", str(tmp_path / "good"), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["verdict"] == "ok" and results["fit"].startswith("unrender fit neus") and len(results["views"]) == COUNT
    page = (tmp_path / "good" / "check.html").read_text()
    assert "usable" in page and "data:image/png" in page and "http" not in page.replace("http-equiv", "")
    picture = np.array(Image.open(tmp_path / "good" / "check.png"))
    assert picture.shape[1] > 1000 and picture.std() > 10
    assert main(["check", str(tmp_path / "nothing"), "--out", str(tmp_path / "bad")]) == 1
    assert "does not exist" in capsys.readouterr().out and (tmp_path / "bad" / "check.html").exists()


def test_the_summary_has_five_lines_at_most() -> None:
    findings = in_order([Finding("ok", "poses", "good"), *(Finding("warning", "blur", str(k)) for k in range(6))])
    lines = summary_of(CheckReport("x", findings, {}, (), None))
    assert len(lines) == 5 and lines[0] == "check: warning: 0" and "2 more" in lines[-1]
    assert len(summary_of(CheckReport("x", findings[-1:], {}, (), "unrender fit neus x"))) == 1


def exact_matches(poses: torch.Tensor, points: torch.Tensor) -> VerifiedMatches:
    """True matches of points that all cameras see, between each camera and the next."""
    pairs = torch.tensor([[k, k + 1] for k in range(len(poses) - 1)])
    local = torch.einsum("vji,vpj->vpi", poses[:, :3, :3], points[None] - poses[:, None, :3, 3])
    local = local / local.norm(dim=-1, keepdim=True)
    directions = torch.stack([local[:-1], local[1:]], 2).reshape(-1, 2, 3)
    return VerifiedMatches(pairs, torch.arange(len(pairs)).repeat_interleave(len(points)), directions, torch.ones(len(directions)).double())


def test_exact_matches_agree_with_their_cameras_and_with_no_others() -> None:
    poses = torch.from_numpy(np.array([pose @ np.diag([1.0, -1, -1, 1]) for pose in opengl_poses(6)]))
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(40, 3, generator=generator, dtype=torch.float64) - 0.5
    matches = exact_matches(poses, points)
    assert float(agreement(matches, poses, Change()).min()) == 1.0
    assert float(agreement(matches, poses.flip(0), Change()).mean()) < 0.3
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    assert float(agreement(matches, poses @ flip, Change()).max()) == 0.0
    assert float(agreement(matches, poses @ flip, Change(turn=flip[:3, :3])).min()) == 1.0


def noisy_matches(pairs: int, points: int, noise: float, seed: int) -> tuple[VerifiedMatches, torch.Tensor]:
    """Matches of a narrow arc of cameras, wrong by about so much of a photo's width, by an amount that all matches of a pair share."""
    poses = torch.from_numpy(np.array([pose @ np.diag([1.0, -1, -1, 1]) for pose in opengl_poses(60)]))[: pairs + 1]
    generator = torch.Generator().manual_seed(seed)
    exact = exact_matches(poses, torch.rand(points, 3, generator=generator, dtype=torch.float64) - 0.5)
    shared = torch.randn(pairs, 2, 3, generator=generator, dtype=torch.float64)[exact.pair]
    wrong = exact.directions + noise * (torch.randn(exact.directions.shape, generator=generator, dtype=torch.float64) + shared)
    return replace(exact, directions=torch.nn.functional.normalize(wrong, dim=-1)), poses


def explained(matches: VerifiedMatches, poses: torch.Tensor) -> Finding:
    found = explain(matches, poses, poses, [f"{k}.png" for k in range(len(poses))], "opencv", has_masks=True)
    assert found is not None
    return found.findings[0]


def through_another_lens(matches: VerifiedMatches, factor: float) -> VerifiedMatches:
    directions = torch.nn.functional.normalize(matches.directions / matches.directions.new_tensor([factor, factor, 1.0]), dim=-1)
    return replace(matches, directions=directions, focal=matches.focal * factor)


def test_few_inaccurate_matches_of_right_cameras_never_break_them() -> None:
    for seed in range(8):
        finding = explained(*noisy_matches(5, 20, 0.003, seed))
        assert finding.severity != "broken", (seed, finding)


def test_many_inaccurate_matches_still_show_a_wrong_focal_length() -> None:
    for seed, factor in ((1, 0.6), (2, 1.5)):
        matches, poses = noisy_matches(40, 20, 0.001, seed)
        assert explained(matches, poses).severity == "ok"
        finding = explained(through_another_lens(matches, factor), poses)
        assert (finding.severity, finding.cause) == ("broken", "focal length"), finding


def test_bounds_enclose_the_mean_and_narrow_with_more_pairs() -> None:
    values = torch.rand(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    more = values.repeat(20)
    assert at_least(values) < at_least(more) < float(values.mean()) < at_most(more) < at_most(values)


def test_photos_that_are_all_alike_are_no_copies() -> None:
    names = [f"{k}.png" for k in range(20)]
    (vase,) = about_duplicates([(k, 0) for k in range(1, 20)], names)
    (copies,) = about_duplicates([(k, 0) for k in range(1, 5)], names)
    assert vase.severity == "warning" and "alike" in vase.sentence and copies.severity == "broken"


@pytest.mark.parametrize(
    ("severity", "pairs", "looks"),
    [("broken", 40, [QUICK_VIEWS, MOST_VIEWS]), ("ok", 7, [QUICK_VIEWS, MOST_VIEWS]), ("ok", 40, [QUICK_VIEWS])],
)
def test_the_quick_check_looks_again_where_some_views_do_not_tell(
    severity: Severity, pairs: int, looks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def check(capture: object, *, most_views: int) -> CheckReport:
        asked.append(most_views)
        found = (Finding(severity, "focal length", "found"),) if most_views == QUICK_VIEWS else ()
        return CheckReport("x", found, {"pairs": float(pairs)}, (), None)

    monkeypatch.setattr(check_summary, "check_capture", check)

    count = QUICK_VIEWS + 1
    cameras = Cameras.alike(torch.eye(4).repeat(count, 1, 1), torch.full((count, 4), 4.0), None, 8, 8)
    report = quick_check(Capture.from_tensors(torch.zeros(count, 8, 8, 3, dtype=torch.uint8), cameras))
    assert report.is_usable and asked == looks


def test_copies_are_found_among_all_photos_while_they_are_still_decoded(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of four photos are looked at by no check of some views; their files tell."""
    folder = shutil.copytree(scene, tmp_path / "ball")
    copy_photos(folder)
    monkeypatch.setattr(check_summary, "QUICK_VIEWS", 4)
    monkeypatch.setattr(check_summary, "MOST_VIEWS", 4)
    capture = load_capture(folder, memory=1000)
    assert capture.photos.waits and set(capture.copies) == {(3, 0), (7, 4), (11, 8)}
    report = quick_check(capture)
    assert (report.findings[0].severity, report.findings[0].cause) == ("broken", "duplicates") and report.command is None
    assert "3 of 16" in report.findings[0].sentence
    assert load_capture(scene).copies == ()


def test_the_hull_of_right_masks_covers_them(scene: Path) -> None:
    capture = load_capture(scene)
    masks = [capture.mask(view) for view in range(COUNT)]
    right = hull_agreement(masks, capture.cameras)
    shuffled = hull_agreement([masks[k] for k in SHUFFLE], capture.cameras)
    assert right.mean > 0.93 > 0.8 > shuffled.mean
    assert float(right.covered.min()) > 0.9


@pytest.mark.parametrize("write", [write_blender, write_neus, write_transforms])
def test_photos_without_any_detail_are_checked_as_far_as_they_go(write: Callable[[Path], Path], tmp_path: Path) -> None:
    report = check_capture(write(tmp_path / "plain"))
    assert "features" in {finding.cause for finding in report.findings} and "agreement" not in report.numbers
    assert len(summary_of(report)) <= 5


REAL = ("chair_200", "dtu_scan24_400", "ethiopian_head_384", "fox_270", "lego_800", "mary_rose_384", "temple_sparse_ring")


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_captures_are_usable(name: str) -> None:
    capture = load_capture(real_capture(name))
    report, quick = check_capture(capture), quick_check(capture)
    assert report.is_usable and report.numbers["agreement"] > 0.75, report.findings
    assert abs(report.numbers["best focal factor"] - 1) < 0.1
    assert report.numbers.get("hull IoU", 1.0) > 0.95
    assert summary_of(quick) == ["check: masks, poses and photos look usable"], quick.findings


def with_all_photos(capture: Capture, change: Callable[[int, torch.Tensor], None]) -> Capture:
    photos = Images.of([photo.clone() for photo in capture.photos])
    for view, photo in enumerate(photos):
        change(view, photo)
    return replace(capture, photos=photos)


def invert_mask(view: int, photo: torch.Tensor) -> None:
    photo[..., 3] = 255 - photo[..., 3]


def leave_out_mask(view: int, photo: torch.Tensor) -> None:
    if view % 2:
        photo[..., 3] = 255


def with_own_poses(capture: Capture, poses: torch.Tensor) -> Capture:
    return replace(capture, cameras=replace(capture.cameras, world_from_camera=poses))


def zoomed(capture: Capture, factor: float) -> Capture:
    scale = capture.cameras.intrinsics.new_tensor([factor, factor, 1.0, 1.0])
    return replace(capture, cameras=replace(capture.cameras, intrinsics=capture.cameras.intrinsics * scale))


def with_photos_of(capture: Capture, other: Callable[[int], int]) -> Capture:
    """Every sixth view gets the photo of another one."""
    views = [other(view) % len(capture) if view % 6 == 1 else view for view in range(len(capture))]
    return replace(capture, photos=Images.of([capture.photos[view] for view in views]))


def with_copies(capture: Capture) -> Capture:
    return with_photos_of(capture, lambda view: (view + len(capture) // 2) // 6 * 6)


def with_swaps(capture: Capture) -> Capture:
    return with_photos_of(capture, lambda view: (view + 6) if view % 12 == 1 else (view - 6))


REAL_DAMAGES: dict[str, tuple[Callable[[Capture], Capture], str]] = {
    "shuffled poses": (
        lambda it: with_own_poses(it, it.cameras.world_from_camera[torch.randperm(len(it), generator=torch.Generator().manual_seed(1))]),
        "poses",
    ),
    "flipped axes": (
        lambda it: with_own_poses(it, it.cameras.world_from_camera @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))),
        "camera axes",
    ),
    "long focal": (lambda it: zoomed(it, 1.5), "focal length"),
    "short focal": (lambda it: zoomed(it, 0.6), "focal length"),
    "copies": (with_copies, "duplicates"),
    "swaps": (with_swaps, "poses"),
    "inverted masks": (lambda it: with_all_photos(it, invert_mask), "inverted masks"),
    "half the masks": (lambda it: with_all_photos(it, leave_out_mask), "missing masks"),
}


@pytest.mark.data
@pytest.mark.slow
def test_a_focal_length_a_quarter_too_short_is_found_where_few_details_match() -> None:
    report = quick_check(zoomed(load_capture(real_capture("ethiopian_head_384")), 0.75))
    assert (report.findings[0].severity, report.findings[0].cause) == ("broken", "focal length"), report.findings


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("damage", REAL_DAMAGES)
@pytest.mark.parametrize("name", REAL)
def test_damaged_real_captures_are_broken_for_the_right_reason(name: str, damage: str) -> None:
    capture = load_capture(real_capture(name))
    if "masks" in damage and not capture.has_masks:
        pytest.skip("a capture without masks")
    change, cause = REAL_DAMAGES[damage]
    broken = change(capture)
    for report in (check_capture(broken), quick_check(broken)):
        assert (report.findings[0].severity, report.findings[0].cause) == ("broken", cause), report.findings

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from numpy import ndarray

import unrender.runs.outputs
from tiny_recipe import TINY, TinyConfig, TinyScene, tiny_capture
from unrender.captures.capture import CaptureError, Split
from unrender.captures.images import Images
from unrender.color import srgb_from_linear
from unrender.files.video import write_video
from unrender.runs.directory import RunDirectory
from unrender.runs.display import Display
from unrender.runs.evaluation import evaluate, truth_of
from unrender.runs.figures import BLUE_TO_YELLOW, Curve, color_map, data_uri, error_picture, line_chart, mesh_picture, nearest_triangle
from unrender.runs.measures import Measure
from unrender.runs.outputs import file_stem, showing_path, within_budget, write_outputs
from unrender.runs.session import Job, fit_into

CPU = torch.device("cpu")
CHAMFER = Measure("Chamfer", 0.25, "% of diagonal", digits=3)
RED = torch.tensor([0.6, 0.07, 0.03])
"""Linear light of the octahedron in the photos."""


def true_scene() -> TinyScene:
    scene = TinyScene()
    with torch.no_grad():
        scene.color.copy_(RED)
    return scene


class Page(HTMLParser):
    """Checks that tags close in order, and gathers addresses and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "line"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(autouse=True)
def short_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unrender.runs.outputs, "VIDEO_FRAMES", 4)


def run_tiny(path: Path, config: TinyConfig) -> RunDirectory:
    directory = RunDirectory(path)
    capture = tiny_capture()
    job = Job(TINY, "cpu", config, capture, "", {}, CPU, 0)
    result = fit_into(directory, job, display=Display.quiet())
    write_outputs(directory, result, capture, device=CPU, display=Display.quiet(), measure=lambda mesh: (CHAMFER,))
    return directory


def test_the_page_is_well_formed_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    run = run_tiny(tmp_path / "run", TinyConfig())
    text = run.report_file.read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.addresses and all(address.startswith("data:") for address in page.addresses)
    assert not re.search(r"https?://", text)
    words = " ".join(page.text)
    for expected in (
        "tiny · ball",
        "held out",
        "every 4th view",
        "photos/ball_4.png",
        "painted by hand",
        "0.250",
        "Held-out views",
        "watertight",
    ):
        assert expected in words
    stages = run.stages()
    assert "How it came along" in words and stages
    assert text.count("<figure>") == 3 * 5 + 2 + len(stages) + 1
    assert text.count("<video") == 1


def test_without_held_out_views_the_fitted_ones_are_shown_and_called_so(tmp_path: Path) -> None:
    capture = replace(tiny_capture(), split=Split((0, 3, 5), (), "nothing is held out"))
    directory = RunDirectory(tmp_path)
    result = fit_into(directory, Job(TINY, "cpu", TinyConfig(steps=4), capture, "", {}, CPU, 0), display=Display.quiet())
    record = write_outputs(directory, result, capture, device=CPU, display=Display.quiet())
    assert json.loads(directory.metrics_file.read_text())["split"] == "train"
    assert record.remarks == ["the numbers are of the fitted views, because none was held out (nothing is held out)"]
    assert "3 fitted views" in directory.report_file.read_text(encoding="utf-8")


def test_a_capture_without_views_to_fit_is_refused(tmp_path: Path) -> None:
    capture = replace(tiny_capture(), split=Split((), (0, 1), "all is held out"))
    with pytest.raises(CaptureError, match=r"ball: there are no views to fit \(all is held out\)"):
        fit_into(RunDirectory(tmp_path), Job(TINY, "cpu", TinyConfig(), capture, "", {}, CPU, 0), display=Display.quiet())


def test_an_empty_mesh_is_explained_and_everything_else_is_there(tmp_path: Path) -> None:
    directory = run_tiny(tmp_path / "run", TinyConfig(steps=4, empty=True))
    assert not directory.mesh_file("ply").exists()
    assert "there is no surface" in directory.read_record().remarks[0]
    assert "there is no surface" in directory.report_file.read_text(encoding="utf-8")
    assert directory.metrics_file.exists() and directory.video_file.stat().st_size > 1000


def test_names_are_escaped_on_the_page(tmp_path: Path) -> None:
    chart = line_chart([Curve("<b>", [0.0, 1.0], [1.0, 2.0]), Curve("c", [0.0], [1.0])], title="a & b", x_label="s")
    assert "&lt;b&gt;" in chart and "a &amp; b" in chart and "<b>" not in chart


def test_a_chart_leaves_out_what_a_logarithm_cannot_show() -> None:
    nan = float("nan")
    curve = Curve("loss", [0.0, 1.0, 2.0, 3.0], [1.0, 0.0, nan, 0.01])
    chart = line_chart([curve], title="t", x_label="s", logarithmic=True)
    points = re.search(r'points="([^"]*)"', chart)
    assert points is not None and len(points.group(1).split()) == 2
    assert "nothing was recorded" in line_chart([Curve("x", [0.0], [nan])], title="t", x_label="s")


def test_a_perfect_scene_scores_perfectly() -> None:
    capture = tiny_capture()
    evaluation = evaluate(true_scene(), capture)
    assert [score.view for score in evaluation.per_view] == [0, 4, 8]
    assert evaluation.ssim == pytest.approx(1.0, abs=1e-3)
    assert evaluation.psnr > 50.0


def test_the_score_of_a_split_is_the_mean_of_its_views() -> None:
    scene = TinyScene()
    evaluation = evaluate(scene, tiny_capture())
    by_hand = []
    for view in (0, 4, 8):
        truth = truth_of(tiny_capture(), view, CPU)
        with torch.no_grad():
            picture = scene.render_view(tiny_capture().cameras, view).srgb
        by_hand.append(-10 * torch.log10(((picture - truth) ** 2).mean()).item())
    assert evaluation.psnr == pytest.approx(np.mean(by_hand), abs=1e-4)


def test_inside_the_mask_a_flat_error_is_its_own_psnr() -> None:
    evaluation = evaluate(TinyScene(), tiny_capture())
    photo, rendering = (srgb_from_linear(RED) * 255).round() / 255, srgb_from_linear(torch.tensor(0.3))
    assert evaluation.psnr_masked == pytest.approx(-10 * torch.log10(((photo - rendering) ** 2).mean()).item(), abs=1e-3)


def test_ignored_pixels_count_in_no_number() -> None:
    capture = tiny_capture()
    capture = replace(capture, ignored=Images.of([capture.mask(view) > 127 for view in range(len(capture))]))
    evaluation = evaluate(TinyScene(), capture)
    assert evaluation == evaluate(true_scene(), capture)
    assert evaluation.psnr > 140 and evaluation.psnr_masked is None
    assert evaluation.ssim == pytest.approx(1.0, abs=1e-9)


def test_a_split_without_views_is_refused() -> None:
    capture = replace(tiny_capture(), split=Split((0, 1), (), "nothing is held out"))
    with pytest.raises(ValueError, match=r"ball: there are no test views to evaluate \(nothing is held out\)"):
        evaluate(true_scene(), capture)


def test_the_ends_of_a_color_map_take_what_lies_beyond() -> None:
    picture = color_map(np.array([[-5.0, 0.0, 1.0, 7.0, float("nan")]]), BLUE_TO_YELLOW)
    low, high = BLUE_TO_YELLOW[0].tolist(), BLUE_TO_YELLOW[-1].tolist()
    assert picture[0].tolist() == [low, low, high, high, low]


def test_no_error_is_black() -> None:
    image = torch.rand(4, 5, 3, generator=torch.Generator().manual_seed(0))
    assert np.unique(error_picture(image, image).reshape(-1, 3), axis=0).tolist() == [[0, 0, 4]]


def random_triangles(count: int, size: int) -> ndarray:
    corners = np.random.default_rng(0).random((count, 3, 3)) * size
    corners[: count // 2, 1:] = corners[: count // 2, :1] + (corners[: count // 2, 1:] - size / 2) * 0.1
    return corners


def test_the_nearest_triangle_is_what_a_ray_through_the_pixel_meets_first() -> None:
    size = 32
    corners = random_triangles(40, size)
    y, x = np.mgrid[0:size, 0:size] + 0.5
    best, depth = np.full((size, size), -1), np.full((size, size), np.inf)
    for k, (a, b, c) in enumerate(corners):
        basis = np.linalg.inv(np.array([[a[0], b[0], c[0]], [a[1], b[1], c[1]], [1.0, 1.0, 1.0]]))
        weights = np.einsum("ij,jhw->ihw", basis, np.stack([x, y, np.ones_like(x)]))
        z = np.tensordot(np.array([a[2], b[2], c[2]]), weights, axes=1)
        nearer = (weights >= 0).all(axis=0) & (z < depth)
        best[nearer], depth[nearer] = k, z[nearer]
    assert (nearest_triangle(corners, size) == best).all()
    assert (best >= 0).mean() > 0.5


def test_a_mesh_seen_from_inside_out_is_drawn_bluish() -> None:
    mesh = true_scene().mesh()
    right, wrong = mesh_picture(mesh, 30.0, 20.0, size=64), mesh_picture(replace(mesh, faces=mesh.faces.flip(1)), 30.0, 20.0, size=64)
    covered = (right != 255).any(axis=-1)
    assert (covered == (wrong != 255).any(axis=-1)).all() and covered.mean() > 0.2
    assert (right[covered][:, 0] >= right[covered][:, 2]).all()
    assert (wrong[covered][:, 0] < wrong[covered][:, 2]).all()


def test_pictures_are_made_smaller_never_larger() -> None:
    small, large = np.zeros((10, 10, 3), np.uint8), np.random.default_rng(0).integers(0, 255, (800, 400, 3), np.uint8)
    assert data_uri(small).startswith("data:image/jpeg;base64,")
    assert len(data_uri(large)) < len(data_uri(large, largest_side=800)) / 2


@pytest.mark.parametrize(("height", "width"), [(24, 32), (25, 33)])
def test_a_video_holds_the_frames_it_was_given(tmp_path: Path, height: int, width: int) -> None:
    file = tmp_path / "v.mp4"
    frames = [torch.full((height, width, 3), value, dtype=torch.uint8) for value in (40, 120, 200)]
    assert write_video(file, iter(frames), fps=10) == 3
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(file), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    read = np.frombuffer(raw, np.uint8).reshape(3, height + height % 2, width + width % 2, 3)
    assert np.abs(read.astype(float).mean(axis=(1, 2, 3)) - [40, 120, 200]).max() < 4


def test_a_video_without_frames_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / "v.mp4", iter([]))
    assert list(tmp_path.iterdir()) == []


def test_the_video_path_keeps_to_its_budget() -> None:
    capture = tiny_capture()
    path = showing_path(capture, 72)
    assert len(path) == 72
    unchanged = within_budget(path, 1e-9, 10.0)
    assert len(unchanged) == 72 and unchanged.width == path.width
    shorter = within_budget(path, 20.0 / (36 * 24 * 24), 10.0)
    assert len(shorter) == 36 and (shorter.width, shorter.height) == (24, 24)


def test_views_whose_names_look_alike_get_files_of_their_own() -> None:
    assert file_stem(1, "a/b.png") != file_stem(2, "a b.jpg")

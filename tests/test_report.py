from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from numpy import ndarray

import unrender.runs.outputs
from tiny_recipe import TinyConfig, TinyScene, tiny_capture, tiny_job
from unrender.captures.capture import CaptureError, Split
from unrender.captures.images import Images
from unrender.color import srgb_from_linear
from unrender.files.video import write_video
from unrender.geometry.mesh import Mesh
from unrender.recipes.fitting import Progress
from unrender.render.asset import Asset, PbrMaterial
from unrender.runs.camera_paths import showing_path, within_budget
from unrender.runs.charts import Curve, Mark, line_chart
from unrender.runs.directory import HistoryLine, RunDirectory, RunRecord
from unrender.runs.display import Display, Rate, status_line
from unrender.runs.evaluation import evaluate, truth_of
from unrender.runs.figures import BLUE_TO_YELLOW, color_map, color_source, data_uri, error_picture, mesh_picture
from unrender.runs.measures import Measure
from unrender.runs.output_words import file_stem
from unrender.runs.outputs import write_outputs
from unrender.runs.report import Report, build_report
from unrender.runs.session import fit_into
from unrender.shading.materials import VertexColor

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
    job = tiny_job(config, capture)
    result = fit_into(directory, job, display=Display.quiet())
    write_outputs(directory, result, capture, device=CPU, display=Display.quiet(), measure=lambda mesh: (CHAMFER,))
    return directory


def test_the_page_is_well_formed_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    run = run_tiny(tmp_path / "run", TinyConfig())
    text = run.report_file.read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.open == []
    files = {address for address in page.addresses if not address.startswith("data:")}
    assert {"mesh.glb", "mesh.ply", "viewer.html", "metrics.json", "run.json", "history.jsonl", "renders", "video.mp4"} == files
    assert all((run.path / file).exists() for file in files)
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
    assert "Progress" in words and stages
    assert "finished after 40 steps" in words and "of the budget" not in words
    assert "Counts of a step" in words and "Chamfer, % of diagonal" in words
    assert text.count("<figure>") == 3 * 5 + 4 + len(stages) + 1
    assert text.count("<video") == 1


def test_without_held_out_views_the_fitted_ones_are_shown_and_called_so(tmp_path: Path) -> None:
    capture = replace(tiny_capture(), split=Split((0, 3, 5), (), "nothing is held out"))
    directory = RunDirectory(tmp_path)
    result = fit_into(directory, tiny_job(TinyConfig(steps=4), capture), display=Display.quiet())
    record = write_outputs(directory, result, capture, device=CPU, display=Display.quiet())
    assert json.loads(directory.metrics_file.read_text())["split"] == "train"
    assert record.remarks == ["the numbers are of the fitted views, because none was held out (nothing is held out)"]
    assert "3 fitted views" in directory.report_file.read_text(encoding="utf-8")


def test_a_capture_without_views_to_fit_is_refused(tmp_path: Path) -> None:
    capture = replace(tiny_capture(), split=Split((), (0, 1), "all is held out"))
    with pytest.raises(CaptureError, match=r"ball: there are no views to fit \(all is held out\)"):
        fit_into(RunDirectory(tmp_path), tiny_job(TinyConfig(), capture), display=Display.quiet())


def test_an_empty_mesh_is_explained_and_everything_else_is_there(tmp_path: Path) -> None:
    directory = run_tiny(tmp_path / "run", TinyConfig(steps=4, empty=True))
    assert not directory.mesh_file("ply").exists()
    assert "there is no surface" in directory.read_record().remarks[0]
    assert "there is no surface" in directory.report_file.read_text(encoding="utf-8")
    assert directory.metrics_file.exists() and directory.video_file.stat().st_size > 1000


def record_of(**changes: Any) -> RunRecord:
    """Return the record of a run of the tiny recipe."""
    return replace(tiny_job().record(), **changes)


def line(step: int, phase: str = "", **losses: float) -> HistoryLine:
    return HistoryLine(step, step / 100, 2.0 * step, 20.0, {"samples": 640}, losses or {"rgb": 0.1}, phase)


def text_of(record: RunRecord, *history: HistoryLine) -> str:
    page = Page()
    page.feed(build_report(Report(record, None, None, (), history, None, None, None)))
    assert page.open == []
    return " ".join(page.text)


def test_a_page_without_scores_pictures_or_mesh_says_what_failed() -> None:
    words = text_of(record_of(outcome="finished", steps=100, remarks=["the mesh could not be written: <disk> full"]), line(100))
    assert "the mesh could not be written: <disk> full." in words
    assert "PSNR, dB" not in words and "Surface" not in words and "views" in words


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        ("finished", "finished after 40 steps ·"),
        ("time budget reached", "time budget reached after 40 steps ·"),
        ("diverged", "diverged after 40 steps, 40% of the budget ·"),
        (None, "not finished after 40 steps, 40% of the budget ·"),
    ],
)
def test_the_page_says_how_far_the_fit_came(outcome: str | None, said: str) -> None:
    assert said in text_of(record_of(outcome=outcome, steps=0 if outcome is None else 40, planned_steps=None), line(20), line(40))


def test_the_page_says_how_many_steps_were_planned() -> None:
    cut_short = record_of(outcome="time budget reached", steps=40, planned_steps=1500)
    assert "time budget reached after 40 of 1,500 steps ·" in text_of(cut_short, line(40))
    assert "finished after 40 steps ·" in text_of(record_of(outcome="finished", steps=40, planned_steps=40), line(40))


def test_phases_are_named_where_there_are_several() -> None:
    history = [line(10, "radiance field", rgb=0.5), line(20, "radiance field", rgb=0.4), line(30, "surface", rgb=0.3, eikonal=0.1)]
    words = text_of(record_of(outcome="finished", steps=30), *history)
    assert words.count("radiance field") == 3 + 1 and "phase: surface" in words
    assert "until 40.0 s, step 20" in words and "eikonal" in words
    assert "phase:" not in text_of(record_of(outcome="finished", steps=30), *(replace(line, phase="surface") for line in history))


def test_a_mark_stands_where_its_phase_begins() -> None:
    curve = Curve("loss", [0.0, 100.0], [1.0, 2.0])
    chart = line_chart([curve], title="t", x_label="s", marks=[Mark("a", 0.0), Mark("b", 50.0), Mark("beyond", 101.0)])
    found = [float(x) for x in re.findall(r'class="mark" x1="([0-9.]+)"', chart)]
    ends = re.search(r'points="([0-9.]+),[0-9.]+ ([0-9.]+),', chart)
    assert ends is not None
    assert found == pytest.approx([float(ends[1]), (float(ends[1]) + float(ends[2])) / 2], abs=0.1)
    assert "beyond" not in chart


def reported(step: int, counts: dict[str, int], phase: str = "") -> Progress:
    return Progress(step, step / 100, step / 50, 20.0, {}, counts, dict, TinyScene(), phase)


def test_a_line_names_the_phase_and_counts_samples_only_where_the_recipe_does() -> None:
    rate = Rate()
    for step in (10, 20):
        rate.update(reported(step, {"samples": 1000}, "radiance field"))
    assert (
        status_line(reported(20, {"samples": 1000}, "radiance field"), rate)
        == " 20 %  0:00 done, 0:01 to go  radiance field  step 20  PSNR 20.00 dB  50.0 k samples/s"
    )
    rate.update(reported(40, {}))
    assert status_line(reported(40, {}), rate).endswith("to go  step 40  PSNR 20.00 dB  50 steps/s")


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
    assert evaluation.psnr == float("inf") and evaluation.psnr_masked is None
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


def first_met(corners: ndarray, size: int) -> ndarray:
    """Return which triangle the ray through each pixel center meets first, -1 for none; corners are x, y in pixels and depth."""
    y, x = np.mgrid[0:size, 0:size] + 0.5
    best, depth = np.full((size, size), -1), np.full((size, size), np.inf)
    for k, (a, b, c) in enumerate(corners):
        basis = np.linalg.inv(np.array([[a[0], b[0], c[0]], [a[1], b[1], c[1]], [1.0, 1.0, 1.0]]))
        weights = np.einsum("ij,jhw->ihw", basis, np.stack([x, y, np.ones_like(x)]))
        z = np.tensordot(np.array([a[2], b[2], c[2]]), weights, axes=1)
        nearer = (weights >= 0).all(axis=0) & (z < depth)
        best[nearer], depth[nearer] = k, z[nearer]
    return best


def test_a_pixel_shows_the_triangle_that_its_ray_meets_first() -> None:
    size, count, random = 160, 12, np.random.default_rng(0)
    world = random.random((count, 3, 3)) * [1.0, 2.0, 2.0] + 7.0
    paint = random.integers(0, 256, (count, 3))
    colors = torch.from_numpy(paint).float().repeat_interleave(3, 0) / 255
    mesh = Mesh(torch.from_numpy(world.reshape(-1, 3)).float(), torch.arange(3 * count).view(-1, 3), colors)
    # The viewer stands at +X with +Y on the right and +Z up.
    seen = world[..., [1, 2, 0]] * [1.0, -1.0, -1.0]
    low, high = seen.min((0, 1)), seen.max((0, 1))
    seen = (seen - (low + high) / 2) * (0.92 * size / (high - low)[:2].max()) + [size / 2, size / 2, 0.0]
    # Borders of triangles are smoothed, and up to a pixel off: the camera is far away, but not infinitely far.
    fine = first_met(seen * [4.0, 4.0, 1.0], 4 * size).reshape(size, 4, size, 4).transpose(0, 2, 1, 3).reshape(size, size, 16)
    best = fine[..., 0]
    around = [np.roll(fine, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    flat = (np.concatenate(around, -1) == best[..., None]).all(-1)
    assert len(np.unique(best[flat])) > 9 and (flat & (best >= 0)).mean() > 0.2
    expected = np.concatenate([paint, [[255, 255, 255]]])[best]
    picture = mesh_picture(mesh, 0.0, 0.0, color=VertexColor(), size=size)
    assert np.abs(picture.astype(int) - expected)[flat].max() <= 1


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_a_mesh_fills_its_picture_at_any_scale_and_place(scale: float) -> None:
    mesh = true_scene().mesh()
    mesh = replace(mesh, vertices=scale * (mesh.vertices + 10.0))
    covered = (mesh_picture(mesh, 30.0, 20.0, size=100) != 255).any(axis=-1)
    rows, columns = np.nonzero(covered.any(1))[0], np.nonzero(covered.any(0))[0]
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == pytest.approx(92, abs=2)
    assert rows[0] + rows[-1] == pytest.approx(99, abs=2) and columns[0] + columns[-1] == pytest.approx(99, abs=2)


def test_a_texture_is_painted_on_the_surface_and_goes_before_vertex_colors() -> None:
    mesh = true_scene().mesh()
    corner = torch.zeros(1, 2), torch.zeros_like(mesh.faces)
    textured = replace(mesh, uvs=corner[0] + 0.25, uv_faces=corner[1])
    texels = torch.tensor([[[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]])
    source = color_source(Asset(textured, PbrMaterial(base_color=texels)))
    assert mesh_picture(textured, 30.0, 20.0, color=source, size=64)[32, 32].tolist() == [0, 255, 0]
    assert isinstance(color_source(Asset(mesh)), VertexColor)
    assert color_source(Asset(replace(mesh, colors=None))) is None


def test_an_empty_mesh_leaves_the_paper_white() -> None:
    assert (mesh_picture(Asset.empty().mesh, 30.0, 20.0, size=8) == 255).all()


def test_a_mesh_seen_from_inside_out_is_drawn_bluish() -> None:
    mesh = true_scene().mesh()
    right, wrong = mesh_picture(mesh, 30.0, 20.0, size=64), mesh_picture(replace(mesh, faces=mesh.faces.flip(1)), 30.0, 20.0, size=64)
    covered = (right != 255).any(axis=-1)
    assert (covered == (wrong != 255).any(axis=-1)).all() and covered.mean() > 0.2
    assert (right[covered][:, 0] >= right[covered][:, 2]).all()
    assert (wrong[covered][:, 0] <= wrong[covered][:, 2]).all()
    inside = covered & np.roll(covered, 1, 0) & np.roll(covered, -1, 0) & np.roll(covered, 1, 1) & np.roll(covered, -1, 1)
    assert inside.mean() > 0.2 and (wrong[inside][:, 0] < wrong[inside][:, 2]).all()


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
    unchanged = within_budget(path, 72 * 24 * 24)
    assert len(unchanged) == 72 and unchanged.width == path.width
    shorter = within_budget(path, 36 * 24 * 24)
    assert len(shorter) == 36 and (shorter.width, shorter.height) == (24, 24)


def test_views_whose_names_look_alike_get_files_of_their_own() -> None:
    assert file_stem(1, "a/b.png") != file_stem(2, "a b.jpg")

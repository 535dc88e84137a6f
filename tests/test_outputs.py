"""A fit leaves the same outputs by every way, whatever its outcome; one output that fails does not take the others with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import unrender.api
import unrender.cli.commands
import unrender.recipes.fitting
import unrender.recipes.table
import unrender.runs.inputs
import unrender.runs.outputs
import unrender.runs.report_writing
from tiny_recipe import TARGET, TINY, TinyConfig, TinyScene, tiny_capture, tiny_job
from unrender.cameras import Cameras
from unrender.captures.capture import Capture
from unrender.cli import main
from unrender.color import linear_from_srgb
from unrender.files.hdr import write_hdr
from unrender.recipes.clock import Clock
from unrender.recipes.fitting import FitResult, Fitting
from unrender.recipes.phases import Phase, PhaseStart, fit_in_phases
from unrender.render.asset import Asset, PbrMaterial
from unrender.render.rendering import Encoding, Rendering
from unrender.render.scene import Scene
from unrender.runs.directory import RunDirectory
from unrender.runs.display import Display
from unrender.runs.evaluation import evaluate, truth_of
from unrender.runs.figures import read_picture
from unrender.runs.opening import open_run
from unrender.runs.outputs import ENVIRONMENT_HEIGHT, evaluate_into
from unrender.runs.session import run_job
from unrender.shading.latlong import write_environment
from unrender.shading.lights import EnvironmentLight

fit_any: Any = unrender.api.fit
"""Takes recipes of the tests too, which the annotations of ``fit`` do not know."""

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tiny recipe stands for every recipe, in an empty folder."""
    monkeypatch.setattr(unrender.runs.outputs, "VIDEO_FRAMES", 4)
    monkeypatch.setattr(unrender.runs.inputs, "read_capture", tiny_capture)
    monkeypatch.setattr(unrender.cli.commands, "make_demo_capture", tiny_capture)
    monkeypatch.setattr(unrender.cli.commands, "compare_with_truth", lambda mesh: ())
    monkeypatch.delenv("UNRENDER_TRACEBACK", raising=False)
    monkeypatch.chdir(tmp_path)
    use(monkeypatch, TINY.fit)


def use(monkeypatch: pytest.MonkeyPatch, fit: Callable[..., FitResult]) -> None:
    """Let every recipe fit this way."""
    recipe = replace(TINY, fit=fit)
    table = {"tiny": recipe, "neus": replace(recipe, name="neus")}
    monkeypatch.setattr(unrender.recipes.table, "recipes", lambda: table)
    monkeypatch.setattr(unrender.api, "recipes", lambda: table)


@pytest.fixture
def nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every loss is NaN, and three such steps in a row are hopeless."""
    original = Fitting.take_step
    monkeypatch.setattr(unrender.recipes.fitting, "_HOPELESS", 3)
    monkeypatch.setattr(Fitting, "take_step", lambda self, losses, **rest: original(self, {"rgb": losses["rgb"] * float("nan")}, **rest))


FILES = {
    "run.json",
    "history.jsonl",
    "checkpoints",
    "metrics.json",
    "renders",
    "mesh.ply",
    "mesh.glb",
    "viewer.html",
    "video.mp4",
    "report.html",
}


def left_by(way: str) -> tuple[object, RunDirectory]:
    """What a way of fitting returns, and its folder."""
    if way == "fit":
        return main(["fit", "tiny", "ball", "--out", "run"]), RunDirectory(Path("run"))
    if way == "demo":
        return main(["demo", "--out", "run"]), RunDirectory(Path("run"))
    return fit_any("tiny", tiny_capture(), out="run").outcome, RunDirectory(Path("run"))


@pytest.mark.parametrize(("way", "answer"), [("fit", 1), ("demo", 1), ("python", "diverged")])
def test_a_diverged_fit_leaves_the_same_outputs_and_says_so_by_every_way(way: str, answer: object, nan: None) -> None:
    for _ in ("fits", "is read back"):
        told, directory = left_by(way)
        assert told == answer
        assert {path.name for path in directory.path.iterdir() if path.name != ".lock"} == FILES
        record = directory.read_record()
        assert (record.outcome, record.steps, record.skipped_steps) == ("diverged", 3, 3)
        assert any(sentence.startswith("the fit diverged") for sentence in record.remarks)
        assert "the fit diverged" in directory.report_file.read_text(encoding="utf-8")


def empty(*arguments: Any, **named: Any) -> FitResult:
    return replace(TINY.fit(*arguments, **named), outcome="empty")


@pytest.mark.parametrize(("way", "answer"), [("fit", 1), ("demo", 1), ("python", "empty")])
def test_an_empty_fit_says_so_by_every_way(way: str, answer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, empty)
    told, directory = left_by(way)
    assert told == answer and "the fit is empty" in directory.report_file.read_text(encoding="utf-8")


def interrupted(*arguments: Any, observer: Callable[..., None], **named: Any) -> FitResult:
    def observe(progress: Any) -> None:
        observer(progress)
        raise KeyboardInterrupt

    return TINY.fit(*arguments, observer=observe, **named)


@pytest.mark.parametrize(("way", "answer"), [("fit", 130), ("demo", 130), ("python", "interrupted")])
def test_an_interrupted_fit_leaves_no_outputs_by_every_way(way: str, answer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, interrupted)
    told, directory = left_by(way)
    assert told == answer and not directory.metrics_file.exists() and not directory.report_file.exists()


def full_disk(*arguments: object, **named: object) -> int:
    raise OSError("no space left on device")


@pytest.mark.parametrize(
    ("name", "writes", "file"),
    [("video", "write_video", "video.mp4"), ("metrics", "write_metrics", "metrics.json"), ("report", "build_report", "report.html")],
)
def test_an_output_that_fails_takes_no_other_with_it_and_is_made_up_for(
    name: str, writes: str, file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(unrender.runs.report_writing if name == "report" else unrender.runs.outputs, writes, full_disk)
        assert main(["fit", "tiny", "ball", "--out", "run"]) == 1
    sentence = f"{name} could not be written: no space left on device"
    directory = RunDirectory(Path("run"))
    assert f"note: {sentence}" in capsys.readouterr().out
    assert directory.read_record().failed == [name] and sentence in directory.read_record().remarks
    assert {path.name for path in directory.path.iterdir() if path.name != ".lock"} == FILES - {file}
    if name != "report":
        assert sentence in directory.report_file.read_text(encoding="utf-8")
    assert main(["fit", "tiny", "ball", "--out", "run"]) == 0
    assert directory.read_record().failed == [] and sentence not in directory.read_record().remarks
    assert {path.name for path in directory.path.iterdir() if path.name != ".lock"} == FILES
    assert sentence not in directory.report_file.read_text(encoding="utf-8")


def test_python_warns_of_an_output_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unrender.runs.outputs, "write_video", full_disk)
    with pytest.warns(RuntimeWarning, match="video could not be written: no space left on device"):
        assert fit_any("tiny", tiny_capture(), out="run").outcome == "finished"


def test_the_row_of_a_recipe_says_which_outputs_there_are(tmp_path: Path) -> None:
    job = tiny_job(recipe=replace(TINY, outputs=("mesh",)))
    run_job(job, RunDirectory(tmp_path / "run"), display=Display.quiet())
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"mesh.ply", "mesh.glb", "report.html"} <= names and not {"metrics.json", "video.mp4"} & names


class TruthScene(Scene):
    """Returns the photos themselves."""

    def __init__(self, encoding: Encoding) -> None:
        super().__init__()
        self.encoding: Encoding = encoding
        self.capture = tiny_capture()

    def render_view(self, cameras: Cameras, view: int) -> Rendering:
        truth = truth_of(self.capture, view, CPU)
        color = truth if self.encoding == "srgb" else linear_from_srgb(truth)
        nothing = torch.zeros(truth.shape[:2])
        return Rendering(color, nothing, nothing, torch.zeros_like(truth), self.encoding)


@pytest.mark.parametrize("encoding", ["srgb", "linear"])
def test_a_scene_that_returns_the_truth_scores_infinitely_well_in_either_encoding(encoding: Encoding) -> None:
    capture = tiny_capture()
    evaluation = evaluate(TruthScene(encoding), capture)
    assert evaluation.psnr == float("inf") and evaluation.psnr_masked == float("inf")
    assert evaluation.ssim == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("encoding", ["srgb", "linear"])
def test_pictures_of_the_truth_are_the_photos_in_either_encoding(encoding: Encoding, tmp_path: Path) -> None:
    directory, capture = RunDirectory(tmp_path), tiny_capture()
    evaluate_into(directory, TruthScene(encoding), capture, device=CPU)
    picture = read_picture(directory.renders / "004_photos_ball_4.png")
    assert np.array_equal(picture, (truth_of(capture, 4, CPU) * 255).round().to(torch.uint8).numpy())


def read_hdr(file: Path) -> Tensor:
    """A flat Radiance picture, by its definition: (m + 1/2) 2^(e - 136)."""
    header, pixels = file.read_bytes().split(b" +X ", 1)
    width, data = pixels.split(b"\n", 1)
    assert header.startswith(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y ")
    rgbe = torch.frombuffer(bytearray(data), dtype=torch.uint8).reshape(-1, int(width), 4).double()
    light = (rgbe[..., :3] + 0.5) * torch.exp2(rgbe[..., 3:] - 136)
    return torch.where(rgbe[..., 3:] == 0, 0.0, light)


def test_light_of_any_strength_survives_a_radiance_file(tmp_path: Path) -> None:
    light = (
        torch.rand(6, 9, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-4, 1.0, 3e4])[torch.arange(6) % 3][:, None, None]
    )
    light[0, 0] = 0.0
    write_hdr(tmp_path / "light.hdr", light)
    read = read_hdr(tmp_path / "light.hdr")
    assert bool(((read - light).abs() <= light.amax(-1, keepdim=True) / 256).all()) and not read[0, 0].any()
    with pytest.raises(ValueError, match="not finite"):
        write_hdr(tmp_path / "nan.hdr", light * float("nan"))
    assert not (tmp_path / "nan.hdr").exists()


@pytest.mark.parametrize(("face", "row", "column"), [(0, 0.5, 0.5), (2, 0.5, 0.25), (3, 0.5, 0.75), (4, 0.02, 0.3), (5, 0.98, 0.3)])
def test_an_environment_is_written_as_seen_from_inside(face: int, row: float, column: float, tmp_path: Path) -> None:
    """Faces +X, +Y, -Y, +Z, -Z lie in the middle, left, right, at the top, at the bottom."""
    texels = torch.zeros(6, 8, 8, 3)
    texels[face] = 2.0
    write_environment(tmp_path / "e.hdr", EnvironmentLight(texels), torch.eye(4, dtype=torch.float64))
    read = read_hdr(tmp_path / "e.hdr")
    assert read.shape == (ENVIRONMENT_HEIGHT, 2 * ENVIRONMENT_HEIGHT, 3)
    place = int(row * ENVIRONMENT_HEIGHT), int(column * 2 * ENVIRONMENT_HEIGHT)
    assert read[place].tolist() == pytest.approx([2.0] * 3, rel=1 / 128)


def test_an_environment_is_written_in_the_axes_of_the_source_frame(tmp_path: Path) -> None:
    """The world's +X is the +Y of the source."""
    texels = torch.zeros(6, 8, 8, 3)
    texels[0] = 2.0
    source_from_world = torch.eye(4, dtype=torch.float64)
    source_from_world[:3, :3] = 7.0 * torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    write_environment(tmp_path / "e.hdr", EnvironmentLight(texels), source_from_world)
    lit = read_hdr(tmp_path / "e.hdr")[ENVIRONMENT_HEIGHT // 2, :, 0] > 1.0
    assert bool(lit[ENVIRONMENT_HEIGHT // 2]) and not bool(lit[ENVIRONMENT_HEIGHT])


class LitScene(TinyScene):
    """The octahedron with a material and a light."""

    def asset(self, resolution: int = 256, *, largest_only: bool = True) -> Asset:
        mesh = super().asset(resolution).mesh
        uvs = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        mesh = replace(mesh, colors=None, uvs=uvs, uv_faces=torch.arange(3).expand(len(mesh.faces), 3).contiguous())
        material = PbrMaterial(base_color=torch.rand(4, 4, 3), roughness_metallic=torch.rand(4, 4, 2))
        return Asset(mesh, material, EnvironmentLight(torch.ones(6, 4, 4, 3)))


def lit(*arguments: Any, **named: Any) -> FitResult:
    return replace(TINY.fit(*arguments, **named), scene=LitScene())


def gltf(file: Path) -> dict[str, Any]:
    data = file.read_bytes()
    return json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])


def test_the_asset_is_written_with_its_material_and_its_light(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    run_job(tiny_job(recipe=replace(TINY, fit=lit)), directory, display=Display.quiet())
    material = gltf(directory.mesh_file("glb"))["materials"][0]["pbrMetallicRoughness"]
    assert {"baseColorTexture", "metallicRoughnessTexture"} <= set(material)
    assert read_hdr(directory.environment_file).mean().item() == pytest.approx(1.0, rel=1 / 128)
    before = list(files_of(directory))
    directory.clear(unrender.runs.outputs.WRITERS)
    assert directory.environment_file.name in before and list(files_of(directory)) == []


def files_of(directory: RunDirectory) -> Iterator[str]:
    return (path.name for path in directory.path.iterdir() if path.name != ".lock")


def two_phases(wrong: float) -> Callable[..., FitResult]:
    """Return a fit of the right color for most of the budget, then of one that is off by a number."""

    def run(capture: Capture, config: TinyConfig, *, resume: Any, observer: Any, **_: Any) -> FitResult:
        def phase(off: float) -> Callable[[PhaseStart], FitResult]:
            def fit_phase(start: PhaseStart) -> FitResult:
                scene = TinyScene()
                if start.previous is not None:
                    scene.load_state_dict(start.previous.scene.state_dict())
                fitting = Fitting(scene, torch.optim.SGD(scene.parameters(), lr=0.5), start.clock, start.observer, report_every=0.0)
                if start.resume is not None:
                    fitting.restore(start.resume)
                for _ in fitting:
                    error = ((TARGET - scene.color) ** 2).mean()
                    fitting.take_step({"rgb": ((TARGET + off - scene.color) ** 2).sum()}, error=error.detach())
                return fitting.result(capture.source_from_world)

            return fit_phase

        phases = (Phase("first", 0.75, phase(0.0)), Phase("second", 0.25, phase(wrong)))
        return fit_in_phases(phases, Clock(config.steps), resume=resume, observer=observer)

    return run


@pytest.mark.parametrize(("wrong", "is_kept"), [(0.2, True), (0.0, False)])
def test_the_scene_before_a_last_phase_that_is_worse_is_kept_as_a_run(wrong: float, is_kept: bool, tmp_path: Path) -> None:
    recipe = replace(TINY, fit=two_phases(wrong))
    directory = RunDirectory(tmp_path / "run")
    result = run_job(tiny_job(recipe=recipe), directory, display=Display.quiet())
    assert directory.before.path.exists() == is_kept
    assert sum("unrender eval" in remark for remark in result.record.remarks) == is_kept
    if not is_kept:
        return
    before = open_run(directory.before.path, {"tiny": recipe}, CPU)
    assert isinstance(before.scene, TinyScene) and isinstance(result.result.scene, TinyScene)
    assert before.record.steps == 30 and before.record.is_finished
    torch.testing.assert_close(before.scene.color, TARGET, atol=1e-4, rtol=0)
    assert float((result.result.scene.color.detach() - TARGET).min()) > 0.1
    run_job(tiny_job(recipe=TINY), directory, overwrite=True, display=Display.quiet())
    assert not directory.before.path.exists()

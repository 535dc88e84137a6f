"""Recipes are fitted to captures, pictures, meshes and finished runs, by the command line and by Python."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import unrender.api
import unrender.recipes.table
import unrender.runs.inputs
import unrender.runs.outputs
from tint_recipe import TINT, TintScene
from tiny_recipe import PRESETS, TINY, State, TinyConfig, TinyScene, load_scene, tiny_capture
from unrender.captures.capture import Capture
from unrender.captures.options import CaptureOptions
from unrender.cli import main
from unrender.color import linear_from_srgb
from unrender.geometry.mesh import Mesh, read_mesh
from unrender.recipes.clock import Clock
from unrender.recipes.fitting import FitResult, Fitting, Observer, Progress
from unrender.recipes.inputs import FittedRun, MeshInput, Picture
from unrender.recipes.kinds import MESH, PICTURE
from unrender.recipes.table import Recipe
from unrender.runs.checkpoints import find_checkpoint, same_tensors
from unrender.runs.directory import RunDirectory
from unrender.runs.inputs import read_mesh_input, read_picture, read_run

fit_any: Any = unrender.api.fit
"""Takes recipes of the tests too, which the annotations of ``fit`` do not know."""
Run = Callable[..., tuple[int, str, str]]
IDENTITY = torch.eye(4, dtype=torch.float64)


def fit_color(target: torch.Tensor, config: TinyConfig, resume: State | None, observer: Observer | None) -> FitResult:
    scene = TinyScene()
    optimizer = torch.optim.Adam(scene.parameters(), lr=config.learning_rate)
    fitting = Fitting(scene, optimizer, Clock(config.steps, config.max_seconds), observer, report_every=0.0)
    if resume is not None:
        fitting.restore(resume)
    for _ in fitting:
        fitting.take_step({"color": ((scene.color - target) ** 2).mean()})
    return fitting.result(IDENTITY)


def fit_picture(
    picture: Picture, config: TinyConfig, *, device: torch.device, seed: int, resume: State | None = None, observer: Observer | None = None
) -> FitResult:
    return fit_color(picture.linear.mean((0, 1)), config, resume, observer)


def fit_mesh(
    given: MeshInput, config: TinyConfig, *, device: torch.device, seed: int, resume: State | None = None, observer: Observer | None = None
) -> FitResult:
    return fit_color(given.mesh.vertices.abs().mean(0), config, resume, observer)


PAINT = Recipe("paint", "one color", PRESETS, fit_picture, load_scene, PICTURE)
SIZE = Recipe("size", "a size as a color", PRESETS, fit_mesh, load_scene, MESH)
TABLE: dict[str, Recipe[Any, Any]] = {"tiny": TINY, "tint": TINT, "paint": PAINT, "size": SIZE}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run a command in an empty folder: exit code, standard output, standard error."""
    monkeypatch.setattr(unrender.recipes.table, "recipes", lambda: TABLE)
    monkeypatch.setattr(unrender.api, "recipes", lambda: TABLE)
    monkeypatch.setattr(unrender.runs.inputs, "read_capture", tiny_capture)
    monkeypatch.setattr(unrender.runs.outputs, "VIDEO_FRAMES", 4)
    monkeypatch.delenv("UNRENDER_TRACEBACK", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ball").mkdir()

    def call(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def code_lines(path: Path, names: set[str]) -> int:
    """Lines of some definitions without docstrings and blank lines."""
    text = path.read_text(encoding="utf-8")
    lines: set[int] = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name in names:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            lines |= set(range(first, (node.end_lineno or first) + 1))
            for inner in ast.walk(node):
                if isinstance(inner, ast.Expr) and isinstance(inner.value, ast.Constant) and isinstance(inner.value.value, str):
                    lines -= set(range(inner.lineno, (inner.end_lineno or inner.lineno) + 1))
    return sum(bool(text.splitlines()[line - 1].strip()) for line in lines)


def test_a_whole_recipe_takes_forty_lines() -> None:
    here = Path(__file__).parent
    assert code_lines(here / "tiny_recipe.py", {"TinyConfig", "TinyScene", "fit", "load_scene"}) <= 40
    assert code_lines(here / "tint_recipe.py", {"TintConfig", "TintScene", "fit", "load_scene"}) <= 40
    text = (here / "tiny_recipe.py").read_text(encoding="utf-8")
    assert "RMSprop" in text and "Rays" not in text and "ops.encodings" not in text


def last_state(folder: str, recipe: str) -> dict[str, torch.Tensor]:
    checkpoint = find_checkpoint(Path(folder) / "checkpoints", recipe).checkpoint
    assert checkpoint is not None
    return {name: tensor[:1] if name == "clock" else tensor for name, tensor in checkpoint.tensors.items()}


def test_a_recipe_goes_on_from_a_finished_run_of_another(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("fit", "tiny", "ball", "--out", "first", "--preset", "quick")[0] == 0
    code, out, _ = run("fit", "tint", "first", "--out", "whole")
    assert code == 0 and "goes on from tiny, finished after 4 steps" in out
    record = RunDirectory(Path("whole")).read_record()
    assert (record.input.kind, record.input.name, record.input.path) == ("run", "first", str(Path("first").absolute()))
    assert record.capture is not None and record.capture.path == str(Path("ball").absolute())
    assert {"metrics.json", "mesh.glb", "video.mp4", "report.html"} <= {path.name for path in Path("whole").iterdir()}

    def stop(progress: Progress) -> None:
        if progress.step == 7:
            raise KeyboardInterrupt

    part = fit_any("tint", "first", out="parts", observer=stop)
    assert (part.outcome, part.steps) == ("interrupted", 7)
    code, out, _ = run("fit", "tint", "first", "--out", "parts")
    assert code == 0 and "resuming at step 7" in out
    assert same_tensors(last_state("whole", "tint"), last_state("parts", "tint"))
    result = fit_any("tint", "first", out="parts")
    assert result.outcome == "finished" and isinstance(result.scene, TintScene) and isinstance(result.scene.base, TinyScene)


def test_a_run_of_a_run_is_evaluated_rendered_and_exported(run: Run) -> None:
    run("fit", "tiny", "ball", "--out", "first", "--preset", "quick")
    run("fit", "tint", "first", "--out", "second")
    before = Path("second/metrics.json").read_text()
    shutil.rmtree("first")
    assert run("eval", "second")[0] == 0 and Path("second/metrics.json").read_text() == before
    assert run("render", "second", "--frames", 3)[0] == 0
    assert run("export", "second", "--format", "ply", "--out", "s.ply")[0] == 0
    assert torch.allclose(read_mesh("s.ply").vertices.amax(0), torch.tensor([51.0, 52.0, 53.0]), atol=1e-3)
    Path("ball").rename("elsewhere")
    assert "--capture DIR" in run("eval", "second")[2]
    assert run("eval", "second", "--capture", "elsewhere")[0] == 0


def test_photos_of_a_run_may_have_moved(run: Run) -> None:
    run("fit", "tiny", "ball", "--out", "first", "--preset", "quick")
    Path("ball").rename("elsewhere")
    code, _, err = run("fit", "tint", "first", "--out", "second")
    assert code == 1 and "--capture DIR" in err and not Path("second").exists()
    assert run("fit", "tint", "first", "--out", "second", "--capture", "elsewhere")[0] == 0
    assert run("eval", "second")[0] == 0


def test_a_run_that_is_not_finished_is_refused(run: Run) -> None:
    run("fit", "tiny", "ball", "--out", "first", "--preset", "quick")
    record = json.loads(Path("first/run.json").read_text())
    Path("first/run.json").write_text(json.dumps(record | {"outcome": None}))
    code, _, err = run("fit", "tint", "first", "--out", "second")
    assert code == 1 and "first is not finished; run the command that began it again first" in err


def test_a_fit_does_not_go_on_from_another_run_than_it_began_with(run: Run) -> None:
    run("fit", "tiny", "ball", "--out", "first", "--preset", "quick")
    run("fit", "tint", "first", "--out", "second")
    run("fit", "tiny", "ball", "--out", "first", "--preset", "quick", "--seed", 1, "--overwrite")
    code, _, err = run("fit", "tint", "first", "--out", "second")
    assert code == 1 and "the run it starts from is not the same" in err


def paint(path: str, color: tuple[int, ...]) -> str:
    Image.fromarray(np.full((4, 6, len(color)), color, np.uint8)).save(path)
    return path


def test_a_recipe_is_fitted_to_a_picture(run: Run) -> None:
    paint("red.png", (200, 40, 20))
    code, out, _ = run("fit", "paint", "red.png", "--steps", 200)
    assert code == 0 and "all of it on one page" in out
    directory = RunDirectory(Path("runs/paint-red"))
    record = directory.read_record()
    assert (record.input.kind, record.input.name, record.capture) == ("picture", "red", None)
    assert "picture" in directory.report_file.read_text(encoding="utf-8")
    assert directory.mesh_file("glb").exists() and not directory.metrics_file.exists() and not directory.video_file.exists()
    scene = unrender.api.open_run(directory.path).scene
    assert isinstance(scene, TinyScene)
    torch.testing.assert_close(scene.color.detach(), linear_from_srgb(torch.tensor([200.0, 40.0, 20.0]) / 255), atol=5e-3, rtol=0)
    for command in ("eval", "render"):
        code, _, err = run(command, directory.path)
        assert code == 1 and "a run of paint is fitted to a picture: there are no photos to compare with" in err
    assert run("export", directory.path, "--format", "obj")[0] == 0


def test_pictures_are_read_as_light_over_white(tmp_path: Path) -> None:
    picture = read_picture(Path(paint(str(tmp_path / "half.png"), (255, 0, 0, 128))))
    expected = linear_from_srgb(torch.tensor([1.0, 127 / 255, 127 / 255]))
    torch.testing.assert_close(picture.linear[0, 0], expected, atol=1e-6, rtol=0)
    assert picture.name == "half" and picture.notes == ("transparent parts of the picture are white",)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"the picture .*text\.png cannot be read"):
        read_picture(tmp_path / "text.png")
    with pytest.raises(ValueError, match="is not there; give a file"):
        read_picture(tmp_path / "absent.png")
    with pytest.raises(ValueError, match="is a folder; give a file"):
        read_mesh_input(tmp_path)


def test_a_recipe_is_fitted_to_a_mesh(run: Run) -> None:
    TinyScene().mesh().export("shape.ply")
    assert run("fit", "size", "shape.ply", "--preset", "quick")[0] == 0
    record = RunDirectory(Path("runs/size-shape")).read_record()
    assert (record.input.kind, record.input.path, record.capture) == ("mesh", str(Path("shape.ply").absolute()), None)
    again = fit_any("size", read_mesh_input(Path("shape.ply")), preset="quick")
    assert again.outcome == "finished"


@pytest.mark.parametrize(
    ("recipe", "metavar", "summary"),
    [
        ("tiny", "CAPTURE", "A folder of posed photos"),
        ("tint", "RUN", "A folder that `unrender fit` wrote"),
        ("paint", "PICTURE", "A picture file"),
        ("size", "MESH", "A mesh file"),
    ],
)
def test_the_help_of_a_recipe_says_what_it_takes(run: Run, recipe: str, metavar: str, summary: str) -> None:
    code, out, _ = run("fit", recipe, "--help")
    assert code == 0 and metavar in out.splitlines()[0] and summary in out
    assert ("--downscale" in out) == (recipe == "tiny") and ("--capture" in out) == (recipe == "tint")
    assert f"something is missing: {metavar}" in run("fit", recipe)[2]


def test_the_wrong_kind_of_input_is_refused(run: Run) -> None:
    with pytest.raises(ValueError, match="the recipe tiny takes a folder of posed photos as input, got Picture"):
        fit_any("tiny", Picture("p", torch.zeros(2, 2, 3), "f"))


def test_recipes_that_draw_triangles_get_photos_without_distortion(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    bent = tiny_capture()
    bent = replace(bent, cameras=replace(bent.cameras, distortion=torch.full_like(bent.cameras.distortion, 1e-3)))

    def read(path: Path | None = None, options: CaptureOptions | None = None) -> Capture:
        return bent

    seen: list[Capture] = []

    def fit(capture: Capture, *arguments: Any, **named: Any) -> FitResult:
        seen.append(capture)
        return TINY.fit(capture, *arguments, **named)

    monkeypatch.setattr(unrender.runs.inputs, "read_capture", read)
    monkeypatch.setitem(TABLE, "tiny", replace(TINY, fit=fit))
    fit_any("tiny", bent, preset="quick")
    monkeypatch.setitem(TABLE, "tiny", replace(TINY, fit=fit, undistorted=True))
    fit_any("tiny", bent, preset="quick")
    assert run("fit", "tiny", "ball", "--preset", "quick", "--out", "out")[0] == 0 and run("eval", "out")[0] == 0
    assert [capture.cameras.has_distortion for capture in seen] == [True, False, False]


def test_a_run_is_opened_with_its_capture(run: Run) -> None:
    run("fit", "tiny", "ball", "--out", "first", "--preset", "quick")
    reading = read_run(Path("first"), recipes=TABLE, device=torch.device("cpu"))
    assert isinstance(reading.input, FittedRun) and reading.input.recipe == "tiny" and len(reading.input.capture) == 12
    opened = unrender.api.open_run("first", device="cpu")
    assert isinstance(opened.scene, TinyScene) and opened.record.steps == 4 and opened.recipe is TINY


def test_single_settings_are_given_by_name_in_python(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []

    def fit(capture: Capture, config: TinyConfig, **named: Any) -> FitResult:
        rates.append(config.learning_rate)
        return TINY.fit(capture, config, **named)

    monkeypatch.setitem(TABLE, "tiny", replace(TINY, fit=fit))
    fit_any("tiny", tiny_capture(), steps=2, settings={"learning_rate": 0.25})
    fit_any("tiny", tiny_capture(), config=TinyConfig(steps=2, learning_rate=0.125))
    with pytest.raises(ValueError, match="learning_rat is not in TinyConfig"):
        fit_any("tiny", tiny_capture(), settings={"learning_rat": 0.25})
    with pytest.raises(ValueError, match="takes a preset or a config, got both"):
        fit_any("tiny", tiny_capture(), preset="quick", config=TinyConfig())
    with pytest.raises(ValueError, match="takes TinyConfig or the path of a run.json as config, got TintConfig"):
        fit_any("tiny", tiny_capture(), config=TINT.presets["cpu"])
    assert rates == [0.25, 0.125]


def test_meshes_keep_their_frame(tmp_path: Path) -> None:
    mesh = Mesh(torch.tensor([[1.0, 2, 3], [4, 2, 3], [1, 5, 3]]), torch.tensor([[0, 1, 2]]))
    mesh.export(tmp_path / "m.glb")
    torch.testing.assert_close(read_mesh_input(tmp_path / "m.glb").mesh.vertices, mesh.vertices)

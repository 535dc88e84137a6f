from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import unrender
import unrender.api
import unrender.cli.commands
import unrender.cli.program
import unrender.recipes.table
import unrender.runs.inputs
import unrender.runs.outputs
import unrender.runs.session
import unrender.runs.tensorboard
from tiny_recipe import PRESETS, TINY, TinyConfig, TinyScene, tiny_capture
from unrender.captures.capture import Capture
from unrender.captures.options import CaptureOptions
from unrender.cli import main
from unrender.cli.terminal import Ending
from unrender.devices import DeviceError, select_device
from unrender.doctor import examine
from unrender.geometry.mesh import Mesh, read_mesh
from unrender.recipes import neus
from unrender.recipes.fitting import FitResult, Observer, Progress
from unrender.runs.checkpoints import find_checkpoint, same_tensors
from unrender.runs.config_json import config_from_json, config_to_json
from unrender.runs.directory import RunDirectory

fit_any: Any = unrender.api.fit
"""Takes recipes of the tests too, which the annotations of ``fit`` do not know."""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs a command with the tiny recipe in an empty folder: exit code, standard output, standard error."""
    monkeypatch.setattr(unrender.recipes.table, "recipes", lambda: {"tiny": TINY, "other": replace(TINY, name="other")})
    monkeypatch.setattr(unrender.api, "recipes", lambda: {"tiny": TINY})
    monkeypatch.setattr(unrender.runs.inputs, "read_capture", tiny_capture)
    monkeypatch.setattr(unrender.runs.outputs, "VIDEO_FRAMES", 4)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNRENDER_TRACEBACK", raising=False)
    (tmp_path / "ball").mkdir()

    def call(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the quick preset; tests copy it."""
    folder = tmp_path_factory.mktemp("quick")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unrender.recipes.table, "recipes", lambda: {"tiny": TINY})
        patch.setattr(unrender.runs.inputs, "read_capture", tiny_capture)
        patch.setattr(unrender.runs.outputs, "VIDEO_FRAMES", 4)
        patch.chdir(folder)
        Path("ball").mkdir()
        assert main(["fit", "tiny", "ball", "--out", "here", "--preset", "quick"]) == 0
    return folder / "here"


@pytest.fixture
def here(run: Run, quick_run: Path) -> Path:
    """The folder ``here`` with a finished run."""
    shutil.copytree(quick_run, "here")
    record = json.loads(Path("here/run.json").read_text())
    record["capture"]["path"] = record["input"]["path"] = str(Path("ball").absolute())
    Path("here/run.json").write_text(json.dumps(record))
    return Path("here")


def one_sentence(err: str) -> str:
    assert err.count("\n") == 1 and err.startswith("unrender: error: ")
    return err.strip()


def snapshot(folder: Path, recipe: str = "tiny") -> dict[str, torch.Tensor]:
    """The newest checkpoint without the seconds it took."""
    checkpoint = find_checkpoint(folder / "checkpoints", recipe).checkpoint
    assert checkpoint is not None
    return {name: tensor[:1] if name == "clock" else tensor for name, tensor in checkpoint.tensors.items()}


def test_a_fit_leaves_everything_in_its_folder(run: Run) -> None:
    code, out, _ = run("fit", "tiny", "ball")
    assert code == 0
    folder = Path("runs/tiny-ball")
    names = {path.name for path in folder.iterdir() if path.name != ".lock"}
    assert names == {
        "run.json", "metrics.json", "history.jsonl", "checkpoints", "renders", "mesh.ply", "mesh.glb", "viewer.html", "video.mp4",
        "report.html",
    }  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics) == [
        "split",
        "views",
        "psnr",
        "ssim",
        "steps",
        "planned_steps",
        "seconds",
        "peak_memory_mb",
        "measures",
        "per_view",
    ]
    assert (metrics["split"], metrics["views"], metrics["steps"]) == ("test", 3, 40)
    assert [list(view) for view in metrics["per_view"]] == [["name", "psnr", "ssim"]] * 3
    record = json.loads((folder / "run.json").read_text())
    assert record["outcome"] == "finished" and record["preset"] == "cpu" and record["input"]["fingerprint"] == "ball-1"
    assert set(record["versions"]) == {"unrender", "torch", "warp", "numpy", "python"}
    assert len((folder / "history.jsonl").read_text().splitlines()) == 40
    assert len(list((folder / "renders").glob("[0-9]*.png"))) == 9
    assert all(path.name.startswith(("0", "progress_")) for path in (folder / "renders").iterdir())
    assert "every 4th view is held out" in out and "report.html" in out
    assert torch.allclose(read_mesh(folder / "mesh.ply").vertices.mean(0), torch.tensor([1.0, 2.0, 3.0]), atol=1e-4)


def test_the_same_command_on_a_finished_run_only_writes_what_is_missing(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (here / "video.mp4").stat().st_mtime_ns
    (here / "report.html").unlink()
    (here / "mesh.glb").unlink()
    monkeypatch.setattr(unrender.recipes.table, "recipes", lambda: {"tiny": replace(TINY, fit=pytest.fail)})
    code, out, _ = run("fit", "tiny", "ball", "--out", "here", "--preset", "quick")
    assert code == 0 and "is finished" in out
    assert (here / "report.html").exists() and (here / "mesh.glb").exists()
    assert (here / "video.mp4").stat().st_mtime_ns == before


class StopAt:
    """An observer that sends a signal once, at a step."""

    def __init__(self, step: int, number: signal.Signals) -> None:
        self.step = step
        self.number = number

    def __call__(self, progress: Progress) -> None:
        if progress.step == self.step:
            os.kill(os.getpid(), self.number)


def test_the_capture_is_checked_before_a_new_fit_and_not_before_one_that_goes_on(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []
    monkeypatch.setattr("unrender.cli.commands.say_summary", lambda capture, display: checked.append(len(capture)))
    same = ("fit", "tiny", "ball", "--out", here, "--preset", "quick")
    assert run(*same)[0] == 0 and checked == []
    assert run(*same, "--overwrite")[0] == 0 and checked == [12]


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_same_command_ends_bit_equal(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, exit_code: int
) -> None:
    run("fit", "tiny", "ball", "--out", "whole")
    stop = StopAt(14, number)

    def fit_and_stop(*arguments: Any, observer: Observer, **named: Any) -> FitResult:
        def watch(progress: Progress) -> None:
            stop(progress)
            observer(progress)

        return TINY.fit(*arguments, observer=watch, **named)

    monkeypatch.setattr(unrender.recipes.table, "recipes", lambda: {"tiny": replace(TINY, fit=fit_and_stop)})
    code, out, _ = run("fit", "tiny", "ball", "--out", "parts")
    assert code == exit_code and "the same command resumes it" in out
    assert json.loads(Path("parts/run.json").read_text())["outcome"] == "interrupted"
    assert not Path("parts/metrics.json").exists()
    stop.step = -1
    code, out, _ = run("fit", "tiny", "ball", "--out", "parts")
    assert code == 0 and "resuming at step 14" in out
    assert same_tensors(snapshot(Path("whole")), snapshot(Path("parts")))
    steps = [line.step for line in RunDirectory(Path("parts")).read_history()]
    assert steps == list(range(1, 41))


def test_a_fit_killed_between_checkpoints_ends_bit_equal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("fit", "tiny", "ball", "--out", "whole")
    monkeypatch.setattr(unrender.runs.session, "CHECKPOINT_EVERY", 0.0)

    class Killed(BaseException):
        pass

    def dies(progress: Progress) -> None:
        if progress.step == 22:
            raise Killed

    with pytest.raises(Killed):
        fit_any("tiny", tiny_capture(), out="parts", observer=dies)
    newest = sorted(Path("parts/checkpoints").glob("*.safetensors"))[-1]
    newest.write_bytes(newest.read_bytes()[:50])
    monkeypatch.setattr(unrender.runs.session, "CHECKPOINT_EVERY", 30.0)
    reports: list[int] = []
    result = fit_any("tiny", tiny_capture(), out="parts", observer=lambda progress: reports.append(progress.step))
    assert reports[0] == 21 and result.outcome == "finished"
    assert same_tensors(snapshot(Path("whole")), snapshot(Path("parts")))


def test_a_fit_killed_by_the_system_ends_bit_equal_with_all_its_outputs(run: Run, tmp_path: Path) -> None:
    run("fit", "tiny", "ball", "--out", "whole")
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); import unrender.recipes.table, unrender.runs.session\n"
        "import unrender.runs.outputs, unrender.cli.program, unrender.runs.inputs\n"
        "from dataclasses import replace; from tiny_recipe import TINY, tiny_capture\n"
        "unrender.runs.session.CHECKPOINT_EVERY = 0.0; unrender.runs.outputs.VIDEO_FRAMES = 4\n"
        "def fit(*a, observer, **k):\n"
        "    def slow(progress): observer(progress); time.sleep(float(sys.argv[2]))\n"
        "    return TINY.fit(*a, observer=slow, **k)\n"
        "unrender.recipes.table.recipes = lambda: {'tiny': replace(TINY, fit=fit)}; unrender.runs.inputs.read_capture = tiny_capture\n"
        "sys.exit(unrender.cli.program.main(['fit', 'tiny', 'ball', '--out', sys.argv[3]]))\n"
    )
    words = [sys.executable, "-c", script, str(Path(__file__).parent)]
    process = subprocess.Popen([*words, "0.1", "run"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("run/checkpoints/*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert json.loads((tmp_path / "run/run.json").read_text())["outcome"] is None
    again = subprocess.run([*words, "0", "run"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "resuming at step" in again.stdout
    assert same_tensors(snapshot(tmp_path / "run"), snapshot(tmp_path / "whole"))
    assert [line.step for line in RunDirectory(tmp_path / "run").read_history()] == list(range(1, 41))
    assert {"report.html", "video.mp4", "mesh.ply", "mesh.glb", "metrics.json"} <= {path.name for path in (tmp_path / "run").iterdir()}


def test_a_folder_with_another_run_is_refused_unless_told(run: Run) -> None:
    run("fit", "tiny", "ball", "--out", "here")
    code, _, err = run("fit", "tiny", "ball", "--out", "here", "--seed", 3, "--learning-rate", 0.1)
    assert code == 1
    assert one_sentence(err).endswith(
        "here holds another run (learning_rate is 0.05 there, 0.1 here; seed is 0 there, 3 here); choose another --out or pass --overwrite"
    )
    code, _, err = run("fit", "tiny", "ball", "--out", "here", "--downscale", 2)
    assert "downscale is 1 there, 2 here; the photos or poses are not the same" in one_sentence(err)
    assert run("fit", "other", "ball", "--out", "here")[0] == 1
    assert run("fit", "tiny", "ball", "--out", "here", "--seed", 3, "--overwrite")[0] == 0
    assert json.loads(Path("here/run.json").read_text())["seed"] == 3


def test_a_checkpoint_from_another_recipe_is_refused(run: Run, here: Path) -> None:
    sidecar = next((here / "checkpoints").glob("*.json"))
    sidecar.write_text(sidecar.read_text().replace('"tiny"', '"other"'))
    record = json.loads((here / "run.json").read_text()) | {"outcome": None}
    (here / "run.json").write_text(json.dumps(record))
    for words in (["eval", "here"], ["export", "here"], ["fit", "tiny", "ball", "--out", "here", "--preset", "quick"]):
        code, _, err = run(*words)
        assert code == 1 and "was written by the recipe 'other', not 'tiny'" in one_sentence(err)


def test_all_checkpoints_damaged_is_said(run: Run, here: Path) -> None:
    for file in (here / "checkpoints").glob("*.safetensors"):
        file.write_bytes(b"")
    code, _, err = run("export", "here")
    assert code == 1 and "has no checkpoint that can be read" in one_sentence(err) and "cut off or altered" in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["fti", "tiny", "ball"], "there is no command 'fti'; did you mean 'fit'?"),
        (["fit", "tinny", "ball"], "there is no recipe 'tinny'; did you mean 'tiny'?"),
        (["fit", "ball", "tiny"], "the recipe comes first: unrender fit tiny CAPTURE"),
        (["fit", "tiny", "ball", "--stpes", "3"], "`unrender fit tiny` has no option --stpes; did you mean --steps?"),
        (["fit", "tiny", "ball", "--preset", "quik"], "the recipe tiny has no preset 'quik'; did you mean 'quick'?"),
        (["fit", "tiny", "ball", "--steps", "many"], "--steps is 'many'; it must be an integer (see `unrender fit tiny --help`)"),
        (["fit", "tiny", "ball", "--steps", "0"], "steps is 0; a fit needs at least 1"),
        (["fit", "tiny"], "something is missing: CAPTURE"),
        (["fit", "tiny", "ball", "again"], "`unrender fit tiny` does not understand 'again'"),
        (["fit", "tiny", "ball", "--device", "cdua"], "there is no device 'cdua'; did you mean cuda?"),
        (["render", "run", "--path", "orbt"], "--path is 'orbt'; did you mean 'orbit'?"),
        (["export", "run", "--fromat", "ply"], "`unrender export` has no option --fromat; did you mean --format?"),
    ],
)
def test_a_wrong_command_line_is_one_sentence_with_a_suggestion(run: Run, words: list[str], sentence: str) -> None:
    code, out, err = run(*words)
    assert code == 2 and out == ""
    assert sentence in one_sentence(err)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_without_cuda_says_what_is_installed_and_what_to_do(run: Run) -> None:
    code, _, err = run("fit", "tiny", "ball", "--device", "cuda")
    assert code == 2
    sentence = one_sentence(err)
    assert f"PyTorch {torch.__version__}" in sentence and "--device cpu" in sentence
    assert not Path("runs").exists()


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert str(select_device(None)) == "cuda:0" and str(select_device("cuda:1")) == "cuda:1"
    with pytest.raises(DeviceError, match="this machine has 2 GPUs, numbered from 0"):
        select_device("cuda:2")


def test_an_unwritable_folder_is_found_before_any_photo_is_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unrender.runs.inputs, "read_capture", pytest.fail)
    Path("file").write_text("")
    code, _, err = run("fit", "tiny", "ball", "--out", "file/run")
    assert code == 1 and "choose another" in one_sentence(err)
    code, _, err = run("fit", "tiny", "ball", "--out", ".")
    assert code == 1 and "holds files but no run" in one_sentence(err)


def test_what_the_reader_finds_wrong_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, options: CaptureOptions) -> Capture:
        raise ValueError(f"{path}/a.png is cut off;\n  copy it again")

    monkeypatch.setattr(unrender.runs.inputs, "read_capture", broken)
    code, _, err = run("fit", "tiny", "ball")
    assert code == 1 and one_sentence(err) == "unrender: error: ball/a.png is cut off; copy it again"
    assert not Path("runs/tiny-ball").exists()
    monkeypatch.setenv("UNRENDER_TRACEBACK", "1")
    with pytest.raises(ValueError, match="cut off"):
        run("fit", "tiny", "ball")


def test_options_reach_the_reader_and_the_recipe(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[CaptureOptions] = []

    def read(path: Path, options: CaptureOptions) -> Capture:
        seen.append(options)
        return tiny_capture(path, options)

    monkeypatch.setattr(unrender.runs.inputs, "read_capture", read)
    words = ["--center", "-1", "0", "2.5", "--radius", "3", "--up", "0", "0", "1", "--test-every", "4", "--masks", "none"]
    words += ["--downscale", "2", "--normal-maps", "maps", "--normal-maps-frame", "world"]
    Path("maps").mkdir()
    assert run("fit", "tiny", "ball", *words, "--steps", "6", "--layers", "3", "4", "5")[0] == 0
    assert seen[0] == CaptureOptions(
        downscale=2,
        center=(-1.0, 0.0, 2.5),
        radius=3.0,
        up=(0.0, 0.0, 1.0),
        test_every=4,
        masks="none",
        normal_maps=Path("maps").absolute(),
        normal_maps_frame="world",
    )
    record = RunDirectory(Path("runs/tiny-ball")).read_record()
    assert record.steps == 6 and record.config["layers"] == [3, 4, 5]
    assert run("eval", "runs/tiny-ball")[0] == 0
    assert seen[1] == seen[0]
    Path("maps").rename("moved")
    assert run("eval", "runs/tiny-ball")[0] == 0
    assert seen[2] == replace(seen[0], normal_maps=None)


def test_steps_alone_replace_the_time_budget_of_a_preset(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = replace(TINY, presets={**PRESETS, "cpu": replace(PRESETS["cpu"], max_seconds=500.0)})
    monkeypatch.setattr(unrender.recipes.table, "recipes", lambda: {"tiny": timed})
    budgets: list[float | None] = []

    def note(recipe: object, preset: object, config: TinyConfig, *rest: object, **named: object) -> Ending:
        budgets.append(config.max_seconds)
        return Ending(0)

    monkeypatch.setattr(unrender.cli.commands, "fit_input", note)
    for words in (["--steps", "4"], ["--steps=4", "--max-seconds", "9"], ["--device", "cpu"]):
        assert run("fit", "tiny", "ball", *words)[0] == 0
    assert budgets == [None, 9.0, 500.0]


def test_eval_writes_the_metrics_of_either_split(run: Run, here: Path) -> None:
    before = Path("here/metrics.json").read_text()
    Path("here/metrics.json").unlink()
    assert run("eval", "here")[0] == 0
    assert Path("here/metrics.json").read_text() == before
    code, out, _ = run("eval", "here", "--split", "train")
    assert code == 0 and "train: PSNR" in out
    assert json.loads(Path("here/metrics_train.json").read_text())["views"] == 9


def test_protocols_of_benchmarks_are_written_beside_the_run(run: Run, here: Path) -> None:
    assert run("eval", "here", "--protocol", "nerf-synthetic")[0] == 0
    found = json.loads(Path("here/nerf-synthetic.json").read_text())
    assert found["psnr"] == pytest.approx(json.loads(Path("here/metrics.json").read_text())["psnr"]) and not found["official"]
    code, _, err = run("eval", "here", "--protocol", "dtu", "--truth", "nowhere")
    assert code == 1 and "rename the capture's folder" in one_sentence(err)


@pytest.mark.parametrize(("path", "frames"), [("orbit", 6), ("spiral", 6), ("interpolated", 6), ("test", 3)])
def test_render_writes_pictures_and_a_video(run: Run, here: Path, path: str, frames: int) -> None:
    assert run("render", "here", "--path", path, "--frames", 6)[0] == 0
    assert len(list(Path("here/renders", path).glob("*.png"))) == frames
    assert Path(f"here/{path}.mp4").stat().st_size > 500


@pytest.mark.parametrize("suffix", ["ply", "obj", "glb"])
def test_export_writes_either_frame(run: Run, here: Path, suffix: str) -> None:
    assert run("export", "here", "--format", suffix, "--frame", "normalized", "--out", f"n.{suffix}")[0] == 0
    assert run("export", "here", "--format", suffix, "--out", f"s.{suffix}")[0] == 0
    normalized, source = read_mesh(f"n.{suffix}").vertices, read_mesh(f"s.{suffix}").vertices
    assert torch.allclose(normalized.amax(0), torch.full((3,), 0.5), atol=1e-5)
    assert torch.allclose(source.amax(0), torch.tensor([51.0, 52.0, 53.0]), atol=1e-3)


def test_results_are_one_json_object_and_quiet_commands_print_nothing(run: Run, here: Path) -> None:
    metrics = json.loads((here / "metrics.json").read_text())
    commands: dict[str, list[object]] = {
        "fit": ["fit", "tiny", "ball", "--out", "here", "--preset", "quick"],
        "eval": ["eval", "here"],
        "render": ["render", "here", "--frames", 2, "--downscale", 2],
        "export": ["export", "here", "--format", "ply", "--out", "a.ply", "--viewer"],
    }
    found: dict[str, dict[str, Any]] = {}
    for name, words in commands.items():
        code, out, err = run(*words, "--json")
        found[name] = json.loads(out)
        assert code == 0 and (found[name]["command"], found[name]["exit_code"], found[name]["run"]) == (name, 0, "here") and err
        assert run(*words, "--quiet") == (0, "", "")
    assert (found["fit"]["outcome"], found["fit"]["steps"], found["fit"]["psnr"]) == ("finished", 4, metrics["psnr"])
    assert found["fit"]["files"]["report"] == "here/report.html" and found["fit"]["failed"] == []
    assert found["eval"]["psnr"] == metrics["psnr"] and found["eval"]["file"] == "here/metrics.json"
    assert found["render"]["count"] == 2 and Path(found["render"]["video"]).exists()
    assert (found["export"]["vertices"], found["export"]["faces"], found["export"]["file"]) == (6, 8, "a.ply")
    assert found["export"]["viewer"] == "a.html" and "8 triangles" in Path("a.html").read_text(encoding="utf-8")
    code, out, err = run("export", "ball", "--json")
    assert code == 1 and "holds no run" in json.loads(out)["error"] and "holds no run" in one_sentence(err)


def test_a_fit_takes_the_settings_of_another_run(run: Run, here: Path) -> None:
    assert run("fit", "tiny", "ball", "--config", "here/run.json", "--learning-rate", "0.5", "--out", "again", "--quiet")[0] == 0
    there, here_again = RunDirectory(Path("here")).read_record(), RunDirectory(Path("again")).read_record()
    assert here_again.config == {**there.config, "learning_rate": 0.5} and here_again.preset is None and here_again.steps == 4


def test_curves_are_written_for_tensorboard(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("fit", "tiny", "ball", "--preset", "quick", "--tensorboard")
    if not unrender.runs.tensorboard.is_installed():
        assert code == 0 and 'pip install "unrender[tensorboard]"' in out
    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            assert folder == str(Path("other/tensorboard"))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def flush(self) -> None:
            pass

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    monkeypatch.setattr(unrender.runs.tensorboard, "is_installed", lambda: True)
    assert run("fit", "tiny", "ball", "--preset", "quick", "--tensorboard", "--out", "other")[0] == 0
    history = RunDirectory(Path("other")).read_history()
    assert [(value, step) for name, value, step in written if name == "psnr"] == [(line.psnr, line.step) for line in history]
    assert {name for name, _, _ in written} == {"loss/rgb", "loss/prior", "count/samples", "seconds", "psnr"}


@pytest.mark.parametrize(
    ("words", "axis"), [(["--format", "obj"], 1), (["--format", "ply", "--axes", "z-up"], 2), (["--frame", "upright"], 1)]
)
def test_an_export_may_be_turned_upright(run: Run, here: Path, words: list[str], axis: int) -> None:
    """With -x up in the frame of the input, its largest x lies lowest in the file."""
    code, out, _ = run("export", "here", *words, "--up", "-x")
    assert code == 0 and f"turned until {'+Y' if axis == 1 else '+Z'} is up, which is (-1, 0, 0) in the frame of the input" in " ".join(
        out.split()
    )
    file = next(Path("here").glob(f"mesh.{words[1]}" if words[0] == "--format" else "mesh.glb"))
    source, turned = read_mesh(file), read_mesh(file, own_axes=True)
    assert torch.allclose(source.vertices.amax(0), torch.tensor([51.0, 52.0, 53.0]), atol=1e-3)
    assert torch.allclose(turned.vertices[:, axis], -source.vertices[:, 0], atol=1e-4)


def test_turning_and_keeping_coordinates_exclude_each_other(run: Run, here: Path) -> None:
    code, _, err = run("export", "here", "--frame", "source", "--up", "y")
    assert code == 1 and "--frame source keeps its coordinates; leave one of them out" in one_sentence(err)
    code, _, err = run("export", "here", "--up", "0", "0", "0")
    assert code == 1 and "--up is (0.0, 0.0, 0.0); give a direction of finite length above zero" in one_sentence(err)


def test_exporting_an_empty_scene_explains_why(run: Run) -> None:
    assert run("fit", "tiny", "ball", "--out", "here", "--preset", "empty")[0] == 0
    code, _, err = run("export", "here")
    assert code == 1 and "--center and --radius" in one_sentence(err)


def test_a_capture_that_moved_has_to_be_named(run: Run, here: Path) -> None:
    Path("ball").rename("elsewhere")
    code, _, err = run("eval", "here")
    assert code == 1 and "--capture DIR" in one_sentence(err)
    assert run("eval", "here", "--capture", "elsewhere")[0] == 0


def test_an_export_has_the_colors_of_the_photos_and_without_them_those_of_the_field(run: Run, here: Path) -> None:
    code, out, _ = run("export", "here", "--format", "ply", "--out", "photos.ply")
    assert code == 0 and "note:" not in out
    Path("ball").rename("elsewhere")
    code, out, _ = run("export", "here", "--format", "ply", "--out", "field.ply")
    assert code == 0 and "note: the colors are those of the fitted field" in out and "--capture DIR" in out
    assert run("export", "here", "--format", "ply", "--out", "moved.ply", "--capture", "elsewhere")[0] == 0
    photos, field, moved = (read_mesh(f"{name}.ply").colors for name in ("photos", "field", "moved"))
    assert photos is not None and field is not None and moved is not None
    red = (tiny_capture().photos[1].flatten(0, 1).float() / 255)[:, :3].amin(0)
    torch.testing.assert_close(photos, red.expand(6, 3), atol=0.02, rtol=0)
    torch.testing.assert_close(moved, photos)
    assert float((field - photos).abs().max()) > 0.03


def test_a_folder_that_is_no_run_is_said(run: Run) -> None:
    for command in ("eval", "render", "export"):
        code, _, err = run(command, "ball")
        assert code == 1 and "holds no run" in one_sentence(err)


@pytest.mark.parametrize("words", [["--help"], ["fit", "--help"], ["fit", "tiny", "--help"], ["render", "--help"], ["demo", "--help"]])
def test_help_is_printed_and_is_not_an_error(run: Run, words: list[str]) -> None:
    code, out, err = run(*words)
    assert code == 0 and err == "" and len(out.splitlines()) > 8
    assert "None" not in out.replace("{None}", "")[:400]


def test_help_of_a_recipe_documents_its_settings_with_the_values_of_the_preset(run: Run) -> None:
    _, out, _ = run("fit", "tiny", "--preset", "quick", "--help-all")
    text = " ".join(out.split())
    assert "--learning-rate" in text and "Of RMSprop" in text and "(default: 4)" in text


def test_python_fits_in_one_line_and_writes_nothing_unless_asked(run: Run) -> None:
    result = fit_any("tiny", tiny_capture(), steps=6, device="cpu")
    assert result.outcome == "finished" and result.steps == 6
    assert isinstance(result.scene, TinyScene)
    assert [path.name for path in Path(".").iterdir()] == ["ball"]
    with pytest.raises(ValueError, match="did you mean 'tiny'"):
        fit_any("tny", tiny_capture())


def test_python_and_the_command_line_agree(run: Run) -> None:
    run("fit", "tiny", "ball", "--out", "a", "--device", "cpu")
    fit_any("tiny", tiny_capture(), out="b", device="cpu")
    assert same_tensors(snapshot(Path("a")), snapshot(Path("b")))
    assert {path.name for path in Path("a").iterdir()} == {path.name for path in Path("b").iterdir()}


def test_importing_the_package_does_not_import_torch() -> None:
    script = "import sys, unrender, unrender.cli.program; sys.exit('torch' in sys.modules or 'warp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_doctor_runs_a_kernel_on_every_device(run: Run) -> None:
    checks = examine()
    assert any(check.good and check.finding.startswith("a kernel on cpu compiled and ran") for check in checks)
    assert all(check.advice for check in checks if not check.good)
    code, out, _ = run("doctor")
    assert code == (0 if all(check.good for check in checks) else 1)
    assert all(line.startswith(("OK  ", "!!  ", "    ")) for line in out.splitlines())


def test_a_broken_installation_is_a_finding_and_not_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise RuntimeError("no ffmpeg exe could be found")

    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_version", broken)
    bad = [check for check in examine() if not check.good]
    assert [check.finding for check in bad] == ["ffmpeg: RuntimeError: no ffmpeg exe could be found"]
    assert "imageio-ffmpeg" in bad[0].advice


def settings_of(config: object) -> list[str]:
    """The names of all settings of a configuration, however deep their bundle lies."""
    assert is_dataclass(config)
    values = [(field.name, getattr(config, field.name)) for field in fields(config)]
    return [name for key, value in values for name in (settings_of(value) if is_dataclass(value) else [key])]


@pytest.mark.parametrize("name", ["nerf", "neus"])
def test_every_preset_of_a_real_recipe_makes_a_command_line(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = unrender.recipes.table.recipes()[name]
    assert {"cpu", "gpu"} <= recipe.presets.keys()
    for preset, config in recipe.presets.items():
        assert main(["fit", name, "--preset", preset, "--help-all"]) == 0
        text = capfd.readouterr().out
        shown = set(re.findall(r"^ *--(?:\[no-\])?([a-z0-9-]+)", text, re.MULTILINE))
        assert {setting.replace("_", "-") for setting in settings_of(config)} <= shown
        assert config_from_json(type(config), json.loads(json.dumps(config_to_json(config)))) == config


@pytest.mark.parametrize(("preset", "field", "kind", "there", "absent"), [
    ("cpu", "hash", "HashField", "--levels", "--stages"), ("gpu", "grid", "GridField", "--stages", "--levels"),
    ("neuralangelo-dtu-wmask", "hash", "HashField", "--levels", "--stages"),
])  # fmt: skip
def test_the_field_of_neus_is_chosen_by_name(
    preset: str, field: str, kind: str, there: str, absent: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["neus", "--preset", preset, "--field", field]
    assert main(["fit", *words, "--help-all"]) == 0
    text = capfd.readouterr().out
    assert there in text and absent not in text and "{grid,hash}" in text and "The signed distance" in text
    seen: list[neus.NeusConfig] = []

    def note(recipe: object, preset: object, config: neus.NeusConfig, *rest: object, **named: object) -> Ending:
        seen.append(config)
        return Ending(0)

    monkeypatch.setattr(unrender.cli.commands, "fit_input", note)
    assert main(["fit", *words, "capture", "--learning-rate", "0.5"]) == 0
    config, before = seen[0], neus.PRESETS[preset]
    assert type(config.field).__name__ == kind and config.adam == replace(before.adam, learning_rate=0.5)
    assert type(before.field).__name__ != kind or config.field == before.field
    assert config_from_json(neus.NeusConfig, json.loads(json.dumps(config_to_json(config)))) == config
    recipe = unrender.recipes.table.NEUS
    assert recipe.configure(before, {"field": field, "learning_rate": 0.5}) == config


def test_a_field_that_is_not_there_is_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "neus", "capture", "--field", "gird"]) == 2
    assert "the recipe neus has no field 'gird'; did you mean 'grid'?" in one_sentence(capfd.readouterr().err)


@pytest.mark.parametrize(("words", "seconds"), [(["-m", "unrender", "--help"], 0.3), (["-c", "import unrender"], 0.1)])
def test_help_and_import_are_quick(words: list[str], seconds: float) -> None:
    """By processor time above that of Python alone, of the best of three: other programs may have the cores."""

    def cost(words: list[str]) -> float:
        before = os.times()
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(cost(words) for _ in range(3)) < seconds


def test_the_package_offers_its_names(capfd: pytest.CaptureFixture[str]) -> None:
    assert unrender.Capture is Capture and unrender.Mesh is Mesh and unrender.open_run is unrender.api.open_run
    assert main(["--version"]) == 0 and capfd.readouterr().out.strip() == f"unrender {unrender.__version__}"
    with pytest.raises(AttributeError, match="has no attribute 'fitt'"):
        unrender.fitt  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]

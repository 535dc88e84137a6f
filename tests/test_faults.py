"""No run is ever lost: wrong calls, full disks, signals, modes of PyTorch, kills; and a fit is as long as it should be."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import unrender.api
import unrender.files.atomic
import unrender.runs.outputs
import unrender.runs.session
from tiny_recipe import PRESETS, TINY, TinyConfig, tiny_capture, tiny_job
from unrender.files.atomic import remove_partials, replacing, write_bytes, write_json
from unrender.files.video import write_video
from unrender.recipes import neus
from unrender.recipes.fitting import Progress
from unrender.recipes.table import NERF, NEUS
from unrender.render.asset import Asset
from unrender.runs.checkpoints import find_checkpoint, same_tensors
from unrender.runs.config_json import config_from_json, config_to_json, read_config
from unrender.runs.directory import OutputFolderError, RunDirectory, default_folder
from unrender.runs.display import Display
from unrender.runs.output_words import LONGEST_STEM, file_stem
from unrender.runs.session import RunConflictError, run_job

fit_any: Any = unrender.api.fit
"""Takes recipes of the tests too, which the annotations of ``fit`` do not know."""

OUTPUTS = {"metrics.json", "mesh.ply", "mesh.glb", "viewer.html", "video.mp4", "report.html"}


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tiny recipe stands for every recipe, in an empty folder."""
    monkeypatch.setattr(unrender.api, "recipes", lambda: {"tiny": TINY})
    monkeypatch.setattr(unrender.runs.outputs, "VIDEO_FRAMES", 2)
    monkeypatch.setattr(unrender.runs.outputs, "SMALLEST_VIDEO_SIDE", 24)
    monkeypatch.chdir(tmp_path)


def fit(steps: int = 6, folder: str = "run", **named: Any) -> unrender.recipes.fitting.FitResult:
    return fit_any("tiny", tiny_capture(), steps=steps, out=folder, **named)


def files(folder: str = "run") -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


def final_state(folder: str = "run") -> dict[str, Tensor]:
    checkpoint = find_checkpoint(Path(folder) / "checkpoints", "tiny").checkpoint
    assert checkpoint is not None
    return {name: tensor[:1] if name == "clock" else tensor for name, tensor in checkpoint.tensors.items()}


class Killed(BaseException):
    """Stands for ``kill -9``: nothing catches it."""


def dies_at(step: int) -> Callable[[Progress], None]:
    def observe(progress: Progress) -> None:
        if progress.step == step:
            raise Killed

    return observe


@pytest.mark.parametrize("wrong", [{"max_seconds": 0.0}, {"max_seconds": float("nan")}, {"settings": {"learning_rate": float("inf")}}])
def test_a_call_that_was_wrong_writes_nothing(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="max_seconds is|learning_rate is inf; it must be a finite number"):
        fit_any("tiny", tiny_capture(), out="run", **wrong)
    assert not Path("run").exists()


def test_a_run_without_a_checkpoint_is_replaced_by_any_other() -> None:
    with pytest.raises(Killed):
        fit(observer=dies_at(3))
    assert Path("run/run.json").exists() and not Path("run/checkpoints").exists()
    assert fit(settings={"learning_rate": 0.1}, seed=3).outcome == "finished"
    assert RunDirectory(Path("run")).read_record().seed == 3


def test_an_unreadable_record_blocks_nothing_unless_there_are_results() -> None:
    Path("run").mkdir()
    Path("run/run.json").write_text("{")
    assert fit().outcome == "finished"
    Path("run/run.json").write_text('{"recipe": []}')
    with pytest.raises(ValueError, match=r"run\.json cannot be read"):
        fit()
    assert fit(overwrite=True).outcome == "finished"


def test_errors_name_the_arguments_of_python() -> None:
    fit()
    with pytest.raises(RunConflictError, match="choose another out or pass overwrite=True$") as caught:
        fit(seed=3)
    assert "--" not in str(caught.value)
    assert fit(seed=3, overwrite=True).outcome == "finished"


def test_a_larger_budget_continues_a_finished_fit_and_writes_its_outputs_again() -> None:
    fit(6)
    before = json.loads(Path("run/metrics.json").read_text())
    Path("run/orbit.mp4").write_bytes(b"of the shorter fit")
    steps: list[int] = []
    result = fit(15, observer=lambda progress: steps.append(progress.step))
    assert steps == list(range(7, 16)) and (result.outcome, result.steps) == ("finished", 15)
    assert [line.step for line in RunDirectory(Path("run")).read_history()] == list(range(1, 16))
    after = json.loads(Path("run/metrics.json").read_text())
    assert (before["steps"], after["steps"], after["planned_steps"]) == (6, 15, 15) and after["psnr"] != before["psnr"]
    assert files() >= OUTPUTS and not Path("run/orbit.mp4").exists()


def test_a_continued_fit_that_is_killed_ends_bit_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    fit(6, "whole")
    fit(15, "whole")
    monkeypatch.setattr(unrender.runs.session, "CHECKPOINT_EVERY", 0.0)
    with pytest.raises(Killed):
        fit(6, observer=dies_at(4))
    for end in (10, 13):
        with pytest.raises(Killed):
            fit(15, observer=dies_at(end))
    fit(15)
    assert RunDirectory(Path("whole")).read_record().steps == 15
    # The chain of budgets was 6 and 15 there, and 15 after step 3 here: the tiny recipe has no schedules.
    assert same_tensors(final_state(), final_state("whole"))


def test_a_budget_that_is_used_up_is_refused() -> None:
    fit(6)
    with pytest.raises(
        RunConflictError, match="after 6 steps and 0 seconds of training, which uses up a budget of 5 steps; give a larger one"
    ):
        fit(5)
    assert files() >= OUTPUTS
    assert fit(6).history == () and fit(6, max_seconds=1e9).history == ()


def test_a_fit_cut_short_says_how_far_it_came_and_goes_on() -> None:
    result = fit_any("tiny", tiny_capture(), max_seconds=1e-9, out="run")
    planned = PRESETS["cpu"].steps
    assert (result.outcome, result.steps, result.planned_steps) == ("time budget reached", 1, planned)
    record, metrics = RunDirectory(Path("run")).read_record(), json.loads(Path("run/metrics.json").read_text())
    assert (record.planned_steps, metrics["steps"], metrics["planned_steps"]) == (planned, 1, planned)
    assert f"cut short by the budget of 1e-09 s after 1 of about {planned} steps" in record.remarks[0]
    assert "cut short" in Path("run/report.html").read_text(encoding="utf-8")
    result = fit_any("tiny", tiny_capture(), out="run")
    assert (result.outcome, result.steps) == ("finished", planned)
    assert RunDirectory(Path("run")).read_record().remarks == []
    assert fit_any("tiny", tiny_capture(), max_seconds=1e-9).planned_steps == planned


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "default device": lambda: torch.device("meta"),
}


@contextmanager
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("mode", [*MODES, "default type"])
def test_a_fit_does_not_depend_on_the_modes_around_it(mode: str) -> None:
    capture = tiny_capture()
    fit(folder="plain")
    with ExitStack() as stack:
        stack.enter_context(double() if mode == "default type" else MODES[mode]())
        result = fit_any("tiny", capture, steps=6, out="run")
        dtype = torch.get_default_dtype()
    assert result.outcome == "finished" and files() >= OUTPUTS and dtype == (torch.float64 if mode == "default type" else torch.float32)
    assert same_tensors(final_state(), final_state("plain"))
    assert Path("run/mesh.ply").read_bytes() == Path("plain/mesh.ply").read_bytes()


def test_a_fit_runs_in_a_thread() -> None:
    done: list[str] = []
    thread = threading.Thread(target=lambda: done.append(fit().outcome))
    thread.start()
    thread.join(60)
    assert done == ["finished"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_the_same_call_ends_bit_equal(number: signal.Signals) -> None:
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, usual)  # under nohup it would be ignored
    try:
        result = fit(observer=lambda progress: os.kill(os.getpid(), number) if progress.step == 3 else None)
        assert (result.outcome, result.steps) == ("interrupted", 3) and signal.getsignal(number) is usual
    finally:
        signal.signal(number, before)
    fit()
    fit(folder="whole")
    assert same_tensors(final_state(), final_state("whole"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_a_second_ctrl_c_stops_at_once_and_an_ignored_signal_stays_ignored() -> None:
    def twice(progress: Progress) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert fit(folder="nohup", observer=lambda progress: os.kill(os.getpid(), signal.SIGHUP)).outcome == "finished"
    finally:
        signal.signal(signal.SIGHUP, before)
    assert fit(observer=twice).outcome == "interrupted"
    assert find_checkpoint(Path("run/checkpoints"), "tiny").checkpoint is not None


def test_an_observer_that_fails_costs_no_progress() -> None:
    def fails(progress: Progress) -> None:
        if progress.step == 4:
            raise KeyError("a user's mistake")

    with pytest.raises(KeyError):
        fit(observer=fails)
    steps: list[int] = []
    fit(observer=lambda progress: steps.append(progress.step))
    assert steps == [5, 6]


class FullDisk:
    """Lets the n-th of all flushes, renames and history writes fail; counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.count, self.number = 0, number
        for name in ("fsync", "replace"):
            monkeypatch.setattr(unrender.files.atomic.os, name, self.counted(getattr(os, name)))
        monkeypatch.setattr(RunDirectory, "append_history", self.counted(RunDirectory.append_history))

    def counted(self, action: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any, **named: Any) -> Any:
            self.count += 1
            if self.count == self.number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return action(*arguments, **named)

        return act


def fit_quietly(folder: str) -> unrender.runs.session.RunResult:
    return run_job(tiny_job(TinyConfig(steps=3)), RunDirectory(Path(folder)), display=Display.quiet())


def compare(folder: str) -> None:
    """The outputs of a run are those of the undisturbed one."""
    assert files(folder) == files("whole") and same_tensors(final_state(folder), final_state("whole"))
    for name in ("mesh.ply", "mesh.glb", "video.mp4"):
        assert Path(folder, name).read_bytes() == Path("whole", name).read_bytes()
    scores = [json.loads(Path(place, "metrics.json").read_text())["per_view"] for place in (folder, "whole")]
    assert scores[0] == scores[1]
    assert not [path for path in Path(folder).rglob("*") if "partial" in path.name]


@pytest.mark.parametrize("which", [0.02, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, pytest.param("every", marks=pytest.mark.slow)])
def test_a_disk_that_is_full_once_costs_one_sentence_and_the_next_call_makes_up_for_it(
    which: float | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        disk = FullDisk(patch, 0)
        fit_quietly("whole")
    numbers = range(1, disk.count + 1) if isinstance(which, str) else [max(1, round(which * disk.count))]
    for number in numbers:
        folder = f"run{number}"
        with monkeypatch.context() as patch:
            disk = FullDisk(patch, number)
            try:
                run = fit_quietly(folder)
            except OSError as error:
                assert "No space left" in str(error)
            else:
                assert run.failures or any("could not be written" in remark for remark in run.record.remarks)
            assert disk.count >= number
        assert fit_quietly(folder).failures == ()
        compare(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limits of processes")
@pytest.mark.parametrize("limit", [2_000, 80_000])
def test_a_limit_on_the_size_of_files_is_one_sentence_and_the_next_call_makes_up_for_it(limit: int, tmp_path: Path) -> None:
    """``ulimit -f``, as batch systems set it: a real refusal by the system, in the middle of a write."""
    script = (
        "import resource, sys; sys.path.insert(0, sys.argv[1]); import unrender.api, unrender.runs.outputs\n"
        "from tiny_recipe import TINY, tiny_capture\n"
        "unrender.api.recipes = lambda: {'tiny': TINY}; unrender.runs.outputs.VIDEO_FRAMES = 2\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))\n"
        "try: unrender.api.fit('tiny', tiny_capture(), steps=6, out='run')\n"
        "except (OSError, ValueError) as error: print(error)\n"
    )
    words = [sys.executable, "-c", script, str(Path(__file__).parent), str(limit)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert not [
        path for path in tmp_path.rglob("*") if path.is_file() and path.suffix in (".png", ".safetensors") and not path.stat().st_size
    ]
    fit()
    assert files() >= OUTPUTS


def test_a_fit_whose_end_cannot_be_saved_is_not_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(unrender.runs.session, "save_checkpoint", full_disk)
        with pytest.raises(
            OutputFolderError, match="step 3 could not be saved in .*No space left.* make room and run the same command again"
        ):
            fit_quietly("run")
    assert RunDirectory(Path("run")).read_record().outcome is None
    fit_quietly("whole")
    fit_quietly("run")
    compare("run")


def full_disk(*arguments: object, **named: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")])
def test_an_output_without_memory_says_so(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object, **named: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(unrender.runs.outputs, "evaluate_views", fails)
        run = fit_quietly("run")
    assert run.failures == (f"metrics could not be written: {unrender.runs.outputs.reason_of(MemoryError())}",)
    assert files() >= OUTPUTS - {"metrics.json"}
    fit_quietly("whole")
    assert fit_quietly("run").failures == ()
    compare("run")


def test_the_parts_of_an_output_fail_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Asset.export

    def export(self: Asset, path: Path, **named: Any) -> None:
        if path.suffix == ".ply":
            raise OSError("no PLY today")
        original(self, path, **named)

    with monkeypatch.context() as patch:
        patch.setattr(unrender.runs.outputs, "write_picture", full_disk)
        patch.setattr(Asset, "export", export)
        run = fit_quietly("run")
    assert [sentence.split(" could")[0] for sentence in run.failures] == ["metrics", "mesh"]
    assert Path("run/mesh.glb").exists() and Path("run/metrics.json").exists() and not Path("run/mesh.ply").exists()
    kept = Path("run/video.mp4").stat().st_mtime_ns
    fit_quietly("run")
    assert Path("run/video.mp4").stat().st_mtime_ns == kept and files() >= OUTPUTS


def test_files_that_exist_stay_as_they_are() -> None:
    fit_quietly("run")
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*.*") if path.name not in ("run.json", "report.html", ".lock")}
    Path("run/report.html").unlink()
    fit_quietly("run")
    after = {path: path.stat().st_mtime_ns for path in before}
    assert Path("run/report.html").exists() and {path for path in before if before[path] != after[path]} == set()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot lock a file that is renamed")
def test_what_a_killed_process_left_is_removed_and_what_a_running_one_writes_stays() -> None:
    script = (
        "import sys, time; from pathlib import Path; from unrender.files.atomic import replacing\n"
        "with replacing(Path(sys.argv[1])) as partial:\n"
        "    partial.write_bytes(b'half'); print(partial, flush=True); time.sleep(1000)\n"
    )
    words = [sys.executable, "-c", script, "run/video.mp4"]
    Path("run").mkdir()
    Path("run/.unrender-notes").write_text("mine")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, map(Path, sys.path)))}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        partial = Path(process.stdout.readline().strip())
        assert partial.suffix == ".mp4"
        remove_partials(Path("run"))
        assert partial.read_bytes() == b"half"
        process.kill()
    RunDirectory(Path("run")).prepare()
    assert files() == {".unrender-notes"}


def test_a_file_with_the_longest_possible_name_is_written(tmp_path: Path) -> None:
    for name in ("a" * 251 + ".png", "ü" * 125 + ".glb", "x." + "y" * 250):
        write_bytes(tmp_path / name, b"whole")
        assert (tmp_path / name).read_bytes() == b"whole"
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(OSError), replacing(tmp_path / "no" / "folder"):
        pass


def test_long_and_strange_names_become_file_names() -> None:
    stem = file_stem(3, "/".join(["a_rather_long_folder_name_of_a_photographer"] * 6) + "/photo_17.jpg")
    assert stem.startswith("003_") and stem.endswith("photo_17") and len(stem) <= LONGEST_STEM + 4
    assert file_stem(4, "../../写真\n\0.png").isprintable() and "/" not in file_stem(4, "../../写真.png")
    for name in ("b" * 255, "ü" * 127, "文" * 85):
        folder = default_folder("neus", Path(name))
        assert folder.parent == Path("runs") and len(os.fsencode(folder.name)) <= 105
        assert folder == default_folder("neus", Path(name)) != default_folder("neus", Path(name[:-1]))
    assert default_folder("nerf", Path("photos/..")).name == f"nerf-{Path.cwd().name}"


def test_a_name_that_is_no_text_survives_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_json(tmp_path / "a.json", {"name": name})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"name": name}
    capture = replace(tiny_capture(), name=name)
    run = run_job(tiny_job(TinyConfig(steps=3), capture), RunDirectory(Path("run")), display=Display.quiet())
    assert run.failures == () and files() >= OUTPUTS


def test_the_same_frames_give_the_same_video_and_an_encoder_that_fails_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [torch.randint(0, 255, (33, 47, 3), dtype=torch.uint8) for _ in range(5)]
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, frames)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    with pytest.raises(OSError, match=r"^c\.xyz: the video encoder failed \(.*\)$"):
        write_video(tmp_path / "c.xyz", frames)

    def broken() -> Iterator[Tensor]:
        yield frames[0]
        raise MemoryError

    with pytest.raises(MemoryError):
        write_video(tmp_path / "d.mp4", broken())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize("recipe", [NERF, NEUS])
def test_the_config_of_a_run_is_given_back(recipe: Any, tmp_path: Path) -> None:
    for name, config in recipe.presets.items():
        write_json(tmp_path / "run.json", {"recipe": recipe.name, "preset": name, "config": config_to_json(config)})
        for path in (tmp_path, tmp_path / "run.json"):
            reading = read_config(path, recipe)
            assert reading.config == config and reading.notes == ()


def test_a_config_of_another_version_is_read_with_notes(tmp_path: Path) -> None:
    values = config_to_json(neus.PRESETS["cpu"]) | {"gone": 3}
    values["field"]["older"] = 1
    del values["final_rate"]
    write_json(tmp_path / "run.json", {"recipe": "neus", "config": values})
    reading = read_config(tmp_path, NEUS)
    assert reading.config == neus.PRESETS["cpu"]
    assert [note.split(": ", 1)[1] for note in reading.notes] == [
        "config.gone is not a setting of this version; it is left out",
        "config.final_rate is missing; its default is used",
        "config.field.older is not a setting of this version; it is left out",
    ]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"field": {}}, r"field is \{\}; it must have the fields of one of GridField, HashField"),
        ({"steps": "many"}, 'steps is "many"; it must be an integer'),
        ({"steps": True}, "steps is true; it must be an integer"),
        ({"steps": 0}, "steps is 0; a fit needs at least 1"),
        ({"adam": []}, r"adam is \[\]; it must be the fields of AdamSettings"),
        ({"field": {"stages": [[0, 1, 2]]}}, "field.stages has 3 values; it must have 2"),
        ({"losses": {"loss": "l3"}}, "losses.loss is 'l3'; it must be one of l1, mse, smooth_l1"),
        ([], "holds no configuration|the content is"),
    ],
)
def test_a_config_edited_by_hand_is_one_sentence(values: Any, sentence: str, tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", values)
    with pytest.raises(ValueError, match=sentence):
        read_config(tmp_path / "config.json", NEUS)
    with pytest.raises(ValueError, match=sentence):
        config_from_json(NEUS.config_type, values)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize(("kills", "recipes"), [(5, ["tiny"]), pytest.param(200, [], marks=pytest.mark.slow)])
def test_kills_at_random_moments_change_no_result(kills: int, recipes: list[str], tmp_path: Path) -> None:
    campaign = Path(__file__).with_name("kill_campaign.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, map(Path, sys.path))), "OMP_WAIT_POLICY": "PASSIVE"}
    words = [sys.executable, str(campaign), str(tmp_path / "runs"), str(kills), "0", *recipes]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(tally["kills"] for tally in json.loads(done.stdout).values()) >= kills

"""What people get in Python: names, short representations, pictures in notebooks, progress, runs opened again."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import sys
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import unrender
import unrender.api
import unrender.runs.display
import unrender.runs.inputs
import unrender.runs.outputs
from tiny_recipe import TINY, TinyScene, tiny_capture
from unrender.captures.images import Images
from unrender.geometry.mesh import Mesh
from unrender.ops.raster import Raster
from unrender.printing import LONGEST, sheet, size_range
from unrender.recipes.fitting import FitResult, Progress
from unrender.render.rendering import Rendering
from unrender.runs.display import Display

fit: Any = unrender.api.fit


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let ``fit`` know the tiny recipe, in an empty folder."""
    monkeypatch.setattr(unrender.api, "recipes", lambda: {"tiny": TINY})
    monkeypatch.setattr(unrender.runs.inputs, "read_capture", tiny_capture)
    monkeypatch.setattr(unrender.runs.outputs, "VIDEO_FRAMES", 4)
    monkeypatch.chdir(tmp_path)


def a_rendering(*shape: int) -> Rendering:
    color = torch.zeros(*shape, 3)
    color[..., 0] = 1.0
    return Rendering(color, torch.ones(shape), torch.ones(shape), torch.zeros(*shape, 3), "srgb")


def some_progress() -> Progress:
    counts: Mapping[str, int] = {"samples": 640}
    return Progress(12, 0.25, 3.0, 21.5, {"rgb": 0.1}, counts, dict, TinyScene(), "surface")


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        (lambda: Mesh(torch.zeros(4, 3), torch.tensor([[0, 1, 2]]), torch.zeros(4, 3)), "Mesh(4 vertices, 1 faces, colors)"),
        (lambda: a_rendering(48, 64), "Rendering(48 x 64 pixels, srgb)"),
        (lambda: a_rendering(1000), "Rendering(1000 pixels, srgb)"),
        (tiny_capture, "Capture('ball': 12 views of 24 x 24 pixels, 9 fitted, 3 held out, with masks)"),
        (lambda: tiny_capture().cameras, "Cameras(12 views, 24 x 24 pixels, perspective)"),
        (lambda: tiny_capture().photos, "Images(12 images, 24 x 24 pixels, uint8 x 4, cpu)"),
        (lambda: Images.of([torch.zeros(2, 3), torch.zeros(5, 4)]), "Images(2 images, 2 sizes up to 4 x 5 pixels, float32, cpu)"),
        (some_progress, "Progress(surface, step 12, 25 %, 3.0 s, PSNR 21.50 dB)"),
        (
            lambda: FitResult(TinyScene(), "finished", 3500, 75.42, 0, (some_progress(),) * 1000, torch.eye(4)),
            "FitResult(finished: 3,500 steps in 75.4 s, PSNR 21.50 dB, TinyScene)",
        ),
        (
            lambda: Raster(torch.zeros(1, 8, 9, dtype=torch.int32), torch.zeros(1, 8, 9, 2), torch.zeros(1, 8, 9)),
            "Raster(face=int32[1, 8, 9], barycentrics=float32[1, 8, 9, 2], depth=float32[1, 8, 9])",
        ),
    ],
)
def test_representations_are_short_and_print_no_tensors(thing: Any, text: str) -> None:
    assert repr(thing()) == text and len(text) <= LONGEST


def test_a_long_name_does_not_make_a_long_representation() -> None:
    assert len(repr(dataclasses.replace(tiny_capture(), name="x" * 5000))) <= LONGEST
    assert size_range(torch.zeros(0, 2, dtype=torch.int64)) == "no pixels"


def picture_in(html: str) -> Image.Image:
    import base64

    return Image.open(io.BytesIO(base64.b64decode(html.split("base64,")[1].split('"')[0])))


def test_notebooks_show_renderings_and_captures_as_small_pictures() -> None:
    html = a_rendering(480, 640)._repr_html_()
    assert html is not None and a_rendering(1000)._repr_html_() is None
    picture = picture_in(html)
    assert picture.size == (320, 240) and picture.getpixel((5, 5)) == (255, 0, 0)
    capture = tiny_capture()
    html = capture._repr_html_()
    assert html is not None and len(html) < 60_000 and "12 views of 24 x 24 pixels" in html
    contact = picture_in(html)
    assert contact.size == (6 * 96, 2 * 96)
    assert np.array_equal(np.asarray(contact)[2:26, 98:122], capture.photos[1][..., :3].numpy())
    with pytest.raises(ValueError, match="pictures is empty"):
        sheet([])


def test_the_package_offers_its_names_and_all_primitives() -> None:
    assert set(unrender.__all__) <= set(dir(unrender))
    assert all(getattr(unrender, name) is not None for name in unrender.__all__)
    for family in ("encodings", "rays", "raster"):
        module = importlib.import_module(f"unrender.ops.{family}")
        assert all(getattr(unrender.ops, name) is getattr(module, name) for name in module.__all__)
        assert {family, *module.__all__} <= set(dir(unrender.ops))
    with pytest.raises(AttributeError, match="has no attribute 'rasterze'"):
        unrender.ops.rasterze  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"recipe": "tinny"}, "there is no recipe 'tinny'; did you mean 'tiny'"),
        ({"config": {"steps": 3}}, r"takes TinyConfig or the path of a run.json as config, got dict; single settings go into settings="),
        ({"config": "absent.json"}, "absent.json cannot be read"),
        ({"config": 3}, "takes TinyConfig or the path of a run.json as config, got int$"),
        ({"input": 3}, "takes a folder of posed photos or its path as input, got int"),
        ({"settings": {"stpes": 3}}, "stpes is not in TinyConfig"),
        ({"preset": "quik"}, "did you mean 'quick'"),
    ],
)
def test_wrong_arguments_are_one_sentence(arguments: dict[str, Any], sentence: str) -> None:
    given = {"recipe": "tiny", "input": tiny_capture()} | arguments
    with pytest.raises(ValueError, match=sentence):
        fit(**given)


def test_an_opened_run_offers_all_it_has() -> None:
    result = fit("tiny", tiny_capture(), out="here", preset="quick", device="cpu")
    run = unrender.open_run("here", device="cpu")
    assert repr(run) == "OpenRun('here': tiny, finished, 4 steps)"
    assert run.config == TINY.presets["quick"] and [line.step for line in run.history] == [1, 2, 3, 4]
    assert run.metrics is not None and run.metrics == json.loads(Path("here/metrics.json").read_text())
    torch.testing.assert_close(run.mesh().vertices, result.mesh().vertices)
    torch.testing.assert_close(run.mesh(frame="normalized").vertices.amax(0), torch.full((3,), 0.5))
    seen, along_normals = run.mesh(capture=tiny_capture()).colors, run.mesh().colors
    torch.testing.assert_close(seen, result.mesh(capture=tiny_capture()).colors)
    assert seen is not None and along_normals is not None and float((seen - along_normals).abs().max()) > 0.03
    cameras = tiny_capture().cameras
    torch.testing.assert_close(run.render(cameras, 3).color, result.scene.render_view(cameras, 3).color.detach())


def test_a_run_is_fitted_again_with_its_configuration() -> None:
    first = fit("tiny", tiny_capture(), out="here", settings={"learning_rate": 0.2}, steps=6, device="cpu")
    for config in ("here/run.json", Path("here/run.json"), unrender.open_run("here").config):
        again = fit("tiny", tiny_capture(), config=config, device="cpu")
        assert isinstance(again.scene, TinyScene) and isinstance(first.scene, TinyScene)
        assert again.steps == 6 and torch.equal(again.scene.color, first.scene.color)
    Path("other.json").write_text(json.dumps({"recipe": "neus", "config": {}}))
    with pytest.raises(ValueError, match=r"other.json is of a run of neus, not of tiny"):
        fit("tiny", tiny_capture(), config="other.json")


def lines_of(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_log_gets_occasional_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unrender.runs.display, "PLAIN_LINE_EVERY", 0.05)
    console = Console(file=io.StringIO(), width=80)
    display = Display(console)
    line = unrender.runs.display.LogLine(display.say, "rendering", "", first=0.05)
    task = unrender.runs.display.Task(line, 8)
    task.advance()
    task.advance()
    time.sleep(0.2)
    line.close()
    assert lines_of(console)[0].startswith("rendering: 2 of 8, 0:0") and lines_of(console)[0].endswith(" to go")
    count = len(lines_of(console))
    with display.task("a short one", 1) as short:
        short.advance()
    assert len(lines_of(console)) == count  # what takes less than two seconds is silent


def test_a_terminal_gets_a_bar_that_disappears() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with Display(console).task("rendering", 3) as task:
        assert list(task.each("abc")) == ["a", "b", "c"]
    text = "".join(lines_of(console))
    assert "rendering" in text and "3 of 3" in text and "\x1b[2K" in text


def test_a_quiet_display_says_nothing() -> None:
    display = Display.quiet()
    with display.task("rendering", 3) as task:
        task.advance()
    display.say("hello")


def test_a_closed_pipe_and_a_small_code_page_end_no_fit() -> None:
    class Closed(io.StringIO):
        def write(self, text: str, /) -> int:
            raise BrokenPipeError

    Display(Console(file=Closed())).say("hello")
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="cp1251")
    Display(Console(file=narrow)).say("データ 3 × 4")
    narrow.flush()
    assert narrow.buffer.getvalue().decode("cp1251").strip() == "??? 3 ? 4"  # pyright: ignore[reportAttributeAccessIssue]


def test_a_notebook_gets_a_line_without_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, str]] = []

    class Handle:
        def update(self, bundle: dict[str, str], *, raw: bool) -> None:
            shown.append(bundle)

    def display(bundle: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        shown.append(bundle)
        return Handle()

    shell = type("ZMQInteractiveShell", (), {})()
    package, module = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    vars(package)["get_ipython"] = lambda: shell
    vars(module)["display"] = display
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    result = fit("tiny", tiny_capture(), device="cpu")
    assert result.outcome == "finished"
    assert "<progress value=1.000 max=1>" in shown[-2]["text/html"] and "step 40" in shown[-2]["text/plain"]
    assert shown[-1] == {"text/plain": "", "text/html": ""}


def test_progress_is_shown_where_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    fit("tiny", tiny_capture(), steps=3, device="cpu")
    assert capfd.readouterr() == ("", "")
    fit("tiny", tiny_capture(), steps=3, device="cpu", progress=True)
    out, err = capfd.readouterr()
    assert out == "" and "100 %" in err and "finished: 3 steps" in err

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tiny_recipe import TINY, TinyScene, tiny_capture, tiny_job
from unrender.cameras import Cameras
from unrender.captures.capture import Capture
from unrender.color import srgb_from_linear
from unrender.recipes.fitting import FitResult, Observer, Progress
from unrender.render.rendering import Rendering
from unrender.render.scene import Scene
from unrender.runs.directory import RunDirectory
from unrender.runs.display import Display
from unrender.runs.figures import read_picture
from unrender.runs.milestones import PREVIEW_SIDE, Milestones
from unrender.runs.report_writing import course_of
from unrender.runs.session import fit_into

CPU = torch.device("cpu")


def at(seconds: float, budget: float, scene: Scene | None = None) -> Progress:
    """A report of a fit that has so many seconds to use."""
    return Progress(
        step=int(seconds),
        fraction=min(1.0, seconds / budget),
        seconds=seconds,
        psnr=20.0,
        losses={},
        counts={"samples": 640},
        snapshot=dict,
        scene=scene or TinyScene(),
    )


def follow(
    directory: RunDirectory, times: Iterable[float], budget: float, *, start: float = 0.0, scene: Scene | None = None, capture: Capture
) -> None:
    milestones = Milestones(directory, capture, CPU, Display.quiet(), seconds=start, fraction=start / budget)
    for seconds in times:
        milestones(at(float(seconds), budget, scene))


@pytest.mark.parametrize(
    ("budget", "taken"),
    [
        (600.0, [60, 150, 300, 600]),
        (200.0, [20, 50, 60, 100, 200]),
        (60.0, [6, 15, 30, 60]),
        (10.0, [1, 5, 10]),
        (1.0, [1]),
        (590.0, [60, 147, 295, 590]),
        (61.0, [6, 15, 30, 60]),
    ],
)
def test_pictures_are_taken_at_a_minute_and_at_shares_of_the_budget(tmp_path: Path, budget: float, taken: list[int]) -> None:
    directory = RunDirectory(tmp_path)
    follow(directory, [0.25 * k for k in range(1, int(budget / 0.25) + 1)], budget, capture=tiny_capture())
    assert directory.stages() == taken
    assert sorted(file.name for file in directory.renders.iterdir()) == sorted(f"progress_{s:03d}s.png" for s in taken)


def test_a_picture_shows_color_and_normal_of_the_first_held_out_view(tmp_path: Path) -> None:
    capture, directory, scene = tiny_capture(), RunDirectory(tmp_path), TinyScene()
    with torch.no_grad():
        scene.color.copy_(torch.tensor([0.6, 0.07, 0.03]))
    follow(directory, [5.0], 5.0, scene=scene, capture=replace(capture, split=replace(capture.split, test=(4, 8))))
    picture = read_picture(directory.stage_file(5))
    assert picture.shape == (24, 48, 3)
    assert np.array_equal(picture[:, :24], capture.photos[4][..., :3].numpy())
    assert (picture[0, 24:] == 128).all() and (picture[12, 36] != 128).any()


def test_large_views_are_made_smaller(tmp_path: Path) -> None:
    capture, directory = tiny_capture(), RunDirectory(tmp_path)
    cameras = replace(capture.cameras, sizes=torch.tensor([[400, 300]]).repeat(len(capture), 1))
    follow(directory, [5.0], 5.0, capture=replace(capture, cameras=cameras))
    height, width = read_picture(directory.stage_file(5)).shape[:2]
    assert (height, width) == (100, 2 * 133) and max(height, width // 2) <= PREVIEW_SIDE


def test_a_resumed_fit_keeps_earlier_pictures_and_takes_later_ones_again(tmp_path: Path) -> None:
    capture, directory = tiny_capture(), RunDirectory(tmp_path)
    follow(directory, range(1, 110), 200.0, capture=capture)
    assert directory.stages() == [20, 50, 60, 100]
    kept = [directory.stage_file(seconds).stat().st_mtime_ns for seconds in (20, 50)]
    bright = TinyScene()
    with torch.no_grad():
        bright.color.fill_(1.0)
    follow(directory, range(56, 201), 200.0, start=55.0, scene=bright, capture=capture)
    assert directory.stages() == [20, 50, 60, 100, 200]
    assert [directory.stage_file(seconds).stat().st_mtime_ns for seconds in (20, 50)] == kept
    assert read_picture(directory.stage_file(60))[12, 12].tolist() == [255, 255, 255]
    before = round(255 * float(srgb_from_linear(torch.tensor(0.3))))
    assert read_picture(directory.stage_file(50))[12, 12].tolist() == [before] * 3


class EmptyScene(TinyScene):
    """As PyTorch answers where no sample is left."""

    def render_view(self, cameras: Cameras, view: int) -> Rendering:
        raise RuntimeError("max(): Expected reduction dim to be specified for input.numel() == 0")


def test_an_empty_scene_costs_a_picture_not_the_fit(tmp_path: Path) -> None:
    capture, directory = tiny_capture(), RunDirectory(tmp_path)
    follow(directory, [20.0], 200.0, scene=EmptyScene(), capture=capture)
    assert directory.stages() == [] and course_of(directory, capture) is None


def test_taking_pictures_draws_nothing_random(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    follow(RunDirectory(tmp_path), [5.0], 5.0, capture=tiny_capture())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_without_a_checkpoint_begins_again_without_pictures(tmp_path: Path) -> None:
    capture, directory = tiny_capture(), RunDirectory(tmp_path)
    follow(directory, [20.0, 50.0], 200.0, capture=capture)
    job = tiny_job(capture=capture)
    directory.write_record(job.record())
    fit_into(directory, job, display=Display.quiet())
    assert directory.stages() and max(directory.stages()) < 20


def fit_slowly(*arguments: Any, observer: Observer, **named: Any) -> FitResult:
    """The tiny recipe on a machine where a step takes three seconds."""
    return TINY.fit(*arguments, observer=lambda progress: observer(replace(progress, seconds=3.0 * progress.step)), **named)


def test_an_interrupted_run_keeps_its_pictures_and_shows_them_in_the_report(tmp_path: Path) -> None:
    capture, directory = tiny_capture(), RunDirectory(tmp_path)
    job = tiny_job(capture=capture, recipe=replace(TINY, fit=fit_slowly))

    def interrupt(progress: Progress) -> None:
        if progress.step == 14:
            raise KeyboardInterrupt

    assert fit_into(directory, job, display=Display.quiet(), observer=interrupt).outcome == "interrupted"
    assert directory.stages() == [12, 30]
    kept = [directory.stage_file(seconds).stat().st_mtime_ns for seconds in (12, 30)]
    assert fit_into(directory, job, display=Display.quiet()).outcome == "finished"
    assert [directory.stage_file(seconds).stat().st_mtime_ns for seconds in (12, 30)] == kept
    course = course_of(directory, capture)
    assert course is not None and course.name == "photos/ball_0.png"
    assert [seconds for seconds, _ in course.stages] == directory.stages() == [12, 30, 60, 120]
    assert course.truth.startswith("data:image/jpeg;base64,")

"""A recipe that goes on from a finished run of another one: the light that colors its scene, found from the same photos."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from tiny_recipe import State, TinyScene
from unrender.cameras import Cameras
from unrender.recipes.clock import Clock
from unrender.recipes.fitting import FitResult, Fitting, Observer, scene_state
from unrender.recipes.inputs import FittedRun
from unrender.recipes.kinds import RUN
from unrender.recipes.table import Recipe
from unrender.render.asset import Asset
from unrender.render.rendering import Rendering
from unrender.render.scene import Scene


@dataclass(frozen=True)
class TintConfig:
    """Settings of the tint recipe."""

    steps: int = 20
    """Steps."""
    max_seconds: float | None = None
    """Budget."""


class TintScene(Scene):
    """A scene under a colored light."""

    def __init__(self, base: Scene) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.tint = nn.Parameter(torch.ones(3))

    @torch.no_grad()
    def render_view(self, cameras: Cameras, view: int) -> Rendering:
        plain = self.base.render_view(cameras, view)
        return replace(plain, color=plain.linear * self.tint, encoding="linear")

    def asset(self, resolution: int = 256, *, largest_only: bool = True) -> Asset:
        return self.base.asset(resolution, largest_only=largest_only)


def fit(
    run: FittedRun, config: TintConfig, *, device: torch.device, seed: int, resume: State | None = None, observer: Observer | None = None
) -> FitResult:
    """Fit the tint to the photos of the run."""
    scene, generator, views = TintScene(run.scene), torch.Generator().manual_seed(seed), run.capture.split.train
    optimizer = torch.optim.Adam([scene.tint], lr=0.05)
    fitting = Fitting(scene, optimizer, Clock(config.steps, config.max_seconds), observer, generator=generator, report_every=0.0)
    if resume is not None:
        fitting.restore(resume)
    for _ in fitting:
        view = views[int(torch.randint(len(views), (), generator=generator))]
        with torch.no_grad():
            plain = run.scene.render_view(run.capture.cameras, view)
        inside = plain.opacity > 0.5
        error = ((plain.linear[inside] * scene.tint - run.capture.color(view, linear=True)[inside]) ** 2).mean()
        fitting.take_step({"color": error}, error=error.detach())
    return fitting.result(run.capture.source_from_world)


def load_scene(config: TintConfig, tensors: State, device: torch.device) -> TintScene:
    """Rebuild the scene of a snapshot."""
    scene = TintScene(TinyScene())
    scene.load_state_dict(scene_state(tensors))
    return scene


TINT = Recipe("tint", "a light of one color", {"cpu": TintConfig(), "gpu": TintConfig()}, fit, load_scene, RUN)

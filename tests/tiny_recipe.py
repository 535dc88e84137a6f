"""A recipe of a few lines on the same seams as the real ones, and a capture for it: the shell around recipes is tested with these.

It knows no rays and no optimizer of ours: a mesh of one color, rasterized, whose color PyTorch's RMSprop finds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from unrender.cameras import Cameras
from unrender.captures.capture import Capture, Split
from unrender.captures.options import CaptureOptions
from unrender.color import srgb_from_linear
from unrender.geometry.mesh import Mesh
from unrender.recipes.clock import Clock
from unrender.recipes.fitting import FitResult, Fitting, Observer, scene_state
from unrender.recipes.kinds import CAPTURE
from unrender.recipes.table import Recipe
from unrender.render.asset import Asset
from unrender.render.rendering import Rendering
from unrender.render.scene import Scene
from unrender.render.surface import render_surface
from unrender.runs.inputs import Origin
from unrender.runs.session import Job
from unrender.shading.materials import Uniform, Unlit

_CORNERS = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]) * 0.5
_FACES = torch.tensor([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])
State = Mapping[str, Tensor]
TARGET = torch.tensor([0.6, 0.07, 0.03])
"""Linear light."""


@dataclass(frozen=True)
class TinyConfig:
    """Settings of the tiny recipe."""

    steps: int | None = 40
    """Steps."""
    max_seconds: float | None = None
    """Budget."""
    learning_rate: float = 0.05
    """Of RMSprop."""
    layers: tuple[int, ...] = (8, 8)
    """Not used; a tuple has to survive JSON."""
    empty: bool = False
    """The mesh comes out empty."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps is {self.steps}; a fit needs at least 1")


PRESETS = {"cpu": TinyConfig(), "gpu": TinyConfig(steps=80), "quick": TinyConfig(steps=4), "empty": TinyConfig(steps=4, empty=True)}


class TinyScene(Scene):
    """An octahedron of one color before white, in linear light; every pixel is inside or outside."""

    def __init__(self, *, empty: bool = False) -> None:
        super().__init__()
        self.color = nn.Parameter(torch.full((3,), 0.3))
        self.empty = empty

    @torch.no_grad()
    def render_view(self, cameras: Cameras, view: int) -> Rendering:
        mesh, white = Mesh(_CORNERS, _FACES), torch.ones(3)
        return render_surface(mesh, Unlit(Uniform(self.color)), [], cameras[view], background=white, antialiasing=None)[0]

    def asset(self, resolution: int = 256, *, largest_only: bool = True) -> Asset:
        colors = srgb_from_linear(self.color.detach().clamp(0, 1)).expand(6, 3).contiguous()
        return Asset.empty() if self.empty else Asset(Mesh(_CORNERS, _FACES, colors))


def fit(
    capture: Capture, config: TinyConfig, *, device: torch.device, seed: int, resume: State | None = None, observer: Observer | None = None
) -> FitResult:
    """Pull the color towards noisy copies of a target."""
    scene, generator = TinyScene(empty=config.empty), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.RMSprop(scene.parameters(), lr=config.learning_rate)
    clock = Clock(config.steps, config.max_seconds)
    fitting = Fitting(scene, optimizer, clock, observer, generator=generator, report_every=0.0)
    if resume is not None:
        fitting.restore(resume)
    for _ in fitting:
        error = ((TARGET + 0.01 * torch.randn(3, generator=generator) - scene.color) ** 2).mean()
        fitting.take_step({"rgb": error, "prior": error.detach() / 10}, error=error.detach(), counts={"samples": 640})
    return fitting.result(capture.source_from_world)


def load_scene(config: TinyConfig, tensors: State, device: torch.device) -> TinyScene:
    """Rebuild the scene of a snapshot."""
    scene = TinyScene(empty=config.empty)
    scene.load_state_dict(scene_state(tensors))
    return scene


TINY = Recipe("tiny", "an octahedron of one color", PRESETS, fit, load_scene, CAPTURE)


def tiny_capture(path: Path | None = None, options: CaptureOptions | None = None) -> Capture:
    """Twelve views of a red ball from all around, every fourth held out; takes what ``read_capture`` takes."""
    count, size = 12, 24
    poses = torch.eye(4).repeat(count, 1, 1)
    for view in range(count):
        angle = 2 * math.pi * view / count
        back = torch.tensor([math.cos(angle), math.sin(angle), 0.5])
        back = back / back.norm()
        right = torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]), back)
        right = right / right.norm()
        poses[view, :3, :3] = torch.stack([right, -torch.linalg.cross(back, right), -back], dim=1)
        poses[view, :3, 3] = 3.0 * back
    cameras = Cameras.alike(poses, torch.tensor([[40.0, 40.0, 12.0, 12.0]]).repeat(count, 1), torch.zeros(count, 6), size, size)
    scene = TinyScene()
    scene.color.data.copy_(TARGET)
    pictures = [scene.render_view(cameras, view) for view in range(count)]
    masks = torch.stack([(picture.opacity * 255).to(torch.uint8) for picture in pictures])
    images = torch.stack([(picture.srgb.clamp(0, 1) * 255).round().to(torch.uint8) for picture in pictures])
    test = tuple(range(0, count, 4))
    similarity = torch.eye(4, dtype=torch.float64)
    similarity[:3, :3] *= 100.0
    similarity[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    return Capture.from_tensors(
        images,
        cameras,
        masks=masks,
        name="ball",
        names=tuple(f"photos/ball_{view}.png" for view in range(count)),
        split=Split(tuple(v for v in range(count) if v not in test), test, "every 4th view is held out"),
        source_from_world=similarity,
        fingerprint=f"ball-{1 if options is None else options.downscale}",
        notes=("the ball was painted by hand",),
    )


def tiny_job(
    config: TinyConfig | None = None, capture: Capture | None = None, recipe: Recipe[TinyConfig, Capture] = TINY
) -> Job[TinyConfig, Capture]:
    """A fit of the tiny recipe on the CPU."""
    return Job(recipe, "cpu", config or TinyConfig(), capture or tiny_capture(), Origin(), torch.device("cpu"))

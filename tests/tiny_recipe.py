"""A recipe of twenty lines that behaves like the real ones, and a capture for it: the shell around recipes is tested with these."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unrender.cameras import Cameras, Rays
from unrender.captures.capture import Capture, Split
from unrender.geometry.mesh import Mesh
from unrender.recipes.fitting import Clock, FitResult, Observer, Outcome, Progress
from unrender.render.rendering import Rendering
from unrender.render.scene import Scene
from unrender.runs.session import Recipe


@dataclass(frozen=True)
class TinyConfig:
    """Settings of the tiny recipe."""

    steps: int = 40
    """Steps."""
    max_seconds: float | None = None
    """Budget."""
    learning_rate: float = 0.05
    """Share of the way to the target taken in a step."""
    layers: tuple[int, ...] = (8, 8)
    """Not used; a tuple has to survive JSON."""
    empty: bool = False
    """The mesh comes out empty."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; a fit needs at least 1")


PRESETS = {"cpu": TinyConfig(), "gpu": TinyConfig(steps=80), "quick": TinyConfig(steps=4), "empty": TinyConfig(steps=4, empty=True)}


class TinyScene(Scene):
    """A ball of one color before white."""

    def __init__(self, *, empty: bool = False) -> None:
        super().__init__()
        self.color = nn.Parameter(torch.zeros(3))
        self.empty = empty

    def render_rays(self, rays: Rays) -> Rendering:
        b = (rays.origins * rays.directions).sum(-1)
        hit = b**2 - (rays.origins**2).sum(-1) + 0.25
        opacity = (hit > 0).float()
        distance = (-b - hit.clamp_min(0.0).sqrt()) * opacity
        normal = (rays.origins + distance[:, None] * rays.directions) * 2.0 * opacity[:, None]
        color = self.color * opacity[:, None] + (1.0 - opacity[:, None])
        return Rendering(color=color, opacity=opacity, distance=distance, normal=normal)

    def mesh(self, resolution: int = 256, *, largest_only: bool = True) -> Mesh:
        if self.empty:
            return Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
        tops = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]) * 0.5
        faces = torch.tensor([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])
        return Mesh(tops, faces, self.color.detach().cpu().clamp(0, 1).expand(6, 3).contiguous())


def fit(
    capture: Capture,
    config: TinyConfig,
    *,
    device: torch.device,
    seed: int,
    resume: Mapping[str, Tensor] | None = None,
    observer: Observer | None = None,
) -> FitResult:
    """Walks the color towards noisy copies of a target."""
    scene = TinyScene(empty=config.empty).to(device)
    generator = torch.Generator().manual_seed(seed)
    clock = Clock(config.steps, config.max_seconds)
    if resume is not None:
        scene.load_state_dict({"color": resume["scene.color"]})
        generator.set_state(resume["generator"])
        clock = Clock(config.steps, config.max_seconds, done_steps=int(resume["step"]), done_seconds=float(resume["seconds"]))

    def snapshot() -> dict[str, Tensor]:
        return {
            "scene.color": scene.color.detach(),
            "generator": generator.get_state(),
            "step": torch.tensor(clock.step),
            "seconds": torch.tensor(clock.seconds, dtype=torch.float64),
        }

    history: list[Progress] = []
    outcome: Outcome = "finished"
    clock.start()
    try:
        while clock.fraction < 1.0:
            target = torch.tensor([0.8, 0.3, 0.2]) + 0.01 * torch.randn(3, generator=generator)
            with torch.no_grad():
                error = target - scene.color
                scene.color.add_(error, alpha=config.learning_rate)
            clock.step += 1
            if clock.step % 2 == 0 and observer is not None:
                mse = float((error**2).mean())
                losses = {"rgb": mse, "prior": mse / 10}
                state = Progress(clock.step, clock.fraction, clock.seconds, -10 * math.log10(mse), 64, 640, losses, snapshot, scene)
                history.append(state)
                with clock.paused():
                    observer(state)
    except KeyboardInterrupt:
        outcome = "interrupted"
    clock.stop()
    return FitResult(scene, outcome, clock.step, clock.seconds, 0, tuple(history), capture.source_from_world)


def load_scene(config: TinyConfig, tensors: Mapping[str, Tensor], device: torch.device) -> TinyScene:
    """The scene of a snapshot."""
    scene = TinyScene(empty=config.empty)
    scene.load_state_dict({"color": tensors["scene.color"]})
    return scene.to(device)


TINY = Recipe("tiny", "a ball of one color", PRESETS, fit, load_scene)


def tiny_capture(path: Any = None, **options: Any) -> Capture:
    """Twelve views of a red ball from all around, every fourth held out; takes what ``load_capture`` takes."""
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
    cameras = Cameras(poses, torch.tensor([[40.0, 40.0, 12.0, 12.0]]).repeat(count, 1), torch.zeros(count, 6), size, size)
    scene = TinyScene()
    with torch.no_grad():
        scene.color.copy_(torch.tensor([0.8, 0.3, 0.2]))
        pictures = [scene.render_view(cameras, view) for view in range(count)]
    masks = torch.stack([(picture.opacity * 255).to(torch.uint8) for picture in pictures])
    images = torch.stack([(picture.color * 255).round().to(torch.uint8) for picture in pictures])
    test = tuple(range(0, count, 4))
    similarity = torch.eye(4, dtype=torch.float64)
    similarity[:3, :3] *= 100.0
    similarity[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    return Capture(
        name="ball",
        images=images,
        masks=masks,
        cameras=cameras,
        names=tuple(f"photos/ball_{view}.png" for view in range(count)),
        split=Split(tuple(v for v in range(count) if v not in test), test, "every 4th view is held out"),
        source_from_world=similarity,
        fingerprint=f"ball-{options.get('downscale', 1)}",
        notes=("the ball was painted by hand",),
    )

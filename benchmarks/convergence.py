"""How fast recipes learn: PSNR over seconds and over steps, as a table and two figures.

    python benchmarks/convergence.py CAPTURE [--downscale 4] [--seconds 600] [--fits nerf-mlp:quick nerf-mlp:cpu nerf:cpu] [--out FOLDER]

Each fit is a recipe with a preset. At times that follow each other geometrically, 4,096 pixels of the held-out views are rendered, always
the same ones, while the clock of the fit stands still. FOLDER gets ``convergence_seconds.svg``, ``convergence_steps.svg`` and
``convergence.json`` with the measured points; from that file ``--redraw`` draws the figures again without a fit.
"""

from __future__ import annotations

import argparse
import html
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import unrender
from unrender.cameras import Rays
from unrender.captures.capture import Capture
from unrender.color import over
from unrender.devices import select_device
from unrender.recipes import nerf, nerf_mlp, plenoxels
from unrender.recipes.fitting import Progress
from unrender.recipes.settings import with_budget
from unrender.render.scene import RayScene
from unrender.runs.charts import Curve, line_chart

_RECIPES: Mapping[str, ModuleType] = {"nerf": nerf, "nerf-mlp": nerf_mlp, "plenoxels": plenoxels}
_PIXELS = 4096
_FIRST_SECONDS, _GROWTH = 1.0, 1.4
_COLORS = ("#14877a", "#d2672c", "#6d83e0", "#a5771a")
_STYLE = (
    "text{font:12px sans-serif;fill:#808080}.title{font-size:14px;font-weight:600}.grid{stroke:#808080;stroke-opacity:.25}"
    ".curve{fill:none;stroke-width:2}" + "".join(f".c{number}{{stroke:{color}}}" for number, color in enumerate(_COLORS))
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", type=Path)
    parser.add_argument("--downscale", type=int, default=4)
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--seconds", type=float, help="of each fit (default: 600)")
    budget.add_argument("--steps", type=int, help="of each fit, instead of seconds")
    parser.add_argument("--fits", nargs="+", default=["nerf-mlp:quick", "nerf-mlp:cpu", "nerf:cpu"], metavar="RECIPE:PRESET")
    parser.add_argument("--out", type=Path, default=Path("runs/convergence"))
    parser.add_argument("--redraw", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    kept = arguments.out / "convergence.json"
    if not arguments.redraw:
        capture = unrender.load(arguments.capture, downscale=arguments.downscale)
        seconds = None if arguments.steps else arguments.seconds or 600.0
        points = {fit: _measured(fit, capture, arguments.steps, seconds) for fit in arguments.fits}
        kept.write_text(json.dumps(points, indent=1) + "\n", encoding="utf-8")
    points = json.loads(kept.read_text(encoding="utf-8"))
    for name, key, label in (("seconds", 1, "seconds of training"), ("steps", 0, "steps")):
        (arguments.out / f"convergence_{name}.svg").write_text(_figure(points, key, label), encoding="utf-8")
    print("| fit | steps | seconds | held-out PSNR, dB |\n|---|---|---|---|")
    for fit, found in points.items():
        step, second, score = found[-1]
        print(f"| `{fit}` | {step:,} | {second:.0f} | {score:.2f} |")


def _measured(fit: str, capture: Capture, steps: int | None, seconds: float | None) -> list[tuple[int, float, float]]:
    """Return (step, seconds, PSNR) of some moments of a fit."""
    recipe, preset = fit.split(":")
    module, device = _RECIPES[recipe], select_device(None)
    rays, truth = _held_out(capture)
    rays, points, due = Rays(rays.origins.to(device), rays.directions.to(device)), [], _FIRST_SECONDS

    def look(progress: Progress) -> None:
        nonlocal due
        if progress.seconds >= due and progress.fraction < 1.0:
            points.append((progress.step, progress.seconds, _psnr(progress.scene, rays, truth)))
            print(f"{fit}: step {progress.step}, {progress.seconds:.0f} s, {points[-1][2]:.2f} dB", flush=True)
            due = max(due, progress.seconds) * _GROWTH

    config = with_budget(module.PRESETS[preset], steps=steps, max_seconds=seconds)
    result = module.fit(capture, config, device=device, seed=0, observer=look)
    points.append((result.steps, result.seconds, _psnr(result.scene, rays, truth)))
    return points


def _held_out(capture: Capture) -> tuple[Rays, Tensor]:
    """Return rays of the held-out views, and their colors over white."""
    generator = torch.Generator().manual_seed(0)
    origins, directions, colors = [], [], []
    count = -(-_PIXELS // len(capture.split.test))
    for view in capture.split.test:
        rays, alpha = capture.cameras.image_rays(view), capture.alpha(view)
        color = capture.color(view)
        color = (color if alpha is None else over(color, alpha, torch.ones(3))).reshape(-1, 3)
        chosen = torch.randperm(len(color), generator=generator)[:count]
        origins.append(rays.origins[chosen])
        directions.append(rays.directions[chosen])
        colors.append(color[chosen])
    return Rays(torch.cat(origins), torch.cat(directions)), torch.cat(colors)


def _psnr(scene: Any, rays: Rays, truth: Tensor) -> float:
    assert isinstance(scene, RayScene)
    error = (scene.render_rays(rays).srgb.clamp(0, 1).cpu() - truth).square().mean()
    return -10 * math.log10(float(error))


def _figure(points: Mapping[str, Sequence[Sequence[float]]], key: int, label: str) -> str:
    log: Callable[[float], float] = lambda value: math.log10(max(value, 1.0))  # noqa: E731
    curves = [Curve(fit, [log(point[key]) for point in found], [point[2] for point in found]) for fit, found in points.items()]
    drawn = line_chart(curves, title="Held-out PSNR, dB", x_label=f"{label}, as a power of ten")
    body = drawn[drawn.index(">") + 1 : drawn.index("</svg>")]
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 324" role="img"><style>{_STYLE}</style>{body}']
    for number, curve in enumerate(curves):
        x = 56 + 190 * number
        parts.append(f'<line class="curve c{number}" x1="{x}" x2="{x + 16}" y1="314" y2="314"/>')
        parts.append(f'<text x="{x + 21}" y="318">{html.escape(curve.name)}</text>')
    return "".join(parts) + "</svg>\n"


if __name__ == "__main__":
    main()

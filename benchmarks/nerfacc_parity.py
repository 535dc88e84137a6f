"""A program of two callbacks for nerfacc against ``unrender fit nerf``, with the same sizes, samples and steps.

    python benchmarks/nerfacc_parity.py CAPTURE [--steps 300] [--samples 16384] [--views 5] [--seed 0]

CAPTURE is an object with masks. The program is ``examples/nerfacc_radiance_field.py``, with the stand-ins of unrender. Both have the hash
grid, the widths, the occupancy grid and the schedule of the preset ``cpu``, with half of its steps along the diagonal and a quarter of its
table and finest resolution. Prints the mean PSNR of some held-out views over white.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import unrender
import unrender.compat
from unrender.captures.capture import Capture
from unrender.color import over
from unrender.devices import pytorch_on_one_thread, select_device
from unrender.losses.metrics import psnr
from unrender.recipes import nerf
from unrender.recipes.settings import override

_DIAGONAL, _LOG2_ENTRIES, _FINEST = 256, 14, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--samples", type=int, default=2**14, help="of a step")
    parser.add_argument("--views", type=int, default=5, help="held-out views that are rendered")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    capture = unrender.load(arguments.capture)
    test = capture.split.test[:: max(1, len(capture.split.test) // arguments.views)]
    print("| program | steps | held-out PSNR, dB | seconds |\n|---|---|---|---|", flush=True)

    begin = time.perf_counter()
    sizes = {"samples_per_ray": _DIAGONAL, "log2_entries": _LOG2_ENTRIES, "finest_resolution": _FINEST}
    config = override(nerf.PRESETS["cpu"], steps=arguments.steps, target_samples=arguments.samples, **sizes)
    scene = nerf.fit(capture, config, device=select_device(None), seed=arguments.seed).scene
    scores = [float(psnr(scene.render_view(capture.cameras, view).srgb.clamp(0, 1).cpu(), _over_white(capture, view))) for view in test]
    seconds = time.perf_counter() - begin
    print(f"| `unrender fit nerf` | {arguments.steps} | {sum(scores) / len(scores):.2f} | {seconds:.0f} |", flush=True)

    begin, program = time.perf_counter(), _program()
    settings = program.Settings(
        steps=arguments.steps,
        samples=arguments.samples,
        radius=1.0,
        steps_of_diagonal=_DIAGONAL,
        log2_entries=_LOG2_ENTRIES,
        finest=_FINEST,
    )
    with pytorch_on_one_thread():  # as in a fit: at these sizes more cost more than they save
        renderer = program.train(_views(program, capture, capture.split.train), settings, arguments.seed)
        score = program.score(renderer, _views(program, capture, test))
    print(f"| two callbacks | {arguments.steps} | {score:.2f} | {time.perf_counter() - begin:.0f} |", flush=True)


def _over_white(capture: Capture, view: int) -> torch.Tensor:
    color, alpha = capture.color(view), capture.alpha(view)
    return color if alpha is None else over(color, alpha, torch.ones(3))


def _program() -> ModuleType:
    """Import the example as a module."""
    unrender.compat.install()
    path = Path(__file__).parents[1] / "examples" / "nerfacc_radiance_field.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _views(program: ModuleType, capture: Capture, views: Sequence[int]) -> Any:
    """Return photos and cameras as the program takes them."""
    chosen = capture.cameras.select(views)
    intrinsics = torch.eye(3).repeat(len(views), 1, 1)
    fx, fy, cx, cy = chosen.intrinsics.float().unbind(1)
    intrinsics[:, 0, 0], intrinsics[:, 1, 1], intrinsics[:, 0, 2], intrinsics[:, 1, 2] = fx, fy, cx, cy
    photos = torch.stack([capture.photos[view].float() / 255 for view in views])
    return program.Views(photos, intrinsics, chosen.world_from_camera.float())


if __name__ == "__main__":
    main()

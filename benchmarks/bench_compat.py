"""What it costs a program to run under ``python -m unrender.compat``: the same step with and without the replaced functions of PyTorch.

The target is at most 5 % more on scenes so small that calls, not pixels, take the time. Times are of the processor, not of the clock: the
difference is smaller than what other programs do to the clock. Nothing is measured on a GPU, where no function is replaced.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from harness import Row

import unrender.compat.nvdiffrast.torch as dr
from unrender.compat.without_cuda import put_cuda_on_cpu


def rows(quick: bool) -> list[Row]:
    """Compare a step with itself, inside and outside of the replacement.

    One step names no device; the other names a GPU inside, and the CPU outside.
    """
    if torch.cuda.is_available():
        return []
    sides = [8] if quick else [8, 64, 256]
    unaware = [_row(f"step of a cube at {side}²", _step(side, None), _step(side, None), "without", quick) for side in sides]
    naming = [_row(f"step that names a GPU, {side}²", _step(side, "cuda"), _step(side, "cpu"), "the CPU named", quick) for side in sides]
    return unaware + naming


def _row(name: str, inside: Callable[[], None], outside: Callable[[], None], peer_name: str, quick: bool) -> Row:
    """Time both in turn, five steps each time; the functions are replaced and restored between the two."""
    steps, repeats = 5, 3 if quick else 60
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(-2, repeats):
        patches = put_cuda_on_cpu()
        with_it = _processor_time(inside, steps)
        patches.restore()
        without = _processor_time(outside, steps)
        if repeat >= 0:
            times[0].append(with_it)
            times[1].append(without)
    spread = (max(times[0]) - min(times[0])) / statistics.median(times[0])
    return Row(name, statistics.median(times[0]), statistics.median(times[1]), peer_name, 1, spread)


def _processor_time(step: Callable[[], None], steps: int) -> float:
    """Return the seconds of the processor that one of ``steps`` steps takes, on all threads together."""
    started = time.process_time()
    for _ in range(steps):
        step()
    return (time.process_time() - started) / steps


def _step(side: int, device: str | None) -> Callable[[], None]:
    """Return one step of fitting a colored cube of 12 triangles."""
    axes = torch.tensor([[0.8, 0.5, -0.3], [-0.4, 0.85, 0.35], [0.45, -0.15, 0.88]])
    vertices = torch.tensor([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]) @ axes
    quads = torch.tensor([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
    faces = torch.cat([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).int()
    position, color = vertices.clone().requires_grad_(), torch.rand(8, 3, requires_grad=True)
    context = dr.RasterizeCudaContext()

    def step() -> None:
        w = torch.ones(8, 1) if device is None else torch.ones(8, 1, device=device)
        clip = torch.cat([position[:, :2], position[:, 2:] * 0.1, w], 1)[None]
        triangles = faces if device is None else faces.to(device)
        rast, _ = dr.rasterize(context, clip, triangles, (side, side))
        values, _ = dr.interpolate(color[None], rast, triangles)
        target = torch.zeros(1, 1, 1, 3) if device is None else torch.zeros(1, 1, 1, 3, device=device)
        (dr.antialias(values, rast, clip, triangles) - target).square().mean().backward()
        position.grad = color.grad = None

    return step

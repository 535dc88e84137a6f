"""Primitives outside of the mode, thread and process they are usually called in: one verb of each family."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from random import Random

import pytest
import torch
from torch import Tensor

from hostile_world import World
from unrender.ops.encodings import Adam, contract, frequency_encode, grid_lookup, hash_encode, mlp, spherical_harmonics_encode
from unrender.ops.raster import TriangleTree, antialias, cast_rays, interpolate, rasterize, texture
from unrender.ops.rays import composite, distortion, march, visible, weights_from_density


def world() -> World:
    return World(Random(7))


W = world()
GRID = W.hash_grid
TABLE, VOLUME, LAYERS = W.rand(GRID.entries, GRID.features), W.rand(3, 3, 3, 2), W.layers
TRIANGLES = torch.tensor([[-1.0, -1.0, 0.5, 1.0], [3.0, -1.0, 0.5, 1.0], [-1.0, 3.0, 0.5, 1.0]])
FACES = torch.tensor([[0, 1, 2]])
RASTER = rasterize(TRIANGLES, FACES, (8, 8), derivatives=True)
UV, TEXELS, COLOR = W.rand(1, 8, 8, 2), W.rand(1, 4, 4, 3), W.rand(1, 8, 8, 3)

VERBS: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "hash_encode": (lambda x: hash_encode(x, TABLE, GRID), W.rand(600, 3)),
    "grid_lookup": (lambda x: grid_lookup(x, VOLUME), W.rand(600, 3)),
    "frequency_encode": (lambda x: frequency_encode(x, 3), W.rand(600, 3)),
    "spherical_harmonics_encode": (spherical_harmonics_encode, W.rand(600, 3)),
    "contract": (contract, W.rand(600, 3, low=-3.0, high=3.0)),
    "mlp": (lambda x: mlp(x, *LAYERS), W.rand(600, W.channels)),
    "mlp, wide": (lambda x: mlp(x, [torch.ones(80, 4), torch.ones(2, 80)], [torch.zeros(80), torch.zeros(2)]), W.rand(50, 4)),
    "weights_from_density": (lambda x: weights_from_density(x, W.samples), W.rand(W.size)),
    "composite": (lambda x: composite(torch.ones(W.size), x, W.samples), W.rand(W.size, 3)),
    "distortion": (lambda x: distortion(x, W.samples), W.rand(W.size)),
    "rasterize": (lambda x: rasterize(x, FACES, (8, 8)).barycentrics, TRIANGLES),
    "interpolate": (lambda x: interpolate(x, RASTER, FACES), W.rand(3, 2)),
    "texture": (lambda x: texture(x, UV), TEXELS),
    "antialias": (lambda x: antialias(x, RASTER, TRIANGLES, FACES), COLOR),
    "cast_rays": (lambda x: cast_rays(TriangleTree(x, FACES), W.rays.origins, W.rays.directions).barycentrics, W.rand(3, 3)),
}
EACH = pytest.mark.parametrize("name", VERBS)


def gradient(verb: Callable[[Tensor], Tensor], given: Tensor) -> tuple[Tensor, Tensor]:
    """The value, and the gradient of its sum of squares."""
    leaf = given.detach().clone().requires_grad_()
    value = verb(leaf)
    (found,) = torch.autograd.grad(value.square().sum(), leaf)
    return value.detach(), found


@EACH
def test_without_gradients_the_values_are_the_same(name: str) -> None:
    verb, given = VERBS[name]
    expected = gradient(verb, given)[0]
    with torch.no_grad():
        value = verb(given.clone().requires_grad_())
    assert torch.equal(value, expected) and not value.requires_grad
    with torch.inference_mode():
        inferred = verb(given.clone())
    assert torch.equal(inferred, expected) and inferred.is_inference()
    assert torch.equal(gradient(verb, given)[0], expected)  # nothing made in inference mode is kept


@EACH
def test_autocast_changes_nothing(name: str) -> None:
    verb, given = VERBS[name]
    leaf = given.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = verb(leaf)
    (found,) = torch.autograd.grad(value.square().sum(), leaf)
    for a, b in zip((value.detach(), found), gradient(verb, given), strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b)


@EACH
def test_anomaly_mode_finds_none(name: str) -> None:
    verb, given = VERBS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it is slow
        with torch.autograd.set_detect_anomaly(True):
            found = gradient(verb, given)
    assert all(torch.equal(a, b) for a, b in zip(found, gradient(verb, given), strict=True))


@pytest.mark.cpu
def test_threads_that_call_at_once_get_what_one_gets() -> None:
    expected = {name: gradient(*VERBS[name]) for name in VERBS}
    wrong: list[str] = []

    def call_all(first: int) -> None:
        names = list(VERBS)
        for name in names[first:] + names[:first]:
            for _ in range(3):
                found = gradient(*VERBS[name])
                if not all(torch.equal(a, b) for a, b in zip(found, expected[name], strict=True)):
                    wrong.append(name)

    threads = [threading.Thread(target=call_all, args=(3 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_optimizer_steps_in_any_mode() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    optimizer = Adam([parameter], lr=0.1)
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():
        optimizer.step()
    assert parameter.detach().allclose(torch.tensor(0.9))


@pytest.mark.cpu
@pytest.mark.skipif(sys.platform == "win32", reason="processes are not forked there")
def test_a_forked_process_computes_the_same() -> None:
    """The parent's threads run before the fork and do not exist behind it; nothing may wait for them, in any thread of the child."""
    large = {"hash_encode": W.rand(200_000, 3), "contract": W.rand(200_000, 3), "grid_lookup": W.rand(200_000, 3)}
    small = {name: given for name, (_, given) in VERBS.items() if name not in large}
    expected = {name: gradient(VERBS[name][0], given) for name, given in (large | small).items()}
    samples = march(W.rays, W.occupancy, step=0.01)
    kept = visible(samples, torch.full_like(samples.starts, 0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of forks beside threads, which is the point
        child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            same = torch.equal(visible(march(W.rays, W.occupancy, step=0.01), torch.full_like(samples.starts, 0.1)), kept)
            for name, given in (large | small).items():
                same &= all(torch.equal(a, b) for a, b in zip(gradient(VERBS[name][0], given), expected[name], strict=True))
            os._exit(0 if same else 1)
        os._exit(2)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the child did not end")

"""What holds for every operation along rays: arguments that do not fit are refused, and second derivatives are right or refused.

The operations are found in ``unrender.ops.rays.__all__``, so a new one is missing in the tables below until it has been added.
"""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

import unrender.ops.rays as ops
from hostile_world import remade
from unrender.cameras import Rays
from unrender.devices import as_on_a_gpu
from unrender.ops.rays import OccupancyGrid, Samples
from unrender.reference import compositing, grid_surface, multi_sphere, sdf_weights, voxels, weights
from unrender.reference import distortion as plain_distortion

COUNTS = [5, 0, 1, 9]
RAYS, USED, TAIL = len(COUNTS), sum(COUNTS), 3
SIZE = USED + TAIL


def drawn(*shape: int, low: float = 0.05, high: float = 0.95, seed: int = 0) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def packed() -> Samples:
    count = torch.tensor(COUNTS, dtype=torch.int32)
    ray_index = torch.cat([torch.repeat_interleave(torch.arange(RAYS), count), torch.full((TAIL,), -1)]).int()
    edges = torch.cat([drawn(USED, low=0.1, high=0.3).cumsum(0), torch.zeros(TAIL)])
    return Samples(ray_index, edges, torch.where(ray_index >= 0, edges + 0.1, 0.0), (count.cumsum(0) - count).int(), count)


SAMPLES = packed()
LENGTHS, MIDDLES = SAMPLES.lengths, SAMPLES.midpoints
RAYS_IN_SPACE = Rays(drawn(RAYS, 3, low=-0.5, high=0.5), torch.nn.functional.normalize(drawn(RAYS, 3, low=-1.0, seed=1), dim=1))
DISTANCES = drawn(3, 4, 5, 1, low=-0.5, high=0.5)
NONE_BEFORE = torch.zeros(RAYS, dtype=torch.int32)

VOXELS = ops.voxel_grid(drawn(3, 4, 5) > 0.3)
ROWS = len(VOXELS.vertices)
DENSITY, HARMONICS, LAYERS = drawn(ROWS, high=5.0), drawn(ROWS, 12, low=-1.0, seed=2), drawn(3, 4, 8, 4, seed=3)

PLACES = torch.arange(6)
IN_CAMERA = drawn(6, 3)
MAPS = ops.PixelMaps(torch.tensor([3, 2]), drawn(2, 3, 4, low=-1.0), torch.zeros(2, dtype=torch.int64), IN_CAMERA)

CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "add_voxel_variation": (
        ops.add_voxel_variation,
        {"grid": VOXELS, "values": HARMONICS, "gradient": torch.zeros(ROWS, 12), "begin": 0, "end": ROWS, "scale": 1.0},
    ),
    "aabb_intersection": (ops.aabb_intersection, {"rays": RAYS_IN_SPACE}),
    "attenuate": (ops.attenuate, {"samples": SAMPLES, "alpha": drawn(SIZE), "light": torch.ones(RAYS), "threshold": 0.1}),
    "attenuate_lazily": (ops.attenuate_lazily, {"samples": SAMPLES, "opacity": lambda part: 0.5 + 0 * part.starts, "threshold": 0.1}),
    "composite": (ops.composite, {"weights": drawn(SIZE), "values": drawn(SIZE, 3), "samples": SAMPLES}),
    "composite_over": (
        ops.composite_over,
        {
            "weights": drawn(SIZE),
            "colors": drawn(SIZE, 3),
            "normals": drawn(SIZE, 3),
            "samples": SAMPLES,
            "background": drawn(RAYS, 3),
        },
    ),
    "distortion": (ops.distortion, {"weights": drawn(SIZE), "samples": SAMPLES}),
    "grid_surface": (ops.grid_surface, {"samples": SAMPLES, "rays": RAYS_IN_SPACE, "distances": DISTANCES}),
    "grid_visible": (
        ops.grid_visible,
        {"samples": SAMPLES, "rays": RAYS_IN_SPACE, "distances": DISTANCES, "sharpness": torch.tensor(20.0), "anneal": 0.5},
    ),
    "largest_weights": (ops.largest_weights, {"rays": RAYS_IN_SPACE, "grid": VOXELS, "density": DENSITY, "step": 0.1}),
    "march": (
        ops.march,
        {
            "rays": RAYS_IN_SPACE,
            "grid": OccupancyGrid(16),
            "step": 0.1,
            "near": torch.zeros(RAYS),
            "far": torch.ones(RAYS),
            "offsets": drawn(RAYS),
            "capacity": 100,
        },
    ),
    "opacity_and_distance": (ops.opacity_and_distance, {"weights": drawn(SIZE), "samples": SAMPLES}),
    "prune": (ops.prune, {"samples": SAMPLES, "keep": drawn(SIZE) > 0.5}),
    "prune_hidden": (
        ops.prune_hidden,
        {"samples": SAMPLES, "opacity": lambda part: 0.5 + 0 * part.starts, "threshold": 0.1, "capacity": SIZE},
    ),
    "ray_range": (ops.ray_range, {"samples": SAMPLES, "begin": NONE_BEFORE, "end": SAMPLES.count, "capacity": SIZE}),
    "render_multi_sphere": (ops.render_multi_sphere, {"rays": RAYS_IN_SPACE, "image": LAYERS, "arriving": torch.ones(RAYS)}),
    "render_voxels": (
        ops.render_voxels,
        {
            "rays": RAYS_IN_SPACE,
            "grid": VOXELS,
            "density": DENSITY,
            "harmonics": HARMONICS,
            "step": 0.1,
            "offsets": drawn(RAYS),
        },
    ),
    "sdf_alpha": (
        ops.sdf_alpha,
        {"sdf": drawn(SIZE), "cosine": -drawn(SIZE), "lengths": drawn(SIZE), "sharpness": torch.tensor(20.0), "anneal": 1.0},
    ),
    "visible": (ops.visible, {"samples": SAMPLES, "alpha": drawn(SIZE)}),
    "pixel_rays": (ops.pixel_rays, {"views": PLACES % 2, "places": PLACES, "packed": PLACES.int(), "maps": MAPS}),
    "voxel_grid": (ops.voxel_grid, {"used": drawn(3, 4, 5) > 0.3}),
    "weights_from_alpha": (ops.weights_from_alpha, {"alpha": drawn(SIZE), "samples": SAMPLES}),
    "weights_from_density": (ops.weights_from_density, {"density": drawn(SIZE), "samples": SAMPLES}),
    "weights_from_sdf": (
        ops.weights_from_sdf,
        {"sdf": drawn(SIZE), "cosine": -drawn(SIZE), "samples": SAMPLES, "sharpness": torch.tensor(20.0), "anneal": 1.0},
    ),
    "Samples.gather": (Samples.gather, {"self": SAMPLES, "per_ray": drawn(RAYS, 2)}),
    "Samples.positions": (Samples.positions, {"self": SAMPLES, "rays": RAYS_IN_SPACE}),
}
"""A call of every operation that launches a kernel, with arguments that fit."""

WITHOUT_KERNELS = {
    *("MARCHED_PER_TRAINED", "OccupancyGrid", "Opacity", "PixelMaps", "Samples", "VoxelGrid"),
    *("ray_chunks", "rendering_capacity", "samples_taken"),
}
NOT_DIFFERENTIATED = {
    *("aabb_intersection", "add_voxel_variation", "attenuate", "attenuate_lazily", "grid_visible", "largest_weights"),
    *("march", "pixel_rays", "prune", "prune_hidden", "ray_range", "visible", "voxel_grid"),
}


def without_checks(value: Rays, **changed: Tensor) -> Rays:
    """Copy Rays with some tensors replaced, whatever their shapes."""
    made = object.__new__(Rays)
    for field in fields(value):
        object.__setattr__(made, field.name, changed.get(field.name, getattr(value, field.name)))
    return made


def broken(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield an argument with one thing wrong at a time."""
    if isinstance(value, Tensor) and value.ndim == 0:
        yield "two numbers", torch.stack([value, value])
        yield "an integer", value.long()
        yield "elsewhere", value.to("meta")
    elif isinstance(value, Tensor):
        yield "too short", value[:-1]
        yield "too long", torch.cat([value, value[:1]])
        yield "another dimension", value[..., None]
        yield "another type", value.to(torch.float32 if not value.is_floating_point() else torch.int64)
        yield "elsewhere", value.to("meta")
    elif isinstance(value, Rays):
        for field in fields(value):
            for wrong, tensor in broken(getattr(value, field.name)):
                yield f"{field.name} {wrong}", without_checks(value, **{field.name: tensor})


HOSTILE = [
    pytest.param(name, argument, value, id=f"{name}-{argument}-{wrong}")
    for name, (_, arguments) in CALLS.items()
    for argument, given in arguments.items()
    for wrong, value in broken(given)
    if not (argument in ("distances", "features", "image", "used") and wrong in ("too short", "too long"))  # grids of any size are right
]


BROKEN_FIELDS = [
    pytest.param(field.name, value, id=f"{field.name}-{wrong}")
    for field in fields(SAMPLES)
    for wrong, value in broken(getattr(SAMPLES, field.name))
]


@pytest.mark.parametrize(("name", "value"), BROKEN_FIELDS)
def test_samples_whose_tensors_do_not_fit_each_other_cannot_be_made(name: str, value: Tensor) -> None:
    with pytest.raises(ValueError, match="^Samples takes .*, got "):
        remade(SAMPLES, **{name: value})


def test_samples_take_indices_of_64_bits() -> None:
    wide = Samples(SAMPLES.ray_index.long(), SAMPLES.starts, SAMPLES.ends, SAMPLES.first.long(), SAMPLES.count.long())
    assert torch.equal(ops.composite(drawn(SIZE), drawn(SIZE, 3), wide), ops.composite(drawn(SIZE), drawn(SIZE, 3), SAMPLES))


def test_pixels_that_do_not_exist_have_no_ray() -> None:
    """Whatever their indices are: the kernel reads within the maps only."""
    views, places = torch.tensor([0, 2, -1, 1, 1]), torch.tensor([5, 0, 0, 6, -1])
    found = ops.pixel_rays(views, places, torch.full((5,), -1, dtype=torch.int32), MAPS)
    torch.testing.assert_close(found.directions[0], MAPS.poses[0, :, :3] @ IN_CAMERA[5])
    assert torch.equal(found.origins[0], MAPS.poses[0, :, 3]) and found.pixels[0].tolist() == [2.5, 1.5]
    assert not bool(found.directions[1:].any()) and not bool(found.origins[1:].any()) and bool((found.color == 1).all())


def exported() -> set[str]:
    return set(ops.__all__) - WITHOUT_KERNELS


def test_every_operation_is_called_below() -> None:
    assert {name for name in CALLS if "." not in name} == exported()
    assert NOT_DIFFERENTIATED | {name for name in TWICE if "." not in name} == exported()


@pytest.mark.parametrize("name", CALLS)
def test_the_calls_are_right_before_they_are_broken(name: str) -> None:
    call, arguments = CALLS[name]
    call(**arguments)


@pytest.mark.parametrize(("name", "argument", "value"), HOSTILE)
def test_arguments_that_do_not_fit_are_refused(name: str, argument: str, value: Any) -> None:
    call, arguments = CALLS[name]
    with pytest.raises(ValueError, match=r"(takes|got)"):
        inspect.unwrap(call)(**(arguments | {argument: value}))


@pytest.mark.parametrize("as_gpu", [False, True])
def test_indices_out_of_range_touch_no_memory_of_others(as_gpu: bool) -> None:
    """What ``first``, ``count`` and ``ray_index`` hold is not checked, because a GPU would have to be waited for; kernels stay inside."""
    far = 2**30
    wild = Samples(
        torch.tensor([far, -far, 0, 7] * 4 + [-1, 2], dtype=torch.int32),
        SAMPLES.starts,
        SAMPLES.ends,
        torch.tensor([-far, far, 2, 2**31 - 1], dtype=torch.int32),
        torch.tensor([far, far, far, 2**31 - 1], dtype=torch.int32),
    )
    tensors = {"alpha", "cosine", "density", "distances", "features", "per_ray", "sdf", "values", "weights"}
    for name, (call, arguments) in CALLS.items():
        if name in ("aabb_intersection", "march", "sdf_alpha", "attenuate_lazily", "prune_hidden"):
            continue
        given = {k: v.clone().requires_grad_() if k in tensors and name not in NOT_DIFFERENTIATED else v for k, v in arguments.items()}
        given |= {k: wild for k in ("samples", "self") if k in given}
        if name == "ray_range":
            given |= {"begin": torch.tensor([-far, 0, far, 5], dtype=torch.int32), "end": torch.tensor([-far, 3, far + 9, 9]).int()}
        if as_gpu:
            with as_on_a_gpu():
                found = call(**given)
        else:
            found = call(**given)
        results = [y for y in (found if isinstance(found, tuple) else (found,)) if isinstance(y, Tensor)]
        assert all(y.isfinite().all() for y in results), name
        if name not in NOT_DIFFERENTIATED and any(y.requires_grad for y in results):
            torch.stack([y.sum() for y in results]).sum().backward()


def test_rays_that_do_not_fit_into_the_capacity_keep_nothing() -> None:
    """With a capacity, what pruning writes stays within it, even if a ray in the middle is too long."""
    with as_on_a_gpu():
        for capacity in range(USED + 1):
            kept = ops.prune(SAMPLES, torch.ones(SIZE, dtype=torch.bool), capacity=capacity)
            assert kept.starts.shape == (capacity,) and int(kept.used()) <= capacity
            used = int(kept.used())
            assert torch.equal(kept.starts[:used], SAMPLES.starts[:used]) and (kept.ray_index[used:] == -1).all()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda samples: pickle.loads(pickle.dumps(samples))])
def test_a_copy_of_samples_has_memory_of_its_own(copied: Callable[[Samples], Samples]) -> None:
    samples = packed()
    expected = ops.opacity_and_distance(torch.ones(SIZE), samples)
    twin = copied(samples)
    samples.starts.zero_()
    samples.ends.zero_()
    del samples
    for ours, before in zip(ops.opacity_and_distance(torch.ones(SIZE), twin), expected, strict=True):
        assert torch.equal(ours, before)


def gathered(per_ray: Tensor) -> Tensor:
    used = (SAMPLES.ray_index >= 0)[:, None]
    return torch.where(used, per_ray[SAMPLES.ray_index.clamp_min(0).long()], 0.0)


TWICE: dict[str, tuple[Callable[..., Any], Callable[..., Any], list[Tensor]]] = {
    "composite": (
        lambda w, v: ops.composite(w, v, SAMPLES),
        lambda w, v: compositing.composite(w, v, SAMPLES),
        [drawn(SIZE), drawn(SIZE, 3, seed=1)],
    ),
    "composite_over": (
        lambda w, c, n, b: ops.composite_over(w, c, n, SAMPLES, b),
        lambda w, c, n, b: compositing.composite_over(w, c, n, SAMPLES, b),
        [drawn(SIZE), drawn(SIZE, 3, seed=1), drawn(SIZE, 3, low=-1.0, seed=2), drawn(RAYS, 3, seed=3)],
    ),
    "distortion": (lambda w: ops.distortion(w, SAMPLES), lambda w: plain_distortion.distortion(w, SAMPLES), [drawn(SIZE)]),
    "grid_surface": (
        lambda f: torch.cat([y.flatten() for y in ops.grid_surface(SAMPLES, RAYS_IN_SPACE, f)[1:5] if y is not None]),
        lambda f: torch.cat([y.flatten() for y in grid_surface.grid_surface(SAMPLES, RAYS_IN_SPACE, f)]),
        [DISTANCES],
    ),
    "opacity_and_distance": (
        lambda w: ops.opacity_and_distance(w, SAMPLES),
        lambda w: compositing.opacity_and_distance(w, SAMPLES),
        [drawn(SIZE)],
    ),
    "render_multi_sphere": (
        lambda image: ops.render_multi_sphere(RAYS_IN_SPACE, image).color,
        lambda image: multi_sphere.render_multi_sphere(RAYS_IN_SPACE, image).color,
        [LAYERS],
    ),
    "render_voxels": (
        lambda d, h: ops.render_voxels(RAYS_IN_SPACE, VOXELS, d, h, step=0.1).color,
        lambda d, h: voxels.render_voxels(RAYS_IN_SPACE, VOXELS, d, h, step=0.1).color,
        [DENSITY, HARMONICS],
    ),
    "sdf_alpha": (
        lambda f, c, s: ops.sdf_alpha(f, c, LENGTHS, s, 0.5),
        lambda f, c, s: sdf_weights.sdf_alpha(f, c, LENGTHS, s, 0.5),
        [drawn(SIZE, low=-0.1, high=0.1), -drawn(SIZE), torch.tensor(20.0)],
    ),
    "weights_from_alpha": (
        lambda a: ops.weights_from_alpha(a, SAMPLES),
        lambda a: weights.weights_from_alpha(a, SAMPLES),
        [drawn(SIZE, high=0.5)],
    ),
    "weights_from_density": (
        lambda d: ops.weights_from_density(d, SAMPLES),
        lambda d: weights.weights_from_density(d, SAMPLES),
        [drawn(SIZE, high=5.0)],
    ),
    "weights_from_sdf": (
        lambda f, c, s: ops.weights_from_sdf(f, c, SAMPLES, s, anneal=0.5),
        lambda f, c, s: sdf_weights.weights_from_sdf(f, c, SAMPLES, s, anneal=0.5),
        [drawn(SIZE, low=-0.1, high=0.1), -drawn(SIZE), torch.tensor(20.0)],
    ),
    "Samples.gather": (SAMPLES.gather, gathered, [drawn(RAYS, 2)]),
    "Samples.positions": (
        lambda o, d: SAMPLES.positions(Rays(o, d)),
        lambda o, d: gathered(o) + MIDDLES[:, None].to(o) * gathered(d),
        [RAYS_IN_SPACE.origins, RAYS_IN_SPACE.directions],
    ),
}
"""Every operation that is differentiated, its twin, and inputs."""
RAISES_TWICE = {
    *("grid_surface", "render_multi_sphere", "render_voxels", "sdf_alpha"),
    *("weights_from_alpha", "weights_from_density", "weights_from_sdf"),
}


def second_derivatives(call: Callable[..., Any], inputs: list[Tensor]) -> list[Tensor]:
    """Return the derivatives of v · (cotangent · ∂y/∂x), for fixed v, to the inputs and the cotangents."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    results = call(*inputs)
    results = list(results) if isinstance(results, tuple) else [results]
    cotangents = [drawn(*y.shape, low=-1.0, seed=5 + k).to(y.dtype).requires_grad_() for k, y in enumerate(results)]
    first = torch.autograd.grad(results, inputs, cotangents, create_graph=True)
    probe = sum((g * drawn(*g.shape, low=-1.0, seed=9 + k).to(g.dtype)).sum() for k, g in enumerate(first))
    assert isinstance(probe, Tensor)
    return [*torch.autograd.grad(probe, [*inputs, *cotangents], materialize_grads=True)]


@pytest.mark.parametrize("name", sorted(TWICE))
def test_second_derivatives_equal_the_twin_or_are_refused(name: str) -> None:
    ours, plain, inputs = TWICE[name]
    if name in RAISES_TWICE:
        with pytest.raises(RuntimeError, match=f"{name} has a first derivative only"):
            second_derivatives(ours, inputs)
        return
    expected = second_derivatives(plain, [x.double() for x in inputs])
    for got, wanted in zip(second_derivatives(ours, inputs), expected, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(RAISES_TWICE))
def test_no_second_derivative_is_silently_zero(name: str) -> None:
    """With a cotangent that needs no gradient, a gradient would pass for a constant."""
    ours, _, inputs = TWICE[name]
    inputs = [x.clone().requires_grad_() for x in inputs]
    (first, *_) = torch.autograd.grad(ours(*inputs).sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match=f"{name} has a first derivative only"):
        torch.autograd.grad(first.square().sum(), inputs)

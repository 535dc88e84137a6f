"""A call that is right for every public function of ``unrender.ops``, and what can be wrong with each of its arguments.

:func:`public_callables` finds the functions, classes, methods and properties; :data:`GENERATORS` has a value for every parameter, by name.
A new parameter without one fails the tests.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from functools import cache, cached_property
from random import Random
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from unrender.cameras import Cameras, LensModel, Rays
from unrender.ops import encodings, raster, rays
from unrender.ops.encodings import Adam, HashGrid, RmsProp
from unrender.ops.raster import Raster, TriangleTree, edge_topology, rasterize
from unrender.ops.rays import OccupancyGrid, PixelMaps, Samples, VoxelGrid, voxel_grid
from unrender.transforms import look_at

FAMILIES: tuple[ModuleType, ...] = (encodings, rays, raster)


@cache
def public_callables() -> dict[str, Callable[..., Any]]:
    """All functions, constructors, methods and properties that the families export, by name; a method takes ``self`` first."""
    found: dict[str, Callable[..., Any]] = {}
    for family in FAMILIES:
        for name in family.__all__:
            value = getattr(family, name)
            if inspect.isfunction(value):
                found[name] = value
            elif inspect.isclass(value):
                found[name] = value
                own = [base for base in reversed(value.__mro__) if base.__module__.startswith("unrender")]
                for member, what in {member: what for base in own for member, what in vars(base).items()}.items():
                    if member.startswith("_"):
                        continue
                    if isinstance(what, classmethod):
                        found[f"{name}.{member}"] = getattr(value, member)
                    elif isinstance(what, property | cached_property):
                        found[f"{name}.{member}"] = lambda self, member=member: getattr(self, member)
                    elif inspect.isfunction(what):
                        found[f"{name}.{member}"] = what
    return found


@cache
def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters
    return {name: parameter for name, parameter in parameters.items() if name != "member"}


class World:
    """Small valid arguments that fit each other, drawn from a seed."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.generator = torch.Generator().manual_seed(random.randrange(2**31))
        self.counts = [random.randrange(7) for _ in range(random.randrange(1, 6))]
        self.ray_count, self.tail = len(self.counts), random.randrange(3)
        self.size = sum(self.counts) + self.tail
        self.points = random.choice([1, 2, 5, 70, 130])
        self.channels = random.choice([1, 2, 3, 4, 5])
        self.views, self.height, self.width = random.choice([1, 2]), random.randrange(1, 10), random.randrange(1, 10)
        self.vertex_count = random.randrange(4, 9)
        self.is_cube = random.random() < 0.3
        self.shared = random.random() < 0.3

    def rand(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self.generator)

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=self.generator, dtype=torch.int32)

    @cached_property
    def samples(self) -> Samples:
        count = torch.tensor(self.counts, dtype=torch.int32)
        index = torch.cat([torch.repeat_interleave(torch.arange(self.ray_count), count), torch.full((self.tail,), -1)]).int()
        edges = self.rand(self.size).cumsum(0)
        return Samples(index, edges, torch.where(index >= 0, edges + 0.1, edges), (count.cumsum(0) - count).int(), count)

    @cached_property
    def rays(self) -> Rays:
        directions = torch.nn.functional.normalize(self.rand(self.ray_count, 3, low=-1.0), dim=1)
        return Rays(self.rand(self.ray_count, 3, low=-1.5, high=1.5), directions)

    @cached_property
    def occupancy(self) -> OccupancyGrid:
        grid = OccupancyGrid(16, self.random.choice([1, 2]))
        grid.set_from_values(self.rand(grid.values.shape[0]), 0.7)
        return grid

    @cached_property
    def cameras(self) -> Cameras:
        eyes = [look_at(torch.tensor(eye), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0])) for eye in ([0.0, -3.0, 0.5], [2.5, 1.0, 0.0])]
        lens: LensModel = self.random.choice(["opencv", "fisheye"])
        return Cameras.alike(torch.stack(eyes), torch.tensor([[9.0, 9.0, 4.0, 3.0]] * 2), None, 8, 6, lens)

    @cached_property
    def hash_grid(self) -> HashGrid:
        choose = self.random.choice
        return HashGrid(
            choose([1, 2]), choose([1, 2, 4, 8]), choose([3, 5, 8]), choose([2, 3, 4]), choose([1.0, 1.7]), choose(["linear", "smoothstep"])
        )

    @cached_property
    def layers(self) -> tuple[list[Tensor], list[Tensor]]:
        widths = [self.channels, *(self.random.choice([1, 7, 16, 64, 70]) for _ in range(self.random.randrange(3))), 2]
        weights = [self.rand(b, a, low=-1.0) for a, b in zip(widths, widths[1:], strict=False)]
        return weights, [self.rand(weight.shape[0]) for weight in weights]

    @cached_property
    def clip_positions(self) -> Tensor:
        shape = (self.vertex_count, 4) if self.shared else (self.views, self.vertex_count, 4)
        positions = self.rand(*shape, low=-1.5, high=1.5)
        positions[..., 3] = positions[..., 3].abs() + 0.1
        return positions

    @cached_property
    def faces(self) -> Tensor:
        faces = self.integers(self.vertex_count, self.random.randrange(1, 9), 3)
        return faces if self.random.random() < 0.7 else faces.long()

    @cached_property
    def ranges(self) -> Tensor | None:
        if not self.shared:
            return None
        first = self.integers(self.faces.shape[0] + 1, self.views)
        return torch.stack([first, self.faces.shape[0] - first], 1)

    @cached_property
    def raster(self) -> Raster:
        return rasterize(self.clip_positions, self.faces, (self.height, self.width), self.ranges, derivatives=True)

    @cached_property
    def texels(self) -> Tensor:
        texture_views, side = self.random.choice([1, self.views]), self.random.choice([1, 2, 4, 8])
        if self.is_cube:
            return self.rand(texture_views, 6, side, side, self.channels)
        return self.rand(texture_views, self.random.choice([1, 2, 8]), side, self.channels)

    @cached_property
    def optimizer(self) -> Adam:
        parameters = [torch.nn.Parameter(self.rand(40)), torch.nn.Parameter(self.rand(3, 5))]
        for parameter in parameters:
            parameter.grad = self.rand(*parameter.shape, low=-1.0)
        return Adam(parameters, lr=0.1)

    @cached_property
    def root_optimizer(self) -> RmsProp:
        parameters = [torch.nn.Parameter(self.rand(40)), torch.nn.Parameter(self.rand(3, 5))]
        for parameter in parameters:
            parameter.grad = self.rand(*parameter.shape, low=-1.0)
        return RmsProp(parameters, lr=0.1)

    @cached_property
    def voxels(self) -> VoxelGrid:
        return voxel_grid(self.rand(3, 7, 4) > 0.5)

    @cached_property
    def rows(self) -> int:
        return self.voxels.vertices.shape[0]

    def uv(self, columns: int) -> Tensor:
        return self.rand(self.views, self.height, self.width, columns, low=-1.0, high=2.0)

    def pick(self, *options: Any) -> Any:
        return self.random.choice(options)


Generate = Callable[[World], Any]

GENERATORS: dict[str, Generate] = {
    # points and encodings
    "positions": lambda w: w.rand(w.points, 3),
    "contracted": lambda w: w.rand(w.points, 3, low=-1.0),
    "directions": lambda w: w.rand(w.points, 3, low=-1.0),
    "grid": lambda w: w.rand(2, 3, 4, w.channels),
    "distances": lambda w: w.rand(2, 3, 4, 1, low=-0.5, high=0.5),
    "other": lambda w: w.pick(None, w.rand(2, 3, 4, 1, low=-0.5, high=0.5)),
    "smoothed_grid.grid": lambda w: w.rand(2, 3, 4, 1),
    "add_grid_bending.grid": lambda w: w.rand(5, 3, 4, 1),
    "gradient": lambda w: w.rand(5, 3, 4, 1),
    "add_grid_bending.begin": lambda w: w.pick(0, 1),
    "add_grid_bending.end": lambda w: w.pick(4, 5),
    "scale": lambda w: w.pick(0.0, 0.5),
    "tensors": lambda w: [w.rand(w.points, 3), w.rand(2)],
    "spared": lambda w: w.pick(None, w.rand(16, 16, 16) > 0.7),
    "pixel_rays.views": lambda w: w.integers(2, w.points).long(),
    "pixel_rays.places": lambda w: w.integers(6, w.points).long(),
    "packed": lambda w: w.integers(2**31 - 1, w.points),
    "maps": lambda w: PixelMaps(torch.tensor([3, 2]), w.rand(2, 3, 4), torch.zeros(2, dtype=torch.int64), w.rand(6, 3)),
    "widths": lambda w: w.integers(9, w.views).long(),
    "poses": lambda w: w.rand(w.views, 3, 4),
    "begins": lambda w: w.integers(9, w.views).long(),
    "PixelMaps.directions": lambda w: w.pick(None, w.rand(9, 3)),
    "hash_encode.grid": lambda w: w.hash_grid,
    "table": lambda w: w.rand(w.hash_grid.entries, w.hash_grid.features),
    "active_levels": lambda w: w.pick(None, 1, w.hash_grid.levels),
    "frequencies": lambda w: w.pick(1, 2, 5),
    "include_input": lambda w: w.pick(True, False),
    "active_frequencies": lambda w: w.pick(None, 0.5, 2.0),
    "degree": lambda w: w.pick(1, 2, 3, 4),
    "inputs": lambda w: w.rand(w.size, w.channels),
    "weights": lambda w: w.rand(w.size),
    "mlp.weights": lambda w: [torch.cat([w.layers[0][0], w.rand(w.layers[0][0].shape[0], 2)], dim=1), *w.layers[0][1:]],
    "shared": lambda w: w.rand(w.ray_count, 2),
    "encoded_mlp.grid": lambda w: w.hash_grid,
    "encoded_mlp.weights": lambda w: [w.rand(7, w.hash_grid.columns), w.rand(2, 7)],
    "encoded_mlp.biases": lambda w: [w.rand(7), w.rand(2)],
    "known": lambda w: None,
    "biases": lambda w: w.layers[1],
    "per_ray": lambda w: w.rand(w.ray_count, w.channels),
    "ray_index": lambda w: w.samples.ray_index,
    "sigmoid": lambda w: True,
    "colors": lambda w: w.rand(w.size, 3),
    "normals": lambda w: w.pick(None, w.rand(w.size, 3)),
    "background": lambda w: w.rand(w.ray_count, 3),
    "box": lambda w: w.pick(None, torch.tensor([[-1.0, -0.5, -2.0], [0.5, 1.0, 2.0]])),
    "levels": lambda w: w.pick(1, 2, 3),
    "features": lambda w: w.pick(1, 2, 4, 8),
    "log2_entries": lambda w: w.pick(3, 5, 8),
    "base_resolution": lambda w: w.pick(2, 4),
    "finest_resolution": lambda w: w.pick(8, 20),
    "per_level_scale": lambda w: w.pick(1.0, 1.5),
    "interpolation": lambda w: w.pick("linear", "smoothstep"),
    "device": lambda w: w.pick("cpu", torch.device("cpu")),
    "samples_taken.device": lambda w: torch.device("cpu"),
    "parameters": lambda w: [torch.nn.Parameter(w.rand(20))],
    "param_group": lambda w: {"params": [torch.nn.Parameter(w.rand(20))], "lr": 0.2},
    "lr": lambda w: w.pick(0.1, 0.0),
    "betas": lambda w: w.pick((0.9, 0.99), (0.0, 0.0)),
    "eps": lambda w: 1e-15,
    "weight_decay": lambda w: w.pick(0.0, 0.1),
    "closure": lambda w: None,
    "skip": lambda w: w.pick(None, torch.zeros(()), torch.ones(1)),
    "generator": lambda w: torch.Generator().manual_seed(3),
    # rays
    "samples": lambda w: w.samples,
    "trained": lambda w: w.samples,
    "marched": lambda w: w.samples,
    "rays": lambda w: w.rays,
    "march.grid": lambda w: w.occupancy,
    "step": lambda w: w.pick(0.05, 0.3, 5.0),
    "near": lambda w: w.pick(0.0, w.rand(w.ray_count)),
    "far": lambda w: w.pick(math.inf, 4.0, 4 * w.rand(w.ray_count)),
    "cone_angle": lambda w: w.pick(0.0, 0.01, 0.3),
    "offsets": lambda w: w.pick(None, w.rand(w.ray_count)),
    "capacity": lambda w: w.pick(0, w.size, 100),
    "max_samples_per_ray": lambda w: w.pick(None, 1, 20),
    "half_extent": lambda w: w.pick(1.0, 2.0),
    "alpha": lambda w: w.rand(w.size),
    "light": lambda w: w.rand(w.ray_count),
    "threshold": lambda w: w.pick(1e-4, 0.5),
    "alpha_threshold": lambda w: w.pick(0.0, 0.5),
    "early_stop": lambda w: w.pick(0.0, 0.3),
    "opacity": lambda w: lambda part: 0.5 + 0 * part.starts,
    "values": lambda w: w.rand(w.size, w.channels),
    "keep": lambda w: w.rand(w.size) > 0.4,
    "begin": lambda w: w.integers(3, w.ray_count),
    "end": lambda w: w.integers(7, w.ray_count),
    "density": lambda w: w.rand(w.size, high=5.0),
    "sdf": lambda w: w.rand(w.size, low=-1.0),
    "cosine": lambda w: w.rand(w.size, low=-1.0),
    "lengths": lambda w: w.rand(w.size),
    "sharpness": lambda w: torch.tensor(w.pick(1.0, 200.0)),
    "anneal": lambda w: w.pick(0.0, 0.5, 1.0),
    "samples_per_ray": lambda w: w.pick(1, 512),
    "starts": lambda w: w.samples.starts,
    "ends": lambda w: w.samples.ends,
    "first": lambda w: w.samples.first,
    "count": lambda w: w.samples.count,
    "resolution": lambda w: (w.height, w.width),
    "OccupancyGrid.resolution": lambda w: w.pick(16, 32),
    "cameras": lambda w: w.cameras,
    "views": lambda w: w.pick([0], [0, 1], (1,)),
    "masks": lambda w: w.pick(None, [w.integers(256, 6, 8).to(torch.uint8) for _ in range(2)]),
    "margin": lambda w: w.pick(0.0, 2.0),
    "evaluate": lambda w: lambda points: points.norm(dim=1),
    "decay": lambda w: w.pick(0.0, 0.95),
    "cells": lambda w: w.pick(None, 5, 10_000),
    "OccupancyGrid.set_from_values.values": lambda w: w.rand(w.occupancy.values.shape[0]),
    # voxels
    "used": lambda w: w.rand(3, 7, 4) > 0.5,
    "positive": lambda w: w.rand(w.rows) > 0.5,
    "rows": lambda w: w.voxels.rows,
    "clearance": lambda w: w.voxels.clearance,
    "places": lambda w: w.voxels.places,
    "corners": lambda w: w.voxels.corners,
    "VoxelGrid.cells": lambda w: w.voxels.cells,
    "VoxelGrid.vertices": lambda w: w.voxels.vertices,
    "render_voxels.grid": lambda w: w.voxels,
    "render_voxels.density": lambda w: w.rand(w.rows, low=-1.0, high=5.0),
    "render_voxels.near": lambda w: w.pick(0.0, 1.0),
    "harmonics": lambda w: w.rand(w.rows, w.pick(3, 12, 27), low=-1.0),
    "stop": lambda w: w.pick(0.0, 0.1),
    "largest_weights.grid": lambda w: w.voxels,
    "largest_weights.density": lambda w: w.rand(w.rows, high=5.0),
    "largest_weights.near": lambda w: w.pick(0.0, 1.0),
    "add_voxel_variation.grid": lambda w: w.voxels,
    "add_voxel_variation.values": lambda w: torch.ones(w.rows, 4),
    "add_voxel_variation.gradient": lambda w: torch.ones(w.rows, 4),
    "add_voxel_variation.begin": lambda w: w.pick(0, 1),
    "add_voxel_variation.end": lambda w: w.pick(3, w.rows),
    "render_multi_sphere.image": lambda w: w.rand(w.pick(1, 3), 2, 4, 4, low=-1.0, high=3.0),
    "unit": lambda w: w.pick(1.0, 30.0),
    "arriving": lambda w: w.pick(None, w.rand(w.ray_count)),
    "beta": lambda w: w.pick(0.0, 0.95),
    # meshes and pictures
    "vertices": lambda w: w.rand(w.vertex_count, 3, low=-1.0),
    "faces": lambda w: w.faces,
    "tree": lambda w: TriangleTree(w.rand(w.vertex_count, 3, low=-1.0), w.faces),
    "origins": lambda w: w.rays.origins,
    "cast_rays.directions": lambda w: w.rays.directions,
    "occluded.directions": lambda w: w.rays.directions,
    "min_distance": lambda w: w.pick(0.0, 0.1),
    "max_distance": lambda w: w.pick(math.inf, 2.0, w.rand(w.ray_count)),
    "clip_positions": lambda w: w.clip_positions,
    "ranges": lambda w: w.ranges,
    "derivatives": lambda w: w.pick(True, False),
    "behind": lambda w: w.pick(None, w.raster),
    "layers": lambda w: w.pick(1, 2),
    "raster": lambda w: w.raster,
    "face": lambda w: w.raster.face,
    "barycentrics": lambda w: w.raster.barycentrics,
    "depth": lambda w: w.raster.depth,
    "barycentric_derivatives": lambda w: w.pick(None, w.raster.barycentric_derivatives),
    "distance": lambda w: w.rand(w.ray_count),
    "across": lambda w: edge_topology(w.faces).across,
    "attributes": lambda w: w.rand(*w.pick((), (1,), (w.views,)), w.vertex_count, w.channels),
    "channels": lambda w: w.pick(None, [0], [-1, 0]),
    "color": lambda w: w.rand(w.views, w.height, w.width, w.channels),
    "topology": lambda w: w.pick(None, edge_topology(w.faces)),
    "rule": lambda w: w.pick("walk", "owner"),
    "position_gradient_scale": lambda w: w.pick(1.0, 2.0),
    "texels": lambda w: w.texels,
    "uv": lambda w: w.uv(3 if w.is_cube else 2),
    "uv_derivatives": lambda w: w.pick(None, w.uv(6 if w.is_cube else 4)),
    "level_bias": lambda w: w.pick(None, w.uv(1)[..., 0]),
    "mips": lambda w: w.pick(None, raster.build_mips(w.texels, cube=w.is_cube)),
    "filter": lambda w: w.pick("auto", "auto", "nearest", "linear"),
    "boundary": lambda w: "cube" if w.is_cube else w.pick("wrap", "clamp", "zero"),
    "max_level": lambda w: w.pick(None, 0, 1, 5),
    "cube": lambda w: w.is_cube,
}
"""A valid value for each parameter, by its name, or by that of its function too where several functions mean different things by it."""

INSTANCES: dict[str, Generate] = {
    "Adam": lambda w: w.optimizer,
    "HashGrid": lambda w: w.hash_grid,
    "OccupancyGrid": lambda w: w.occupancy,
    "RmsProp": lambda w: w.root_optimizer,
    "Samples": lambda w: w.samples,
    "VoxelGrid": lambda w: w.voxels,
}
"""An object of each class that has methods."""


def generator_of(name: str, parameter: str) -> Generate:
    """Find what makes a parameter of a function; raises a KeyError for one that nobody has thought of."""
    if parameter == "self":
        return INSTANCES[name.split(".")[0]]
    return GENERATORS.get(f"{name}.{parameter}") or GENERATORS[parameter]


def valid_arguments(name: str, world: World) -> dict[str, Any]:
    return {parameter: generator_of(name, parameter)(world) for parameter in parameters_of(public_callables()[name])}


COUNTS = [-1, 0, 1, 2, 3, 17, 2**31 - 1, 2**31, 2**40, 10**30, -(2**63)]
NUMBERS = [math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-45, 1e-9, 1e30, 1e308]
NAMES = ["", "mirror", "cubic", "meta", "cuda:9", "wrap", "clamp", "cube", "linear-mipmap-linear", "linear-mipmap-nearest"]


def remade(value: Any, **changed: Any) -> Any:
    """Make a data class again with some fields replaced, past the tests' own type checker, which would refuse them first."""
    made = object.__new__(type(value))
    kept = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    inspect.unwrap(type(value).__init__)(made, **(kept | changed))
    return made


def mutated(value: Any, random: Random) -> Any:
    """Return an argument with something wrong; a ValueError may come from the class of the argument, which refuses it.

    Functions among them raise nothing: an error of the caller's own function stays as it is.
    """
    if random.random() < 0.08:
        others = [None, 3, -1, 0.5, math.nan, "x", b"x", [], (), {}, object(), np.zeros(3, np.float32), torch.zeros(2), True, repr]
        return random.choice(others)
    if isinstance(value, Tensor):
        return mutated_tensor(value, random)
    if isinstance(value, bool):
        return random.choice([0, 1, None, "yes", 1.0])
    if isinstance(value, int):
        return random.choice([*COUNTS, True, 1.0, math.nan, "3", np.int64(2), None])
    if isinstance(value, float):
        return random.choice([*NUMBERS, 2, 10**400, "x", None, np.float32(0.5), 1j])
    if isinstance(value, str):
        return random.choice([*NAMES, value.upper(), value.encode(), None, 3])
    if isinstance(value, torch.Generator):
        return random.choice([None, 3, torch.rand(1)])
    if isinstance(value, torch.device):
        return random.choice([None, "cpu", "meta", torch.device("meta"), 0])
    if isinstance(value, list | tuple):
        return mutated_items(value, random)
    if isinstance(value, dict):
        key = random.choice(list(value))
        return {**value, key: mutated(value[key], random)}
    if isinstance(value, OccupancyGrid):
        return mutated_grid(value, random)
    if isinstance(value, Adam | RmsProp):
        return mutated_optimizer(value, random)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        field = random.choice([field.name for field in dataclasses.fields(value)])
        return remade(value, **{field: mutated(getattr(value, field), random)})
    if isinstance(value, TriangleTree):
        return random.choice([None, value.vertices, "tree"])
    if callable(value):
        called = cast(Callable[[Tensor], Tensor], value)
        wrong = [lambda x: None, lambda x: 0.5, lambda x: torch.rand(3), lambda x: called(x)[:, None], lambda x: called(x).double()]
        return random.choice([*wrong, lambda x: called(x)[:-1], lambda x: called(x) * math.nan, lambda x: -1e30 * called(x)])
    return random.choice([3, "x", torch.rand(2), [1], 0.5, -7])


def mutated_items(value: list[Any] | tuple[Any, ...], random: Random) -> Any:
    items = list(value)
    how = random.randrange(6)
    if how == 0 or not items:
        items = []
    elif how == 1:
        items = items[:-1]
    elif how == 2:
        items.append(items[0])
    elif how == 3:
        return tuple(reversed(items))
    else:
        k = random.randrange(len(items))
        items[k] = mutated(items[k], random)
    return type(value)(items)


def mutated_grid(grid: OccupancyGrid, random: Random) -> Any:
    how = random.randrange(6)
    if how < 3:
        return (grid.double, grid.half, lambda: grid.to("meta"))[how]()
    generator = torch.Generator().manual_seed(random.randrange(2**31))
    for buffer in (grid.bits, grid.clearance):
        buffer.copy_(torch.randint(-(2**31), 2**31, buffer.shape, generator=generator).int())
    if how == 4:
        grid.values.fill_(random.choice([math.nan, math.inf, -1.0]))
    if how == 5:
        grid.seen.fill_(False)
    return grid


def mutated_optimizer(optimizer: Adam | RmsProp, random: Random) -> Any:
    """State and gradients as a program may have loaded or set them."""
    parameter = random.choice(optimizer.param_groups[0]["params"])
    how = random.randrange(4)
    if how == 0:
        optimizer.step()
        name = random.choice(sorted(optimizer.state[parameter].keys() - {"step"}))
        optimizer.state[parameter][name] = mutated_tensor(optimizer.state[parameter][name], random)
    elif how == 1:
        parameter.grad = torch.zeros(parameter.shape).to_sparse()
    elif how == 2:
        parameter.grad = torch.full(parameter.shape, random.choice([math.nan, math.inf, 1e38]))
    else:
        parameter.data = torch.rand(*parameter.shape, 2)[..., 0]  # not contiguous
        parameter.grad = torch.ones_like(parameter)
    return optimizer


DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool),
]
FLOATS = [math.nan, math.inf, -math.inf, 3e38, -3e38, 1e-45, -0.0, 1e9, -1e9, 2.0**31, -1.0, 0.0, 1.0, 1e20]
INTEGERS = [-1, -2, 2**31 - 1, -(2**31), 1000, 2**20, 7, 3, 0]


def mutated_tensor(value: Tensor, random: Random) -> Any:
    how = random.randrange(12)
    if how < 4:
        return with_contents(value, random)
    if how < 7:
        shaped = with_shape(value, random)
        return shaped if random.random() < 0.5 else shaped.clone(memory_format=torch.contiguous_format)
    if how == 7:
        return value.to(random.choice(DTYPES))
    if how == 8:
        return random.choice([value.to("meta"), torch.nn.Parameter(value) if value.is_floating_point() else value.to("meta")])
    if how == 9:
        if value.ndim == 0 or value.dtype == torch.uint8:
            return value.to_sparse() if value.ndim else value
        with_negative_bit = (1j * value.float()).conj().imag
        return random.choice([value.to_sparse(), value[:1].expand_as(value), with_negative_bit, torch.empty_like(value)[..., :0]])
    if how == 10:
        array = value.detach().numpy()
        return random.choice([array, array.tolist(), None, 1.0, 2, "tensor", object(), array.astype(np.float64)])
    return torch.stack([value, value], -1)[..., 0]  # valid, in another layout


def with_contents(value: Tensor, random: Random) -> Tensor:
    value = value.clone()
    if value.numel() == 0:
        return value
    options = FLOATS if value.is_floating_point() else INTEGERS + ([2**40, -(2**40)] if value.dtype == torch.int64 else [])
    if value.dtype in (torch.bool, torch.uint8):
        options = [0, 1]
    flat = value.view(-1)
    if random.random() < 0.3:
        return value.fill_(random.choice(options))
    for _ in range(random.randrange(1, 4)):
        flat[random.randrange(flat.shape[0])] = random.choice(options)
    return value


def with_shape(value: Tensor, random: Random) -> Tensor:
    how = random.randrange(9)
    if value.ndim == 0 or how == 0:
        return value[None]
    axis = random.randrange(value.ndim)
    if how == 1:
        return value.narrow(axis, 0, 0)
    if how in (2, 3):
        return value.narrow(axis, 0, max(value.shape[axis] - 1, 0))
    if how in (4, 5):
        return torch.cat([value, value.narrow(axis, 0, min(1, value.shape[axis]))], axis)
    if how == 6:
        return value.unsqueeze(random.randrange(value.ndim + 1))
    if how == 7:
        return value.transpose(0, -1)
    return value.reshape(-1) if value.ndim > 1 else value[:1]

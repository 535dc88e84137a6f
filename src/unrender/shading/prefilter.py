"""Environments seen by rough surfaces: cube maps convolved with the lobes of GGX and with the cosine.

The *split sum* (Karis, Real shading in Unreal Engine 4, 2013) writes the light that a GGX surface reflects as a product,

    ∫ L(l) f(l, v) max(n · l, 0) dl  ≈  P(r, roughness) · (F0 A + B),    r = 2 (n · v) n − v,

where P, the *prefiltered* environment, is a weighted mean of L with the weights D(n · h; α) max(n · l, 0) dl of a surface seen along its
normal (n = v = r), α = roughness², and (A, B) is :func:`unrender.shading.reflectance.directional_albedo`. The diffuse part is the mean with
the weights max(n · l, 0) dl. Weights use the exact solid angles of the texels and are divided by their sum: in a white furnace, L = 1
everywhere, both are 1 for every direction and roughness.

P is stored at the levels ``ROUGHNESS`` and interpolated linearly between them. A level is as large as its lobe needs: a lobe too narrow for
the 16 texels of the coarsest cubes is divided into a core, within the angle at which 90 % of the energy of a GGX lobe lie, on a larger
cube, and the rest on the coarsest one. A lobe narrower than a texel of the environment has no level: level 0 is the environment itself.

A lobe depends only on the angle between two texels, so the weights of one texel are those of all 48 to which it can be turned and mirrored.
Stored are therefore 1/48 of the rows, which multiply 48 turned copies of the environment, side by side: a convolution becomes a product of
matrices that fits into the cache.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix, vstack
from scipy.spatial import KDTree
from torch import Tensor

from unrender.numerics import normalized
from unrender.ops.kernels.derivatives import differentiable_once
from unrender.shading.cubes import cube_directions, solid_angles, turned_texels, turns

ROUGHNESS = (0.0, 0.1, 0.185, 0.29, 0.395, 0.5, 0.7, 1.0)
"""Of the levels, as far as the environment resolves them."""

TURNS = 48

_COARSEST = 16
"""Texels along an edge of the cubes of wide lobes: the halves of the environment's size, down to this one."""

_CORE = 3.0
"""tan θ / α of the half vector at the border of a core."""

_CORE_ENERGY = 1 - 1 / (1 + _CORE**2)
"""Within the core lie 90 % of ∫ D(n · h) (n · h) dh."""

_FINEST = 1.2
"""Largest side of a texel, in half widths of the lobe."""

_RESOLVED = 1.2
"""A level exists if the environment's texels are smaller than this many half widths of its lobe."""

_PARTS = 4
"""A texel is integrated over as many parts along each side."""

_TURNS_AT_ONCE = 16
"""Copies of the environment in memory at a time."""

_DENSE = 0.25
"""From this share of weights that are not zero on, the matrix is stored whole."""


@dataclass(frozen=True)
class Lobe:
    """A kernel of directions: that of GGX seen along the normal, or the cosine."""

    roughness: float | None
    """None for the cosine."""
    part: Literal["whole", "core", "rest"] = "whole"


COSINE = Lobe(None)


@dataclass(frozen=True)
class CubeLevels:
    """The lobes with which the environment is convolved at one size, and how much of each level each of them is."""

    size: int
    lobes: tuple[Lobe, ...]
    shares: tuple[tuple[float, ...], ...]
    """[lobes, levels]."""


@lru_cache(maxsize=16)
def levels_of(size: int) -> tuple[tuple[float, ...], tuple[CubeLevels, ...]]:
    """Return the roughness of an environment's levels, and the cubes of all but level 0, the environment.

    >>> roughness, cubes = levels_of(32)
    >>> roughness, [(cube.size, len(cube.lobes)) for cube in cubes]
    ((0.0, 0.185, 0.29, 0.395, 0.5, 0.7, 1.0), [(32, 1), (16, 6)])
    """
    coarsest = size
    while coarsest > _COARSEST and coarsest % 2 == 0:
        coarsest //= 2
    levels = tuple(r for r in ROUGHNESS if r == 0 or _texel(size) <= _RESOLVED * _half_width(r))
    found: dict[int, list[tuple[Lobe, tuple[float, ...]]]] = {}
    for k, roughness in enumerate(levels[1:], start=1):
        wanted = coarsest
        while _texel(wanted) > _FINEST * _half_width(roughness) and wanted < size:
            wanted *= 2

        def add(at: int, part: Literal["whole", "core", "rest"], share: float, k: int = k, roughness: float = roughness) -> None:
            row = tuple(share if level == k else 0.0 for level in range(len(levels)))
            found.setdefault(at, []).append((Lobe(roughness, part), row))

        if wanted == coarsest:
            add(coarsest, "whole", 1.0)
        else:
            add(wanted, "core", _CORE_ENERGY)
            add(coarsest, "rest", 1.0 - _CORE_ENERGY)
    rows = [(at, tuple(zip(*found[at], strict=True))) for at in sorted(found, reverse=True)]
    return levels, tuple(CubeLevels(at, lobes, shares) for at, (lobes, shares) in rows)


def weights_of_levels(roughness: Float[Tensor, "*shape"], levels: tuple[float, ...]) -> Float[Tensor, "*shape levels"]:
    """Return the weights of the levels at each roughness, linear between two; they sum to one.

    >>> weights_of_levels(torch.tensor([0.25, 2.0]), (0.0, 0.5, 1.0)).tolist()
    [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    """
    if len(levels) == 1:
        return torch.ones_like(roughness)[..., None]
    ends = torch.tensor(levels, dtype=roughness.dtype, device=roughness.device)
    passed = ((roughness[..., None] - ends[:-1]) / (ends[1:] - ends[:-1])).clamp(0, 1)
    one, zero = torch.ones_like(passed[..., :1]), torch.zeros_like(passed[..., :1])
    return torch.cat([one, passed], -1) - torch.cat([passed, zero], -1)


def convolved(texels: Float[Tensor, "6 size size 3"], lobes: tuple[Lobe, ...]) -> Float[Tensor, "lobes 6 size size 3"]:
    """Convolve a cube map with each lobe; the weights of every texel sum to one.

    Raises:
        RuntimeError: when a second derivative is computed.
    """
    size = texels.shape[1]
    with torch.autocast(texels.device.type, enabled=False):
        kernel = _kernel(size, lobes, texels.dtype, texels.device)
        return _Convolve.apply(texels.reshape(-1, 3), kernel).view(len(lobes), 6, size, size, 3)  # type: ignore[no-any-return]


def _texel(size: int) -> float:
    """Return the angle across a texel, in the mean."""
    return math.pi / 2 / size


def _half_width(roughness: float) -> float:
    """Return the angle from the reflected ray at which a lobe has half its height.

    The half vector has tan² θ = α² (√2 − 1) there.
    """
    return 2 * math.atan(roughness**2 * math.sqrt(math.sqrt(2) - 1))


@dataclass(frozen=True)
class _Kernel:
    """The rows of a convolution that are not turned copies of others, and the turns."""

    weights: Tensor
    """[lobes · rows, texels], dense or CSR."""
    transposed: Tensor
    copies: tuple[Int[Tensor, " texels_and_turns"], ...]
    """The texel that each turned copy has in the place of each texel."""
    copies_back: tuple[Int[Tensor, " texels_and_turns"], ...]
    results: Int[Tensor, " texels"]
    """The turn and row that give each texel of the result."""
    lobes: int


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, texels: Tensor, kernel: _Kernel) -> Tensor:
        ctx.kernel, count = kernel, texels.shape[0]
        ctx.save_for_backward(texels)  # an input, so that the guard sees what the gradient depends on
        rows = []
        for copies in kernel.copies:
            turned = texels.index_select(0, copies).view(count, -1)
            rows.append((kernel.weights @ turned).view(kernel.lobes, -1, 3))
        return torch.cat(rows, 1).index_select(1, kernel.results)

    @staticmethod
    @differentiable_once("convolved")
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        kernel, count = ctx.kernel, grads[0].shape[1]
        rows = kernel.weights.shape[0] // kernel.lobes
        grad_rows = grads[0].new_zeros(kernel.lobes, rows * TURNS, 3).index_copy_(1, kernel.results, grads[0])
        total = torch.zeros_like(grads[0][0])
        for back, part in zip(kernel.copies_back, grad_rows.split(rows * _TURNS_AT_ONCE, 1), strict=True):
            grad_turned = kernel.transposed @ part.reshape(kernel.lobes * rows, -1)
            total += grad_turned.view(-1, 3).index_select(0, back).view(count, -1, 3).sum(1)
        return total, None


@lru_cache(maxsize=32)
def _kernel(size: int, lobes: tuple[Lobe, ...], dtype: torch.dtype, device: torch.device) -> _Kernel:
    """Build the matrix of a convolution.

    The cached tensors must not be inference tensors, even if the first caller is in inference mode.
    """
    with torch.inference_mode(False), torch.no_grad():
        places, matrices = turned_texels(size), turns()
        x, y, z = cube_directions(size, torch.float64).reshape(-1, 3).unbind(-1)
        rows = ((x >= y) & (y >= z) & (z >= 0)).nonzero()[:, 0].numpy()  # all other texels are turned copies of these
        results = np.empty(places.shape[1], np.int64)
        for turn, place in enumerate(places):
            group, member = divmod(turn, _TURNS_AT_ONCE)
            results[place[rows]] = (group * len(rows) + np.arange(len(rows))) * _TURNS_AT_ONCE + member
        inverse = [next(k for k in range(TURNS) if np.array_equal(matrices[k], matrix.T)) for matrix in matrices]
        copies, copies_back = [], []
        for start in range(0, TURNS, _TURNS_AT_ONCE):
            group = slice(start, start + _TURNS_AT_ONCE)
            copies.append(_indices(places[group].T, device))
            copies_back.append(_indices(places[inverse[group]].T * _TURNS_AT_ONCE + np.arange(_TURNS_AT_ONCE), device))
        weights = csr_matrix(vstack([_weights(size, lobe, rows) for lobe in lobes]))
        transposed = _as_tensor(csr_matrix(weights.T), dtype, device)
        return _Kernel(
            _as_tensor(weights, dtype, device), transposed, tuple(copies), tuple(copies_back), _indices(results, device), len(lobes)
        )


def _indices(numbers: np.ndarray, device: torch.device) -> Int[Tensor, " rows"]:
    return torch.from_numpy(np.ascontiguousarray(numbers).reshape(-1)).to(device)


def _weights(size: int, lobe: Lobe, rows: Int[np.ndarray, " rows"]) -> csr_matrix:
    """Return the weights [rows, texels] of the texels around each row's texel.

    They are integrated over the parts of each texel; rows sum to one.
    """
    directions = normalized(cube_directions(size, torch.float64).reshape(-1, 3)).numpy()
    fine = cube_directions(size * _PARTS, torch.float64)
    angles = solid_angles(size * _PARTS, torch.float64).expand(6, -1, -1)

    def by_texel(values: Tensor) -> np.ndarray:
        """Group the parts of each texel: [texels, parts, channels]."""
        channels = values.shape[-1]
        grouped = values.reshape(6, size, _PARTS, size, _PARTS, channels).permute(0, 1, 3, 2, 4, 5)
        return grouped.reshape(-1, _PARTS * _PARTS, channels).numpy()

    part_directions, part_angles = by_texel(normalized(fine)), by_texel(angles[..., None])[..., 0]
    border = -1.0 if lobe.roughness is None else math.cos(2 * math.atan(_CORE * lobe.roughness**2))
    reach = math.pi / 2 if lobe.part != "core" else math.acos(border)
    around = KDTree(directions).query_ball_point(directions[rows], 2 * math.sin(min(math.pi, reach + 2 * _texel(size)) / 2))
    row = np.repeat(np.arange(len(rows)), [len(found) for found in around])
    column = np.concatenate(around).astype(np.int64)
    values = np.empty(len(row))
    for start in range(0, len(row), 2**18):
        some = slice(start, start + 2**18)
        cosine = np.einsum("npc,nc->np", part_directions[column[some]], directions[rows[row[some]]])
        weight = _density(cosine, lobe.roughness) * cosine.clip(0) * part_angles[column[some]]
        keep = np.ones_like(cosine, bool) if lobe.part == "whole" else (cosine >= border) == (lobe.part == "core")
        values[some] = (weight * keep).sum(1)
    kept = values > 0
    matrix = csr_matrix((values[kept], (row[kept], column[kept])), shape=(len(rows), len(directions)))
    return matrix.multiply(1 / np.asarray(matrix.sum(1)).reshape(-1, 1)).tocsr()


def _density(cosine: np.ndarray, roughness: float | None) -> np.ndarray:
    """Evaluate D(n · h; α), up to a constant, of a surface seen along its normal; 1 for the cosine."""
    if roughness is None:
        return np.ones_like(cosine)
    squared = ((1 + cosine) / 2).clip(0, 1)  # (n · h)²
    return 1 / (squared * roughness**4 + 1 - squared) ** 2


def _as_tensor(matrix: csr_matrix, dtype: torch.dtype, device: torch.device) -> Tensor:
    whole = matrix.nnz > _DENSE * math.prod(matrix.get_shape())
    if whole:
        return torch.from_numpy(matrix.toarray()).to(device, dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(np.int64)),
            torch.from_numpy(matrix.indices.astype(np.int64)),
            torch.from_numpy(matrix.data).to(dtype),
            matrix.shape,
            device=device,
            check_invariants=True,
        )

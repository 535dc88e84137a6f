"""A hash encoding with its perceptron, as one operation and in turn, and seeing a field against pruning and evaluating its samples."""

from __future__ import annotations

import torch
from harness import Row, compare

from unrender.cameras import Rays
from unrender.fields.radiance import RadianceField
from unrender.ops.encodings import encoded_mlp, hash_encode, mlp
from unrender.ops.rays import Samples, prune_hidden
from unrender.recipes.nerf import PRESETS

_DARK = 1e-3
"""Transmittance at which a ray ends."""
_SAMPLES_PER_RAY = 32


def rows(quick: bool) -> list[Row]:
    """Measure the field of `nerf` on a CPU."""
    if torch.get_default_device().type != "cpu":
        return []
    rays, repeats = (256, 3) if quick else (4096, 7)
    field = PRESETS["cpu"].field.field(unbounded=False, generator=torch.Generator().manual_seed(0))
    return [_together(field, rays * 16, repeats), _seen(field, rays, repeats)]


def _together(field: RadianceField, points: int, repeats: int) -> Row:
    """Measure forward and backward, with gradients of all outputs and of the first."""
    positions, weights, biases = torch.rand(points, 3), list(field.density_net.weights), list(field.density_net.biases)
    leaves = [field.table, *weights, *biases]
    cotangents = torch.randn(field.feature_count, points).t(), torch.randn(points)

    def ours() -> object:
        return torch.autograd.grad(encoded_mlp(positions, field.table, field.grid, weights, biases), leaves, cotangents)

    def peer() -> object:
        outputs = mlp(hash_encode(positions, field.table, field.grid), weights, biases)
        return torch.autograd.grad((outputs, outputs[:, 0]), leaves, cotangents)

    name = f"encoding and perceptron of `nerf`, {points:,} points, forward + backward"
    return compare(name, ours, peer, peer_name="hash_encode, then mlp", items=points, repeats=repeats)


@torch.no_grad()
def _seen(field: RadianceField, rays: int, repeats: int) -> Row:
    """Measure visible samples and the field there, in a fog in which most rays end in the first half."""
    field.density_net.biases[-1][0] = 3.0
    count = torch.full((rays,), _SAMPLES_PER_RAY, dtype=torch.int32)
    index = torch.arange(rays, dtype=torch.int32)
    starts = torch.linspace(0, 2, _SAMPLES_PER_RAY + 1)[:-1].repeat(rays)
    samples = Samples(index.repeat_interleave(_SAMPLES_PER_RAY), starts, starts + 2 / _SAMPLES_PER_RAY, index * _SAMPLES_PER_RAY, count)
    directions = torch.nn.functional.normalize(torch.randn(rays, 3), dim=1)
    lines, total = Rays(-directions, directions), rays * _SAMPLES_PER_RAY

    def opacity(part: Samples) -> torch.Tensor:
        return 1 - torch.exp(-field.density(part.positions(lines))[0] * part.lengths)

    def ours() -> object:
        return field.seen(samples, lines, threshold=_DARK, expected=total)

    def peer() -> object:
        return field.density(prune_hidden(samples, opacity, threshold=_DARK, capacity=total).positions(lines))

    name = f"visible samples of {total:,} and the field of `nerf` there"
    return compare(name, ours, peer, peer_name="prune_hidden, then the field", items=total, repeats=repeats)

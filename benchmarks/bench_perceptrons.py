"""Small perceptrons against PyTorch's: forward and backward, in the processor's time of one thread on a CPU.

On a GPU they are also timed as tiles: where these are faster than ``mlp``, it may call them.
"""

from __future__ import annotations

import time

import torch
from harness import Clock, Row, Work, compare
from torch import nn

from unrender.devices import pytorch_on_one_thread
from unrender.ops.encodings import mlp
from unrender.ops.encodings.tiled_mlp import tiled_mlp

_SIZES = ((16, 16, 1), (32, 16, 16), (32, 32, 16), (32, 64, 64, 3), (64, 128, 128, 16), (63, 256, 256, 256, 256))
_COUNTS = (2**12, 2**14, 2**17)
_SMALLEST = 2**26
"""Samples times weights of a timed call, at least: a call of few is repeated."""
_LARGEST = 2**33
"""Samples times weights, at most."""


def rows(quick: bool) -> list[Row]:
    """Measure perceptrons of all widths, with few and many samples."""
    on_cpu = torch.get_default_device().type == "cpu"
    with pytorch_on_one_thread():
        return [
            row
            for sizes in (_SIZES[1:4] if quick else _SIZES)
            for count in (_COUNTS[:1] if quick else _COUNTS)
            if sum(a * b for a, b in zip(sizes, sizes[1:], strict=False)) * count < _LARGEST
            for row in _rows(sizes, count, time.process_time if on_cpu else time.perf_counter, 3 if quick else 9)
        ]


def _rows(sizes: tuple[int, ...], count: int, clock: Clock, repeats: int) -> list[Row]:
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    linears = [nn.Linear(i, o) for i, o in zip(sizes, sizes[1:], strict=False)]
    network = nn.Sequential(*[layer for linear in linears for layer in (linear, nn.ReLU())][:-1])
    weights, biases = [linear.weight for linear in linears], [linear.bias for linear in linears]
    inputs = torch.randn(sizes[0], count, generator=generator).t().requires_grad_()
    rows_first = inputs.detach().contiguous().requires_grad_()
    cotangent = torch.randn(sizes[-1], count, generator=generator).t()
    cotangent_rows = cotangent.contiguous()
    calls = max(1, _SMALLEST // (count * sum(weight.numel() for weight in weights)))

    def repeated(work: Work) -> Work:
        return lambda: [work() for _ in range(calls)]

    def ours() -> object:
        return torch.autograd.grad(mlp(inputs, weights, biases), [inputs, *weights, *biases], cotangent)

    def peer() -> object:
        return torch.autograd.grad(network(rows_first), [rows_first, *network.parameters()], cotangent_rows)

    def tiled() -> object:
        return torch.autograd.grad(tiled_mlp(inputs, weights, biases), [inputs, *weights, *biases], cotangent)

    name, items = f"{'-'.join(str(size) for size in sizes)}, {count:,} samples", count * calls
    name = name if calls == 1 else f"{name}, {calls} times"
    found = [compare(name, repeated(ours), repeated(peer), peer_name="nn.Sequential", items=items, repeats=repeats, clock=clock)]
    if inputs.device.type != "cpu" and len(weights) in (2, 3) and max(sizes) <= 64:
        found.append(compare(f"{name}, as tiles", repeated(tiled), repeated(ours), peer_name="mlp", items=items, clock=clock))
    return found

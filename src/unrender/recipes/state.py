"""Nested state as flat tensors: what a snapshot is made of.

Optimizers keep dictionaries and lists of tensors, numbers and None. Safetensors files hold named tensors alone. So tensors go under their
path in the nest, and all the rest goes into one text, kept as a tensor of bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

_TENSOR = "tensor at"
"""Key of the place holder that stands for a tensor in the text."""
_PAIRS = "pairs"
"""Key of a dictionary whose own keys are no strings: JSON would change them."""


@runtime_checkable
class Stateful(Protocol):
    """Anything a fit must give back when it resumes: a module, an optimizer, a counter."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as nested dictionaries and lists of tensors and plain values."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Take over a state that :meth:`state_dict` returned."""
        ...


def flatten_state(state: Any, prefix: str) -> dict[str, Tensor]:
    """Copy a nested state into named tensors on the CPU; :func:`unflatten_state` is the inverse.

    >>> sorted(flatten_state({"lr": 0.1, 0: [torch.ones(2), None]}, "optimizer"))
    ['optimizer', 'optimizer.0.0']
    """
    tensors: dict[str, Tensor] = {}

    def write(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            tensors[path] = value.detach().cpu().clone()
            return {_TENSOR: path}
        if isinstance(value, Mapping):
            if all(isinstance(key, str) for key in value):
                return {key: write(item, f"{path}.{key}") for key, item in value.items()}
            return {_PAIRS: [[key, write(item, f"{path}.{key}")] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            return [write(item, f"{path}.{index}") for index, item in enumerate(value)]
        return value

    text = json.dumps(write(state, prefix), separators=(",", ":"))
    tensors[prefix] = torch.frombuffer(bytearray(text, "utf-8"), dtype=torch.uint8)
    return tensors


def unflatten_state(tensors: Mapping[str, Tensor], prefix: str) -> Any:
    """Rebuild the state that :func:`flatten_state` wrote under ``prefix``; tuples come back as lists."""

    def read(value: Any) -> Any:
        if isinstance(value, dict):
            if _TENSOR in value:
                return tensors[value[_TENSOR]].clone()
            if _PAIRS in value:
                return {key: read(item) for key, item in value[_PAIRS]}
            return {key: read(item) for key, item in value.items()}
        if isinstance(value, list):
            return [read(item) for item in value]
        return value

    return read(json.loads(bytes(tensors[prefix].tolist()).decode("utf-8")))

"""Nested state as flat named tensors, the content of a snapshot.

The state of an optimizer is dictionaries and lists of tensors, numbers and None, but a safetensors file stores only named tensors. Each
tensor is therefore named by its path in the nested state; the rest is JSON, stored as a tensor of bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

_TENSOR = "tensor at"
"""Key of the placeholder for a tensor in the JSON."""
_PAIRS = "pairs"
"""Key that marks a dictionary with keys other than strings, which JSON would change."""


@runtime_checkable
class Stateful(Protocol):
    """Anything that a fit restores when it resumes: a module, an optimizer, a counter."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as nested dictionaries and lists of tensors and plain values."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Restore a state that :meth:`state_dict` returned."""
        ...


def flatten_state(state: Any, prefix: str) -> dict[str, Tensor]:
    """Copy a nested state into named tensors on the CPU; :func:`unflatten_state` is the inverse.

    Raises:
        ValueError: two tensors have the same path, as ``{"a.b": x, "a": {"b": y}}`` has.

    >>> sorted(flatten_state({"lr": 0.1, 0: [torch.ones(2), None]}, "optimizer"))
    ['optimizer', 'optimizer.0.0']
    """
    tensors: dict[str, Tensor] = {}

    def write(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            if path in tensors:
                raise ValueError(f"two tensors of a state are at {path}; rename one of their keys")
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

"""Helpers of kernels: splitting of CPU work, lazily allocated memory, asynchronous copies to a GPU.

On a CPU the gradients to vertices and texels are summed without atomics, in one of two ways; both give the same bits for any number of
threads. A large gradient is cut into ranges: the forward pass notes for each element, as bits, the ranges it reaches, and each range is one
work item that visits its elements in order. For a small one, each of a fixed number of chunks of the picture has a copy, and the copies are
added.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unrender.devices import on_cpu, thread_count

COPIES = 8
"""Copies of a small gradient; a constant, because the sums must not depend on the number of threads."""
MOST_RANGES = 16
"""Ranges of a large gradient; one bit each."""
_BLOCKS_PER_THREAD = 4
_NUMPY_TYPES = {torch.float32: np.float32, torch.int32: np.int32, torch.int64: np.int64}


@dataclass
class _Kept:
    """What :func:`recycled` has given out. Where nothing of the right size is free, all that is free is dropped."""

    arrays: list[np.ndarray] = field(default_factory=list)
    lock: AbstractContextManager[Any] = field(default_factory=threading.Lock)


_kept = _Kept()


def _forget_other_threads() -> None:
    """Replace the lock in a process made by ``fork``: another thread, which is missing there, may have held it."""
    _kept.lock = threading.Lock()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_other_threads)


def _references(arrays: list[np.ndarray]) -> list[int]:
    """Count the references to each array of a list, among them those of this function, whose number depends on Python."""
    return [sys.getrefcount(array) for array in arrays]


def _references_to_a_free_one() -> int | None:
    """Return what :func:`_references` finds for an array without a tensor; None where a tensor makes no difference."""
    arrays = [np.empty(1, np.float32), np.empty(1, np.float32)]
    tensor = torch.from_numpy(arrays[1])
    free, held = _references(arrays)
    del tensor
    return free if held > free else None


_FREE = _references_to_a_free_one()


def blocks(count: int, smallest: int, device: torch.device) -> tuple[int, int]:
    """Return (work items, elements per item) for items that own what they write.

    On a GPU an item has one element, on a CPU at least ``smallest``.
    """
    if not on_cpu(device):
        return count, 1
    block = max(smallest, -(-count // (_BLOCKS_PER_THREAD * thread_count())))
    return -(-count // block), block


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return uninitialized memory; on a CPU from NumPy, which requests huge pages, faster to allocate than many small ones."""
    if on_cpu(device):
        return torch.from_numpy(np.empty(tuple(shape), _NUMPY_TYPES[dtype]))
    return torch.empty(tuple(shape), dtype=dtype, device=device)


def zeros(shape: Sequence[int], device: torch.device) -> Tensor:
    """Return float32 zeros; on a CPU from NumPy, whose zeroed pages take memory only when they are written."""
    if on_cpu(device):
        return torch.from_numpy(np.zeros(tuple(shape), np.float32))
    return torch.zeros(tuple(shape), dtype=torch.float32, device=device)


def recycled(shape: Sequence[int]) -> Tensor:
    """Return uninitialized float32 memory on the CPU, that of an earlier result of this function if its tensor is gone.

    Fresh memory costs a page fault for every 4 KiB, which takes longer than writing to it.
    """
    size = math.prod(shape)
    if _FREE is None:
        return torch.from_numpy(np.empty(size, np.float32)).view(*shape)
    with _kept.lock:
        is_free = [count == _FREE for count in _references(_kept.arrays)]
        for number, free in enumerate(is_free):
            if free and _kept.arrays[number].size == size:
                return torch.from_numpy(_kept.arrays[number]).view(*shape)
        _kept.arrays = [array for array, free in zip(_kept.arrays, is_free, strict=True) if not free]
        _kept.arrays.append(np.empty(size, np.float32))
        return torch.from_numpy(_kept.arrays[-1]).view(*shape)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device, through pinned memory, so a copy to a GPU is asynchronous."""
    if tensor.device == device or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)

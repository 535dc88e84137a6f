"""What the operations on rasters share: how work is cut on a CPU, memory that costs nothing until written, one derivative and no second.

On a CPU the gradients to vertices and texels are made without atomics, in one of two ways that give the same bits whatever the number of
threads. Large ones are cut into ranges: the forward pass notes for each element, as bits, which of them it reaches, and each range is one
work item that walks over its elements in order. Of small ones, a fixed number of pieces of the picture have a copy each, and the copies are
added up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unrender.devices import on_cpu, thread_count

COPIES = 8
"""Copies of a small gradient; fixed, because the sums must not depend on the number of threads."""
MOST_RANGES = 16
"""Parts of a large gradient; one bit each."""
_BLOCKS_PER_THREAD = 4
_NUMPY_TYPES = {torch.float32: np.float32, torch.int32: np.int32, torch.int64: np.int64}


def blocks(count: int, smallest: int, device: torch.device) -> tuple[int, int]:
    """Work items, and elements of each, where an item owns what it writes; ``smallest`` elements at least on a CPU."""
    if not on_cpu(device):
        return count, 1
    block = max(smallest, -(-count // (_BLOCKS_PER_THREAD * thread_count())))
    return -(-count // block), block


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return memory that is still to be written; on a CPU from NumPy, which asks for huge pages, quicker to get than many small ones."""
    if on_cpu(device):
        return torch.from_numpy(np.empty(tuple(shape), _NUMPY_TYPES[dtype]))
    return torch.empty(tuple(shape), dtype=dtype, device=device)


def zeros(shape: Sequence[int], device: torch.device) -> Tensor:
    """Return float32 zeros, of which a CPU's memory holds only what is written: NumPy asks the system for zeroed pages."""
    if on_cpu(device):
        return torch.from_numpy(np.zeros(tuple(shape), np.float32))
    return torch.zeros(tuple(shape), dtype=torch.float32, device=device)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device without waiting, as a copy to a GPU would from memory that is not pinned."""
    if tensor.device == device or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)

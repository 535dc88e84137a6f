"""Support for programs that name a GPU on a machine without one: what they put on the GPU stays on the CPU.

The functions of PyTorch that take a device, move data, or ask the CUDA runtime are replaced in PyTorch's own modules. The replacements
therefore hold in every thread, in backward passes, hooks and checkpoints; and all other functions cost what they cost before.

=====================  ===========================================================================
module                 replaces
=====================  ===========================================================================
``tensors``            functions and methods that create, move or convert tensors and modules
``runtime``            ``torch.cuda``: questions, streams, events, memory, random numbers, ranges
``training``           autocast, gradient scaling, optimizers, ``torch.load``, data loaders, extensions
``reporting``          the line at which Python reports a warning
=====================  ===========================================================================

A tensor says where it is: its ``device`` is the CPU, and ``is_cuda`` is False.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from unrender.compat.without_cuda import reporting, runtime, tensors, training
from unrender.compat.without_cuda.patches import Patches

__all__ = ["cuda_on_cpu", "has_gpu", "put_cuda_on_cpu"]


def has_gpu() -> bool:
    """Tell whether PyTorch finds a GPU, without starting CUDA, which would spoil later forks of this process."""
    if torch.version.cuda is None and torch.version.hip is None:
        return False
    name = "PYTORCH_NVML_BASED_CUDA_CHECK"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        return torch.cuda.is_available()
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def put_cuda_on_cpu(*, answers_yes: bool = True) -> Patches:
    """Replace PyTorch's functions for this process, until ``restore()`` of the result.

    Args:
        answers_yes: what ``torch.cuda.is_available()`` tells a program. Code of PyTorch itself is always told the truth.
    """
    patches = Patches()
    tensors.replace(patches)
    runtime.replace(patches, answers_yes)
    training.replace(patches)
    reporting.replace(patches)
    return patches


@contextmanager
def cuda_on_cpu(*, answers_yes: bool = True) -> Iterator[None]:
    """Replace PyTorch's functions inside the block, in all threads.

    >>> with cuda_on_cpu():
    ...     torch.zeros(2, device="cuda").cuda().to("cuda:0").device
    device(type='cpu')
    """
    patches = put_cuda_on_cpu(answers_yes=answers_yes)
    try:
        yield
    finally:
        patches.restore()

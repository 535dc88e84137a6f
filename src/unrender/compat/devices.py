"""Support for programs that name a GPU on a machine without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def _or_cpu(device: Any) -> Any:
    """Replace a device by the CPU, except ``meta``; return anything else unchanged."""
    if isinstance(device, int) and not isinstance(device, bool):  # the index of a GPU
        return torch.device("cpu")
    if isinstance(device, (torch.device, str)) and torch.device(device).type not in ("cpu", "meta"):
        return torch.device("cpu")
    return device


class EverythingOnCpu(TorchFunctionMode):
    """Within this mode, tensors that a program creates on a GPU or moves to one are on the CPU.

    It covers ``tensor.cuda()``, ``tensor.to(...)``, the same methods of modules, and the argument ``device`` of PyTorch functions.
    It does not cover ``torch.cuda`` itself, ``torch.load`` and generators.

    >>> with EverythingOnCpu():
    ...     torch.zeros(2, device="cuda").cuda().to("cuda:0").device
    device(type='cpu')
    """

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.cuda:
            return args[0]
        if func is Tensor.to:
            args = (args[0], *(_or_cpu(argument) for argument in args[1:]))
        if "device" in kwargs:
            kwargs["device"] = _or_cpu(kwargs["device"])
        return func(*args, **kwargs)

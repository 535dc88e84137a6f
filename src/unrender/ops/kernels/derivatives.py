"""A guard for operations without a second derivative."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


class _NoFurther(torch.autograd.Function):
    """Passes a gradient through, and raises an error when differentiated."""

    @staticmethod
    def forward(ctx, gradient: Tensor, verb: str, *inputs: Tensor) -> Tensor:
        ctx.verb, ctx.count = verb, len(inputs)
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx, *gradients: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise RuntimeError(f"{ctx.verb} has a first derivative only: its gradient cannot be differentiated")


def differentiable_once(verb: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate the ``backward`` of an operation whose kernels have no second derivative.

    Differentiating its gradient (``create_graph=True``) then raises a RuntimeError that names the operation. PyTorch's
    ``once_differentiable`` is silent if the incoming gradient is a constant, and the second derivative wrongly zero.
    """

    def decorate(backward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(backward)
        def once(ctx: Any, *gradients: Any) -> Any:
            with torch.no_grad():
                results = backward(ctx, *gradients)
            if not torch.is_grad_enabled():
                return results
            inputs = [x for x in (*gradients, *ctx.saved_tensors) if isinstance(x, Tensor) and x.requires_grad]
            return tuple(None if result is None else _NoFurther.apply(result, verb, *inputs) for result in results)

        return once

    return decorate

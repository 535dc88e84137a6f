"""The guard of operations whose gradients have no derivative of their own."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


class _NoFurther(torch.autograd.Function):
    """Passes a gradient on and says that it has none itself."""

    @staticmethod
    def forward(ctx, gradient: Tensor, verb: str, *inputs: Tensor) -> Tensor:
        ctx.verb, ctx.count = verb, len(inputs)
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx, *cotangents: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise RuntimeError(f"{ctx.verb} has a first derivative only, and the derivative of its gradient was asked for")


def differentiable_once(verb: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """For the ``backward`` of an operation whose kernels have no second derivative.

    Where the gradient itself is differentiated (``create_graph=True``), asking it for one is refused by the operation's name; PyTorch's
    own ``once_differentiable`` lets a gradient that depends on the inputs alone pass for a constant.
    """

    def decorate(backward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(backward)
        def once(ctx: Any, *cotangents: Any) -> Any:
            with torch.no_grad():
                results = backward(ctx, *cotangents)
            if not torch.is_grad_enabled():
                return results
            inputs = [x for x in (*cotangents, *ctx.saved_tensors) if isinstance(x, Tensor) and x.requires_grad]
            return tuple(None if result is None else _NoFurther.apply(result, verb, *inputs) for result in results)

        return once

    return decorate

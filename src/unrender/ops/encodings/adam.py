"""Adam for grids and tables, of which a step touches few entries.

A dense step reads and writes four numbers per entry, 28 bytes, and is bound by memory bandwidth on a CPU. Here a run of 16 entries whose
gradients and first moments are all zero is skipped after reading these: its update is exactly zero. (Its second moment does not decay
meanwhile, so the next update of such an entry is slightly shorter.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, no_type_check

import torch
import warp as wp
from torch import Tensor, nn

from unrender.ops.kernels.checks import Arguments, describe
from unrender.ops.kernels.launch import launch
from unrender.ops.kernels.native import native_sections
from unrender.ops.kernels.work import blocks

wp.set_module_options({"enable_backward": False})

_BLOCK = 2**16
"""Smallest number of entries of one work item on a CPU."""
_RUN = 16
"""Entries that are skipped together; a work item on a GPU."""

_CPP = native_sections(__file__, "adam.h")


class _Rule:
    """The constants of one update, including the bias corrections of both moments."""

    beta_1: wp.float32
    beta_2: wp.float32
    decay: wp.float32
    step_size: wp.float32
    root_scale: wp.float32
    epsilon: wp.float32


Rule = wp.struct(_Rule)


@no_type_check
@wp.func_native(_CPP.update)
def _update(
    rule: Rule,
    begin: int,
    end: int,
    parameter: wp.array(dtype=wp.float32),
    gradient: wp.array(dtype=wp.float32),
    first_moment: wp.array(dtype=wp.float32),
    second_moment: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.kernel
def _update_kernel(
    first: int,
    rule: Rule,
    count: int,
    block: int,
    skip: wp.array(dtype=wp.float32),
    parameter: wp.array(dtype=wp.float32),
    gradient: wp.array(dtype=wp.float32),
    first_moment: wp.array(dtype=wp.float32),
    second_moment: wp.array(dtype=wp.float32),
):
    begin = (first + wp.tid()) * block
    if skip[0] == 0.0:
        _update(rule, begin, wp.min(count, begin + block), parameter, gradient, first_moment, second_moment)


@no_type_check
@wp.func_native(_CPP.finite)
def _finite(item: int, begin: int, end: int, values: wp.array(dtype=wp.float32), result: wp.array(dtype=wp.float32)): ...


@no_type_check
@wp.kernel
def _finite_kernel(first: int, count: int, block: int, values: wp.array(dtype=wp.float32), result: wp.array(dtype=wp.float32)):
    item = first + wp.tid()
    _finite(item, item * block, wp.min(count, (item + 1) * block), values, result)


@torch.no_grad()
def all_finite(tensor: Tensor) -> Tensor:
    """Tell whether no element of a tensor is infinite or NaN, as a bool tensor without dimensions.

    On a CPU all threads share the work for a large float32 tensor. Elsewhere the sum of the elements is looked at, which may overflow.

    Raises:
        ValueError: it is no tensor.

    >>> all_finite(torch.ones(3)).item(), all_finite(torch.tensor([1.0, float("nan")])).item()
    (True, False)
    """
    values = Arguments("all_finite").instance(tensor, "tensor", Tensor)
    if values.dtype != torch.float32 or values.device.type != "cpu" or values.layout is not torch.strided or values.numel() <= _BLOCK:
        return torch.isfinite(values.sum())
    values = values.contiguous().view(-1)
    items, block = blocks(values.shape[0], _BLOCK, values.device)
    result = torch.empty(items)
    launch(_finite_kernel, items, [values.shape[0], block, values, result], values.device, chunks=items)
    return result.bool().all()


class Adam(torch.optim.Optimizer):
    """Adam with decoupled weight decay (Kingma and Ba 2015; Loshchilov and Hutter 2019) that skips untouched entries.

    m ← β₁ m + (1 - β₁) g,   v ← β₂ v + (1 - β₂) g²,   θ ← (1 - λ lr) θ - lr m̂ / (√v̂ + ε), with bias-corrected m̂ and v̂.
    With weight decay, entries that are skipped do not decay either; give grids and tables none.

    Args:
        parameters: float32 parameters, or groups of them with their own options, as PyTorch's optimizers take them.
        lr: learning rate.
        betas: decay of the first and of the second moment per step.
        eps: ε, added to the root of the second moment.
        weight_decay: λ.

    Raises:
        ValueError: for a parameter that is not a float32 leaf, or an option out of its range.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-15,
        weight_decay: float = 0.0,
    ) -> None:
        given = Arguments("Adam").items(parameters, "parameters")
        if not given:
            raise ValueError("Adam takes at least one parameter, got an empty list")
        _check_options({"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        super().__init__(given, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters with options of its own.

        Raises:
            ValueError: as the class.
        """
        takes = Arguments("Adam")
        group = takes.instance(param_group, "a group", dict)
        _check_options(group)
        given = group.get("params")
        known = {id(parameter) for other in self.param_groups for parameter in other["params"]}
        for item in [given] if isinstance(given, Tensor) else takes.items(given, "the parameters of a group"):
            parameter = item[1] if isinstance(item, tuple) and len(item) == 2 else item  # PyTorch also takes (name, parameter)
            if not isinstance(parameter, Tensor) or parameter.dtype != torch.float32 or not parameter.is_leaf:
                found = "one that was computed" if isinstance(parameter, Tensor) and not parameter.is_leaf else describe(parameter)
                raise ValueError(f"Adam takes float32 leaves as parameters, got {found}")
            if id(parameter) in known:
                raise ValueError("Adam takes each parameter once, got one in two places")
            known.add(id(parameter))
        super().add_param_group({**group, "params": given if isinstance(given, Tensor) else list(given)})  # pyright: ignore[reportArgumentType]

    @torch.no_grad()
    def step(self, closure: None = None, *, skip: Tensor | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient.

        Args:
            closure: None; gradients must be computed before.
            skip: a tensor of one number on the device; if it is not zero, nothing is updated. A step with a NaN is thus skipped without
            synchronization.

        Raises:
            ValueError: for a closure, a ``skip`` that is not one float32, or a gradient or moment that does not fit its parameter.
        """
        if closure is not None:
            raise ValueError("Adam takes None as closure, got a function: compute the gradients before the step")
        for group in self.param_groups:
            rules: dict[int, Any] = {}  # by number of the step, which a group's parameters share unless one was added later
            for parameter in group["params"]:
                if parameter.grad is not None:
                    number = self._next_number(parameter)
                    if number not in rules:
                        rules[number] = _rule(group, number)
                    self._step(parameter, parameter.grad, rules[number], skip)

    def _next_number(self, parameter: Tensor) -> int:
        """Count a step of a parameter, from one; make its state before the first."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
        state["step"] += 1
        return int(state["step"])

    def _step(self, parameter: Tensor, gradient: Tensor, rule: Any, skip: Tensor | None) -> None:
        state = self.state[parameter]
        takes = Arguments("Adam")
        ready = takes.float32(parameter.detach(), "a parameter", parameter.shape).contiguous()
        gradient = takes.float32(gradient, "its gradient", parameter.shape).contiguous()
        for name in ("exp_avg", "exp_avg_sq"):  # a loaded state may be anything
            state[name] = takes.float32(state[name], f"its {name}", parameter.shape).contiguous()
        unless = gradient.new_zeros(1) if skip is None else takes.float32(skip, "skip", (), (1,)).reshape(1)
        count = parameter.numel()
        block = -(-blocks(count, _BLOCK, parameter.device)[1] // _RUN) * _RUN
        items = -(-count // block)
        flat = [tensor.view(-1) for tensor in (ready, gradient, state["exp_avg"], state["exp_avg_sq"])]
        launch(_update_kernel, items, [rule, count, block, unless, *flat], parameter.device, chunks=items)
        if not parameter.is_contiguous():
            parameter.copy_(ready)


def _check_options(options: dict[str, Any]) -> None:
    """Require options within their ranges, those that are given."""
    takes = Arguments("Adam")
    for name in ("lr", "eps", "weight_decay"):
        if name in options:
            takes.number(options[name], name, 0.0)
    if "betas" in options:
        betas = takes.items(options["betas"], "betas")
        if len(betas) != 2:
            raise ValueError(f"Adam takes two numbers as betas, got {len(betas)}")
        for beta in betas:
            if takes.number(beta, "each of betas", 0.0, 1.0) == 1:
                raise ValueError("Adam takes numbers below 1 as betas, got 1")


def _rule(group: dict[str, Any], number: int) -> Any:
    """Return the ``Rule`` of a parameter group for its step of this number."""
    rule = Rule()
    rule.beta_1, rule.beta_2 = group["betas"]
    rule.decay = 1 - group["lr"] * group["weight_decay"]
    rule.step_size = group["lr"] / (1 - group["betas"][0] ** number)
    rule.root_scale = (1 - group["betas"][1] ** number) ** -0.5
    rule.epsilon = group["eps"]
    return rule

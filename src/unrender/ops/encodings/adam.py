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

from unrender.devices import on_cpu
from unrender.ops.kernels.checks import check_float32
from unrender.ops.kernels.launch import launch
from unrender.ops.kernels.native import native_sections

wp.set_module_options({"enable_backward": False})

_BLOCK = 2**16
"""Entries of one work item on a CPU."""
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
        ValueError: for a parameter that is not float32 (when it is first updated).
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
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None, *, skip: Tensor | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient.

        Args:
            closure: not supported; gradients must be computed before.
            skip: a tensor of one number on the device; if it is not zero, nothing is updated. A step with a NaN is thus skipped without
            synchronization.
        """
        for group in self.param_groups:
            rules: dict[int, Any] = {}  # by number of the step, which a group's parameters share unless one was added later
            for parameter in group["params"]:
                if parameter.grad is not None:
                    number = self._next_number(parameter)
                    if number not in rules:
                        rules[number] = _rule(group, number)
                    unless = torch.zeros(1, device=parameter.device) if skip is None else skip.reshape(1)
                    self._step(parameter, parameter.grad.contiguous(), rules[number], unless)

    def _next_number(self, parameter: Tensor) -> int:
        """Count a step of a parameter, from one; make its state before the first."""
        state = self.state[parameter]
        if not state:
            check_float32(parameter, "a parameter", "Adam")
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        return int(state["step"])

    def _step(self, parameter: Tensor, gradient: Tensor, rule: Any, skip: Tensor) -> None:
        state = self.state[parameter]
        block = _BLOCK if on_cpu(parameter.device) else _RUN
        count = parameter.numel()
        items = -(-count // block)
        flat = [tensor.detach().view(-1) for tensor in (parameter, gradient, state["exp_avg"], state["exp_avg_sq"])]
        launch(_update_kernel, items, [rule, count, block, skip, *flat], parameter.device, chunks=items)


def _rule(group: dict[str, Any], number: int) -> Any:
    """Return the ``Rule`` of a parameter group for its step of this number."""
    rule = Rule()
    rule.beta_1, rule.beta_2 = group["betas"]
    rule.decay = 1 - group["lr"] * group["weight_decay"]
    rule.step_size = group["lr"] / (1 - group["betas"][0] ** number)
    rule.root_scale = (1 - group["betas"][1] ** number) ** -0.5
    rule.epsilon = group["eps"]
    return rule

"""Adam for parameters of which a step touches few: the grids and tables of this field.

A dense step reads and writes four numbers per entry, 28 bytes, and memory is what a CPU has least of. Here 16 entries whose gradient and
first moment are all zero are left alone after reading those two: their update is exactly zero. (Their second moment does not fade
meanwhile, which the next update of such an entry sees as a slightly shorter step.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, no_type_check

import torch
import warp as wp
from torch import Tensor, nn

from unrender.devices import on_cpu
from unrender.ops.kernels.launch import launch

wp.set_module_options({"enable_backward": False})

_BLOCK = 2**16
"""Entries of one work item on a CPU."""


@no_type_check
@wp.func_native(
    """
for (int k = begin; k < end; k += 16) {
    const int last = k + 16 < end ? k + 16 : end;
    if (last - k == 16) {
        const unsigned* g = (const unsigned*)(gradient.data + k);
        const unsigned* m = (const unsigned*)(first_moment.data + k);
        unsigned any = 0;
        for (int j = 0; j < 16; j++) any |= (g[j] | m[j]) & 0x7fffffffu;
        if (!any) continue;
    }
    for (int j = k; j < last; j++) {
        const float g = gradient.data[j];
        const float m = beta_1 * first_moment.data[j] + (1.f - beta_1) * g;
        const float v = beta_2 * second_moment.data[j] + (1.f - beta_2) * g * g;
        first_moment.data[j] = m;
        second_moment.data[j] = v;
        parameter.data[j] = parameter.data[j] * decay - step_size * m / (sqrtf(v) * root_scale + epsilon);
    }
}
"""
)
def _update(
    parameter: wp.array(dtype=wp.float32),
    gradient: wp.array(dtype=wp.float32),
    first_moment: wp.array(dtype=wp.float32),
    second_moment: wp.array(dtype=wp.float32),
    begin: int,
    end: int,
    beta_1: float,
    beta_2: float,
    decay: float,
    step_size: float,
    root_scale: float,
    epsilon: float,
): ...


@no_type_check
@wp.kernel
def _update_kernel(
    first: int,
    parameter: wp.array(dtype=wp.float32),
    gradient: wp.array(dtype=wp.float32),
    first_moment: wp.array(dtype=wp.float32),
    second_moment: wp.array(dtype=wp.float32),
    skip: wp.array(dtype=wp.float32),
    count: int,
    block: int,
    betas: wp.vec2,
    decay: float,
    step_size: float,
    root_scale: float,
    epsilon: float,
):
    i = first + wp.tid()
    begin = i * block
    end = wp.min(count, begin + block)
    if skip[0] == 0.0:
        _update(
            parameter, gradient, first_moment, second_moment, begin, end, betas[0], betas[1], decay, step_size, root_scale, epsilon
        )  # fmt: skip


class Adam(torch.optim.Optimizer):
    """Adam with decoupled weight decay (Kingma and Ba 2015; Loshchilov and Hutter 2019) that skips what a step does not touch.

    m ← β₁ m + (1 - β₁) g,   v ← β₂ v + (1 - β₂) g²,   θ ← (1 - λ lr) θ - lr m̂ / (√v̂ + ε), with m̂ and v̂ corrected for their start at zero.
    With weight decay, entries that are left alone do not decay either; give grids and tables none.
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
        """One update of every parameter that has a gradient; none where ``skip``, a tensor of one number on the device, is not zero."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    unless = torch.zeros(1, device=parameter.device) if skip is None else skip.reshape(1)
                    self._step(parameter, parameter.grad.contiguous(), group, unless)

    def _step(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any], skip: Tensor) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        number = int(state["step"])
        beta_1, beta_2 = group["betas"]
        block = _BLOCK if on_cpu(parameter.device) else 16
        count = parameter.numel()
        items = -(-count // block)
        tensors = [parameter, gradient, state["exp_avg"], state["exp_avg_sq"]]
        numbers = [
            wp.vec2(beta_1, beta_2),
            1 - group["lr"] * group["weight_decay"],
            group["lr"] / (1 - beta_1**number),
            (1 - beta_2**number) ** -0.5,
            group["eps"],
        ]
        flat = [tensor.detach().view(-1) for tensor in tensors]
        launch(_update_kernel, items, [*flat, skip, count, block, *numbers], parameter.device, pieces=items)

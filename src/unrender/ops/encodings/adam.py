"""Adam and RMSProp for grids and tables, of which a step touches few entries.

A dense step reads and writes four numbers per entry, 28 bytes, and is bound by memory bandwidth on a CPU. Here a run of 16 entries whose
gradients and first moments are all zero is skipped after reading these: its update is exactly zero. (Its second moment does not decay
meanwhile, so the next update of such an entry is slightly shorter.) RMSProp, which has no first moment, skips entry by entry: of those
without a gradient it changes nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, no_type_check

import torch
import warp as wp
from torch import Tensor, nn

from unrender.ops.kernels.checks import Arguments, describe
from unrender.ops.kernels.launch import launch
from unrender.ops.kernels.native import native_sections
from unrender.ops.kernels.structs import Filled, filled
from unrender.ops.kernels.work import blocks, to_device

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


class _RootRule:
    """The constants of one update of RMSProp."""

    beta: wp.float32
    rate: wp.float32
    epsilon: wp.float32


RootRule = wp.struct(_RootRule)


class _Table:
    """Tensors that one launch visits, or several of the same shape in each row."""

    ends: wp.array(dtype=wp.int32)  # pyright: ignore[reportInvalidTypeForm]
    """The work item behind the last one of each row."""
    addresses: wp.array2d(dtype=wp.int64)  # pyright: ignore[reportInvalidTypeForm]
    """Of the tensors of a row, behind the number of entries of each."""
    block: wp.int32
    """Entries of a work item."""


Table = wp.struct(_Table)


@no_type_check
@wp.func_native(_CPP.update)
def _update(
    rule: Rule,
    begin: int,
    end: int,
    parameter_address: wp.int64,
    gradient_address: wp.int64,
    first_address: wp.int64,
    second_address: wp.int64,
): ...


@no_type_check
@wp.func_native(_CPP.root_update)
def _root_update(
    rule: RootRule,
    begin: int,
    end: int,
    parameter_address: wp.int64,
    gradient_address: wp.int64,
    second_address: wp.int64,
): ...


@no_type_check
@wp.func
def _part(table: Table, item: int):
    """Return the row of a work item, and begin and end of its entries."""
    row = int(0)
    before = int(0)
    while item >= table.ends[row]:
        before = table.ends[row]
        row += 1
    begin = (item - before) * table.block
    return row, begin, begin + wp.min(table.block, int(table.addresses[row, 0]) - begin)


@no_type_check
@wp.kernel
def _update_kernel(first: int, table: Table, rules: wp.array2d(dtype=wp.float32), skip: wp.array(dtype=wp.float32)):
    row, begin, end = _part(table, first + wp.tid())
    if skip[0] == 0.0:
        rule = Rule()
        rule.beta_1 = rules[row, 0]
        rule.beta_2 = rules[row, 1]
        rule.decay = rules[row, 2]
        rule.step_size = rules[row, 3]
        rule.root_scale = rules[row, 4]
        rule.epsilon = rules[row, 5]
        _update(rule, begin, end, table.addresses[row, 1], table.addresses[row, 2], table.addresses[row, 3], table.addresses[row, 4])


@no_type_check
@wp.kernel
def _root_update_kernel(first: int, table: Table, rules: wp.array2d(dtype=wp.float32), skip: wp.array(dtype=wp.float32)):
    row, begin, end = _part(table, first + wp.tid())
    if skip[0] == 0.0:
        rule = RootRule()
        rule.beta = rules[row, 0]
        rule.rate = rules[row, 1]
        rule.epsilon = rules[row, 2]
        _root_update(rule, begin, end, table.addresses[row, 1], table.addresses[row, 2], table.addresses[row, 3])


@no_type_check
@wp.func_native(_CPP.finite)
def _finite(begin: int, end: int, address: wp.int64, found: wp.array(dtype=wp.float32)): ...


@no_type_check
@wp.kernel
def _finite_kernel(first: int, table: Table, found: wp.array(dtype=wp.float32)):
    row, begin, end = _part(table, first + wp.tid())
    _finite(begin, end, table.addresses[row, 1], found)


def _table(counts: Sequence[int], addresses: Sequence[Sequence[int]], device: torch.device) -> tuple[int, Filled]:
    """Return the number of work items, and the table of tensors of some numbers of entries."""
    block = -(-blocks(max(counts), _BLOCK, device)[1] // _RUN) * _RUN
    ends = list(accumulate(-(-count // block) for count in counts))
    rows = [[count, *row] for count, row in zip(counts, addresses, strict=True)]
    fields = torch.tensor(ends, dtype=torch.int32), torch.tensor(rows, dtype=torch.int64)
    return ends[-1], filled(Table, ends=to_device(fields[0], device), addresses=to_device(fields[1], device), block=block)


@torch.no_grad()
def all_finite(tensors: Sequence[Tensor]) -> Tensor:
    """Tell whether no element of some tensors is infinite or NaN, as a bool tensor without dimensions.

    One launch reads all float32 tensors. Of others the sum of the elements is looked at, which may overflow.

    Raises:
        ValueError: there is no tensor, something else, or one on another device.

    >>> all_finite([torch.ones(3)]).item(), all_finite([torch.ones(3), torch.tensor([1.0, float("nan")])]).item()
    (True, False)
    """
    takes = Arguments("all_finite")
    given = takes.items(tensors, "tensors")
    if not given:
        raise ValueError("all_finite takes at least one tensor, got an empty list")
    sums, read = [], []
    for item in given:
        tensor = takes.instance(item, "a tensor", Tensor)
        if tensor.dtype != torch.float32 or tensor.layout is not torch.strided:
            sums.append(tensor.sum())
        elif takes.float32(tensor, "a tensor", tensor.shape).numel():
            read.append(tensor.resolve_neg().contiguous())
    device = given[0].device
    found = torch.zeros(1, device=device)
    if read:
        items, table = _table([tensor.numel() for tensor in read], [[tensor.data_ptr()] for tensor in read], device)
        launch(_finite_kernel, items, [table, found], device, chunks=items)
    finite = found[0] == 0
    return finite if not sums else finite & torch.stack([value.isfinite() for value in sums]).all()


class SkippingOptimizer(torch.optim.Optimizer, ABC):
    """An optimizer that skips what a step does not touch, and whole steps on the device."""

    def __init__(self, parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], defaults: dict[str, Any]) -> None:
        given = self._takes.items(parameters, "parameters")
        if not given:
            raise ValueError(f"{self._takes.verb} takes at least one parameter, got an empty list")
        self._check_options(defaults)
        super().__init__(given, defaults)

    @property
    def _takes(self) -> Arguments:
        return Arguments(type(self).__name__)

    @staticmethod
    @abstractmethod
    def _check_options(options: dict[str, Any]) -> None:
        """Require options within their ranges, those that are given."""

    @abstractmethod
    def _rule(self, group: dict[str, Any], number: int) -> tuple[float, ...]:
        """Return the constants of the step of this number, counted from one, for a parameter group."""

    @abstractmethod
    def _kernel(self) -> tuple[Any, tuple[str, ...]]:
        """Return the kernel of an update, and the names of the moments that it takes."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters with options of its own.

        Raises:
            ValueError: as the class.
        """
        takes = self._takes
        group = takes.instance(param_group, "a group", dict)
        self._check_options(group)
        given = group.get("params")
        known = {id(parameter) for other in self.param_groups for parameter in other["params"]}
        for item in [given] if isinstance(given, Tensor) else takes.items(given, "the parameters of a group"):
            parameter = item[1] if isinstance(item, tuple) and len(item) == 2 else item  # PyTorch also takes (name, parameter)
            if not isinstance(parameter, Tensor) or parameter.dtype != torch.float32 or not parameter.is_leaf:
                found = "one that was computed" if isinstance(parameter, Tensor) and not parameter.is_leaf else describe(parameter)
                raise ValueError(f"{takes.verb} takes float32 leaves as parameters, got {found}")
            if id(parameter) in known:
                raise ValueError(f"{takes.verb} takes each parameter once, got one in two places")
            known.add(id(parameter))
        super().add_param_group({**group, "params": given if isinstance(given, Tensor) else list(given)})  # pyright: ignore[reportArgumentType]

    @torch.no_grad()
    def step(self, closure: None = None, *, skip: Tensor | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient.

        Args:
            closure: None; gradients must be computed before.
            skip: a tensor of one number on the device of the parameters; if it is not zero, nothing is updated. A step with a NaN is thus
            skipped without synchronization.

        Raises:
            ValueError: for a closure, a ``skip`` that is not one float32, or a gradient or moment that does not fit its parameter.
        """
        if closure is not None:
            raise ValueError(f"{self._takes.verb} takes None as closure, got a function: compute the gradients before the step")
        if skip is not None:
            for device in {parameter.device for group in self.param_groups for parameter in group["params"]}:
                Arguments(self._takes.verb, device, "the parameters").float32(skip, "skip", (), (1,))
        found: dict[torch.device, list[tuple[Tensor, list[Tensor], tuple[float, ...]]]] = {}
        for group in self.param_groups:
            rules: dict[int, tuple[float, ...]] = {}  # by number of the step, which a group's parameters share unless one was added later
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.numel():
                    number = self._next_number(parameter)
                    if number not in rules:
                        rules[number] = self._rule(group, number)
                    tensors = self._tensors_of(parameter, parameter.grad)
                    found.setdefault(parameter.device, []).append((parameter, tensors, rules[number]))
        for device, parameters in found.items():
            self._update(parameters, device, skip)

    def _next_number(self, parameter: Tensor) -> int:
        """Count a step of a parameter, from one; make its state before the first."""
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            for name in self._kernel()[1]:
                state[name] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
        state["step"] = int(state["step"]) + 1  # earlier versions kept it as a tensor
        return state["step"]

    def _tensors_of(self, parameter: Tensor, gradient: Tensor) -> list[Tensor]:
        """Return a parameter, its gradient and its moments, contiguous."""
        state, takes = self.state[parameter], self._takes
        ready = takes.float32(parameter.detach(), "a parameter", parameter.shape).contiguous()
        gradient = takes.float32(gradient, "its gradient", parameter.shape).contiguous()
        for name in self._kernel()[1]:  # a loaded state may be anything
            state[name] = takes.float32(state[name], f"its {name}", parameter.shape).contiguous()
        return [ready, gradient, *(state[name] for name in self._kernel()[1])]

    def _update(self, parameters: list[tuple[Tensor, list[Tensor], tuple[float, ...]]], device: torch.device, skip: Tensor | None) -> None:
        """Update the parameters of a device in one launch."""
        counts = [parameter.numel() for parameter, _, _ in parameters]
        items, table = _table(counts, [[tensor.data_ptr() for tensor in tensors] for _, tensors, _ in parameters], device)
        rules = to_device(torch.tensor([rule for _, _, rule in parameters]), device)
        skipped = torch.zeros(1, device=device) if skip is None else skip.reshape(1)
        launch(self._kernel()[0], items, [table, rules, skipped], device, chunks=items)
        for parameter, (ready, *_), _ in parameters:
            if not parameter.is_contiguous():
                parameter.copy_(ready)
            elif not parameter.is_inference():
                torch.autograd.graph.increment_version(parameter)  # PyTorch does not see what kernels write


class Adam(SkippingOptimizer):
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
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @staticmethod
    def _check_options(options: dict[str, Any]) -> None:
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

    def _kernel(self) -> tuple[Any, tuple[str, ...]]:
        return _update_kernel, ("exp_avg", "exp_avg_sq")

    def _rule(self, group: dict[str, Any], number: int) -> tuple[float, ...]:
        beta_1, beta_2 = group["betas"]
        decay, step_size = 1 - group["lr"] * group["weight_decay"], group["lr"] / (1 - beta_1**number)
        return beta_1, beta_2, decay, step_size, (1 - beta_2**number) ** -0.5, group["eps"]


class RmsProp(SkippingOptimizer):
    """RMSProp (Hinton 2012) that changes nothing of an entry whose gradient is zero, neither its value nor its second moment.

    v ← g² if v = 0, else β v + (1 - β) g²;   θ ← θ - lr g / (√v + ε)

    The second moment of an entry begins with its first gradient, whenever that comes, so the first update has the length of the learning
    rate. Source: Fridovich-Keil et al. 2022 (Plenoxels).

    Args:
        parameters: float32 parameters, or groups of them with their own options, as PyTorch's optimizers take them.
        lr: learning rate.
        beta: β, decay of the second moment per step.
        eps: ε, added to its root.

    Raises:
        ValueError: for a parameter that is not a float32 leaf, or an option out of its range.

    >>> values = nn.Parameter(torch.zeros(3))
    >>> values.grad = torch.tensor([2.0, -0.5, 0.0])
    >>> RmsProp([values], lr=0.25).step()
    >>> values.tolist()
    [-0.25, 0.25, 0.0]
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], *, lr: float, beta: float = 0.95, eps: float = 1e-8
    ) -> None:
        super().__init__(parameters, {"lr": lr, "beta": beta, "eps": eps})

    @staticmethod
    def _check_options(options: dict[str, Any]) -> None:
        takes = Arguments("RmsProp")
        for name in ("lr", "eps"):
            if name in options:
                takes.number(options[name], name, 0.0)
        if "beta" in options and takes.number(options["beta"], "beta", 0.0, 1.0) == 1:
            raise ValueError("RmsProp takes a number below 1 as beta, got 1")

    def _kernel(self) -> tuple[Any, tuple[str, ...]]:
        return _root_update_kernel, ("square_avg",)

    def _rule(self, group: dict[str, Any], number: int) -> tuple[float, ...]:
        return group["beta"], group["lr"], group["eps"]

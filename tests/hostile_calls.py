"""Hostile calls of the primitives in a process of their own: ``python hostile_calls.py SEED FIRST END JOURNAL``.

Call ``k`` depends on the seed and ``k`` alone. Before it is made, ``k`` is written to the journal, so that a crash names its call; its
outcome follows. Every tensor that is allocated during a call lies between guards, bytes of one pattern. An accepted call is made twice,
with another pattern: a changed guard tells of a write beyond a tensor, a changed result of a read of memory that nobody has written.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import sys
import traceback
import types
import warnings
from collections.abc import Iterator
from random import Random
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hostile_world import World, mutated, parameters_of, public_callables, valid_arguments
from unrender.devices import as_on_a_gpu
from unrender.ops.kernels import work
from unrender.words import is_out_of_memory

DIALECT = re.compile(
    r"[\w.]+ takes .+, got .+|mip level \d+ is .+: pass max_level=\d+, or resize|.+ has a first derivative only: .+"
    r"|there is no device .+; .+|device .+ cannot be used: .+"
)
"""What our errors say: the function, what it takes as which argument, and what it got; or one of a few other sentences."""

GUARD = 512
"""Bytes on each side of a tensor."""

LARGEST = 2**24
"""Bytes of a tensor that is guarded, at most."""

MEMORY = 24 * 2**30
"""Bytes of addresses that a worker may use: what asks for more is refused by the system instead of taking the machine."""


class Guards(TorchDispatchMode):
    """Puts every tensor that an operation makes between guards, and fills uninitialized ones with the pattern."""

    def __init__(self, pattern: int) -> None:
        super().__init__()
        self.pattern = pattern
        self.blocks: list[tuple[np.ndarray, int]] = []

    def block(self, size: int) -> np.ndarray:
        """``size`` bytes of the pattern, at an address that is a multiple of 64."""
        whole = np.full(size + 2 * GUARD + 64, self.pattern, np.uint8)
        begin = GUARD + (-(whole.ctypes.data + GUARD)) % 64
        self.blocks.append((whole, begin))
        whole = whole[begin : begin + size]
        return whole

    def are_whole(self) -> bool:
        return all(
            (whole[:begin] == self.pattern).all() and (whole[begin + size :] == self.pattern).all()
            for (whole, begin), size in zip(self.blocks, self.sizes(), strict=True)
        )

    def sizes(self) -> list[int]:
        return [len(whole) - 2 * GUARD - 64 for whole, _ in self.blocks]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {address_of(t) for arg in (*args, *(kwargs or {}).values()) for t in (arg if isinstance(arg, list | tuple) else (arg,))}
        uninitialized = func.__name__.split(".")[0] in ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")
        if isinstance(out, list | tuple):
            return type(out)(self.guarded(item, given, uninitialized) for item in out)
        return self.guarded(out, given, uninitialized)

    def guarded(self, out: Any, given: set[int], uninitialized: bool) -> Any:
        """Move a tensor of its own memory between guards; leave a view of one that was given."""
        address = address_of(out)
        if address == 0 or address in given or out.storage_offset() != 0 or out.untyped_storage().nbytes() > LARGEST:
            return out
        block = torch.from_numpy(self.block(out.untyped_storage().nbytes()))
        if not uninitialized:
            block.copy_(torch.empty(0, dtype=torch.uint8).set_(out.untyped_storage()))
        place = block.storage_offset() // out.itemsize
        return torch.empty(0, dtype=out.dtype).set_(block.untyped_storage(), place, out.shape, out.stride())


def address_of(value: object) -> int:
    """Where the memory of a tensor on the CPU begins; 0 for anything else."""
    return value.untyped_storage().data_ptr() if is_plain(value) else 0


def is_plain(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized


@contextlib.contextmanager
def guarded_memory(pattern: int) -> Iterator[Guards]:
    """Guards around tensors and around the arrays that kernels take from NumPy."""
    guards = Guards(pattern)

    def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return guards.block(size).view(dtype).reshape(shape) if 0 < size <= LARGEST else np.empty(shape, dtype)

    def zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        array = empty(shape, dtype)
        array[...] = 0
        return array

    before = work.np
    work.np = types.SimpleNamespace(**(vars(np) | {"empty": empty, "zeros": zeros}))  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with guards:
            yield guards
    finally:
        work.np = before  # pyright: ignore[reportAttributeAccessIssue]


class Foreign(Exception):
    """An error in other words than ours."""


def is_ours(error: Exception) -> bool:
    """Whether an error is one sentence of ours, raised by the package itself, or PyTorch's of memory, which programs catch."""
    if is_out_of_memory(error):
        return True
    last = traceback.extract_tb(error.__traceback__)[-1].filename.replace("\\", "/")
    kind = isinstance(error, ValueError | TypeError | RuntimeError)
    return kind and "/unrender/" in last and DIALECT.fullmatch(str(error)) is not None and not str(error).endswith(".")


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple | types.GeneratorType):
        return [tensor for item in value for tensor in tensors_in(item)]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if isinstance(value, torch.nn.Module):
        return list(value.buffers())
    return [tensor for item in vars(value).values() for tensor in tensors_in(item)] if type(value).__module__.startswith("unrender") else []


def call_once(name: str, random: Random) -> list[Tensor]:
    """Make one call and its backward pass; return all results. Errors are raised."""
    world = World(random)
    torch.manual_seed(0)
    arguments = valid_arguments(name, world)
    optional = [key for key, parameter in parameters_of(public_callables()[name]).items() if parameter.default is not parameter.empty]
    for key in optional:
        if random.random() < 0.3:
            del arguments[key]
    for key in random.sample(list(arguments), min(len(arguments), random.choice([0, 1, 1, 1, 1, 1, 2, 2, 3]))):
        wrong = mutated(arguments[key], random)
        if key != "self" or type(wrong) is type(arguments[key]):
            arguments[key] = wrong
    leaves = []
    for value in arguments.values():
        state = isinstance(value, torch.nn.Module | torch.optim.Optimizer)
        for tensor in tensors_in(value) if random.random() < 0.6 and not state else []:
            if tensor.is_leaf and (tensor.is_floating_point() or tensor.is_complex()):
                leaves.append(tensor.requires_grad_())
    with contextlib.ExitStack() as stack:
        if random.random() < 0.25:
            stack.enter_context(as_on_a_gpu())
        # A plain function or class is called with keywords, a method with its object first.
        result = public_callables()[name](*[arguments.pop("self")] if "self" in arguments else [], **arguments)
        results = tensors_in(result)
        roots = [tensor for tensor in results if tensor.requires_grad and tensor.grad_fn is not None]
        grads: list[Tensor] = []
        if roots and leaves:
            cotangents = [cotangent(root, world, random) for root in roots]
            twice = random.random() < 0.3
            found = torch.autograd.grad(roots, leaves, cotangents, create_graph=twice, allow_unused=True)
            grads = [grad for grad in found if grad is not None]
            again = [grad for grad in grads if grad.requires_grad and grad.grad_fn is not None] if twice else []
            if again:
                second = torch.autograd.grad([grad.sum() for grad in again], leaves, allow_unused=True)
                grads += [grad for grad in second if grad is not None]
    return [tensor.detach() for tensor in (*results, *grads)]


def cotangent(root: Tensor, world: World, random: Random) -> Tensor:
    if random.random() < 0.3:
        return torch.ones((), dtype=root.dtype).expand(root.shape)
    drawn = torch.rand(root.shape, generator=world.generator).to(root.dtype)
    if random.random() < 0.2:
        drawn.mul_(random.choice([float("nan"), float("inf"), 1e38, 0.0]))
    return drawn


def bytes_of(tensor: Tensor) -> bytes:
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.reshape(-1))
    return flat.view(torch.uint8).numpy().tobytes()


def same_bits(a: Tensor, b: Tensor) -> bool:
    if not is_plain(a) or not is_plain(b):
        return is_plain(a) == is_plain(b)
    return a.shape == b.shape and a.dtype == b.dtype and bytes_of(a) == bytes_of(b)


def outcome(name: str, seed: int, number: int) -> str:
    """Make call ``number``, twice if it is accepted, and say what happened: accepted, refused, or what is wrong."""
    found: list[list[Tensor]] = []
    for pattern in (0x00, 0xFF):
        with guarded_memory(pattern) as guards:
            try:
                found.append(call_once(name, Random(seed * 1_000_003 + number)))
                problem = "accepted"
            except Exception as error:
                problem = "refused" if is_ours(error) else f"FOREIGN {type(error).__name__}: {' '.join(str(error).split())[:300]}"
                if not is_ours(error):
                    frame = next(f for f in reversed(traceback.extract_tb(error.__traceback__)))
                    problem += f" [{os.path.basename(frame.filename)}:{frame.lineno}]"
        if not guards.are_whole():
            return "WRITTEN outside of its memory"
        if problem != "accepted":
            return problem
    if not all(same_bits(a, b) for a, b in zip(*found, strict=True)):
        return "READ from memory that nobody has written"
    return "accepted"


def main() -> None:
    seed, first, end = (int(text) for text in sys.argv[1:4])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    torch.set_num_threads(2)
    warnings.simplefilter("ignore")
    names = sorted(public_callables())
    with open(sys.argv[4], "ab", buffering=0) as journal:
        for number in range(first, end):
            name = names[number % len(names)]
            journal.write(f"{number}\t{name}\t".encode())
            journal.write(f"{outcome(name, seed, number)}\n".encode())


if __name__ == "__main__":
    main()

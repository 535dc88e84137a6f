"""Launching of Warp kernels on CPU threads or a GPU; the only module that does so.

Warp runs a CPU launch on the calling thread and releases the interpreter lock meanwhile. A launch is therefore cut into chunks along its
leading dimension, which run on ``torch.get_num_threads()`` threads. On a GPU it is one launch on PyTorch's current stream.

Every kernel takes the index of its first work item as its first argument, ``first: int``, and starts with ``i = first + wp.tid()``.

Warp's ``atomic_add`` is not atomic between CPU threads. A kernel that scatters must therefore own its destination: a work item is then one
destination (a level, a ray, a tile), and ``chunks`` says how finely to cut.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
import warp as wp
from torch import Tensor

from unrender.devices import on_cpu, thread_count
from unrender.ops.kernels.cache import start_with_writable_cache


def _start_warp() -> None:
    """Start Warp without its banner and its message about a missing GPU driver."""
    wp.config.log_level = logging.ERROR
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        wp.init()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


start_with_writable_cache(_start_warp)

_SMALLEST_CHUNK = 2048
"""Work items below which a thread costs more (about 60 microseconds) than it saves."""


@dataclass
class _Pool:
    """The worker threads that run kernels on a CPU."""

    workers: ThreadPoolExecutor | None = None
    size: int = 0
    loading: AbstractContextManager[Any] = field(default_factory=threading.Lock)
    """Held while a kernel is loaded."""
    lock: AbstractContextManager[Any] = field(default_factory=threading.Lock)
    """Held while the workers are fetched or replaced."""


_pool = _Pool()
_Signature: TypeAlias = "tuple[tuple[torch.dtype, int] | None, ...]"
"""Element types and dimensions of the tensors of a launch; None for each other argument."""


class _Recorded:
    """A launch on a CPU that Warp has checked once: further ones with arguments of the same types only fill in their values.

    Warp takes about 60 microseconds to check and pack the arguments of a launch, while it holds the interpreter lock; this takes a tenth.
    """

    def __init__(self, command: object) -> None:
        assert isinstance(command, wp.Launch) and command.params is not None and command.hooks is not None
        self._module = command.module_exec  # keeps it loaded
        self._forward = command.hooks.forward
        self._bounds = type(command.bounds)
        self._types = [type(parameter) for parameter in command.params[2:]]
        fields = [(f"argument_{number}", type(parameter)) for number, parameter in enumerate(command.params[1:])]
        self._arguments = type("Arguments", (ctypes.Structure,), {"_fields_": fields})

    def packed(self, arguments: Sequence[Any]) -> list[Any]:
        """Return the arguments that follow ``first`` as the kernel takes them."""
        return [
            _array(kind, argument)
            if isinstance(argument, Tensor)
            else argument
            if isinstance(argument, int | float)
            else argument.__ctype__()
            for kind, argument in zip(self._types, arguments, strict=True)
        ]

    def run(self, first: int, count: int, packed: Sequence[Any]) -> None:
        """Run the kernel for work items ``first <= i < first + count``."""
        self._forward(ctypes.byref(self._bounds(count)), ctypes.byref(self._arguments(first, *packed)))


def _array(kind: Any, tensor: Tensor) -> Any:
    """Return Warp's description of a contiguous tensor."""
    size = tensor.element_size()
    return kind(tensor.data_ptr(), 0, tensor.ndim, tensor.shape, [size * step for step in tensor.stride()])


_recorded: dict[Any, dict[_Signature, _Recorded]] = {}
"""What has run of each kernel loaded on a CPU, by the types of its arguments."""


def _forget_threads() -> None:
    """Replace the pool and its locks in a process made by ``fork``, which inherits them without the threads.

    OpenMP's threads are missing too, and PyTorch would wait for them forever: it gets one thread, as in a worker of its data loader.
    """
    _pool.lock = threading.Lock()
    _pool.loading = threading.Lock()
    _pool.workers = None
    torch.set_num_threads(1)


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_threads)


def _workers(count: int) -> ThreadPoolExecutor:
    with _pool.lock:
        if _pool.workers is None or _pool.size != count:
            _pool.workers = ThreadPoolExecutor(count, thread_name_prefix="unrender")
            _pool.size = count
        return _pool.workers


def address(tensor: Tensor | None, dtype: torch.dtype) -> int:
    """Return the address of a contiguous tensor, for a member of a Warp struct; 0 for None.

    An address does not keep the tensor alive: hold a reference until the launch has returned.

    Raises:
        TypeError: for a tensor of another type, or one that is not contiguous.
    """
    if tensor is None:
        return 0
    if tensor.dtype != dtype or not tensor.is_contiguous():
        raise TypeError(f"a kernel takes the address of a contiguous {dtype} tensor, got {tensor.dtype} of strides {tensor.stride()}")
    return tensor.data_ptr()


def launch(kernel: Any, count: int, arguments: Sequence[Any], device: torch.device, *, chunks: int | None = None) -> None:
    """Run ``kernel`` for work items ``0 <= i < count``.

    Args:
        kernel: a Warp kernel whose first parameter is ``first: int``.
        count: number of work items; zero does nothing.
        arguments: what follows ``first``: contiguous tensors, numbers, Warp structs.
        device: device of the tensors.
        chunks: number of chunks of work on a CPU. By default one per thread, for many equal items; pass ``count`` if items are long or
        unequal.
    """
    if count == 0:
        return
    if device.type != "cpu":
        ready = [wp.from_torch(a.detach(), requires_grad=False) if isinstance(a, Tensor) else a for a in arguments]
        stream = wp.stream_from_torch(torch.cuda.current_stream(device))
        wp.launch(kernel, dim=count, inputs=[0, *ready], device=wp.device_from_torch(device), stream=stream)
        return
    plain = not on_cpu(device)
    threads = 1 if plain else thread_count()
    if chunks is None or plain:
        chunks = min(threads, max(1, count // _SMALLEST_CHUNK))
    chunks = min(chunks, count)
    recorded = _recorded_of(kernel)
    signature = tuple([(a.dtype, a.ndim) if isinstance(a, Tensor) else None for a in arguments])
    # Warp itself reports what it does not take, such as a size beyond int32, and chooses among the forms of a generic kernel.
    known = recorded.get(signature)
    if known is not None and all([a.nbytes < 2**31 and a.is_contiguous() for a in arguments if isinstance(a, Tensor)]):
        packed = known.packed(arguments)
    else:
        ready = [wp.from_torch(a.detach(), requires_grad=False) if isinstance(a, Tensor) else a for a in arguments]
        command = wp.launch(kernel, dim=count, inputs=[0, *ready], device="cpu", record_cmd=True)
        known = _Recorded(command)
        packed = command.params[2:]  # pyright: ignore[reportOptionalMemberAccess, reportOptionalSubscript, reportAttributeAccessIssue]
        if not kernel.is_generic:
            recorded[signature] = known

    if chunks == 1 or threads == 1:
        known.run(0, count, packed)
        return

    def run(k: int) -> None:
        begin = count * k // chunks
        known.run(begin, count * (k + 1) // chunks - begin, packed)

    run_in_threads(run, chunks, threads)


def _recorded_of(kernel: Any) -> dict[_Signature, _Recorded]:
    """Return what has run of this kernel, and load its module on first use.

    The lock is needed because two threads that load a module at once unload each other's copy.
    """
    if kernel not in _recorded:
        with _pool.loading:
            if kernel not in _recorded:
                wp.load_module(kernel.module, device="cpu")
                _recorded[kernel] = {}
    return _recorded[kernel]


def run_in_threads(work: Callable[[int], None], chunks: int, threads: int) -> None:
    """Call ``work(k)`` for ``0 <= k < chunks`` on this and other threads, which each take the next free ``k``."""
    helpers = min(threads, chunks) - 1
    if helpers <= 0:
        for k in range(chunks):
            work(k)
        return
    counter = iter(range(chunks))
    lock = threading.Lock()

    def drain() -> None:
        while True:
            with lock:
                k = next(counter, None)
            if k is None:
                return
            work(k)

    futures: list[Future[None]] = [_workers(threads - 1).submit(drain) for _ in range(helpers)]
    try:
        drain()
    finally:  # wait for all of them, whatever one of them raised: they work on memory that the caller may free
        errors = [future.exception() for future in futures]
    for error in errors:
        if error is not None:
            raise error


def launch_tiled(kernel: Any, count: int, arguments: Sequence[Any], device: torch.device, *, threads: int) -> None:
    """Run a kernel of tiles for blocks ``0 <= i < count``.

    A block has some threads on a GPU and one on a CPU. Unlike other kernels this has no argument ``first``.
    """
    if count == 0:
        return
    ready = [wp.from_torch(a.detach(), requires_grad=False) if isinstance(a, Tensor) else a for a in arguments]
    if device.type == "cpu":
        wp.launch_tiled(kernel, dim=[count], inputs=ready, device="cpu", block_dim=1)
        return
    stream = wp.stream_from_torch(torch.cuda.current_stream(device))
    wp.launch_tiled(kernel, dim=[count], inputs=ready, device=wp.device_from_torch(device), stream=stream, block_dim=threads)

"""Launching of Warp kernels on CPU threads or a GPU; the only module that does so.

Warp runs a CPU launch on the calling thread and releases the interpreter lock meanwhile. A launch is therefore cut into chunks along its
leading dimension, which run on ``torch.get_num_threads()`` threads. On a GPU it is one launch on PyTorch's current stream.

Every kernel takes the index of its first work item as its first argument, ``first: int``, and starts with ``i = first + wp.tid()``.

Warp's ``atomic_add`` is not atomic between CPU threads. A kernel that scatters must therefore own its destination: a work item is then one
destination (a level, a ray, a tile), and ``chunks`` says how finely to cut.
"""

from __future__ import annotations

import atexit
import ctypes
import itertools
import logging
import os
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
import warp as wp
from torch import Tensor

from unrender.devices import on_cpu, thread_count
from unrender.ops.kernels.cache import start_with_writable_cache
from unrender.ops.kernels.structs import Filled, packed, packer


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


_Signature: TypeAlias = "tuple[Any, ...]"
"""Element type and dimensions of each tensor of a launch, the class of each struct and number."""


class _Recorded:
    """A launch on a CPU that Warp has checked once: further ones with arguments of the same types only fill in their values.

    Warp takes about 60 microseconds to check and pack the arguments of a launch, while it holds the interpreter lock; this takes a tenth.
    """

    def __init__(self, command: object) -> None:
        assert isinstance(command, wp.Launch) and command.params is not None and command.hooks is not None
        self._module = command.module_exec  # keeps it loaded
        self._forward = command.hooks.forward
        self._bounds = type(command.bounds)
        fields = [(f"argument_{number}", type(parameter)) for number, parameter in enumerate(command.params[1:])]
        arguments = type("Arguments", (ctypes.Structure,), {"_fields_": fields})
        size = ctypes.sizeof(arguments)
        self._pack = packer([(getattr(arguments, name).offset, kind) for name, kind in fields], size).pack
        self._buffer = ctypes.c_char * size

    def packed(self, arguments: Sequence[Any]) -> bytes:
        """Return all arguments as the kernel takes them, with ``first`` zero."""
        return self._pack(0, *[packed(argument) for argument in arguments])

    def run(self, first: int, count: int, packed: bytes) -> None:
        """Run the kernel for work items ``first <= i < first + count``."""
        arguments = bytearray(packed)
        _FIRST.pack_into(arguments, 0, first)
        self._forward(ctypes.byref(self._bounds(count)), ctypes.byref(self._buffer.from_buffer(arguments)))


_FIRST = struct.Struct("i")
_recorded: dict[Any, dict[_Signature, _Recorded]] = {}
"""What has run of each kernel loaded on a CPU, by the types of its arguments."""


class _Work:
    """The chunks of a launch, of which helpers and the thread that launches each take the next free one.

    The caller may free the memory that the chunks are on as soon as the launch is over, so it waits for every helper that may have begun.
    An interruption (Ctrl-C) may come between any two instructions: what is done by then is read off the helpers, not noted beside them.
    """

    def __init__(self, work: Callable[[int], None], chunks: int) -> None:
        self._work: Callable[[int], None] | None = work
        self._chunks, self._next = chunks, itertools.count()
        self._ended = threading.Lock()
        self._ended.acquire()
        self.asked: list[_Helper] = []
        """All helpers that may work on it."""
        self.error: BaseException | None = None
        """What a helper raised."""

    def drain(self) -> None:
        """Do the chunks that nobody has begun."""
        work = self._work
        assert work is not None
        while (k := next(self._next)) < self._chunks:
            work(k)

    def tell(self) -> None:
        """Tell who waits that a helper has ended."""
        _unlock(self._ended)

    def wait(self) -> None:
        """Wait until no helper works on it, whatever interrupts the wait, and let go of it.

        The last interruption is raised at the end.
        """
        interruption = None
        while True:
            try:
                for helper in self.asked:
                    while helper.is_on(self):
                        helper.wake()  # unless an interruption came before that
                        self._ended.acquire()
                break
            except BaseException as error:
                interruption = error
        self._work = None
        if interruption is not None:
            try:
                raise interruption
            finally:
                del interruption


class _Helper:
    """A thread that takes part in one launch after the other. Locks wake it, which takes less than a queue and futures."""

    def __init__(self) -> None:
        # One entry at most. A dictionary, because it is set by whoever comes first, and cleared, in one instruction.
        self._work: dict[None, _Work] = {}
        self._wake = threading.Lock()
        self._wake.acquire()
        threading.Thread(target=self._serve, name="unrender", daemon=True).start()

    def offer(self, work: _Work) -> bool:
        """Let it take part, unless it is busy."""
        work.asked.append(self)  # before it can begin
        if self._work.setdefault(None, work) is not work:
            return False
        self.wake()
        return True

    def is_on(self, work: _Work) -> bool:
        """Tell whether it has this work, begun or not."""
        return self._work.get(None) is work

    def wake(self) -> None:
        """Let it look for work; without any it sleeps again."""
        _unlock(self._wake)

    def _serve(self) -> None:
        while True:
            self._wake.acquire()
            work = self._work.get(None)
            if work is not None:
                try:
                    work.drain()
                except BaseException as error:
                    work.error = error
                self._work.clear()  # before it tells, so that the next launch finds it idle
                work.tell()
            del work


def _unlock(lock: threading.Lock) -> None:
    try:
        lock.release()
    except RuntimeError:  # it is open
        pass


@dataclass
class _Pool:
    """The helpers that run kernels on a CPU beside the thread that launches them."""

    helpers: list[_Helper] = field(default_factory=list)
    loading: AbstractContextManager[Any] = field(default_factory=threading.Lock)
    """Held while a kernel is loaded."""
    lock: AbstractContextManager[Any] = field(default_factory=threading.RLock)
    """Held while helpers are made."""
    is_closed: bool = False
    """True once the interpreter ends: threads then stop for good as soon as they need it."""

    def share(self, work: _Work, wanted: int) -> None:
        """Let up to this many idle helpers take part, none of them if other launches keep all busy."""
        if len(self.helpers) < wanted:
            with self.lock:
                while len(self.helpers) < wanted:
                    self.helpers.append(_Helper())
        for helper in self.helpers:
            if wanted == 0:
                return
            wanted -= helper.offer(work)


_pool = _Pool()


def _forget_threads() -> None:
    """Replace the pool and its locks in a process made by ``fork``, which inherits them without the threads.

    OpenMP's threads are missing too, and PyTorch would wait for them forever: it gets one thread, as in a worker of its data loader.
    """
    _pool.helpers, _pool.loading, _pool.lock = [], threading.Lock(), threading.RLock()
    torch.set_num_threads(1)


def _close() -> None:
    """Let every further launch run alone: an object of a module may end, and launch, after all threads have stopped."""
    _pool.is_closed = True


atexit.register(_close)


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_threads)


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
        arguments: what follows ``first``: contiguous tensors, numbers, Warp structs (:func:`~unrender.ops.kernels.structs.filled`).
        device: device of the tensors.
        chunks: number of chunks of work on a CPU. By default one per thread, for many equal items; pass ``count`` if items are long or
        unequal.
    """
    if count == 0:
        return
    if device.type != "cpu":
        ready = _for_warp(kernel, arguments)
        stream = wp.stream_from_torch(torch.cuda.current_stream(device))
        wp.launch(kernel, dim=count, inputs=[0, *ready], device=wp.device_from_torch(device), stream=stream)
        return
    plain = not on_cpu(device)
    threads = 1 if plain else thread_count()
    if chunks is None or plain:
        chunks = min(threads, max(1, count // _SMALLEST_CHUNK))
    chunks = min(chunks, count)
    recorded = _recorded_of(kernel)
    signature = tuple([(a.dtype, a.ndim) if isinstance(a, Tensor) else a.kind if isinstance(a, Filled) else type(a) for a in arguments])
    # Warp itself reports what it does not take, such as a size beyond int32, and chooses among the forms of a generic kernel.
    known = recorded.get(signature)
    if known is None or not all([a.nbytes < 2**31 and a.is_contiguous() for a in arguments if isinstance(a, Tensor)]):
        known = _Recorded(wp.launch(kernel, dim=count, inputs=[0, *_for_warp(kernel, arguments)], device="cpu", record_cmd=True))
        if not kernel.is_generic:
            recorded[signature] = known
    ready = known.packed(arguments)

    if chunks == 1 or threads == 1:
        known.run(0, count, ready)
        return

    def run(k: int, _held: Sequence[Any] = arguments) -> None:
        # It holds the tensors, as the packed arguments do not: they live as long as a helper may work on them.
        begin = count * k // chunks
        known.run(begin, count * (k + 1) // chunks - begin, ready)

    run_in_threads(run, chunks, threads)


def _for_warp(kernel: Any, arguments: Sequence[Any], *, behind: int = 1) -> list[Any]:
    """Return arguments as Warp takes them; ``behind`` is how many others the kernel takes before them.

    Raises:
        TypeError: a struct is of another kind than the kernel takes, which Warp does not check.
    """
    given = zip(kernel.adj.args[behind:], arguments, strict=False)
    wrong = [(declared, a) for declared, a in given if isinstance(a, Filled) and a.kind is not declared.type]
    if wrong:
        declared, found = wrong[0]
        wanted = getattr(declared.type, "key", declared.type)
        raise TypeError(f"{kernel.key} takes {wanted} as {declared.label}, got {found.kind.key}")
    return [
        wp.from_torch(a.detach(), requires_grad=False) if isinstance(a, Tensor) else a.instance() if isinstance(a, Filled) else a
        for a in arguments
    ]


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
    helpers = 0 if _pool.is_closed else min(threads, chunks) - 1
    if helpers <= 0:
        for k in range(chunks):
            work(k)
        return
    shared = _Work(work, chunks)
    try:
        try:
            _pool.share(shared, helpers)
            shared.drain()
        finally:  # whatever was raised
            shared.wait()
    finally:  # again, because an interruption may have come as that wait began
        shared.wait()
    if shared.error is not None:
        raise shared.error


def launch_tiled(kernel: Any, count: int, arguments: Sequence[Any], device: torch.device, *, threads: int) -> None:
    """Run a kernel of tiles for blocks ``0 <= i < count``.

    A block has some threads on a GPU and one on a CPU. Unlike other kernels this has no argument ``first``.
    """
    if count == 0:
        return
    ready = _for_warp(kernel, arguments, behind=0)
    if device.type == "cpu":
        wp.launch_tiled(kernel, dim=[count], inputs=ready, device="cpu", block_dim=1)
        return
    stream = wp.stream_from_torch(torch.cuda.current_stream(device))
    wp.launch_tiled(kernel, dim=[count], inputs=ready, device=wp.device_from_torch(device), stream=stream, block_dim=threads)

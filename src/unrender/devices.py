"""Devices and threads: available devices, their names, and the number of threads of kernels and PyTorch.

PyTorch is imported by the functions that need it: a broken installation must still be able to say what is broken.
"""

from __future__ import annotations

import ctypes
import difflib
import importlib.metadata
import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


_KINDS_WITH_KERNELS = ("cpu", "cuda")

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Options of glibc's ``mallopt``: free bytes at the top of the heap that are kept, and the number of allocations beside the heap."""
_DEFAULT_TRIM_THRESHOLD, _DEFAULT_MMAP_MAX = 2**17, 2**16


@dataclass
class _KeptMemory:
    """The blocks of :func:`keeping_freed_memory` that are open."""

    users: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


_kept_memory = _KeptMemory()


class DeviceError(ValueError):
    """The requested device does not exist or cannot be used."""


def select_device(name: str | None) -> torch.device:
    """Return the device to run on: the one named, else the first GPU, else the CPU.

    Args:
        name: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or None for a GPU if there is one.

    Raises:
        DeviceError: the device does not exist, or PyTorch cannot use it; the message says what to do.

    >>> select_device("cpu")
    device(type='cpu')
    """
    import torch

    present = torch.cuda.is_available()
    if name is None:
        return torch.device("cuda", 0) if present else torch.device("cpu")
    kind, _, number = name.partition(":")
    if kind == "cpu" and not number:
        return torch.device("cpu")
    if kind != "cuda" or (number and not number.isdigit()):
        close = difflib.get_close_matches(kind, ["cpu", "cuda"], n=1, cutoff=0.7)
        hint = f"did you mean {close[0]}?" if close else "choose cpu, cuda or cuda:1"
        raise DeviceError(f"there is no device {name!r}; {hint}")
    if not present:
        if torch.version.cuda is None:
            raise DeviceError(
                f"device {name!r} cannot be used: the installed PyTorch {torch.__version__} is built without CUDA; "
                "install a CUDA build (https://pytorch.org/get-started) or run on the CPU with --device cpu"
            )
        raise DeviceError(
            f"device {name!r} cannot be used: the installed PyTorch {torch.__version__} (for CUDA {torch.version.cuda}) finds no GPU; "
            "check the driver with nvidia-smi or run on the CPU with --device cpu"
        )
    index, count = int(number or 0), torch.cuda.device_count()
    if index >= count:
        raise DeviceError(f"device {name!r} cannot be used: this machine has {count} GPU{'s' * (count > 1)}, numbered from 0")
    return torch.device("cuda", index)


def device_name(device: torch.device) -> str:
    """Return the product name of a device."""
    import torch

    return torch.cuda.get_device_name(device) if device.type != "cpu" else processor()


def processor() -> str:
    """Return the name of the processor and the number of cores this process may use."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {usable_cores()} cores"


def usable_cores() -> int:
    """Return the number of cores this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else (os.cpu_count() or 1)


def peak_memory_mb(device: torch.device) -> float | None:
    """Return the peak memory so far, in MB (2²⁰ bytes): of a GPU, or of this process; None if unknown."""
    import torch

    if device.type != "cpu":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        with open("/proc/self/status", encoding="utf-8") as file:
            return next((int(line.split()[1]) / 1024.0 for line in file if line.startswith("VmHWM")), None)
    except OSError:
        pass
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return None


def resident_memory() -> int:
    """Return the memory of this process now, in bytes; 0 if unknown."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        peak = peak_memory_mb(_cpu())
        return 0 if peak is None else round(peak * 2**20)


def memory() -> tuple[int, int]:
    """Return the free and the total memory of this machine, in bytes; 8 GiB where the system does not say."""
    try:
        page, total = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
        free = os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 8 * 2**30, 8 * 2**30
    return page * free, page * total


def _cpu() -> torch.device:
    import torch

    return torch.device("cpu")


def versions() -> dict[str, str]:
    """Return the version of everything that can change a result."""
    packages = {"unrender": "unrender", "torch": "torch", "warp": "warp-lang", "numpy": "numpy"}
    return {name: importlib.metadata.version(package) for name, package in packages.items()} | {"python": platform.python_version()}


@dataclass
class _Threads:
    """The process-wide thread policy."""

    kernel_threads: int | None = None
    """Threads of kernels inside :func:`pytorch_on_one_thread`; None outside, where PyTorch's own number applies."""
    users: int = 0
    """Number of open :func:`pytorch_on_one_thread` blocks, of all threads together."""
    as_on_a_gpu: bool = False
    """True inside :func:`as_on_a_gpu`."""
    lock: Any = field(default_factory=threading.Lock)


@dataclass
class _Blocks:
    """The open :func:`pytorch_on_one_thread` blocks of one thread."""

    count: int = 0
    owed: int | None = None
    """PyTorch's number of threads that this thread has not got back yet, because another thread ended its last block."""


class _OfThisThread(threading.local):
    """What belongs to the calling thread."""

    def __init__(self) -> None:
        self.blocks = _Blocks()


_threads = _Threads()
_of_this_thread = _OfThisThread()


def _forget_other_threads() -> None:
    """Replace the locks in a process made by ``fork``: another thread, which is missing there, may have held them."""
    _threads.lock, _kept_memory.lock = threading.Lock(), threading.Lock()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_other_threads)


def thread_count() -> int:
    """Return how many threads a kernel may use on a CPU.

    It is ``torch.get_num_threads()`` as set outside of :func:`pytorch_on_one_thread`.
    """
    import torch

    inside = _threads.kernel_threads  # read once: another thread may end its block meanwhile
    return torch.get_num_threads() if inside is None else inside


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Let the C library keep freed memory inside the block, and return it to the system at the end.

    By default it returns large blocks at once, and every step of a fit pays for fresh pages again, each of which the kernel clears. Changes
    nothing where the C library is not glibc. Blocks may overlap; the last one to end returns the memory.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    with _kept_memory.lock:
        _kept_memory.users += 1
        if _kept_memory.users == 1:
            libc.mallopt(_MMAP_MAX, 0)
            libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        with _kept_memory.lock:
            _kept_memory.users -= 1
            if _kept_memory.users == 0:
                libc.mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
                libc.mallopt(_TRIM_THRESHOLD, _DEFAULT_TRIM_THRESHOLD)
                libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """Return the C library if it is glibc with its own allocator, whose options nobody has set."""
    others = "malloc" in os.environ.get("LD_PRELOAD", "") or any(name.startswith("MALLOC_") for name in os.environ)
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" and not others else None


@contextmanager
def pytorch_on_one_thread() -> Iterator[None]:
    """Run PyTorch's own loops on the calling thread inside the block; kernels keep all threads.

    The tensors between two kernels of a training step are small: on one thread an operation takes about ten microseconds, while an OpenMP
    barrier takes milliseconds as soon as another process runs on one of the cores. Blocks may overlap in several threads: OpenMP has a
    number of threads for each of them, which is restored when its own outermost block ends. Where another thread ends that block, as the
    garbage collector may with a loop that was left, it is restored when the next block of its own thread begins.
    """
    import torch

    own = _of_this_thread.blocks
    if own.owed is not None and own.count == 0:
        torch.set_num_threads(own.owed)
    own.owed = None
    with _threads.lock:
        # Always called: a thread adopts PyTorch's number on its first call, which would undo the setting below.
        current = torch.get_num_threads()
        if _threads.users == 0:
            _threads.kernel_threads = current
        _threads.users += 1
    own.count += 1
    torch.set_num_threads(1)
    try:
        yield
    finally:
        own.count -= 1
        with _threads.lock:
            before = _threads.kernel_threads
            _threads.users -= 1
            if _threads.users == 0:
                _threads.kernel_threads = None
        assert before is not None
        if own.count == 0 and own is _of_this_thread.blocks:
            torch.set_num_threads(before)
        elif own.count == 0:
            own.owed = before


def has_kernels(device: torch.device) -> bool:
    """Tell whether kernels run on ``device``: a CPU or a CUDA device."""
    return device.type in _KINDS_WITH_KERNELS


def on_cpu(device: torch.device) -> bool:
    """Tell whether to use the CPU's kernels on ``device``: False on a GPU and inside :func:`as_on_a_gpu`."""
    return device.type == "cpu" and not _threads.as_on_a_gpu


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Let a CPU run the GPU's kernels and control flow inside the block.

    Kernels then run one element per thread on a single thread, where atomic operations are plain ones. Tests use this to cover GPU code
    without a GPU, except for the few lines of C++ that only a GPU compiles.
    """
    before = _threads.as_on_a_gpu
    _threads.as_on_a_gpu = True
    try:
        yield
    finally:
        _threads.as_on_a_gpu = before

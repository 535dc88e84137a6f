"""How much memory images take, how much there is, and files that hold images instead."""

from __future__ import annotations

import atexit
import ctypes
import math
import mmap
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unrender.captures.errors import CaptureError
from unrender.captures.reading import shown

SHARE_OF_MEMORY = 0.5
"""Share of the memory of this process that the images of a capture may take before they are kept on disk."""

_SHARE_OF_FREE = 0.8
"""Largest share of the memory that is free now, or of the address space that is left, for images."""

_GIGABYTE = 2**30


_UNITS = {"": 1, "B": 1, "KB": 2**10, "MB": 2**20, "GB": _GIGABYTE, "TB": 2**40}


def bytes_of(amount: int | str) -> int:
    """Return an amount of memory in bytes; KB, MB, GB and TB are powers of 1024.

    >>> bytes_of("8GB") == 8 * 2**30, bytes_of("1.5 MB"), bytes_of("100"), bytes_of(100)
    (True, 1572864, 100, 100)

    Raises:
        CaptureError: it is no such amount.
    """
    if isinstance(amount, int) and not isinstance(amount, bool) and amount >= 0:
        return amount
    if isinstance(amount, str):
        found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)([kmgt]?b?)", amount.strip().replace(" ", ""), re.IGNORECASE)
        if found is not None:
            unit = found[2].upper()
            return int(float(found[1]) * _UNITS[unit if unit in _UNITS else f"{unit}B"])
    raise CaptureError(f"memory is {shown(amount)}; give a number of bytes, or an amount such as 8GB or 500MB")


class ImageBudget:
    """A memory budget for images: those allocated first stay in memory, the rest go to disk."""

    def __init__(self, limit: int | None = None) -> None:
        """Set the budget in bytes, by default half of the memory of this process, and no more than is free."""
        if limit is None:
            limit = min(int(SHARE_OF_MEMORY * memory_limit()), int(_SHARE_OF_FREE * free_memory()))
        self._left = limit

    @property
    def left(self) -> int:
        """The bytes that are left."""
        return self._left

    def takes(self, needed: int) -> bool:
        """Take bytes from the budget; False if it has fewer left, and the images belong on disk."""
        if needed > self._left:
            return False
        self._left -= needed
        return True

    def check(self, pixels: int, bytes_each: int, downscale: int) -> None:
        """Check that images of so many pixels, before downscaling, fit into memory or onto the disk.

        Raises:
            CaptureError: they do not.
        """
        needed = pixels * bytes_each // downscale**2
        if needed <= self._left:
            return
        folder, room = disk_room()
        room = min(room, _mapping_room())
        if needed <= room:
            return
        fits = next(factor for factor in range(downscale + 1, 10_000) if pixels * bytes_each // factor**2 <= max(room, self._left, 1))
        raise CaptureError(
            f"the images take {needed / _GIGABYTE:.1f} GB, but this process can have {max(0, self._left) / _GIGABYTE:.1f} GB in memory or "
            f"{max(0, room) / _GIGABYTE:.1f} GB in a file in {folder}; use --downscale {fits} (downscale={fits} in Python), or set TMPDIR "
            "to a folder on a larger disk"
        )


def memory_limit() -> int:
    """Return the bytes of memory that this process may use: the machine's, its container's, or its own limit."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        total = 8 * _GIGABYTE
    limits = [total, *_container_limits()]
    if (room := address_space_left()) is not None:
        limits.append(room)
    return min(limits)


def _container_limits() -> list[int]:
    """Return the memory limits of the control groups of this process, version 2 or 1."""
    root = Path("/sys/fs/cgroup")
    files = [root / "memory.max", root / "memory" / "memory.limit_in_bytes"]
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            own = Path(path.lstrip("/"))
            if number == "0":
                files += [root / group / "memory.max" for group in (own, *own.parents)]
            elif "memory" in controllers.split(","):
                files += [root / "memory" / group / "memory.limit_in_bytes" for group in (own, *own.parents)]
    except (OSError, ValueError):
        pass
    limits = []
    for file in files:
        try:
            limits.append(int(file.read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return limits


def free_memory() -> int:
    """Return the bytes that can be allocated without swapping; the whole memory if the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    except (OSError, ValueError, StopIteration, IndexError):
        return memory_limit()


def address_space_left() -> int | None:
    """Return the bytes that ``ulimit -v`` leaves to this process; None without such a limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        used = 0
    return max(0, limit - used)


def _mapping_room() -> float:
    room = address_space_left()
    return math.inf if room is None else _SHARE_OF_FREE * room


def disk_room() -> tuple[str, int]:
    """Return the folder of temporary files and its free bytes; zero if it cannot be used."""
    folder = _disk_folder()
    try:
        return folder, shutil.disk_usage(folder).free if os.access(folder, os.W_OK) else 0
    except OSError:
        return folder, 0


def allocated(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Allocate a tensor on the CPU.

    Raises:
        CaptureError: the system refuses.
    """
    try:
        return torch.empty(shape, dtype=dtype, device="cpu")
    except (RuntimeError, MemoryError) as error:
        size = math.prod(shape) * dtype.itemsize
        raise CaptureError(f"there is no memory for {size / _GIGABYTE:.1f} GB of images; use a larger downscale (--downscale N)") from error


def mapped_file(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Map a new temporary file whose blocks are reserved, so that a disk that fills up later does no harm.

    The file is unlinked at once if the system allows it, so it disappears with the tensor; otherwise at exit.

    Raises:
        CaptureError: the folder cannot be written or has too little space, or the file cannot be mapped.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    folder = _disk_folder()
    takes = f"the images take {size / _GIGABYTE:.1f} GB, more than the memory they may use"
    remedy = "use a larger downscale, or set TMPDIR to a folder on a larger disk"
    try:
        handle, name = tempfile.mkstemp(prefix="unrender-", suffix=".pixels", dir=folder)
    except OSError as error:
        raise CaptureError(f"{takes}, and {folder} cannot be written ({error.strerror}); {remedy}") from error
    try:
        if shutil.disk_usage(folder).free < size:
            raise CaptureError(f"{takes} and than {folder} has left; {remedy}")
        os.truncate(handle, size)
        if sys.platform == "linux":
            os.posix_fallocate(handle, 0, size)
        pixels = torch.from_file(name, shared=True, size=size, dtype=torch.uint8).view(dtype).view(shape)
    except (OSError, RuntimeError) as error:
        os.close(handle)
        os.unlink(name)
        said = error.strerror if isinstance(error, OSError) else "it cannot be mapped"
        raise CaptureError(f"{takes}, and a file in {folder} cannot hold them ({said}); {remedy}") from error
    except BaseException:
        os.close(handle)
        os.unlink(name)
        raise
    os.close(handle)
    try:
        os.unlink(name)
    except OSError:  # Windows does not delete mapped files
        atexit.register(Path(name).unlink, missing_ok=True)
    return pixels


def release_pages(pixels: Tensor) -> None:
    """Give the pages of a part of a mapped file back to the system.

    Their content stays in the file, and is mapped again when it is read. Otherwise the memory of this process, as Linux counts it, would
    grow to the size of the file; other systems are left alone.
    """
    if sys.platform != "linux":
        return
    begin, end = pixels.data_ptr(), pixels.data_ptr() + pixels.nbytes
    first, last = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)


def _disk_folder() -> str:
    """Return TMPDIR, else /var/tmp: the usual folder for temporary files is often kept in memory."""
    return tempfile.gettempdir() if "TMPDIR" in os.environ or not os.path.isdir("/var/tmp") else "/var/tmp"

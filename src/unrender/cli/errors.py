"""Sentences about errors that come from the machine: memory, disk, permissions."""

from __future__ import annotations

import errno
import re

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_ADVICE = {
    "fit": "use --downscale 2, a smaller --target-samples, or a smaller --mesh-resolution",
    "check": "use --downscale 2",
    "demo": "close other programs",
    "export": "use a smaller --resolution",
    "render": "use --downscale 2",
}
"""What takes less memory, by command."""


def memory_sentence(error: BaseException, command: str) -> str:
    """Describe an error of memory and what to do.

    >>> error = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 3221225472 bytes. Error code 12")
    >>> memory_sentence(error, "export")
    'memory is used up: 3.0 GB more were needed; use a smaller --resolution'
    """
    text = str(error)
    plain = re.search(r"allocate (\d+) bytes", text)
    unit = re.search(r"allocate ([\d.]+ [KMGT])i?B", text)
    needed = f"{int(plain[1]) / 2**30:.1f} GB" if plain else f"{unit[1]}B" if unit else ""
    where = "memory of the GPU" if "CUDA" in text else "memory"
    return f"{where} is used up{f': {needed} more were needed' if needed else ''}; {_ADVICE.get(command, 'close other programs')}"


def system_sentence(error: OSError) -> str:
    """Describe an error of the operating system; an error with a text of ours keeps it.

    >>> system_sentence(PermissionError(13, "Permission denied", "runs"))
    'there is no permission for runs; change its permissions or choose another place with --out'
    >>> system_sentence(OSError(28, "No space left on device", "runs/a/mesh.ply"))
    'the disk is full at runs/a/mesh.ply; free some space or choose another place with --out'
    """
    if error.errno is None or error.strerror is None:
        return str(error)
    path = "" if error.filename is None else str(error.filename)
    elsewhere = "choose another place with --out"
    if error.errno in _FULL:
        return f"the disk is full{f' at {path}' if path else ''}; free some space or {elsewhere}"
    if error.errno in _FORBIDDEN:
        return f"there is no permission for {path or 'a file'}; change its permissions or {elsewhere}"
    if error.errno == errno.ENOENT:
        return f"there is no file {path}"
    return f"{path}: {error.strerror[:1].lower()}{error.strerror[1:]}" if path else error.strerror

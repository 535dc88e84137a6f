"""Atomic file writes: write a temporary file beside the old one, flush to disk, rename over it.

Readers never see a partial file under its final name, even after ``kill -9``. A killed process leaves its temporary file;
:func:`remove_partials` removes it later. The writer holds a lock on the file, which ends with the process, so a file that another process
is writing stays.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import fcntl

_PREFIX, _MARK = ".unrender-", ".partial"
"""Every temporary file is named ``.unrender-PID-RANDOM.partial`` and the suffix of the file it will replace."""

_LONGEST_SUFFIX = 16
"""Longer suffixes are left out of temporary names, which must not be too long for the file system where the final name is not."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to, which replaces ``path`` at the end of the block; it has the same suffix.

    For libraries that write files themselves. When the block raises, the old file stays and the new one is removed.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    partial, handle = _new_partial(path)
    try:
        yield partial
        _flush(partial)
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)
    _flush_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write all of ``data`` to ``path``, or nothing."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write all of ``text`` to ``path`` as UTF-8 with Unix line ends, or nothing.

    Bytes of a file name that are no text, which Python keeps as surrogates, become question marks.
    """
    write_bytes(path, text.encode("utf-8", "replace"))


def write_copy(path: Path, original: Path) -> None:
    """Write a copy of a file."""
    with replacing(path) as partial:
        shutil.copyfile(original, partial)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` as indented JSON.

    Raises:
        ValueError: ``value`` has NaN or infinities, which JSON does not have.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:  # file names may have bytes that are no text
        data = json.dumps(value, indent=2, allow_nan=False).encode("ascii")
    write_bytes(path, data + b"\n")


def remove_partials(folder: Path) -> None:
    """Remove the temporary files of killed processes from ``folder``, but not those of running ones."""
    for file in folder.glob(f"{_PREFIX}*{_MARK}*"):
        with contextlib.suppress(OSError):
            handle = os.open(file, os.O_RDWR)
            try:
                if _lock(handle):
                    file.unlink(missing_ok=True)
            finally:
                os.close(handle)


def _new_partial(path: Path) -> tuple[Path, int | None]:
    """Create a temporary file beside ``path`` and lock it; the lock lasts until the handle is closed."""
    suffix = path.suffix if len(os.fsencode(path.suffix)) <= _LONGEST_SUFFIX else ""
    while True:
        partial = path.with_name(f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}{_MARK}{suffix}")
        handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if sys.platform == "win32":  # an open file cannot be renamed there, and needs no lock: it cannot be removed either
            os.close(handle)
            return partial, None
        _lock(handle)
        try:
            # Another process may have removed the file before it was locked.
            if os.path.samestat(os.fstat(handle), os.stat(partial)):
                return partial, handle
        except FileNotFoundError:
            pass
        os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open file without waiting, and tell whether that worked; False where files cannot be locked."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _flush(path: Path) -> None:
    """Wait until the bytes of a file have reached the disk."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush_folder(folder: Path) -> None:
    """Wait until a rename has reached the disk; Windows cannot open a folder and needs no such step."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

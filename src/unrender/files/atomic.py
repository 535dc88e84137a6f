"""Files that are either complete or not there: write to a neighbor, flush to disk, rename over the old one.

A reader, or a run that was killed with ``kill -9``, never sees half a file under its final name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path beside ``path`` to write to, with the same suffix; on success it takes the place of ``path``.

    For libraries that write files themselves. Whatever goes wrong inside, the old file stays as it was and the new one is removed.

    Raises:
        OSError: when the folder cannot be written or the disk is full.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        _flush(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _flush_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes ``data`` to ``path``, all of it or nothing."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` to ``path`` as UTF-8 with Unix line ends, all of it or nothing."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` to ``path`` as indented JSON.

    Raises:
        ValueError: for NaN and infinities, which JSON has no word for.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _flush(path: Path) -> None:
    """Waits until the bytes of a file have reached the disk."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush_folder(folder: Path) -> None:
    """Waits until a rename has reached the disk. Windows cannot open a folder and needs no such step."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""The folder in which Warp caches compiled kernels, where its own cannot be written.

Containers with a foreign user, read-only images and cluster jobs have a home folder that cannot be written. Kernels are then cached in a
folder of the system's temporary one that belongs to this user alone: its files are machine code.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import warp as wp

_log = logging.getLogger("unrender")


def start_with_writable_cache(start: Callable[[], None]) -> None:
    """Start Warp with a kernel cache that can be written.

    A note says where it is if that is not Warp's own.

    Args:
        start: starts Warp, which chooses the folder and makes it.

    Raises:
        OSError: no folder can be written; the message names WARP_CACHE_PATH.
    """
    reason = ""
    for name in ("XDG_CACHE_HOME", "WARP_CACHE_PATH"):  # an empty one counts as not set; Warp would cache in the working folder
        if os.environ.get(name) == "":
            del os.environ[name]
    try:
        start()
    except OSError as error:
        reason = error.strerror or str(error)
    folder = Path(str(wp.config.kernel_cache_dir))
    reason = reason or _why_not_writable(folder)
    if not reason:
        return
    spare = temporary_cache()
    if spare is None:
        raise OSError(f"compiled kernels cannot be cached in {folder} ({reason}); set WARP_CACHE_PATH to a folder that can be written")
    # The variable would come before the setting, also in processes that this one starts.
    os.environ["WARP_CACHE_PATH"] = str(spare)
    wp.config.kernel_cache_dir = str(spare)
    start()
    _log.warning(
        "note: compiled kernels cannot be cached in %s (%s), so they are in %s; set WARP_CACHE_PATH to a folder that lasts",
        folder,
        reason,
        spare,
    )


def temporary_cache() -> Path | None:
    """Return a temporary folder for compiled kernels that this user alone can write; None if there is none."""
    with contextlib.suppress(OSError):
        folder = Path(tempfile.gettempdir()) / f"unrender-kernels-{os.getuid() if os.name == 'posix' else 'cache'}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        private = os.name != "posix" or (found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077)
        # Somebody else could have made the folder and put machine code into it.
        if stat.S_ISDIR(found.st_mode) and private and not _why_not_writable(folder):
            return folder
    with contextlib.suppress(OSError):
        return Path(tempfile.mkdtemp(prefix="unrender-kernels-"))
    return None


def _why_not_writable(folder: Path) -> str:
    """Return why no file can be made in ``folder``; empty if one can."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)

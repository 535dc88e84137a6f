"""Headless Chromium and packages of npm, for the tests that look at files with the eyes of other programs; without them these skip."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from numpy import ndarray
from PIL import Image

_FLAGS = (
    "--headless=new", "--no-sandbox", "--hide-scrollbars", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist", "--force-device-scale-factor=1", "--enable-logging=stderr", "--virtual-time-budget=60000",
    "--run-all-compositor-stages-before-draw",
)  # fmt: skip


def chromium() -> str:
    """Return the browser; skip the test if there is none."""
    found = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("there is no Chromium")
    return found


def npm_packages(*wanted: str) -> Path:
    """Return a folder with packages of npm, such as ``three@0.187.0``; skip the test if they cannot be installed."""
    folder = _installed(wanted)
    if folder is None:
        pytest.skip(f"npm cannot install {' '.join(wanted)}; UNRENDER_NPM may name a folder that has them")
    return folder


@lru_cache(maxsize=4)
def _installed(wanted: tuple[str, ...]) -> Path | None:
    given = os.environ.get("UNRENDER_NPM")
    if given is not None:
        modules = Path(given) / "node_modules"
        return modules if all((modules / name.rsplit("@", 1)[0]).is_dir() for name in wanted) else None
    if shutil.which("node") is None or shutil.which("npm") is None:
        return None
    folder = Path(tempfile.mkdtemp(prefix="unrender-npm-"))
    words = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *wanted]
    done = subprocess.run(words, cwd=folder, capture_output=True, timeout=300, check=False)
    return folder / "node_modules" if done.returncode == 0 else None


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder to this machine; the address is that of its root."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def seen_by_chromium(address: str, width: int, height: int, folder: Path) -> tuple[ndarray, list[str]]:
    """Return the picture of a page [height, width, 3], 0 to 1, and what the page wrote to the console.

    A page of one color has not drawn yet, because the browser's clock runs ahead of its other threads: then it is opened again.
    """
    for _ in range(5):
        picture, console = _seen_once(address, width, height, folder)
        if np.ptp(picture) > 0:
            return picture, console
    return _seen_once(address, width, height, folder)


def _seen_once(address: str, width: int, height: int, folder: Path) -> tuple[ndarray, list[str]]:
    shot = folder / "shot.png"
    shot.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="unrender-chromium-") as profile:
        words = [chromium(), *_FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", f"--screenshot={shot}", address]
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert shot.exists(), done.stderr[-2000:]
    console = re.findall(r"CONSOLE[^\]]*\] (.*)", done.stderr)
    return np.asarray(Image.open(shot).convert("RGB"), np.float64) / 255, [line for line in console if "GPU stall" not in line]

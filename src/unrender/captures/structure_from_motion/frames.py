"""The sharpest frames of a video, evenly spread over its length."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe
from jaxtyping import Float, Num
from PIL import Image

from unrender.captures.errors import CaptureError
from unrender.captures.reading import check_file
from unrender.files.atomic import replacing

_FEWEST, _MOST = 60, 150
"""Frames that are taken from a short and from a long video."""

_PER_SECOND = 2.0

_SIDE = 320
"""Side of the square in which sharpness is measured."""

_LONGEST_HEADER = 64


Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Is told the title of some work, how many steps of it are done, and of how many, if that is known."""


def sharpness(gray: Num[np.ndarray, "height width"]) -> float:
    """Return the variance of the Laplacian, which blur takes away."""
    g = gray.astype(np.float32)
    laplacian = g[:-2, 1:-1] + g[2:, 1:-1] + g[1:-1, :-2] + g[1:-1, 2:] - 4 * g[1:-1, 1:-1]
    return float(laplacian.var()) if laplacian.size else 0.0


def frame_count(seconds: float) -> int:
    """Return how many frames to take from a video.

    >>> frame_count(10.0), frame_count(50.0), frame_count(600.0)
    (60, 100, 150)
    """
    return min(_MOST, max(_FEWEST, round(_PER_SECOND * seconds)))


def sharpest_of_windows(values: Float[np.ndarray, " frames"], count: int) -> list[int]:
    """Cut a video into ``count`` windows of equal length, and return the number of the sharpest frame of each.

    >>> sharpest_of_windows(np.array([1.0, 3.0, 2.0, 5.0, 4.0, 0.0]), 3)
    [1, 3, 4]
    """
    edges = np.linspace(0, len(values), min(count, len(values)) + 1).round().astype(int)
    return [int(first + values[first:last].argmax()) for first, last in zip(edges[:-1], edges[1:], strict=True)]


def extract_frames(video: Path, folder: Path, wanted: int | None, progress: Progress) -> list[Path]:
    """Write the sharpest frames of a video as JPEG files ``frame_00001.jpg``; the rotation that the file states is applied.

    Args:
        video: the file.
        folder: for the frames; complete ones that are there already are written again.
        wanted: number of frames; by default two per second, at least 60 and at most 150.
        progress: shows how far it is.

    Raises:
        CaptureError: the file is no video that ffmpeg decodes.
    """
    check_file(video)
    seconds, total = _length(video)
    values = []
    square = f"scale={_SIDE}:{_SIDE}:force_original_aspect_ratio=increase,crop={_SIDE}:{_SIDE}"
    with _decoder(video, ["-vf", square, "-f", "rawvideo", "-pix_fmt", "gray"]) as stream:
        while len(data := stream.read(_SIDE * _SIDE)) == _SIDE * _SIDE:
            values.append(sharpness(np.frombuffer(data, np.uint8).reshape(_SIDE, _SIDE)))
            progress("looking for sharp frames", len(values), None if total is None else max(total, len(values)))
    if not values:
        raise _unreadable(video, "no frame of it can be decoded")
    chosen = sharpest_of_windows(np.array(values), wanted or frame_count(len(values) / 30 if seconds is None else seconds))
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"frame_{number + 1:05d}.jpg" for number in chosen]
    for count, (file, picture) in enumerate(zip(files, _pictures(video, chosen), strict=False), 1):
        with replacing(file) as partial:
            picture.save(partial, quality=95, subsampling=0)
        progress("writing frames", count, len(files))
    return [file for file in files if file.exists()]


def _pictures(video: Path, chosen: Sequence[int]) -> Iterator[Image.Image]:
    """Decode single frames at full size."""
    wanted = "+".join(f"eq(n\\,{number})" for number in chosen)
    with _decoder(video, ["-vf", f"select={wanted}", "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24"]) as stream:
        while (kind := stream.readline(_LONGEST_HEADER)) == b"P6\n":
            width, height = map(int, stream.readline(_LONGEST_HEADER).split())
            stream.readline(_LONGEST_HEADER)
            data = stream.read(3 * width * height)
            if len(data) < 3 * width * height:
                return
            yield Image.frombytes("RGB", (width, height), data)
        if kind:
            raise _unreadable(video, "ffmpeg writes something else than pictures")


@contextmanager
def _decoder(video: Path, made: Sequence[str]) -> Iterator[IO[bytes]]:
    """Yield what ffmpeg writes about a video; playlists that lead to the network are refused."""
    words = [*_opening(video), "-v", "error", "-map", "0:v:0", "-an", "-sn", "-fps_mode", "passthrough", *made, "-"]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        yield process.stdout
    finally:
        process.kill()
        process.communicate()


def _opening(video: Path) -> list[str]:
    return [get_ffmpeg_exe(), "-nostdin", "-protocol_whitelist", "file,pipe", "-i", f"file:{video.absolute()}"]


def _length(video: Path) -> tuple[float | None, int | None]:
    """Return the seconds and about the number of frames that a file says it has."""
    told = subprocess.run(_opening(video), stdin=subprocess.DEVNULL, capture_output=True, check=False).stderr.decode("utf-8", "replace")
    length = re.search(r"Duration: (\d+):(\d+):([\d.]+)", told)
    rate = re.search(r"Video:.*? ([\d.]+) fps", told)
    seconds = None if length is None else 3600.0 * int(length[1]) + 60.0 * int(length[2]) + float(length[3])
    return seconds, None if seconds is None or rate is None else round(seconds * float(rate[1]))


def _unreadable(video: Path, why: str) -> CaptureError:
    return CaptureError(f"the video {video} cannot be read ({why}); convert it to MP4, or give a folder of photos")

"""Video files."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from unrender.files.atomic import replacing


def write_video(path: Path, frames: Iterable[UInt8[Tensor, "height width 3"]], *, fps: int = 24, smallest_side: int = 2) -> int:
    """Write sRGB frames as an H.264 file that plays in every browser (yuv420p, index at the front).

    H.264 in yuv420p needs even sides; an odd last row or column is repeated once. The encoder runs on one thread, because its result
    depends on their number: the same frames give the same file.

    Args:
        path: ends in ``.mp4``; replaced when the new file is complete.
        frames: taken one at a time, so a generator works.
        fps: frames per second.
        smallest_side: smaller frames are enlarged until their longer side has this many pixels.

    Returns:
        The number of frames written.

    Raises:
        ValueError: there is no frame.
        OSError: the file cannot be written.
    """
    count = 0
    process: subprocess.Popen[bytes] | None = None
    with replacing(path) as partial:
        try:
            for frame in frames:
                image = _enlarged(frame.cpu().numpy(), smallest_side)
                height, width = image.shape[:2]
                even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
                if process is None:
                    process = _encoder(partial, even.shape, fps)
                assert process.stdin is not None
                process.stdin.write(even.tobytes())
                count += 1
        except BrokenPipeError:  # the encoder has ended; its message says why
            pass
        except BaseException:
            if process is not None:
                process.kill()
                process.communicate()
            raise
        if process is None:
            raise ValueError(f"{path}: a video needs at least one frame")
        _, message = process.communicate()
        if process.returncode != 0:
            reason = message.decode("utf-8", "replace").strip().splitlines()
            raise OSError(f"{path.name}: the video encoder failed ({reason[-1] if reason else f'exit code {process.returncode}'})")
    return count


def _enlarged(image: UInt8[np.ndarray, "height width 3"], longest: int) -> UInt8[np.ndarray, "_ _ 3"]:
    height, width = image.shape[:2]
    factor = longest / max(height, width)
    if factor <= 1:
        return image
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _encoder(path: Path, shape: Sequence[int], fps: int) -> subprocess.Popen[bytes]:
    """Start ffmpeg, which reads RGB frames from its standard input and writes ``path``."""
    height, width = shape[:2]
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    made = ["-an", "-c:v", "libx264", "-threads", "1", "-pix_fmt", "yuv420p", "-crf", "20", "-movflags", "+faststart"]
    words = [get_ffmpeg_exe(), "-y", "-v", "error", *given, *made, str(path)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

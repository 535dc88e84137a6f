"""Video files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from unrender.files.atomic import replacing


def write_video(path: Path, frames: Iterable[UInt8[Tensor, "height width 3"]], *, fps: int = 24, smallest_side: int = 2) -> int:
    """Write sRGB frames as an H.264 file that plays in every browser (yuv420p, index at the front).

    H.264 in yuv420p needs even sides; an odd last row or column is repeated once.

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
    with replacing(path) as partial:
        writer = imageio.get_writer(
            str(partial),
            format="FFMPEG",  # pyright: ignore[reportArgumentType]
            fps=fps,
            codec="libx264",
            pixelformat="yuv420p",
            macro_block_size=2,
            ffmpeg_log_level="error",
            output_params=["-crf", "20", "-movflags", "+faststart"],
        )
        try:
            for frame in frames:
                image = _enlarged(frame.cpu().numpy(), smallest_side)
                height, width = image.shape[:2]
                writer.append_data(np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))
                count += 1
        finally:
            writer.close()
        if count == 0:
            raise ValueError(f"{path}: a video needs at least one frame")
    return count


def _enlarged(image: UInt8[np.ndarray, "height width 3"], longest: int) -> UInt8[np.ndarray, "_ _ 3"]:
    height, width = image.shape[:2]
    factor = longest / max(height, width)
    if factor <= 1:
        return image
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))

"""Pictures of 8 bits as PNG, for textures and pages."""

from __future__ import annotations

import base64
import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def png(levels: UInt8[np.ndarray, "height width *channels"], *, smallest: bool = False) -> bytes:
    """Encode gray, RGB or RGBA as PNG.

    Args:
        levels: sRGB, or what a texture means; without channels, or with one, it is gray.
        smallest: try harder, for files that are opened often.

    >>> png(np.zeros((2, 2, 3), np.uint8))[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    image = Image.fromarray(levels[..., 0] if levels.ndim == 3 and levels.shape[-1] == 1 else levels)
    image.save(buffer, format="PNG", optimize=smallest)
    return buffer.getvalue()


def png_uri(levels: UInt8[np.ndarray, "height width *channels"], *, smallest: bool = False) -> str:
    """Pack a picture as PNG into a ``data:`` address."""
    return "data:image/png;base64," + base64.b64encode(png(levels, smallest=smallest)).decode("ascii")

"""Pictures of textures, decoded and rounded."""

from __future__ import annotations

import io

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from unrender.files.mesh_files.arrays import MeshFileError

_MOST_PIXELS = 2**28
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")


def decoded(data: bytes) -> Float[Tensor, "height width channels"]:
    """Decode a picture as numbers from 0 to 1, with three channels or, if it has opacity, four.

    Raises:
        MeshFileError: it is damaged, too large, or of a format that is not read.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > _MOST_PIXELS:
            raise MeshFileError(f"a texture has {image.width} x {image.height} pixels; at most {_MOST_PIXELS} are read")
        if image.mode.startswith("I"):  # 16 bits of gray, which a conversion to RGB would cut off
            gray = np.asarray(image).astype(np.float32) / 65535
            return torch.from_numpy(np.repeat(gray[..., None], 3, axis=2))
        has_opacity = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
        values = np.asarray(image.convert("RGBA" if has_opacity else "RGB"), np.float32)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise MeshFileError(
            f"a texture cannot be decoded; it must be a PNG or JPEG picture, or one of {', '.join(_FORMATS[2:])}"
        ) from error
    return torch.from_numpy(values / 255)


def levels_of(picture: Float[Tensor, "height width channels"]) -> UInt8[np.ndarray, "height width channels"]:
    """Round numbers from 0 to 1 to 8 bits."""
    return (picture.detach().clamp(0, 1) * 255).round().byte().cpu().numpy()

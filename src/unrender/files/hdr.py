"""Radiance pictures (.hdr): high-dynamic-range light in four bytes per pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unrender.files.atomic import write_bytes


def write_hdr(path: Path, linear: Float[Tensor, "height width 3"]) -> None:
    """Write linear light as a Radiance RGBE picture, row 0 on top.

    A pixel is three mantissas m and one exponent e that they share, (m + ½) 2^(e - 136): a relative error below 1/256 of the largest
    channel (Ward, Real pixels, Graphics Gems II, 1991). Negative light becomes 0.

    Raises:
        ValueError: a value is not finite.
        OSError: the file cannot be written.
    """
    light = linear.detach().cpu().double().clamp_min(0.0)
    if not bool(torch.isfinite(light).all()):
        raise ValueError(f"{path}: the light has values that are not finite; a picture file holds finite ones")
    height, width = light.shape[:2]
    largest = light.amax(-1)
    _, exponent = torch.frexp(largest)
    seen = largest > 1e-32
    mantissas = torch.floor(light * torch.exp2(8.0 - exponent)[..., None]).clamp_max(255.0)
    rgbe = torch.cat([mantissas, (exponent + 128)[..., None]], -1) * seen[..., None]
    header = f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {height} +X {width}\n"
    write_bytes(path, header.encode("ascii") + rgbe.numpy().astype(np.uint8).tobytes())

"""What is accepted here and refused by nvdiffrast: other float types, and mip levels of textures with odd sides.

Both can be refused: ``set_strict(True)``, or ``python -m unrender.compat --strict``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unrender.compat import settings
from unrender.compat.warning import warn

_CONVERTED = (torch.float16, torch.bfloat16, torch.float64)


@dataclass
class _Mode:
    strict: bool


_mode = _Mode("strict" in settings())


def is_strict() -> bool:
    """Tell whether to refuse what nvdiffrast refuses."""
    return _mode.strict


def set_strict(strict: bool) -> None:
    """Choose whether to refuse what nvdiffrast refuses; by default, only ``--strict`` does."""
    _mode.strict = strict


def as_float32(tensor: Tensor) -> Tensor:
    """Convert another float type to float32; the gradient returns in the type of the tensor.

    Anything else is returned unchanged, to be checked by the function that uses it.
    """
    return tensor.float() if tensor.dtype in _CONVERTED and not _mode.strict else tensor


def like(result: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a float32 result in the float type of the caller."""
    return result.to(dtype) if dtype in _CONVERTED else result


def type_of_raster(dtype: torch.dtype) -> torch.dtype:
    """Return the type of a raster for positions of a type: half precision cannot hold the number of a triangle."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def most_triangles(dtype: torch.dtype) -> int:
    """Return how many triangles a float type can number."""
    return {torch.float16: 2**11, torch.bfloat16: 2**8}.get(dtype, 2**31 - 1)


def last_mip_level(height: int, width: int, wanted: int | None, verb: str) -> int | None:
    """Return the last mip level that can be built, with a warning if it is not the last one wanted.

    Only even sides, and sides of 1, can be halved.

    >>> last_mip_level(48, 16, 4, "texture")
    4
    """
    if _mode.strict or (wanted is not None and wanted < 0):
        return wanted
    level = 0
    while (height, width) != (1, 1) and level != wanted:
        if any(side % 2 and side != 1 for side in (height, width)):
            warn(
                f"{verb}: tex has no mip level after level {level} of {height} x {width} texels, because an odd side cannot be halved; "
                f"pass max_mip_level={level}, or a tex with sides that are powers of two"
            )
            return level
        height, width, level = max(height // 2, 1), max(width // 2, 1), level + 1
    return wanted

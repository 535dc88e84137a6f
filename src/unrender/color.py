"""Color spaces and compositing. Names state the space of a tensor: ``linear`` or ``srgb``."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_LINEAR_KNEE = 0.0031308
_SRGB_KNEE = 0.04045


def linear_from_srgb(srgb: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Convert sRGB code values to linear light (IEC 61966-2-1).

    c / 12.92 up to 0.04045, ((c + 0.055) / 1.055)^2.4 above.

    >>> linear_from_srgb(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)).round(decimals=4).tolist()
    [0.0, 0.214, 1.0]
    """
    curved = ((srgb.clamp_min(_SRGB_KNEE) + 0.055) / 1.055) ** 2.4
    return torch.where(srgb <= _SRGB_KNEE, srgb / 12.92, curved)


def srgb_from_linear(linear: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Convert linear light to sRGB code values (IEC 61966-2-1); values above one are not clamped.

    12.92 c up to 0.0031308, 1.055 c^(1/2.4) - 0.055 above. The power is taken of values clamped at the knee, because its slope is
    infinite at zero and would turn a zero gradient into a NaN.

    >>> srgb_from_linear(torch.tensor([0.0, 0.214041, 1.0], dtype=torch.float64)).round(decimals=4).tolist()
    [0.0, 0.5, 1.0]
    """
    curved = 1.055 * linear.clamp_min(_LINEAR_KNEE) ** (1 / 2.4) - 0.055
    return torch.where(linear <= _LINEAR_KNEE, linear * 12.92, curved)


def over(
    color: Float[Tensor, "*shape channels"], alpha: Float[Tensor, "*shape"], background: Float[Tensor, "*#shape channels"]
) -> Float[Tensor, "*shape channels"]:
    """Composite straight-alpha color over a background: color alpha + background (1 - alpha).

    >>> over(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0.25]), torch.ones(1, 3)).tolist()
    [[1.0, 0.75, 0.75]]
    """
    share = alpha[..., None]
    return color * share + background * (1 - share)

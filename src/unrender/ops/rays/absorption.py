"""How much of the light a homogeneous interval absorbs, as kernels compute it."""

from __future__ import annotations

from typing import no_type_check

import warp as wp


@no_type_check
@wp.func
def absorption(x: float):
    """Return (1 - e^(-x), e^(-x)), the first without cancellation for small x, the second for large x."""
    if wp.abs(x) < 0.03125:
        lost = x * (1.0 - 0.5 * x * (1.0 - x / 3.0 * (1.0 - 0.25 * x)))
        return wp.vec2(lost, 1.0 - lost)
    kept = wp.exp(-x)
    return wp.vec2(1.0 - kept, kept)

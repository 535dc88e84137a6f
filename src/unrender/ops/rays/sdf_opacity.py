"""The opacity of an interval on a surface, and its slopes, as kernels compute them; see :func:`~unrender.ops.rays.sdf_alpha`."""

from __future__ import annotations

from typing import no_type_check

import warp as wp

from unrender.ops.rays.absorption import absorption

_SDF_EPSILON = wp.constant(1.0e-5)
"""Keeps the opacity of an interval deep inside, where both logistic values underflow, at one instead of 0 / 0."""


@no_type_check
@wp.func
def descent(cosine: float, anneal: float):
    """Return the decrease of the signed distance along the ray: relu(1/2 - c/2) (1 - r) + relu(-c) r."""
    return wp.max(0.5 - 0.5 * cosine, 0.0) * (1.0 - anneal) + wp.max(-cosine, 0.0) * anneal


@no_type_check
@wp.func
def descent_slope(cosine: float, anneal: float):
    slope = float(0.0)
    if cosine < 1.0:
        slope -= 0.5 * (1.0 - anneal)
    if cosine < 0.0:
        slope -= anneal
    return slope


@no_type_check
@wp.func
def _logistic_pair(x: float):
    """Return (σ(x), σ(-x)), both accurate however large |x| is."""
    e = wp.exp(-wp.abs(x))
    large = 1.0 / (1.0 + e)
    if x >= 0.0:
        return wp.vec2(large, e * large)
    return wp.vec2(e * large, large)


@no_type_check
@wp.func
def sdf_opacity(sdf: float, fall: float, sharpness: float):
    """Return (α, 1 - α) where the signed distance falls by ``fall``.

    σ(a) - σ(b) = σ(a) σ(-b) (1 - e^(b-a)) has no cancellation.
    """
    near = _logistic_pair(sharpness * (sdf + 0.5 * fall))
    far = _logistic_pair(sharpness * (sdf - 0.5 * fall))
    drop = near[0] * far[1] * absorption(sharpness * fall)[0]
    total = near[0] + _SDF_EPSILON
    return wp.vec2(wp.clamp((drop + _SDF_EPSILON) / total, 0.0, 1.0), far[0] / total)


@no_type_check
@wp.func
def sdf_slopes(sdf: float, fall: float, sharpness: float):
    """Return (1 - α, ∂α/∂f / (1 - α), ∂α/∂fall / (1 - α)).

    With 1 - α = σ(b) / (σ(a) + ε), the derivatives are α_a = (1 - α) σ(a) σ(-a) / (σ(a) + ε) and α_b = -(1 - α) σ(-b); their sum is
    -(1 - α) (σ(a) - σ(b) + ε σ(-a) / (σ(a) + ε)).
    """
    near = _logistic_pair(sharpness * (sdf + 0.5 * fall))
    far = _logistic_pair(sharpness * (sdf - 0.5 * fall))
    drop = near[0] * far[1] * absorption(sharpness * fall)[0]
    total = near[0] + _SDF_EPSILON
    by_sdf = -sharpness * (drop + _SDF_EPSILON * near[1] / total)
    by_fall = 0.5 * sharpness * (near[0] * near[1] / total + far[1])
    return wp.vec3(far[0] / total, by_sdf, by_fall)

"""The camera models of COLMAP as our lenses: exactly where our polynomials hold the model, else by least squares.

Notation: (x, y, z) is a point in the camera and (u, v) its place on the image plane, so a pixel is (fx u + cx, fy v + cy).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from unrender.captures.errors import CaptureError

Plane: TypeAlias = tuple[Float[ndarray, " points"], Float[ndarray, " points"], Bool[ndarray, " points"]]
"""u, v, and where the model holds."""

Model: TypeAlias = Callable[[Float[ndarray, "points 3"], tuple[float, ...]], Plane]
"""Maps points in the camera to the image plane; takes the parameters behind the principal point."""

MOST_ERROR = 0.25
"""Pixels by which a fitted lens may miss the model."""

_AZIMUTHS, _COARSE_ANGLES, _ANGLES = 48, 720, 96
_WIDEST = math.radians(179.5)
"""Angle from the optical axis up to which fisheye models are followed."""
_WIDEST_PERSPECTIVE = math.radians(80)
"""Angle up to which a perspective polynomial is tried."""
_TINY = 1e-12


@dataclass(frozen=True)
class Lens:
    """The lens of a camera, in pixels of the size for which it was solved."""

    intrinsics: tuple[float, float, float, float]
    """fx, fy, cx, cy."""
    distortion: tuple[float, float, float, float, float, float]
    """k1, k2, k3, k4, p1, p2 of :class:`unrender.cameras.Cameras`."""
    fisheye: bool
    error: float | None = None
    """Largest distance in pixels from the model, if the lens was fitted to it."""


@dataclass(frozen=True)
class _Kind:
    """A camera model: its parameters, and how to get a lens from those behind the principal point."""

    parameters: int
    one_focal: bool
    fisheye: bool
    order: tuple[int, ...] = ()
    """Places in our distortion of the parameters that mean the same there."""
    rest: int = 0
    """How many further parameters there are, without which the model is exactly ours."""
    model: Model | None = None
    """What to fit if any of the further parameters is not zero."""


def _full_opencv(points: Float[ndarray, "points 3"], extra: tuple[float, ...]) -> Plane:
    k1, k2, p1, p2, k3, k4, k5, k6 = extra
    u, v, ahead = _perspective(points)
    r = u * u + v * v
    below = 1 + r * (k4 + r * (k5 + r * k6))
    radial = (1 + r * (k1 + r * (k2 + r * k3))) / np.where(below > _TINY, below, 1.0)
    return (
        u * radial + 2 * p1 * u * v + p2 * (r + 2 * u * u),
        v * radial + p1 * (r + 2 * v * v) + 2 * p2 * u * v,
        ahead & (below > _TINY),
    )


def _field_of_view(points: Float[ndarray, "points 3"], extra: tuple[float, ...]) -> Plane:
    (omega,) = extra
    u, v, ahead = _perspective(points)
    if abs(omega) < 1e-6:
        return u, v, ahead
    radius = np.maximum(np.hypot(u, v), _TINY)
    factor = np.arctan(2 * radius * math.tan(omega / 2)) / (radius * omega)
    return u * factor, v * factor, ahead


def _thin_prism_fisheye(points: Float[ndarray, "points 3"], extra: tuple[float, ...]) -> Plane:
    k1, k2, p1, p2, k3, k4, sx1, sy1 = extra
    u, v = _equidistant(points)
    t = u * u + v * v
    radial = 1 + t * (k1 + t * (k2 + t * (k3 + t * k4)))
    return (
        u * radial + 2 * p1 * u * v + p2 * (t + 2 * u * u) + sx1 * t,
        v * radial + 2 * p2 * u * v + p1 * (t + 2 * v * v) + sy1 * t,
        np.ones(len(points), dtype=bool),
    )


def _rad_tan_thin_prism_fisheye(points: Float[ndarray, "points 3"], extra: tuple[float, ...]) -> Plane:
    k, (p0, p1), (s0, s1, s2, s3) = extra[:6], extra[6:8], extra[8:]
    u, v = _equidistant(points)
    t = u * u + v * v
    radial = 1 + t * (k[0] + t * (k[1] + t * (k[2] + t * (k[3] + t * (k[4] + t * k[5])))))
    u, v = u * radial, v * radial
    r = u * u + v * v
    return (
        u + p0 * (2 * u * u + r) + 2 * p1 * u * v + s0 * r + s1 * r * r,
        v + p1 * (2 * v * v + r) + 2 * p0 * u * v + s2 * r + s3 * r * r,
        np.ones(len(points), dtype=bool),
    )


def _division(points: Float[ndarray, "points 3"], extra: tuple[float, ...]) -> Plane:
    """Solve r = d / (1 + k d²) for the distorted radius d."""
    (k,) = extra
    u, v, ahead = _perspective(points)
    inside = 1 - 4 * k * (u * u + v * v)
    factor = 2 / (1 + np.sqrt(np.maximum(inside, 0)))
    return u * factor, v * factor, ahead & (inside > 0)


def _unified(points: Float[ndarray, "points 3"], extra: tuple[float, ...]) -> Plane:
    """Project with the enhanced unified camera model of Khomutenko, Garcia and Martinet (2016)."""
    alpha, beta = extra
    x, y, z = points.T
    distance = np.sqrt(np.maximum(beta * (x * x + y * y) + z * z, 0))
    below = alpha * distance + (1 - alpha) * z
    steepest = min(alpha, 1 - alpha) / max(alpha, 1 - alpha)
    inside = (below > _TINY) & (z > -steepest * distance)
    safe = np.where(inside, below, 1.0)
    return x / safe, y / safe, inside


def _perspective(points: Float[ndarray, "points 3"]) -> Plane:
    x, y, z = points.T
    ahead = z > 1e-6
    safe = np.where(ahead, z, 1.0)
    return x / safe, y / safe, ahead


def _equidistant(points: Float[ndarray, "points 3"]) -> tuple[Float[ndarray, " points"], Float[ndarray, " points"]]:
    x, y, z = points.T
    radius = np.hypot(x, y)
    factor = np.arctan2(radius, z) / np.maximum(radius, _TINY)
    return x * factor, y * factor


_K12P12 = (0, 1, 4, 5)
MODELS: Mapping[str, _Kind | None] = {
    "SIMPLE_PINHOLE": _Kind(3, True, False),
    "PINHOLE": _Kind(4, False, False),
    "SIMPLE_RADIAL": _Kind(4, True, False, (0,)),
    "RADIAL": _Kind(5, True, False, (0, 1)),
    "OPENCV": _Kind(8, False, False, _K12P12),
    "OPENCV_FISHEYE": _Kind(8, False, True, (0, 1, 2, 3)),
    "FULL_OPENCV": _Kind(12, False, False, (*_K12P12, 2), 3, _full_opencv),
    "FOV": _Kind(5, False, False, (), 1, _field_of_view),
    "SIMPLE_RADIAL_FISHEYE": _Kind(4, True, True, (0,)),
    "RADIAL_FISHEYE": _Kind(5, True, True, (0, 1)),
    "THIN_PRISM_FISHEYE": _Kind(12, False, True, (0, 1, 4, 5, 2, 3), 2, _thin_prism_fisheye),
    "RAD_TAN_THIN_PRISM_FISHEYE": _Kind(16, False, True, (0, 1, 2, 3), 8, _rad_tan_thin_prism_fisheye),
    "SIMPLE_DIVISION": _Kind(4, True, False, (), 1, _division),
    "DIVISION": _Kind(5, False, False, (), 1, _division),
    "SIMPLE_FISHEYE": _Kind(3, True, True),
    "FISHEYE": _Kind(4, False, True),
    "EUCM": _Kind(6, False, False, (), 2, _unified),
    "EQUIRECTANGULAR": None,
}
"""The models in the order of their numbers in binary files; None for one that no lens here holds."""

PARAMETERS: Mapping[str, int] = {name: 2 if kind is None else kind.parameters for name, kind in MODELS.items()}
"""How many numbers each model has."""


def lens_of(model: str, parameters: tuple[float, ...], width: int, height: int, what: str) -> Lens:
    """Return the lens of a camera.

    Args:
        model: a name of :data:`MODELS`.
        parameters: as many numbers as it has.
        width: of the picture for which they hold.
        height: likewise.
        what: names the camera in messages.

    Raises:
        CaptureError: a panorama, or a model that our lenses miss by more than :data:`MOST_ERROR` pixels.
    """
    kind = MODELS[model]
    if kind is None:
        raise CaptureError(f"{what} is a panorama ({model}), which no lens here holds; cut the photos into perspective ones first")
    focal = (parameters[0],) * 2 if kind.one_focal else parameters[:2]
    begin = 3 if kind.one_focal else 4
    intrinsics = (focal[0], focal[1], parameters[begin - 2], parameters[begin - 1])
    extra = parameters[begin:]
    k1, k2, k3, k4, p1, p2 = (extra[kind.order.index(place)] if place in kind.order else 0.0 for place in range(6))
    ours = not any(extra[len(kind.order) :]) and not (kind.fisheye and (p1 or p2))
    if ours or kind.model is None:
        return Lens(intrinsics, (k1, k2, k3, k4, p1, p2), kind.fisheye)
    lens = _fitted(kind.model, extra, intrinsics, width, height)
    if lens is None or lens.error is None or not lens.error <= MOST_ERROR:
        misses = "cannot be followed" if lens is None else f"misses it by {lens.error:.2g} pixels"
        raise CaptureError(f"{what} has the lens {model}, and the nearest lens here {misses}; undistort the photos first")
    return lens


def _fitted(model: Model, extra: tuple[float, ...], intrinsics: tuple[float, float, float, float], width: int, height: int) -> Lens | None:
    """Fit both kinds of lenses to a model over its picture. Return the nearer one, or None if the picture shows nothing."""
    if not all(map(math.isfinite, (*intrinsics, *extra))) or min(intrinsics[:2]) <= 0:
        return None
    with np.errstate(all="ignore"):
        rays, pixels, widest = _samples(model, extra, intrinsics, width, height)
        if len(rays) < _AZIMUTHS:
            return None
        found = [_least_squares(rays, pixels, intrinsics, fisheye=True)]
        if widest < _WIDEST_PERSPECTIVE:
            found.append(_least_squares(rays, pixels, intrinsics, fisheye=False))
    lenses = [lens for lens in found if lens is not None]
    return min(lenses, key=lambda lens: lens.error or 0.0, default=None)


def _samples(
    model: Model, extra: tuple[float, ...], intrinsics: tuple[float, float, float, float], width: int, height: int
) -> tuple[Float[ndarray, "samples 3"], Float[ndarray, "samples 2"], float]:
    """Return rays that the model shows in the picture, their pixels, and the widest angle of a ray.

    Along each azimuth rays are followed from the axis outwards, until the model folds back.
    """
    fx, fy, cx, cy = intrinsics
    widest = _WIDEST
    for count in (_COARSE_ANGLES, _ANGLES):
        angles = np.linspace(0, widest, count + 1)[1:]
        azimuths = np.linspace(0, 2 * np.pi, _AZIMUTHS, endpoint=False)
        theta, phi = np.meshgrid(angles, azimuths)
        rays = np.stack((np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)), -1)
        u, v, holds = (values.reshape(theta.shape) for values in model(rays.reshape(-1, 3), extra))
        radius = np.hypot(u, v)
        outwards = np.diff(radius, axis=1, prepend=0.0) > 0
        holds = np.logical_and.accumulate(holds & outwards & np.isfinite(radius), axis=1)
        pixels = np.stack((fx * u + cx, fy * v + cy), -1)
        inside = holds & (pixels >= 0).all(-1) & (pixels[..., 0] <= width) & (pixels[..., 1] <= height)
        if not inside.any():
            return np.empty((0, 3)), np.empty((0, 2)), 0.0
        widest = float(theta[inside].max())
    return rays[inside], pixels[inside], widest


def _least_squares(
    rays: Float[ndarray, "samples 3"], pixels: Float[ndarray, "samples 2"], start: tuple[float, float, float, float], *, fisheye: bool
) -> Lens | None:
    from scipy.optimize import least_squares  # slow to import, and few captures need it

    u, v = _equidistant(rays) if fisheye else _perspective(rays)[:2]
    r = u * u + v * v
    scale = max(float(r.max()), _TINY)  # powers of r / scale keep the coefficients alike in size
    powers = [(r / scale) ** power for power in (1, 2, 3, 4)]
    products = (2 * u * v, r + 2 * v * v, r + 2 * u * u)

    def bent(values: Float[ndarray, " unknowns"]) -> tuple[Float[ndarray, " samples"], Float[ndarray, " samples"]]:
        radial = 1 + sum(k * power for k, power in zip(values[4:8], powers, strict=True))
        if fisheye:
            return u * radial, v * radial
        p1, p2 = values[8:]
        return u * radial + p1 * products[0] + p2 * products[2], v * radial + p1 * products[1] + p2 * products[0]

    def misses(values: Float[ndarray, " unknowns"]) -> Float[ndarray, " residuals"]:
        across, down = bent(values)
        return np.concatenate((values[0] * across + values[2] - pixels[:, 0], values[1] * down + values[3] - pixels[:, 1]))

    def slopes(values: Float[ndarray, " unknowns"]) -> Float[ndarray, "residuals unknowns"]:
        across, down = bent(values)
        fx, fy = values[:2]
        one, zero = np.ones_like(u), np.zeros_like(u)
        columns = [(across, zero), (zero, down), (one, zero), (zero, one), *((fx * u * power, fy * v * power) for power in powers)]
        columns += [] if fisheye else [(fx * products[0], fy * products[1]), (fx * products[2], fy * products[0])]
        return np.stack([np.concatenate(column) for column in columns], -1)

    try:
        first = np.array([*start, *[0.0] * (4 if fisheye else 6)])
        fit = least_squares(misses, first, slopes, method="lm", x_scale="jac", xtol=1e-14, ftol=1e-14, gtol=1e-14, max_nfev=200)  # pyright: ignore[reportArgumentType]
        solved = fit.x
    except (ValueError, np.linalg.LinAlgError):  # numbers that are not finite
        return None
    across, down = misses(solved).reshape(2, -1)
    fx, fy, cx, cy, k1, k2, k3, k4 = (float(value) for value in solved[:8])
    p1, p2 = (0.0, 0.0) if fisheye else (float(value) for value in solved[8:])
    radial = (k1 / scale, k2 / scale**2, k3 / scale**3, k4 / scale**4)
    return Lens((fx, fy, cx, cy), (*radial, p1, p2), fisheye, float(np.hypot(across, down).max()))

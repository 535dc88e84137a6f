"""Models of color: a background that varies slowly over a photo, and the colors inside and outside of the object in all photos.

Colors are CIELAB numbers: L from 0 to 100, a and b around 0, so that a difference of about 2 is just visible.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from scipy.ndimage import gaussian_filter, label
from skimage.color import rgb2lab

BORDER = 0.03
"""Width of the border of a photo as a share of its shorter side."""

PLAIN = 7.0
"""Distance, in standard deviations, below which a color belongs to the background."""

_CLEAN = 0.3
"""Standard deviations of a background without noise are smaller by this factor."""

_NEAR = 5.0
"""Pixels are fitted that differ by fewer standard deviations in each channel."""

_RIDGE = 0.02

_LEAST_SIGMA = np.array([1.6, 1.0, 1.0], np.float32)
"""Least standard deviations of L, a, b: those of a clean photo with eight bits and compression."""

_MOST_SIGMA = np.array([6.0, 2.5, 2.5], np.float32)
_SHADOW = 4.0
"""Darkening by a soft shadow counts this many times less than other differences of L, and colors may shift more in it."""

_RENDERED = 0.3
"""Noise of L below which a background is a rendered or pasted one."""

_DEEPEST_SHADOW = 22.0
"""Further darkening than this, in L, counts in full."""

_TINT = 7.0
"""Difference of a and b that a shadow has at most where it is faint."""

_TINT_OF_DARKENING = 0.25
"""Growth of this difference with the darkening: light that the object reflects into its shadow has the object's color."""

_ROUNDS = 8
_BINS = (24, 32, 32)
"""Bins of L, a and b of a histogram."""

_RANGE = ((0.0, 100.0), (-64.0, 64.0), (-64.0, 64.0))
_FEW = 3e-3
"""Weight of the uniform density mixed into each histogram: a color that was never seen says nothing."""


def lab_of(rgb: UInt8[ndarray, "rows columns 3"]) -> Float[ndarray, "rows columns 3"]:
    """Convert sRGB to CIELAB, float32."""
    return rgb2lab(rgb).astype(np.float32)


def border_of(rows: int, columns: int) -> Bool[ndarray, "rows columns"]:
    """Return the pixels of a frame along the border of a picture."""
    width = max(1, round(BORDER * min(rows, columns)))
    border = np.ones((rows, columns), bool)
    border[width:-width, width:-width] = False
    return border


@dataclass(frozen=True)
class Backdrop:
    """A background whose color is a quadratic polynomial of the position in the photo, plus Gaussian noise."""

    coefficients: Float[ndarray, "terms 3"]
    sigma: Float[ndarray, " 3"]
    noise: float
    """The difference of L from the fit that nine tenths of the background's pixels do not exceed."""
    share: float
    """Share of the border of the photo that it explains."""

    @property
    def is_photographed(self) -> bool:
        """Whether it varies as photos do; renderings before one color do not, and have no shadows on it."""
        return self.noise > _RENDERED

    def distance(self, lab: Float[ndarray, "rows columns 3"], *, shadows: bool) -> Float[ndarray, "rows columns"]:
        """Return the distance of each pixel's color in standard deviations.

        Args:
            lab: the photo.
            shadows: whether the object may cast soft shadows on the background, which then count less.
        """
        difference = self._difference(lab)
        light = difference[..., 0] / self.sigma[0]
        chroma = np.hypot(difference[..., 1] / self.sigma[1], difference[..., 2] / self.sigma[2])
        if shadows:
            shaded = np.clip(-difference[..., 0], 0.0, _DEEPEST_SHADOW)
            light = light + (1 - 1 / _SHADOW) * shaded / self.sigma[0]
            chroma = chroma / (1 + (_SHADOW - 1) * shaded / _DEEPEST_SHADOW)
        return np.hypot(light, chroma)

    def may_be_shadow(self, lab: Float[ndarray, "rows columns 3"]) -> Bool[ndarray, "rows columns"]:
        """Tell which pixels are darker than the background and of nearly its color, as shadows of any depth are."""
        difference = self._difference(lab)
        darkening = -difference[..., 0]
        tint = np.hypot(difference[..., 1], difference[..., 2])
        return (darkening > 0) & (tint < _TINT + _TINT_OF_DARKENING * darkening)

    def _difference(self, lab: Float[ndarray, "rows columns 3"]) -> Float[ndarray, "rows columns 3"]:
        return lab - _basis(*lab.shape[:2])[..., : len(self.coefficients)] @ self.coefficients


def _basis(rows: int, columns: int) -> Float[ndarray, "rows columns 6"]:
    y, x = np.meshgrid(np.linspace(-1, 1, rows, dtype=np.float32), np.linspace(-1, 1, columns, dtype=np.float32), indexing="ij")
    return np.stack((np.ones_like(x), x, y, x * x, x * y, y * y), -1)


def fit_backdrop(lab: Float[ndarray, "rows columns 3"]) -> Backdrop:
    """Fit a background to the border of a photo, then to all pixels like it.

    These are the pixels that are connected to the border through others like it.
    The fit is robust: it starts from the most frequent color of the border, and pixels farther than a few standard deviations have no
    weight.
    """
    step = max(1, min(lab.shape[:2]) // 160)
    lab = lab[::step, ::step]
    border = border_of(*lab.shape[:2])
    basis = _basis(*lab.shape[:2])
    coefficients = _mode(lab[border])[None]
    sigma, noise = np.array([4.0, 2.0, 2.0], np.float32), 0.0
    region = border
    for turn in range(_ROUNDS):
        terms = 1 if turn < 1 else 3 if turn < 3 else 6
        difference = np.abs(lab - basis[..., : len(coefficients)] @ coefficients) / sigma
        if turn > 2:
            region = connected_to(border, np.asarray((difference < _NEAR).all(-1)))
        near = region & (difference < (2 * _NEAR if turn == 0 else _NEAR)).all(-1)
        if int(near.sum()) < 50:
            break
        inner, colors = basis[near][:, :terms], lab[near]
        # A ridge on the slopes: where the border shows only one side, the other side is not made up.
        ridge = np.diag([0.0] + [_RIDGE * len(inner)] * (terms - 1)).astype(np.float32)
        coefficients = np.linalg.solve(inner.T @ inner + ridge, inner.T @ colors)
        residual = np.abs(colors - inner @ coefficients)
        noise = float(np.quantile(residual[:, 0], 0.9))
        sigma = np.clip(1.4826 * np.median(residual, 0), _LEAST_SIGMA, _MOST_SIGMA).astype(np.float32)
    model = Backdrop(coefficients, sigma if noise > _RENDERED else _CLEAN * sigma, noise, 0.0)
    return replace(model, share=float((model.distance(lab, shadows=model.is_photographed)[border] < PLAIN).mean()))


def _mode(colors: Float[ndarray, "pixels 3"]) -> Float[ndarray, " 3"]:
    """Return the most frequent color: the mean of the fullest smoothed bin."""
    histogram = gaussian_filter(_counts(colors, None), 1.0)
    best = np.array(np.unravel_index(int(histogram.argmax()), histogram.shape))
    low = np.array([bounds[0] for bounds in _RANGE])
    step = np.array([(high - low) / bins for (low, high), bins in zip(_RANGE, _BINS, strict=True)])
    center = low + (best + 0.5) * step
    near = (np.abs(colors - center) < 1.5 * step).all(-1)
    return np.median(colors[near], 0).astype(np.float32) if near.any() else center.astype(np.float32)


def connected_to(seed: Bool[ndarray, "rows columns"], region: Bool[ndarray, "rows columns"]) -> Bool[ndarray, "rows columns"]:
    """Return the connected parts of a region that touch the seed."""
    parts, _ = label(region)  # pyright: ignore[reportGeneralTypeIssues]
    touching = np.unique(parts[seed & region])
    return region & np.isin(parts, touching[touching > 0])


def _indices(colors: Float[ndarray, "*shape 3"]) -> tuple[ndarray, ndarray, ndarray]:
    index = []
    for channel, ((low, high), bins) in enumerate(zip(_RANGE, _BINS, strict=True)):
        index.append(np.clip(((colors[..., channel] - low) * (bins / (high - low))).astype(np.int64), 0, bins - 1))
    return index[0], index[1], index[2]


def _counts(colors: Float[ndarray, "pixels 3"], weights: Float[ndarray, " pixels"] | None) -> Float[ndarray, "L a b"]:
    flat = np.ravel_multi_index(_indices(colors), _BINS)
    return np.bincount(flat, weights, minlength=int(np.prod(_BINS))).reshape(_BINS).astype(np.float64)


class ColorModels:
    """Densities of the colors inside and outside of the object, as smoothed histograms that all photos share."""

    def __init__(self) -> None:
        self._inside = np.zeros(_BINS)
        self._outside = np.zeros(_BINS)
        self._ratio: Float[ndarray, "L a b"] | None = None

    def add(
        self, lab: Float[ndarray, "rows columns 3"], inside: Bool[ndarray, "rows columns"], outside: Bool[ndarray, "rows columns"]
    ) -> None:
        """Count the pixels of one photo."""
        self._inside += _counts(lab[inside], None)
        self._outside += _counts(lab[outside], None)
        self._ratio = None

    def evidence(self, lab: Float[ndarray, "rows columns 3"]) -> Float[ndarray, "rows columns"]:
        """Return the log-odds of inside to outside of each pixel's color."""
        if self._ratio is None:
            inside, outside = (_density(counts) for counts in (self._inside, self._outside))
            self._ratio = np.log(inside / outside)
        return self._ratio[_indices(lab)]


def _density(counts: Float[ndarray, "L a b"]) -> Float[ndarray, "L a b"]:
    smooth = gaussian_filter(counts, 0.8)
    return (1 - _FEW) * smooth / max(1.0, float(smooth.sum())) + _FEW / smooth.size

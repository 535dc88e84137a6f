"""Evaluation of a scene against the photos of held-out views.

PSNR = −10 log₁₀(MSE) of sRGB values clamped to [0, 1] over the full frame; the PSNR of a split is the mean over its views, not the PSNR of
the mean error. SSIM uses an 11 × 11 Gaussian window with σ = 1.5 and data range 1. If the capture has masks, the truth is the photo
composited over white, truth = photo · a + (1 − a). Ignored pixels are excluded. Pictures are compared as sRGB; a difference below the
rounding of the conversion counts as zero.

A photo that is held out may have an exposure of its own, which no fit can know. Unless the split is a benchmark's, there is therefore also
the PSNR after a gain and an offset of each channel of the rendering were fitted to the photo, inside its mask if there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unrender.captures.capture import Capture, CaptureError
from unrender.losses.metrics import psnr, ssim
from unrender.render.rendering import Rendering
from unrender.render.scene import Scene
from unrender.words import SplitName

ROUNDING = 1e-6
"""Bound on the rounding of a value in [0, 1] from sRGB to float32 linear light and back."""

SMALLEST_VARIANCE = 1e-12
"""Variance of a picture of one color, to which no gain can be fitted."""


@dataclass(frozen=True)
class ViewScore:
    """Scores of one view."""

    view: int
    """Index into the capture."""
    name: str
    psnr: float
    ssim: float
    psnr_masked: float | None
    """PSNR over the pixels inside the mask; None without a mask or if it is empty."""
    psnr_matched: float | None = None
    """PSNR after the colors of the rendering were fitted to the photo; None for a benchmark."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of the views of a split."""

    split: SplitName
    per_view: tuple[ViewScore, ...]

    @property
    def psnr(self) -> float:
        return sum(score.psnr for score in self.per_view) / len(self.per_view)

    @property
    def ssim(self) -> float:
        return sum(score.ssim for score in self.per_view) / len(self.per_view)

    @property
    def psnr_masked(self) -> float | None:
        """Mean over the views that have a mask; None if none has."""
        return _mean([score.psnr_masked for score in self.per_view])

    @property
    def psnr_matched(self) -> float | None:
        """Mean after the colors of each rendering were fitted to its photo; None for a benchmark."""
        return _mean([score.psnr_matched for score in self.per_view])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


OnView = Callable[[ViewScore, Tensor, Rendering], None]
"""Called after each view with its score, the truth [height, width, 3] and the rendering."""


def truth_of(capture: Capture, view: int, device: torch.device) -> Float[Tensor, "height width 3"]:
    """Return the photo of one view as sRGB in [0, 1], composited over white if there is a mask."""
    color, alpha = capture.color(view).to(device), capture.alpha(view).to(device)[..., None]
    return color * alpha + (1.0 - alpha)


def evaluate(
    scene: Scene,
    capture: Capture,
    split: SplitName = "test",
    *,
    device: torch.device | None = None,
    on_view: OnView | None = None,
) -> Evaluation:
    """Render every view of ``split`` and compare it with the photo.

    Args:
        scene: a fitted scene, which renders over the background used for evaluation.
        capture: the photos.
        split: which views.
        device: device of the scene.
        on_view: called with each finished view, so pictures can be written one by one.

    Raises:
        ValueError: the split has no views.
    """
    views = views_to_evaluate(capture, split)
    if device is None:
        device = next((p.device for p in scene.parameters()), torch.device("cpu"))
    cameras = capture.cameras.to(device)
    scores: list[ViewScore] = []
    for view in views:
        with torch.no_grad():
            rendering = scene.render_view(cameras, view)
            truth = truth_of(capture, view, device)
            score = _score(capture, view, rendering.srgb.clamp(0.0, 1.0), truth)
        scores.append(score)
        if on_view is not None:
            on_view(score, truth, rendering)
    return Evaluation(split, tuple(scores))


def views_to_evaluate(capture: Capture, split: SplitName) -> tuple[int, ...]:
    """Return the views of a split.

    Raises:
        CaptureError: there are none.
    """
    views = capture.split.views(split)
    if not views:
        raise CaptureError(f"{capture.name}: there are no {split} views to evaluate ({capture.split.rule})")
    return views


def _score(capture: Capture, view: int, color: Float[Tensor, "height width 3"], truth: Float[Tensor, "height width 3"]) -> ViewScore:
    color = torch.where((color - truth).abs() < ROUNDING, truth, color)
    counts = torch.ones_like(truth[..., 0], dtype=torch.bool)
    if capture.ignored is not None:
        counts = ~capture.ignored[view].to(truth.device)
        color = torch.where(counts[..., None], color, truth)
    inside = counts & (capture.mask(view).to(truth.device) > 127) if capture.has_masks else None
    matched = None if capture.split.given else psnr(matched_colors(color, truth, counts if inside is None else inside), truth, counts)
    return ViewScore(
        view=view,
        name=capture.names[view],
        psnr=float(psnr(color, truth, counts)),
        ssim=float(ssim(color, truth)),
        psnr_masked=None if inside is None or not inside.any() else float(psnr(color, truth, inside)),
        psnr_matched=None if matched is None else float(matched),
    )


def matched_colors(
    color: Float[Tensor, "height width 3"], truth: Float[Tensor, "height width 3"], where: Bool[Tensor, "height width"]
) -> Float[Tensor, "height width 3"]:
    """Fit each channel of a picture to another one by a gain and an offset, in the least squares.

    The result is clamped to [0, 1].

    Args:
        color: the picture.
        truth: the other one.
        where: the pixels that are fitted and changed.

    >>> picture = torch.rand(4, 4, 3, generator=torch.Generator().manual_seed(0))
    >>> again = matched_colors(picture * 0.5 + 0.1, picture, torch.ones(4, 4, dtype=torch.bool))
    >>> bool((again - picture).abs().max() < 1e-6)
    True
    """
    if not bool(where.any()):
        return color
    seen, wanted = color[where].double(), truth[where].double()
    centered = seen - seen.mean(0)
    gain = (centered * wanted).mean(0) / centered.square().mean(0).clamp_min(SMALLEST_VARIANCE)
    fitted = (centered * gain + wanted.mean(0)).clamp(0, 1)
    changed = color.clone()
    changed[where] = fitted.to(color)
    return changed

"""Evaluation of a scene against the photos of held-out views.

PSNR = −10 log₁₀(MSE) of sRGB values clamped to [0, 1] over the full frame; the PSNR of a split is the mean over its views, not the PSNR of
the mean error. SSIM uses an 11 × 11 Gaussian window with σ = 1.5 and data range 1. If the capture has masks, the truth is the photo
composited over white, truth = photo · a + (1 − a). Ignored pixels are excluded. Pictures are compared as sRGB; a difference below the
rounding of the conversion counts as zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.captures.capture import Capture, CaptureError
from unrender.losses.metrics import psnr, ssim
from unrender.render.rendering import Rendering
from unrender.render.scene import Scene
from unrender.words import SplitName

ROUNDING = 1e-6
"""Bound on the rounding of a value in [0, 1] from sRGB to float32 linear light and back."""


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
        inside = [score.psnr_masked for score in self.per_view if score.psnr_masked is not None]
        return sum(inside) / len(inside) if inside else None


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
    return ViewScore(
        view=view,
        name=capture.names[view],
        psnr=float(psnr(color, truth, counts)),
        ssim=float(ssim(color, truth)),
        psnr_masked=None if inside is None or not inside.any() else float(psnr(color, truth, inside)),
    )

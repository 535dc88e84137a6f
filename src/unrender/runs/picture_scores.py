"""Scores of a fitted picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from unrender.files.atomic import write_json
from unrender.losses.metrics import psnr, ssim
from unrender.recipes.inputs import Picture
from unrender.runs.directory import RunRecord, finite
from unrender.runs.measures import Measure, measures_as_json

_HELD_OUT, _SSIM = "PSNR of held-out pixels", "SSIM"


def picture_measures(truth: Picture, prediction: Float[Tensor, "height width 3"]) -> tuple[Measure, ...]:
    """Compare a prediction with the picture: PSNR of the held-out and of the fitted pixels, SSIM of all."""
    return (
        Measure(_HELD_OUT, float(psnr(prediction, truth.srgb, truth.is_held_out)), "dB", digits=2, better="higher"),
        Measure("PSNR of fitted pixels", float(psnr(prediction, truth.srgb, truth.is_fitted)), "dB", digits=2, better="higher"),
        Measure(_SSIM, float(ssim(prediction, truth.srgb)), digits=4, better="higher"),
    )


def write_picture_metrics(file: Path, record: RunRecord, measures: Sequence[Measure]) -> None:
    """Write the scores of a picture; ``psnr`` is that of the held-out pixels."""
    values = {measure.name: finite(measure.value) for measure in measures}
    about = {
        "steps": record.steps,
        "planned_steps": record.planned_steps,
        "seconds": record.seconds,
        "peak_memory_mb": record.peak_memory_mb,
    }
    write_json(file, {"psnr": values.get(_HELD_OUT), "ssim": values.get(_SSIM), **about, "measures": measures_as_json(measures)})

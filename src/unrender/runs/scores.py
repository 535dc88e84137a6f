"""The metrics file of a split, and its scores in words."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from unrender.files.atomic import write_json
from unrender.runs.directory import RunRecord, finite
from unrender.runs.evaluation import Evaluation
from unrender.runs.measures import Measure, measures_as_json

HELD_OUT_POSES = "refined; those of held-out photos against the scene, which these photos do not change"
"""What the metrics say about the poses of a run that refines them."""


def write_metrics(file: Path, record: RunRecord, evaluation: Evaluation) -> None:
    """Write the metrics of a split."""
    write_json(file, metrics_of(record, evaluation))


def metrics_of(record: RunRecord, evaluation: Evaluation) -> dict[str, object]:
    """Return the metrics of a split as values for JSON, with the measures; infinities and NaN become null."""
    return {
        "split": evaluation.split,
        **({"poses": HELD_OUT_POSES} if refines_poses(record) else {}),
        "views": len(evaluation.per_view),
        "psnr": finite(evaluation.psnr),
        "ssim": finite(evaluation.ssim),
        "steps": record.steps,
        "planned_steps": record.planned_steps,
        "seconds": record.seconds,
        "peak_memory_mb": record.peak_memory_mb,
        "measures": measures_as_json(record.measures),
        "per_view": [{"name": s.name, "psnr": finite(s.psnr), "ssim": finite(s.ssim)} for s in evaluation.per_view],
    }


def refines_poses(record: RunRecord) -> bool:
    """Tell whether a run has refined the poses of its photos."""
    bundles = [record.config, *(value for value in record.config.values() if isinstance(value, Mapping))]
    return any(bundle.get("refine_poses") is True for bundle in bundles)


def write_measures(file: Path, record: RunRecord) -> None:
    """Replace the measures in a metrics file, if there is one, by those of a record."""
    if file.exists():
        metrics = json.loads(file.read_text(encoding="utf-8"))
        write_json(file, {**metrics, "measures": measures_as_json(record.measures)})


def score_measures(evaluation: Evaluation) -> tuple[Measure, ...]:
    """Return the PSNR inside the masks and that after a fit of the colors, where they are known."""
    found = (("PSNR inside the mask", evaluation.psnr_masked), ("PSNR after a color fit of each view", evaluation.psnr_matched))
    return tuple(
        Measure(name, value, "dB", digits=2, better="higher") for name, value in found if value is not None and math.isfinite(value)
    )


def score_sentence(evaluation: Evaluation) -> str:
    """Write the scores of an evaluation as one line."""
    found = ((evaluation.psnr_masked, "inside the mask"), (evaluation.psnr_matched, "after a color fit of each view"))
    also = ", ".join(f"{value:.2f} dB {where}" for value, where in found if value is not None)
    also = f" ({also})" if also else ""
    count = len(evaluation.per_view)
    return f"{evaluation.split}: PSNR {evaluation.psnr:.2f} dB{also}, SSIM {evaluation.ssim:.4f}, {count} view{'s' * (count > 1)}"

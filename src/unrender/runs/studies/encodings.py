"""The study ``encodings``: what Fourier features do to positions, in one dimension."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.fields.fourier import (
    basic_frequencies,
    closest_pair,
    fourier_features,
    gaussian_frequencies,
    offset_rotation,
    positional_frequencies,
    similarity,
)
from unrender.runs.charts import Curve, line_chart
from unrender.runs.measures import Measure
from unrender.runs.studies.page import Finding, Study, StudySection, table

_POSITIONS = 256
_ROWS = 64
_ROUNDING = 1e-4
"""Largest error of a law in float32, where angles are up to a few hundred radians."""


def encodings_study(seed: int) -> Study:
    """Measure how encodings treat offsets, and whether they tell positions apart."""
    generator = torch.Generator().manual_seed(seed)
    kinds = {
        "basic": basic_frequencies(1),
        "positional, 6 octaves": positional_frequencies(_ROWS, 1, 6.0),
        "gaussian, σ = 3": gaussian_frequencies(_ROWS, 1, 3.0, generator),
        "gaussian, σ = 10": gaussian_frequencies(_ROWS, 1, 10.0, generator),
    }
    positions = torch.arange(_POSITIONS)[:, None] / _POSITIONS
    spreads = [spread_of_similarity(positions, rows, 0.03) for rows in kinds.values()]
    turned = [rotation_error(positions, rows, 0.03) for rows in kinds.values()]
    apart = [closest_pair(fourier_features(positions, rows)) for rows in kinds.values()]
    rows = [
        (name, f"{len(frequencies)}", f"{spread:.1e}", f"{error:.1e}", f"{distance:.3f}")
        for (name, frequencies), spread, error, distance in zip(kinds.items(), spreads, turned, apart, strict=True)
    ]
    offsets = torch.linspace(0, 0.5, 400)[:, None]
    curves = [Curve(name, offsets[:, 0].tolist(), similarity(offsets, frequencies).tolist()) for name, frequencies in kinds.items()]
    starts = [0.1, 0.35, 0.7]
    measured = [
        Curve(f"from {start:g}", offsets[:, 0].tolist(), cosines_from(start, offsets, kinds["gaussian, σ = 3"]).tolist())
        for start in starts
    ]
    return Study(
        "encodings",
        "What an encoding does to positions",
        "γ(v) = [cos 2πBv, sin 2πBv] turns each frequency into a hand of a clock. Everything below follows from that.",
        (
            StudySection(
                "Equal offsets are equally similar",
                "The cosine between the encodings of two positions is the mean of cos 2πbδ over the frequencies b: it depends on their "
                "offset δ alone. Left: that function for several encodings; its width is what a network can resolve. The higher the "
                "frequencies, the faster neighbors become strangers.\n\nRight: the same for Gaussian frequencies, measured from three "
                "positions. The three curves lie on each other.",
                (
                    line_chart(curves, title="Similarity of encodings", x_label="offset δ"),
                    line_chart(measured, title="Measured from three positions, σ = 3", x_label="offset δ"),
                ),
            ),
            StudySection(
                "An offset is a rotation",
                "Moving by δ turns each hand by 2πbδ, wherever it points: γ(v + δ) = R(δ) γ(v) with one orthogonal matrix for all v. A "
                "layer of a network can therefore relate a position to another one at a fixed offset by a linear map.",
            ),
            StudySection(
                "Positions stay apart",
                "An encoding is of use only if no two positions share it. One cycle alone repeats itself after the unit, and its neighbors "
                "are close together; with many frequencies neighbors are far apart, and no position returns.",
                (
                    table(
                        ("encoding", "frequencies", "spread of similarity at one offset", "error of the rotation", "smallest distance"),
                        rows,
                    ),
                ),
            ),
        ),
        (
            Finding(
                Measure("spread of similarity at equal offsets", max(spreads), digits=6, better="lower"), "0", max(spreads) < _ROUNDING
            ),
            Finding(Measure("error of the rotation", max(turned), digits=6, better="lower"), "0", max(turned) < _ROUNDING),
            Finding(
                Measure(f"smallest distance between two of {_POSITIONS} encodings", min(apart), digits=4, better="higher"),
                "above 0",
                min(apart) > _ROUNDING,
            ),
        ),
    )


def cosines_from(start: float, offsets: Float[Tensor, "offsets 1"], frequencies: Float[Tensor, "rows 1"]) -> Float[Tensor, " offsets"]:
    """Return the cosines between the encoding of a position and those of others."""
    here = fourier_features(torch.full((1, 1), start), frequencies)
    return torch.cosine_similarity(here, fourier_features(start + offsets, frequencies))


def spread_of_similarity(positions: Float[Tensor, "points 1"], frequencies: Float[Tensor, "rows 1"], offset: float) -> float:
    """Return the largest difference between the similarities of pairs of positions an offset apart."""
    cosines = torch.cosine_similarity(fourier_features(positions, frequencies), fourier_features(positions + offset, frequencies))
    return float(cosines.max() - cosines.min())


def rotation_error(positions: Float[Tensor, "points 1"], frequencies: Float[Tensor, "rows 1"], offset: float) -> float:
    """Return the largest difference between encodings of moved positions and rotated encodings."""
    rotation = offset_rotation(torch.tensor([offset]), frequencies)
    turned = fourier_features(positions, frequencies) @ rotation.t()
    return float((fourier_features(positions + offset, frequencies) - turned).abs().max())

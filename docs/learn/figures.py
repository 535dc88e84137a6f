"""Draw the figures of docs/learn from the functions that its pages explain.

    python docs/learn/figures.py [OUTPUT_FOLDER]

Every figure is a function of no arguments that returns SVG; its name is that of its page.
"""

from __future__ import annotations

import argparse
import html
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unrender.fields.fourier import fourier_features, gaussian_frequencies, similarity
from unrender.fields.tangent_kernel import kernel_modes, relu_kernel
from unrender.numerics import normalized
from unrender.ops.encodings import HashGrid
from unrender.ops.rays import Samples
from unrender.reference.sdf_weights import weights_from_sdf
from unrender.reference.weights import weights_from_density
from unrender.runs.charts import Curve, Level, Mark, line_chart
from unrender.spherical_harmonics import real_spherical_harmonics

_COLORS = ("#14877a", "#d2672c", "#6d83e0", "#a5771a")
"""Of the curves; legible on white and on black."""

_STYLE = (
    "text{font:12px sans-serif;fill:#808080}.title{font-size:14px;font-weight:600}.grid{stroke:#808080;stroke-opacity:.25}"
    ".level{stroke:#808080;stroke-dasharray:5 4}.mark{stroke:#808080;stroke-dasharray:2 3}.curve{fill:none;stroke-width:2}"
    + "".join(f".c{number}{{stroke:{color}}}" for number, color in enumerate(_COLORS))
)


def chart(
    curves: Sequence[Curve], *, title: str, x_label: str, logarithmic: bool = False, level: Level | None = None, marks: Sequence[Mark] = ()
) -> str:
    """Draw curves as an SVG file with its own colors and legend."""
    drawn = line_chart(curves, title=title, x_label=x_label, logarithmic=logarithmic, level=level, marks=marks)
    body = drawn[drawn.index(">") + 1 : drawn.index("</svg>")]
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 324" role="img"><style>{_STYLE}</style>{body}']
    x = 56
    for number, curve in enumerate(curves):
        parts.append(f'<line class="curve c{number}" x1="{x}" x2="{x + 16}" y1="314" y2="314"/>')
        parts.append(f'<text x="{x + 21}" y="318">{html.escape(curve.name)}</text>')
        x += 36 + 7 * len(curve.name)
    return "".join(parts) + "</svg>\n"


def _curve(name: str, x: Tensor, y: Tensor) -> Curve:
    return Curve(name, x.tolist(), y.tolist())


def one_ray(edges: Tensor) -> Samples:
    """Return the intervals of one ray between the edges given."""
    count = len(edges) - 1
    return Samples(torch.zeros(count).int(), edges[:-1], edges[1:], torch.tensor([0]), torch.tensor([count]))


def volume_rendering() -> str:
    """Draw density, transmittance and weights along a ray through two clouds."""
    samples = one_ray(torch.linspace(0, 4, 161))
    t = samples.midpoints.double()
    density = 2 * (torch.exp(-(((t - 1.2) / 0.35) ** 2)) + torch.exp(-(((t - 2.8) / 0.35) ** 2)))
    weights = weights_from_density(density, samples)
    curves = [
        _curve("density σ", t, density),
        _curve("transmittance T", t, 1 - torch.cat([torch.zeros(1), weights.cumsum(0)[:-1]])),
        _curve("weight per length, w / δ", t, weights / samples.lengths),
    ]
    return chart(curves, title="A ray through two equal clouds", x_label="distance along the ray")


def positional_encoding() -> str:
    """Draw the cosine between the encodings of two positions against their offset."""
    offsets = torch.linspace(0, 0.2, 121)[:, None]
    frequencies = gaussian_frequencies(256, 1, 1.0, torch.Generator().manual_seed(0))
    curves = [_curve(f"σ = {sigma}", offsets[:, 0], similarity(offsets, sigma * frequencies)) for sigma in (1, 5, 20)]
    return chart(curves, title="Cosine between the encodings of two positions", x_label="offset of the positions")


def neural_tangent_kernel() -> str:
    """Draw the eigenvalues of the kernel of a ReLU network on 32 positions, with and without Fourier features."""
    position = torch.arange(32).double()[:, None] / 32
    inputs = {"coordinate alone": torch.cat([2 * position - 1, torch.ones_like(position)], 1)}
    inputs |= {f"{count} frequencies": fourier_features(position, torch.arange(1.0, count + 1).double()[:, None]) for count in (4, 8)}
    curves = []
    for name, rows in inputs.items():
        unit = normalized(rows)
        values, _ = kernel_modes(relu_kernel(unit @ unit.t(), hidden_layers=2))
        curves.append(_curve(name, torch.arange(1.0, 33.0), values / values[0]))
    return chart(curves, title="Speed at which each mode is learned, first = 1", x_label="mode", logarithmic=True)


def hash_grids() -> str:
    """Draw how many corners share an entry of each level, for three sizes of the table."""
    curves = []
    for log2_entries in (15, 19, 22):
        grid = HashGrid(log2_entries=log2_entries)
        shared = [max(1.0, resolution**3 / 2**log2_entries) for resolution in grid.resolutions]
        curves.append(_curve(f"{2**log2_entries:,} entries", torch.arange(1.0, 17.0), torch.tensor(shared)))
    return chart(curves, title="Corners for each entry, 16 to 4,096 corners along an axis", x_label="level", logarithmic=True)


def spherical_harmonics() -> str:
    """Draw a highlight max(cos, 0)^10 and its projections on one to four bands, against the angle."""
    cosine, share = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(256))
    angle = torch.linspace(0, math.pi, 121).double()

    def zonal(cosines: Tensor, bands: int) -> Tensor:
        directions = torch.stack([(1 - cosines.square()).clamp_min(0).sqrt(), torch.zeros_like(cosines), cosines], -1)
        return real_spherical_harmonics(directions, bands)[:, [band * (band + 1) for band in range(bands)]]

    curves = [_curve("highlight", angle.rad2deg(), torch.cos(angle).clamp_min(0) ** 10)]
    for bands in (2, 3, 4):
        coefficients = 2 * math.pi * zonal(cosine, bands).T @ (share * cosine.clamp_min(0) ** 10)
        curves.append(_curve(f"{bands} bands", angle.rad2deg(), zonal(torch.cos(angle), bands) @ coefficients))
    return chart(curves, title="A highlight and its series in spherical harmonics", x_label="degrees from its center")


def neus_weights() -> str:
    """Draw the weights of a ray that meets a plane at the distance 1, with the sharpness 10."""
    samples = one_ray(torch.linspace(0, 2, 201))
    distance, sharpness = 1 - samples.midpoints.double(), torch.tensor(10.0, dtype=torch.float64)
    bump = sharpness * torch.sigmoid(sharpness * distance) * torch.sigmoid(-sharpness * distance)
    weights = {
        "NeuS": weights_from_sdf(distance, torch.full_like(distance, -1.0), samples, sharpness, anneal=1.0),
        "density φ": weights_from_density(bump, samples),
    }
    curves = [_curve(name, samples.midpoints, w / samples.lengths) for name, w in weights.items()]
    return chart(curves, title="Weight per length, sharpness 10", x_label="distance along the ray", marks=[Mark("surface", 1.0)])


FIGURES: dict[str, Callable[[], str]] = {
    drawn.__name__: drawn
    for drawn in (volume_rendering, positional_encoding, neural_tangent_kernel, hash_grids, spherical_harmonics, neus_weights)
}


def main(folder: Path = Path(__file__).parent / "images") -> None:
    """Write every figure."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, drawn in FIGURES.items():
        (folder / f"{name}.svg").write_text(drawn(), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent / "images", help="where to write the figures")
    main(**vars(parser.parse_args()))

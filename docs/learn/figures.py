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
from unrender.ops.raster import antialias, rasterize
from unrender.ops.rays import Samples
from unrender.reference.sdf_weights import weights_from_sdf
from unrender.reference.weights import weights_from_density
from unrender.runs.charts import Curve, Level, Mark, line_chart
from unrender.shading.bsdf import ggx_specular
from unrender.shading.cubes import cube_directions, solid_angles
from unrender.shading.lights import EnvironmentLight, prefiltered
from unrender.shading.reflectance import directional_albedo
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


def split_sum() -> str:
    """Draw what a rough plane reflects of half a sky, exact and by the split sum."""
    towards = normalized(cube_directions(64))
    sky = (towards[..., 2:] > 0).float().expand(-1, -1, -1, 3).contiguous()
    light, angles = prefiltered(EnvironmentLight(sky)), torch.linspace(0, 85, 35)
    normal, roughness = torch.tensor([0.0, 0.0, 1.0]), torch.full((1, 1, 1), 0.5)
    exact, split = [], []
    for angle in angles.deg2rad():
        viewer = torch.stack([torch.sin(angle), torch.zeros(()), torch.cos(angle)])
        shape = towards.shape
        rough = roughness.expand(shape[:-1])
        reflected = ggx_specular(normal.expand(shape), viewer.expand(shape), towards, rough, torch.full(shape, 0.04))
        exact.append((reflected * sky * solid_angles(64)[..., None]).sum((0, 1, 2))[0])
        a, b = directional_albedo(viewer[2].view(1, 1, 1), roughness)
        mirrored = (2 * viewer[2] * normal - viewer).view(1, 1, 1, 3)
        split.append(light.blurred(mirrored, roughness)[0, 0, 0, 0] * (0.04 * a + b)[0, 0, 0])
    curves = [_curve("exact", angles, torch.stack(exact)), _curve("split sum", angles, torch.stack(split))]
    return chart(curves, title="A plane of roughness 0.5 under the upper half of a white sky", x_label="degrees between normal and viewer")


def square(unknowns: Tensor, *, smooth: bool = True) -> Tensor:
    """Rasterize a square, given the place of its middle and its half side in pixels."""
    signs = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    clip = torch.cat([(signs * unknowns[2] + unknowns[:2]) / 16, torch.zeros(4, 1), torch.ones(4, 1)], 1)
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)
    raster = rasterize(clip, faces, (32, 32))
    seen = (raster.face >= 0).float()[..., None]
    return antialias(seen, raster, clip, faces) if smooth else seen


def missing_gradient() -> str:
    """Draw the area of a square against its half side."""
    more = torch.linspace(0, 3, 61)
    curves = [_curve("exact", more, 4 * (8 + more) ** 2)]
    for name, smooth in (("sampled at centers", False), ("antialiased", True)):
        areas = [square(torch.tensor([0.0, 0.0, 8 + value]), smooth=smooth).sum() for value in more.tolist()]
        curves.append(_curve(name, more, torch.stack(areas)))
    return chart(curves, title="Area of a square, in pixels", x_label="half side, beyond 8 pixels")


def custom_gradients() -> str:
    """Draw the error of central differences of the weight of one interval."""
    samples = one_ray(torch.tensor([0.0, 0.5]))
    digits = torch.linspace(0.5, 11, 43)
    curves = []
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        errors = []
        for step in (10.0**-digits).tolist():
            ahead, back = (weights_from_density(torch.tensor([1 + sign * step], dtype=dtype), samples) for sign in (1, -1))
            errors.append(abs(float((ahead - back) / (2 * step)) - 0.5 * math.exp(-0.5)))
        curves.append(Curve(name, digits.tolist(), errors))
    return chart(curves, title="Error of a central difference", x_label="n, for a step of 10⁻ⁿ", logarithmic=True)


def _errors_of_a_fit(gradient: Callable[[Tensor], Tensor], truth: Tensor) -> list[float]:
    """Return the largest error of place and half side after each of 80 steps."""
    unknowns = torch.tensor([0.0, 0.0, 6.0], requires_grad=True)
    optimizer = torch.optim.Adam([unknowns], lr=0.2)
    errors = []
    for step in range(80):
        errors.append(float((unknowns - truth).detach().abs().max()))
        optimizer.param_groups[0]["lr"] = 0.2 if step < 50 else 0.02
        unknowns.grad = gradient(unknowns)
        optimizer.step()
    return errors


def inverse_rendering() -> str:
    """Draw the error of a square that is fitted to a picture, by gradients and by differences."""
    truth = torch.tensor([3.7, -2.4, 8.3])

    def by_gradients(unknowns: Tensor) -> Tensor:
        return torch.autograd.grad((square(unknowns) - square(truth)).square().sum(), unknowns)[0]

    @torch.no_grad()
    def by_differences(unknowns: Tensor) -> Tensor:
        photo, steps = square(truth, smooth=False), torch.eye(3)
        ahead, back = (
            torch.stack([(square(unknowns + sign * step, smooth=False) - photo).square().sum() for step in steps]) for sign in (1, -1)
        )
        return (ahead - back) / 2

    steps = torch.arange(80.0)
    fits = {"antialiased, gradients": by_gradients, "sampled at centers, differences of two pixels": by_differences}
    curves = [Curve(name, steps.tolist(), _errors_of_a_fit(gradient, truth)) for name, gradient in fits.items()]
    return chart(curves, title="Largest error of place and half side, in pixels", x_label="step", logarithmic=True)


FIGURES: dict[str, Callable[[], str]] = {
    drawn.__name__: drawn
    for drawn in (
        volume_rendering,
        positional_encoding,
        neural_tangent_kernel,
        hash_grids,
        spherical_harmonics,
        neus_weights,
        split_sum,
        missing_gradient,
        custom_gradients,
        inverse_rendering,
    )
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

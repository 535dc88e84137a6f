"""The study ``fourier``: one picture, fitted with several encodings of its coordinates."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from unrender.color import linear_from_srgb
from unrender.recipes.image import PRESETS, ImageConfig
from unrender.recipes.inputs import Picture
from unrender.recipes.settings import override
from unrender.recipes.table import IMAGE
from unrender.render.scene import PictureScene
from unrender.runs.charts import Curve, line_chart
from unrender.runs.directory import RunDirectory
from unrender.runs.display import Display
from unrender.runs.figures import color_picture, data_uri
from unrender.runs.inputs import Origin, read_picture
from unrender.runs.measures import Measure
from unrender.runs.picture_scores import picture_measures
from unrender.runs.session import Job, run_job
from unrender.runs.studies.page import Finding, Study, StudySection, table
from unrender.words import CoordinateEncoding

_SIDE = 256
_SIGMAS = (1.0, 3.0, 10.0, 30.0, 100.0)
_GAIN = 5.0
"""Decibels that Gaussian features gain on a photograph."""

_DISCS = 2_000


@dataclass(frozen=True)
class Variant:
    """One encoding of the study."""

    name: str
    encoding: CoordinateEncoding
    sigma: float = 10.0


@dataclass(frozen=True)
class Outcome:
    """The result of one fit."""

    variant: Variant
    held_out: float
    fitted: float
    picture: str
    """A ``data:`` address."""


VARIANTS = (
    Variant("none", "none"),
    Variant("basic", "basic"),
    Variant("positional", "positional"),
    *(Variant(f"gaussian-{sigma:g}", "gaussian", sigma) for sigma in _SIGMAS),
)


def dead_leaves(side: int, seed: int) -> Picture:
    """Make a picture with the statistics of photographs: discs of all sizes that hide each other.

    The number of discs of radius r falls as 1 / r³, which gives edges at every scale (Lee, Mumford and Huang 2001).
    """
    generator = np.random.default_rng(seed)
    radii = generator.uniform(1 / 0.3**2, 1 / 0.015**2, _DISCS) ** -0.5
    rows, columns = np.mgrid[0:side, 0:side] / side
    picture = np.full((side, side, 3), 0.5)
    for radius in radii:
        x, y = generator.uniform(-0.1, 1.1, 2)
        color, slope, phase = generator.uniform(0.05, 0.95, 3), generator.normal(0, 0.6, 2), generator.uniform(0, 2 * np.pi)
        inside = (columns - x) ** 2 + (rows - y) ** 2 < radius**2
        shade = (columns - x) * slope[0] + (rows - y) * slope[1] + 0.02 * np.sin(2 * np.pi * 24 * (columns + slope[1] * rows) + phase)
        picture[inside] = (color + shade[..., None])[inside]
    srgb = torch.from_numpy(np.clip(picture, 0, 1).astype(np.float32))
    return Picture("dead-leaves", linear_from_srgb(srgb), hashlib.sha256(f"{side} {seed}".encode()).hexdigest())


def square_of(picture: Picture, side: int) -> Picture:
    """Return the middle square of a picture, reduced to ``side`` pixels.

    Raises:
        ValueError: the picture is smaller.
    """
    height, width = picture.linear.shape[:2]
    short = min(height, width)
    if short < side:
        raise ValueError(f"the picture {picture.name} has {width} x {height} pixels; give one of at least {side} x {side}")
    top, left = (height - short) // 2, (width - short) // 2
    middle = Image.fromarray(color_picture(picture.srgb[top : top + short, left : left + short]))
    reduced = np.asarray(middle.resize((side, side), Image.Resampling.LANCZOS)).astype(np.float32) / 255.0
    return dataclasses.replace(picture, linear=linear_from_srgb(torch.from_numpy(reduced)))


def fourier_study(folder: Path, picture: Path | None, *, steps: int, seed: int, device: torch.device, display: Display) -> Study:
    """Fit a picture with every encoding, as runs in ``folder``, and compare them.

    Finished fits are read again, so that the same call goes on where it was stopped.

    Args:
        folder: of the study.
        picture: a photograph, whose middle square is taken; None makes a picture.
        steps: of each fit.
        seed: of the fits and of the picture.
        device: of the fits.
        display: shows the progress.

    Raises:
        ValueError: the picture cannot be read or is too small, or the folder holds fits of another one.
        KeyboardInterrupt: a fit was interrupted.
    """
    given = dead_leaves(_SIDE, seed) if picture is None else square_of(read_picture(picture), _SIDE)
    origin = Origin("" if picture is None else str(picture.absolute()))
    preset = IMAGE.default_preset(device)
    outcomes: list[Outcome] = []
    for number, variant in enumerate(VARIANTS):
        config: ImageConfig = override(PRESETS[preset], steps=steps, encoding=variant.encoding, sigma=variant.sigma)
        display.say(f"{number + 1} of {len(VARIANTS)}: {variant.name}")
        run = run_job(Job(IMAGE, preset, config, given, origin, device, seed), RunDirectory(folder / variant.name), display=display)
        if run.result.outcome == "interrupted":
            raise KeyboardInterrupt
        outcomes.append(_outcome(variant, given, run.result.scene))
    return _study(given, outcomes, steps, made=picture is None)


def _outcome(variant: Variant, given: Picture, scene: object) -> Outcome:
    assert isinstance(scene, PictureScene)
    prediction = scene.picture(*given.linear.shape[:2]).cpu()
    held_out, fitted, _ = picture_measures(given, prediction)
    return Outcome(variant, held_out.value, fitted.value, _shown(prediction))


def _shown(srgb: Float[Tensor, "height width 3"]) -> str:
    return data_uri(color_picture(srgb), largest_side=512, quality=90)


def _study(given: Picture, outcomes: Sequence[Outcome], steps: int, *, made: bool) -> Study:
    by_name = {outcome.variant.name: outcome for outcome in outcomes}
    gaussian = [outcome for outcome in outcomes if outcome.variant.encoding == "gaussian"]
    best = max(gaussian, key=lambda outcome: outcome.held_out)
    none, basic, positional = (by_name[name].held_out for name in ("none", "basic", "positional"))
    figures = "".join(
        f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
        for source, caption in (
            (_shown(given.srgb), "truth"),
            *((outcome.picture, f"{outcome.variant.name}: {outcome.held_out:.1f} dB") for outcome in outcomes),
        )
    )
    exponents = [float(np.log10(outcome.variant.sigma)) for outcome in gaussian]
    sweep = line_chart(
        [
            Curve("held-out pixels", exponents, [outcome.held_out for outcome in gaussian]),
            Curve("fitted pixels", exponents, [outcome.fitted for outcome in gaussian]),
        ],
        title="PSNR, dB",
        x_label="log₁₀ σ",
    )
    scores = table(
        ("encoding", "PSNR of held-out pixels, dB", "PSNR of fitted pixels, dB"),
        [(outcome.variant.name, f"{outcome.held_out:.2f}", f"{outcome.fitted:.2f}") for outcome in outcomes],
    )
    height, width = given.linear.shape[:2]
    what = "a made picture of discs that hide each other, with the statistics of photographs" if made else f"the photograph {given.name}"
    return Study(
        "fourier",
        "What an encoding does to a picture",
        f"One network, {steps:,} steps, {what}, {width} x {height} pixels: a quarter of them fitted, a quarter held out.",
        (
            StudySection(
                "Encodings",
                "A network of the coordinates alone learns slow changes first, and within any number of steps that one would wait for "
                "the picture stays a blur. One cycle along each axis helps little. With many frequencies it becomes sharp: along the axes "
                "(positional), or in all directions (Gaussian), which treats edges of all directions alike.",
                (f'<div class="row" tabindex="0" role="region" aria-label="pictures">{figures}</div>',),
            ),
            StudySection(
                "One number decides",
                "σ, the spread of Gaussian frequencies, sets how far apart positions must be to be strangers to the network. If it is "
                "small, neighbors look alike and the picture is a blur; if it is large, every fitted pixel is learned by itself, and what "
                "lies between them is noise. Held-out pixels lose first; in the end fitted ones do too, because no pixel helps another.\n\n"
                "The best σ grows with the number of fitted pixels along a side, because there is finer detail to tell apart: for 256 of "
                f"them it is near 10 (Tancik et al. 2020), for the {height // 2} here it is lower.",
                (sweep, scores),
            ),
        ),
        (
            Finding(Measure("PSNR with no encoding", none, "dB", digits=2), "the lowest", none < min(basic, positional, best.held_out)),
            Finding(Measure("PSNR with the basic encoding", basic, "dB", digits=2), "more", none < basic < positional),
            Finding(Measure("PSNR with the positional encoding", positional, "dB", digits=2), "still more", basic < positional),
            Finding(
                Measure(f"PSNR with Gaussian features, σ = {best.variant.sigma:g}", best.held_out, "dB", digits=2),
                f"at least as much, and {_GAIN:g} dB more than without",
                best.held_out >= max(positional, none + _GAIN),
            ),
            Finding(Measure("best σ", best.variant.sigma, digits=0), "3 or 10: neither blur nor noise", 1.0 < best.variant.sigma < 30.0),
        ),
    )

"""The study ``ntk``: wide networks under gradient descent, with and without Fourier features, in one dimension."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.devices import pytorch_on_one_thread
from unrender.fields.fourier import fourier_features
from unrender.fields.tangent_kernel import WideNetwork, circulance_error, empirical_kernel, kernel_modes, predictions_at, relu_kernel
from unrender.numerics import normalized
from unrender.runs.charts import Curve, line_chart
from unrender.runs.display import Display
from unrender.runs.measures import Measure
from unrender.runs.studies.page import Finding, Study, StudySection, table

_POINTS = 32
_HIDDEN_LAYERS = 2
_WIDTH = 1024
_MODES = 10
_FREQUENCIES = (1, 2, 4, 8)
"""Waves of the target of the first demonstration, in cycles per unit."""

_STEPS = 1500
_MODE_STEPS = 400
_TOLERANCE = 0.05


def ring(count: int) -> Float[Tensor, "points 1"]:
    """Return evenly spaced positions in [0, 1)."""
    return torch.arange(count)[:, None] / count


def mapped(positions: Float[Tensor, "points 1"], highest: int, power: float = 0.0) -> Float[Tensor, "points columns"]:
    """Encode positions with the frequencies b = 1 .. ``highest`` and amplitudes b^-power, as unit vectors."""
    cycles = torch.arange(1, highest + 1, dtype=positions.dtype)
    return normalized(fourier_features(positions, cycles[:, None], cycles ** (-power)))


def unmapped(positions: Float[Tensor, "points 1"]) -> Float[Tensor, "points 2"]:
    """Return the coordinate with a constant, as unit vectors."""
    return normalized(torch.cat([2 * positions - 1, torch.ones_like(positions)], dim=1))


@dataclass(frozen=True)
class Descent:
    """Residuals of a network under gradient descent."""

    residuals: Float[Tensor, "times points"]
    steps: list[int]
    rate: float


def descend(network: WideNetwork, inputs: Tensor, targets: Tensor, *, rate: float, steps: int, every: int) -> Descent:
    """Train by gradient descent on ½ Σ r², and keep the residuals of some steps."""
    kept, times = [], []
    for step in range(steps + 1):
        residual = network(inputs) - targets
        if step % every == 0:
            kept.append(residual.detach().double())
            times.append(step)
        gradients = torch.autograd.grad(0.5 * residual.square().sum(), list(network.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter.sub_(rate * gradient)
    return Descent(torch.stack(kept), times, rate)


@dataclass(frozen=True)
class ModeDecay:
    """The decay of one mode of the kernel."""

    eigenvalue: float
    measured: float
    """-d log |q · r| / d(ηt), which theory says is the eigenvalue."""
    amplitudes: list[float]

    @property
    def difference(self) -> float:
        """The difference between measurement and theory, as a share of theory."""
        return abs(self.measured - self.eigenvalue) / self.eigenvalue


def measure_modes(width: int, steps: int, seed: int) -> tuple[Descent, list[ModeDecay]]:
    """Train a wide network on a signal with all modes of its kernel alike, and measure how fast each decays.

    The rate of a mode is measured from the start until theory says that a third of it is left, or until the end.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = mapped(ring(_POINTS), 8, power=0.5)
    network = WideNetwork(inputs.shape[1], width, _HIDDEN_LAYERS, generator)
    values, modes = kernel_modes(empirical_kernel(network, inputs))
    targets = (0.02 * modes[:, : _MODES + 2].sum(1)).float()
    rate = 0.1 / float(values[0])
    found = descend(network, inputs, targets, rate=rate, steps=steps, every=1)
    amplitudes = found.residuals @ modes
    decays = []
    for mode in range(_MODES):
        eigenvalue = float(values[mode])
        last = max(1, min(steps, round(math.log(3.0) / (rate * eigenvalue))))
        fallen = -math.log(abs(float(amplitudes[last, mode] / amplitudes[0, mode])))
        # A step multiplies a mode by 1 - ηλ, which is exp(-ηλ) only for small steps.
        measured = -math.expm1(-fallen / last) / rate
        decays.append(ModeDecay(eigenvalue, measured, amplitudes[:, mode].abs().tolist()))
    return found, decays


def wave_errors(inputs: Float[Tensor, "points columns"], width: int, steps: int, seed: int) -> tuple[list[int], dict[int, list[float]]]:
    """Train on a sum of waves; return which share of each is missing at some steps."""
    generator = torch.Generator().manual_seed(seed)
    positions = ring(len(inputs))[:, 0]
    waves = {cycles: torch.sin(2 * math.pi * cycles * positions) for cycles in _FREQUENCIES}
    network = WideNetwork(inputs.shape[1], width, _HIDDEN_LAYERS, generator)
    rate = 0.5 / float(kernel_modes(empirical_kernel(network, inputs))[0][0])
    found = descend(network, inputs, 0.1 * torch.stack(list(waves.values())).sum(0), rate=rate, steps=steps, every=max(1, steps // 100))
    missing = {cycles: found.residuals @ wave.double() / (0.1 * wave.double().square().sum()) for cycles, wave in waves.items()}
    return found.steps, {cycles: share.abs().tolist() for cycles, share in missing.items()}


def bandwidth_errors(seed: int) -> list[tuple[str, float, float]]:
    """Return, for several powers p of the amplitudes, the errors at the training and between them, by the linear dynamics."""
    generator = torch.Generator().manual_seed(seed)
    fine, every = 256, 256 // _POINTS
    cycles = torch.arange(1.0, 9.0)
    random = torch.randn(2, 8, generator=generator) / cycles
    signal = fourier_features(ring(fine), cycles[:, None]) @ random.reshape(-1)
    rows = []
    for name, highest, power in (
        ("p = 0", 16, 0.0),
        ("p = 0.5", 16, 0.5),
        ("p = 1", 16, 1.0),
        ("p = 2", 16, 2.0),
        ("one frequency", 1, 0.0),
    ):
        encoded = mapped(ring(fine), highest, power)
        kernel = relu_kernel(encoded @ encoded.t(), _HIDDEN_LAYERS)
        known = torch.arange(0, fine, every)
        time = 2e3 / float(kernel.diagonal().mean() * _POINTS)
        predicted = predictions_at(kernel[:, known], kernel[known][:, known], signal[known], time)
        error = (predicted - signal.double()).square()
        held_out = torch.ones(fine, dtype=torch.bool)
        held_out[known] = False
        rows.append((name, float(error[known].mean()), float(error[held_out].mean())))
    return rows


def ntk_study(seed: int, display: Display, *, width: int = _WIDTH, steps: int = _STEPS, mode_steps: int = _MODE_STEPS) -> Study:
    """Run the demonstrations, and return their results."""
    with pytorch_on_one_thread():
        with display.task("learning waves", 2) as task:
            raw_steps, raw = wave_errors(unmapped(ring(_POINTS)), width // 2, steps, seed)
            task.advance()
            steps_of, with_features = wave_errors(mapped(ring(_POINTS), 8), width // 2, steps, seed)
            task.advance()
        with display.task("measuring the modes of a wide network"):
            descent, decays = measure_modes(width, mode_steps, seed)
        bandwidths = bandwidth_errors(seed)
    count = 64
    ring_of = ring(count).double()  # near 1 the kernel has the root of a cosine's rounding
    raw_kernel, kernel = (relu_kernel(encoded @ encoded.t(), _HIDDEN_LAYERS) for encoded in (unmapped(ring_of), mapped(ring_of, 8, 0.5)))
    offsets = (torch.arange(count) / count).tolist()
    shown = [0, 16, 32]
    worst = max(decay.difference for decay in decays)
    last_raw, last = raw[_FREQUENCIES[-1]][-1], with_features[_FREQUENCIES[-1]][-1]
    times = [descent.rate * step for step in descent.steps]
    pictured = [0, 2, 4, 6, 9]
    return Study(
        "ntk",
        "How a wide network learns",
        "A wide network under gradient descent follows its tangent kernel K: every eigenvector of K decays by itself, as exp(-ηλt). "
        "Which signals have large eigenvalues is decided by the encoding of the inputs.",
        (
            StudySection(
                "Without features, slow waves are learned first and fast ones hardly at all",
                f"The target is the sum of waves of {', '.join(map(str, _FREQUENCIES))} cycles, at {_POINTS} points. Shown is what is "
                f"missing of each wave, for a network of {_HIDDEN_LAYERS} x {width // 2} units. Left: it reads the coordinate. Right: it "
                "reads cosines and sines of 1 to 8 cycles.",
                (
                    _wave_chart(raw_steps, raw, "Coordinate alone"),
                    _wave_chart(steps_of, with_features, "Fourier features"),
                ),
            ),
            StudySection(
                "With features, the kernel is the same everywhere",
                "Three rows of the kernel, each over the offset from its own position. With features all rows are one curve: the kernel is "
                "circulant on a ring of points, and waves are its eigenvectors. Without, it depends on where a position is.",
                (
                    line_chart(_rows(raw_kernel, shown, offsets), title="Coordinate alone", x_label="offset"),
                    line_chart(_rows(kernel, shown, offsets), title="Fourier features", x_label="offset"),
                ),
            ),
            StudySection(
                "Every mode decays by its own exponential",
                f"A network of {_HIDDEN_LAYERS} x {width:,} units is trained on a signal that has every mode alike. The chart shows the "
                "size of some modes of the residual; a straight line is an exponential. The table compares the first ten rates with the "
                "eigenvalues of the kernel before the first step.",
                (
                    line_chart(
                        [Curve(f"mode {mode + 1}", times, decays[mode].amplitudes) for mode in pictured],
                        title="Residual of each mode",
                        x_label="learning rate × steps",
                        logarithmic=True,
                    ),
                    table(
                        ("mode", "eigenvalue λ", "measured rate", "difference"),
                        [
                            (f"{mode + 1}", f"{decay.eigenvalue:.4g}", f"{decay.measured:.4g}", f"{decay.difference:.2%}")
                            for mode, decay in enumerate(decays)
                        ],
                    ),
                ),
            ),
            StudySection(
                "The amplitudes are a knob",
                f"Frequencies b = 1 .. 16 have the amplitudes b^-p, and the signal is known at {_POINTS} of 256 points. Its own spectrum "
                "falls as 1/b. A flat spectrum of the encoding lets the network fit the known points and oscillate between them; one "
                "frequency cannot follow the signal. Computed from the kernel of an infinitely wide network.",
                (
                    table(
                        ("amplitudes", "error at known points", "error between them"),
                        [(name, f"{known:.2e}", f"{between:.2e}") for name, known, between in bandwidths],
                    ),
                ),
            ),
        ),
        (
            Finding(
                Measure(
                    f"decay of the first {_MODES} modes, largest difference from exp(-ηλt)", 100 * worst, "%", digits=2, better="lower"
                ),
                "below 5 %",
                worst < _TOLERANCE,
            ),
            Finding(
                Measure(
                    "kernel with features, deviation from a function of the offset", circulance_error(kernel), digits=6, better="lower"
                ),
                "0",
                circulance_error(kernel) < 1e-4,
            ),
            Finding(
                Measure("the same without features", circulance_error(raw_kernel), digits=3),
                "above 0.1",
                circulance_error(raw_kernel) > 0.1,
            ),
            Finding(
                Measure(f"missing of the wave of {_FREQUENCIES[-1]} cycles, without features", 100 * last_raw, "%", digits=1),
                "above 50 %",
                last_raw > 0.5,
            ),
            Finding(Measure("the same with features", 100 * last, "%", digits=1), "below 5 %", last < 0.05),
        ),
    )


def _wave_chart(steps: list[int], missing: dict[int, list[float]], title: str) -> str:
    curves = [Curve(f"{cycles} cycle{'s' * (cycles > 1)}", [float(step) for step in steps], shares) for cycles, shares in missing.items()]
    return line_chart(curves, title=f"{title}: share missing", x_label="steps")


def _rows(kernel: Float[Tensor, "points points"], shown: list[int], offsets: list[float]) -> list[Curve]:
    scale = float(kernel.diagonal().mean())
    reach = len(kernel) // 2  # no row goes over the end of the interval
    return [Curve(f"from {offsets[row]:g}", offsets[:reach], (kernel[row, row : row + reach] / scale).tolist()) for row in shown]

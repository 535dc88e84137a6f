"""The studies: tangent kernels obey their laws, and every study writes a page with its findings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import unrender.runs.studies.fourier as fourier
from unrender.cli import main
from unrender.fields.tangent_kernel import (
    WideNetwork,
    circulance_error,
    empirical_kernel,
    kernel_modes,
    predictions_at,
    relu_kernel,
    residuals_at,
)
from unrender.numerics import normalized
from unrender.recipes.fitting import Progress
from unrender.runs.display import Display
from unrender.runs.studies.ntk import mapped, measure_modes, ntk_study, ring, unmapped


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_kernel_of_a_wide_network_is_that_of_an_infinitely_wide_one(layers: int) -> None:
    inputs = normalized(torch.randn(6, 3, generator=generator()))
    several = generator()
    found = torch.stack([empirical_kernel(WideNetwork(3, 256, layers, several), inputs) for _ in range(48)]).mean(0)
    torch.testing.assert_close(found, relu_kernel(inputs @ inputs.T, layers), atol=0.08 * (layers + 1), rtol=0)
    torch.testing.assert_close(found, found.T)
    assert float(torch.linalg.eigvalsh(found.double())[0]) > -1e-4


def test_a_network_begins_as_zero() -> None:
    assert not bool(WideNetwork(3, 16, 2, generator())(torch.randn(4, 3)).any())


def test_kernels_of_features_are_circulant_and_those_of_coordinates_are_not() -> None:
    positions = ring(32).double()
    with_features, without = (relu_kernel(encoded @ encoded.T, 2) for encoded in (mapped(positions, 6, 1.0), unmapped(positions)))
    assert circulance_error(with_features) < 1e-6 and circulance_error(without) > 0.3
    wave = torch.cos(2 * torch.pi * 3 * positions[:, 0])
    image = with_features @ wave  # waves are eigenvectors
    torch.testing.assert_close(image, wave * (image @ wave) / (wave @ wave), atol=1e-6, rtol=0)


def test_the_dynamics_are_those_of_small_steps_of_gradient_descent() -> None:
    factor = torch.randn(5, 5, generator=generator(), dtype=torch.float64)
    kernel, targets, rate = factor @ factor.T / 5, torch.arange(5.0, dtype=torch.float64), 1e-4
    output = torch.zeros_like(targets)
    for _ in range(5000):
        output = output - rate * kernel @ (output - targets)
    torch.testing.assert_close(residuals_at(kernel, -targets, torch.tensor([0.5]))[0], output - targets, atol=1e-3, rtol=0)
    torch.testing.assert_close(predictions_at(kernel, kernel, targets, 0.5), output, atol=1e-3, rtol=0)
    values, modes = kernel_modes(kernel)
    torch.testing.assert_close(kernel @ modes, modes * values)
    assert bool((values.diff() <= 0).all())


def test_ten_modes_decay_as_their_eigenvalues_say() -> None:
    _, decays = measure_modes(width=256, steps=120, seed=0)
    assert len(decays) == 10 and max(decay.difference for decay in decays) < 0.05
    assert decays[9].eigenvalue < 0.3 * decays[0].eigenvalue  # they are told apart


def test_the_study_of_kernels_finds_what_it_claims() -> None:
    study = ntk_study(0, Display.quiet(), width=256, steps=400, mode_steps=120)
    assert [finding.measure.name for finding in study.findings if not finding.holds] == []
    assert len(study.sections) == 4


def test_the_study_of_encodings_is_a_page_and_numbers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "encodings", "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    page = Path(found["page"]).read_text(encoding="utf-8")
    assert all(found["holds"].values()) and len(found["measures"]) == 3
    assert page.count("<svg") == 2 and "An offset is a rotation" in page and "http" not in page.replace("http://www.w3.org", "")


def test_the_study_of_a_picture_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fourier, "VARIANTS", [v for v in fourier.VARIANTS if v.name not in ("gaussian-1", "gaussian-30", "gaussian-100")])
    monkeypatch.setattr(fourier, "_SIDE", 32)
    Image.new("RGB", (300, 260), (200, 120, 40)).save(tmp_path / "photo.png")
    words = ["study", "fourier", "--picture", str(tmp_path / "photo.png"), "--steps", "3", "--out", str(tmp_path / "study")]
    take_step, calls = fourier.run_job, []

    def stopping(job, directory, **rest):
        calls.append(directory.path.name)

        def stop(progress: Progress) -> None:
            if len(calls) == 2:
                raise KeyboardInterrupt

        return take_step(job, directory, observer=stop, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(fourier, "run_job", stopping)
        assert main(words) == 130
    assert calls == ["none", "basic"] and "the same command goes on" in capfd.readouterr().err
    assert main(words) == 0
    out = capfd.readouterr().out
    assert "none is finished" in out and "fourier.html" in out
    page = (tmp_path / "study" / "fourier.html").read_text(encoding="utf-8")
    assert page.count("<img") == 6 and "the photograph photo" in page


def test_a_made_picture_has_edges_of_every_scale() -> None:
    picture, again = fourier.dead_leaves(64, 0), fourier.dead_leaves(64, 0)
    assert torch.equal(picture.linear, again.linear) and picture.fingerprint != fourier.dead_leaves(64, 1).fingerprint
    power = torch.fft.rfft2(picture.srgb.mean(-1)).abs().square()
    slow, fast = power[1:4, 1:4].mean(), power[12:24, 12:24].mean()
    assert 30 < float(slow / fast) < 30_000  # the spectrum falls about as 1 / f², as that of photographs


def test_wrong_calls_are_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    small = tmp_path / "small.png"
    Image.new("RGB", (20, 20)).save(small)
    for words, code, sentence in (
        (["study", "nkt"], 2, "did you mean"),
        (["study", "ntk", "--picture", str(small)], 2, "takes no --picture"),
        (["study", "fourier", "--steps", "0"], 2, "--steps is 0"),
        (["study", "fourier", "--picture", str(small), "--out", str(tmp_path / "s")], 1, "at least 256 x 256"),
        (["study", "fourier", "--picture", str(tmp_path / "no.png")], 1, "not there"),
    ):
        assert main(words) == code
        err = capfd.readouterr().err
        assert sentence in err and err.count("\n") == 1, err

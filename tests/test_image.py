"""The recipe ``image``: encodings of coordinates, pictures that networks memorize, and what a run of it leaves."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import unrender
from unrender.cameras import Cameras
from unrender.cli import main
from unrender.color import linear_from_srgb
from unrender.fields.fourier import (
    basic_frequencies,
    closest_pair,
    fourier_features,
    gaussian_frequencies,
    offset_rotation,
    positional_frequencies,
    similarity,
)
from unrender.losses.metrics import psnr
from unrender.recipes import image
from unrender.recipes.fitting import Fitting, Progress
from unrender.recipes.inputs import Picture
from unrender.recipes.settings import override
from unrender.runs.directory import RunDirectory

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"hidden": (32, 32), "frequencies": 32, "log2_entries": 10, "levels": 4, "finest_resolution": 64}


def frequencies() -> list[torch.Tensor]:
    return [basic_frequencies(2), positional_frequencies(8, 2, 4.0), gaussian_frequencies(16, 2, 5.0, torch.Generator().manual_seed(0))]


@pytest.mark.parametrize("rows", frequencies())
def test_an_offset_rotates_every_encoding_alike(rows: torch.Tensor) -> None:
    v, offset = torch.rand(20, 2, generator=torch.Generator().manual_seed(1)), torch.tensor([0.13, -0.07])
    rotation = offset_rotation(offset, rows)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(2 * len(rows)), atol=1e-5, rtol=0)
    torch.testing.assert_close(fourier_features(v + offset, rows), fourier_features(v, rows) @ rotation.T, atol=1e-4, rtol=0)


@pytest.mark.parametrize("rows", frequencies())
def test_the_similarity_depends_on_the_offset_alone(rows: torch.Tensor) -> None:
    amplitudes = torch.linspace(1.0, 0.2, len(rows))
    v, offset = torch.rand(20, 2, generator=torch.Generator().manual_seed(1)), torch.tensor([[0.02, 0.05]])
    here, there = fourier_features(v, rows, amplitudes), fourier_features(v + offset, rows, amplitudes)
    cosines = torch.cosine_similarity(here, there)
    torch.testing.assert_close(cosines, similarity(offset, rows, amplitudes).expand(20), atol=1e-5, rtol=0)
    assert float(similarity(torch.zeros(1, 2), rows)) == pytest.approx(1.0)


def test_one_cycle_repeats_at_the_border_and_many_frequencies_tell_all_positions_apart() -> None:
    v = torch.linspace(0, 1, 65)[:, None]
    assert closest_pair(fourier_features(v, basic_frequencies(1))) < 1e-5
    assert closest_pair(fourier_features(v, gaussian_frequencies(32, 1, 5.0, torch.Generator().manual_seed(0)))) > 0.1


def waves(size: int = 32) -> Picture:
    """Stripes of eight cycles over slow waves."""
    x = (torch.arange(size) + 0.5) / size
    fast, slow = torch.sin(2 * torch.pi * 8 * x)[None, :].expand(size, size), torch.sin(2 * torch.pi * x)[:, None].expand(size, size)
    srgb = torch.stack([0.5 + 0.4 * fast, 0.5 + 0.4 * slow, 0.5 + 0.2 * fast * slow], dim=-1)
    return Picture("waves", linear_from_srgb(srgb), "f")


def small(**changes: object) -> image.ImageConfig:
    return override(image.PRESETS["cpu"], **{**SMALL, **changes})


def fitted(**changes: object) -> float:
    """PSNR of the fitted pixels after 200 steps."""
    seen: list[Progress] = []
    image.fit(waves(), small(steps=200, **changes), device=CPU, seed=0, observer=seen.append)
    assert seen[-1].psnr is not None and seen[-1].held_out_psnr is not None
    return seen[-1].psnr


def test_frequencies_decide_what_a_network_learns() -> None:
    none, basic, gaussian = fitted(encoding="none"), fitted(encoding="basic"), fitted(encoding="gaussian", sigma=5.0)
    assert none < basic < gaussian - 5.0 and gaussian > 25.0


@pytest.mark.parametrize("encoding", ["none", "basic", "positional", "gaussian", "hash"])
def test_a_fit_resumed_from_a_snapshot_ends_bit_equal(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, snapshots = small(encoding=encoding, steps=12, batch=100), []
    whole = image.fit(waves(), config, device=CPU, seed=3)
    monkeypatch.setattr("unrender.recipes.image.loop.Fitting", partial(Fitting, report_every=0.0))

    def interrupt(progress: Progress) -> None:
        if progress.step == 5:
            snapshots.append(progress.snapshot())
            raise KeyboardInterrupt

    assert image.fit(waves(), config, device=CPU, seed=3, observer=interrupt).outcome == "interrupted"
    resumed = image.fit(waves(), config, device=CPU, seed=3, resume=snapshots[0])
    for name, value in whole.scene.state_dict().items():
        assert torch.equal(value, resumed.scene.state_dict()[name]), name
    again = image.load_scene(config, snapshots[0], CPU)
    assert isinstance(whole.scene, image.ImageScene) and again.picture(4, 4).shape == (4, 4, 3)


def test_held_out_pixels_have_no_effect_on_the_fit() -> None:
    picture = waves(16)
    changed = picture.linear.clone()
    changed[picture.is_held_out] = 1.0
    one, other = (
        image.fit(each, small(steps=3), device=CPU, seed=0).scene.state_dict() for each in (picture, Picture("waves", changed, "g"))
    )
    assert not bool((picture.is_fitted & picture.is_held_out).any()) and int(picture.is_fitted.sum()) == 64
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_picture_is_shown_at_the_size_of_a_camera() -> None:
    scene = image.ImageScene(small(), generator=torch.Generator().manual_seed(0))
    camera = Cameras.alike(torch.eye(4)[None], torch.tensor([[9.0, 9.0, 4.0, 2.0]]), None, 8, 4)
    rendering = scene.render_view(camera, 0)
    assert torch.equal(rendering.color, scene.picture(4, 8)) and bool((rendering.opacity == 1).all())
    assert scene.mesh().is_empty


def test_a_run_leaves_the_prediction_its_scores_and_a_report(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "waves.png", tmp_path / "run"
    truth = waves().srgb
    Image.fromarray((truth * 255).round().to(torch.uint8).numpy()).save(file)
    options = ["--steps", "30", "--hidden", "16", "16", "--frequencies", "16", "--out", str(out)]
    assert main(["fit", "image", str(file), *options]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    prediction = torch.from_numpy(np.asarray(Image.open(out / "prediction.png")).astype(np.float32) / 255)
    held_out = psnr(prediction[1::2, 1::2], truth[1::2, 1::2])
    assert metrics["psnr"] == pytest.approx(float(held_out), abs=0.1) and metrics["steps"] == 30
    assert [measure["name"] for measure in metrics["measures"]] == ["PSNR of held-out pixels", "PSNR of fitted pixels", "SSIM"]
    assert np.asarray(Image.open(out / "comparison.png")).shape == (32, 3 * 32 + 2 * 8, 3)
    page = (out / "report.html").read_text()
    assert "prediction of the picture" in page and "PSNR of held-out pixels" in page
    history = RunDirectory(out).read_history()
    assert history[-1].held_out_psnr is not None
    before = (out / "metrics.json").read_bytes()
    (out / "comparison.png").unlink()
    assert main(["fit", "image", str(file), *options]) == 0  # writes what is missing
    assert (out / "comparison.png").exists() and (out / "metrics.json").read_bytes() == before
    capfd.readouterr()
    for command in ("eval", "render", "export", "relight"):
        words = [command, str(out), *(["--env", str(file)] if command == "relight" else [])]
        assert main(words) == 1
        assert capfd.readouterr().err.strip().count("\n") == 0


def test_wrong_pictures_and_settings_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 2 x 2"):
        image.fit(Picture("dot", torch.zeros(1, 5, 3), "f"), small(), device=CPU, seed=0)
    with pytest.raises(ValueError, match="frequencies is 3; it must be an even number"):
        small(frequencies=3)
    with pytest.raises(ValueError, match="sigma is 0"):
        small(sigma=0.0)
    with pytest.raises(ValueError, match="batch is 0"):
        small(batch=0)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="cannot be read"):
        unrender.fit("image", tmp_path / "text.png")
    huge = tmp_path / "huge.png"
    Image.new("1", (2**13, 2**13 + 8)).save(huge)
    with pytest.raises(ValueError, match=r"8,192 x 8,200 pixels; give one of at most"):
        unrender.fit("image", huge)

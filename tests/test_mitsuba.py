"""Our renderings of materials under environments against those of a path tracer, Mitsuba 3."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from unrender.render.asset import read_asset
from unrender.render.lit import LitScene

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "mitsuba_asset.py"


def comparison() -> ModuleType:
    """Return the benchmark; skip the test without Mitsuba."""
    pytest.importorskip("mitsuba")
    described = importlib.util.spec_from_file_location("mitsuba_asset", SCRIPT)
    assert described is not None and described.loader is not None
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("light", ["studio_small_03_1k.hdr", "kiara_1_dawn_1k.hdr"])
def test_the_avocado_looks_as_in_a_path_tracer(light: str, data_dir: Path) -> None:
    """The rest is noise, occlusion, the split sum and another diffuse lobe; the means agree to two per cent of white."""
    against = comparison()
    asset, cameras = against.lit(read_asset(data_dir / "avocado_512" / "avocado.gltf"), data_dir / "hdri" / light), against.ring(2, 96)
    scene = LitScene(asset)
    for view in range(2):
        seen = scene.render_view(cameras, view)
        inside = binary_erosion(seen.opacity.numpy() > 0.999, iterations=2)
        ours, theirs = seen.srgb.clamp(0, 1).double().numpy(), against.seen_by_mitsuba(asset, cameras[view], samples=128, depth=6)
        assert against.decibels(ours, theirs, inside) > 30
        assert np.abs((ours - theirs)[inside].mean(0)).max() < 0.02

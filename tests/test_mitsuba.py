"""Our renderings of materials under environments against those of a path tracer, Mitsuba 3."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from benchmark_programs import benchmark
from unrender.render.asset import read_asset
from unrender.render.lit import LitScene


def comparison() -> ModuleType:
    """Return the benchmark; skip the test without Mitsuba."""
    pytest.importorskip("mitsuba")
    return benchmark("mitsuba_asset")


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

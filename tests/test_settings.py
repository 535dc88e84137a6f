"""Settings in bundles: overriding by name, budgets, and that presets say what was published."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from unrender.recipes import nerf, neus
from unrender.recipes.clock import Clock
from unrender.recipes.settings import HashLevels, Sampling, override, with_budget


def test_a_setting_is_replaced_in_whichever_bundle_it_lies() -> None:
    config = override(nerf.NerfConfig(), target_samples=512, levels=3, near=0.5)
    assert (config.sampling.target_samples, config.field.hash.levels, config.near) == (512, 3, 0.5)
    assert config.sampling == Sampling(target_samples=512) and nerf.NerfConfig().sampling.target_samples == 2**18


def test_settings_of_a_new_bundle_are_set_in_it() -> None:
    config = override(neus.NeusConfig(), field=neus.GridField(), bending=0.5)
    assert config.field == neus.GridField(bending=0.5)


def test_settings_that_need_each_other_are_replaced_together() -> None:
    config = override(neus.NeusConfig(), normals="taps6", curvature_weight=0.1)
    assert config.losses.curvature_weight == 0.1
    with pytest.raises(ValueError, match="curvature_weight is 0.1"):
        override(neus.NeusConfig(), curvature_weight=0.1)


def test_unknown_and_ambiguous_names_are_refused() -> None:
    with pytest.raises(ValueError, match="levles is not in NerfConfig"):
        override(nerf.NerfConfig(), levles=3)
    with pytest.raises(ValueError, match="bending is not in NeusConfig"):
        override(neus.PRESETS["gpu"], bending=0.1)


def test_a_budget_given_alone_replaces_the_other_one() -> None:
    preset = override(nerf.PRESETS["cpu"], steps=9, max_seconds=300.0)
    assert with_budget(preset, steps=7) == override(preset, steps=7, max_seconds=None)
    assert with_budget(preset, max_seconds=5.0) == override(preset, steps=None, max_seconds=5.0)
    assert with_budget(preset, steps=7, max_seconds=5.0) == override(preset, steps=7, max_seconds=5.0)
    assert with_budget(preset) == preset


@pytest.mark.parametrize("config", [*nerf.PRESETS.values(), *neus.PRESETS.values()])
def test_the_budget_of_every_preset_is_in_steps(config: nerf.NerfConfig | neus.NeusConfig) -> None:
    assert config.steps is not None and config.max_seconds is None


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        ({"steps": 0}, "steps is 0; a fit needs at least 1"),
        ({"steps": True}, "steps is True; it must be an integer"),
        ({"max_seconds": 0.0}, "max_seconds is 0.0; give a positive number"),
        ({"max_seconds": float("nan")}, "max_seconds is nan; give a positive number"),
        ({"max_seconds": float("inf")}, "max_seconds is inf; give a positive number"),
        ({"steps": None}, "steps and max_seconds are both None"),
    ],
)
def test_a_budget_that_is_none_is_refused(budget: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(nerf.PRESETS["cpu"], **budget)
    with pytest.raises(ValueError, match=sentence):
        Clock(budget.get("steps"), budget.get("max_seconds"))


def test_bundles_refuse_what_is_out_of_range() -> None:
    with pytest.raises(ValueError, match="start_rays is 0; it must be at least 1"):
        Sampling(start_rays=0)
    with pytest.raises(ValueError, match="finest_resolution is 8; it must exceed base_resolution 16"):
        HashLevels(finest_resolution=8)
    with pytest.raises(ValueError, match="density_first is 1.0"):
        neus.GridField(density_first=1.0)


def test_each_recipe_has_a_preset_for_both_kinds_of_device() -> None:
    for presets in (nerf.PRESETS, neus.PRESETS):
        assert {"cpu", "gpu"} <= set(presets)


def test_names_of_settings_are_unique_within_a_preset() -> None:
    """Flat names on the command line must each mean one thing."""
    import dataclasses
    from collections import Counter

    def names(config: Any) -> list[str]:
        values = [(field.name, getattr(config, field.name)) for field in dataclasses.fields(config)]
        return [leaf for name, value in values for leaf in (names(value) if dataclasses.is_dataclass(value) else [name])]

    for preset in (*nerf.PRESETS.values(), *neus.PRESETS.values()):
        assert [name for name, count in Counter(names(preset)).items() if count > 1] == []

"""The table of recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from unrender.recipes import nerf, neus
from unrender.recipes.fitting import FitResult
from unrender.render.scene import Scene


@dataclass(frozen=True)
class Recipe:
    """A method as the shell sees it."""

    name: str
    summary: str
    presets: Mapping[str, Any]
    """Configurations by name; ``"cpu"`` and ``"gpu"`` are the defaults of the two kinds of device."""
    fit: Callable[..., FitResult]
    load_scene: Callable[..., Scene]

    def default_preset(self, device: torch.device) -> str:
        return "cpu" if device.type == "cpu" else "gpu"


def recipes() -> dict[str, Recipe]:
    """Return every recipe by its name."""
    return {
        "nerf": Recipe("nerf", "a radiance field: new views, also of unbounded scenes", nerf.PRESETS, nerf.fit, nerf.load_scene),
        "neus": Recipe("neus", "a surface, the zero level of a signed distance", neus.PRESETS, neus.fit, neus.load_scene),
    }

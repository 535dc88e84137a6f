"""Reading of runs from their folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.capture import Capture
from unrender.devices import pytorch_on_one_thread
from unrender.geometry.mesh import Mesh
from unrender.printing import shortened
from unrender.recipes.fitting import Frame
from unrender.recipes.table import C, I, Recipe
from unrender.render.asset import Asset
from unrender.render.photo_colors import surface_of
from unrender.render.rendering import Rendering
from unrender.render.scene import Scene
from unrender.runs.checkpoints import CheckpointError, CheckpointInfo, find_checkpoint
from unrender.runs.config_json import config_from_json
from unrender.runs.directory import HistoryLine, RunDirectory, RunRecord
from unrender.shading.latlong import LIGHT_SIZE, read_environment
from unrender.shading.lights import EnvironmentLight
from unrender.transforms import upright


@dataclass(frozen=True)
class OpenRun:
    """A run read from its folder."""

    directory: RunDirectory
    recipe: Recipe[Any, Any]
    record: RunRecord
    checkpoint: CheckpointInfo
    """Of the scene."""
    scene: Scene
    config: Any
    """Configuration of the recipe; ``unrender.fit(..., config=run.config)`` fits another capture with it."""

    def __repr__(self) -> str:
        outcome = self.record.outcome or "not finished"
        return shortened(f"OpenRun({str(self.directory.path)!r}: {self.recipe.name}, {outcome}, {self.record.steps:,} steps)")

    @property
    def history(self) -> tuple[HistoryLine, ...]:
        """The reports of the fit in their order: step, seconds, PSNR, loss terms."""
        return tuple(self.directory.read_history())

    @property
    def metrics(self) -> dict[str, Any] | None:
        """The scores of the held-out views, as in ``metrics.json``; None if there are none."""
        file = self.directory.metrics_file
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None

    @property
    def source_from_world(self) -> Float[Tensor, "4 4"]:
        """Similarity from the normalized world to the frame of the input (float64)."""
        return torch.tensor(self.record.input.source_from_world, dtype=torch.float64)

    def light(self, file: str | Path) -> EnvironmentLight:
        """Read a lat-long picture as a light around the run, in the normalized world.

        The upward direction of the run is that of the picture.

        Raises:
            ValueError: the file holds no picture of a light.
        """
        x, y, z = self.record.input.up
        return read_environment(file, LIGHT_SIZE, upright(self.source_from_world, (x, y, z)))

    def asset(self, resolution: int = 256, *, frame: Frame = "source", capture: Capture | None = None) -> Asset:
        """Return the surface with its material or its colors, by default in the frame of the input poses.

        Args:
            resolution: cells along a side of the region of interest.
            frame: that of the input poses, or the normalized world.
            capture: the photos, which then give the colors. Without them the colors are those of the fitted field.
        """
        asset = surface_of(self.scene, resolution, capture)
        return asset if frame == "normalized" or asset.is_empty else asset.transformed(self.source_from_world)

    def mesh(self, resolution: int = 256, *, frame: Frame = "source", capture: Capture | None = None) -> Mesh:
        """Return the surface alone; see :meth:`asset`."""
        return self.asset(resolution, frame=frame, capture=capture).mesh

    @torch.no_grad()
    def render(self, cameras: Cameras, view: int = 0) -> Rendering:
        """Render one view of cameras in the normalized world, for example those of a capture."""
        device = next((tensor.device for tensor in self.scene.parameters()), torch.device("cpu"))
        with pytorch_on_one_thread():
            return self.scene.render_view(cameras.to(device), view)


def open_run(path: str | Path, recipes: Mapping[str, Recipe[Any, Any]], device: torch.device) -> OpenRun:
    """Read the scene of a run from its newest valid checkpoint.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: its recipe is unknown, or no checkpoint can be read.
    """
    directory = RunDirectory(Path(path))
    record = directory.read_record()
    if record.recipe not in recipes:
        raise ValueError(f"{path} was fitted with the recipe {record.recipe!r}, which this version does not have")
    recipe = recipes[record.recipe]
    config = config_from_json(recipe.config_type, record.config)
    scene, checkpoint = read_scene(directory, recipe, config, device)
    return OpenRun(directory, recipe, record, checkpoint, scene, config)


def read_scene(directory: RunDirectory, recipe: Recipe[C, I], config: C, device: torch.device) -> tuple[Scene, CheckpointInfo]:
    """Rebuild the scene of the newest valid checkpoint.

    Raises:
        CheckpointError: there is none, or it comes from another recipe.
    """
    search = find_checkpoint(directory.checkpoints, recipe.name)
    if search.checkpoint is None:
        reason = search.passed_over[0] if search.passed_over else "none was written yet"
        raise CheckpointError(f"{directory.path} has no checkpoint that can be read: {reason}")
    return recipe.load_scene(config, search.checkpoint.tensors, device), search.checkpoint.info

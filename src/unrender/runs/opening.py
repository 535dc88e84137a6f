"""Reading of runs from their folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unrender.recipes.table import C, I, Recipe
from unrender.render.scene import Scene
from unrender.runs.checkpoints import CheckpointError, CheckpointInfo, find_checkpoint
from unrender.runs.config_json import config_from_json
from unrender.runs.directory import RunDirectory, RunRecord


@dataclass(frozen=True)
class OpenRun:
    """A run read from its folder."""

    directory: RunDirectory
    recipe: Recipe[Any, Any]
    record: RunRecord
    checkpoint: CheckpointInfo
    """Of the scene."""
    scene: Scene


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
    return OpenRun(directory, recipe, record, checkpoint, scene)


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

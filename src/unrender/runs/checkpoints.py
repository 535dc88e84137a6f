"""Checkpoints of a running fit: tensors in safetensors, everything else in a JSON sidecar.

``checkpoints/step_00001200.safetensors`` stores the tensors bit for bit. ``step_00001200.json`` has the state of the fit and the SHA-256 of
the tensor file. It is written last, so a checkpoint is valid only if both files are complete. A truncated or altered checkpoint is
recognized, and the previous one is used. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from unrender.files.atomic import write_bytes, write_json


class CheckpointError(ValueError):
    """A checkpoint belongs to another recipe, or none can be read."""


@dataclass(frozen=True)
class CheckpointInfo:
    """The JSON sidecar of one checkpoint."""

    recipe: str
    step: int
    fraction: float
    """Fraction of the budget used, 0 to 1."""
    seconds: float
    """Seconds of training."""
    sha256: str
    """SHA-256 of the tensor file."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, read and verified."""

    info: CheckpointInfo
    tensors: Mapping[str, Tensor]
    """On the CPU."""


@dataclass(frozen=True)
class Search:
    """The newest valid checkpoint of a folder, if any, and a sentence about each newer invalid one."""

    checkpoint: Checkpoint | None
    passed_over: tuple[str, ...]


def save_checkpoint(
    folder: Path, tensors: Mapping[str, Tensor], *, recipe: str, step: int, fraction: float, seconds: float, keep: int = 2
) -> Path:
    """Write a checkpoint and remove all but the newest ``keep``.

    Returns:
        The path of the tensor file.

    Raises:
        OSError: the folder cannot be written or the disk is full; earlier checkpoints are untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = save({name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()})
    path = folder / f"step_{step:08d}.safetensors"
    write_bytes(path, data)
    info = CheckpointInfo(recipe=recipe, step=step, fraction=fraction, seconds=seconds, sha256=hashlib.sha256(data).hexdigest())
    write_json(path.with_suffix(".json"), asdict(info))
    for old in _sidecars(folder)[keep:]:
        old.unlink(missing_ok=True)
        old.with_suffix(".safetensors").unlink(missing_ok=True)
    return path


def find_checkpoint(folder: Path, recipe: str) -> Search:
    """Read the newest complete checkpoint; older ones are tried if it is damaged.

    Raises:
        CheckpointError: a checkpoint was written by another recipe.
    """
    passed_over: list[str] = []
    for sidecar in _sidecars(folder):
        try:
            checkpoint = _read(sidecar)
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            passed_over.append(f"{sidecar.with_suffix('.safetensors')} cannot be used: {error}")
            continue
        if checkpoint.info.recipe != recipe:
            raise CheckpointError(
                f"{sidecar.with_suffix('.safetensors')} was written by the recipe {checkpoint.info.recipe!r}, not {recipe!r}; "
                "give another output folder"
            )
        return Search(checkpoint, tuple(passed_over))
    return Search(None, tuple(passed_over))


def same_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Tell whether two snapshots have the same names, types, shapes and bits (a NaN equals itself)."""
    return first.keys() == second.keys() and all(_same_bits(first[name], second[name]) for name in first)


def _same_bits(first: Tensor, second: Tensor) -> bool:
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    a, b = (t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (first, second))
    return torch.equal(a, b)


def _sidecars(folder: Path) -> list[Path]:
    """List the JSON files of the checkpoints, newest first."""
    return sorted(folder.glob("step_*.json"), reverse=True)


def _read(sidecar: Path) -> Checkpoint:
    info = CheckpointInfo(**json.loads(sidecar.read_text(encoding="utf-8")))
    data = sidecar.with_suffix(".safetensors").read_bytes()
    if hashlib.sha256(data).hexdigest() != info.sha256:
        raise ValueError("its bytes are not the ones that were written (cut off or altered)")
    return Checkpoint(info, load(data))

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unrender.files.atomic import replacing, write_bytes, write_json
from unrender.runs.checkpoints import CheckpointError, find_checkpoint, same_tensors, save_checkpoint


def tensors(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(40, 3, generator=generator)
    return {
        "table": table,
        "half": table.half(),
        "brain": table.to(torch.bfloat16),
        "double": table.double() * 1e-300,
        "state": generator.get_state(),
        "step": torch.tensor(2**40 + 1),
        "bits": table > 0,
        "odd": torch.tensor([float("nan"), float("-inf"), -0.0]),
        "view": table[:, 1],
        "nothing": torch.zeros(0, 4, dtype=torch.int32),
    }


def save(folder: Path, step: int, recipe: str = "neus") -> Path:
    return save_checkpoint(folder, tensors(step), recipe=recipe, step=step, fraction=step / 100, seconds=step / 10)


def test_a_checkpoint_returns_every_bit_of_every_type(tmp_path: Path) -> None:
    save(tmp_path, 7)
    checkpoint = find_checkpoint(tmp_path, "neus").checkpoint
    assert checkpoint is not None
    assert same_tensors(tensors(7), checkpoint.tensors)
    assert (checkpoint.info.step, checkpoint.info.fraction, checkpoint.info.seconds) == (7, 0.07, 0.7)


def test_same_tensors_sees_a_single_changed_bit_and_another_type() -> None:
    changed = tensors(1)
    changed["odd"] = torch.tensor([float("nan"), float("-inf"), 0.0])
    assert not same_tensors(tensors(1), changed)
    other = tensors(1)
    other["bits"] = other["bits"].to(torch.uint8)
    assert not same_tensors(tensors(1), other)
    assert same_tensors(tensors(1), tensors(1))


def test_only_the_last_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 20, 1000):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step_00000020.json",
        "step_00000020.safetensors",
        "step_00001000.json",
        "step_00001000.safetensors",
    ]


@pytest.mark.parametrize("harm", ["cut", "flip", "gone", "sidecar cut", "sidecar gone"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, harm: str) -> None:
    save(tmp_path, 10)
    newest = save(tmp_path, 20)
    sidecar = newest.with_suffix(".json")
    data = bytearray(newest.read_bytes())
    if harm == "cut":
        newest.write_bytes(data[: len(data) // 2])
    elif harm == "flip":
        data[-1] ^= 1
        newest.write_bytes(data)
    elif harm == "gone":
        newest.unlink()
    elif harm == "sidecar cut":
        sidecar.write_text(sidecar.read_text()[:30])
    else:
        sidecar.unlink()
    search = find_checkpoint(tmp_path, "neus")
    assert search.checkpoint is not None
    assert search.checkpoint.info.step == 10
    assert same_tensors(tensors(10), search.checkpoint.tensors)
    assert len(search.passed_over) == (0 if harm == "sidecar gone" else 1)
    assert all(newest.name in sentence for sentence in search.passed_over)


def test_a_checkpoint_of_another_recipe_is_refused_in_one_sentence(tmp_path: Path) -> None:
    save(tmp_path, 10, recipe="nerf")
    with pytest.raises(CheckpointError, match=r"step_00000010\.safetensors was written by the recipe 'nerf', not 'neus'; give another"):
        find_checkpoint(tmp_path, "neus")


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path / "absent", "neus").checkpoint is None


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"kept": True})

    def break_off() -> None:
        with replacing(file) as partial:
            partial.write_text("half")
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError):
        break_off()
    assert json.loads(file.read_text()) == {"kept": True}
    assert list(tmp_path.iterdir()) == [file]


def test_json_files_refuse_what_json_cannot_say(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"psnr": float("inf")})
    assert not (tmp_path / "a.json").exists()


def test_an_atomic_write_replaces_all_of_a_longer_file(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"longer than before")
    write_bytes(tmp_path / "a", b"short")
    assert (tmp_path / "a").read_bytes() == b"short"

"""Kills fits at random moments and compares what they leave with an undisturbed run.

    python tests/kill_campaign.py FOLDER KILLS SEED [RECIPE ...]

A parent process imports the package and loads the compiled kernels once. Each run is a fork of it, so a kill costs no start. The parent
itself never computes a gradient, because PyTorch's autograd does not survive a fork. Prints a JSON object: for each recipe the kills, how
many of them hit the fit and how many the outputs, the runs that came to their end, and every difference.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import warp as wp

import unrender.recipes.nerf.loop
import unrender.recipes.neus.loop
import unrender.runs.camera_paths
import unrender.runs.outputs
import unrender.runs.session
from tiny_recipe import TinyConfig, tiny_capture, tiny_job
from unrender.captures.capture import Capture
from unrender.demo import make_demo_capture
from unrender.recipes import nerf, neus
from unrender.recipes.fitting import Fitting
from unrender.recipes.settings import override
from unrender.recipes.table import NERF, NEUS
from unrender.runs.checkpoints import find_checkpoint, same_tensors
from unrender.runs.directory import RunDirectory
from unrender.runs.display import Display
from unrender.runs.inputs import DEMO_CAPTURE, Origin
from unrender.runs.session import Job, run_job

CPU = torch.device("cpu")
CLOCKS = {"seconds", "timings", "peak_memory_mb"}
"""What cannot be equal in run.json, metrics.json and history.jsonl."""

SMALL_NERF = override(
    nerf.PRESETS["cpu"], steps=30, levels=4, log2_entries=12, finest_resolution=64, target_samples=2**11, occupancy_resolution=16,
    samples_per_ray=64, max_rays=512,
)  # fmt: skip
SMALL_NEUS = override(
    neus.PRESETS["cpu"], steps=30, stages=((0.0, 16), (0.5, 24)), target_samples=2**11, occupancy_resolution=16,
    samples_per_ray=64, max_rays=512,
)  # fmt: skip
SMALL_HASH = override(
    SMALL_NEUS, field=neus.HashField(), levels=4, log2_entries=12, base_resolution=8, finest_resolution=32, hidden=(16,), start_level=2,
    level_every=0.2,
)  # fmt: skip


def job_of(name: str, capture: Capture) -> Job[Any, Any]:
    """Return a small fit of a recipe, limited by steps."""
    if name == "tiny":
        return tiny_job(TinyConfig(steps=30), tiny_capture())
    recipe, config = {"nerf": (NERF, SMALL_NERF), "neus": (NEUS, SMALL_NEUS), "neus-hash": (NEUS, SMALL_HASH)}[name]
    return Job(recipe, "cpu", config, capture, Origin(DEMO_CAPTURE, DEMO_CAPTURE), CPU)


RECIPES = ("tiny", "nerf", "neus", "neus-hash")


@dataclass
class Tally:
    """What happened to the runs of one recipe."""

    kills: int = 0
    in_fit: int = 0
    in_outputs: int = 0
    runs: int = 0
    leftovers: int = 0
    """Temporary files found after a kill; all are gone at the end of a run."""
    differences: list[str] = field(default_factory=list)


def fork(job: Job[Any, Any], folder: Path) -> int:
    """Run a job in a child process, and return its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        run = run_job(job, RunDirectory(folder), display=Display.quiet(), mesh_resolution=16)
        code = 0 if run.result.outcome == "finished" and not run.failures else 3
        if run.failures:
            print(*run.failures, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def kill_after(child: int, seconds: float) -> int | None:
    """Kill a child after some time; return its exit code if it ended before."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return None if code == -signal.SIGKILL else code


def content(folder: Path, recipe: str) -> dict[str, Any]:
    """Everything that a run must leave the same, by file."""
    found: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_dir() or name in (".lock", "report.html") or name.startswith(("checkpoints/", "renders/progress_")):
            continue
        if file.suffix == ".json":
            found[name] = {key: value for key, value in json.loads(file.read_text()).items() if key not in CLOCKS}
        elif file.suffix == ".jsonl":
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            found[name] = [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]
        else:
            found[name] = file.read_bytes()
    checkpoint = find_checkpoint(folder / "checkpoints", recipe).checkpoint
    assert checkpoint is not None and (folder / "report.html").exists()
    found["checkpoint"] = {name: tensor[:1] if name == "clock" else tensor for name, tensor in checkpoint.tensors.items()}
    return found


def unlike(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Name the files that differ."""
    names = sorted((there.keys() | here.keys()) - {"checkpoint"})
    differing = [name for name in names if there.get(name) != here.get(name)]
    return differing + ([] if same_tensors(there["checkpoint"], here["checkpoint"]) else ["checkpoint"])


def campaign(name: str, capture: Capture, folder: Path, kills: int, random_number: random.Random, say: Callable[[str], None]) -> Tally:
    """Kill the runs of one recipe until there were enough kills."""
    job, tally = job_of(name, capture), Tally()
    recipe = job.recipe.name
    started = time.monotonic()
    assert kill_after(fork(job, folder / "whole"), 1e6) == 0
    whole, duration = content(folder / "whole", recipe), time.monotonic() - started
    while tally.kills < kills or tally.runs == 0:
        run = folder / f"run{tally.runs}"
        code: int | None = None
        while code is None:
            limit = random_number.uniform(0.0, duration) if tally.kills < kills else 1e6
            started = time.monotonic()
            code = kill_after(fork(job, run), limit)
            if code is None:
                tally.kills += 1
                record = RunDirectory(run).record_file
                finished = record.exists() and json.loads(record.read_text())["outcome"] is not None
                tally.in_outputs += finished
                tally.in_fit += not finished
                tally.leftovers += sum(1 for _ in run.rglob(".unrender-*"))
            elif limit < 1e6 and not (run / "report.html").exists():
                tally.differences.append(f"run {tally.runs} ended early")
        if code != 0:
            tally.differences.append(f"exit code {code} of run {tally.runs}")
        tally.differences += [f"{file} of run {tally.runs}" for file in unlike(whole, content(run, recipe))]
        tally.differences += [f"{file.name} is left" for file in run.rglob(".unrender-*")]
        tally.runs += 1
        say(f"{name}: {tally.kills} kills, {tally.runs} runs, differences: {tally.differences}")
    return tally


def main(folder: Path, kills: int, seed: int, names: list[str]) -> int:
    """Run the campaign and print what happened."""
    torch.set_num_threads(1)
    unrender.runs.session.CHECKPOINT_EVERY = 0.0
    unrender.runs.outputs.VIDEO_FRAMES = 4
    unrender.runs.outputs.SMALLEST_VIDEO_SIDE = 48
    for module in (unrender.recipes.nerf.loop, unrender.recipes.neus.loop):
        setattr(module, "Fitting", partial(Fitting, report_every=0.0))  # noqa: B010  every step is reported and saved
    wp.force_load(device="cpu")
    capture = make_demo_capture(views=9, size=24)
    random_number = random.Random(seed)
    shares = [kills * (k + 1) // len(names) - kills * k // len(names) for k in range(len(names))]
    tallies = {
        name: campaign(name, capture, folder / name, share, random_number, lambda line: print(line, file=sys.stderr, flush=True))
        for name, share in zip(names, shares, strict=True)
    }
    print(json.dumps({name: vars(tally) for name, tally in tallies.items()}))
    return 1 if any(tally.differences for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:] or list(RECIPES)))

"""How often ``unrender locate`` finds the pose of a photo: random starts against a fitted run.

    unrender fit nerf chair_200 --steps 1500 --out run
    python benchmarks/bench_locate.py run --degrees 10 --percent 5

Each start is the pose of a held-out photo, turned by the given angle about a random axis through the origin, as published (or with
``--about itself`` through the camera), and moved in a random direction by the given share of its distance. A search succeeds below half a
degree.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from pathlib import Path

import torch

from unrender.cameras import Cameras
from unrender.recipes.pose import locate, pose_error
from unrender.recipes.table import recipes
from unrender.render.scene import RayScene
from unrender.runs.evaluation import truth_of
from unrender.runs.opening import open_run
from unrender.runs.scoring import photos_of
from unrender.transforms import rigid_motion

SUCCESS = 0.5
"""Degrees."""


def start_of(camera: Cameras, *, degrees: float, percent: float, about: str, seed: int) -> Cameras:
    """Return a camera at a random pose near its own."""
    generator = torch.Generator().manual_seed(seed)
    axis, way = torch.nn.functional.normalize(torch.randn(2, 3, generator=generator), dim=1)
    turn = rigid_motion(torch.cat([torch.zeros(3), math.radians(degrees) * axis]))
    true = camera.world_from_camera[0]
    pose = true @ turn if about == "itself" else turn @ true
    pose[:3, 3] += percent / 100 * true[:3, 3].norm() * way
    return replace(camera, world_from_camera=pose[None])


def run(given: argparse.Namespace) -> None:
    """Search from every start, and print what is found."""
    cpu = torch.device("cpu")
    opened = open_run(given.run, recipes(), cpu)
    photos = photos_of(opened, None)
    assert isinstance(opened.scene, RayScene)
    views, errors = photos.split.test or photos.split.train, []
    for seed in range(given.seeds):
        view = views[seed % len(views)]
        start = start_of(photos.cameras[view], degrees=given.degrees, percent=given.percent, about=given.about, seed=seed)
        began = time.perf_counter()
        found = locate(opened.scene, truth_of(photos, view, cpu), start, steps=given.steps, only_object=not photos.has_masks, seed=seed)
        error = pose_error(found.camera.world_from_camera[0], photos.cameras.world_from_camera[view])
        errors.append(error.degrees)
        seconds = time.perf_counter() - began
        print(f"seed {seed}, {photos.names[view]}: {error.degrees:.3f} degrees, {error.percent:.3f} %, {seconds:.1f} s", flush=True)
    share = sum(error < SUCCESS for error in errors) / len(errors)
    print(f"{share:.0%} below {SUCCESS} degrees, median {sorted(errors)[len(errors) // 2]:.3f} degrees, {given.steps} steps")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--degrees", type=float, default=10.0)
    parser.add_argument("--percent", type=float, default=5.0)
    parser.add_argument("--about", choices=("origin", "itself"), default="origin")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=300)
    run(parser.parse_args())

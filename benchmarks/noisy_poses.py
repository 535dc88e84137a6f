"""Copies a capture with fitted cameras that are turned by random angles, and brings the true poses for a comparison.

    python benchmarks/noisy_poses.py chair_200 chair_noisy --degrees 3
    unrender fit nerf chair_noisy --refine-poses

Each camera of ``transforms_train.json`` or ``transforms.json`` is turned by the given angle about a random axis, through its own center
(``--about itself``), which moves the object in the photo, or through the origin (``--about origin``), as in BARF. Cameras of
``transforms_test.json`` stay. Photos are linked where possible.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
from pathlib import Path

import torch

from unrender.transforms import rigid_motion


def write_noisy(capture: Path, out: Path, *, degrees: float, about: str, seed: int) -> None:
    """Write the copy."""
    generator = torch.Generator().manual_seed(seed)
    true: dict[str, list[list[float]]] = {}
    shutil.copytree(capture, out, copy_function=_link)
    for file in sorted(out.glob("transforms*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        for frame in content["frames"]:
            name = Path(frame["file_path"])
            pose = torch.tensor(frame["transform_matrix"], dtype=torch.float64)
            true[(name if name.suffix else name.with_suffix(".png")).as_posix()] = pose.tolist()
            axis = torch.randn(3, generator=generator, dtype=torch.float64)
            turn = rigid_motion(torch.cat([torch.zeros(3), math.radians(degrees) * axis / axis.norm()]))
            if file.name in ("transforms.json", "transforms_train.json"):
                frame["transform_matrix"] = (pose @ turn if about == "itself" else turn @ pose).tolist()
        file.unlink()  # a link, perhaps
        file.write_text(json.dumps(content, indent=1), encoding="utf-8")
    (out / "true_poses.json").write_text(json.dumps(true), encoding="utf-8")


def _link(original: str, target: str) -> None:
    try:
        os.link(original, target)
    except OSError:
        shutil.copyfile(original, target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--degrees", type=float, default=3.0)
    parser.add_argument("--about", choices=("itself", "origin"), default="itself")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write_noisy(given.capture, given.out, degrees=given.degrees, about=given.about, seed=given.seed)

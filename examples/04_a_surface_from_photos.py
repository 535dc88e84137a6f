"""Fit a surface to photos, and save it as a mesh.

    python examples/04_a_surface_from_photos.py [OUTPUT_FOLDER]

The photos are rendered from the analytic scene of ``unrender demo``. For your own, use ``unrender.load("folder")``.
Writes mesh.glb and mesh.ply, in the frame of the poses.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import unrender
from unrender.demo import make_demo_capture

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/04_a_surface_from_photos")
folder.mkdir(parents=True, exist_ok=True)
steps = int(os.environ.get("UNRENDER_EXAMPLE_STEPS", "300"))

capture = make_demo_capture(views=16, size=64, seed=0)
result = unrender.fit("neus", capture, steps=steps)
print(f"{result.outcome} after {result.steps} steps, {result.seconds:.0f} s")

asset = result.asset(resolution=96)
if asset.is_empty:
    print("no surface yet: fit for longer")
else:
    asset.export(folder / "mesh.glb")
    asset.export(folder / "mesh.ply")
    print(f"{len(asset.mesh.vertices):,} vertices, {len(asset.mesh.faces):,} triangles; wrote {folder}/mesh.glb and mesh.ply")

"""Fit a radiance field to photos, and render a held-out view.

    python examples/03_fit_a_capture.py [OUTPUT_FOLDER]

The photos are rendered from the analytic scene of ``unrender demo``. For your own, use ``unrender.load("folder")``.
Writes held_out.png: photo | rendering of a held-out view.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from PIL import Image

import unrender
from unrender.color import over
from unrender.demo import make_demo_capture
from unrender.losses.metrics import psnr

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/03_fit_a_capture")
folder.mkdir(parents=True, exist_ok=True)
steps = int(os.environ.get("UNRENDER_EXAMPLE_STEPS", "300"))

capture = make_demo_capture(views=16, size=64, seed=0)
print(f"{len(capture)} photos of {capture.cameras.width} x {capture.cameras.height}; {capture.split.rule}")

result = unrender.fit("nerf", capture, steps=steps)
print(f"{result.outcome} after {result.steps} steps, {result.seconds:.0f} s")

view = capture.split.test[0]
photo = over(capture.color(view), capture.alpha(view), torch.ones(3))
rendering = result.scene.render_view(capture.cameras, view).srgb.clamp(0, 1).cpu()

side_by_side = torch.cat((photo, rendering), 1)
Image.fromarray((side_by_side * 255).round().byte().numpy()).save(folder / "held_out.png")
print(f"{capture.names[view]}, held out: {psnr(rendering, photo):.1f} dB; wrote {folder}/held_out.png")

"""Fit a radiance field: photos in, views nobody took out.

    python examples/03_fit_a_capture.py [OUTPUT_FOLDER]

The photos are made here, of the analytic scene that ``unrender demo`` uses. Give ``unrender.load("folder")`` instead for your own.
Writes held_out.png: photo | rendering of a view that was not fitted.
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

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/03_fit_a_capture")
folder.mkdir(parents=True, exist_ok=True)
steps = int(os.environ.get("UNRENDER_EXAMPLE_STEPS", "300"))

capture = make_demo_capture(views=16, size=64, seed=0)
print(f"{len(capture.names)} photos of {capture.cameras.width} x {capture.cameras.height}; {capture.split.rule}")

result = unrender.fit("nerf", capture, steps=steps)
print(f"{result.outcome} after {result.steps} steps, {result.seconds:.0f} s")

view = capture.split.test[0]
photo = over(capture.color(view), capture.alpha(view), torch.ones(3))
rendering = result.scene.render_view(capture.cameras, view).color.cpu()
psnr = -10 * (rendering.clamp(0, 1) - photo).square().mean().log10()

both = torch.cat((photo, rendering.clamp(0, 1)), 1)
Image.fromarray((both * 255).round().byte().numpy()).save(folder / "held_out.png")
print(f"{capture.names[view]}, not fitted: {psnr:.1f} dB; wrote {folder}/held_out.png")

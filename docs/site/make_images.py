"""Make the pictures of the README and the documentation, in docs/images, from a run of ``unrender demo``.

    unrender demo && python docs/site/make_images.py [RUN_FOLDER]

Every picture shows what a command or an example of this repository makes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

import unrender
from unrender.cameras import orbit_cameras
from unrender.captures.capture import Capture
from unrender.color import over
from unrender.demo import make_demo_capture
from unrender.render.surface import render_surface
from unrender.runs.camera_paths import render_surface_path
from unrender.shading.lights import AmbientLight, DirectionalLight
from unrender.shading.materials import Lambert, Uniform

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
SIZE, FRAMES = 256, 36


def as_image(srgb: Tensor) -> Image.Image:
    return Image.fromarray((srgb.clamp(0, 1) * 255).round().byte().cpu().numpy())


def photos(capture: Capture) -> Image.Image:
    """Lay nine photos out in a square."""
    sheet = Image.new("RGB", (SIZE, SIZE), "white")
    side = SIZE // 3
    for k in range(9):
        view = k * len(capture) // 9
        photo = as_image(over(capture.color(view), capture.alpha(view), torch.ones(3)))
        sheet.paste(photo.resize((side, side), Image.Resampling.LANCZOS), (k % 3 * side, k // 3 * side))
    return sheet


def demo(run: Path) -> None:
    """Show photos, the fitted colors on the fitted surface, and the surface alone, turning once."""
    capture, scene = make_demo_capture(), unrender.open_run(run, device="cpu").scene
    mesh, color = scene.mesh(256).with_vertex_normals(), scene.surface_color()
    assert color is not None
    cameras = orbit_cameras(capture.cameras, FRAMES).resized(SIZE, SIZE)
    clay = Lambert(Uniform(torch.full((3,), 0.6)))
    lights = [AmbientLight(torch.full((3,), 0.35)), DirectionalLight(torch.tensor([0.8, -1.0, 1.5]), torch.full((3,), 0.75))]
    sheet, frames = photos(capture), []
    for frame, colored in enumerate(render_surface_path(mesh, color, cameras, torch.device("cpu"))):
        surface = render_surface(mesh, clay, lights, cameras[frame], background=torch.ones(3), samples=2).srgb[0]
        picture = Image.new("RGB", (3 * SIZE + 48, SIZE), "white")
        for k, part in enumerate((sheet, Image.fromarray(colored.numpy()), as_image(surface))):
            picture.paste(part, (k * (SIZE + 24), 0))
        frames.append(picture)
    frames[0].save(IMAGES / "demo.webp", save_all=True, append_images=frames[1:], duration=100, loop=0, quality=60, method=6)


def example(name: str, made: str, width: int) -> None:
    """Run an example, and keep its picture."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "UNRENDER_DATA": folder}  # no data but what is in the repository
        subprocess.run([sys.executable, str(ROOT / "examples" / f"{name}.py"), folder], check=True, env=environment)
        image = Image.open(Path(folder) / made).convert("RGB")
        if image.width > width:
            image = image.resize((width, image.height * width // image.width), Image.Resampling.LANCZOS)
        image.save(IMAGES / f"{name}.webp", quality=80, method=6)


IMAGES.mkdir(exist_ok=True)
demo(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo"))
example("08_fit_a_mesh_to_masks", "masks.png", 768)

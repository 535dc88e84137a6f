"""A run's asset under another light: the held-out views as pictures, and a turntable as a video."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from unrender.cameras import Cameras
from unrender.captures.capture import Capture
from unrender.devices import pytorch_on_one_thread
from unrender.files.video import write_video
from unrender.render.asset import Asset
from unrender.render.lit import LitScene
from unrender.runs.camera_paths import SMALLEST_VIDEO_SIDE, large_enough, render_path
from unrender.runs.display import Display
from unrender.runs.figures import color_picture, write_picture
from unrender.runs.opening import OpenRun
from unrender.runs.output_words import LONGEST_STEM, file_stem
from unrender.runs.view_measures import OPAQUE
from unrender.shading.lights import EnvironmentLight

BELOW_WHITE, _BRIGHTEST = 0.99, 0.9
"""Share of an object that stays below this linear light where an exposure is chosen."""


@dataclass(frozen=True)
class Relit:
    """The files that were written."""

    pictures: Path
    """The folder of the pictures."""
    count: int
    video: Path


def lit_asset(run: OpenRun) -> Asset:
    """Return the asset of a run in the normalized world.

    Raises:
        ValueError: it has no material that could be lit.
    """
    asset = run.scene.asset()
    if asset.material is None or asset.is_empty:
        raise ValueError(
            f"{run.directory.path} has no material to light: the colors of {run.recipe.name} have the light of the photos in them; "
            f"go on with `unrender fit mesh-pbr {run.directory.path}`"
        )
    return asset


@torch.no_grad()
def exposure_of(scene: LitScene, cameras: Cameras) -> float | None:
    """Return the factor of a scene's light with which nearly all of it is below white.

    None if nothing is lit.

    Args:
        scene: any.
        cameras: whose pictures are measured.
    """
    found = []
    with pytorch_on_one_thread():
        for view in range(len(cameras)):
            seen = scene.lit_view(cameras, view)
            found.append(seen.color[seen.opacity > OPAQUE].amax(-1))
    brightest = np.concatenate([some.double().cpu().numpy() for some in found])
    level = float(np.quantile(brightest, BELOW_WHITE)) if len(brightest) else 0.0
    return _BRIGHTEST / level if level > 0 else None


def relight(
    run: OpenRun,
    asset: Asset,
    photos: Capture,
    path: Cameras,
    environment: EnvironmentLight,
    name: str,
    device: torch.device,
    *,
    fps: int,
    display: Display,
) -> Relit:
    """Render the evaluated views and a camera path of a run under another light.

    Args:
        run: whose folder gets the files.
        asset: of the run, from :func:`lit_asset`.
        photos: the capture behind it, whose held-out views are rendered, or its fitted ones if there are none.
        path: cameras of the video.
        environment: the light, in the normalized world.
        name: of the light; names the outputs ``relit/NAME/`` and ``relit/NAME.mp4``.
        device: of the scene.
        fps: frames per second of the video.
        display: shows how far it is.

    Raises:
        OSError: a file cannot be written.
    """
    with display.task("casting rays for the shadows on the object"):
        scene = LitScene(replace(asset, environment=environment), background=1.0 if photos.has_masks else 0.0)
    stem = re.sub(r"[^A-Za-z0-9.-]+", "_", name)[-LONGEST_STEM:]
    folder = run.directory.path / "relit"
    pictures, video = folder / stem, folder / f"{stem}.mp4"
    pictures.mkdir(parents=True, exist_ok=True)
    views, cameras = photos.split.views(photos.split.evaluated), photos.cameras.to(device)
    with display.task("rendering the views", len(views)) as task:
        for view in task.each(views):
            write_picture(pictures / f"{file_stem(view, photos.names[view])}.png", color_picture(scene.render_view(cameras, view).srgb))
    frames = render_path(scene, large_enough(path), device)
    with display.task("rendering the video", len(path)) as task:
        write_video(video, task.each(frames), fps=fps, smallest_side=SMALLEST_VIDEO_SIDE)
    return Relit(pictures, len(views), video)

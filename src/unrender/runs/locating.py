"""The camera of a photo against the scene of a run: where the search starts, the lens of the photo, and the file with the result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.capture import Capture
from unrender.captures.photos import read_photo
from unrender.captures.source import opencv_from
from unrender.devices import pytorch_on_one_thread
from unrender.render.asset import Asset
from unrender.render.lit import LitScene
from unrender.render.scene import RayScene, Scene
from unrender.runs.evaluation import truth_of
from unrender.runs.inserting import view_named
from unrender.runs.opening import OpenRun
from unrender.transforms import scale_of

_MOST_STARTS = 48
"""Fitted views from which the scene is rendered to find a start."""
_START_SIDE = 48
"""Longer side of these pictures, in pixels."""
_SAME_SHAPE = 0.02
"""Largest relative difference of two pictures' width by height with which they may have the same lens."""


@dataclass(frozen=True)
class WantedPhoto:
    """A photo whose camera is sought."""

    name: str
    color: Float[Tensor, "height width 3"]
    """sRGB, over white where it is transparent."""
    outlined: bool
    """Whether a mask separates the object from what is around it."""
    view: int | None
    """Its view in the capture, whose pose is then known."""


def wanted_photo(photos: Capture, photo: Path) -> WantedPhoto:
    """Return a photo of a capture by its name, or of a file.

    Raises:
        ValueError: there is none, or the file cannot be read.
    """
    if not photo.is_file():
        view = view_named(photos, photo.as_posix(), "--photo")
        return WantedPhoto(photos.names[view], truth_of(photos, view, torch.device("cpu")), photos.has_masks, view)
    pixels, outlined = read_photo(photo)
    rgba = torch.from_numpy(pixels).float() / 255
    return WantedPhoto(photo.name, rgba[..., :3] * rgba[..., 3:] + (1 - rgba[..., 3:]), outlined, None)


def searched_scene(run: OpenRun) -> RayScene | Asset:
    """Return what a photo is compared with: the field of a run, or its mesh with material and light.

    Raises:
        ValueError: the run has neither.
    """
    if isinstance(run.scene, RayScene):
        return run.scene
    asset = run.scene.asset()
    if asset.is_empty or asset.material is None:
        raise ValueError(f"{run.directory.path} shows no photo: locate takes a radiance field, a surface, or a mesh with a material")
    return asset


def as_scene(scene: RayScene | Asset) -> Scene:
    """Return a scene that renders what :func:`searched_scene` found, over white where it is a mesh."""
    return LitScene(scene, background=1.0) if isinstance(scene, Asset) else scene


def camera_at(photos: Capture, view: int, photo: WantedPhoto) -> Cameras:
    """Return the camera of a photo at the pose of a view.

    A photo of the capture has its own lens, any other that of the view.

    Raises:
        ValueError: the photo has another shape than the view.
    """
    camera = photos.cameras[view]
    height, width = photo.color.shape[:2]
    if photo.view is not None:
        own = photos.cameras[photo.view]
        return Cameras(camera.world_from_camera, own.intrinsics, own.distortion, own.sizes, own.fisheye)
    if abs(math.log(width * camera.height / (height * camera.width))) > _SAME_SHAPE:
        raise ValueError(
            f"{photo.name} has {width} x {height} pixels and {photos.names[view]} {camera.width} x {camera.height}: another lens;"
            " give a photo of the same shape, taken with the camera of the capture"
        )
    return camera.resized(width, height)


def most_similar_view(scene: Scene, photos: Capture, photo: WantedPhoto, device: torch.device) -> int:
    """Return the fitted view from which the scene looks most like a photo, in small pictures; not the photo's own.

    Raises:
        ValueError: there is none.
    """
    views = [view for view in photos.split.train if view != photo.view]
    views = views[:: -(-len(views) // _MOST_STARTS)] if views else []
    if not views:
        raise ValueError(f"{photos.name} has no fitted photo besides {photo.name} to start from")
    height, width = photo.color.shape[:2]
    share = min(1.0, _START_SIDE / max(height, width))
    size = (max(1, round(height * share)), max(1, round(width * share)))
    small = torch.nn.functional.interpolate(photo.color.permute(2, 0, 1)[None], size, mode="area")[0].permute(1, 2, 0).to(device)

    def error(view: int) -> float:
        seen = scene.render_view(camera_at(photos, view, photo).resized(size[1], size[0]).to(device), 0)
        weight = 1.0 if photo.outlined else seen.opacity[..., None]
        return float((weight * (seen.srgb - small)).square().mean())

    with pytorch_on_one_thread(), torch.no_grad():
        return min(views, key=error)


def as_frame(name: str, camera: Cameras, source_from_world: Float[Tensor, "4 4"]) -> dict[str, Any]:
    """Return a camera as a frame of a ``transforms.json``, in the frame of the input poses."""
    pose = source_from_world.double() @ camera.world_from_camera[0].double().cpu()
    pose[:3, :3] /= scale_of(source_from_world.double())
    lens = dict(zip(("fl_x", "fl_y", "cx", "cy"), camera.intrinsics[0].tolist(), strict=True))
    bent = dict(zip(("k1", "k2", "k3", "k4", "p1", "p2"), camera.distortion[0].tolist(), strict=True)) if camera.has_distortion else {}
    matrix = (pose * opencv_from("opengl")).tolist()
    return {"file_path": name, "w": camera.width, "h": camera.height, **lens, **bent, "transform_matrix": matrix}

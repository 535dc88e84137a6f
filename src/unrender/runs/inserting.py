"""The object of a run in a photo: where it stands, and the picture with its shadow on the ground.

    photo' = c + (1 − α) s photo    in linear light,

with the rendered color c (times α) and opacity α of the object, and the share s of the light that reaches the ground in spite of it
(:mod:`unrender.shading.ground_shadows`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.capture import Capture
from unrender.captures.decoding import focal_length
from unrender.captures.photos import read_photo
from unrender.captures.reading import finite_matrix, number, read_json, shown
from unrender.captures.source import opencv_from, rigid_motions
from unrender.color import linear_from_srgb, srgb_from_linear
from unrender.devices import pytorch_on_one_thread
from unrender.geometry.mesh import Mesh
from unrender.ops.raster.checks import LARGEST_RASTER_SIDE
from unrender.render.asset import Asset
from unrender.render.lit import LitScene
from unrender.shading.ground_shadows import ground_shadow
from unrender.transforms import look_at, scale_of, similarity

_SAMPLES = 3
"""Along each side of a pixel."""
_FIELD_OF_VIEW = math.radians(60.0)
"""Of the longer side of a photo whose focal length is not known: that of most phones."""
_DISTANCE = 3.0
"""From the camera of a photo without a pose to the object, in world units."""
_AT, _SIZE = (0.5, 0.75), 0.4
"""Where the object stands in such a photo, and how high it is, as shares of the photo."""
_FARTHEST = 40.0
"""World units beyond which nothing is rendered."""
_MOST_VERTICES = 20_000
"""Vertices by which the size of an object in a photo is found."""


@dataclass(frozen=True)
class Background:
    """A photo, and the camera that took it."""

    name: str
    linear: Float[Tensor, "height width 3"]
    camera: Cameras
    """One pinhole, in the world."""
    has_pose: bool
    """Whether the world of the camera is that of the object; otherwise the ground is z = 0."""


@dataclass(frozen=True)
class Standing:
    """Where an object stands."""

    asset: Asset
    """In the world of the camera."""
    ground: float
    """z of the plane under it."""


def view_of(photos: Capture, view: int, folder: Path | None) -> Background:
    """Return a photo of a capture with its camera; transparent parts are white.

    Args:
        photos: the capture, without lens distortion.
        view: the photo.
        folder: of the capture, whose file tells whether the photo has transparent parts; None for one that has no files.
    """
    color = photos.color(view)
    file = None if folder is None else folder / photos.names[view]
    if photos.has_masks and (file is None or not file.is_file() or read_photo(file)[1]):
        alpha = photos.alpha(view)[..., None]
        color = color * alpha + (1 - alpha)
    return Background(photos.names[view], linear_from_srgb(color), photos.cameras[view : view + 1], has_pose=True)


def posed_photo(file: Path, camera: Path, world_from_source: Float[Tensor, "4 4"]) -> Background:
    """Return a photo whose camera stands in a JSON file.

    The file is a frame of a ``transforms.json``, or such a file with a frame for the photo.

    Args:
        file: the photo.
        camera: with ``transform_matrix`` (OpenGL axes, in the frame of the input poses), ``fl_x``, and if wanted ``fl_y``, ``cx``, ``cy``
        and the size ``w`` x ``h`` to which they belong.
        world_from_source: from the frame of the input poses.

    Raises:
        ValueError: a file cannot be read, or a number is missing.
    """
    linear = _linear(file)
    height, width = linear.shape[:2]
    content = read_json(camera)
    frame: Any = content
    if "frames" in content:
        frames = content["frames"] if isinstance(content["frames"], list) else []
        named = [one for one in frames if isinstance(one, dict) and PurePosixPath(str(one.get("file_path"))).stem == file.stem]
        if len(named) != 1:
            raise ValueError(f"{camera} has {len(named)} frames for {file.name}; it must have one, or be a single frame")
        frame = {**content, **named[0]}
    what = f"of {camera}"
    if frame.get("transform_matrix") is None or frame.get("fl_x") is None:
        raise ValueError(f"{camera} is {shown(content)}; give transform_matrix and fl_x, as in a transforms.json")
    pose = torch.from_numpy(finite_matrix(frame["transform_matrix"], [(4, 4)], f"transform_matrix {what}")).double() * opencv_from("opengl")
    pose = rigid_motions(pose[None], [file.name], camera)[0][0]
    across = width / number(frame.get("w", width), f"w {what}")
    down = height / number(frame.get("h", height), f"h {what}")
    fx = number(frame["fl_x"], f"fl_x {what}") * across
    fy = number(frame.get("fl_y", frame["fl_x"]), f"fl_y {what}") * down
    cx, cy = (number(frame.get(key, 0.0), f"{key} {what}") * scale for key, scale in (("cx", across), ("cy", down)))
    center = (cx if "cx" in frame else width / 2, cy if "cy" in frame else height / 2)
    if min(fx, fy) <= 0:
        raise ValueError(f"the focal length {what} is not above zero")
    moved = world_from_source.double() @ pose
    moved[:3, :3] /= scale_of(world_from_source.double())
    lens = torch.tensor([[fx, fy, *center]])
    return Background(file.name, linear, Cameras.alike(moved[None].float(), lens, None, width, height), has_pose=True)


def plain_photo(file: Path, tilt: float) -> Background:
    """Return a photo whose camera is assumed to be one unit above level ground.

    Its focal length comes from EXIF data, or is that of a phone.

    Args:
        file: the photo.
        tilt: by how much the camera looks down, in degrees.

    Raises:
        ValueError: the photo cannot be read.
    """
    linear = _linear(file)
    height, width = linear.shape[:2]
    focal = focal_length(file) or 0.5 * max(width, height) / math.tan(0.5 * _FIELD_OF_VIEW)
    down = math.radians(tilt)
    eye = torch.tensor([0.0, 0.0, 1.0])
    pose = look_at(eye, eye + torch.tensor([0.0, math.cos(down), -math.sin(down)]), torch.tensor([0.0, 0.0, 1.0]))
    lens = torch.tensor([[focal, focal, width / 2, height / 2]])
    return Background(file.name, linear, Cameras.alike(pose[None], lens, None, width, height), has_pose=False)


def _linear(file: Path) -> Float[Tensor, "height width 3"]:
    rgba = torch.from_numpy(read_photo(file)[0]).float() / 255
    return linear_from_srgb(rgba[..., :3] * rgba[..., 3:] + (1 - rgba[..., 3:]))


@torch.no_grad()
def standing(
    asset: Asset, photo: Background, *, at: tuple[float, float] | None, size: float | None, turn: float
) -> tuple[Standing, Background]:
    """Put an object on the ground of a photo.

    Args:
        asset: of a run, in the normalized world.
        photo: where it goes.
        at: column and row of the pixel where the middle of its base stands; by default its own place, or below the middle of a photo
        without a pose.
        size: its height in pixels; by default its own size, or a share of a photo without a pose.
        turn: by which it turns about the upward direction, in degrees, counterclockwise seen from above.

    Returns:
        The object in the world of the camera, and the photo with its camera there.

    Raises:
        ValueError: the pixel does not show the ground, or the object would be out of sight.
    """
    low, high = asset.mesh.bounding_box.double().cpu().unbind(0)
    base = torch.stack([0.5 * (low[0] + high[0]), 0.5 * (low[1] + high[1]), low[2]])
    angle = math.radians(turn)
    about = torch.tensor([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]], dtype=torch.float64)
    width, height = photo.camera.width, photo.camera.height
    place, ground = base, float(base[2])
    if not photo.has_pose:
        at, size = at or (_AT[0] * width, _AT[1] * height), size or _SIZE * height
        ground = 0.0
    if at is not None:
        place = _on_ground(photo.camera, at, ground)
        if not photo.has_pose:
            # The unit of the world is free: the camera is as far away as those of a capture.
            unit = _DISTANCE / float((place - photo.camera.positions[0].double()).norm())
            poses = photo.camera.world_from_camera.clone()
            poses[:, :3, 3] *= unit
            place, photo = place * unit, replace(photo, camera=replace(photo.camera, world_from_camera=poses))
    from_base = torch.eye(4, dtype=torch.float64)
    from_base[:3, 3] = -base
    turned = similarity(torch.zeros(3, dtype=torch.float64), 1.0, about) @ from_base
    scale = 1.0 if size is None else _scale(asset.mesh.transformed(turned), photo.camera, place, size)
    moved = similarity(place, scale, torch.eye(3, dtype=torch.float64)) @ turned
    placed = asset.transformed(moved)
    placed = replace(placed, mesh=replace(placed.mesh, vertices=placed.mesh.vertices.float()))
    _, depth = photo.camera.project(placed.mesh.bounding_box.to(photo.camera.world_from_camera), 0)
    if float(depth.min()) <= 0 or float(depth.max()) > _FARTHEST:
        raise ValueError(f"the object would stand at a depth of {float(depth.mean()):.3g}, out of sight; choose another --at or --size")
    return Standing(placed, ground), photo


def _on_ground(camera: Cameras, at: tuple[float, float], ground: float) -> Float[Tensor, " 3"]:
    """Return the point of the ground that a pixel shows."""
    rays = camera.rays(torch.zeros(1, dtype=torch.int64), torch.tensor([at], dtype=torch.float32))
    origin, direction = rays.origins[0].double(), rays.directions[0].double()
    distance = (ground - float(origin[2])) / float(direction[2]) if float(direction[2]) != 0 else -1.0
    if not distance > 0:
        raise ValueError(
            f"the pixel --at {at[0]:g} {at[1]:g} does not show the ground: it is above the horizon; choose a lower one, or another --tilt"
        )
    return origin + distance * direction


def _scale(mesh: Mesh, camera: Cameras, place: Float[Tensor, " 3"], size: float) -> float:
    """Find the factor with which a mesh, its base at the origin, is as high as wanted, by bisection."""
    vertices = mesh.vertices[:: -(-len(mesh.vertices) // _MOST_VERTICES)].double()
    vertices = torch.cat([vertices, mesh.bounding_box.double()]).to(camera.world_from_camera)

    def rows(factor: float) -> float:
        pixels, depth = camera.project(factor * vertices + place.to(vertices), 0)
        return math.inf if float(depth.min()) <= 0 else float(pixels[:, 1].max() - pixels[:, 1].min())

    least, most = 1e-4, 1e4
    for _ in range(60):
        middle = math.sqrt(least * most)
        least, most = (middle, most) if rows(middle) < size else (least, middle)
    return least


def lit_in(stands: Standing, photo: Background, device: torch.device) -> LitScene:
    """Return an object under its light, with as many samples as fit; rays for its own shadows are cast.

    Args:
        stands: the object, with its light.
        photo: with its camera in the same world.
        device: where to render.
    """
    samples = max(1, min(_SAMPLES, LARGEST_RASTER_SIDE // max(photo.camera.width, photo.camera.height)))
    return LitScene(stands.asset.to(device), samples=samples)


def inserted(
    stands: Standing,
    photo: Background,
    *,
    exposure: float,
    shadow: bool,
    device: torch.device,
    seed: int = 0,
    scene: LitScene | None = None,
) -> Float[Tensor, "height width 3"]:
    """Render an object into a photo, with its shadow on the ground, as sRGB.

    Args:
        stands: the object, with its light.
        photo: with its camera in the same world.
        exposure: factor of the rendered light.
        shadow: whether to darken the ground.
        device: where to render.
        seed: of the directions in which shadows are sought.
        scene: the result of :func:`lit_in`, if it is there already.
    """
    camera = photo.camera.to(device)
    asset = stands.asset.to(device)
    linear = photo.linear.to(device)
    with pytorch_on_one_thread(), torch.no_grad():
        seen = (lit_in(stands, photo, device) if scene is None else scene).lit_view(camera, 0)
        if shadow and asset.environment is not None:
            generator = torch.Generator().manual_seed(seed)
            found = ground_shadow(asset.mesh, asset.environment, stands.ground, generator)
            rays = camera.image_rays(0)
            distance = (stands.ground - rays.origins[:, 2]) / rays.directions[:, 2]
            meets = distance.isfinite() & (distance > 0)
            places = rays.origins[:, :2] + torch.where(meets, distance, 0.0)[:, None] * rays.directions[:, :2]
            share = torch.where(meets[:, None], found.at(places), 1.0).view_as(linear)
            linear = linear * share
        mixed = exposure * seen.color + (1 - seen.opacity.clamp(0, 1))[..., None] * linear
    return srgb_from_linear(mixed.clamp(0, 1))


def view_named(photos: Capture, name: str, option: str = "--photo") -> int:
    """Return the view that a name means: the whole name, its last part, or that without its suffix.

    Args:
        photos: the capture.
        name: of a photo.
        option: that gives it, for the error.

    Raises:
        ValueError: no view has it, or several.
    """
    for part in (lambda one: one, lambda one: PurePosixPath(one).name, lambda one: PurePosixPath(one).stem):
        found = [view for view, one in enumerate(photos.names) if part(one) == name]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"{option} {name} may be {photos.names[found[0]]} or {photos.names[found[1]]}; give the whole name")
    raise ValueError(f"{option} {name} is no picture file and no photo of {photos.name}, whose first is {photos.names[0]}")

"""The camera of a photo, found against a known scene by gradient descent on its pose (Yen-Chen et al. 2021, iNeRF).

    T(ξ) = exp(ξ^) T₀,    ξ* = argmin Σ |C(T(ξ)) − photo|²

The scene stays as it is. The correction multiplies from the left, so it turns the camera about the origin of the world, where the object
is: turning and moving then change a picture in different ways. With another frame of the world, T₀ → G T₀, it is the same motion, because
G exp(ξ^) = exp((Ad_G ξ)^) G.

A scene along rays is compared at a few pixels of each step: at random ones, at the corners of the photo, or in regions around these, which
say more about the pose. The colors are differentiated along their rays. For a scene of voxels, whose rays have no gradient, they are
differentiated along each of the six directions by central differences over half a pixel to either side. A mesh is compared in whole
pictures, from coarse to fine, with the gradients of the rasterizer, its silhouettes included.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from unrender.cameras import Cameras
from unrender.devices import pytorch_on_one_thread
from unrender.render.asset import Asset
from unrender.render.lit import LitScene, over_gray
from unrender.render.scene import RayScene
from unrender.transforms import angle_between, rigid_motion

Where: TypeAlias = Literal["random", "points", "regions"]
"""Which pixels of a photo are compared: any, its corners, or regions around its corners."""

OnStep: TypeAlias = Callable[[], None]

_LEARNING_RATE, _DECAY = 0.01, 0.8
"""Of Adam, and the factor on it after each third of the steps, as published for 300 steps."""
_AVERAGED = 0.25
"""Last share of the steps, whose mean correction is the result: the random pixels of each step move it to and fro."""
_STUCK = 0.3
"""A search whose error after a third of the steps is more than this share of the first is at a minimum of its own."""
_FEWEST = 24
"""Steps of a search that may begin again."""
_AROUND_START = 0.15
"""Scale of the random motions from which it then begins again: radians, and shares of the distance of the camera."""
_REGION = 13
"""Side of the region around a corner in pixels: three dilations by 5 x 5."""
_MOST_CORNERS = 2000
_COARSEST, _FINEST = 32, 512
"""Shorter side from which pictures of a mesh are not halved, and longer side above which they are, in pixels."""
_LEVELS = 3


@dataclass(frozen=True)
class Located:
    """The camera of a photo, and how it was found."""

    camera: Cameras
    """The start camera with the pose that was found."""
    losses: Float[Tensor, " steps"]
    """Mean squared error of each step, sRGB."""
    poses: Float[Tensor, "steps 4 4"]
    """``world_from_camera`` before each step."""


@dataclass(frozen=True)
class PoseError:
    """How far a pose is from the true one."""

    degrees: float
    """Angle between the orientations."""
    percent: float
    """Distance between the positions, in percent of the distance of the true camera from the origin."""


def pose_error(found: Float[Tensor, "4 4"], true: Float[Tensor, "4 4"]) -> PoseError:
    """Compare two poses ``world_from_camera``.

    >>> moved = torch.eye(4)
    >>> moved[2, 3] = 2.0
    >>> further = moved.clone()
    >>> further[0, 3] = 0.1
    >>> pose_error(further, moved)
    PoseError(degrees=0.0, percent=5.000000074505806)
    """
    apart = (found[:3, 3] - true[:3, 3]).double().norm() / true[:3, 3].double().norm()
    return PoseError(angle_between(true[:3, :3], found[:3, :3]), 100 * float(apart))


def corners_of(photo: Float[Tensor, "height width 3"]) -> Bool[Tensor, "height width"]:
    """Mark the corners of a photo.

    They are the peaks of the smaller eigenvalue of the structure tensor (Shi and Tomasi 1994).
    """
    from skimage.feature import corner_peaks, corner_shi_tomasi

    gray = photo.mean(-1).double().cpu().numpy()
    places = corner_peaks(corner_shi_tomasi(gray), min_distance=2, threshold_rel=1e-4, num_peaks=_MOST_CORNERS, exclude_border=False)
    marked = torch.zeros(gray.shape, dtype=torch.bool)
    marked[tuple(torch.from_numpy(places.copy()).T)] = True
    return marked.to(photo.device)


def compared_pixels(photo: Float[Tensor, "height width 3"], where: Where) -> Float[Tensor, "pixels 2"]:
    """Return the centers (x, y) of the pixels that may be compared; all of them in a photo without corners."""
    marked = torch.ones_like(photo[..., 0], dtype=torch.bool)
    if where != "random":
        corners = corners_of(photo)
        if where == "regions":
            corners = max_pool2d(corners[None].float(), _REGION, stride=1, padding=_REGION // 2)[0] > 0
        marked = corners if bool(corners.any()) else marked
    rows, columns = marked.nonzero().unbind(1)
    return torch.stack([columns, rows], 1).to(photo.dtype) + 0.5


def locate(
    scene: RayScene | Asset,
    photo: Float[Tensor, "height width 3"],
    camera: Cameras,
    *,
    where: Where = "regions",
    steps: int = 300,
    pixels: int = 512,
    only_object: bool = False,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> Located:
    """Find the pose of a photo by gradient descent from a start, with Adam.

    Args:
        scene: rendered along rays, or a mesh with its material and its light; both in the normalized world, where lengths are about one.
        photo: sRGB, over the background of the scene: white for a mesh and where the scene was fitted to masks.
        camera: one camera of the size of the photo, with its lens, at the pose to start from.
        where: which pixels are compared with a scene along rays.
        steps: of Adam; the learning rate falls from 0.01 by the factor 0.8 after each third of them.
        pixels: number of pixels that each step compares with a scene along rays.
        only_object: weight pixels by the opacity of the scene, for a photo that shows other things around the object.
        seed: of the pixels.
        on_step: called after each step.

    Raises:
        ValueError: the photo has another size than the camera, or a count is below one.
    """
    size = (camera.height, camera.width)
    if photo.shape[:2] != size or len(camera) != 1:
        raise ValueError(f"locate takes one camera of the size of the photo, got {len(camera)} of {size} and {tuple(photo.shape[:2])}")
    if min(steps, pixels) < 1:
        raise ValueError(f"steps and pixels are {steps} and {pixels}; they must be at least 1")
    if isinstance(scene, Asset):
        gradient = _of_pictures(LitScene(scene, background=1.0), photo, camera, steps, only_object)
    else:
        gradient = _of_rays(scene, photo, camera, compared_pixels(photo, where), pixels, only_object, seed)
    with pytorch_on_one_thread():
        return _descended(gradient, camera, steps, on_step, seed, settles=isinstance(scene, Asset))


Gradient: TypeAlias = Callable[[Float[Tensor, " 6"], int], tuple[float, Float[Tensor, " 6"]]]
"""Returns the error of a correction at a step, and its gradient."""


def _descended(gradient: Gradient, camera: Cameras, steps: int, on_step: OnStep | None, seed: int, *, settles: bool) -> Located:
    """Descend along a gradient; where it ``settles``, the learning rate is also halved after each third of the steps.

    Elsewhere, a search that is stuck after a third of the steps spends a sixth of them on random poses around the start, and goes on from
    the best one if that is better than where it is.
    """
    start = camera.world_from_camera[0]
    losses: list[float] = []
    twists: list[Tensor] = []

    def look(twist: Tensor) -> Tensor:
        twists.append(twist.clone())
        loss, slope = gradient(twist, len(losses))
        losses.append(loss)
        if on_step is not None:
            on_step()
        return slope

    def descend(twist: Tensor, until: int) -> Tensor:
        optimizer = torch.optim.Adam([twist], lr=_LEARNING_RATE)
        while len(losses) < until:
            third = 3 * len(losses) / steps
            optimizer.param_groups[0]["lr"] = _LEARNING_RATE * _DECAY**third * (0.5 ** int(third) if settles else 1.0)
            twist.grad = look(twist.detach())
            optimizer.step()
        return twist.detach()

    third = steps if settles or steps < _FEWEST else steps // 3
    twist = descend(torch.zeros(6, device=start.device), third)
    few = max(1, third // 4)
    error = sum(losses[-few:]) / few
    if third < steps and error > _STUCK * losses[0]:
        generator = torch.Generator().manual_seed(seed)
        distance = camera.positions[0].norm().cpu()
        scale = _AROUND_START * torch.cat([distance.expand(3) / 3, torch.ones(3)])
        while len(losses) < steps // 2:
            look((scale * torch.randn(6, generator=generator)).to(start.device))
        best = min(range(third, steps // 2), key=losses.__getitem__, default=0)
        twist = twists[best].clone() if losses[best] < error else twist
    if third < steps:
        twist = descend(twist, steps)
    averaged = torch.stack([*twists, twist][-math.ceil(_AVERAGED * steps) :]).mean(0)
    found = _corrected(camera, averaged[None])
    return Located(found, torch.tensor(losses), rigid_motion(torch.stack(twists)) @ start)


def _corrected(camera: Cameras, twists: Float[Tensor, "twists 6"]) -> Cameras:
    """Return one camera for each correction."""
    cameras = camera.select([0] * len(twists))
    return replace(cameras, world_from_camera=rigid_motion(twists) @ camera.world_from_camera)


def _of_rays(
    scene: RayScene,
    photo: Float[Tensor, "height width 3"],
    camera: Cameras,
    among: Float[Tensor, "pixels 2"],
    count: int,
    only_object: bool,
    seed: int,
) -> Gradient:
    generator = torch.Generator().manual_seed(seed)
    first = torch.zeros(count, dtype=torch.int64, device=photo.device)
    half_pixel = 0.5 * float(camera.positions[0].norm().clamp_min(0.1) / camera.intrinsics[0, :2].mean())
    shifts = half_pixel * torch.cat([torch.zeros(1, 6), torch.eye(6), -torch.eye(6)]).to(photo.device)
    views = torch.arange(13, device=photo.device).repeat_interleave(count)

    def gradient(twist: Tensor, _: int) -> tuple[float, Tensor]:
        chosen = among[torch.randint(len(among), (count,), generator=generator).to(among.device)]
        columns, rows = chosen.long().unbind(1)
        truth, twist = photo[rows, columns], twist.clone().requires_grad_()
        seen = scene.render_differentiably(_corrected(camera, twist[None]).rays(first, chosen))
        if seen is None:
            return by_differences(twist.detach(), chosen, truth)
        weight = seen.opacity.detach()[:, None] if only_object else 1.0
        loss = (weight * (seen.srgb - truth)).square().mean()
        (slope,) = torch.autograd.grad(loss, twist)
        return float(loss.detach()), slope

    def by_differences(twist: Tensor, chosen: Tensor, truth: Tensor) -> tuple[float, Tensor]:
        seen = scene.render_rays(_corrected(camera, twist + shifts).rays(views, chosen.repeat(13, 1))).reshaped(13, count)
        weight = seen.opacity[0, :, None] if only_object else 1.0
        color, forward, back = seen.srgb.split([1, 6, 6])
        miss = weight * (color[0] - truth)
        slope = (forward - back) / (2 * half_pixel)
        return float(miss.square().mean()), 2 * (miss * slope).mean((1, 2))

    return gradient


def _of_pictures(scene: LitScene, photo: Float[Tensor, "height width 3"], camera: Cameras, steps: int, only_object: bool) -> Gradient:
    finest = -(-max(camera.width, camera.height) // _FINEST)
    factors = [finest * 2**level for level in reversed(range(_LEVELS))]
    factors = [factor for factor in factors if min(camera.width, camera.height) // factor >= _COARSEST] or [1]
    channels = photo.permute(2, 0, 1)[None]
    pyramid = [(camera.downscaled(factor), avg_pool2d(channels, factor)[0].permute(1, 2, 0)) for factor in factors]

    def gradient(twist: Tensor, step: int) -> tuple[float, Tensor]:
        smaller, picture = pyramid[step * len(pyramid) // steps]
        twist = twist.clone().requires_grad_()
        seen = scene.lit_cameras(_corrected(smaller, twist[None]))[0]
        weight = seen.opacity.detach()[..., None] if only_object else 1.0
        loss = (weight * (over_gray(seen, 1.0).srgb - picture)).square().mean()
        (slope,) = torch.autograd.grad(loss, twist)
        return float(loss.detach()), slope

    return gradient

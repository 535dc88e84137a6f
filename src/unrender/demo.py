"""A capture made without a camera: photos of an analytic scene whose shape and colors are known exactly.

A rubber duck sits in a striped swimming ring on a tiled plinth. Its surface is the zero set of a signed function, its colors do not depend
on the viewing direction, and edges are antialiased, so a radiance field can fit the photos closely. The result can be compared with the
truth: ``AnalyticScene().mesh(256)`` and :func:`unrender.geometry.distances.surface_distance`.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.capture import Capture, Split
from unrender.captures.rendered import cameras_around, photo_of
from unrender.color import srgb_from_linear
from unrender.devices import pytorch_on_one_thread
from unrender.geometry.isosurface import extract_surface
from unrender.geometry.mesh import Mesh
from unrender.numerics import normalized

DEMO_STEPS = 1_400
"""Steps of `unrender demo`: on a CPU the fitted surface is then within 0.5 % of the scene's diagonal of the true one."""

RADIUS = 0.87
"""The scene lies within this distance of the origin."""

_HIT = 2e-4
"""Distance below which a ray hits the surface."""

_MOST_STEPS = 128
_PIXELS_AT_ONCE = 2**17
_FIELD_OF_VIEW = math.radians(40.0)
_CAMERA_DISTANCE = 2.75
_HELD_OUT_EVERY = 8

_YELLOW, _ORANGE, _BLACK, _WHITE = (0.95, 0.62, 0.04), (0.90, 0.19, 0.02), (0.012, 0.012, 0.016), (0.86, 0.86, 0.82)
_RED, _TILE_LIGHT, _TILE_DARK, _RIM = (0.72, 0.035, 0.045), (0.42, 0.68, 0.66), (0.02, 0.19, 0.27), (0.55, 0.33, 0.16)
_TILE = 0.20
_WATER = (0.10, 0.42, 0.62)
_SUN = (0.36, -0.48, 0.80)


class AnalyticScene:
    """The duck, its ring and the plinth. Points are in the world frame, +Z up; the duck looks along -Y."""

    def sdf(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, " points"]:
        """Return a lower bound of the distance to the surface, exact in sign: negative inside.

        Its slope is at most one, and it is zero on the surface.
        """
        return self._parts(points).amin(1)

    def normals(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
        """Return outward unit normals, ∇f / |∇f|, of points on or near the surface."""
        with torch.enable_grad():
            leaf = points.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.sdf(leaf).sum(), leaf)
        return normalized(gradient)

    def color(self, points: Float[Tensor, "points 3"], normals: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
        """Return linear light that leaves the surface, the same in all directions.

        albedo × (sun max(n · s, 0) + sky + bounce from the ground)
        """
        sun = normals @ points.new_tensor(_SUN)
        up = 0.5 + 0.5 * normals[:, 2]
        warm, cool, ground = points.new_tensor([[0.74, 0.69, 0.60], [0.50, 0.53, 0.58], [0.32, 0.28, 0.25]])
        light = sun.clamp_min(0)[:, None] * warm + up[:, None] * cool + (1 - up)[:, None] * ground
        return (self._albedo(points) * light).clamp(0, 1)

    def mesh(self, resolution: int = 256) -> Mesh:
        """Extract the true surface with its normals and sRGB colors."""
        bare = extract_surface(self.sdf, resolution=resolution, lipschitz=1.0)
        normals = self.normals(bare.vertices)
        return Mesh(bare.vertices, bare.faces, srgb_from_linear(self.color(bare.vertices, normals)), normals)

    def _parts(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points parts"]:
        """Return signed distances to body, beak, eyes, ring, plinth, and the water that fills the ring."""
        mirrored = torch.stack([points[:, 0].abs(), points[:, 1], points[:, 2]], 1)
        trunk = _ellipsoid(points, (0.0, 0.06, -0.20), (0.33, 0.44, 0.27))
        tail = _ellipsoid(_pitched(points, (0.0, 0.47, -0.06), 0.75), (0.0, 0.0, 0.0), (0.13, 0.21, 0.075))
        wing = _ellipsoid(_pitched(mirrored, (0.32, 0.12, -0.10), 0.35), (0.0, 0.0, 0.0), (0.075, 0.23, 0.13))
        neck = _ellipsoid(points, (0.0, -0.19, 0.06), (0.19, 0.20, 0.22))
        head = (points - points.new_tensor([0.0, -0.23, 0.33])).norm(dim=1) - 0.27
        tuft = _ellipsoid(_pitched(points, (0.0, -0.19, 0.60), -0.9), (0.0, 0.0, 0.0), (0.035, 0.10, 0.05))
        body = _blend(_blend(_blend(_blend(trunk, tail, 0.12), neck, 0.16), wing, 0.04), _blend(head, tuft, 0.06), 0.08)
        upper = _ellipsoid(points, (0.0, -0.50, 0.295), (0.14, 0.15, 0.042))
        lower = _ellipsoid(points, (0.0, -0.47, 0.245), (0.105, 0.12, 0.032))
        beak = _blend(upper, lower, 0.02)
        eyes = (mirrored - points.new_tensor([0.125, -0.425, 0.425])).norm(dim=1) - 0.058
        around = (points[:, :2] - points.new_tensor([0.0, 0.06])).norm(dim=1) - 0.47
        ring = torch.stack([around, points[:, 2] + 0.29], 1).norm(dim=1) - 0.135
        radial = points[:, :2].norm(dim=1) - 0.62
        slab = torch.stack([radial, (points[:, 2] + 0.485).abs() - 0.05], 1)
        plinth = slab.clamp_min(0).norm(dim=1) + slab.amax(1).clamp_max(0) - 0.035
        water = torch.stack([around, (points[:, 2] + 0.325).abs() - 0.155], 1).amax(1)
        return torch.stack([body, beak, eyes, ring, plinth, water], 1)

    def _albedo(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
        """Return the linear reflectance of the nearest part.

        There are stripes around the ring, square tiles on the plinth, and a spark of white in each eye.
        """
        part = self._parts(points).argmin(1)
        x, y, z = points.unbind(1)
        plain = points.new_tensor([_YELLOW, _ORANGE, _BLACK, _RED, _RIM, _WATER])[part]

        angle = torch.atan2(y - 0.06, x)
        stripe = torch.sin(6 * angle) > 0
        white = points.new_tensor(_WHITE)
        color = torch.where(((part == 3) & stripe)[:, None], white, plain)

        even = (torch.floor(x / _TILE) + torch.floor(y / _TILE)) % 2 == 0
        tiles = torch.where(even[:, None], points.new_tensor(_TILE_LIGHT), points.new_tensor(_TILE_DARK))
        on_top = (part == 4) & (z > -0.41) & (x * x + y * y < 0.60**2)
        color = torch.where(on_top[:, None], tiles, color)

        spark = torch.stack([x.abs() - 0.135, y + 0.468, z - 0.452], 1).norm(dim=1) < 0.024
        return torch.where(((part == 2) & spark)[:, None], white, color)


def make_demo_capture(views: int = 60, size: int = 160, seed: int = 0, *, supersampling: int = 2) -> Capture:
    """Render square photos of the scene from all sides, with masks; every 8th view is held out.

    The world is also the source frame. Cameras stand on a spiral over the part of a sphere between 12 degrees below and 80 degrees above
    the horizon, look at the origin, and have a field of view of 40 degrees. A pixel is the mean over a square of rays: the mask is the
    share of rays that hit the scene, the color (straight alpha) their mean light, encoded as sRGB.

    Args:
        views: how many photos.
        size: width and height of the photos, in pixels.
        seed: of the angle at which the spiral starts.
        supersampling: rays along the side of a pixel.

    Raises:
        ValueError: a count is below one.
    """
    if min(views, size, supersampling) < 1:
        raise ValueError(f"views, size and supersampling are {views}, {size} and {supersampling}; they must be at least 1")
    cameras = _cameras_around(views, size, seed)
    photos = torch.empty(views, size, size, 4, dtype=torch.uint8)
    scene = AnalyticScene()
    together = max(1, _PIXELS_AT_ONCE // size**2)
    with pytorch_on_one_thread():
        for first in range(0, views, together):
            some = slice(first, first + together)
            color, opacity = render_demo_views(scene, cameras[some], supersampling=supersampling)
            photos[some] = photo_of(color, opacity)
    held_out = tuple(range(0, views, _HELD_OUT_EVERY)) if views > 1 else ()
    return Capture.from_tensors(
        photos[..., :3],
        cameras,
        masks=photos[..., 3],
        name="demo",
        split=Split(tuple(view for view in range(views) if view not in held_out), held_out, "every 8th view is held out"),
        fingerprint=f"demo {views} {size} {seed} {supersampling}",
        notes=("An analytic scene: shape and colors are known exactly.",),
    )


def render_demo_views(
    scene: AnalyticScene, cameras: Cameras, *, supersampling: int = 2
) -> tuple[Float[Tensor, "views height width 3"], Float[Tensor, "views height width"]]:
    """Render linear straight-alpha color and coverage of pinhole views; color is black where nothing is covered.

    The scene is sphere traced (Hart, Sphere tracing, 1996) from coarse to fine: a cone through a block of 8 x 8 pixels walks on until the
    surface may lie within it, then the cones of its 2 x 2 pixels start from there, then the rays.
    """
    views, height, width = len(cameras.intrinsics), cameras.height, cameras.width
    sizes = (torch.arange(views), torch.arange(0, height, 8), torch.arange(0, width, 8))
    view, row, column = (axis.reshape(-1) for axis in torch.meshgrid(*sizes, indexing="ij"))
    corner = torch.stack([row, column], 1).float()
    distance = (cameras.world_from_camera[view, :3, 3].norm(dim=1) - RADIUS).clamp_min(0)
    for side, parts in ((8.0, 4), (2.0, 2 * supersampling)):
        distance, hit, _ = _walk(scene, cameras, view, corner, side, distance)
        inner = torch.cartesian_prod(torch.arange(parts), torch.arange(parts)).reshape(-1, 2) * (side / parts)
        corner = (corner[hit][:, None] + inner).reshape(-1, 2)
        view, distance = (values[hit].repeat_interleave(parts * parts) for values in (view, distance))
        kept = (corner < torch.tensor([height, width])).all(1)
        view, corner, distance = view[kept], corner[kept], distance[kept]
    _, hit, points = _walk(scene, cameras, view, corner, 1 / supersampling, distance, as_rays=True)
    row, column = corner[hit].long().unbind(1)
    pixel = (view[hit] * height + row) * width + column
    light = scene.color(points[hit], scene.normals(points[hit]))
    count = torch.zeros(views * height * width).index_add_(0, pixel, torch.ones(len(pixel)))
    color = torch.zeros(len(count), 3).index_add_(0, pixel, light) / count.clamp_min(1)[:, None]
    return color.reshape(views, height, width, 3), (count / supersampling**2).reshape(views, height, width)


def _cameras_around(views: int, size: int, seed: int) -> Cameras:
    start = float(torch.rand((), generator=torch.Generator().manual_seed(seed))) * 2 * math.pi
    return cameras_around(views, size, distance=_CAMERA_DISTANCE, field_of_view=_FIELD_OF_VIEW, elevations=(-12.0, 80.0), start=start)


def _walk(
    scene: AnalyticScene,
    cameras: Cameras,
    view: Int[Tensor, " cones"],
    corner: Float[Tensor, "cones 2"],
    side: float,
    distance: Float[Tensor, " cones"],
    *,
    as_rays: bool = False,
) -> tuple[Float[Tensor, " cones"], Bool[Tensor, " cones"], Float[Tensor, "cones 3"]]:
    """Walk along the cones through squares of the image, while no ray in them can hit the scene.

    At a distance t all rays of the cone around the square are within t θ of its axis, so nothing is hit while f - t θ is positive; f falls
    by at most one and t θ grows by θ for each unit walked, so (f - t θ) / (1 + θ) can be walked.

    Args:
        scene: the scene.
        cameras: pinhole cameras.
        view: the camera of each cone.
        corner: row and column of the upper left corner of its square.
        side: of the squares, in pixels.
        distance: start of the walk.
        as_rays: follow the rays through the centers of the squares, θ = 0.

    Returns:
        The distance walked, whether that is within the scene, and the point on the axis there.
    """
    focal, center = cameras.intrinsics[view, :2], cameras.intrinsics[view, 2:]
    local = torch.cat([(corner.flip(1) + side / 2 - center) / focal, torch.ones(len(corner), 1)], 1)
    angle = torch.zeros(len(corner)) if as_rays else math.sqrt(0.5) * side / (focal.amin(1) * local.norm(dim=1))
    pose = cameras.world_from_camera[view]
    direction = normalized((pose[:, :3, :3] @ local[:, :, None])[:, :, 0])
    origin = pose[:, :3, 3]
    end = origin.norm(dim=1) + RADIUS
    walked = distance.clone()
    active = torch.arange(len(walked))
    for _ in range(_MOST_STEPS):
        if len(active) == 0:
            break
        t, wide = walked[active], angle[active]
        clearance = scene.sdf(origin[active] + t[:, None] * direction[active]) - t * wide
        t = t + (clearance / (1 + wide)).clamp_min(0)
        walked[active] = t
        active = active[(clearance > _HIT) & (t < end[active])]
    return walked, walked < end, origin + walked[:, None] * direction


def _ellipsoid(
    points: Float[Tensor, "points 3"], center: tuple[float, float, float], radii: tuple[float, float, float]
) -> Float[Tensor, " points"]:
    """Compute (|x / r| - 1) min r, exact in sign and nowhere steeper than one."""
    scaled = (points - points.new_tensor(center)) / points.new_tensor(radii)
    return (scaled.norm(dim=1) - 1) * min(radii)


def _pitched(points: Float[Tensor, "points 3"], center: tuple[float, float, float], angle: float) -> Float[Tensor, "points 3"]:
    """Return coordinates about ``center`` whose y axis points up by ``angle`` radians, turned about the x axis."""
    x, y, z = (points - points.new_tensor(center)).unbind(1)
    c, s = math.cos(angle), math.sin(angle)
    return torch.stack([x, c * y + s * z, c * z - s * y], 1)


def _blend(a: Float[Tensor, " points"], b: Float[Tensor, " points"], width: float) -> Float[Tensor, " points"]:
    """Unite with a fillet, no steeper than a and b.

    min(a, b) - h² / (4 width) with h = max(width - |a - b|, 0).
    """
    overlap = (width - (a - b).abs()).clamp_min(0)
    return torch.minimum(a, b) - overlap**2 / (4 * width)

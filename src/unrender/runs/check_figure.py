"""The picture of a check: the cameras from above and from the side, the directions they cover, and photos with the visual hull."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_dilation, binary_erosion
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.capture import Capture
from unrender.captures.check.coverage import directions_within_reach
from unrender.captures.check.findings import CheckReport, ViewCheck
from unrender.captures.check.hull import projected
from unrender.runs.figures import Picture

Color = tuple[int, int, int]

_INK: Color = (40, 44, 52)
_FAINT: Color = (205, 210, 216)
_SEEN: Color = (214, 236, 232)
_OBJECT: Color = (170, 176, 186)
_GOOD: Color = (24, 128, 100)
_BAD: Color = (206, 48, 40)
_UNKNOWN: Color = (92, 108, 140)
_HULL: Color = (255, 122, 0)
_MASK: Color = (0, 200, 255)

_PANEL, _GAP, _TITLE = 560, 24, 34
_PHOTOS = 4
_MOST_POINTS = 4000
_DOUBTFUL_AGREEMENT, _DOUBTFUL_IOU = 0.4, 0.75


def check_picture(report: CheckReport) -> Picture | None:
    """Draw the cameras of a checked capture, what they cover, and photos; None if the capture could not be read."""
    capture = report.capture
    if capture is None or len(capture) == 0:
        return None
    canvas = Image.new("RGB", (3 * _PANEL + 4 * _GAP, 2 * (_PANEL + _TITLE) + 3 * _GAP), "white")
    draw = ImageDraw.Draw(canvas)
    scene = _Scene.of(report, capture)
    panels = (("from above", (0, 1)), ("from the side", (0, 2)))
    for place, (title, axes) in enumerate(panels):
        left = _GAP + place * (_PANEL + _GAP)
        _heading(draw, left, _GAP, title)
        canvas.paste(_cameras_from(scene, axes), (left, _GAP + _TITLE))
    left = _GAP + 2 * (_PANEL + _GAP)
    _heading(draw, left, _GAP, "directions around the center: azimuth, elevation")
    canvas.paste(_directions(scene), (left, _GAP + _TITLE))
    _legend(draw, left, _GAP + _TITLE + _PANEL // 2 + 30, report)
    top = 2 * _GAP + _TITLE + _PANEL
    side = (canvas.width - (_PHOTOS + 1) * _GAP) // _PHOTOS
    bottom = top
    for place, view in enumerate(_shown(report.views)):
        left = _GAP + place * (side + _GAP)
        _heading(draw, left, top, _caption(report.views[view], 38))
        photo = _photo(report, capture, view, (side, canvas.height - top - _TITLE - _GAP))
        canvas.paste(photo, (left, top + _TITLE))
        bottom = max(bottom, top + _TITLE + photo.height + _GAP)
    return np.array(canvas.crop((0, 0, canvas.width, bottom)))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _heading(draw: ImageDraw.ImageDraw, left: int, top: int, text: str) -> None:
    draw.text((left, top + 4), text, fill=_INK, font=_font(21))


def _caption(view: ViewCheck, most: int) -> str:
    measures = [] if view.iou is None else [f"IoU {view.iou:.2f}"]
    measures += [] if view.agreement is None else [f"matches {view.agreement:.0%}"]
    words = ", ".join([*measures, *view.faults])
    name = view.name.encode("ascii", "replace").decode()
    room = max(8, most - len(words))
    return (name if len(name) <= room else f"...{name[3 - room :]}") + (f": {words}" if words else "")


def _doubtful(view: ViewCheck) -> bool | None:
    """Tell whether something is wrong with a view; None if nothing was measured in it."""
    if view.iou is None and view.agreement is None and not view.faults:
        return None
    low = (view.iou is not None and view.iou < _DOUBTFUL_IOU) or (view.agreement is not None and view.agreement < _DOUBTFUL_AGREEMENT)
    return low or bool(view.faults)


def _shown(views: Sequence[ViewCheck]) -> list[int]:
    """Choose the two most doubtful of the measured views, and others evenly."""
    measured = [k for k, view in enumerate(views) if view.iou is not None or view.agreement is not None] or list(range(len(views)))
    worst = sorted(measured, key=lambda k: (1.0 if views[k].iou is None else views[k].iou or 0) + (views[k].agreement or 0))[:2]
    rest = [k for k in measured if k not in worst]
    more = min(_PHOTOS - len(worst), len(rest))
    return [*worst, *(rest[(2 * place + 1) * len(rest) // (2 * more)] for place in range(more))]


@dataclass(frozen=True)
class _Scene:
    """What the panels show, in axes whose +Z is up; numbers are in units of the region."""

    cameras: Float[ndarray, "views 5 3"]
    """Tip and four corners of each frustum."""
    colors: tuple[Color, ...]
    box: Float[ndarray, "8 3"]
    cells: Float[ndarray, "cells 3"]
    points: Float[ndarray, "points 3"]
    reach: float

    @classmethod
    def of(cls, report: CheckReport, capture: Capture) -> _Scene:
        turn = report.upright.double().numpy()
        cameras = capture.cameras
        positions = cameras.positions.double().numpy() @ turn
        distance = float(np.quantile(np.abs(positions).max(1), 0.97))
        reach = max(1.5, 1.25 * distance)
        frusta = np.stack([_frustum(cameras, view, 0.1 * reach) for view in range(len(cameras))]) @ turn
        corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
        states = {None: _UNKNOWN, True: _BAD, False: _GOOD}
        return cls(
            cameras=frusta,
            colors=tuple(states[_doubtful(view)] for view in report.views),
            box=corners @ turn,
            cells=_some(None if report.hull is None else report.hull.cells) @ turn,
            points=_some(capture.points) @ turn,
            reach=reach,
        )


def _some(points: Float[Tensor, "points 3"] | None) -> Float[ndarray, "some 3"]:
    if points is None or not len(points):
        return np.zeros((0, 3))
    return points[:: max(1, len(points) // _MOST_POINTS)].double().cpu().numpy()


def _frustum(cameras: Cameras, view: int, length: float) -> Float[ndarray, "corners 3"]:
    """Return the tip and the corners of a frustum, whose rays are as long as given."""
    width, height = cameras.sizes[view].tolist()
    corners = torch.tensor([[0.0, 0.0], [width, 0.0], [width, height], [0.0, height]])
    rays = cameras.rays(torch.full((4,), view), corners)
    return torch.cat([rays.origins[:1], rays.origins + length * rays.directions]).double().numpy()


def _cameras_from(scene: _Scene, axes: tuple[int, int]) -> Image.Image:
    """Draw an orthographic view along the third axis, twice as large and then halved, for smooth lines."""
    size = 2 * _PANEL
    image = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(image)

    def place(points: Float[ndarray, "points 3"]) -> list[tuple[float, float]]:
        flat = points[:, list(axes)] / scene.reach
        return [((x + 1) * size / 2, (1 - y) * size / 2) for x, y in flat.tolist()]

    draw.rectangle((0, 0, size - 1, size - 1), outline=_FAINT, width=2)
    for x, y in place(scene.points):
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=_FAINT)
    for x, y in place(scene.cells):
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_OBJECT)
    corners = place(scene.box)
    for one, two in ((a, b) for a in range(8) for b in range(a) if bin(a ^ b).count("1") == 1):
        draw.line((corners[one], corners[two]), fill=_INK, width=2)
    for frustum, color in zip(scene.cameras, scene.colors, strict=True):
        tip, *rim = place(frustum)
        for k in range(4):
            draw.line((tip, rim[k]), fill=color, width=3)
            draw.line((rim[k], rim[(k + 1) % 4]), fill=color, width=3)
    return image.resize((_PANEL, _PANEL), Image.Resampling.LANCZOS)


def _directions(scene: _Scene) -> Image.Image:
    """Draw the directions of the cameras on an equal-area map, and what lies within 30 degrees of one."""
    width, height = _PANEL, _PANEL // 2
    azimuth = ((np.arange(width) + 0.5) / width * 2 - 1) * np.pi
    sine = 1 - 2 * (np.arange(height) + 0.5) / height
    flat = np.sqrt(1 - sine**2)
    grid = np.stack([flat[:, None] * np.cos(azimuth), flat[:, None] * np.sin(azimuth), np.repeat(sine[:, None], width, 1)], -1)
    tips = scene.cameras[:, 0]
    towards = tips / np.maximum(np.linalg.norm(tips, axis=-1, keepdims=True), 1e-9)
    seen = directions_within_reach(torch.from_numpy(grid.reshape(-1, 3)), torch.from_numpy(towards)).numpy().reshape(height, width)
    image = Image.fromarray(np.where(seen[..., None], np.array(_SEEN), 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for elevation in (-60, -30, 0, 30, 60):
        y = (1 - np.sin(np.radians(elevation))) * height / 2
        draw.line((0, y, width, y), fill=_FAINT, width=1)
        draw.text((4, y - 14), f"{elevation}°", fill=_UNKNOWN, font=_font(14))
    for quarter in (1, 2, 3):
        draw.line((quarter * width / 4, 0, quarter * width / 4, height), fill=_FAINT, width=1)
    draw.rectangle((0, 0, width - 1, height - 1), outline=_FAINT)
    for (x, y, z), color in zip(towards.tolist(), scene.colors, strict=True):
        across, down = (np.arctan2(y, x) / np.pi + 1) * width / 2, (1 - z) * height / 2
        draw.ellipse((across - 4, down - 4, across + 4, down + 4), fill=color, outline="white")
    return image


def _legend(draw: ImageDraw.ImageDraw, left: int, top: int, report: CheckReport) -> None:
    has_hull = report.hull is not None and len(report.hull.cells) > 0
    rows = [
        (_GOOD, "cameras that agree with the photos"),
        (_BAD, "cameras, masks or photos that do not"),
        (_UNKNOWN, "cameras that were not compared"),
        (_SEEN, "within 30° of a camera"),
        (_INK, "region of interest"),
    ]
    rows += [(_OBJECT, "visual hull of the masks"), (_HULL, "outline of the visual hull in a photo")] if has_hull else []
    rows += [(_MASK, "outline of the mask")] if report.hull is not None else []
    rows += [(_FAINT, "points of structure from motion")] if report.capture is not None and report.capture.points is not None else []
    for k, (color, text) in enumerate(rows):
        y = top + 27 * k
        draw.rectangle((left, y, left + 16, y + 16), fill=color, outline=_FAINT)
        draw.text((left + 26, y - 1), text, fill=_INK, font=_font(18))


def _photo(report: CheckReport, capture: Capture, view: int, room: tuple[int, int]) -> Image.Image:
    """Draw a photo with the outlines of mask and hull, or with the region's box if there are no masks."""
    width, height = capture.cameras.sizes[view].tolist()
    scale = min(room[0] / width, room[1] / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(capture.photos[view][..., :3].numpy()).resize(size, Image.Resampling.LANCZOS)
    if report.hull is None:
        _draw_box(image, capture, view)
        return image
    pixels = np.array(image)
    mask = Image.fromarray(capture.mask(view).numpy()).resize(size, Image.Resampling.BILINEAR)
    pixels[_outline(np.array(mask) >= 128)] = _MASK
    if len(report.hull.cells):
        hull, block = projected(capture.cameras, view, report.hull.cells, report.hull.cell)
        small = Image.fromarray((hull.numpy() * 255).astype(np.uint8))
        covered = (max(1, round(small.width * block * scale)), max(1, round(small.height * block * scale)))
        inside = np.zeros((size[1], size[0]), dtype=bool)
        larger = np.array(small.resize(covered, Image.Resampling.BILINEAR)) >= 128
        inside[: covered[1], : covered[0]] = larger[: size[1], : size[0]]
        pixels[_outline(inside)] = _HULL
    return Image.fromarray(pixels)


def _outline(inside: Bool[ndarray, "height width"]) -> Bool[ndarray, "height width"]:
    return np.asarray(binary_dilation(inside)) & ~np.asarray(binary_erosion(inside), dtype=bool)


def _draw_box(image: Image.Image, capture: Capture, view: int) -> None:
    """Draw the edges of the region as the camera sees them."""
    draw = ImageDraw.Draw(image)
    scale = image.width / capture.cameras.sizes[view, 0].item()
    corners = torch.tensor([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
    along = torch.linspace(0, 1, 41)[:, None]
    for one, two in ((a, b) for a in range(8) for b in range(a) if bin(a ^ b).count("1") == 1):
        pixels, depth = capture.cameras.project(corners[one] + along * (corners[two] - corners[one]), view)
        where = (pixels * scale).tolist()
        for k in range(40):
            if min(float(depth[k]), float(depth[k + 1])) > 0.02 and max(map(abs, (*where[k], *where[k + 1]))) < 1e5:
                draw.line((*where[k], *where[k + 1]), fill=_HULL, width=2)

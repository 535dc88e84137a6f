"""Pictures for people: color maps, curves as SVG, a shaded mesh, and images packed into the text of a page."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor

from unrender.files.atomic import replacing
from unrender.geometry.mesh import Mesh
from unrender.render.rendering import Rendering

Picture = UInt8[ndarray, "height width 3"]

LARGEST_ERROR = 0.25
"""Mean absolute difference of the three channels at which the error map reaches its brightest color."""

DARK_TO_HOT = np.array(
    [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]],
    dtype=np.float64,
)  # fmt: skip
"""Black over purple and orange to pale yellow, even in lightness; for errors."""

BLUE_TO_YELLOW = np.array(
    [[68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142],
     [31, 158, 137], [53, 183, 121], [110, 206, 88], [181, 222, 43], [253, 231, 37]],
    dtype=np.float64,
)  # fmt: skip
"""Dark blue over green to yellow, even in lightness; for distances."""


def color_map(values: Shaped[ndarray, "height width"], anchors: Float[ndarray, "anchors 3"]) -> Picture:
    """Values in [0, 1] as colors, linear between the anchors; values outside take the color at the end.

    >>> color_map(np.array([[0.0, 1.0]]), DARK_TO_HOT).tolist()
    [[[0, 0, 4], [252, 255, 164]]]
    """
    place = np.clip(np.nan_to_num(values), 0.0, 1.0) * (len(anchors) - 1)
    low = np.minimum(place.astype(np.int64), len(anchors) - 2)
    share = (place - low)[..., None]
    return np.round(anchors[low] * (1.0 - share) + anchors[low + 1] * share).astype(np.uint8)


def color_picture(color: Float[Tensor, "height width 3"]) -> Picture:
    """An sRGB image in [0, 1], clamped, as bytes."""
    return np.round(color.detach().float().clamp(0.0, 1.0).cpu().numpy() * 255.0).astype(np.uint8)


def error_picture(color: Float[Tensor, "height width 3"], truth: Float[Tensor, "height width 3"]) -> Picture:
    """Mean absolute difference over the channels, black for none, brightest from :data:`LARGEST_ERROR`."""
    error = (color.clamp(0.0, 1.0) - truth).abs().mean(dim=-1).cpu().numpy()
    return color_map(error / LARGEST_ERROR, DARK_TO_HOT)


def distance_picture(rendering: Rendering) -> tuple[Picture, tuple[float, float]]:
    """Distance to the surface, dark near and bright far, fading to gray where the scene is transparent; and the range shown."""
    opacity = rendering.opacity.detach().float().clamp(0.0, 1.0).cpu().numpy()
    distance = rendering.distance.detach().float().cpu().numpy() / np.maximum(opacity, 1e-6)
    seen = distance[(opacity > 0.5) & np.isfinite(distance)]
    near, far = (float(q) for q in np.quantile(seen, [0.02, 0.98])) if seen.size else (0.0, 1.0)
    picture = color_map((distance - near) / max(far - near, 1e-6), BLUE_TO_YELLOW)
    return _over_gray(picture, opacity), (near, far)


def normal_picture(rendering: Rendering) -> Picture:
    """World-frame normals as (n + 1) / 2, fading to gray where the scene is transparent."""
    normal = rendering.normal.detach().float().cpu().numpy()
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    unit = normal / np.maximum(length, 1e-6)
    return _over_gray(np.round((unit * 0.5 + 0.5) * 255.0).astype(np.uint8), np.clip(length[..., 0], 0.0, 1.0))


def _over_gray(picture: Picture, opacity: Shaped[ndarray, "height width"]) -> Picture:
    share = opacity[..., None]
    return np.round(picture * share + 128.0 * (1.0 - share)).astype(np.uint8)


def write_picture(file: Path, picture: Picture) -> None:
    """Writes a picture as PNG, all of it or nothing."""
    with replacing(file) as partial:
        Image.fromarray(picture).save(partial)


def read_picture(file: Path) -> Picture:
    """Reads a picture that :func:`write_picture` wrote.

    Raises:
        OSError: when the file cannot be read as a picture.
    """
    with Image.open(file) as image:
        return np.array(image.convert("RGB"))


def data_uri(picture: Picture, *, largest_side: int = 360, quality: int = 86) -> str:
    """The picture, made smaller where it is larger than ``largest_side``, as a JPEG inside a ``data:`` address."""
    image = Image.fromarray(picture)
    image.thumbnail((largest_side, largest_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def mesh_picture(mesh: Mesh, azimuth: float, elevation: float, *, size: int = 420) -> Picture:
    """An orthographic view of a mesh lit from the viewer's upper left, triangle by triangle with a depth buffer, over white.

    A triangle that shows its back is drawn bluish: holes and turned faces stand out.

    Args:
        mesh: any mesh in a frame with +Z up; drawn to fill the picture.
        azimuth: of the viewer, degrees from +X towards +Y.
        elevation: of the viewer above the ground plane, degrees.
        size: side of the picture in pixels.
    """
    vertices = mesh.vertices.detach().double().cpu().numpy()
    faces = mesh.faces.detach().cpu().numpy().astype(np.int64)
    picture = np.full((size, size, 3), 255, dtype=np.uint8)
    if len(faces) == 0:
        return picture
    a, e = math.radians(azimuth), math.radians(elevation)
    to_viewer = np.array([math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)])
    right = np.array([-math.sin(a), math.cos(a), 0.0])
    camera_from_world = np.stack([right, -np.cross(to_viewer, right), -to_viewer])
    seen = vertices @ camera_from_world.T
    low, high = seen.min(0), seen.max(0)
    scale = 0.92 * size / max(float((high - low)[:2].max()), 1e-12)
    corners = ((seen - (low + high) / 2) * scale + [size / 2, size / 2, 0.0])[faces]
    nearest = nearest_triangle(corners, size)
    drawn = nearest >= 0
    edge1, edge2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    normal = np.cross(edge1, edge2)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
    back = normal[:, 2] > 0.0
    normal[back] *= -1.0
    light = np.array([-0.4, -0.55, -0.73])
    shade = 0.25 + 0.75 * np.clip(normal @ light, 0.0, 1.0)
    tint = np.where(back[:, None], [120.0, 150.0, 235.0], [232.0, 226.0, 216.0])
    picture[drawn] = np.round(shade[:, None] * tint).astype(np.uint8)[nearest[drawn]]
    return picture


def nearest_triangle(corners: Float[ndarray, "faces 3 3"], size: int) -> Shaped[ndarray, "size size"]:
    """Which triangle each pixel center of a square raster sees first, -1 for none.

    Args:
        corners: x and y in pixels, z away from the viewer.
        size: pixels along a side.

    Triangles are handled in groups of like bounding boxes, every pixel center of the box tested by the signs of three edge functions.
    """
    winner = np.full(size * size, -1, dtype=np.int64)
    depth = np.full(size * size, np.inf)
    xy = corners[..., :2]
    low = np.clip(np.ceil(xy.min(1) - 0.5), 0, size).astype(np.int64)
    high = np.clip(np.floor(xy.max(1) - 0.5), -1, size - 1).astype(np.int64)
    extent = (high - low + 1).max(axis=1)
    area = _cross(xy[:, 1] - xy[:, 0], xy[:, 2] - xy[:, 0])
    usable = ((high >= low).all(axis=1)) & (np.abs(area) > 1e-12)
    side = 1
    while side < 2 * size:
        group = np.nonzero(usable & (extent <= side) & (extent > side // 2))[0]
        offsets = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="xy"), axis=-1).reshape(-1, 2)
        chunk = max(1, 2_000_000 // len(offsets))
        for start in range(0, len(group), chunk):
            pixel, near, face = _fragments(group[start : start + chunk], offsets, corners, area, low, high)
            index = pixel[:, 1] * size + pixel[:, 0]
            order = np.argsort(-near, kind="stable")
            closest, first = np.full(size * size, np.inf), np.full(size * size, -1, dtype=np.int64)
            closest[index[order]], first[index[order]] = near[order], face[order]
            better = closest < depth
            depth[better], winner[better] = closest[better], first[better]
        side *= 2
    return winner.reshape(size, size)


def _fragments(
    group: ndarray, offsets: ndarray, corners: ndarray, area: ndarray, low: ndarray, high: ndarray
) -> tuple[ndarray, ndarray, ndarray]:
    """Pixels covered by the triangles ``group``, their depths and triangles, each tried at the same ``offsets`` from its box's corner."""
    pixel = low[group, None] + offsets
    point = pixel + 0.5
    xy, z = corners[group, None, :, :2], corners[group, :, 2]
    edges = [_cross(xy[:, :, (k + 2) % 3] - xy[:, :, (k + 1) % 3], point - xy[:, :, (k + 1) % 3]) for k in range(3)]
    weights = np.stack(edges, axis=-1) / area[group, None, None]
    inside = (weights >= 0.0).all(axis=-1) & (pixel <= high[group, None]).all(axis=-1)
    which, where = np.nonzero(inside)
    return pixel[which, where], (weights[which, where] * z[which]).sum(axis=-1), group[which]


def _cross(a: ndarray, b: ndarray) -> ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


@dataclass(frozen=True)
class Curve:
    """One line of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def line_chart(
    curves: Sequence[Curve], *, title: str, x_label: str, logarithmic: bool = False, level: tuple[str, float] | None = None
) -> str:
    """Curves as an inline SVG that takes its colors from the page (classes ``c0``, ``c1``, ..., ``axis``, ``grid``).

    Args:
        curves: drawn in order; points that are not finite, or not positive on a logarithmic axis, are left out.
        title: above the chart.
        x_label: below the axis.
        logarithmic: powers of ten on the vertical axis.
        level: a name and a height for a dashed horizontal line.
    """
    width, height, left, right, top, bottom = 640, 300, 56, 14, 30, 40
    drawn = [_thinned(_usable(curve, logarithmic)) for curve in curves]
    drawn = [curve for curve in drawn if len(curve.x) > 0]
    if not drawn:
        return f'<p class="note">{html.escape(title)}: nothing was recorded.</p>'
    heights = [y for curve in drawn for y in curve.y] + ([level[1]] if level else [])
    y_low, y_high = min(heights), max(heights)
    if logarithmic:
        y_low, y_high = float(math.floor(math.log10(y_low))), float(math.ceil(math.log10(y_high)))
    if y_high - y_low < 1e-9:
        y_low, y_high = y_low - 0.5, y_high + 0.5
    x_ticks, y_ticks = _ticks(0.0, max(max(c.x) for c in drawn)), _ticks(y_low, y_high, whole=logarithmic)
    y_low, y_high = min(y_low, y_ticks[0]), max(y_high, y_ticks[-1])
    x_high = max(1e-9, *(max(c.x) for c in drawn))

    def across(x: float) -> float:
        return left + (width - left - right) * x / x_high

    def down(y: float) -> float:
        value = math.log10(y) if logarithmic else y
        return top + (height - top - bottom) * (1.0 - (value - y_low) / (y_high - y_low))

    parts = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(title)}">']
    parts.append(f'<text class="title" x="{left}" y="18">{html.escape(title)}</text>')
    for tick in y_ticks:
        y = down(10.0**tick if logarithmic else tick)
        label = f'10<tspan dy="-5" font-size="9">{tick:.0f}</tspan>' if logarithmic else f"{tick:g}"
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="axis" x="{left - 7}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for tick in x_ticks:
        if tick <= x_high:
            parts.append(f'<text class="axis" x="{across(tick):.1f}" y="{height - bottom + 17}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text class="axis" x="{width - right}" y="{height - 5}" text-anchor="end">{html.escape(x_label)}</text>')
    if level:
        y = down(level[1])
        parts.append(f'<line class="level" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="axis" x="{width - right}" y="{y - 6:.1f}" text-anchor="end">{html.escape(level[0])}</text>')
    for k, curve in enumerate(drawn):
        points = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in zip(curve.x, curve.y, strict=True))
        parts.append(f'<polyline class="curve c{k % 8}" points="{points}"><title>{html.escape(curve.name)}</title></polyline>')
    legend = "".join(f'<span><i class="c{k % 8}"></i>{html.escape(curve.name)}</span>' for k, curve in enumerate(drawn))
    return "".join(parts) + "</svg>" + (f'<div class="legend">{legend}</div>' if len(drawn) > 1 else "")


def _usable(curve: Curve, logarithmic: bool) -> Curve:
    pairs = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if math.isfinite(y) and (y > 0.0 or not logarithmic)]
    return Curve(curve.name, [x for x, _ in pairs], [y for _, y in pairs])


def _thinned(curve: Curve, most: int = 200) -> Curve:
    """At most ``most`` points, each the mean of its neighbors."""
    if len(curve.x) <= most:
        return curve
    groups = np.array_split(np.arange(len(curve.x)), most)
    x, y = np.asarray(curve.x), np.asarray(curve.y)
    return Curve(curve.name, [float(x[g].mean()) for g in groups], [float(y[g].mean()) for g in groups])


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """About five round numbers that cover [low, high].

    >>> _ticks(0.0, 100.0)
    [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    """
    raw = max(high - low, 1e-9) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * power >= raw * 0.999)
    step = max(1.0, math.ceil(step)) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 10) for k in range(first, last + 1)]

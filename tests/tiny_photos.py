"""Photos of a textured box on a textured floor, with NumPy alone, for structure from motion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (320, 240)
FOCAL = 330.0
_TEXELS = 192


def texture(seed: int) -> np.ndarray:
    """Noise of several sizes, from 0 to 255."""
    random = np.random.default_rng(seed)
    total = np.zeros((_TEXELS, _TEXELS))
    for cells in (12, 24, 48, 96):
        noise = Image.fromarray(random.random((cells, cells)).astype(np.float32)).resize((_TEXELS, _TEXELS), Image.Resampling.BICUBIC)
        total += np.asarray(noise)
    total = (total - total.min()) / (total.max() - total.min())
    return 255 * np.clip(2.2 * (total - 0.5) + 0.5, 0, 1)


FLOOR, *SIDES = [texture(seed) for seed in range(6)]


def look_up(picture: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bilinear, repeated beyond [0, 1]."""
    x, y = (u * _TEXELS) % _TEXELS, (v * _TEXELS) % _TEXELS
    left, top = x.astype(int), y.astype(int)
    a, b = x - left, y - top
    right, bottom = (left + 1) % _TEXELS, (top + 1) % _TEXELS
    above = picture[top, left] * (1 - a) + picture[top, right] * a
    below = picture[bottom, left] * (1 - a) + picture[bottom, right] * a
    return above * (1 - b) + below * b


def camera(angle: float, height: float = 1.5, distance: float = 3.2) -> np.ndarray:
    """World-from-camera with OpenCV axes, at an angle around +Z, looking at the box."""
    position = np.array([distance * np.cos(angle), distance * np.sin(angle), height])
    forward = np.array([0.0, 0.0, 0.4]) - position
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = right, np.cross(forward, right), forward, position
    return pose


def photo(pose: np.ndarray, size: tuple[int, int] = SIZE, focal: float = FOCAL) -> np.ndarray:
    """What a pinhole camera sees of the floor z = 0 and of the box [-0.5, 0.5]² x [0, 0.9]."""
    width, height = size
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    ray = np.stack(((x - width / 2) / focal, (y - height / 2) / focal, np.ones_like(x)), -1) @ pose[:3, :3].T
    origin = pose[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        to_floor = np.where(ray[..., 2] < 0, -origin[2] / ray[..., 2], np.inf)
        floor = origin + np.minimum(to_floor, 1e3)[..., None] * ray
        gray = np.where(np.isfinite(to_floor) & (to_floor < 20), look_up(FLOOR, floor[..., 0] / 3, floor[..., 1] / 3), 128)
        first = (np.array([-0.5, -0.5, 0.0]) - origin) / ray
        second = (np.array([0.5, 0.5, 0.9]) - origin) / ray
    near, far = np.minimum(first, second), np.maximum(first, second)
    enter, leave = near.max(-1), far.min(-1)
    hit = (enter < leave) & (enter > 0)
    point = origin + np.where(hit, enter, 0)[..., None] * ray
    axis = near.argmax(-1)
    for side in range(3):
        for back in (False, True):
            here = hit & (axis == side) & ((np.take_along_axis(ray, np.full((*ray.shape[:2], 1), side), -1)[..., 0] < 0) == back)
            u, v = (point[..., k] for k in range(3) if k != side)
            gray = np.where(here, look_up(SIDES[(2 * side + back) % 5], u, v), gray)
    return np.rint(gray).astype(np.uint8)


def write_photos(folder: Path, count: int = 10, arc: float = 1.6, **settings: float) -> list[np.ndarray]:
    """Write photos on an arc around the box as PNG files, and return their poses."""
    folder.mkdir(parents=True)
    poses = [camera(arc * k / (count - 1), **settings) for k in range(count)]
    for k, pose in enumerate(poses):
        gray = photo(pose)
        Image.fromarray(np.stack([gray, gray, 255 - gray // 2], -1)).save(folder / f"{k:03d}.png")
    return poses

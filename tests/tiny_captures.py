"""Writes small captures of a ball, with NumPy alone, so that readers are tested against something they did not produce."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

DATA = Path(os.environ.get("UNRENDER_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
BALL = np.array([0.2, -0.1, 0.3])
RADIUS = 0.5
SIZE = (40, 30)
FOCAL = 45.0


def real_capture(name: str) -> Path:
    """The folder of a real capture, or a skipped test."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"the real capture {name} is not there; set UNRENDER_DATA to the folder that holds it")
    return folder


def opengl_poses(count: int = 8, distance: float = 3.0, center: np.ndarray | None = None) -> list[np.ndarray]:
    """Camera-to-world matrices with OpenGL axes on two rings around +Z that look at ``center``."""
    center = np.zeros(3) if center is None else center
    poses = []
    for k in range(count):
        angle = 2 * np.pi * k / count
        height = 0.3 if k % 2 else 0.8
        backward = np.array([np.cos(angle), np.sin(angle), height])
        backward /= np.linalg.norm(backward)
        right = np.cross([0.0, 0.0, 1.0], backward)
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, 0], pose[:3, 1], pose[:3, 2] = right, np.cross(backward, right), backward
        pose[:3, 3] = center + distance * backward
        poses.append(pose)
    return poses


def ball_photo(pose: np.ndarray, ball: np.ndarray = BALL, size: tuple[int, int] = SIZE, focal: float = FOCAL) -> np.ndarray:
    """RGBA of a red ball as a pinhole camera (OpenGL axes, pixel centers at +0.5) sees it; blue hides behind transparent pixels."""
    width, height = size
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    local = np.stack(((x - width / 2) / focal, -(y - height / 2) / focal, -np.ones_like(x)), -1)
    ray = local @ pose[:3, :3].T
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    to_ball = ball - pose[:3, 3]
    along = ray @ to_ball
    hit = (along > 0) & (to_ball @ to_ball - along**2 < RADIUS**2)
    photo = np.zeros((height, width, 4), np.uint8)
    photo[..., 2] = 255
    photo[hit] = (255, 0, 0, 255)
    return photo


def write_blender(folder: Path, *, train: int = 8, test: int = 2, alpha: bool = True) -> Path:
    for split, count in (("train", train), ("test", test)):
        (folder / split).mkdir(parents=True)
        frames = []
        for k, pose in enumerate(opengl_poses(count)):
            photo = ball_photo(pose)
            Image.fromarray(photo if alpha else photo[..., :3]).save(folder / split / f"r_{k}.png")
            frames.append({"file_path": f"./{split}/r_{k}", "rotation": 0.1, "transform_matrix": pose.tolist()})
        angle = 2 * np.arctan(0.5 * SIZE[0] / FOCAL)
        (folder / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": angle, "frames": frames}))
    return folder


def write_transforms(folder: Path, *, count: int = 9, alpha: bool = False, listed: str = "images/{:03d}.png", **keys: Any) -> Path:
    (folder / "images").mkdir(parents=True)
    frames = []
    for k, pose in enumerate(opengl_poses(count)):
        photo = ball_photo(pose)
        Image.fromarray(photo if alpha else photo[..., :3]).save(folder / "images" / f"{k:03d}.png")
        frames.append({"file_path": listed.format(k), "transform_matrix": pose.tolist()})
    content = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": SIZE[0] / 2, "cy": SIZE[1] / 2, "w": SIZE[0], "h": SIZE[1], **keys}
    (folder / "transforms.json").write_text(json.dumps({**content, "frames": frames}))
    return folder


def write_neus(folder: Path, *, count: int = 8, masks: bool = True, file: str = "cameras_sphere.npz", suffix: str = "png") -> Path:
    """With scale_mat = [2 I | (10, 20, 30)], so that the source frame is twice the unit sphere's, and pixel centers at integers."""
    (folder / "image").mkdir(parents=True)
    if masks:
        (folder / "mask").mkdir()
    scale = np.diag([2.0, 2.0, 2.0, 1.0])
    scale[:3, 3] = (10.0, 20.0, 30.0)
    intrinsics = np.array([[FOCAL, 0, SIZE[0] / 2 - 0.5], [0, FOCAL, SIZE[1] / 2 - 0.5], [0, 0, 1]])
    arrays = {}
    for k, pose in enumerate(opengl_poses(count)):
        photo = ball_photo(pose)
        Image.fromarray(photo[..., :3]).save(folder / "image" / f"{k:06d}.{suffix}")
        if masks:
            Image.fromarray(photo[..., 3]).save(folder / "mask" / f"{k:03d}.png")
        camera_from_sphere = np.linalg.inv(pose @ np.diag([1.0, -1.0, -1.0, 1.0]))
        projection = np.eye(4)
        projection[:3] = intrinsics @ camera_from_sphere[:3]
        arrays[f"world_mat_{k}"] = (-1.0 if k % 2 else 1.0) * projection @ np.linalg.inv(scale)
        arrays[f"world_mat_{k}"][3] = (0, 0, 0, 1)
        arrays[f"scale_mat_{k}"] = scale
    np.savez(folder / file, **arrays)
    return folder


COLMAP_MODELS = (
    *("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE", "FULL_OPENCV", "FOV", "SIMPLE_RADIAL_FISHEYE"),
    *("RADIAL_FISHEYE", "THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE", "SIMPLE_DIVISION", "DIVISION", "SIMPLE_FISHEYE", "FISHEYE"),
    *("EUCM", "EQUIRECTANGULAR"),
)
"""In the order of their numbers in binary files."""

COLMAP_POINTS = BALL + RADIUS * np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])

ColmapCameras = dict[int, tuple[str, int, int, list[float]]]
"""Model, width, height and parameters by the numbers of cameras."""


def wxyz_of(rotation: np.ndarray) -> np.ndarray:
    """The unit quaternion of a rotation: the eigenvector of greatest eigenvalue of a symmetric matrix (Bar-Itzhack 2000)."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    k = np.array(
        [
            [xx - yy - zz, xy + yx, xz + zx, zy - yz],
            [xy + yx, yy - xx - zz, yz + zy, xz - zx],
            [xz + zx, yz + zy, zz - xx - yy, yx - xy],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    x, y, z, w = np.linalg.eigh(k)[1][:, -1]
    return np.array([w, x, y, z])


def write_colmap_model(
    folder: Path,
    cameras: ColmapCameras,
    images: list[tuple[str, int, np.ndarray]],
    *,
    form: str = "bin",
    points: np.ndarray = COLMAP_POINTS,
    tracks: int = 2,
) -> Path:
    """A sparse model of images (name, camera, camera-to-world matrix with OpenGL axes), each with two features."""
    folder.mkdir(parents=True, exist_ok=True)
    binary = form == "bin"
    camera_rows, image_rows, point_rows = [], [], []
    for number, (model, width, height, parameters) in cameras.items():
        if binary:
            head = struct.pack("<IiQQ", number, COLMAP_MODELS.index(model), width, height)
            camera_rows.append(head + struct.pack(f"<{len(parameters)}d", *parameters))
        else:
            camera_rows.append(f"{number} {model} {width} {height} {' '.join(map(repr, map(float, parameters)))}\n".encode())
    for number, (name, camera, pose) in enumerate(images, 1):
        camera_from_world = np.linalg.inv(pose @ np.diag([1.0, -1.0, -1.0, 1.0]))
        seven = [*wxyz_of(camera_from_world[:3, :3]).tolist(), *camera_from_world[:3, 3].tolist()]
        if binary:
            features = struct.pack("<Q", 2) + struct.pack("<ddQ", 1.5, 2.5, 1) + struct.pack("<ddQ", 3.5, 4.5, 2**64 - 1)
            image_rows.append(struct.pack("<I7dI", number, *seven, camera) + os.fsencode(name) + b"\0" + features)
        else:
            image_rows.append(f"{number} {' '.join(map(repr, seven))} {camera} {name}\n1.5 2.5 1 3.5 4.5 -1\n".encode())
    for number, point in enumerate(points, 1):
        rgb = (number % 256, 20, 30)
        if binary:
            head = struct.pack("<Q3d3Bd", number, *point, *rgb, 0.5)
            point_rows.append(head + struct.pack("<Q", tracks) + struct.pack("<II", 1, 0) * tracks)
        else:
            point_rows.append(f"{number} {' '.join(map(repr, point.tolist()))} {' '.join(map(str, rgb))} 0.5{' 1 0' * tracks}\n".encode())
    for name, rows in (("cameras", camera_rows), ("images", image_rows), ("points3D", point_rows)):
        head = struct.pack("<Q", len(rows)) if binary else b"# written by a test\n"
        (folder / f"{name}.{form}").write_bytes(head + b"".join(rows))
    return folder


def write_colmap(
    folder: Path, *, count: int = 9, form: str = "bin", model: str = "sparse/0", images: str = "images", masks: str | None = None
) -> Path:
    """A pinhole capture; ``masks`` is the pattern of the names of its masks, such as "masks/{}.png"."""
    (folder / images).mkdir(parents=True)
    listed = []
    for k, pose in enumerate(opengl_poses(count)):
        photo, name = ball_photo(pose), f"{k:03d}.png"
        Image.fromarray(photo[..., :3]).save(folder / images / name)
        if masks is not None:
            file = folder / masks.format(name)
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(photo[..., 3]).save(file)
        listed.append((name, 1, pose))
    camera = ("PINHOLE", *SIZE, [FOCAL, FOCAL, SIZE[0] / 2, SIZE[1] / 2])
    write_colmap_model(folder / model, {1: camera}, listed, form=form)
    return folder


def write_llff(folder: Path, *, count: int = 9, columns: int = 17, masks: bool = True, scale: int = 1, images: str = "images") -> Path:
    """Photos smaller by ``scale`` than the size that the file states."""
    (folder / images).mkdir(parents=True)
    rows = []
    for k, pose in enumerate(opengl_poses(count)):
        photo = ball_photo(pose)
        Image.fromarray(photo[..., :3]).save(folder / images / f"{k:03d}.png")
        if masks:
            (folder / "masks").mkdir(exist_ok=True)
            Image.fromarray(photo[..., 3]).save(folder / "masks" / f"{k:03d}.png")
        right, up, backward, center = pose[:3].T
        size = scale * np.array([SIZE[1], SIZE[0], FOCAL])
        matrix = np.stack((-up, right, backward, center, size), 1)
        rows.append(np.concatenate((matrix.reshape(-1), [2.0, 4.0]))[:columns])
    np.save(folder / "poses_bounds.npy", np.array(rows))
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object], file: str = "transforms.json") -> Path:
    """Change the content of a JSON file of a capture."""
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content))
    return folder


def with_arrays(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> Path:
    """Change the arrays of a capture's ``cameras_sphere.npz``."""
    with np.load(folder / "cameras_sphere.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    change(arrays)
    np.savez(folder / "cameras_sphere.npz", **arrays)
    return folder

"""Small captures of a ball in the formats of other programs, written with NumPy and SciPy alone, and where their cameras see points.

Each writer returns the files of a capture by their names, the true poses (camera to the frame of the file, OpenCV axes), and for each view
a function from points to pixels that is coded from the format's own formula, with pixel centers at +0.5.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from PIL import Image
from scipy.spatial.transform import Rotation

from tiny_captures import FOCAL, SIZE, ball_photo, opengl_poses

Projection = Callable[[np.ndarray], np.ndarray]

WIDTH, HEIGHT = SIZE
FX, FY, CX, CY = 45.0, 46.0, 21.25, 14.5
"""Intrinsics with pixel centers at +0.5."""

OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
COUNT = 6


@dataclass(frozen=True)
class Written:
    files: dict[str, bytes]
    cameras: tuple[str, ...]
    """The files that describe cameras."""
    images: tuple[str, ...]
    """One for each view, in the order of the reader."""
    poses: list[np.ndarray]
    projections: list[Projection]

    def write(self, folder: Path) -> Path:
        for name, data in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return folder


def poses(count: int = COUNT) -> list[np.ndarray]:
    """Camera to world with OpenCV axes."""
    return [pose @ OPENCV for pose in opengl_poses(count)]


def image_bytes(pixels: np.ndarray, suffix: str = "png") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, {"png": "PNG", "jpg": "JPEG", "ppm": "PPM"}[suffix])
    return stream.getvalue()


def photos(pattern: str, count: int = COUNT) -> dict[str, bytes]:
    views = enumerate(opengl_poses(count))
    return {pattern.format(k): image_bytes(ball_photo(pose)[..., :3], pattern.rpartition(".")[2]) for k, pose in views}


def perspective(pose: np.ndarray, distortion: tuple[float, ...] = (0,) * 6, lens: tuple[float, ...] = (FX, FY, CX, CY)) -> Projection:
    """OpenCV's model, with k4 as the fourth radial coefficient."""
    k1, k2, k3, k4, p1, p2 = distortion
    fx, fy, cx, cy = lens

    def project(points: np.ndarray) -> np.ndarray:
        local = (points - pose[:3, 3]) @ pose[:3, :3]
        x, y = local[:, 0] / local[:, 2], local[:, 1] / local[:, 2]
        r = x * x + y * y
        radial = 1 + k1 * r + k2 * r**2 + k3 * r**3 + k4 * r**4
        u = x * radial + 2 * p1 * x * y + p2 * (r + 2 * x * x)
        v = y * radial + 2 * p2 * x * y + p1 * (r + 2 * y * y)
        return np.stack((fx * u + cx, fy * v + cy), -1)

    return project


def fisheye(pose: np.ndarray, k: tuple[float, ...], lens: tuple[float, ...]) -> Projection:
    fx, fy, cx, cy = lens

    def project(points: np.ndarray) -> np.ndarray:
        local = (points - pose[:3, 3]) @ pose[:3, :3]
        across = np.hypot(local[:, 0], local[:, 1])
        angle = np.arctan2(across, local[:, 2])
        bent = angle * (1 + sum(value * angle ** (2 * power + 2) for power, value in enumerate(k)))
        return np.stack((fx * bent * local[:, 0] / across + cx, fy * bent * local[:, 1] / across + cy), -1)

    return project


def row(values: Any) -> str:
    return " ".join(f"{value:.17g}" for value in np.ravel(values))


def rows(matrix: np.ndarray) -> str:
    return "\n".join(map(row, matrix))


INTEGER_K = np.array([[FX, 0, CX - 0.5], [0, FY, CY - 0.5], [0, 0, 1]])
CORNER_K = np.array([[FX, 0, CX], [0, FY, CY], [0, 0, 1]])


def written(files: dict[str, str | bytes], images: dict[str, bytes], projections: list[Projection] | None = None) -> Written:
    described = {name: content.encode() if isinstance(content, str) else content for name, content in files.items()}
    own = projections or [perspective(pose) for pose in poses()]
    return Written({**described, **images}, tuple(described), tuple(images), poses(), own)


def middlebury() -> Written:
    lines = [str(COUNT)]
    for k, pose in enumerate(poses()):
        to_camera = np.linalg.inv(pose)
        lines.append(f"ball{k:04d}.png {row(INTEGER_K)} {row(to_camera[:3, :3])} {row(to_camera[:3, 3])}")
    readme = "The (tight) bounding box for the model is\n(-0.4 -0.7 -0.3)\n(0.8 0.5 0.9)\n"
    return written({"ball_par.txt": "\n".join(lines) + "\n", "README.txt": readme}, photos("ball{:04d}.png"))


def strecha() -> Written:
    files: dict[str, str | bytes] = {}
    for k, pose in enumerate(poses()):
        parts = (rows(INTEGER_K), "0 0 0", rows(pose[:3, :3]), row(pose[:3, 3]), f"{WIDTH} {HEIGHT}")
        files[f"{k:04d}.jpg.camera"] = "\n".join(parts) + "\n"
    return written(files, photos("{:04d}.jpg"))


def mvsnet() -> Written:
    files: dict[str, str | bytes] = {"cams/pair.txt": f"{COUNT}\n" + "".join(f"{k}\n1 {(k + 1) % COUNT} 0.5\n" for k in range(COUNT))}
    for k, pose in enumerate(poses()):
        parts = ("extrinsic", rows(np.linalg.inv(pose)), "", "intrinsic", rows(CORNER_K), "", "2.0 0.01 128 4.0")
        files[f"cams/{k:08d}_cam.txt"] = "\n".join(parts) + "\n"
    return written(files, photos("blended_images/{:08d}.jpg"))


def halcon() -> Written:
    files: dict[str, str | bytes] = {}
    for k, pose in enumerate(poses(), 1):
        keys = {"Focus": 0.0085, "Sx": 0.0085 / FX, "Sy": 0.0085 / FY, "Cx": CX - 0.5, "Cy": CY - 0.5}
        keys |= {"ImageWidth": WIDTH, "ImageHeight": HEIGHT}
        text = "".join(f'{key}:{key.lower()}: {value:.17g};\n  DOUBLE:0.0:;\n  "a comment";\n\n' for key, value in keys.items())
        files[f"extrinsics_camera{k:02d}.txt"] = row(pose[:3]) + "\n"
        files[f"intrinsics_camera{k:02d}.txt"] = f'# INTERNAL\n\nParGroup: Camera: Parameter;\n  "Internal";\n\n{text}'
    images = {}
    for k, pose in enumerate(opengl_poses(COUNT), 1):
        pixels = ball_photo(pose)
        valid = np.full((HEIGHT, WIDTH), 255, np.uint8)
        valid[:3] = 0
        images[f"image_camera{k:02d}.png"] = image_bytes(np.dstack((pixels[..., 0], valid)))
    return written(files, images)


def bundler() -> Written:
    k1, k2 = -0.08, 0.02
    lines = ["# Bundle file v0.3", f"{COUNT + 1} 2"]
    projections: list[Projection] = []
    for pose in poses():
        to_camera = np.linalg.inv(pose @ OPENCV)
        lines += [f"{FOCAL} {k1} {k2}", rows(to_camera[:3, :3]), row(to_camera[:3, 3])]

        def project(points: np.ndarray, to_camera: np.ndarray = to_camera) -> np.ndarray:
            local = points @ to_camera[:3, :3].T + to_camera[:3, 3]
            p = -local[:, :2] / local[:, 2:]
            square = (p * p).sum(-1, keepdims=True)
            pixel = FOCAL * (1 + k1 * square + k2 * square**2) * p
            return np.stack((WIDTH / 2 + pixel[:, 0], HEIGHT / 2 - pixel[:, 1]), -1)

        projections.append(project)
    lines += ["0 0 0"] * 5
    lines += ["0.1 0.2 0.3", "255 0 0", "2 0 5 1.5 2.5 1 7 0.5 0.25", "0.4 0.5 0.6", "0 255 0", "1 2 9 -3 4"]
    images = photos("images/{:03d}.jpg")
    listed = "".join(f"{name} 0 45.0\n" for name in images) + "images/unsolved.jpg\n"
    return written({"bundle/bundle.out": "\n".join(lines) + "\n", "list.txt": listed}, images, projections)


def sdfstudio() -> Written:
    frames = []
    for k, pose in enumerate(poses()):
        intrinsics = np.eye(4)
        intrinsics[:3, :3] = CORNER_K
        frames.append(
            {
                "rgb_path": f"{k:06d}_rgb.png",
                "camtoworld": pose.tolist(),
                "intrinsics": intrinsics.tolist(),
                "foreground_mask": f"{k:06d}_foreground_mask.png",
            }
        )
    box = {"aabb": [[-1, -1, -1], [1, 1, 1.5]], "near": 0.5, "far": 4.5, "radius": 1.0, "collider_type": "near_far"}
    content = {"camera_model": "OPENCV", "height": HEIGHT, "width": WIDTH, "has_mono_prior": False, "worldtogt": np.eye(4).tolist()}
    images = photos("{:06d}_rgb.png")
    masks = {f"{k:06d}_foreground_mask.png": image_bytes(ball_photo(pose)[..., 3]) for k, pose in enumerate(opengl_poses(COUNT))}
    made = written({"meta_data.json": json.dumps({**content, "scene_box": box, "frames": frames})}, images)
    made.files.update(masks)
    return made


def polycam() -> Written:
    files: dict[str, str | bytes] = {}
    for k, pose in enumerate(poses()):
        keys = {f"t_{i}{j}": (pose @ OPENCV)[i, j] for i in range(3) for j in range(4)}
        lens = {"fx": FX, "fy": FY, "cx": CX, "cy": CY, "width": WIDTH, "height": HEIGHT, "blur_score": 50.0}
        files[f"keyframes/corrected_cameras/{1000 + k}.json"] = json.dumps({**lens, **keys})
    return written(files, photos("keyframes/corrected_images/100{}.jpg"))


def record3d() -> Written:
    quaternions = [[*Rotation.from_matrix((pose @ OPENCV)[:3, :3]).as_quat(), *pose[:3, 3]] for pose in poses()]
    content = {"w": WIDTH, "h": HEIGHT, "K": CORNER_K.T.ravel().tolist(), "fps": 30, "poses": quaternions}
    return written({"metadata": json.dumps(content)}, photos("rgb/{}.jpg"))


METASHAPE = {"f": 45.0, "cx": 1.25, "cy": -0.5, "b1": 0.7, "k1": -0.05, "k2": 0.02, "k3": -0.004, "k4": 0.001, "p1": 0.003, "p2": -0.002}


def metashape_formula(pose: np.ndarray, keys: dict[str, float], bent: bool = False) -> Projection:
    """The formula of Metashape's manual, in which P1 multiplies r² + 2 x² in x."""

    def project(points: np.ndarray) -> np.ndarray:
        local = (points - pose[:3, 3]) @ pose[:3, :3]
        x, y = local[:, 0] / local[:, 2], local[:, 1] / local[:, 2]
        if bent:
            r0 = np.hypot(x, y)
            x, y = x * np.arctan(r0) / r0, y * np.arctan(r0) / r0
        r = np.sqrt(x * x + y * y)
        radial = 1 + keys["k1"] * r**2 + keys["k2"] * r**4 + keys["k3"] * r**6 + keys["k4"] * r**8
        u = x * radial + keys["p1"] * (r**2 + 2 * x**2) + 2 * keys["p2"] * x * y
        v = y * radial + keys["p2"] * (r**2 + 2 * y**2) + 2 * keys["p1"] * x * y
        across = WIDTH * 0.5 + keys["cx"] + u * keys["f"] + u * keys["b1"]
        return np.stack((across, HEIGHT * 0.5 + keys["cy"] + v * keys["f"]), -1)

    return project


def metashape(kind: str = "frame", keys: dict[str, float] = METASHAPE) -> Written:
    """In a chunk whose coordinates are those of the poses turned, scaled and moved."""
    turn, scale, shift = Rotation.from_rotvec([0.3, -0.2, 0.9]).as_matrix(), 2.5, np.array([10.0, 20.0, 30.0])
    cameras = ""
    for k, pose in enumerate(poses()):
        inner = pose.copy()  # p = s R q + t
        inner[:3, :3], inner[:3, 3] = turn.T @ pose[:3, :3], turn.T @ (pose[:3, 3] - shift) / scale
        cameras += f'<camera id="{k}" sensor_id="0" component_id="0" label="IMG_{k:04d}"><transform>{row(inner)}</transform></camera>\n'
    cameras += '<camera id="90" sensor_id="0" label="lost"/>\n'
    lens = "".join(f"<{key}>{value}</{key}>" for key, value in keys.items())
    calibration = f'<calibration type="{kind}" class="adjusted"><resolution width="{WIDTH}" height="{HEIGHT}"/>{lens}</calibration>'
    sensor = f'<sensor id="0" type="{kind}"><resolution width="{WIDTH}" height="{HEIGHT}"/>{calibration}</sensor>'
    moved = f'<rotation locked="false">{row(turn)}</rotation><translation>{row(shift)}</translation><scale>{scale}</scale>'
    text = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<document version="2.0.0"><chunk label="Chunk 1"><sensors>{sensor}</sensors>'
        f'<components><component id="0"><transform>{moved}</transform></component></components><cameras>{cameras}</cameras>'
        '<reference>LOCAL_CS["Local Coordinates (m)"]</reference></chunk></document>\n'
    )
    projections = [metashape_formula(pose, keys, kind == "fisheye") for pose in poses()]
    return written({"cameras.xml": text}, photos("images/IMG_{:04d}.jpg"), projections)


def reality_capture() -> Written:
    px, py, k, t = 0.02, -0.01, (-0.05, 0.02, -0.003, 0.001), (0.002, -0.001)
    lines = ["#cameras 6", "#name,x,y,alt,heading,pitch,roll,f,px,py,k1,k2,k3,k4,t1,t2"]
    projections = []
    for number, pose in enumerate(poses()):
        yaw, pitch, roll = Rotation.from_matrix((pose @ OPENCV)[:3, :3]).as_euler("ZXY", degrees=True)
        values = [*pose[:3, 3], -yaw, pitch, roll, FX * 36 / WIDTH, px, py, *k, *t]
        lines.append(f"IMG_{number}.jpg," + ",".join(f"{value:.17g}" for value in values))
        projections.append(perspective(pose, (*k, *t), (FX, FX, WIDTH / 2 + px * WIDTH, HEIGHT / 2 + py * WIDTH)))
    return written({"registration.csv": "\n".join(lines) + "\n"}, photos("IMG_{}.jpg"), projections)


def opensfm(kind: str = "brown") -> Written:
    k, p = (-0.05, 0.02, -0.003), (0.002, -0.001)
    common = {"projection_type": kind, "width": WIDTH, "height": HEIGHT}
    lens = (FX, FY, WIDTH / 2 + 0.02 * WIDTH, HEIGHT / 2 - 0.01 * WIDTH)
    if kind == "brown":
        camera = {"focal_x": FX / WIDTH, "focal_y": FY / WIDTH, "c_x": 0.02, "c_y": -0.01, "k1": k[0], "k2": k[1], "k3": k[2]}
        camera |= {"p1": p[0], "p2": p[1]}
        projections = [perspective(pose, (*k, 0.0, *p), lens) for pose in poses()]
    else:
        camera = {"focal": FX / WIDTH, "k1": k[0], "k2": k[1]}
        projections = [fisheye(pose, k[:2], (FX, FX, WIDTH / 2, HEIGHT / 2)) for pose in poses()]
    shots = {}
    for number, pose in enumerate(poses()):
        to_camera = np.linalg.inv(pose)
        rotation = Rotation.from_matrix(to_camera[:3, :3]).as_rotvec().tolist()
        shots[f"{number:02d}.jpg"] = {"rotation": rotation, "translation": to_camera[:3, 3].tolist(), "camera": "v2 one 40 30"}
    points = {"7": {"coordinates": [0.1, 0.2, 0.3], "color": [1, 2, 3]}, "9": {"coordinates": [0.4, 0.5, 0.6], "color": [0, 0, 0]}}
    whole = {"cameras": {"v2 one 40 30": {**common, **camera}}, "shots": shots, "points": points}
    small = {"cameras": {}, "shots": {"other.jpg": {}}, "points": {}}
    return written({"opensfm/reconstruction.json": json.dumps([small, whole])}, photos("images/{:02d}.jpg"), projections)


def odm() -> Written:
    """The shots of OpenDroneMap in the coordinates of a map."""
    shift = np.array([447312.25, 5411878.5, 318.0])
    camera = {"projection_type": "brown", "width": WIDTH, "height": HEIGHT, "focal_x": FX / WIDTH, "focal_y": FY / WIDTH}
    camera |= {"c_x": (CX - WIDTH / 2) / WIDTH, "c_y": (CY - HEIGHT / 2) / WIDTH, "k1": 0.0, "p1": 0.0}
    other = {"projection_type": "brown", "width": WIDTH, "height": HEIGHT, "focal_x": 2.0, "focal_y": 2.0, "c_x": 0.0, "c_y": 0.0}
    moved = []
    features = []
    for number, pose in enumerate(poses()):
        placed = pose.copy()
        placed[:3, 3] += shift
        moved.append(placed)
        rotation = Rotation.from_matrix(pose[:3, :3].T).as_rotvec().tolist()
        properties = {"filename": f"{number:02d}.jpg", "focal": FX / WIDTH, "width": WIDTH, "height": HEIGHT}
        properties |= {"translation": placed[:3, 3].tolist(), "rotation": rotation}
        features.append({"type": "Feature", "properties": properties, "geometry": {"type": "Point", "coordinates": [8.3, 48.8, 318]}})
    shots = json.dumps({"type": "FeatureCollection", "features": features})
    made = written({"cameras.json": json.dumps({"a": camera, "b": other}), "odm_report/shots.geojson": shots}, photos("images/{:02d}.jpg"))
    return Written(made.files, made.cameras, made.images, moved, [perspective(pose) for pose in moved])


def oxford(compressed: bool = True) -> Written:
    cell = np.empty((1, COUNT), dtype=object)
    for k, pose in enumerate(poses()):
        cell[0, k] = (-3.0 if k % 2 else 0.5) * INTEGER_K @ np.linalg.inv(pose)[:3]
    stream = io.BytesIO()
    scipy.io.savemat(stream, {"first": np.eye(3), "P": cell}, do_compression=compressed)
    return written({"dino_Ps.mat": stream.getvalue()}, photos("viff.{:03d}.ppm"))


WRITERS: dict[str, Callable[[], Written]] = {
    "middlebury": middlebury,
    "strecha": strecha,
    "mvsnet": mvsnet,
    "halcon": halcon,
    "bundler": bundler,
    "sdfstudio": sdfstudio,
    "polycam": polycam,
    "record3d": record3d,
    "metashape": metashape,
    "reality_capture": reality_capture,
    "opensfm": opensfm,
    "odm": odm,
    "oxford": oxford,
}

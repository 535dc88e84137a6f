"""Captures of known meshes, rendered by Mitsuba 3, as ground truth for shape, material and light.

    python benchmarks/mitsuba_captures.py MESH TEXTURE HDR OUT [--relit HDR] [--views 100] [--held-out 20] [--size 256] [--samples 128]

writes OUT as a capture in the layout of NeRF-synthetic (RGBA, sRGB, alpha from the silhouette) and, for its held-out views, OUT/truth with

- ``albedo_NNN.npy``: linear base color, zero outside;
- ``normal_NNN.npy``: unit normal in the frame of the capture;
- ``relit_NNN.npy``: the linear picture under the second light.

``OUT/truth/mesh.ply`` is the mesh in the frame of the capture. The surface has Mitsuba's ``principled`` BSDF with the roughness and the
metallic of the command line and specular 0.5, which is glTF's dielectric. Light is path traced: surfaces light and shadow each other.

The frame has +Z up. The middle of a lat-long picture is seen along +X and its left half towards +Y, as everywhere in unrender.

Mitsuba is not a dependency: ``pip install mitsuba==3.9.*``.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import mitsuba as mi  # pyright: ignore[reportMissingImports]
import numpy as np
import torch
from PIL import Image

from unrender.color import srgb_from_linear
from unrender.geometry.mesh import Mesh, read_mesh

mi.set_variant("scalar_rgb")
mi.set_log_level(mi.LogLevel.Error)

_FIELD = math.radians(36.0)
"""Field of view of a picture."""
_Z_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
"""From +Y up, of the mesh files and of Mitsuba, to +Z up."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("mesh", "texture", "hdr", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--relit", type=Path)
    parser.add_argument("--views", type=int, default=100)
    parser.add_argument("--held-out", type=int, default=20)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--roughness", type=float, default=0.4)
    parser.add_argument("--metallic", type=float, default=0.0)
    given = parser.parse_args()
    truth = given.out / "truth"
    truth.mkdir(parents=True, exist_ok=True)
    mesh = read_mesh(given.mesh, own_axes=True)
    low, high = mesh.bounding_box.double().numpy()
    center = (low + high) / 2
    radius = float(np.linalg.norm(mesh.vertices.double().numpy() - center, axis=1).max())
    turned = torch.from_numpy(mesh.vertices.double().numpy() @ _Z_UP.T).float()
    Mesh(turned, mesh.faces, uvs=mesh.uvs, uv_faces=mesh.uv_faces).export(truth / "mesh.ply", axes="z-up")
    bsdf = {
        "type": "principled",
        "base_color": {"type": "bitmap", "filename": str(given.texture)},
        "roughness": given.roughness,
        "metallic": given.metallic,
        "specular": 0.5,
    }
    shape = {"type": given.mesh.suffix[1:], "filename": str(given.mesh), "bsdf": {"type": "twosided", "bsdf": bsdf}}
    lit, relit = ({"shape": shape, "light": _light(hdr)} for hdr in (given.hdr, given.relit or given.hdr))
    for split, count in (("train", given.views), ("test", given.held_out)):
        (given.out / split).mkdir(exist_ok=True)
        frames: list[dict[str, Any]] = []
        for view, eye in enumerate(_eyes(count, center, 1.05 * radius / math.sin(_FIELD / 2), held_out=split == "test")):
            sensor, pose = _sensor(eye, center, given.size, given.samples)
            picture = _render({"type": "path", "max_depth": 6, "hide_emitters": True}, lit, sensor, seed=view)
            _save(given.out / split / f"r_{view:03d}.png", picture)
            frames.append({"file_path": f"./{split}/r_{view:03d}", "transform_matrix": pose.tolist()})
            if split == "test":
                seen = _render({"type": "aov", "aovs": "albedo:albedo,normal:sh_normal"}, lit, sensor, seed=view)
                np.save(truth / f"albedo_{view:03d}.npy", seen[..., :3])
                np.save(truth / f"normal_{view:03d}.npy", seen[..., 3:6] @ _Z_UP.T.astype(np.float32))
                if given.relit is not None:
                    again = _render({"type": "path", "max_depth": 6, "hide_emitters": True}, relit, sensor, seed=view)
                    np.save(truth / f"relit_{view:03d}.npy", again)
        document = {"camera_angle_x": _FIELD, "frames": frames}
        (given.out / f"transforms_{split}.json").write_text(json.dumps(document, indent=1))


def _light(hdr: Path) -> dict[str, Any]:
    """Return an environment of mean radiance 0.3, so that few pixels are clipped.

    Mitsuba sees the middle of the picture along +Z, and here it is seen along +X.
    """
    picture = np.array(mi.Bitmap(str(hdr)).convert(mi.Bitmap.PixelFormat.RGB, mi.Struct.Type.Float32))
    weights = np.sin(np.pi * (np.arange(len(picture)) + 0.5) / len(picture))
    mean = float((picture.mean((1, 2)) * weights).sum() / weights.sum())
    return {"type": "envmap", "filename": str(hdr), "scale": 0.3 / mean, "to_world": mi.ScalarTransform4f().rotate([0, 1, 0], 90)}


def _eyes(count: int, center: np.ndarray, distance: float, *, held_out: bool) -> np.ndarray:
    """Return camera centers on a spiral over the sphere without its poles; the held-out ones lie between the fitted ones."""
    k = np.arange(count) + (0.5 if held_out else 0.25)
    height = np.sin(math.radians(75)) - (np.sin(math.radians(75)) + np.sin(math.radians(40))) * k / count
    angle = 2 * math.pi * k * (math.sqrt(5) - 1) / 2
    flat = np.sqrt(1 - height**2)
    return center + distance * np.stack([flat * np.cos(angle), height, flat * np.sin(angle)], 1)


def _sensor(eye: np.ndarray, center: np.ndarray, size: int, samples: int) -> tuple[dict[str, Any], np.ndarray]:
    """Return a camera, and its pose in the frame of the capture: camera axes of OpenGL."""
    back = (eye - center) / np.linalg.norm(eye - center)
    right = np.cross([0.0, 1.0, 0.0], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = _Z_UP @ np.stack([right, np.cross(back, right), back], 1)
    pose[:3, 3] = _Z_UP @ eye
    film = {"type": "hdrfilm", "width": size, "height": size, "pixel_format": "rgba", "rfilter": {"type": "box"}}
    look = mi.ScalarTransform4f().look_at(origin=eye.tolist(), target=center.tolist(), up=[0, 1, 0])
    sampler = {"type": "independent", "sample_count": samples}
    return {"type": "perspective", "fov": math.degrees(_FIELD), "to_world": look, "film": film, "sampler": sampler}, pose


def _render(integrator: dict[str, Any], contents: dict[str, Any], sensor: dict[str, Any], *, seed: int) -> np.ndarray:
    scene = mi.load_dict({"type": "scene", "integrator": integrator, "sensor": sensor, **contents})
    render: Any = mi.render  # its stubs know one variant only
    return np.array(render(scene, seed=seed), dtype=np.float32)


def _save(path: Path, picture: np.ndarray) -> None:
    """Write straight alpha; the renderer's color is premultiplied."""
    alpha = picture[..., 3:].clip(0, 1)
    straight = torch.from_numpy(picture[..., :3] / np.maximum(alpha, 1e-4))
    color = srgb_from_linear(straight.clamp(0, 1)).numpy() * (alpha > 0)
    Image.fromarray((np.concatenate([color, alpha], -1) * 255).round().astype(np.uint8)).save(path)


if __name__ == "__main__":
    main()

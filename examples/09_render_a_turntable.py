"""Render a turntable: a video of a textured mesh under a sun, a lamp and a sky.

    python examples/09_render_a_turntable.py [OUTPUT_FOLDER] [--mesh FILE --texture IMAGE] [--size PIXELS] [--frames FRAMES]

The mesh may be any OBJ or GLB file with texture coordinates. The default is the cow "spot" (Keenan Crane, CC0) if UNRENDER_DATA has it, and
otherwise a ring with a checkered texture. Writes turntable.mp4, and turntable.png with eight of its frames.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unrender.cameras import Cameras
from unrender.color import linear_from_srgb
from unrender.files.video import write_video
from unrender.geometry.mesh import Mesh, read_mesh
from unrender.ops.raster import edge_topology
from unrender.render.surface import render_surface
from unrender.shading.lights import AmbientLight, DirectionalLight, PointLight
from unrender.shading.materials import BlinnPhong, Texture
from unrender.transforms import look_at


def patterned_ring(around: int = 96, along: int = 48) -> tuple[Mesh, Tensor]:
    """Return a torus that lies flat, and a checkered texture for it."""
    t, s = torch.meshgrid(torch.arange(along + 1) / along, torch.arange(around + 1) / around, indexing="ij")
    azimuth, tube = 2 * math.pi * s, 2 * math.pi * t
    radius = 0.7 + 0.3 * tube.cos()
    points = torch.stack((radius * azimuth.cos(), radius * azimuth.sin(), 0.3 * tube.sin()), -1)[:-1, :-1].reshape(-1, 3)
    row, column = torch.meshgrid(torch.arange(along), torch.arange(around), indexing="ij")

    def squares(corner: Tensor) -> Tensor:
        a, b, c, d = corner.unbind(0)
        return torch.cat((torch.stack((a, b, c), -1).view(-1, 3), torch.stack((a, c, d), -1).view(-1, 3)))

    rows, columns = torch.stack((row, row, row + 1, row + 1)), torch.stack((column, column + 1, column + 1, column))
    faces = squares(rows % along * around + columns % around)
    uv_faces = squares(rows * (around + 1) + columns)
    v, u = torch.meshgrid(torch.arange(256) / 256, torch.arange(512) / 512, indexing="ij")
    tiles = ((u * 16).floor() + (v * 8).floor()) % 2
    colors = torch.stack((0.85 - 0.6 * tiles, 0.35 + 0.3 * (2 * math.pi * u).sin(), 0.2 + 0.6 * tiles), -1)
    return Mesh(points, faces, uvs=torch.stack((s, t), -1).reshape(-1, 2), uv_faces=uv_faces), colors


def read_textured(mesh_file: Path, image_file: Path) -> tuple[Mesh, Tensor]:
    """Read a mesh, upright (+Z), centered and at most 2 long, and its texture in linear light."""
    mesh = read_mesh(mesh_file)
    if mesh.uvs is None:
        raise SystemExit(f"{mesh_file} has no texture coordinates")
    image = torch.from_numpy(np.asarray(Image.open(image_file).convert("RGB")).copy()).float() / 255
    low, high = mesh.bounding_box
    vertices = 2 * (mesh.vertices - (low + high) / 2) / (high - low).max()
    if mesh_file.suffix == ".obj":  # the format does not define the up axis; in most files it is +Y
        vertices = torch.stack((vertices[:, 0], -vertices[:, 2], vertices[:, 1]), -1)
    return replace(mesh, vertices=vertices), linear_from_srgb(image)


def turntable(frames: int, size: int) -> Cameras:
    azimuth = 2 * math.pi * torch.arange(frames) / frames - math.pi / 3
    positions = torch.stack((3 * azimuth.cos(), 3 * azimuth.sin(), torch.full((frames,), 1.4)), -1)
    poses = look_at(positions, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]).expand(frames, 3))
    return Cameras.alike(
        poses, torch.tensor([1.15 * size, 1.15 * size, size / 2, size / 2]).expand(frames, 4), torch.zeros(frames, 6), size, size
    )


def main(
    folder: Path = Path("runs/09_render_a_turntable"),
    *,
    mesh: Path | None = None,
    texture: Path | None = None,
    size: int = 256,
    frames: int = int(os.environ.get("UNRENDER_EXAMPLE_STEPS", "48")),
    samples: int = 2,
) -> None:
    """Render a textured mesh from all sides.

    Args:
        folder: where to write the video.
        mesh: an OBJ or GLB file with texture coordinates.
        texture: image file of its texture.
        size: pixels along each side of a frame.
        frames: number of frames of one turn.
        samples: along each side of a pixel.
    """
    spot = Path(os.environ.get("UNRENDER_DATA", Path(__file__).parents[2] / "shared" / "data")) / "meshes"
    if mesh is not None and texture is not None:
        shape, colors = read_textured(mesh, texture)
    elif (spot / "spot.obj").exists():
        shape, colors = read_textured(spot / "spot.obj", spot / "spot_texture.png")
    else:
        shape, colors = patterned_ring()
    shape = shape.with_vertex_normals()
    material = BlinnPhong(Texture(colors), specular=torch.full((3,), 0.08), exponent=torch.tensor(60.0))
    lights = [
        AmbientLight(torch.tensor([0.25, 0.28, 0.35])),
        DirectionalLight(torch.tensor([1.0, -1.5, 2.0]), torch.tensor([0.75, 0.7, 0.6])),
        PointLight(torch.tensor([-2.0, 1.5, 1.0]), torch.tensor([2.0, 1.6, 1.2])),
    ]
    cameras, topology = turntable(frames, size), edge_topology(shape.faces)  # the faces never change, so the topology is computed once

    started = time.perf_counter()
    pictures, covered = [], []
    for frame in range(frames):
        seen = render_surface(shape, material, lights, cameras[frame], background=torch.ones(3), samples=samples, topology=topology)
        pictures.append((seen.srgb[0].clamp(0, 1) * 255).round().byte())
        covered.append(float(seen.opacity.mean()))
    rate = frames / (time.perf_counter() - started)
    print(f"{len(shape.faces):,} triangles, {size} x {size} pixels of {samples}² samples: {rate:.1f} frames/s")

    folder.mkdir(parents=True, exist_ok=True)
    write_video(folder / "turntable.mp4", pictures)
    eight = [pictures[frame * frames // 8] for frame in range(8)]
    sheet = torch.cat((torch.cat(eight[:4], 1), torch.cat(eight[4:], 1)))
    Image.fromarray(sheet.numpy()).save(folder / "turntable.png")
    print(f"the mesh covers {min(covered):.0%} to {max(covered):.0%} of a frame; wrote {folder}/turntable.mp4 and turntable.png")
    if min(covered) < 0.05 or not all(bool(picture.float().std() > 10) for picture in pictures):
        raise SystemExit("a frame is empty")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/09_render_a_turntable"), help="where to write the video")
    parser.add_argument("--mesh", type=Path, help="an OBJ or GLB file with texture coordinates")
    parser.add_argument("--texture", type=Path, help="image file of its texture")
    parser.add_argument("--size", type=int, default=256, help="pixels along each side of a frame")
    parser.add_argument(
        "--frames", type=int, default=int(os.environ.get("UNRENDER_EXAMPLE_STEPS", "48")), help="number of frames of one turn"
    )
    parser.add_argument("--samples", type=int, default=2, help="along each side of a pixel")
    main(**vars(parser.parse_args()))

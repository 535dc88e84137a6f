"""Renders a turntable video of a textured mesh, with the truth about its cameras and surface."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from unrender.cameras import Cameras
from unrender.color import linear_from_srgb
from unrender.files.video import write_video
from unrender.geometry.mesh import Mesh, read_mesh
from unrender.render.rendering import Rendering
from unrender.render.surface import render_surface
from unrender.shading.lights import AmbientLight, DirectionalLight, Light
from unrender.shading.materials import Lambert, Texture
from unrender.transforms import look_at

_LIGHTS: tuple[Light, ...] = (AmbientLight(torch.full((3,), 0.45)), DirectionalLight(torch.tensor([0.4, -0.3, 0.8]), torch.full((3,), 0.6)))
_OPENGL_FROM_OPENCV = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))


@dataclass(frozen=True)
class Turntable:
    """A mesh on a disc with a texture of random spots, and the cameras around it."""

    mesh: Mesh
    texels: Tensor
    cameras: Cameras

    @classmethod
    def of(cls, mesh_file: Path, texture_file: Path, *, frames: int, side: int) -> Turntable:
        """Place a mesh with +Y up on the disc; the elevation of the cameras varies between 15 and 35 degrees."""
        mesh = read_mesh(mesh_file, own_axes=True)
        low, high = mesh.bounding_box.unbind()
        turn = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
        shift = torch.eye(4)
        shift[:3, 3] = -(low + high) / 2
        grow = torch.diag(torch.tensor([2 / float((high - low).max())] * 3 + [1.0]))
        picture = np.asarray(Image.open(texture_file).convert("RGB"), np.float32) / 255
        angle = torch.arange(frames) * (2 * math.pi / frames)
        elevation = torch.deg2rad(25 + 10 * torch.sin(2 * angle))
        around = torch.stack((elevation.cos() * angle.cos(), elevation.cos() * angle.sin(), elevation.sin()), 1)
        poses = look_at(4 * around, torch.zeros(frames, 3), torch.tensor([0.0, 0.0, 1.0]))
        lens = torch.tensor([[1.25 * side, 1.25 * side, side / 2, side / 2]]).expand(frames, 4)
        upright = mesh.transformed(grow @ turn @ shift).with_up((0.0, 0.0, 1.0))
        return cls(upright, linear_from_srgb(torch.from_numpy(picture)), Cameras.alike(poses, lens, None, side, side))

    def write_video(self, file: Path) -> None:
        """Write the frames, 24 a second."""
        write_video(file, (self._frame(view) for view in range(len(self.cameras))))

    def poses_of(self, names: list[str]) -> Float[Tensor, "views 4 4"]:
        """Return the true poses of frames, by the names of their files."""
        return self.cameras.world_from_camera[[number_of(name) for name in names]].double()

    def write_masks(self, folder: Path, names: list[str]) -> None:
        """Write the silhouette of the mesh for each frame, named by its number from 1 on."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            opacity = self._spot(number_of(name)).opacity
            Image.fromarray((opacity[0] * 255).round().byte().numpy()).save(folder / f"{Path(name).stem}.png")

    def write_transforms(self, file: Path, names: list[str]) -> None:
        """Write the true poses and lens of frames."""
        focal, _, center, _ = self.cameras.intrinsics[0].tolist()
        poses = self.cameras.world_from_camera @ _OPENGL_FROM_OPENCV
        frames = [{"file_path": f"images/{name}", "transform_matrix": poses[number_of(name)].tolist()} for name in names]
        lens = {"fl_x": focal, "fl_y": focal, "cx": center, "cy": center, "w": self.cameras.width, "h": self.cameras.height}
        file.write_text(json.dumps({**lens, "frames": frames}))

    def _frame(self, view: int) -> Tensor:
        disc, spots = _disc(float(self.mesh.vertices[:, 2].min()))
        camera = self.cameras[view : view + 1]
        ground = render_surface(disc, Lambert(Texture(spots)), _LIGHTS, camera, background=torch.full((3,), 0.02), samples=2)
        return (self._spot(view, ground.color[0]).srgb[0].clamp(0, 1) * 255).round().byte()

    def _spot(self, view: int, background: Tensor | None = None) -> Rendering:
        material, camera = Lambert(Texture(self.texels)), self.cameras[view : view + 1]
        return render_surface(self.mesh.with_vertex_normals(), material, _LIGHTS, camera, background=background, samples=2)


def number_of(name: str) -> int:
    """Return the index of the frame that a file ``frame_00001.jpg`` shows."""
    return int(Path(name).stem.removeprefix("frame_")) - 1


def _disc(height: float) -> tuple[Mesh, Tensor]:
    angle = torch.arange(64) * (2 * math.pi / 64)
    rim = torch.stack((1.5 * angle.cos(), 1.5 * angle.sin(), torch.zeros(64)), 1)
    vertices = torch.cat((torch.zeros(1, 3), rim)) + torch.tensor([0.0, 0.0, height])
    faces = torch.tensor([[0, 1 + k, 1 + (k + 1) % 64] for k in range(64)], dtype=torch.int32)
    uvs = vertices[:, :2] / 3 + 0.5
    random = np.random.default_rng(0)
    layers = [np.asarray(Image.fromarray(random.integers(0, 255, (n, n, 3), dtype=np.uint8)).resize((1024, 1024))) for n in (24, 80, 200)]
    spots = np.mean(layers, 0, dtype=np.float32) / 255
    spots = np.clip(0.45 + 1.6 * (spots - 0.5), 0.02, 0.95)
    return Mesh(vertices, faces, uvs=uvs, uv_faces=faces), torch.from_numpy(spots.astype(np.float32))

"""A mesh with its material under a light, rendered by us and by Mitsuba 3, side by side.

    python benchmarks/mitsuba_asset.py ASSET.gltf LIGHT.hdr OUT [--views 4] [--side 256] [--samples 256]

The asset is brought into a ball of radius one and seen by a ring of cameras. Mitsuba path traces its ``principled`` surface with the same
textures, ``specular`` 0.5 (F0 = 0.04), under the same cube map as a lat-long picture. Written are ``ours``, ``mitsuba`` and four times the
difference as PNG, and the PSNR of the sRGB pixels more than one pixel inside of the silhouette is printed. What remains has these causes:

- *split sum*: we blur the light with the lobe seen along the normal and scale it by a table; Mitsuba integrates the product;
- *occlusion*: our shadows and the light from one part of the surface to another are interpolated between vertices, and scale the specular
  light by an estimate; ``--depth 2`` leaves Mitsuba the shadows alone;
- *diffuse*: ours is Lambert's, that of ``principled`` is Burley's, darker by a few per cent where it is seen at grazing angles and
  smooth, and brighter where it is rough;
- *normal map*: Mitsuba takes the tangent of each triangle, we those of the vertices (MikkTSpace), and where the mapped normal turns away
  from the viewer Mitsuba is black.

Mitsuba is not a dependency: ``pip install mitsuba==3.9.*``.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import mitsuba as mi  # pyright: ignore[reportMissingImports]
import numpy as np
import torch
from lit_assets import lit
from numpy import ndarray
from PIL import Image
from scipy.ndimage import binary_erosion
from torch import Tensor

from unrender.cameras import Cameras
from unrender.color import srgb_from_linear
from unrender.geometry.mesh import Mesh
from unrender.render.asset import Asset, PbrMaterial, read_asset
from unrender.render.lit import LitScene
from unrender.shading.latlong import latlong_from_cube
from unrender.transforms import look_at

if mi.variant() is None:  # another script may have chosen a differentiable one
    mi.set_variant("scalar_rgb")
mi.set_log_level(mi.LogLevel.Error)

_FIELD = math.radians(36.0)
_Z_UP = [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
"""From +Y up, of Mitsuba's lights, to +Z up."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("asset", "hdr", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--depth", type=int, default=6)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    asset = lit(read_asset(given.asset), given.hdr)
    cameras, scene = ring(given.views, given.side), LitScene(asset)
    for view in range(given.views):
        seen = scene.render_view(cameras, view)
        ours = seen.srgb.clamp(0, 1).double().numpy()
        inside: ndarray = binary_erosion(seen.opacity.numpy() > 0.999, iterations=2)
        theirs = seen_by_mitsuba(asset, cameras[view], samples=given.samples, depth=given.depth)
        print(f"view {view}: {decibels(ours, theirs, inside):.2f} dB, {(ours - theirs)[inside].mean():+.4f} in the mean", flush=True)
        for name, picture in (("ours", ours), ("mitsuba", theirs), ("difference", 4 * np.abs(ours - theirs))):
            Image.fromarray((picture.clip(0, 1) * 255).round().astype(np.uint8)).save(given.out / f"{view}_{name}.png")


def ring(views: int, side: int) -> Cameras:
    """Return cameras all around, 25 degrees above the horizon, with the ball in the picture."""
    angle = 2 * math.pi * (torch.arange(views) + 0.3) / views
    height = math.radians(25)
    away = torch.stack([math.cos(height) * angle.cos(), math.cos(height) * angle.sin(), torch.full_like(angle, math.sin(height))], -1)
    poses = look_at(1.05 / math.sin(_FIELD / 2) * away, torch.zeros(views, 3), torch.tensor([0.0, 0.0, 1.0]))
    focal = side / 2 / math.tan(_FIELD / 2)
    lens = torch.tensor([[focal, focal, side / 2, side / 2]]).expand(views, 4)
    return Cameras.alike(poses, lens, None, side, side)


def decibels(ours: ndarray, theirs: ndarray, inside: ndarray) -> float:
    """Return the PSNR of the pixels inside of the surface."""
    return float(-10 * np.log10(np.square(ours - theirs)[inside].mean()))


def seen_by_mitsuba(asset: Asset, camera: Cameras, *, samples: int, depth: int) -> ndarray:
    """Return the sRGB picture [height, width, 3] over black that Mitsuba renders of an asset with textures and a light."""
    assert asset.material is not None and asset.environment is not None
    scene = {
        "type": "scene",
        "integrator": {"type": "path", "max_depth": depth, "hide_emitters": True},
        "sensor": sensor_of(camera, samples, "rgb"),
        "light": light_of(latlong_from_cube(asset.environment.texels, 512)),
        "shape": shape_of(asset.mesh, _surface(asset.material)),
    }
    render: Any = mi.render  # its stubs know one variant only
    linear = torch.from_numpy(np.array(render(mi.load_dict(scene), seed=0), dtype=np.float32))
    return srgb_from_linear(linear.clamp(0, 1)).double().numpy()


def sensor_of(camera: Cameras, samples: int, channels: str) -> dict[str, Any]:
    """Return Mitsuba's description of a camera whose optical axis is in the middle of the picture."""
    axes = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0]).double())  # it looks along +Z too, but has +X to the left and +Y up
    return {
        "type": "perspective",
        "fov": math.degrees(2 * math.atan(camera.width / 2 / float(camera.intrinsics[0, 0]))),
        "to_world": mi.ScalarTransform4f((camera.world_from_camera[0].double() @ axes).numpy()),
        "near_clip": 0.05,
        "film": {"type": "hdrfilm", "width": camera.width, "height": camera.height, "pixel_format": channels, "rfilter": {"type": "box"}},
        "sampler": {"type": "independent", "sample_count": samples},
    }


def light_of(latlong: Tensor) -> dict[str, Any]:
    """Return Mitsuba's description of a light in a world with +Z up."""
    turned = mi.ScalarTransform4f(_Z_UP) @ mi.ScalarTransform4f().rotate([0, 1, 0], 90)  # its middle is seen along +Z, ours along +X
    return {"type": "envmap", "bitmap": mi.Bitmap(latlong.contiguous().numpy()), "to_world": turned}


def _surface(material: PbrMaterial) -> dict[str, Any]:
    assert material.base_color is not None and material.roughness_metallic is not None
    roughness, metallic = material.roughness_metallic.split(1, dim=-1)
    surface: dict[str, Any] = {
        "type": "principled",
        "base_color": picture_of(material.base_color[..., :3]),
        "roughness": picture_of(roughness),
        "metallic": picture_of(metallic),
        "specular": 0.5,
    }
    if material.normal is not None:
        surface = {"type": "normalmap", "normalmap": picture_of(0.5 * material.normal + 0.5), "bsdf": surface}
    return {"type": "twosided", "bsdf": surface}


def picture_of(texels: Tensor) -> dict[str, Any]:
    """Return Mitsuba's description of a texture of an atlas."""
    return {"type": "bitmap", "bitmap": mi.Bitmap(texels.contiguous().numpy()), "raw": True, "wrap_mode": "clamp"}


def shape_of(mesh: Mesh, surface: dict[str, Any]) -> Any:
    """Return the mesh with one index for positions and texture coordinates; a vertex at a seam appears several times."""
    assert mesh.uvs is not None and mesh.uv_faces is not None and mesh.normals is not None
    pairs, corners = torch.unique(torch.stack([mesh.faces.long().flatten(), mesh.uv_faces.long().flatten()], 1), dim=0, return_inverse=True)
    properties = mi.Properties()
    properties["bsdf"] = mi.load_dict(surface)
    shape = mi.Mesh("asset", len(pairs), len(mesh.faces), has_vertex_normals=True, has_vertex_texcoords=True, props=properties)
    parameters = mi.traverse(shape)
    parameters["vertex_positions"] = mesh.vertices[pairs[:, 0]].flatten().numpy()
    parameters["vertex_normals"] = mesh.normals[pairs[:, 0]].flatten().numpy()
    parameters["vertex_texcoords"] = mesh.uvs[pairs[:, 1]].flatten().numpy()
    parameters["faces"] = corners.to(torch.int32).numpy().astype(np.uint32)
    parameters.update()
    return shape


if __name__ == "__main__":
    main()

"""Environments as lat-long pictures, the form in which programs exchange them.

Seen from inside with +Z up: the middle of the picture looks along +X, its left half towards +Y, its right half towards −Y, as Blender reads
it. The pixel at the fraction u of the width and v of the height shows the direction with the azimuth π (1 − 2u) and the polar angle π v.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.files.hdr import read_exr, read_hdr, write_exr, write_hdr
from unrender.numerics import normalized
from unrender.ops.raster import texture
from unrender.shading.cubes import cube_directions, reduced
from unrender.shading.lights import EnvironmentLight

LIGHT_SIZE = 128
"""Texels along an edge of the cube map of a known light: enough for glossy surfaces, and a few seconds for its convolutions."""


def read_environment(path: str | Path, size: int = 512, source_from_world: Float[Tensor, "4 4"] | None = None) -> EnvironmentLight:
    """Read a lat-long picture (.hdr or .exr) as an environment.

    Args:
        path: the file; its picture is in the axes of the source frame.
        size: texels along an edge of the cube map; each is the mean of the light that it covers.
        source_from_world: a similarity that gives the axes of the world; by default they are those of the source.

    Raises:
        ValueError: the suffix is another, or the file is no such picture.
        OSError: the file cannot be read.
    """
    return EnvironmentLight(cube_from_latlong(read_latlong(Path(path)), size, source_from_world))


def turned(environment: EnvironmentLight, angle: float) -> EnvironmentLight:
    """Turn an environment about +Z by an angle in radians, counterclockwise seen from above.

    >>> bright = EnvironmentLight(torch.tensor([1.0, 0, 0, 0, 0, 0]).view(6, 1, 1, 1).expand(6, 1, 1, 3))  # light from +X
    >>> turned(bright, torch.pi / 2).texels[:, 0, 0, 0].round(decimals=4).abs().tolist()
    [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    """
    texels = environment.texels
    x, y, z = cube_directions(texels.shape[1], texels.dtype, texels.device).unbind(-1)
    cosine, sine = math.cos(angle), math.sin(angle)
    return replace(environment, texels=environment.radiance(torch.stack([cosine * x + sine * y, cosine * y - sine * x, z], -1)))


def read_latlong(path: Path) -> Float[Tensor, "height width 3"]:
    """Read the linear light of a lat-long picture (.hdr or .exr).

    Raises:
        ValueError: the suffix is another, the file is no such picture, or a value is not finite.
        OSError: the file cannot be read.
    """
    picture = {".hdr": read_hdr, ".exr": read_exr}[checked_suffix(path)](path)
    broken = int((~picture.isfinite()).any(-1).sum())
    if broken:
        raise ValueError(f"{path} has {broken} pixels whose light is not a finite number; write the picture again without them")
    return picture


def write_environment(path: str | Path, environment: EnvironmentLight, source_from_world: Float[Tensor, "4 4"], height: int = 256) -> None:
    """Write an environment as a lat-long picture (.hdr or .exr) in the axes of the source frame.

    Args:
        path: the file; an existing one is replaced.
        environment: in the axes of the world.
        source_from_world: its rotation turns the picture.
        height: rows; there are twice as many columns.

    Raises:
        ValueError: the suffix is another, or a value is not finite.
        OSError: the file cannot be written.
    """
    path = Path(path)
    write = {".hdr": write_hdr, ".exr": write_exr}[checked_suffix(path)]
    with torch.no_grad():
        write(path, latlong_from_cube(environment.texels, height, source_from_world))


def latlong_from_cube(
    texels: Float[Tensor, "6 size size 3"], height: int, source_from_world: Float[Tensor, "4 4"] | None = None
) -> Float[Tensor, "height width 3"]:
    """Look up a cube map at the directions of a lat-long picture, which is twice as wide as high."""
    dtype, device = texels.dtype, texels.device
    azimuth = torch.pi * (1 - 2 * (torch.arange(2 * height, dtype=dtype, device=device) + 0.5) / (2 * height))
    polar = torch.pi * (torch.arange(height, dtype=dtype, device=device) + 0.5) / height
    polar, azimuth = torch.meshgrid(polar, azimuth, indexing="ij")
    directions = torch.stack([polar.sin() * azimuth.cos(), polar.sin() * azimuth.sin(), polar.cos()], -1)
    if source_from_world is not None:
        # Rows times R turn directions of the source frame into the world; the scale of the similarity changes no direction.
        directions = directions @ source_from_world[:3, :3].to(device, dtype)
    return texture(texels[None], directions[None], filter="linear", boundary="cube")[0]


def cube_from_latlong(
    picture: Float[Tensor, "height width 3"], size: int, source_from_world: Float[Tensor, "4 4"] | None = None
) -> Float[Tensor, "6 size size 3"]:
    """Average a lat-long picture over the texels of a cube map."""
    height, width = picture.shape[:2]
    fine = size * max(1, -(-max(width // 4, height // 2) // size))
    directions = cube_directions(fine, picture.dtype, picture.device)
    if source_from_world is not None:
        directions = directions @ source_from_world[:3, :3].to(picture.device, picture.dtype).T
    x, y, z = normalized(directions).unbind(-1)
    padded = torch.cat([picture[:, -1:], picture, picture[:, :1]], 1)  # the left and the right border meet
    u = ((1 - torch.atan2(y, x) / torch.pi) / 2 * width + 1) / (width + 2)
    v = torch.acos(z.clamp(-1, 1)) / torch.pi
    found = texture(padded[None], torch.stack([u, v], -1).view(1, 6 * fine, fine, 2), filter="linear", boundary="clamp")
    return reduced(found.view(6, fine, fine, 3), size)


def checked_suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (".hdr", ".exr"):
        raise ValueError(f"{path} has the suffix {suffix!r}; an environment is a lat-long picture .hdr or .exr")
    return suffix

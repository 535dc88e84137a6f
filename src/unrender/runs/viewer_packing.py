"""An asset packed for ``viewer.js``: positions and directions in 16 bits, textures as pictures, its light as prefiltered cube maps.

All numbers are in planes of differences of neighbors, the low bytes of all values first, compressed with gzip.
"""

from __future__ import annotations

import base64
import gzip
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int, UInt
from numpy import ndarray
from torch import Tensor

from unrender.color import srgb_from_linear
from unrender.files.mesh_files.pictures import levels_of
from unrender.files.png import png_uri
from unrender.geometry.mesh import Mesh
from unrender.render.asset import Asset, PbrMaterial
from unrender.render.lit import MOST_SHADOWED_VERTICES, base_color_of_vertices
from unrender.runs.figures import color_picture, data_uri
from unrender.runs.viewpoint import ELEVATION, Viewpoint
from unrender.shading.cubes import cube_directions, reduced
from unrender.shading.lights import EnvironmentLight, PrefilteredLight, prefiltered
from unrender.shading.reflectance import directional_albedo
from unrender.shading.shadows import light_transport, shadowed

_LARGEST_LIGHT = 64
"""Texels along an edge of the cube maps of the light: a mirror shows 1.4 degrees."""
_PLAIN_LIGHT = 16
_REFLECTANCE = 32
"""Entries along an edge of the table of the reflectance, linear between them to 0.003."""
_EMBEDDED_TEXTURE = 1024


def packed(asset: Asset, viewpoint: Viewpoint, *, most_faces: int, lossless: bool) -> dict[str, object]:
    """Pack an asset in the axes of the page, in a ball of radius one.

    Args:
        asset: with a surface.
        viewpoint: of the first view.
        most_faces: a mesh of more is coarsened, unless it has textures.
        lossless: keep the textures as they are; otherwise they are JPEG of at most 1024 pixels a side.
    """
    material, lit, textured = asset.material or PbrMaterial(), is_lit(asset), is_textured(asset)
    mesh = asset.mesh.to("cpu") if textured else coarsened(asset.mesh.to("cpu"), most_faces)
    if lit and mesh.normals is None:
        mesh = mesh.with_vertex_normals()
    if textured and material.normal is not None and mesh.tangents is None:
        mesh = mesh.with_tangents()
    page_from_world = viewpoint.page_from_world.double()
    vertex, coordinate, corners = _rows(mesh, textured)
    positions = (mesh.vertices.detach().double() @ page_from_world.T)[vertex].numpy()
    middle = (positions.min(0) + positions.max(0)) / 2
    radius = max(float(np.linalg.norm(positions - middle, axis=1).max()), 1e-30)
    levels, box = _in_box((positions - middle) / radius)
    planes = _planes(levels)
    described: dict[str, object] = {
        "vertices": len(positions),
        "faces": len(corners) // 3,
        "box": box,
        "pitch": float(np.deg2rad(ELEVATION)),
        "lit": lit,
        "colors": mesh.colors is not None and not (textured and material.base_color is not None),
        "textures": _textures(material, lossless) if textured else {},
    }
    if described["colors"] and mesh.colors is not None:
        planes += _planes(np.round(mesh.colors.detach().clamp(0, 1)[vertex].numpy() * 255).astype(np.uint8))
    if textured and mesh.uvs is not None:
        levels, described["uvBox"] = _in_box(mesh.uvs.detach().double()[coordinate].numpy())
        planes += _planes(levels)
    if lit and mesh.normals is not None:
        planes += _planes(_octahedral((mesh.normals.detach().double() @ page_from_world.T)[vertex].numpy()))
    if textured and material.normal is not None and mesh.tangents is not None:
        tangents = mesh.tangents.detach().double()[coordinate]
        planes += _planes(_octahedral((tangents[:, :3] @ page_from_world.T).numpy()))
        planes += _planes((tangents[:, 3:] > 0).numpy().astype(np.uint8) * 255)
    planes += _planes(corners.numpy().astype(np.uint32)[:, None])
    if lit:
        environment = asset.environment or EnvironmentLight(torch.ones(6, _PLAIN_LIGHT, _PLAIN_LIGHT, 3))
        cubes, levels = _cubes(environment)
        if (shadows := _shadows(asset)) is not None:
            strongest = max(float(shadows[:, :3].max()), 1.0)
            described["strongest"] = strongest
            shadows = shadows[vertex] / torch.tensor([strongest, strongest, strongest, 1.0])
            planes += _planes((shadows.clamp(0, 1) * 255).round().byte().numpy())
        light_from_page = page_from_world.T
        if environment.light_from_world is not None:
            light_from_page = environment.light_from_world[0].detach().double().cpu() @ light_from_page
        described |= {
            "roughness": material.roughness,
            "metallic": material.metallic,
            "light": {"fromPage": light_from_page.T.flatten().tolist(), "levels": levels, "sizes": [cube.shape[1] for cube in cubes]},
            "reflectance": _REFLECTANCE,
        }
        planes += [plane for cube in cubes for plane in _planes(_shared_exponents(cube.reshape(-1, 3).numpy())[:, None])]
        planes += _planes(_reflectance().astype("<f2").view(np.uint16))
    described["data"] = base64.b64encode(gzip.compress(b"".join(planes), 9, mtime=0)).decode("ascii")
    return described


def is_textured(asset: Asset) -> bool:
    """Tell whether an asset has textures that its mesh has coordinates for."""
    material = asset.material or PbrMaterial()
    return asset.mesh.uvs is not None and any(x is not None for x in (material.base_color, material.roughness_metallic, material.normal))


def is_lit(asset: Asset) -> bool:
    """Tell whether light falls on an asset; otherwise it is part of the colors."""
    return asset.material is not None or (asset.environment is not None and asset.mesh.colors is None)


def coarsened(mesh: Mesh, most_faces: int) -> Mesh:
    """Merge vertices that share a cell of a grid until at most ``most_faces`` triangles are left.

    The grid is the finest of some that suffices. A merged vertex is the mean of its vertices; triangles with two corners in one cell are
    dropped (Rossignac and Borrel, Multi-resolution 3D approximations for rendering complex scenes, 1993).
    """
    cells = 1024
    original = mesh
    while len(mesh.faces) > most_faces:
        mesh, cells = _clustered(original, cells), int(cells / 1.3)
    return mesh


def _clustered(mesh: Mesh, cells: int) -> Mesh:
    low, high = mesh.bounding_box.double()
    cell = ((mesh.vertices.double() - low) * (cells / float((high - low).max()))).floor().long()
    _, group = torch.unique((cell[:, 0] * (cells + 1) + cell[:, 1]) * (cells + 1) + cell[:, 2], return_inverse=True)
    count = torch.bincount(group).double()[:, None]

    def mean(values: Tensor) -> Tensor:
        return (torch.zeros(len(count), 3, dtype=torch.float64, device=values.device).index_add_(0, group, values.double()) / count).float()

    faces = group[mesh.faces.long()]
    a, b, c = faces.unbind(1)
    colors = None if mesh.colors is None else mean(mesh.colors.detach())
    return Mesh(mean(mesh.vertices.detach()), faces[(a != b) & (b != c) & (c != a)], colors)


def _rows(mesh: Mesh, textured: bool) -> tuple[Int[Tensor, " rows"], Int[Tensor, " coordinates"], Int[Tensor, " corners"]]:
    """Return the vertex of each row, its texture coordinate if there are textures, and the row of each corner."""
    if not textured or mesh.uv_faces is None:
        return torch.arange(len(mesh.vertices)), torch.zeros(0, dtype=torch.int64), mesh.faces.long().flatten()
    pairs, corners = torch.unique(torch.stack([mesh.faces.long().flatten(), mesh.uv_faces.long().flatten()], 1), dim=0, return_inverse=True)
    return pairs[:, 0], pairs[:, 1], corners


def _in_box(values: Float[ndarray, "rows columns"]) -> tuple[UInt[ndarray, "rows columns"], list[list[float]]]:
    """Return values in 16 bits, and the ends of their range, column by column."""
    low, high = values.min(0), values.max(0)
    levels = np.round((values - low) / np.maximum(high - low, 1e-30) * 65535)
    return levels.astype(np.uint16), [low.tolist(), high.tolist()]


def _octahedral(directions: Float[ndarray, "rows 3"]) -> UInt[ndarray, "rows 2"]:
    """Project directions to an octahedron that is unfolded to a square, in 16 bits to 0.005 degrees.

    Source: Cigolle et al., A survey of efficient representations for independent unit vectors, 2014.
    """
    flat = directions / np.maximum(np.abs(directions).sum(1, keepdims=True), 1e-30)
    folded = (1 - np.abs(flat[:, 1::-1])) * np.where(flat[:, :2] < 0, -1.0, 1.0)
    square = np.where(flat[:, 2:] < 0, folded, flat[:, :2])
    return np.round((square.clip(-1, 1) + 1) / 2 * 65535).astype(np.uint16)


def _shared_exponents(light: Float[ndarray, "rows 3"]) -> UInt[ndarray, " rows"]:
    """Pack colors as three mantissas of 9 bits and one exponent of 5 (OpenGL ES 3.0.6 specification, section 3.8.3.2).

    >>> [hex(word) for word in _shared_exponents(np.array([[1.0, 0.5, 0.0], [0.0, 0.0, 1e9]]))]
    ['0x80010100', '0xfffc0000']
    """
    clipped = np.nan_to_num(light.astype(np.float64)).clip(0, 65408.0)
    largest = np.maximum(clipped.max(1), 2.0**-16)
    exponent = np.floor(np.log2(largest)) + 1
    exponent += np.round(largest * 2.0 ** (9 - exponent)) == 512
    mantissas = np.round(clipped * 2.0 ** (9 - exponent)[:, None]).astype(np.uint32)
    return mantissas[:, 0] | mantissas[:, 1] << 9 | mantissas[:, 2] << 18 | (exponent + 15).astype(np.uint32) << 27


def _cubes(environment: EnvironmentLight) -> tuple[list[Float[Tensor, "6 _ _ 3"]], tuple[float, ...]]:
    """Return as cube maps the irradiance of an environment and its levels, and the roughness of these."""
    light = _convolved(environment)
    return [light.irradiance, *(_level(light, level) for level in range(len(light.roughness)))], light.roughness


def _convolved(environment: EnvironmentLight) -> PrefilteredLight:
    with torch.no_grad():
        return prefiltered(EnvironmentLight(reduced(environment.texels.detach().float().cpu(), _LARGEST_LIGHT)))


@lru_cache(maxsize=1)  # a run shows its asset on two pages
def _shadows(asset: Asset) -> Float[Tensor, "vertices 4"] | None:
    """Return how shadows and reflections scale the diffuse light at each vertex, and its openness; None for light without shadows."""
    light, mesh = asset.environment, asset.mesh.to("cpu")
    if light is None or light.light_from_world is not None or len(mesh.vertices) > MOST_SHADOWED_VERTICES:
        return None
    with torch.no_grad():
        color = base_color_of_vertices(asset.mesh, asset.material or PbrMaterial()).float().cpu()
        scaled = shadowed(_convolved(light), light_transport(mesh), color)
        return torch.cat([scaled.shares[0], scaled.openness], -1)


def _level(light: PrefilteredLight, level: int) -> Float[Tensor, "6 size size 3"]:
    """Return a level as one cube map, as large as the largest of which it is made."""
    if level == 0:
        return light.environment.texels
    size = max(cube.size for cube, _ in light.levels if any(shares[level] > 0 for shares in cube.shares))
    return light.blurred(cube_directions(size), torch.full((6, size, size), light.roughness[level]))


def _reflectance() -> Float[ndarray, "entries 2"]:
    """Return A and B of the split sum for n · v from 0 to 1, roughness by roughness."""
    ends = torch.linspace(0, 1, _REFLECTANCE)
    roughness, cosine = torch.meshgrid(ends, ends, indexing="ij")
    return torch.stack(directional_albedo(cosine[None], roughness[None]), -1).reshape(-1, 2).numpy()


def _textures(material: PbrMaterial, lossless: bool) -> dict[str, str]:
    """Return the textures as ``data:`` addresses of pictures, as glTF defines them."""
    found: dict[str, Float[Tensor, "height width channels"]] = {}
    if material.base_color is not None:
        color = material.base_color.detach()
        found["color"] = torch.cat([srgb_from_linear(color[..., :3]), color[..., 3:]], -1)
    if material.roughness_metallic is not None:
        roughness, metallic = material.roughness_metallic.detach().unbind(-1)
        found["gloss"] = torch.stack([torch.ones_like(roughness), roughness, metallic], -1)
    if material.normal is not None:
        found["normal"] = 0.5 * material.normal.detach() + 0.5
    return {
        name: png_uri(levels_of(picture), smallest=True) if lossless or picture.shape[-1] == 4 else _jpeg(picture)
        for name, picture in found.items()
    }


def _jpeg(picture: Float[Tensor, "height width 3"]) -> str:
    return data_uri(color_picture(picture), largest_side=_EMBEDDED_TEXTURE)


def _planes(values: UInt[ndarray, "rows columns"]) -> list[bytes]:
    planes = []
    for column in values.T:
        differences = np.diff(column, prepend=column.dtype.type(0))  # modulo the type
        planes.append(differences.astype(f"<u{column.itemsize}").view(np.uint8).reshape(-1, column.itemsize).T.tobytes())
    return planes

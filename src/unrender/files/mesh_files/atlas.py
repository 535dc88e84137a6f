"""One texture for a mesh with several materials, or with coordinates beyond the borders of its texture.

Every material gets a tile of the atlas: its textures, repeated as often as the coordinates of its triangles ask for, with a margin that
continues them, so that neither bilinear lookups nor the first mip levels mix tiles. Each triangle is shifted by whole repetitions into the
tile. Triangles without coordinates, or of a material without pictures, share a tile of one color.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unrender.files.mesh_files.arrays import MaterialArrays, MeshArrays, MeshFileError
from unrender.files.mesh_files.mtl import resized
from unrender.numerics import normalized

_MARGIN = 8
"""Texels around a tile, and what its sides are multiples of: the footprint of a texel of the third mip level."""

_MOST_TEXELS = 2**26
"""Of an atlas: 8192 x 8192; larger tiles are shrunk."""

_OUTSIDE = 1e-4
"""Distance from the borders that is rounding."""

_MOST_REPETITIONS = 1000


class _Tile(NamedTuple):
    """A material in the atlas."""

    material: MaterialArrays
    repetitions: tuple[int, int] | None
    """Along v and u; None for a tile of one color."""
    repeats: bool
    """Whether the margin continues with the opposite border."""
    size: tuple[int, int]
    """Rows and columns of one repetition."""

    @property
    def content(self) -> tuple[int, int]:
        rows, columns = self.repetitions or (1, 1)
        return rows * self.size[0], columns * self.size[1]

    @property
    def place(self) -> tuple[int, int]:
        """Rows and columns with the margin."""
        rows, columns = (_MARGIN * math.ceil((side + 2 * _MARGIN) / _MARGIN) for side in self.content)
        return rows, columns


def with_one_material(arrays: MeshArrays, materials: Sequence[MaterialArrays]) -> tuple[MeshArrays, MaterialArrays | None]:
    """Return a mesh whose material is one set of textures, with coordinates in [0, 1].

    Args:
        arrays: with the numbers of its triangles' materials.
        materials: of the file; none for a mesh without.

    Returns:
        the mesh, unchanged if it has one material that suffices, and the material; None if it has none.
    """
    if not materials or arrays.materials is None or not (arrays.materials >= 0).any():
        return _whole(arrays), None
    used = np.unique(arrays.materials)
    chosen = {int(row): MaterialArrays() if row < 0 else materials[row] for row in used}
    if arrays.colors is not None and not any(_has_pictures(material) for material in chosen.values()):
        # The vertices have the colors, which have no opacity.
        one_color = bool((arrays.colors == arrays.colors[:1]).all())
        chosen = {row: found if one_color and _is_clear(found) else found._replace(base_color=None) for row, found in chosen.items()}
    only = next(iter(chosen.values()))
    one_factor = len({(material.roughness, material.metallic) for material in chosen.values()}) == 1
    if one_factor and not any(material.has_textures for material in chosen.values()):
        return _whole(arrays), only
    if len(chosen) == 1 and _fits(arrays):
        return _whole(arrays), only
    return _atlas(arrays, chosen)


def _whole(arrays: MeshArrays) -> MeshArrays:
    """Return a mesh without its texture coordinates if some corners have none, and without the numbers of materials."""
    arrays = arrays._replace(materials=None)
    if arrays.uv_faces is None or (arrays.uv_faces >= 0).all():
        return arrays
    return arrays._replace(uvs=None, uv_faces=None, tangents=None)


def _fits(arrays: MeshArrays) -> bool:
    """Tell whether all corners have coordinates, within the borders of the texture."""
    if arrays.uvs is None or arrays.uv_faces is None or (arrays.uv_faces < 0).any():
        return False
    found = arrays.uvs[arrays.uv_faces]
    return bool((found >= -_OUTSIDE).all() and (found <= 1 + _OUTSIDE).all())


def _is_clear(material: MaterialArrays) -> bool:
    return material.base_color is not None and material.base_color.shape[-1] == 4


def _has_pictures(material: MaterialArrays) -> bool:
    return any(texture is not None and texture.shape[:2] != (1, 1) for texture in material[:3])


def _atlas(arrays: MeshArrays, materials: dict[int, MaterialArrays]) -> tuple[MeshArrays, MaterialArrays]:
    assert arrays.materials is not None
    count = len(arrays.faces)
    has_coordinates = np.zeros(count, np.bool_)
    corners = np.zeros((count, 3, 2))
    if arrays.uvs is not None and arrays.uv_faces is not None:
        has_coordinates = (arrays.uv_faces >= 0).all(1)
        corners[has_coordinates] = arrays.uvs[arrays.uv_faces[has_coordinates]]
    if not np.isfinite(corners).all():
        raise MeshFileError("some of its texture coordinates are not finite numbers, and its texture has to be laid out in an atlas")
    tiles: list[_Tile] = []
    tile_of = np.zeros(count, np.int64)
    shifts = np.zeros((count, 2))
    for row, material in materials.items():
        own = arrays.materials == row
        textured = own & has_coordinates if _has_pictures(material) else np.zeros_like(own)
        if textured.any():
            inside = (corners[textured] >= -_OUTSIDE).all() and (corners[textured] <= 1 + _OUTSIDE).all()
            if not inside:
                shifts[textured] = np.floor(corners[textured].min(1) + _OUTSIDE)
            farthest = (corners[textured] - shifts[textured, None]).max((0, 1))
            columns, rows = (max(1, math.ceil(side - _OUTSIDE)) for side in farthest)
            if max(columns, rows) > _MOST_REPETITIONS:
                raise MeshFileError(f"a triangle repeats its texture {max(columns, rows)} times; at most {_MOST_REPETITIONS} are read")
            tile_of[textured] = len(tiles)
            tiles.append(_Tile(material, (rows, columns), not inside, _size(material)))
        if (own & ~textured).any():
            tile_of[own & ~textured] = len(tiles)
            tiles.append(_Tile(_plain(material), None, False, (1, 1) if len(materials) == 1 and not textured.any() else (_MARGIN, _MARGIN)))
    tiles = _shrunk(tiles)
    if len(tiles) == 1 and tiles[0].repetitions is None:
        uvs, uv_faces = np.full((1, 2), 0.5), np.zeros_like(arrays.faces)
        return arrays._replace(uvs=uvs, uv_faces=uv_faces, tangents=None, materials=None), tiles[0].material
    places, size = _packed([tile.place for tile in tiles])
    placed = _placed(corners - shifts[:, None], tiles, tile_of, places, size)
    uvs, uv_faces = np.unique(placed.reshape(-1, 2), axis=0, return_inverse=True)
    merged, painted = (
        arrays._replace(uvs=uvs, uv_faces=uv_faces.reshape(-1, 3), tangents=None, materials=None),
        _painted(tiles, places, size),
    )
    return merged if painted.base_color is None else merged._replace(colors=None), painted


def _size(material: MaterialArrays) -> tuple[int, int]:
    """Return the size of the largest texture."""
    sizes = [texture.shape[:2] for texture in material[:3] if texture is not None]
    return max(size[0] for size in sizes), max(size[1] for size in sizes)


def _plain(material: MaterialArrays) -> MaterialArrays:
    """Return a material of one color: the mean of its textures."""

    def mean(texture: Tensor | None) -> Tensor | None:
        return None if texture is None else texture.mean((0, 1), keepdim=True)

    return material._replace(base_color=mean(material.base_color), roughness_metallic=mean(material.roughness_metallic), normal=None)


def _shrunk(tiles: Sequence[_Tile]) -> list[_Tile]:
    """Halve the largest tiles until the atlas has room for all."""
    found = list(tiles)
    while sum(math.prod(tile.place) for tile in found) > _MOST_TEXELS:
        row = max(range(len(found)), key=lambda k: math.prod(found[k].place))
        rows, columns = found[row].size
        if max(rows, columns) == 1:
            break
        found[row] = found[row]._replace(size=(max(1, rows // 2), max(1, columns // 2)))
    return found


def _packed(sizes: Sequence[tuple[int, int]]) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Place rectangles on shelves, the highest first; return their corners, and the size of all of them."""
    wide = max(columns for _, columns in sizes)
    limit = max(wide, _MARGIN * math.ceil(math.sqrt(sum(map(math.prod, sizes))) / _MARGIN))
    places = [(0, 0)] * len(sizes)
    top = left = height = right = 0
    for row in sorted(range(len(sizes)), key=lambda k: (-sizes[k][0], -sizes[k][1])):
        rows, columns = sizes[row]
        if left + columns > limit:
            top, left, height = top + height, 0, 0
        places[row] = top, left
        left, height = left + columns, max(height, rows)
        right = max(right, left)
    return places, (top + height, right)


def _placed(
    corners: Float[np.ndarray, "faces 3 2"],
    tiles: Sequence[_Tile],
    tile_of: Int[np.ndarray, " faces"],
    places: Sequence[tuple[int, int]],
    size: tuple[int, int],
) -> Float[np.ndarray, "faces 3 2"]:
    """Return the coordinates of all corners in the atlas."""
    found = np.zeros_like(corners)
    for row, (tile, (top, left)) in enumerate(zip(tiles, places, strict=True)):
        own: Bool[np.ndarray, " faces"] = tile_of == row
        inside = np.full_like(corners[own], 0.5) if tile.repetitions is None else corners[own]
        texels = inside * [tile.size[1], tile.size[0]] + [left + _MARGIN, top + _MARGIN]
        found[own] = texels / [size[1], size[0]]
    return found


def _painted(tiles: Sequence[_Tile], places: Sequence[tuple[int, int]], size: tuple[int, int]) -> MaterialArrays:
    """Return the textures of the atlas; those that no material has are left out."""
    materials = [tile.material for tile in tiles]
    opaque = all(material.base_color is None or material.base_color.shape[-1] == 3 for material in materials)
    white = torch.ones(1, 1, 3 if opaque else 4)
    one_factor = len({(material.roughness, material.metallic) for material in materials}) == 1

    def painted(textures: Sequence[Tensor]) -> Tensor:
        canvas = torch.zeros(*size, textures[0].shape[-1])
        for tile, texture, (top, left) in zip(tiles, textures, places, strict=True):
            rows, columns = tile.place
            one = resized(texture, tile.size)
            v, u = (_continued(tile.content[k], tile.size[k], tile.place[k], tile.repeats) for k in (0, 1))
            canvas[top : top + rows, left : left + columns] = one[v][:, u]
        return canvas

    color = both = normal = None
    if any(material.base_color is not None for material in materials):
        color = painted([_with_channels(material.base_color, white) for material in materials])
    if not one_factor or any(material.roughness_metallic is not None for material in materials):
        factors = [torch.tensor([[[material.roughness, material.metallic]]]) for material in materials]
        stored = [material.roughness_metallic for material in materials]
        both = painted([factor if texture is None else texture for texture, factor in zip(stored, factors, strict=True)])
    if any(material.normal is not None for material in materials):
        up = torch.tensor([[[0.0, 0.0, 1.0]]])
        normal = normalized(painted([up if material.normal is None else material.normal for material in materials]))
    return MaterialArrays(color, both, normal, materials[0].roughness, materials[0].metallic)


def _continued(content: int, period: int, place: int, repeats: bool) -> Int[Tensor, " texels"]:
    """Return the texels of one repetition that a row of a tile with its margin shows."""
    at = torch.arange(place) - _MARGIN
    return (at if repeats else at.clamp(0, content - 1)) % period


def _with_channels(color: Tensor | None, white: Float[Tensor, "1 1 channels"]) -> Float[Tensor, "height width channels"]:
    if color is None:
        return white
    missing = white.shape[-1] - color.shape[-1]
    return color if missing == 0 else torch.cat([color, torch.ones_like(color[..., :missing])], -1)

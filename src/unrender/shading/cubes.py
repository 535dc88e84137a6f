"""Cube maps: directions and solid angles of texels, smaller versions, lat-long pictures, and the turns that map a cube map to itself.

Faces are in OpenGL's order +X, −X, +Y, −Y, +Z, −Z with OpenGL's orientation of their rows and columns.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d


def cube_directions(size: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Float[Tensor, "6 size size 3"]:
    """Return the direction of every texel of a cube map, on the cube [−1, 1]³ (not normalized).

    With a = 2 (column + ½) / size − 1 and b = 2 (row + ½) / size − 1 the faces +X, −X, +Y, −Y, +Z, −Z are
    (1, −b, −a), (−1, −b, a), (a, 1, b), (a, −1, −b), (a, −b, 1), (−a, −b, −1) (OpenGL 4.6 specification, table 8.19).

    >>> cube_directions(1).flatten(0, 2).abs().tolist()
    [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
    """
    centers = 2 * (torch.arange(size, dtype=dtype, device=device) + 0.5) / size - 1
    b, a = torch.meshgrid(centers, centers, indexing="ij")
    one = torch.ones_like(a)
    faces = ((one, -b, -a), (-one, -b, a), (a, one, b), (a, -one, -b), (a, -b, one), (-a, -b, -one))
    return torch.stack([torch.stack(face, -1) for face in faces])


def solid_angles(size: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Float[Tensor, "size size"]:
    """Return the solid angle of every texel of a face, in steradians; a face has 2π/3.

    A rectangle from the center of a face to (a, b) has the solid angle Ω(a, b) = atan2(ab, √(a² + b² + 1)), a texel the alternating sum
    of Ω at its corners.

    >>> round((6 * solid_angles(4, torch.float64).sum() / torch.pi).item(), 6)
    4.0
    """
    borders = 2 * torch.arange(size + 1, dtype=torch.float64, device=device) / size - 1
    b, a = torch.meshgrid(borders, borders, indexing="ij")
    corner = torch.atan2(a * b, (a * a + b * b + 1).sqrt())
    return (corner[1:, 1:] - corner[1:, :-1] - corner[:-1, 1:] + corner[:-1, :-1]).to(dtype)


def reduced(texels: Float[Tensor, "6 size size 3"], size: int) -> Float[Tensor, "6 small small 3"]:
    """Average a cube map over larger texels, weighted by solid angle. A smaller one stays as it is."""
    if texels.shape[1] <= size:
        return texels
    share = solid_angles(texels.shape[1], texels.dtype, texels.device)[..., None]
    light = adaptive_avg_pool2d((texels * share).permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
    return light / adaptive_avg_pool2d(share.permute(2, 0, 1), size).permute(1, 2, 0)


def turns() -> Int[np.ndarray, "48 3 3"]:
    """Return the rotations and reflections that map a cube to itself: the permutations of the axes with any signs."""
    axes = [np.eye(3, dtype=np.int64)[list(order)] for order in itertools.permutations(range(3))]
    return np.stack([np.array(signs)[:, None] * matrix for matrix in axes for signs in itertools.product((1, -1), repeat=3)])


def turned_texels(size: int) -> Int[np.ndarray, "48 texels"]:
    """Return where each turn moves each texel.

    Row t, column i is the texel with the direction of texel i, turned by t.

    Texels are numbered face by face, row by row.
    """
    directions = (cube_directions(size, torch.float64).reshape(-1, 3) * size).round().long().numpy()
    base = np.array([1, 4 * size, 16 * size * size])
    keys = directions @ base
    order = np.argsort(keys)
    return np.stack([order[np.searchsorted(keys, directions @ matrix.T @ base, sorter=order)] for matrix in turns()])

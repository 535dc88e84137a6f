"""Sentences about outputs, and the names of their files."""

from __future__ import annotations

import re

import torch

from unrender.geometry.mesh import Mesh
from unrender.render.asset import Asset

LONGEST_STEM = 100
"""Letters of a view's name in the names of its pictures."""

EMPTY_MESH = (
    "there is no surface: the fitted field nowhere crosses its threshold inside the region of interest. Usual reasons: the region is in "
    "the wrong place (set --center and --radius), the fit was too short, or the masks are inverted"
)


def mesh_sentence(asset: Asset) -> str:
    """Write the size of a mesh as one line."""
    material = "" if asset.material is None else " with a material"
    size = f"{len(asset.mesh.vertices):,} vertices, {len(asset.mesh.faces):,} faces{material}"
    return f"mesh: {size}: mesh.ply in the frame of the input, mesh.glb upright"


def offset_sentence(mesh: Mesh) -> str | None:
    """Write the offset of a mesh far from the origin of its frame as one line; None for another mesh."""
    if mesh.vertices.dtype != torch.float64:
        return None
    x, y, z = mesh.recentered()[1].tolist()
    return (
        "the mesh is far from the origin of its frame, so coordinates have double precision in PLY and OBJ, and the GLB is stored relative "
        f"to ({x:.0f}, {y:.0f}, {z:.0f}); programs that read single precision keep the shape of the GLB alone"
    )


def file_stem(view: int, name: str) -> str:
    """Return a file name for a view: its number, which is unique, and the letters of its name.

    >>> file_stem(7, "test/r 7.png")
    '007_test_r_7'

    Of a long name the end is kept, which tells photos of one folder apart.
    """
    stem = re.sub(r"\.(png|jpe?g|webp|tiff?|bmp)$", "", name, flags=re.IGNORECASE)
    return f"{view:03d}_{re.sub(r'[^A-Za-z0-9.-]+', '_', stem)[-LONGEST_STEM:]}"

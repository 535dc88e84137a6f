"""A mesh that is turned with the pointer inside a page: packed into the page, drawn by ``mesh_viewer.js``."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt
from numpy import ndarray
from torch import Tensor

from unrender.color import srgb_from_linear
from unrender.geometry.mesh import Mesh
from unrender.render.asset import Asset
from unrender.runs.figures import color_picture, data_uri
from unrender.runs.viewpoint import ELEVATION, Viewpoint

MOST_FACES = 300_000
"""A mesh of more triangles is coarsened for the page: about five bytes a triangle remain after packing."""

_LARGEST_TEXTURE = 1024
_SCRIPT = Path(__file__).with_name("mesh_viewer.js").read_text(encoding="utf-8")


def viewer(asset: Asset, viewpoint: Viewpoint, *, still: str) -> str:
    """Return the part of a page that shows an asset.

    Args:
        asset: with a surface.
        viewpoint: of the first view.
        still: ``data:`` address of a picture, for browsers that cannot draw the mesh.
    """
    colored = asset.mesh.colors is not None or _texture(asset) is not None
    buttons = '<button type="button" data-shape="0">Color</button><button type="button" data-shape="1">Shape</button>' if colored else ""
    return (
        f'<div class="viewer"><img src="{still}" alt="the surface">'
        '<canvas tabindex="0" role="img" aria-label="The surface; arrow keys turn it, plus and minus zoom, Home resets"></canvas>'
        f'<div class="buttons">{buttons}<button type="button" data-reset>Reset</button></div>'
        '<p class="note">Drag to turn, click and scroll to zoom, double-click to reset.</p></div>'
        f'<script type="application/json" id="mesh">{json.dumps(packed(asset, viewpoint))}</script>'
        f"<script>{_SCRIPT}</script>"
    )


def packed(asset: Asset, viewpoint: Viewpoint, *, most_faces: int = MOST_FACES) -> dict[str, object]:
    """Pack an asset for ``mesh_viewer.js``: in the axes of the page, in a ball of radius one.

    Positions and texture coordinates take 16 bits, colors 8, in planes of differences, compressed with gzip.
    """
    texture = _texture(asset)
    mesh, places = _unwelded(asset.mesh) if texture is not None else (coarsened(asset.mesh, most_faces), None)
    vertices = (mesh.vertices.detach().double().cpu() @ viewpoint.page_from_world.double().T).numpy()
    low, high = vertices.min(0), vertices.max(0)
    middle = (low + high) / 2
    radius = max(float(np.linalg.norm(vertices - middle, axis=1).max()), 1e-30)
    extent = np.maximum(high - low, 1e-30)
    planes = _planes(np.round((vertices - low) / extent * 65535).astype(np.uint16))
    if texture is None and mesh.colors is not None:
        planes += _planes(np.round(mesh.colors.detach().clamp(0, 1).cpu().numpy() * 255).astype(np.uint8))
    if places is not None:
        planes += _planes(np.round(places.clip(0, 1) * 65535).astype(np.uint16))
    planes += _planes(mesh.faces.cpu().numpy().astype(np.uint32).reshape(-1, 1))
    return {
        "vertices": len(vertices),
        "faces": len(mesh.faces),
        "colors": texture is None and mesh.colors is not None,
        "texture": None if texture is None else data_uri(color_picture(srgb_from_linear(texture[..., :3])), largest_side=_LARGEST_TEXTURE),
        "low": ((low - middle) / radius).tolist(),
        "high": ((high - middle) / radius).tolist(),
        "pitch": float(np.deg2rad(ELEVATION)),
        "data": base64.b64encode(gzip.compress(b"".join(planes), 6, mtime=0)).decode("ascii"),
    }


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


def _texture(asset: Asset) -> Float[Tensor, "height width channels"] | None:
    """Return the base color texture, if the mesh has coordinates for it."""
    return None if asset.material is None or asset.mesh.uvs is None else asset.material.base_color


def _unwelded(mesh: Mesh) -> tuple[Mesh, Float[ndarray, "vertices 2"]]:
    """Split the vertices on seams, so that each has one texture coordinate."""
    assert mesh.uvs is not None and mesh.uv_faces is not None
    corners = torch.stack([mesh.faces.long().flatten(), mesh.uv_faces.long().flatten()], 1)
    pairs, corner = torch.unique(corners, dim=0, return_inverse=True)
    split = replace(
        mesh,
        vertices=mesh.vertices[pairs[:, 0]],
        faces=corner.reshape(-1, 3),
        colors=None,
        normals=None,
        uvs=None,
        uv_faces=None,
        tangents=None,
    )
    return split, mesh.uvs[pairs[:, 1]].detach().cpu().numpy()


def _planes(values: UInt[ndarray, "rows columns"]) -> list[bytes]:
    """Return each column as differences of neighbors, the low bytes of all values first."""
    planes = []
    for column in values.T:
        differences = np.diff(column, prepend=column.dtype.type(0))  # modulo the type
        planes.append(differences.astype(f"<u{column.itemsize}").view(np.uint8).reshape(-1, column.itemsize).T.tobytes())
    return planes

"""Triangle meshes."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
import trimesh
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from unrender.files import mesh_files
from unrender.numerics import normalized
from unrender.ops.raster import TriangleTree


@dataclass(frozen=True)
class Mesh:
    """Triangles, counter-clockwise seen from outside, with optional color and normal per vertex and texture coordinates per corner.

    >>> square = Mesh(torch.tensor([[0.0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]]), torch.tensor([[0, 1, 2], [0, 2, 3]]))
    >>> square.area
    4.0
    >>> square.with_vertex_normals().normals[0].tolist()
    [0.0, 0.0, 1.0]
    """

    vertices: Float[Tensor, "vertices 3"]
    faces: Int[Tensor, "faces 3"]
    colors: Float[Tensor, "vertices 3"] | None = None
    """sRGB, 0 to 1."""
    normals: Float[Tensor, "vertices 3"] | None = None
    uvs: Float[Tensor, "coordinates 2"] | None = None
    """Texture coordinates: (0, 0) is the top left corner of the image, (1, 1) the bottom right one."""
    uv_faces: Int[Tensor, "faces 3"] | None = None
    """Rows of ``uvs``, one for each corner of each triangle; a vertex on a seam has several, so it need not be split."""

    def __post_init__(self) -> None:
        if (self.uvs is None) != (self.uv_faces is None):
            raise ValueError("a mesh has uvs and uv_faces, or neither; where each vertex has its own texture coordinate, uv_faces is faces")
        for field in fields(self):
            tensor = getattr(self, field.name)
            if tensor is not None and not isinstance(tensor, Tensor):
                raise ValueError(f"a mesh is made of tensors and its {field.name} are of type {type(tensor).__name__}: use torch.as_tensor")
        self._check_rows("vertices", 3)
        self._check_rows("faces", 3)
        self._check_rows("colors", 3, "vertices")
        self._check_rows("normals", 3, "vertices")
        self._check_rows("uvs", 2)
        self._check_rows("uv_faces", 3, "faces")
        for name in ("faces", "uv_faces"):
            tensor = getattr(self, name)
            if tensor is not None and tensor.dtype not in (torch.int32, torch.int64):
                raise ValueError(f"the {name} of a mesh are int32 or int64 rows, got {tensor.dtype}")

    def __repr__(self) -> str:
        extras = [name for name in ("colors", "normals", "uvs") if getattr(self, name) is not None]
        where = [] if self.vertices.device.type == "cpu" else [f"on {self.vertices.device}"]
        counts = [f"{self.vertices.shape[0]:,} vertices", f"{self.faces.shape[0]:,} faces"]
        return f"Mesh({', '.join([*counts, *extras, *where])})"

    @property
    def is_empty(self) -> bool:
        return self.faces.shape[0] == 0

    @property
    def bounding_box(self) -> Float[Tensor, "2 3"]:
        """The smallest and the largest coordinates of the vertices.

        Raises:
            ValueError: the mesh has no vertices.
        """
        if self.vertices.shape[0] == 0:
            raise ValueError("a mesh without vertices has no bounding box; check mesh.is_empty first")
        return torch.stack([self.vertices.amin(0), self.vertices.amax(0)])

    @property
    def area(self) -> float:
        """Sum of the areas of the triangles, |(b − a) × (c − a)| / 2, in squared world units."""
        return float(self._face_crosses().double().norm(dim=-1).sum() / 2)

    @property
    def component_count(self) -> int:
        """Number of components, which are triangles connected through shared vertices."""
        return 0 if self.is_empty else int(self._face_components().max()) + 1

    @property
    def is_watertight(self) -> bool:
        """Whether every edge is shared by exactly two triangles; False for an empty mesh."""
        return not self.is_empty and bool(trimesh.Trimesh(_numpy(self.vertices), _numpy(self.faces), process=False).is_watertight)

    def transformed(self, similarity: Float[Tensor, "4 4"]) -> Mesh:
        """Return the mesh transformed by x ↦ A x + b, where ``similarity`` is [[A, b], [0, 1]].

        Normals follow A⁻ᵀ and keep pointing out; a reflection (det A < 0) reverses the order of the triangles' corners.

        Raises:
            ValueError: A cannot be inverted.
        """
        matrix = similarity.to(self.vertices.device, torch.float64)
        linear = matrix[:3, :3]
        determinant = float(torch.linalg.det(linear))
        if determinant == 0.0 or not np.isfinite(determinant):
            raise ValueError(f"similarity has a determinant of {determinant}; it must be invertible")
        vertices = self.vertices.double() @ linear.T + matrix[:3, 3]
        normals = None
        if self.normals is not None:
            normals = normalized(self.normals.double() @ torch.linalg.inv(linear)).to(self.normals.dtype)
        faces, uv_faces = self.faces, self.uv_faces
        if determinant < 0:
            faces, uv_faces = faces.flip(1), None if uv_faces is None else uv_faces.flip(1)
        return replace(self, vertices=vertices.to(self.vertices.dtype), faces=faces, normals=normals, uv_faces=uv_faces)

    def with_vertex_normals(self) -> Mesh:
        """Return the mesh with unit normals at its vertices.

        n = Σ (b − a) × (c − a) / |…|, over the triangles around a vertex, weighted by area.

        A vertex in no triangle gets the zero vector.
        """
        crosses = self._face_crosses()
        sums = torch.zeros_like(self.vertices)
        for corner in range(3):
            sums.index_add_(0, self.faces[:, corner].long(), crosses)
        return replace(self, normals=normalized(sums))

    def largest_component(self) -> Mesh:
        """Return the component with the largest area, without the vertices that only other components use.

        Triangles are connected through shared vertex indices, so the mesh must be welded, as
        :func:`unrender.geometry.isosurface.extract_surface` returns it. An empty mesh is returned unchanged.
        """
        if self.is_empty:
            return self
        component = self._face_components()
        areas = np.bincount(component, _numpy(self._face_crosses().double().norm(dim=-1)))
        return self.submesh(torch.from_numpy(component == int(areas.argmax())).to(self.faces.device))

    def submesh(self, keep: Tensor) -> Mesh:
        """Return the triangles marked in the bool tensor ``keep`` [faces], and their vertices, in order."""
        faces, used = _renumbered(self.faces[keep], self.vertices.shape[0])
        uvs, uv_faces = self.uvs, self.uv_faces
        if uvs is not None and uv_faces is not None:
            uv_faces, uvs_used = _renumbered(uv_faces[keep], uvs.shape[0])
            uvs = uvs[uvs_used]
        return Mesh(
            vertices=self.vertices[used],
            faces=faces,
            colors=None if self.colors is None else self.colors[used],
            normals=None if self.normals is None else self.normals[used],
            uvs=uvs,
            uv_faces=uv_faces,
        )

    def ray_tree(self) -> TriangleTree:
        """Return a tree for :func:`unrender.ops.raster.cast_rays`, which does not follow vertices that move later."""
        return TriangleTree(self.vertices, self.faces)

    def to(self, device: torch.device | str) -> Mesh:
        """Return the mesh with all its tensors on another device."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: tensor.to(device) for name, tensor in given.items() if tensor is not None})

    def sample_surface(self, count: int, generator: torch.Generator) -> tuple[Float[Tensor, "count 3"], Float[Tensor, "count 3"]]:
        """Draw points uniformly from the surface, with the unit normals of their triangles.

        A triangle is drawn with a probability proportional to its area; inside it x = (1 − √u) a + √u (1 − v) b + √u v c with u, v uniform
        (Turk, Graphics Gems, 1990).

        Raises:
            ValueError: the mesh has no area.
        """
        crosses = self._face_crosses().double()
        cumulative = crosses.norm(dim=-1).cumsum(0)
        if self.is_empty or not bool(cumulative[-1] > 0):
            raise ValueError("points cannot be drawn from a mesh without area; check mesh.is_empty first")
        device = self.vertices.device
        draws = torch.rand((3, count), generator=generator, dtype=torch.float64, device=generator.device).to(device)
        face = torch.searchsorted(cumulative, draws[0] * cumulative[-1], right=True).clamp_max(self.faces.shape[0] - 1)
        corners = self.vertices[self.faces[face].long()].double()
        root = draws[1].sqrt()
        weights = torch.stack([1 - root, root * (1 - draws[2]), root * draws[2]], dim=-1)
        points = (weights[..., None] * corners).sum(1)
        return points.to(self.vertices.dtype), normalized(crosses[face]).to(self.vertices.dtype)

    def with_normals(self, normals: Float[Tensor, "vertices 3"]) -> Mesh:
        """Return the mesh with these normals at its vertices."""
        return replace(self, normals=normals)

    def with_colors(self, colors: Float[Tensor, "vertices 3"]) -> Mesh:
        """Return the mesh with these sRGB colors at its vertices."""
        return replace(self, colors=colors)

    def export(self, path: str | Path, *, z_up: bool = True, material: mesh_files.MaterialArrays | None = None) -> None:
        """Write the mesh as .ply, .obj or .glb, by the suffix, atomically.

        Texture coordinates go into .obj and .glb, but not into .ply; in a .glb the vertices along their seams are split.

        Args:
            path: the file; an existing one is replaced.
            z_up: the mesh's up axis is +Z. A GLB is +Y up by definition and gets a root node that turns it upright; the other formats keep
            the coordinates.
            material: textures and factors for a .glb; a mesh with textures needs texture coordinates.

        Raises:
            ValueError: the mesh is empty, the suffix unknown, or vertices or texture coordinates are not finite.
            FileNotFoundError: the folder does not exist.
        """
        path = Path(path)
        if self.is_empty:
            raise ValueError(f"there is no surface to write to {path}: the mesh has no triangles; see explain_empty for the usual reasons")
        colors = None if self.colors is None else _numpy(self.colors)
        normals = None if self.normals is None else _numpy(self.normals)
        uvs = None if self.uvs is None else _numpy(self.uvs)
        uv_faces = None if self.uv_faces is None else _numpy(self.uv_faces)
        arrays = mesh_files.MeshArrays(_numpy(self.vertices), _numpy(self.faces), colors, normals, uvs, uv_faces)
        mesh_files.write(path, arrays, z_up=z_up, material=material)

    def _check_rows(self, name: str, columns: int, like: str | None = None) -> None:
        """Require the shape [rows, columns], with as many rows as the tensor ``like``."""
        tensor = getattr(self, name)
        if tensor is None:
            return
        if tensor.ndim != 2 or tensor.shape[1] != columns:
            raise ValueError(f"the {name} of a mesh are of shape [{like or name}, {columns}], got {tuple(tensor.shape)}")
        if like is not None and tensor.shape[0] != getattr(self, like).shape[0]:
            count = getattr(self, like).shape[0]
            raise ValueError(f"a mesh with {count} {like} needs as many rows of {name}, got {tensor.shape[0]}")

    def _face_crosses(self) -> Float[Tensor, "faces 3"]:
        """Return (b − a) × (c − a), the outward normal times twice the area."""
        a, b, c = self.vertices[self.faces.long()].unbind(1)
        return torch.linalg.cross(b - a, c - a)

    def _face_components(self) -> Int[np.ndarray, " faces"]:
        """Return the number of the component of each triangle."""
        faces = _numpy(self.faces)
        count = self.vertices.shape[0]
        ends = np.concatenate([faces[:, :2], faces[:, 1:]])
        graph = coo_matrix((np.ones(len(ends), np.bool_), (ends[:, 0], ends[:, 1])), shape=(count, count))
        labels = connected_components(graph, directed=False)[1][faces[:, 0]]
        return np.unique(labels, return_inverse=True)[1].reshape(-1)


def read_mesh(path: str | Path, *, z_up: bool = True) -> Mesh:
    """Read a PLY, OBJ, GLB, STL or OFF file.

    Positions, triangles and vertex colors are read from each, and texture coordinates from an OBJ or a GLB.

    Args:
        path: the file.
        z_up: turn a GLB, which is +Y up by definition, back to +Z up; the other formats keep the coordinates.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has no triangles or cannot be parsed.
    """
    arrays = mesh_files.read(Path(path), z_up=z_up)
    colors = None if arrays.colors is None else torch.from_numpy(arrays.colors.astype(np.float32))
    vertices = torch.from_numpy(arrays.vertices.astype(np.float32))
    uvs = uv_faces = None
    if arrays.uvs is not None and arrays.uv_faces is not None:
        uvs, uv_faces = torch.from_numpy(arrays.uvs.astype(np.float32)), torch.from_numpy(arrays.uv_faces.astype(np.int64))
    return Mesh(vertices, torch.from_numpy(arrays.faces.astype(np.int64)), colors, uvs=uvs, uv_faces=uv_faces)


def _renumbered(faces: Int[Tensor, "faces 3"], count: int) -> tuple[Int[Tensor, "faces 3"], Bool[Tensor, " rows"]]:
    """Renumber corners among the rows in use, and tell which of the ``count`` rows these are."""
    used = torch.zeros(count, dtype=torch.bool, device=faces.device)
    used[faces.reshape(-1).long()] = True
    return (used.cumsum(0) - 1).to(faces.dtype)[faces.long()], used


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()

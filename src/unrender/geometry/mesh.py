"""Triangle meshes."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from fast_simplification import simplify
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from torch import Tensor

from unrender.files import mesh_files
from unrender.geometry.tangents import grouped_coordinates, made_orthogonal, tangents_of
from unrender.numerics import normalized
from unrender.ops.raster import TriangleTree
from unrender.transforms import rotation_between

Axes = Literal["y-up", "z-up", "source"]
"""Axes of a mesh file: turned until +Y or +Z is up, or those of the mesh."""

_AXES_OF_SUFFIX: dict[str, Axes] = {".glb": "y-up", ".obj": "y-up", ".ply": "source"}
"""What importers expect: glTF prescribes +Y up, programs read an OBJ so, and a PLY lies beside other data of its frame."""

_AGGRESSIVENESS = (7, 6, 5, 4, 3, 8)
"""How fast the threshold of edge collapses rises, in the order in which it is tried."""
_LOST = 1e-3
"""Vertices are float64 where float32 would move one by more than this share of the median edge."""


@dataclass(frozen=True)
class Mesh:
    """Triangles, counter-clockwise seen from outside, with optional color and normal per vertex and texture coordinates per corner.

    Vertices are float32. They are float64 in a frame far from its origin, such as UTM, where float32 would cost the shape
    (:meth:`transformed`, :func:`read_mesh`); render such a mesh after :meth:`recentered`.

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
    tangents: Float[Tensor, "coordinates 4"] | None = None
    """Unit direction of growing u in the surface and handedness w = ±1, one for each row of ``uvs``: see :meth:`with_tangents`."""
    up: tuple[float, float, float] = mesh_files.Z_UP
    """The upward direction of the coordinates; exports turn it to the up axis of their format."""

    def __post_init__(self) -> None:
        if (self.uvs is None) != (self.uv_faces is None):
            raise ValueError("a mesh has uvs and uv_faces, or neither; where each vertex has its own texture coordinate, uv_faces is faces")
        if self.tangents is not None and self.uvs is None:
            raise ValueError("a mesh with tangents needs uvs and uv_faces, because each texture coordinate has one; see with_tangents")
        for field in fields(self):
            tensor = getattr(self, field.name)
            if field.name != "up" and tensor is not None and not isinstance(tensor, Tensor):
                raise ValueError(f"a mesh is made of tensors and its {field.name} are of type {type(tensor).__name__}: use torch.as_tensor")
        if not all(map(math.isfinite, self.up)) or not any(self.up):
            raise ValueError(f"up of a mesh is {self.up}; it must be a finite direction")
        self._check_rows("vertices", 3)
        self._check_rows("faces", 3)
        self._check_rows("colors", 3, "vertices")
        self._check_rows("normals", 3, "vertices")
        self._check_rows("uvs", 2)
        self._check_rows("tangents", 4, "uvs")
        self._check_rows("uv_faces", 3, "faces")
        for name in ("faces", "uv_faces"):
            tensor = getattr(self, name)
            if tensor is not None and tensor.dtype not in (torch.int32, torch.int64):
                raise ValueError(f"the {name} of a mesh are int32 or int64 rows, got {tensor.dtype}")

    def __repr__(self) -> str:
        extras = [name for name in ("colors", "normals", "uvs", "tangents") if getattr(self, name) is not None]
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
        return 0 if self.is_empty else int(self.face_components().max()) + 1

    @property
    def is_watertight(self) -> bool:
        """Whether every edge is shared by exactly two triangles; False for an empty mesh.

        Triangles that name a vertex twice do not count. Vertices at equal positions are different ones: see :meth:`welded`.
        """
        shared = self.edges()[1]
        return len(shared) > 0 and bool((shared == 2).all())

    def edges(self) -> tuple[Int[np.ndarray, "edges 2"], Int[np.ndarray, " edges"]]:
        """Return the two vertices of each edge, the lower one first, and the number of its triangles.

        Triangles that name a vertex twice do not count.
        """
        return _edges(_numpy(self.faces), len(self.vertices))

    def transformed(self, similarity: Float[Tensor, "4 4"]) -> Mesh:
        """Return the mesh transformed by x ↦ A x + b, where ``similarity`` is [[A, b], [0, 1]].

        Normals follow A⁻ᵀ and keep pointing out, tangents follow A; a reflection (det A < 0) reverses the order of the triangles' corners
        and the handedness of tangents. ``up`` follows A. Float32 vertices become float64 where float32 would cost the shape, far from the
        origin.

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
        tangents = None
        if self.tangents is not None:
            turned = normalized(self.tangents[:, :3].double() @ linear.T)
            tangents = torch.cat([turned, self.tangents[:, 3:].double() * math.copysign(1.0, determinant)], 1).to(self.tangents.dtype)
        faces, uv_faces = self.faces, self.uv_faces
        if determinant < 0:
            faces, uv_faces = faces.flip(1), None if uv_faces is None else uv_faces.flip(1)
        if self.vertices.dtype != torch.float64:
            vertices = _shape_kept(vertices, self.faces, self.vertices.dtype)
        x, y, z = normalized(linear @ torch.tensor(self.up, dtype=torch.float64, device=linear.device)).tolist()
        return replace(self, vertices=vertices, faces=faces, normals=normals, uv_faces=uv_faces, tangents=tangents, up=(x, y, z))

    def recentered(self) -> tuple[Mesh, Float[Tensor, " 3"]]:
        """Return the mesh with float32 vertices about the origin, and the offset (float64) that was subtracted.

        The offset is the center of the bounding box, rounded to integers.

        >>> far = Mesh(torch.tensor([[500000.0, 0, 0.25], [500001, 0, 0], [500000, 1, 0]], dtype=torch.float64), torch.tensor([[0, 1, 2]]))
        >>> near, offset = far.recentered()
        >>> offset.tolist(), near.vertices[0].tolist()
        ([500000.0, 0.0, 0.0], [0.0, 0.0, 0.25])
        """
        offset = self.bounding_box.double().mean(0).round()
        return replace(self, vertices=(self.vertices.double() - offset).float()), offset

    def welded(self, within: float = 0.0) -> Mesh:
        """Return the mesh with vertices joined at equal positions, so that triangles that touch are connected.

        STL files, and files with hard edges or texture seams, repeat vertices. Colors of joined vertices are averaged, normals and
        tangents are dropped, and texture coordinates stay with their corners. Triangles that lose an edge are removed.

        Args:
            within: join vertices up to this distance apart, and chains of them.

        >>> vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
        >>> soup = Mesh(vertices, torch.tensor([[0, 1, 2], [3, 4, 5]]))
        >>> soup.component_count, soup.welded().component_count, soup.welded().faces.tolist()
        (2, 1, [[0, 1, 2], [1, 3, 2]])
        """
        positions = _numpy(self.vertices).astype(np.float64)
        if within > 0:
            pairs = KDTree(positions).query_pairs(within, output_type="ndarray")
            graph = coo_matrix((np.ones(len(pairs), np.bool_), (pairs[:, 0], pairs[:, 1])), shape=(len(positions), len(positions)))
            labels = connected_components(graph, directed=False)[1]
            kept, new_rows = mesh_files.joined(np.repeat(labels[:, None], 3, 1).astype(np.float64))
        else:
            kept, new_rows = mesh_files.joined(positions)
        count, device = len(kept), self.vertices.device
        rows = torch.from_numpy(new_rows).to(device)
        first = torch.full((count,), len(positions), dtype=torch.int64, device=device)
        first.scatter_reduce_(0, rows, torch.arange(len(positions), device=device), "amin")
        colors = None
        if self.colors is not None:
            shares = torch.zeros(count, dtype=self.colors.dtype, device=device).index_add_(0, rows, torch.ones_like(self.colors[:, 0]))
            colors = torch.zeros_like(self.colors[:count]).index_add_(0, rows, self.colors) / shares[:, None]
        faces = rows[self.faces.long()].to(self.faces.dtype)
        was_whole, is_whole = _has_three_corners(self.faces), _has_three_corners(faces)
        joined = replace(self, vertices=self.vertices[first], faces=faces, colors=colors, normals=None, tangents=None)
        lost = was_whole & ~is_whole
        return joined.submesh(~lost) if bool(lost.any()) else joined

    def with_vertex_normals(self) -> Mesh:
        """Return the mesh with unit normals at its vertices.

        n = Σ (b − a) × (c − a) / |…|, over the triangles around a vertex, weighted by area.

        A vertex in no triangle gets the zero vector. Tangents are turned until they are orthogonal to the normals.
        """
        return self.with_normals(self._vertex_normals())

    def with_tangents(self) -> Mesh:
        """Return the mesh with a tangent for each texture coordinate, as MikkTSpace and glTF define it.

        t = Σ α s / |…|, over the corners that share position, normal, texture coordinate and orientation, with s the direction of growing
        u in the triangle, made orthogonal to the vertex normal n, and α the angle of the corner. The bitangent b = w (n × t) points against
        v, that is up in the image. Differentiable in the vertices and normals.

        Each group of corners gets a row of ``uvs`` of its own, so rows are split where the texture is mirrored and joined where they are
        equal. A mesh that has tangents keeps its rows, so a fit of moving vertices may call this at every step. A mesh without normals gets
        those of :meth:`with_vertex_normals`.

        Raises:
            ValueError: the mesh has no texture coordinates.

        >>> corners = torch.tensor([[0.0, 0, 0], [2, 0, 0], [0, 2, 0]])
        >>> uvs = torch.tensor([[0.0, 1], [1, 1], [0, 0]])
        >>> Mesh(corners, torch.tensor([[0, 1, 2]]), uvs=uvs, uv_faces=torch.tensor([[0, 1, 2]])).with_tangents().tangents[0].tolist()
        [1.0, 0.0, 0.0, 1.0]
        """
        if self.uvs is None or self.uv_faces is None:
            raise ValueError("a mesh without texture coordinates has no tangents; unwrap it first")
        normals = self._vertex_normals() if self.normals is None else self.normals
        uvs, uv_faces = self.uvs, self.uv_faces
        if self.tangents is None:
            uvs, uv_faces = grouped_coordinates(self.vertices, normals, self.faces, uvs, uv_faces)
        tangents = tangents_of(self.vertices, normals, self.faces, uvs, uv_faces)
        return replace(self, normals=normals, uvs=uvs, uv_faces=uv_faces, tangents=tangents)

    def largest_component(self) -> Mesh:
        """Return the component with the largest area, without the vertices that only other components use.

        Triangles are connected through shared vertex indices: :meth:`welded` connects those that only touch. An empty mesh is returned
        unchanged.
        """
        if self.is_empty:
            return self
        component = self.face_components()
        areas = np.bincount(_numpy(component), _numpy(self._face_crosses().double().norm(dim=-1)))
        return self.submesh(component == int(areas.argmax()))

    def face_components(self) -> Int[Tensor, " faces"]:
        """Return the number of the component of each triangle, from 0; components are connected through shared vertices."""
        faces = _numpy(self.faces)
        count = self.vertices.shape[0]
        ends = np.concatenate([faces[:, :2], faces[:, 1:]])
        graph = coo_matrix((np.ones(len(ends), np.bool_), (ends[:, 0], ends[:, 1])), shape=(count, count))
        labels = connected_components(graph, directed=False)[1][faces[:, 0]]
        return torch.from_numpy(np.unique(labels, return_inverse=True)[1].reshape(-1)).to(self.faces.device)

    def submesh(self, keep: Tensor) -> Mesh:
        """Return the triangles marked in the bool tensor ``keep`` [faces], and their vertices, in order."""
        faces, used = _renumbered(self.faces[keep], self.vertices.shape[0])
        uvs, uv_faces, tangents = self.uvs, self.uv_faces, self.tangents
        if uvs is not None and uv_faces is not None:
            uv_faces, uvs_used = _renumbered(uv_faces[keep], uvs.shape[0])
            uvs = uvs[uvs_used]
            tangents = None if tangents is None else tangents[uvs_used]
        return replace(
            self,
            vertices=self.vertices[used],
            faces=faces,
            colors=None if self.colors is None else self.colors[used],
            normals=None if self.normals is None else self.normals[used],
            uvs=uvs,
            uv_faces=uv_faces,
            tangents=tangents,
        )

    def simplified(self, faces: int) -> Mesh:
        """Return a mesh of about so many triangles in the same shape, with its colors.

        Edges are collapsed where the surface moves least (Garland and Heckbert, Surface simplification using quadric error metrics, 1997),
        by the package fast-simplification. Where two sheets of a closed mesh would meet in an edge, other orders of collapses are tried. A
        vertex gets the mean color of the vertices that are nearest to it; normals are computed again. A mesh that is small enough is
        returned unchanged. :func:`unrender.geometry.simplification.simplified_within` bounds the distance instead of the number.

        Raises:
            ValueError: fewer than four triangles are asked for, or the mesh has texture coordinates.
        """
        if faces < 4:
            raise ValueError(f"a mesh cannot be simplified to {faces} faces; give at least 4")
        if self.uvs is not None:
            raise ValueError("a mesh with texture coordinates cannot be simplified, because they would not fit any more")
        if len(self.faces) <= faces:
            return self
        offset = self.bounding_box.double().mean(0).cpu().numpy()
        places = _numpy(self.vertices).astype(np.float64) - offset
        new_places, new_faces = _collapsed(places, _numpy(self.faces).astype(np.int32), faces)
        colors = None
        if self.colors is not None:
            color, count = _numpy(self.colors), len(new_places)
            near = KDTree(new_places).query(places)[1]
            shares = np.bincount(near, minlength=count)
            means = np.stack([np.bincount(near, color[:, k], count) for k in range(3)], 1) / np.maximum(shares, 1)[:, None]
            means[shares == 0] = color[KDTree(places).query(new_places[shares == 0])[1]]
            colors = torch.from_numpy(means).to(self.colors)
        vertices = torch.from_numpy(new_places + offset).to(self.vertices)
        small = Mesh(vertices, torch.from_numpy(new_faces.astype(np.int64)).to(self.faces), colors, up=self.up)
        return small if self.normals is None else small.with_vertex_normals()

    def ray_tree(self) -> TriangleTree:
        """Return a tree for :func:`unrender.ops.raster.cast_rays`, which does not follow vertices that move later."""
        return TriangleTree(self.vertices, self.faces)

    def to(self, device: torch.device | str) -> Mesh:
        """Return the mesh with all its tensors on another device."""
        return replace(self, **{name: tensor.to(device) for name, tensor in self._tensors().items()})

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
        """Return the mesh with these normals at its vertices; tangents are turned until they are orthogonal to them."""
        if self.tangents is None or self.uv_faces is None:
            return replace(self, normals=normals)
        return replace(self, normals=normals, tangents=made_orthogonal(self.tangents, normals, self.faces, self.uv_faces))

    def with_colors(self, colors: Float[Tensor, "vertices 3"]) -> Mesh:
        """Return the mesh with these sRGB colors at its vertices."""
        return replace(self, colors=colors)

    def with_up(self, up: tuple[float, float, float]) -> Mesh:
        """Return the mesh with this upward direction of its coordinates, which do not change."""
        return replace(self, up=up)

    def export(self, path: str | Path, *, axes: Axes | None = None, material: mesh_files.MaterialArrays | None = None) -> None:
        """Write the mesh as .ply, .obj or .glb, by the suffix, atomically; its folder is made.

        By default a GLB and an OBJ are turned until +Y is up, as importers expect, and a PLY keeps the coordinates. The file states the
        rotation, so that :func:`read_mesh` returns these coordinates. Texture coordinates go into .obj and .glb, but not into .ply; in a
        .glb the vertices along their seams are split. Tangents go into a .glb whose material has a normal texture, together with the
        normals; a mesh without tangents gets them then.

        Args:
            path: the file; an existing one is replaced.
            axes: "y-up" or "z-up" turn the mesh from its own ``up``; "source" keeps the coordinates.
            material: textures and factors for a .glb or .obj; a mesh with textures needs texture coordinates. An OBJ gets an MTL file and
            PNG files beside it. Without a material, vertex colors are taken to have the light in them; a .glb shows them unlit.

        Raises:
            ValueError: the mesh is empty, the suffix unknown, or vertices or texture coordinates are not finite.
            OSError: the folder or the file cannot be made.
        """
        path = Path(path)
        mesh_files.check_writable(path)
        if self.is_empty:
            raise ValueError(
                f"cannot write {path}: the mesh has no triangles; unrender.geometry.isosurface.explain_empty gives the usual reasons"
            )
        wants_tangents = material is not None and material.normal is not None and None not in (self.normals, self.uvs)
        mesh = self.with_tangents() if wants_tangents and self.tangents is None else self
        arrays = mesh_files.MeshArrays(**{name: _numpy(tensor) for name, tensor in mesh._tensors().items()}, up=self.up)
        chosen = axes or _AXES_OF_SUFFIX[path.suffix.lower()]
        mesh_files.write(path, arrays, rotation=_upright_rotation(self.up, chosen), material=material)

    def _tensors(self) -> dict[str, Tensor]:
        """Return the fields that are tensors, by name, without those that are None."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "up"}
        return {name: value for name, value in values.items() if value is not None}

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

    def _vertex_normals(self) -> Float[Tensor, "vertices 3"]:
        crosses = self._face_crosses()
        sums = torch.zeros_like(self.vertices)
        for corner in range(3):
            sums.index_add_(0, self.faces[:, corner].long(), crosses)
        return normalized(sums)

    def _face_crosses(self) -> Float[Tensor, "faces 3"]:
        """Return (b − a) × (c − a), the outward normal times twice the area."""
        a, b, c = self.vertices[self.faces.long()].unbind(1)
        return torch.linalg.cross(b - a, c - a)


def read_mesh(path: str | Path, *, own_axes: bool = False) -> Mesh:
    """Read a PLY, OBJ, GLB, GLTF, STL or OFF file.

    Positions, triangles and vertex colors are read from each, texture coordinates from an OBJ or glTF, normals and tangents from a glTF.
    Polygons become triangles; the vertices of an STL are joined at equal positions. ``docs/meshes.md`` states what is repaired and what is
    refused.

    Args:
        path: the file.
        own_axes: keep the axes of the file. Otherwise a file that this package wrote is turned back to the frame of its mesh, and another
            glTF, which is +Y up by definition, to +Z up.

    Raises:
        FileNotFoundError: there is no such file.
        MeshFileError: the file has no triangles or cannot be parsed; a ValueError.
    """
    return mesh_of(mesh_files.read(Path(path), own_axes=own_axes))


def mesh_of(arrays: mesh_files.MeshArrays) -> Mesh:
    """Return the content of a mesh file as a mesh, in float32 where that keeps its shape."""
    faces = torch.from_numpy(arrays.faces.astype(np.int64))
    colors = None if arrays.colors is None else torch.from_numpy(arrays.colors.astype(np.float32))
    uvs = uv_faces = None
    if arrays.uvs is not None and arrays.uv_faces is not None:
        uvs, uv_faces = torch.from_numpy(arrays.uvs.astype(np.float32)), torch.from_numpy(arrays.uv_faces.astype(np.int64))
    normals = None if arrays.normals is None else torch.from_numpy(arrays.normals.astype(np.float32))
    tangents = None if arrays.tangents is None else torch.from_numpy(arrays.tangents.astype(np.float32))
    vertices = _shape_kept(torch.from_numpy(arrays.vertices.astype(np.float64)), faces, torch.float32)
    return Mesh(vertices, faces, colors, normals, uvs, uv_faces, tangents, arrays.up)


def _shape_kept(vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"], dtype: torch.dtype) -> Float[Tensor, "vertices 3"]:
    """Return float64 vertices in ``dtype``, unless its rounding would change the shape.

    Rounding moves coordinates c by up to 2⁻²⁴ |c|. It matters if that exceeds a thousandth of the median edge.
    """
    rounded = vertices.to(dtype)
    if faces.shape[0] == 0:
        return rounded
    moved = float((rounded.double() - vertices).detach().abs().max())
    a, b, _ = vertices.detach()[faces.long()].unbind(1)
    edges = (b - a).norm(dim=-1)
    edges = edges[edges > 0]
    return vertices if len(edges) and moved > _LOST * float(edges.median()) else rounded


def _upright_rotation(up: tuple[float, float, float], axes: Axes) -> Float[np.ndarray, "3 3"]:
    """Return the rotation that turns ``up`` to the up axis of a file.

    It is the smallest one to +Z; for +Y up, (x, y, z) then becomes (x, z, −y), so that files of either axis and environments have one
    heading. Quarter and half turns are exact.
    """
    if axes == "source":
        return np.eye(3)
    rotation = rotation_between(torch.tensor(up, dtype=torch.float64), torch.tensor(mesh_files.Z_UP, dtype=torch.float64)).numpy()
    rotation = _Y_FROM_Z_UP @ rotation if axes == "y-up" else rotation
    nearest = np.rint(rotation)
    return nearest + 0.0 if np.abs(rotation - nearest).max() < 1e-12 else rotation


_Y_FROM_Z_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])


def _has_three_corners(faces: Int[Tensor, "faces 3"]) -> Bool[Tensor, " faces"]:
    return (faces != faces.roll(1, dims=1)).all(1)


def _edges(faces: Int[np.ndarray, "faces 3"], vertices: int) -> tuple[Int[np.ndarray, "edges 2"], Int[np.ndarray, " edges"]]:
    corners = np.sort(faces.astype(np.int64), axis=1)
    corners = corners[(corners[:, :-1] != corners[:, 1:]).all(1)]
    pairs = np.concatenate([corners[:, :2], corners[:, 1:], corners[:, ::2]])
    count = max(1, vertices)
    keys, shared = np.unique(pairs[:, 0] * count + pairs[:, 1], return_counts=True)
    return np.stack(np.divmod(keys, count), 1), shared


def _collapsed(
    places: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"], count: int
) -> tuple[Float[np.ndarray, "left 3"], Int[np.ndarray, "triangles 3"]]:
    """Collapse edges until so many triangles are left, and no more of them share an edge than before."""
    most = int(_edges(faces, len(places))[1].max(initial=0))
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for aggressiveness in _AGGRESSIVENESS:
        new_places, new_faces, *_ = simplify(places, faces, target_count=count, agg=aggressiveness)
        found.append((new_places, new_faces))
        small = len(new_faces) <= max(count, len(found[0][1]))
        if small and _edges(new_faces, len(new_places))[1].max(initial=0) <= most:
            return new_places, new_faces
    return found[0]


def _renumbered(faces: Int[Tensor, "faces 3"], count: int) -> tuple[Int[Tensor, "faces 3"], Bool[Tensor, " rows"]]:
    """Renumber corners among the rows in use, and tell which of the ``count`` rows these are."""
    used = torch.zeros(count, dtype=torch.bool, device=faces.device)
    used[faces.reshape(-1).long()] = True
    return (used.cumsum(0) - 1).to(faces.dtype)[faces.long()], used


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()

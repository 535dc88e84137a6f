"""The unknown shapes: a signed distance on a lattice, whose surface is extracted in every step, or the vertices of a mesh."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from unrender.geometry.flexicubes import flexicubes
from unrender.geometry.marching_tets import marching_tets
from unrender.geometry.mesh import Mesh
from unrender.geometry.tangents import grouped_coordinates, tangents_of
from unrender.geometry.tetrahedra import TetrahedralLattice, tetrahedral_lattice
from unrender.geometry.voxels import VoxelLattice, voxel_lattice
from unrender.losses.surface import sign_changes, uniform_laplacian
from unrender.recipes.mesh_pbr.config import PbrLosses, Rates
from unrender.recipes.schedules import ramp

_FARTHEST_MOVE = 0.25
"""Largest move of a vertex of a lattice, in cells: half of the way to its nearest neighbor."""


_TENSORS = ("vertices", "faces", "colors", "normals", "uvs", "uv_faces", "tangents")
"""The tensors of a mesh."""


class Shape(nn.Module, ABC):
    """An unknown shape."""

    @abstractmethod
    def mesh(self) -> Mesh:
        """Return the surface with vertex normals, differentiable by the unknowns."""

    @abstractmethod
    def regularization(self, losses: PbrLosses, fraction: float) -> dict[str, Tensor]:
        """Return the weighted terms that depend on the shape alone, at this share of the budget."""

    @abstractmethod
    def parameter_groups(self, rates: Rates) -> list[dict[str, Any]]:
        """Return the groups of the unknowns for an optimizer."""


class MeshShape(Shape):
    """The vertices of a mesh with fixed triangles, which may have texture coordinates."""

    start: Tensor
    faces: Tensor
    uvs: Tensor
    uv_faces: Tensor

    def __init__(self, mesh: Mesh | None = None) -> None:
        """Begin with a mesh; None for one whose state will be loaded."""
        super().__init__()
        given = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int32)) if mesh is None else mesh
        self.vertices = nn.Parameter(given.vertices.detach().clone())
        self.register_buffer("start", given.vertices.detach().clone())
        self.register_buffer("faces", given.faces.int())
        self.register_buffer("uvs", torch.zeros(0, 2) if given.uvs is None else given.uvs)
        self.register_buffer("uv_faces", torch.zeros(0, 3, dtype=torch.int32) if given.uv_faces is None else given.uv_faces.int())
        self._grouped: tuple[Tensor, Tensor] | None = None
        """Texture coordinates, one for each tangent; which corners share one does not depend on where the vertices move."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Resize the tensors to those of a saved state."""
        for name in ("start", "faces", "uvs", "uv_faces"):
            setattr(self, name, torch.empty_like(state_dict[f"{prefix}{name}"], device=self.start.device))
        self.vertices.data = torch.empty_like(state_dict[f"{prefix}vertices"], device=self.start.device)
        self._grouped = None
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def first_mesh(self) -> Mesh:
        """Return the mesh as it was given, with vertex normals."""
        return Mesh(self.start, self.faces).with_vertex_normals()

    def mesh(self) -> Mesh:
        mesh = Mesh(self.vertices, self.faces).with_vertex_normals()
        if len(self.uvs) == 0:
            return mesh
        assert mesh.normals is not None
        uvs, uv_faces = self._coordinates()
        tangents = tangents_of(mesh.vertices, mesh.normals, mesh.faces, uvs, uv_faces)
        return replace(mesh, uvs=uvs, uv_faces=uv_faces, tangents=tangents)

    def _coordinates(self) -> tuple[Float[Tensor, "groups 2"], Int[Tensor, "faces 3"]]:
        """Return the texture coordinates as tangents need them, grouped once."""
        if self._grouped is None or self._grouped[0].device != self.uvs.device:
            first = self.first_mesh()
            assert first.normals is not None
            self._grouped = grouped_coordinates(first.vertices, first.normals, first.faces, self.uvs, self.uv_faces)
        return self._grouped

    def regularization(self, losses: PbrLosses, fraction: float) -> dict[str, Tensor]:
        weight = ramp(losses.laplacian, fraction)
        uneven = self.vertices - self.start if losses.laplacian_of == "moves" else self.vertices
        return {"laplacian": weight * uniform_laplacian(uneven, self.faces)}

    def parameter_groups(self, rates: Rates) -> list[dict[str, Any]]:
        return [{"params": [self.vertices], "lr": rates.position_rate, "betas": rates.shape_betas, "weight_decay": 0.0}]


class KnownShape(Shape):
    """A mesh that stays as it is given."""

    def __init__(self, mesh: Mesh) -> None:
        """Take a mesh; normals and tangents that it lacks are computed."""
        super().__init__()
        mesh = mesh if mesh.normals is not None else mesh.with_vertex_normals()
        mesh = mesh.with_tangents() if mesh.uvs is not None and mesh.tangents is None else mesh
        for name in _TENSORS:
            self.register_buffer(name, getattr(mesh, name))

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> KnownShape:
        """Rebuild a shape from its tensors."""
        return cls(Mesh(**{name: state.get(name) for name in _TENSORS}))  # pyright: ignore[reportArgumentType]  two are always there

    def first_mesh(self) -> Mesh:
        """Return the mesh as it was given, with vertex normals."""
        return self.mesh()

    def mesh(self) -> Mesh:
        return Mesh(**{name: getattr(self, name) for name in _TENSORS})

    def regularization(self, losses: PbrLosses, fraction: float) -> dict[str, Tensor]:
        return {}

    def parameter_groups(self, rates: Rates) -> list[dict[str, Any]]:
        return []


class LatticeShape(Shape):
    """Signed distances and moves of the vertices of a lattice, from which the surface is extracted in every step."""

    start: Tensor
    box: Tensor
    cells: Tensor

    def __init__(
        self, vertices: Float[Tensor, "vertices 3"], cells: tuple[int, int, int], box: Float[Tensor, "2 3"], distance: Tensor | None
    ) -> None:
        super().__init__()
        self.cell = float(((box[1] - box[0]) / torch.tensor(cells, device=box.device)).max())
        """Side of a cell."""
        start = torch.ones(len(vertices)) if distance is None else _sampled(distance, vertices) / self.cell
        self.distances = nn.Parameter(start.clone())
        self.moves = nn.Parameter(torch.zeros_like(vertices))
        self.register_buffer("start", start)
        self.register_buffer("box", box)
        self.register_buffer("cells", torch.tensor(cells))
        self._shape = cells

    def _places(self, vertices: Float[Tensor, "vertices 3"]) -> Float[Tensor, "vertices 3"]:
        return vertices + _FARTHEST_MOVE * self.cell * torch.tanh(self.moves)

    @torch.no_grad()
    def _recover(self) -> None:
        """Begin again where all distances have one sign: there is no surface, hence no gradient that could bring it back."""
        if bool((self.distances >= 0).all()) or bool((self.distances < 0).all()):
            self.distances.copy_(self.start)


class TetrahedralShape(LatticeShape):
    """A lattice of tetrahedra (DMTet)."""

    def __init__(self, cells: tuple[int, int, int], box: Float[Tensor, "2 3"], distance: Float[Tensor, "Z Y X"] | None = None) -> None:
        """Begin with signed distances over [-1, 1]³; None for a shape whose state will be loaded."""
        lattice = tetrahedral_lattice(cells, box)
        super().__init__(lattice.vertices, cells, box, distance)
        self._lattice = lattice

    @property
    def lattice(self) -> TetrahedralLattice:
        """The lattice, on the device of the unknowns."""
        if self._lattice.vertices.device != self.box.device:
            self._lattice = tetrahedral_lattice(self._shape, self.box)
        return self._lattice

    def mesh(self) -> Mesh:
        self._recover()
        return Mesh(*marching_tets(self._places(self.lattice.vertices), self.distances, self.lattice)).with_vertex_normals()

    def regularization(self, losses: PbrLosses, fraction: float) -> dict[str, Tensor]:
        return {"sign_changes": ramp(losses.sign_changes, fraction) * sign_changes(self.distances, self.lattice.edges)}

    def parameter_groups(self, rates: Rates) -> list[dict[str, Any]]:
        return [{"params": [self.distances, self.moves], "lr": rates.distance_rate, "betas": rates.shape_betas, "weight_decay": 0.0}]


class CubicShape(LatticeShape):
    """A lattice of cubes with weights (FlexiCubes)."""

    def __init__(self, cells: tuple[int, int, int], box: Float[Tensor, "2 3"], distance: Float[Tensor, "Z Y X"] | None = None) -> None:
        """Begin with signed distances over [-1, 1]³; None for a shape whose state will be loaded."""
        lattice = voxel_lattice(cells, box)
        super().__init__(lattice.vertices, cells, box, distance)
        self._lattice = lattice
        self.weights = nn.Parameter(torch.zeros(self.lattice.cell_count, 21))
        self._deviation: Tensor | None = None

    @property
    def lattice(self) -> VoxelLattice:
        """The lattice, on the device of the unknowns."""
        if self._lattice.vertices.device != self.box.device:
            self._lattice = voxel_lattice(self._shape, self.box)
        return self._lattice

    def mesh(self) -> Mesh:
        self._recover()
        found = flexicubes(
            self._places(self.lattice.vertices), self.distances, self.lattice, self.weights, training=torch.is_grad_enabled()
        )
        self._deviation = found.deviation
        return Mesh(found.vertices, found.faces).with_vertex_normals()

    def regularization(self, losses: PbrLosses, fraction: float) -> dict[str, Tensor]:
        assert self._deviation is not None, "the mesh of this step comes first"
        changes = ramp(losses.sign_changes, fraction) * sign_changes(self.distances, self.lattice.edges)
        return {"sign_changes": changes, "deviation": losses.deviation * self._deviation}

    def parameter_groups(self, rates: Rates) -> list[dict[str, Any]]:
        return [
            {
                "params": [self.distances, self.moves, self.weights],
                "lr": rates.distance_rate,
                "betas": rates.shape_betas,
                "weight_decay": 0.0,
            }
        ]


def _sampled(grid: Float[Tensor, "Z Y X"], points: Float[Tensor, "points 3"]) -> Float[Tensor, " points"]:
    """Interpolate a grid over [-1, 1]³."""
    places = points.to(grid)[None, None, None]
    return F.grid_sample(grid[None, None], places, align_corners=True, padding_mode="border")[0, 0, 0, 0]

"""The export of a fitted scene for other programs: a mesh, its material, and the environment light."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.files.mesh_files import MaterialArrays
from unrender.files.mesh_files.materials import read_textured
from unrender.geometry.mesh import Axes, Mesh, mesh_of
from unrender.printing import of_fields
from unrender.shading.lights import EnvironmentLight


@dataclass(frozen=True)
class PbrMaterial:
    """Textures of a physically based material, as glTF 2.0 defines them; row 0 is the top of each image.

    Textures use the texture coordinates of the mesh and may differ in size. Without a texture, its factor applies to the whole surface.
    """

    base_color: Float[Tensor, "height width channels"] | None = None
    """Linear light, three channels, or four with opacity; by default the vertex colors, or white."""
    roughness_metallic: Float[Tensor, "roughness_height roughness_width 2"] | None = None
    """Roughness and metallic, each 0 to 1."""
    normal: Float[Tensor, "normal_height normal_width 3"] | None = None
    """Unit normals in tangent space: +X along u, +Y against v, +Z out of the surface."""
    roughness: float = 1.0
    """Used without ``roughness_metallic``."""
    metallic: float = 0.0
    """Used without ``roughness_metallic``."""

    def arrays(self) -> MaterialArrays:
        """Return the textures as mesh files store them."""

        def stored(texture: Tensor | None) -> Tensor | None:
            return None if texture is None else texture.detach().float().cpu()

        return MaterialArrays(
            base_color=stored(self.base_color),
            roughness_metallic=stored(self.roughness_metallic),
            normal=stored(self.normal),
            roughness=self.roughness,
            metallic=self.metallic,
        )


@dataclass(frozen=True)
class Asset:
    """A mesh, its material and the environment light."""

    mesh: Mesh
    """Has vertex colors, or texture coordinates for the material. Its ``up`` is the upward direction of the asset."""
    material: PbrMaterial | None = None
    """None if there are only vertex colors."""
    environment: EnvironmentLight | None = None
    """None if the light is part of the colors."""
    left_out: int = 0
    """Smaller pieces of the surface that are not in the mesh."""

    __repr__ = of_fields

    @classmethod
    def empty(cls) -> Asset:
        """Return an asset without a surface."""
        return cls(Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)))

    @property
    def is_empty(self) -> bool:
        return self.mesh.is_empty

    def with_source_up(self, up: tuple[float, float, float], source_from_world: Float[Tensor, "4 4"]) -> Asset:
        """Return the asset, which is in the world, with the upward direction of the source frame."""
        direction = source_from_world[:3, :3].double().cpu().T @ torch.tensor(up, dtype=torch.float64)
        x, y, z = (direction / direction.norm()).tolist()
        return replace(self, mesh=self.mesh.with_up((x, y, z)))

    def to(self, device: torch.device | str) -> Asset:
        """Return the asset with all its tensors on another device."""
        material, light = self.material, self.environment
        if material is not None:
            textures = {name: getattr(material, name) for name in ("base_color", "roughness_metallic", "normal")}
            material = replace(material, **{name: texture.to(device) for name, texture in textures.items() if texture is not None})
        light = None if light is None else replace(light, texels=light.texels.to(device))
        return replace(self, mesh=self.mesh.to(device), material=material, environment=light)

    def transformed(self, similarity: Float[Tensor, "4 4"]) -> Asset:
        """Return the asset with its mesh moved by a similarity; the environment keeps its axes."""
        return replace(self, mesh=self.mesh.transformed(similarity))

    def export(self, path: str | Path, *, axes: Axes | None = None) -> None:
        """Write the asset as .glb, or as .obj with files beside it, or its mesh as .ply; see :meth:`Mesh.export`."""
        self.mesh.export(path, axes=axes, material=None if self.material is None else self.material.arrays())


def read_asset(path: str | Path, *, own_axes: bool = False) -> Asset:
    """Read a mesh file with its material: a glTF with textures, or an OBJ with the MTL file beside it.

    Several materials, and textures that repeat, become one atlas with other texture coordinates. Tangents are computed where there is a
    normal texture and the file has none.

    Args:
        path: the file; formats without a material give the mesh alone.
        own_axes: as in :func:`~unrender.geometry.mesh.read_mesh`.

    Raises:
        FileNotFoundError: there is no such file.
        MeshFileError: the file cannot be parsed, a file it names is missing, or a texture cannot be decoded; a ValueError.
    """
    found, arrays = read_textured(Path(path), own_axes=own_axes)
    mesh = mesh_of(found)
    if arrays is None:
        return Asset(mesh)
    if arrays.normal is not None and mesh.tangents is None and mesh.uvs is not None:
        mesh = (mesh if mesh.normals is not None else mesh.with_vertex_normals()).with_tangents()
    return Asset(mesh, PbrMaterial(*arrays))

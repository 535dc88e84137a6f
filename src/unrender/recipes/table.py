"""The table of recipes and their parts.

``nerf``
    unknowns: hash grid, density and color perceptrons;
    image: weights from density, marched through an occupancy grid;
    losses: photometric, distortion.

``plenoxels``
    unknowns: density and spherical harmonics of sparse voxels, a multi-sphere image where the scene is unbounded;
    image: weights from density, trilinear, no network;
    losses: mean squared error, total variation, sparsity, light either passed or not;
    refined from coarse to fine, pruned at each refinement.

``nerf-mlp``
    unknowns: a coarse and a fine perceptron of frequency-encoded positions and directions;
    image: weights from density, stratified and importance samples;
    losses: mean squared error of both.

``neus``
    unknowns: signed distance (dense grids or hash grid), color network, sharpness, surroundings where the scene is unbounded;
    image: weights from the logistic CDF of the distance, marched near the surface;
    losses: photometric, eikonal, mask, bending, curvature, sparsity, opacity, distortion, normal prior, surface points;
    phases: a radiance field, whose depths give the first surface; then the surface.

``mesh-pbr``; ``asset``, which begins with the surface of ``neus``; ``material`` and ``light``, with the other parts known
    unknowns: a mesh, base color, roughness, metallic and normals, environment light;
    image: rasterized, shaded by split sums, antialiased;
    losses: photometric, mask, sign changes, smoothness of the material, whiteness of the light, Laplacian;
    phases: materials in space, on the mesh of a fitted surface or with the shape on a lattice; then textures.

``image``
    unknowns: a perceptron of encoded coordinates (Fourier features or a hash grid);
    image: the perceptron at the centers of the pixels;
    losses: mean squared error of every other pixel along each axis.

``deform``
    unknowns: handles of a cage around a template mesh, and its vertices;
    image: rasterized, antialiased;
    losses: mask, Laplacian, as rigid as possible, lengths of edges.

Each recipe is a function that contains its training loop; this table tells the rest of the package how to use it. The functions, and with
them PyTorch, are imported when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, Protocol, TypeVar, runtime_checkable

from unrender.recipes import deform, image, mesh_pbr, nerf, nerf_mlp, neus, plenoxels
from unrender.recipes.kinds import CAPTURE, CAPTURE_OR_RUN, PICTURE, Input, InputKind
from unrender.recipes.settings import override
from unrender.words import suggestion

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from unrender.captures.capture import Capture
    from unrender.recipes.fitting import FitResult, Observer
    from unrender.recipes.inputs import FittedRun, Picture
    from unrender.render.scene import Scene

Output = Literal["cameras", "metrics", "mesh", "video", "picture", "report"]
"""Outputs of a run: refined poses, scores of held-out views, the asset as files, a camera path, a fitted picture; a report is always
written."""


@runtime_checkable
class Config(Protocol):
    """The interface of every recipe's configuration: a frozen dataclass with a budget."""

    @property
    def steps(self) -> int | None: ...

    @property
    def max_seconds(self) -> float | None: ...


C = TypeVar("C", bound=Config)
I_contra = TypeVar("I_contra", contravariant=True)
C_contra = TypeVar("C_contra", bound=Config, contravariant=True)
I = TypeVar("I", bound=Input)  # noqa: E741  the input of a recipe


@runtime_checkable
class Fit(Protocol[C_contra, I_contra]):
    """The function of a recipe."""

    def __call__(
        self,
        input: I_contra,
        config: C_contra,
        /,
        *,
        device: torch.device,
        seed: int,
        resume: Mapping[str, Tensor] | None = None,
        observer: Observer | None = None,
    ) -> FitResult: ...


@dataclass(frozen=True)
class Choice:
    """A setting that is one of several bundles, chosen by name: ``--field grid``."""

    setting: str
    summary: str
    """Description for the help page."""
    members: Mapping[str, object]
    """Each bundle with its defaults."""

    def name_in(self, config: Config) -> str:
        """Return the name of the bundle that a configuration has."""
        kind = type(getattr(config, self.setting))
        return next(name for name, member in self.members.items() if type(member) is kind)


def _never(_: object) -> bool:
    return False


@dataclass(frozen=True)
class Recipe(Generic[C, I]):
    """A row of the table: a method and how to use it."""

    name: str
    summary: str
    presets: Mapping[str, C]
    """Configurations by name; ``"cpu"`` and ``"gpu"`` are the defaults of the two kinds of device."""
    fit: Fit[C, I]
    load_scene: Callable[[C, Mapping[str, Tensor], torch.device], Scene]
    """Returns the scene of a snapshot."""
    input: InputKind[I]
    """Kind of input that the recipe fits."""
    undistorted: bool = False
    """True for methods that rasterize: photos are resampled to pinhole cameras before the fit and its evaluation."""
    outputs: tuple[Output, ...] = ("cameras", "metrics", "mesh", "video")
    choices: tuple[Choice, ...] = ()
    refines_poses: Callable[[C], bool] = _never
    """Tells whether a configuration has the poses as unknowns, which are then inexact before the fit."""
    idle: tuple[str, ...] = ()
    """Settings, and bundles of settings, without effect as long as the locks of the presets stay; help pages leave them out."""

    @property
    def config_type(self) -> type[Any]:
        """The class of the recipe's configurations."""
        return type(next(iter(self.presets.values())))

    def default_preset(self, device: torch.device) -> str:
        """Return the preset for a kind of device."""
        return "cpu" if device.type == "cpu" else "gpu"

    def preset(self, name: str) -> C:
        """Return a configuration by its name.

        Raises:
            ValueError: for an unknown name; the message suggests the nearest known one.
        """
        if name not in self.presets:
            raise ValueError(f"the recipe {self.name} has no preset {name!r}; {suggestion(name, self.presets)}")
        return self.presets[name]

    def start(self, preset: str | None, device: torch.device) -> tuple[str, C]:
        """Return the name and the configuration of a preset, by default that of the device.

        Raises:
            ValueError: for an unknown name; the message suggests the nearest known one.
        """
        name = preset or self.default_preset(device)
        return name, self.preset(name)

    def choose(self, config: C, setting: str, name: str) -> C:
        """Return a configuration with a bundle chosen by name; a bundle already chosen keeps its values.

        Raises:
            ValueError: for an unknown name; the message suggests the nearest known one.
        """
        choice = next(choice for choice in self.choices if choice.setting == setting)
        if name not in choice.members:
            raise ValueError(f"the recipe {self.name} has no {setting} {name!r}; {suggestion(name, choice.members)}")
        if choice.name_in(config) == name:
            return config
        return replace(config, **{setting: choice.members[name]})  # pyright: ignore[reportArgumentType]  every config is a dataclass

    def configure(self, config: C, settings: Mapping[str, Any]) -> C:
        """Return a configuration with settings replaced by name; choices may be given by name too.

        Raises:
            ValueError: for a setting that does not exist, or an invalid value.
        """
        chosen = {choice.setting for choice in self.choices if isinstance(settings.get(choice.setting), str)}
        for setting in chosen:
            config = self.choose(config, setting, settings[setting])
        return override(config, **{name: value for name, value in settings.items() if name not in chosen})


P = ParamSpec("P")
T = TypeVar("T")


def later(find: Callable[[], Callable[P, T]]) -> Callable[P, T]:
    """Return a function that is found when it is first called, and with it PyTorch.

    >>> later(lambda: print)(1)
    1
    """

    def call(*arguments: P.args, **named: P.kwargs) -> T:
        return find()(*arguments, **named)

    return call


NERF: Recipe[nerf.NerfConfig, Capture] = Recipe(
    name="nerf",
    summary="a radiance field: new views, also of unbounded scenes",
    presets=nerf.PRESETS,
    fit=later(lambda: nerf.fit),
    load_scene=later(lambda: nerf.load_scene),
    input=CAPTURE,
    refines_poses=lambda config: config.refine_poses,
)
NERF_MLP: Recipe[nerf_mlp.NerfMlpConfig, Capture] = Recipe(
    name="nerf-mlp",
    summary="the original NeRF: a radiance field in two perceptrons",
    presets=nerf_mlp.PRESETS,
    fit=later(lambda: nerf_mlp.fit),
    load_scene=later(lambda: nerf_mlp.load_scene),
    input=CAPTURE,
)
PLENOXELS: Recipe[plenoxels.PlenoxelsConfig, Capture] = Recipe(
    name="plenoxels",
    summary="a radiance field of voxels without a network: new views, fast on a CPU",
    presets=plenoxels.PRESETS,
    fit=later(lambda: plenoxels.fit),
    load_scene=later(lambda: plenoxels.load_scene),
    input=CAPTURE,
)
NEUS: Recipe[neus.NeusConfig, Capture] = Recipe(
    name="neus",
    summary="a surface, the zero level of a signed distance",
    presets=neus.PRESETS,
    fit=later(lambda: neus.fit),
    load_scene=later(lambda: neus.load_scene),
    input=CAPTURE,
    choices=(Choice("field", "The signed distance: grid, dense grids for a CPU; hash, a hash grid with a perceptron.", neus.FIELDS),),
    refines_poses=lambda config: config.refine_poses,
)

_SHAPE = Choice("shape", "The shape: neus, a surface fitted first; cubes or tets, a lattice of distances from the masks.", mesh_pbr.SHAPES)
MESH_PBR: Recipe[mesh_pbr.MeshPbrConfig, Capture | FittedRun] = Recipe(
    name="mesh-pbr",
    summary="a relightable mesh: shape, material and light together",
    presets=mesh_pbr.PRESETS,
    fit=later(lambda: mesh_pbr.fit),
    load_scene=later(lambda: mesh_pbr.load_scene),
    input=CAPTURE_OR_RUN,
    undistorted=True,
    choices=(_SHAPE,),
    refines_poses=lambda config: isinstance(config.shape, mesh_pbr.FittedSurface) and config.shape.refine_poses,
)
ASSET: Recipe[mesh_pbr.MeshPbrConfig, Capture | FittedRun] = replace(
    MESH_PBR, name="asset", summary="the same from a surface that neus fits first: what to use", presets=mesh_pbr.ASSET_PRESETS
)
MATERIAL: Recipe[mesh_pbr.MeshPbrConfig, Capture | FittedRun] = replace(
    MESH_PBR,
    name="material",
    summary="the textures of a known mesh, under a light known or not",
    presets=mesh_pbr.MATERIAL_PRESETS,
    choices=(),
    idle=mesh_pbr.WITHOUT_SHAPE,
)
LIGHT: Recipe[mesh_pbr.MeshPbrConfig, Capture | FittedRun] = replace(
    MESH_PBR,
    name="light",
    summary="the light around a known mesh with its material",
    presets=mesh_pbr.LIGHT_PRESETS,
    choices=(),
    idle=mesh_pbr.WITHOUT_MATERIAL,
)


IMAGE: Recipe[image.ImageConfig, Picture] = Recipe(
    name="image",
    summary="a picture, memorized by a network of encoded coordinates",
    presets=image.PRESETS,
    fit=later(lambda: image.fit),
    load_scene=later(lambda: image.load_scene),
    input=PICTURE,
    outputs=("picture",),
)
DEFORM: Recipe[deform.DeformConfig, Capture | FittedRun] = Recipe(
    name="deform",
    summary="a template mesh, moved until its outlines fit the masks",
    presets=deform.PRESETS,
    fit=later(lambda: deform.fit),
    load_scene=later(lambda: deform.load_scene),
    input=CAPTURE_OR_RUN,
    undistorted=True,
)


def recipes() -> dict[str, Recipe[Any, Any]]:
    """Return every recipe by its name."""
    rows = (NERF, NERF_MLP, PLENOXELS, NEUS, MESH_PBR, ASSET, MATERIAL, LIGHT, DEFORM, IMAGE)
    return {recipe.name: recipe for recipe in rows}


def find_recipe(name: str, table: Mapping[str, Recipe[Any, Any]]) -> Recipe[Any, Any]:
    """Return a recipe by its name.

    Raises:
        ValueError: for an unknown name; the message suggests the nearest known one.
    """
    if name not in table:
        raise ValueError(f"there is no recipe {name!r}; {suggestion(name, table)}")
    return table[name]

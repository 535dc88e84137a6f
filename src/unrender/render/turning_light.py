"""Whether the light of some photos stands still or turns with the camera, as it does where an object turns in front of both.

A point x of a surface with the normal n has the colors y in the photos that show it. Seen along v, it mirrors the direction
r = 2 (n · v) n − v. What changes between the photos is explained by the exposure of the photo, the angle to the viewer, and a smooth
function f of the direction of the light:

    log y = a(x) + e(photo) + p(n · v) + f(r)       with r in the axes of the world, under a light that stands still;
    log y = a(x) + e(photo) + p(n · v) + f(R r)     with the rotation R to the axes of the camera, under a light that turns with it.

p is a polynomial, and f a sum of lobes around evenly spread directions. Both are linear least squares with equally many unknowns, and the
light is the one that explains more. Distant cameras see R n in R r, so f(R r) also knows what a matte surface shows of a turning light; one
that stands still makes it no different in any photo.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.color import linear_from_srgb
from unrender.devices import pytorch_on_one_thread
from unrender.geometry.mesh import Mesh
from unrender.numerics import SMALLEST_LENGTH, normalized
from unrender.render.photo_views import PhotoView, PhotoViews
from unrender.shading.cubes import cube_directions

_FACES = 6_000
"""Triangles of the simplified mesh whose vertices are compared."""
_VIEWS = 48
"""Photos that are compared."""
_DARKEST = 0.01
"""Linear light that is added to colors, so that noise in dark ones counts little."""
_NEAR = 3.0
"""Pixels by which a vertex may be behind the surface that its pixel shows."""
_LEAST_GAIN = 0.03
"""Share of the variance by which a turning light must explain more."""
_LEAST_CHANGE = 0.02
"""Relative change of color that this must be at least: less is how photos are resampled."""
_LOBES = 4
"""Lobes along an edge of a cube map of directions."""
_SHARPNESS = 9.5
"""Of a lobe exp(k (cos θ − 1)): one half at the distance of the next one, about 22 degrees."""
_SPREAD = 4.0
"""Medians of the deviations from the mean of a point beyond which a deviation counts as no larger: mirror images, occlusions."""
_RIDGE = 1e-4
"""Weight of small coefficients, relative to the mean of the squared columns: lobes in which nothing is mirrored get none."""
_FEWEST = 200
"""Repeated observations of vertices below which nothing is decided."""


@dataclass(frozen=True)
class LightAxes:
    """Whether a light turns with the camera, and what says so: shares of the variance of how points change their color between photos."""

    turn: bool
    still: float = 0.0
    """Share that a light explains that stands still, 0 to 1; both are zero if nothing was compared."""
    turning: float = 0.0
    """Share that one explains that turns with the camera."""

    @classmethod
    def found(cls, still: float, turning: float, variance: float) -> LightAxes:
        """Decide by the shares that are explained, of a variance of logarithms of color."""
        gain = turning - still
        return cls(gain > _LEAST_GAIN and gain * variance > _LEAST_CHANGE**2, still, turning)

    @classmethod
    def from_tensor(cls, values: Float[Tensor, " 3"]) -> LightAxes:
        """Rebuild it from a saved state."""
        turn, still, turning = values.tolist()
        return cls(bool(turn), still, turning)

    def as_tensor(self) -> Float[Tensor, " 3"]:
        """Return it as a part of a scene's state."""
        return torch.tensor([float(self.turn), self.still, self.turning], dtype=torch.float64)

    @property
    def sentence(self) -> str | None:
        """What holds if it is not the usual, and what was found; None for a light that stands still."""
        if not self.turn:
            return None
        found = (
            f", as where an object turns in front of it: that explains {100 * self.turning:.0f} % of how colors change between photos, "
            f"and a light that stands still {100 * self.still:.0f} %; --light-axes world overrules it"
        )
        written = "environment.hdr and the turning view have the light that the first fitted photo has"
        return f"the light turns with the camera{found if self.turning > 0 else ''}; {written}"


@torch.no_grad()
def axes_of_light(mesh: Mesh, capture: Capture) -> LightAxes:
    """Compare photos of the same points, to tell whether their light turns with the camera.

    Args:
        mesh: the surface or something like it, as a visual hull, in the world.
        capture: the photos; the training views are used, pixels outside masks are not.
    """
    mesh = Mesh(mesh.vertices.detach(), mesh.faces).to("cpu")
    if mesh.is_empty:
        return LightAxes(turn=False)
    photos = PhotoViews(mesh.simplified(_FACES).with_vertex_normals(), capture)
    train = capture.split.train
    views = train[:: -(-len(train) // _VIEWS)]
    with pytorch_on_one_thread():
        seen = [_observed(photos, photos[view]) for view in views]
    vertex = torch.cat([some.vertex for some in seen])
    photo = torch.cat([torch.full_like(some.vertex, number) for number, some in enumerate(seen)])
    color, facing, mirrored, turned = (
        torch.cat([getattr(some, name) for some in seen]).double() for name in ("color", "facing", "mirrored", "turned")
    )
    if len(vertex) - len(vertex.unique()) < _FEWEST:
        return LightAxes(turn=False)
    exposures = torch.nn.functional.one_hot(photo, len(views)).double()
    shared = torch.cat([exposures, torch.stack([facing, facing.square(), facing**3], 1)], 1)
    means = _Means(vertex)
    deviation = means.taken_off(color[:, None])
    farthest = _SPREAD * deviation.abs().median()
    deviation = means.taken_off(deviation.clamp(-farthest, farthest))
    still, turning, neither = (
        _residual(means.taken_off(torch.cat([shared, *lobes], 1)), deviation) for lobes in ([_lobes(mirrored)], [_lobes(turned)], [])
    )
    shares = (1 - some / max(neither, SMALLEST_LENGTH) for some in (still, turning))
    return LightAxes.found(*shares, variance=neither / len(vertex))


def _lobes(directions: Float[Tensor, "seen 3"]) -> Float[Tensor, "seen lobes"]:
    middles = normalized(cube_directions(_LOBES, directions.dtype).reshape(-1, 3))
    return (_SHARPNESS * (directions @ middles.T - 1)).exp()


@dataclass(frozen=True)
class _Observed:
    """The vertices that a photo shows."""

    vertex: Int[Tensor, " seen"]
    color: Float[Tensor, " seen"]
    """Logarithm of linear light, the mean of the channels."""
    facing: Float[Tensor, " seen"]
    """n · v."""
    mirrored: Float[Tensor, "seen 3"]
    """r, in the world."""
    turned: Float[Tensor, "seen 3"]
    """R r, in the axes of the camera."""


def _observed(photos: PhotoViews, view: PhotoView) -> _Observed:
    """Return the vertices that are seen in a photo, away from silhouettes."""
    vertices, camera = photos.mesh.vertices, view.camera
    vertex, _, places = camera.project_inside(vertices, 0)
    place = places.unbind(-1)
    to_camera = camera.positions[0] - vertices[vertex]
    behind = to_camera.norm(dim=-1) - view.distance[place]
    towards = normalized(to_camera)
    normal = photos.normals[vertex]
    facing = (normal * towards).sum(-1)
    shown = (view.confidence[place] == 1) & (behind < _NEAR * view.footprint[place]) & (facing > 0)
    vertex, normal, towards, facing = (some[shown] for some in (vertex, normal, towards, facing))
    color = linear_from_srgb(view.color[place][shown]).mean(-1)
    mirrored = 2 * facing[:, None] * normal - towards
    return _Observed(vertex, (color + _DARKEST).log(), facing, mirrored, mirrored @ camera.world_from_camera[0, :3, :3].float())


class _Means:
    """The observations of each vertex, whose means are taken off."""

    def __init__(self, vertex: Int[Tensor, " seen"]) -> None:
        _, self._group = vertex.unique(return_inverse=True)
        self._count = torch.bincount(self._group).double()

    def taken_off(self, values: Float[Tensor, "seen columns"]) -> Float[Tensor, "seen columns"]:
        sums = values.new_zeros(len(self._count), values.shape[1]).index_add_(0, self._group, values)
        return values - (sums / self._count[:, None])[self._group]


def _residual(columns: Float[Tensor, "seen columns"], wanted: Float[Tensor, "seen 1"]) -> float:
    """Return the sum of squares that no combination of the columns explains."""
    normal = columns.T @ columns
    normal += (_RIDGE * normal.diagonal().mean()).clamp_min(SMALLEST_LENGTH) * torch.eye(len(normal), dtype=normal.dtype)
    found = torch.linalg.solve(normal, columns.T @ wanted)
    return float((wanted - columns @ found).square().sum())

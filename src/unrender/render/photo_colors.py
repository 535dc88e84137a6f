"""Vertex colors of a fitted mesh from the photos it was fitted to.

Every vertex gets a robust mean of the photos that show it, weighted by how frontally and closely they do. Then all colors are refined
together until the rasterized mesh shows the photos: with a_pv the barycentric weight of vertex v at pixel p, photo y and colors c,

    r_p = y_p − Σ_v a_pv c_v,    c_v ← c_v + Σ_p w_p a_pv r_p / (Σ_p w_p a_pv + κ) + …,

a simultaneous reconstruction (Gilbert 1972) with the weights w of a Cauchy loss, under which highlights and photos that do not fit count
little. Vertices that no photo shows continue the colors around them. All of it is in sRGB, in which photos and vertex colors are stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.sparse.csgraph import dijkstra
from scipy.sparse.linalg import cg
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.devices import pytorch_on_one_thread
from unrender.geometry.mesh import Mesh
from unrender.numerics import SMALLEST_LENGTH
from unrender.ops.raster import Raster, interpolate
from unrender.render.asset import Asset
from unrender.render.photo_views import STEEPEST, Passing, PhotoView, PhotoViews
from unrender.render.refined_poses import refined
from unrender.render.scene import Scene

_KEPT = 12
"""Photos of each vertex that enter its mean: those that show it best."""

_SPREAD = 5.0
"""Scale of the Cauchy loss in medians of the distances of a vertex's photos from their median: photos beyond it count less and less."""

_LEAST_SCALE = 0.08
"""Smallest scale of the loss, in sRGB."""

_MEAN_ROUNDS = 8
"""Reweightings of the means."""

_MOST_PIXELS = 2**22
"""Pixels of all photos that are kept for the refinement; of more, every second or third is taken."""

_MOST_ROUNDS = 40
_PAYS = 2e-3
"""The refinement ends when a round lowers the loss by a smaller share."""

_PRIOR = 0.5
"""Weight of the mean of a vertex against the pixels around it, as a number of pixels."""

_FIRM = 1.0
"""Trust from which a vertex keeps its color, about that of one pixel."""

_ANCHOR = 1e-6
"""Trust in the color of the nearest vertex where no photo looks; it keeps the equations solvable."""

_SMOOTH = 0.02
"""Weight of the differences along edges against the photos of a vertex."""

_ROW = 1024
"""Row length of the image that holds the kept pixels of all photos."""


def surface_of(scene: Scene, resolution: int, capture: Capture | None, *, largest_only: bool = True) -> Asset:
    """Return the asset of a scene, in the colors of its photos if there are any.

    Args:
        scene: fitted to the capture.
        resolution: cells along a side of the region of interest.
        capture: the photos; None for the colors of the scene itself.
        largest_only: keep the largest piece alone.
    """
    if capture is None:
        return scene.asset(resolution, largest_only=largest_only)
    return photographed(scene.asset(resolution, largest_only=False), refined(capture, scene), largest_only=largest_only)


def photographed(asset: Asset, capture: Capture, *, largest_only: bool = True, progress: Passing | None = None) -> Asset:
    """Return an asset with the vertex colors that the photos show, without pieces that no photo shows.

    An asset with a material keeps it.

    Args:
        asset: in the normalized world, with all its pieces.
        capture: the photos; its training views are used.
        largest_only: keep only the piece that the photos show most, or the largest of an asset with a material.
        progress: shows how far the pass over the photos is.
    """
    if asset.material is None:
        mesh = colored_by_photos(asset.mesh, capture, largest_only=largest_only, progress=progress)
    else:
        mesh = asset.mesh.largest_component() if largest_only else asset.mesh
    return replace(asset, mesh=mesh, left_out=asset.mesh.component_count - mesh.component_count)


@torch.no_grad()
def colored_by_photos(mesh: Mesh, capture: Capture, *, largest_only: bool = False, progress: Passing | None = None) -> Mesh:
    """Return a mesh with the vertex colors that the training photos show, without connected pieces that no photo shows.

    Masked and ignored pixels do not count, and pixels at silhouettes and occlusion borders hardly. Hidden sides of a piece stay. A mesh of
    which no photo shows anything is returned as it is. The result is deterministic on a CPU.

    Args:
        mesh: in the normalized world; vertex normals decide what faces a camera, and are computed if there are none.
        capture: the photos; they are read one at a time.
        largest_only: keep only the piece that covers most pixels of all photos together.
        progress: shows how far the pass over the photos is.
    """
    if mesh.is_empty:
        return mesh
    photos, best, parts = PhotoViews(mesh, capture), _Best.of(mesh), list[_Pixels]()
    pieces = mesh.face_components()
    shown = torch.zeros(int(pieces.max()) + 1, dtype=torch.int64, device=pieces.device)
    every = -(-int(capture.photos.sizes[list(capture.split.train)].prod(1).sum()) // _MOST_PIXELS)
    with pytorch_on_one_thread():
        for number, view in enumerate(photos.each("coloring the surface from the photos", progress)):
            best.add(photos, view)
            parts.append(_Pixels.of(view, number % every, every))
            shown += torch.bincount(pieces[parts[-1].face.long()], minlength=len(shown))
        certainty = best.weights.sum(1)
        if not bool(certainty.any()):
            return mesh.largest_component() if largest_only else mesh
        means, scales = _robust_means(best.colors, best.weights)
        edges = _edge_lengths(mesh)
        *channels, scales = _filled(edges, torch.cat([means, scales[:, None]], 1), certainty > 0).unbind(1)
        colors, around = _refined(mesh, torch.stack(channels, 1), scales, _joined(parts))
        colored = mesh.with_colors(_continued(edges, colors, certainty + around).clamp(0, 1))
    kept = shown == shown.max() if largest_only else shown > 0
    return colored if bool(kept.all()) else colored.submesh(kept[pieces])


@dataclass(frozen=True)
class _Best:
    """The photos that show each vertex best, updated in place."""

    colors: Float[Tensor, "vertices kept 3"]
    weights: Float[Tensor, "vertices kept"]
    """Confidence times cosine, over the area of a pixel relative to that of an edge; zero for an empty place."""

    @classmethod
    def of(cls, mesh: Mesh) -> _Best:
        """Return no photos yet."""
        weights = mesh.vertices.new_zeros(len(mesh.vertices), _KEPT)
        return cls(weights[..., None].repeat(1, 1, 3), weights)

    def add(self, photos: PhotoViews, view: PhotoView) -> None:
        """Add a photo to the vertices that it shows better than one that they have."""
        camera = view.camera
        to_camera = camera.positions[0] - photos.mesh.vertices
        distance = to_camera.norm(dim=-1)
        cosine = (photos.normals * to_camera).sum(-1) / distance.clamp_min(SMALLEST_LENGTH)
        found = torch.nonzero(cosine > (1 + STEEPEST**2) ** -0.5)[:, 0]
        inside, pixels, places = camera.project_inside(photos.mesh.vertices[found], 0)
        found, (row, column) = found[inside], places.unbind(-1)
        size = torch.tensor([camera.width, camera.height]).to(pixels)
        confidence, cosine, distance = view.confidence[row, column], cosine[found], distance[found]
        footprint = distance / float(camera.intrinsics[0, :2].mean())
        visible = distance <= view.distance[row, column] + STEEPEST * footprint
        weight = torch.where(visible, confidence * cosine * (photos.edge / footprint) ** 2, 0.0)
        # Near a border the next pixel may show another surface.
        color = torch.where((confidence < 1)[:, None], view.color[row, column], _interpolated(view.color, pixels / size))
        place = self.weights[found].argmin(1)
        better = weight > self.weights[found, place]
        found, place = found[better], place[better]
        self.weights[found, place], self.colors[found, place] = weight[better], color[better]


def _interpolated(photo: Float[Tensor, "height width 3"], places: Float[Tensor, "points 2"]) -> Float[Tensor, "points 3"]:
    """Return the color of a photo at places from 0 to 1, interpolated between pixels."""
    grid = 2 * places[None, None] - 1
    return F.grid_sample(photo.permute(2, 0, 1)[None], grid, padding_mode="border", align_corners=False)[0, :, 0].T


def _robust_means(
    colors: Float[Tensor, "vertices kept 3"], weights: Float[Tensor, "vertices kept"]
) -> tuple[Float[Tensor, "vertices 3"], Float[Tensor, " vertices"]]:
    """Return weighted means under a Cauchy loss, and its scale at each vertex.

    The means start from the medians of the channels; the scale follows from the distances from these.
    """
    means, scales = [], []
    for color, weight in zip(colors.split(2**16), weights.split(2**16), strict=True):
        mean = _median(color, weight[..., None].expand_as(color))
        distance = (color - mean).norm(dim=-1)
        scale = (_SPREAD * _median(distance, weight)).clamp_min(_LEAST_SCALE)
        for _ in range(_MEAN_ROUNDS):
            trusted = (weight * _cauchy(color - mean, scale))[..., None]
            mean = (trusted * color).sum(1, keepdim=True) / trusted.sum(1, keepdim=True).clamp_min(1e-12)
        means.append(mean[:, 0])
        scales.append(scale[:, 0])
    return torch.cat(means), torch.cat(scales)


def _median(values: Float[Tensor, "vertices kept *channels"], weights: Float[Tensor, "vertices kept *channels"]) -> Tensor:
    """Return weighted medians along the second axis, which stays."""
    ordered, order = values.sort(1)
    shares = weights.gather(1, order).cumsum(1)
    middle = (shares < 0.5 * shares[:, -1:]).sum(1, keepdim=True).clamp_max(values.shape[1] - 1)
    return ordered.gather(1, middle)


def _cauchy(residual: Float[Tensor, "*shape 3"], scale: Float[Tensor, "*#shape"]) -> Float[Tensor, "*shape"]:
    """Return the weight 1 / (1 + |r|² / s²) of a residual."""
    return 1 / (1 + residual.square().sum(-1) / scale**2)


@dataclass(frozen=True)
class _Pixels:
    """Pixels of photos that show the mesh."""

    face: Int[Tensor, " pixels"]
    barycentrics: Float[Tensor, "pixels 2"]
    color: Float[Tensor, "pixels 3"]
    confidence: Float[Tensor, " pixels"]

    @classmethod
    def of(cls, view: PhotoView, first: int, every: int) -> _Pixels:
        """Take every so many of the pixels of a photo."""
        chosen = torch.nonzero(view.confidence.view(-1) > 0)[first::every, 0]
        tensors = view.raster.face[0], view.raster.barycentrics[0], view.color, view.confidence
        return cls(*(tensor.flatten(0, 1)[chosen] for tensor in tensors))


def _joined(parts: Sequence[_Pixels]) -> _Pixels:
    """Return the pixels of all photos, padded to whole rows with some of no confidence."""
    count = sum(len(part.face) for part in parts)
    padding = max(_ROW, -(-count // _ROW) * _ROW) - count

    def joined(tensors: list[Tensor]) -> Tensor:
        return torch.cat([*tensors, tensors[0].new_zeros((padding, *tensors[0].shape[1:]))])

    return _Pixels(
        joined([part.face for part in parts]),
        joined([part.barycentrics for part in parts]),
        joined([part.color for part in parts]),
        joined([part.confidence for part in parts]),
    )


def _refined(
    mesh: Mesh, means: Float[Tensor, "vertices 3"], scales: Float[Tensor, " vertices"], pixels: _Pixels
) -> tuple[Float[Tensor, "vertices 3"], Float[Tensor, " vertices"]]:
    """Return the colors with which the mesh shows the pixels, and the weight of the pixels around each vertex."""
    raster = Raster(pixels.face.view(1, -1, _ROW), pixels.barycentrics.view(1, -1, _ROW, 2), pixels.confidence.view(1, -1, _ROW))
    goal, confidence = pixels.color.view(1, -1, _ROW, 3), raster.depth
    colors, around, before = means, torch.zeros_like(scales), float("inf")
    for _ in range(_MOST_ROUNDS):
        attributes = torch.cat([colors, scales[:, None]], 1).requires_grad_()
        with torch.enable_grad():
            shown = interpolate(attributes, raster, mesh.faces)
        residual, scale = goal - shown.detach()[..., :3], shown.detach()[..., 3]
        trusted = confidence * _cauchy(residual, scale)
        loss = float((confidence * scale**2 * (residual.square().sum(-1) / scale**2).log1p()).sum())
        if loss > (1 - _PAYS) * before:
            break
        before = loss
        (pull,) = torch.autograd.grad(shown, attributes, torch.cat([trusted[..., None] * residual, trusted[..., None]], -1))
        around = pull[:, 3]
        colors = colors + (pull[:, :3] + _PRIOR * (means - colors)) / (around + _PRIOR)[:, None]
    return colors, around


def _edge_lengths(mesh: Mesh) -> csr_matrix:
    """Return the length of every edge as a symmetric matrix [vertices, vertices]."""
    faces, places = mesh.faces.cpu().numpy(), mesh.vertices.cpu().numpy().astype(np.float64)
    start, end = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).T
    lengths = np.maximum(np.linalg.norm(places[start] - places[end], axis=1), SMALLEST_LENGTH)
    edges = coo_matrix((lengths, (start, end)), shape=(len(places), len(places))).tocsr()
    return csr_matrix(edges.maximum(edges.T))


def _filled(
    edges: csr_matrix, values: Float[Tensor, "vertices channels"], known: Bool[Tensor, " vertices"]
) -> Float[Tensor, "vertices channels"]:
    """Return values that unknown vertices have from the nearest known one along edges."""
    _, _, nearest = dijkstra(edges, indices=np.flatnonzero(known.cpu().numpy()), min_only=True, return_predecessors=True)
    rows = torch.from_numpy(np.where(nearest < 0, np.arange(len(nearest)), nearest)).to(values.device)
    return values[rows.long()]


def _continued(edges: csr_matrix, colors: Float[Tensor, "vertices 3"], trust: Float[Tensor, " vertices"]) -> Float[Tensor, "vertices 3"]:
    """Return colors that continue smoothly where there is little trust.

    There they solve (T + λ L) c' = T c with the Laplacian L of the edges and the trust T on the diagonal.
    """
    pull, known = trust.double().cpu().numpy() + _ANCHOR, colors.double().cpu().numpy()
    links = csr_matrix((np.full(edges.nnz, _SMOOTH), edges.indices, edges.indptr), shape=edges.shape)
    loose, firm = np.flatnonzero(pull < _FIRM), np.flatnonzero(pull >= _FIRM)
    rows = links[loose]
    diagonal = pull[loose] + np.asarray(rows.sum(1))[:, 0]
    system, goal = diags(diagonal) - rows[:, loose], pull[loose, None] * known[loose] + rows[:, firm] @ known[firm]
    for k in range(3):
        known[loose, k] = cg(system, goal[:, k], x0=known[loose, k], rtol=1e-4, maxiter=2000, M=diags(1 / diagonal))[0]
    return torch.from_numpy(known).to(colors)

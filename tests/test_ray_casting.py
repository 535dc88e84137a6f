"""Ray casting: laws of spheres and closed surfaces, the tree against every triangle in turn, and input that is no ray."""

from __future__ import annotations

import pytest
import torch
import trimesh
from torch import Tensor

import unrender.ops.raster.ray_casting as ops
from unrender.numerics import normalized
from unrender.ops.raster import RayHits, TriangleTree, cast_rays, occluded
from unrender.reference import ray_casting as twin

INF = float("inf")


def _sphere(subdivisions: int) -> tuple[Tensor, Tensor]:
    mesh = trimesh.creation.icosphere(subdivisions)
    return torch.from_numpy(mesh.vertices.copy()).float(), torch.from_numpy(mesh.faces.copy())


def _box(subdivisions: int) -> tuple[Tensor, Tensor]:
    mesh = trimesh.creation.box((2, 2, 2))
    for _ in range(subdivisions):
        mesh = mesh.subdivide()
    return torch.from_numpy(mesh.vertices.copy()).float(), torch.from_numpy(mesh.faces.copy())


def _soup(triangles: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    centers = torch.rand(triangles, 1, 3, generator=generator) * 2 - 1
    corners = centers + 0.2 * torch.randn(triangles, 3, 3, generator=generator)
    return corners.reshape(-1, 3), torch.arange(3 * triangles, dtype=torch.int32).reshape(-1, 3)


def _rays(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 3, generator=generator), torch.randn(count, 3, generator=generator)


def _points(hits: RayHits, vertices: Tensor, faces: Tensor) -> Tensor:
    u, v = hits.barycentrics.unbind(-1)
    weights = torch.stack([u, v, 1 - u - v], -1)
    return (weights[..., None] * vertices[faces[hits.face.long()].long()]).sum(1)


def test_rays_from_the_center_of_a_sphere_meet_it_at_its_radius():
    vertices, faces = _sphere(5)
    directions = torch.randn(20_000, 3)
    hits = cast_rays(TriangleTree(vertices, faces), torch.zeros_like(directions), directions)
    inner = 1 - hits.distance  # the chord lies within the sphere, by the sagitta of an edge at most
    assert hits.face.min() >= 0 and inner.min() >= -1e-6 and inner.max() < 4e-4


def test_rays_at_a_sphere_meet_it_where_the_quadratic_equation_says():
    generator = torch.Generator().manual_seed(0)
    vertices, faces = _sphere(5)
    origins, directions = _rays(20_000, generator)
    origins, directions = 3 * normalized(origins), normalized(directions)
    hits = cast_rays(TriangleTree(vertices, faces), origins, directions)
    along = (origins * directions).sum(-1)
    discriminant = along**2 - 8
    clear = discriminant.abs() > 0.05
    assert torch.equal((hits.face >= 0)[clear], ((discriminant > 0) & (along < 0))[clear])
    met = clear & (hits.face >= 0)
    torch.testing.assert_close(hits.distance[met], (-along - discriminant.clamp_min(0).sqrt())[met], atol=3e-3, rtol=0)


@pytest.mark.parametrize("triangles", [1, 2, 5, 300])
def test_the_tree_finds_what_trying_every_triangle_finds(triangles: int):
    generator = torch.Generator().manual_seed(triangles)
    vertices, faces = _soup(triangles, generator)
    origins, directions = _rays(2000, generator)
    hits = cast_rays(TriangleTree(vertices, faces), origins, directions)
    exact = twin.cast_rays(twin.TriangleTree(vertices.double(), faces), origins.double(), directions.double())
    assert torch.equal(hits.face, exact.face) and (triangles < 300 or (hits.face >= 0).sum() > 200)
    torch.testing.assert_close(hits.distance, exact.distance.float(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(hits.barycentrics, exact.barycentrics.float(), rtol=1e-5, atol=1e-5)


def test_the_weights_lead_to_the_point_on_the_ray():
    generator = torch.Generator().manual_seed(1)
    vertices, faces = _soup(300, generator)
    origins, directions = _rays(2000, generator)
    hits = cast_rays(TriangleTree(vertices, faces), origins, directions)
    met = hits.face >= 0
    on_ray = origins + hits.distance.nan_to_num(posinf=0)[:, None] * normalized(directions)
    torch.testing.assert_close(_points(hits, vertices, faces)[met], on_ray[met], atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", ["sphere", "box"])
def test_no_ray_aimed_at_an_edge_or_a_vertex_slips_through_a_closed_surface(shape: str):
    generator = torch.Generator().manual_seed(2)
    vertices, faces = _sphere(4) if shape == "sphere" else _box(3)
    edges = torch.cat([faces[:, :2], faces[:, 1:]]).repeat(10, 1)
    share = torch.rand(len(edges), 1, generator=generator)
    share[: len(edges) // 5] = 0
    targets = torch.lerp(vertices[edges[:, 0]], vertices[edges[:, 1]], share)
    for offset in (0.0, 0.25):
        origins = torch.full_like(targets, offset) * torch.rand(targets.shape, generator=generator).round()
        hits = cast_rays(TriangleTree(vertices, faces), origins, targets - origins)
        assert (hits.face < 0).sum() == 0
        torch.testing.assert_close(hits.distance, (targets - origins).norm(dim=-1), atol=3e-6, rtol=1e-5)


def test_no_axis_aligned_ray_slips_through_the_corners_of_a_grid():
    vertices, faces = _box(3)
    across = torch.linspace(-0.75, 0.75, 7)
    origins = torch.cartesian_prod(across, across, torch.zeros(1))
    for axis in range(3):
        for sign in (-1.0, 1.0):
            directions = torch.zeros_like(origins)
            directions[:, axis] = sign
            hits = cast_rays(TriangleTree(vertices, faces), origins.roll(axis + 1, 1), directions)
            torch.testing.assert_close(hits.distance, torch.ones(len(origins)))


@pytest.mark.parametrize("away", [1e3, 1e5])
def test_rays_from_far_away_meet_what_rays_from_near_meet(away: float):
    vertices, faces = _sphere(3)
    tree = TriangleTree(vertices, faces)
    lateral = torch.cartesian_prod(torch.linspace(-0.9, 0.9, 31), torch.linspace(-0.9, 0.9, 31), torch.zeros(1))
    down = torch.tensor([0.0, 0.0, -1.0]).expand_as(lateral)
    near = cast_rays(tree, lateral + torch.tensor([0.0, 0.0, 2.0]), down)
    far = cast_rays(tree, lateral + torch.tensor([0.0, 0.0, away]), down)
    assert torch.equal(near.face, far.face) and (near.face >= 0).sum() > 600
    torch.testing.assert_close(near.barycentrics, far.barycentrics)


def test_a_mesh_far_from_the_origin_of_coordinates_has_no_cracks():
    vertices, faces = _sphere(3)
    vertices = vertices + 4096.0
    directions = torch.randn(5000, 3)
    hits = cast_rays(TriangleTree(vertices, faces), torch.full_like(directions, 4096.0), directions)
    assert hits.face.min() >= 0


def test_a_triangle_is_met_from_both_sides_and_not_behind_the_ray():
    tree = TriangleTree(torch.tensor([[0.0, 0, 2], [4, 0, 2], [0, 4, 2]]), torch.tensor([[0, 1, 2]]))
    origins = torch.tensor([[1.0, 1, 0], [1, 1, 4], [1, 1, 4]])
    directions = torch.tensor([[0.0, 0, 1], [0, 0, -1], [0, 0, 1]])
    assert cast_rays(tree, origins, directions).distance.tolist() == [2.0, 2.0, INF]


def test_distance_does_not_depend_on_the_length_of_the_direction():
    generator = torch.Generator().manual_seed(3)
    tree = TriangleTree(*_soup(100, generator))
    origins, directions = _rays(500, generator)
    short, long = cast_rays(tree, origins, directions * 2**-20), cast_rays(tree, origins, directions * 2**20)
    assert torch.equal(short.face, long.face) and torch.equal(short.distance, long.distance)


def test_limits_of_distance_cut_the_ray():
    vertices, faces = _sphere(3)
    tree = TriangleTree(vertices, faces)
    origins, directions = torch.tensor([[0.0, 0, -3]]).expand(4, 3), torch.tensor([[0.0, 0, 1]]).expand(4, 3)
    assert cast_rays(tree, origins, directions, max_distance=torch.tensor([1.9, 2.1, INF, 0.0])).face.ge(0).tolist() == [
        False,
        True,
        True,
        False,
    ]
    torch.testing.assert_close(cast_rays(tree, origins, directions, min_distance=2.5).distance, torch.full((4,), 4.0))
    assert not occluded(tree, origins, directions, max_distance=1.9).any() and occluded(tree, origins, directions, max_distance=2.1).all()


@pytest.mark.parametrize("limits", [(0.0, INF), (0.5, 1.5)])
def test_a_ray_is_occluded_where_it_meets_something(limits: tuple[float, float]):
    generator = torch.Generator().manual_seed(4)
    vertices, faces = _soup(200, generator)
    origins, directions = _rays(3000, generator)
    tree, low, high = TriangleTree(vertices, faces), *limits
    hit = cast_rays(tree, origins, directions, min_distance=low, max_distance=high).face >= 0
    assert torch.equal(occluded(tree, origins, directions, min_distance=low, max_distance=high), hit) and 0 < hit.sum() < 3000
    slow = twin.TriangleTree(vertices, faces)
    assert torch.equal(twin.occluded(slow, origins, directions, min_distance=low, max_distance=high), hit)


def test_of_equal_distances_the_lowest_face_wins():
    vertices = torch.tensor([[0.0, 0, 2], [4, 0, 2], [0, 4, 2]])
    tree = TriangleTree(vertices, torch.tensor([[0, 1, 2]] * 9))
    assert cast_rays(tree, torch.tensor([[1.0, 1, 0]]), torch.tensor([[0.0, 0, 1]])).face.tolist() == [0]


def test_bits_do_not_depend_on_the_number_of_threads():
    generator = torch.Generator().manual_seed(5)
    tree = TriangleTree(*_soup(500, generator))
    origins, directions = _rays(20_000, generator)
    threads, results = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(cast_rays(tree, origins, directions))
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert torch.equal(results[0].face, other.face) and torch.equal(results[0].distance, other.distance)


def test_gradients_of_distance_and_weights_equal_the_twin():
    generator = torch.Generator().manual_seed(6)
    vertices, faces = _soup(200, generator)
    origins, directions = _rays(1000, generator)
    cotangents = torch.randn(1000, generator=generator), torch.randn(1000, 2, generator=generator)

    def gradients(module, dtype: torch.dtype) -> tuple[Tensor, ...]:
        inputs = [x.to(dtype).requires_grad_() for x in (vertices, origins, directions)]
        hits = module.cast_rays(module.TriangleTree(inputs[0], faces), inputs[1], inputs[2])
        met = hits.face >= 0
        loss = (hits.distance[met] * cotangents[0].to(dtype)[met]).sum() + (hits.barycentrics * cotangents[1].to(dtype)).sum()
        return torch.autograd.grad(loss, inputs)

    for ours, theirs in zip(gradients(ops, torch.float32), gradients(twin, torch.float64), strict=True):
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-4, atol=1e-3)


def test_the_twin_passes_gradcheck():
    generator = torch.Generator().manual_seed(7)
    vertices, faces = _soup(4, generator)
    centers = vertices.reshape(4, 3, 3).mean(1).double()
    origins = (centers + torch.tensor([0.1, -0.2, 3.0], dtype=torch.float64)).requires_grad_()
    directions = (centers - origins).detach().requires_grad_()

    def distances(v: Tensor, o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        hits = twin.cast_rays(twin.TriangleTree(v, faces), o, d)
        return hits.distance, hits.barycentrics

    assert torch.autograd.gradcheck(distances, (vertices.double().requires_grad_(), origins, directions))


def test_rays_that_are_none_meet_nothing_and_have_no_gradient():
    vertices, faces = _sphere(1)
    nan = float("nan")
    origins = torch.tensor([[0.0, 0, 0], [nan, 0, 0], [0, INF, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
    directions = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 0, 0], [0, nan, 1], [0, INF, 1], [0, 0.3, 1]])
    origins.requires_grad_()
    hits = cast_rays(TriangleTree(vertices, faces), origins, directions)
    assert (hits.face >= 0).tolist() == [False] * 5 + [True] and hits.distance[:5].eq(INF).all()
    (gradient,) = torch.autograd.grad(hits.distance[5], origins)
    assert gradient.isfinite().all() and gradient[:5].eq(0).all() and gradient[5].norm() > 0.1


def test_triangles_without_area_or_with_broken_vertices_are_never_met():
    vertices = torch.tensor([[-1.0, -1, 0], [3, -1, 0], [-1, 3, 0], [float("nan"), 0, 0], [0, INF, 0]])
    faces = torch.tensor([[0, 1, 1], [0, 0, 0], [0, 1, 3], [4, 1, 2], [0, 1, 2]])
    origins, down = torch.tensor([[0.0, 0, 1], [0, -1, 1], [-1, -1, 1]]), torch.tensor([[0.0, 0, -1]]).expand(3, 3)
    hits = cast_rays(TriangleTree(vertices, faces), origins, down)
    assert hits.face.tolist() == [4, 4, 4] and hits.distance.tolist() == [1.0, 1.0, 1.0]
    assert cast_rays(TriangleTree(vertices, faces[:4]), origins, down).face.tolist() == [-1, -1, -1]


def test_an_empty_mesh_and_no_rays_are_allowed():
    empty = TriangleTree(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    hits = cast_rays(empty, torch.zeros(2, 3), torch.ones(2, 3))
    assert hits.face.tolist() == [-1, -1] and hits.distance.tolist() == [INF, INF]
    assert not occluded(empty, torch.zeros(2, 3), torch.ones(2, 3)).any()
    leaf = torch.zeros(2, 3, requires_grad=True)
    assert cast_rays(empty, leaf, torch.ones(2, 3)).distance.tolist() == [INF, INF]
    assert cast_rays(TriangleTree(*_sphere(1)), torch.zeros(0, 3), torch.zeros(0, 3)).face.shape == (0,)


def test_tensors_that_are_not_contiguous_are_accepted():
    vertices, faces = _sphere(2)
    strided = vertices.t().contiguous().t()
    directions = torch.randn(3, 100).t()
    tree = TriangleTree(strided, faces.int().t().contiguous().t())
    expected = cast_rays(TriangleTree(vertices, faces), torch.zeros(100, 3), directions.contiguous())
    assert torch.equal(cast_rays(tree, torch.zeros(1, 3).expand(100, 3), directions).distance, expected.distance)


def _unchecked(function):
    """Return the function without the tests' own type checker, which would refuse the arguments first."""
    return getattr(function, "__wrapped__", function)


@pytest.mark.cpu
def test_wrong_types_and_faces_are_refused():
    vertices, faces = _sphere(1)
    with pytest.raises(ValueError, match="float32.*unrender.reference"):
        TriangleTree(vertices.double(), faces)
    with pytest.raises(ValueError, match="float32.*unrender.reference"):
        cast_rays(TriangleTree(vertices, faces), torch.zeros(1, 3, dtype=torch.float64), torch.ones(1, 3))
    with pytest.raises(ValueError, match="rows of the 42 vertices, counted from 0, as faces, got vertex 42 as corner 1 of face 1"):
        TriangleTree(vertices, torch.tensor([[0, 1, 2], [0, 42, 1]]))
    with pytest.raises(ValueError, match="one device"):
        cast_rays(TriangleTree(vertices, faces), torch.zeros(1, 3, device="meta"), torch.ones(1, 3, device="meta"))


@pytest.mark.parametrize(
    "vertices, faces, message",
    [
        (torch.zeros(3, 2), torch.zeros(1, 3, dtype=torch.int32), r"\[vertices, 3\] as vertices, got float32 \[3, 2\]"),
        (torch.zeros(9), torch.zeros(1, 3, dtype=torch.int32), r"\[vertices, 3\] as vertices, got float32 \[9\]"),
        (torch.zeros(3, 3), torch.zeros(1, 4, dtype=torch.int32), r"\[faces, 3\] as faces, got int32 \[1, 4\]"),
        (torch.zeros(3, 3), torch.zeros(3, dtype=torch.int32), r"\[faces, 3\] as faces, got int32 \[3\]"),
        (torch.zeros(3, 3), torch.zeros(1, 3), r"int32 or int64 \[faces, 3\] as faces, got float32"),
    ],
)
def test_meshes_of_other_shapes_are_refused(vertices: Tensor, faces: Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        _unchecked(TriangleTree.__init__)(TriangleTree.__new__(TriangleTree), vertices, faces)


@pytest.mark.parametrize(
    "origins, directions, limit, message",
    [
        (torch.zeros(4, 2), torch.zeros(4, 3), INF, r"\[rays, 3\] as origins, got float32 \[4, 2\]"),
        (torch.zeros(3), torch.zeros(1, 3), INF, r"\[rays, 3\] as origins, got float32 \[3\]"),
        (torch.zeros(4, 3), torch.zeros(4, 4), INF, r"\[4 rays, 3\] as directions, got float32 \[4, 4\]"),
        (torch.zeros(4, 3), torch.zeros(1, 3), INF, r"\[4 rays, 3\] as directions, got float32 \[1, 3\]"),
        (torch.zeros(1, 3), torch.zeros(4, 3), INF, r"\[1 rays, 3\] as directions, got float32 \[4, 3\]"),
        (torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(3), r"\[4 rays\] or \[\] as max_distance, got float32 \[3\]"),
    ],
)
def test_rays_of_other_shapes_are_refused(origins: Tensor, directions: Tensor, limit, message: str):
    tree = TriangleTree(*_sphere(1))
    for function in (cast_rays, occluded):
        with pytest.raises(ValueError, match=message):
            _unchecked(function)(tree, origins, directions, max_distance=limit)


def test_more_rays_than_32_bits_count_are_refused():
    tree = TriangleTree(*_sphere(1))
    many = torch.zeros(1, 3).expand(716_000_000, 3)
    with pytest.raises(ValueError, match=r"fewer than 2\^31 elements"):
        cast_rays(tree, many, many)


def test_a_face_whose_vertex_does_not_exist_has_no_corners():
    """On a GPU, where reading the faces would wait, such a triangle gets NaN corners and is never met."""
    faces = torch.tensor([[0, 1, 2], [0, 1, 3], [-1, 1, 2]])
    corners = ops._corners(torch.rand(3, 3), faces)
    assert corners.isnan().flatten(1).all(1).tolist() == [False, True, True] and corners[0].isfinite().all()
    assert ops._corners(torch.zeros(0, 3), faces).isnan().all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_finds_what_the_cpu_finds():
    generator = torch.Generator().manual_seed(8)
    vertices, faces = _soup(500, generator)
    origins, directions = _rays(20_000, generator)
    here = cast_rays(TriangleTree(vertices, faces), origins, directions)
    there = cast_rays(TriangleTree(vertices.cuda(), faces.cuda()), origins.cuda(), directions.cuda())
    assert torch.equal(here.face, there.face.cpu())
    torch.testing.assert_close(here.distance, there.distance.cpu())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_no_ray_slips_through_a_closed_surface_on_a_gpu():
    vertices, faces = (x.cuda() for x in _box(3))
    edges = torch.cat([faces[:, :2], faces[:, 1:]])
    targets = vertices[edges].mean(1)
    hits = cast_rays(TriangleTree(vertices, faces), torch.zeros_like(targets), targets)
    assert (hits.face >= 0).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_face_whose_vertex_does_not_exist_is_never_met_on_a_gpu():
    vertices = torch.tensor([[0.0, 0, 2], [4, 0, 2], [0, 4, 2]], device="cuda", requires_grad=True)
    tree = TriangleTree(vertices, torch.tensor([[0, 1, 9], [-4, 1, 2], [0, 1, 2]], device="cuda"))
    origins = torch.tensor([[1.0, 1, 0], [9, 9, 0]], device="cuda")
    hits = cast_rays(tree, origins, torch.tensor([[0.0, 0, 1]], device="cuda").expand(2, 3))
    (gradient,) = torch.autograd.grad(hits.barycentrics.sum() + hits.distance[0], vertices)
    assert hits.face.tolist() == [2, -1] and bool(gradient.isfinite().all())

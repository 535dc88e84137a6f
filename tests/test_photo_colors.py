"""Vertex colors from photos: of balls whose colors are known, seen by cameras on a ring."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.capture import Capture, Split
from unrender.captures.images import Images
from unrender.geometry.isosurface import extract_surface
from unrender.geometry.mesh import Mesh
from unrender.ops.raster import cast_rays
from unrender.render.photo_colors import colored_by_photos
from unrender.transforms import look_at

RADIUS = 0.5


def ball(center: tuple[float, float, float] = (0.0, 0.0, 0.0), radius: float = RADIUS, resolution: int = 40) -> Mesh:
    offset = torch.tensor(center)
    mesh = extract_surface(lambda points: (points - offset).norm(dim=-1) - radius, resolution=resolution, device=torch.device("cpu"))
    return mesh.with_vertex_normals()


def joined(*meshes: Mesh) -> Mesh:
    starts = torch.tensor([0, *(len(mesh.vertices) for mesh in meshes)]).cumsum(0)
    faces = torch.cat([mesh.faces + start for mesh, start in zip(meshes, starts.tolist(), strict=False)])
    return Mesh(torch.cat([mesh.vertices for mesh in meshes]), faces).with_vertex_normals()


def ring(count: int = 10, size: int = 96, distortion: Tensor | None = None) -> Cameras:
    """Cameras in the plane z = 0 that look at the origin."""
    angle = 2 * math.pi * torch.arange(count) / count
    positions = 3 * torch.stack([angle.cos(), angle.sin(), torch.zeros(count)], -1)
    poses = look_at(positions, torch.zeros(count, 3), torch.tensor([0.0, 0.0, 1.0]))
    lens = torch.tensor([[2.2 * size, 2.2 * size, size / 2, size / 2]]).repeat(count, 1)
    return Cameras.alike(poses, lens, distortion, size, size)


def pattern(points: Tensor) -> Tensor:
    """A smooth color of points in space, 0.1 to 0.9."""
    return 0.5 + 0.4 * torch.sin(points * torch.tensor([5.0, 4.0, 6.0]) + torch.tensor([0.0, 1.0, 2.0]))


def photographed(mesh: Mesh, cameras: Cameras, colors: Tensor | None = None) -> Capture:
    """Photos of a mesh, with masks: in the pattern, or each triangle in the color of its row."""
    photos, masks = [], []
    tree = mesh.ray_tree()
    for view, (width, height) in enumerate(cameras.sizes.tolist()):
        rays = cameras.image_rays(view)
        hits = cast_rays(tree, rays.origins.contiguous(), rays.directions)
        points = rays.origins + hits.distance.nan_to_num(posinf=0.0)[:, None] * rays.directions
        color = pattern(points) if colors is None else colors[hits.face.clamp_min(0).long()]
        hit = hits.face >= 0
        photos.append((torch.where(hit[:, None], color, 1.0) * 255).round().to(torch.uint8).view(height, width, 3))
        masks.append((hit * 255).to(torch.uint8).view(height, width))
    return Capture.from_tensors(photos, cameras, masks=masks)


def errors(mesh: Mesh) -> Tensor:
    """The largest difference from the pattern at each vertex."""
    assert mesh.colors is not None
    return (mesh.colors - pattern(mesh.vertices)).abs().amax(-1)


def in_sight(mesh: Mesh) -> Tensor:
    """Vertices well away from the poles, which the ring sees from the side or not at all."""
    return mesh.vertices[:, 2].abs() < 0.6 * RADIUS


@pytest.mark.parametrize("lens", ["pinhole", "distorted", "fisheye"])
def test_a_ball_gets_the_color_that_the_photos_show(lens: str) -> None:
    cameras = ring(distortion=torch.tensor([[0.3, 0.1, 0.0, 0.0, 0.01, 0.02]]).repeat(10, 1) if lens == "distorted" else None)
    cameras = replace(cameras, fisheye=torch.full((10,), lens == "fisheye"))
    mesh = colored_by_photos(ball(), photographed(ball(), cameras))
    assert float(errors(mesh)[in_sight(mesh)].max()) < 0.03
    assert float(errors(mesh)[in_sight(mesh)].mean()) < 0.005


def test_colors_continue_smoothly_where_no_photo_looks() -> None:
    mesh = ball()
    colors = torch.where(mesh.vertices[mesh.faces.long()].mean(1)[:, 2:] > 0, torch.tensor([0.8, 0.2, 0.2]), torch.tensor([0.2, 0.2, 0.8]))
    found = colored_by_photos(mesh, photographed(mesh, ring(), colors))
    assert found.colors is not None
    pole = mesh.vertices[:, 2] > 0.95 * RADIUS
    torch.testing.assert_close(found.colors[pole], torch.tensor([[0.8, 0.2, 0.2]]).expand(int(pole.sum()), 3), atol=0.03, rtol=0)
    pole = mesh.vertices[:, 2] < -0.95 * RADIUS
    torch.testing.assert_close(found.colors[pole], torch.tensor([[0.2, 0.2, 0.8]]).expand(int(pole.sum()), 3), atol=0.03, rtol=0)


def test_an_occluder_does_not_print_itself_onto_what_it_hides() -> None:
    back, front = ball((-0.35, 0.0, 0.0), 0.35), ball((0.4, 0.0, 0.0), 0.2)
    both = joined(back, front)
    white, black = torch.full((len(back.faces), 3), 0.9), torch.full((len(front.faces), 3), 0.1)
    capture = photographed(both, ring(), torch.cat([white, black]))
    mesh = colored_by_photos(both, capture)
    assert mesh.colors is not None
    torch.testing.assert_close(mesh.colors[: len(back.vertices)], torch.full((len(back.vertices), 3), 0.9), atol=0.03, rtol=0)
    torch.testing.assert_close(mesh.colors[len(back.vertices) :], torch.full((len(front.vertices), 3), 0.1), atol=0.03, rtol=0)


def test_one_wrong_photo_among_ten_changes_nothing() -> None:
    fine = ball(resolution=80)
    capture = photographed(fine, ring(size=160))
    right = colored_by_photos(fine, capture)
    capture.photos[3][..., :3] = 255 - capture.photos[3][..., :3]
    wrong = colored_by_photos(fine, capture)
    assert right.colors is not None and wrong.colors is not None
    assert float((right.colors - wrong.colors)[in_sight(fine)].abs().max()) < 0.02


def test_ignored_pixels_do_not_count() -> None:
    capture = photographed(ball(), ring(6))
    spoiled = torch.zeros(6, 96, 96, dtype=torch.bool)
    spoiled[:, 40:60, 30:70] = True
    for view in range(6):
        capture.photos[view][spoiled[view]] = torch.tensor([255, 0, 255, 255], dtype=torch.uint8)
    bare = colored_by_photos(ball(), capture)
    cleared = colored_by_photos(ball(), replace(capture, ignored=Images.stacked(spoiled)))
    assert float(errors(bare)[in_sight(bare)].max()) > 0.3
    assert float(errors(cleared)[in_sight(cleared)].mean()) < 0.03


def test_held_out_photos_are_not_used() -> None:
    capture = photographed(ball(), ring())
    capture = replace(capture, split=Split(tuple(range(8)), (8, 9), "by hand"))
    before = colored_by_photos(ball(), capture)
    capture.photos[8][..., :3] = 0
    after = colored_by_photos(ball(), capture)
    torch.testing.assert_close(before.colors, after.colors, rtol=0, atol=0)


def test_pieces_that_no_photo_shows_are_removed() -> None:
    outer, inner, outside = ball(), ball(radius=0.2), ball((0.0, 0.0, 0.9), 0.08)
    capture = photographed(outer, ring())
    mesh = joined(outer, inner, outside)
    assert mesh.component_count == 3
    shown = colored_by_photos(mesh, capture)
    assert shown.component_count == 1
    torch.testing.assert_close(shown.vertices, outer.vertices)


def test_the_piece_that_photos_show_most_is_the_largest() -> None:
    small, large = ball((0.0, -0.3, 0.0), 0.2), ball((0.0, 0.4, 0.0), 0.3)
    hidden = ball((0.0, 0.0, 0.0), 1.5, 12)
    mesh = joined(small, large, replace(hidden, faces=hidden.faces.flip(1)))
    shown = colored_by_photos(mesh, photographed(joined(small, large), ring()), largest_only=True)
    torch.testing.assert_close(shown.vertices, large.vertices)


def test_a_mesh_out_of_sight_stays() -> None:
    far = ball((0.0, 0.0, 0.9), 0.08)
    capture = photographed(ball(), ring())
    assert colored_by_photos(far, capture) is far


def test_colors_are_deterministic() -> None:
    capture = photographed(ball(), ring(5, 48))
    one, other = (colored_by_photos(ball(), capture).colors for _ in range(2))
    assert one is not None
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_capture_without_masks_and_a_coarse_mesh_are_averaged_not_aliased() -> None:
    cameras = ring(8, 256)
    capture = photographed(ball(), cameras)
    checks = (torch.arange(256)[:, None] + torch.arange(256)) % 2 * 255
    for view in range(8):
        capture.photos[view][..., :3] = checks[..., None].to(torch.uint8)
    capture = Capture.from_tensors([capture.photos[view][..., :3] for view in range(8)], cameras)
    coarse = ball(resolution=12)
    mesh = colored_by_photos(coarse, capture)
    assert mesh.colors is not None
    torch.testing.assert_close(mesh.colors, torch.full_like(mesh.colors, 0.5), atol=0.02, rtol=0)

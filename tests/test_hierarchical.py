"""Samples along rays without a grid, and normalized device coordinates: what they promise."""

from __future__ import annotations

import math

import pytest
import torch

from unrender.cameras import Cameras, Rays
from unrender.forward_facing import NdcFrame, faces_forward
from unrender.numerics import normalized
from unrender.render.hierarchical import Spacing, importance_samples, merged_edges, samples_between, stratified_edges
from unrender.transforms import look_at


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("spacing", ["distance", "disparity"])
def test_each_stratified_edge_stays_in_its_stratum(spacing: Spacing) -> None:
    near, far, count = torch.rand(50, generator=generator()) + 0.1, torch.rand(50, generator=generator(1)) + 2.0, 16
    even = stratified_edges(near, far, count, spacing=spacing)
    moved = stratified_edges(near, far, count, torch.rand(50, count - 1, generator=generator(2)), spacing=spacing)
    torch.testing.assert_close(moved[:, 0], near)
    torch.testing.assert_close(moved[:, -1], far)
    assert bool((moved.diff(dim=1) >= 0).all()) and bool((even.diff(dim=1) > 0).all())
    bounds = stratified_edges(near, far, 2 * count, spacing=spacing)  # half an interval on each side of an inner edge
    assert bool((moved[:, 1:-1] >= bounds[:, 1:-2:2] - 1e-6).all()) and bool((moved[:, 1:-1] <= bounds[:, 3::2] + 1e-6).all())
    if spacing == "disparity":
        torch.testing.assert_close((1 / even).diff(dim=1), ((1 / far - 1 / near) / count)[:, None].expand(50, count), atol=1e-4, rtol=1e-3)


def test_importance_samples_follow_the_weights() -> None:
    edges = torch.tensor([[0.0, 0.5, 1.5, 2.0, 4.0]])
    weights = torch.tensor([[0.1, 0.4, 0.0, 0.5]])
    count = 20_000
    drawn = importance_samples(edges, weights, count, torch.rand(1, count, generator=generator()))
    found = torch.histc(drawn, bins=8, min=0.0, max=4.0) / count  # bins of half a unit: constant density within each interval
    expected = torch.tensor([0.1, 0.2, 0.2, 0.0, 0.125, 0.125, 0.125, 0.125])
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_importance_samples_converge_to_a_density() -> None:
    """Moments of many samples of a bell are those of the bell."""
    edges = torch.linspace(0.0, 1.0, 201)[None]
    middles = 0.5 * (edges[:, 1:] + edges[:, :-1])
    drawn = importance_samples(edges, torch.exp(-0.5 * ((middles - 0.4) / 0.1) ** 2), 4000)
    assert float(drawn.mean()) == pytest.approx(0.4, abs=1e-3) and float(drawn.std()) == pytest.approx(0.1, abs=1e-3)


def test_rays_without_weight_are_sampled_evenly() -> None:
    edges = torch.tensor([[0.0, 1.0, 2.0, 4.0], [1.0, 1.0, 1.0, 1.0]])
    drawn = importance_samples(edges, torch.zeros(2, 3), 9, torch.rand(2, 9, generator=generator()))
    assert bool(torch.isfinite(drawn).all()) and bool((drawn[1] == 1.0).all())
    assert [int(((drawn[0] >= low) & (drawn[0] < high)).sum()) for low, high in ((0, 1), (1, 2), (2, 4))] == [3, 3, 3]


def test_the_union_is_sorted_and_keeps_every_edge() -> None:
    edges = stratified_edges(torch.zeros(7), torch.ones(7), 8, torch.rand(7, 7, generator=generator()))
    more = importance_samples(edges, torch.rand(7, 8, generator=generator(1)), 12, torch.rand(7, 12, generator=generator(2)))
    assert bool((more.diff(dim=1) >= 0).all())
    merged = merged_edges(edges, more)
    assert merged.shape == (7, 21) and bool((merged.diff(dim=1) >= 0).all())
    assert all(bool((merged == edges[:, k : k + 1]).any(dim=1).all()) for k in range(9))
    samples = samples_between(merged)
    torch.testing.assert_close(samples.lengths.reshape(7, 20).sum(1), torch.ones(7))
    assert samples.count.tolist() == [20] * 7 and torch.equal(samples.first, torch.arange(7, dtype=torch.int32) * 20)


def forward_facing(spread: float = 0.05) -> Cameras:
    """Nine cameras beside each other that look along +Y."""
    places = [torch.tensor([x, -3.0 + 0.1 * x, z]) for x in (-0.4, 0.0, 0.4) for z in (-0.3, 0.0, 0.3)]
    up = torch.tensor([0.0, 0.0, 1.0])
    poses = torch.stack([look_at(place, torch.tensor([spread * float(place[0]), 0.0, 0.0]), up) for place in places])
    return Cameras.alike(poses, torch.tensor([[60.0, 50.0, 32.0, 24.0]]).expand(9, 4), None, 64, 48)


def test_rays_in_ndc_hit_the_same_points() -> None:
    cameras = forward_facing()
    frame = NdcFrame.of(cameras, near=1.2)
    rays = cameras.image_rays(4)
    rays = Rays(rays.origins[::97], rays.directions[::97])
    mapped, length = frame.rays(rays)
    torch.testing.assert_close(mapped.directions.norm(dim=1), torch.ones_like(length))
    for share in (0.0, 0.2, 0.5, 0.9, 0.99):
        along = share * length
        in_world = rays.origins + frame.distances(rays, along)[:, None] * rays.directions
        torch.testing.assert_close(frame.points(in_world), mapped.origins + along[:, None] * mapped.directions, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close((mapped.origins + length[:, None] * mapped.directions)[:, 2], torch.ones_like(length))
    torch.testing.assert_close(mapped.origins[:, 2], -torch.ones_like(length), atol=1e-5, rtol=0)


def test_the_views_fill_the_ndc_cube() -> None:
    cameras = forward_facing(spread=1.0)  # nine parallel cameras
    frame = NdcFrame.of(cameras, near=0.5)
    middle = cameras.image_rays(4)
    mapped, length = frame.rays(middle)
    ends = mapped.origins + length[:, None] * mapped.directions
    assert float(ends[:, :2].abs().amax()) <= 1.0 and float(ends[:, 0].max()) > 0.95 and float(ends[:, 1].min()) < -0.95


def test_a_frame_that_contains_the_cameras_holds_all_that_they_see() -> None:
    """The cube just contains every photo from the near plane to infinity, also of a camera that stands aside."""
    cameras = forward_facing()
    frame = NdcFrame.of(cameras, near=0.8).containing(cameras)
    ends = torch.zeros(0, 3)
    for view in range(len(cameras)):
        mapped, length = frame.rays(cameras.image_rays(view))
        ends = torch.cat([ends, mapped.origins, mapped.origins + length[:, None] * mapped.directions])
    reached = ends[:, :2].abs().amax(0)
    assert bool((reached <= 1.0).all()) and bool((reached > 0.95).all())  # the centers of pixels lie within the borders


def test_directions_in_ndc_are_those_of_the_mapped_rays() -> None:
    frame = NdcFrame.of(forward_facing(), near=1.2)
    rays = forward_facing().image_rays(7)
    some = Rays(rays.origins[::131], rays.directions[::131])
    points = some.origins + torch.linspace(1.5, 9.0, len(some.origins))[:, None] * some.directions
    torch.testing.assert_close(frame.directions(points, some.directions), frame.rays(some)[0].directions, atol=1e-5, rtol=1e-4)


def test_rays_that_turn_away_stay_finite() -> None:
    frame = NdcFrame.of(forward_facing(), near=1.0)
    back = Rays(torch.zeros(2, 3), normalized(torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])))
    mapped, length = frame.rays(back)
    assert all(bool(torch.isfinite(value).all()) for value in (mapped.origins, mapped.directions, length, frame.distances(back, length)))
    with pytest.raises(ValueError, match="near is 0"):
        NdcFrame.of(forward_facing(), near=0.0)


def test_forward_facing_cameras_are_recognized() -> None:
    assert faces_forward(forward_facing())
    around = [torch.tensor([3 * math.cos(a), 3 * math.sin(a), 0.5]) for a in torch.linspace(0, 6, 8).tolist()]
    poses = torch.stack([look_at(place, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0])) for place in around])
    assert not faces_forward(Cameras.alike(poses, torch.ones(8, 4), None, 4, 4))

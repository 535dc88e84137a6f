"""The topology of edges: agreement with the twin, laws of closed surfaces, and the cache."""

from __future__ import annotations

import pytest
import torch

from raster_scenes import sphere
from unrender.ops.raster import edge_topology, topology_of
from unrender.reference.antialias import edge_topology as twin


def test_topology_equals_the_twin():
    for seed in range(3):
        faces = torch.randint(0, 12, (60, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
        assert torch.equal(edge_topology(faces).across, twin(faces).across)
        assert torch.equal(edge_topology(faces).across, edge_topology(faces.long()).across)


@pytest.mark.cpu
def test_topology_is_cached_by_the_values_of_the_faces():
    faces = torch.tensor([[0, 1, 2], [2, 1, 3], [2, 3, 4]])
    first = topology_of(faces)
    assert topology_of(faces.clone()) is first
    faces.numpy()[2] = (5, 6, 7)  # behind PyTorch's back: no version counter tells
    assert torch.equal(topology_of(faces).across, edge_topology(faces).across)
    assert not torch.equal(topology_of(faces).across, first.across)
    for k in range(9):  # others push it out
        other = torch.tensor([[0, 1, 2 + k], [2 + k, 1, 30]])
        assert torch.equal(topology_of(other).across, edge_topology(other).across)


def test_in_a_closed_surface_the_faces_of_an_edge_name_each_other():
    _, faces = sphere(3)
    across = edge_topology(faces).across.flatten().long()
    assert bool((across >= 0).all())
    assert torch.equal(across[across], torch.arange(across.shape[0]))


def test_three_faces_at_an_edge_name_each_other_in_turn():
    faces = torch.tensor([[0, 1, 2], [1, 0, 3], [0, 1, 4]], dtype=torch.int32)
    assert edge_topology(faces).across[:, 0].tolist() == [3, 6, 0]

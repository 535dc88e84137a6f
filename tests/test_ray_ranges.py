"""Parts of packed rays against their twins, and pruning in portions against pruning at once."""

from __future__ import annotations

import pytest
import torch

from unrender.ops.rays import Samples, attenuate, prune, prune_hidden, ray_range, visible
from unrender.reference import ray_ranges as reference
from unrender.reference import visibility


def packed(rays: int, seed: int = 0) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    count = torch.randint(0, 30, (rays,), generator=generator, dtype=torch.int32)
    total = int(count.sum())
    starts = torch.rand(total, generator=generator)
    ray_index = torch.repeat_interleave(torch.arange(rays, dtype=torch.int32), count.long())
    return Samples(ray_index, starts, starts + 0.1, (count.cumsum(0) - count).int(), count)


def assert_same(ours: Samples, theirs: Samples) -> None:
    for name in ("ray_index", "starts", "ends", "first", "count"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


@pytest.mark.parametrize("capacity", [None, 40, 5000])
def test_ranges_equal_the_twin(capacity: int | None) -> None:
    samples = packed(80)
    begin = samples.count // 3
    end = (2 * samples.count) // 3
    assert_same(ray_range(samples, begin, end, capacity=capacity), reference.ray_range(samples, begin, end, capacity=capacity))


def test_ranges_that_follow_each_other_hold_every_sample_once() -> None:
    samples = packed(50, seed=1)
    cuts = [torch.zeros_like(samples.count), samples.count // 4, samples.count // 2, samples.count]
    parts = [ray_range(samples, a, b) for a, b in zip(cuts, cuts[1:], strict=False)]
    assert sum(part.starts.shape[0] for part in parts) == samples.starts.shape[0]
    assert torch.equal(torch.cat([part.starts for part in parts]).sort().values, samples.starts.sort().values)
    assert_same(ray_range(samples, cuts[0], cuts[-1]), samples)


def test_light_equals_the_twin_and_goes_on_from_part_to_part() -> None:
    samples = packed(60, seed=2)
    alpha = 0.3 * torch.rand(samples.starts.shape[0], generator=torch.Generator().manual_seed(3))
    ones = torch.ones(60)
    light, visible_count = attenuate(samples, alpha, ones, threshold=0.05)
    plain_light, plain_count = visibility.attenuate(samples, alpha, ones, threshold=0.05)
    assert torch.equal(visible_count, plain_count)
    torch.testing.assert_close(light, plain_light, rtol=0, atol=0)
    half = samples.count // 2
    rank = torch.arange(alpha.shape[0]) - samples.first[samples.ray_index]
    near = rank < half[samples.ray_index]
    first_light, first = attenuate(ray_range(samples, torch.zeros_like(half), half), alpha[near], ones, threshold=0.05)
    far = ray_range(samples, half, samples.count)
    both_light, second = attenuate(far, alpha[~near], first_light, threshold=0.05)
    assert torch.equal(first + second, visible_count)
    assert torch.equal(both_light, light)


def test_pruning_in_portions_equals_pruning_at_once() -> None:
    samples = packed(200, seed=4)
    asked = []

    def opacity(part: Samples) -> torch.Tensor:
        asked.append(part.starts.shape[0])
        return 0.01 + 0.6 * part.starts

    kept = prune_hidden(samples, opacity, threshold=1e-2, capacity=1)
    assert sum(asked) < samples.starts.shape[0]
    assert_same(kept, prune(samples, visible(samples, opacity(samples), threshold=1e-2)))
    assert_same(kept, visibility.prune_hidden(samples, opacity, threshold=1e-2, capacity=1))


def test_a_flag_holds_whatever_its_byte_is() -> None:
    """PyTorch makes flags of other bytes than 0 and 1 where a tensor of bytes is viewed as flags."""
    samples = packed(20, seed=2)
    flags = torch.rand(samples.starts.shape[0], generator=torch.Generator().manual_seed(3)) < 0.3
    assert_same(prune(samples, (7 * flags.to(torch.uint8)).view(torch.bool)), prune(samples, flags))


def test_no_rays_and_no_samples() -> None:
    none = Samples(*(torch.zeros(0, dtype=torch.int32), torch.zeros(0), torch.zeros(0)), *(torch.zeros(0, dtype=torch.int32) for _ in "ab"))
    assert ray_range(none, none.first, none.count).starts.shape == (0,)
    assert prune_hidden(none, lambda part: part.starts, threshold=0.1, capacity=1).count.shape == (0,)

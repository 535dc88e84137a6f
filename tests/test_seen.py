"""Walking along rays until no light is left, against its twin."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unrender.cameras import Rays
from unrender.ops.encodings import HashGrid, encoded_mlp
from unrender.ops.radiance import see_encoded
from unrender.ops.radiance.seen import _division
from unrender.ops.rays import Samples
from unrender.reference.seen import see_encoded as twin

GRID = HashGrid(levels=3, features=2, log2_entries=8, base_resolution=4)


def _field(seed: int = 0) -> tuple[Tensor, HashGrid, list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(b, a, generator=generator) for a, b in ((GRID.columns, 16), (16, 5))]
    table = torch.randn(GRID.entries, GRID.features, generator=generator)
    return table, GRID, weights, [torch.zeros(16), torch.zeros(5)]


def _scene(rays: int, seed: int = 0) -> tuple[Samples, Rays]:
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 40, (rays,), generator=generator, dtype=torch.int32)
    index = torch.repeat_interleave(torch.arange(rays, dtype=torch.int32), counts)
    starts = torch.rand(index.shape[0], generator=generator).cumsum(0) % 2.5
    directions = torch.nn.functional.normalize(torch.randn(rays, 3, generator=generator), dim=1)
    first = (counts.cumsum(0) - counts).int()
    return Samples(index, starts, starts + 0.1, first, counts), Rays(0.3 * torch.randn(rays, 3, generator=generator), directions)


@pytest.mark.parametrize("rays", [1, 70, 300])
@pytest.mark.parametrize(("unbounded", "expected"), [(False, 10**6), (True, 10**6), (True, 0), (True, 500)])
def test_samples_and_outputs_equal_the_twin(rays: int, unbounded: bool, expected: int):
    """Also where more samples are looked up than expected."""
    samples, lines = _scene(rays)
    limits = {"unbounded": unbounded, "density_bias": 1.0, "threshold": 0.05}
    seen, known = see_encoded(samples, lines, *_field(), **limits, expected=expected)
    wanted, outputs = twin(samples, lines, *_field(), **limits)
    assert rays < 70 or 0 < seen.starts.shape[0] < samples.starts.shape[0]  # some rays end early
    for name in ("ray_index", "starts", "ends", "first", "count"):
        assert torch.equal(getattr(seen, name), getattr(wanted, name)), name
    torch.testing.assert_close(known.outputs.t(), outputs, atol=1e-4, rtol=1e-4)


def test_what_is_kept_is_what_the_forward_pass_gives_to_the_bit():
    samples, lines = _scene(300)
    seen, known = see_encoded(samples, lines, *_field(), unbounded=False, density_bias=1.0, threshold=0.05, expected=10**6)
    torch.testing.assert_close(known.positions.t(), seen.positions(lines) * 0.5 + 0.5, atol=0, rtol=0)
    assert torch.equal(known.outputs.t(), encoded_mlp(known.positions.t(), *_field())[0])


def test_bits_do_not_depend_on_the_number_of_threads():
    samples, lines = _scene(1500)
    threads, results = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        seen, known = see_encoded(samples, lines, *_field(), unbounded=True, density_bias=1.0, threshold=0.05, expected=10**6)
        results.append((seen.starts, known.encoding, known.outputs))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_without_rays_nothing_is_seen():
    none = torch.zeros(0, dtype=torch.int32)
    empty = Samples(none, torch.zeros(0), torch.zeros(0), none, none)
    lines = Rays(torch.zeros(0, 3), torch.zeros(0, 3))
    seen, known = see_encoded(empty, lines, *_field(), unbounded=False, density_bias=0.0, threshold=0.1, expected=10)
    assert seen.count.shape == (0,) and known.positions.shape == (3, 0) and known.outputs.shape == (5, 0)


@pytest.mark.parametrize("threads", [1, 3, 17, 32, 128])
def test_every_work_item_has_rays(threads: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("unrender.ops.radiance.seen.thread_count", lambda: threads)
    for rays in (1, 63, 64, 65, 500, 4353, 4354, 8250, 8255, 20_000, 70_001):
        items, per_item = _division(rays)
        assert (items - 1) * per_item < rays <= items * per_item


def test_without_samples_nothing_is_seen():
    none = torch.zeros(2, dtype=torch.int32)
    empty = Samples(none[:0], torch.zeros(0), torch.zeros(0), none, none)
    lines = Rays(torch.zeros(2, 3), torch.eye(3)[:2])
    seen, known = see_encoded(empty, lines, *_field(), unbounded=False, density_bias=0.0, threshold=0.1, expected=10**6)
    assert seen.starts.shape == (0,) and known.outputs.shape == (5, 0)


def test_a_density_that_is_not_a_number_ends_the_ray():
    table, grid, weights, biases = _field()
    biases[1] += torch.nan
    samples, lines = _scene(70)
    limits = {"unbounded": False, "density_bias": 0.0, "threshold": 0.1, "expected": 10**6}
    seen, _ = see_encoded(samples, lines, table, grid, weights, biases, **limits)
    assert (seen.count == samples.count.clamp(max=1)).all()


def test_a_perceptron_too_wide_for_the_fused_path_is_refused():
    samples, lines = _scene(2)
    wide = [torch.zeros(400, GRID.columns), torch.zeros(2, 400)], [torch.zeros(400), torch.zeros(2)]
    with pytest.raises(ValueError, match="at most 320 units"):
        see_encoded(samples, lines, _field()[0], GRID, *wide, unbounded=False, density_bias=0.0, threshold=0.1, expected=10**6)

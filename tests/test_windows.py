from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mixed_captures import SIZES, mixed_capture, seen
from unrender.captures.images import Images
from unrender.color import linear_from_srgb
from unrender.recipes.windows import WindowSampler

CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("side", [16, 40, 64])
def test_windows_of_any_size_show_what_their_cameras_see(side: int) -> None:
    batch = WindowSampler(mixed_capture(), CPU, largest_side=64, side=side).draw(4, generator())
    size = min(side, 48)
    assert batch.color.shape == (4, size, size, 3)
    for window in range(4):
        color, opacity = seen(batch.cameras.image_rays(window))
        counts = batch.counts[window].flatten()
        inside = counts & (batch.alpha[window].flatten() == 1)
        agrees = (batch.alpha[window].flatten() == opacity.float()) | ~counts
        assert float((~agrees).float().mean()) < 5e-3  # rounding at the outline
        wanted = linear_from_srgb((color * 255).round() / 255)
        off = (batch.color[window].reshape(-1, 3)[inside] - wanted[inside].float()).abs().amax(-1)
        assert int(inside.sum()) > 50 and float((off > 4e-3).float().mean()) < 5e-3


def test_pixels_beyond_the_photo_do_not_count() -> None:
    capture = mixed_capture()
    batch = WindowSampler(capture, CPU, largest_side=64, side=48).draw(4, generator())
    for view, counts, alpha in zip(batch.views.tolist(), batch.counts, batch.alpha, strict=True):
        assert int(counts.sum()) == int(SIZES[view].prod())
        assert float(alpha[~counts].sum()) == 0


def test_small_windows_stay_inside_and_lie_around_the_object() -> None:
    sampler = WindowSampler(mixed_capture(), CPU, largest_side=64, side=12)
    for _ in range(20):
        batch = sampler.draw(4, generator())
        assert bool(batch.counts.all()) and bool((batch.alpha.amax((1, 2)) > 0).all())


def test_every_photo_is_drawn_once_before_any_again_also_after_a_restart() -> None:
    capture = mixed_capture()
    draws, there = WindowSampler(capture, CPU, largest_side=64, side=8), generator()
    seen_views = [draws.draw(1, there).views.item() for _ in range(8)]
    assert sorted(seen_views[:4]) == sorted(seen_views[4:]) == sorted(capture.split.train)
    one, other = (WindowSampler(capture, CPU, largest_side=64, side=8) for _ in range(2))
    here = generator()
    one.draw(3, here)
    other.load_state_dict(one.state_dict())
    again = torch.Generator()
    again.set_state(here.get_state())
    assert torch.equal(one.draw(5, here).color, other.draw(5, again).color)


def test_large_photos_are_averaged_and_ignored_pixels_do_not_count() -> None:
    capture = mixed_capture()
    ignored = Images.of([torch.zeros(height, width, dtype=torch.bool) for width, height in SIZES.tolist()])
    ignored[0][0, 0] = True
    sampler = WindowSampler(replace(capture, ignored=ignored), CPU, largest_side=24, side=24)
    batch = sampler.draw(4, generator())
    assert sampler.block == 2
    for view, counts in zip(batch.views.tolist(), batch.counts, strict=True):
        assert int((~counts).sum()) == 24 * 24 - int((SIZES[view] // 2).prod()) + (view == 0)
    window = batch.views.tolist().index(0)
    color, opacity = seen(batch.cameras.image_rays(window))
    whole = (batch.alpha[window] == 1).flatten() & batch.counts[window].flatten() & (opacity == 1)
    wanted = linear_from_srgb(color.float())[whole]
    assert float((batch.color[window].reshape(-1, 3)[whole] - wanted).abs().median()) < 5e-3

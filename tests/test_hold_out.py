"""Rules that hold out views by name: each is the published one, counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny_captures import write_blender, write_transforms
from unrender.captures.capture import CaptureError, Split
from unrender.captures.hold_out import split_by_rule
from unrender.captures.load import load_capture
from unrender.captures.options import CaptureOptions
from unrender.words import HoldOut

OWN = Split((0, 1), (2,), "its own", given=True)


def names(count: int) -> list[str]:
    return [f"{view:03d}.png" for view in range(count)]


@pytest.mark.parametrize(
    ("rule", "count", "test", "given"),
    [
        ("every-8", 17, (0, 8, 16), False),
        ("llff", 17, (0, 8, 16), True),
        ("nerfstudio", 10, (8,), True),  # ceil(0.9 * 10) = 9 of 10: trunc(linspace(0, 9, 9)) misses 8
        ("nerfstudio", 30, (9, 19, 28), True),
        ("dtu-7", 49, (8, 13, 16, 21, 26, 31, 34), True),
        ("none", 9, (), False),
    ],
)
def test_a_rule_holds_out_its_views(rule: HoldOut, count: int, test: tuple[int, ...], given: bool) -> None:
    split = split_by_rule(names(count), rule, OWN)
    assert (split.test, split.given) == (test, given)
    assert sorted(split.train + split.test) == list(range(count))


def test_views_count_by_name_and_not_by_their_order() -> None:
    split = split_by_rule(list(reversed(names(9))), "llff", OWN)
    assert split.test == (0, 8) and split_by_rule(["b", "a", "c", *names(6)], "llff", OWN).test == (2, 3)


def test_a_rule_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="dtu-7 does not fit 20 views"):
        split_by_rule(names(20), "dtu-7", OWN)
    with pytest.raises(CaptureError, match="nerfstudio does not fit 3 views"):
        split_by_rule(names(3), "nerfstudio", OWN)
    with pytest.raises(CaptureError, match=r"transforms_test\.json"):
        load_capture(write_transforms(tmp_path / "t"), test_every="nerf-synthetic")


def test_a_rule_wins_over_the_split_of_the_files(tmp_path: Path) -> None:
    folder = write_blender(tmp_path / "b")
    assert load_capture(folder).split.given and not load_capture(folder, test_every="none").split.test
    benchmark = load_capture(folder, test_every="nerf-synthetic").split
    assert benchmark.test == (8, 9) and benchmark.rule.endswith("(nerf-synthetic)")


def test_a_rule_is_kept_in_the_options_of_a_run() -> None:
    options = CaptureOptions(test_every="llff", memory="8GB")
    assert CaptureOptions.from_json(options.as_json()) == options

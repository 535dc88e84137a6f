"""Rules by which published comparisons hold out views, by name."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from unrender.captures.capture import CaptureError, Split
from unrender.captures.source import held_out
from unrender.words import HoldOut

EVERY = 8
"""Every N-th view is held out if nothing else is known."""

_TRAIN_SHARE = 0.9
_DTU = (8, 13, 16, 21, 26, 31, 34)


def split_by_rule(names: Sequence[str], rule: HoldOut, own: Split) -> Split:
    """Split views by a rule; views count from 0 in the order of their names.

    Args:
        names: of all views.
        rule: its name.
        own: the split of the capture itself, which ``nerf-synthetic`` takes.

    Raises:
        CaptureError: the capture has no such split, or too few views.

    >>> split_by_rule([f"{view:02d}.png" for view in range(20)], "nerfstudio", Split((), (), "")).test
    (9, 18)
    """
    if rule == "none":
        return held_out(names, 0)
    if rule == "every-8":
        return held_out(names, EVERY)
    if rule == "nerf-synthetic":
        if not own.given or not own.test:
            raise CaptureError("the rule nerf-synthetic takes the split of transforms_test.json, which this capture has not; give another")
        return Split(own.train, own.test, f"{own.rule} (nerf-synthetic)", given=True)
    order = sorted(range(len(names)), key=lambda view: names[view])
    if rule == "llff":
        chosen, sentence = set(range(0, len(names), 8)), "every 8th view, sorted by file name, is held out (llff)"
    elif rule == "nerfstudio":
        kept = np.linspace(0, len(names) - 1, math.ceil(_TRAIN_SHARE * len(names))).astype(int)
        chosen = set(range(len(names))) - set(kept.tolist())
        sentence = "90 % of the views, evenly spaced by file name, are fitted, the others held out (nerfstudio)"
    else:
        chosen, sentence = set(_DTU), f"views {', '.join(map(str, _DTU))}, from 0 by file name, are held out (dtu-7)"
    if not chosen or max(chosen) >= len(names) or len(chosen) == len(names):
        raise CaptureError(f"the rule {rule} does not fit {len(names)} views; give another, or a number for test_every")
    test = tuple(sorted(order[place] for place in chosen))
    return Split(tuple(sorted(set(order) - set(test))), test, sentence, given=True)

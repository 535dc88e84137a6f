"""The check of a capture: :func:`check_capture` runs all measurements and puts their findings into order."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from unrender.captures.capture import Capture, CaptureError
from unrender.captures.check.coverage import about_coverage, about_points, about_region, coverage_of, upright_axes
from unrender.captures.check.explanations import Explanation, explain
from unrender.captures.check.findings import CheckReport, Finding, ViewCheck, in_order
from unrender.captures.check.hull import HullAgreement
from unrender.captures.check.masks import Masks, about_masks, examine_masks
from unrender.captures.check.matching import matches_between
from unrender.captures.check.photos import about_duplicates, about_looks, about_sizes, duplicates, looks_of
from unrender.captures.load import read_capture
from unrender.captures.options import CaptureOptions
from unrender.transforms import scale_of

MOST_VIEWS = 48
"""Views whose features and masks are compared, spread evenly over the capture."""

QUICK_VIEWS = 20
"""Likewise for the summary before a fit."""

_LOOKS = 2
"""Photos whose sharpness and exposure are measured, times the views above."""


def check_capture(capture: Capture | Path | str, options: CaptureOptions | None = None, *, most_views: int = MOST_VIEWS) -> CheckReport:
    """Measure whether a capture will work, and find out what is wrong with it.

    Cameras are compared with matches between the photos, masks with the visual hull, photos with each other. It takes about 10 seconds on
    two cores and is deterministic. A capture that cannot be read is broken; the finding is what the reader says.

    >>> report = check_capture("photos")                      # doctest: +SKIP
    >>> report.is_usable, report.findings[0].sentence         # doctest: +SKIP

    Args:
        capture: a folder, or posed photos.
        options: how a folder is read.
        most_views: views whose features and masks are compared.
    """
    options = options or CaptureOptions()
    if not isinstance(capture, Capture):
        path = Path(capture)
        try:
            read = read_capture(path, options)
        except CaptureError as error:
            return CheckReport(path.name, (Finding("broken", "reading", str(error)),), {}, (), None)
        return _checked(read, most_views, path, options)
    return _checked(capture, most_views, None, options)


def _checked(capture: Capture, most_views: int, path: Path | None, options: CaptureOptions) -> CheckReport:
    capture = capture.to("cpu")
    names, numbers = capture.names, dict[str, float]()
    upright = upright_axes(capture)
    copies = duplicates(capture)
    findings = about_duplicates(copies, names)
    copied = {view for view, _ in copies}
    chosen = _spread(_certain(len(capture), copies), most_views)
    masks = examine_masks(capture, chosen) if capture.has_masks else None
    hull = None if masks is None else masks.hull
    explanation = explain(
        matches_between(capture, chosen, None if masks is None else masks.usable_by_view),
        capture.cameras.world_from_camera,
        _source_poses(capture),
        names,
        capture.camera_axes,
        has_masks=capture.has_masks,
    )
    if explanation is None:
        findings.append(_too_few_features(hull))
    else:
        findings += explanation.findings
        numbers |= {"agreement": explanation.given, "best focal factor": explanation.focal, "pairs": float(explanation.pairs)}
    if masks is not None:
        findings += about_masks(masks, names, None if explanation is None else explanation.fits)
        numbers |= {"hull IoU": masks.hull.mean}
    faults = {view: "duplicate" for view in copied}
    if masks is None or not masks.inverted:  # or the object is measured where it is not
        about, unlike = about_looks(looks_of(capture, _spread(range(len(capture)), _LOOKS * most_views)), capture)
        findings += about
        faults = {**unlike, **faults}
    findings += about_sizes(capture)
    if len(capture) > 1:
        coverage = coverage_of(capture.cameras, upright)
        findings += about_coverage(coverage, capture)
        numbers |= {"covered directions": coverage.share, "largest gap": coverage.gap, "nearest neighbor": coverage.neighbor}
    broken = any(finding.severity == "broken" for finding in findings)
    about, fill = about_region(capture, None if hull is None or broken else hull.cells)
    findings += about + about_points(capture)
    numbers |= {"views": float(len(capture)), "region in photos": fill}
    return CheckReport(
        name=capture.name,
        findings=in_order(findings),
        numbers=numbers,
        views=_views(capture, chosen, masks, explanation, faults),
        command=None if broken else _command(capture, path, options),
        capture=capture,
        hull=hull,
        upright=upright,
        notes=capture.notes,
    )


def _source_poses(capture: Capture) -> Float[Tensor, "views 4 4"]:
    """Return rigid poses in the frame of the files, where wrong ones are easiest to recognize."""
    frame = capture.source_from_world.double()
    poses = frame @ capture.cameras.world_from_camera.double()
    poses[:, :3, :3] /= scale_of(frame)
    return poses


def _certain(count: int, copies: Sequence[tuple[int, int]]) -> list[int]:
    """Return the views without those whose photos are equal, for nobody knows which of them has the wrong pose.

    If too few are left, the first of each stays.

    >>> _certain(9, [(4, 1)]), _certain(3, [(2, 1)])
    ([0, 2, 3, 5, 6, 7, 8], [0, 1])
    """
    others = [view for view in range(count) if all(view not in pair for pair in copies)]
    return others if 2 * len(others) > count else [view for view in range(count) if all(view != pair[0] for pair in copies)]


def _spread(views: Sequence[int], most: int) -> list[int]:
    """Choose at most so many views, evenly.

    >>> _spread(range(9), 3)
    [0, 4, 8]
    """
    if len(views) <= most:
        return list(views)
    return [views[round(k * (len(views) - 1) / (most - 1))] for k in range(most)]


def _too_few_features(hull: HullAgreement | None) -> Finding:
    checked = "" if hull is None else "; masks and cameras were still compared"
    return Finding(
        "ok" if hull is not None else "warning",
        "features",
        f"the photos have too few matching details to test the cameras with (a plain object, or photos far apart){checked}",
    )


def _views(
    capture: Capture, chosen: Sequence[int], masks: Masks | None, explanation: Explanation | None, faults: dict[int, str]
) -> tuple[ViewCheck, ...]:
    iou = {} if masks is None else {view: float(value) for view, value in zip(chosen, masks.hull.iou, strict=True)}
    by_view = None if explanation is None else explanation.by_view.tolist()
    words = {} if masks is None else masks.faults
    return tuple(
        ViewCheck(
            name,
            _known(iou.get(view)),
            None if by_view is None else _known(by_view[view]),
            tuple(word for word in (faults.get(view), words.get(view)) if word),
        )
        for view, name in enumerate(capture.names)
    )


def _known(value: float | None) -> float | None:
    return None if value is None or value != value else round(value, 4)


def _command(capture: Capture, path: Path | None, options: CaptureOptions) -> str:
    """Return the command that fits a capture: a surface if masks outline an object, else a radiance field."""
    recipe = "neus" if capture.has_masks and not capture.unbounded else "nerf"
    words = ["unrender", "fit", recipe, str(path or "CAPTURE")]
    given = options.as_json()
    longest = int(capture.cameras.sizes.max()) * options.downscale
    shrink = max(1, round(longest / 1000))
    if shrink > 1 and "downscale" not in given:
        given["downscale"] = shrink
    for name, value in given.items():
        words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)

"""Where the cameras stand: coverage of the directions around the region, parallax, and how the region lies in the photos."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.capture import Capture
from unrender.captures.check.findings import Finding, named
from unrender.transforms import rotation_between

_NEAR = 30.0
"""Degrees around a camera's direction that count as seen."""
_FEW, _TOO_FEW = 12, 3
_SPARSE = 35.0
"""Degrees between a view and the nearest other one, in the median, above which photos hardly overlap."""
_NO_PARALLAX = 2.0
"""Degrees between the outermost directions below which the photos show no depth."""
_SMALL_OBJECT, _SMALL_HULL = 0.02, 0.45
"""Share of the photo, and of the region's side, below which the object is small."""


@dataclass(frozen=True)
class Coverage:
    """The cameras as seen from the center of the region."""

    directions: Float[Tensor, "views 3"]
    """Unit vectors from the center towards the cameras."""
    share: float
    """Share of all directions within 30 degrees of a camera."""
    gap: float
    """Largest range of azimuths without a camera, degrees."""
    elevations: tuple[float, float]
    """Of the lowest and the highest camera above the horizon, degrees."""
    neighbor: float
    """Median angle between a view and the nearest other one, degrees."""
    parallax: float
    """Largest angle between two directions, degrees."""


def upright_axes(capture: Capture) -> Float[Tensor, "3 3"]:
    """Return the rotation that takes +Z to the upward direction in the world.

    It is the known one, else the mean one of the cameras.
    """
    up = -capture.cameras.world_from_camera[:, :3, 1].double().mean(0)
    if capture.up is not None or float(up.norm()) < 0.1:
        return torch.eye(3, dtype=torch.float64)
    return rotation_between(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), up)


def coverage_of(cameras: Cameras, upright: Float[Tensor, "3 3"]) -> Coverage:
    """Measure the directions of cameras around the origin; ``upright`` takes +Z to the upward direction."""
    positions = cameras.positions.double().cpu() @ upright
    directions = positions / positions.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    sphere = _even_directions(2000)
    share = float(directions_within_reach(sphere, directions).double().mean())
    azimuth = torch.rad2deg(torch.atan2(directions[:, 1], directions[:, 0])).sort().values
    gap = float(torch.cat([azimuth.diff(), azimuth[:1] + 360 - azimuth[-1:]]).max())
    elevation = torch.rad2deg(torch.asin(directions[:, 2].clamp(-1, 1)))
    angles = torch.rad2deg(torch.acos((directions @ directions.T).clamp(-1, 1)))
    largest = float(angles.max())
    nearest = float(angles.fill_diagonal_(360.0).amin(1).median()) if len(cameras) > 1 else 360.0
    return Coverage(directions, share, gap, (float(elevation.min()), float(elevation.max())), nearest, largest)


def directions_within_reach(directions: Float[Tensor, "directions 3"], cameras: Float[Tensor, "views 3"]) -> Bool[Tensor, " directions"]:
    """Tell which unit directions lie within 30 degrees of the direction of a camera."""
    return (directions @ cameras.T).amax(1) > math.cos(math.radians(_NEAR))


def _even_directions(count: int) -> Float[Tensor, "count 3"]:
    """Return directions that are spread evenly over the sphere (a Fibonacci lattice)."""
    index = torch.arange(count, dtype=torch.float64) + 0.5
    z = 1 - 2 * index / count
    angle = index * math.pi * (3 - math.sqrt(5))
    flat = (1 - z * z).sqrt()
    return torch.stack([flat * angle.cos(), flat * angle.sin(), z], -1)


def about_coverage(coverage: Coverage, capture: Capture) -> list[Finding]:
    """Describe the positions of the cameras."""
    count = len(capture)
    findings = []
    if count < _TOO_FEW:
        findings.append(Finding("broken", "views", f"there are {count} photos; a fit needs at least {_TOO_FEW}, better 30 to 150"))
    elif count < _FEW:
        findings.append(Finding("warning", "views", f"there are only {count} photos; 30 to 150 from all around are better"))
    same_place = float((capture.cameras.positions - capture.cameras.positions[:1]).norm(dim=-1).max()) < 1e-3
    if count > 1 and (same_place or coverage.parallax < _NO_PARALLAX):
        findings.append(
            Finding(
                "broken",
                "parallax",
                "all photos are taken from nearly the same direction, so they show no depth: walk around the object, or check the poses",
            )
        )
    elif count >= _TOO_FEW and coverage.neighbor > _SPARSE:
        findings.append(
            Finding(
                "warning",
                "coverage",
                f"neighboring photos are {coverage.neighbor:.0f} degrees apart and hardly overlap: take photos every 10 to 15 degrees",
            )
        )
    low, high = coverage.elevations
    around = f"all around (largest gap {coverage.gap:.0f}°)" if coverage.gap < 90 else f"with a gap of {coverage.gap:.0f}° around"
    findings.append(
        Finding(
            "ok",
            "coverage",
            f"{count} cameras, {around}, elevations {low:.0f}° to {high:.0f}°, nearest neighbors {coverage.neighbor:.0f}° apart; what no "
            "camera saw will be a guess",
        )
    )
    return findings


def about_region(capture: Capture, hull: Float[Tensor, "cells 3"] | None) -> tuple[list[Finding], float]:
    """Describe how the region of interest lies between the cameras and in the photos.

    Args:
        capture: whose region is [-1, 1]³.
        hull: centers of the visual hull's cells, if it is known.

    Returns:
        Findings, and the mean share of the photos that the region's box fills.
    """
    cameras = capture.cameras
    findings = []
    fill = sum(_filled(cameras, view) for view in range(len(cameras))) / len(cameras)
    within = (cameras.positions.abs() < 1).all(-1)
    if capture.has_masks and bool(within.any()):
        names = [capture.names[int(view)] for view in within.nonzero()[:, 0]]
        findings.append(
            Finding("warning", "region", f"{len(names)} cameras stand inside of the region of interest ({named(names)}): give --radius")
        )
    if hull is not None and len(hull):
        extent = float((hull.amax(0) - hull.amin(0)).max()) / 2
        if extent < _SMALL_HULL:
            scale = torch.linalg.det(capture.source_from_world[:3, :3]) ** (1 / 3)
            findings.append(
                Finding(
                    "warning",
                    "region",
                    f"the object fills only {extent:.0%} of the region of interest along its longest side: give --center and "
                    f"--radius {float(scale) * extent * 1.1:.3g}",
                )
            )
    if capture.has_masks:
        shares = torch.tensor([float((capture.mask(view) >= 128).float().mean()) for view in range(len(capture))])
        if float(shares.median()) < _SMALL_OBJECT:
            findings.append(
                Finding(
                    "warning", "resolution", f"the object fills {float(shares.median()):.1%} of a photo: crop the photos with their cameras"
                )
            )
    return findings, fill


def _filled(cameras: Cameras, view: int) -> float:
    """Return the share of a photo's pixels, on a grid, whose rays meet the region."""
    width, height = cameras.sizes[view].tolist()
    x, y = torch.meshgrid((torch.arange(12) + 0.5) / 12 * width, (torch.arange(12) + 0.5) / 12 * height, indexing="xy")
    pixels = torch.stack([x, y], -1).reshape(-1, 2)
    rays = cameras.rays(torch.full((len(pixels),), view), pixels)
    slope = torch.where(rays.directions.abs() < 1e-9, 1e-9, rays.directions)
    one, two = (-1 - rays.origins) / slope, (1 - rays.origins) / slope
    enter, leave = torch.minimum(one, two).amax(-1), torch.maximum(one, two).amin(-1)
    return float(((leave > enter) & (leave > 0)).float().mean())


def about_points(capture: Capture) -> list[Finding]:
    """Describe the points of structure from motion."""
    if capture.points is None:
        return []
    count = len(capture.points)
    inside = float((capture.points.abs() <= 1).all(-1).float().mean()) if count else 0.0
    if count and inside < 0.05:
        return [
            Finding(
                "warning",
                "points",
                f"only {inside:.0%} of the {count:,} points lie in the region of interest: are they in the frame of the poses, and is the "
                "region right (--center, --radius)?",
            )
        ]
    return [Finding("ok", "points", f"{count:,} points, {inside:.0%} of them in the region of interest")]

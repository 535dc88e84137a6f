"""The result of a check: findings, numbers, and what was measured in each view."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.captures.check.hull import HullAgreement

Severity = Literal["ok", "warning", "broken"]
"""As it should be; worth a look; a fit will fail."""

Cause = Literal[
    "reading",
    "order",
    "poses",
    "inverted poses",
    "camera axes",
    "mirrored photos",
    "focal length",
    "static background",
    "masks",
    "inverted masks",
    "missing masks",
    "empty masks",
    "duplicates",
    "blur",
    "exposure",
    "color",
    "resolution",
    "views",
    "coverage",
    "parallax",
    "region",
    "points",
    "features",
]
"""What a finding is about."""

_ORDER: Mapping[Severity, int] = {"broken": 0, "warning": 1, "ok": 2}
_MOST_NAMES = 4


@dataclass(frozen=True)
class Finding:
    """One line of a check."""

    severity: Severity
    cause: Cause
    sentence: str
    """What was found and, unless all is well, what to do."""


@dataclass(frozen=True)
class ViewCheck:
    """What was measured in one view; None where nothing was."""

    name: str
    iou: float | None = None
    """Intersection by union of the mask and the projected visual hull."""
    agreement: float | None = None
    """Share of its matches with other photos that agree with the cameras."""
    faults: tuple[str, ...] = ()
    """Words for the page: blurred, duplicate, no mask."""


@dataclass(frozen=True)
class CheckReport:
    """The result of :func:`unrender.captures.check.checking.check_capture`."""

    name: str
    findings: tuple[Finding, ...]
    """The most severe first."""
    numbers: Mapping[str, float]
    """Measures by name, for scripts."""
    views: tuple[ViewCheck, ...]
    command: str | None
    """The command that fits this capture; None if it is broken."""
    capture: Capture | None = field(repr=False, default=None)
    """As it was read; None if it cannot be."""
    hull: HullAgreement | None = field(repr=False, default=None)
    """The visual hull, if there are masks."""
    upright: Float[Tensor, "3 3"] = field(repr=False, default_factory=lambda: torch.eye(3, dtype=torch.float64))
    """The rotation that takes +Z to the upward direction in the world."""
    notes: tuple[str, ...] = ()
    """What the reader decided."""

    @property
    def verdict(self) -> Severity:
        """The severity of the most severe finding."""
        return self.findings[0].severity if self.findings else "ok"

    @property
    def is_usable(self) -> bool:
        """Whether a fit can work."""
        return self.verdict != "broken"

    @property
    def headline(self) -> str:
        """The verdict in a few words."""
        count = sum(finding.severity == "warning" for finding in self.findings)
        warnings = f"{count} warning{'s' * (count != 1)}"
        return {"ok": "usable", "warning": f"usable, with {warnings}", "broken": "broken"}[self.verdict]

    def as_json(self) -> dict[str, Any]:
        """Return verdict, findings and numbers as values that JSON can hold."""
        return {
            "verdict": self.verdict,
            "findings": [vars(finding) for finding in self.findings],
            "numbers": {name: round(value, 5) for name, value in self.numbers.items()},
            "views": [
                {"name": view.name, "iou": view.iou, "agreement": view.agreement, "faults": list(view.faults)} for view in self.views
            ],
            "fit": self.command,
            "notes": list(self.notes),
        }


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sort findings, the most severe first."""
    return tuple(sorted(findings, key=lambda finding: _ORDER[finding.severity]))


def named(names: Sequence[str]) -> str:
    """List a few names.

    >>> named(["a", "b", "c", "d", "e", "f"])
    'a, b, c, d and 2 more'
    """
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")

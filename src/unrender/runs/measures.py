"""Numbers that a run reports besides the scores of its views."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from unrender.runs.config_json import config_to_json


@dataclass(frozen=True)
class Measure:
    """A number about a result, with its label.

    >>> chamfer = Measure("Chamfer", 0.25, "% of diagonal", digits=3, group="distance", in_input_units=1.5)
    >>> chamfer.number, chamfer.label, chamfer.text
    ('0.250', 'Chamfer, % of diagonal', 'Chamfer 0.250 % of diagonal (1.5)')
    """

    name: str
    value: float
    unit: str = ""
    digits: int = 3
    """Number of decimals."""
    group: str = ""
    """Measures of one group are shown together, the most important one first."""
    better: Literal["higher", "lower"] | None = None
    """Which values are better; None for a number that is neither good nor bad."""
    in_input_units: float | None = None
    """The same length in units of the input, where ``unit`` is relative."""

    @property
    def number(self) -> str:
        """The value as text."""
        return f"{self.value:,.{self.digits}f}"

    @property
    def label(self) -> str:
        """The name with the unit, for a heading."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    @property
    def quantity(self) -> str:
        """The value with its unit, and in units of the input."""
        absolute = "" if self.in_input_units is None else f" ({self.in_input_units:.3g})"
        return f"{self.number}{'' if self.unit.startswith('°') else ' '}{self.unit}".rstrip() + absolute

    @property
    def text(self) -> str:
        """The name, the value and the unit, for a terminal."""
        return f"{self.name} {self.quantity}"


def grouped(measures: Iterable[Measure]) -> dict[str, list[Measure]]:
    """Return measures by their groups, both in their order."""
    groups: dict[str, list[Measure]] = {}
    for measure in measures:
        groups.setdefault(measure.group, []).append(measure)
    return groups


def sentences(measures: Iterable[Measure]) -> list[str]:
    """Write measures for a terminal, one line for each group.

    >>> sentences([Measure("genus", 1.0, digits=0, group="mesh"), Measure("pieces", 2.0, digits=0, group="mesh")])
    ['mesh: genus 1, pieces 2']
    """
    return [f"{group}: {', '.join(measure.text for measure in some)}" for group, some in grouped(measures).items()]


def merged(known: Sequence[Measure], new: Sequence[Measure]) -> tuple[Measure, ...]:
    """Return known measures with new ones, whose groups take the places of those of the same name."""
    groups = {**grouped(known), **grouped(new)}
    return tuple(measure for some in groups.values() for measure in some)


def measures_as_json(measures: Iterable[Measure]) -> list[dict[str, Any]]:
    """Return measures as values for JSON."""
    return [{name: value for name, value in config_to_json(measure).items() if name != "digits"} for measure in measures]

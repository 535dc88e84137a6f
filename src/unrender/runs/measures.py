"""Numbers that a run reports besides the scores of its views."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A number about a result, with its label.

    >>> chamfer = Measure("Chamfer", 0.25, "% of diagonal", digits=3)
    >>> chamfer.number, chamfer.label, chamfer.sentence
    ('0.250', 'Chamfer, % of diagonal', 'Chamfer: 0.250 % of diagonal')
    """

    name: str
    value: float
    unit: str = ""
    digits: int = 3
    """Number of decimals."""

    @property
    def number(self) -> str:
        """The value as text."""
        return f"{self.value:.{self.digits}f}"

    @property
    def label(self) -> str:
        """The name with the unit, for a heading."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    @property
    def sentence(self) -> str:
        """The name, the value and the unit, for a terminal."""
        return f"{self.name}: {self.number} {self.unit}".rstrip()

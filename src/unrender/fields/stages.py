"""The stages of a dense grid that is refined from coarse to fine."""

from __future__ import annotations

from typing import TypeAlias

Stage: TypeAlias = tuple[float, int]
"""(share of the budget at its start, vertices along an axis of the world cube)."""

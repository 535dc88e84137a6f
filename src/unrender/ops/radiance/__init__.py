"""Operations on rays through an encoded field: what the families of rays and encodings do together."""

from __future__ import annotations

from unrender.ops.radiance.seen import see_encoded
from unrender.ops.radiance.surface_color import surface_color

__all__ = ["see_encoded", "surface_color"]

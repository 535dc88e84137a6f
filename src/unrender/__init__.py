"""Posed photos in, a surface and a radiance field out, on any machine.

>>> import unrender
>>> capture = unrender.load("path/to/capture")                      # doctest: +SKIP
>>> result = unrender.fit("neus", capture, max_seconds=120)         # doctest: +SKIP
>>> result.mesh().export("mesh.glb")                                # doctest: +SKIP

PyTorch and Warp are imported when a function is first used, not by ``import unrender``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unrender.api import fit, load

__all__ = ["fit", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'unrender' has no attribute {name!r}")
    from unrender import api

    return getattr(api, name)

"""Turns posed photos into a surface and a radiance field, on any machine.

>>> import unrender
>>> capture = unrender.load("path/to/capture")                      # doctest: +SKIP
>>> result = unrender.fit("neus", capture, max_seconds=120)         # doctest: +SKIP
>>> result.mesh().export("mesh.glb")                                # doctest: +SKIP

PyTorch and Warp are imported when a name is first used, not by ``import unrender``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unrender.api import fit, load, open_run
    from unrender.captures.capture import Capture
    from unrender.geometry.mesh import Mesh

    __version__: str

__all__ = ["Capture", "Mesh", "__version__", "fit", "load", "open_run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'unrender' has no attribute {name!r}")
    if name == "__version__":
        import importlib.metadata

        return importlib.metadata.version("unrender")
    if name == "Capture":
        from unrender.captures.capture import Capture

        return Capture
    if name == "Mesh":
        from unrender.geometry.mesh import Mesh

        return Mesh
    from unrender import api

    return getattr(api, name)

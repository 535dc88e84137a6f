"""The interface of nvdiffrast 0.4 (Laine et al., "Modular primitives for high-performance differentiable rendering", 2020).

The functions are in :mod:`unrender.compat.nvdiffrast.torch`; ``docs/nvdiffrast.md`` lists what is equal and what differs.
"""

from __future__ import annotations

__version__ = "0.4.0"
"""Version of the interface."""

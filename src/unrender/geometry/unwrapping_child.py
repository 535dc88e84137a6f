"""The process that unwraps a mesh: ``python unwrapping_child.py INPUT.npz OUTPUT.npz``.

It imports nothing of the package, so that it starts quickly.
"""

from __future__ import annotations

import sys

import numpy as np
import xatlas


def main() -> None:
    """Read vertices, faces, resolution and padding, and write the texture coordinates of the charts."""
    with np.load(sys.argv[1]) as given:
        charts, packing, atlas = xatlas.ChartOptions(), xatlas.PackOptions(), xatlas.Atlas()
        # A rotated chart may be mirrored; without rotation, and with fixed windings, all charts have one orientation.
        charts.fix_winding, packing.rotate_charts = True, False
        packing.resolution, packing.padding, packing.bilinear = int(given["resolution"]), int(given["padding"]), True
        atlas.add_mesh(given["vertices"], given["faces"])
        atlas.generate(charts, packing)
    vertex, uv_faces, uvs = atlas.get_mesh(0)
    np.savez(sys.argv[2], vertex=vertex, uv_faces=uv_faces, uvs=uvs, atlases=atlas.atlas_count)


if __name__ == "__main__":
    main()

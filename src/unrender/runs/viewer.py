"""An asset that is turned with the pointer inside a page, drawn by ``viewer.js``: a part of the report, and a page of its own."""

from __future__ import annotations

import html
import json
from pathlib import Path

from unrender.render.asset import Asset
from unrender.runs.figures import color_source, data_uri, mesh_picture
from unrender.runs.viewer_packing import is_lit, is_textured, packed
from unrender.runs.viewpoint import ELEVATION, Viewpoint

_MOST_FACES = 300_000
"""A mesh of more triangles is coarsened for the report: about five bytes a triangle remain after packing."""
_MOST_FACES_ALONE = 2_000_000
"""Of a page of its own."""
_STILL = 320
"""Pixels along a side of the picture for browsers that cannot draw."""

_FOLDER = Path(__file__).parent
_SCRIPT = (_FOLDER / "viewer.js").read_text(encoding="utf-8")
STYLE = (_FOLDER / "page.css").read_text(encoding="utf-8")
"""Of every page: its colors and buttons."""
VIEWER_STYLE = (_FOLDER / "viewer.css").read_text(encoding="utf-8")

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The page loads nothing from elsewhere."""


def viewer_page(asset: Asset, viewpoint: Viewpoint, azimuth: float, *, title: str) -> str:
    """Return a page that shows an asset and needs no other file.

    Args:
        asset: with a surface.
        viewpoint: of the first view.
        azimuth: of the picture for browsers that cannot draw, degrees.
        title: of the page.
    """
    mesh, base = asset.mesh, None if asset.material is None else asset.material.base_color
    facts = f"{len(mesh.faces):,} triangles"
    if base is not None and is_textured(asset):
        facts += f", texture {base.shape[1]} × {base.shape[0]}"
    part = viewer(asset, viewpoint, azimuth, most_faces=_MOST_FACES_ALONE, lossless=True)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><link rel="icon" href="data:,">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{VIEWER_STYLE}</style></head>\n"
        f'<body class="alone"><header><h1>{html.escape(title)}</h1><p>{facts}</p></header>{part}</body></html>\n'
    )


def viewer(asset: Asset, viewpoint: Viewpoint, azimuth: float, *, most_faces: int = _MOST_FACES, lossless: bool = False) -> str:
    """Return the part of a page that shows an asset.

    Args:
        asset: with a surface.
        viewpoint: of the first view.
        azimuth: of the picture for browsers that cannot draw, degrees.
        most_faces: a mesh of more, without textures, is coarsened.
        lossless: keep the textures as they are.
    """
    picture = mesh_picture(asset.mesh, azimuth, ELEVATION, viewpoint=viewpoint, color=color_source(asset), size=_STILL)
    modes = "".join(f'<button type="button" data-mode="{mode}">{label}</button>' for mode, label in _modes(asset))
    modes, light = f'<div class="group" role="group" aria-label="What is shown">{modes}</div>', ""
    if is_lit(asset):
        light = (
            '<label>Light<input type="range" name="light" min="-180" max="180" step="1" value="0" aria-label="Turn the light, degrees"/>'
            '</label><label>Exposure<input type="range" name="exposure" min="-4" max="4" step="0.1" value="0" '
            'aria-label="Exposure, stops"/></label><button type="button" data-background aria-pressed="false">Background</button>'
        )
        modes += '</div><div class="bar">'
    return (
        f'<div class="viewer"><img src="{data_uri(picture, largest_side=_STILL)}" alt="the surface">'
        '<canvas tabindex="0" role="img" aria-label="The surface. Arrow keys turn it, with Shift they move it, plus and minus zoom, '
        'Home resets"></canvas>'
        f'<div class="controls"><div class="bar">{modes}{light}<button type="button" data-reset>Reset</button></div>'
        '<p class="note"></p></div></div>'
        f'<script type="application/json" id="asset">{json.dumps(packed(asset, viewpoint, most_faces=most_faces, lossless=lossless))}'
        f"</script><script>{_SCRIPT}</script>"
    )


def _modes(asset: Asset) -> list[tuple[str, str]]:
    """Return the ways to show an asset, the first one first, and their labels."""
    if is_lit(asset):
        first = [("lit", "Lit"), ("color", "Base color"), ("roughness", "Roughness"), ("metallic", "Metallic")]
    else:
        first = [] if color_source(asset) is None else [("color", "Color")]
    return [*first, ("normals", "Normals"), ("shape", "Shape"), ("wireframe", "Wireframe")]

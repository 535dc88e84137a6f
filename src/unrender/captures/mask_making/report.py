"""The contact sheet of masks: outlines over small photos, in one HTML file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray
from PIL import Image
from scipy.ndimage import binary_erosion

_THUMBNAIL = 288
_OUTLINE = (0, 230, 60)
_DIMMED = 0.35
"""Brightness of what lies outside of the mask."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1500px; padding: 0 1rem; color: #222; background: #fafafa }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 12px }
figure { margin: 0; padding: 6px; background: #fff; border: 1px solid #ddd; border-radius: 6px }
figure.doubtful { border: 3px solid #c0281c }
img { width: 100%; display: block }
figcaption { font-size: 13px; overflow-wrap: anywhere }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } figure { background: #222; border-color: #444 } }
"""


@dataclass(frozen=True)
class ViewMask:
    """What is known about the mask of one view."""

    name: str
    """Of the photo."""
    share: float
    """Share of the photo that shows the object."""
    agreement: float | None
    """Intersection over union with the visual hull of all other masks; None without poses."""
    doubt: str
    """Why the mask looks wrong; empty if it does not."""


def outlined(rgb: UInt8[ndarray, "rows columns 3"], mask: Bool[ndarray, "rows columns"]) -> UInt8[ndarray, "height width 3"]:
    """Return a small photo with the surroundings of the object dimmed and its outline drawn."""
    size = rgb.shape[1::-1]
    shrink = max(1.0, max(size) / _THUMBNAIL)
    small = (max(1, round(size[0] / shrink)), max(1, round(size[1] / shrink)))
    picture = np.array(Image.fromarray(np.ascontiguousarray(rgb)).resize(small, Image.Resampling.BOX))
    inside = np.asarray(Image.fromarray(mask).convert("L").resize(small, Image.Resampling.BOX)) >= 128
    picture = np.where(inside[..., None], picture, (picture * _DIMMED).astype(np.uint8))
    picture[inside & ~np.asarray(binary_erosion(inside, border_value=1), bool)] = _OUTLINE
    return picture


def mask_report(title: str, verdict: str, notes: Sequence[str], views: Sequence[tuple[ViewMask, ndarray | None]]) -> str:
    """Build the page.

    Args:
        title: of the page.
        verdict: in words, about all masks.
        notes: what was decided.
        views: each with its picture; None leaves it out of the sheet.
    """
    figures = []
    for view, picture in views:
        if picture is None:
            continue
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=85)
        address = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
        kind = ' class="doubtful"' if view.doubt else ""
        text = html.escape(caption(view))
        figures.append(f'<figure{kind}><img src="{address}" alt="{html.escape(view.name)}"><figcaption>{text}</figcaption></figure>')
    sheet = "\n".join(figures)
    listed = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>"
        f'<p><strong>{html.escape(verdict)}</strong></p>\n<ul>{listed}</ul>\n<div class="sheet">\n{sheet}\n</div></body></html>\n'
    )


def caption(view: ViewMask) -> str:
    """Return the text below a picture.

    >>> caption(ViewMask("a.jpg", 0.25, 0.97, ""))
    'a.jpg: 25 % of the photo, agrees to 97 % with the others'
    """
    agrees = "" if view.agreement is None else f", agrees to {100 * view.agreement:.0f} % with the others"
    return f"{view.name}: {100 * view.share:.0f} % of the photo{agrees}{f'; {view.doubt}' if view.doubt else ''}"

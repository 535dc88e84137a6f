"""Short representations of objects that hold tensors, and their pictures in notebooks."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import reprlib
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

LONGEST = 200
"""Characters of a representation."""


def of_tensor(tensor: Tensor) -> str:
    """Return the type and shape of a tensor.

    >>> of_tensor(torch.zeros(2, 3)), of_tensor(torch.tensor(1))
    ('float32[2, 3]', 'int64[]')
    """
    where = "" if tensor.device.type == "cpu" else f" on {tensor.device}"
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}{where}"


def of_fields(self: Any) -> str:
    """Represent a dataclass by its fields, tensors by type and shape, without fields that are None.

    >>> @dataclasses.dataclass
    ... class Pair:
    ...     left: Tensor
    ...     right: Tensor | None = None
    >>> of_fields(Pair(torch.zeros(4, 3)))
    'Pair(left=float32[4, 3])'
    """
    shown = []
    for field in dataclasses.fields(self):
        part = getattr(self, field.name)
        if part is not None and field.repr:
            shown.append(f"{field.name}={of_tensor(part) if isinstance(part, Tensor) else reprlib.repr(part)}")
    return shortened(f"{type(self).__name__}({', '.join(shown)})")


def shortened(text: str) -> str:
    """Cut a representation that is too long.

    >>> len(shortened("x" * 1000))
    200
    """
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]}...)"


def counted(count: int, noun: str) -> str:
    """Return a number of things.

    >>> counted(1, "view"), counted(1200, "view")
    ('1 view', '1,200 views')
    """
    return f"{count:,} {noun}{'s' * (count != 1)}"


def size_range(sizes: Tensor) -> str:
    """Return the size of images, or how many sizes there are; ``sizes`` holds width and height of each.

    >>> size_range(torch.tensor([[640, 480], [640, 480]])), size_range(torch.tensor([[640, 480], [800, 600]]))
    ('640 x 480 pixels', '2 sizes up to 800 x 600 pixels')
    """
    different = sizes.unique(dim=0).tolist()
    if not different:
        return "no pixels"
    width, height = max(different, key=lambda size: size[0] * size[1])
    return f"{f'{len(different)} sizes up to ' if len(different) > 1 else ''}{width} x {height} pixels"


def picture_html(rgb: Tensor, caption: str, *, largest_side: int = 320) -> str:
    """Return a picture [height, width, 3], uint8, as HTML with its file inside.

    Args:
        rgb: the picture.
        caption: the text below it.
        largest_side: a larger picture is reduced to this side in pixels.
    """
    image = Image.fromarray(rgb.cpu().numpy())
    image.thumbnail((largest_side, largest_side))
    file = io.BytesIO()
    image.save(file, "PNG")
    uri = base64.b64encode(file.getvalue()).decode("ascii")
    text = html.escape(caption)
    return f'<figure><img src="data:image/png;base64,{uri}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def sheet(pictures: Sequence[Tensor], *, side: int = 96, columns: int = 6) -> Tensor:
    """Return small copies of pictures [height, width, 3], uint8, in rows on white.

    Raises:
        ValueError: there are no pictures.
    """
    if not pictures:
        raise ValueError("pictures is empty; a sheet needs at least one")
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (min(columns, len(pictures)) * side, rows * side), "white")
    for k, picture in enumerate(pictures):
        small = Image.fromarray(picture.cpu().numpy())
        small.thumbnail((side - 4, side - 4))
        canvas.paste(small, (k % columns * side + 2, k // columns * side + 2))
    return torch.frombuffer(bytearray(canvas.tobytes()), dtype=torch.uint8).reshape(canvas.height, canvas.width, 3)

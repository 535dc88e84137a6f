"""Materials of OBJ files: MTL files with the keys of physically based materials beside the classic ones.

| key | meaning |
|---|---|
| ``map_Kd``, ``Kd`` | base color: a picture in sRGB, or a color in linear light |
| ``map_d``, ``d``, ``Tr`` | opacity; ``Tr`` is 1 − ``d``, and counts where there is no ``d`` |
| ``map_Pr``, ``Pr`` | roughness, r |
| ``map_Pm``, ``Pm`` | metallic |
| ``norm`` | normals in tangent space; written as ``map_Bump`` too, which Blender reads |
| ``Ns`` | 1000 (1 − r)², for programs that know the classic keys alone; read as r where there is a highlight (``Ks``) and no ``Pr`` |
| ``bsdf pbr`` | ``Ks`` and ``map_Ks`` have occlusion, roughness and metallic in red, green and blue, and ``bump`` has normals |

A picture replaces the number beside it, as in Blender.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from unrender.color import linear_from_srgb, srgb_from_linear
from unrender.files.mesh_files.arrays import MaterialArrays, MeshFileError
from unrender.files.mesh_files.gltf import file_or_data
from unrender.files.mesh_files.obj import used_materials
from unrender.files.mesh_files.pictures import decoded, levels_of
from unrender.files.png import png
from unrender.numerics import normalized

PICTURES = ("base_color", "opacity", "roughness", "metallic", "normal")
"""Kinds of the pictures that are written."""

_KEYS_OF_PICTURES = ("map_Kd", "map_d", "map_Pr", "map_Pm", "map_Ks", "norm", "bump")
_ONE_WORD = ("-blendu", "-blendv", "-cc", "-clamp", "-texres", "-bm", "-boost", "-imfchan", "-type")
"""Options before the name of a picture that take one word."""

_PLAIN = {"-s": 1.0, "-o": 0.0, "-t": 0.0}
"""Options with up to three numbers, and the number that changes nothing."""

_GLOSSIEST = 1000.0
"""The exponent ``Ns`` of a mirror."""

_GRAY = 2 / 255
"""Difference of the channels up to which a picture is gray."""


class _Entry(NamedTuple):
    """A material as it stands in the file."""

    values: dict[str, str]
    """Numbers and words by their keys."""
    pictures: dict[str, str]
    """Names of pictures by their keys."""


def read_mtl(data: bytes, path: Path) -> list[MaterialArrays]:
    """Read the materials that an OBJ uses, in the order of their first use; none if it uses none.

    Args:
        data: the OBJ.
        path: of the OBJ; its folder has the files it names.

    Raises:
        MeshFileError: a file is missing or damaged, or does not define a material.
    """
    used = used_materials(data)
    libraries = re.findall(rb"^[ \t]*mtllib[ \t]+([^\r\n]*?)[ \t]*\r?$", data, re.MULTILINE)
    if not used or not libraries:
        return []
    entries: dict[str, _Entry] = {}
    names: list[str] = []
    for library in libraries:
        for name, text in _texts(library.decode("utf-8", "replace"), path):
            names.append(name)
            entries = {**_entries(text), **entries}
    found = []
    for name in used:
        if name not in entries:
            known = ", ".join(map(repr, list(entries)[:3])) or "none"
            raise MeshFileError(f"its material {name[:80]!r} is not in {', '.join(names)}, which has {known}; correct the line usemtl")
        found.append(_material(entries[name], path))
    return found


def _texts(library: str, path: Path) -> Iterator[tuple[str, str]]:
    """Yield the files in a line ``mtllib``, one whose name may have blanks or several, with their text."""
    words = library.split()
    names = words if len(words) > 1 and not _is_there(library, path) and all(_is_there(word, path) for word in words) else [library]
    for name in names:
        try:
            yield name, _data(name, path).decode("utf-8", "replace")
        except MeshFileError as error:
            raise MeshFileError(f"{error}, or take out the line mtllib to read it without a material") from error


def _is_there(name: str, path: Path) -> bool:
    return (path.parent / name.replace("\\", "/")).is_file()


def _data(name: str, path: Path) -> bytes:
    """Read a file that an OBJ or MTL names. One of another machine is looked for by its last name, in any case."""
    written = name.replace("\\", "/")
    last = written.rsplit("/", 1)[-1]
    if not _is_there(written, path) or written.startswith("/") or ":" in written:
        same = [file.name for file in path.parent.iterdir() if file.name.lower() == last.lower()]
        written = same[0] if same else written
    return file_or_data(written, path)


def _entries(text: str) -> dict[str, _Entry]:
    found: dict[str, _Entry] = {}
    entry = _Entry({}, {})
    for line in text.splitlines():
        key, value = (*line.split(maxsplit=1), "", "")[:2]
        value = value.strip()
        if key == "newmtl":
            entry = _Entry({}, {})
            found.setdefault(value, entry)
        elif key.lower() in ("map_bump", "bump"):
            entry.pictures.setdefault("bump", value)
        elif key in _KEYS_OF_PICTURES:
            entry.pictures[key] = value
        elif key and value:
            entry.values[key] = value
    return found


def _material(entry: _Entry, path: Path) -> MaterialArrays:
    values, pictures = entry.values, {key: _picture_name(value) for key, value in entry.pictures.items()}
    cache: dict[str, Tensor] = {}

    def picture(key: str) -> Float[Tensor, "height width channels"] | None:
        name = pictures.get(key)
        if name is not None and name not in cache:
            cache[name] = decoded(_data(name, path))
        return None if name is None else cache[name]

    of_nvdiffrec = values.get("bsdf", "") == "pbr"
    roughness, metallic = _factors(values, of_nvdiffrec)
    packed = picture("map_Ks") if of_nvdiffrec else None
    if packed is None and "map_Pr" in pictures and pictures["map_Pr"] == pictures.get("map_Pm"):
        packed = picture("map_Pr")
    if packed is not None:
        both = packed[..., 1:3]
    else:
        both = _together(picture("map_Pr"), picture("map_Pm"), roughness, metallic)
    normal = picture("norm")
    if normal is None:
        normal = picture("bump")
        normal = None if normal is None or _is_gray(normal) else normal  # a gray picture has heights
    normal = None if normal is None else normalized(2 * normal[..., :3] - 1)
    return MaterialArrays(_base_color(values, picture("map_Kd"), picture("map_d")), both, normal, roughness, metallic)


def _factors(values: dict[str, str], of_nvdiffrec: bool) -> tuple[float, float]:
    """Return roughness and metallic."""
    shine = [float(word) for word in values.get("Ks", "").split()[:3]]
    if of_nvdiffrec and len(shine) == 3:
        return shine[1], shine[2]
    metallic = float(values.get("Pm", 0.0))
    if "Pr" in values:
        return float(values["Pr"]), metallic
    if "Ns" in values and any(shine) and values.get("illum", "2") not in ("0", "1"):
        return 1 - (min(max(float(values["Ns"]), 0.0), _GLOSSIEST) / _GLOSSIEST) ** 0.5, metallic
    return 1.0, metallic


def _base_color(values: dict[str, str], color: Tensor | None, opacity: Tensor | None) -> Float[Tensor, "height width channels"] | None:
    linear = None
    if color is not None:
        linear = linear_from_srgb(color[..., :3])
    elif "Kd" in values:
        linear = torch.tensor([float(x) for x in values["Kd"].split()[:3]]).view(1, 1, -1).expand(1, 1, 3)
    if opacity is not None:
        alpha = opacity[..., 3:] if opacity.shape[-1] == 4 else opacity[..., :1]
        linear = torch.ones_like(alpha).expand(-1, -1, 3) if linear is None else linear
        size = max(linear.shape[0], alpha.shape[0]), max(linear.shape[1], alpha.shape[1])
        return torch.cat([resized(linear, size), resized(alpha, size)], -1)
    share = float(values["d"]) if "d" in values else 1.0 - float(values.get("Tr", 0.0))
    if linear is not None and 0 < share < 1:
        return torch.cat([linear, torch.full_like(linear[..., :1], share)], -1)
    is_white = linear is not None and linear.numel() == 3 and bool((linear == 1).all())
    return None if is_white else linear


def _together(rough: Tensor | None, metal: Tensor | None, roughness: float, metallic: float) -> Float[Tensor, "height width 2"] | None:
    """Return roughness and metallic as one texture; None if neither has a picture."""
    if rough is None and metal is None:
        return None
    rough = torch.full((1, 1, 1), roughness) if rough is None else rough[..., :3].mean(-1, keepdim=True)
    metal = torch.full((1, 1, 1), metallic) if metal is None else metal[..., :3].mean(-1, keepdim=True)
    size = max(rough.shape[0], metal.shape[0]), max(rough.shape[1], metal.shape[1])
    return torch.cat([resized(rough, size), resized(metal, size)], -1)


def resized(picture: Float[Tensor, "height width channels"], size: tuple[int, int]) -> Float[Tensor, "rows columns channels"]:
    """Return a picture in another size, averaged where it shrinks."""
    if tuple(picture.shape[:2]) == size:
        return picture
    found = interpolate(picture.permute(2, 0, 1)[None], size, mode="bilinear", antialias=True)
    return found[0].permute(1, 2, 0)


def _is_gray(picture: Float[Tensor, "height width channels"]) -> bool:
    return bool((picture[..., :3].amax(-1) - picture[..., :3].amin(-1) <= _GRAY).all())


def _picture_name(value: str) -> str:
    """Return the name of a picture, which may have blanks, without the options before it.

    Raises:
        MeshFileError: an option would move or scale the picture.

    >>> _picture_name("-bm 1.0 -s 1 1 1 rubber duck.png")
    'rubber duck.png'
    """
    rest = value
    while rest.startswith("-"):
        option, _, rest = rest.partition(" ")
        if option in _ONE_WORD:
            rest = rest.lstrip().partition(" ")[2].lstrip()
        elif option == "-mm":
            rest = rest.split(maxsplit=2)[-1]
        elif option in _PLAIN:
            numbers = re.match(r"(?:\s*[-+]?[\d.]+(?:[eE][-+]?\d+)?(?=\s)){1,3}", " " + rest)
            words = numbers.group().split() if numbers else []
            if any(float(word) != _PLAIN[option] for word in words):
                raise MeshFileError(f"its texture {value[:80]!r} is moved or scaled, which is not read; apply {option} to the coordinates")
            rest = (" " + rest)[numbers.end() if numbers else 0 :].lstrip()
        else:
            break
    return rest.strip()


class MtlFiles(NamedTuple):
    """What is written beside an OBJ."""

    mtl: bytes
    pictures: dict[str, bytes]
    """By their file names."""


def mtl_files(material: MaterialArrays, stem: str, name: str) -> MtlFiles:
    """Write a material and its pictures.

    Args:
        material: of a mesh.
        stem: with which the names of the pictures begin.
        name: of the material.
    """
    pictures: dict[str, bytes] = {}
    color, both, normal = material.base_color, material.roughness_metallic, material.normal
    shine = material.roughness if both is None else float(both[..., 0].mean())
    # Programs that multiply a picture by the number beside it need ones there.
    roughness, metallic = (material.roughness, material.metallic) if both is None else (1.0, 1.0)
    rows = [
        "# base color (map_Kd) is sRGB; opacity, roughness (map_Pr), metallic (map_Pm) and normals (norm, +Y up) are linear",
        f"newmtl {name}",
        "Kd 1 1 1",
        f"Ns {_GLOSSIEST * (1 - shine) ** 2:.6g}",
        f"Pr {roughness:.9g}",
        f"Pm {metallic:.9g}",
        "illum 2",
    ]

    def add(kind: str, picture: Tensor, *keys: str) -> None:
        file = f"{stem}_{kind}.png"
        pictures[file] = png(levels_of(picture))
        rows.extend(f"{key} {file}" for key in keys)

    if color is not None:
        add("base_color", srgb_from_linear(color[..., :3]), "map_Kd")
        if color.shape[-1] == 4:
            add("opacity", color[..., 3:], "map_d")
    if both is not None:
        add("roughness", both[..., :1], "map_Pr")
        add("metallic", both[..., 1:], "map_Pm")
    if normal is not None:
        add("normal", 0.5 * normal + 0.5, "norm", "map_Bump -bm 1")
    return MtlFiles(("\n".join(rows) + "\n").encode("ascii"), pictures)

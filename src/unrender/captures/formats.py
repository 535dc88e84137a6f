"""The formats of posed photos that are recognized in a folder, in order of preference."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unrender.captures.blender import read_blender
from unrender.captures.bundler import read_bundler
from unrender.captures.colmap import find_colmap, read_colmap
from unrender.captures.json_cameras import read_polycam, read_record3d, read_sdfstudio
from unrender.captures.llff import read_llff
from unrender.captures.metashape import read_metashape
from unrender.captures.neus_npz import read_neus
from unrender.captures.opensfm import read_odm, read_opensfm
from unrender.captures.oxford import read_oxford
from unrender.captures.reading import is_regular_file
from unrender.captures.reading_text import head_of, names_in
from unrender.captures.reality_capture import is_reality_capture, read_reality_capture
from unrender.captures.source import Source
from unrender.captures.text_cameras import read_halcon, read_middlebury, read_mvsnet, read_strecha
from unrender.captures.transforms_json import read_transforms

Reader = Callable[[Path, Path, int], Source]
"""Reads the cameras of a folder; takes the folder, the file or folder of cameras that was found in it, and ``test_every``."""


@dataclass(frozen=True)
class Format:
    """A layout of posed photos: how it is recognized, and how it is read."""

    name: str
    """The program or data set that writes it."""
    cameras: str
    """The file or folder of cameras, as messages and docs/captures.md name it."""
    find: Callable[[Path], Path | None]
    """Return the file or folder of cameras below a folder; None if the folder has another layout.

    It looks at names, and at the first kilobytes of files whose names do not tell their format.
    """
    read: Reader


def file_named(name: str) -> Callable[[Path], Path | None]:
    """Return a function that finds a file of this name in a folder."""

    def find(folder: Path) -> Path | None:
        file = folder / name
        return file if is_regular_file(file) else None

    return find


def file_like(*patterns: str, begins: Callable[[str], bool] | None = None) -> Callable[[Path], Path | None]:
    """Return a function that finds the first file that matches one of some patterns, in any capitals.

    Args:
        patterns: of the last part of a path below the folder.
        begins: tells from the first 4 KiB of a file whether it is one of this format.
    """

    def find(folder: Path) -> Path | None:
        for pattern in patterns:
            place, _, last = f"./{pattern}".rpartition("/")
            files = (folder / place / name for name in names_in(folder / place) if fnmatch.fnmatchcase(name.lower(), last))
            found = next((file for file in files if is_regular_file(file) and (begins is None or begins(head_of(file)))), None)
            if found is not None:
                return found
        return None

    return find


_POLYCAM = ("keyframes/corrected_cameras/*.json", "keyframes/cameras/*.json", "corrected_cameras/*.json")
_HALCON = tuple(f"{place}extrinsics_camera*.txt" for place in ("", "extrinsics/", "calibration/"))

FORMATS: tuple[Format, ...] = (
    Format("Blender", "transforms_train.json", file_named("transforms_train.json"), read_blender),
    Format("instant-ngp and nerfstudio", "transforms.json", file_named("transforms.json"), read_transforms),
    Format("NeuS", "cameras_sphere.npz", file_named("cameras_sphere.npz"), read_neus),
    Format("IDR and DVR", "cameras.npz", file_named("cameras.npz"), read_neus),
    Format("COLMAP", "sparse/", find_colmap, read_colmap),
    Format("LLFF", "poses_bounds.npy", file_named("poses_bounds.npy"), read_llff),
    Format("MVSNet and BlendedMVS", "cams/*_cam.txt", file_like("cams/*_cam.txt"), read_mvsnet),
    Format("SDFStudio", "meta_data.json", file_named("meta_data.json"), read_sdfstudio),
    Format("OpenSfM", "reconstruction.json", file_like("reconstruction.json", "opensfm/reconstruction.json"), read_opensfm),
    Format("OpenDroneMap", "shots.geojson", file_like("shots.geojson", "odm_report/shots.geojson"), read_odm),
    Format("Bundler", "bundle.out", file_like("bundle.out", "bundle/bundle.out"), read_bundler),
    Format("Metashape", "*.xml", file_like("*.xml", begins=lambda head: "<document" in head and "<chunk" in head), read_metashape),
    Format("RealityCapture", "*.csv", file_like("*.csv", begins=is_reality_capture), read_reality_capture),
    Format("Polycam", "keyframes/cameras/*.json", file_like(*_POLYCAM), read_polycam),
    Format("Record3D", "metadata", file_like("metadata", begins=lambda head: head.lstrip().startswith("{")), read_record3d),
    Format("Middlebury", "*_par.txt", file_like("*_par.txt"), read_middlebury),
    Format("Strecha", "*.camera", file_like("*.camera", "cameras/*.camera", "gt_dense_cameras/*.camera"), read_strecha),
    Format("HALCON", "extrinsics_camera*.txt", file_like(*_HALCON), read_halcon),
    Format("Oxford", "*_Ps.mat", file_like("*_ps.mat"), read_oxford),
)
"""A new format only needs a line here."""

"""Agisoft Metashape's XML of cameras (File, Export, Export Cameras).

With x = X / Z, y = Y / Z and r² = x² + y², a lens of Metashape is

x' = x (1 + K1 r² + K2 r⁴ + K3 r⁶ + K4 r⁸) + P1 (r² + 2 x²) + 2 P2 x y,
y' = y (1 + K1 r² + K2 r⁴ + K3 r⁶ + K4 r⁸) + P2 (r² + 2 y²) + 2 P1 x y,
u = w / 2 + cx + f x' + B1 x' + B2 y', v = h / 2 + cy + f y'

(Metashape manual, camera models). So P1 is OpenCV's p2, and P2 its p1. A fisheye multiplies x and y by arctan(r) / r first.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from unrender.captures.errors import CaptureError
from unrender.captures.posed_photos import Lens, PosedPhoto, first_three, posed_source
from unrender.captures.reading import shown
from unrender.captures.reading_text import numbers, read_xml
from unrender.captures.source import Source

_PERSPECTIVE, _FISHEYE = "frame", "fisheye"

_GEOCENTRIC = 6e6
"""Positions farther from the origin are in meters from the center of the earth."""


def read_metashape(folder: Path, file: Path, test_every: int) -> Source:
    """Read the cameras of the first chunk of an XML file, in the coordinates of the chunk.

    Cameras are matched with photos by their labels. Cameras that are disabled or not aligned are left out with a note. Of several
    components, which have no common frame, the one with most cameras is read.

    Raises:
        CaptureError: no chunk, a camera without a sensor, a lens that is not supported, or as in
            :func:`unrender.captures.posed_photos.posed_source`.
    """
    root = read_xml(file)
    chunks = [root] if root.tag == "chunk" else root.findall("chunk")
    holder = chunks[0].find("cameras") if chunks else None
    cameras = [] if holder is None else list(holder.iter("camera"))
    if not cameras:
        raise CaptureError(f"{file} has no cameras; export them with Metashape's File, Export, Export Cameras")
    chunk = chunks[0]
    notes = [f"{file.name} has {len(chunks)} chunks, of which the first is read"] if len(chunks) > 1 else []
    sensors = {sensor.get("id"): sensor for sensor in chunk.iter("sensor")}
    aligned = [camera for camera in cameras if camera.find("transform") is not None and _is_enabled(camera)]
    left_out = [_label(camera, file) for camera in cameras if camera.find("transform") is None or not _is_enabled(camera)]
    if left_out:
        notes.append(f"{len(left_out)} cameras are not aligned or disabled and were left out ({first_three(left_out)})")
    components = Counter(camera.get("component_id") for camera in aligned)
    component = components.most_common(1)[0][0] if components else None
    if len(components) > 1:
        others = sum(components.values()) - components[component]
        notes.append(f"{others} cameras of other components have no pose in the frame of the largest one and were left out")
        aligned = [camera for camera in aligned if camera.get("component_id") == component]
    rotation, translation, scale = _chunk_frame(chunk, component, file)
    lenses: dict[str | None, Lens] = {}
    photos = []
    for camera in aligned:
        label, sensor = _label(camera, file), camera.get("sensor_id")
        if sensor not in sensors:
            raise CaptureError(f"the camera {label} in {file} has the sensor {shown(sensor)}, which the file does not describe")
        if sensor not in lenses:
            lenses[sensor] = _lens(sensors[sensor], label, file, notes)
        pose = np.reshape(_numbers(camera.find("transform"), 16, f"the transform of {label} in {file}"), (4, 4))
        place = scale * rotation @ pose[:3, 3] + translation
        moved = pose.copy()
        moved[:3, :3], moved[:3, 3] = rotation @ pose[:3, :3], place
        photos.append(PosedPhoto(label, moved, lenses[sensor]))
    source = posed_source(folder, file, photos, test_every, notes=notes)
    return replace(source, up=_up(chunk, source))


def _is_enabled(camera: Element) -> bool:
    return camera.get("enabled", "1").lower() not in ("0", "false")


def _label(camera: Element, file: Path) -> str:
    label = camera.get("label")
    if not label:
        raise CaptureError(f"a camera in {file} has no label; export the cameras again")
    return label


def _numbers(element: Element | None, count: int, what: str) -> list[float]:
    return numbers((element.text or "").split() if element is not None else [], count, what)


def _chunk_frame(chunk: Element, component: str | None, file: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """Return R, t and s of p ↦ s R p + t, from the poses to the chunk."""
    own = next((item.find("transform") for item in chunk.iter("component") if item.get("id") == component), None)
    frame = own if own is not None else chunk.find("transform")
    if frame is None or frame.find("rotation") is None:
        return np.eye(3), np.zeros(3), 1.0
    what = f"the transform of the chunk in {file}"
    rotation = np.reshape(_numbers(frame.find("rotation"), 9, what), (3, 3))
    if not np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-3 or np.linalg.det(rotation) < 0:
        raise CaptureError(f"{what} is not a rotation; export the cameras again")
    translation = np.zeros(3) if frame.find("translation") is None else np.array(_numbers(frame.find("translation"), 3, what))
    scale = 1.0 if frame.find("scale") is None else _numbers(frame.find("scale"), 1, what)[0]
    if scale <= 0:
        raise CaptureError(f"{what} has the scale {scale:g}; it must be positive")
    return rotation, translation, scale


def _lens(sensor: Element, label: str, file: Path, notes: list[str]) -> Lens:
    """Read the adjusted calibration of a sensor."""
    what = f"the calibration of {label} in {file}"
    kind = sensor.get("type", _PERSPECTIVE)
    if kind not in (_PERSPECTIVE, _FISHEYE):
        raise CaptureError(f"{label} in {file} has a sensor of type {shown(kind)}, which is not supported; export undistorted photos")
    found = sensor.findall("calibration")
    calibration = next((item for item in found if item.get("class") == "adjusted"), found[-1] if found else None)
    if calibration is None or calibration.find("f") is None:
        raise CaptureError(f"{what} has no focal length f; optimize the cameras and export them again")
    value = lambda key: 0.0 if calibration.find(key) is None else _numbers(calibration.find(key), 1, f"{key} of {what}")[0]  # noqa: E731
    sizes = [item for item in (calibration.find("resolution"), sensor.find("resolution")) if item is not None]
    if not sizes:
        raise CaptureError(f"{what} has no resolution, from whose middle cx and cy are counted; export the cameras again")
    width, height = numbers([sizes[0].get("width", ""), sizes[0].get("height", "")], 2, f"the resolution of {what}")
    refused = [key for key in ("b2", "p3", "p4") if value(key)]
    if refused:
        raise CaptureError(f"{what} has {refused[0]}, which no lens here has; optimize without it, or export undistorted photos")
    f, p1, p2 = value("f"), value("p1"), value("p2")
    if kind == _FISHEYE and (p1 or p2):
        notes.append("p1 and p2 of a fisheye lens are not used")
        p1 = p2 = 0.0
    return Lens(
        focal=(f + value("b1"), f),
        center=(width / 2 + value("cx"), height / 2 + value("cy")),
        size=(width, height),
        distortion=(value("k1"), value("k2"), value("k3"), value("k4"), p2, p1),
        fisheye=kind == _FISHEYE,
    )


def _up(chunk: Element, source: Source) -> tuple[float, float, float] | None:
    """Return the upward direction: +Z of local coordinates, away from the center of the earth in geocentric ones."""
    reference = chunk.find("reference")
    if reference is not None and (reference.text or "").lstrip().startswith("LOCAL_CS"):
        return 0.0, 0.0, 1.0
    middle = source.source_from_camera[:, :3, 3].mean(0)
    if reference is None or float(middle.norm()) < _GEOCENTRIC:
        return None
    x, y, z = (middle / middle.norm()).tolist()
    return x, y, z

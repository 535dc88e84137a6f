"""Photos of a mesh with its material under a known light, as a capture with the truth beside it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.capture import Split
from unrender.captures.reading import read_json
from unrender.captures.rendered import KnownScene, cameras_around, photo_of, write_transforms
from unrender.devices import pytorch_on_one_thread
from unrender.files.atomic import remove_partials, replacing, write_json
from unrender.files.hdr import write_hdr
from unrender.geometry.mesh import Mesh
from unrender.render.asset import Asset, read_asset
from unrender.render.lit import SMALLEST_OPACITY, LitScene
from unrender.runs.directory import RunDirectory
from unrender.runs.display import Display
from unrender.runs.relighting import BELOW_WHITE, exposure_of
from unrender.shading.latlong import LIGHT_SIZE, cube_from_latlong, read_latlong
from unrender.shading.lights import EnvironmentLight
from unrender.transforms import inverse_similarity, rotation_between, similarity

RECORD = "unrender_capture.json"
"""The file that says what a capture was rendered of; by it the folder is known as ours."""

_FIELD_OF_VIEW = math.radians(40.0)
_DISTANCE = 1.05 / math.sin(0.5 * _FIELD_OF_VIEW)
"""From the middle of a sphere of radius one, which the pictures then show with a narrow margin."""

_SAMPLES = 2
"""Along each side of a pixel."""

_METERED_VIEWS, _METERED_SIZE = 12, 96


@dataclass(frozen=True)
class Photographed:
    """A capture that was rendered."""

    folder: Path
    fitted: int
    held_out: int
    exposure: float
    """The factor by which the light of the file was multiplied."""
    truth: KnownScene
    notes: tuple[str, ...]


def photograph(
    mesh: Path,
    environment: Path,
    out: Path,
    *,
    views: int,
    held_out: int,
    resolution: int,
    exposure: float | None,
    seed: int,
    overwrite: bool,
    device: torch.device,
    display: Display,
) -> Photographed:
    """Render photos of a mesh from all sides, and write them with their cameras and the truth as a capture.

    The frame of the poses is that of the mesh, turned until +Z is up. Photos that are there are kept where the same capture is asked for.

    Args:
        mesh: file with a material or vertex colors.
        environment: lat-long picture of the light, +Z up.
        out: folder of the capture.
        views: number of fitted photos.
        held_out: number of photos that are held out.
        resolution: width and height of the photos, in pixels.
        exposure: factor of the light; by default one with which nearly all of the object is below white.
        seed: of the azimuths at which the two spirals of cameras start.
        overwrite: replace an earlier capture in ``out``.
        device: where to render.
        display: shows how far it is.

    Raises:
        ValueError: a number is out of range, a file cannot be read, the light is black, or ``out`` holds something else.
        OSError: a file cannot be written.
    """
    _check_numbers(views, held_out, resolution, exposure)
    with display.task("reading the mesh and the light"):
        asset, notes = _upright_asset(mesh)
        picture = read_latlong(environment)
    generator = torch.Generator().manual_seed(seed)
    starts = (2 * math.pi * torch.rand(2, generator=generator, dtype=torch.float64)).tolist()
    source_from_world = _placement(asset.mesh)
    world = asset.transformed(inverse_similarity(source_from_world))
    world = replace(world, mesh=replace(world.mesh, vertices=world.mesh.vertices.float())).to(device)
    settings = {"mesh": str(mesh), "environment": str(environment), "views": views, "held_out": held_out, "resolution": resolution}
    settings |= {"exposure": exposure, "seed": seed, "content": _fingerprint(asset, picture)}
    _prepare(out, settings, overwrite=overwrite)
    with display.task("preparing the light"):
        # Pictures are proportional to the light, so its factor is applied to them.
        scene = LitScene(replace(world, environment=EnvironmentLight(cube_from_latlong(picture, LIGHT_SIZE).to(device))), samples=_SAMPLES)
    if exposure is None:
        with display.task("measuring the light"):
            exposure = _exposure(scene, _cameras(_METERED_VIEWS, _METERED_SIZE, starts[0]).to(device), environment)
        notes = (*notes, f"the light is multiplied by {exposure:.3g}, with which {BELOW_WHITE:.0%} of the object stay below white")
    truth = KnownScene(out / "truth/mesh.glb", out / "truth/environment.hdr")
    asset.export(truth.mesh)
    assert truth.environment is not None
    write_hdr(truth.environment, picture * exposure)
    cameras = _joined([_cameras(count, resolution, start) for count, start in zip((views, held_out), starts, strict=True) if count])
    names = [f"images/{kind}_{view:03d}.png" for kind, count in (("train", views), ("test", held_out)) for view in range(count)]
    _render(scene, exposure, cameras.to(device), names, out, display)
    split = Split(tuple(range(views)), tuple(range(views, views + held_out)), "by the names of the photos", given=True)
    write_transforms(out, cameras, names, split, source_from_world, truth)
    return Photographed(out, views, held_out, exposure, truth, notes)


def _check_numbers(views: int, held_out: int, resolution: int, exposure: float | None) -> None:
    for name, value, least, most in (("views", views, 1, 10_000), ("held-out", held_out, 0, 10_000), ("resolution", resolution, 8, 4096)):
        if not least <= value <= most:
            raise ValueError(f"--{name} is {value}; give {least} to {most}")
    if exposure is not None and not 0 < exposure < math.inf:
        raise ValueError(f"--exposure is {exposure}; give a finite factor above zero")


def _upright_asset(file: Path) -> tuple[Asset, tuple[str, ...]]:
    """Read an asset, turned until +Z is up, with sentences about it."""
    asset = read_asset(file)
    up = torch.tensor(asset.mesh.up, dtype=torch.float64)
    turn = torch.eye(4, dtype=torch.float64)
    turn[:3, :3] = rotation_between(up, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    nearest = turn.round()
    asset = asset.transformed(nearest if float((turn - nearest).abs().max()) < 1e-12 else turn)
    notes = []
    if asset.material is None and asset.mesh.colors is None:
        notes.append(f"{file} has no material and no colors, so it is white and matt in the photos")
    if bool((torch.as_tensor(asset.mesh.up) - torch.tensor([0.0, 0.0, 1.0])).abs().max() > 1e-6):
        raise ValueError(f"{file} cannot be turned upright: its upward direction is {asset.mesh.up}")
    if _faces_inward(asset.mesh):
        notes.append(
            f"the triangles of {file} face inwards; both sides are rendered alike, but programs that show one side need them turned"
        )
    return asset, tuple(notes)


def _faces_inward(mesh: Mesh) -> bool:
    """Tell whether a closed mesh has a negative volume, Σ a · (b × c) / 6."""
    solid = mesh.welded()
    if not solid.is_watertight:
        return False
    a, b, c = (solid.vertices.double() - solid.bounding_box.double().mean(0))[solid.faces.long()].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum()) < 0


def _placement(mesh: Mesh) -> Tensor:
    """Return the similarity from a world in which the mesh lies in the unit sphere."""
    vertices = mesh.vertices[mesh.faces.reshape(-1).unique().long()].double()
    center = 0.5 * (vertices.amin(0) + vertices.amax(0))
    radius = float((vertices - center).norm(dim=1).max())
    if not radius > 0:
        raise ValueError("the mesh has no extent: all its vertices are at one place")
    return similarity(center, radius, torch.eye(3, dtype=torch.float64))


def _fingerprint(asset: Asset, picture: Tensor) -> str:
    """Return a hash of everything that the photos show."""
    mesh, material = asset.mesh, asset.material
    tensors: list[Tensor | None] = [picture, mesh.vertices, mesh.faces, mesh.colors, mesh.normals, mesh.uvs, mesh.uv_faces]
    tensors += [] if material is None else [material.base_color, material.roughness_metallic, material.normal]
    digest = hashlib.sha256(repr(None if material is None else (material.roughness, material.metallic)).encode())
    for tensor in tensors:
        digest.update(b"none" if tensor is None else repr(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _prepare(out: Path, settings: dict[str, Any], *, overwrite: bool) -> None:
    """Check that the folder is ours, and remove an earlier capture of something else from it."""
    directory, record = RunDirectory(out), out / RECORD
    if directory.is_foreign() and not record.exists():
        raise ValueError(f"{out} holds files that are no capture of this command; choose another --out")
    directory.prepare()
    if record.exists():
        known = read_json(record)
        if known != settings:
            if not overwrite:
                changed = ", ".join(name for name in settings if known.get(name) != settings[name])
                raise ValueError(f"{out} holds another capture ({changed} differ); choose another --out, or pass --overwrite to replace it")
            (out / "transforms.json").unlink(missing_ok=True)
            for file in (*(out / "images").glob("train_*.png"), *(out / "images").glob("test_*.png")):
                file.unlink(missing_ok=True)
    for folder in (out / "images", out / "truth"):
        folder.mkdir(parents=True, exist_ok=True)
        remove_partials(folder)
    write_json(record, settings)


def _cameras(views: int, size: int, start: float) -> Cameras:
    return cameras_around(views, size, distance=_DISTANCE, field_of_view=_FIELD_OF_VIEW, start=start)


def _joined(parts: Sequence[Cameras]) -> Cameras:
    """Return cameras of one size as one batch."""
    poses, intrinsics = (torch.cat([getattr(part, name) for part in parts]) for name in ("world_from_camera", "intrinsics"))
    return Cameras.alike(poses, intrinsics, None, parts[0].width, parts[0].height)


def _exposure(scene: LitScene, cameras: Cameras, file: Path) -> float:
    found = exposure_of(scene, cameras)
    if found is None:
        raise ValueError(f"nothing is lit: the object is not visible or black under {file}; give --exposure, or another --env")
    return found


def _render(scene: LitScene, exposure: float, cameras: Cameras, names: Sequence[str], out: Path, display: Display) -> None:
    """Write the photos that are missing."""
    with display.task("rendering the photos", len(names)) as task, pytorch_on_one_thread():
        for view, name in enumerate(names):
            file = out / PurePosixPath(name)
            if not file.exists():
                seen = scene.lit_view(cameras, view)
                color = exposure * seen.color / seen.opacity.clamp_min(SMALLEST_OPACITY)[..., None]
                with replacing(file) as partial:
                    Image.fromarray(photo_of(color, seen.opacity.clamp(0, 1)).cpu().numpy()).save(partial)
            task.advance()

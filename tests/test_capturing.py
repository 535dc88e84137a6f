"""Captures that are rendered of a mesh: the photos agree with the truth beside them, and a stopped command goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from unrender import load
from unrender.captures.rendered import cameras_around
from unrender.cli.program import main
from unrender.files.hdr import write_hdr
from unrender.geometry.mesh import Mesh
from unrender.numerics import normalized
from unrender.render.asset import Asset, PbrMaterial, read_asset
from unrender.render.lit import LitScene
from unrender.runs import capturing
from unrender.runs.display import Display
from unrender.runs.material_measures import Relit, material_measures, true_asset
from unrender.shading.latlong import read_environment
from unrender.shading.lights import EnvironmentLight

CPU = torch.device("cpu")


def textured_box() -> Asset:
    """Return a box beside the origin whose six sides differ in color, with sides of different lengths."""
    corners = torch.tensor([[x, y, z] for x in (0.0, 2.0) for y in (0.0, 1.0) for z in (0.0, 0.5)]) + torch.tensor([5.0, -3.0, 1.0])
    quads = torch.tensor([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
    vertices, faces = corners[quads].reshape(-1, 3), torch.arange(24).view(6, 4)
    faces = torch.cat([faces[:, [0, 1, 2]], faces[:, [0, 2, 3]]])
    texels = torch.rand(3, 2, 3, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    places = torch.tensor([[(column + 0.5) / 2, (row + 0.5) / 3] for row in range(3) for column in range(2)])
    mesh = Mesh(vertices, faces, uvs=places.repeat_interleave(4, 0), uv_faces=faces).with_vertex_normals()
    return Asset(mesh, PbrMaterial(texels, torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(1)) * 0.5 + 0.4))


def sky(path: Path, seed: int = 0) -> Path:
    """Write a smooth light of all colors."""
    coarse = torch.rand(1, 3, 4, 8, generator=torch.Generator().manual_seed(seed)) + 0.2
    write_hdr(path, torch.nn.functional.interpolate(coarse, (32, 64), mode="bilinear")[0].permute(1, 2, 0))
    return path


SMALL = 16
"""Texels along an edge of the lights in these tests."""


@pytest.fixture(scope="module", autouse=True)
def lights_are_small() -> Iterator[None]:
    """Make lights whose convolutions take no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capturing, "LIGHT_SIZE", SMALL)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a capture of a box."""
    place = tmp_path_factory.mktemp("box")
    textured_box().export(place / "box.glb")
    sky(place / "sky.hdr")
    words = ["--views", "9", "--held-out", "3", "--resolution", "40", "--device", "cpu", "--quiet"]
    assert main(["capture", str(place / "box.glb"), "--env", str(place / "sky.hdr"), "--out", str(place / "capture"), *words]) == 0
    return place


def words_for(folder: Path, out: str = "capture", **changes: str) -> list[str]:
    options = {"env": str(folder / "sky.hdr"), "out": str(folder / out), "views": "9", "held-out": "3", "resolution": "40", "device": "cpu"}
    return ["capture", str(folder / "box.glb"), *(word for name, value in (options | changes).items() for word in (f"--{name}", value))]


def test_the_photos_show_the_truth_from_the_cameras_that_are_read(folder: Path) -> None:
    photos = load(folder / "capture")
    assert photos.has_masks and photos.truth is not None and photos.truth.environment is not None
    assert (len(photos.split.train), len(photos.split.test)) == (9, 3) and photos.split.given and photos.up == (0.0, 0.0, 1.0)
    light = read_environment(photos.truth.environment, SMALL, photos.source_from_world)
    scene = LitScene(replace(true_asset(photos.truth, photos.source_from_world), environment=light), samples=2)
    for view in (0, 7, 11):
        seen = scene.lit_view(photos.cameras, view)
        straight = seen.color / seen.opacity.clamp_min(1e-4)[..., None]
        inner = seen.opacity > 0.999
        assert int(inner.sum()) > 50
        assert float((photos.alpha(view) - seen.opacity).abs().max()) < 0.01
        torch.testing.assert_close(photos.color(view, linear=True)[inner], straight.clamp(0, 1)[inner], atol=0.02, rtol=0)


def test_the_truth_is_the_given_mesh_in_its_own_frame(folder: Path) -> None:
    photos, given = load(folder / "capture"), textured_box().mesh
    assert photos.truth is not None
    again = true_asset(photos.truth, torch.eye(4, dtype=torch.float64)).mesh
    torch.testing.assert_close(again.bounding_box, given.bounding_box)
    centers = photos.source_from_world[:3, 3].float()
    assert bool((centers > given.bounding_box[0]).all()) and bool((centers < given.bounding_box[1]).all())


def test_nearly_all_of_the_object_is_below_white(folder: Path) -> None:
    photos = load(folder / "capture")
    inside = torch.cat([photos.color(view)[photos.mask(view) == 255] for view in range(12)])
    assert 0.75 < float(inside.amax(-1).quantile(0.99)) < 1.0


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_a_stopped_command_goes_on_and_gives_the_same_bytes(folder: Path) -> None:
    assert main([*words_for(folder, "again"), "--quiet"]) == 0
    whole, first = contents(folder / "again"), contents(folder / "capture")
    assert {name: data for name, data in whole.items() if name != "unrender_capture.json"} == {
        name: data for name, data in first.items() if name != "unrender_capture.json"
    }
    kept = folder / "again/images/train_001.png"
    for name in ("images/train_004.png", "images/test_002.png", "transforms.json"):
        (folder / "again" / name).unlink()
    before = kept.stat().st_mtime_ns
    assert main([*words_for(folder, "again"), "--quiet"]) == 0
    assert contents(folder / "again") == whole and kept.stat().st_mtime_ns == before


def test_a_capture_of_something_else_is_kept_unless_it_may_be_replaced(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*words_for(folder, "seeds"), "--quiet"]) == 0
    assert main([*words_for(folder, "seeds", seed="1"), "--quiet"]) == 1
    assert "(seed differ)" in capfd.readouterr().err
    assert main([*words_for(folder, "seeds", seed="1", views="4"), "--quiet", "--overwrite"]) == 0
    assert len(list((folder / "seeds/images").glob("*.png"))) == 7 and len(load(folder / "seeds")) == 7
    (folder / "notes").mkdir()
    (folder / "notes/mine.txt").write_text("keep")
    assert main([*words_for(folder, "notes"), "--quiet", "--overwrite"]) == 1
    assert "no capture of this command" in capfd.readouterr().err and (folder / "notes/mine.txt").read_text() == "keep"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"views": "0"}, "--views is 0"),
        ({"held-out": "-1"}, "--held-out is -1"),
        ({"resolution": "5000"}, "--resolution is 5000"),
        ({"exposure": "0"}, "--exposure is 0"),
        ({"env": "broken.hdr"}, "broken.hdr is not a Radiance picture"),
        ({"env": "black.hdr"}, "nothing is lit"),
        ({"env": "sky.png"}, "an environment is a lat-long picture"),
        ({"env": "gone.hdr"}, "gone.hdr"),
        ({"mesh": "empty.obj"}, "it holds no triangles"),
        ({"mesh": "mesh.fbx"}, "its suffix is '.fbx'"),
        ({"mesh": "point.obj"}, "has no extent"),
    ],
)
def test_bad_input_is_one_sentence(changes: dict[str, str], sentence: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.hdr").write_bytes(b"\0" * 100)
    (folder / "sky.png").write_bytes(b"\0" * 100)
    (folder / "mesh.fbx").write_bytes(b"\0" * 100)
    (folder / "empty.obj").write_text("v 0 0 0\n")
    (folder / "point.obj").write_text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n")
    write_hdr(folder / "black.hdr", torch.zeros(4, 8, 3))
    files = {name: str(folder / value) for name, value in changes.items() if name in ("env", "mesh")}
    words = words_for(folder, "bad", **{name: files.get(name, value) for name, value in changes.items() if name != "mesh"})
    words[1] = files.get("mesh", words[1])
    assert main(words) == 1
    error = capfd.readouterr().err.strip().splitlines()
    assert sentence in error[-1] and "Traceback" not in "".join(error)
    assert not (folder / "bad/transforms.json").exists()


def test_a_mesh_that_is_turned_inside_out_is_told(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    box = textured_box()
    turned = Asset(Mesh(box.mesh.vertices, box.mesh.faces.flip(1)))
    turned.export(folder / "inside.obj")
    words = words_for(folder, "inside", views="1", **{"held-out": "0"})
    words[1] = str(folder / "inside.obj")
    assert main([*words, "--json"]) == 0
    notes = json.loads(capfd.readouterr().out)["notes"]
    assert any("face inwards" in note for note in notes) and any("no material" in note for note in notes)


def test_cameras_cover_the_sphere_evenly() -> None:
    outward = normalized(cameras_around(400, 8, distance=3.0, field_of_view=0.7).positions.double())
    generator = torch.Generator().manual_seed(0)
    for direction in normalized(torch.randn(20, 3, generator=generator, dtype=torch.float64)):
        share = float((outward @ direction > 0.5).double().mean())  # a quarter of the sphere
        assert abs(share - 0.25) < 0.02


def test_a_scaled_color_is_the_true_one_and_errors_of_gloss_are_told(folder: Path) -> None:
    photos = load(folder / "capture")
    assert photos.truth is not None
    truth = true_asset(photos.truth, photos.source_from_world)
    assert truth.material is not None and truth.material.base_color is not None and truth.material.roughness_metallic is not None
    other = PbrMaterial(
        truth.material.base_color * torch.tensor([0.5, 0.25, 0.75]), truth.material.roughness_metallic + torch.tensor([0.1, -0.05])
    )
    light = EnvironmentLight(torch.rand(6, 8, 8, 3, generator=torch.Generator().manual_seed(2)))
    found = material_measures(Asset(truth.mesh, other), truth, photos, photos.split.test, Relit("sky", light), CPU, Display.quiet())
    values = {measure.name: measure.value for measure in found}
    (inside,) = (value for name, value in values.items() if name.startswith("PSNR of the base color, scaled by 2 4 1.33"))
    assert inside > 55 and values["PSNR of the scaled base color, whole frame over white"] > 55
    assert values["error of roughness inside the mask"] == pytest.approx(0.1, abs=1e-3)
    assert values["error of metallic inside the mask"] == pytest.approx(0.05, abs=1e-3)
    same = material_measures(truth, truth, photos, photos.split.test, Relit("sky", light), CPU, Display.quiet())
    assert {measure.name: measure.value for measure in same}["PSNR of sRGB"] == 100
    assert values["PSNR of sRGB"] < 60 and values["PSNR of linear light"] < 60


@pytest.mark.slow
def test_a_fit_of_the_photos_is_measured_exported_and_inserted(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run, other, known = folder / "run", sky(folder / "other.hdr", seed=5), textured_box().mesh
    Mesh(known.vertices, known.faces).welded().export(folder / "bare.ply")
    small = ["--steps", "4", "--texture-size", "64", "--light-size", "8", "--faces", "400", "--levels", "4", "--log2-entries", "10"]
    small += ["--lock", "shape"]
    given = ["--mesh", str(folder / "bare.ply"), "--out", str(run), "--device", "cpu", "--quiet"]
    assert main(["fit", "mesh-pbr", str(folder / "capture"), *given, *small]) == 0
    capfd.readouterr()
    assert main(["eval", str(run), "--relight", str(other), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    names = {measure["name"]: measure["value"] for measure in found["measures"]}
    assert names["Chamfer"] < 2 and {"error of roughness inside the mask", "PSNR of sRGB", "PSNR of linear light"} <= names.keys()
    assert any("truth/mesh.glb" in note for note in found["notes"])
    assert (
        main(["export", str(run), "--format", "obj", "--out", str(folder / "box.obj"), "--env", str(folder / "light.hdr"), "--quiet"]) == 0
    )
    assert read_asset(folder / "box.obj").material is not None and read_environment(folder / "light.hdr", 8).texels.shape == (6, 8, 8, 3)
    for words, sentence in (
        (["--photo", "test_001"], ""),
        (["--photo", str(folder / "capture/images/test_001.png"), "--at", "20", "30", "--size", "10", "--env", str(other)], ""),
        (["--photo", "nothing"], "no photo of capture"),
        (["--photo", "test_001", "--size", "-1"], "--size is -1"),
        (["--photo", "test_001", "--camera", str(folder / "capture/transforms.json")], "leave out --camera"),
        (["--photo", "test_001", "--out", str(folder / "x.gif")], "no picture file"),
    ):
        assert main(["insert", str(run), *words, "--quiet"]) == bool(sentence)
        assert sentence in capfd.readouterr().err
    with Image.open(run / "inserted/test_001.png") as picture:
        assert picture.size == (40, 40)

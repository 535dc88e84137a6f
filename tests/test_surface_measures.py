"""Measures of surfaces with known values, and what `eval --truth` prints, writes and refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

import unrender
import unrender.api
import unrender.recipes.table
import unrender.runs.inputs
import unrender.runs.outputs
from test_mesh import ball, box, joined
from tiny_recipe import TINY, TinyScene, tiny_capture
from unrender.captures.capture import Capture
from unrender.cli import main
from unrender.geometry.distances import nearest_triangles
from unrender.geometry.mesh import Mesh, read_mesh
from unrender.geometry.topology import genus
from unrender.runs.directory import RunDirectory
from unrender.runs.measures import Measure, merged
from unrender.runs.surface_measures import check_place, distance_measures, read_surface, topology_measures
from unrender.runs.view_measures import MOST_PIXELS, ViewMeasures, angle_measures, color_measures, seen_colors

CPU = torch.device("cpu")
UNMOVED = torch.eye(4, dtype=torch.float64)


def sphere(radius: float) -> Mesh:
    solid = trimesh.creation.icosphere(5, radius)
    return Mesh(torch.tensor(solid.vertices, dtype=torch.float32), torch.tensor(solid.faces))


def torus() -> Mesh:
    solid = trimesh.creation.torus(1.0, 0.3)
    return Mesh(torch.tensor(solid.vertices, dtype=torch.float32), torch.tensor(solid.faces))


def by_name(measures: Sequence[Measure]) -> dict[str, Measure]:
    return {measure.name: measure for measure in measures}


def test_spheres_are_their_difference_in_radius_apart() -> None:
    found = by_name(distance_measures(sphere(1.1), sphere(1.0)))
    diagonal = 2 * math.sqrt(3)
    for name in ("Chamfer", "truth to mesh, median", "truth to mesh, 90th percentile"):
        assert found[name].in_input_units == pytest.approx(0.1, abs=2e-3), name
        assert found[name].value == pytest.approx(100 * 0.1 / diagonal, rel=0.02) and found[name].unit == "% of diagonal"
    assert found["F-score at 1 % of diagonal"].value == 0.0
    assert found["median"].value < 2.0 and found["above 30°"].value == 0.0
    near = by_name(distance_measures(sphere(1.01), sphere(1.0)))
    assert near["F-score at 1 % of diagonal"].value == 1.0


def test_the_angle_is_that_between_planes_whatever_the_order_of_corners() -> None:
    corners = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    floor = Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]))
    slope = Mesh(corners + torch.tensor([0.0, 0, math.tan(math.radians(10.0))]) * corners[:, :1], floor.faces)
    for truth in (slope, replace(slope, faces=slope.faces.flip(1))):
        found = by_name(distance_measures(floor, truth))
        assert found["median"].value == pytest.approx(10.0, abs=1e-3) and found["mean"].value == pytest.approx(10.0, abs=1e-3)
        assert (found["above 30°"].value, found["median"].group) == (0.0, "mesh normals against the true ones")


def test_points_are_compared_by_their_own_distance_first() -> None:
    points = sphere(1.0).vertices.double() * 1.1
    measures = distance_measures(sphere(1.0), points)
    assert [measure.name for measure in measures][:2] == ["truth to mesh, median", "truth to mesh, 90th percentile"]
    assert measures[0].in_input_units == pytest.approx(0.1, abs=1e-3) and len(measures) == 4


def test_the_nearest_triangle_is_the_one_whose_distance_is_returned() -> None:
    points = 3 * torch.rand(200, 3, generator=torch.Generator().manual_seed(2)) - 1.5
    mesh = ball()
    distance, face = nearest_triangles(points, mesh)
    for k in range(0, 200, 20):
        alone = Mesh(mesh.vertices, mesh.faces[face[k]][None])
        assert float(nearest_triangles(points[k : k + 1], alone)[0]) == pytest.approx(float(distance[k]), abs=1e-6)


@pytest.mark.parametrize(
    ("mesh", "handles"),
    [
        (sphere(1.0), 0),
        (torus(), 1),
        (torus().submesh(torch.arange(len(torus().faces)) > 0), 1),  # one triangle is missing
        (Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)), None),
        (Mesh(torch.rand(5, 3), torch.tensor([[0, 1, 2], [1, 0, 3], [0, 1, 4]])), None),  # three triangles at an edge
    ],
    ids=["sphere", "torus", "open torus", "empty", "three at an edge"],
)
def test_genus(mesh: Mesh, handles: int | None) -> None:
    assert genus(mesh) == handles


def test_pieces_are_counted_and_the_genus_is_that_of_the_largest() -> None:
    found = by_name(topology_measures(joined(box(0.3, 4.0), torus()), left_out=3))
    assert {name: measure.value for name, measure in found.items()} == {
        "pieces": 2,
        "smaller pieces left out": 3,
        "genus": 1,
        "faces": 12 + len(torus().faces),
    }


def painted(capture: Capture, shift: float) -> dict[str, float]:
    """Color measures of the octahedron of the tiny recipe, its sRGB shifted."""
    scene = TinyScene()
    mesh = scene.asset().mesh
    assert mesh.colors is not None
    views = ViewMeasures(capture, capture.split.test, None).kept(scene, capture.cameras)
    measures = color_measures(mesh.with_colors(mesh.colors + shift), views, capture, "mesh", CPU)
    return {measure.name: measure.value for measure in measures}


def test_a_mesh_of_the_exact_color_has_a_high_psnr_and_one_shifted_by_a_tenth_20_db() -> None:
    capture = tiny_capture()
    assert painted(capture, 0.0)["color against the rendering"] > 50
    assert painted(capture, 0.1)["color against the rendering"] == pytest.approx(20.0, abs=0.1)


def test_photos_are_compared_inside_their_masks() -> None:
    scene, capture = TinyScene(), tiny_capture()
    photos = torch.stack([scene.render_view(capture.cameras, view).srgb for view in range(len(capture))])
    with torch.no_grad():
        images = ((photos + 0.1).clamp(0, 1) * 255).round().to(torch.uint8)
    masks = torch.stack([capture.mask(view) for view in range(len(capture))])
    named = {"name": "ball", "split": capture.split}
    masked = Capture.from_tensors(images, capture.cameras, masks=masks, **named)
    assert painted(masked, 0.0)["color against the photos inside the mask"] == pytest.approx(20.0, abs=0.2)
    without = Capture.from_tensors(images, capture.cameras, **named)
    assert painted(without, 0.0)["color against the photos"] == pytest.approx(20.0, abs=0.2)


def test_colors_are_seen_through_any_lens_and_interpolated_in_linear_light() -> None:
    cameras = tiny_capture().cameras
    mesh = TinyScene().asset().mesh
    mesh = mesh.with_colors(torch.rand(6, 3, generator=torch.Generator().manual_seed(0)))
    color, covered = seen_colors(mesh, mesh.ray_tree(), cameras[0])
    bent = replace(cameras, distortion=cameras.distortion + torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
    other, covered_there = seen_colors(mesh, mesh.ray_tree(), bent[0])
    rays, rays_there = cameras[0].image_rays(0).directions, bent[0].image_rays(0).directions
    # The same direction has the same color: the pixel nearest to each one through the other lens.
    nearest = (rays @ rays_there.T).argmax(1)
    both = covered.reshape(-1) & covered_there.reshape(-1)[nearest] & ((rays * rays_there[nearest]).sum(1) > math.cos(0.01))
    assert int(both.sum()) > 30 and not torch.equal(color, other)
    assert float((color.reshape(-1, 3) - other.reshape(-1, 3)[nearest])[both].abs().mean()) < 0.05
    assert float(color[~covered].min()) == 1.0


def test_few_views_are_kept_and_fewer_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    capture = tiny_capture()
    monkeypatch.setattr("unrender.runs.view_measures.MOST_VIEWS", 2)
    assert len(ViewMeasures(capture, range(12), None).kept(TinyScene(), capture.cameras)) == 2
    monkeypatch.setattr("unrender.runs.view_measures.MOST_PIXELS", 24 * 24)
    assert len(ViewMeasures(capture, range(12), None).kept(TinyScene(), capture.cameras)) == 1
    assert MOST_PIXELS >= 6 * 800 * 800


def test_shares_of_wide_angles() -> None:
    found = by_name(angle_measures(torch.tensor([0.0, 10.0, 20.0, 90.0]), "normals"))
    assert (found["median"].value, found["mean"].value, found["above 30°"].value) == (10.0, 30.0, 25.0)
    assert angle_measures(torch.zeros(0), "normals") == ()


def test_a_group_replaces_the_group_of_its_name() -> None:
    old = (Measure("a", 1.0, group="x"), Measure("b", 1.0, group="x"), Measure("c", 1.0))
    new = Measure("a", 2.0, group="x"), Measure("d", 1.0, group="y")
    assert merged(old, new) == (new[0], old[2], new[1])


def octahedron(scale: float = 1.1) -> Mesh:
    """The true surface of the tiny recipe, scaled about its center, in the frame of the input."""
    mesh = TinyScene().asset().mesh
    return replace(mesh, vertices=mesh.vertices * scale).transformed(tiny_capture().source_from_world)


def write_points_ply(path: Path, points: Tensor, faces: str = "") -> None:
    rows = "\n".join(" ".join(map(str, row)) for row in points.tolist())
    header = (
        f"ply\nformat ascii 1.0\nelement vertex {len(points)}\nproperty float x\nproperty float y\nproperty float z\n{faces}end_header\n"
    )
    path.write_text(header + rows + "\n")


def test_meshes_and_points_are_read(tmp_path: Path) -> None:
    points = torch.rand(30, 3, dtype=torch.float64)
    octahedron().export(tmp_path / "mesh.ply")
    write_points_ply(tmp_path / "points.ply", points)
    write_points_ply(tmp_path / "none.ply", points, "element face 0\nproperty list uchar int vertex_indices\n")
    np.savez(tmp_path / "a.npz", xyz=points.numpy(), rgb=np.zeros((30, 3), np.uint8), err=np.zeros(30))
    np.savez(tmp_path / "b.npz", cloud=points.numpy().astype(np.float32))
    np.save(tmp_path / "c.npy", points.numpy())
    read = {name: read_surface(tmp_path / name, frame=None, source_from_world=UNMOVED)
            for name in ("mesh.ply", "points.ply", "none.ply", "a.npz", "b.npz", "c.npy")}  # fmt: skip
    mesh = read.pop("mesh.ply")
    assert isinstance(mesh, Mesh) and len(mesh.faces) == 8
    for name, surface in read.items():
        assert isinstance(surface, Tensor), name
        torch.testing.assert_close(surface, points, atol=1e-6, rtol=0)
    similarity = tiny_capture().source_from_world
    moved = read_surface(tmp_path / "c.npy", frame="normalized", source_from_world=similarity)
    assert isinstance(moved, Tensor)
    torch.testing.assert_close(moved, 100 * points + torch.tensor([1.0, 2.0, 3.0]).double())


def empty(path: Path) -> None:
    path.write_bytes(b"")


def two_arrays(path: Path) -> None:
    np.savez(path, a=np.zeros((4, 3)), b=np.zeros((4, 3)))


def pickled(path: Path) -> None:
    np.savez(path, points=np.array([{}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("gone.ply", lambda path: None, "does not exist"),
        ("a.ply", empty, "is empty"),
        ("a.npz", empty, "is empty"),
        ("a.npz", two_arrays, "2 arrays of floats with the shape Nx3"),
        ("a.npz", lambda path: np.savez(path, k=np.zeros(3)), "no array of floats with the shape Nx3"),
        ("a.npz", pickled, "never unpickled"),
        ("a.npy", lambda path: np.save(path, np.zeros((3, 4))), "which must be Nx3"),
        ("a.npy", lambda path: np.save(path, np.full((3, 3), np.nan)), "no finite points"),
        ("a.ply", lambda path: write_points_ply(path, torch.zeros(0, 3)), "no finite points"),
        ("a.txt", lambda path: path.write_text("1 2 3"), "suffix is '.txt'"),
        ("a.ply", lambda path: path.write_text("no mesh"), "no PLY header"),
    ],
)
def test_what_is_no_surface_is_refused_in_one_sentence(tmp_path: Path, name: str, write: Callable[[Path], object], said: str) -> None:
    write(tmp_path / name)
    with pytest.raises((ValueError, OSError), match=said) as caught:
        read_surface(tmp_path / name, frame=None, source_from_world=UNMOVED)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_truth_that_lies_elsewhere_is_refused_with_a_hint() -> None:
    similarity, mesh = tiny_capture().source_from_world, octahedron(1.0)
    assert check_place(mesh, octahedron(1.1), Path("t.ply"), similarity) is None
    with pytest.raises(ValueError, match=r"t.ply lies from \(946, 947, 948\) .*wholly outside of the mesh .*frame of the input poses"):
        check_place(mesh, octahedron().vertices + 1000, Path("t.ply"), similarity)
    apart = similarity.clone()
    apart[:3, 3] = 500.0
    with pytest.raises(ValueError, match="give --truth-frame normalized"):
        check_place(TinyScene().asset().mesh.transformed(apart), TinyScene().asset().mesh, Path("t.ply"), apart)
    said = check_place(mesh, octahedron(20.0), Path("t.ply"), similarity)
    assert said is not None and "20 times as large" in said


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RunDirectory:
    """A finished run of the tiny recipe in the folder ``here``."""
    monkeypatch.setattr(unrender.recipes.table, "recipes", lambda: {"tiny": TINY})
    monkeypatch.setattr(unrender.api, "recipes", lambda: {"tiny": TINY})
    monkeypatch.setattr(unrender.runs.inputs, "read_capture", tiny_capture)
    monkeypatch.setattr(unrender.runs.outputs, "VIDEO_FRAMES", 4)
    monkeypatch.chdir(tmp_path)
    Path("ball").mkdir()
    assert main(["fit", "tiny", "ball", "--preset", "quick", "--out", "here", "--quiet"]) == 0
    return RunDirectory(Path("here"))


def test_a_fit_measures_its_mesh_on_screen_in_its_files_and_in_its_report(here: RunDirectory) -> None:
    found = by_name(here.read_record().measures)
    assert found["pieces"].value == 1 and found["genus"].value == 0 and found["faces"].value == 8
    # The mesh has the colors of the photos, and the fit of four steps is not there yet.
    photos, rendering = found["color against the photos inside the mask"], found["color against the rendering"]
    assert photos.value > 40 > rendering.value > 20 and photos.better == "higher"
    written = {measure["name"]: measure for measure in json.loads(here.metrics_file.read_text())["measures"]}
    assert written.keys() == found.keys()
    assert written["genus"] == {"name": "genus", "value": 0.0, "unit": "", "group": "mesh", "better": None, "in_input_units": None}
    page = here.report_file.read_text(encoding="utf-8")
    assert "color against the rendering" in page and "higher is better" in page


def test_measures_that_a_killed_process_did_not_write_are_made_up_for(here: RunDirectory) -> None:
    record, metrics = here.read_record(), here.metrics_file.read_text()
    here.report_file.unlink()
    here.write_record(replace(record, measures=()))
    assert main(["fit", "tiny", "ball", "--preset", "quick", "--out", "here", "--quiet"]) == 0
    assert here.read_record().measures == record.measures and here.metrics_file.read_text() == metrics


def test_a_truth_is_measured_on_screen_in_the_files_and_in_the_report(here: RunDirectory, capfd: pytest.CaptureFixture[str]) -> None:
    octahedron(1.1).export("truth.obj")
    capfd.readouterr()
    assert main(["eval", "here", "--truth", "truth.obj"]) == 0
    out = capfd.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("distance from the true surface: Chamfer ")]
    assert len(lines) == 1 and "truth to mesh, median" in lines[0] and "mesh normals against the true ones: median 0.00°" in out
    gap = 100 * 0.05 / math.sqrt(3)  # between the faces, which have the distance 0.5 / √3 from the center
    metrics = json.loads(here.metrics_file.read_text())
    medians = [m for m in metrics["measures"] if m["name"] == "truth to mesh, median"]
    assert medians[0]["in_input_units"] == pytest.approx(gap, rel=1e-3)
    assert medians[0]["value"] == pytest.approx(100 * gap / (110 * math.sqrt(3)), rel=1e-3)
    assert "Chamfer" in by_name(here.read_record().measures)
    assert "distance from the true surface" in here.report_file.read_text(encoding="utf-8")
    # Without a truth the numbers of the last one stay; the other ones are measured again and are the same.
    assert main(["eval", "here"]) == 0
    assert {m["name"]: m["value"] for m in json.loads(here.metrics_file.read_text())["measures"]} == {
        m["name"]: m["value"] for m in metrics["measures"]
    }


def test_the_same_in_python(here: RunDirectory) -> None:
    octahedron(1.0).export("truth.glb")
    scores = unrender.evaluate("here", truth="truth.glb")
    found = by_name(scores.measures)
    assert found["truth to mesh, 90th percentile"].value < 1e-3 and found["genus"].value == 0
    assert scores.evaluation.split == "test" and scores.file == here.metrics_file and "RunScores(" in repr(scores)
    again = unrender.evaluate(unrender.open_run("here"), capture=tiny_capture(), split="train")
    assert json.loads(again.file.read_text())["split"] == "train" and "Chamfer" not in by_name(again.measures)
    with pytest.raises(ValueError, match="wholly outside of the mesh") as caught:
        octahedron(1.0).transformed(torch.diag(torch.tensor([0.005, 0.005, 0.005, 1.0]))).export("small.ply")
        mesh = read_mesh("small.ply")
        replace(mesh, vertices=mesh.vertices + 3000).export("small.ply")
        unrender.evaluate("here", truth="small.ply")
    assert "--" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--truth", "nowhere.ply"], "nowhere.ply does not exist"),
        (["--truth", "ball"], "no image in ball has the name"),
        (["--truth", "far.ply"], "wholly outside of the mesh"),
        (["--truth", "far.ply", "--truth-frame", "opengl"], "is for normal maps"),
    ],
)
def test_a_wrong_truth_is_one_sentence_before_anything_is_rendered(
    here: RunDirectory, capfd: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    mesh = octahedron()
    replace(mesh, vertices=mesh.vertices + 1e4).export("far.ply")
    before = here.metrics_file.read_bytes()
    capfd.readouterr()
    assert main(["eval", "here", *words]) == 1
    err = capfd.readouterr().err
    assert said in err and err.count("\n") == 1
    assert here.metrics_file.read_bytes() == before

"""The statements of docs/security.md."""

from __future__ import annotations

import io
import os
import re
import resource
import socket
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from test_bad_captures import refusal, rewrite, with_arrays
from tiny_captures import SIZE, write_blender, write_neus, write_transforms
from unrender.captures import load_capture
from unrender.captures.capture import CaptureError
from unrender.captures.memory import ImageBudget, mapped_file
from unrender.captures.reading import MOST_JSON_DEPTH, read_json, read_npz
from unrender.words import is_out_of_memory

PACKAGE = Path(__file__).parents[1] / "src" / "unrender"


def test_files_outside_of_the_capture_are_named_in_a_note(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "ball")
    assert not any("outside" in note for note in load_capture(folder).notes)
    (folder / "images" / "003.png").rename(tmp_path / "elsewhere.png")
    (folder / "images" / "003.png").symlink_to(tmp_path / "elsewhere.png")
    linked = [note for note in load_capture(folder).notes if "outside of the capture's folder" in note]
    assert len(linked) == 1 and linked[0].startswith("1 files") and str(tmp_path / "elsewhere.png") in linked[0]
    (folder / "images" / "003.png").unlink()
    rewrite(folder, lambda content: content["frames"][3].update(file_path="../elsewhere.png"))
    assert any(str(tmp_path / "elsewhere.png") in note for note in load_capture(folder).notes)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes in folders")
@pytest.mark.parametrize("name", ["images/003.png", "transforms.json", "points3D.ply", "images/dynamic_mask_002.png"])
def test_pipes_and_devices_are_refused_or_passed_over_without_waiting(tmp_path: Path, name: str) -> None:
    folder = write_transforms(tmp_path / "ball")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    if name.endswith("dynamic_mask_002.png"):
        assert load_capture(folder).ignored is None
    else:
        assert re.search("is a pipe|has no camera poses", refusal(folder))
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    if not name.endswith("dynamic_mask_002.png"):
        assert re.search("is a device|has no camera poses", refusal(folder))


def test_sockets_folders_loops_and_dangling_links_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_transforms(tmp_path / "ball")
    photo = folder / "images" / "003.png"
    photo.unlink()
    monkeypatch.chdir(photo.parent)
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(photo.name)
    assert "003.png is a socket" in refusal(folder)
    photo.unlink()
    photo.mkdir()
    assert "003.png is a folder" in refusal(folder)
    photo.rmdir()
    photo.symlink_to(photo.name)
    assert "003.png cannot be read (Too many levels of symbolic links)" in refusal(folder)
    photo.unlink()
    photo.symlink_to("nowhere.png")
    assert "is a link to nowhere.png, which does not exist" in refusal(folder)


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (os.environ["EVIL_FOLDER"],)


def test_objects_in_archives_are_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVIL_FOLDER", str(tmp_path / "unpickled"))
    folder = write_neus(tmp_path / "scan")
    with_arrays(folder, lambda arrays: arrays.update(world_mat_3=np.array([_Evil()], dtype=object)))
    assert "objects are never unpickled" in refusal(folder)
    other = write_transforms(tmp_path / "ball")
    np.savez(other / "points.npz", points=np.array([[_Evil()] * 3], dtype=object))
    assert "objects are never unpickled" in refusal(other)
    assert not (tmp_path / "unpickled").exists()


def test_the_package_neither_unpickles_nor_evaluates() -> None:
    unsafe = re.compile(r"\bpickle\.|\beval\(|\bexec\(|allow_pickle=True|weights_only=False|torch\.load\(|yaml\.load\(")
    found = [path for path in PACKAGE.rglob("*.py") if unsafe.search(path.read_text(encoding="utf-8"))]
    # The runner executes the program that its user names, as the Python interpreter does.
    assert [path.relative_to(PACKAGE).as_posix() for path in found] == ["compat/runner.py"]


def test_postscript_is_refused_whatever_its_suffix(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "ball")
    stream = io.BytesIO()
    Image.new("RGB", SIZE).save(stream, "EPS")
    (folder / "images" / "003.png").write_bytes(stream.getvalue())
    assert "003.png cannot be read as an image: its content is of no known format" in refusal(folder)


def test_points_of_other_formats_are_refused(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "ball", ply_file_path="cloud.dae")
    (folder / "cloud.dae").write_text("<a/>")
    assert "cloud.dae are not a PLY or npz file" in refusal(folder)


def test_reading_changes_no_file(tmp_path: Path) -> None:
    folder = write_blender(tmp_path / "ball")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    load_capture(folder)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()} == before


def test_json_is_limited_in_depth_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"

    def said(text: str | bytes) -> str:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(CaptureError) as caught:
            read_json(file)
        return str(caught.value)

    assert "more than 32 deep" in said('{"a":' * 5000 + "1" + "}" * 5000)
    assert "more than 32 deep" in said('{"a":' + "[" * MOST_JSON_DEPTH + "]" * MOST_JSON_DEPTH + "}")
    assert 'the key "a" has two values' in said('{"a": 1, "a": 2}')
    assert "not UTF-8" in said(b'{"a": "\xe9"}')
    monkeypatch.setattr("unrender.captures.reading.MOST_JSON_BYTES", 2**20)
    assert "has 2 MB; at most 1 MB" in said(" " * 2**21)
    file.write_text('{"a": 1, "a": 1, "b": ' + "9" * 5000 + "}")
    assert read_json(file) == {"a": 1, "b": float("inf")}
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        file.write_text('{"é": [1]}', encoding=encoding)
        assert read_json(file) == {"é": [1]}


def header(shape: str, data: bytes = b"") -> bytes:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def test_arrays_that_nobody_asks_for_are_not_unpacked_and_headers_are_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("wanted.npy", header("(2,)", np.array([1.0, 2.0]).tobytes()))
        archive.writestr("bomb.npy", bytes(50_000_000))
    arrays, names = read_npz(file, "wanted")
    assert arrays["wanted"].tolist() == [1.0, 2.0] and names == ["wanted", "bomb"]
    with pytest.raises(CaptureError, match="more than such an array needs"):
        read_npz(file, "bomb")
    for shape in ("(1000000000000,)", "(-2,)", "(3,)"):
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("wanted.npy", header(shape, bytes(16)))
        with pytest.raises(CaptureError, match="holds 16 bytes"):
            read_npz(file, "wanted")


def test_messages_are_one_printable_line(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "ball")
    rewrite(folder, lambda content: content["frames"][3].update(file_path="a\n\x1b[31m" + "x" * 5000))
    for k in range(6):
        (folder / "images" / f"{k:03d}.png").unlink()
    with pytest.raises(CaptureError) as caught:
        load_capture(folder)
    assert str(caught.value).isprintable() and len(str(caught.value)) <= 800


def test_images_that_fit_nowhere_are_refused_with_the_downscale_that_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unrender.captures.memory.disk_room", lambda: ("/full", 1000))
    ImageBudget(4000).check(1000, 4, 1)
    with pytest.raises(CaptureError, match=r"0\.0 GB in a file in /full; use --downscale 3 "):
        ImageBudget(500).check(2000, 4, 1)  # 8,000 bytes; 8,000 / 9 = 889 fit into 1,000
    folder = write_transforms(tmp_path / "ball")
    decoded: list[Path] = []
    monkeypatch.setattr("unrender.captures.photos.decoded_image", lambda path, **_: decoded.append(path))
    assert "--downscale 7" in refusal(folder, memory=10)  # 9 photos of 40x30 take 43,200 bytes, and 43,200 / 49 = 881
    assert decoded == []


@pytest.mark.skipif(sys.platform != "linux", reason="sets RLIMIT_AS")
def test_the_limit_of_the_process_counts(tmp_path: Path) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, hard))
    try:
        with pytest.raises(CaptureError, match=r"the images take 8\.0 GB, .* use --downscale 4 "):
            ImageBudget().check(2**31, 4, 1)
        with pytest.raises(CaptureError, match="no memory for 16.0 GB"):
            from unrender.captures.memory import allocated

            allocated((2**34,), torch.uint8)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_a_folder_that_cannot_be_written_or_fills_up_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unrender.captures.memory._disk_folder", lambda: str(tmp_path / "none"))
    with pytest.raises(CaptureError, match=r"none cannot be written \(No such file or directory\)"):
        mapped_file((10,), torch.uint8)
    monkeypatch.setattr("unrender.captures.memory._disk_folder", lambda: str(tmp_path))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "truncate", full)
    with pytest.raises(CaptureError, match=r"cannot hold them \(No space left on device\); use a larger downscale"):
        mapped_file((10,), torch.uint8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", ["DefaultCPUAllocator: can't allocate memory", "CUDA out of memory.", "[enforce fail] Cannot allocate memory"]
)
def test_what_pytorch_says_about_memory_is_understood(words: str) -> None:
    assert is_out_of_memory(RuntimeError(words)) and is_out_of_memory(MemoryError()) and not is_out_of_memory(RuntimeError("shape"))


def test_a_fault_of_the_system_while_reading_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_transforms(tmp_path / "ball")

    def broken(error: BaseException) -> None:
        def read(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("unrender.captures.load.read_pictures", read)

    broken(OSError(5, "Input/output error", "a.png"))
    assert "a.png cannot be read (Input/output error)" in refusal(folder)
    broken(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert "use a larger downscale" in refusal(folder)
    broken(RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        load_capture(folder)


def test_one_photo_has_one_camera(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "ball")
    rewrite(folder, lambda content: content["frames"][4].update(file_path="images/003.png"))
    assert "is listed with two different cameras" in refusal(folder)
    repeated = rewrite(write_transforms(tmp_path / "twice"), lambda content: content["frames"].append(content["frames"][4]))
    capture = load_capture(repeated)
    assert len(capture) == 9 and any("1 of the 10 views repeat" in note for note in capture.notes)


def test_views_that_are_fitted_and_held_out_are_fitted(tmp_path: Path) -> None:
    names = [f"images/{k:03d}.png" for k in range(9)]
    folder = write_transforms(tmp_path / "ball", train_filenames=names, test_filenames=names)
    capture = load_capture(folder, test_every=3)
    assert capture.split.test == (0, 3, 6) and capture.split.train == (1, 2, 4, 5, 7, 8)
    assert any("all views that the files hold out are fitted too, so every 3rd view" in note for note in capture.notes)
    rewrite(folder, lambda content: content.update(train_filenames=names[:6], test_filenames=names[4:]))
    capture = load_capture(folder)
    assert capture.split.train == (0, 1, 2, 3, 4, 5) and capture.split.test == (6, 7, 8)
    assert any("2 views are both fitted and held out" in note for note in capture.notes)


def test_a_camera_far_from_the_others_is_named(tmp_path: Path) -> None:
    def move(content: dict[str, list[dict[str, list[list[float]]]]]) -> None:
        content["frames"][4]["transform_matrix"][0][3] = 1e6

    notes = load_capture(rewrite(write_transforms(tmp_path / "ball"), move)).notes
    assert any("the camera of images/004.png is" in note and "times farther" in note for note in notes)


def test_last_rows_of_archives_are_affine(tmp_path: Path) -> None:
    for key in ("scale_mat_0", "world_mat_2"):
        folder = with_arrays(write_neus(tmp_path / key), lambda arrays, key=key: arrays[key].__setitem__(3, [1, 2, 3, 4]))
        assert f"{key} in" in (message := refusal(folder)) and "must be 0 0 0 1" in message


def test_cameras_at_one_place_keep_the_scale_of_their_file(tmp_path: Path) -> None:
    def gather(content: dict[str, list[dict[str, list[list[float]]]]]) -> None:
        for frame in content["frames"]:
            for row, value in enumerate((0.1, 0.2, 0.3)):
                frame["transform_matrix"][row][3] = value

    capture = load_capture(rewrite(write_transforms(tmp_path / "ball"), gather))
    assert float(torch.linalg.det(capture.source_from_world[:3, :3])) == pytest.approx(1.0)
    assert any("share one position" in note for note in capture.notes)


def test_no_module_opens_a_connection() -> None:
    network = re.compile(r"\burllib\.request|\brequests\.|http\.client|^import socket", re.MULTILINE)
    assert [path.name for path in (PACKAGE / "captures").rglob("*.py") if network.search(path.read_text(encoding="utf-8"))] == []

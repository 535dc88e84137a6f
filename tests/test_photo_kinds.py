"""Photos of every kind that cameras and programs write: their values are right, or a sentence refuses them."""

from __future__ import annotations

import io
import sys
import unicodedata
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from test_bad_captures import refusal
from tiny_captures import SIZE, write_neus, write_transforms
from unrender.captures import load_capture
from unrender.captures.capture import CaptureError
from unrender.captures.decoding import IMAGE_SUFFIXES, decoded_image, image_files, image_size
from unrender.captures.photos import read_photo

WIDTH, HEIGHT = 6, 4
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH]
COLOR = np.stack((40 * X + 10, 60 * Y + 20, 255 - 40 * X), -1).astype(np.uint8)
GRAY = (40 * X + 10 * Y).astype(np.uint8)
ALPHA = np.where(X > 2, 255, 0).astype(np.uint8)


def write(path: Path, pixels: np.ndarray | Image.Image, **keys: Any) -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **keys)
    return path


def spread(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray[..., None], 3, -1)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".tga", ".webp", ".jp2"])
def test_lossless_photos_keep_their_colors(tmp_path: Path, suffix: str) -> None:
    keys = {".webp": {"lossless": True}, ".jp2": {"irreversible": False}}.get(suffix, {})
    pixels, transparent = read_photo(write(tmp_path / f"a{suffix}", COLOR, **keys))
    assert not transparent and np.array_equal(pixels[..., :3], COLOR) and (pixels[..., 3] == 255).all()
    assert image_size(tmp_path / f"a{suffix}") == (WIDTH, HEIGHT)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif"])
def test_lossy_photos_are_near_their_colors(tmp_path: Path, suffix: str) -> None:
    smooth = np.kron(COLOR, np.ones((8, 8, 1), np.uint8))
    keys = {".jpg": {"subsampling": 0}, ".avif": {"subsampling": "4:4:4"}}.get(suffix, {})
    pixels, _ = read_photo(write(tmp_path / f"a{suffix}", smooth, quality=98, **keys))
    assert np.abs(pixels[..., :3].astype(int) - smooth).mean() < 3


def test_gray_palettes_and_bits_become_rgb(tmp_path: Path) -> None:
    assert np.array_equal(read_photo(write(tmp_path / "a.png", GRAY))[0][..., :3], spread(GRAY))
    bits = Image.fromarray(ALPHA).convert("1")
    assert np.array_equal(read_photo(write(tmp_path / "b.png", bits))[0][..., :3], spread(ALPHA))
    palette = Image.fromarray(np.stack((ALPHA, ALPHA, 255 - ALPHA), -1)).quantize(2)
    assert np.array_equal(read_photo(write(tmp_path / "c.png", palette))[0][..., :3], np.stack((ALPHA, ALPHA, 255 - ALPHA), -1))


def test_alpha_is_kept_in_every_form(tmp_path: Path) -> None:
    rgba = np.dstack((COLOR, ALPHA))
    for name, image in (("a.png", rgba), ("b.tif", rgba), ("d.png", np.dstack((GRAY, ALPHA)))):
        pixels, transparent = read_photo(write(tmp_path / name, image))
        assert transparent and np.array_equal(pixels[..., 3], ALPHA), name
        opaque = ALPHA == 255
        wanted = spread(GRAY) if name == "d.png" else COLOR
        assert np.array_equal(pixels[opaque, :3], wanted[opaque]), name
        without, transparent = read_photo(tmp_path / name, use_alpha=False)
        assert not transparent and (without[..., 3] == 255).all()
    indices = Image.fromarray((ALPHA > 0).astype(np.uint8), "L").convert("P")
    indices.putpalette([0, 0, 255, 255, 0, 0])
    pixels, transparent = read_photo(write(tmp_path / "e.png", indices, transparency=0))
    assert transparent and np.array_equal(pixels[..., 3], ALPHA) and (pixels[ALPHA == 255, :3] == (255, 0, 0)).all()
    assert not read_photo(tmp_path / "e.png", use_alpha=False)[1]


def test_sixteen_bits_keep_the_upper_eight(tmp_path: Path) -> None:
    deep = GRAY.astype(np.uint16) * 257
    for name in ("a.png", "b.tif"):
        assert np.array_equal(read_photo(write(tmp_path / name, deep))[0][..., :3], spread(GRAY)), name


def test_numbers_that_are_no_srgb_are_refused(tmp_path: Path) -> None:
    cases = {
        "floating-point": Image.fromarray(GRAY.astype(np.float32) / 255),
        "32-bit": Image.fromarray(GRAY.astype(np.int32) * 1000),
        "Lab": Image.new("LAB", (WIDTH, HEIGHT)),
    }
    for words, image in cases.items():
        with pytest.raises(CaptureError, match=words):
            read_photo(write(tmp_path / f"{words}.tif", image))


def test_cmyk_is_converted(tmp_path: Path) -> None:
    red = Image.new("CMYK", (WIDTH, HEIGHT), (0, 255, 255, 0))
    pixels, _ = read_photo(write(tmp_path / "a.tif", red))
    assert (np.abs(pixels[..., :3].astype(int) - (255, 0, 0)) <= 3).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_sizes_and_pixels_alike(tmp_path: Path, orientation: int) -> None:
    turns = {
        **{1: COLOR, 2: COLOR[:, ::-1], 3: COLOR[::-1, ::-1], 4: COLOR[::-1], 5: COLOR.transpose(1, 0, 2)},
        **{6: np.rot90(COLOR, -1), 7: np.rot90(COLOR, 2).transpose(1, 0, 2), 8: np.rot90(COLOR)},
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = write(tmp_path / "a.png", COLOR, exif=exif)
    pixels, _ = read_photo(file)
    assert np.array_equal(pixels[..., :3], turns[orientation])
    assert image_size(file) == (pixels.shape[1], pixels.shape[0])
    assert np.array_equal(read_photo(file, apply_exif=False)[0][..., :3], COLOR)
    assert image_size(file, apply_exif=False) == (WIDTH, HEIGHT)


def test_large_photos_are_converted_in_strips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unrender.captures.photos._STRIP", 13)
    rgba = np.dstack((COLOR, ALPHA))
    file = write(tmp_path / "a.png", rgba)
    assert np.array_equal(read_photo(file)[0], rgba)
    strips = read_photo(file, downscale=2)[0]
    monkeypatch.undo()
    whole = read_photo(file, downscale=2)[0]
    assert np.array_equal(strips, whole)


def test_damaged_and_empty_files_and_text_say_what_they_are(tmp_path: Path) -> None:
    def said(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CaptureError) as caught:
            decoded_image(tmp_path / name)
        return str(caught.value)

    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(stream, "PNG")
    assert "is empty" in said("a.png", b"")
    assert "cannot be decoded" in said("b.png", stream.getvalue()[:1000])
    assert "of no known format" in said("c.jpg", b"<html>404</html>")
    assert "git lfs pull" in said("d.jpg", b"version https://git-lfs.github.com/spec/v1\n")
    bomb = bytearray(stream.getvalue())
    bomb[16:24] = (100_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    assert "more than 178 megapixels" in said("e.png", bytes(bomb))


def test_a_wrong_suffix_does_no_harm_and_pages_are_noted(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "ball")
    photo = folder / "images" / "003.png"
    before = load_capture(folder).photos[3]
    image = Image.open(photo).convert("RGB")
    image.save(photo, "BMP")
    assert bool((load_capture(folder).photos[3] == before).all())
    image.save(photo, "TIFF", save_all=True, append_images=[image.resize((5, 5))])
    photo.rename(photo.with_suffix(".tif"))
    capture = load_capture(folder)
    assert bool((capture.photos[3] == before).all()) and any(
        "1 photos are animated or have several pages" in note for note in capture.notes
    )


def test_hidden_files_and_folders_are_no_photos(tmp_path: Path) -> None:
    folder = write_neus(tmp_path / "scan")
    for name in ("._000000.png", ".DS_Store", "Thumbs.db", "notes.txt"):
        (folder / "image" / name).write_bytes(b"\0\5\x16\x07")
    (folder / "image" / "more.png").mkdir()
    assert len(image_files(folder / "image")) == 8 and len(load_capture(folder)) == 8
    (folder / "image" / "000003.png").rename(folder / "image" / "000003.PNG")
    assert load_capture(folder).names[3] == "image/000003.PNG"


@pytest.mark.skipif(sys.platform == "darwin", reason="the file system composes names itself")
@pytest.mark.parametrize(("written", "stored"), [("é", "e\u0301"), ("e\u0301", "é")])
def test_composed_and_decomposed_names_are_the_same(tmp_path: Path, written: str, stored: str) -> None:
    assert unicodedata.normalize("NFC", written) == unicodedata.normalize("NFC", stored)
    folder = write_transforms(tmp_path / "ball", listed=f"images/{written}{{:03d}}.png")
    for k in range(9):
        (folder / "images" / f"{k:03d}.png").rename(folder / "images" / f"{stored}{k:03d}.png")
    assert len(load_capture(folder)) == 9


@pytest.mark.parametrize(
    ("name", "head", "package"),
    [
        ("003.exr", b"\x76\x2f\x31\x01", "OpenEXR"),
        ("003.heic", b"\0\0\0\x18ftypheic", "pillow-heif"),
        ("003.dng", b"II*\0", "rawpy"),
        ("003.png", b"\x76\x2f\x31\x01", "OpenEXR"),
    ],
)
def test_photos_that_need_a_package_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, head: bytes, package: str) -> None:
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
    folder = write_transforms(tmp_path / "ball")
    (folder / "images" / "003.png").unlink()
    (folder / "images" / name).write_bytes(head + bytes(60))
    message = refusal(folder)
    assert name in message and f"needs the package {package}" in message and "unrender[photos]" in message


def test_openexr_is_linear_and_becomes_srgb(tmp_path: Path) -> None:
    exr = pytest.importorskip("OpenEXR")
    rgba = np.zeros((SIZE[1], SIZE[0], 4), np.float32)
    rgba[..., :] = (0.2158605, 0.5, 3.0, 1.0)
    rgba[0] = (0.10793, 0.0, 0.0, 0.5)  # premultiplied: 0.2158605 at half opacity
    folder = write_transforms(tmp_path / "ball")
    (folder / "images" / "003.png").unlink()
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
    with exr.File(header, {"RGBA": rgba}) as file:
        file.write(str(folder / "images" / "003.exr"))
    pixels, transparent = read_photo(folder / "images" / "003.exr")
    assert transparent and pixels[1, 0].tolist() == [128, 188, 255, 255] and pixels[0, 0].tolist() == [128, 0, 0, 128]
    assert any("1 OpenEXR photos hold linear light" in note for note in load_capture(folder).notes)


def test_every_suffix_is_lower_case_and_listed_once() -> None:
    assert len(set(IMAGE_SUFFIXES)) == len(IMAGE_SUFFIXES) and all(suffix == suffix.lower() for suffix in IMAGE_SUFFIXES)

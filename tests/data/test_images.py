"""Reading and writing image files."""

import os
import resource
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from basicsr_ext.data.images import ImageError, image_size, read_image, write_image

LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".ppm")


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_an_8_bit_picture_survives_writing_and_reading(tmp_path, texture, suffix):
    picture = texture(9, 14)
    write_image(tmp_path / f"a{suffix}", picture)
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), picture)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm"])
def test_a_16_bit_picture_keeps_its_16_bits(tmp_path, texture, suffix):
    picture = texture(9, 14, bits=16)
    write_image(tmp_path / f"a{suffix}", picture)
    found = read_image(tmp_path / f"a{suffix}")
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, picture)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats_are_read_in_rgb_order(tmp_path, suffix):
    red = np.zeros((16, 24, 3), np.uint8)
    red[..., 0] = 200
    write_image(tmp_path / f"a{suffix}", red)
    assert np.abs(read_image(tmp_path / f"a{suffix}").astype(int) - red).max() < 12


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".pgm"])
def test_grey_is_repeated_to_three_channels(tmp_path, texture, kind, suffix):
    grey = texture(9, 14, bits=8 * np.dtype(kind).itemsize)[..., 0]
    write_image(tmp_path / f"a{suffix}", grey)
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), np.repeat(grey[..., None], 3, axis=2))


def test_alpha_is_dropped_and_not_blended(tmp_path, texture):
    picture = texture(9, 14)
    rgba = np.dstack([picture, texture(9, 14, 1)[..., 0]])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), picture)


def test_a_palette_is_expanded(tmp_path):
    picture = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 8, 7]]], np.uint8)
    Image.fromarray(picture).quantize(4, dither=Image.Dither.NONE).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), picture)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_the_orientation_tag_is_obeyed_by_picture_and_size_alike(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / f"a{suffix}", exif=exif)
    assert read_image(tmp_path / f"a{suffix}").shape == (30, 20, 3)
    assert image_size(tmp_path / f"a{suffix}") == (30, 20)


@pytest.mark.parametrize("suffix", [*LOSSLESS, ".jpg", ".webp"])
def test_the_size_is_known_without_decoding(tmp_path, texture, monkeypatch, suffix):
    write_image(tmp_path / f"a{suffix}", texture(9, 14))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    assert image_size(tmp_path / f"a{suffix}") == (9, 14)


@pytest.fixture
def enormous(tmp_path) -> Path:
    """A PNG of 17000 x 17000 black pixels; it has 35 kB, and none but the header is ever looked at."""
    header = struct.pack(">IIBBBBB", 17000, 17000, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((17000 // 8 + 1) * 17000))
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    (tmp_path / "enormous.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return tmp_path / "enormous.png"


@pytest.mark.parametrize("look", [image_size, read_image])
def test_an_image_of_too_many_pixels_is_refused_without_decoding_it(enormous, look):
    words = r"enormous.png: has more than 268,435,456 pixels; the environment variable OPENCV_IO_MAX_IMAGE_PI"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match=words):
        look(enormous)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB; decoded, 850 MB


def test_the_limit_of_pixels_can_be_changed_and_only_the_header_is_read(enormous, monkeypatch):
    monkeypatch.setenv("OPENCV_IO_MAX_IMAGE_PIXELS", "400000000")
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    monkeypatch.setattr(cv2, "imdecode", None)
    assert image_size(enormous) == (17000, 17000)


@pytest.mark.parametrize("read", [read_image, image_size])
def test_errors_name_a_missing_file(tmp_path, read):
    with pytest.raises(ImageError, match=r"gone\.png: cannot be read"):
        read(tmp_path / "gone.png")


@pytest.mark.parametrize("content", [b"", b"not a picture"])
@pytest.mark.parametrize("read", [read_image, image_size])
def test_errors_name_a_file_that_is_no_picture(tmp_path, read, content):
    (tmp_path / "odd.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"odd\.png: cannot be decoded"):
        read(tmp_path / "odd.png")


def test_floating_point_files_are_refused_by_name(tmp_path):
    cv2.imwrite(str(tmp_path / "hdr.tif"), np.ones((4, 4, 3), np.float32))
    with pytest.raises(ImageError, match=r"hdr\.tif: holds float32"):
        read_image(tmp_path / "hdr.tif")


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".webp"])
def test_16_bits_are_not_silently_written_as_8(tmp_path, texture, suffix):
    with pytest.raises(ImageError, match="8 bits a channel"):
        write_image(tmp_path / f"a{suffix}", texture(4, 4, bits=16))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, texture, monkeypatch):
    target = tmp_path / "a.png"
    write_image(target, texture(4, 4))
    before = target.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(ImageError, match=r"a\.png: cannot be written \(No space left"):
        write_image(target, texture(4, 4, 1))
    assert target.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.png"]


def test_written_files_have_the_usual_permissions(tmp_path: Path, texture):
    write_image(tmp_path / "a.png", texture(4, 4))
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode

"""Picture files keep what they hold."""

import io
from itertools import product

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from basicsr_ext.data.images import ImageError
from basicsr_ext.inference.pictures import Picture, encode_picture, read_picture

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ORIENTATION, MAKER = 0x0112, 0x010F


def exif(orientation=None):
    notes = Image.Exif()
    notes[MAKER] = "Camera"
    if orientation is not None:
        notes[ORIENTATION] = orientation
    return notes.tobytes()


def make(dtype=np.uint8, channels=3, alpha=False):
    draw = np.random.default_rng(0).integers
    peak = np.iinfo(dtype).max + 1
    opacity = draw(0, peak, (9, 13, 1)).astype(dtype) if alpha else None
    return Picture(draw(0, peak, (9, 13, channels)).astype(dtype), opacity, SRGB, exif())


def written(picture, kind, folder):
    path = folder / f"picture.{kind}"
    path.write_bytes(encode_picture(picture, kind))
    return read_picture(path)


@pytest.mark.parametrize(
    ("dtype", "channels", "alpha", "kind"),
    list(product([np.uint8, np.uint16], [1, 3], [False, True], ["png", "tiff"])),
)
def test_png_and_tiff_keep_everything(dtype, channels, alpha, kind, tmp_path):
    picture = make(dtype, channels, alpha)
    read = written(picture, kind, tmp_path)
    assert read.pixels.dtype == dtype
    if dtype == np.uint16 and channels == 1 and alpha:  # no common program reads such a file
        np.testing.assert_array_equal(read.pixels, picture.pixels.repeat(3, 2))
    else:
        np.testing.assert_array_equal(read.pixels, picture.pixels)
    assert (read.alpha is None) == (not alpha)
    if picture.alpha is not None:
        np.testing.assert_array_equal(read.alpha, picture.alpha)
    assert read.icc == (SRGB if read.pixels.shape[2] == 3 else None)
    if not (kind == "tiff" and dtype == np.uint16):
        notes = Image.Exif()
        notes.load(read.exif)
        assert notes[MAKER] == "Camera"


@pytest.mark.parametrize("kind", ["jpg", "webp"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_jpeg_and_webp_hold_eight_bits_profile_and_notes(kind, dtype, tmp_path):
    picture = make(dtype)
    smooth = np.full_like(picture.pixels, np.iinfo(dtype).max // 3)
    read = written(Picture(smooth, None, SRGB, exif()), kind, tmp_path)
    assert read.pixels.dtype == np.uint8
    np.testing.assert_allclose(read.pixels, 85, atol=2)
    assert (read.icc, read.exif) == (SRGB, exif())


@pytest.mark.parametrize("value", [0, 129 * 257 - 128, 129 * 257 + 128, 130 * 257 - 128, 65535])
def test_sixteen_bits_become_the_nearest_of_eight(value, tmp_path):
    read = written(Picture(np.full((16, 16, 3), value, np.uint16)), "jpg", tmp_path)
    assert set(read.pixels.ravel().tolist()) == {round(value / 257)}


@pytest.mark.parametrize(("kind", "settings"), [("jpg", {"subsampling": 0}), ("webp", {})])
def test_lossy_files_have_quality_95_and_colours_at_full_resolution(kind, settings):
    pixels, file = make().pixels, io.BytesIO()
    Image.fromarray(pixels).save(file, {"jpg": "jpeg"}.get(kind, kind), quality=95, **settings)
    assert encode_picture(Picture(pixels), kind) == file.getvalue()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_lossless_files_are_compressed(dtype, kind):
    assert len(encode_picture(Picture(np.zeros((100, 100, 3), dtype)), kind)) < 5000


def test_a_tiff_files_descriptions_are_kept_and_its_storage_is_not(tmp_path):
    tags = dict.fromkeys((270, 271, 272, 305, 306, 315, 33432), "words")
    notes = Image.Exif()
    notes.update(tags)
    Image.fromarray(make().pixels).save(tmp_path / "a.tiff", exif=notes)
    kept = Image.Exif()
    kept.load(read_picture(tmp_path / "a.tiff").exif)
    assert dict(kept) == tags


def test_webp_keeps_alpha_and_jpeg_refuses_it(tmp_path):
    picture = make(alpha=True)
    np.testing.assert_array_equal(written(picture, "webp", tmp_path).alpha, picture.alpha)
    with pytest.raises(ImageError, match="no transparency"):
        encode_picture(picture, "jpg")


def test_a_picture_too_large_for_its_format_is_an_error():
    with pytest.raises(ImageError, match=r"webp \(1x16384 pixels"):
        encode_picture(Picture(np.zeros((1, 16384, 3), np.uint8)), "webp")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_cameras_orientation_is_obeyed_once(orientation, kind, tmp_path):
    image = Image.fromarray(np.zeros((8, 16, 3), np.uint8))
    image.paste((250, 250, 250), (0, 0, 8, 4))  # white at the top left
    path = tmp_path / "turned"
    image.save(path, kind, exif=exif(orientation), quality=100)
    with Image.open(path) as turned:
        turned.load()
        if "exif" in turned.info or kind != "TIFF":
            from PIL import ImageOps

            turned = ImageOps.exif_transpose(turned)
        upright = np.asarray(turned.convert("RGB")).astype(int)
    read = read_picture(path)
    np.testing.assert_allclose(read.pixels, upright, atol=8)
    notes = Image.Exif()
    notes.load(read.exif)
    assert notes.get(ORIENTATION, 1) == 1
    assert notes[MAKER] == "Camera"


def test_grey_files_are_grey_and_palettes_are_colour(tmp_path):
    grey = Image.fromarray(make(channels=1).pixels[..., 0])
    for kind in ("PNG", "JPEG", "TIFF"):
        grey.save(tmp_path / "grey", kind)
        assert read_picture(tmp_path / "grey").is_grey
    Image.fromarray(make().pixels).convert("P").save(tmp_path / "palette.png")
    assert read_picture(tmp_path / "palette.png").pixels.shape == (9, 13, 3)


def test_a_profile_for_other_channels_is_left_out():
    colour, grey = make(), make(channels=1)
    with Image.open(io.BytesIO(encode_picture(colour, "png"))) as file:
        assert file.info["icc_profile"] == SRGB
    with Image.open(io.BytesIO(encode_picture(grey, "png"))) as file:
        assert "icc_profile" not in file.info


def test_a_profile_for_grey_stays_with_grey():
    profile = SRGB[:16] + b"GRAY" + SRGB[20:]
    for alpha in (False, True):
        grey, colour = (make(channels=channels, alpha=alpha) for channels in (1, 3))
        for picture, kept in ((grey, profile), (colour, None)):
            data = encode_picture(Picture(picture.pixels, picture.alpha, profile), "png")
            with Image.open(io.BytesIO(data)) as file:
                assert file.info.get("icc_profile") == kept


def test_what_is_no_picture_is_named(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    unreadable = [("text.png", "cannot be decoded"), ("empty.png", "cannot be decoded")]
    for name, message in (*unreadable, ("missing.png", "cannot be read")):
        with pytest.raises(ImageError, match=rf"{name}: {message}"):
            read_picture(tmp_path / name)
    cv2.imwrite(str(tmp_path / "float.tiff"), np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ImageError, match="only 8 and 16 bit"):
        read_picture(tmp_path / "float.tiff")

"""Picture files with all they hold: 8 or 16 bits, grey or colour, alpha, ICC profile, EXIF."""

from __future__ import annotations

import io
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from ..data.images import ImageError
from ..data.transforms import Orientation

Format = Literal["png", "jpg", "webp", "tiff"]
FORMATS: dict[str, Format] = {
    ".png": "png",
    ".jpg": "jpg",
    ".jpeg": "jpg",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
}
"""What a result can be written as, by the suffix of its file."""

_ORIENTATION_TAG = 0x0112
_ORIENTATIONS = {
    1: Orientation(),
    2: Orientation(hflip=True),
    3: Orientation(hflip=True, vflip=True),
    4: Orientation(vflip=True),
    5: Orientation(transpose=True),
    6: Orientation(vflip=True, transpose=True),
    7: Orientation(hflip=True, vflip=True, transpose=True),
    8: Orientation(hflip=True, transpose=True),
}
"""What makes a picture upright, by the EXIF standard's number."""
_DESCRIPTIVE_TAGS = (270, 271, 272, 305, 306, 315, 33432)
"""Of a TIFF file's tags, those that are not about how its pixels are stored."""
_EXIF_PREFIX = b"Exif\0\0"
"""What EXIF data begin with in some kinds of files, and in :class:`Picture`."""
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class Picture:
    """A picture file's content.

    Attributes:
        pixels: (H, W, 3) RGB or (H, W, 1) grey, upright; uint8 or uint16.
        alpha: opacity, (H, W, 1) of the same type.
        icc: the profile that says which colours the values mean.
        exif: the camera's notes, as EXIF data.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    exif: bytes | None = None

    @property
    def is_grey(self) -> bool:
        """Whether there is one channel."""
        return self.pixels.shape[2] == 1


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """Read a picture file.

    Raises:
        ImageError: missing, unreadable, not a picture, or of neither 8 nor 16 bits a channel.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error})") from error
    notes = _Notes.of(data)
    image = _decode(data, str(path)) if notes.image is None else notes.image
    alpha = image[..., 3:] if image.shape[2] == 4 else None
    image = image[..., :1] if notes.is_grey or image.shape[2] == 1 else image[..., :3]
    turn = _ORIENTATIONS.get(notes.orientation, Orientation())
    upright = np.ascontiguousarray(turn.apply(image))
    opacity = None if alpha is None else np.ascontiguousarray(turn.apply(alpha))
    return Picture(upright, opacity, notes.icc, notes.exif)


def encode_picture(picture: Picture, kind: Format) -> bytes:
    """Return ``picture`` as the content of a file; JPEG and WebP hold 8 bits a channel and lose a little.

    Raises:
        ImageError: JPEG holds no alpha, or the picture is larger than the format allows.
    """
    if kind == "jpg" and picture.alpha is not None:
        raise ImageError("JPEG holds no transparency; write png, webp or tiff")
    array = picture.pixels
    if picture.alpha is not None:
        array = np.concatenate([array, picture.alpha], 2)
    if array.dtype == np.uint16 and array.shape[2] == 2:
        array = array[..., [0, 0, 0, 1]]  # few programs read 16-bit grey with alpha, OpenCV does not
    if array.dtype == np.uint16 and kind in ("jpg", "webp"):
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    try:
        icc = _fitting_profile(picture, array.shape[2])
        if kind == "png" and array.shape[2] != 2:
            return _png(array, icc, picture.exif)
        if array.dtype == np.uint16:
            return _deep_tiff(array, icc)
        return _by_pillow(array, kind, icc, picture.exif)
    except (cv2.error, OSError, ValueError) as error:
        height, width = array.shape[:2]
        raise ImageError(f"cannot be written as {kind} ({height}x{width} pixels: {error})") from error


# --- reading ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Notes:
    """What Pillow reads of a file and OpenCV does not."""

    is_grey: bool = False
    image: np.ndarray | None = None
    orientation: int = 1
    icc: bytes | None = None
    exif: bytes | None = None

    @classmethod
    def of(cls, data: bytes) -> _Notes:
        from PIL import Image

        try:
            with Image.open(io.BytesIO(data)) as header:
                is_tiff = header.format == "TIFF"
                # Only PNG, WebP and JPEG say so beforehand: asking the others could decode all of them.
                has_exif = "exif" in header.info or is_tiff
                exif = header.getexif() if has_exif else Image.Exif()
                orientation = 1 if is_tiff else exif.get(_ORIENTATION_TAG, 1)  # OpenCV turns TIFF itself
                return cls(
                    header.mode == "LA",
                    _tiff_with_alpha(header) if is_tiff else None,
                    orientation,
                    header.info.get("icc_profile"),
                    _exif_bytes(exif, header.info.get("exif"), is_tiff),
                )
        except Exception:  # Pillow declines a few legal files that OpenCV reads, and trips over broken notes
            return cls()


def _tiff_with_alpha(header: Any) -> np.ndarray | None:
    """Return a TIFF file's RGBA where it has 8 bits and alpha, which OpenCV drops or multiplies with."""
    bits = header.tag_v2.get(258, ())
    if header.mode not in ("LA", "RGBA") or set(bits) != {8}:
        return None
    return np.asarray(header.convert("RGBA"))


def _exif_bytes(exif: Any, written: bytes | None, is_tiff: bool) -> bytes | None:
    """Return EXIF data that calls the picture upright, as it stood in the file wherever possible."""
    from PIL import Image

    if is_tiff:
        kept = Image.Exif()
        kept.update({tag: exif[tag] for tag in _DESCRIPTIVE_TAGS if tag in exif})
        return kept.tobytes() if len(kept) else None
    if exif.get(_ORIENTATION_TAG, 1) == 1:
        return written and _EXIF_PREFIX + written.removeprefix(_EXIF_PREFIX)
    exif[_ORIENTATION_TAG] = 1
    return exif.tobytes()


def _decode(data: bytes, name: str) -> np.ndarray:
    """Return (H, W, C): grey, RGB or RGBA."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError(f"{name}: cannot be decoded as an image ({error.err})") from error
    if image is None:
        raise ImageError(f"{name}: cannot be decoded as an image; is the file complete?")
    if image.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"{name}: holds {image.dtype} values; only 8 and 16 bit images are supported")
    if image.ndim == 2:
        return image[..., None]
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)


# --- writing ----------------------------------------------------------------------------------------


def _fitting_profile(picture: Picture, channels: int) -> bytes | None:
    """Return the ICC profile if it is one for grey or for RGB, as the channels are."""
    space = b"GRAY" if channels < 3 else b"RGB "
    return picture.icc if picture.icc is not None and picture.icc[16:20] == space else None


def _png(array: np.ndarray, icc: bytes | None, exif: bytes | None) -> bytes:
    """Encode (H, W, 1, 3 or 4) of either depth: much faster than Pillow, which has no 16-bit colour."""
    order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}.get(array.shape[2])
    written, data = cv2.imencode(".png", array if order is None else cv2.cvtColor(array, order))
    if not written:
        raise ValueError("OpenCV declines")
    chunks = b""
    if icc is not None:
        chunks += _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc))
    if exif is not None:
        chunks += _chunk(b"eXIf", exif.removeprefix(_EXIF_PREFIX))
    header_end = 33  # signature and IHDR
    encoded = memoryview(data.tobytes())
    return b"".join([encoded[:header_end], chunks, encoded[header_end:]])


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _by_pillow(array: np.ndarray, kind: Format, icc: bytes | None, exif: bytes | None) -> bytes:
    from PIL import Image

    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    settings: dict[str, Any] = {"icc_profile": icc, "exif": exif}
    if kind == "jpg":
        settings |= {"quality": _JPEG_QUALITY, "subsampling": 0}
    elif kind == "webp":
        settings |= {"quality": _JPEG_QUALITY}
    elif kind == "tiff":
        settings |= {"compression": "tiff_deflate"}
    file = io.BytesIO()
    image.save(file, {"jpg": "jpeg"}.get(kind, kind), **{k: v for k, v in settings.items() if v is not None})
    return file.getvalue()


def _deep_tiff(array: np.ndarray, icc: bytes | None) -> bytes:
    """Encode 16 bits a channel, which Pillow does for grey only, and OpenCV without a profile."""
    import tifffile

    channels = array.shape[2]
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        array[..., 0] if channels == 1 else array,
        photometric="rgb" if channels > 1 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels == 4 else None,
        compression="zlib",
        iccprofile=icc,
    )
    return file.getvalue()

"""Image files to arrays and back: HWC, RGB, uint8 or uint16."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..files import write_atomically

if TYPE_CHECKING:
    from PIL import Image

_EXIF_ORIENTATION = 0x0112
_LIMIT = "OPENCV_IO_MAX_IMAGE_PIXELS"

# Errors are raised with the file's name; OpenCV's own lines about them would name no file.
if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class ImageError(ValueError):
    """An image that cannot be read or written; the message names it."""


def run_single_threaded() -> None:
    """Keep OpenCV to the calling thread, for loader processes.

    A process forked after OpenCV has started its threads inherits locks whose owners are gone, and
    one pool a worker would oversubscribe the CPU.
    """
    cv2.setNumThreads(0)
    cv2.ocl.setUseOpenCL(False)


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decode an image file's bytes to an (H, W, 3) RGB array, uint8 or uint16.

    Grey is repeated to three channels, alpha is dropped, a camera's orientation tag is obeyed.

    Args:
        data: the file's content.
        name: what error messages call it.

    Raises:
        ImageError: not an image, one of neither 8 nor 16 bits a channel, or one of more than
            :func:`max_pixels`.
    """
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        if "IMAGE_PIXELS" in error.err:
            raise _too_large(name) from error
        raise ImageError(f"{name}: cannot be decoded as an image ({error.err})") from error
    if image is None:
        raise ImageError(f"{name}: cannot be decoded as an image; is the file complete?")
    if image.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"{name}: holds {image.dtype} values; only 8 and 16 bit images are supported")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image file as :func:`decode_image` does.

    Raises:
        ImageError: missing, unreadable or not an image.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error})") from error
    return decode_image(data, str(path))


def grey(image: np.ndarray) -> np.ndarray:
    """Return an (H, W, 3) RGB image in grey by OpenCV's weights, (H, W, 1) of the same type."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return (height, width) of the array :func:`read_image` would give, from the file's header.

    Raises:
        ImageError: missing, unreadable, not an image, or one of more than :func:`max_pixels`.
    """
    from PIL import UnidentifiedImageError

    try:
        with _header(path) as header:
            width, height = header.size
            # Without such an entry getexif() would decode a PNG in search of one. For TIFF there is
            # none, and Pillow's size is that of the turned image already.
            turned = "exif" in header.info and header.getexif().get(_EXIF_ORIENTATION, 1) >= 5
    except UnidentifiedImageError:
        # Pillow declines a few legal files that OpenCV reads.
        height, width = read_image(path).shape[:2]
        return height, width
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error})") from error
    if width * height > max_pixels():
        raise _too_large(path)
    return (width, height) if turned else (height, width)


def max_pixels() -> int:
    """Return how many pixels an image may have; a small file may tell of more than fit into memory."""
    limit = os.environ.get(_LIMIT, "")
    return int(limit) if limit.isdecimal() else 2**30  # OpenCV's own


def _too_large(name: str | os.PathLike[str]) -> ImageError:
    return ImageError(
        f"{name}: has more than {max_pixels():,} pixels; the environment variable {_LIMIT} sets the limit"
    )


def _header(path: str | os.PathLike[str]) -> Image.Image:
    """Open an image of any size without decoding it."""
    from PIL import Image

    try:
        return Image.open(path)
    except Image.DecompressionBombError:
        # Pillow's own limit holds for the whole process: it stays as it is.
        with Path(path).open("rb") as file:
            start = file.read(16)
        formats: Any = Image.OPEN.values()
        for make, accepts in formats:
            if accepts is not None and accepts(start) is True:
                return make(os.fspath(path))
        raise


def write_image(path: str | os.PathLike[str], rgb: np.ndarray) -> None:
    """Write an (H, W), (H, W, 1) or (H, W, 3) RGB array of uint8 or uint16 in the format of the suffix.

    The folder is created. The file appears whole or not at all, unless the machine stops.

    Raises:
        ImageError: an unsuitable array, a format that cannot hold it, or a disk error.
    """
    path = Path(path)
    if rgb.dtype not in (np.uint8, np.uint16) or rgb.ndim not in (2, 3):
        raise ImageError(f"{path}: cannot store {rgb.dtype} values of shape {rgb.shape}")
    image = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR) if rgb.ndim == 3 and rgb.shape[2] == 3 else rgb
    if image.dtype == np.uint16 and path.suffix.lower() in (".jpg", ".jpeg", ".bmp", ".webp"):
        raise ImageError(f"{path}: this format holds 8 bits a channel; write 16-bit images as .png or .tif")
    try:
        written, data = cv2.imencode(path.suffix, image)
    except cv2.error as error:
        raise ImageError(f"{path}: cannot be encoded ({error.err})") from error
    if not written:
        raise ImageError(f"{path}: cannot be encoded")
    try:
        write_atomically(path, data.tobytes(), durable=False)
    except OSError as error:
        raise ImageError(f"{path}: cannot be written ({error.strerror or error})") from error

"""JPEG, and the rounding that any file does."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from pydantic import Field
from typing_extensions import override

from ...registry import DEGRADATIONS
from ..images import decode_image
from ..transforms import to_unit
from .operation import Operation, whole_number
from .steps import Probability, Quality, Step

_SAMPLING = {
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}


@DEGRADATIONS.register("jpeg")
class Jpeg(Step):
    """JPEG compression by OpenCV (libjpeg), which quantises to 8 bit."""

    quality: Quality = Field(description="1 (worst) to 100, both bounds included.")
    subsampling: Literal["4:2:0", "4:2:2", "4:4:4"] = Field(
        default="4:2:0", description="Resolution of the colour channels."
    )
    corner_grid: Probability = Field(
        default=0.0,
        description="Share of the samples whose blocks are counted from the crop's corner, not the image's.",
    )

    @override
    def draw(self, rng: np.random.Generator) -> Operation:
        """Return compression and decompression; the result is uint8.

        Whole blocks are compressed, counted from the image's corner or the crop's. Halved colour channels are
        coded in blocks of twice the side, and libjpeg interpolates them across one pixel of the neighbours.
        """
        quality = whole_number(rng, self.quality)
        halved = self.subsampling != "4:4:4"
        at_corner = self.corner_grid > 0 and rng.random() < self.corner_grid

        def compress(image: np.ndarray, corner: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
            colour = image.shape[2] == 3
            parameters = [cv2.IMWRITE_JPEG_QUALITY, quality]
            if colour:
                parameters += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _SAMPLING[self.subsampling]]
            pixels = _rounded(image, np.uint8)
            written, data = cv2.imencode(".jpg", pixels[..., ::-1] if colour else pixels, parameters)
            if not written:
                raise ValueError("OpenCV cannot compress the image as JPEG")
            # Grey comes back repeated.
            return decode_image(data.tobytes(), "the compressed image")[..., : image.shape[2]]

        def compress_from_corner(
            image: np.ndarray, corner: tuple[int, int], rng: np.random.Generator
        ) -> np.ndarray:
            grid = tuple(slice(place % block, None) for place in corner)
            result = _rounded(image, np.uint8).copy()
            result[grid] = compress(image[grid], corner, rng)
            return result

        block = 16 if halved else 8
        if at_corner:
            return Operation(compress_from_corner, margin=block)
        return Operation(compress, margin=2 if halved else 0, block=block)


@DEGRADATIONS.register("quantize")
class Quantize(Step):
    """Clip to 0..1 and round, as saving to a file does."""

    bits: Literal[8, 16] = 8

    @override
    def draw(self, rng: np.random.Generator) -> Operation:
        """Return clipping and rounding to an integer type."""
        kind = np.uint8 if self.bits == 8 else np.uint16
        return Operation(lambda image, corner, rng: _rounded(image, kind))


def _rounded(image: np.ndarray, kind: type[np.uint8] | type[np.uint16]) -> np.ndarray:
    if image.dtype == kind:
        return image
    peak = np.iinfo(kind).max
    return np.rint(np.clip(to_unit(image), 0.0, 1.0) * np.float32(peak)).astype(kind)

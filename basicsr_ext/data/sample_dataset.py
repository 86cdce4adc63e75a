"""``SampleImages``: photographs that come with scikit-image, so that nothing need be downloaded.

================ ==================================================================
split            images
================ ==================================================================
``train``        astronaut, hubble_deep_field, ihc, motorcycle_left, motorcycle_right;
                 in grey brick, camera, coins, grass, gravel
``val``          chelsea, coffee, rocket
================ ==================================================================

Low quality is made of the photograph, MATLAB-bicubic unless ``degradation`` says otherwise. The two
motorcycles are views of one scene and stay on one side. Charts, text and nearly empty images are left
out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from typing_extensions import override

from . import DATASETS
from .degradations import Degradable, degraded_pairs
from .pairs import ImagePairs
from .sections import ImageSection
from .sources import FileSource, InMemorySource

SPLITS: dict[str, tuple[str, ...]] = {
    "train": (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "coins.png",
        "grass.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "motorcycle_left.png",
        "motorcycle_right.png",
    ),
    "val": ("chelsea.png", "coffee.png", "rocket.jpg"),
}


@DATASETS.register("SampleImages")
class SampleImages(ImageSection, Degradable):
    """scikit-image's bundled photographs: nothing to download."""

    split: Literal["train", "val"] = Field(default="train", description="Which photographs.")

    @override
    def pairs(self, scale: int) -> ImagePairs:
        files = InMemorySource(self.chosen(sample_files(SPLITS[self.split])))
        return degraded_pairs(files, self.degradation, scale, self.conversion)


def sample_files(names: tuple[str, ...]) -> FileSource:
    """Return photographs of scikit-image's by their file names.

    Raises:
        ValueError: the installed version does not bundle one of them.
    """
    import skimage

    # The files of the wheel itself: skimage.data's functions may reach for a download cache.
    files = FileSource(str(Path(skimage.__file__).parent / "data"), names)
    absent = [file for file in files.files if not Path(files.folder, file).is_file()]
    if absent:
        raise ValueError(f"the installed scikit-image does not bundle {', '.join(absent)}")
    return files

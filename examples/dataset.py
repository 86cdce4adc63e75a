"""A data set of one's own: ``datasets: {train: {type: ScenesOfPairs, root: scenes, scene: first}}``."""

from pathlib import Path

from pydantic import Field
from typing_extensions import override

from basicsr_ext.config.paths import ImageRoot
from basicsr_ext.data.paired_dataset import PairedImages
from basicsr_ext.data.pairs import ImagePairs
from basicsr_ext.registry import DATASETS


@DATASETS.register("ScenesOfPairs")
class ScenesOfPairs(PairedImages):
    """A folder a scene, with ground truth in ``sharp`` and low quality in ``blurred``."""

    dataroot_gt: ImageRoot = Field(default="", description="Follows from root.")
    root: str = Field(description="The folder of all scenes.")
    scene: str = Field(description="Name of one of them.")

    @override
    def pairs(self, scale: int) -> ImagePairs:
        folder = Path(self.root, self.scene)
        roots = {"dataroot_gt": str(folder / "sharp"), "dataroot_lq": str(folder / "blurred")}
        return super(ScenesOfPairs, self.model_copy(update=roots)).pairs(scale)

"""Option sections of the data sets, for ``datasets.train`` (``…Train``) and ``datasets.val`` (``…Keys``)."""

from basicsr_ext.config.datasets import for_training
from basicsr_ext.data.denoising_dataset import GaussianDenoisingImages
from basicsr_ext.data.dualpixel_dataset import DualPixelImages
from basicsr_ext.data.foreign_dataset import ForeignImages
from basicsr_ext.data.paired_dataset import PairedImages
from basicsr_ext.data.sample_dataset import SampleImages
from basicsr_ext.data.single_dataset import SingleImages

PairedKeys, SampleKeys, SingleKeys, ForeignDataset = PairedImages, SampleImages, SingleImages, ForeignImages
GaussianDenoisingKeys, DualPixelKeys = GaussianDenoisingImages, DualPixelImages
PairedTrain, SampleTrain, ForeignTrain, GaussianDenoisingTrain, DualPixelTrain = map(
    for_training, (PairedImages, SampleImages, ForeignImages, GaussianDenoisingImages, DualPixelImages)
)

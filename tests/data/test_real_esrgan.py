"""The Real-ESRGAN chain, beside basicsr's data set and model."""

import random

import numpy as np
import pytest
import torch
from basicsr.data.realesrgan_dataset import RealESRGANDataset
from basicsr.models.realesrgan_model import RealESRGANModel
from basicsr.utils import DiffJPEG, USMSharp
from basicsr.utils.img_process_util import filter2D, usm_sharp

from basicsr_ext.data.degradations import build_chain, real_esrgan
from basicsr_ext.data.degradations.real_esrgan import RealESRGAN
from basicsr_ext.data.images import read_image, write_image
from basicsr_ext.data.sampling import global_generators, sample_rng
from basicsr_ext.data.transforms import to_unit

SIDE = 400
"""What basicsr crops to: an image of this size is taken as it is."""


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A file with a photograph of SIDE x SIDE pixels."""
    from skimage.data import astronaut

    path = tmp_path_factory.mktemp("gt") / "a.png"
    write_image(path, np.asarray(astronaut())[:SIDE, 50 : 50 + SIDE])
    (path.parent / "meta.txt").write_text("a.png\n")
    return path


class OneBatch(RealESRGANModel):
    """basicsr's degradation alone: no networks, no pool of earlier batches."""

    def __init__(self, opt):
        self.opt, self.is_train, self.device = opt, True, torch.device("cpu")
        self.jpeger = DiffJPEG(differentiable=False)

    def usm_sharpener(self, image):
        sharp = usm_sharp(image[0].numpy().transpose(1, 2, 0))
        return torch.from_numpy(np.ascontiguousarray(sharp.transpose(2, 0, 1)))[None]

    def _dequeue_and_enqueue(self):
        pass


def basicsr_opt(picture, step, scale):
    keys = {
        key: list(value) if isinstance(value, tuple) else value for key, value in step.model_dump().items()
    }
    return {
        **keys,
        "dataroot_gt": str(picture.parent),
        "meta_info": str(picture.parent / "meta.txt"),
        "io_backend": {"type": "disk"},
        "use_hflip": False,
        "use_rot": False,
        "scale": scale,
        "gt_size": SIDE,
    }


def basicsr_filter(image, kernel):
    return filter2D(image, torch.from_numpy(np.pad(kernel, 10 - len(kernel) // 2))[None])


@pytest.mark.parametrize("k", range(6))
def test_the_same_seeds_give_basicsrs_result(picture, k, monkeypatch):
    # Rounding in JPEG would make visible what filters differ in the last bits.
    monkeypatch.setattr(real_esrgan, "_filtered", basicsr_filter)
    step, scale = RealESRGAN(type="real_esrgan"), 4
    opt = basicsr_opt(picture, step, scale)
    model, dataset = OneBatch(opt), RealESRGANDataset(opt)
    with global_generators(sample_rng(0, k)):
        item = dataset[0]
        model.feed_data({key: value[None] for key, value in item.items() if torch.is_tensor(value)})
    with global_generators(sample_rng(0, k)), torch.no_grad():
        ours = real_esrgan.second_order(to_unit(read_image(picture)), step, scale)
    np.testing.assert_array_equal(ours.transpose(2, 0, 1), model.lq[0].numpy())


@pytest.mark.parametrize("size", [1, 7, 21])
def test_our_filter_is_basicsrs(picture, size):
    image = torch.from_numpy(to_unit(read_image(picture)).transpose(2, 0, 1).copy())[None]
    kernel = np.random.default_rng(size).random((size, size), np.float32)
    kernel /= kernel.sum()
    torch.testing.assert_close(
        real_esrgan._filtered(image, kernel), basicsr_filter(image, kernel), rtol=0, atol=2e-6
    )


def test_our_sharpening_is_the_models(picture):
    image = to_unit(read_image(picture))
    theirs = USMSharp()(torch.from_numpy(image.transpose(2, 0, 1))[None])[0].numpy().transpose(1, 2, 0)
    assert np.abs(usm_sharp(image) - theirs).mean() < 1e-4


def test_a_sample_is_decided_by_its_generator_and_leaves_the_global_ones_alone(picture):
    chain, image = build_chain([RealESRGAN(type="real_esrgan")], 4), read_image(picture)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    first, again, other = (chain.crop(image, 5, 9, 32, sample_rng(0, k)) for k in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert torch.equal(torch.get_rng_state(), before[2])


def test_crops_lie_on_their_ground_truth(picture):
    # With next to no degradation, what is left is the reduction, which must not be displaced.
    step = RealESRGAN(
        type="real_esrgan",
        usm=False,
        blur_sigma=0.2,
        sinc_prob=0,
        resize_prob=[0, 0, 1],
        noise_range=0,
        gaussian_noise_prob=1,
        jpeg_range=100,
        second_blur_prob=0,
        resize_prob2=[0, 0, 1],
        noise_range2=0,
        gaussian_noise_prob2=1,
        jpeg_range2=100,
        final_sinc_prob=0,
        betag_range=[0.9, 1.1],
        betap_range=[0.9, 1.1],
        kernel_list=["iso"],
        kernel_prob=[1],
    )
    image = read_image(picture)
    crop = build_chain([step], 4).crop(image, 20, 40, 32, sample_rng(0, 0))

    def distance(down, right):
        part = to_unit(image)[80 + down : 208 + down, 160 + right : 288 + right]
        return float(np.abs(part.reshape(32, 4, 32, 4, 3).mean(axis=(1, 3)) - crop).mean())

    assert min((distance(*shift), shift) for shift in ((0, 0), (0, 2), (2, 0), (-2, 0), (0, -2)))[1] == (0, 0)


@pytest.mark.parametrize(("side", "scale"), [(16, 4), (64, 4), (33, 1), (48, 2)])
def test_small_images_are_degraded_too(texture, side, scale):
    chain, image = build_chain([RealESRGAN(type="real_esrgan")], scale), texture(side, side + scale)
    for k in range(5):
        made = chain.whole(image, sample_rng(0, k))
        assert made.shape == (side // scale, side // scale + 1, 3)
        assert made.dtype == np.float32
        assert made.min() >= 0
        assert made.max() <= 1

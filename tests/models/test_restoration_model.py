"""What supervised restoration computes of a batch and of an image, by networks that tell what they get."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from basicsr.metrics import calculate_psnr
from helpers import tiny_options
from torch import nn

from basicsr_ext import load_options
from basicsr_ext.config import OptionError
from basicsr_ext.data.mixing import mixup
from basicsr_ext.data.resize import upscale
from basicsr_ext.data.sampling import Purpose, sample_rng
from basicsr_ext.models.restoration_model import RestorationModel


class Twice(nn.Module):
    """Blurs across 5 pixels if asked to, enlarges by 2, adds ``lift``; remembers what it was given."""

    def __init__(self, white: float = 1.0, lift: float = 0.0, blur: bool = False) -> None:
        super().__init__()
        self.pixel_range, self.lift, self.blur = white, lift, blur
        self.anchor, self.sizes, self.brightest = nn.Parameter(torch.zeros(())), [], []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(tuple(x.shape[-2:]))
        self.brightest.append(float(x.max()))
        x = nn.functional.avg_pool2d(x, 5, 1, 2) if self.blur else x
        return upsampled(x) + self.lift * self.pixel_range + self.anchor


def model(network, tmp_path, metrics=None, val=None, **train):
    options = tiny_options(tmp_path, **train)
    if metrics is not None:
        options["val"]["metrics"] = metrics
    options["val"] |= val or {}
    made = RestorationModel(load_options(options), {"net_g": network}, torch.device("cpu"))
    made.start_training()
    return made


def image(*shape, low=0.0, high=1.0):
    return low + (high - low) * torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(1))


def upsampled(x):
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def hwc(x):
    return x[0].permute(1, 2, 0).double().numpy()


def judged(made, lq, gt=None, index=0, draw=False):
    item = {"lq": lq, "lq_path": "photo.png", **({} if gt is None else {"gt": gt})}
    with torch.no_grad():
        return made.evaluate(made.networks, item, "photos", index, draw)


# --- losses -----------------------------------------------------------------------------------------


def batch(first=7, size=4):
    generator = torch.Generator().manual_seed(0)
    lq, gt = (torch.rand(size, 3, s, s, generator=generator) for s in (8, 16))
    return {"lq": lq, "gt": gt, "k": torch.arange(first, first + size)}


def losses(made, given):
    return made.losses("g", made.networks, given, {})


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_losses_compare_images_in_0_to_1_and_the_network_sees_its_own_range(tmp_path, white):
    network, given = Twice(white, lift=0.25), batch()
    expected = (network.eval()(white * given["lq"]) / white - given["gt"]).abs().mean()
    found = losses(model(network, tmp_path), given)
    torch.testing.assert_close(found, {"l_pix": expected})
    assert network.brightest[-1] == pytest.approx(white, rel=0.05)


@pytest.mark.parametrize(("first", "identity", "beta"), [(7, False, 1.2), (8, False, 0.3), (9, True, 1.2)])
def test_mixup_is_decided_by_the_number_of_the_batchs_first_sample(tmp_path, first, identity, beta):
    augmentation = {"mixup": True, "use_identity": identity, "mixup_beta": beta}
    made, given = model(Twice(), tmp_path, mixing_augs=augmentation), batch(first)
    rng = sample_rng(made.options.manual_seed, first, Purpose.MIXING)
    gt, lq = mixup(given["gt"], given["lq"], beta, identity, rng)
    expected = losses(model(Twice(), tmp_path), {"lq": lq, "gt": gt})
    assert losses(made, given) == expected
    assert (losses(model(Twice(), tmp_path), given) == expected) is identity


@pytest.mark.parametrize(("perceptual", "style"), [(2.0, 3.0), (None, 3.0), (2.0, None)])
def test_a_perceptual_loss_gives_a_style_loss_besides_and_either_may_be_missing(
    tmp_path, monkeypatch, perceptual, style
):
    made = model(Twice(), tmp_path)
    monkeypatch.setitem(made._losses, "percep", ("train.perceptual_opt", lambda a, b: (perceptual, style)))
    found = losses(made, batch())
    del found["l_pix"]
    given = {"l_percep": perceptual, "l_style": style}
    assert found == {name: value for name, value in given.items() if value is not None}


def test_an_output_that_would_be_broadcast_to_the_ground_truth_is_refused(tmp_path):
    given = batch()
    given["gt"] = given["gt"][..., :1]
    with pytest.raises(ValueError, match=r"gives \(4, 3, 16, 16\), ground truth is \(4, 3, 16, 1\)"):
        losses(model(Twice(), tmp_path), given)


@pytest.mark.parametrize(
    ("raised", "kept", "words"),
    [
        (torch.OutOfMemoryError("out of memory"), torch.OutOfMemoryError, "^out of memory$"),
        (TypeError("no"), RuntimeError, "^train.pixel_opt cannot be computed of two images: no$"),
        (ValueError("no"), RuntimeError, "^train.pixel_opt cannot"),
        (RuntimeError("no"), RuntimeError, "^train.pixel_opt cannot"),
    ],
)
def test_a_loss_that_fails_is_named_but_lack_of_memory_stays_what_it_is(
    tmp_path, monkeypatch, raised, kept, words
):
    def fails(restored, gt):
        raise raised

    made = model(Twice(), tmp_path)
    monkeypatch.setitem(made._losses, "pix", ("train.pixel_opt", fails))
    with pytest.raises(kept, match=words) as caught:
        losses(made, batch())
    assert caught.type is kept


def test_losses_are_named_as_the_option_file_names_them(tmp_path):
    one = {"type": "MSELoss", "loss_weight": 2.0}
    made = model(
        Twice(), tmp_path, pixel_opt=None, fft_opt=one, edge_opt=one, losses={"mine": {"type": "L1Loss"}}
    )
    given = batch()
    difference = upsampled(given["lq"]) - given["gt"]
    squared, absolute = 2 * (difference**2).mean(), difference.abs().mean()
    torch.testing.assert_close(losses(made, given), {"l_fft": squared, "l_edge": squared, "l_mine": absolute})


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"pixel_opt": None}, "train: found no loss, expected pixel_opt, or losses by name"),
        *(
            ({"losses": {name: {"type": "L1Loss"}}}, f"train.losses.{name}: found the name '{name}'")
            for name in ("pix", "percep", "style", "fft", "edge")
        ),
    ],
)
def test_a_run_needs_a_loss_whose_name_in_logs_is_its_own(tmp_path, train, words):
    with pytest.raises(OptionError, match=words) as caught:
        load_options(tiny_options(tmp_path, **train))
    assert len(str(caught.value).splitlines()) == 1


def test_windows_are_what_is_advised_where_a_patch_fails(tmp_path):
    network = Twice()
    network.window_size = 8
    made = model(network, tmp_path)
    assert [made.patch_advice(size) for size in (24, 32)] == ["its windows need multiples of 16", ""]


# --- evaluation -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "seen"), [(8, (16, 24)), (5, (15, 20)), (0, (13, 20)), (None, (13, 20))])
def test_an_image_is_padded_to_windows_for_the_network_alone(tmp_path, window, seen):
    network = Twice()
    result = judged(model(network, tmp_path, val={"window_size": window}), image(13, 20)).results["photo"]
    assert network.sizes == [seen]
    assert result.shape == (26, 40, 3)


@pytest.mark.parametrize(("tile", "overlap", "exact"), [(12, 8, True), (12, 2, False), (None, 8, True)])
def test_images_are_run_in_tiles_that_overlap_as_asked(tmp_path, tile, overlap, exact):
    # The network sees 2 pixels far: the middle quarter of an overlap of 8 begins beyond that, that of 2 not.
    network, lq = Twice(blur=True), image(30, 26)
    made = model(network, tmp_path, val={} if tile is None else {"tile": tile, "tile_overlap": overlap})
    whole = judged(model(Twice(blur=True), tmp_path), lq).results["photo"].astype(int)
    result = judged(made, lq).results["photo"].astype(int)
    assert max(network.sizes) == ((tile, tile) if tile else (30, 26))
    assert bool(np.abs(result - whole).max() <= 1) is exact


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        # Neighbouring tiles begin a tile less the overlap apart; the last one ends with the image.
        ({"val": {"tile": 64}}, {(64, 64), (64, 48), (48, 64), (48, 48)}),
        ({"val": {"tile": 64, "tile_overlap": 0}}, {(64, 64), (64, 16), (16, 64), (16, 16)}),
        ({"tile": {"tile_size": 8}}, {(72, 72)}),
        ({"tile": {"tile_size": 40, "tile_pad": 12}}, {(64, 64), (64, 40), (40, 64), (40, 40)}),
    ],
)
def test_tiles_see_32_pixels_of_their_neighbours_unless_told(tmp_path, changes, seen):
    network = Twice()
    written = tiny_options(tmp_path)
    written["val"] |= changes.get("val", {})
    made = RestorationModel(
        load_options(written | {key: value for key, value in changes.items() if key == "tile"}),
        {"net_g": network},
        torch.device("cpu"),
    )
    judged(made, image(80, 80))
    assert set(network.sizes) == seen


@pytest.mark.parametrize(("tile", "refused"), [(32, True), (33, False)])
def test_tiles_are_larger_than_their_overlap(tmp_path, tile, refused):
    written = tiny_options(tmp_path)
    written["val"] |= {"tile": tile}
    if not refused:
        load_options(written)
        return
    with pytest.raises(
        OptionError, match=r"val\.tile_overlap: found 32, expected less than val.tile, which is 32"
    ):
        load_options(written)


def test_metrics_see_what_is_saved_rounded_and_clamped(tmp_path):
    lq, gt = image(16, 16, low=0.2), image(32, 32)
    psnr = {"psnr": {"type": "calculate_psnr", "crop_border": 0}}
    found = judged(model(Twice(lift=0.3), tmp_path, psnr), lq, gt)
    restored = (upsampled(lq) + 0.3).clamp(0, 1)
    expected = np.rint(255 * hwc(restored)).astype(np.uint8)
    np.testing.assert_array_equal(found.results["photo"], expected)
    assert found.statistics["psnr"] == calculate_psnr(expected, np.rint(255 * hwc(gt)), 0)
    made = model(Twice(lift=0.3), tmp_path, psnr, {"use_image": False})
    unrounded = judged(made, lq, gt).statistics["psnr"]
    assert unrounded == pytest.approx(calculate_psnr(255 * hwc(restored), 255 * hwc(gt), 0), abs=1e-9)
    assert unrounded != found.statistics["psnr"]


@pytest.mark.parametrize("bgr", [True, False])
def test_both_images_reach_metrics_in_the_order_of_channels_asked_for(tmp_path, bgr):
    y = {"type": "calculate_psnr", "crop_border": 0, "test_y_channel": True}
    lq, gt = image(16, 16), image(32, 32)
    gt[:, 0] *= 0.3  # channels that differ tell their order
    found = judged(model(Twice(), tmp_path, {"y": y}, {"rgb2bgr": bgr}), lq, gt).statistics["y"]
    sides = [np.rint(255 * hwc(x)) for x in (upsampled(lq), gt)]
    as_read, reversed_ = (
        calculate_psnr(*(side[..., ::order] for side in sides), 0, test_y_channel=True) for order in (1, -1)
    )
    assert as_read != reversed_
    assert found == (reversed_ if bgr else as_read)


def test_bicubic_enlargement_is_scored_beside_the_result_and_once_an_image(tmp_path):
    psnr = {"psnr": {"type": "calculate_psnr", "crop_border": 0}}
    made, lq, gt = model(Twice(), tmp_path, psnr), image(16, 16), image(32, 32)
    first, again = judged(made, lq, gt), judged(made, lq, gt)
    bicubic = upscale(np.rint(255 * hwc(lq)).astype(np.uint8), 2)
    expected = calculate_psnr(bicubic, np.rint(255 * hwc(gt)), 0)
    assert first.baselines == again.baselines == {"bicubic": {"psnr": expected}}
    other = judged(made, 1 - lq, gt, index=1).baselines["bicubic"]["psnr"]
    assert other != expected


def test_pictures_are_drawn_only_where_they_are_asked_for(tmp_path):
    made, lq, gt = model(Twice(), tmp_path), image(16, 16), image(32, 32)
    assert not judged(made, lq, gt).pictures
    drawn = judged(made, lq, gt, draw=True)
    assert drawn.pictures.keys() == drawn.results.keys() == {"photo"}

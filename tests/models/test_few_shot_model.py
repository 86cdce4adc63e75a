"""What few-shot segmentation computes of episodes and volumes, by networks that say what they get."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from basicsr_ext import load_options
from basicsr_ext.archs.catnet_arch import CATNetOutput
from basicsr_ext.config import OptionError
from basicsr_ext.inference.contours import PREDICTION, TRUTH
from basicsr_ext.models.few_shot_model import FewShotModel, pixel_loss

SIDE = 6


class Bright(nn.Module):
    """Sees the organ where a query is brighter than half; its support's logits are as large as ``scale``."""

    def __init__(self, rounds: int = 1, shrink: int = 1) -> None:
        super().__init__()
        self.rounds, self.shrink, self.calls = rounds, shrink, []

    def forward(self, images: torch.Tensor, masks: torch.Tensor, queries: torch.Tensor) -> CATNetOutput:
        self.calls.append((images, masks, queries))
        bright = queries[:, 0, :: self.shrink, :: self.shrink] - 0.5
        last = torch.stack([torch.zeros_like(bright), bright], 1)
        logits = torch.stack([last * (n + 1) / self.rounds for n in range(self.rounds)], 1)
        support = torch.stack([masks, images[:, :, 0]], 2)
        alignable = torch.arange(len(queries)) % 2 == 0
        return CATNetOutput(logits, support, alignable)


def options(tmp_path, scale=1, **train):
    phantoms = {"type": "PhantomVolumes", "shape": [8, 48, 48], "patients": 3}
    return {
        "name": "run",
        "model_type": "FewShotModel",
        "num_gpu": 0,
        "scale": scale,
        "datasets": {"train": {**phantoms, "gt_size": 32, "batch_size_per_gpu": 2, "min_size": 20}},
        "network_g": {"type": "CATNet", "backbone": "resnet18"},
        "train": {
            "total_iter": 1,
            "optim_g": {"type": "SGD", "lr": 1.0},
            "scheduler": {"type": "StepLR", "step_size": 1},
            **train,
        },
        "val": {"metrics": {"dice": {"type": "Dice"}}},
    }


def model(tmp_path, network, **train):
    loaded = load_options(options(tmp_path, **train))
    return FewShotModel(loaded, {"net_g": network}, torch.device("cpu"))


def batch(size=3, shots=2):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.rand(*shape, SIDE, SIDE, generator=generator)

    return {
        "support_images": draw(size, shots, 3),
        "support_masks": draw(size, shots).round(),
        "query_images": draw(size, 3),
        "query_masks": draw(size).round(),
    }


@pytest.mark.parametrize(
    ("train", "background", "foreground", "align"),
    [({}, 0.1, 1.0, 1.0), ({"background_weight": 0.5, "foreground_weight": 2, "align_weight": 3}, 0.5, 2, 3)],
)
def test_losses_are_of_every_round_and_of_the_support_where_it_can_be_aligned(
    tmp_path, train, background, foreground, align
):
    given, network = batch(), Bright(rounds=3)
    found = model(tmp_path, network, **train).losses("g", {"net_g": network}, given, {})
    images, masks, queries = network.calls[-1]
    assert images is given["support_images"]
    assert masks is given["support_masks"]
    assert queries is given["query_images"]
    output = network(images, masks, queries)
    rounds = [
        pixel_loss(output.query_logits[:, n], given["query_masks"], background, foreground) for n in range(3)
    ]
    torch.testing.assert_close(found["l_query"], torch.stack(rounds).mean())
    own = [pixel_loss(output.support_logits[n], masks[n]).mean() for n in (0, 2)]  # the second cannot be
    torch.testing.assert_close(found["l_align"], align * sum(own) / 3)


def test_without_weight_the_support_is_not_segmented(tmp_path):
    network = Bright()
    found = model(tmp_path, network, align_weight=0).losses("g", {"net_g": network}, batch(), {})
    assert found.keys() == {"l_query"}


def test_all_pixels_count_alike_unless_told():
    logits = torch.randn(2, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    masks = (torch.arange(40).view(2, 4, 5) % 3 == 0).float()
    expected = [nn.functional.cross_entropy(logits[n : n + 1], masks[n : n + 1].long()) for n in range(2)]
    torch.testing.assert_close(pixel_loss(logits, masks), torch.stack(expected))


def volume(slices):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(1, slices, 3, SIDE, SIDE, generator=generator)
    label = images[0, :, 0] > 0.5
    return {
        "support_images": torch.rand(1, 2, 4, 3, SIDE, SIDE, generator=generator),
        "support_masks": torch.rand(1, 2, 4, SIDE, SIDE, generator=generator).round(),
        "query_images": images,
        "part": (torch.arange(slices) * 2 // slices)[None],
        "label": label[None],
        "copy": ~label[None],
        "slices": torch.arange(4, 4 + slices)[None],
        "organ": "liver",
        "name": "liver of 3",
    }


@pytest.mark.parametrize("slices", [3, 8, 17])
def test_slices_are_segmented_by_the_last_round_a_few_at_a_time_each_with_its_support(tmp_path, slices):
    network, item = Bright(rounds=2), volume(slices)
    made = model(tmp_path, network)
    found = made.evaluate(made.networks, item, "patients", 0, False)
    voxels = int(item["label"].sum())
    assert found.statistics == {"dice": ("liver", voxels, 0, 0)}
    assert found.baselines == {"support_mask": {"dice": ("liver", 0, item["label"].numel() - voxels, voxels)}}
    assert max(len(queries) for *_, queries in network.calls) <= 8
    images, masks, queries = (torch.cat(parts) for parts in zip(*network.calls, strict=True))
    assert torch.equal(queries, item["query_images"][0])
    assert torch.equal(images, item["support_images"][0][item["part"][0]])
    assert torch.equal(masks, item["support_masks"][0][item["part"][0]])


def test_a_tie_is_background(tmp_path):
    network, item = Bright(), volume(2)
    item["query_images"] = torch.full_like(item["query_images"], 0.5)
    made = model(tmp_path, network)
    hits, excess = made.evaluate(made.networks, item, "patients", 0, False).statistics["dice"][1:3]
    assert hits == excess == 0


def test_predictions_are_enlarged_smoothly_to_the_labels_size(tmp_path):
    network, item = Bright(shrink=2), volume(1)
    item["label"] = torch.ones(1, 1, 12, 18, dtype=torch.bool)
    item["copy"] = ~item["label"]
    made = model(tmp_path, network)
    support = torch.zeros(1, 1, 3, SIDE, SIDE), torch.zeros(1, 1, SIDE, SIDE)
    logits = network(*support, item["query_images"][0]).query_logits[:, 0]
    wanted = nn.functional.interpolate(logits, (12, 18), mode="bilinear")
    hits = int((wanted[:, 1] > wanted[:, 0]).sum())
    found = made.evaluate(made.networks, item, "patients", 0, False).statistics["dice"]
    assert found == ("liver", hits, 0, 12 * 18 - hits)


def test_predicted_masks_are_results_by_the_number_of_their_slice(tmp_path):
    network, item = Bright(), volume(3)
    made = model(tmp_path, network)
    judged = made.evaluate(made.networks, item, "patients", 0, False)
    assert list(judged.results) == ["liver of 3/004", "liver of 3/005", "liver of 3/006"]
    for mask, label in zip(judged.results.values(), item["label"][0].numpy(), strict=True):
        assert mask.dtype == np.uint8
        assert np.array_equal(mask, label * 255)
    assert not judged.pictures


def test_pictures_show_the_middle_slice_of_each_part_with_truth_and_prediction(tmp_path):
    network, item = Bright(), volume(7)  # parts of four slices and three; middle ones are 1 and 5
    item["query_images"][:] = 0
    item["query_images"][0, 1, :, :3], item["query_images"][0, 5, :, :, :2] = 1, 1
    item["label"] = torch.zeros_like(item["label"])
    item["label"][0, 1, 3:], item["label"][0, 5] = True, True
    item["support_masks"] = torch.ones_like(item["support_masks"])
    made = model(tmp_path, network)
    judged = made.evaluate(made.networks, item, "patients", 0, True)
    (picture,) = judged.pictures.values()
    factor = -(-256 // SIDE)
    side = SIDE * factor
    assert picture.shape == (20 + 2 * side, 3 * side, 3)
    assert judged.panels == ("support", "query and truth", "prediction on top")
    support, truth, both = (picture[20:, n * side : (n + 1) * side] for n in range(3))

    def rim(rows, columns):
        mask = np.zeros((2 * side, side), bool)
        mask[rows, columns] = True
        inner = slice(rows.start + 1, rows.stop - 1), slice(columns.start + 1, columns.stop - 1)
        mask[inner] = False
        return mask

    whole, first, second = slice(0, side), slice(0, side), slice(side, 2 * side)
    lower = rim(slice(3 * factor, side), whole) | rim(second, whole)
    predicted = rim(slice(0, 3 * factor), whole) | rim(second, slice(0, 2 * factor))
    assert np.array_equal((support == TRUTH).all(-1), rim(first, whole) | rim(second, whole))
    assert np.array_equal((truth == TRUTH).all(-1), lower)
    assert np.array_equal((both == PREDICTION).all(-1), predicted)
    assert np.array_equal((both == TRUTH).all(-1), lower & ~predicted)


def test_masks_have_no_scale(tmp_path):
    with pytest.raises(OptionError, match="scale: found 2, expected 1, as masks have the image's size"):
        load_options(options(tmp_path, scale=2))

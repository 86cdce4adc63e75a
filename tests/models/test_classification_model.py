"""What classification computes of a batch and of images, by a network that gives back what it gets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from basicsr_ext import load_options
from basicsr_ext.config import OptionError
from basicsr_ext.data.classes import batch_mixer
from basicsr_ext.data.images import write_image
from basicsr_ext.models.classification_model import ClassificationModel

CLASSES = 5


class Likeness(nn.Module):
    """Takes images (N, 3, 8, 8); the logits are sums over fifths of their values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :190].unflatten(1, (CLASSES, -1)).sum(-1)


def options(tmp_path, scale=1, **train):
    folder = {"type": "ImageFolder", "dataroot": str(tmp_path)}
    write_image(tmp_path / "cat/0.png", np.zeros((4, 4, 3), np.uint8))
    return {
        "name": "run",
        "model_type": "ClassificationModel",
        "num_gpu": 0,
        "scale": scale,
        "datasets": {"train": {**folder, "gt_size": 2, "batch_size_per_gpu": 4}},
        "network_g": {"type": "SwinTransformer"},
        "train": {
            "total_iter": 1,
            "optim_g": {"type": "SGD", "lr": 1.0},
            "scheduler": {"type": "StepLR", "step_size": 1},
            **train,
        },
        "val": {"metrics": {"top1": {"type": "TopKAccuracy"}, "top2": {"type": "TopKAccuracy", "k": 2}}},
    }


def model(tmp_path, **train):
    loaded = load_options(options(tmp_path, **train))
    made = ClassificationModel(loaded, {"net_g": Likeness()}, torch.device("cpu"))
    made.start_training()
    return made


def batch(first=7):
    image = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    label = one_hot(torch.tensor([2, 0, 1, 2]), CLASSES).float()
    return {"image": image, "label": label, "k": torch.arange(first, first + 4)}


def loss_of(made, given):
    return made.losses("g", made.networks, given, {})


@pytest.mark.parametrize(("written", "smoothing"), [({}, 0.0), ({"label_smoothing": 0.25}, 0.25)])
def test_the_loss_is_cross_entropy_with_labels_as_smooth_as_asked_for(tmp_path, written, smoothing):
    given = batch()
    expected = cross_entropy(Likeness()(given["image"]), given["label"], label_smoothing=smoothing)
    torch.testing.assert_close(loss_of(model(tmp_path, **written), given), {"l_cls": expected})


@pytest.mark.parametrize(
    ("written", "mixing"),
    [
        ({"mixup": 0.8}, (0.8, 0, 0.5)),
        ({"cutmix": 1.0}, (0, 1.0, 0.5)),
        ({"mixup": 0.8, "cutmix": 1.0}, (0.8, 1.0, 0.5)),
        ({"mixup": 0.8, "cutmix": 1.0, "mixup_switch_prob": 0.1}, (0.8, 1.0, 0.1)),
    ],
)
def test_mixing_is_decided_by_the_number_of_the_batchs_first_sample(tmp_path, written, mixing):
    made, mixed = model(tmp_path, **written), []
    for first in range(8):
        given = batch(first)
        image, label = batch_mixer(*mixing)(given["image"], given["label"], made.options.manual_seed, first)
        mixed.append(cross_entropy(Likeness()(image), label))
        torch.testing.assert_close(loss_of(made, given)["l_cls"], mixed[-1])
    assert len(set(map(float, mixed))) > 2


def test_a_loss_in_half_precision_is_computed_in_float32(tmp_path):
    given = batch()
    given["image"] = given["image"].half()
    assert loss_of(model(tmp_path), given)["l_cls"].dtype == torch.float32


def test_another_number_of_classes_than_the_data_sets_is_refused(tmp_path):
    given = batch()
    given["label"] = given["label"][:, :3]
    with pytest.raises(ValueError, match="network_g gives 5 classes, the data set has 3: set network_g"):
        loss_of(model(tmp_path), given)


def judged(tmp_path, labels, **item):
    made = model(tmp_path)
    given = {"image": batch()["image"][None], "label": torch.tensor([labels]), **item}
    return made.evaluate(made.networks, given, "animals", 0, False)


def test_images_are_judged_by_the_networks_scores(tmp_path):
    ranked = Likeness()(batch()["image"]).argsort(descending=True)
    labels = [int(ranked[0, 0]), int(ranked[1, 1]), int(ranked[2, 1]), int(ranked[3, 4])]
    found = judged(tmp_path, labels)
    assert found.statistics == {"top1": (1, 4), "top2": (3, 4)}
    assert not found.baselines
    assert not found.pictures


def test_a_simple_methods_guesses_are_judged_beside_the_network(tmp_path):
    guess = one_hot(torch.tensor([[0, 1, 1, 4]]), CLASSES)
    found = judged(tmp_path, [0, 1, 2, 4], guess=guess)
    assert found.baselines["nearest_mean"]["top1"] == (3, 4)


def test_a_set_with_more_classes_than_the_network_knows_is_refused(tmp_path):
    judged(tmp_path, [0, 1, 2, CLASSES - 1])
    with pytest.raises(ValueError, match="network_g gives 5 classes, animals has more"):
        judged(tmp_path, [0, 1, 2, CLASSES])


def test_smoothing_leaves_labels_a_share(tmp_path):
    with pytest.raises(OptionError, match="smoothing: found 1, expected a number from 0 to less than 1"):
        load_options(options(tmp_path, label_smoothing=1))


def test_classes_have_no_scale(tmp_path):
    with pytest.raises(OptionError, match="scale: found 2, expected 1, as classes have no size"):
        load_options(options(tmp_path, scale=2))

"""Parameter groups, frozen modules and learning-rate factors, as the weights show them after SGD steps."""

from __future__ import annotations

import pytest
import torch
from helpers import same_bits, tiny_options

from basicsr_ext import load_options
from basicsr_ext.config import OptionError
from basicsr_ext.engine.build import build_parts
from basicsr_ext.engine.checkpoint import Checkpointer
from basicsr_ext.engine.distributed import World
from basicsr_ext.engine.parameters import matches
from basicsr_ext.engine.resume import resume_problems
from basicsr_ext.engine.trainer import Trainer

SGD = {"type": "SGD", "lr": 0.01}


def trainer(folder, checkpoint=None, **train_keys):
    options = load_options(tiny_options(folder, **{"optim_g": SGD, "ema_decay": 0, **train_keys}))
    return Trainer(options, build_parts(options, 1, training=True), World(), checkpoint)


def changes(run, steps=1):
    """Return how far every parameter is moved by some steps."""
    before = {name: p.detach().clone() for name, p in run.kind.networks["net_g"].named_parameters()}
    for _ in range(steps):
        run.train_step()
    run._conclude_step()
    after = run.kind.networks["net_g"].named_parameters()
    return {name: p.detach() - before[name] for name, p in after}


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("body", "body.layers.0.weight", True),
        ("body", "bodyguard.weight", False),
        ("body.*.norm1", "body.layers.0.norm1.bias", True),
        ("*.bias", "body.layers.0.norm1.bias", True),
        ("layers", "body.layers.0.weight", False),
    ],
)
def test_a_pattern_names_a_module_with_all_that_is_below_it(pattern, name, expected):
    assert matches(pattern, name) is expected


def test_a_factor_scales_the_steps_of_its_modules_alone(tmp_path):
    plain = changes(trainer(tmp_path / "a"))
    scaled = changes(trainer(tmp_path / "b", lr_factors={"body": 0.5, "body.layers": 0.25}))
    assert any(name.startswith("body.layers") for name in plain)
    for name, change in plain.items():
        factor = 0.25 if name.startswith("body.layers") else 0.5 if name.startswith("body") else 1.0
        torch.testing.assert_close(scaled[name], factor * change, rtol=1e-3, atol=1e-7)


def test_frozen_modules_neither_move_nor_decay_nor_count_for_clipping_until_their_iteration(tmp_path):
    keys = {"optim_g": {**SGD, "weight_decay": 0.1, "momentum": 0.9}}
    run = trainer(tmp_path, freeze=[{"modules": "body", "until": 2}], **keys)
    first = changes(run, steps=2)
    assert not any(change.any() for name, change in first.items() if name.startswith("body"))
    assert all(change.any() for name, change in first.items() if name.startswith("tail"))
    second = changes(run)
    assert any(change.any() for name, change in second.items() if name.startswith("body"))


def test_a_run_resumed_while_modules_are_frozen_ends_with_the_same_bits(tmp_path):
    keys = {"freeze": [{"modules": "body", "until": 5}], "lr_factors": {"tail_*": 0.5}, "ema_decay": 0.9}
    keys["optim_g"] = {"type": "AdamW", "lr": 1e-3}
    trainer(tmp_path / "whole", filter_bias_and_norm=True, **keys).train()
    whole = Checkpointer(tmp_path / "whole").load(8)
    middle = Checkpointer(tmp_path / "whole").load(4)
    trainer(tmp_path / "resumed", middle, filter_bias_and_norm=True, **keys).train()
    resumed = Checkpointer(tmp_path / "resumed").load(8)
    assert same_bits(resumed.networks, whole.networks)
    assert same_bits(resumed.state["optimizers"], whole.state["optimizers"])


def test_weight_decay_leaves_norms_and_biases_alone_where_asked_to(tmp_path):
    decaying = {"optim_g": {"type": "AdamW", "lr": 0.01, "weight_decay": 0.5}}
    run = trainer(tmp_path, filter_bias_and_norm=True, **decaying)
    (group, free) = run.step.optimizers["optim_g"].param_groups
    assert group["weight_decay"] == 0.5
    assert free["weight_decay"] == 0.0
    assert all(p.ndim > 1 for p in group["params"])
    assert all(p.ndim <= 1 for p in free["params"])


def test_a_pattern_that_names_nothing_is_refused(tmp_path):
    with pytest.raises(OptionError) as caught:
        trainer(tmp_path, lr_factors={"boddy": 0.1}, freeze=[{"modules": "head", "until": 3}])
    assert "train.lr_factors.boddy: found 'boddy', expected the name of a module" in str(caught.value)
    assert "train.freeze.0.modules: found 'head'" in str(caught.value)


def test_other_groups_than_the_checkpoints_are_refused_in_words(tmp_path):
    trainer(tmp_path).train()
    options = load_options(tiny_options(tmp_path, optim_g=SGD, lr_factors={"body": 0.5}))
    (problem,) = resume_problems(options, Checkpointer(tmp_path).load(4))
    assert problem.key == "train.lr_factors"

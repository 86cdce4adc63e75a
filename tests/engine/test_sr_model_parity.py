"""Our trainer computes what basicsr's SRModel computes from the same network, weights and batches."""

import copy

import pytest
import torch
from basicsr.models.sr_model import SRModel

import basicsr_ext  # noqa: F401 (makes basicsr importable)
from basicsr_ext.config import load_options
from basicsr_ext.engine.build import build_parts
from basicsr_ext.engine.distributed import World
from basicsr_ext.engine.trainer import Trainer

ITERATIONS = 10
NETWORK = {"type": "MSRResNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 2, "upscale": 4}
TRAIN = {
    "ema_decay": 0.9,
    "optim_g": {"type": "Adam", "lr": 2e-3, "weight_decay": 0.01, "betas": [0.9, 0.99]},
    "scheduler": {"type": "MultiStepLR", "milestones": [4, 8], "gamma": 0.5},
    "total_iter": ITERATIONS,
    "warmup_iter": 3,
    "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
}


@pytest.fixture
def trainer(tmp_path):
    options = load_options(
        {
            "name": "parity",
            "scale": 4,
            "num_gpu": 0,
            "network_g": NETWORK,
            "datasets": {
                "train": {
                    "type": "SampleImages",
                    "gt_size": 32,
                    "batch_size_per_gpu": 4,
                    "num_worker_per_gpu": 0,
                }
            },
            "train": TRAIN,
            "path": {"experiments_root": str(tmp_path)},
        }
    )
    return Trainer(options, build_parts(options, 1, training=True), World(), None)


def test_ten_iterations_end_with_the_same_weights_and_average(trainer):
    torch.manual_seed(0)
    theirs = SRModel(
        {
            "num_gpu": 0,
            "dist": False,
            "is_train": True,
            "network_g": dict(NETWORK),
            "path": {},
            "train": copy.deepcopy(TRAIN),
        }
    )
    # SRModel freezes the average of the weights it was built with: both start from one set.
    for network in (theirs.net_g, theirs.net_g_ema):
        network.load_state_dict(trainer.step.networks["net_g"].state_dict())

    batches = []
    coming = trainer._batches
    trainer._batches = (batches.append(batch) or batch for batch in coming)
    losses = []
    for iteration in range(1, ITERATIONS + 1):
        trainer.train_step()
        theirs.feed_data(batches[-1])
        theirs.update_learning_rate(iteration, TRAIN["warmup_iter"])
        theirs.optimize_parameters(iteration)
        losses.append((float(trainer._last.losses["l_pix"]), theirs.log_dict["l_pix"]))

    trainer.save()  # takes the last step into the average
    ours, ours_average = trainer.step.networks["net_g"], trainer.step.averages["net_g"].network
    assert_equal(ours.state_dict(), theirs.net_g.state_dict())
    assert_equal(ours_average.state_dict(), theirs.net_g_ema.state_dict())
    assert all(our == pytest.approx(their, rel=1e-6) for our, their in losses)


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-7, msg=name)

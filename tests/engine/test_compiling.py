"""``train.compile``: what is compiled, and how often; the compiler's back end is left out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from helpers import tiny_options
from torch import nn
from torch._dynamo.utils import counters

import basicsr_ext as bx
from basicsr_ext.archs.layers.drop_path import DropPath
from basicsr_ext.config import load_options
from basicsr_ext.engine import train
from basicsr_ext.engine.compiling import compile_blocks
from basicsr_ext.engine.ema import WeightAverage

slow = partial(pytest.param, marks=pytest.mark.slow)


class Blocks(nn.Sequential):
    """A network of linear blocks beside what it is given."""

    repeated_blocks = (nn.Linear,)

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__(nn.Linear(3, 3), *modules)


@pytest.fixture
def captured(monkeypatch) -> Iterator[dict[str, int]]:
    """Return the counts of captured graphs, which run as they are, without kernels being built."""
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    yield counters["stats"]
    torch._dynamo.reset()


@pytest.mark.slow
def test_a_run_captures_each_kind_of_block_once_a_stage_and_nothing_in_rehearsal_or_validation(
    tmp_path, captured
):
    options = tiny_options(tmp_path, compile=True, ema_decay=0.0)
    options["network_g"] |= {"depths": [4, 2], "num_heads": [2, 2], "drop_path_rate": 0.1}
    train(load_options(options))
    kinds = 2  # Shifted or not; a block whose branches are never dropped is no kind of its own.
    assert captured["unique_graphs"] == kinds * len(options["datasets"]["train"]["stages"])
    assert not counters["graph_break"]


@pytest.mark.slow
def test_a_whole_network_is_one_graph(tmp_path, captured):
    options = tiny_options(tmp_path, compile=True, compile_scope="network")
    train(load_options(options))
    assert captured["unique_graphs"] == len(options["datasets"]["train"]["stages"])


@pytest.mark.parametrize(
    ("network", "side", "kinds"),
    [
        ({"type": "EMT", "dim": 12, "num_heads": 1, "n_layers": 3}, 32, 1),
        slow({"type": "Restormer", "dim": 8, "num_blocks": [2, 2, 2, 2]}, 16, 5),
        slow({"type": "SwinTransformer", "embed_dim": 12, "num_heads": [1, 2, 4, 8]}, 64, 6),
        slow({"type": "CloFormer", "drop_path_rate": 0.1}, 64, 7),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_blocks_that_differ_in_weights_alone_share_what_was_captured(captured, network, side, kinds):
    net = bx.build_network(network).train()
    assert compile_blocks(net, True, shapes=1)
    net(torch.rand(1, 3, side, side)).mean().backward()
    assert captured["unique_graphs"] == kinds
    assert all(parameter.grad is not None for parameter in net.parameters() if parameter.requires_grad)


def test_what_is_never_dropped_stays_when_it_draws_like_the_others():
    never, sometimes = DropPath(0.0), DropPath(0.5)
    assert compile_blocks(Blocks(never, sometimes), True, shapes=1)
    assert never.draws
    x = torch.rand(64, 3)
    assert torch.equal(never.train()(x), x)


def test_a_network_that_drops_nothing_draws_nothing():
    network = Blocks(DropPath(0.0), DropPath(0.0))
    compile_blocks(network, True, shapes=1)
    assert not any(module.draws for module in network.modules() if isinstance(module, DropPath))


def test_keys_of_the_state_dict_stay(tmp_path, captured):
    net = bx.build_network(tiny_options(tmp_path)["network_g"])
    before = list(net.state_dict())
    compile_blocks(net, True, shapes=1)
    assert list(net.state_dict()) == before
    assert list(WeightAverage(net, 0.9).network.state_dict()) == before


def test_a_network_that_names_no_blocks_is_compiled_as_a_whole():
    assert not compile_blocks(nn.Conv2d(3, 3, 1), True, shapes=1)

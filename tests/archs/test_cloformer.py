"""CloFormer equals the released code, and takes images of any size."""

from __future__ import annotations

import pytest
import torch
from recorded import SHIPPED, find, load

import basicsr_ext as bx
from basicsr_ext.archs.cloformer_arch import CloFormer
from basicsr_ext.archs.layers.context_convolution import AttnConv

TINY = {
    "num_classes": 5,
    "embed_dims": [8, 16],
    "depths": [2, 1],
    "num_heads": [2, 4],
    "group_splits": [[1, 1], [2, 2]],
    "kernel_sizes": [[3], [5]],
    "window_sizes": [4, 2],
    "mlp_kernel_sizes": [5, 3],
    "mlp_ratios": [2, 2],
}


def tiny(**options: object) -> CloFormer:
    torch.manual_seed(0)
    net = bx.build_network({"type": "CloFormer", **TINY, **options})
    assert isinstance(net, CloFormer)
    return net


@pytest.mark.parametrize("path", find(SHIPPED, "cloformer_"), ids=lambda path: path.stem)
def test_the_state_dict_has_the_released_keys(path):
    meta = load(path).meta
    own = {key: list(value.shape) for key, value in CloFormer(**meta["kwargs"]).state_dict().items()}
    counters = [key for key in own if key.endswith("num_batches_tracked")]
    assert {key: own.pop(key) for key in counters}.keys() == set(meta["derived"])
    assert own == meta["keys"]


@pytest.mark.parametrize(
    ("options", "parameters"),  # published in table 1 of the paper: 4.2 M, 7.2 M, 12.3 M
    [
        ({}, 4_166_728),
        (
            {
                "embed_dims": [48, 96, 160, 352],
                "num_heads": [3, 6, 10, 22],
                "group_splits": [[2, 1], [3, 3], [5, 5], [7, 15]],
            },
            7_172_216,
        ),
        (
            {
                "embed_dims": [64, 128, 224, 448],
                "num_heads": [4, 8, 14, 28],
                "group_splits": [[3, 1], [4, 4], [7, 7], [7, 21]],
            },
            12_345_576,
        ),
    ],
    ids=["XXS", "XS", "S"],
)
def test_the_published_networks_have_the_published_parameters(options, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in CloFormer(**options).parameters()) == parameters


class TestSizes:
    @pytest.mark.parametrize("size", [(32, 32), (1, 1), (7, 70), (33, 50)], ids=str)
    def test_any_size_is_classified(self, size):
        assert tiny()(torch.rand(2, 3, *size)).shape == (2, 5)

    def test_without_classes_the_features_come_out(self):
        assert tiny(num_classes=0)(torch.rand(2, 3, 32, 32)).shape == (2, 16)


class TestAttnConv:
    def test_keys_at_the_border_are_averages_of_what_is_there(self):
        torch.manual_seed(0)
        layer, x = AttnConv(4, [0, 2], [3], pool=2), torch.randn(1, 3, 5, 4)
        averages = torch.stack(
            [
                x[0, top : top + 2, left : left + 2].flatten(0, 1).mean(0)
                for top in (0, 2)
                for left in (0, 2, 4)
            ]
        )
        q = layer.global_q(x.permute(0, 3, 1, 2)).flatten(2)[0].view(2, 2, 15)
        k, v = layer.global_kv(averages.t()[None, :, :, None])[0].view(2, 2, 2, 6)
        weights = (q.transpose(1, 2) @ k / 2**0.5).softmax(-1)
        y = (weights @ v.transpose(1, 2)).transpose(1, 2).reshape(1, 4, 3, 5)
        torch.testing.assert_close(layer(x), layer.proj(y).permute(0, 2, 3, 1))

    def test_a_branch_without_heads_has_no_weights(self):
        keys = {key.split(".")[0] for key, _ in AttnConv(8, [2, 0], [3], pool=2).named_parameters()}
        assert keys == {"qkvs", "convs", "act_blocks", "proj"}
        keys = {key.split(".")[0] for key, _ in AttnConv(8, [0, 2], [3], pool=2).named_parameters()}
        assert keys == {"global_q", "global_kv", "proj"}

    def test_context_weighs_the_shared_weights_between_minus_one_and_one(self):
        layer, x = AttnConv(8, [2, 0], [3], pool=1).eval(), torch.randn(1, 6, 6, 8)
        torch.nn.init.zeros_(layer.act_blocks[0].act_block[2].weight)
        torch.nn.init.constant_(layer.act_blocks[0].act_block[2].bias, 1e4)
        nchw = x.permute(0, 3, 1, 2)
        shared = layer.convs[0](layer.qkvs[0](nchw))[:, 16:]
        torch.testing.assert_close(layer(x), layer.proj(shared).permute(0, 2, 3, 1))


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"window_sizes": [4]}, "window_sizes: found 1 entries.*each of 2 depths"),
            ({"num_heads": [3, 4]}, "3 does not divide 8, the width of stage 1"),
            ({"group_splits": [[1, 1], [2, 1]]}, r"group_splits.*\[2, 1\] in stage 2.*num_heads = 4"),
            ({"group_splits": [[1, 1, 0], [2, 2]]}, "group_splits.*in stage 1, expected 2 numbers"),
        ],
        ids=str,
    )
    def test_that_make_no_network_say_so(self, options, message):
        with pytest.raises(ValueError, match=message):
            tiny(**options)


class TestTraining:
    def test_checkpointing_changes_neither_results_nor_gradients_nor_statistics(self):
        x, results = torch.rand(2, 3, 32, 32), []
        for use_checkpoint in (False, True):
            net = tiny(use_checkpoint=use_checkpoint).train()
            net(x).square().mean().backward()
            results.append([*(p.grad for p in net.parameters()), *net.buffers()])
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))

    def test_bf16_autocast_trains(self):
        net, x = tiny().train(), torch.rand(4, 3, 32, 32)
        with torch.autocast("cpu", torch.bfloat16):
            y = net(x)
        y.float().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
        torch.testing.assert_close(y.float(), net(x), atol=0.05, rtol=0.05)

    @pytest.mark.parametrize("mode", ["train", "eval"])
    @pytest.mark.parametrize("size", [32, 30])
    def test_compiling_captures_one_whole_graph(self, mode, size):
        net, x = tiny().train(mode == "train"), torch.rand(2, 3, size, 36)
        compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=False)
        torch.testing.assert_close(compiled(x), net(x))
        compiled(x).mean().backward()

"""CAT-Net equals the released code in its released variant; in the paper's, masks and rounds matter."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import SHIPPED, load
from reference import filled
from torch import Tensor
from torchvision import models

import basicsr_ext as bx
from basicsr_ext.archs.catnet_arch import (
    Attention,
    CATNet,
    CATNetOutput,
    position_weights,
    prior_mask,
    prototypes,
    resize,
)
from basicsr_ext.archs.layers.dilated_resnet import dilated_resnet, load_backbone

TINY = {"backbone": "resnet18", "stages": 2, "dim": 16}
SWITCHES = [
    {"blocks": 0},
    {"cross_attention": "support_to_query"},
    {"cross_attention": "query_to_support"},
    {"cross_attention": "none"},
    {"masks": False},
    {"prior": False},
    {"background": "threshold"},
]
FIXTURE = load(SHIPPED / "catnet_train_64.json")


def tiny(**options: object) -> CATNet:
    torch.manual_seed(0)
    net = bx.build_network({"type": "CATNet", **TINY, **options})
    assert isinstance(net, CATNet)
    return net.double().eval()


def released(size: tuple[int, int] = (4, 4)) -> CATNet:
    return tiny(variant="released", feature_size=list(size))


def episode(B: int = 1, S: int = 1, size: tuple[int, int] = (32, 32)) -> tuple[Tensor, Tensor, Tensor]:
    """Return support images, masks of half of the pixels in one piece, and query images."""
    generator = torch.Generator().manual_seed(B + S)
    supports = torch.randn(B, S, 3, *size, dtype=torch.float64, generator=generator)
    masks = (torch.arange(size[0])[:, None] < size[0] / 2).expand(B, S, *size).long().clone()
    return supports, masks, torch.randn(B, 3, *size, dtype=torch.float64, generator=generator)


def total(output: CATNetOutput) -> Tensor:
    return output.query_logits.square().mean() + output.support_logits.square().mean()


def same(a: CATNetOutput, b: CATNetOutput) -> None:
    torch.testing.assert_close(tuple(a), tuple(b))


@pytest.fixture(scope="module")
def net() -> CATNet:
    """The released network of FIXTURE."""
    return filled(CATNet(variant="released", feature_size=[8, 8]), FIXTURE)


class TestRelease:
    def test_the_state_dict_has_the_released_keys(self, net):
        meta = FIXTURE.meta
        shapes = {key: list(value.shape) for key, value in net.state_dict().items()}
        assert {key: shape for key, shape in shapes.items() if key not in meta["derived"]} == meta["keys"]
        assert shapes.keys() >= set(meta["derived"])
        assert sum(p.numel() for p in net.parameters()) == meta["params"]

    def test_what_has_no_gradient_in_the_release_is_not_trained(self, net):
        frozen = [key for key, p in net.named_parameters() if not p.requires_grad]
        assert sorted(frozen) == sorted(FIXTURE.meta["keys_without_gradient"])

    def test_every_parameter_has_the_released_gradient(self, net):
        support, query, masks, labels = map(torch.from_numpy, FIXTURE.inputs())
        output = net(support[:, None], masks[:, None], query)
        weight = torch.tensor([0.1, 1.0], dtype=torch.float64)
        loss = F.cross_entropy(output.query_logits[:, 0], labels.long(), weight)
        loss = loss + F.cross_entropy(output.support_logits[:, 0], masks.long())
        loss.backward()
        assert loss.item() == pytest.approx(FIXTURE.meta["loss"]["value"])
        norms = {key: p.grad.norm().item() for key, p in net.named_parameters() if p.grad is not None}
        assert norms == pytest.approx(FIXTURE.meta["param_grad_l2"])

    def test_cross_attention_does_not_reach_the_output(self):
        net, inputs = released(), episode()
        before = net(*inputs)
        net.cross_attention.requires_grad_(False).mlp[0].weight.fill_(1.0)
        same(net(*inputs), before)

    def test_images_of_another_size_are_refused(self):
        with pytest.raises(ValueError, match=r"images of 32 x 40 have features of 4 x 5.*\[4, 4\].*'paper'"):
            released()(*episode(size=(32, 40)))


class TestEpisodes:
    @pytest.mark.parametrize("size", [(1, 1), (5, 17), (33, 64)], ids=str)
    @pytest.mark.parametrize("shots", [1, 3])
    def test_of_any_size_and_number_of_shots_are_segmented(self, size, shots):
        output = tiny(blocks=2)(*episode(2, shots, size))
        assert output.query_logits.shape == (2, 3, 2, *size)
        assert output.support_logits.shape == (2, shots, 2, *size)
        assert output.alignable.shape == (2,)
        assert output.foreground.shape == (2, *size)
        assert all(logits.isfinite().all() for logits in output[:2])

    @pytest.mark.parametrize("make", [tiny, released])
    def test_do_not_see_each_other(self, make):
        net, inputs = make(), episode(2, 2)
        together = net(*inputs)
        for i in range(2):
            same(net(*(x[i : i + 1] for x in inputs)), CATNetOutput(*(x[i : i + 1] for x in together)))

    @pytest.mark.parametrize("make", [tiny, released])
    def test_with_a_shot_twice_are_those_with_it_once(self, make):
        net, (images, masks, query) = make(), episode()
        once = net(images, masks, query)
        twice = net(images.repeat(1, 2, 1, 1, 1), masks.repeat(1, 2, 1, 1), query)
        same(twice, once._replace(support_logits=once.support_logits.repeat(1, 2, 1, 1, 1)))

    def test_are_left_as_they_were(self):
        inputs = episode()
        copies = [x.clone() for x in inputs]
        tiny().train()(*inputs)
        assert all(torch.equal(a, b) for a, b in zip(inputs, copies, strict=True))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({0: (1, 3, 32, 32)}, r"support_images: found \[1, 3, 32, 32\], expected \(B, S, 3, H, W\)"),
            ({0: (1, 1, 1, 32, 32)}, "support_images"),
            ({0: (1, 0, 3, 32, 32)}, "support_images"),
            ({1: (1, 32, 32)}, r"support_masks: found \[1, 32, 32\], expected \[1, 1, 32, 32\]"),
            ({2: (1, 3, 32, 40)}, r"query_images: found \[1, 3, 32, 40\], expected \[1, 3, 32, 32\]"),
        ],
        ids=str,
    )
    def test_of_the_wrong_shape_say_so(self, change, message):
        inputs = [torch.zeros(change.get(i, x.shape)) for i, x in enumerate(episode())]
        with pytest.raises(ValueError, match=message):
            tiny()(*inputs)


class TestSupportMasks:
    def test_mean_the_same_as_bool_or_numbers(self):
        net, (images, masks, query) = tiny(), episode()
        same(net(images, masks.bool(), query), net(images, masks.float(), query))

    def test_leave_out_labels_that_are_neither_class(self):
        net, (images, masks, query) = tiny(), episode()
        background, ignored, void = (masks.clone() for _ in range(3))
        ignored[..., -8:, :], void[..., -8:, :] = 255, 7
        results = [net(images, labels, query) for labels in (background, ignored, void)]
        same(results[1], results[2])
        assert not torch.allclose(results[0].query_logits, results[1].query_logits)

    @pytest.mark.parametrize("value", [0, 1])
    @pytest.mark.parametrize("make", [tiny, released])
    def test_of_one_class_have_finite_results_and_gradients(self, make, value):
        net, (images, masks, query) = make(), episode()
        output = net(images, torch.full_like(masks, value), query)
        total(output).backward()
        assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
        assert total(output).isfinite()

    def test_of_a_single_pixel_stay_visible(self):
        net, (images, masks, query) = tiny(blocks=1), episode()
        seen = foregrounds(net)
        pixel = torch.zeros_like(masks)
        pixel[0, 0, 12, 20] = 1
        net(images, pixel, query)
        assert seen[0].view(4, 4).nonzero().tolist() == [[1, 2]]


def foregrounds(net: CATNet) -> list[Tensor | None]:
    """Return a list that will hold the foreground of every call of the cross attention."""
    seen: list[Tensor | None] = []
    net.cross_attention.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[2]))
    return seen


class TestRounds:
    def test_predict_once_each_and_once_before(self):
        inputs = episode()
        four, two = (tiny(blocks=count)(*inputs).query_logits for count in (4, 2))
        assert four.shape[1] == 5
        torch.testing.assert_close(four[:, :3], two)

    def test_see_the_mask_of_the_round_before(self):
        net, inputs = tiny(), episode(size=(64, 64))
        masks = foregrounds(net)
        scores, score = [], net._scores
        net._scores = lambda *x: scores.append(score(*x)) or scores[-1]
        net(*inputs)
        for before, mask in zip(scores[:3], masks[3::2], strict=True):
            assert torch.equal(mask, before[:, 0].softmax(1)[:, 1] >= 0.4)
        assert len({tuple(mask.flatten().tolist()) for mask in masks[1::2]}) > 1

    def test_all_have_a_gradient_from_the_last_result_alone(self):
        net = tiny()
        results: list[Tensor] = []
        for attention in (net.self_attention, net.cross_attention):
            attention.register_forward_hook(lambda _, __, y: results.append(y))
            attention.register_forward_hook(lambda _, __, y: y.retain_grad())
        net(*episode()).query_logits[:, -1].square().mean().backward()
        assert len(results) == 4 * 3
        assert all(y.grad is not None and y.grad.norm() > 0 for y in results)

    @pytest.mark.parametrize("last", range(1, 5))
    def test_train_cross_attention_each(self, last):
        net = tiny()
        net(*episode()).query_logits[:, last].square().mean().backward()
        assert all(p.grad is not None and p.grad.norm() > 0 for p in net.cross_attention.mlp.parameters())
        assert net.cross_attention.query.weight.grad.norm() > 0


class TestPaper:
    """The rounds, once more: one episode, feature maps, enlarged features, selected positions."""

    @staticmethod
    def attend(net: Attention, x: Tensor, contexts: Tensor, masks: Tensor) -> Tensor:
        q, k, v = net.query(x).flatten(1), net.key(contexts), net.value(contexts)
        k, v = (y.transpose(0, 1)[:, masks] for y in (k, v))
        y = v @ (q.T @ k / len(q) ** 0.5).softmax(1).T
        return net.norm(x.flatten(1).T + net.mlp(y.T)).T.view_as(x)

    @staticmethod
    def visible(mask: Tensor, grid: tuple[int, int]) -> Tensor:
        z = torch.ones(1, 1, *grid, dtype=torch.float64, requires_grad=True)
        pixels = F.interpolate(z, mask.shape, mode="bilinear")[0, 0]
        foreground, whole = (
            torch.autograd.grad(y.sum(), z, retain_graph=True) for y in (pixels[mask], pixels)
        )
        share = (foreground[0] / whole[0])[0, 0]
        return share >= 0.4 * share.max()

    def segment(self, net: CATNet, images: Tensor, masks: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        *supports, q = net.encoder(torch.cat([images, query[None]]))
        everywhere = torch.ones_like(q[0], dtype=torch.bool)
        seen = [self.visible(mask == 1, q.shape[1:]) for mask in masks]

        def prototype(value: int) -> Tensor:
            enlarged = [F.interpolate(x[None], masks.shape[1:], mode="bilinear")[0] for x in supports]
            means = [
                x[:, mask == value].sum(1) / (mask == value).sum()
                for x, mask in zip(enlarged, masks, strict=True)
            ]
            return torch.stack(means).mean(0)[:, None, None]

        pooled = prototype(1).expand_as(q)
        keys = torch.cat([x[:, mask] for x, mask in zip(supports, seen, strict=True)], 1)
        best = F.cosine_similarity(q[:, None], keys[:, :, None, None], dim=0).amax(0)
        best = best.clamp(min=0)  # of positions that are not foreground
        prior = (best - best.min()) / (best.max() - best.min())
        q = net.conv_fusion(torch.cat([q, pooled, prior[None]])).relu()
        supports = [net.support_fusion(torch.cat([x, pooled])).relu() for x in supports]
        scores = [net.classifier(q)]
        for _ in range(net.blocks):
            q, *supports = (
                self.attend(net.self_attention, x, x[None], everywhere[None]) for x in (q, *supports)
            )
            predicted = scores[-1].softmax(0)[1] >= 0.4
            q, *supports = (
                self.attend(net.cross_attention, q, torch.stack(supports), torch.stack(seen)),
                *(self.attend(net.cross_attention, x, q[None], predicted[None]) for x in supports),
            )
            scores.append(self.scores(q, [prototype(0), prototype(1)]))
        predicted = scores[-1][1] > scores[-1][0]
        classes = [(q * mask).sum((1, 2), True) for mask in (~predicted, predicted)]  # length is no matter
        aligned = [self.scores(x, classes) for x in supports]
        return tuple(
            F.interpolate(torch.stack(x), query.shape[1:], mode="bilinear") for x in (scores, aligned)
        )

    @staticmethod
    def scores(x: Tensor, classes: list[Tensor]) -> Tensor:
        return torch.stack([20 * F.cosine_similarity(x, c, dim=0) for c in classes])

    @pytest.mark.parametrize("shots", [1, 2])
    def test_describes_what_is_computed(self, shots):
        net, (images, masks, queries) = tiny(blocks=3), episode(2, shots, (40, 27))
        masks[1], masks[:, 1:] = masks[1].flip(1), masks[:, 1:].roll(13, 2)
        masks[0, 0, :, 20:] = 255
        got = net(images, masks, queries)
        for b in range(2):
            expected = self.segment(net, images[b], masks[b], queries[b])
            torch.testing.assert_close((got[0][b], got[1][b]), expected, rtol=1e-5, atol=1e-5)


class TestSwitches:
    @pytest.mark.parametrize(
        "options", [{}, *SWITCHES, {"variant": "released", "feature_size": [4, 4]}], ids=str
    )
    def test_leave_no_parameter_without_gradient(self, options):
        net = tiny(**options).train()
        total(net(*episode(2))).backward()
        without = [key for key, p in net.named_parameters() if p.requires_grad and p.grad is None]
        assert not without

    @pytest.mark.parametrize(
        ("cross_attention", "contexts"),
        [
            ("both", [48, 16]),
            ("support_to_query", [48]),
            ("query_to_support", [16]),
        ],
    )
    def test_directions_choose_what_is_attended_to(self, cross_attention, contexts):
        net = tiny(blocks=1, cross_attention=cross_attention)
        seen = foregrounds(net)
        net(*episode(S=3))
        assert [mask.shape[1] for mask in seen] == contexts

    def test_without_cross_attention_there_is_none(self):
        assert not any("cross" in key for key in tiny(cross_attention="none").state_dict())

    def test_without_masks_all_positions_are_attended_to(self):
        net = tiny(masks=False)
        seen = foregrounds(net)
        net(*episode())
        assert seen == [None] * 8

    def test_masks_change_the_result_but_not_the_first_prediction(self):
        inputs = episode()
        with_masks, without = (tiny(masks=masks)(*inputs).query_logits for masks in (True, False))
        torch.testing.assert_close(with_masks[:, 0], without[:, 0])
        assert (with_masks[:, 1:] - without[:, 1:]).abs().amin((0, 2, 3, 4)).all()

    def test_the_prior_is_one_channel_of_the_query(self):
        net, inputs = tiny(), episode()
        assert net.conv_fusion.in_channels == tiny(prior=False).conv_fusion.in_channels + 1
        before = net(*inputs).query_logits
        with torch.no_grad():
            net.conv_fusion.weight[:, -1] = 0
        assert not torch.allclose(net(*inputs).query_logits, before)

    def test_a_threshold_stands_for_the_background(self):
        net, inputs = tiny(background="threshold"), episode()
        lower, higher = {}, {}
        for t, logits in ((-20.0, lower), (0.0, higher)):
            net.t.data.fill_(t)
            logits["query"] = net(*inputs).query_logits[:, 1]
        assert not lower["query"][:, 0].any()
        assert (lower["query"][:, 1] < higher["query"][:, 1]).all()


class TestAttention:
    @staticmethod
    def inputs() -> tuple[Attention, Tensor, Tensor]:
        torch.manual_seed(0)
        return Attention(16).double(), *torch.randn(2, 2, 6, 16, dtype=torch.float64)

    def test_sees_the_foreground_only(self):
        net, x, context = self.inputs()
        foreground = torch.tensor([[1, 1, 0, 0, 1, 0], [0, 0, 0, 1, 1, 1]]).bool()
        expected = [net(x[i, None], context[i, None, foreground[i]]) for i in range(2)]
        torch.testing.assert_close(net(x, context, foreground), torch.cat(expected))

    def test_adds_nothing_of_the_context_where_it_has_no_foreground(self):
        net, x, context = self.inputs()
        context.requires_grad_()
        got = net(x, context, torch.zeros(2, 6, dtype=torch.bool))
        torch.testing.assert_close(got, net.norm(x + net.mlp(torch.zeros_like(x))))
        (gradient,) = torch.autograd.grad(got.sum(), context)
        assert torch.equal(gradient, torch.zeros_like(context))


sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))


class TestSizesOfMaps:
    @settings(deadline=None)
    @given(sizes, sizes, st.booleans())
    def test_resizing_is_bilinear_interpolation(self, before, after, align_corners):
        x = torch.rand(2, 3, *before, dtype=torch.float64)
        expected = F.interpolate(x, after, mode="bilinear", align_corners=align_corners)
        torch.testing.assert_close(resize(x, after, align_corners), expected)

    @settings(deadline=None)
    @given(sizes, sizes)
    def test_sums_of_enlarged_features_are_weighted_sums_of_features(self, small, large):
        features = torch.rand(5, *small, dtype=torch.float64)
        mask = torch.rand(*large, dtype=torch.float64)
        enlarged = F.interpolate(features[None], large, mode="bilinear")[0]
        expected = (enlarged * mask).sum((1, 2))
        torch.testing.assert_close((features * position_weights(mask, small)).sum((1, 2)), expected)


def test_prototypes_are_means_over_the_masks_averaged_over_shots():
    features = torch.rand(2, 3, 6, 4, dtype=torch.float64)
    masks = torch.rand(2, 3, 2, 6) > 0.4
    masks[1, 2, 1] = False
    got = prototypes(features, masks.double())
    for b, c in itertools.product(range(2), range(2)):
        means = [features[b, s, masks[b, s, c]].sum(0) / max(masks[b, s, c].sum(), 1) for s in range(3)]
        torch.testing.assert_close(got[b, c], torch.stack(means).mean(0), rtol=2e-5, atol=0)


def test_the_prior_is_the_largest_cosine_stretched_to_the_unit_interval():
    query, support = torch.randn(2, 5, 8, dtype=torch.float64), torch.randn(2, 7, 8, dtype=torch.float64)
    foreground = torch.tensor([[1, 1, 0, 0, 1, 0, 1.0], [0, 0, 0, 1, 1, 1, 0]], dtype=torch.float64)
    cosines = F.cosine_similarity(query[:, :, None], support[:, None] * foreground[:, None, :, None], dim=3)
    best = cosines.amax(2)
    low, high = best.amin(1, keepdim=True), best.amax(1, keepdim=True)
    got = prior_mask(query, support, foreground)
    torch.testing.assert_close(got, (best - low) / (high - low), rtol=1e-5, atol=1e-6)


def test_the_result_is_where_the_last_foreground_exceeds_the_background():
    logits = torch.tensor([[[9.0, 9.0, 0.0], [0.0, 0.0, 9.0]], [[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]]])
    output = CATNetOutput(logits[None, :, :, None], torch.zeros(0), torch.zeros(0))
    assert output.foreground.tolist() == [[[True, False, False]]]


class TestAlignment:
    def test_is_possible_where_the_query_has_some_foreground(self):
        net, inputs = tiny(blocks=0), episode(size=(8, 32))
        background, foreground = net(*inputs).query_logits[0, 0]
        margin = (foreground - background).max().item()
        for bias, possible in ((margin - 1e-6, True), (margin + 100, False)):
            net.classifier[2].bias.data[0] += bias
            output = net(*inputs)
            net.classifier[2].bias.data[0] -= bias
            assert output.alignable.tolist() == [possible]
            assert not output.foreground.all()

    def test_segments_the_support_by_the_query(self):
        net, (images, masks, query) = tiny(), episode()
        before = net(images, masks, query).support_logits
        assert not torch.allclose(net(images, masks, query.flip(2)).support_logits, before)


class TestBackbone:
    @pytest.mark.parametrize("name", ["resnet50", "resnet101"])
    def test_is_the_one_of_deeplabv3(self, name):
        build = getattr(models.segmentation, f"deeplabv3_{name}")
        theirs = build(weights=None, weights_backbone=None).backbone.double().eval()
        ours, channels = dilated_resnet(name)
        ours.double().eval().load_state_dict(theirs.state_dict())
        x = torch.rand(1, 3, 17, 24, dtype=torch.float64)
        torch.testing.assert_close(ours(x), theirs(x)["out"])
        assert ours(x).shape == (1, channels, 3, 3)

    @pytest.mark.parametrize("name", ["resnet18", "resnet34"])
    def test_of_small_blocks_is_dilated_alike(self, name):
        small, large = (dict(dilated_resnet(which)[0].named_modules()) for which in (name, "resnet50"))
        for layer, block, conv in itertools.product((3, 4), (0, 1), (1, 2)):
            ours = small[f"layer{layer}.{block}.conv{conv}"]
            theirs = large[f"layer{layer}.{block}.conv2"]
            assert (ours.dilation, ours.padding, ours.stride) == (theirs.dilation, theirs.padding, (1, 1))

    @pytest.mark.parametrize("stages", [2, 3, 4])
    def test_stops_after_a_stage(self, stages):
        net, channels = dilated_resnet("resnet18", stages)
        assert net(torch.rand(1, 3, 64, 40)).shape == (1, channels, 8, 5)

    def test_of_another_number_of_stages_is_refused(self):
        with pytest.raises(ValueError, match="stages: found 1, expected 2, 3 or 4"):
            tiny(stages=1)


class TestBackboneWeights:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch):
        """Use an empty cache; without being asked to, nothing is downloaded."""
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.setattr(torch.hub, "_hub_dir", None)
        monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("downloads"))
        (tmp_path / "hub/checkpoints").mkdir(parents=True)
        return tmp_path / "hub/checkpoints"

    @pytest.mark.parametrize("prefix", ["", "backbone."])
    def test_come_from_a_file_of_a_classifier_or_of_deeplab(self, tmp_path, prefix):
        theirs = models.resnet18().state_dict()
        torch.save({prefix + key: value for key, value in theirs.items()}, tmp_path / "weights.pth")
        net = bx.build_network({"type": "CATNet", **TINY, "backbone_weights": str(tmp_path / "weights.pth")})
        own = net.encoder.backbone.state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in own.items())

    def test_come_from_torchs_cache(self, cache):
        theirs = models.resnet18().state_dict()
        torch.save(theirs, cache / "resnet18-f37072fd.pth")
        net = tiny(backbone_weights="imagenet")
        assert torch.equal(net.encoder.backbone.conv1.weight.float(), theirs["conv1.weight"])

    def test_that_are_not_cached_are_asked_for(self, cache):
        with pytest.raises(FileNotFoundError) as caught:
            tiny(backbone="resnet50", backbone_weights="coco")
        file = "deeplabv3_resnet50_coco-cd0a2569.pth"
        url = f"https://download.pytorch.org/models/{file}"
        assert f"not in torch's cache; save {url} as {cache / file}" in str(caught.value)
        assert "'download: true'" in str(caught.value)

    def test_are_downloaded_on_demand(self, cache, monkeypatch):
        def download(url: str, file: str, digest: str, progress: bool) -> None:
            assert (url, digest) == ("https://download.pytorch.org/models/resnet18-f37072fd.pth", "f37072fd")
            torch.save(models.resnet18().state_dict(), file)

        monkeypatch.setattr(torch.hub, "download_url_to_file", download)
        tiny(backbone_weights="imagenet", download=True)
        assert [file.name for file in cache.iterdir()] == ["resnet18-f37072fd.pth"]

    def test_that_cannot_be_downloaded_are_asked_for(self, monkeypatch):
        def download(*_: object, **__: object) -> None:
            raise OSError("no route to host")

        monkeypatch.setattr(torch.hub, "download_url_to_file", download)
        with pytest.raises(FileNotFoundError, match=r"download failed \(no route to host\); save https://"):
            tiny(backbone_weights="imagenet", download=True)

    def test_of_the_released_spelling_are_cocos(self):
        with pytest.raises(FileNotFoundError, match="'coco' of resnet101 is not in torch's cache"):
            CATNet(use_coco_init=True)

    def test_of_another_network_name_the_file(self, tmp_path):
        torch.save(models.resnet34().state_dict(), tmp_path / "resnet34.pth")
        with pytest.raises(ValueError, match=r"resnet34\.pth does not hold a resnet50"):
            load_backbone(dilated_resnet("resnet50")[0], "resnet50", str(tmp_path / "resnet34.pth"))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"backbone_weights": "coco"}, "none of resnet18 from COCO"),
            ({"backbone_weights": "image-net"}, "'image-net' is neither 'imagenet', 'coco' nor a file"),
            ({"backbone_weights": "imagenet", "use_coco_init": True}, "'imagenet' contradicts use_coco_init"),
        ],
        ids=str,
    )
    def test_that_do_not_exist_say_so(self, options, message):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            tiny(**options)


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"variant": "release"}, "variant: found 'release', expected one of 'paper', 'released'"),
            ({"cross_attention": "s2q"}, "cross_attention: found 's2q'"),
            ({"background": "none"}, "background: found 'none'"),
            ({"backbone": "resnet152"}, "backbone: found 'resnet152'"),
            ({"feature_size": [8, 8]}, "feature_size.*variant 'released'"),
            ({"variant": "released", "feature_size": [8]}, r"feature_size: found \[8\]"),
            ({"variant": "released", "blocks": 2}, "blocks: variant 'released'.*leave blocks out"),
            ({"dim": 12}, "dim: found 12, expected a multiple of 8"),
            ({"blocks": -1}, "blocks: found -1"),
            ({"mask_threshold": 1.5}, "mask_threshold: found 1.5"),
        ],
        ids=str,
    )
    def test_that_make_no_network_say_so(self, options, message):
        with pytest.raises(ValueError, match=message):
            tiny(**options)


class TestPrecision:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize("make", [tiny, released])
    def test_of_the_weights_is_that_of_the_result(self, make, dtype):
        supports, masks, queries = episode()
        output = make().to(dtype)(supports.to(dtype), masks, queries.to(dtype))
        assert output.query_logits.dtype == output.support_logits.dtype == dtype
        torch.testing.assert_close(
            output.query_logits[:, 0].double(), make()(*episode()).query_logits[:, 0], rtol=0.1, atol=0.1
        )

    def test_bf16_autocast_trains_and_returns_float32(self):
        net = tiny().float().train()
        supports, masks, queries = episode(2)
        inputs = (supports.float(), masks, queries.float())
        with torch.autocast("cpu", torch.bfloat16):
            output = net(*inputs)
        assert output.query_logits.dtype == output.support_logits.dtype == torch.float32
        total(output).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


class TestCompile:
    @pytest.mark.parametrize("make", [tiny, released])
    @pytest.mark.parametrize("mode", ["train", "eval"])
    def test_captures_one_whole_graph(self, make, mode):
        net, inputs = make().train(mode == "train"), episode(1, 2)
        compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=False)
        same(compiled(*inputs), net(*inputs))

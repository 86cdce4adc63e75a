"""Weights load from every wrapping in use, safely, and say exactly what fitted."""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

import basicsr_ext as bx
from basicsr_ext.archs.weights import (
    Part,
    WeightsError,
    WeightsFileError,
    load_weights,
    read_checkpoint,
)

TINY = {"window_size": [2, 4], "embed_dim": 8, "num_feat": 2, "depth": 1, "depths": [2], "num_heads": [2]}


def edt(seed: int = 0, **tasks: object) -> nn.Module:
    torch.manual_seed(seed)
    return bx.build_network({"type": "EDT", **TINY, **(tasks or {"scales": [2]})})


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


class TestWrappings:
    @pytest.mark.parametrize("entry", ["params_ema", "params", "state_dict", "model", "net"])
    @pytest.mark.parametrize(
        "prefix", ["", "module.", "_orig_mod.", "net_g.", "model.", "net_g._orig_mod.", "module._orig_mod."]
    )
    def test_entries_and_prefixes_are_unwrapped(self, entry, prefix):
        source, net = edt(1), edt(2)
        state = {prefix + key: value for key, value in source.state_dict().items()}
        load_weights(net, {entry: state, "epoch": 3, "step": torch.tensor(7)})
        assert same(net, source)

    def test_bare_weights_load(self):
        source, net = edt(1), edt(2)
        load_weights(net, source.state_dict())
        assert same(net, source)

    def test_averaged_weights_are_preferred(self):
        averaged, current, net = edt(1), edt(2), edt(3)
        load_weights(net, {"params": current.state_dict(), "params_ema": averaged.state_dict()})
        assert same(net, averaged)

    def test_param_key_decides(self):
        averaged, current, net = edt(1), edt(2), edt(3)
        content = {"params": current.state_dict(), "params_ema": averaged.state_dict()}
        load_weights(net, content, param_key="params")
        assert same(net, current)

    @pytest.mark.parametrize(
        ("content", "present"),
        [({"state_dict": {"a": torch.ones(1)}}, "'state_dict'"), ({"a": torch.ones(1)}, "bare")],
    )
    def test_an_absent_param_key_names_those_present(self, content, present):
        with pytest.raises(ValueError, match=f"no entry 'params_ema'; it has {present}"):
            load_weights(edt(), content, param_key="params_ema")

    def test_params_stand_in_for_an_absent_param_key_and_the_report_says_so(self):
        source, net = edt(1), edt(2)
        report = load_weights(net, {"params": source.state_dict(), "state_dict": {}}, param_key="params_ema")
        assert same(net, source)
        assert (report.entry, report.other_entries) == ("params", ("state_dict",))
        assert str(report).endswith(" tensors of 'params' taken")

    @pytest.mark.parametrize("entry", ["", "params_ema", "state_dict"])
    def test_without_params_the_default_key_takes_what_there_is(self, entry):
        source, net = edt(1), edt(2)
        state = source.state_dict()
        assert load_weights(net, {entry: state} if entry else state, param_key="params").entry == entry
        assert same(net, source)

    def test_what_lies_beside_a_lightning_network_is_left(self):
        source, net = edt(1), edt(2)
        state = {f"net_g.{key}": value for key, value in source.state_dict().items()}
        report = load_weights(net, {"state_dict": {**state, "loss.vgg.weight": torch.ones(1)}})
        assert same(net, source)
        assert report.left == ("loss.vgg.weight",)

    def test_a_wrapped_network_is_loaded_inside(self):
        source, net = edt(1), edt(2)
        load_weights(nn.DataParallel(net), source.state_dict())
        assert same(net, source)
        load_weights(torch.compile(edt(3), backend="eager"), source.state_dict())  # pyright: ignore

    def test_content_without_weights_is_refused(self):
        with pytest.raises(WeightsFileError, match=r"no weights; its entries are \['iter'\]"):
            load_weights(edt(), {"iter": 3})


class TestFit:
    def test_derived_buffers_of_a_foreign_checkpoint_are_ignored(self):
        source, net = edt(1), edt(2)
        masks = {"body.layers.0.residual_group.blocks.1.attn_mask_h": torch.zeros(9, 8, 8)}
        report = load_weights(net, {**source.state_dict(), **masks})
        assert same(net, source)
        assert report.left == report.unexpected == ()

    def test_a_basicsr_networks_derived_buffers_may_have_another_size(self):
        opt = {"type": "SwinIR", "embed_dim": 4, "depths": [2], "num_heads": [1], "window_size": 4}
        trained, net = (bx.build_network({**opt, "img_size": size}) for size in (8, 16))
        report = load_weights(net, trained.state_dict())
        assert set(report.taken) == dict(net.named_parameters()).keys()

    def test_all_that_does_not_fit_is_listed_in_one_error(self):
        net = edt(1)
        state = dict(edt(2).state_dict())
        del state["body.norm.weight"], state["body.norm.bias"]
        state |= {"extra.one": torch.ones(1), "extra.two": torch.ones(1), "head_sr_x2.0.bias": torch.ones(5)}
        before = {key: value.clone() for key, value in net.state_dict().items()}
        with pytest.raises(WeightsError) as caught:
            load_weights(net, state)
        assert str(caught.value).splitlines() == [
            "the given weights: does not fit EDT",
            "  missing: body.norm.weight",
            "  missing: body.norm.bias",
            "  unexpected: extra.one",
            "  unexpected: extra.two",
            "  shape: head_sr_x2.0.bias is [5] in the weights, [2] in the network",
        ]
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())

    def test_not_strict_loads_what_fits_and_reports_the_rest(self):
        source, net = edt(1), edt(2)
        state = dict(source.state_dict())
        del state["body.norm.weight"]
        state |= {"extra": torch.ones(1), "head_sr_x2.0.bias": torch.ones(5)}
        report = load_weights(net, state, strict=False)
        assert torch.equal(net.state_dict()["body.norm.bias"], source.state_dict()["body.norm.bias"])
        assert (report.missing, report.unexpected) == (("body.norm.weight",), ("extra",))
        assert report.mismatched == (("head_sr_x2.0.bias", (5,), (2,)),)
        assert (
            str(report) == f"{len(report.taken)} tensors taken, 1 missing, 1 unexpected, 1 of another shape"
        )

    @pytest.mark.parametrize("strict", [True, False])
    def test_weights_of_which_nothing_fits_are_refused_in_words(self, strict):
        net = edt(1)
        before = net.state_dict()["body.norm.bias"].clone()
        with pytest.raises(
            WeightsError, match=r"^the given weights: none of its 2 tensors .* fits EDT \(body"
        ):
            load_weights(
                net, {"other.weight": torch.ones(2), "body.norm.bias": torch.ones(99)}, strict=strict
            )
        assert torch.equal(net.state_dict()["body.norm.bias"], before)


class TestTasks:
    def test_a_single_task_network_takes_its_parts_of_a_multi_task_checkpoint(self):
        many, net = edt(1, scales=[2, 3], noise_levels=[15]), edt(2, noise_levels=[15])
        report = load_weights(net, many.state_dict())
        assert same(net, many)
        assert {key.split(".")[0] for key in report.left} == {
            "head_sr_x2",
            "head_sr_x3",
            "tail_sr_x2",
            "tail_sr_x3",
        }
        assert str(report).endswith("left (head_sr_x2, head_sr_x3, tail_sr_x2, tail_sr_x3)")

    def test_a_task_the_checkpoint_lacks_is_missing(self):
        with pytest.raises(WeightsError, match=r"missing: head_sr_x4\.0\.weight"):
            load_weights(edt(1, scales=[4]), edt(2, scales=[2]).state_dict())

    def test_a_new_task_keeps_its_values_where_that_is_wanted(self):
        net, body = edt(1, scales=[4]), edt(2, scales=[2])
        untouched = edt(1, scales=[4]).state_dict()
        report = load_weights(net, body.state_dict(), new_tasks=True)
        for key, value in net.state_dict().items():
            expected = body.state_dict()[key] if key.startswith("body.") else untouched[key]
            assert torch.equal(value, expected), key
        assert {key.partition(".")[0] for key in report.missing} == {"head_sr_x4", "tail_sr_x4"}

    def test_a_new_task_excuses_nothing_else_that_is_missing(self):
        state = dict(edt(2, scales=[2]).state_dict())
        del state["body.norm.weight"]
        with pytest.raises(WeightsError, match=r"missing: body\.norm\.weight") as caught:
            load_weights(edt(1, scales=[4]), state, new_tasks=True)
        assert "head_sr_x4" not in str(caught.value)

    def test_a_part_of_a_task_is_not_a_new_task(self):
        state = {key: v for key, v in edt(2).state_dict().items() if not key.startswith("tail_sr_x2.")}
        with pytest.raises(WeightsError, match=r"missing: tail_sr_x2\."):
            load_weights(edt(1), state, new_tasks=True)

    def test_the_table_counts_tensors_and_values_of_each_module(self):
        many, net = edt(1, scales=[2, 3]), edt(2, scales=[2, 4])
        state = {**many.state_dict(), "tail_sr_x2.extra": torch.ones(7)}
        report = load_weights(net, state, strict=False)

        def count(network, module):
            values = [value for key, value in network.state_dict().items() if key.startswith(f"{module}.")]
            return len(values), sum(value.numel() for value in values)

        assert list(report.parts) == [
            *("body", "head_sr_x2", "tail_sr_x2", "head_sr_x4", "tail_sr_x4", "head_sr_x3", "tail_sr_x3")
        ]
        assert report.parts["body"] == Part(taken=count(net, "body"))
        assert report.parts["tail_sr_x2"] == Part(taken=count(net, "tail_sr_x2"), left=(1, 7))
        assert report.parts["head_sr_x4"] == Part(initialised=count(net, "head_sr_x4"))
        assert report.parts["head_sr_x3"] == Part(left=count(many, "head_sr_x3"))
        heading, *rows = report.table().splitlines()
        assert heading.split("  ")[0] == "module"
        tensors, values = count(net, "head_sr_x4")
        assert rows[3].split() == ["head_sr_x4", "-", str(tensors), f"({values:,})", "-"]

    def test_named_tasks_are_taken_and_the_others_keep_their_values(self):
        many, net = edt(1, scales=[2, 3]), edt(2, scales=[2, 3])
        untouched = edt(2, scales=[2, 3]).state_dict()
        report = load_weights(net, many.state_dict(), tasks=["sr_x3"])
        state = net.state_dict()
        for key, value in many.state_dict().items():
            expected = untouched[key] if "sr_x2" in key else value
            assert torch.equal(state[key], expected), key
        assert all("sr_x2" in key for key in report.left)

    @pytest.mark.parametrize(
        ("task", "message"), [("sr_x9", "not one of the network's"), ("dn_g15", "no parts for task 'dn_g15'")]
    )
    def test_unknown_task_names_are_errors(self, task, message):
        with pytest.raises(ValueError, match=message):
            load_weights(edt(scales=[2], noise_levels=[15]), edt(scales=[2]).state_dict(), tasks=[task])

    def test_a_network_without_tasks_has_none_to_choose(self):
        with pytest.raises(ValueError, match="Linear has no tasks"):
            load_weights(nn.Linear(1, 1), nn.Linear(1, 1).state_dict(), tasks=["sr_x2"])


class TouchesFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TestFiles:
    @pytest.mark.parametrize("name", ["net.pth", "net.pt", "net.ckpt", "net.bin"])
    def test_torch_files_load(self, tmp_path, name):
        source, net = edt(1), edt(2)
        torch.save({"params": source.state_dict()}, tmp_path / name)
        load_weights(net, tmp_path / name)
        assert same(net, source)

    def test_safetensors_files_load(self, tmp_path):
        save_file = pytest.importorskip("safetensors.torch").save_file
        source, net = edt(1), edt(2)
        save_file(source.state_dict(), tmp_path / "net.safetensors")
        load_weights(net, tmp_path / "net.safetensors")
        assert same(net, source)

    @pytest.mark.parametrize("how", ["torch", "torch, old format", "pickle"])
    def test_a_pickle_that_would_run_code_is_refused_and_not_run(self, tmp_path, how):
        target, path = tmp_path / "ran", tmp_path / "evil.pth"
        content = {"params": {"a": torch.ones(1)}, "other": TouchesFile(target)}
        if how == "pickle":
            path.write_bytes(pickle.dumps(content))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
        with pytest.raises(WeightsFileError, match=r"evil\.pth: refused"):
            read_checkpoint(path)
        assert not target.exists()

    def test_a_foreign_object_is_named(self, tmp_path):
        torch.save({"state_dict": {}, "hyper_parameters": argparse.Namespace()}, tmp_path / "lit.ckpt")
        with pytest.raises(WeightsFileError, match=r"lit\.ckpt: refused.*argparse\.Namespace"):
            read_checkpoint(tmp_path / "lit.ckpt")

    @pytest.mark.parametrize("kept", [0.001, 0.5, 0.999])
    @pytest.mark.parametrize("new_format", [True, False])
    def test_a_truncated_file_is_refused(self, tmp_path, kept, new_format):
        path = tmp_path / "half.pth"
        torch.save({"params": {"a": torch.ones(5000)}}, path, _use_new_zipfile_serialization=new_format)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * kept)])
        with pytest.raises(WeightsFileError, match=r"half\.pth: not a checkpoint, or a damaged one"):
            read_checkpoint(path)

    @pytest.mark.parametrize(
        "data", [b"hello world\n", b"\x89PNG\r\n\x1a\n" + bytes(99), b"version 1\noid", b"\0"]
    )
    def test_another_kind_of_file_is_refused(self, tmp_path, data):
        (tmp_path / "other.pth").write_bytes(data)
        with pytest.raises(WeightsFileError, match=r"other\.pth: not a checkpoint"):
            read_checkpoint(tmp_path / "other.pth")

    def test_an_empty_file_is_refused(self, tmp_path):
        (tmp_path / "empty.pth").touch()
        with pytest.raises(WeightsFileError, match=r"empty\.pth: the file is empty"):
            read_checkpoint(tmp_path / "empty.pth")

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
            read_checkpoint(tmp_path / "absent.pth")

    def test_a_lone_tensor_is_not_weights(self, tmp_path):
        torch.save(torch.ones(3), tmp_path / "tensor.pth")
        with pytest.raises(WeightsFileError, match="holds a Tensor, not named weights"):
            read_checkpoint(tmp_path / "tensor.pth")

"""scripts/rescale_schedule.py: published batches on fewer GPUs."""

from __future__ import annotations

import pytest
import rescale_schedule

from basicsr_ext import load_options
from basicsr_ext.config import accumulated, resolved_stages
from basicsr_ext.config.yaml_text import edited
from basicsr_ext.engine.preflight.footprint import Footprint

RESTORMER = [64, 40, 32, 16, 8, 8]
PATCHES = [128, 160, 192, 256, 320, 384]
FILE = """\
# A comment.
name: tiny
num_gpu: 8
datasets:
  train:
    type: SampleImages
    gt_size: 32
    batch_size_per_gpu: 8   # the largest
    mini_batch_sizes: [8, 2]
    iters: [60, 40]
    gt_sizes: [16, 32]
network_g: {type: EDT, scales: [1], window_size: [2, 8], num_feat: 4, embed_dim: 12, depths: [2],
            num_heads: [2], upsampler: pixelshuffledirect}
train:
  # Not too long.
  total_iter: 100
  optim_g: {type: Adam, lr: 2e-4}
  pixel_opt: {type: L1Loss}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.yml"
    path.write_text(FILE.replace("scales: [1]", "scales: [2]").replace("num_gpu", "scale: 2\nnum_gpu"))
    return path


def test_restormers_batches_on_two_gpus_are_accumulated_as_little_as_memory_allows():
    plan = rescale_schedule.keep(RESTORMER, [8, 5, 4, 2, 1, 1], 2)
    assert plan == rescale_schedule.Plan((4,) * 6, (8, 5, 4, 2, 1, 1), tuple(RESTORMER))
    assert rescale_schedule.keep(RESTORMER, [16, 10, 8, 4, 2, 2], 2).accumulated == (2,) * 6
    assert rescale_schedule.keep(RESTORMER, [99] * 6, 8).accumulated == (1,) * 6


def test_each_stage_accumulates_as_little_as_its_patches_allow():
    plan = rescale_schedule.keep(RESTORMER, [9, 6, 3, 2, 3, 1], 2)
    assert plan.accumulated == (4, 4, 8, 4, 2, 4)
    assert plan.micro == (8, 5, 2, 2, 2, 1)


@pytest.mark.parametrize(
    ("largest", "gpus", "words"),
    [
        ([8, 5, 4, 2, 1, 0], 2, ["stage 6 (patch 384): not even one sample fits"]),
        ([99] * 6, 3, ["stage 1 (patch 128): 64 samples cannot be shared out equally among 3 GPUs"]),
    ],
)
def test_stages_that_cannot_keep_their_batch_are_named(largest, gpus, words):
    assert rescale_schedule.keep(RESTORMER, largest, gpus) is None
    told = rescale_schedule.reasons(RESTORMER, largest, PATCHES, gpus)
    assert len(told) == (1 if gpus == 2 else 6)
    for part in words:
        assert any(line.startswith(part) for line in told)


def test_the_nearest_batches_are_those_that_deviate_least():
    plan = rescale_schedule.nearest(RESTORMER, [8, 5, 3, 2, 1, 1], 3)
    assert plan.totals == (63, 39, 33, 15, 9, 9)
    assert plan.accumulated == (3, 13, 11, 5, 3, 3)
    assert rescale_schedule.nearest(RESTORMER, [8, 5, 3, 2, 1, 0], 2) is None
    assert rescale_schedule.nearest([9, 2], [99, 99], 4) == rescale_schedule.Plan((1, 1), (2, 1), (8, 4))


def test_the_written_file_has_the_published_batches_and_every_comment(file, capsys):
    out = file.with_name("out.yml")
    arguments = ["-opt", file, "--gpus", 2, "--memory", 24, "--out", out, "--device", "cpu"]
    assert rescale_schedule.main(list(map(str, arguments))) == []
    told = capsys.readouterr().out
    assert "32 x 1 x 2 = 64" in told
    assert "learning rate: 0.0002, as published" in told
    text = out.read_text()
    assert "# A comment." in text
    assert "batch_size_per_gpu: 32   # the largest" in text
    stages = resolved_stages(load_options(out))
    assert [stage.batch_size_per_gpu for stage in stages] == [32, 8]
    with pytest.raises(Exception, match="exists; name another file with --out, or add --overwrite"):
        rescale_schedule.main(list(map(str, arguments)))


def test_accumulation_is_written_where_memory_is_short(file, monkeypatch):
    small = Footprint(0, 0, 0, 0, 0, {16: 2**30, 32: 2**30}, "estimated")
    monkeypatch.setattr(rescale_schedule, "footprint", lambda *_: small)
    out = file.with_name("tiny_2x10.yml")
    assert rescale_schedule.main(["-opt", str(file), "--gpus", "2", "--memory", "10"]) == []
    written = load_options(out)
    assert written.train.grad_accum == [4, 1]
    assert written.num_gpu == 2
    assert [stage.batch_size_per_gpu for stage in resolved_stages(written)] == [8, 8]
    told = rescale_schedule.main(
        ["-opt", str(file), "--gpus", "3", "--memory", "10", "--out", str(file) + "3"]
    )
    assert told[-1] == "nothing is written; --nearest writes the nearest batches there are"


@pytest.mark.parametrize(
    ("batches", "totals", "rate", "words"),
    [
        ("[2, 2]", [15, 15], 1.875e-4, "learning rate: 0.0002 x new / published batch = 0.0001875"),
        ("[8, 1]", [63, 9], 2e-4, "would be: stage 1 0.000197, stage 2 0.000225"),
    ],
)
def test_the_learning_rate_follows_where_all_stages_change_alike(
    file, monkeypatch, capsys, batches, totals, rate, words
):
    small = Footprint(0, 0, 0, 0, 0, {16: 2**30, 32: 2**30}, "estimated")
    monkeypatch.setattr(rescale_schedule, "footprint", lambda *_: small)
    file.write_text(file.read_text().replace("[8, 2]", batches))
    assert rescale_schedule.main(["-opt", str(file), "--gpus", "3", "--memory", "10", "--nearest"]) == []
    written = load_options(file.with_name("tiny_3x10.yml"))
    assert written.train.optim_g.lr == pytest.approx(rate)
    stages = zip(resolved_stages(written), accumulated(written), strict=True)
    assert [3 * count * stage.batch_size_per_gpu for stage, count in stages] == totals
    assert words in capsys.readouterr().out


def test_batches_per_gpu_of_nobody_knows_how_many_gpus_are_asked_about(file):
    file.write_text(file.read_text().replace("num_gpu: 8", "num_gpu: auto"))
    with pytest.raises(ValueError, match="does not say how many; --from_gpus does"):
        rescale_schedule.main(["-opt", str(file), "--gpus", "2", "--memory", "24"])


@pytest.mark.parametrize(
    ("text", "changes", "expected"),
    [
        ("a: {b: 1}  # c\n", {"a.b": 2}, "a: {b: 2}  # c\n"),
        ("a: {b: 1}\n", {"a.d": 2}, "a: {d: 2, b: 1}\n"),
        ("a:\n  b: [1, 2]  # c\n", {"a.b.1": 30, "a.c": 1e-4}, "a:\n  c: 0.0001\n  b: [1, 30]  # c\n"),
        ("a:\n- {b: 1}\n", {"a.0.b": 5}, "a:\n- {b: 5}\n"),
    ],
)
def test_values_change_and_nothing_else_does(text, changes, expected):
    assert edited(text, changes) == expected


def test_a_key_without_its_section_is_an_error():
    with pytest.raises(KeyError):
        edited("a: 1\n", {"b.c": 1})

"""What a run writes for people: TensorBoard's curves and pictures, one line of numbers a moment."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import tiny_options
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from basicsr_ext import load_options
from basicsr_ext.engine.logger import RunLogger


@pytest.fixture
def logger_of(tmp_path):
    """Return a function that begins or goes on with the records of a run."""
    options = tiny_options(tmp_path)
    options["logger"]["use_tb_logger"] = True

    def begin(iteration=0, enabled=True, validated=True):
        return RunLogger(load_options(options), tmp_path, enabled, iteration, validated)

    return begin


def curves(folder):
    events = EventAccumulator(str(folder / "tb_logger"), {"images": 0, "scalars": 0})
    events.Reload()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    images = {
        tag: [(e.step, e.width, e.height) for e in events.Images(tag)] for tag in events.Tags()["images"]
    }
    return scalars, images


def test_numbers_and_pictures_reach_tensorboard_at_their_iteration(logger_of, tmp_path):
    log = logger_of()
    log.scalars(5, {"l_pix": 0.5, "stage": 2, "note": "words"}, "train")
    log.scalars(8, {"l_pix": 0.25}, "train")
    log.images(8, {"photo": np.zeros((4, 6, 3), np.uint8)}, "val/photos")
    log.close()
    scalars, images = curves(tmp_path)
    assert scalars == {"train/l_pix": [(5, 0.5), (8, 0.25)], "train/stage": [(5, 2.0)]}
    assert images == {"val/photos/photo": [(8, 6, 4)]}


def test_a_resumed_run_removes_what_was_written_after_its_checkpoint(logger_of, tmp_path):
    log = logger_of()
    for iteration in (4, 5):
        log.scalars(iteration, {"l_pix": float(iteration)}, "train")
        log.scalars(iteration, {"psnr": float(iteration)}, "val/photos")
    log.close()
    log = logger_of(4, validated=False)
    log.scalars(4, {"psnr": 9.0}, "val/photos")
    log.scalars(5, {"l_pix": 0.5}, "train")
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"iteration": 4, "kind": "train", "l_pix": 4.0},
        {"iteration": 4, "kind": "val/photos", "psnr": 9.0},
        {"iteration": 5, "kind": "train", "l_pix": 0.5},
    ]
    assert curves(tmp_path)[0]["train/l_pix"] == [(4, 4.0), (5, 0.5)]


def test_a_rank_that_does_not_write_leaves_no_file(logger_of, tmp_path):
    log = logger_of(enabled=False)
    log.scalars(5, {"l_pix": 0.5}, "train")
    log.images(5, {"photo": np.zeros((4, 6, 3), np.uint8)}, "val")
    log.require_files()
    log.close()
    assert not list(tmp_path.iterdir())


def test_weights_and_biases_gets_the_numbers_and_goes_on_with_the_run_it_had(tmp_path, monkeypatch):
    calls = []
    wandb = SimpleNamespace(
        init=lambda **settings: calls.append(settings) or wandb,
        log=lambda numbers, step: calls.append((numbers, step)),
        finish=lambda: calls.append("finish"),
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    options = tiny_options(tmp_path)
    options["logger"]["wandb"] = {"project": "super", "resume_id": "abc"}
    log = RunLogger(load_options(options), tmp_path / "deep/run", True, 0)
    log.scalars(5, {"l_pix": 0.5, "note": "words"}, "train")
    log.close()
    began = {"project": "super", "name": tmp_path.name, "id": "abc", "resume": "allow"}
    assert calls == [{**began, "dir": str(tmp_path / "deep/run")}, ({"train/l_pix": 0.5}, 5), "finish"]

"""What ``--check`` prints: stages, what an iteration costs, and how far that was tried."""

from types import SimpleNamespace

import pytest
import torch
from helpers import tiny_options
from test_step import SGD, small_options

from basicsr_ext import load_options
from basicsr_ext.data.sampling import Stage
from basicsr_ext.engine.build import build_kind, build_parts
from basicsr_ext.engine.failures import StepError
from basicsr_ext.engine.preflight import summary, trial
from basicsr_ext.engine.preflight.rehearsal import stage_batch
from basicsr_ext.engine.preflight.trial import StepCost
from basicsr_ext.engine.validator import Evaluation

CPU = torch.device("cpu")
GIB = 2**30


@pytest.fixture
def tried(monkeypatch):
    """Replace trials: each takes ``seconds``, the process has grown to ``peaks``, one after the other."""

    def pretend(seconds, peaks, state, free=100 * GIB):
        batches, peaks = [], iter(peaks)
        monkeypatch.setattr(trial, "_Trial", lambda *_: SimpleNamespace(state_bytes=lambda: state))
        monkeypatch.setattr(trial, "_times", lambda _, batch: batches.append(batch) or seconds[batch])
        monkeypatch.setattr(trial, "_peak_memory", lambda: next(peaks))
        sysconf = {"SC_AVPHYS_PAGES": free // 4096, "SC_PAGE_SIZE": 4096}
        monkeypatch.setattr(trial.os, "sysconf", sysconf.__getitem__)
        return batches

    return pretend


def costs(ratio):
    return list(trial._on_cpu(None, "few", "all", ratio, 1))


def test_few_samples_tell_what_a_batch_costs_and_the_batch_itself_does_so_better(tried):
    batches = tried({"few": [1.0, 1.5], "all": [3.5, 3.0]}, [10, 150, 420], state=100)
    estimate, measured = costs(4)
    assert estimate == (StepCost(100 + 4 * (150 - 10 - 100), 4.0, 6.0, measured=False), False)
    assert measured == (StepCost(410, 3.0, 3.5, measured=True), True)
    assert batches == ["few", "all"]


@pytest.mark.parametrize(("seconds", "free"), [(5.01, 100 * GIB), (5.0, 519)])
def test_a_batch_that_would_take_too_long_or_half_of_the_memory_is_estimated(tried, seconds, free):
    batches = tried({"few": [seconds]}, [10 * 4096, 150 * 4096], state=100 * 4096, free=free * 4096)
    ((cost, final),) = costs(4)
    assert (cost.memory, cost.measured, final) == (260 * 4096, False, True)
    assert batches == ["few"]


def test_a_batch_of_few_samples_is_tried_once(tried):
    batches = tried({"few": [1.0]}, [10, 150], state=100)
    assert costs(1) == [(StepCost(140, 1.0, 1.0, measured=True), True)]
    assert batches == ["few"]


def test_memory_is_never_less_than_weights_gradients_and_moments(tried):
    tried({"few": [1.0], "all": [1.0]}, [200, 200, 200], state=100)
    assert [cost.memory for cost, _ in costs(2)] == [100, 100]


@pytest.mark.parametrize(
    ("optimizer", "decay", "copies"),
    [(SGD, 0, 2), ({"type": "SGD", "lr": 0.1, "momentum": 0.9}, 0, 3), (SGD, 0.9, 3)],
)
def test_the_state_is_weights_gradients_moments_and_averages(tmp_path, optimizer, decay, copies):
    options = load_options(small_options(tmp_path, optim_g=optimizer, ema_decay=decay))
    parts = build_parts(options, 1, training=True)
    kind = build_kind(options, parts.networks, CPU)
    one = trial._Trial(options, 1, CPU)
    one.run(stage_batch(kind, parts.train_set, parts.stages[0], copies=1))
    weights = sum(4 * parameter.numel() for parameter in parts.networks["net_g"].parameters())
    assert one.state_bytes() == copies * weights


def test_a_trial_accumulates_as_the_stage_does(tmp_path, monkeypatch):
    options = load_options(small_options(tmp_path, grad_accum=[2]))
    parts = build_parts(options, 1, training=True)
    kind = build_kind(options, parts.networks, CPU)
    seen = []
    monkeypatch.setattr(
        trial.TrainingStep, "run", lambda self, number, batches, count: seen.append((len(batches), count))
    )
    trial._Trial(options, 2, CPU).run(stage_batch(kind, parts.train_set, parts.stages[0], copies=1))
    assert seen == [(2, 2)]


def test_times_leave_the_first_iteration_out(monkeypatch):
    clock = iter([1.0, 1.5, 2.0, 2.25, 3.0, 4.0])
    monkeypatch.setattr(trial.time, "perf_counter", lambda: next(clock))
    runs = []
    assert trial._times(SimpleNamespace(run=runs.append), "batch") == [0.5, 0.25, 1.0]
    assert runs == ["batch"] * 4


def printed(capsys):
    return [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]


STAGES = (Stage(3000, 64, 4, grad_accum=3), Stage(1000, 128, 2, grad_accum=6))


def test_stages_are_told_with_their_share_of_iterations_and_pixels(capsys):
    summary._console().print(summary.stage_table(STAGES, ranks=2))
    _, _, one, two = printed(capsys)
    assert " ".join(one) == "1 3,000 64 4 24 72,000 75.0% (42.9% of pixels)"
    assert " ".join(two) == "2 1,000 128 2 24 24,000 25.0% (57.1% of pixels)"
    assert summary._run_iterations(STAGES[1], STAGES) == 1750


def test_scores_stand_beside_those_of_their_baselines(capsys):
    results = {
        "a": Evaluation({"psnr": 30.0, "ssim": 0.9}, {"bicubic": {"psnr": 29.5}}),
        "b": Evaluation({"psnr": 28.0}),
    }
    summary.print_scores(results)
    heading, _, *rows = printed(capsys)
    assert heading == ["data", "set", "psnr", "bicubic", "ssim", "bicubic"]
    assert rows == [["a", "30.0000", "29.5000", "0.9000"], ["b", "28.0000"]]


def test_the_best_score_so_far_stands_beside_each():
    results = {"a": Evaluation({"psnr": 30.0}), "b": Evaluation({"psnr": 28.0})}
    best = {"a": {"psnr": {"value": 31.25, "iteration": 400}}}
    _, _, *rows = summary.scores_in_words(results, best).splitlines()
    assert [row.split() for row in rows] == [["a", "30.0000", "31.2500", "at", "400"], ["b", "28.0000"]]


@pytest.mark.parametrize(
    ("cost", "device", "passes", "words"),
    [
        (StepCost(GIB, 1.0, 1.0, measured=True), "cpu", True, "(batch 2, patch 48, cpu): 1.00 GiB, 1.00 s"),
        ("there is too little memory", "cpu", True, "could not be tried: there is too little memory."),
        ("there is too little memory", "cuda", False, "could not be tried"),
        (StepError("it [fails]"), "cpu", False, "fails: it [fails]"),
    ],
)
def test_the_check_says_whether_the_largest_stage_can_be_trained(
    tmp_path, monkeypatch, capsys, cost, device, passes, words
):
    options = tiny_options(tmp_path)
    # 4,096 pixels in a batch of 16 patches, 4,608 in one of two of the last stage.
    options["datasets"]["train"]["stages"][0]["batch_size_per_gpu"] = 16
    options["train"]["grad_accum"] = [1, 1, 3]
    options = load_options(options)
    parts = build_parts(options, 1, training=True)
    kind = build_kind(options, parts.networks, CPU)
    asked = []

    def step_cost(options, small, batch, ratio, grad_accum, device):
        asked.append((len(small["gt"]), tuple(batch["gt"].shape), ratio, grad_accum))
        if isinstance(cost, Exception):
            raise cost
        return cost

    monkeypatch.setattr(summary, "step_cost", step_cost)
    assert summary.print_check(options, kind, parts, 1, torch.device(device)) is passes
    assert asked == [(2, (2, 3, 48, 48), 1.0, 3)]
    text = " ".join(capsys.readouterr().out.split())
    assert words in text
    parameters = sum(parameter.numel() for parameter in parts.networks["net_g"].parameters())
    assert f"net_g, {parameters:,} parameters" in text
    assert f"datasets.train: {len(parts.train_set)} images" in text

"""What a resumed run keeps of the run it continues, and what it takes from the option file."""

import pytest
import torch
from helpers import same_bits, tiny_options

from basicsr_ext import load_options, train
from basicsr_ext.config import OptionError
from basicsr_ext.engine.build import build_parts
from basicsr_ext.engine.checkpoint import Checkpointer
from basicsr_ext.engine.distributed import World
from basicsr_ext.engine.experiment import starting_point
from basicsr_ext.engine.precision import load_state
from basicsr_ext.engine.resume import resume_problems
from basicsr_ext.engine.trainer import Trainer


@pytest.fixture
def options(tmp_path):
    return tiny_options(tmp_path / "run")


@pytest.fixture
def trained(options, tmp_path):
    """Return the checkpoint at iteration 4 of a finished run of one process."""
    train(load_options(options))
    return Checkpointer(tmp_path / "run").load(4)


def resumed(options, checkpoint):
    options = load_options(options)
    return Trainer(options, build_parts(options, 1, training=True), World(), checkpoint)


def batches(trainer):
    return [stage.batch_size for stage in trainer.stages]


def test_every_further_resume_keeps_the_batch_that_two_ranks_began_with(options, trained):
    trained.state["global_batches"] = [8, 4, 4]  # two ranks, as the option file asks for 4, 2, 2 each
    trained.state["random"] *= 2
    first = resumed(options, trained)
    assert batches(first) == [8, 4, 4]
    first.train()
    assert batches(resumed(options, Checkpointer(first.folder).load(8))) == [8, 4, 4]


def test_a_batch_size_changed_in_the_option_file_is_what_a_resumed_run_takes(options, trained):
    options["datasets"]["train"]["stages"][2]["batch_size_per_gpu"] = 3
    assert batches(resumed(options, trained)) == [4, 2, 3]
    trained.state["global_batches"] = [8, 4, 4]
    assert batches(resumed(options, trained)) == [8, 4, 3]


def test_another_number_of_stages_takes_the_option_files_batches(options, trained):
    options["datasets"]["train"]["stages"] = [{"iters": 8, "gt_size": 32, "batch_size_per_gpu": 3}]
    assert batches(resumed(options, trained)) == [3]


def test_auto_resume_takes_the_newest_checkpoint_whatever_resume_state_says(options, trained, tmp_path):
    state = tmp_path / "run/training_states/4.state"
    options["path"]["resume_state"] = str(state)
    assert train(load_options(options), auto_resume=True).iteration == 8
    assert starting_point(load_options(options), auto_resume=True)[0].iteration == 8
    state.unlink()  # as logger.keep_checkpoints does, in time
    assert starting_point(load_options(options), auto_resume=True)[0].iteration == 8
    with pytest.raises(OptionError, match=r"path.resume_state: found .*--auto_resume continues from"):
        train(load_options(options))


def refusal(options):
    with pytest.raises(OptionError) as refused:
        train(load_options(options), auto_resume=True)
    return str(refused.value)


def test_a_run_that_should_end_before_its_checkpoint_is_refused(options, trained):
    options["train"]["total_iter"] = 5
    options["datasets"]["train"]["stages"].pop()
    assert "train.total_iter: found 5, expected at least 8, the iteration of the checkpoint" in refusal(
        options
    )


def test_another_kind_of_training_does_not_resume_a_run(options, trained):
    options["model_type"] = "SRModel"  # another name of the same
    assert not resume_problems(load_options(options), trained)
    trained.state["options"] = trained.state["options"].replace('"RestorationModel"', '"ClassifierOfAPlugin"')
    (problem,) = resume_problems(load_options(options), trained)
    assert problem.key == "model_type"
    assert "the checkpoint of iteration 4 is of, 'ClassifierOfAPlugin'" in problem.expected


def test_another_network_does_not_resume_a_run(options, trained):
    options["network_g"]["embed_dim"] = 16
    line = refusal(options)
    assert line.count("\n") == 0
    assert "network_g: found a network that the weights do not fit (shape: body.patch" in line
    assert "expected the network of the checkpoint of iteration 8" in line


def test_a_root_that_is_the_folder_of_a_run_itself_is_refused(options, trained, tmp_path):
    options["path"]["experiments_root"] = str(tmp_path / "run")
    with pytest.raises(OptionError, match=r"experiments_root: .*set it to .* and name to run"):
        train(load_options(options), auto_resume=True)


def test_a_run_without_a_checkpoint_yet_begins_with_resume_state_once_more(options, trained, tmp_path):
    options["path"] = {
        "experiments_root": str(tmp_path / "others"),
        "resume_state": str(tmp_path / "run/training_states/4.state"),
    }
    (tmp_path / "others/run").mkdir(parents=True)
    (tmp_path / "others/run/metrics.jsonl").touch()
    with pytest.raises(OptionError, match="already holds a run"):
        train(load_options(options))
    assert starting_point(load_options(options), auto_resume=True)[0].iteration == 4


def test_a_rewound_run_sets_the_newer_checkpoints_aside_where_they_can_be_continued(
    options, trained, tmp_path, capsys
):
    log = (tmp_path / "run/metrics.jsonl").read_bytes()
    options["path"]["resume_state"] = str(tmp_path / "run/training_states/4.state")
    options["logger"]["save_checkpoint_freq"] = 6
    train(load_options(options))
    (aside,) = (tmp_path / "run").glob("newer_than_4_*")
    assert (
        f"The run goes back to iteration 4; its newer checkpoints are in {aside} now"
        in capsys.readouterr().out
    )
    assert Checkpointer(tmp_path / "run").iterations() == [4, 6, 8]
    assert Checkpointer(aside).iterations() == [8]
    assert (aside / "metrics.jsonl").read_bytes() == log
    assert (aside / "models/net_g_best.pth").exists()
    options["path"]["resume_state"] = str(aside / "training_states/8.state")
    assert starting_point(load_options(options), auto_resume=False)[0].iteration == 8


def test_checkpoints_beyond_a_damaged_one_stay_where_auto_resume_found_them(options, trained, tmp_path):
    (tmp_path / "run/models/net_g_8.pth").write_bytes(b"")
    train(load_options(options), auto_resume=True)
    assert not list((tmp_path / "run").glob("newer_than_*"))


def test_a_training_set_of_another_size_is_said(options, trained, capsys):
    resumed(options, trained)
    assert "The training set has changed" not in capsys.readouterr().out
    images = trained.state["train_images"][""]
    trained.state["train_images"] = {"": images + 1}
    resumed(options, trained)
    said = capsys.readouterr().out
    assert f"since the checkpoint: {images} images, before: {images + 1} images. Images come in" in said


def test_optimizer_options_are_those_of_the_option_file_and_the_state_goes_on(options, tmp_path):
    optimizer = {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.1, "betas": [0.9, 0.95], "eps": 1e-6}
    options["train"]["optim_g"] = optimizer
    train(load_options(options))
    checkpoint = Checkpointer(tmp_path / "run").load(4)
    options["train"]["optim_g"] = {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.2, "betas": [0.8, 0.99]}
    trainer = resumed(options, checkpoint)
    (group,) = trainer.step.optimizers["optim_g"].param_groups
    assert (group["weight_decay"], tuple(group["betas"]), group["eps"]) == (0.2, (0.8, 0.99), 1e-8)
    state = trainer.step.optimizers["optim_g"].state_dict()["state"]
    assert same_bits(state, checkpoint.state["optimizers"]["optim_g"]["state"])
    assert state


def test_values_that_an_optimizer_keeps_in_its_groups_are_state_and_go_on(options, trained):
    trained.state["optimizers"]["optim_g"]["param_groups"][0]["estimate"] = 0.5
    (group,) = resumed(options, trained).step.optimizers["optim_g"].param_groups
    assert group["estimate"] == 0.5


def test_another_optimizer_is_refused_in_words(options, trained):
    options["train"]["optim_g"]["type"] = "AdamW"
    with pytest.raises(OptionError) as caught:
        train(load_options(options), auto_resume=True)
    (line,) = str(caught.value).splitlines()
    assert "train.optim_g.type: found 'AdamW', expected what the checkpoint of iteration 8 has" in line


def test_an_option_that_needs_a_state_of_its_own_is_refused_in_words(options, trained):
    options["train"]["optim_g"]["amsgrad"] = True
    with pytest.raises(OptionError, match="found options with which Adam also needs max_exp_avg_sq"):
        train(load_options(options), auto_resume=True)


@pytest.mark.parametrize("fused", [True, False])
def test_a_state_goes_to_an_optimizer_of_another_implementation(fused):
    def stepped(fused, parameter):
        optimizer = torch.optim.AdamW([parameter], lr=0.1, fused=fused)
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return optimizer

    before = stepped(not fused, torch.nn.Parameter(torch.ones(3)))
    after = stepped(fused, torch.nn.Parameter(torch.ones(3)))
    load_state(after, before.state_dict(), ())
    assert after.param_groups[0]["fused"] is fused
    after.step()
    assert {int(state["step"]) for state in after.state.values()} == {2}


@pytest.mark.parametrize("auto_resume", [False, True])
def test_a_state_of_basicsrs_own_is_called_that_and_left_as_it_is(options, tmp_path, auto_resume):
    from basicsr.models.base_model import BaseModel
    from basicsr.models.lr_scheduler import MultiStepRestartLR

    folder = tmp_path / "run"
    (folder / "training_states").mkdir(parents=True)
    model = BaseModel(
        {"num_gpu": 0, "is_train": True, "path": {"training_states": folder / "training_states"}}
    )
    model.optimizers = [torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))])]
    model.schedulers = [MultiStepRestartLR(model.optimizers[0], [5])]
    model.save_training_state(epoch=0, current_iter=4)
    if not auto_resume:
        options["path"]["resume_state"] = str(folder / "training_states/4.state")
    (problem,) = starting_point(load_options(options), auto_resume)[2]
    assert problem.found.startswith(f"{folder}/training_states/4.state, which BasicSR itself has written: ")
    assert f"path.pretrain_network_g: {folder}/models/net_g_4.pth" in problem.fix


def test_every_option_changed_since_the_checkpoint_is_said_with_both_values(options, trained, capsys):
    resumed(options, trained)
    assert "Option changed" not in capsys.readouterr().out
    options["train"]["optim_g"]["lr"] = 0.01
    options["logger"]["print_freq"] = 2
    resumed(options, trained)
    said = [
        line.partition("checkpoint: ")[2] for line in capsys.readouterr().out.splitlines() if "Option" in line
    ]
    assert said == ["logger.print_freq: 1 -> 2", "train.optim_g.lr: 0.001 -> 0.01"]

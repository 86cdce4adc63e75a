"""What README and the pages say to type is run, each block in a copy of the repository.

A command runs as it is written, but for :data:`STAND_INS`, in a copy whose option files are those of
:data:`SHORTENED` and in which small made data lie where a user's would be.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from helpers import ENVIRONMENT, ROOT

from basicsr_ext import build_network, load_options
from basicsr_ext.archs.weights import DESCRIPTION
from basicsr_ext.inference.description import Description

PAGES = ["README.md", "datasets/README.md", "experiments/README.md"]
PAGES += sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))

KNOWN = re.compile(
    r"(python (train|test|infer|scripts/\w+|benchmarks/\w+|tests/\w+/\w+)\.py|python -m pytest|torchrun"
    r"|srun python train\.py|pip install -r)\b"
)
"""How a command may begin that is known to run here; another one needs a thought."""

STAND_INS = {
    # Places of a user's machine.
    r"/data/\w+(/\w+)?": "photos",
    r"--output /local": "--output local",
    r"-opt (FILE|…)": "-opt options/quickstart.yml",
    r"--gt DIR --lq DIR": "--gt datasets/DF2K/HR --lq datasets/DF2K/LR",
    r"\bFOLDER\b": "datasets/DF2K/HR",
    r"\bDISK\b": "disk",
    # Weights of runs that take minutes.
    r"experiments/quickstart_(pretrain|finetune)/models/\w+\.pth": r"\1.pth",
    r"(export\.py) --weights net_g_latest\.pth": r"\1 --weights experiments/theirs/models/net_g_5000.pth"
    " --opt my_basicsr_file.yml",
    # Fewer processes; machines that are this one.
    r"--nproc_per_node=8": "--nproc_per_node=2",
    r"--max-restarts=N": "--max-restarts=1 train.py -opt options/quickstart.yml",
    r"node1:29500": "localhost:{port}",
    r"^(torchrun --nnodes=2) .*?=2 (.*)$": r"\1 --nproc_per_node=1 \2 & \1 --nproc_per_node=1 \2; wait $!",
    # Shorter.
    r"total_iter=\d+": "total_iter=4",
    r"--kills \d+": "--kills 1",
    r"--examples \d+": "--examples 20",
    r"--val 100": "--val 1",
    r"(python benchmarks/.*)": r"\1 --help",
    r"python -m pytest": "python -m pytest -n 0 --collect-only tests/engine/test_lock.py",
    # Everything is installed already; pip still has to find and understand the file.
    r"pip install -r": "pip install --dry-run --no-deps --no-build-isolation --no-index -r",
}
STAGE = "{iters: 2, gt_size: 32, batch_size_per_gpu: 2}"
TINY = [
    "num_gpu=0",
    "network_g:depths=[2]",
    "network_g:num_heads=[2]",
    "network_g:embed_dim=12",
    "network_g:window_size=[2, 8]",
    "network_g:num_feat=4",
    "datasets:train:num_worker_per_gpu=0",
    "train:total_iter=4",
    "val:val_freq=2",
    "logger:save_checkpoint_freq=2",
]
FEW_SHOT = [
    "num_gpu=0",
    "datasets:train:gt_size=32",
    "datasets:train:patients=1",
    "datasets:train:num_worker_per_gpu=0",
    "datasets:val:side=32",
    "datasets:val:patients=2",
    "train:total_iter=4",
    "val:val_freq=2",
    "logger:save_checkpoint_freq=2",
]
CLASSES = [
    "datasets:train:num_worker_per_gpu=0",
    "datasets:train:stages=[{iters: 2, gt_size: 32, batch_size_per_gpu: 2}]",
    "train:total_iter=2",
    "train:scheduler=~",
    "val:val_freq=2",
]
SHORTENED = {
    "options/quickstart_classification.yml": CLASSES,
    "options/quickstart_fewshot.yml": FEW_SHOT,
    "options/quickstart.yml": [*TINY, f"datasets:train:stages=[{STAGE}, {STAGE}]"],
    "options/edt_x4.yml": [*TINY, "datasets:train:gt_size=32", "datasets:train:batch_size_total=2"],
}
FAILING = {
    r"download_data\.py": "is there a network?",
    r"run_folds\.py -opt options/catnet_abd_mri": "chaos.grand-challenge.org gives the scans out",
}
"""Commands that cannot succeed here, and what they have to say."""

SRUN = """#!/bin/bash
export SLURM_NTASKS=2 SLURM_NODELIST=localhost MASTER_PORT={port}
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" &
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" && wait $!
"""


@dataclass(frozen=True)
class Block:
    """Commands of one block, or one that a sentence names; a Python example."""

    page: str
    number: int
    commands: tuple[str, ...] = ()
    python: str = ""

    def __str__(self):
        return f"{self.page}-{self.number}"


def blocks():
    """Yield all commands of all pages: of bash blocks, of sentences (once each), and Python blocks."""
    seen = set()
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        number = 0
        for language, content in re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            number += 1
            if language == "python":
                yield Block(page, number, python=content)
            elif language in ("bash", "sh", "console"):
                lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in content.splitlines())
                yield Block(page, number, tuple(line for line in lines if line))
        prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        spans = (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose))
        for span in spans:
            command = f"python {span}" if re.match(r"(\w+|scripts/\w+|tests/\w+/\w+)\.py -", span) else span
            # Without arguments a file is spoken of; that they exist is tested below.
            if re.match(r"(python|torchrun|srun) \S+ \S", command) and command not in seen:
                seen.add(command)
                number += 1
                yield Block(page, number, (command,))


BLOCKS = list(blocks())


def parts(command):
    """Return the commands that a line joins."""
    unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "_", command)
    return [part.strip() for part in re.split(r"&&|\|\||;|[{}]|\[ .*? \]", unquoted) if part.strip()]


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.commands], ids=str)
def test_every_command_is_one_that_is_known_to_run(block):
    for command in block.commands:
        for part in parts(command):
            assert KNOWN.match(part) or part.startswith("scontrol requeue"), part


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_speaks_of_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    scripts = re.findall(r"\b((?:scripts|benchmarks|tests|packaging|options|examples)/[\w/]+\.\w+)", text)
    links = [(ROOT / page).parent / link for link in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text)]
    assert not [file for file in [*(ROOT / script for script in scripts), *links] if not file.exists()]


def test_all_pages_are_looked_through():
    assert {block.page for block in BLOCKS} > {"README.md", "docs/reliability.md", "datasets/README.md"}
    assert sum(bool(block.python) for block in BLOCKS) >= 3


# --- running them -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A copy of the repository with data, weights and shorter option files."""
    folder = tmp_path_factory.mktemp("clone") / "repository"
    ignored = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", "*.egg-info", "experiments", "build")
    shutil.copytree(ROOT, folder, ignore=ignored)
    for name, overrides in SHORTENED.items():
        (folder / name).write_text(load_options(ROOT / name, overrides, phases=()).to_yaml())
    rng = np.random.default_rng(0)
    for name, size in {"datasets/DF2K/HR": 128, "datasets/Set14/HR": 64, "photos": 64}.items():
        (folder / name).mkdir(parents=True)
        for image in ("small", "large", "third"):
            pixels = cv2.resize(rng.integers(0, 256, (8, 9, 3), np.uint8), (size + 4, size))
            assert cv2.imwrite(str(folder / name / f"{image}.png"), pixels)
            if size == 128:
                (folder / "datasets/DF2K/LR").mkdir(exist_ok=True)
                assert cv2.imwrite(str(folder / f"datasets/DF2K/LR/{image}x4.png"), pixels[::4, ::4])
    torch.save(
        {"params": build_network({"type": "EMT", "upscale": 4}).state_dict()}, folder / "EMT_LSR_x4.pth"
    )
    for name, tasks in {
        "pretrain": {"scales": [2, 4], "noise_levels": [25]},
        "finetune": {"scales": [4]},
    }.items():
        network = {
            "type": "EDT",
            "embed_dim": 12,
            "depths": [2],
            "num_heads": [2],
            "window_size": [2, 4],
            **tasks,
        }
        entry = Description(network).entry()
        torch.save(
            {"params": build_network(network).state_dict(), DESCRIPTION: entry}, folder / f"{name}.pth"
        )
    basicsr_file(folder)
    return folder


def basicsr_file(folder):
    """Write BasicSR's published option file for its MSRResNet, made smaller, and weights of a run of it."""
    file = ROOT / "tests/config/published/basicsr_train_msrresnet_x4.yml"
    options = yaml.safe_load(file.read_text())
    train = options["datasets"]["train"]
    for key in ("dataroot_gt", "dataroot_lq"):
        train[key] = f"datasets/DF2K/{'HR' if key == 'dataroot_gt' else 'LR'}"
    train |= {"io_backend": {"type": "disk"}, "filename_tmpl": "{}x4", "gt_size": 32, "meta_info_file": None}
    options["network_g"] |= {"num_feat": 4, "num_block": 1}
    options["num_gpu"] = 0
    options["logger"]["wandb"] = None  # a package of its own
    options["path"]["pretrain_network_g"] = None
    (folder / "my_basicsr_file.yml").write_text(yaml.safe_dump(options))
    weights = folder / "experiments/theirs/models/net_g_5000.pth"
    weights.parent.mkdir(parents=True)
    torch.save({"params": build_network(options["network_g"]).state_dict()}, weights)


@pytest.fixture
def clone(original, tmp_path):
    """A fresh copy, and the environment of its commands."""
    folder = tmp_path / "clone"
    shutil.copytree(original, folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, script in {"srun": SRUN.replace("{port}", port), "scontrol": "#!/bin/bash\n"}.items():
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    return folder, port, {**ENVIRONMENT, **nowhere, "PATH": path, "PYTHONPATH": str(folder)}


def run(command, folder, environment):
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def substituted(command, port):
    for pattern, stand_in in STAND_INS.items():
        command = re.sub(pattern, stand_in, command)
    return command.replace("{port}", port)


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in BLOCKS if block.commands], ids=str)
def test_commands_run(block, clone):
    folder, port, environment = clone
    for command in block.commands:
        done = run(substituted(command, port), folder, environment)
        message = next((words for start, words in FAILING.items() if re.search(start, command)), None)
        if message is None:
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            continue
        assert done.returncode == 1
        assert message in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in BLOCKS if block.python], ids=str)
def test_python_examples_run(block, clone):
    folder, _, environment = clone
    (folder / "example.py").write_text(block.python, encoding="utf-8")
    # Some are plug-ins, which commands of ours import, and basicsr can be imported only after ours.
    done = run("python -c 'import basicsr_ext, example'", folder, environment)
    assert done.returncode == 0, done.stderr

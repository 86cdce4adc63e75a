"""basicsr and TensorBoard work beside basicsr_ext, in fresh processes and in either import order."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib.metadata import entry_points

from helpers import run_command

EDT = '{"type": "EDT", "scales": [2], "depths": [1], "num_heads": [6]}'


def run(program: str) -> str:
    """Return what ``program`` prints in a new interpreter."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_neither_torch_nor_basicsr():
    out = run("""
        import sys, basicsr_ext
        print(sorted({"torch", "torchvision", "basicsr", "cv2"} & sys.modules.keys()))
    """)
    assert out == "[]\n"


def test_basicsr_imports_after_it_and_knows_our_networks():
    out = run(f"""
        import basicsr_ext
        import inspect, basicsr.archs
        print(type(basicsr.archs.build_network({EDT})).__module__)
        print("def build_network" in inspect.getsource(basicsr.archs))
    """)
    assert out.splitlines()[-2:] == ["basicsr_ext.archs.edt_arch", "True"]


def test_basicsr_knows_our_networks_when_it_was_imported_first():
    # On its own, basicsr imports only where someone else has supplied the module it misses.
    out = run(f"""
        import sys, types
        missing = types.ModuleType("torchvision.transforms.functional_tensor")
        missing.rgb_to_grayscale = None
        sys.modules[missing.__name__] = missing
        import basicsr.archs
        import basicsr_ext
        print(type(basicsr.archs.build_network({EDT})).__module__)
        print(sys.modules[missing.__name__] is missing)
    """)
    assert out.splitlines()[-2:] == ["basicsr_ext.archs.edt_arch", "True"]


def test_greyscale_conversion_is_torchvisions():
    import torch
    from torchvision.transforms.functional import rgb_to_grayscale
    from torchvision.transforms.functional_tensor import rgb_to_grayscale as supplied

    import basicsr_ext  # noqa: F401 (supplies the module)

    x = torch.rand(2, 3, 4, 5)
    assert torch.equal(supplied(x, 3), rgb_to_grayscale(x, 3))


def test_tensorboard_writes_and_reads_events(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        writer.add_scalar("loss", 0.5, global_step=7)
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(7, 0.5)]


def test_one_tensorboard_is_installed():
    """Two (basicsr also asks for tb-nightly) hold every plugin twice, and TensorBoard refuses to start."""
    plugins = [plugin.name for plugin in entry_points(group="tensorboard_plugins")]
    assert len(plugins) == len(set(plugins))
    done = run_command(sys.executable, "-m", "tensorboard.main", "--version")
    assert done.returncode == 0, done.stderr

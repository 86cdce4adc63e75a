"""basicsr and TensorBoard work beside basicsr_ext, in fresh processes and in either import order."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from urllib.request import urlopen

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


def test_tensorboard_starts(tmp_path):
    """It does not where tb-nightly, which basicsr asks for, has brought every plugin once more."""
    local = ("--host", "127.0.0.1", "--port", "0", "--load_fast", "false")
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path), *local]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        said = ""
        try:
            while not (page := re.search(r"http://\S+", said)) and (line := server.stderr.readline()):
                said += line
            assert page, said
            with urlopen(page[0], timeout=60) as answer:
                assert answer.status == 200
        finally:
            server.kill()


def test_names_that_basicsr_1_4_has_elsewhere_are_where_1_3_had_them():
    out = run("""
        import basicsr_ext
        from basicsr.losses import CharbonnierLoss, GANLoss, L1Loss, MSELoss, PerceptualLoss, WeightedTVLoss
        from basicsr.utils.matlab_functions import bgr2ycbcr, imresize, rgb2ycbcr, ycbcr2bgr, ycbcr2rgb
        from basicsr.archs.arch_util import to_2tuple, trunc_normal_
        import basicsr.utils
        print(rgb2ycbcr is basicsr.utils.rgb2ycbcr, L1Loss.__module__, GANLoss.__module__)
    """)
    assert out.splitlines()[-1] == "True basicsr.losses.basic_loss basicsr.losses.gan_loss"

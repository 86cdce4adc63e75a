"""Networks as files of other programs: what is written computes what the network does."""

import copy
import json
import re

import numpy as np
import pytest
import torch
from basicsr.models.sr_model import SRModel
from export import main as export
from helpers import ROOT, TINY_EDT

from basicsr_ext import build_network
from basicsr_ext.archs.layers.pixel_mixing import _copied, _moved
from basicsr_ext.archs.padding import SizeRequirement
from basicsr_ext.archs.weights import DESCRIPTION
from basicsr_ext.inference.description import Description, describe, open_network
from basicsr_ext.inference.export import ExportError, Subject, _compare, _Program, to_onnx, to_torch_export

PAGE = ROOT / "docs/exporting.md"
PLAIN = {"type": "MSRResNet", "num_feat": 4, "num_block": 1, "upscale": 2}
SWINIR = {
    "type": "SwinIR",
    "img_size": 16,
    "upscale": 2,
    "embed_dim": 12,
    "depths": [2],
    "num_heads": [2],
    "window_size": 4,
    "mlp_ratio": 2,
    "upsampler": "pixelshuffledirect",
}
RESTORMER = {
    "type": "Restormer",
    "dim": 8,
    "num_blocks": [1, 1, 1, 1],
    "num_refinement_blocks": 1,
    "heads": [1, 2, 4, 8],
}
MIXERS = (
    "anchored_stripe",
    "attn_conv",
    "crossed_local",
    "deformable",
    "mswin",
    "mswin_deformable_branch",
    "mswin_deformable_keys",
    "pixel_mixer",
    "striped",
    "swin",
    "transposed",
)
RESTORERS = {
    "EDT": TINY_EDT,
    "EMT": {
        "type": "EMT",
        "dim": 20,
        "n_blocks": 1,
        "n_layers": 3,
        "num_heads": 5,
        "mlp_ratio": 2,
        "n_GTLs": 2,
        "window_list": [[8, 4], [4, 8]],
        "shift_list": [[4, 2], [2, 4]],
        "upscale": 2,
    },
    "GRL": {
        "type": "GRL",
        "upscale": 2,
        "embed_dim": 16,
        "depths": [2],
        "num_heads_window": [2],
        "num_heads_stripe": [2],
        "window_size": 8,
        "stripe_size": [8, 8],
        "stripe_groups": [None, None],
        "mlp_ratio": 2,
        "anchor_window_down_factor": 2,
        "upsampler": "pixelshuffledirect",
    },
    "Restormer": RESTORMER,
    "SwinIR": SWINIR,
    **{
        f"AttentionRestorer, {mixer}": {
            "type": "AttentionRestorer",
            "mixer": mixer,
            "dim": 24,
            "depths": [2],
            "upscale": 2,
        }
        for mixer in MIXERS
    },
}
CLASSIFIERS = {
    "SwinTransformer": {
        "type": "SwinTransformer",
        "img_size": 32,
        "patch_size": 4,
        "num_classes": 7,
        "embed_dim": 24,
        "depths": [2, 2],
        "num_heads": [2, 4],
        "window_size": 4,
    },
    "CloFormer": {
        "type": "CloFormer",
        "in_chans": 3,
        "num_classes": 12,
        "depths": [1, 1, 1, 1],
        "kernel_sizes": [[5], [5, 3], [5, 3], [3]],
        "window_sizes": [8, 4, 2, 1],
        "mlp_kernel_sizes": [5, 5, 3, 3],
        "mlp_ratios": [4] * 4,
        "embed_dims": [8, 16, 32, 64],
        "num_heads": [2, 4, 8, 16],
        "group_splits": [[1, 1], [1, 1, 2], [2, 2, 4], [4, 12]],
    },
    "DAT": {
        "type": "DAT",
        "num_classes": 7,
        "dim_stem": 24,
        "dims": [24, 48, 96, 192],
        "depths": [1, 1, 2, 2],
        "stage_spec": ["L", "S", "LD", "LD"],
        "heads": [1, 2, 3, 6],
    },
    "DATPlusPlus": {
        "type": "DATPlusPlus",
        "num_classes": 7,
        "dim_stem": 24,
        "dims": [24, 48, 96, 192],
        "depths": [2, 2, 2, 2],
        "stage_spec": ["ND"] * 4,
        "heads": [1, 2, 4, 6],
        "groups": [1, 1, 2, 3],
    },
}


def subject_of(network):
    torch.manual_seed(0)
    purpose = "ClassificationModel" if network["type"] in CLASSIFIERS else ""
    return Subject.of(build_network(network).eval(), Description(network, purpose=purpose))


def checkpoint(path, network, **entries):
    """Write what training writes: weights, averaged ones, and what network they are of."""
    torch.manual_seed(0)
    params, averaged = (build_network(network).state_dict() for _ in range(2))
    content = {"params": params, "params_ema": averaged, DESCRIPTION: Description(network).entry(), **entries}
    torch.save(content, path)
    return path


class TestSafetensors:
    def test_they_hold_averaged_weights_and_tell_their_network(self, tmp_path):
        pytest.importorskip("safetensors")
        source, file = checkpoint(tmp_path / "net.pth", PLAIN), tmp_path / "net.safetensors"
        assert export(["--weights", str(source), "--to", "safetensors", "--out", str(file)]) == []
        described = describe(file)
        assert described.network == PLAIN
        image, averaged = torch.rand(1, 3, 9, 7), build_network(PLAIN).eval()
        averaged.load_state_dict(torch.load(source)["params_ema"])
        assert torch.equal(open_network(file, described)(image), averaged(image))

    def test_metadata_are_json_texts(self, tmp_path):
        safetensors = pytest.importorskip("safetensors")
        source, file = checkpoint(tmp_path / "net.pth", PLAIN), tmp_path / "net.safetensors"
        export(["--weights", str(source), "--to", "safetensors", "--out", str(file)])
        with safetensors.safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        assert json.loads(metadata[DESCRIPTION])["network"] == PLAIN
        assert (metadata["architecture"], json.loads(metadata["scale"])) == ("MSRResNet", 2)


class TestTheCommand:
    def test_an_existing_file_stays(self, tmp_path):
        (tmp_path / "net.onnx").write_text("mine")
        command = ["--weights", "none.pth", "--to", "onnx", "--out", str(tmp_path / "net.onnx")]
        with pytest.raises(Exception, match=r"net\.onnx exists; --overwrite replaces it"):
            export(command)
        assert (tmp_path / "net.onnx").read_text() == "mine"

    def test_what_computes_something_else_is_not_written(self, tmp_path, monkeypatch):
        monkeypatch.setattr("basicsr_ext.inference.export.TOLERANCE", -1.0)
        source, file = checkpoint(tmp_path / "net.pth", PLAIN), tmp_path / "net.pt2"
        with pytest.raises(Exception, match="MSRResNet cannot be exported so"):
            export(["--weights", str(source), "--to", "torch_export", "--out", str(file)])
        assert not file.exists()

    def test_what_needs_no_size_refuses_one(self, tmp_path, capsys):
        command = ["--weights", "w.pth", "--to", "safetensors", "--out", str(tmp_path / "o"), "--size", "8"]
        with pytest.raises(SystemExit):
            export(command)
        assert "safetensors hold weights, which have no size" in capsys.readouterr().err


def test_a_program_that_differs_by_more_than_rounding_is_refused():
    subject = subject_of(PLAIN)
    reference = subject.reference(SizeRequirement())
    assert _compare(_Program(subject), reference, subject, (1, 9, 8)).endswith(": 0.0e+00")
    with pytest.raises(ExportError, match="more than"):
        _compare(lambda x: reference(x) + 2e-4, reference, subject, (1, 9, 8))
    with pytest.raises(ExportError, match="it makes"):
        _compare(lambda x: reference(x)[..., 1:], reference, subject, (1, 9, 8))


@pytest.mark.slow
def test_a_program_for_one_size_pads_as_the_network_does():
    made = to_torch_export(subject_of(RESTORERS["EMT"]), (12, 20))
    assert made.notes[0].endswith("of 12 x 20 pixels")


def test_a_size_that_the_network_does_not_take_is_refused():
    with pytest.raises(ExportError, match="--size: 20 is not a multiple of 8"):
        to_torch_export(subject_of(RESTORMER), (16, 20))


@pytest.mark.parametrize("circular", [False, True])
def test_pixels_move_the_same_while_exporting(circular):
    x = torch.rand(2, 5, 6, 13)
    assert torch.equal(_copied(x, circular), _moved(x, circular, 1))


@pytest.mark.slow
def test_an_onnx_program_takes_8_bit_images_of_any_size():
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    subject = subject_of(PLAIN)
    made = to_onnx(subject, eight_bit=True)
    assert made.notes[0] == "8-bit images (N, H, W, C), any number of images of any size"
    session = onnxruntime.InferenceSession(made.content)
    image = np.random.default_rng(0).integers(0, 256, (1, 5, 11, 3), np.uint8)
    (restored,) = session.run(None, {"image": image})
    planes = torch.from_numpy(image).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        expected = subject.network(planes).clamp(0, 1).permute(0, 2, 3, 1).numpy() * 255
    assert restored.dtype == np.uint8
    assert restored.shape == (1, 10, 22, 3)
    assert np.abs(restored - expected).max() <= 0.51
    assert json.loads({p.key: p.value for p in onnx_of(made).metadata_props}[DESCRIPTION])["network"] == PLAIN


def onnx_of(made):
    import onnx

    return onnx.load_from_string(made.content)


def table():
    """Return the page's rows: network, kind of file, what it takes."""
    rows = re.findall(r"^\| (.+?) \| (onnx|torch_export) \| (.+?) \|$", PAGE.read_text(), re.MULTILINE)
    return [(name, kind, takes) for names, kind, takes in rows for name in names.split("; ")]


def test_the_page_has_every_network_that_is_tried():
    assert {name for name, kind, _ in table() if kind == "onnx"} == {*RESTORERS, *CLASSIFIERS}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind", "takes"), table())
def test_the_page_says_what_works(name, kind, takes):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    make = {"onnx": to_onnx, "torch_export": to_torch_export}[kind]
    assert make(subject_of({**RESTORERS, **CLASSIFIERS}[name])).notes[0] == takes


@pytest.mark.parametrize("entry", ["params", "params_ema"])
def test_basicsr_loads_our_checkpoints_strictly_and_computes_the_same(tmp_path, entry):
    file = checkpoint(tmp_path / "net.pth", SWINIR)
    theirs = SRModel(
        {
            "num_gpu": 0,
            "dist": False,
            "is_train": False,
            "network_g": copy.deepcopy(SWINIR),
            "path": {"pretrain_network_g": str(file), "strict_load_g": True, "param_key_g": entry},
        }
    )
    ours = build_network(SWINIR).eval()
    ours.load_state_dict(torch.load(file)[entry])
    theirs.feed_data({"lq": torch.rand(1, 3, 24, 32)})
    theirs.test()
    with torch.no_grad():
        assert torch.equal(theirs.output, ours(theirs.lq))


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_spandrel_opens_our_files_and_computes_the_same(tmp_path, ending):
    spandrel = pytest.importorskip("spandrel")
    file = checkpoint(tmp_path / "net.pth", SWINIR)
    ours = open_network(file, describe(file))
    if ending == "safetensors":
        file = tmp_path / "net.safetensors"
        export(["--weights", str(tmp_path / "net.pth"), "--to", "safetensors", "--out", str(file)])
    theirs = spandrel.ModelLoader().load_from_file(file)
    assert (theirs.architecture.id, theirs.scale) == ("SwinIR", 2)
    image = torch.rand(1, 3, 24, 32)
    with torch.no_grad():
        assert (theirs(image) - ours(image).clamp(0, 1)).abs().max() < 1e-5

"""``--force_yml a:b:c=VALUE``: any key the schema knows, any YAML value."""

# ruff: noqa: E501 (a message is one line here, too)

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basicsr_ext.config import Options, load_options, resolved_stages
from basicsr_ext.config.overrides import apply_overrides
from basicsr_ext.config.values import LARGEST_INTEGER
from basicsr_ext.config.yaml_text import Document


@pytest.fixture
def load(tmp_path, base):
    file = tmp_path / "o.yml"
    file.write_text(base)

    def loaded(*overrides: str) -> Options:
        return load_options(file, overrides)

    return loaded


def test_numbers_texts_booleans_and_nulls_are_set(load):
    options = load("train:optim_g:lr=1e-3", "name=other", "val:save_img=true", "train:ema_decay=~")
    assert options.train.optim_g.lr == 1e-3
    assert options.name == "other"
    assert options.val.save_img is True
    assert options.train.ema_decay == 0.0


def test_sections_that_the_file_lacks_are_made(load):
    options = load(
        "train:mixing_augs:mixup=true", "logger:wandb:project=p", "datasets:test_1:type=SampleImages"
    )
    assert options.train.mixing_augs.mixup
    assert options.logger.wandb.project == "p"
    assert list(options.datasets.evaluation("test")) == ["test_1"]


def test_arguments_of_constructors_elsewhere_are_free(load):
    network = "network_g={type: PlugInNet, depths: [2, 2]}"
    options = load("plugins=[json]", network, "train:optim_g:betas=[0.9, 0.99]", "network_g:a:b={c: 1}")
    assert options.network_g.kwargs == {"depths": [2, 2], "a": {"b": {"c": 1}}}
    assert options.train.optim_g.kwargs == {"betas": [0.9, 0.99]}


def test_lists_of_mappings_are_set_and_their_items_named_by_number(load):
    stages = "datasets:train:stages=[{iters: 60, gt_size: 32, batch_size_per_gpu: 4}, {iters: 40, gt_size: 64, batch_size_per_gpu: 2}]"
    options = load(stages, "datasets:train:stages:1:gt_size=48")
    assert [stage.gt_size for stage in resolved_stages(options)] == [32, 48]


def test_stages_take_the_place_of_the_files_patch_and_batch_size(load):
    options = load("datasets:train:stages=[{iters: 100, gt_size: 32, batch_size_per_gpu: 1}]")
    assert options.datasets.train.gt_size is None
    assert load("datasets:train:batch_size_total=8").datasets.train.batch_size_per_gpu is None


def test_one_override_may_be_a_plain_text(tmp_path, base):
    (tmp_path / "o.yml").write_text(base)
    assert load_options(tmp_path / "o.yml", "scale=2").scale == 2
    assert load_options(tmp_path / "o.yml", None).scale == 4


def test_the_last_of_two_overrides_counts(load):
    assert load("scale=2", "scale=1").scale == 1


def test_an_equals_sign_may_stand_in_the_value(load):
    assert load("name=a=b").name == "a=b"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train", "--force_yml train: found 'train', expected 'key:key=value'; e.g. train:total_iter=100"),
        ("train:=5", "--force_yml train:: found 'train:=5', expected 'key:key=value'; e.g. train:total_iter=100"),
        ("name:x=5", "--force_yml name:x: name.x: found 'x' below name, which is 'tiny' (text), expected a section to set it in"),
        ("network_g:scales:1=5", "--force_yml network_g:scales:1: network_g.scales.1: found '1' below network_g.scales, which is the list [4], expected a number from 0 to 0"),
        ("train:total_iter=[1", "--force_yml train:total_iter: train.total_iter: found a '[' that is not closed in '[1', expected values separated by commas, then ']'"),
        ("train.total_iter=5", "--force_yml train.total_iter: train.total_iter: found an unknown key, expected a key of the option file; write train:total_iter in --force_yml"),
        ("train:optim_g:lr=2e-4x", "--force_yml train:optim_g:lr: train.optim_g.lr: found '2e-4x' (text), expected a positive number; did you mean 2e-4?"),
        ("name=!!python/name:os.system", "--force_yml name: name: found the tag '!!python/name:os.system', expected plain values (nothing was run or built); remove the tag"),
        ("val={val_freq: 5, val_freq: 6}", "--force_yml val: val.val_freq: found 'val_freq' a second time (first on line 1), expected each key once; delete one of them"),
    ],
)  # fmt: skip
def test_an_override_that_cannot_be_gives_one_line(base, complaints, override, line):
    assert complaints(base, override) == complaints(base, override, override) == [line]


def test_an_override_mends_a_mistake_in_the_file(change, complaints):
    assert complaints(change("lr: 2e-4", "lr: !no 1"), "train:optim_g:lr=1e-3")[0].startswith("o.yml:18:")
    assert complaints(change("gt_size: 128", "gt_size: 130"), "datasets:train:gt_size=128") == []


texts = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"])).filter(
    lambda text: "Infinity" not in text
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-LARGEST_INTEGER, LARGEST_INTEGER)
    | st.floats(allow_nan=False)
    | texts
)
words = st.from_regex(r"[A-Za-z_][A-Za-z_0-9]{0,8}", fullmatch=True)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(words, min_size=1, max_size=4), values)
def test_any_plain_value_survives_the_way_through_an_override(keys, value):
    document = Document(value={})
    # JSON is YAML in flow style, all but the name of infinity.
    text = json.dumps({"v": value}).replace("Infinity", ".inf")
    apply_overrides(document, [f"{':'.join(keys)}={text}"])
    found = document.value
    for key in keys:
        found = found[key]
    assert document.problems == []
    assert found == {"v": value}

"""docs/degradations.md: its examples run, and it leaves no step out."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from basicsr_ext.config.datasets import TrainingSet
from basicsr_ext.data import build_train_dataset
from basicsr_ext.data.images import write_image
from basicsr_ext.data.sampling import SampleRequest
from basicsr_ext.registry import DEGRADATIONS

PAGE = (Path(__file__).parents[2] / "docs/degradations.md").read_text(encoding="utf-8")
EXAMPLES = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_examples_make_samples(example, tmp_path, texture):
    write_image(tmp_path / "images/0.png", texture(72, 80))
    options = example.get("datasets", {}).get("train", example)
    scale = example.get("scale", 1)
    roots = {key: str(tmp_path / "images") for key in options if key.startswith("dataroot")}
    option = TypeAdapter(TrainingSet).validate_python({**options, **roots}, strict=True)
    sample = build_train_dataset(option, scale, 0)[SampleRequest(0, 64, 0)]
    assert sample["lq"].shape[1] == 64 // scale
    assert not sample["lq"].equal(sample["gt"])


def test_every_step_is_described_and_has_its_keys_listed():
    table = set(re.findall(r"^\| `(\w+)` \|.*\|.*\| .+ \|$", PAGE.partition("## Recipes")[0], re.MULTILINE))
    assert table - {"type"} == set(DEGRADATIONS.names())
    assert re.findall(r"^### `(\w+)`$", PAGE, re.MULTILINE) == DEGRADATIONS.names()

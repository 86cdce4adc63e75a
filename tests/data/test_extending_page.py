"""docs/extending.md: its data set reads what it says; tests/test_documented_commands.py trains with the rest."""

import re
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from basicsr_ext.config.schema import TrainingSet
from basicsr_ext.data import build_train_dataset
from basicsr_ext.data.images import write_image
from basicsr_ext.data.resize import downscale
from basicsr_ext.data.sampling import SampleRequest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"


@pytest.fixture(scope="module", autouse=True)
def plugin(tmp_path_factory):
    """The page's file, imported as ``plugins: [my_extensions]`` would."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "my_extensions.py").write_text(code, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield __import__("my_extensions")


def test_a_scene_is_a_folder_of_pairs(tmp_path, texture):
    for scene in range(2):
        image = texture(32, 40, scene)
        write_image(tmp_path / f"scene{scene}/sharp/1.png", image)
        write_image(tmp_path / f"scene{scene}/blurred/1.png", downscale(image, 2))
    keys = {"type": "ScenesOfPairs", "root": str(tmp_path), "scene": "scene1", "gt_size": 16}
    option = TypeAdapter(TrainingSet).validate_python({**keys, "batch_size_per_gpu": 1}, strict=True)
    sample = build_train_dataset(option, 2, 0)[SampleRequest(0, 16, 0)]
    lq = np.rint(sample["lq"].numpy().transpose(1, 2, 0) * 255).astype(np.uint8)
    whole = downscale(texture(32, 40, 1), 2)
    turned = [np.rot90(view, n) for view in (whole, whole[:, ::-1]) for n in range(4)]
    windows = [np.lib.stride_tricks.sliding_window_view(view, lq.shape) for view in turned]
    assert any((window == lq).all(axis=(-3, -2, -1)).any() for window in windows)

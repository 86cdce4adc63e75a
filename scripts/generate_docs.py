"""Write docs/options.md and the key tables of docs/degradations.md from the models that check options.

Usage: python scripts/generate_docs.py [--check]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from basicsr_ext.config import degradations, schema
from basicsr_ext.config.values import describe

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "options.md"
STEPS_PAGE = ROOT / "docs" / "degradations.md"
STEPS_MARK = "<!-- The rest is made by scripts/generate_docs.py. -->\n"
INTRODUCTION = """# Option files

Keys keep BasicSR's and Restormer's names and meaning; files written for either load as they are.
Unknown keys are errors, wherever this framework can know them; arguments of networks, losses,
optimizers, schedulers and metrics are checked against their constructors. `~` stands for a key's
default.

- Numbers are YAML 1.2: `2e-4` is a number. `yes`, `no`, `on` and `off` are text.
- `--force_yml a:b:c=VALUE` sets any key; VALUE is YAML: `'datasets:train:stages=[{iters: 20,
  gt_size: 32, batch_size_per_gpu: 4}]'`.
- A `type` is looked up among ours first, then in basicsr's registries, which modules named under
  `plugins` can fill.
- Editors with a YAML language server complete and check keys by the first line of every file here:
  `# yaml-language-server: $schema=schema.json`.

This page is made by `python scripts/generate_docs.py`.
"""
SECTIONS: list[tuple[str, type[BaseModel]]] = [
    ("Top level", schema.Options),
    ("`datasets.train`: keys of every training set", schema.TrainKeys),
    ("`datasets.train.stages`: one entry a stage", schema.Stage),
    ("`datasets.*`: keys of every data set of ours", schema.ImageSource),
    ("`type: PairedImageDataset` or `Dataset_PairedImage`", schema.PairedKeys),
    ("`type: SampleImages`", schema.SampleKeys),
    ("`type: Dataset_GaussianDenoising`", schema.GaussianDenoisingKeys),
    ("`type: Dataset_DefocusDeblur_DualPixel_16bit`", schema.DualPixelKeys),
    ("`type: SingleImageDataset` (evaluation only)", schema.SingleKeys),
    ("`train`", schema.Train),
    ("`train.mixing_augs`", schema.MixingAugs),
    ("`val`", schema.Val),
    ("`path`", schema.Paths),
    ("`logger`", schema.Logger),
    ("`dist_params`", schema.Dist),
]


def build_page() -> str:
    """Return the page's Markdown."""
    return INTRODUCTION + "".join(_section(title, model) for title, model in SECTIONS)


def build_steps_page() -> str:
    """Return the written part of the page on degradations, and a table of keys for each step."""
    written, mark, _ = STEPS_PAGE.read_text(encoding="utf-8").partition(STEPS_MARK)
    sections = [
        f"\n### `{name}`\n\n{model.__doc__}\n\n{_table(model, hidden=('type',))}"
        for name, model in degradations.STEPS.items()
    ]
    return written + mark + "".join(sections)


def _section(title: str, model: type[BaseModel]) -> str:
    common = schema.ImageSource
    inherited = common.model_fields if issubclass(model, common) and model is not common else {}
    return f"\n## {title}\n\n{_table(model, inherited)}"


def _table(model: type[BaseModel], hidden: Collection[str]) -> str:
    rows = [_row(name, field) for name, field in model.model_fields.items() if name not in hidden]
    return "| key | value | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"


def _row(name: str, field: FieldInfo) -> str:
    value, meaning = _escaped(describe(field.rebuild_annotation())), _escaped(field.description or "")
    return f"| `{name}` | {value} | {_default(field)} | {meaning} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel) or value is None or value in ([], {}):
        return ""
    if isinstance(value, tuple):
        bounds = [f"{bound:.4g}" for bound in dict.fromkeys(value)]
        return f"`[{', '.join(bounds)}]`" if len(bounds) > 1 else f"`{bounds[0]}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: list[str] | None = None) -> int:
    """Write the pages, or with ``--check`` say whether the written ones are current (exit code 1: stale)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if it is stale")
    check = parser.parse_args(arguments).check
    stale = []
    for page, text in ((PAGE, build_page()), (STEPS_PAGE, build_steps_page())):
        if not check:
            page.write_text(text, encoding="utf-8")
        elif not page.is_file() or page.read_text(encoding="utf-8") != text:
            stale.append(page)
    for page in stale:
        print(f"{page} is stale; run python scripts/generate_docs.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())

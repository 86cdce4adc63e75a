"""Write docs/options.md and the key tables of docs/degradations.md from the models that check options.

Usage: python scripts/generate_docs.py [--check] [--plugins MODULE … --out FILE]
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from basicsr_ext import registry
from basicsr_ext.config import datasets, schema
from basicsr_ext.config.sections import OptionMapping
from basicsr_ext.config.structure import model_for
from basicsr_ext.config.values import describe
from basicsr_ext.data.sections import ImageSection, PatchKeys
from basicsr_ext.files import user_path
from basicsr_ext.plugins import PluginError, import_plugins

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "options.md"
STEPS_PAGE = ROOT / "docs" / "degradations.md"
STEPS_MARK = "<!-- The rest is made by scripts/generate_docs.py. -->\n"
INTRODUCTION = """# Option files

Keys keep BasicSR's and Restormer's names and meaning; files written for either load as they are.
Unknown keys are errors, wherever this framework can know them; arguments of networks, losses,
optimizers, schedulers and metrics are checked against their constructors. `~` stands for a key's
default, and removes a section that a run can do without.

- Numbers are YAML 1.2: `2e-4` is a number. `yes`, `no`, `on` and `off` are text.
- `--force_yml a:b:c=VALUE` sets any key; VALUE is YAML: `'datasets:train:stages=[{iters: 20,
  gt_size: 32, batch_size_per_gpu: 4}]'`.
- Training data must be there. A validation or test set of which nothing is there is left out, with a
  line that says where to get it, unless an override names its folder; `test.py` needs one at least.
- A `type` is looked up among ours first, then in basicsr's registries, which modules named under
  `plugins` can fill.
- Editors with a YAML language server complete and check keys by the first line of every file here:
  `# yaml-language-server: $schema=schema.json`.

This page is made by `python scripts/generate_docs.py`.
"""
SCHEDULES = """
## `train.scheduler`: learning-rate schedules

Names and arguments are BasicSR's and Restormer's, and so is the rate at every iteration, warm-up
included. Without a schedule the rate stays as it is.
"""
NAMES = """
## What `type` can name

Arguments are those of the constructor; an unknown one is answered with those there are. What basicsr
has for video and faces can be built, but no kind of training uses it. `train.optim_g` names any class
of `torch.optim`, or an importable `package.Class`.

| `type` of | ours | basicsr's |
|---|---|---|
"""
NAMED: list[tuple[str, registry.Registry]] = [
    ("`model_type`", registry.MODELS),
    ("`network_g`", registry.NETWORKS),
    ("`datasets.*`", registry.DATASETS),
    ("`datasets.*.degradation` ([page](degradations.md))", registry.DEGRADATIONS),
    ("`train.losses.*`, `train.pixel_opt`, …", registry.LOSSES),
    ("`train.scheduler`", registry.SCHEDULERS),
    ("`val.metrics.*`", registry.METRICS),
]
SHARED: list[tuple[str, type[OptionMapping]]] = [
    ("Top level", schema.Options),
    ("`datasets.train`: keys of every training set", datasets.LoaderKeys),
    ("`datasets.train.stages`: one entry a stage", schema.StageOptions),
    ("`train`: keys of every kind of training", schema.Train),
    ("`val`: keys of every kind of training", schema.Val),
    ("`path`", schema.Paths),
    ("`logger`", schema.Logger),
    ("`dist_params`", schema.Dist),
]


def build_page() -> str:
    """Return the page's Markdown: what all runs share, then what each registered extension adds."""
    shared = "".join(_section(title, model, None) for title, model in SHARED)
    common = "\n## `datasets.*`: keys of every data set\n\n" + _table(datasets.DatasetOptions, ())
    common += "\n### Keys of every data set of image pairs\n\n"
    common += _table(ImageSection, datasets.DatasetOptions.model_fields)
    common += "\nFor training, besides:\n\n" + _table(PatchKeys, datasets.LoaderKeys.model_fields)
    parts = [*_model_kinds(), common, *_data_sets(), SCHEDULES, *_schedulers(), NAMES, *_names()]
    return INTRODUCTION + shared + "".join(parts)


def build_steps_page() -> str:
    """Return the written part of the page on degradations, and a table of keys for each step."""
    written, mark, _ = STEPS_PAGE.read_text(encoding="utf-8").partition(STEPS_MARK)
    return written + mark + "".join(_steps())


def build_plugin_page(plugins: Sequence[str]) -> str:
    """Return a page of what modules register, which are imported for it."""
    kinds = (registry.MODELS, registry.DATASETS, registry.SCHEDULERS, registry.DEGRADATIONS)
    before = {name for kind in kinds for name in kind.names()}
    import_plugins(plugins)
    return "# Options\n" + "".join(
        section for part in (_model_kinds, _data_sets, _schedulers, _steps) for section in part(before)
    )


def _by_section(found: Mapping[str, Any], left_out: Collection[str]) -> Iterator[tuple[Any, list[str]]]:
    """Yield each section once with its names."""
    names: dict[Any, list[str]] = {}
    for name, section in found.items():
        if name not in left_out:
            names.setdefault(section, []).append(name)
    yield from names.items()


def _model_kinds(left_out: Collection[str] = ()) -> Iterator[str]:
    kinds = {name: kind.Options for name, kind in registry.MODELS.own().items()}  # pyright: ignore[reportFunctionMemberAccess]
    for options, names in _by_section(kinds, left_out):
        others = f" Other names: {', '.join(f'`{name}`' for name in names[1:])}." if names[1:] else ""
        yield f"\n## `model_type: {names[0]}`\n\n{_first_line(options)}{others}\n"
        for path, model, common in _own_sections(options, schema.Options, ""):
            yield f"\n### {path}\n\n{_table(model, _inherited(model, common))}"


def _own_sections(
    model: type[OptionMapping], common: type[OptionMapping] | None, path: str
) -> Iterator[tuple[str, type[OptionMapping], type[OptionMapping] | None]]:
    """Yield the sections in which a model kind has keys that not all kinds have."""
    shared = {section.__name__: section for _, section in SHARED}
    inherited = _inherited(model, common)
    if any(name not in inherited for name in model.model_fields):
        yield f"`{path}`" if path else "Top level", model, common
    for name, field in model.model_fields.items():
        below = model_for(field.rebuild_annotation(), {})
        if below is None or below in shared.values():
            continue
        if any(below is other for other in (datasets.Datasets, schema.Spec, schema.OptimizerSpec)):
            continue
        base = next((other for other in below.__mro__[1:] if other in shared.values()), None)
        yield from _own_sections(below, base, f"{path}.{name}" if path else name)


def _data_sets(left_out: Collection[str] = ()) -> Iterator[str]:
    for section, names in _by_section(datasets.EVALUATION_SET.sections(), left_out):
        yield f"\n### {_title(names)}\n\n{_first_line(section)}\n\n"
        shared = ImageSection if issubclass(section, ImageSection) else datasets.DatasetOptions
        yield _table(section, shared.model_fields)
        if datasets.for_training(section) is None:
            yield "\nFor evaluation only.\n"
        elif section.training_keys not in (datasets.LoaderKeys, PatchKeys):
            keys = _table(section.training_keys, datasets.LoaderKeys.model_fields)
            yield f"\nFor training, besides:\n\n{keys}"


def _schedulers(left_out: Collection[str] = ()) -> Iterator[str]:
    for section, names in _by_section(registry.SCHEDULERS.own(), left_out):
        yield f"\n### {_title(names)}\n\n{_first_line(section)}\n\n"
        yield _table(section, ("type",))


def _steps(left_out: Collection[str] = ()) -> Iterator[str]:
    for section, names in _by_section(registry.DEGRADATIONS.own(), left_out):
        yield f"\n### {_title(names)}\n\n{inspect.getdoc(section)}\n\n{_table(section, ('type',))}"


def _names() -> Iterator[str]:
    for place, named in NAMED:
        ours = named.names()
        others = [name for name in named.known_names() if name not in ours]
        yield f"| {place} | {_listed(ours)} | {_listed(others)} |\n"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _title(names: Sequence[str]) -> str:
    return " or ".join(f"`{name}`" for name in names)


def _section(title: str, model: type[BaseModel], common: type[BaseModel] | None) -> str:
    return f"\n## {title}\n\n{_table(model, _inherited(model, common))}"


def _inherited(model: type[BaseModel], common: type[BaseModel] | None) -> Collection[str]:
    """Return the keys that need no mention again: those that ``common`` has, with the same meaning."""
    shared = {} if common is None else common.model_fields
    fields = model.model_fields.items()
    return [
        name for name, field in fields if name in shared and field.description == shared[name].description
    ]


def _first_line(model: Any) -> str:
    return (inspect.getdoc(model) or "").partition("\n")[0]


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
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is stale")
    parser.add_argument(
        "--plugins", nargs="+", default=[], metavar="MODULE", help="document what these bring"
    )
    parser.add_argument("--out", type=user_path, metavar="FILE", help="page to write with --plugins")
    parsed = parser.parse_args(arguments)
    if bool(parsed.plugins) != bool(parsed.out):
        parser.error("--plugins and --out belong together")
    if parsed.plugins:
        try:
            pages = {parsed.out: build_plugin_page(parsed.plugins)}
        except PluginError as error:
            parser.error(f"--plugins {parsed.plugins[error.position]}: {error}")
    else:
        pages = {PAGE: build_page(), STEPS_PAGE: build_steps_page()}
    stale = []
    for page, text in pages.items():
        if not parsed.check:
            page.write_text(text, encoding="utf-8")
        elif not page.is_file() or page.read_text(encoding="utf-8") != text:
            stale.append(page)
    for page in stale:
        print(f"{page} is stale; run python scripts/generate_docs.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())

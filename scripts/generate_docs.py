"""Write docs/options.md and the key tables of docs/degradations.md from the models that check options.

Usage: python scripts/generate_docs.py [--check] [--plugins MODULE … --out FILE]
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from basicsr_ext import registry
from basicsr_ext.config import schema
from basicsr_ext.config.sections import OptionMapping
from basicsr_ext.config.structure import model_for
from basicsr_ext.config.values import describe
from basicsr_ext.plugins import PluginError, import_plugins

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
SHARED: list[tuple[str, type[OptionMapping]]] = [
    ("Top level", schema.Options),
    ("`datasets.train`: keys of every training set", schema.LoaderKeys),
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
    return INTRODUCTION + shared + "".join([*_model_kinds(), *_data_sets(), *_schedulers()])


def build_steps_page() -> str:
    """Return the written part of the page on degradations, and a table of keys for each step."""
    written, mark, _ = STEPS_PAGE.read_text(encoding="utf-8").partition(STEPS_MARK)
    return written + mark + "".join(_steps())


def build_plugin_page(before: Mapping[registry.Registry, Collection[str]]) -> str:
    """Return a page of what has been registered since ``before``."""
    sections = [*_model_kinds(), *_data_sets(), *_schedulers(), *_steps()]
    new = {name for kind, names in before.items() for name in kind.names() if name not in names}
    return "# Options\n" + "".join(
        section for section in sections if any(f"`{name}`" in section.splitlines()[1] for name in new)
    )


def _model_kinds() -> Iterator[str]:
    kinds: dict[type[schema.Options], list[str]] = {}
    for name, kind in registry.MODELS.own().items():
        kinds.setdefault(kind.Options, []).append(name)  # pyright: ignore[reportFunctionMemberAccess]
    for options, names in kinds.items():
        yield f"\n## `model_type: {names[0]}`\n\n{_first_line(options)}"
        if len(names) > 1:
            yield f" Other names: {', '.join(f'`{name}`' for name in names[1:])}.\n"
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
        if any(below is other for other in (schema.Datasets, schema.Spec, schema.OptimizerSpec)):
            continue
        base = next((other for other in below.__mro__[1:] if other in shared.values()), None)
        yield from _own_sections(below, base, f"{path}.{name}" if path else name)


def _data_sets() -> Iterator[str]:
    sections: dict[type[OptionMapping], list[str]] = {}
    for name, section in schema.EVALUATION_SET.sections().items():
        sections.setdefault(section, []).append(name)
    yield "\n## `datasets.*`: keys of every data set\n\n" + _table(schema.DatasetOptions, ())
    for section, names in sections.items():
        title = " or ".join(f"`{name}`" for name in names)
        training = schema.for_training(section)
        yield f"\n### {title}\n\n{_first_line(section)}\n\n"
        yield _table(section, schema.DatasetOptions.model_fields)
        if training is None:
            yield "\nFor evaluation only.\n"
        elif section.training_keys is not schema.LoaderKeys:  # pyright: ignore[reportAttributeAccessIssue]
            keys = section.training_keys  # pyright: ignore[reportAttributeAccessIssue]
            yield "\nFor training, besides:\n\n" + _table(keys, schema.LoaderKeys.model_fields)


def _schedulers() -> Iterator[str]:
    yield "\n## `train.scheduler`\n"
    sections: dict[Any, list[str]] = {}
    for name, section in registry.SCHEDULERS.own().items():
        sections.setdefault(section, []).append(name)
    for section, names in sections.items():
        title = " or ".join(f"`{name}`" for name in names)
        yield f"\n### {title}\n\n{_first_line(section)}\n\n{_table(section, ('type',))}"


def _steps() -> Iterator[str]:
    for name, section in registry.DEGRADATIONS.own().items():
        yield f"\n### `{name}`\n\n{inspect.getdoc(section)}\n\n{_table(section, ('type',))}"  # pyright: ignore[reportArgumentType]


def _section(title: str, model: type[BaseModel], common: type[BaseModel] | None) -> str:
    return f"\n## {title}\n\n{_table(model, _inherited(model, common))}"


def _inherited(model: type[BaseModel], common: type[BaseModel] | None) -> Collection[str]:
    """Return the keys that need no mention again: those that ``common`` has, with the same meaning."""
    shared = {} if common is None else common.model_fields
    return [
        name
        for name, field in model.model_fields.items()
        if name in shared and field.description == shared[name].description
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
    parser.add_argument("--out", type=Path, metavar="FILE", help="page to write with --plugins")
    parsed = parser.parse_args(arguments)
    if bool(parsed.plugins) != bool(parsed.out):
        parser.error("--plugins and --out belong together")
    pages = {}
    if parsed.plugins:
        kinds = (registry.MODELS, registry.DATASETS, registry.SCHEDULERS, registry.DEGRADATIONS)
        before = {kind: kind.names() for kind in kinds}
        try:
            import_plugins(parsed.plugins)
        except PluginError as error:
            parser.error(f"--plugins {parsed.plugins[error.position]}: {error}")
        pages[parsed.out] = build_plugin_page(before)
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

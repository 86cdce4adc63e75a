"""Imports point one way: config <- archs, data, losses, metrics <- models <- engine <- commands."""

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from helpers import run_command

import basicsr_ext

PACKAGE = Path(basicsr_ext.__file__).parent
SHARED = {"registry", "compat", "files"}
MAY_IMPORT = {
    "spelling": set(),
    "files": set(),
    "exit": set(),
    "plugins": set(),
    "registry": {"spelling"},
    "compat": {"archs"},
    "config": {"registry", "plugins", "spelling"},
    "archs": {"config"} | SHARED,
    "data": {"config"} | SHARED,
    "losses": {"config"} | SHARED,
    "metrics": {"config"} | SHARED,
    "schedulers": {"config"} | SHARED,
    "inference": {"config", "archs", "data", "plugins"} | SHARED,
    "models": {"config", "archs", "data", "losses", "metrics", "inference", "spelling"} | SHARED,
    "analysis": {"config", "archs", "data", "inference", "models"} | SHARED,
    "report": {"config", "archs", "data", "plugins"} | SHARED,
    "engine": {"config", "archs", "data", "losses", "metrics", "schedulers", "models", "inference", "report"}
    | SHARED,
    "__init__": {"config", "archs", "inference", "engine", "analysis"} | SHARED,
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def names_imported_by(path: Path, text: str) -> set[str]:
    """Return the dotted names that ``text``, the content of ``path``, imports anywhere in it."""
    package = ["basicsr_ext", *path.relative_to(PACKAGE).parts[:-1]]
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def parts_imported_by(path: Path) -> set[str]:
    """Return the parts of the package that ``path`` imports, other than its own."""
    names = names_imported_by(path, path.read_text())
    parts = {name.split(".")[1] for name in names if name.startswith("basicsr_ext.")}
    return {part for part in parts if (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").exists()} - {
        part_of(path)
    }


def cycle(texts: dict[Path, str]) -> list[str]:
    """Return modules of which each imports the next and the last is the first, if there are any.

    Args:
        texts: content of modules by their files. Imports in functions and for type checkers count.
    """
    modules = {module_name(path): path for path in texts}
    graph = {}
    for module, path in modules.items():
        # A name is a module, or lies in one.
        names = names_imported_by(path, texts[path])
        nearest = {name if name in modules else name.rpartition(".")[0] for name in names}
        graph[module] = nearest & modules.keys() - {module}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1][::-1]
    return []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_lies_below_it(path):
    assert parts_imported_by(path) <= MAY_IMPORT[part_of(path)]


def test_no_module_imports_itself_by_way_of_others():
    assert cycle({path: path.read_text() for path in MODULES}) == []


@pytest.mark.parametrize(
    "back",
    ["from . import sources", "def f():\n    from .sources import x", "import basicsr_ext.data.sources"],
)
def test_a_cycle_is_found_wherever_its_imports_stand(back):
    texts = {path: path.read_text() for path in MODULES}
    texts[PACKAGE / "data/images.py"] += f"\n{back}\n"
    found = cycle(texts)
    assert found[0] == found[-1]
    assert set(found) == {"basicsr_ext.data.images", "basicsr_ext.data.sources"}


NEED_TORCH = {"classes", "datasets", "episodes", "inspection", "loader", "mixing", "pixels"}
"""Modules of ``data`` that are about tensors; all others are about arrays."""
IMPORT_EACH = """
import sys
from importlib import import_module
for name in sys.argv[1:]:
    import_module(name)
    if "torch" in sys.modules:
        sys.exit(f"{name} imports torch")
"""


def test_images_and_degradations_can_be_imported_without_torch():
    paths = [path for path in (PACKAGE / "data").rglob("*.py") if path.stem not in NEED_TORCH]
    names = [module_name(path) for path in (PACKAGE / "files.py", *sorted(paths))]
    assert len(names) > 25
    done = run_command(sys.executable, "-c", IMPORT_EACH, *names)
    assert (done.returncode, done.stderr) == (0, "")


def test_modules_stay_readable_in_one_sitting():
    long = {"/".join(path.parts[-2:]) for path in MODULES if len(path.read_text().splitlines()) > 500}
    assert long == set()

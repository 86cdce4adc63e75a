"""Change one place of a module at a time and see whether its tests notice.

Usage: python benchmarks/mutation.py MODULE... [--count N] [--seed N] [--list]

A module is a path below ``basicsr_ext`` (``engine/step.py``). The work is done in a copy of the tree. Every
mutant is tried in a fork of this process, which has imported what tests import from elsewhere. A mutant that
survives is a test that is missing, or a change that changes nothing.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "basicsr_ext"

_TWO_PHASES = (
    "engine/test_plugin_model.py::test_a_phase_changes_its_own_network_alone",
    "engine/test_plugin_model.py::test_a_phase_that_is_not_finite_undoes_the_whole_iteration",
)
_STEP = ("engine/test_step.py", "engine/test_parameters.py", *_TWO_PHASES)
_VALIDATION_STOPPED = (
    "engine/test_interruptions.py"
    "::test_a_signal_between_validation_images_stops_the_run_and_a_resume_makes_up_for_it"
)
_SCORES = ("models/test_restoration_model.py", "engine/test_evaluation.py")
_SECTIONS = ("config/test_option_relations.py", "config/test_option_errors.py")
_WHOLE_IMAGES = ("inference/test_tiles.py", "inference/test_restore.py")
_COMMAND = ("inference/test_infer_command.py",)
TESTS: dict[str, tuple[str, ...]] = {
    "data/mapped_volumes.py": (
        "engine/test_few_shot.py::test_cached_volumes_are_those_of_the_files_which_are_read_once",
        "engine/test_few_shot.py::test_a_changed_volume_is_cached_anew_and_a_damaged_file_replaced",
        "engine/test_few_shot.py::test_a_cache_without_a_place_says_so",
    ),
    "data/mixing.py": ("data/test_mixing.py",),
    "data/sampling.py": ("data/test_sampling.py",),
    "engine/agreement.py": ("engine/test_agreement.py", "engine/test_absent_data.py"),
    "engine/build.py": ("engine/test_build.py", "engine/test_absent_data.py"),
    "engine/checkpoint.py": ("engine/test_checkpoint.py", "engine/test_resume.py"),
    "engine/ema.py": _STEP,
    "engine/compiling.py": ("engine/test_compiling.py",),
    "engine/distributed.py": ("engine/test_distributed.py", "engine/test_step.py"),
    "engine/experiment.py": ("engine/test_resume.py", "engine/test_absent_data.py", "engine/test_trainer.py"),
    "engine/failures.py": ("engine/test_failures.py",),
    "engine/lock.py": ("engine/test_lock.py",),
    "engine/logger.py": ("engine/test_logger.py", "engine/test_step.py"),
    "engine/parameters.py": ("engine/test_parameters.py",),
    "engine/precision.py": _STEP,
    "engine/progress.py": ("engine/test_progress.py", "engine/test_step.py"),
    "engine/resume.py": ("engine/test_resume.py",),
    "engine/step.py": _STEP,
    "engine/run.py": ("engine/test_absent_data.py", "engine/test_resume.py", "engine/test_evaluation.py"),
    "engine/preflight/rehearsal.py": ("engine/test_failures.py", "engine/test_build.py"),
    "engine/preflight/summary.py": ("engine/test_preflight.py", "engine/test_failures.py"),
    "engine/preflight/trial.py": ("engine/test_preflight.py", "engine/test_failures.py"),
    "engine/signals.py": ("engine/test_signals.py", _VALIDATION_STOPPED),
    "engine/trainer.py": (
        "engine/test_step.py",
        "engine/test_resume.py",
        "engine/test_trainer.py",
        "engine/test_plugin_model.py::test_a_run_saves_logs_and_scores_everything_by_name",
        _VALIDATION_STOPPED,
    ),
    "engine/validator.py": ("engine/test_validator.py", *_SCORES),
    "inference/channels.py": ("inference/test_channels.py", *_COMMAND),
    "inference/command.py": _COMMAND,
    "inference/comparison.py": ("inference/test_restore.py", "models/test_restoration_model.py"),
    "inference/contours.py": ("inference/test_contours.py", "models/test_few_shot_model.py"),
    "inference/description.py": _COMMAND,
    "inference/export.py": ("inference/test_export.py",),
    "inference/files.py": _COMMAND,
    "inference/memory.py": ("inference/test_tiles.py",),
    "inference/pictures.py": ("inference/test_pictures.py", *_COMMAND),
    "inference/recognise.py": ("inference/test_recognise.py",),
    "inference/records.py": _COMMAND,
    "inference/restore.py": _WHOLE_IMAGES,
    "inference/tiles.py": _WHOLE_IMAGES,
    "metrics/__init__.py": ("metrics/test_metrics.py",),
    "metrics/dice_metric.py": ("metrics/test_metrics.py",),
    "metrics/psnrb_metric.py": ("metrics/test_psnrb.py",),
    "metrics/topk_metric.py": ("metrics/test_metrics.py",),
    "models/classification_model.py": ("models/test_classification_model.py",),
    "models/few_shot_model.py": ("models/test_few_shot_model.py",),
    "models/model_kind.py": ("models/test_model_kind.py",),
    "models/multitask_model.py": ("models/test_multitask_model.py",),
    "models/restoration_model.py": (*_SCORES, *_SECTIONS),
}
"""Tests of a module that take seconds, by far not all that there are; none that starts processes is run.

Of others, all of the folder below ``tests`` named likewise.
"""

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}


@dataclass(frozen=True)
class Mutant:
    """One change of a module.

    Attributes:
        line: of the original file.
        change: what was there and what is there now, for people.
        source: of the whole module.
    """

    line: int
    change: str
    source: str


def mutants(source: str) -> list[Mutant]:
    """Return every change of a module that is tried, in the order of its lines."""
    tree = ast.parse(source)
    found = []
    for parent, field, index, node in _places(tree):
        for changed in _variants(node):
            _put(parent, field, index, changed)
            words = f"{_shown(node)}  ->  {_shown(changed)}"
            found.append(Mutant(node.lineno, words, ast.unparse(ast.fix_missing_locations(tree))))
            _put(parent, field, index, node)
    return sorted(found, key=lambda mutant: mutant.line)


def _places(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, Any]]:
    """Yield what may be changed and where it stands; annotations, messages and docstrings may not."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        children = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, child in children:
            if not isinstance(child, ast.AST) or _is_speech(child):
                continue
            if isinstance(child, ast.stmt | ast.expr) and not _is_check(node):
                yield node, field, index, child
            if not isinstance(child, ast.Raise):
                yield from _places(child)


def _is_check(node: ast.AST) -> bool:
    """Say whether a node is ``strict=True``, which finds mistakes in the code around it and nothing else."""
    return isinstance(node, ast.keyword) and node.arg == "strict"


def _is_speech(node: ast.AST) -> bool:
    if isinstance(node, ast.Expr):
        call = node.value
        return isinstance(call, ast.Constant) or (
            isinstance(call, ast.Call) and ast.unparse(call.func).startswith(("LOG.", "print"))
        )
    checks_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    return checks_types or isinstance(node, ast.JoinedStr | ast.Assert | ast.Import | ast.ImportFrom)


def _put(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def _shown(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 100 else f"{text[:99]}…"


def _variants(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is put in the place of ``node``."""

    def changed(change: Callable[[Any], object]) -> ast.AST:
        other = copy.deepcopy(node)
        change(other)
        return other

    match node:
        case ast.Compare(ops=[operator]):
            yield changed(lambda n: setattr(n, "ops", [_COMPARISONS[type(operator)]()]))
        case ast.BoolOp(op=operator):
            other = ast.Or() if isinstance(operator, ast.And) else ast.And()
            yield changed(lambda n: setattr(n, "op", other))
        case ast.BinOp(op=operator) | ast.AugAssign(op=operator) if type(operator) in _OPERATORS:
            yield changed(lambda n: setattr(n, "op", _OPERATORS[type(operator)]()))
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value, lineno=node.lineno)
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1, lineno=node.lineno)
        case ast.IfExp(test=test):
            yield changed(lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), test)))
        case ast.Return(value=ast.expr() as value) if not _is_none(value):
            yield ast.Return(ast.Constant(None))
        case ast.If(test=test) | ast.While(test=test):
            yield changed(lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), test)))
        case ast.With(items=[ast.withitem(optional_vars=None)], body=body):
            yield ast.If(ast.Constant(True), body, [])
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Continue() | ast.Break() | ast.AugAssign():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
        case ast.Call(args=[first, second, *_]) if not isinstance(second, ast.Starred):
            yield changed(lambda n: n.args.__setitem__(slice(0, 2), [second, first]))
    if isinstance(node, ast.Call):
        for number, keyword in enumerate(node.keywords):
            if keyword.arg not in (None, "strict"):
                yield changed(lambda n, number=number: n.keywords.pop(number))


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def relevant_tests(module: str) -> list[str]:
    """Return the test files of a module, relative to the tree."""
    names = TESTS.get(module)
    if names is None:
        folder = Path("tests") / Path(module).parts[0]
        return sorted(str(path.relative_to(ROOT)) for path in (ROOT / folder).glob("test_*.py"))
    return [f"tests/{name}" for name in names]


class WithoutProcesses:
    """A plugin of pytest that leaves out tests which start processes."""

    starts = frozenset({"run_command", "start_processes", "start_ranks", "train_command"})

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:  # noqa: D102 (of pytest)
        items[:] = [
            item
            for item in items
            if self.starts.isdisjoint((*item.fixturenames, *item.function.__code__.co_names))
        ]


class Laboratory:
    """A copy of the tree in which modules are changed and tested, one at a time."""

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "tree"
        left_out = shutil.ignore_patterns(".git", ".*_cache", "__pycache__")
        shutil.copytree(ROOT, self.tree, ignore=left_out, symlinks=True)
        self.log = folder / "log.txt"

    def failure(self, module: str, source: str, tests: Sequence[str], limit: float) -> str | None:
        """Return how tests fail where a module has another source; None if they pass."""
        path = self.tree / PACKAGE / module
        original = path.read_text(encoding="utf-8")
        path.write_text(source, encoding="utf-8")
        process = os.fork()
        if process == 0:
            self._test(tests)
        try:
            return self._verdict(process, time.monotonic() + limit)
        finally:
            path.write_text(original, encoding="utf-8")

    def _verdict(self, process: int, end: float) -> str | None:
        while True:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                break
            if time.monotonic() > end:
                os.killpg(process, signal.SIGKILL)
                os.waitpid(process, 0)
                return "it takes too long"
            time.sleep(0.02)
        if status == 0:
            return None
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return next((x for x in lines if x.startswith(("FAILED", "ERROR"))), f"exit status {status}")

    def _test(self, tests: Sequence[str]) -> None:
        """Run tests in this process, which is a fork, and end it."""
        code = 99
        try:
            os.setsid()  # so that what it starts ends with it
            output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.chdir(self.tree)
            # Two versions of a file may be alike to Python: of one size, and written within one second.
            sys.dont_write_bytecode = True
            os.environ |= {"PYTHONPATH": str(self.tree), "PYTHONDONTWRITEBYTECODE": "1"}
            sys.path.insert(0, str(self.tree))
            import pytest

            options = ["-x", "-n", "0", "-p", "no:cacheprovider", "-rfE"]
            code = int(pytest.main([*options, *tests], plugins=[WithoutProcesses()]))
        finally:
            os._exit(code)


def import_from_elsewhere() -> None:
    """Import what takes long and is not changed, once for all forks."""
    assert PACKAGE not in sys.modules, "the forks have to import their own"
    import cv2  # noqa: F401
    import hypothesis  # noqa: F401
    import pytest  # noqa: F401
    import torch.utils.tensorboard
    from torchvision.transforms.functional import rgb_to_grayscale

    torch.set_num_threads(1)  # threads do not survive a fork
    removed = ModuleType("torchvision.transforms.functional_tensor")
    removed.rgb_to_grayscale = rgb_to_grayscale  # type: ignore[attr-defined]
    sys.modules[removed.__name__] = removed
    import basicsr.losses
    import basicsr.metrics  # noqa: F401

    assert PACKAGE not in sys.modules, "the forks have to import their own"


def main() -> None:
    """Print the mutants that no test notices, and the share of those that one does."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("modules", nargs="+", metavar="MODULE")
    parser.add_argument("--count", type=int, default=8, help="mutants a module, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--list", action="store_true", help="print the mutants and try none")
    arguments = parser.parse_args()
    sources = {name: (ROOT / PACKAGE / name).read_text(encoding="utf-8") for name in arguments.modules}
    drawn: dict[str, list[Mutant]] = {}
    for name, source in sources.items():
        known = mutants(source)
        rng = random.Random(f"{arguments.seed} {name}")
        drawn[name] = sorted(rng.sample(known, min(arguments.count, len(known))), key=lambda m: m.line)
    if arguments.list:
        for name, chosen in drawn.items():
            for mutant in chosen:
                print(f"{name}:{mutant.line}: {mutant.change}")
        return
    import_from_elsewhere()
    with tempfile.TemporaryDirectory(prefix="mutation_") as folder:
        laboratory = Laboratory(Path(folder))
        noticed = 0
        durations: dict[tuple[str, ...], float] = {}
        for name, chosen in drawn.items():
            tests = tuple(relevant_tests(name))
            if tests not in durations:
                started = time.monotonic()
                if failure := laboratory.failure(name, sources[name], tests, limit=1800):
                    raise SystemExit(f"{name}: its tests fail as it is: {failure}")
                durations[tests] = time.monotonic() - started
            seconds = durations[tests]
            print(f"{name}: {len(chosen)} mutants, tests take {seconds:.0f} s", flush=True)
            for mutant in chosen:
                failure = laboratory.failure(name, mutant.source, tests, limit=30 + 5 * seconds)
                noticed += failure is not None
                words = "SURVIVES" if failure is None else f"killed: {failure}"
                print(f"  {name}:{mutant.line}: {mutant.change}\n    {words}", flush=True)
        tried = sum(map(len, drawn.values()))
        print(f"{noticed} of {tried} mutants killed ({noticed / tried:.0%})")


if __name__ == "__main__":
    main()

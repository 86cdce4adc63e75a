"""Names are known from the files' text; only the file of the wanted name is imported."""

import ast
import inspect
import subprocess
import sys

import pytest

from basicsr_ext import registry
from basicsr_ext.config.signature import check_arguments, written_constructor
from basicsr_ext.engine.precision import find_optimizer
from basicsr_ext.registry import LOSSES, NETWORKS, OPTIMIZERS, Registry, UnknownTypeError


def run(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_names_are_known_without_importing_torch():
    program = (
        "import sys; from basicsr_ext.registry import NETWORKS, LOSSES, OPTIMIZERS\n"
        "print({'EDT', 'SwinIR'} <= set(NETWORKS.known_names()), 'L1Loss' in LOSSES.known_names(),"
        " {'Adam', 'AdamW'} <= set(OPTIMIZERS.known_names()), 'torch' in sys.modules)"
    )
    assert run(program) == "True True True False\n"


def test_finding_a_name_imports_its_file_alone():
    program = (
        "import sys; from basicsr_ext.registry import NETWORKS; NETWORKS.find('Restormer')\n"
        "ours = [name for name in sys.modules if name.startswith('basicsr_ext.archs.')]\n"
        "print([name for name in ours if name.endswith('_arch')])"
    )
    assert run(program) == "['basicsr_ext.archs.restormer_arch']\n"


@pytest.mark.parametrize("kind", [NETWORKS, LOSSES, OPTIMIZERS], ids=lambda kind: kind.kind)
def test_what_the_files_say_is_what_can_be_found(kind):
    for name in kind.known_names():
        found = find_optimizer(name) if kind is OPTIMIZERS else kind.find(name)
        assert found.__name__ == name


def test_a_name_cannot_be_registered_twice():
    own = Registry("OWN", "thing")
    own.register("a")(int)
    with pytest.raises(ValueError, match="thing 'a' is registered twice"):
        own.register("a")(float)
    with pytest.raises(ValueError, match="network 'EDT' is registered twice"):
        NETWORKS.register("EDT")(int)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownTypeError, match="did you mean 'Restormer'"):
        NETWORKS.find("Restormr")


def test_the_star_stands_for_every_other_name():
    own = Registry("OWN", "thing")
    own.register("*")(int)
    own.register("a")(float)
    assert (own.names(), own.section("a"), own.section("b")) == (["a"], float, int)


@pytest.mark.parametrize("name", ["EDT", "EMT", "GRL", "Restormer", "SwinIR", "MSRResNet", "L1Loss"])
def test_a_constructor_is_compared_alike_before_and_after_it_is_imported(name):
    kind = next(kind for kind in (NETWORKS, LOSSES) if name in kind.known_names())
    definition = next(
        item
        for item in ast.parse(inspect.getsource(inspect.getmodule(kind.find(name)))).body
        if isinstance(item, ast.ClassDef) and item.name == name
    )
    written, real = written_constructor(definition), kind.find(name)
    parameters = inspect.signature(real).parameters
    assert list(inspect.signature(written).parameters) == list(parameters)
    for kwargs in ({"no_such": 1}, *({word: "text"} for word in parameters)):
        before, after = (check_arguments(c, kwargs, "n", allow_extra=False) for c in (written, real))
        # Types that are no literals are unknown before; what is said then is said later, too.
        assert {problem.key for problem in before} <= {problem.key for problem in after}
        assert ("no_such" in kwargs) <= (before == after)


def test_defaults_that_are_no_literals_and_unknown_types_are_left_open():
    arguments = "self, a: Tensor, b: int | None = CONSTANT, *, c: list[int] = [1], **d"
    source = f"class A:\n def __init__({arguments}): ...\n"
    constructor = written_constructor(ast.parse(source).body[0])
    assert str(inspect.signature(constructor)) == "(a, b=Ellipsis, *, c=[1], **d)"
    assert constructor.__annotations__ == {"b": int | None, "c": list[int]}
    assert written_constructor(ast.parse("class B(A): ...").body[0]) is None


def test_every_registry_has_its_name():
    own = {name: value for name, value in vars(registry).items() if isinstance(value, Registry)}
    assert all(value.symbol == name for name, value in own.items())
    assert len(own) == 10

"""The mutation tool changes one place at a time, and only what a test could notice."""

from __future__ import annotations

import ast

from mutation import ROOT, TESTS, mutants, relevant_tests

SOURCE = '''
"""Words, and a number: 1."""
def clip(value: int = 3, *, limit: bool = True) -> int:
    """Return 2."""
    if value < 0 and limit:
        raise ValueError(f"{value} is below {0}")
    LOG.info("at %d", 7)
    return min(value, 255)
'''


def test_every_mutant_differs_in_one_place_from_the_module_and_the_others():
    found = [mutant.source for mutant in mutants(SOURCE)]
    plain = ast.unparse(ast.parse(SOURCE))
    assert len(set(found)) == len(found)
    assert plain not in found
    changed = {
        "value: int=4",
        "limit: bool=False",
        "value <= 0",
        "value < 1",
        "value < 0 or limit",
        "if not (value < 0 and limit)",
        "        pass",
        "return None",
        "min(255, value)",
        "min(value, 256)",
    }
    assert len(found) == len(changed)
    for words in changed:
        assert sum(words in source for source in found) == 1, words


def test_every_module_has_tests_that_exist():
    for module in TESTS:
        assert (ROOT / "basicsr_ext" / module).is_file(), module
        assert all((ROOT / name.partition("::")[0]).is_file() for name in relevant_tests(module)), module
    assert "tests/archs/test_swin.py" in relevant_tests("archs/swin_arch.py")

"""Whatever is done to a file's bytes, reading it succeeds or is refused in words, soon, and runs nothing."""

import os

import pytest
from fuzz_targets import TARGETS, Target, mutated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = 40


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_bytes_are_read_or_refused(name, data):
    target = TARGETS[name]
    target.run(data.draw(mutated(target.seeds)))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name in TARGETS for number in range(len(TARGETS[name].seeds))]
)
def test_undamaged_and_malicious_files_are_read_or_refused(name, number):
    target = TARGETS[name]
    target.run(target.seeds[number])


def run_code(_: bytes) -> str:
    os.system("true")
    return "accepted"


def test_the_guard_notices_code_that_runs():
    with pytest.raises(AssertionError, match=r"os\.system"):
        Target((b"",), run_code).run(b"")


def test_the_guard_notices_a_hang(monkeypatch):
    monkeypatch.setattr("fuzz_targets.SECONDS", 1)

    def hang(_: bytes) -> str:
        while True:
            pass

    with pytest.raises(AssertionError, match="no end after 1 s"):
        Target((b"",), hang).run(b"")

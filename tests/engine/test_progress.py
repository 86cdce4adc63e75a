"""Progress bars on a terminal: one for the run, one below it for an evaluation that asks for it."""

import io

import pytest
from rich.console import Console

from basicsr_ext.engine.progress import Bar, tracked


@pytest.fixture
def terminal(monkeypatch):
    """Return what a terminal of 100 columns is sent, and what a pipe is."""

    def make(is_terminal):
        console = Console(file=io.StringIO(), force_terminal=is_terminal, width=100)
        monkeypatch.setattr("rich._console", console)
        return console.file

    return make


def run(enabled):
    with Bar("training", 10, 5, enabled=True) as bar:
        assert list(tracked("abc", "Set5", 3, enabled)) == ["a", "b", "c"]
        bar.update(6, "loss 1")


@pytest.mark.parametrize("enabled", [True, False])
def test_an_evaluation_is_shown_below_the_run_where_asked_for(terminal, enabled):
    screen = terminal(True)
    run(enabled)
    shown = screen.getvalue()
    assert ("Set5" in shown) is enabled
    assert "6/10" in shown
    assert "Set5" not in shown[shown.rindex("loss 1") - 100 :]  # it has gone with its end


def test_an_evaluation_of_its_own_is_shown_and_leaves_the_terminal_free(terminal):
    screen = terminal(True)
    for name in ("Set5", "Set14"):
        assert list(tracked("abc", name, 3, enabled=True)) == ["a", "b", "c"]
    assert all(f"{name}" in screen.getvalue() for name in ("Set5", "Set14"))
    assert Bar._shown is None


def test_nothing_goes_to_a_pipe(terminal):
    screen = terminal(False)
    run(enabled=True)
    assert screen.getvalue() == ""

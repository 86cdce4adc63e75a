"""How fast a run goes, and what a terminal shows: a bar for the run, one below it for an evaluation."""

import io

import pytest
from rich.console import Console

from basicsr_ext.data.sampling import Stage
from basicsr_ext.engine.progress import Bar, Speedometer, duration, tracked


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


def test_the_rest_of_a_run_is_predicted_stage_by_stage():
    speed = Speedometer([Stage(10, 16, 4), Stage(10, 32, 4), Stage(5, 32, 2)])
    assert speed.remaining(0) == 0  # nothing is known yet
    speed.add(1, 0.5, 0.0)
    speed.add(2, 1.5, 0.0)
    # A second an iteration, four where there are four times the pixels, two where half of those.
    assert speed.remaining(2) == 8 * 1 + 10 * 4 + 5 * 2
    speed.add(11, 6.0, 0.0)
    assert speed.remaining(11) == 9 * 6 + 5 * 3
    assert speed.remaining(20) == 5 * 3
    assert speed.remaining(25) == 0


def test_a_report_counts_what_was_since_the_last_one():
    speed = Speedometer([Stage(10, 16, 4)])
    speed.add(1, 0.5, 0.25)
    speed.add(2, 1.5, 0.25)
    assert speed.report() == (1.0, 0.25)
    speed.add(3, 0.5, 0.5)
    assert speed.report() == (2.0, 1.0)


def test_durations_are_whole_seconds():
    assert duration(3 * 86400 + 4 * 3600 + 5 * 60 + 5.6) == "3 days, 4:05:06"

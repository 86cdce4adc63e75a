"""Whatever a file holds, loading it gives options or an OptionError of well-formed lines, and soon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from basicsr_ext.config import OptionError, Options, load_options, resolved_stages
from basicsr_ext.config.yaml_text import read_yaml

PUBLISHED = sorted((Path(__file__).parent / "published").glob("*.yml"))
TEXTS = [file.read_text() for file in PUBLISHED]
mutating = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def check(load: Any) -> None:
    options, error = None, None
    try:
        options = load()
    except OptionError as caught:
        error = caught
    if error is not None:
        lines = str(error).splitlines()
        assert len(lines) == len(error.problems) > 0
        assert all(": found " in line and ", expected " in line and line.isprintable() for line in lines)
        assert len(lines) == len(set(lines))
    else:
        assert isinstance(options, Options)
        resolved_stages(options)
        assert load_options(read_yaml(options.to_yaml(), str).value, phases=()) == options


@st.composite
def mutated_texts(draw: st.DrawFn) -> str:
    """A published file with lines dropped, doubled, exchanged or damaged."""
    lines = draw(st.sampled_from(TEXTS)).splitlines()
    for _ in range(draw(st.integers(1, 4))):
        i = draw(st.integers(0, len(lines) - 1))
        j = draw(st.integers(0, len(lines) - 1))
        column = draw(st.integers(0, len(lines[i])))
        noise = draw(st.sampled_from([*"\t:-[]{}'\"&*!|>%@`#~,? \x00\xa0é", "<<: *a", "!!int ", "&a ", "*a"]))
        lines[i : i + 1] = draw(
            st.sampled_from(
                [
                    [],
                    [lines[i]] * 2,
                    [lines[j]],
                    [lines[i][:column]],
                    [lines[i][:column] + noise + lines[i][column:]],
                    [" " * column + lines[i]],
                ]
            )
        ) or ["# dropped"]
    return "\n".join(lines)


@mutating
@given(mutated_texts())
def test_a_file_with_damaged_lines_loads_or_is_refused_in_words(tmp_path, text):
    file = tmp_path / "o.yml"
    file.write_text(text, encoding="utf-8")
    check(lambda: load_options(file, phases=()))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_load_or_are_refused_in_words(tmp_path, data):
    file = tmp_path / "o.yml"
    file.write_bytes(data)
    check(lambda: load_options(file))


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["PairedImageDataset", "SampleImages", "MultiStepLR", "none", "2e-4x", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "iters", "gt_size", "lr", "train", "val", "stages", "milestones", "typ", ""]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in below for found in [(*path, key), *places(item, (*path, key))]]


@st.composite
def mutated_mappings(draw: st.DrawFn) -> dict[str, Any]:
    """A published file's content with values exchanged, dropped or moved to other keys."""
    mapping = read_yaml(draw(st.sampled_from(TEXTS)), str).value
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(mapping)))
        holder = mapping
        for key in path[:-1]:
            holder = holder[key]
        if draw(st.booleans()):
            holder[path[-1]] = draw(junk)
        elif isinstance(holder, dict):
            value = holder.pop(path[-1])
            if draw(st.booleans()):
                holder[draw(st.sampled_from([path[-1] + "s", path[-1][1:], "zz"]))] = value
        if not places(mapping):
            break
    return mapping


@mutating
@given(mutated_mappings(), st.lists(st.text(max_size=12), max_size=2))
def test_a_file_with_other_values_loads_or_is_refused_in_words(mapping, overrides):
    check(lambda: load_options(mapping, overrides))


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_every_misspelt_key_of_a_published_file_gives_one_line_naming_it(file):
    mapping = read_yaml(file.read_text(), str).value
    kept = {"network_g", "metrics", "pixel_opt", "scheduler", "optim_g", "wandb"}
    for path in places(mapping):
        if kept & set(path) or isinstance(path[-1], int) or len(path[-1]) < 4:
            continue
        changed = read_yaml(file.read_text(), str).value
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1][:2] + path[-1][3:]] = holder.pop(path[-1])
        with pytest.raises(OptionError) as caught:
            load_options(changed, phases=())
        [problem] = [problem for problem in caught.value.problems if "does not exist" not in problem.found]
        assert f"did you mean {path[-1]!r}?" in problem.fix

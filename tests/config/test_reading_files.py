"""Files that are no option files, named in one line each; what loaded options know of their file."""

from __future__ import annotations

from pathlib import Path

import pytest

from basicsr_ext.config import OptionError, Options, load_options


def message(path: Path | str) -> str:
    with pytest.raises(OptionError) as caught:
        load_options(path)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_missing_file_suggests_the_nearest_name_in_its_folder(tmp_path):
    (tmp_path / "edt_x4.yml").touch()
    (tmp_path / "weights.pth").touch()
    assert message(tmp_path / "edt_4x.yml") == (
        f"{tmp_path}/edt_4x.yml: found no such file, expected an option file (YAML text); "
        f"did you mean '{tmp_path}/edt_x4.yml'?"
    )
    assert message(tmp_path / "weights.yml").endswith("there: edt_x4.yml")


def test_a_missing_folder_is_said_to_be_missing():
    assert message("nowhere/o.yml").endswith("there is no folder 'nowhere' either")


def test_a_folder_gives_one_line(tmp_path):
    assert message(tmp_path).startswith(f"{tmp_path}: found a folder, expected an option file")


def test_bytes_that_are_not_utf8_are_located(tmp_path):
    file = tmp_path / "o.yml"
    file.write_bytes("name: a\nsuffix: é\n".encode("latin-1"))
    assert message(file) == (
        f"{file}:2: found the byte 0xe9, which is not UTF-8, expected an option file (YAML text); "
        "save the file as UTF-8"
    )


def test_a_file_far_too_large_is_not_read(tmp_path):
    file = tmp_path / "net_g.pth"
    file.write_bytes(b"a" * 300_000)
    assert "found a file of more than 256 kB" in message(file)


def test_a_path_that_cannot_be_one_gives_one_line():
    assert "cannot be read" in message("a\0b")


def test_options_know_where_each_key_was_written(tmp_path, base):
    file = tmp_path / "o.yml"
    file.write_text(base)
    options = load_options(file, ["train:ema_decay=0.9"])
    assert options.source.file == str(file)
    assert options.source.locate("train.optim_g.lr") == f"{file}:18"
    assert options.source.locate("train.ema_decay") == "--force_yml train:ema_decay"


def test_a_mapping_loads_like_a_file_and_is_left_unchanged(tmp_path, base):
    from basicsr_ext.config.yaml_text import read_yaml

    file = tmp_path / "o.yml"
    file.write_text(base)
    mapping = read_yaml(base, str).value
    mapping["network_g"]["scales"] = (4,)
    mapping["path"] = {"experiments_root": Path("here")}
    options = load_options(mapping, ["train:total_iter=7", "path:experiments_root=~"])
    assert options == load_options(file, ["train:total_iter=7"])
    assert mapping["train"]["total_iter"] == 100
    assert mapping["network_g"]["scales"] == (4,)


def test_a_tilde_is_the_home_folder_wherever_a_path_stands(tmp_path, base, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "net.pth").touch()
    (tmp_path / "5.state").touch()
    values = ("experiments_root=~/runs", "results_root=~/out", "pretrain_network_g=~/net.pth")
    paths = (*values, "resume_state=~/5.state")
    file = tmp_path / "o.yml"
    file.write_text(base)
    path = load_options("~/o.yml", [f"path:{assignment}" for assignment in paths]).path
    assert (path.experiments_root, path.results_root) == (f"{tmp_path}/runs", f"{tmp_path}/out")
    assert (path.pretrain_network_g, path.resume_state) == (f"{tmp_path}/net.pth", f"{tmp_path}/5.state")


def test_a_run_and_its_results_have_folders_of_its_name_below_the_roots(tmp_path, base):
    from basicsr_ext.engine.experiment import result_folder, run_folder

    file = tmp_path / "o.yml"
    file.write_text(base)
    options = load_options(file, ["path:experiments_root=/disk/runs", "path:results_root=/disk/scores"])
    assert (run_folder(options), result_folder(options)) == (
        Path("/disk/runs/tiny"),
        Path("/disk/scores/tiny"),
    )
    options = load_options(file)
    assert (run_folder(options), result_folder(options)) == (Path("experiments/tiny"), Path("results/tiny"))


def test_a_mapping_of_other_objects_names_them():
    with pytest.raises(OptionError, match=r"options: scale: found a object, expected plain data"):
        load_options({"name": "x", "scale": object(), "datasets": {}, "network_g": {"type": "EDT"}})


def test_a_mapping_that_contains_itself_is_an_error():
    mapping: dict = {"name": "x"}
    mapping["train"] = mapping
    with pytest.raises(OptionError, match="nesting deeper"):
        load_options(mapping)


def test_options_written_as_yaml_load_to_equal_options(tmp_path, base):
    file, copy = tmp_path / "o.yml", tmp_path / "copy.yml"
    file.write_text(base)
    overrides = ["train:optim_g:betas=[0.9, 0.99]", "name='2e-4'", "val:suffix=~", "train:optim_g:lr=1e-7"]
    options = load_options(file, overrides)
    copy.write_text(options.to_yaml())
    assert load_options(copy) == options
    assert load_options(copy).to_yaml() == options.to_yaml()


def test_null_stands_for_the_default(base, tmp_path):
    file = tmp_path / "o.yml"
    file.write_text(base + "path: ~\nlogger:\ndist_params: {port: ~}\nmanual_seed: ~\n")
    written = load_options(file)
    file.write_text(base)
    assert isinstance(written, Options)
    assert written == load_options(file)


def test_a_whole_float_is_an_integer_where_one_is_asked_for(base, tmp_path):
    file = tmp_path / "o.yml"
    file.write_text(base.replace("val_freq: 50", "val_freq: !!float 5e3"))
    frequency = load_options(file).val.val_freq
    assert frequency == 5000
    assert isinstance(frequency, int)

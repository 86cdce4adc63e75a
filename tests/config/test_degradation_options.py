"""Option ``degradation``: each mistake is one helpful line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basicsr_ext.config import load_options
from basicsr_ext.data.degradations import complete_scales

STEP = "datasets.train.degradation.0"


@pytest.fixture
def train(change):
    """The small file with steps for its training set, as YAML on line 6."""

    def with_steps(steps: str) -> str:
        return change(
            "    type: SampleImages\n    gt_size", f"    type: SampleImages\n    {steps}\n    gt_size"
        )

    return with_steps


def steps(text: str) -> str:
    return f"degradation: [{text}, {{type: matlab_bicubic}}]"


def test_a_number_stands_for_a_range_of_one_value(tmp_path, train):
    path = tmp_path / "o.yml"
    path.write_text(train(steps("{type: gaussian_noise, sigma: 25}, {type: jpeg, quality: [30, 95]}")))
    noise, jpeg, bicubic = load_options(path).datasets.train.degradation
    assert noise.sigma == (25.0, 25.0)
    assert jpeg.quality == (30, 95)
    assert bicubic.scale is None


def test_steps_survive_being_written_and_read_again(tmp_path, train):
    path = tmp_path / "o.yml"
    path.write_text(train(steps("{type: blur, kernel_list: [iso, sinc], sigma: [0.2, 3]}, {type: rain}")))
    options = load_options(path)
    path.write_text(options.to_yaml())
    assert load_options(path) == options


@pytest.mark.parametrize(
    ("step", "complaint"),
    [
        ("{type: blurr}", f"{STEP}.type: found 'blurr' (text), expected a step's name; did you mean 'blur'?"),
        (
            "{typ: blur}",
            f"{STEP}.typ: found an unknown key, expected a key of {STEP}; did you mean 'type'?",
        ),
        ("jpg", f"{STEP}: found 'jpg' (text), expected a mapping with type; write {{type: jpeg}}"),
        (
            "{type: gaussian_noise, sigm: 25}",
            f"{STEP}.sigm: found an unknown key, expected a key of a gaussian_noise step;"
            " did you mean 'sigma'?",
        ),
        (
            "{type: jpeg, quality: 30, scale: 2}",
            f"{STEP}.scale: found an unknown key, expected a key of a jpeg step;"
            " known: type, prob, quality, subsampling, corner_grid",
        ),
        (
            "{type: gaussian_noise, sigma: -1}",
            f"{STEP}.sigma: found -1, expected a number from 0 up, or two as [low, high]",
        ),
        (
            "{type: gaussian_noise, sigma: [50, 15]}",
            f"{STEP}.sigma: found the list [50, 15], expected a number from 0 up, or two as [low, high];"
            " write [15, 50]",
        ),
        (
            "{type: gaussian_noise, sigma: '25'}",
            f"{STEP}.sigma: found '25' (text), expected a number from 0 up, or two as [low, high];"
            " write 25 without quotes",
        ),
        (
            "{type: jpeg}",
            f"{STEP}.quality: found nothing, expected a whole number from 1 to 100, or two as [low, high]"
            " (1 (worst) to 100, both bounds included.)",
        ),
        (
            "{type: jpeg, quality: 0}",
            f"{STEP}.quality: found 0, expected a whole number from 1 to 100, or two as [low, high]",
        ),
        (
            "{type: jpeg, quality: 10, subsampling: '420'}",
            f"{STEP}.subsampling: found '420' (text), expected '4:2:0', '4:2:2' or '4:4:4';"
            " did you mean '4:2:0'?",
        ),
        (
            "{type: blur, kernel_size: 20}",
            f"{STEP}.kernel_size: found 20, expected an odd number from 3 to 255, or two as [low, high]",
        ),
        (
            "{type: blur, kernel_list: iso}",
            f"{STEP}.kernel_list: found 'iso' (text), expected a list of 'iso', 'aniso', 'generalized_iso',"
            " 'generalized_aniso', 'plateau_iso', 'plateau_aniso' or 'sinc'; write [iso]",
        ),
        (
            "{type: blur, kernel_list: [iso, sinc], kernel_prob: [1]}",
            f"{STEP}.kernel_prob: found 1 weight, expected 2, one for each of kernel_list",
        ),
        (
            "{type: blur, kernel_prob: [0]}",
            f"{STEP}.kernel_prob: found only zeros, expected a weight above 0",
        ),
        (
            "{type: blur, prob: 1.5}",
            f"{STEP}.prob: found 1.5, expected a number from 0 to 1",
        ),
        (
            "{type: real_esrgan, resize_prob: [1, 2]}",
            f"{STEP}.resize_prob: found the list [1, 2], expected three weights [up, down, keep]",
        ),
    ],
)
def test_a_mistake_in_a_step_is_one_line_that_helps(train, complaints, step, complaint):
    text = f"degradation: [{step}]" if "real_esrgan" in step else steps(step)
    assert complaints(train(text)) == [f"o.yml:6: {complaint}"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "degradation: [{type: blur}]",
            "found no step that shrinks, expected one, as scale is 4; add {type: matlab_bicubic}",
        ),
        (
            "degradation: [{type: matlab_bicubic, scale: 3}]",
            "found steps that shrink by 3, expected 4 in all, the data set's scale",
        ),
        (
            "degradation: [{type: matlab_bicubic}, {type: downsample}]",
            "found 2 shrinking steps without scale, expected one at most; give all of them but one a scale",
        ),
        ("degradation: jpeg", "found 'jpeg' (text), expected a list of mappings with type"),
        ("degradation: []", "found the list [], expected a list of mappings with type"),
    ],
)
def test_steps_that_do_not_fit_each_other_are_one_line(train, complaints, text, complaint):
    assert complaints(train(text)) == [f"o.yml:6: datasets.train.degradation: {complaint}"]


def test_a_sets_own_scale_counts(train, complaints):
    assert complaints(train("degradation: [{type: blur}]\n    scale: 1")) == []
    assert complaints(train("degradation: [{type: downsample, scale: 2}]\n    scale: 2")) == []


@pytest.mark.parametrize("color", ["gray", "matlab_gray"])
def test_steps_that_need_colour_say_so(train, complaints, color):
    [line] = complaints(train(f"color: {color}\n    {steps('{type: mosaic}')}"))
    assert f"degradation.0: found mosaic with color: {color}, expected color images" in line


@pytest.fixture
def images(tmp_path):
    """A folder ``hr`` with the name of an image."""
    (tmp_path / "hr").mkdir()
    (tmp_path / "hr/0001.png").touch()


@pytest.mark.usefixtures("images")
def test_pairs_are_stored_or_made(change, complaints):
    text = change(
        "    type: SampleImages\n    gt_size",
        "    type: PairedImageDataset\n    dataroot_gt: hr\n    scale: 1\n"
        "    degradation: [{type: jpeg, quality: 10}]\n    gt_size",
    )
    assert complaints(text) == []
    [line] = complaints(text, "datasets:train:dataroot_lq=hr")
    assert "found steps beside dataroot_lq, expected one of the two" in line


@pytest.mark.usefixtures("images")
def test_only_sets_that_make_low_quality_take_steps(change, complaints):
    text = change(
        "    type: SampleImages\n    split: val\n",
        "    type: SingleImageDataset\n    dataroot_lq: hr\n    degradation: [{type: rain}]\n",
    )
    [line] = complaints(text)
    assert "datasets.val.degradation: found an unknown key" in line


@given(factors=st.lists(st.integers(1, 4), min_size=1, max_size=3), place=st.integers(0, 2))
def test_a_factor_left_open_is_what_the_others_leave(factors, place):
    scale = 1
    for factor in factors:
        scale *= factor
    assert complete_scales(factors, scale) == factors
    open_factors = [None if index == place % len(factors) else f for index, f in enumerate(factors)]
    assert complete_scales(open_factors, scale) == factors

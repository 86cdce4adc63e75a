"""What ranks compare before the first step, and how a difference is told."""

import numpy as np
import pytest
from helpers import tiny_options

from basicsr_ext import load_options
from basicsr_ext.config import OptionError
from basicsr_ext.data.images import write_image
from basicsr_ext.engine.agreement import Plan, _fingerprint, _images, _plan, disagreements, require_agreement
from basicsr_ext.engine.build import build_parts
from basicsr_ext.engine.distributed import World

OPTIONS = {"name": "run", "train.optim_g.lr": "0.1"}
IMAGES = {"datasets.train": ["a 8x8", "b 8x8"]}


def plan(start="the beginning", images=IMAGES, **options):
    return Plan(OPTIONS | options, start, images)


def told(*plans):
    return [(problem.key, problem.found) for problem in disagreements(plans)]


def test_equal_plans_do_not_differ():
    assert told(plan(), plan(), plan()) == []


def test_every_option_that_differs_is_told_by_rank():
    other = {"train.optim_g.lr": "0.2", "scale": "2"}
    assert told(plan(), plan(**other), plan(), plan(**other)) == [
        ("train.optim_g.lr", "0.1 on ranks 0, 2; 0.2 on ranks 1, 3"),
        ("scale", "nothing on ranks 0, 2; 2 on ranks 1, 3"),
    ]


def test_ranks_that_begin_elsewhere_are_told():
    elsewhere = plan("the checkpoint of iteration 8")
    found = "the beginning on rank 0; the checkpoint of iteration 8 on ranks 1, 2"
    assert told(plan(), elsewhere, elsewhere) == [("path.experiments_root", found)]


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (
            ["a 8x8", "b 8x9"],
            "2 images, among them b 8x8 on rank 0; 2 images, among them b 8x9 on rank 1",
        ),
        (["a 8x8"], "2 images, among them b 8x8 on rank 0; 1 images on rank 1"),
        (["b 8x8", "a 8x8"], "2 images in an order of its own on ranks 0, 1"),
    ],
)
def test_images_that_differ_are_named(images, found):
    assert told(plan(), plan(images={"datasets.train": images})) == [("datasets.train", found)]


def test_a_digest_tells_every_part_of_a_plan_apart():
    plans = [plan(), plan(scale="2"), plan("elsewhere"), plan(images={})]
    assert len({one.digest() for one in plans}) == 4
    assert plan().digest() == plan().digest()


@pytest.fixture
def folder_options(tmp_path):
    """Return a function that gives options for images in a folder, a validation set left out or not."""

    def make(name, value=0):
        folder = tmp_path / name / "GT"
        for number in range(3):
            write_image(folder / f"{number}.png", np.full((64 + 8 * number, 64, 3), value, np.uint8))
        options = tiny_options(tmp_path / "run")
        pictures = {"type": "PairedImageDataset", "dataroot_gt": str(folder)}
        pictures["degradation"] = [{"type": "matlab_bicubic", "scale": 2}]
        options["datasets"]["train"] |= pictures
        return options

    return make


def plan_of(options, describe=_images):
    options = load_options(options)
    return _plan(options, build_parts(options, 2, training=True), None, describe)


def test_each_node_may_keep_its_images_elsewhere_but_they_are_the_same(folder_options):
    one, other = plan_of(folder_options("here")), plan_of(folder_options("there", value=1))
    assert one.digest() == other.digest()
    assert one.start == "the beginning"
    assert one.options["train.optim_g.lr"] == "0.001"
    assert [image.split()[1:] for image in one.images["datasets.train"]] == [
        ["64x64"],
        ["72x64"],
        ["80x64"],
    ]
    assert one.images["datasets.val"]


def test_a_fingerprint_differs_where_names_or_sizes_do(folder_options, tmp_path):
    options = folder_options("here")

    def fingerprint():
        return plan_of(options, _fingerprint).images["datasets.train"]

    found = [fingerprint(), fingerprint()]
    assert found[0] == found[1]
    (tmp_path / "here/GT/2.png").rename(tmp_path / "here/GT/3.png")
    found.append(fingerprint())
    write_image(tmp_path / "here/GT/3.png", np.zeros((81, 64, 3), np.uint8))
    found.append(fingerprint())
    assert len({text for (text,) in found}) == 3


def test_a_set_that_is_left_out_has_no_images(folder_options, tmp_path):
    options = folder_options("here")
    options["datasets"]["val"] = {
        "type": "PairedImageDataset",
        "dataroot_gt": str(tmp_path / "absent"),
        "dataroot_lq": str(tmp_path / "absent"),
        "name": "absent",
    }
    assert plan_of(options).images["datasets.val"] == []


class TwoRanks(World):
    """A rank whose peer runs ``other``."""

    def gather(self, value):
        return [value, self.other.digest() if isinstance(value, str) else self.other]

    @property
    def other(self):
        return Plan({}, "the beginning", {})


def test_ranks_that_differ_do_not_start(folder_options):
    options = load_options(folder_options("here"))
    parts = build_parts(options, 2, training=True)
    require_agreement(options, parts, None, World())
    with pytest.raises(OptionError, match="the same on all ranks"):
        require_agreement(options, parts, None, TwoRanks(0, 2))

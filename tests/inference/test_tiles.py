"""Tiles cover an image, and what is made of them shows no seam."""

from importlib import import_module
from io import StringIO
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from basicsr_ext import restore
from basicsr_ext.archs.padding import SizeRequirement
from basicsr_ext.inference import restore_tensor
from basicsr_ext.inference.memory import PeakMemory, free_memory, is_out_of_memory
from basicsr_ext.inference.restore import Restorer, Trial, channel_guesses, try_network
from basicsr_ext.inference.tiles import bands, spans, weights

LENGTHS = {"length": st.integers(1, 200), "tile": st.integers(2, 60), "multiple": st.sampled_from([1, 3, 8])}


def cut(length, tile, multiple, share):
    return spans(length, tile, int(share * (tile - 1)), multiple)


@given(**LENGTHS, share=st.floats(0, 1))
def test_spans_cover_a_side_in_order_and_share_the_overlap(length, tile, multiple, share):
    parts = cut(length, tile, multiple, share)
    assert (parts[0].start, parts[-1].stop) == (0, length)
    assert all(0 < part.stop - part.start <= tile for part in parts)
    for before, after in pairwise(parts):
        assert before.start < after.start
        assert before.stop < after.stop
        assert before.stop - after.start >= int(share * (tile - 1))
        if tile - int(share * (tile - 1)) >= multiple:
            assert after.start % multiple == 0


@given(**LENGTHS, share=st.floats(0, 1), scale=st.integers(1, 4))
@example(length=200, tile=50, multiple=1, share=1.0, scale=1)  # many spans share one pixel
def test_weights_sum_to_one_everywhere(length, tile, multiple, share, scale):
    parts = cut(length, tile, multiple, share)
    total = torch.zeros(length * scale)
    for part, weight in zip(parts, weights(parts, scale), strict=True):
        assert bool((weight >= 0).all())
        total[part.start * scale : part.stop * scale] += weight
    torch.testing.assert_close(total, torch.ones(length * scale))


def test_neighbours_are_blended_in_the_middle_quarter_of_their_overlap_alone():
    first, second = weights([slice(0, 40), slice(8, 48)], scale=1)
    middle = slice(8 + 12, 8 + 20)
    assert bool(((first[middle] > 0) & (first[middle] < 1)).all())
    assert first[: middle.start].tolist() == [1] * 20
    assert first[middle.stop :].tolist() == [0] * 12
    torch.testing.assert_close(second, first.flip(0))


@given(height=st.integers(1, 50), width=st.integers(1, 50), share=st.floats(0, 0.9))
def test_bands_put_tiles_back_together(height, width, share):
    image = torch.arange(2 * height * width, dtype=torch.float64).view(1, 2, height, width)
    rows, columns = cut(height, 14, 1, share), cut(width, 9, 1, share)
    done = dict(bands(lambda row, column: image[..., row, column], rows, columns, 1))
    assert list(done) == [part.start for part in rows]
    torch.testing.assert_close(torch.cat(list(done.values()), 2), image, rtol=1e-6, atol=1e-6)


def convolutions(depth: int) -> nn.Module:
    """Return a x2 network that sees ``depth`` pixels far, and whose every pixel depends on all it sees."""
    torch.manual_seed(0)
    layers = [layer for _ in range(depth - 1) for layer in (nn.Conv2d(6, 6, 3, padding=1), nn.LeakyReLU(0.3))]
    first, last = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 12, 1)
    return nn.Sequential(first, *layers, last, nn.PixelShuffle(2), nn.Sigmoid()).eval()


def picture(height=90, width=75):
    return np.random.default_rng(0).random((height, width, 3)).astype(np.float32)


@pytest.mark.parametrize("depth", [1, 6])
def test_tiles_are_exact_where_the_network_sees_no_further_than_three_eighths_of_the_overlap(depth):
    network, image = convolutions(depth), picture()
    whole = restore(network, image, 2)
    tiled = restore(network, image, 2, tile=40, tile_overlap=16)
    np.testing.assert_allclose(tiled, whole, atol=1e-6)
    assert np.abs(restore(network, image, 2, tile=40, tile_overlap=0) - whole).max() > 1e-3


def test_tiles_are_seamless_where_the_receptive_field_fits_into_the_overlap():
    network, image = convolutions(8), picture()  # 17 pixels wide
    difference = restore(network, image, 2, tile=40, tile_overlap=17) - restore(network, image, 2)
    assert np.abs(difference).max() < 1 / 255


@pytest.mark.parametrize("tile", [None, 40])
def test_the_shares_of_the_work_that_are_told_make_up_the_whole(tile):
    shares = []
    Restorer(convolutions(1), 2, tile=tile, tile_overlap=4)(picture(90, 50)[None], shares.append)
    assert len(shares) == (1 if tile is None else 3 * 2)
    assert sum(shares) == pytest.approx(1)


def test_tensors_are_tiled_as_pictures_are():
    network, image = convolutions(6), picture()
    lq = torch.from_numpy(image).permute(2, 0, 1)[None]
    with torch.no_grad():
        tiled = restore_tensor(network, lq, 2, SizeRequirement(), tile=40, tile_overlap=16)
    expected = restore(network, image, 2, tile=40, tile_overlap=16)
    np.testing.assert_allclose(tiled[0].permute(1, 2, 0), expected, atol=1e-6)


class WindowMeans(nn.Module):
    """Replaces each 8x8 window by its mean: what it makes of a pixel depends on where windows lie."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(x, 8).repeat_interleave(8, -1).repeat_interleave(8, -2) + self.anchor


def test_windows_lie_in_tiles_as_in_the_whole_image():
    network, image = WindowMeans().eval(), picture(72, 56)
    whole = restore(network, image, 1, window_size=8)
    tiled = restore(network, image, 1, tile=32, tile_overlap=11, window_size=8)
    np.testing.assert_allclose(tiled, whole, atol=1e-6)
    lq = torch.from_numpy(image).permute(2, 0, 1)[None]
    with torch.no_grad():
        tensor = restore_tensor(network, lq, 1, SizeRequirement(8), tile=32, tile_overlap=11)
    np.testing.assert_allclose(tensor[0].permute(1, 2, 0), whole, atol=1e-6)


# --- memory -----------------------------------------------------------------------------------------


class Scarce(nn.Module):
    """Runs out of memory for images of more than ``pixels``; ``calls`` are the sizes that went well."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.anchor, self.pixels, self.calls = nn.Parameter(torch.zeros(())), pixels, []
        self.tried = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.tried.append(tuple(x.shape[-2:]))
        if x.shape[-1] * x.shape[-2] > self.pixels:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.calls.append(tuple(x.shape[-2:]))
        return x + self.anchor


def test_tiles_are_halved_where_memory_runs_out_and_stay_so():
    network = Scarce(50 * 50)
    run = Restorer(network, 1, tile=160, tile_overlap=8)
    image = (picture(200, 150)[None] * 255).astype(np.uint8)
    np.testing.assert_array_equal(run(image), image)
    assert max(network.calls) == (40, 40)
    network.pixels = 10**6
    run(image)
    assert max(network.calls) == (40, 40)


def test_whole_images_that_were_asked_for_are_not_tiled():
    with pytest.raises(torch.OutOfMemoryError):
        restore(Scarce(10), picture(), 1)


@pytest.mark.parametrize(
    ("tile", "overlap", "sides"),
    [(64, 8, [64, 32]), (63, 8, [63]), (80, 31, [80, 40]), (80, 39, [80, 40]), (80, 40, [80])],
)
def test_tiles_are_no_smaller_than_32_pixels_and_than_their_overlap(tile, overlap, sides):
    network = Scarce(10)
    with pytest.raises(torch.OutOfMemoryError):
        restore(network, picture(90, 90), 1, tile=tile, tile_overlap=overlap)
    assert network.tried == [(side, side) for side in sides]


def test_memory_that_an_attempt_left_in_the_cache_is_handed_back_before_the_next(monkeypatch):
    network, tried = Scarce(50 * 50), []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: tried.append(len(network.tried)))
    restore(network, picture(), 1, tile=80, tile_overlap=8)
    assert tried == [1]


def test_an_image_that_was_thought_to_fit_is_run_in_tiles_of_half_its_side(monkeypatch):
    module = import_module("basicsr_ext.inference.restore")
    monkeypatch.setattr(module, "free_memory", lambda device: 2**40)
    network = Scarce(64 * 64)
    image = picture(100, 60)
    np.testing.assert_allclose(restore(network, image, 1, tile="auto", tile_overlap=8), image, atol=1e-6)
    assert network.tried[1:3] == [(100, 60), (50, 50)]


def test_an_error_that_is_no_lack_of_memory_is_not_tried_again():
    network = Scarce(10**6)
    network.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        restore(network, picture(), 1, tile=80, tile_overlap=8)
    assert len(network.tried) == 1


@pytest.mark.parametrize(
    ("error", "is_lack"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("DefaultCPUAllocator"), False),
    ],
)
def test_lack_of_memory_is_known_on_every_device(error, is_lack):
    assert is_out_of_memory(error) is is_lack


def test_free_memory_is_what_the_system_says(monkeypatch):
    module = import_module("basicsr_ext.inference.memory")
    text = "MemTotal:  900 kB\nMemFree:  10 kB\nMemAvailable:   77 kB\n"
    monkeypatch.setattr(module, "open", lambda *_, **__: StringIO(text), raising=False)
    assert free_memory(torch.device("cpu")) == 77 * 1024
    monkeypatch.setattr(module, "open", lambda *_, **__: StringIO(""), raising=False)
    monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 6, "SC_PAGE_SIZE": 100}.get)
    assert free_memory(torch.device("cpu")) == 300
    # What the allocator has cached is free, too.
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (1000, 9000))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 50)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: 20)
    assert free_memory(torch.device("cuda")) == 1030


@pytest.mark.parametrize(
    ("free", "device", "side"),
    [(2**40, "cpu", 512), (2**40, "cuda", 2048), (2 * 12 * 100**2, "cpu", 100), (0, "cpu", 32)],
)
def test_automatic_tiles_are_neither_tiny_nor_larger_than_is_of_use(monkeypatch, free, device, side):
    module = import_module("basicsr_ext.inference.restore")
    monkeypatch.setattr(module, "free_memory", lambda device: free)
    assert Trial(3, 3, 1, 12.0).largest_tile(torch.device(device)) == side


def test_an_image_is_run_whole_as_long_as_it_has_no_more_pixels_than_the_largest_tile(monkeypatch):
    module = import_module("basicsr_ext.inference.restore")
    monkeypatch.setattr(module, "free_memory", lambda device: 2 * 12 * 40**2)
    network = Scarce(10**6)
    run = Restorer(network, 1, "auto", 8, trial=Trial(3, 3, 1, 12.0))
    for count, height, width, whole in [
        (1, 40, 40, True),
        (1, 20, 80, True),
        (1, 20, 81, False),
        (2, 40, 40, True),
    ]:
        network.calls.clear()
        images = np.stack([picture(height, width)] * count)
        np.testing.assert_allclose(run(images), images, atol=1e-6)
        assert ((height, width) == network.calls[0]) is whole
    network.calls.clear()
    run(np.stack([picture(80, 20)] * 2))  # as many pixels in all as two tiles
    assert max(network.calls) == (40, 20)


def test_the_tile_follows_from_free_memory(monkeypatch):
    network, requirement = convolutions(3), SizeRequirement()
    trial = try_network(network, requirement, [3])
    module = import_module("basicsr_ext.inference.restore")  # the package's attribute is the function
    monkeypatch.setattr(module, "free_memory", lambda device: 2**22)
    side = trial.largest_tile(torch.device("cpu"))
    assert 2**21 * 0.9 < trial.bytes_per_pixel * side**2 <= 2**21
    sizes = []
    network.register_forward_hook(lambda module, args, result: sizes.append(tuple(args[0].shape[-2:])))
    restore(network, picture(2 * side, 20), 2, tile="auto")
    assert (2 * side, 20) in sizes
    assert max(sizes) <= (max(2 * side, 64), 64)
    sizes.clear()
    restore(network, picture(2 * side, side), 2, tile="auto")
    assert max(sizes[1:]) == (side, side)


def test_peak_memory_forgets_what_is_gone_and_counts_the_same_memory_once():
    network = nn.Linear(10, 10)
    with torch.inference_mode(), PeakMemory(network) as memory:
        small = torch.zeros(10)
        del small
        large = torch.zeros(1000)
        assert memory.peak == 4000
        large[10:].add_(1)
        network.weight.t().mul(1)  # a view of weights, which are not counted, and 100 values
    assert memory.peak == 4400


def test_peak_memory_is_what_is_alive_at_once():
    network = nn.Sequential(nn.Identity())
    with torch.inference_mode(), PeakMemory(network) as memory:
        for _ in range(3):
            x = torch.zeros(1000)  # one is dropped for the next
            y = x + 1
            del x, y
    assert memory.peak == 2 * 4000


class PlusOne(nn.Module):
    """Takes memory for one image as large as the one it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


def test_a_trial_tells_how_much_memory_a_pixel_takes():
    assert try_network(PlusOne(), SizeRequirement(), [3]).bytes_per_pixel == 12
    assert try_network(PlusOne(), SizeRequirement(48), [1]).bytes_per_pixel == 4


# --- networks ---------------------------------------------------------------------------------------


def test_a_trial_tells_channels_and_scale():
    trial = try_network(convolutions(2), SizeRequirement(7), [1, 6, 3])
    assert (trial.channels, trial.channels_out, trial.scale) == (3, 3, 2)
    with pytest.raises(ValueError, match="does not take an image of 1 channels"):
        try_network(convolutions(2), SizeRequirement(), [1, 6])


def test_a_trial_without_memory_is_no_refusal_of_the_channels():
    with pytest.raises(torch.OutOfMemoryError):
        try_network(Scarce(10), SizeRequirement(), [3])


@pytest.mark.parametrize(
    ("network", "guesses"),
    [(nn.Conv2d(4, 4, 1), [3, 1, 6, 4]), (nn.Conv2d(3, 3, 1), [3, 1, 6]), (nn.ReLU(), [3, 1, 6])],
)
def test_channels_are_guessed_from_the_first_convolution_too(network, guesses):
    assert channel_guesses(nn.Sequential(network)) == guesses


class Shaped(PlusOne):
    """Gives back an image changed by a function."""

    def __init__(self, change) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.change(x)


@pytest.mark.parametrize(
    ("change", "made"),
    [
        (lambda x: x[..., ::2, ::2], r"\(1, 3, 32, 32\)"),
        (lambda x: x[..., :-1], r"\(1, 3, 64, 63\)"),
        (lambda x: nn.functional.pad(x, (0, 9)), r"\(1, 3, 64, 73\)"),
        (lambda x: x[0], r"\(3, 64, 64\)"),
        (lambda x: x.mean((2, 3)), r"\(1, 3\)"),
    ],
)
def test_what_is_no_restored_image_is_no_answer_to_a_trial(change, made):
    with pytest.raises(ValueError, match=rf"Shaped does not take an image of 3 channels: made {made} of it"):
        try_network(Shaped(change), SizeRequirement(), [3])


def test_half_precision_is_that_of_the_networks_arithmetic_alone():
    network, image = convolutions(3), picture(20, 20)
    exact = restore(network, image, 2)
    seen = []
    network[0].register_forward_hook(lambda module, args, result: seen.append(result.dtype))
    for tile in (None, 16):
        found = Restorer(network, 2, tile, 8, precision=torch.bfloat16)(image[None])[0]
        assert found.dtype == np.float32
        assert 0 < np.abs(found - exact).max() < 0.02
    averaged = torch.from_numpy(
        Restorer(network, 2, None, precision=torch.bfloat16, self_ensemble=True)(image[None])
    )
    assert set(seen) == {torch.bfloat16}
    assert not torch.equal(averaged.bfloat16().float(), averaged)  # the mean is not rounded


class Tasks(PlusOne):
    """Keeps images, or turns them to their negatives; ``sizes`` are those it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = []

    def size_requirement(self, task: str | None = None) -> SizeRequirement:
        return SizeRequirement({"keep": 1, "turn": 8}.get(task, 48))

    def forward(self, x: torch.Tensor, task: str) -> torch.Tensor:
        self.sizes.append(tuple(x.shape[-2:]))
        return {"keep": x + self.anchor, "turn": 1 - x}[task]


def test_a_networks_task_is_named_to_it_and_decides_about_padding():
    image = picture(20, 30)
    for task, expected, size in (("keep", image, (20, 30)), ("turn", 1 - image, (24, 32))):
        network = Tasks()
        found = Restorer(network, 1, task=task)(image[None])[0]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert network.sizes == [(64, 64), size]  # the first call tries how much memory it takes


def test_another_scale_than_the_networks_is_refused():
    with pytest.raises(ValueError, match=r"makes \(20, 20\) of \(10, 10\), not 4 times it"):
        restore(convolutions(1), picture(10, 10), 4)


def test_self_ensemble_is_the_mean_over_eight_orientations():
    network, image = convolutions(3), picture(12, 17)
    turned = [np.rot90(flipped, k) for flipped in (image, image[:, ::-1]) for k in range(4)]
    restored = [restore(network, np.ascontiguousarray(x), 2) for x in turned]
    back = [np.rot90(y, -k) for k, y in enumerate(restored[:4])]
    back += [np.rot90(y, -k)[:, ::-1] for k, y in enumerate(restored[4:])]
    averaged = restore(network, image, 2, self_ensemble=True)
    np.testing.assert_allclose(averaged, np.mean(back, 0), atol=1e-6)
    assert np.abs(averaged - restored[0]).max() > 1e-3

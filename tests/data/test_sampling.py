"""The progressive sampler: pure arithmetic on sample numbers."""

import random
from dataclasses import replace
from itertools import chain, islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from basicsr_ext.data.sampling import (
    ProgressiveBatchSampler,
    Purpose,
    Share,
    Stage,
    global_generators,
    sample_rng,
    stage_of,
)

STAGES = (Stage(3, 64, 6), Stage(4, 96, 4), Stage(2, 128, 2))

stages = st.lists(
    st.builds(Stage, st.integers(1, 5), st.sampled_from([32, 64]), st.integers(1, 4), st.integers(1, 3)),
    min_size=1,
    max_size=4,
)


def flat(sampler: ProgressiveBatchSampler) -> list:
    return list(chain.from_iterable(sampler))


def test_stages_switch_after_their_last_iteration():
    batches = list(ProgressiveBatchSampler(STAGES, 10, seed=0))
    assert [(len(batch), batch[0].gt_size) for batch in batches] == [(6, 64)] * 3 + [(4, 96)] * 4 + [
        (2, 128)
    ] * 2


def test_the_stage_of_an_iteration_can_be_asked():
    sampler = ProgressiveBatchSampler(STAGES, 10, seed=0)
    assert [sampler.stage_index(iteration) for iteration in range(1, 10)] == [0, 0, 0, 1, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("iteration", [0, 10])
def test_there_is_no_stage_before_the_first_or_after_the_last_iteration(iteration):
    with pytest.raises(ValueError, match=r"is not in 1\.\.9"):
        ProgressiveBatchSampler(STAGES, 10, seed=0).stage_index(iteration)


@given(stages, st.integers(1, 20), st.booleans())
def test_samples_are_numbered_without_gaps(plan, size, shuffle):
    sampler = ProgressiveBatchSampler(plan, size, 1, shuffle=shuffle)
    numbers = [request.k for request in flat(sampler)]
    assert numbers == list(range(sampler.first_sample(sampler.total_iter + 1)))


def test_every_stage_has_its_own_number_of_micro_batches():
    plan = [Stage(2, 64, 3, grad_accum=2), Stage(1, 96, 2), Stage(1, 128, 1, grad_accum=3)]
    sampler = ProgressiveBatchSampler(plan, 10, seed=0)
    sizes = [(len(batch), batch[0].gt_size) for batch in sampler]
    assert sizes == [(3, 64)] * 4 + [(2, 96)] + [(1, 128)] * 3
    assert len(sampler) == 8
    assert [sampler.first_sample(iteration) for iteration in range(1, 6)] == [0, 6, 12, 14, 17]


def batches_before(plan, iteration):
    each = [stage.grad_accum for stage in plan for _ in range(stage.iters)]
    return sum(each[: iteration - 1])


@given(stages, st.integers(1, 3))
def test_the_first_sample_of_an_iteration_is_known_without_counting(plan, world):
    sampler = ProgressiveBatchSampler(plan, 7, 0, 0, world)
    batches = list(sampler)
    for iteration in range(1, sampler.total_iter + 1):
        assert sampler.first_sample(iteration) == batches[batches_before(plan, iteration)][0].k


@given(stages, st.integers(1, 20), st.integers(0, 2**40), st.integers(1, 3))
def test_every_pass_visits_every_image_once_for_each_repeat(plan, size, seed, enlarge):
    requests = flat(ProgressiveBatchSampler(plan, size, seed, enlarge=enlarge))
    one_pass = size * enlarge
    for start in range(0, len(requests) - one_pass + 1, one_pass):
        images = sorted(request.index for request in requests[start : start + one_pass])
        assert images == sorted(list(range(size)) * enlarge)


@given(stages, st.integers(1, 20), st.integers(2, 4))
def test_ranks_side_by_side_are_one_process(plan, size, world):
    ranks = [ProgressiveBatchSampler(plan, size, 5, rank, world) for rank in range(world)]
    together = [list(chain.from_iterable(parts)) for parts in zip(*ranks, strict=True)]
    wide = [replace(stage, batch_size=stage.batch_size * world) for stage in plan]
    assert together == list(ProgressiveBatchSampler(wide, size, 5))


@given(stages, st.integers(1, 20), st.integers(2, 4))
def test_two_ranks_see_what_one_sees_with_two_micro_batches(plan, size, parts):
    ranks = [list(ProgressiveBatchSampler(plan, size, 5, rank, parts)) for rank in range(parts)]
    more = [replace(stage, grad_accum=stage.grad_accum * parts) for stage in plan]
    micro = list(ProgressiveBatchSampler(more, size, 5))
    assert micro == list(chain.from_iterable(zip(*ranks, strict=True)))


@given(stages, st.integers(1, 20), st.data())
def test_a_run_continues_exactly_where_it_stopped(plan, size, data):
    whole = list(ProgressiveBatchSampler(plan, size, 3, 1, 2))
    done = data.draw(st.integers(0, sum(stage.iters for stage in plan)))
    rest = ProgressiveBatchSampler(plan, size, 3, 1, 2, start_iter=done)
    assert list(rest) == whole[batches_before(plan, done + 1) :]
    assert len(rest) == len(list(rest))


def test_without_shuffling_images_come_in_order():
    requests = flat(ProgressiveBatchSampler([Stage(2, 32, 4)], 3, seed=0, shuffle=False))
    assert [request.index for request in requests] == [0, 1, 2, 0, 1, 2, 0, 1]


def test_passes_and_seeds_differ_in_order():
    def order(seed: int) -> list[int]:
        return [request.index for request in flat(ProgressiveBatchSampler([Stage(1, 32, 60)], 30, seed))]

    assert order(0)[:30] != order(0)[30:]
    assert order(0) != order(1)
    assert order(0) == order(0)


def test_a_long_run_is_not_counted_through_to_find_its_end():
    sampler = ProgressiveBatchSampler([Stage(10**12, 64, 32)], 10**5, seed=0, start_iter=10**12 - 1)
    assert [request.k for request in flat(sampler)] == list(range(32 * (10**12 - 1), 32 * 10**12))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset_size": 0}, "holds no images"),
        ({"rank": 2, "world_size": 2}, "rank 2 is not one of 2"),
        ({"start_iter": 10}, "cannot start after iteration 10 of 9"),
    ],
)
def test_impossible_arguments_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        ProgressiveBatchSampler(STAGES, **{"dataset_size": 5, "seed": 0, **options})


@given(st.integers(0, 2**64), st.integers(0, 2**62))
@settings(max_examples=30)
def test_a_samples_random_numbers_depend_on_seed_number_and_purpose_alone(seed, k):
    def draw(*key: int) -> list[int]:
        return sample_rng(*key).integers(2**62, size=4).tolist()

    assert draw(seed, k) == draw(seed, k, Purpose.SAMPLE)
    others = [
        draw(seed + 1, k),
        draw(seed, k + 1),
        *(draw(seed, k, purpose) for purpose in list(Purpose)[1:]),
    ]
    assert draw(seed, k) not in others


def test_a_samples_random_numbers_are_the_same_everywhere():
    assert sample_rng(1, 2).integers(2**32, size=3).tolist() == [3042142985, 1328497427, 564130602]


def test_the_streams_of_purposes_stay_what_runs_to_be_resumed_began_with():
    drawn = {purpose.name: int(sample_rng(1, 2, purpose).integers(2**32)) for purpose in Purpose}
    assert drawn == {
        "SAMPLE": 3042142985,
        "ORDER": 2592942375,
        "MIXING": 3893002257,
        "FOREIGN": 2625735159,
        "EVALUATION": 2196871390,
        "REPLACEMENT": 2906919421,
    }


def test_seeds_of_any_size_and_sign_are_taken():
    assert sample_rng(-1, 0).integers(2**62) == sample_rng(2**64 - 1, 0).integers(2**62)


def test_foreign_code_leaves_the_global_generators_as_they_were():
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    def fails():
        with global_generators(sample_rng(0, 0)):
            assert all(now != then for now, then in zip(states(), before, strict=True))
            raise KeyError

    before = states()
    with pytest.raises(KeyError):
        fails()
    assert states() == before


def test_past_the_end_the_last_stage_goes_on():
    assert [stage_of(iteration, STAGES) for iteration in (1, 3, 4, 7, 8, 9, 10, 99)] == [
        0,
        0,
        1,
        1,
        2,
        2,
        2,
        2,
    ]


def test_streams_of_purposes_do_not_run_into_each_other():
    streams = [sample_rng(0, 0, purpose).integers(2**62, size=1000).tolist() for purpose in Purpose]
    assert len(set(chain.from_iterable(streams))) == 1000 * len(Purpose)
    assert list(islice(streams[0], 2)) != list(islice(streams[1], 2))


# --- several sources ------------------------------------------------------------------------------------


def two_tasks(stage):
    return Share("sr", stage.batch_size, stage.gt_size), Share("noise", 1, 2 * stage.gt_size)


def requests_of(rank=0, world_size=1, grad_accum=1, start_iter=0, **sizes):
    stages = [Stage(3, 16, 2, grad_accum), Stage(2, 32, 3, grad_accum)]
    sampler = ProgressiveBatchSampler(
        stages,
        sizes or {"sr": 5, "noise": 4},
        7,
        rank,
        world_size,
        shares=two_tasks,
        start_iter=start_iter,
    )
    return list(sampler)


def test_a_micro_batch_holds_the_shares_of_all_sources():
    batches = requests_of()
    assert [[request.source for request in batch] for batch in batches[2:4]] == [
        ["sr", "sr", "noise"],
        ["sr", "sr", "sr", "noise"],
    ]
    assert [request.gt_size for request in batches[4]] == [32, 32, 32, 64]
    assert [request.k for batch in batches for request in batch] == list(range(17))


def test_each_source_is_visited_as_if_it_were_alone():
    for source, size in (("sr", 5), ("noise", 4)):
        indices = [r.index for batch in requests_of() for r in batch if r.source == source]
        for start in range(0, len(indices) - size + 1, size):
            assert sorted(indices[start : start + size]) == list(range(size))
        others = requests_of(sr=5, noise=40)
        if source == "sr":
            assert [r.index for batch in others for r in batch if r.source == source] == indices


def test_sources_do_not_depend_on_ranks_or_interruptions():
    whole = requests_of(grad_accum=2)
    ranks = [requests_of(rank, 2) for rank in (0, 1)]
    assert [batch for pair in zip(*ranks, strict=True) for batch in pair] == whole
    assert requests_of(grad_accum=2, start_iter=4) == whole[8:]


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ([Share("a", 1, 8), Share("a", 1, 8)], "several shares"),
        ([Share("b", 1, 8)], "no data set is called b; known: a"),
    ],
)
def test_shares_that_make_no_sense_are_refused(shares, words):
    with pytest.raises(ValueError, match=words):
        ProgressiveBatchSampler([Stage(1, 8, 1)], {"a": 3}, 0, shares=lambda stage: shares)


def test_the_order_of_a_source_stays_what_runs_to_be_resumed_began_with():
    orders = {}
    for source in ("", "noise"):
        sampler = ProgressiveBatchSampler(
            [Stage(1, 8, 8)], {source: 8}, 3, shares=lambda stage, name=source: [Share(name, 8, 8)]
        )
        orders[source] = [request.index for request in next(iter(sampler))]
    assert orders == {"": [2, 3, 6, 1, 4, 0, 7, 5], "noise": [3, 0, 7, 4, 1, 5, 6, 2]}


def test_foreign_code_draws_other_numbers_for_every_sample():
    drawn = set()
    for k in range(300):
        with global_generators(sample_rng(0, k, Purpose.FOREIGN)):
            drawn.add((random.random(), float(np.random.rand()), float(torch.rand(()))))
    assert all(len(numbers) == 300 for numbers in map(set, zip(*drawn, strict=True)))

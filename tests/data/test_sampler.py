"""Batches of seconds: every utterance once, never too long, the same whenever it is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from asr.data.sampler import JITTER, PIECE, Sampler


@pytest.fixture
def durations() -> np.ndarray:
    return np.random.default_rng(3).lognormal(1, 0.6, 2000).clip(0.3, 25)


def test_each_utterance_once_and_no_batch_too_long(durations: np.ndarray) -> None:
    for epoch in range(3):
        batches = Sampler(durations, 60, seed=1, sorted_epochs=1).batches(epoch)
        assert sorted(np.concatenate(batches)) == list(range(len(durations)))
        assert max(durations[b].max() * len(b) for b in batches) <= 60


def test_little_padding_and_full_batches(durations: np.ndarray) -> None:
    batches = Sampler(durations, 60, seed=1, sorted_epochs=0).batches(0)
    padded = sum(durations[b].max() * len(b) for b in batches)
    assert durations.sum() / padded > 0.85
    assert padded / len(batches) > 0.8 * 60


def test_order_is_drawn_from_seed_and_epoch(durations: np.ndarray) -> None:
    def plan(seed: int, epoch: int) -> list[list[int]]:
        return [b.tolist() for b in Sampler(durations, 60, seed, 0).batches(epoch)]

    assert plan(1, 4) == plan(1, 4)
    sets = [{frozenset(b) for b in plan(*key)} for key in ((1, 4), (1, 5), (2, 4))]
    assert len(sets[0] & sets[1]) < len(sets[0]) / 10  # other batches, not only another order
    assert len(sets[0] & sets[2]) < len(sets[0]) / 10


def test_first_epoch_goes_from_short_to_long(durations: np.ndarray) -> None:
    sampler = Sampler(durations, 60, seed=1, sorted_epochs=1)
    means = [[durations[b].mean() for b in sampler.batches(epoch)] for epoch in (0, 1)]
    assert np.corrcoef(means[0], range(len(means[0])))[0, 1] > 0.8
    assert abs(np.corrcoef(means[1], range(len(means[1])))[0, 1]) < 0.3


def test_one_longer_than_a_batch_is_alone() -> None:
    batches = Sampler(np.array([1.0, 9.0, 1.0]), 4, seed=1, sorted_epochs=0).batches(0)
    assert sorted(b.tolist() for b in batches if 1 in b) == [[1]]


def test_short_utterances_do_not_crowd_a_batch() -> None:
    durations = np.full(100, 0.4)
    batches = Sampler(durations, 30, seed=1, sorted_epochs=0, most=16).batches(0)
    assert sorted(len(b) for b in batches) == [4] + [16] * 6
    assert sorted(np.concatenate(batches).tolist()) == list(range(100))


@pytest.mark.parametrize("equal", [True, False])
def test_many_are_sorted_in_ranges_as_all_at_once(equal: bool) -> None:
    count = 3 * PIECE + 5
    durations = np.random.default_rng(4).lognormal(1, 0.6, count).astype(np.float32)
    if equal:
        durations[:] = 2
    random = np.random.default_rng([9, 3])
    keys = random.uniform(1 - JITTER, 1 + JITTER, count) * durations
    batches = Sampler(durations, 600, seed=9, sorted_epochs=0).batches(3)
    assert np.array_equal(batches.order, np.argsort(keys, kind="stable"))
    assert np.array_equal(batches.turn, random.permutation(len(batches)))

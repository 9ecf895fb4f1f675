from __future__ import annotations

from itertools import pairwise

import pytest

from asr.training.schedule import learning_rate


def test_warms_up_linearly_to_the_peak() -> None:
    rates = [learning_rate(0.5, 10, step, 0.0) for step in range(10)]
    assert rates == pytest.approx([0.05 * (i + 1) for i in range(10)])


def test_falls_to_almost_nothing() -> None:
    rates = [learning_rate(1.0, 10, step, step / 1000) for step in range(10, 1001)]
    assert all(a >= b for a, b in pairwise(rates))
    assert rates[0] > 0.95
    assert rates[-1] < 1e-4


def test_halfway_value() -> None:
    assert learning_rate(2.0, 0, 500, 0.5) == pytest.approx(1.0)

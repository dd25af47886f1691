"""Delays after failures: they grow up to a bound, and two replicas never wait equally long."""

from __future__ import annotations

import random
from itertools import islice

from study_operator.backoff import delay, delays


def test_delays_double_up_to_a_bound():
    assert list(islice(delays(0.5, 4.0, lambda _, high: high), 6)) == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    assert list(islice(delays(0.5, 4.0, lambda low, _: low), 6)) == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0]


def test_a_failure_after_very_many_waits_no_longer():
    assert delay(100_000, 1.0, 30.0, lambda _, high: high) == 30.0


def test_two_replicas_wait_differently():
    ours, theirs = (list(islice(delays(1.0, 10.0, random.Random(seed).uniform), 20)) for seed in (1, 2))
    assert all(ours != theirs for ours, theirs in zip(ours, theirs, strict=True))
    assert list(islice(delays(1.0, 10.0), 20)) != list(islice(delays(1.0, 10.0), 20))


def test_every_delay_is_at_least_half_of_its_bound():
    for found, bound in zip(islice(delays(1.0, 8.0), 200), [1.0, 2.0, 4.0, *[8.0] * 197], strict=True):
        assert bound / 2 <= found <= bound

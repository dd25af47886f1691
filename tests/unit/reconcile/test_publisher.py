"""How often statuses are written that only bring counts up to date."""

from __future__ import annotations

import time

import pytest

from study_operator.reconcile.publisher import STATUS_INTERVAL_SECONDS, STATUS_STUDIES, Publisher


@pytest.mark.parametrize(
    ("changing", "interval"),
    [
        (0, STATUS_INTERVAL_SECONDS),
        (1, STATUS_INTERVAL_SECONDS),
        (STATUS_STUDIES, STATUS_INTERVAL_SECONDS),
        (6 * STATUS_STUDIES, 6 * STATUS_INTERVAL_SECONDS),
        (50 * STATUS_STUDIES, 50 * STATUS_INTERVAL_SECONDS),
    ],
)
def test_many_studies_together_write_no_more_than_a_few(changing, interval):
    publisher, now = Publisher(cluster=None), time.monotonic()
    publisher._written = {("team", f"ended-{i}"): now - 3600 + i / 1000 for i in range(1000)}
    publisher._written |= {("team", f"changing-{i}"): now - 1 + i / 10_000 for i in range(changing)}
    assert publisher.interval() == pytest.approx(interval)


def test_a_study_that_is_gone_counts_no_more():
    publisher = Publisher(cluster=None)
    keys = [("team", f"changing-{i}") for i in range(4 * STATUS_STUDIES)]
    publisher._written = dict.fromkeys(keys, time.monotonic())
    for key in keys[: 2 * STATUS_STUDIES]:
        publisher.forget(key)
    assert publisher.interval() == pytest.approx(2 * STATUS_INTERVAL_SECONDS)

"""The trials API behind a real API server: what kubectl shows of it, lists, watches, rights, and its database away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from aggregated import Aggregated, aggregated


@pytest.fixture(scope="module")
def api(own_services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aggregated]:
    with aggregated(own_services, tmp_path_factory.mktemp("api")) as opened:
        yield opened


@pytest.fixture
def namespace(api: Aggregated) -> str:
    return api.namespace()


def test_kubectl_prints_a_table(api, namespace):
    study = api.study(namespace)
    study.add(0.5, lr=0.25, layers=3, optimizer="\x1b[31mred")
    study.add(1.0, lr=0.5, layers=4, optimizer="sgd")
    lines = api.kubectl.ok("get", "stt", "-n", namespace).splitlines()
    assert lines[0].split() == ["NAME", "STUDY", "STATE", "VALUE", "DURATION", "AGE"]
    assert lines[1].split()[:5] == ["digits-0", "digits", "Complete", "0.5", "0s"]
    print(api.kubectl.ok("get", "stt", "-n", namespace, "-o", "wide"))
    print(api.kubectl.ok("get", "stt", "-n", namespace, "-o", "yaml"))

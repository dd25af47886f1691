"""As test_day_two.py, with the chart's own database, where each namespace has a login of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e import Cluster
from held import HeldStudy
from page import LOOK_NOW, Page
from release import upgrade
from restored import restore_while_trials_run

# Each waits for the real kubelet, up to 90 s: minutes in all.
pytestmark = [pytest.mark.apart, pytest.mark.faults]

DUMP = """\
kubectl -n study-operator exec study-operator-database-0 -- \\
  pg_dump --no-owner --exclude-schema=pg_catalog -U study_operator studies > studies.sql"""
PSQL = 'psql() { kubectl -n study-operator exec -i study-operator-database-0 -- psql -U study_operator "$@"; }'


@pytest.fixture
def cluster(own_cluster: Cluster) -> Cluster:
    return own_cluster


@pytest.fixture
def page(cluster: Cluster, tmp_path: Path) -> Page:
    return Page("backup.md", cluster.system, tmp_path)


def test_a_restore(cluster: Cluster, page: Page):
    page.let(PSQL)
    restore_while_trials_run(cluster, page, DUMP)


def test_a_new_password_of_the_trials(cluster: Cluster, page: Page):
    """It is one value, which gives every namespace's login another password."""
    study = HeldStudy(cluster, trials=5, parallelism=3, held=3)
    study.wait_for_reports(0, 1, 2)
    jobs, stored = study.jobs(), "SELECT rolname, rolpassword FROM pg_authid WHERE rolname LIKE 'study\\_%'"
    former = set(cluster.sql(stored).splitlines())
    page.run(
        "kubectl -n study-operator patch secret study-operator-generated"
        """ -p '{"stringData": {"reporter-password": "..."}}'""",
        dots="of-another-day",
    )
    upgrade(cluster.system)
    _restart_pgbouncer(cluster)  # so that all pods have to log in again
    study.release(0)  # one ends before the kubelet has brought the password
    study.wait_for_reports(1, 2, meanwhile=lambda: page.run(LOOK_NOW))
    assert former - set(cluster.sql(stored).splitlines()), "the login has another password"
    study.finish()
    cluster.assert_whole(study.name, 5, None)
    assert jobs.items() <= study.jobs().items()


def test_a_new_certificate(cluster: Cluster, page: Page):
    study = HeldStudy(cluster, trials=4, parallelism=2, held=2)
    study.wait_for_reports(0, 1)
    jobs = study.jobs()
    page.run("kubectl -n study-operator delete secret study-operator-database-tls")
    upgrade(cluster.system)
    study.wait_for_reports(0, 1, meanwhile=lambda: page.run(LOOK_NOW))
    study.finish()
    cluster.assert_whole(study.name, 4, None)
    assert jobs.items() <= study.jobs().items()


def _restart_pgbouncer(cluster: Cluster) -> None:
    end = ["python3", "-c", "import os; os.kill(1, 15)"]
    cluster.kubectl("exec", f"{cluster.system}-database-0", "-c", "pgbouncer", "--", *end, namespace=cluster.system)

"""A dump that is restored while trials run, by the steps of docs/backup.md."""

from __future__ import annotations

from collections.abc import Callable

from e2e import Cluster, eventually
from held import HeldStudy
from page import Page


def restore_while_trials_run(
    cluster: Cluster, page: Page, dump: str, superuser: Callable[[], None] = lambda: None
) -> None:
    """Dump the database in the middle of a study, let trials end, restore the dump, and let the study end.

    Args:
        cluster: the namespace of the study.
        page: backup.md. Its `psql` reaches the server as an administrator.
        dump: the command that makes the dump.
        superuser: what a superuser does to the new database.
    """
    study = HeldStudy(cluster, trials=8, parallelism=4, held=8)
    study.wait_for_reports(0, 1, 2, 3)
    study.end(0)
    study.wait_for_reports(4)
    page.run(dump)

    # What the dump does not know: 1 ends; 5 begins and ends; 6 begins.
    study.end(1)
    study.wait_for_reports(5)
    study.end(5)
    study.wait_for_reports(2, 3, 4, 6)
    before = study.jobs()

    page.run("kubectl -n study-operator scale deployment study-operator --replicas=0")
    operator = "app.kubernetes.io/component=operator"
    cluster.kubectl("wait", "pod", "-l", operator, "--for=delete", "--timeout=240s", namespace=cluster.system)
    page.run("psql -d postgres -c 'CREATE DATABASE studies_restored OWNER study_operator TEMPLATE template0'")
    page.run("psql -d studies_restored -U study_operator -X -v ON_ERROR_STOP=1 --single-transaction -f - < studies.sql")
    page.run(
        "psql -d postgres -c 'DROP DATABASE IF EXISTS studies WITH (FORCE)'"
        " -c 'ALTER DATABASE studies_restored RENAME TO studies'"
    )
    superuser()
    page.run("kubectl -n study-operator scale deployment study-operator --replicas=1")

    eventually(lambda: f"{study.name}-1-r1" in study.jobs(), "what the dump has cut off runs again")
    study.wait_for_reports(2, 3, 4)
    status = study.finish()
    assert status["failures"]["program"] == 0, status
    assert cluster.rows(study.name) == [(number, "COMPLETE") for number in range(8)]
    lost = _by_trial(cluster, "x.kind || ' ' || x.reason", "study_operator.incidents x")
    assert lost == {1: "Infrastructure DatabaseRestored"}, lost
    assert _by_trial(cluster, "x.value", "trial_values x") == _by_trial(cluster, "x.param_value", "trial_params x")

    jobs = study.jobs()
    of_rows = _by_trial(cluster, "x.value_json::jsonb #>> '{}'", "trial_system_attributes x", "x.key LIKE '%:job'")
    of_before = {number for number, job in of_rows.items() if jobs[job] == before.get(job)}
    assert of_before == {0, 2, 3, 4}, "what runs has run on, and a Job that the dump does not know is no new trial's"
    for number, steps in cluster.steps(study.name).items():
        found = [step for step, _ in cluster.reports(study.name, number)]
        if number in (2, 3, 4):  # what they reported between the dump and the restore is lost
            assert (found[0], found[-1]) == (1, steps)
            assert set(found) <= set(range(1, steps + 1))
        elif number == 1:  # its reports in the dump are there, too
            assert {1, 2, 3, 4} <= set(found)
        else:
            assert found == list(range(1, steps + 1))


def _by_trial(cluster: Cluster, what: str, table: str, where: str = "true") -> dict[int, str]:
    """What the table has of each trial, by the trial's number."""
    text = cluster.sql(
        f"SELECT t.number, {what} FROM trials t JOIN {table} USING (trial_id) JOIN studies s ON s.study_id = t.study_id"
        f" WHERE {where} AND s.study_name = '{cluster.status('held')['studyName']}' ORDER BY 1"
    )
    return {int(number): found for number, found in (line.split("|", 1) for line in text.splitlines())}

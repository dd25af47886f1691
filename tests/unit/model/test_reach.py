"""What `study_trial` says while it cannot reach the database; its own sentences, not copies of them."""

from __future__ import annotations

import time

import pytest
from building import job_state

from study_operator.model.job_state import JobPhase
from study_operator.model.pod_status import failure
from study_operator.model.reach import why_undelivered, why_unreachable
from study_operator.model.trial import FailureClass
from study_trial._connection import Call, UnavailableError
from study_trial._delivery import Delivery
from study_trial._errors import UndeliveredError

WHY = "db.example.com:5432: timed out waiting for the connection"


class Away:
    """A database that cannot be reached until `back`."""

    back = False

    def call(self, call: Call, timeout: float) -> None:
        if not self.back:
            raise UnavailableError(WHY)

    def close(self) -> None:
        pass


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def delivery(database: Away, clock: Clock) -> Delivery:
    return Delivery(database, report_timeout=5.0, finish_timeout=60.0, clock=clock, sleep=clock.sleep)


def test_a_report_that_waits_says_why(capsys):
    database, clock = Away(), Clock()
    sender = delivery(database, clock)
    sender.send(Call({}, "the report 0.5 of step 1"))
    log = "epoch 1\n" + capsys.readouterr().err + "epoch 2\n" * 9
    assert why_unreachable(log) == WHY
    database.back, clock.now = True, 100.0
    sender.send(Call({}, "the report 0.6 of step 2"))
    assert why_unreachable(log + capsys.readouterr().err) is None


def test_a_final_value_that_waits_says_why(capsys):
    with pytest.raises(UndeliveredError) as error:
        delivery(Away(), Clock()).send_final(Call({}, "the final value 0.5 of trial 3"))
    assert why_unreachable(capsys.readouterr().err) == WHY
    assert why_undelivered(f"study_trial._errors.UndeliveredError: {error.value}") == WHY
    assert why_undelivered(f"study-trial: {error.value}") == WHY


@pytest.mark.parametrize("log", ["", "the database is away (x); training goes on", "study-trial: local run"])
def test_other_lines_say_nothing(log):
    assert why_unreachable(log) is None


def test_a_value_that_could_not_be_stored_is_the_infrastructures_failure():
    line = f"study-trial: the end could not be delivered within 5 s and is NOT stored; the last attempt: {WHY}"
    terminated = {"exitCode": 1, "reason": "Error", "finishedAt": "2030-01-01T00:00:10Z"}
    pod = {
        "metadata": {"name": "digits-0-x"},
        "spec": {"containers": [{"name": "trial"}]},
        "status": {"containerStatuses": [{"name": "trial", "state": {"terminated": terminated}}]},
    }
    found = failure(job_state(0, JobPhase.FAILED), [pod], line)
    assert (found.reason, found.kind, found.exit_code) == ("DatabaseUnreachable", FailureClass.INFRASTRUCTURE, 1)
    assert WHY in found.message
    assert failure(job_state(0, JobPhase.FAILED), [pod], "Killed").kind is FailureClass.PROGRAM


def test_a_log_that_nearly_says_it_takes_no_time():
    begun = time.process_time()
    assert why_unreachable("study-trial: the database is away (" * 1800) is None
    assert time.process_time() - begun < 1

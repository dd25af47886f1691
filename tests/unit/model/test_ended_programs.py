"""When the end of a program counts that other containers of its pod outlive."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from study_operator.model.ended_programs import ProgramEnd, before_deadline
from study_operator.model.job_state import JobPhase, JobState

BEGUN = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("deadline", "grace"),
    [(None, 30), (3600, 30), (135, 30), (125, 20), (106, 1), (105, 0), (101, 0)],
)
def test_an_end_counts_before_the_deadline_of_its_job(deadline, grace):
    end = ProgramEnd(0, BEGUN + timedelta(seconds=100), timedelta(seconds=30), ("proxy",))
    job = JobState("study-0", "uid", 0, 1, JobPhase.ACTIVE, BEGUN, BEGUN)
    assert before_deadline(end, job, deadline).grace == timedelta(seconds=grace)

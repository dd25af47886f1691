"""Why a trial's pod does not run, in words."""

from datetime import UTC, datetime

import pytest

from study_operator.model import pending_pods
from study_operator.model.job_state import JobPhase, JobState

MADE = datetime(2026, 1, 1, tzinfo=UTC)


def _job(**fields) -> JobState:
    return JobState("study-3", "uid", 3, 30, JobPhase.ACTIVE, MADE, **fields)


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (_job(), "Job study-3 has no pod"),
        (_job(pods=1, leave=1), "the pod of trial 3 was told to end and has not ended yet: if its node is lost"),
        (_job(pods=1), None),
    ],
    ids=["no pod", "a lost node", "starting"],
)
def test_why_a_trial_waits(job: JobState, words: str | None):
    (waiting,) = pending_pods.waiting([job])
    said = pending_pods.why([waiting], [])
    assert said is None if words is None else said and words in said

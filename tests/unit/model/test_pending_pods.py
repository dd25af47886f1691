"""Why a trial's pod does not run, in words."""

from datetime import UTC, datetime, timedelta

import pytest
from building import study

from study_operator.model import pending_pods
from study_operator.model.cluster_events import Told, last_told
from study_operator.model.job_state import JobPhase, JobState
from study_operator.model.study import JOB_LABEL, TRIAL_LABEL

MADE = datetime(2026, 1, 1, tzinfo=UTC)
QUOTA = Told("FailedCreate", "exceeded quota: q")


def after(seconds: float) -> datetime:
    return MADE + timedelta(seconds=seconds)


def _job(**fields) -> JobState:
    return JobState("study-3", "uid", 3, 30, JobPhase.ACTIVE, MADE, **fields)


def _pod(**status) -> dict:
    labels = {TRIAL_LABEL: "3", JOB_LABEL: "study-3"}
    meta = {"name": "study-3-x", "uid": "pod", "labels": labels, "creationTimestamp": MADE.isoformat()}
    return {"metadata": meta, "spec": {"containers": [{"name": "trial"}]}, "status": {"phase": "Pending", **status}}


@pytest.mark.parametrize(
    ("job", "told", "words"),
    [
        (_job(), {}, "Job study-3 has no pod: a quota or a policy of the namespace may forbid it"),
        (_job(), {"uid": QUOTA}, "Job study-3 has no pod: FailedCreate: exceeded quota: q"),
        (_job(pods=1, leave=1), {}, "the pod of trial 3 was told to end and has not ended yet: if its node is lost"),
        (_job(pods=1), {}, None),
    ],
    ids=["no pod", "a quota", "a lost node", "starting"],
)
def test_why_a_trial_waits(job: JobState, told, words: str | None):
    (waiting,) = pending_pods.waiting([job])
    said = pending_pods.why([waiting], [], told, after(8))
    assert said is None if words is None else said and words in said


MOUNT = Told("FailedMount", 'configmap "c" not found')
PULLING = Told("Pulling", 'Pulling image "large:1"', warning=False)
CREATING = {"containerStatuses": [{"name": "trial", "state": {"waiting": {"reason": "ContainerCreating"}}}]}


@pytest.mark.parametrize(
    ("told", "seconds", "words"),
    [
        ({"pod": MOUNT}, 18, 'FailedMount: configmap "c" not found'),
        ({"pod": MOUNT}, 10, 'FailedMount: configmap "c" not found'),
        ({"pod": PULLING}, 600, None),
        ({"pod": Told("Scheduled", "assigned", warning=False)}, 10, None),
        ({"pod": Told("Scheduled", "assigned", warning=False)}, 18, "Scheduled: assigned"),
        ({}, 10, None),
        ({}, 18, "ContainerCreating: its containers have not been created, and no Event says why; see pod study-3-x"),
    ],
)
@pytest.mark.parametrize("status", [{}, CREATING])
def test_a_pod_without_a_condition_is_explained_by_its_events(told, seconds, words, status):
    pod = _pod(**status)
    assert pending_pods.unexplained([_job(pods=1)], [pod], after(seconds)) == ["pod"]
    said = pending_pods.why([_job(pods=1)], [pod], told, after(seconds))
    assert said == (words and f"the pod of trial 3 waits: {words}")


@pytest.mark.parametrize(("told", "words"), [({"pod": MOUNT}, "FailedMount: configmap"), ({}, None)])
def test_beside_pods_that_run_a_pod_that_is_merely_slow_is_not_worth_a_word(told, words):
    said = pending_pods.why([_job(pods=1)], [_pod(**CREATING)], told, after(60), others_run=True)
    assert said is None if words is None else said and words in said


def test_events_are_asked_for_what_is_mute_only():
    unschedulable = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}
    assert pending_pods.unexplained([_job(pods=1)], [_pod(conditions=[unschedulable])], after(60)) == []
    assert pending_pods.unexplained([_job(pods=1)], [_pod()], after(7)) == []
    assert pending_pods.unexplained([_job()], [], after(60)) == [], "the Job controller has not begun"
    assert pending_pods.unexplained([_job(started_at=MADE, suspended=True)], [], after(60)) == []
    assert pending_pods.unexplained([_job(started_at=MADE)], [], after(60)) == ["uid"]


def event(type_: str, reason: str, at: str = "", **fields) -> dict:
    return {"type": type_, "reason": reason, "message": f"about {reason}", "lastTimestamp": at, **fields}


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([], None),
        ([event("Normal", "Scheduled", "1"), event("Normal", "Pulling", "2")], "Pulling"),
        ([event("Warning", "FailedMount", "1"), event("Normal", "Pulling", "2")], "FailedMount"),
        ([event("Warning", "B", "2"), event("Warning", "A", "3"), event("Warning", "C", "1")], "A"),
        ([event("Warning", "B", "2"), event("Warning", "A", "", eventTime="3")], "A"),
        ([event("Warning", "B", "2"), event("Warning", "A", "1", series={"lastObservedTime": "3"})], "A"),
    ],
)
def test_the_latest_warning_counts(events, reason):
    told = last_told(events)
    assert (told and told.reason) == reason


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('Failed to pull image "a:1": not found', "ErrImagePull"),
        ("Error: ErrImagePull", "ErrImagePull"),
        ("Error: ErrImageNeverPull", "ErrImageNeverPull"),
        ('Failed to inspect image "a:1": rpc error', "ImageInspectError"),
        ('Error: failed to start container "image": no such file', "ContainerNotStarted"),
        ("Error: failed to create containerd container", "ContainerNotStarted"),
    ],
)
def test_what_the_kubelet_calls_failed_has_a_reason(message, reason):
    told = last_told([event("Warning", "Failed") | {"message": message}])
    assert told == Told(reason, message)


def test_what_an_event_says_is_one_line():
    told = last_told([event("Warning", "Bad\nreason") | {"message": "a\x1b[31m\nb"}])
    assert told == Told("Bad reason", "a\\x1b[31m b")
    assert last_told([{}]) == Told("Unknown", "no message", warning=False)


@pytest.mark.parametrize("end", ["", " ", "!"])
def test_an_event_of_a_tenant_takes_no_longer_than_it_is_long(end):
    """A search for a word in it that may begin anywhere would take minutes, in which nobody's study goes on."""
    told = last_told([event("Warning", "Failed") | {"message": "Error: " + "Image" * 200_000 + end}])
    assert told.reason == "ContainerNotStarted"


STARTED = _job(started_at=MADE, generation=3)  # that of the Study


def test_a_job_that_waits_its_turn_is_not_stuck():
    of = study(pendingDeadlineSeconds=30)
    found = pending_pods.stuck(of, [STARTED], [], after(40), {"uid": QUOTA}, pods_until=after(20))
    assert found == {}, "another trial of the study had its pod 20 s ago"
    found = pending_pods.stuck(of, [STARTED], [], after(50), {"uid": QUOTA}, pods_until=after(20))
    assert found["study-3"].failure.sentence().endswith("within 30 s: FailedCreate: exceeded quota: q")
    assert pending_pods.stuck(of, [STARTED], [], after(40), {}).keys() == {"study-3"}


@pytest.mark.parametrize(
    ("job", "pods", "told", "again"),
    [
        (_job(started_at=MADE), [], {}, True),
        (_job(pods=1), [_pod()], {"pod": MOUNT}, True),
        (_job(pods=1), [_pod()], {"pod": PULLING}, False),
        (_job(pods=1), [_pod()], {}, False),
    ],
)
def test_an_edit_may_remove_the_cause(job, pods, told, again):
    found = pending_pods.stuck(study(), [job], pods, after(20), told)
    assert [one.counts for one in found.values()] == ([False] if again else [])

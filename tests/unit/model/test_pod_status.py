"""Why a pod waits and how it ended, in the words of scheduler and kubelet."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from building import job_state

from study_operator.model.job_state import JobPhase
from study_operator.model.pod_status import failure, last_container, last_line, program_of, waiting_for
from study_operator.model.trial import Failure, FailureClass

INFRASTRUCTURE = FailureClass.INFRASTRUCTURE

FAILED_JOB = job_state(
    0, JobPhase.FAILED, reason="BackoffLimitExceeded", message="Job has reached the specified backoff limit"
)


def container(name: str = "trial", **state: Any) -> dict[str, Any]:
    """A container's status; `container(terminated={...})` has ended."""
    return {"name": name, "ready": False, "restartCount": 0, "state": state}


def ended(exit_code: int, reason: str = "", at: str = "2030-01-01T00:00:10Z", message: str = "") -> dict[str, Any]:
    """The kubelet's `terminated`."""
    optional = {"reason": reason, "message": message}
    return {"exitCode": exit_code, "finishedAt": at, **{name: text for name, text in optional.items() if text}}


def pod(
    *containers: dict[str, Any],
    init: tuple[dict[str, Any], ...] = (),
    name: str = "digits-0-abcde",
    created: str = "2030-01-01T00:00:00Z",
    **status: Any,
) -> dict[str, Any]:
    status = {"phase": "Pending", **status}
    if containers:
        status["containerStatuses"] = list(containers)
    if init:
        status["initContainerStatuses"] = list(init)
    return {
        "metadata": {"name": name, "creationTimestamp": created},
        "spec": {"containers": [{"name": "trial"}, {"name": "logger"}]},
        "status": status,
    }


def not_scheduled(**fields: Any) -> list[dict[str, Any]]:
    return [
        {"type": "Initialized", "status": "True"},
        {"type": "PodScheduled", "status": "False", **fields},
    ]


def disrupted(reason: str) -> dict[str, Any]:
    return {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "why"}


def deleted(pod: dict[str, Any]) -> dict[str, Any]:
    """The pod, whose deletion was asked for ten seconds after it was created, with 30 seconds for its end."""
    times = {"deletionTimestamp": "2030-01-01T00:00:40Z", "deletionGracePeriodSeconds": 30}
    return pod | {"metadata": pod["metadata"] | times}


DELETED = Failure(
    "PodDeleted",
    "its pod was deleted before the trial had ended: by somebody, by a drain without evictions, or by what removes "
    "nodes",
    None,
    "the end",
    INFRASTRUCTURE,
)
NO_GPU = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."


@pytest.mark.parametrize(
    ("waiting", "why"),
    [
        (pod(), None),
        ({"metadata": {"name": "x"}}, None),
        (pod(conditions=[{"type": "PodScheduled", "status": "True"}]), None),
        (pod(conditions=not_scheduled(reason="Unschedulable", message=NO_GPU)), ("Unschedulable", NO_GPU)),
        (
            pod(conditions=not_scheduled(reason="SchedulingGated", message="Scheduling is blocked due to gates")),
            ("SchedulingGated", "Scheduling is blocked due to gates"),
        ),
        (pod(conditions=not_scheduled()), ("Unschedulable", "not scheduled yet")),
        (pod(container(waiting={"reason": "ContainerCreating"})), None),
        (pod(container(waiting={"reason": "PodInitializing"})), None),
        (pod(container(waiting={})), None),
        (pod(container(running={"startedAt": "2030-01-01T00:00:00Z"})), None),
        (
            pod(container(waiting={"reason": "ImagePullBackOff", "message": 'Back-off pulling image "trial:2"'})),
            ("ImagePullBackOff", 'Back-off pulling image "trial:2"'),
        ),
        (pod(container(waiting={"reason": "InvalidImageName"})), ("InvalidImageName", "container trial")),
        (
            pod(container(waiting={"reason": "CreateContainerConfigError", "message": 'secret "s" not found'})),
            ("CreateContainerConfigError", 'secret "s" not found'),
        ),
        (
            pod(
                container(waiting={"reason": "PodInitializing"}),
                init=(container("fetch", waiting={"reason": "ErrImagePull", "message": "no such image"}),),
            ),
            ("ErrImagePull", "no such image"),
        ),
        (
            pod(container(), container("logger", waiting={"reason": "CrashLoopBackOff", "message": "back-off 10s"})),
            ("CrashLoopBackOff", "back-off 10s"),
        ),
        (
            pod(
                container(),
                container("logger", waiting={"reason": "CrashLoopBackOff", "message": "back-off 10s"})
                | {"lastState": {"terminated": ended(137, "OOMKilled")}},
            ),
            ("CrashLoopBackOff", "container logger exits with 137: back-off 10s"),
        ),
        (  # in a pod that is never restarted, the kubelet says no more of a sidecar
            pod(
                container(waiting={"reason": "PodInitializing"}),
                init=(container("study-metrics", terminated=ended(127, "StartError", message="no such file")),),
            ),
            ("StartError", "container study-metrics exits with 127, and is started again and again: no such file"),
        ),
        (pod(container(waiting={}), init=(container("fetch", terminated=ended(0, "Completed")),)), None),
    ],
)
def test_why_a_pod_does_not_run(waiting, why):
    assert waiting_for(waiting) == why


@pytest.mark.parametrize(
    ("pods", "expected"),
    [
        ([pod(container(terminated=ended(1, "Error")))], Failure("Error", "", 1, "the end")),
        ([pod(container(terminated=ended(137, "OOMKilled")))], Failure("OOMKilled", "", 137, "the end")),
        (
            [pod(container(terminated=ended(128, "StartError", message="exec: no such file")))],
            Failure("StartError", "exec: no such file", 128, "the end"),
        ),
        ([pod(container(terminated={"exitCode": 2}))], Failure("Error", "", 2, "the end")),
        (
            [
                pod(
                    container(terminated=ended(137, "Error")),
                    phase="Failed",
                    reason="Evicted",
                    message="The node was low on resource: memory.",
                )
            ],
            Failure("Evicted", "The node was low on resource: memory.", None, "the end", INFRASTRUCTURE),
        ),
        (
            [pod(phase="Failed", reason="UnexpectedAdmissionError", message="Allocate failed")],
            Failure("UnexpectedAdmissionError", "Allocate failed", None, "the end", INFRASTRUCTURE),
        ),
        (  # its node went down: what the kubelet says of a container that it has lost
            [pod(container(terminated=ended(137, "ContainerStatusUnknown", message="not found when the pod was")))],
            Failure("ContainerStatusUnknown", "not found when the pod was", 137, "the end", INFRASTRUCTURE),
        ),
        (
            [pod(container(terminated=ended(143, "Error")), conditions=[disrupted("PreemptionByScheduler")])],
            Failure("PreemptionByScheduler", "why", None, "the end", INFRASTRUCTURE),
        ),
        # The pod's own time limit is not the cluster's doing.
        (
            [pod(phase="Failed", reason="DeadlineExceeded", message="Pod was active too long")],
            Failure("DeadlineExceeded", "Pod was active too long", None, "the end"),
        ),
        # A pod that says that it has failed, and nothing else.
        ([pod(phase="Failed")], Failure("BackoffLimitExceeded", FAILED_JOB.message, None, "the end")),
        # No pod has failed, so that one has been deleted. One of several may have ended well before.
        ([], DELETED),
        ([pod()], DELETED),
        ([{"metadata": {"name": "x"}}], DELETED),
        ([pod(container(terminated=ended(0, "Completed")))], DELETED),
        # The one that was deleted is still there until the Job controller has counted it.
        ([deleted(pod(container(terminated=ended(143, "Error", at="2030-01-01T00:00:10Z")), phase="Failed"))], DELETED),
        # It had failed before.
        (
            [deleted(pod(container(terminated=ended(1, "Error", at="2030-01-01T00:00:09Z")), phase="Failed"))],
            Failure("Error", "", 1, "the end"),
        ),
        # An evicted pod is deleted, too.
        (
            [deleted(pod(container(terminated=ended(143)), conditions=[disrupted("EvictionByEvictionAPI")]))],
            Failure("EvictionByEvictionAPI", "why", None, "the end", INFRASTRUCTURE),
        ),
        # An init container failed, so that the others never ran.
        (
            [
                pod(
                    container(waiting={"reason": "PodInitializing"}),
                    init=(container("fetch", terminated=ended(3, "Error")),),
                )
            ],
            Failure("Error", "", 3, "the end"),
        ),
        # The program failed; then the kubelet ended what ran beside it, with SIGTERM.
        (
            [
                pod(
                    container("logger", terminated=ended(143, "Error", at="2030-01-01T00:00:40Z")),
                    container("trial", terminated=ended(1, "Error", at="2030-01-01T00:00:10Z")),
                    init=(container("proxy", terminated=ended(137, "Error", at="2030-01-01T00:00:40Z")),),
                )
            ],
            Failure("Error", "", 1, "the end"),
        ),
        (
            [
                pod(
                    container(terminated=ended(1, "Error")),
                    init=(container("proxy", terminated=ended(143, "Error")),),  # within the same second
                )
            ],
            Failure("Error", "", 1, "the end"),
        ),
        (
            [
                pod(container(terminated=ended(1)), name="first", created="2030-01-01T00:00:00Z"),
                pod(container(terminated=ended(2)), name="second", created="2030-01-01T00:01:00Z"),
            ],
            Failure("Error", "", 2, "the end"),
        ),
        # Evicted, which does not count, then run again: what ended the second pod is what failed.
        (
            [
                pod(
                    container(terminated=ended(137)),
                    name="first",
                    created="2030-01-01T00:00:00Z",
                    phase="Failed",
                    reason="Evicted",
                ),
                pod(container(terminated=ended(1, "Error")), name="second", created="2030-01-01T00:01:00Z"),
            ],
            Failure("Error", "", 1, "the end"),
        ),
        # The latest pod says nothing, an earlier one does.
        (
            [
                pod(container(terminated=ended(1, "Error")), name="first", created="2030-01-01T00:00:00Z"),
                pod(name="second", created="2030-01-01T00:01:00Z"),
            ],
            Failure("Error", "", 1, "the end"),
        ),
    ],
)
def test_why_a_job_failed(pods, expected):
    assert failure(FAILED_JOB, pods, "the end") == expected
    assert failure(FAILED_JOB, list(reversed(pods)), "the end") == expected


def test_a_jobs_own_time_limit_counts_for_more_than_how_its_pods_were_ended():
    late = job_state(0, JobPhase.FAILED, reason="DeadlineExceeded", message="Job was active longer than ...")
    killed = pod(container(terminated=ended(137, "Error")))
    assert failure(late, [killed], "epoch 3") == Failure(
        "DeadlineExceeded", "Job was active longer than ...", None, "epoch 3"
    )


def test_a_job_that_a_disruption_failed_says_so_even_when_its_pod_is_gone():
    message = "Pod team-a/digits-0-x has condition DisruptionTarget matching FailJob rule at index 0"
    lost = job_state(0, JobPhase.FAILED, reason="PodFailurePolicy", message=message)
    assert failure(lost, []) == Failure("Disrupted", message, kind=INFRASTRUCTURE)
    evicted = pod(container(terminated=ended(143)), conditions=[disrupted("EvictionByEvictionAPI")])
    assert failure(lost, [evicted], "epoch 3") == Failure(
        "EvictionByEvictionAPI", "why", None, "epoch 3", INFRASTRUCTURE
    )


@pytest.mark.parametrize(
    ("failed", "kind"), [(0, INFRASTRUCTURE), (1, INFRASTRUCTURE), (2, INFRASTRUCTURE), (3, FailureClass.PROGRAM)]
)
def test_pods_that_were_deleted_do_not_use_up_the_back_off_limit(failed, kind):
    job = replace(FAILED_JOB, backoff_limit=2)
    pods = [pod(container(terminated=ended(1, "Error")), name=str(number), phase="Failed") for number in range(failed)]
    assert failure(job, pods).kind is kind


def test_a_job_that_is_deleted_with_its_pods_is_no_failure():
    found = failure(replace(FAILED_JOB, deleting=True), [])
    assert (found.kind, found.reason) == (FailureClass.TERMINATED, "JobMissing")


def test_kubernetes_itself_deletes_the_pod_of_a_program_that_was_restarted_in_place():
    found = failure(replace(FAILED_JOB, in_place=True), [])
    assert (found.kind, found.reason) == (FailureClass.PROGRAM, "BackoffLimitExceeded")


@pytest.mark.parametrize(
    ("annotations", "named", "program"),
    [
        ({"study-operator.io/program": "logger"}, "trial", "logger"),
        ({"study-operator.io/program": "gone"}, "logger", "logger"),
        (None, "logger", "logger"),  # its Job was made by an operator before 0.3
        (None, "gone", "trial"),
    ],
)
def test_the_program_is_found_wherever_a_webhook_has_put_other_containers(annotations, named, program):
    found = pod()
    found["metadata"]["annotations"] = annotations
    assert program_of(found, named) == program
    assert last_container([found], named) == ("digits-0-abcde", program)


def test_exit_codes_that_mean_infeasible():
    pods = [pod(container(terminated=ended(42, "Error")))]
    found = failure(FAILED_JOB, pods, "does not fit", infeasible={42})
    assert (found.kind, found.reason, found.exit_code) == (FailureClass.INFEASIBLE, "Infeasible", 42)
    assert failure(FAILED_JOB, pods, infeasible={41}).kind is FailureClass.PROGRAM


def test_a_failed_job_that_gives_no_reason_has_one():
    assert failure(job_state(0, JobPhase.FAILED), []) == Failure("JobFailed")


@pytest.mark.parametrize(
    ("pods", "found"),
    [
        ([], None),
        ([pod()], ("digits-0-abcde", "trial")),
        ([pod(container("trial", terminated=ended(0)), container("logger"))], ("digits-0-abcde", "trial")),
        ([pod(container("trial"), container("logger", terminated=ended(1)))], ("digits-0-abcde", "logger")),
        (
            [pod(container("trial"), init=(container("fetch", terminated=ended(1)),))],
            ("digits-0-abcde", "fetch"),
        ),
        (
            [
                pod(
                    container("logger", terminated=ended(143, at="2030-01-01T00:00:40Z")),
                    container("trial", terminated=ended(1, at="2030-01-01T00:00:10Z")),
                )
            ],
            ("digits-0-abcde", "trial"),
        ),
        (
            [
                pod(container(terminated=ended(1)), name="old", created="2030-01-01T00:00:00Z"),
                pod(container(terminated=ended(1)), name="new", created="2030-01-01T00:01:00Z"),
            ],
            ("new", "trial"),
        ),
        (
            [
                pod(container(terminated=ended(1)), name="old", created="2030-01-01T00:00:00Z"),
                pod(container(), name="new", created="2030-01-01T00:01:00Z"),
            ],
            ("old", "trial"),
        ),
    ],
)
def test_whose_log_says_most(pods, found):
    assert last_container(pods, "trial") == found
    assert last_container(list(reversed(pods)), "trial") == found


@pytest.mark.parametrize(
    ("failed", "sentence"),
    [
        (Failure("Error"), "Error"),
        (Failure("Error", exit_code=1), "Error, exit code 1"),
        (Failure("Error", "", 1, "ValueError: x"), "Error, exit code 1: last log line: ValueError: x"),
        (Failure("Evicted", "low on memory", None, "epoch 3"), "Evicted: low on memory; last log line: epoch 3"),
    ],
)
def test_a_failure_as_a_sentence(failed, sentence):
    assert failed.sentence() == sentence


NASTY = "x\n2026-11-29T09:00:00 error namespace=team-z \x1b[31m\x07 \u202e"
SHOWN = "x 2026-11-29T09:00:00 error namespace=team-z \\x1b[31m\\x07 \\u202e"


def test_what_a_container_says_at_its_end_is_one_line():
    died = pod(container(terminated=ended(1, "Error", message=NASTY)), phase="Failed")
    found = failure(FAILED_JOB, [died], last_log_line=NASTY)
    assert (found.message, found.last_log_line) == (SHOWN, SHOWN)
    assert failure(FAILED_JOB, [died], infeasible={1}).message == SHOWN


@pytest.mark.parametrize(
    "waiting",
    [
        pod(conditions=not_scheduled(reason="Unschedulable", message=NASTY)),
        pod(container(waiting={"reason": "ErrImagePull", "message": NASTY})),
        pod(container(waiting={"reason": NASTY, "message": NASTY})),
    ],
)
def test_why_a_pod_waits_is_one_line(waiting):
    assert all(text.isprintable() for text in waiting_for(waiting))


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("", ""),
        ("one\n  two\tthree \n", "two three"),
        ("one\n\n", ""),
        ("\x1b[31mValueError\x1b[0m: \x1b]8;;http://host\x07no data\x1b]8;;\x07", "ValueError: no data"),
        ("10%\r 50%\r 100% done\r\n", "100% done"),
        ("10%\x1b[2K\x1b[1G100%\n", "100%"),
        ("user\u202egpj.exe\x00", "user\\u202egpj.exe\\x00"),
        ("x" * 5000, "x" * 2048),
    ],
)
def test_the_last_line_of_a_log_is_as_a_terminal_shows_it(log, line):
    assert last_line(log) == line


def test_a_log_that_moves_the_cursor_costs_no_more_than_its_length():
    """Each movement takes back 999 characters; as so many backspaces, this log would be a hundred times as long."""
    begun = time.process_time()
    assert last_line("\x1b[999Dx" * 75_000) == "x"
    assert time.process_time() - begun < 2

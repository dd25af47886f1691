"""What kubectl's words mean, what a Study says, and what changes of a clone reach."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from study_client.acting import cloned
from study_client.arguments import Options, duration, parse
from study_client.doctor import role_binding
from study_client.errors import ClientError, ConflictError, NotFoundError, NotServedError
from study_client.kubectl import failure
from study_client.logs import latest
from study_client.status import estimate, status_lines
from study_client.studies import StudyView
from study_client.waiting import answer

NOW = datetime(2026, 1, 1, 1, 0, tzinfo=UTC)


def view(status: dict[str, Any] | None = None, **spec: Any) -> StudyView:
    objectives = [{"name": "loss", "direction": "Minimize"}]
    metadata = {"name": "digits", "namespace": "team", "generation": 2}
    manifest = {"metadata": metadata, "spec": {"objectives": objectives, "maxTrials": 20, **spec}}
    return StudyView(manifest | ({"status": status} if status else {}))


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ('Error from server (NotFound): studies "x" not found', NotFoundError, "not found"),
        ('error: the server doesn\'t have a resource type "studytrials"', NotServedError, "does not serve trials"),
        (
            'error: the server doesn\'t have a resource type "studies"',
            NotServedError,
            "study-operator is not installed",
        ),
        ('E1130 memcache.go:265] stale\nError from server (Conflict): "x" changed', ConflictError, "Conflict"),
        ("Error from server (Forbidden): no", ClientError, "doctor"),
        ("Error from server (ServiceUnavailable): the database is away\x1b[2J", ClientError, "database is away\\\\x1b"),
        ("", ClientError, "did not say why"),
    ],
)
def test_kubectls_words_become_errors(said: str, kind: type[ClientError], words: str):
    error = failure(said)
    assert type(error) is kind
    with pytest.raises(kind, match=words):
        raise error


def test_kubectls_own_options_are_passed_on_wherever_they_stand():
    given = parse(["best", "digits", "-n", "team", "--context", "x", "--as=ann", "--as-group=a", "--as-group=b"])
    assert (given.namespace, given.kubectl_context, given.kubectl_as_group) == ("team", "x", ["a", "b"])
    options, plain = Options.taken_from(["-n", "team", "--context=x", "--as", "ann", "best", "-o", "di"])
    assert (options.namespace, options.kubectl) == ("team", ["--context=x", "--as=ann"])
    assert plain[0] == "best"


@pytest.mark.parametrize(
    "line", [["nothing"], ["trials", "x", "--state", "Lost"], ["scale", "x", "-1"], ["curve", "x", "a"]]
)
def test_a_wrong_command_line_is_one_line(line: list[str], capsys):
    with pytest.raises(SystemExit) as ended:
        parse(line)
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_durations():
    assert [duration(text) for text in ("90", "90s", "2m", "24h", "1d")] == [90, 90, 120, 86400, 86400]
    for text in ("", "s", "1.5h", "-1s", "soon"):
        with pytest.raises(ClientError, match="write 90s, 30m or 24h"):
            duration(text)


def test_a_study_without_a_status_is_shown():
    lines = status_lines(view(), NOW)
    assert lines[0] == "Study team/digits: Pending"
    assert any("has not looked at this Study yet" in line for line in lines)


def test_the_end_is_estimated_from_the_pace():
    status = {"phase": "Running", "progress": "10/20", "startTime": "2026-01-01T00:00:00Z"}
    assert estimate(view(status), NOW) == 3600
    for change in ({"progress": "1/20"}, {"progress": "20/20"}, {"phase": "Suspended"}, {"startTime": None}):
        assert estimate(view(status | change), NOW) is None


def test_old_conditions_are_not_believed():
    complete = {"type": "Complete", "status": "True", "reason": "GoalReached", "message": "m", "observedGeneration": 1}
    assert answer(view({"conditions": [complete]}), "complete") is None
    assert answer(view({"conditions": [complete | {"observedGeneration": 2}]}), "complete") == (
        True,
        "digits is complete (GoalReached): m",
    )


def test_a_value_is_reached_from_the_side_of_the_direction():
    best = {"bestTrial": {"number": 3, "values": ["0.2"]}}
    assert answer(view(best), "0.3") == (True, "digits has 0.2 (trial 3)")
    assert answer(view(best), "0.1") is None
    maximised = view(best, objectives=[{"name": "a", "direction": "Maximize"}])
    assert answer(maximised, "0.3") is None
    with pytest.raises(ClientError, match="has no goal"):
        answer(view(best), "goal")


def test_a_clone_is_changed_where_it_is_said():
    manifest = {
        "apiVersion": "v",
        "kind": "Study",
        "metadata": {"name": "a", "uid": "u", "annotations": {"kubectl.kubernetes.io/last": "x"}},
        "spec": {"maxTrials": 5, "stop": "Drain", "suspend": True, "parameters": [{"name": "lr"}]},
        "status": {},
    }
    changes = ["sampler.options.seed=3", "parameters[0].name=x", 'parameters[1]={"name": "y"}', "maxTrials=null"]
    found = cloned(manifest, [*changes, "note=a=b"])
    assert found["spec"] == {
        "sampler": {"options": {"seed": 3}},
        "parameters": [{"name": "x"}, {"name": "y"}],
        "note": "a=b",
    }
    assert found["metadata"] == {"namespace": None}
    assert manifest["spec"]["maxTrials"] == 5
    for change in ("maxTrials", "a..b=1", "parameters[7].name=1", "parameters[x]=1", "maxTrials.x=1"):
        with pytest.raises(ClientError, match="--set"):
            cloned(manifest, [change])


def test_logs_are_those_of_the_latest_jobs_pods():
    def pod(name: str, job: str, at: int, index: str | None = None) -> dict[str, Any]:
        annotations = {"batch.kubernetes.io/job-completion-index": index} if index else {}
        labels = {"batch.kubernetes.io/job-name": job}
        return {"metadata": {"name": name, "creationTimestamp": f"t{at}", "labels": labels, "annotations": annotations}}

    pods = [pod("a", "x-1", 1), pod("b", "x-1-r1", 2, "1"), pod("c", "x-1-r1", 2, "0"), pod("d", "x-1-r1", 3, "1")]
    assert [one["metadata"]["name"] for one in latest(pods)] == ["c", "d"]
    assert latest([]) == []


def test_a_service_account_is_bound_as_one():
    (subject,) = role_binding("team", "view", "system:serviceaccount:ci:bot")["subjects"]
    assert subject == {"kind": "ServiceAccount", "namespace": "ci", "name": "bot"}

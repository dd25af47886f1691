"""What users ask of a trial through the API server: the wish is noted, refused in words, and a right of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from aggregated import BASE, Aggregated, StudyRows, aggregated
from kubectl_cli import Kubectl
from optuna.trial import TrialState
from waiting import wait_until


@pytest.fixture(scope="module")
def api(own_services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aggregated]:
    with aggregated(own_services, tmp_path_factory.mktemp("api")) as opened:
        yield opened


@pytest.fixture
def study(api: Aggregated) -> StudyRows:
    """A study whose trial 0 runs, and trial 1 has ended."""
    made = api.study(api.namespace())
    made.add(state=TrialState.RUNNING, lr=0.5)
    made.add(0.5, lr=0.25)
    api.database.query(
        "INSERT INTO trial_system_attributes (trial_id, key, value_json)"
        " SELECT trial_id, 'study_operator:job', '\"digits-0\"' FROM trials WHERE study_id = %s AND number = 0",
        made.study_id,
    )
    return made


def path(study: StudyRows, name: str = "digits-0") -> str:
    return f"{BASE}/namespaces/{study.namespace}/studytrials/{name}/stop"


def stop(kubectl: Kubectl, study: StudyRows, body: str = "{}", name: str = "digits-0") -> Any:
    """The answer to a wish."""
    return json.loads(kubectl.ok("create", "--raw", path(study, name), "-f", "-", stdin=body))


def refusal(kubectl: Kubectl, study: StudyRows, body: str = "{}", name: str = "digits-0") -> str:
    return kubectl.refused("create", "--raw", path(study, name), "-f", "-", stdin=body)


def wishes(study: StudyRows) -> list[tuple]:
    return study.api.database.query(
        "SELECT content, wished_by FROM study_operator.wishes WHERE study_id = %s", study.study_id
    )


def grant(study: StudyRows, user: str, role: str) -> Kubectl:
    """kubectl as a user who has a ClusterRole in the study's namespace."""
    kubectl = study.api.kubectl
    args = ("create", "rolebinding", user, "-n", study.namespace, f"--clusterrole={role}", f"--user={user}")
    kubectl.ok(*args)
    granted = study.api.user(user)
    right = ("list", "studytrials") if role.endswith("view") else ("create", "studytrials", "--subresource=stop")
    wait_until(lambda: granted.run("auth", "can-i", *right, "-n", study.namespace).stdout.strip() == "yes")
    return granted


def test_a_wish_is_noted_with_the_users_name_and_answered_alike_each_time(api, study):
    jane = grant(study, "jane", "study-operator-trials-edit")
    told = stop(jane, study, '{"as": "Failed"}')
    assert {key: told[key] for key in ("kind", "as", "by")} == {"kind": "StudyTrialStop", "as": "Failed", "by": "jane"}
    assert told["metadata"]["name"] == "digits-0"
    assert "resourceVersion" not in told["metadata"]
    whole = json.dumps({"apiVersion": "results.study-operator.io/v1alpha1", "kind": "StudyTrialStop", "as": "Failed"})
    assert stop(api.kubectl, study, whole) == told, "who was first"
    assert wishes(study) == [({"as": "FAIL"}, "jane")]
    assert "jane has asked already to stop it, as Failed" in refusal(api.kubectl, study, '{"as": "Pruned"}')


def test_it_is_pruned_unless_the_user_says_otherwise(api, study):
    assert stop(api.kubectl, study, "")["as"] == "Pruned"
    assert [content for content, _ in wishes(study)] == [{"as": "PRUNED"}]


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("digits-1", "{}", "it has ended already, and is COMPLETE"),
        ("digits-9", "{}", '"digits-9" not found'),
        ("nothing-0", "{}", '"nothing-0" not found'),
        ("digits-0", '{"as": "Complete"}', 'as is "Complete": write Pruned or Failed'),
        ("digits-0", '{"as": ["Pruned"]}', 'as is ["Pruned"]: write Pruned or Failed'),
        ("digits-0", '{"as": {}}', "as is {}: write Pruned or Failed"),
        ("digits-0", '{"how": "Pruned"}', 'StudyTrialStop has no field "how": write as'),
        ("digits-0", '{"kind": "Study"}', 'kind is "Study": write StudyTrialStop, or leave it out'),
        ("digits-0", "[]", "the body is no JSON object"),
        ("digits-0", "as: Pruned", "the body is no JSON"),
        ("digits-0", "[" * 60_000, "the body is no JSON"),
        ("digits-0", json.dumps({"as": "x" * 70_000}), "the body of a request has at most 65536 bytes here"),
    ],
)
def test_what_cannot_be_is_refused_in_words_and_nothing_is_noted(api, study, name, body, words):
    assert words in refusal(api.kubectl, study, body, name)
    assert wishes(study) == []


def test_of_a_deleted_study_nothing_is_stopped(api, study):
    study.forget()
    assert '"digits-0" not found' in refusal(api.kubectl, study)
    assert "its Study was deleted" in refusal(api.kubectl, study, name=f"digits-0-{study.uid[:8]}")


def test_nothing_is_only_tried(api, study):
    refused = api.kubectl.refused("create", "--raw", f"{path(study)}?dryRun=All", "-f", "-", stdin="{}")
    assert "dryRun is not offered here" in refused
    assert wishes(study) == []


def test_to_read_trials_gives_no_right_to_stop_one(api, study):
    joe = grant(study, "joe", "study-operator-trials-view")
    joe.ok("get", "stt", "-n", study.namespace)
    assert 'cannot create resource "studytrials/stop"' in refusal(joe, study)
    right = ("auth", "can-i", "create", "studytrials", "--subresource=stop")
    assert joe.run(*right, "-n", study.namespace).stdout.strip() == "no"
    jane = grant(study, "jane", "study-operator-trials-edit")
    assert jane.run(*right, "-n", api.namespace()).stdout.strip() == "no", "in another namespace"
    assert wishes(study) == []


def test_kubectl_explains_it(api):
    assert "Pruned, with its last report" in api.kubectl.ok("get", "--raw", f"/openapi/v3{BASE}")
    found = {one["name"]: one for one in api.get("")["resources"]}
    assert found["studytrials/stop"]["verbs"] == ["create"]


def purge(study: StudyRows, name: str) -> tuple[str, ...]:
    return ("create", "--raw", f"{BASE}/namespaces/{study.namespace}/studytrialsets/{name}/purge", "-f", "-")


def test_what_a_deleted_study_has_left_is_purged(api, study):
    assert "its Study has not been deleted" in api.kubectl.refused(*purge(study, "digits"), stdin="{}")
    study.forget()
    left = f"digits-{study.uid[:8]}"
    joe = grant(study, "joe", "study-operator-trials-view")
    assert 'cannot create resource "studytrialsets/purge"' in joe.refused(*purge(study, left), stdin="{}")
    assert '"digits" not found' in api.kubectl.refused(*purge(study, "digits"), stdin="{}")
    jane = grant(study, "jane", "study-operator-trials-edit")
    told = json.loads(jane.ok(*purge(study, left), stdin="{}"))
    assert (told["kind"], told["by"], told["metadata"]["name"]) == ("StudyTrialSetPurge", "jane", left)
    studies = api.database.studies(api.cluster_id)
    (known,) = studies.known((study.namespace, "digits"))
    assert (known.uid, known.purged_by) == (study.uid, "jane")
    studies.forget(known)
    assert f'"{left}" not found' in jane.refused(*purge(study, left), stdin="{}")

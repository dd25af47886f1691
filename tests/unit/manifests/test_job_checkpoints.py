"""Checkpoints: the claim of a trial, how it gets into its pod, and whose claims are deleted."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from building import COMPLETE, PRUNED, RUNNING, UID, WAITING, job_template, rows_of, study, trial_row
from hypothesis import given
from hypothesis import strategies as st

from study_operator.manifests.checkpoints import claim, claims_to_delete
from study_operator.manifests.job import Reporting, job_manifest
from study_operator.manifests.volumes import TRIAL_IMAGE_ID
from study_operator.model.study import Refused, owner_reference

SPEC = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
TEMPLATE = {"claimTemplate": {"spec": SPEC}}
EXISTING = {"claimName": "shared"}


def pod_of(checkpoints=None, template=None, number=31, **fields):
    of = study(
        jobTemplate=template or job_template(), **({"checkpoints": checkpoints} if checkpoints else {}), **fields
    )
    return job_manifest(of, Reporting("postgresql://x", "key"), number, 1031, {"lr": 0.1})["spec"]["template"]["spec"]


def environment(container):
    return {variable["name"]: variable.get("value") for variable in container["env"]}


def test_a_trial_has_a_claim_of_its_own():
    labels = {"team": "a", "study-operator.io/trial": "mine"}
    template = {"metadata": {"labels": labels, "annotations": {"note": "x"}}, "spec": SPEC}
    of = study(checkpoints={"claimTemplate": template})
    before = copy.deepcopy(template)
    assert claim(of, 31) == {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": "digits-31",
            "namespace": "team-a",
            "labels": {"team": "a", "study-operator.io/study": "digits", "study-operator.io/trial": "31"},
            "annotations": {"note": "x"},
            "ownerReferences": [owner_reference(of)],
        },
        "spec": SPEC,
    }
    assert template == before


@pytest.mark.parametrize("fields", [{}, {"checkpoints": EXISTING}])
def test_no_claim_is_made_where_none_is_wanted(fields):
    assert claim(study(**fields), 31) is None


def test_the_claim_is_in_every_container():
    template = job_template()
    template["spec"]["template"]["spec"]["initContainers"] = [{"name": "fetch", "image": "fetch:1"}]
    pod = pod_of({**TEMPLATE, "mountPath": "/save"}, template)
    assert pod["volumes"] == [{"name": "study-checkpoints", "persistentVolumeClaim": {"claimName": "digits-31"}}]
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["volumeMounts"] == [{"name": "study-checkpoints", "mountPath": "/save"}]
        assert environment(container)["STUDY_CHECKPOINT_DIR"] == "/save"


def test_a_trial_has_the_same_claim_in_each_of_its_jobs():
    of = study(checkpoints=TEMPLATE)
    reporting = Reporting("postgresql://x", "key")
    jobs = [job_manifest(of, reporting, 31, 1031, {"lr": 0.1}, name=of.job_name(31, attempt)) for attempt in range(2)]
    first, second = (made["spec"]["template"]["spec"]["volumes"] for made in jobs)
    assert first == second


def test_trials_share_an_existing_claim_each_in_a_directory_of_its_own():
    pod = pod_of(EXISTING)
    assert pod["volumes"] == [{"name": "study-checkpoints", "persistentVolumeClaim": {"claimName": "shared"}}]
    mount = {"name": "study-checkpoints", "mountPath": "/checkpoints", "subPath": f"digits-{UID[:8]}/31"}
    assert pod["containers"][0]["volumeMounts"] == [mount]
    assert environment(pod["containers"][0])["STUDY_CHECKPOINT_DIR"] == "/checkpoints"


def test_without_checkpoints_there_is_nothing_of_them():
    pod = pod_of()
    assert "volumes" not in pod
    assert "securityContext" not in pod
    assert "STUDY_CHECKPOINT_DIR" not in environment(pod["containers"][0])


@pytest.mark.parametrize(
    ("checkpoints", "given", "security"),
    [
        (TEMPLATE, None, {"fsGroup": 65532, "fsGroupChangePolicy": "OnRootMismatch"}),
        (TEMPLATE, {"runAsUser": 7}, {"runAsUser": 7, "fsGroup": 65532, "fsGroupChangePolicy": "OnRootMismatch"}),
        (TEMPLATE, {"fsGroupChangePolicy": "Always"}, {"fsGroup": 65532, "fsGroupChangePolicy": "Always"}),
        (TEMPLATE, {"fsGroup": 7}, {"fsGroup": 7}),
        (TEMPLATE, {"fsGroup": None}, {"fsGroup": None}),
        (EXISTING, {"runAsUser": 7}, {"runAsUser": 7}),
    ],
)
def test_a_new_volume_can_be_written_by_whoever_the_program_runs_as(checkpoints, given, security):
    template = job_template()
    if given:
        template["spec"]["template"]["spec"]["securityContext"] = given
    assert pod_of(checkpoints, template)["securityContext"] == security


@pytest.mark.parametrize(
    ("mounts", "volumes", "words"),
    [
        ([{"name": "data", "mountPath": "/checkpoints"}], [], "container 'trial' of the jobTemplate mounts 'data'"),
        ([{"name": "data", "mountPath": "/checkpoints/"}], [], "choose another path for one of them"),
        ([], [{"name": "study-checkpoints", "emptyDir": {}}], "and so has spec.checkpoints: rename it"),
    ],
)
def test_a_template_that_has_something_else_there_is_refused(mounts, volumes, words):
    template = job_template(volumeMounts=mounts)
    template["spec"]["template"]["spec"]["volumes"] = volumes
    with pytest.raises(Refused, match=words) as refused:
        pod_of(TEMPLATE, template)
    assert refused.value.reason == "JobTemplateInvalid"


@pytest.mark.parametrize("path", ["/checkpoint", "/checkpoints/more", "/", "relative", 7])
def test_what_is_mounted_elsewhere_does_not_matter(path):
    template = job_template(volumeMounts=[{"name": "data", "mountPath": path}])
    assert len(pod_of(TEMPLATE, template)["containers"][0]["volumeMounts"]) == 2


ROWS = rows_of(
    trial_row(0, COMPLETE), trial_row(1), trial_row(2, PRUNED), trial_row(3, WAITING), trial_row(4, COMPLETE)
)


@pytest.mark.parametrize(
    ("keep", "best", "deleted"),
    [("All", [], []), ("None", [0], [0, 2, 9]), ("Best", [0], [2, 9]), ("Best", [0, 9], [2]), ("Best", [], [0, 2, 9])],
)
def test_claims_that_are_not_kept(keep, best, deleted):
    of = study(checkpoints={**TEMPLATE, "keep": keep})
    assert claims_to_delete(of, [0, 1, 2, 3, 4, 9], ROWS, active=[4], best=best) == deleted


@pytest.mark.parametrize("fields", [{}, {"checkpoints": EXISTING}])
def test_claims_that_were_not_made_are_not_deleted(fields):
    assert claims_to_delete(study(**fields), [0, 9], ROWS, [], []) == []


@given(
    st.sets(st.integers(0, 20)),
    st.dictionaries(st.integers(0, 20), st.sampled_from([RUNNING, WAITING, COMPLETE, PRUNED])),
    st.sets(st.integers(0, 20)),
    st.sets(st.integers(0, 20)),
    st.sampled_from(["All", "Best", "None"]),
)
def test_a_claim_in_use_is_never_deleted(claims, states, active, best, keep):
    rows = rows_of(*(trial_row(number, state) for number, state in states.items()))
    deleted = set(claims_to_delete(study(checkpoints={**TEMPLATE, "keep": keep}), claims, rows, active, best))
    assert deleted <= claims
    assert not deleted & active
    assert not any(states.get(number) in (RUNNING, WAITING) for number in deleted)
    if keep == "Best":
        assert not deleted & best


def test_the_trial_image_runs_as_the_user_that_manifests_name():
    dockerfile = (Path(__file__).resolve().parents[3] / "trial-image/Dockerfile").read_text()
    assert f"\nUSER {TRIAL_IMAGE_ID}:{TRIAL_IMAGE_ID}\n" in dockerfile

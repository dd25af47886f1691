"""Through the operator, a tenant gets at nothing that is not his: each way is tried on a real API server."""

from __future__ import annotations

import base64
import copy
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from world import MERGE, Manifest, World, container_status, job_template, params_of, study_manifest

from study_operator.kube.api_server import ApiError
from study_operator.kube.client import Cluster
from study_operator.manifests.job import secret_name
from study_operator.model.study import JOB_LABEL, STUDY_LABEL, TRIAL_ID_ANNOTATION, TRIAL_LABEL, parse

CLAIM = {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}}
PLURALS = ("pods", "secrets", "services", "persistentvolumeclaims", "serviceaccounts", "configmaps")
RBAC = "/apis/rbac.authorization.k8s.io/v1"


def path(namespace: str, plural: str, name: str = "") -> str:
    group = {"jobs": "/apis/batch/v1", "studies": "/apis/study-operator.io/v1alpha1"}.get(plural, "/api/v1")
    return f"{group}/namespaces/{namespace}/{plural}" + (f"/{name}" if name else "")


async def create(world: World, plural: str, name: str, **fields: Any) -> Manifest:
    """An object that somebody else has made."""
    meta = {"name": name, **fields.pop("metadata", {})}
    return await world.cluster._call("POST", path(world.namespace, plural), body={"metadata": meta, **fields})


async def objects(world: World, *plurals: str) -> dict[tuple[str, str], Any]:
    """All that is in the namespace, without what the server notes down itself."""
    found = {}
    for plural in plurals or ("jobs", *PLURALS):
        for item in (await world.cluster._call("GET", path(world.namespace, plural)))["items"]:
            item["metadata"].pop("managedFields", None)
            found[plural, item["metadata"]["name"]] = item
    return found


def owner(of: Manifest, kind: str = "Study") -> dict[str, Any]:
    """A forged owner reference: anybody who may create an object may write one."""
    group = "study-operator.io/v1alpha1" if kind == "Study" else "batch/v1"
    meta = of["metadata"]
    return {"apiVersion": group, "kind": kind, "name": meta["name"], "uid": meta["uid"], "controller": True}


def pod(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "main", "image": "theirs:1"}], **fields}}


def theirs(labels: dict[str, str] | None = None) -> dict[str, Any]:
    """The fields of somebody else's Job."""
    return {"metadata": {"labels": labels or {}}, "spec": {"template": pod(restartPolicy="Never")}}


# Names: of Jobs, claims, Secrets and Services


async def test_jobs_that_have_the_names_of_trials(world):
    """A plain one, one with all labels and annotations of a trial, and the name of the dry run."""
    labels = {STUDY_LABEL: "study", TRIAL_LABEL: "0"}
    await create(world, "jobs", "study-0", **theirs())
    forged = theirs(labels)
    forged["metadata"]["annotations"] = {TRIAL_ID_ANNOTATION: "1"}
    await create(world, "jobs", "study-1", **forged)
    await create(world, "jobs", "study-dry-run", **theirs())
    before = await objects(world)
    await world.apply(parallelism=2)
    await world.settle(most=3)
    assert (await world.condition("Accepted"))["status"] == "True"
    progressing = await world.condition("Progressing")
    assert progressing["reason"] == "TrialsCannotStart"
    assert "that is not this trial's exists" in progressing["message"]
    now = await objects(world)
    assert {key: now.get(key) for key in before} == before
    await world.delete_study()
    await world.look()
    assert await objects(world, "jobs") == {key: item for key, item in before.items() if key[0] == "jobs"}


async def test_jobs_of_another_study_whose_name_goes_on_where_ones_own_ends(world):
    """`a` has a Job a-1, and the Study a-1 has a Job a-1-0: each has its own, to the end."""
    await world.apply("a", parallelism=2, maxTrials=3)
    await world.apply("a-1", parallelism=2, maxTrials=3)
    for name in ("a", "a-1"):
        await world.run_trials(float, name)
    for name in ("a", "a-1"):
        study = await world.study(name)
        jobs = await world.jobs(name)
        assert sorted(job["metadata"]["name"] for job in jobs) == [f"{name}-{number}" for number in range(3)]
        assert {job["metadata"]["ownerReferences"][0]["uid"] for job in jobs} == {study["metadata"]["uid"]}
        assert study["status"]["trials"]["complete"] == 3


async def test_claims_that_have_the_names_or_labels_of_a_trials(world):
    """One with a trial's name, one with its labels, and one that says even that the Study owns it."""
    labels = {STUDY_LABEL: "study", TRIAL_LABEL: "1"}
    await create(world, "persistentvolumeclaims", "study-0", **CLAIM)
    await create(world, "persistentvolumeclaims", "labelled", metadata={"labels": labels}, **CLAIM)
    study = await world.apply(parallelism=1, maxTrials=2, checkpoints={"claimTemplate": CLAIM, "keep": "None"})
    meta = {"labels": labels, "ownerReferences": [owner(study)]}
    await create(world, "persistentvolumeclaims", "precious", metadata=meta, **CLAIM)
    before = await objects(world, "persistentvolumeclaims")
    await world.settle(most=3)
    assert "PersistentVolumeClaim study-0 that is not this trial's" in (await world.condition("Progressing"))["message"]
    assert await objects(world, "persistentvolumeclaims") == before
    await world.cluster._call("DELETE", path(world.namespace, "persistentvolumeclaims", "study-0"))
    patch = {"metadata": {"finalizers": None}}
    claim = path(world.namespace, "persistentvolumeclaims", "study-0")
    await world.cluster._call("PATCH", claim, body=patch, content=MERGE)
    await world.run_trials(float)
    now = await objects(world, "persistentvolumeclaims")
    assert "deletionTimestamp" in now["persistentvolumeclaims", "study-0"]["metadata"], "the trial's own"
    for name in ("labelled", "precious"):
        assert now["persistentvolumeclaims", name] == before["persistentvolumeclaims", name]


async def test_secrets_that_have_names_like_the_studys(world):
    """Its own name is made of the Study's UID, which nobody can know before. All others are left as they are."""
    for name in ("study", "study-storage", "study-storage-00000000", "study-0", "other-storage-00000000"):
        labels = {STUDY_LABEL: "study"}
        await create(world, "secrets", name, metadata={"labels": labels}, stringData={"url": "theirs", "key": "theirs"})
    before = await objects(world, "secrets")
    await world.apply(parallelism=1, maxTrials=1)
    await world.run_trials(float)
    await world.delete_study()
    await world.look()
    now = await objects(world, "secrets")
    assert {key: now.get(key) for key in before} == before
    assert len(now) == len(before) + 1, "the study's own, which Kubernetes collects"


async def test_a_secret_that_has_the_name_of_the_studys(world):
    """Its name is made of the Study's UID, which nobody can choose or know before: no Secret of others has it. Whoever
    makes one of that name afterwards, before the operator does, has it written over. Others are left as they are."""
    await create(world, "secrets", "study-storage-00000000", stringData={"url": "theirs"})
    study = await world.apply()
    name = secret_name(parse(study))
    await create(world, "secrets", name, stringData={"url": "theirs", "more": "theirs"})
    before = await objects(world, "secrets")
    await world.settle()
    after = await objects(world, "secrets")
    written = after.pop(("secrets", name))
    assert after == {key: value for key, value in before.items() if key[1] != name}
    assert written["metadata"]["ownerReferences"][0]["uid"] == study["metadata"]["uid"]
    assert base64.b64decode(written["data"]["key"]).decode() == world.reporting(study).key


async def test_a_service_of_others_that_has_the_name_of_the_subdomain(world):
    ports = [{"port": 80}]
    await create(world, "services", "database", spec={"selector": {"app": "database"}, "ports": ports})
    before = await objects(world, "services")
    template = job_template()
    template["spec"]["template"]["spec"]["subdomain"] = "database"
    await world.apply("one", jobTemplate=template, maxTrials=1, parallelism=1)
    await world.run_trials(float, "one")
    assert await objects(world, "services") == before
    await world.delete_study("one")
    await world.look("one")
    await world.collect_garbage()
    assert await objects(world, "services") == before


# Labels, annotations and metadata


async def test_a_template_cannot_speak_for_another_study_or_trial_or_namespace(world):
    """Whatever the template's metadata says, the Job is that trial's, in the Study's namespace, and the Study's own."""
    other = await world.apply("other")
    stolen = {STUDY_LABEL: "other", TRIAL_LABEL: "7", "team": "b"}
    noted = {TRIAL_ID_ANNOTATION: "1", "study-operator.io/generation": "99", "note": "b"}
    metadata = {
        "name": "theirs",
        "namespace": "kube-system",
        "labels": stolen,
        "annotations": noted,
        "finalizers": ["example.com/never"],
        "ownerReferences": [owner(other)],
    }
    template = job_template()
    template["metadata"] = metadata
    template["spec"]["template"]["metadata"] = {"labels": stolen, "annotations": noted, "namespace": "kube-system"}
    claim = {**CLAIM, "metadata": {"labels": stolen, "annotations": noted, "namespace": "kube-system"}}
    kept = {"labels", "annotations"}  # what the schema lets through
    for part in (template["metadata"], claim["metadata"]):
        for field in set(part) - kept:
            try:
                body = study_manifest(
                    "tried", world.namespace, jobTemplate=template, checkpoints={"claimTemplate": claim}
                )
                await world.cluster._call("POST", path(world.namespace, "studies"), {"dryRun": "All"}, body)
            except ApiError:
                del part[field]
    study = await world.apply(jobTemplate=template, checkpoints={"claimTemplate": claim}, parallelism=1)
    await world.settle()
    job = await world.job(0)
    found = await objects(world, "persistentvolumeclaims")
    for item in (job, found["persistentvolumeclaims", "study-0"]):
        meta = item["metadata"]
        assert (meta["name"], meta["namespace"]) == ("study-0", world.namespace)
        assert meta["ownerReferences"] == [owner(study)]
        assert "example.com/never" not in meta.get("finalizers", ())
        assert {STUDY_LABEL: "study", TRIAL_LABEL: "0", "team": "b"}.items() <= meta["labels"].items()
    assert job["metadata"]["annotations"][TRIAL_ID_ANNOTATION] == str((await world.pod(0)).trial_id)
    assert job["metadata"]["annotations"]["study-operator.io/generation"] == "1"
    pods = job["spec"]["template"]["metadata"]
    assert {STUDY_LABEL: "study", TRIAL_LABEL: "0"}.items() <= pods["labels"].items()
    elsewhere = await world.cluster._call("GET", path("kube-system", "jobs"))
    assert [item for item in elsewhere["items"] if item["metadata"]["name"] in ("study-0", "theirs")] == []


# Pods


async def test_pods_with_forged_labels_are_neither_deleted_nor_believed(world):
    """They carry all labels of a trial's pods. Of one even the owner is forged: it names another Job of that trial."""
    await world.apply(parallelism=2, maxTrials=2, infrastructureRetries=5)
    await world.settle()
    job = await world.job(0)
    labels = dict(job["spec"]["template"]["metadata"]["labels"])
    await world.end_pod(0, "Error", 3)  # before the others: the latest pod would have the first word
    for name, references in (("forged", []), ("another", [{**owner(job, "Job"), "uid": str(uuid.uuid4())}])):
        await create(world, "pods", name, metadata={"labels": labels, "ownerReferences": references}, **pod())
        lost = {"type": "DisruptionTarget", "status": "True", "reason": "Forged", "message": "forged"}
        ended = {"exitCode": 1, "reason": "Forged", "message": "forged", "startedAt": None, "finishedAt": None}
        status = {"phase": "Failed", "conditions": [lost], "reason": "Evicted"}
        await world.set_pod_status(name, {**status, "containerStatuses": [container_status({"terminated": ended})]})
    await world.end_job(0, "BackoffLimitExceeded")
    await world.settle()
    status = (await world.study())["status"]
    (failure,) = status["recentFailures"]
    assert (failure["class"], failure["reason"], failure["exitCode"]) == ("Program", "Error", 3)
    await world.operators_cluster.delete_pods(world.namespace, f"{STUDY_LABEL}=study", job["metadata"]["uid"], 0)
    left = {name for _, name in await objects(world, "pods")}
    assert {"forged", "another"} <= left


async def test_pending_pods_with_forged_labels_say_nothing_about_a_study(world):
    """One has the study's label alone; one has all of them, and words that are not the scheduler's."""
    await world.apply(parallelism=1)
    await world.settle()
    await world.begin_job(0)
    labels = dict((await world.job(0))["spec"]["template"]["metadata"]["labels"])
    waits = {"type": "PodScheduled", "status": "False", "reason": "Forged", "message": "forged"}
    for name, given in (("few", {STUDY_LABEL: "study"}), ("all", {**labels, JOB_LABEL: labels[JOB_LABEL]})):
        await create(world, "pods", name, metadata={"labels": given}, **pod())
        await world.set_pod_status(name, {"phase": "Pending", "conditions": [waits]})
    world.ahead = timedelta(seconds=60)
    await world.settle()
    assert "orged" not in (await world.condition("Progressing"))["message"]


# Other namespaces, and rights


@asynccontextmanager
async def somebody(world: World, *rules: dict[str, Any]) -> AsyncIterator[Cluster]:
    """A person who has these rights in the world's namespace, and none elsewhere."""
    name = f"user-{uuid.uuid4().hex[:8]}"
    roles = f"{RBAC}/namespaces/{world.namespace}"
    await world.cluster._call("POST", f"{roles}/roles", body={"metadata": {"name": name}, "rules": list(rules)})
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
    }
    await world.cluster._call("POST", f"{roles}/rolebindings", body=binding)
    person = Cluster(copy.copy(world.cluster.configuration))
    person._client.set_default_header("Impersonate-User", name)
    try:
        yield person
    finally:
        await person.close()


STUDIES = {"apiGroups": ["study-operator.io"], "resources": ["studies"], "verbs": ["create", "get", "patch", "delete"]}


async def refusal(person: Cluster, method: str, where: str, body: Manifest | None = None) -> int:
    content = MERGE if method == "PATCH" else "application/json"
    with pytest.raises(ApiError) as refused:
        await person._call(method, where, body=body, content=content)
    return refused.value.status


async def test_who_may_create_studies_may_create_pods_with_all_that_is_in_the_namespace_and_nothing_elsewhere(world):
    """docs/security.md says so. With the right to Studies alone, a person can use Secrets and ServiceAccounts of the
    namespace through us, and create Jobs, a Secret, claims and a Service. In other namespaces there is nothing."""
    await create(world, "secrets", "theirs", stringData={"token": "t"})
    await create(world, "serviceaccounts", "builder")
    here = world.namespace
    env = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "theirs", "key": "token"}}}]
    template = job_template(env=env)
    template["spec"]["template"]["spec"] |= {"serviceAccountName": "builder", "subdomain": "mine"}
    async with somebody(world, STUDIES) as person:
        for plural in ("jobs", *PLURALS):
            assert await refusal(person, "POST", path(here, plural), {"metadata": {"name": "x"}}) == 403
            assert await refusal(person, "GET", path(here, plural)) == 403
        for elsewhere in ("default", "kube-system"):
            assert await refusal(person, "POST", path(elsewhere, "studies"), study_manifest("x", elsewhere)) == 403
        checkpoints = {"claimTemplate": CLAIM}
        manifest = study_manifest("study", here, jobTemplate=template, checkpoints=checkpoints, parallelism=1)
        await person._call("POST", path(here, "studies"), body=manifest)
        forged = {"status": {"phase": "Succeeded"}}
        assert await refusal(person, "PATCH", path(here, "studies", "study") + "/status", forged) == 403
    await world.settle()
    spec = (await world.job(0))["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == "builder"
    assert env[0] in spec["containers"][0]["env"]
    made = {key for key in await objects(world) if key[1] not in ("theirs", "builder", "default", "kube-root-ca.crt")}
    secret = next(name for plural, name in made if plural == "secrets")
    assert secret.startswith("study-storage-")
    assert made == {
        ("jobs", "study-0"),
        ("secrets", secret),
        ("services", "mine"),
        ("persistentvolumeclaims", "study-0"),
    }


async def test_pod_security_judges_the_pods_of_trials_as_all_others(world):
    """The Job is not refused, as nobody's is: the namespace's level holds for pods, whoever has made them."""
    label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    await world.cluster._call("PATCH", f"/api/v1/namespaces/{world.namespace}", body=label, content=MERGE)
    await create(world, "serviceaccounts", "default")
    template = job_template(securityContext={"privileged": True})
    template["spec"]["template"]["spec"] |= {
        "hostNetwork": True,
        "volumes": [{"name": "host", "hostPath": {"path": "/"}}],
    }
    await world.apply(jobTemplate=template, parallelism=1)
    await world.settle()
    with pytest.raises(ApiError) as refused:  # as the Job controller does
        await world.start_pod(0, {"phase": "Pending"})
    assert refused.value.status == 403
    for word in ("violates PodSecurity", "hostNetwork", "hostPath", "privileged"):
        assert word in refused.value.message


async def test_a_quota_of_the_namespace_holds_for_the_jobs_that_the_operator_creates(world):
    hard = {"count/jobs.batch": "1"}
    quota = await create(world, "resourcequotas", "few", spec={"hard": hard})
    where = path(world.namespace, "resourcequotas", quota["metadata"]["name"]) + "/status"
    status = {"status": {"hard": hard, "used": {"count/jobs.batch": "0"}}}  # as the quota controller does
    await world.cluster._call("PATCH", where, body=status, content=MERGE)
    await world.apply(parallelism=2)
    await world.settle(most=3)
    assert len(await world.jobs()) == 1
    message = (await world.condition("Progressing"))["message"]
    assert "could not be created" in message
    assert "exceeded quota: few" in message


async def test_no_study_begins_with_trials_of_another_namespace(world, kubeconfig_of_studies):
    other = await World.create(kubeconfig_of_studies, world.database)
    try:
        await other.apply("secret", maxTrials=2)
        await other.run_trials(float, "secret")
        name = (await other.study("secret"))["status"]["studyName"]
        await world.apply(warmStart={"studies": [name]})
        await world.look()
        condition = await world.condition("Accepted")
        assert (condition["status"], condition["reason"]) == ("False", "WarmStartRefused")
        there_is_none = condition["message"].replace(name, "NAME").split("; there")[0]
        await world.apply("second", warmStart={"studies": [f"{other.namespace}/nothing-00000000"]})
        await world.look("second")
        message = (await world.condition("Accepted", "second"))["message"]
        assert message.replace(f"{other.namespace}/nothing-00000000", "NAME").split("; there")[0] == there_is_none
        assert await world.jobs() == []
    finally:
        await other.leave()


async def test_two_namespaces_with_the_same_names_do_not_touch_each_other(world, kubeconfig_of_studies):
    """The same Study in two namespaces of one database, each with its reconciler: the best, the claims, the ends."""
    other = await World.create(kubeconfig_of_studies, world.database)
    try:
        for place in (world, other):
            checkpoints = {"claimTemplate": CLAIM, "keep": "Best"}
            await place.apply(parallelism=1, maxTrials=2, checkpoints=checkpoints)
        await world.run_trials(float)
        assert await other.jobs() == []
        await other.settle()
        assert params_of(await other.job(0)) != params_of((await world.jobs())[0])
        await world.delete_study()
        await world.look()
        await world.collect_garbage()
        assert await other.active() == [0]
        await other.run_trials(lambda number: -float(number))
        assert (await other.study())["status"]["bestTrial"]["number"] == 0
        claims = await objects(other, "persistentvolumeclaims")
        kept = [name for (_, name), item in claims.items() if "deletionTimestamp" not in item["metadata"]]
        assert kept == ["study-0"]
    finally:
        await other.leave()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statuses are written at once."""
    monkeypatch.setattr("study_operator.reconcile.publisher.STATUS_INTERVAL_SECONDS", 0.0)

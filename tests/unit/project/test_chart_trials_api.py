"""The chart's trials API: not there unless asked for, and what it consists of."""

from __future__ import annotations

import pytest
from chart import HelmError, one, render

from study_operator.settings import ApiSettings

ON = "trialsApi.enabled=true"
NAME = "study-operator-trials-api"
EXTERNAL = (
    "database.mode=external",
    "database.external.host=db.example.com",
    "database.external.existingSecret=database-login",
    "database.external.ca.secretName=database-ca",
)


@pytest.fixture(scope="module")
def objects() -> list[dict]:
    return render(ON)


def container(objects: list[dict]) -> dict:
    (found,) = one(objects, "Deployment", NAME)["spec"]["template"]["spec"]["containers"]
    return found


def test_nothing_of_it_is_there_unless_asked_for():
    """One value takes it away: while its APIService is there and nobody serves it, no namespace can be deleted."""
    text = str(render())
    assert "trials-api" not in text
    assert "results.study-operator.io" not in text


def test_the_api_server_checks_certificates_and_asks_this_group_last(objects):
    spec = one(objects, "APIService")["spec"]
    assert "insecureSkipTLSVerify" not in spec
    assert "caBundle" not in spec, "each replica adds its own"
    assert spec["groupPriorityMinimum"] <= 100, "`kubectl get studies` is the CRD's"
    service = one(objects, "Service", NAME)
    assert spec["service"] == {"namespace": "system", "name": NAME, "port": service["spec"]["ports"][0]["port"]}
    assert "publishNotReadyAddresses" not in service["spec"]


def test_two_replicas_of_which_one_always_answers(objects):
    spec = one(objects, "Deployment", NAME)["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    labels = spec["template"]["metadata"]["labels"]
    assert one(objects, "PodDisruptionBudget", NAME)["spec"] == {
        "maxUnavailable": 1,
        "selector": {"matchLabels": labels},
    }
    (term,) = spec["template"]["spec"]["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert term["podAffinityTerm"]["labelSelector"]["matchLabels"] == labels
    assert one(objects, "Service", NAME)["spec"]["selector"] == labels
    alone = render(ON, "trialsApi.replicas=1")
    assert not [found for found in alone if found["kind"] == "PodDisruptionBudget"]


def test_its_pods_are_restricted(objects):
    spec = one(objects, "Deployment", NAME)["spec"]["template"]["spec"]
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    found = container(objects)
    assert found["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert found["resources"]["limits"]["memory"]
    assert spec["serviceAccountName"] == NAME


@pytest.mark.parametrize("values", [(), EXTERNAL], ids=["embedded", "external"])
def test_it_gets_no_secret_but_the_readers_password(values):
    env = {variable["name"]: variable for variable in container(render(ON, *values))["env"]}
    assert [name for name in env if "valueFrom" in env[name]] == ["READER_PASSWORD"]
    texts = {name: variable.get("value", "a password") for name, variable in env.items()}
    settings = ApiSettings.from_environment(texts)
    assert settings.service == ("system", NAME)
    assert settings.port == container(render(ON, *values))["ports"][0]["containerPort"] == 10250


def test_its_rights(objects):
    """docs/security.md says of each what it is for."""
    rules = one(objects, "ClusterRole", NAME)["rules"]
    assert rules == [
        {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
        {
            "apiGroups": ["apiregistration.k8s.io"],
            "resources": ["apiservices"],
            "resourceNames": ["v1alpha1.results.study-operator.io"],
            "verbs": ["get", "patch"],
        },
        {"apiGroups": [""], "resources": ["namespaces"], "resourceNames": ["kube-system"], "verbs": ["get"]},
    ]
    binding = one(objects, "RoleBinding", NAME, "kube-system")
    assert binding["roleRef"]["name"] == "extension-apiserver-authentication-reader"
    account = [{"kind": "ServiceAccount", "name": NAME, "namespace": "system"}]
    assert binding["subjects"] == one(objects, "ClusterRoleBinding", NAME)["subjects"] == account
    assert "trials-api" not in str([o for o in render(ON, "rbac.create=false") if "Role" in o["kind"]])


def test_who_may_see_a_study_may_see_its_trials(objects):
    role = one(objects, "ClusterRole", "study-operator-trials-view")
    to = {label for label in role["metadata"]["labels"] if "aggregate-to" in label}
    assert {label.rpartition("-")[2] for label in to} == {"view", "edit", "admin"}
    (rule,) = role["rules"]
    assert rule["verbs"] == ["get", "list", "watch"]
    assert set(rule["resources"]) == {"studytrials", "studytrials/reports", "studytrialsets"}


def test_who_may_edit_a_study_may_act_on_its_trials(objects):
    role = one(objects, "ClusterRole", "study-operator-trials-edit")
    to = {label for label in role["metadata"]["labels"] if "aggregate-to" in label}
    assert {label.rpartition("-")[2] for label in to} == {"edit", "admin"}
    (rule,) = role["rules"]
    assert (rule["resources"], rule["verbs"]) == (["studytrials/stop", "studytrialsets/purge"], ["create"])


def test_a_certificate_of_ones_own():
    certificate = "trialsApi.certificate."
    own = render(ON, f"{certificate}secretName=serving", f"{certificate}injectCAFrom=system/serving")
    assert one(own, "APIService")["metadata"]["annotations"] == {"cert-manager.io/inject-ca-from": "system/serving"}
    env = {variable["name"]: variable.get("value") for variable in container(own)["env"]}
    mounts = {mount["mountPath"] for mount in container(own)["volumeMounts"]}
    assert env["API_CERTIFICATE_DIRECTORY"] in mounts
    assert "apiservices" not in str(one(own, "ClusterRole", NAME)["rules"])
    with pytest.raises(HelmError, match="only one of secretName and injectCAFrom"):
        render(ON, f"{certificate}secretName=serving")


def test_network_policies_let_it_reach_the_database_and_the_api_server_reach_it(objects):
    labels = one(objects, "Deployment", NAME)["spec"]["template"]["metadata"]["labels"]
    database = one(objects, "NetworkPolicy", "study-operator-database")["spec"]["ingress"][0]
    assert {"podSelector": {"matchLabels": labels}} in database["from"]
    policy = one(objects, "NetworkPolicy", NAME)["spec"]
    assert policy["ingress"][0] == {"ports": [{"protocol": "TCP", "port": "https"}]}
    without = render(ON, "networkPolicy.enabled=false")
    assert not [found for found in without if found["kind"] == "NetworkPolicy"]

"""The Helm chart against a real API server: what it accepts, what upgrades keep, what the operator may do."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart import CHART, REPOSITORY, HelmError, helm, one, pod_specs, program, render

# CRDs belong to the whole server, and other tests have installed this one.
NO_CRD = ("--set", "crds.install=false")
VERSION_0_2 = "96bc407"  # its commit


class Release:
    """A namespace for one release of the chart, in which Pod Security refuses what is not restricted."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self.kubeconfig = kubeconfig
        self.namespace = namespace
        # Its ClusterRoles are named after the release: a name of its own keeps out of other tests' way.
        self.fullname = f"{namespace}-study-operator"
        self.operator = f"deployment/{self.fullname}"
        self.keys = f"secret/{self.fullname}-generated"

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Standard output of a kubectl command that must succeed."""
        command = [program("kubectl"), f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}"]
        done = subprocess.run([*command, *arguments], input=stdin, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, what: str) -> dict[str, Any]:
        """An object of the namespace."""
        return json.loads(self.kubectl("get", what, "-o", "json"))

    def create_secret(self, name: str, **data: str) -> None:
        """Create the Secret, or replace its data; `_` in a key stands for `-`."""
        manifest = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name},
            "stringData": {key.replace("_", "-"): value for key, value in data.items()},
        }
        self.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def install(self, *values: str, chart: Path = CHART) -> str:
        """Install or upgrade the release with these `--set` values; returns what helm prints."""
        settings = [word for value in values for word in ("--set", value)]
        command = ["upgrade", "--install", self.namespace, str(chart), "--namespace", self.namespace]
        return helm(*command, *NO_CRD, *settings, kubeconfig=self.kubeconfig)

    def rollback(self, revision: int) -> None:
        """Roll the release back to a revision."""
        helm("rollback", self.namespace, str(revision), "--namespace", self.namespace, kubeconfig=self.kubeconfig)

    def uninstall(self) -> str:
        """Uninstall the release; returns what helm prints."""
        command = ("uninstall", self.namespace, "--namespace", self.namespace, "--ignore-not-found")
        return helm(*command, kubeconfig=self.kubeconfig)


@pytest.fixture(scope="module")
def kubeconfig(request: pytest.FixtureRequest) -> Path:
    """Of an API server without controllers."""
    return Path(os.environ.get("TEST_KUBECONFIG") or request.getfixturevalue("api_server").kubeconfig)


@pytest.fixture
def release(kubeconfig: Path) -> Iterator[Release]:
    namespace = f"chart-{uuid.uuid4().hex[:8]}"
    release = Release(kubeconfig, namespace)
    release.kubectl("create", "namespace", namespace)
    levels = [f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn")]
    release.kubectl("label", "namespace", namespace, *levels)
    # What a controller would make, which this server has none of.
    release.kubectl("create", "serviceaccount", "default")
    yield release
    release.uninstall()
    release.kubectl("delete", "namespace", namespace, "--wait=false")


def test_installs_and_tells_what_comes_next(release: Release) -> None:
    notes = release.install()
    assert f"helm test {release.namespace} -n {release.namespace}" in notes
    assert "THE DATABASE IS FOR EVALUATION ONLY" in notes
    # The second time nothing changes, so that no pod restarts.
    release.install()
    for workload in (release.operator, f"statefulset/{release.fullname}-database"):
        assert release.get(workload)["metadata"]["generation"] == 1


def test_passwords_survive_upgrade_and_uninstall(release: Release) -> None:
    release.install()
    generated = release.get(release.keys)["data"]
    release.install("operator.logLevel=debug")
    assert release.get(release.keys)["data"] == generated
    release.uninstall()
    release.install()
    assert release.get(release.keys)["data"] == generated


def test_a_rollback_brings_no_former_password_back(release: Release) -> None:
    release.install()
    release.kubectl("patch", release.keys, "--patch", json.dumps({"stringData": {"reporter-password": "changed"}}))
    changed = release.get(release.keys)["data"]
    release.install("operator.logLevel=debug")
    release.rollback(1)
    assert release.get(release.keys)["data"] == changed
    (level,) = [e["value"] for e in _environment(release) if e["name"] == "LOG_LEVEL"]
    assert level == "info", "it has been rolled back"


def _environment(release: Release) -> list[dict[str, Any]]:
    return release.get(release.operator)["spec"]["template"]["spec"]["containers"][0]["env"]


def test_an_upgrade_from_0_2_keeps_the_passwords_and_can_be_rolled_back(release: Release, tmp_path: Path) -> None:
    archive = subprocess.run(
        ["git", "archive", VERSION_0_2, "helm", "crds"], cwd=REPOSITORY, capture_output=True, check=True
    )
    subprocess.run(["tar", "-x", "-C", tmp_path], input=archive.stdout, check=True)
    former = f"secret/{release.fullname}-keys"
    release.install(chart=tmp_path / "helm/study-operator")
    generated = release.get(former)["data"]
    release.install()
    assert release.get(release.keys)["data"] == generated
    release.kubectl("patch", release.keys, "--patch", json.dumps({"stringData": {"reporter-password": "changed"}}))
    changed = release.get(release.keys)["data"]
    release.install("operator.logLevel=debug")
    release.rollback(1)
    assert release.get(former)["data"] == generated, "by which 0.2 works"
    release.install()
    assert release.get(release.keys)["data"] == changed


def test_a_key_that_the_generated_secret_lacks_is_named(release: Release) -> None:
    """It was generated by 0.2, which left out what an external database does not need."""
    release.create_secret(f"{release.fullname}-generated", study_key_seed="s" * 32)
    with pytest.raises(HelmError, match=r'has no key "reporter-password".*kubectl -n .* patch secret'):
        release.install()


@pytest.mark.parametrize("kind", ["configmap", "secret"])
def test_a_certificate_authority_that_lacks_its_key_is_refused(release: Release, kind: str) -> None:
    """It would keep the pod in Init:0/1, without a log."""
    release.create_secret("login", password="secret")
    generic = ("generic",) if kind == "secret" else ()
    release.kubectl("create", kind, *generic, "authority", "--from-literal=other.pem=x")
    source = "configMapName" if kind == "configmap" else "secretName"
    external = ["host=db", "existingSecret=login", f"ca.{source}=authority"]
    values = ("database.mode=external", *(f"database.external.{value}" for value in external))
    with pytest.raises(HelmError, match=r'authority .database.external.ca. has no key "ca.crt"'):
        release.install(*values)
    release.install(*values, "database.external.ca.key=other.pem")


def test_passwords_survive_a_time_with_an_external_database(release: Release) -> None:
    release.install()
    generated = release.get(release.keys)["data"]
    release.create_secret("login", password="secret")
    external = ["host=db", "sslmode=require", "existingSecret=login"]
    notes = release.install("database.mode=external", *(f"database.external.{value}" for value in external))
    assert "EVALUATION" not in notes
    assert release.get(release.keys)["data"] == generated


def test_a_changed_secret_restarts_the_operator(release: Release) -> None:
    def checksum() -> str:
        return release.get(release.operator)["spec"]["template"]["metadata"]["annotations"]["checksum/secrets"]

    passwords = {"reporter_password": "one", "database_password": "two"}
    release.create_secret("own", study_key_seed="s" * 32, **passwords)
    release.install("secrets.existingSecret=own")
    before = checksum()
    release.install("secrets.existingSecret=own")
    assert checksum() == before
    release.create_secret("own", study_key_seed="t" * 32, **passwords)
    release.install("secrets.existingSecret=own")
    assert checksum() != before


def test_a_secret_that_lacks_a_key_is_refused(release: Release) -> None:
    release.create_secret("own", study_key_seed="s" * 32)
    needs = "it needs: study-key-seed, reporter-password, database-password"
    with pytest.raises(HelmError, match=f'has no key "reporter-password"; {needs}'):
        release.install("secrets.existingSecret=own")
    release.create_secret("login", password="secret")
    external = ["host=db", "sslmode=require", "existingSecret=login", "manageReporter=false"]
    with pytest.raises(HelmError, match='has no key "reporter-password": put the password there'):
        release.install("database.mode=external", *(f"database.external.{value}" for value in external))


def test_a_short_seed_would_not_be_generated(release: Release) -> None:
    release.install()
    assert len(base64.b64decode(release.get(release.keys)["data"]["study-key-seed"])) >= 32


def test_every_pod_is_admitted_where_only_restricted_ones_are(release: Release) -> None:
    specs = pod_specs(render())
    assert len(specs) == 4
    for number, spec in enumerate(specs.values()):
        spec["serviceAccountName"] = "default"
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        mounts = {mount["name"] for c in spec["containers"] for mount in c.get("volumeMounts", [])}
        # What a StatefulSet's controller adds to the pod.
        for name in mounts - volumes:
            spec.setdefault("volumes", []).append({"name": name, "persistentVolumeClaim": {"claimName": name}})
        spec["restartPolicy"] = "Never"
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{number}"}, "spec": spec}
        release.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))


def test_the_study_of_helm_test_is_accepted(release: Release) -> None:
    study = json.loads(one(render(), "ConfigMap", "study-operator-test")["data"]["study.json"])
    study["metadata"]["namespace"] = release.namespace
    crd = CHART / "files/study.yaml"
    release.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(crd))
    release.kubectl("wait", "--for=condition=Established", "--timeout=30s", f"-f{crd}")
    release.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(study))


class TestRights:
    """As the API server itself understands them."""

    def rules(self, release: Release, namespace: str) -> set[tuple[str, str, str]]:
        """(verb, resource.group, name) of all that the operator may do in the namespace."""
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": namespace},
        }
        account = f"--as=system:serviceaccount:{release.namespace}:{release.fullname}"
        answer = release.kubectl(
            "create", account, "--validate=false", "-f", "-", "-o", "json", stdin=json.dumps(review)
        )
        return {
            (verb, f"{resource}.{group}".rstrip("."), name)
            for rule in json.loads(answer)["status"]["resourceRules"]
            for verb in rule["verbs"]
            for resource in rule["resources"]
            for group in rule["apiGroups"]
            for name in rule.get("resourceNames", ["*"])
            # What every account may ask about itself.
            if group not in ("authorization.k8s.io", "authentication.k8s.io")
        }

    HERE = frozenset(
        (verb, resource, "*")
        for resource, verbs in {
            "studies.study-operator.io": "get list watch patch",
            "studies/status.study-operator.io": "patch",
            "jobs.batch": "get list watch create patch delete",
            "pods": "list delete",
            "pods/log": "get",
            "secrets": "create patch",
            "services": "get create",
            "persistentvolumeclaims": "list create delete",
            "events": "list create patch",
            "limitranges": "list",
        }.items()
        for verb in verbs.split()
    )
    ANYWHERE = frozenset({("get", "namespaces", "kube-system")})
    AT_HOME = frozenset({("list", "endpointslices.discovery.k8s.io", "*")})

    def test_everywhere(self, release: Release) -> None:
        release.install()
        assert self.rules(release, "default") == self.HERE | self.ANYWHERE
        assert self.rules(release, release.namespace) == self.HERE | self.ANYWHERE | self.AT_HOME

    def test_everywhere_with_a_selector_of_namespaces(self, release: Release) -> None:
        release.install("watchNamespaceSelector.matchLabels.studies=yes")
        namespaces = {(verb, "namespaces", "*") for verb in ("get", "list", "watch")}
        assert self.rules(release, "default") == self.HERE | self.ANYWHERE | namespaces

    def test_in_watched_namespaces_only(self, release: Release) -> None:
        release.install(f"watchNamespaces={{{release.namespace}}}")
        assert self.rules(release, release.namespace) == self.HERE | self.ANYWHERE | self.AT_HOME
        assert self.rules(release, "default") == self.ANYWHERE


@pytest.fixture(scope="module")
def schemas(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One JSON schema per kind, closed: a field that Kubernetes does not know is an error."""
    directory = tmp_path_factory.mktemp("schemas")
    text = Release(kubeconfig, "default").kubectl("get", "--raw", "/openapi/v2")
    definitions = json.loads(text)["definitions"]
    (directory / "_definitions.json").write_text(
        json.dumps({"definitions": {name: closed(schema) for name, schema in definitions.items()}})
    )
    for name, schema in definitions.items():
        for kind in schema.get("x-kubernetes-group-version-kind", []):
            group = kind["group"].split(".")[0]
            parts = [kind["kind"], *([group] if group else []), kind["version"]]
            reference = {"$ref": f"_definitions.json#/definitions/{name}"}
            (directory / f"{'-'.join(parts).lower()}.json").write_text(json.dumps(reference))
    return directory


class TestKubeconform:
    """kubeconform, with the schemas of this very API server instead of a downloaded copy."""

    @pytest.mark.parametrize(
        "values",
        [(), ("watchNamespaces={team-a}", "secrets.existingSecret=own", "operator.nodeSelector.disk=ssd")],
        ids=["default", "others"],
    )
    def test_is_content(self, schemas: Path, values: tuple[str, ...]) -> None:
        objects = render(*values)
        summary = self.check(schemas, objects)
        assert summary == {"valid": len(objects), "invalid": 0, "errors": 0, "skipped": 0}

    def test_would_find_a_misspelt_field(self, schemas: Path) -> None:
        objects = [one(render(), "Deployment")]
        objects[0]["spec"]["template"]["spec"]["containers"][0]["envs"] = []
        assert self.check(schemas, objects)["invalid"] == 1

    def check(self, schemas: Path, objects: list[dict]) -> dict[str, int]:
        location = f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
        command = [
            program("kubeconform"),
            "-strict",
            "-summary",
            "-output=json",
            "-schema-location",
            location,
        ]
        text = yaml.safe_dump_all(objects)
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=180)
        answer = json.loads(done.stdout)
        print(answer["resources"])
        return answer["summary"]


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI v2 schema as a JSON schema that refuses unknown fields."""
    if "$ref" in schema:
        return {"$ref": schema["$ref"].replace("#/definitions/", "_definitions.json#/definitions/")}
    result = dict(schema)
    # Quantities and IntOrStrings are said to be strings, but taken as numbers as well.
    if schema.get("format") == "int-or-string" or schema.get("description", "").startswith("Quantity is"):
        result.pop("format", None)
        result["type"] = ["string", "number"]
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            result[key] = closed(schema[key])
    if "properties" in schema:
        result["properties"] = {name: closed(field) for name, field in schema["properties"].items()}
        result.setdefault("additionalProperties", False)
    return result

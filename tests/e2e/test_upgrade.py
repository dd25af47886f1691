"""From earlier releases to this one, back and forth, with trials that run all the time. See docs/upgrade.md."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e import KEEP_JOBS, TRAIN, Cluster, eventually, kubectl
from operator_process import operator_away

pytestmark = pytest.mark.faults

ROOT = Path(__file__).resolve().parents[2]
COMMITS = {"0.1.0": "7169e8a", "0.2.0": "96bc407"}
CRD = "studies.study-operator.io"
RELEASE = "study-operator"
STEPS = 40
IMAGES = {
    "study-operator": "operator.image",
    "study-trial": "trialImage",
    "study-postgres": "database.embedded.image",
}


def checkout_of(version: str, directory: Path) -> Path:
    """An earlier release's files."""
    archive = subprocess.run(["git", "archive", COMMITS[version]], cwd=ROOT, capture_output=True)
    if archive.returncode != 0:
        pytest.skip(f"{version}, commit {COMMITS[version]}, is not in this checkout: `git fetch --unshallow`")
    subprocess.run(["tar", "-x"], input=archive.stdout, cwd=directory, check=True)
    return directory


@pytest.fixture
def as_before(cluster: Cluster) -> Iterator[None]:
    """The cluster's own operator is away, and finds its CRD again afterwards."""
    crd = json.loads(kubectl("get", "crd", CRD, "-o", "json"))
    with operator_away():
        try:
            yield
        finally:
            # The cluster's own operator would find no rows of it, and begin it anew.
            cluster.kubectl("delete", "studies", "--all")
            _helm("uninstall", RELEASE, "-n", cluster.namespace, "--ignore-not-found")
            _replace_crd(crd["spec"], crd["metadata"]["labels"], crd["metadata"]["annotations"])


def _helm(*arguments: str) -> None:
    done = subprocess.run(["helm", *arguments], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr


def _replace_crd(spec: dict[str, Any], labels: dict[str, str], annotations: dict[str, str]) -> None:
    found = json.loads(kubectl("get", "crd", CRD, "-o", "json"))
    meta = {"name": CRD, "labels": labels, "annotations": annotations}
    meta["resourceVersion"] = found["metadata"]["resourceVersion"]
    manifest = {"apiVersion": found["apiVersion"], "kind": found["kind"], "metadata": meta, "spec": spec}
    kubectl("replace", "-f", "-", stdin=json.dumps(manifest))


class Release:
    """An installation of its own, which serves one namespace and lives in it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._sql = cluster.sql

    def upgrade(self, checkout: Path, wait: bool = True) -> dict[str, str]:
        """Installs a version of the chart, or changes to it. Returns its images."""
        command = [sys.executable, str(checkout / "hack/local-cluster"), "images", *IMAGES]
        images = json.loads(subprocess.check_output(command, cwd=checkout).splitlines()[-1])
        values = ["--set", f"fullnameOverride={self.name},watchNamespaces={{{self._cluster.namespace}}}"]
        for name, key in IMAGES.items():
            repository, _, tag = images[name].rpartition(":")
            values += ["--set-string", f"{key}.repository={repository},{key}.tag={tag}"]
        chart = ["upgrade", "--install", RELEASE, str(checkout / "helm/study-operator"), "-n", self._cluster.namespace]
        _helm(*chart, *values, *(["--wait", "--timeout", "5m"] if wait else []))
        return images

    @property
    def name(self) -> str:
        return self._cluster.namespace

    def sql(self, statement: str) -> str:
        return self._sql(statement, self.name, self._cluster.namespace)

    def schema(self) -> int:
        return int(self.sql("SELECT max(version) FROM study_operator.schema_version"))

    def pods(self) -> list[dict[str, Any]]:
        label = "app.kubernetes.io/component=operator"
        return [p for p in self._cluster.get("pods", labels=label)["items"] if "deletionTimestamp" not in p["metadata"]]

    def refusals(self) -> str:
        """What operators that do not get beyond their first step say."""
        said = ""
        for pod in self.pods():
            for state in pod["status"].get("initContainerStatuses") or ():
                if state["restartCount"]:
                    said += self._cluster.kubectl("logs", pod["metadata"]["name"], "-c", "migrate")
        return said


def _ended(cluster: Cluster) -> int:
    return cluster.status("long").get("trials", {}).get("complete", 0)


def test_an_upgrade_and_a_rollback_under_a_running_study(
    cluster: Cluster, as_before: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    release = Release(cluster)
    before = _running_under("0.1.0", release, cluster, tmp_path, monkeypatch)
    assert release.schema() == 2
    _let_trials_end(cluster)
    image = release.upgrade(ROOT)["study-trial"]
    assert release.schema() == 3
    _go_on(cluster, image)
    new_spec = yaml.safe_load((ROOT / "crds/study.yaml").read_text())["spec"]
    stored = json.loads(kubectl("get", "crd", CRD, "-o", "json"))["spec"]
    assert (
        stored["versions"][0]["schema"]["openAPIV3Schema"].keys()
        == new_spec["versions"][0]["schema"]["openAPIV3Schema"].keys()
    )
    eventually(lambda: _ended(cluster) >= before + 4, "trials go on under this release", 240)
    eventually(lambda: cluster.status("long")["trials"]["running"] == 3, "the next three run")

    # Back: the operator of the release before says why it does not start, and touches nothing.
    _helm("rollback", RELEASE, "1", "-n", cluster.namespace)
    sentence = "newer than this operator's 2: a newer operator has run here. Install that version again"
    eventually(lambda: sentence in release.refusals(), "it refuses the database", 240)
    assert release.schema() == 3
    # Trials that run meanwhile report as if nothing were.
    eventually(lambda: _results(cluster) >= 3, "all that ran have stored their results", 120)

    # With the step of docs/upgrade.md it goes on where this one was.
    ended = _ended(cluster)
    release.sql("DELETE FROM study_operator.schema_version WHERE version > 2")
    eventually(lambda: _ended(cluster) >= ended + 4, "trials go on under the release before", 400)

    # And forward again, to the end.
    _helm("rollback", RELEASE, "2", "-n", cluster.namespace, "--wait", "--timeout", "5m")
    assert release.schema() == 3
    total = cluster.status("long")["trials"]["total"] + 3
    cluster.kubectl("patch", "study", "long", "--type=merge", "-p", json.dumps({"spec": {"maxTrials": total}}))
    cluster.wait("long", seconds=400)
    cluster.assert_whole("long", total, STEPS)


def test_an_upgrade_from_0_2_and_back_under_a_running_study(
    cluster: Cluster, as_before: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Both versions have the same tables, so that there is nothing to do by hand on the way back."""
    release = Release(cluster)
    before = _running_under("0.2.0", release, cluster, tmp_path, monkeypatch)
    assert release.schema() == 3
    release.upgrade(ROOT)
    assert release.schema() == 3
    eventually(lambda: _ended(cluster) >= before + 4, "trials go on under this release", 240)
    eventually(lambda: cluster.status("long")["trials"]["running"] == 3, "the next three run")
    ended = _ended(cluster)
    _helm("rollback", RELEASE, "1", "-n", cluster.namespace, "--wait", "--timeout", "5m")
    eventually(lambda: _ended(cluster) >= ended + 4, "trials go on under the release before", 240)
    _helm("rollback", RELEASE, "2", "-n", cluster.namespace, "--wait", "--timeout", "5m")
    total = cluster.status("long")["trials"]["total"] + 3
    cluster.kubectl("patch", "study", "long", "--type=merge", "-p", json.dumps({"spec": {"maxTrials": total}}))
    cluster.wait("long", seconds=400)
    cluster.assert_whole("long", total, STEPS)


def _running_under(
    version: str, release: Release, cluster: Cluster, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> int:
    """Installs an earlier release, and lets a study run under it. Returns how many of its trials have ended.

    Its trials run in the image, and with the client, of that release, whatever the operator is later.
    """
    earlier = checkout_of(version, directory)
    spec = yaml.safe_load((earlier / "crds/study.yaml").read_text())["spec"]
    owner = {"meta.helm.sh/release-name": RELEASE, "meta.helm.sh/release-namespace": cluster.namespace}
    _replace_crd(spec, {"app.kubernetes.io/managed-by": "Helm"}, owner)
    images = release.upgrade(earlier)
    monkeypatch.setattr(cluster, "sql", release.sql)
    container = {"image": images["study-trial"]}
    script = TRAIN.format(steps=STEPS, sleep=0.5)
    cluster.apply("long", script, maxTrials=100, parallelism=3, container=container, **KEEP_JOBS)
    eventually(lambda: _ended(cluster) >= 1, f"a trial has ended under {version}")
    eventually(lambda: cluster.status("long")["trials"]["running"] == 3, "others run")
    return _ended(cluster)


def _let_trials_end(cluster: Cluster) -> None:
    """Pods of 0.1 give their key as a setting of the connection, and an embedded database of today takes none."""
    cluster.kubectl("patch", "study", "long", "--type=merge", "-p", json.dumps({"spec": {"parallelism": 0}}))
    eventually(lambda: not cluster.status("long")["trials"].get("running"), "its trials have ended", 240)


def _go_on(cluster: Cluster, image: str) -> None:
    """Let trials run in this image."""
    study = cluster.study("long")
    study["spec"]["parallelism"] = 3
    study["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["image"] = image
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(study))


def _results(cluster: Cluster) -> int:
    """Results that wait for an operator."""
    return int(
        cluster.sql(
            "SELECT count(*) FROM study_operator.results r JOIN trials t USING (trial_id) WHERE t.state = 'RUNNING'"
        )
    )

"""Renders the Helm chart for tests: runs the real helm, and finds objects in what it prints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
CHART = REPOSITORY / "helm/study-operator"


class HelmError(Exception):
    """Helm ended with an error; the message is what it said."""


def program(name: str) -> str:
    """Path of a command-line tool: from KUBE_BIN_DIR, PATH, or the local cluster's programs.

    Fails the test when there is none: these tests are not optional.
    """
    cache = os.environ.get("STUDY_OPERATOR_CACHE")
    if not cache:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "study-operator"
    places = [os.environ.get("KUBE_BIN_DIR"), os.environ.get("PATH"), f"{cache}/cluster/bin"]
    found = shutil.which(name, path=os.pathsep.join(place for place in places if place))
    if not found:
        pytest.fail(f"{name} is not installed: put it on PATH or run `python3 hack/local-cluster up`")
    return found


def helm(*arguments: str, kubeconfig: Path | None = None) -> str:
    """Run helm and return what it printed; without a kubeconfig it reaches no cluster.

    Raises:
        HelmError: when it fails.
    """
    env = {**os.environ, "KUBECONFIG": str(kubeconfig or os.devnull)}
    command = [program("helm"), *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise HelmError(done.stderr + done.stdout)
    return done.stdout


def render(*values: str, chart: Path = CHART, release: str = "study-operator") -> list[dict]:
    """The objects that `helm template` makes of these `--set` values, for a release in namespace `system`."""
    settings = [word for value in values for word in ("--set", value)]
    text = helm("template", release, str(chart), "--namespace=system", "--kube-version=1.34.0", *settings)
    return [document for document in yaml.safe_load_all(text) if document]


def render_error(*values: str) -> str:
    """What helm says when it refuses these values."""
    with pytest.raises(HelmError) as caught:
        render(*values)
    return str(caught.value)


def kinds(objects: list[dict]) -> set[str]:
    """The kinds among the objects."""
    return {o["kind"] for o in objects}


def one(objects: list[dict], kind: str, name: str | None = None, namespace: str | None = None) -> dict:
    """The only object of this kind, and name and namespace where given."""
    found = [
        o
        for o in objects
        if o["kind"] == kind
        and name in (None, o["metadata"]["name"])
        and namespace in (None, o["metadata"].get("namespace"))
    ]
    assert len(found) == 1, f"{len(found)} objects {kind} {name or ''} instead of one"
    return found[0]


def pod_specs(objects: list[dict]) -> dict[str, dict]:
    """All specs of pods by "kind/name": the chart's own, and that of the trials of `helm test`'s Study."""
    found = {}
    for o in objects:
        key = f"{o['kind']}/{o['metadata']['name']}"
        if o["kind"] == "Pod":
            found[key] = o["spec"]
        elif o["kind"] in ("Deployment", "StatefulSet"):
            found[key] = o["spec"]["template"]["spec"]
        elif o["kind"] == "ConfigMap" and "study.json" in o["data"]:
            study = json.loads(o["data"]["study.json"])
            job = study["spec"]["jobTemplate"]["spec"]
            found[f"Study/{study['metadata']['name']}"] = job["template"]["spec"]
    return found

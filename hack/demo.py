"""`make demo`: from nothing to a tuned model. Brings up the local cluster, installs the chart, runs the digits study.

CLUSTER=current uses the cluster of the current kubectl context instead; images are then pushed to REGISTRY, which its
nodes must be able to pull from.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
LOCAL_CLUSTER = [sys.executable, str(REPOSITORY / "hack/local-cluster")]
EXAMPLE = REPOSITORY / "examples/digits/study.yaml"
RELEASE = SYSTEM_NAMESPACE = "study-operator"
NAMESPACE, STUDY = "demo", "digits"
IMAGES = ("study-operator", "study-trial", "study-trial-digits", "study-postgres")


class Failed(Exception):
    """A step of the demo failed; the message says what to do."""


def main() -> int:
    """Runs the demo, or only its set-up. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--only-install", action="store_true", help="stop when the operator runs")
    only_install = parser.parse_args().only_install
    try:
        images = _cluster()
        _install(images)
        if not only_install:
            _apply(images)
            _follow()
            _show()
    except Failed as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            f"\nThe study goes on; `kubectl -n {NAMESPACE} get studies` shows it, `delete study` ends it.",
            file=sys.stderr,
        )
        return 130
    return 0


def _cluster() -> dict[str, str]:
    """A cluster that kubectl and helm reach, with the images in it. Returns name -> image."""
    if os.environ.get("CLUSTER") == "current":
        registry = os.environ.get("REGISTRY")
        if not registry:
            raise Failed("CLUSTER=current needs REGISTRY, for example REGISTRY=ghcr.io/you: images are pushed there")
        # The database's image is the chart's own, from where the cluster's nodes pull all others.
        return _json(
            [*LOCAL_CLUSTER, "images", "--push", registry, *(name for name in IMAGES if name != "study-postgres")]
        )
    _run([*LOCAL_CLUSTER, "up"], quiet=True)  # its progress comes on standard error
    for line in _output([*LOCAL_CLUSTER, "env"]).splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        os.environ[name] = os.path.expandvars("".join(shlex.split(value)))
    return _json([*LOCAL_CLUSTER, "images", *IMAGES])


def _install(images: dict[str, str]) -> None:
    _step("helm upgrade --install study-operator helm/study-operator")
    values = []
    for key, name in (
        ("operator.image", "study-operator"),
        ("trialImage", "study-trial"),
        ("database.embedded.image", "study-postgres"),
    ):
        if name not in images:
            continue
        repository, _, tag = images[name].rpartition(":")
        values += ["--set-string", f"{key}.repository={repository},{key}.tag={tag}"]
    values += ["--set", "trialsApi.enabled=true"]
    chart, namespace = str(REPOSITORY / "helm/study-operator"), ["--namespace", SYSTEM_NAMESPACE, "--create-namespace"]
    _run(
        ["helm", "upgrade", "--install", RELEASE, chart, *namespace, "--wait", "--timeout", "5m", *values],
        quiet=True,
        hint=f"kubectl -n {SYSTEM_NAMESPACE} get pods, describe pod and logs say why",
    )


def _apply(images: dict[str, str]) -> None:
    _step("kubectl apply -f examples/digits/study.yaml")
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    _run(["kubectl", "apply", "-f", "-"], stdin=json.dumps(namespace), quiet=True)
    # A study of an earlier demo gives way to a new one.
    _run(["kubectl", "-n", NAMESPACE, "delete", "study", STUDY, "--ignore-not-found"], quiet=True)
    manifest = EXAMPLE.read_text().replace("study-trial-digits:dev", images["study-trial-digits"])
    _run(["kubectl", "-n", NAMESPACE, "apply", "-f", "-"], stdin=manifest)


def _follow() -> None:
    """Prints a line whenever the study gets on, until it ends."""
    shown, deadline = "", time.monotonic() + 1800
    while time.monotonic() < deadline:
        status = _study().get("status") or {}
        trials = status.get("trials") or {}
        message = _condition(status, "Progressing").get("message", "waiting for the operator")
        counts = ", ".join(f"{trials.get(state, 0)} {state}" for state in ("running", "pruned", "failed"))
        line = f"{status.get('phase', 'Pending'):<9} {status.get('progress', ''):>6} trials, {counts}"
        line += f", best {status.get('bestValue') or '-'}"
        if _condition(status, "Progressing").get("status") == "False":
            line += f"  ({message})"
        if line != shown:
            print(f"  {line}", flush=True)
            shown = line
        if status.get("phase") == "Succeeded":
            return
        if status.get("phase") == "Failed":
            raise Failed(f"the study failed: {_condition(status, 'Failed').get('message')}")
        time.sleep(1)
    raise Failed(f"the study has not ended after half an hour; kubectl -n {NAMESPACE} describe study {STUDY} says why")


def _show() -> None:
    best = _study()["status"]["bestTrial"]
    _step("kubectl get studies")
    _run(["kubectl", "-n", NAMESPACE, "get", "studies"])
    _step(f"kubectl study trials {STUDY} --best 10")
    table = [sys.executable, "-m", "study_client", "trials", STUDY, "--best", "10", "-n", NAMESPACE]
    _run(table, env={"PYTHONPATH": str(REPOSITORY / "client")})
    local = os.environ.get("CLUSTER") != "current"
    setup = (
        f'  eval "$({LOCAL_CLUSTER[0].rpartition("/")[2]} hack/local-cluster env)"   # kubectl for this cluster\n'
        if local
        else ""
    )
    print(
        f"\nLook further:\n{setup}"
        f"  kubectl -n {NAMESPACE} describe study {STUDY}\n"
        f"  kubectl -n {NAMESPACE} get studytrials -l study-operator.io/study={STUDY} -o wide\n"
        f"  kubectl -n {NAMESPACE} logs job/{best.get('jobName')}\n"
        f"  kubectl explain study.spec\n"
        f"  pip install ./client   # for kubectl study best {STUDY} and more: docs/client.md"
    )


def _study() -> dict[str, Any]:
    return json.loads(_output(["kubectl", "-n", NAMESPACE, "get", "study", STUDY, "-o", "json"]))


def _condition(status: dict[str, Any], type_: str) -> dict[str, Any]:
    return next((c for c in status.get("conditions") or () if c["type"] == type_), {})


def _step(text: str) -> None:
    print(f"\n$ {text}", flush=True)


def _run(
    command: list[str],
    stdin: str | None = None,
    quiet: bool = False,
    hint: str = "",
    env: dict[str, str] | None = None,
) -> None:
    pipe = subprocess.PIPE if quiet else None
    done = subprocess.run(command, input=stdin, text=True, stdout=pipe, env={**os.environ, **(env or {})})
    if done.returncode != 0:
        raise Failed(
            f"`{' '.join(command[:4])} ...` failed with exit code {done.returncode}" + (f": {hint}" if hint else "")
        )


def _output(command: list[str]) -> str:
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE)
    if done.returncode != 0:
        raise Failed(f"`{' '.join(command[:4])} ...` failed with exit code {done.returncode}")
    return done.stdout


def _json(command: list[str]) -> dict[str, str]:
    return json.loads(_output(command))


if __name__ == "__main__":
    sys.exit(main())

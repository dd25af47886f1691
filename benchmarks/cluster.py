"""The local cluster that benchmarks measure on: a namespace of their own, what is watched in it, what runs there."""

from __future__ import annotations

import json
import os
import queue
import shlex
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import urllib3
from figures import ROOT, Failed, progress, version
from kubernetes import client, config

LOCAL_CLUSTER = [sys.executable, str(ROOT / "hack/local-cluster")]
SYSTEM_NAMESPACE = "study-operator"
STUDIES = "apis/study-operator.io/v1alpha1"
JOBS = "apis/batch/v1"
PODS = "api/v1"

# Of trials and bare Jobs alike. Without the operator's variables study_trial prints what it would send.
SCRIPT = """
import time
import study_trial

def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    for second in range({every}, {seconds} + 1, {every}):
        time.sleep({every})
        trial.report(x * second, second)
    return x

study_trial.run(objective)
"""


class Event(NamedTuple):
    """What a watch has brought: when it arrived, in seconds of `time.monotonic`, of what resource, and what."""

    at: float
    resource: str
    type: str
    object: dict[str, Any]

    @property
    def name(self) -> str:
        return self.object["metadata"]["name"]

    def became(self, condition: str) -> bool:
        """Whether the object has the condition."""
        return has_condition(self.object, condition)


def has_condition(item: dict[str, Any], condition: str) -> bool:
    """Whether an object's status has the condition."""
    conditions = (item.get("status") or {}).get("conditions") or ()
    return any(c["type"] == condition and c["status"] == "True" for c in conditions)


class Cluster:
    """A namespace of the benchmark's own, and what is watched in it.

    Attributes:
        events: of all watched resources, in order of arrival.
        image: what trials and bare Jobs run.
    """

    def __init__(self, namespace: str, image: str) -> None:
        self.namespace, self.image = namespace, image
        self.events: queue.Queue[Event | Failed] = queue.Queue()
        settings = client.Configuration()
        config.load_kube_config(client_configuration=settings)
        self._host = settings.host
        self._pool = urllib3.PoolManager(
            ca_certs=settings.ssl_ca_cert, cert_file=settings.cert_file, key_file=settings.key_file, maxsize=8
        )

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One request to the API server.

        Raises:
            Failed: with the server's own words.
        """
        response = self._pool.request(method, f"{self._host}/{path}", json=body, timeout=30.0)
        if response.status >= 300:
            raise Failed(f"{method} {path}: {response.json().get('message', response.status)}")
        return response.json()

    def text(self, path: str) -> str:
        return self._pool.request("GET", f"{self._host}/{path}", timeout=30.0).data.decode()

    def create(self, manifest: dict[str, Any]) -> None:
        """Creates a Study or a Job in the namespace."""
        self.call("POST", self.path("studies" if manifest["kind"] == "Study" else "jobs"), manifest)

    def path(self, resource: str, name: str = "") -> str:
        group = {"studies": STUDIES, "jobs": JOBS, "pods": PODS}[resource]
        return f"{group}/namespaces/{self.namespace}/{resource}" + (f"/{name}" if name else "")

    def watch(self, *resources: str) -> None:
        """Brings what happens to these resources from now on into `events`."""
        for resource in resources:
            url = f"{self._host}/{self.path(resource)}?watch=true&timeoutSeconds=7200"
            # The server answers as soon as it watches.
            response = self._pool.request("GET", url, preload_content=False, timeout=urllib3.Timeout(connect=10))
            threading.Thread(target=self._read, args=(resource, response), daemon=True).start()

    def _read(self, resource: str, response: urllib3.BaseHTTPResponse) -> None:
        rest = b""
        for chunk in response.stream(amt=None):
            at = time.monotonic()
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                event = json.loads(line)
                self.events.put(Event(at, resource, event["type"], event["object"]))
        self.events.put(Failed(f"the watch of {resource} has ended; is the API server well?"))

    def next_event(self, deadline: float, what: str) -> Event:
        """The next event.

        Args:
            deadline: of `time.monotonic`, in seconds.

        Raises:
            Failed: none came in time for `what`.
        """
        try:
            event = self.events.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise Failed(
                f"{what}: not in time; `kubectl -n {self.namespace} get studies,jobs,pods` shows why"
            ) from None
        if isinstance(event, Failed):
            raise event
        return event

    def clear(self) -> None:
        """Removes all Studies and Jobs, waits until their pods are gone, and forgets their events."""
        for resource in ("studies", "jobs"):
            options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
            self.call("DELETE", self.path(resource), options)
        eventually(lambda: not self.call("GET", self.path("pods"))["items"], "the pods of the last run are gone")
        while not self.events.empty():
            self.events.get()

    def job(self, name: str, seconds: int) -> dict[str, Any]:
        """A bare Job that runs what a trial of so many seconds runs."""
        spec = {"backoffLimit": 0, "template": {"spec": {**self._pod(seconds, 1), "restartPolicy": "Never"}}}
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}

    def study(
        self, name: str, seconds: int, trials: int, parallelism: int, every: int = 1, **spec: Any
    ) -> dict[str, Any]:
        """A Study whose trials sleep that many seconds and report as often; `spec` replaces fields of it."""
        return {
            "apiVersion": "study-operator.io/v1alpha1",
            "kind": "Study",
            "metadata": {"name": name},
            "spec": {
                "objectives": [{"name": "score", "direction": "Maximize"}],
                "parameters": [{"name": "x", "float": {"low": 0, "high": 1}}],
                "maxTrials": trials,
                "parallelism": parallelism,
                "gpusPerTrial": 0,
                "deletionPolicy": "Delete",
                "jobTemplate": {"spec": {"template": {"spec": self._pod(seconds, every)}}},
                **spec,
            },
        }

    def _pod(self, seconds: int, every: int) -> dict[str, Any]:
        container = {
            "name": "trial",
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["python", "-c", SCRIPT.format(seconds=seconds, every=every)],
            "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
        }
        return {"terminationGracePeriodSeconds": 1, "containers": [container]}

    def versions(self) -> dict[str, str]:
        """Of what runs in the cluster, for `heading`."""
        pod = self.operator_pod()
        image = next(c["image"] for c in pod["spec"]["containers"] if c["name"] == "operator")
        kubernetes = self.call("GET", "version")["gitVersion"]
        return {"image": image, "Kubernetes": kubernetes, "Optuna": version("optuna")}

    def operator_pod(self) -> dict[str, Any]:
        """The operator's pod, which is there once."""
        selector = "labelSelector=app.kubernetes.io%2Fcomponent%3Doperator"
        found = self.call("GET", f"api/v1/namespaces/{SYSTEM_NAMESPACE}/pods?{selector}")["items"]
        if len(found) != 1:
            raise Failed(f"{len(found)} operator pods in namespace {SYSTEM_NAMESPACE}; one was expected")
        return found[0]


@contextmanager
def cluster(as_installed: bool) -> Iterator[Cluster]:
    """The local cluster with the operator installed as `make demo` does it, and a namespace that is removed at the end.

    Args:
        as_installed: measure the operator that is there.
    """
    if not as_installed:
        subprocess.run([sys.executable, str(ROOT / "hack/demo.py"), "--only-install"], stdout=sys.stderr, check=True)
    for line in subprocess.check_output([*LOCAL_CLUSTER, "env"], text=True).splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        os.environ[name] = os.path.expandvars("".join(shlex.split(value)))
    # The client has read the variable when it was imported.
    config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION = os.environ["KUBECONFIG"]
    images = json.loads(subprocess.check_output([*LOCAL_CLUSTER, "images", "study-trial"], text=True))
    found = Cluster(f"bench-{uuid.uuid4().hex[:6]}", images["study-trial"])
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": found.namespace}}
    try:
        found.call("POST", "api/v1/namespaces", namespace)
        yield found
    finally:
        progress(f"removing namespace {found.namespace}")
        subprocess.run(["kubectl", "delete", "namespace", found.namespace, "--ignore-not-found"], stdout=sys.stderr)


def eventually(check: Callable[[], Any], what: str, seconds: float = 300) -> None:
    """Waits until the check is true.

    Raises:
        Failed: it is not, after that time.
    """
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.25)


def pod_processes(pod: dict[str, Any]) -> dict[int, bytes]:
    """The processes of a pod's containers: their ids on this machine, and their command lines."""
    found: dict[int, bytes] = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and pod["metadata"]["uid"] in (entry / "cgroup").read_text().replace("_", "-"):
                found[int(entry.name)] = (entry / "cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
    return found


def operator_process(pod: dict[str, Any]) -> int:
    """The id, on this machine, of the operator's process in its pod."""
    for process, words in pod_processes(pod).items():
        if b"study-operator\0run" in words:
            return process
    raise Failed("the operator's process is not on this machine; this benchmark needs the local cluster")


def cpu_seconds(process: int) -> float:
    """CPU time that a process and those of its children that have ended have used so far, user and system."""
    fields = _about(process, "stat").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def memory(process: int, what: str, file: str = "status") -> float:
    """MiB of a process, by the name that /proc/PID/status has for it (VmRSS, RssAnon), or smaps_rollup (Pss)."""
    line = next(line for line in _about(process, file).splitlines() if line.startswith(f"{what}:"))
    return int(line.split()[1]) / 1024


def _about(process: int, file: str) -> str:
    try:
        return Path(f"/proc/{process}/{file}").read_text()
    except FileNotFoundError:
        raise Failed("the operator's process has ended while it was measured; has somebody restarted it?") from None

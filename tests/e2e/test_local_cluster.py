"""The local cluster does what the rest of these tests take for granted: scheduling, DNS, Services, volumes, logs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chart import REPOSITORY, program

TOOL = [sys.executable, str(REPOSITORY / "hack" / "local-cluster")]
RESTRICTED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def local_cluster(*arguments: str) -> str:
    """Standard output of a command of the tool, which must succeed."""
    done = subprocess.run([*TOOL, *arguments], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Namespace:
    """kubectl in a namespace that enforces the `restricted` Pod Security standard."""

    def __init__(self, kubeconfig: str, image: str) -> None:
        self.name = f"test-{uuid.uuid4().hex[:8]}"
        self._image = image
        self._kubectl = [program("kubectl"), "--kubeconfig", kubeconfig, "--namespace", self.name]
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name, "labels": labels}})

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Standard output of kubectl, which must succeed."""
        done = subprocess.run([*self._kubectl, *arguments], input=stdin, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def create(self, manifest: dict[str, Any]) -> None:
        """Creates one object."""
        self.kubectl("create", "--filename", "-", stdin=json.dumps(manifest))

    def pod(self, name: str, code: str, resources: dict[str, Any] | None = None, claim: str | None = None) -> None:
        """Creates a pod, labelled with its name, that runs Python code; a claim is mounted at /data."""
        container = {
            "name": "main",
            "image": self._image,
            "command": ["python3", "-u", "-c", code],
            "securityContext": RESTRICTED,
            "resources": resources or {},
        }
        spec: dict[str, Any] = {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 999, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
        }
        if claim:
            container["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
            spec["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
        metadata = {"name": name, "labels": {"app": name}}
        self.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    def wait(self, pod: str, condition: str) -> None:
        """Waits for what `kubectl wait --for` names. A failure says what became of the pod."""
        try:
            self.kubectl("wait", f"pod/{pod}", f"--for={condition}", "--timeout=240s")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.kubectl('describe', 'pod', pod)}\n{self.logs(pod)}") from None

    def logs(self, pod: str) -> str:
        """What the pod has printed, or why there is nothing."""
        done = subprocess.run([*self._kubectl, "logs", pod], capture_output=True, text=True, timeout=300)
        return done.stdout + done.stderr


def test_the_nodes_address_stays_when_pods_come_and_go():
    # Unless it is set it is the lowest of all pods', and the others lose node and Services when that pod leaves.
    address = Path("/sys/class/net/study-cni0/address")
    before = address.read_text()
    subprocess.run(["ip", "link", "add", "lowest", "type", "veth", "peer", "name", "lowest-peer"], check=True)
    try:
        subprocess.run(["ip", "link", "set", "lowest", "address", "02:00:00:00:00:01"], check=True)
        subprocess.run(["ip", "link", "set", "lowest", "master", "study-cni0"], check=True)
        assert address.read_text() == before
    finally:
        subprocess.run(["ip", "link", "delete", "lowest"], check=True)


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    kubeconfig = re.search(r"^export KUBECONFIG=(.+)$", local_cluster("env"), re.MULTILINE)
    assert kubeconfig
    image = json.loads(local_cluster("images", "study-trial"))["study-trial"]
    own = Namespace(kubeconfig[1], image)
    yield own
    own.kubectl("delete", "namespace", own.name, "--wait=false")


@pytest.fixture(scope="module")
def server(namespace: Namespace) -> str:
    """A pod that serves HTTP on a volume of its own, behind a Service; its name, which is the Service's too."""
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    metadata = {"name": "server"}
    namespace.create({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": claim})
    ports = {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8000}]}
    namespace.create({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": ports})
    code = """
import http.server, pathlib
pathlib.Path("/data/greeting").write_text("from a volume")
http.server.test(lambda *args: http.server.SimpleHTTPRequestHandler(*args, directory="/data"), port=8000)
"""
    namespace.pod("server", code, claim="server")
    namespace.wait("server", "condition=Ready")
    return "server"


def test_every_component_is_healthy_and_a_second_up_starts_nothing() -> None:
    before = local_cluster("status")
    assert {line.split()[-1] for line in before.splitlines()[:-1]} == {"ok"}
    local_cluster("up")
    assert local_cluster("status") == before


def test_a_pod_reaches_another_by_its_services_name(namespace: Namespace, server: str) -> None:
    code = f"""
import sys, time, urllib.request
for host in ["{server}", "{server}.{namespace.name}.svc", "{server}.{namespace.name}.svc.cluster.local"]:
    while True:
        try:
            print(urllib.request.urlopen(f"http://{{host}}/greeting", timeout=5).read().decode())
            break
        except OSError as error:  # kube-proxy may need a moment for a new Service
            print(time.ctime(), host, error, file=sys.stderr)
            time.sleep(0.2)
"""
    namespace.pod("client", code)
    namespace.wait("client", "jsonpath={.status.phase}=Succeeded")
    assert namespace.logs("client").splitlines().count("from a volume") == 3


def test_what_a_pod_sends_to_a_service_without_pods_stays_on_this_machine(namespace: Namespace) -> None:
    ports = {"selector": {"app": "nobody"}, "ports": [{"port": 80}]}
    namespace.create({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "unserved"}, "spec": ports})
    known = json.loads(namespace.kubectl("get", "service", "unserved", "--output=json"))["spec"]["clusterIP"]
    free = "10.96.255.254"  # of no Service: kube-proxy says nothing of it
    code = f"""
import socket
for address in ["{known}", "{free}"]:
    try:
        socket.create_connection((address, 80), 5).close()
        print("somebody answers")
    except OSError as error:
        print(type(error).__name__)
"""
    namespace.pod("caller", code)
    namespace.wait("caller", "jsonpath={.status.phase}=Succeeded")
    assert namespace.logs("caller").split() == ["ConnectionRefusedError"] * 2


def test_a_pod_reaches_the_api_server(namespace: Namespace) -> None:
    code = """
import ssl, time, urllib.request
tls = ssl.create_default_context(cafile="/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
while True:
    try:
        print(urllib.request.urlopen("https://kubernetes.default/version", context=tls, timeout=10).status)
        break
    except OSError as error:  # the API server may be too busy to answer in time
        print(time.ctime(), error)
        time.sleep(0.2)
"""
    namespace.pod("asker", code)
    namespace.wait("asker", "jsonpath={.status.phase}=Succeeded")
    assert namespace.logs("asker").splitlines()[-1] == "200"


def test_exec_runs_in_the_pod_as_its_user(namespace: Namespace, server: str) -> None:
    assert namespace.kubectl("exec", server, "--", "sh", "-c", "id -u; cat /data/greeting") == "999\nfrom a volume"


def test_a_pod_gets_a_gpu_but_not_more_than_the_node_has(namespace: Namespace) -> None:
    namespace.pod("one-gpu", "print('scheduled')", resources={"limits": {"nvidia.com/gpu": 1}})
    namespace.pod("five-gpus", "", resources={"limits": {"nvidia.com/gpu": 5}})
    namespace.wait("one-gpu", "jsonpath={.status.phase}=Succeeded")
    namespace.wait("five-gpus", "condition=PodScheduled=false")
    described = namespace.kubectl("get", "pod", "five-gpus", "-o", "jsonpath={.status.conditions[0].message}")
    assert "Insufficient nvidia.com/gpu" in described

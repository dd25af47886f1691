"""The cluster as a whole: up, down and how it is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import binaries
import images
import network
import packages
import recipes
from common import HERE, Problem, cache_dir, locked, run, say, unmount_below
from components import NODE, Components
from processes import Processes

_GPUS = 4
_GPU = "nvidia.com/gpu"
_ADDONS = HERE / "addons.yaml"


def directory() -> Path:
    """Where the cluster keeps its data, certificates, logs and process ids."""
    return cache_dir() / "cluster"


def kubeconfig() -> Path:
    """The administrator's kubeconfig."""
    return directory() / "kubeconfig"


def containerd() -> Path:
    """The directory of the node's containerd. Raises Problem when it does not run."""
    if _processes().pid("containerd") is None:
        raise Problem("the cluster is not up: run `python3 hack/local-cluster up` first")
    return directory() / "containerd"


def up() -> None:
    """Brings the cluster up from whatever state it is in. Raises Problem with the reason when it cannot."""
    if os.geteuid() != 0:
        raise Problem("a node needs root: run this as root")
    packages.ensure(packages.CLUSTER)
    binaries.ensure()
    with locked(directory() / ".lock"):
        began = time.monotonic()
        network.up(directory() / "cni")
        cluster, processes = _components(), _processes()
        started = processes.ensure(cluster.etcd, cluster.containerd)
        images.ensure(recipes.NODE, containerd())
        started |= processes.ensure(cluster.apiserver)
        _apply_addons()
        started |= processes.ensure(*cluster.all())
        _wait_until_usable()
        _advertise_gpus()
        done = f"up after {time.monotonic() - began:.0f} s" if started else "already up"
        say(f"the cluster is {done}: one node with {_GPUS} {_GPU}")


def down(purge: bool) -> None:
    """Ends pods and daemons and removes mounts, network and firewall rules; with `purge`, all data as well."""
    if not directory().exists():
        say("there is no cluster")
        return
    with locked(directory() / ".lock"):
        processes = _processes()
        if processes.running() or _shims():
            processes.stop("kubelet", "local-path-provisioner")  # first, or they would start pods again
            _end_pods(processes)
            processes.stop("coredns", "kube-proxy", "kube-scheduler", "kube-controller-manager")
            processes.stop("kube-apiserver", "containerd")
            processes.stop("etcd")
        unmount_below(directory())
        network.down(directory() / "cni")
        _remove_cgroups()
        if purge:
            say(f"removing {directory()}")
            shutil.rmtree(directory())


def status() -> tuple[list[tuple[str, str, str]], bool]:
    """Name, process id and state of each component and of the node; and whether all is well."""
    if not kubeconfig().exists():
        return [], False
    processes = _processes()
    rows, well = [], True
    for component in _components().all():
        reason = processes.unhealthy(component)
        well &= reason is None
        rows.append((component.name, str(processes.pid(component.name) or "-"), reason or "ok"))
    if processes.pid("kube-apiserver"):
        missing = _not_usable()
        well &= missing is None
        rows.append((f"node {NODE}", "-", missing or "ok"))
    return rows, well


def kubectl(*arguments: str, stdin: str | None = None, check: bool = True) -> str:
    """Runs kubectl as administrator and returns what it printed."""
    argv = [binaries.path_dir() / "kubectl", f"--kubeconfig={kubeconfig()}", "--request-timeout=20s", *arguments]
    return run(argv, stdin=stdin, check=check).stdout


def _components() -> Components:
    programs = binaries.paths()
    return Components(directory(), programs, images.node_image("study-pause"), images.node_image("study-base"))


def _processes() -> Processes:
    return Processes(directory())


def _apply_addons() -> None:
    """Applies addons.yaml unless this very content was applied to this very database."""
    applied = directory() / "etcd" / "addons-applied"
    content = hashlib.sha256(_ADDONS.read_bytes()).hexdigest()
    if not applied.exists() or applied.read_text() != content:
        say("applying add-ons")
        kubectl("apply", "--filename", str(_ADDONS))
        applied.write_text(content)


def _not_usable() -> str | None:
    """What is still missing before a pod can be created and run; None when nothing is."""
    listed = kubectl("get", "node/" + NODE, "serviceaccount/default", "-o", "json", "--ignore-not-found", check=False)
    objects: dict[str, Any] = {}
    if listed:
        found = json.loads(listed)
        objects = {item["kind"]: item for item in found.get("items", [found])}
    if "Node" not in objects:
        return "kubelet has not registered the node"
    conditions = {item["type"]: item for item in objects["Node"]["status"].get("conditions", [])}
    ready = conditions.get("Ready", {})
    if ready.get("status") != "True":
        return f"not ready: {ready.get('message', 'no report yet')}"
    if any(taint["key"] == "node.kubernetes.io/not-ready" for taint in objects["Node"]["spec"].get("taints", [])):
        return "still tainted as not ready"
    if "ServiceAccount" not in objects:
        return "the default service account is not there yet"
    return None


def _wait_until_usable() -> None:
    deadline = time.monotonic() + 90
    while (missing := _not_usable()) is not None:
        if time.monotonic() > deadline:
            raise Problem(f"node {NODE} is {missing}; see {_processes().log('kubelet')}")
        time.sleep(0.3)


def _advertise_gpus() -> None:
    """Gives the node GPUs it does not have. kubelet leaves alone what it does not manage itself."""
    capacity = json.loads(kubectl("get", "node", NODE, "-o", "jsonpath={.status.allocatable}"))
    if capacity.get(_GPU) != str(_GPUS):
        key = _GPU.replace("/", "~1")
        patch = [
            {"op": "add", "path": f"/status/{where}/{key}", "value": str(_GPUS)}
            for where in ("capacity", "allocatable")
        ]
        kubectl("patch", "node", NODE, "--subresource=status", "--type=json", "--patch", json.dumps(patch))


def _shims() -> dict[int, str]:
    """Process ids of the containerd shims of this cluster, each with the id of its pod's sandbox."""
    socket = str(directory() / "containerd" / "containerd.sock")
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text().split("\0")
        except OSError:
            continue  # it ended meanwhile
        if "containerd-shim" in words[0] and socket in words:
            found[int(path.parent.name)] = words[words.index("-id") + 1]
    return found


def _end_pods(processes: Processes) -> None:
    """Ends all containers: first politely, so that a database shuts down cleanly, then by force."""
    if not _shims():
        return
    processes.ensure(_components().containerd)  # the shims of a containerd that crashed obey the next one
    say("ending the pods")
    for number, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        deadline = time.monotonic() + seconds
        sandboxes = set(_shims().values())
        for task in _tasks():
            if number == signal.SIGKILL or task not in sandboxes:
                _ctr("tasks", "kill", "--signal", str(int(number)), task)
        while time.monotonic() < deadline and set(_tasks()) - (sandboxes if number == signal.SIGTERM else set()):
            time.sleep(0.1)
    for pid in _shims():
        os.kill(pid, signal.SIGKILL)


def _tasks() -> list[str]:
    return _ctr("tasks", "ls", "--quiet").split()


def _ctr(*arguments: str) -> str:
    socket = directory() / "containerd" / "containerd.sock"
    return run(["ctr", "--address", socket, "--namespace", "k8s.io", *arguments], check=False).stdout


def _remove_cgroups() -> None:
    for top in [*Path("/sys/fs/cgroup").glob("kubepods"), *Path("/sys/fs/cgroup").glob("*/kubepods")]:
        for path in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
            path.rmdir()
        top.rmdir()

"""A control plane with imitated nodes and a PostgreSQL on loopback, for load tests.

All is Kubernetes' own but for the kubelets, which kwok plays: pods run nothing, and complete after the time they name.

A scratch place, as the test services are: `down` throws the data away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import binaries
import packages
import probes
import testservices
from common import HERE, cache_dir, locked, run, say, write
from pki import Authority
from processes import Component, Processes

NODES, GPUS = 10, 400  # of each node
# Who is told apart in the audit log and by the API server's fairness: clients as the operator's ServiceAccount is one.
CLIENTS = ("operator", "driver")
_GROUP = "system:serviceaccounts"
_PORTS = {
    **testservices.PORTS,
    "controller-manager": "kube-controller-manager",
    "scheduler": "kube-scheduler",
    "kwok": "kwok",
}


def default_dir() -> Path:
    """Where the services live unless the command line says otherwise."""
    return cache_dir() / "load-services"


def up(directory: Path, default_limits: bool = False) -> dict[str, Any]:
    """Starts what is not running.

    Args:
        default_limits: controller manager and scheduler keep Kubernetes' own limits of requests.

    Returns:
        `kubeconfig` (path, the administrator's), `clients` (one for each of CLIENTS), `database_url` (the superuser's),
        `audit_log` (path; the writes of CLIENTS), `processes` (process ids by component).
    """
    packages.ensure(packages.TEST_SERVICES)
    programs = binaries.ensure(binaries.LOAD_SERVICES)
    with locked(directory / ".lock"):
        processes = Processes(directory)
        ports = testservices.choose_ports(directory, processes, _PORTS)
        server = f"https://127.0.0.1:{ports['apiserver']}"
        postgres, database_url = testservices.make_postgres(directory, ports["postgres"])
        etcd = testservices.make_etcd(directory, programs["etcd"], ports)
        audit_log, policy = directory / "logs" / "audit.log", _audit_policy(directory)
        more = [
            f"--audit-policy-file={policy}",
            f"--audit-log-path={audit_log}",
            "--audit-log-mode=batch",
            "--audit-log-batch-max-wait=1s",
            "--audit-log-maxsize=1000",
        ]
        program = programs["kube-apiserver"]
        apiserver, kubeconfig = testservices.make_apiserver(directory, program, ports, more, [policy])
        controllers = [
            _controller_manager(directory, programs, server, ports["controller-manager"], default_limits),
            _scheduler(directory, programs, server, ports["scheduler"], default_limits),
            _kwok(directory, programs, server, ports["kwok"]),
        ]
        processes.ensure(etcd, postgres)
        processes.ensure(apiserver)
        processes.ensure(*controllers)
        clients = {name: str(_client(directory, server, name, name, _GROUP)) for name in CLIENTS}
        _make_objects(programs["kubectl"], kubeconfig)
        components = (etcd, postgres, apiserver, *controllers)
        return {
            "kubeconfig": str(kubeconfig),
            "clients": clients,
            "database_url": database_url,
            "audit_log": str(audit_log),
            "processes": {component.name: processes.pid(component.name) for component in components},
        }


def down(directory: Path) -> None:
    """Stops the services and removes their data."""
    with locked(directory / ".lock"):
        processes = Processes(directory)
        processes.stop("kwok", "kube-scheduler", "kube-controller-manager", "kube-apiserver")
        testservices.throw_away(directory, processes)
        for log in (directory / "logs").glob("audit*.log"):
            log.unlink()


def _client(directory: Path, server: str, name: str, user: str, group: str = "") -> Path:
    """A kubeconfig with an identity of its own."""
    authority = Authority(directory / "pki")
    return authority.kubeconfig(directory / "config" / f"{name}.kubeconfig", server, authority.issue(name, user, group))


def _json(path: Path, *documents: dict[str, Any]) -> Path:
    write(path, "\n---\n".join(json.dumps(document, indent=1) for document in documents) + "\n")
    return path


def _audit_policy(directory: Path) -> Path:
    """Writes of the clients alone: what controllers do is Kubernetes' own, and the log of it would cost CPU."""
    writes = {
        "level": "Metadata",
        "omitStages": ["RequestReceived"],
        "users": list(CLIENTS),
        "verbs": ["create", "update", "patch", "delete", "deletecollection"],
    }
    policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [writes, {"level": "None"}]}
    return _json(directory / "config" / "audit-policy.json", policy)


def _controller_manager(
    directory: Path, programs: Mapping[str, Path], server: str, port: int, default_limits: bool
) -> Component:
    client = _client(directory, server, "kube-controller-manager", "system:kube-controller-manager")
    authority = Authority(directory / "pki")
    private, _ = authority.signing_key("service-accounts")
    argv = [
        programs["kube-controller-manager"],
        f"--kubeconfig={client}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={private}",
        f"--root-ca-file={authority.crt}",
    ]
    if not default_limits:
        argv += ["--kube-api-qps=1000", "--kube-api-burst=2000", "--concurrent-job-syncs=32"]
    health = probes.http(f"https://127.0.0.1:{port}/healthz")
    return Component("kube-controller-manager", argv, health, config=(client,))


def _scheduler(
    directory: Path, programs: Mapping[str, Path], server: str, port: int, default_limits: bool
) -> Component:
    client = _client(directory, server, "kube-scheduler", "system:kube-scheduler")
    connection: dict[str, Any] = {"kubeconfig": str(client)}
    if not default_limits:
        connection |= {"qps": 1000, "burst": 2000}
    config = _json(
        directory / "config" / "kube-scheduler.json",
        {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "clientConnection": connection,
            "leaderElection": {"leaderElect": False},
        },
    )
    argv = [programs["kube-scheduler"], f"--config={config}", "--bind-address=127.0.0.1", f"--secure-port={port}"]
    health = probes.http(f"https://127.0.0.1:{port}/healthz")
    return Component("kube-scheduler", argv, health, config=(client, config))


def _kwok(directory: Path, programs: Mapping[str, Path], server: str, port: int) -> Component:
    client = _client(directory, server, "kwok", "kwok", "system:masters")
    # Ten kubelets do more at once than kwok's default of four things.
    options = {
        "podPlayStageParallelism": 32,
        "nodeLeaseDurationSeconds": 40,
        "cidr": "10.0.0.1/8",
        "serverAddress": f"127.0.0.1:{port}",
    }
    config = directory / "config" / "kwok.yaml"
    settings = {"apiVersion": "config.kwok.x-k8s.io/v1alpha1", "kind": "KwokConfiguration", "options": options}
    write(config, f"{json.dumps(settings)}\n---\n{(HERE / 'kwok-stages.yaml').read_text()}")
    argv = [programs["kwok"], f"--kubeconfig={client}", f"--config={config}", "--manage-all-nodes", "-v=WARN"]
    health = probes.http(f"http://127.0.0.1:{port}/healthz")
    return Component("kwok", argv, health, config=(client, config))


def _make_objects(kubectl: Path, kubeconfig: Path) -> None:
    """Nodes, and the clients' rights: all, for it is not rights that is measured here."""
    resources = {"cpu": "1k", "memory": "1Ti", "pods": "1k", "nvidia.com/gpu": str(GPUS)}
    objects: list[dict[str, Any]] = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": f"kwok-{i}", "labels": {"kubernetes.io/hostname": f"kwok-{i}"}},
            "status": {"allocatable": resources, "capacity": resources},
        }
        for i in range(NODES)
    ]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    subjects = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name} for name in CLIENTS]
    objects.append(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "load"},
            "roleRef": role,
            "subjects": subjects,
        }
    )
    there = run([kubectl, f"--kubeconfig={kubeconfig}", "get", "clusterrolebinding", "load"], check=False)
    if there.returncode:
        say(f"making {NODES} nodes with {GPUS} GPUs each")
        items = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        run([kubectl, f"--kubeconfig={kubeconfig}", "create", "--filename=-"], stdin=items)
    nodes = [kubectl, f"--kubeconfig={kubeconfig}", "wait", "--for=condition=Ready", "node", "--all", "--timeout=60s"]
    run(nodes)

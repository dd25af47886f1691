"""An API server with its etcd and a PostgreSQL on loopback, for component tests: no controllers, no nodes.

A scratch place: `down` throws the data away, and so does `up` where nothing runs. Certificates, passwords and ports
stay, so that `up` answers the same each time.
"""

from __future__ import annotations

import hashlib
import json
import pwd
import secrets
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import binaries
import packages
import probes
from common import Problem, cache_dir, locked, run, say, write
from pki import Authority
from processes import Component, Processes, as_user

_POSTGRES_USER = "postgres"
_ROOM = 8 << 30  # bytes
PORTS = {
    "etcd": "etcd",
    "etcd-peer": "etcd",
    "etcd-health": "etcd",
    "apiserver": "kube-apiserver",
    "postgres": "postgres",
}
"""Which component listens on each port."""


def default_dir() -> Path:
    """Where the services live unless the command line says otherwise."""
    return cache_dir() / "test-services"


def up(directory: Path) -> dict[str, str]:
    """Starts what is not running and returns `kubeconfig` (path) and `database_url` (of the superuser)."""
    packages.ensure(packages.TEST_SERVICES)
    programs = binaries.ensure(binaries.TEST_SERVICES)
    with locked(directory / ".lock"):
        processes = Processes(directory)
        if all(processes.pid(name) is None for name in ("etcd", "kube-apiserver")):
            throw_away(directory, processes)  # what tests that were ended by force have left slows down others
        ports = choose_ports(directory, processes, PORTS)
        postgres, database_url = make_postgres(directory, ports["postgres"], durable=False)
        etcd = make_etcd(directory, programs["etcd"], ports)
        # Nobody makes the `default` service accounts here, and without them no pod would be admitted.
        more = ["--disable-admission-plugins=ServiceAccount"]
        apiserver, kubeconfig = make_apiserver(directory, programs["kube-apiserver"], ports, more)
        processes.ensure(etcd, postgres)
        processes.ensure(apiserver)
        return {"kubeconfig": str(kubeconfig), "database_url": database_url}


def down(directory: Path) -> None:
    """Stops the services and removes their data."""
    with locked(directory / ".lock"):
        processes = Processes(directory)
        processes.stop("kube-apiserver")
        throw_away(directory, processes)


def throw_away(directory: Path, processes: Processes) -> None:
    """Stops etcd and PostgreSQL and removes their data."""
    processes.stop("etcd")
    processes.stop("postgres", stop_signal=signal.SIGINT)
    for data in (directory / "etcd", *(_postgres_dir(directory, durable) for durable in (True, False))):
        shutil.rmtree(data, ignore_errors=True)


def choose_ports(directory: Path, processes: Processes, owners: Mapping[str, str]) -> dict[str, int]:
    """Free ports, chosen once and chosen again only when somebody else took one meanwhile.

    Args:
        owners: the component that listens on each port, by the port's name.
    """
    path = directory / "ports.json"
    ports: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
    for name, owner in owners.items():
        known = ports.get(name)
        if known is None or (processes.pid(owner) is None and not probes.is_free(known)):
            ports[name] = probes.free_port()
    write(path, json.dumps(ports))
    return ports


def make_etcd(directory: Path, program: Path, ports: Mapping[str, int]) -> Component:
    """etcd that does not wait for its disk."""
    data = directory / "etcd"
    data.mkdir(mode=0o700, exist_ok=True)
    client, peer, metrics = (f"http://127.0.0.1:{ports[name]}" for name in ("etcd", "etcd-peer", "etcd-health"))
    argv = [
        program,
        f"--data-dir={data}",
        "--name=test",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=test={peer}",
        f"--listen-metrics-urls={metrics}",
        "--log-level=warn",
        "--unsafe-no-fsync",
    ]  # scratch data: nothing here has to survive a power cut
    return Component("etcd", argv, probes.http(metrics + "/health"))


def make_apiserver(
    directory: Path, program: Path, ports: Mapping[str, int], more: Sequence[str], config: Sequence[Path] = ()
) -> tuple[Component, Path]:
    """An API server and the administrator's kubeconfig.

    Args:
        more: arguments beside those that every one has.
        config: files that these arguments name.
    """
    authority = Authority(directory / "pki")
    serving = authority.issue("apiserver", "kube-apiserver", sans=("IP:127.0.0.1", "DNS:localhost"))
    admin = authority.issue("admin", "admin", "system:masters")
    private, public = authority.signing_key("service-accounts")
    server = f"https://127.0.0.1:{ports['apiserver']}"
    kubeconfig = authority.kubeconfig(directory / "kubeconfig", server, admin)
    aggregation, trusted = Authority(directory / "front-proxy").aggregation()
    argv = [
        program,
        f"--etcd-servers=http://127.0.0.1:{ports['etcd']}",
        "--bind-address=127.0.0.1",
        f"--secure-port={ports['apiserver']}",
        f"--tls-cert-file={serving.crt}",
        f"--tls-private-key-file={serving.key}",
        f"--client-ca-file={authority.crt}",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.97.0.0/24",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={public}",
        f"--service-account-signing-key-file={private}",
        "--endpoint-reconciler-type=none",
        "--allow-privileged=true",
        *aggregation,
        *more,
    ]
    health = probes.http(server + "/readyz", authority.crt)
    return Component("kube-apiserver", argv, health, config=(serving.crt, public, *trusted, *config)), kubeconfig


def _postgres_dir(directory: Path, durable: bool) -> Path:
    """Not in `directory`: PostgreSQL refuses to run as root, and its user cannot enter /root.

    What need not be durable is in memory where there is room. Each component test makes a database, which is 300 files;
    that took a tenth of what they compute.
    """
    name = hashlib.sha256(str(directory).encode()).hexdigest()[:12]
    memory = Path("/dev/shm")
    in_memory = not durable and memory.is_mount() and shutil.disk_usage(memory).total >= _ROOM
    return (memory if in_memory else Path("/var/tmp")) / f"study-operator-postgres-{name}"


def make_postgres(directory: Path, port: int, durable: bool = True) -> tuple[Component, str]:
    """PostgreSQL and the url of its superuser.

    Args:
        durable: whether its data has to survive a power cut. It takes effect when the data directory is made.
    """
    data = _postgres_dir(directory, durable)
    secret = directory / "postgres-password"
    if not secret.exists():
        write(secret, secrets.token_hex(16))
    password = secret.read_text()
    data.mkdir(mode=0o700, exist_ok=True)
    if as_user(_POSTGRES_USER):
        if data.stat().st_uid not in (0, pwd.getpwnam(_POSTGRES_USER).pw_uid):
            raise Problem(f"{data} belongs to somebody else; remove it and try again")
        shutil.chown(data, _POSTGRES_USER, _POSTGRES_USER)
    cluster = data / "data"
    if not (cluster / "ready").exists():  # written last: a directory without it is from an interrupted start
        shutil.rmtree(cluster, ignore_errors=True)
        say("creating the PostgreSQL data directory")
        password_file = data / "password"
        write(password_file, password)
        if as_user(_POSTGRES_USER):
            shutil.chown(password_file, _POSTGRES_USER)
        initdb = [
            packages.POSTGRES_BIN / "initdb",
            f"--pgdata={cluster}",
            "--username=postgres",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-instructions",
            "--no-sync",
        ]
        run([*as_user(_POSTGRES_USER), *initdb], cwd=Path("/"))
        password_file.unlink()
        if not durable:  # each component test drops its database, and that waits for a checkpoint
            with (cluster / "postgresql.conf").open("a") as config:
                config.write("fsync = off\nfull_page_writes = off\n")
        (cluster / "ready").touch()
    argv = [packages.POSTGRES_BIN / "postgres", "-D", cluster]
    for setting in (
        "listen_addresses=127.0.0.1",
        f"port={port}",
        f"unix_socket_directories={data}",
        "max_connections=300",
        "shared_buffers=128MB",
        "max_prepared_transactions=64",  # tests let a commit happen after its client has given up on it
    ):
        argv += ["-c", setting]

    def health() -> None:
        run([packages.POSTGRES_BIN / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)])

    component = Component("postgres", argv, health, user=_POSTGRES_USER, stop_signal=signal.SIGINT)
    return component, f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"

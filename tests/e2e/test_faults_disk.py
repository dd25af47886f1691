"""The database's disk is full: the study says so in PostgreSQL's words, loses nothing, goes on when there is room."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e import KEEP_JOBS, TRAIN, Cluster, eventually
from node import local_cluster
from operator_process import OperatorProcess

pytestmark = pytest.mark.apart

STEPS, TRIALS = 5, 12
USER = 999  # of the image


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 MiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    options = f"size=96m,mode=0700,uid={USER},gid={USER}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], check=True)
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.fixture
def database(cluster: Cluster, disk: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A PostgreSQL with its data on that disk. Returns its URL."""
    cluster.kubectl("label", "namespace", cluster.namespace, "pod-security.kubernetes.io/enforce-")  # for hostPath
    images = json.loads(local_cluster("images", "study-postgres").splitlines()[-1])
    env = {
        "POSTGRES_USER": "study_operator",
        "POSTGRES_PASSWORD": "on-a-small-disk",
        "POSTGRES_DB": "studies",
        "PGDATA": "/var/lib/postgresql/data/pgdata",
    }
    container = {
        "name": "postgresql",
        "image": images["study-postgres"],
        "args": ["postgres", "-c", "max_wal_size=32MB", "-c", "min_wal_size=32MB"],
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "volumeMounts": [{"name": "disk", "mountPath": "/var/lib/postgresql/data"}],
        "readinessProbe": {"exec": {"command": ["pg_isready", "--quiet", "--host=127.0.0.1"]}, "periodSeconds": 1},
    }
    volumes = [{"name": "disk", "hostPath": {"path": str(disk)}}]
    pod = {"containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 0}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "full-database-0"}, "spec": pod}
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/full-database-0", "--timeout=240s")
    sql = cluster.sql
    monkeypatch.setattr(cluster, "sql", lambda statement: sql(statement, "full", cluster.namespace))
    address = cluster.get("pod", "full-database-0")["status"]["podIP"]
    return f"postgresql://study_operator:on-a-small-disk@{address}:5432/studies?sslmode=disable"


def _fill(disk: Path) -> Path:
    """Takes all the room that is left. Returns the file that has it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"\0" * 4096):
            pass
    return filler


def test_a_database_whose_disk_is_full(
    cluster: Cluster, nobody_serves: None, database: str, disk: Path, tmp_path: Path
):
    address = database.partition("@")[2].partition(":")[0]
    settings = {
        "DATABASE_URL": database,
        "DATABASE_PASSWORD": "",
        "REPORTER_HOST": address,
        "REPORTER_SSLMODE": "disable",
    }
    settings["WATCH_NAMESPACES"] = cluster.namespace  # other Studies have their rows in the other database
    with OperatorProcess(tmp_path, settings) as operator:
        operator.run("migrate")
        operator.start()
        cluster.apply("full", TRAIN.format(steps=STEPS, sleep=0.2), maxTrials=TRIALS, parallelism=3, **KEEP_JOBS)
        eventually(lambda: cluster.status("full").get("trials", {}).get("complete"), "a trial has ended")
        filler = _fill(disk)
        try:
            eventually(
                lambda: "No space left on device" in cluster.condition("full", "StorageReady").get("message", ""),
                "the study says what is wrong",
                180,
            )
            assert "No space left on device" in cluster.kubectl("describe", "study", "full")
            assert cluster.condition("full", "StorageReady")["status"] == "False"
        finally:
            filler.unlink()
        cluster.wait("full", seconds=400)
        cluster.assert_whole("full", TRIALS, STEPS)

"""The embedded database's own pod: what a tenant's pod does to it costs the pods of another namespace nothing."""

from __future__ import annotations

from contextlib import suppress

import pytest
from e2e import Cluster, eventually

pytestmark = pytest.mark.alone

# A trial that reports all the time. Its value is by how much a report took longer than undisturbed, in seconds: the
# third longest of 8 windows of 3 s. The attacks fill more than that; a moment in which the machine did something else
# does not.
REPORT = """
import time
import study_trial

def objective(trial):
    step = 0
    def longest(seconds):
        nonlocal step
        over, most = time.monotonic() + seconds, 0.0
        while time.monotonic() < over:
            begun, step = time.monotonic(), step + 1
            trial.report(0.0, step)
            most = max(most, time.monotonic() - begun)
            time.sleep(0.05)
        return most
    idle = longest(3)
    print("undisturbed", idle, flush=True)
    windows = sorted(longest(3) for _ in range(8))
    print("beside the attack", windows, trial.undelivered, flush=True)
    assert not trial.undelivered, "reports were not delivered"
    return windows[-3] - idle

study_trial.run(objective)
"""

ATTACK = """
import os, socket, struct, time
from urllib.parse import urlsplit, urlunsplit
import psycopg2
import study_trial

url = urlsplit(os.environ["STUDY_STORAGE_URL"])
reach = lambda database: psycopg2.connect(urlunsplit(url._replace(path="/" + database)))

def objective(trial):
    for database in ("postgres", "template1"):
        try:
            reach(database)
        except psycopg2.OperationalError:
            continue
        raise SystemExit(f"database {{database}} lets pods in")
    over, failed = time.monotonic() + 18, 0
    while time.monotonic() < over:
        {attack}
    return 1.0

study_trial.run(objective)
"""
ATTACKS = {
    "half-open logins": """
        message = b"user\\0nobody\\0database\\0studies\\0\\0"
        packet = struct.pack("!II", 8 + len(message), 196608) + message
        held = []
        for number in range(500):
            held.append(socket.create_connection((url.hostname, url.port), 10))
            if number % 2:
                held[-1].sendall(packet)
        time.sleep(4)
""",
    "a query without bounds": """
        try:
            reach("studies").cursor().execute(
                "BEGIN; SET LOCAL work_mem = '2GB'; SET LOCAL hash_mem_multiplier = 1000;"
                " SELECT count(*) FROM (SELECT DISTINCT repeat('x', 8000) || g FROM generate_series(1, 1000000) g) s"
            )
            raise SystemExit("8 GiB were no trouble")
        except psycopg2.Error:
            failed += 1
""",
    "its password in a loop": """
        try:
            opened = reach("studies")
            opened.autocommit = True
            change = "ALTER ROLE CURRENT_USER "
            opened.cursor().execute(change + "IN DATABASE studies SET default_transaction_read_only = on")
            opened.cursor().execute(change + "PASSWORD 'mine'")
        except psycopg2.Error:
            time.sleep(0.2)
""",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_tenant_delays_no_other(own_clusters: list[Cluster], attack: str):
    tenant, neighbour = own_clusters.pop(), own_clusters.pop()
    pod = f"{neighbour.system}-database-0"
    begun = [state["state"] for state in _containers(neighbour, pod)]
    one = {"maxTrials": 1, "parallelism": 1}
    neighbour.apply("canary", REPORT, objectives=[{"name": "seconds", "direction": "Minimize"}], **one)
    eventually(lambda: neighbour.status("canary").get("trials", {}).get("running"), "the neighbour runs")
    eventually(lambda: "undisturbed" in _printed(neighbour, "canary-0"), "the neighbour reports")
    tenant.apply("attacker", ATTACK.format(attack=attack), **one)
    eventually(lambda: neighbour.status("canary")["phase"] in ("Succeeded", "Failed"), "the neighbour has ended", 300)
    printed = _printed(neighbour, "canary-0")
    status = neighbour.status("canary")
    assert status["phase"] == "Succeeded", printed
    assert float(status["bestTrial"]["values"][0]) < 1.0, printed
    assert [state["state"] for state in _containers(neighbour, pod)] == begun, "no container has been restarted"


def test_pods_check_the_certificate_and_have_a_login_of_their_namespace(own_clusters: list[Cluster]):
    one, two = own_clusters.pop(), own_clusters.pop()
    script = """
import os, study_trial
from urllib.parse import urlsplit
url = urlsplit(os.environ["STUDY_STORAGE_URL"])
assert "sslmode=verify-full" in url.query, url.query
def objective(trial):
    trial.set_user_attr("login", url.username)
    return 1.0
study_trial.run(objective)
"""
    for cluster in (one, two):
        cluster.apply("login", script, maxTrials=1, parallelism=1)
    for cluster in (one, two):
        cluster.wait("login")
    logins = one.sql("SELECT DISTINCT value_json FROM trial_user_attributes WHERE key = 'login'").split()
    assert len(logins) >= 2
    assert all(login.startswith('"study_') for login in logins)


def _containers(cluster: Cluster, pod: str) -> list[dict]:
    return cluster.get("pod", pod, namespace=cluster.system)["status"]["containerStatuses"]


def _printed(cluster: Cluster, job: str) -> str:
    """What the Job's pod has printed; nothing while it has not begun."""
    with suppress(AssertionError):
        return cluster.kubectl("logs", f"job/{job}")
    return ""

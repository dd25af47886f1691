"""40 trials of 5 s, 4 at once, as real pods, beside bare Jobs in the same run; and what they cost the API server.

The operator's API writes are counted twice. The audit log of the local cluster has every write with its user: those of
the operator's service account in the benchmark's namespace are all its writes. The API server's own counters
(apiserver_request_total) know no users: those are added up that nobody but the operator causes while nobody else uses
the cluster, which leaves out Events.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from cluster import SYSTEM_NAMESPACE, Cluster, cluster, cpu_seconds, eventually, operator_process
from figures import command, heading, number, spread
from pairs import Load, Run, alternate, show, turnaround_rows

# What only the operator does, as (verb, resource, subresource).
OPERATORS = {
    ("POST", "jobs", ""),
    ("DELETE", "jobs", ""),
    ("PATCH", "studies", "status"),
    ("POST", "secrets", ""),
}
_COUNTER = re.compile(r"^apiserver_request_total\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def counted(cluster: Cluster) -> Counter[str]:
    """Requests so far, by what only the operator does."""
    found: Counter[str] = Counter()
    for labels, value in _COUNTER.findall(cluster.text("metrics")):
        label = dict(_LABEL.findall(labels))
        if (label["verb"], label["resource"], label["subresource"]) in OPERATORS:
            found[_name(label["verb"], label["resource"], label["subresource"])] += int(float(value))
    return found


def audited(cluster: Cluster, logs: Path) -> Counter[str]:
    """The operator's writes in the benchmark's namespace, all of them, from the audit log."""
    account = cluster.operator_pod()["spec"]["serviceAccountName"]
    user = f"system:serviceaccount:{SYSTEM_NAMESPACE}:{account}"
    verbs = {"create": "POST", "patch": "PATCH", "update": "PUT", "delete": "DELETE"}
    found: Counter[str] = Counter()
    for log in logs.glob("audit*.log"):
        for line in log.read_text().splitlines():
            if f'"namespace":"{cluster.namespace}"' not in line or user not in line:
                continue
            event = json.loads(line)
            what = event["objectRef"]
            if event["user"]["username"] == user:
                found[_name(verbs[event["verb"]], what["resource"], what.get("subresource", ""))] += 1
    return found


def _name(verb: str, resource: str, subresource: str) -> str:
    return f"{verb} {resource}" + (f"/{subresource}" if subresource else "")


def measure(options: argparse.Namespace) -> None:
    load = Load(options.trials, options.parallelism, options.seconds)
    with cluster(options.as_installed) as found:
        heading("bench-trials: real trials, and their API writes", **found.versions())
        counts: Counter[str] = Counter()
        cpu: list[float] = []
        process = operator_process(found.operator_pod())

        def around(run: Callable[[], Run]) -> Run:
            before, used = counted(found), cpu_seconds(process)
            result = run()
            cpu.append(cpu_seconds(process) - used)
            counts.update(counted(found) - before)
            return result

        studies, bare = alternate(found, load, options.repetitions, around)
        trials = load.trials * options.repetitions
        writes = _audit(found)
        total, by_counters = writes.total() / trials, counts.total() / trials
        rows = [
            *turnaround_rows(studies, bare),
            ("operator's CPU", spread(cpu, " s"), "", ""),
            ("operator's API writes per trial, audit log", number(total), "0", "<= 5"),
            ("  the same without Events, API server's counters", number(by_counters), "0", ""),
        ]
        show(load, studies, bare, rows, "< 1.05x")
        if counts.total() != sum(n for what, n in writes.items() if not what.endswith("events")):
            print("\nThe two counts differ: somebody else has used the cluster meanwhile. Repeat it.")
        for title, count in (("Audit log", writes), ("Counters", counts)):
            print(
                f"\n{title}: " + ", ".join(f"{what} {n}" for what, n in sorted(count.items())) + f" in {trials} trials"
            )


def _audit(found: Cluster) -> Counter[str]:
    """The operator's writes, once the log has caught up with what happened."""
    logs = Path(os.environ["KUBECONFIG"]).parent / "logs"
    marker = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "end-of-benchmark"}}
    found.call("POST", f"api/v1/namespaces/{found.namespace}/configmaps", marker)
    seen = f"/api/v1/namespaces/{found.namespace}/configmaps"
    eventually(lambda: seen in (logs / "audit.log").read_text(), "the audit log is written", 60)
    return audited(found, logs)


if __name__ == "__main__":
    sys.exit(
        command(
            __doc__ or "",
            measure,
            repetitions=(int, 2, "how often study and bare Jobs have their turn"),
            trials=(int, 40, "trials of a study"),
            parallelism=(int, 4, "trials at once"),
            seconds=(int, 5, "how long a trial sleeps"),
            as_installed=(bool, False, "measure the operator that is installed, and install nothing"),
        )
    )

"""CPU and memory of the operator's pod while nothing happens, with many studies there, and without any.

50 studies have finished; of 10 that have not, half have a trial that sleeps without a report and half one that waits
for GPUs that no node has. The operator is restarted first, measured without studies, then runs the studies in the same
pod and is measured again, from /proc. By default each window is as long as the operator's resync, so that one falls
into it.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from cluster import (
    SYSTEM_NAMESPACE,
    Cluster,
    Failed,
    cluster,
    cpu_seconds,
    eventually,
    has_condition,
    memory,
    operator_process,
    pod_processes,
)
from figures import command, heading, number, progress, table

LONG = 7200  # seconds that an idle study's trial sleeps without a report
SETTLE = 30.0  # seconds between the last change and the window


class Cost(NamedTuple):
    """CPU of the pod, in per cent of one core. Memory in MiB: resident, of the operator's process; of the whole pod,
    where a page that processes share counts once."""

    cpu: float
    resident: float
    pod: float


def cost(pod: dict[str, Any], seconds: float) -> Cost:
    """What a pod of the operator costs over that time. Memory is sampled each second; the most is what counts."""
    progress(f"measuring for {seconds:.0f} s")
    operator = operator_process(pod)
    resident, of_pod = [], []
    used, begun = _cpu_seconds(pod), time.monotonic()
    while (elapsed := time.monotonic() - begun) < seconds:
        resident.append(memory(operator, "VmRSS"))
        of_pod.append(_pod_memory(pod))
        time.sleep(1)
    return Cost(100 * (_cpu_seconds(pod) - used) / elapsed, max(resident), max(of_pod))


def _cpu_seconds(pod: dict[str, Any]) -> float:
    return _sum(pod, cpu_seconds)


def _pod_memory(pod: dict[str, Any]) -> float:
    return _sum(pod, lambda process: memory(process, "Pss", "smaps_rollup"))


def _sum(pod: dict[str, Any], of: Callable[[int], float]) -> float:
    """The sum over the pod's processes. Those that compute suggestions may end at any time."""
    total = 0.0
    for process in pod_processes(pod):
        with contextlib.suppress(Failed, StopIteration, ProcessLookupError):
            total += of(process)
    return total


def restart(found: Cluster) -> dict[str, Any]:
    """Has the operator begin anew. Returns its pod."""
    old = found.operator_pod()["metadata"]
    found.call("DELETE", f"api/v1/namespaces/{SYSTEM_NAMESPACE}/pods/{old['name']}")
    eventually(lambda: _ready(found, old["uid"]), "the operator is ready")
    return found.operator_pod()


def _ready(found: Cluster, old: str) -> bool:
    pods = found.call("GET", f"api/v1/namespaces/{SYSTEM_NAMESPACE}/pods")["items"]
    operators = [p for p in pods if p["metadata"]["labels"].get("app.kubernetes.io/component") == "operator"]
    return len(operators) == 1 and operators[0]["metadata"]["uid"] != old and has_condition(operators[0], "Ready")


def populate(found: Cluster, finished: int, idle: int) -> None:
    """Creates the studies and waits until they are as they should be."""
    progress(f"running {finished} studies of 2 trials to their end, and starting {idle} that stay")
    for i in range(idle):
        waits = {"gpusPerTrial": 64} if i % 2 else {}
        found.create(found.study(f"idle-{i}", LONG, 10, 1, every=LONG, **waits))
    for i in range(finished):
        found.create(found.study(f"finished-{i}", 1, 2, 1))
        eventually(lambda limit=i - 8: _completed(found) >= limit, "studies complete")  # a node has room for 110 pods
    eventually(lambda: _completed(found) == finished, "all studies complete")
    eventually(lambda: _running(found) == idle, "idle studies have a trial")


def _completed(found: Cluster) -> int:
    return sum(has_condition(study, "Complete") for study in found.call("GET", found.path("studies"))["items"])


def _running(found: Cluster) -> int:
    studies = found.call("GET", found.path("studies"))["items"]
    return sum((study.get("status") or {}).get("trials", {}).get("running", 0) for study in studies)


def measure(options: argparse.Namespace) -> None:
    with cluster(options.as_installed) as found:
        heading("bench-idle: what the operator costs while nothing happens", **found.versions())
        others = len(found.call("GET", "apis/study-operator.io/v1alpha1/studies")["items"])
        pod = restart(found)
        time.sleep(SETTLE)
        before = cost(pod, options.seconds)
        populate(found, options.finished, options.idle)
        time.sleep(SETTLE)
        after = cost(pod, options.seconds)
        print(f"{options.finished} finished studies, {options.idle} idle; over {options.seconds} s each\n")
        if others:
            print(f"(and {others} of other namespaces, in both columns)\n")
        rows = (
            ("CPU, of one core", f"{number(before.cpu)} %", f"{number(after.cpu)} %", "< 1 %"),
            ("memory of the pod", f"{number(before.pod)} MiB", f"{number(after.pod)} MiB", "< 250 MB"),
            ("  operator, resident", f"{number(before.resident)} MiB", f"{number(after.resident)} MiB", "< 200 MB"),
        )
        table(("", "no studies", f"{options.finished + options.idle} studies", "aim"), rows)


if __name__ == "__main__":
    sys.exit(
        command(
            __doc__ or "",
            measure,
            finished=(int, 50, "finished studies"),
            idle=(int, 10, "idle studies"),
            seconds=(int, 300, "the length of each window"),
            as_installed=(bool, False, "measure the operator that is installed, and install nothing"),
        )
    )

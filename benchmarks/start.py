"""From `kubectl apply` to the first trial's pod running, beside `kubectl apply` of a bare Job with the same pod.

The image is on the node. The clock starts before kubectl does; a watch says when the Job and the pod are there and when
the pod runs. Study and bare Job take turns, each in an empty namespace.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

from cluster import Cluster, cluster
from figures import Failed, command, heading, progress, spread, table

STAGES = ("kubectl returns", "Job created", "pod created", "pod runs")


def start(cluster: Cluster, manifest: dict[str, Any]) -> dict[str, float]:
    """Applies a Study or a Job. Returns when each stage was reached, in seconds since before kubectl began."""
    begun = time.monotonic()
    apply = ["kubectl", "-n", cluster.namespace, "apply", "-f", "-"]
    done = subprocess.run(apply, input=json.dumps(manifest), capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"kubectl apply: {done.stderr}")
    reached = {"kubectl returns": time.monotonic() - begun}
    while "pod runs" not in reached:
        event = cluster.next_event(begun + 120, "the first pod runs")
        if event.resource == "jobs":
            reached.setdefault("Job created", event.at - begun)
        else:
            reached.setdefault("pod created", event.at - begun)
            if event.object["status"].get("phase") == "Running":
                reached["pod runs"] = event.at - begun
    return reached


def measure(options: argparse.Namespace) -> None:
    with cluster(options.as_installed) as found:
        heading("bench-start: from kubectl apply to a running pod", **found.versions())
        found.watch("jobs", "pods")
        studies, bare = [], []
        for i in range(options.repetitions):
            progress(f"repetition {i + 1} of {options.repetitions}")
            studies.append(start(found, found.study(f"study-{i}", 60, 1, 1)))
            found.clear()
            bare.append(start(found, found.job(f"bare-{i}", 60)))
            found.clear()
        print(f"seconds since before kubectl began; median of {options.repetitions} repetitions (least-most)\n")
        rows = [
            (
                stage,
                spread([times[stage] for times in studies], " s"),
                spread([times[stage] for times in bare], " s"),
                "< 3 s" if stage == "pod runs" else "",
            )
            for stage in STAGES
        ]
        table(("", "study", "bare Job", "aim"), rows)


if __name__ == "__main__":
    sys.exit(
        command(
            __doc__ or "",
            measure,
            repetitions=(int, 7, "how often study and bare Job have their turn"),
            as_installed=(bool, False, "measure the operator that is installed, and install nothing"),
        )
    )

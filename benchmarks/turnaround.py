"""From a Job's completion to the next Job's creation, and a study's wall time, beside bare Jobs in the same run.

Bare Jobs are run by a loop that watches Jobs and creates the next when one is complete. They have the trials' image,
command and pod; what a trial reports to the database, a bare Job prints. Both are timed by one watch.
"""

from __future__ import annotations

import argparse
import sys

from cluster import cluster
from figures import command, heading
from pairs import Load, alternate, show, turnaround_rows


def measure(options: argparse.Namespace) -> None:
    load = Load(options.trials, options.parallelism, options.seconds)
    with cluster(options.as_installed) as found:
        heading("bench-turnaround: from a free slot to the next Job", **found.versions())
        studies, bare = alternate(found, load, options.repetitions, lambda run: run())
        show(load, studies, bare, turnaround_rows(studies, bare), "< 1.2x")


if __name__ == "__main__":
    sys.exit(
        command(
            __doc__ or "",
            measure,
            repetitions=(int, 3, "how often study and bare Jobs have their turn"),
            trials=(int, 40, "trials of a study"),
            parallelism=(int, 4, "trials at once"),
            seconds=(int, 2, "how long a trial sleeps"),
            as_installed=(bool, False, "measure the operator that is installed, and install nothing"),
        )
    )

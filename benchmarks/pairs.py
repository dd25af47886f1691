"""A study and the same number of bare Jobs, one after the other: what `turnaround.py` and `trials.py` measure."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from cluster import Cluster, Event
from figures import Failed, percentile, progress, spread, table


@dataclass(frozen=True)
class Load:
    """How many trials or Jobs, how many of them at once, and for how many seconds each sleeps."""

    trials: int
    parallelism: int
    seconds: int

    def deadline(self) -> float:
        """When, of `time.monotonic`, even a slow machine must have run it."""
        return time.monotonic() + 120 + 10 * (self.seconds + 10) * self.trials / self.parallelism


@dataclass
class Run:
    """Times in seconds, as the benchmark's own watch shows them: from the first request to the end of the last; from a
    Job's completion to the creation of the Job that takes its slot; from a Job's creation to its completion."""

    wall: float = 0.0
    turnarounds: list[float] = field(default_factory=list)
    lives: list[float] = field(default_factory=list)
    _free: deque[float] = field(default_factory=deque)
    _created: dict[str, float] = field(default_factory=dict)

    def see(self, event: Event) -> bool:
        """Takes an event of a Job; true when it says that the Job is complete, for the first time.

        Raises:
            Failed: the Job has failed.
        """
        if event.type == "ADDED":
            self._created[event.name] = event.at
            if self._free:
                self.turnarounds.append(event.at - self._free.popleft())
        if event.became("Failed"):
            raise Failed(f"Job {event.name} has failed, so there is nothing to compare")
        if event.name not in self._created or not event.became("Complete"):
            return False
        self.lives.append(event.at - self._created.pop(event.name))
        self._free.append(event.at)
        return True


def study(cluster: Cluster, name: str, load: Load) -> Run:
    """Runs a Study from its creation until its condition Complete."""
    run, deadline, begun = Run(), load.deadline(), time.monotonic()
    cluster.create(cluster.study(name, load.seconds, load.trials, load.parallelism))
    while True:
        event = cluster.next_event(deadline, f"study {name} completes")
        if event.resource == "jobs":
            run.see(event)
        elif event.became("Failed"):
            raise Failed(f"study {name} has failed; its trials should not")
        elif event.became("Complete"):
            run.wall = event.at - begun
            return run


def bare_jobs(cluster: Cluster, name: str, load: Load) -> Run:
    """Runs as many Jobs by the simplest loop there is: one is complete, the next is created."""
    run, deadline, begun = Run(), load.deadline(), time.monotonic()
    created = ended = 0
    while ended < load.trials:
        while created < min(load.trials, ended + load.parallelism):
            cluster.create(cluster.job(f"{name}-{created}", load.seconds))
            created += 1
        event = cluster.next_event(deadline, f"the bare Jobs {name} complete")
        if event.resource == "jobs" and run.see(event):
            ended += 1
            run.wall = event.at - begun
    return run


def alternate(
    cluster: Cluster, load: Load, repetitions: int, around_study: Callable[[Callable[[], Run]], Run]
) -> tuple[list[Run], list[Run]]:
    """Study, bare Jobs, study, bare Jobs, and so on, each in an empty namespace. `around_study` runs the study."""
    cluster.watch("jobs", "studies")
    studies, bare = [], []
    for i in range(repetitions):
        progress(f"repetition {i + 1} of {repetitions}: study, then bare Jobs")
        studies.append(around_study(lambda i=i: study(cluster, f"study-{i}", load)))
        cluster.clear()
        bare.append(bare_jobs(cluster, f"bare-{i}", load))
        cluster.clear()
    return studies, bare


def show(load: Load, studies: list[Run], bare: list[Run], rows: list[tuple[str, str, str, str]], aim: str) -> None:
    """Prints the walls and their ratio, and then `rows`."""
    print(
        f"{load.trials} trials that sleep {load.seconds} s and report each second, {load.parallelism} at once; "
        f"median of {len(studies)} repetitions (least-most)\n"
    )
    ratio = spread([own.wall / floor.wall for own, floor in zip(studies, bare, strict=True)], "x")
    walls = (spread([run.wall for run in studies], " s"), spread([run.wall for run in bare], " s"))
    head = ("", "study", "bare Jobs", "aim")
    table(head, [("wall time", *walls, ""), ("study / bare Jobs", ratio, "1", aim), *rows])


def turnaround_rows(studies: list[Run], bare: list[Run]) -> list[tuple[str, str, str, str]]:
    """The rows of a Job's life, and of the turnaround's p50 and p99, each over the repetitions."""
    lives = (spread([statistics.median(run.lives) for run in runs], " s") for runs in (studies, bare))
    rows = [("Job created to complete, p50", *lives, "")]
    for what, aim, figure in (
        ("p50", "< 100 ms", statistics.median),
        ("p99", "< 500 ms", lambda values: percentile(values, 99)),
    ):
        own, floor = (spread([figure(run.turnarounds) for run in runs], " ms", 1000) for runs in (studies, bare))
        rows.append((f"Job complete to next Job, {what}", own, floor, aim))
    return rows

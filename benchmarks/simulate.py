"""What many studies need, simulated: replicas of the operator as queues, with costs that were measured.

An event queue in virtual time. A trial keeps its slot until it ends; its end makes its study due for a look; a replica
gives its looks one core, one after the other (Python runs one thread at a time); a look tells what has ended and starts
as many trials as slots are free. A Job's pod runs once the control plane, which starts so many a second and no more,
gets to it. What is computed for the scenarios of `make bench-scale` stands beside what was measured there.

What is not in it: waiting for the database and the API server, which other studies' looks fill; reports, which cause
looks where something prunes; failures; and the nodes.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from figures import command, heading, progress, table


class Costs(NamedTuple):
    """Seconds of CPU of the operator.

    Attributes:
        look: one look at a study, and `running` more for each of its running trials.
        trial: everything for one trial from its suggestion to the deletion of its Job, but the suggestion itself.
        suggest: of one suggestion, by the number of trials that the study has.
    """

    look: float
    running: float
    trial: float
    suggest: Callable[[int], float]


class Load(NamedTuple):
    """What is to be run.

    Attributes:
        trials, parallel: of each study.
        seconds: how long a trial takes: the least and the most.
    """

    studies: int
    trials: int
    parallel: int
    seconds: tuple[float, float]


class Outcome(NamedTuple):
    """What came of it.

    Attributes:
        wall: seconds until the last trial had ended.
        ideal: seconds that the same trials take when every slot is filled at once.
        busiest, cores: CPU of the busiest replica, and of all of them together, in cores.
        waited: seconds from a trial's end to the next trial's Job: median and 99th percentile.
    """

    wall: float
    ideal: float
    busiest: float
    cores: float
    waited: tuple[float, float]


@dataclass
class _Study:
    trials: int
    parallel: int
    replica: int
    started: int = 0
    running: int = 0
    ended: list[float] = field(default_factory=list)  # when, of trials not told yet
    due: bool = False


def suggest_random(trials: int) -> float:
    """Optuna's RandomSampler: as much with any number of trials."""
    return 0.0012


def suggest_tpe(trials: int) -> float:
    """The operator's TPE, ten parameters."""
    return 0.005 + 6e-6 * trials


SAMPLERS = {"Random": suggest_random, "TPE": suggest_tpe}
# Of `make bench-scale` and `make bench-suggest`, as docs/benchmarks.md has them.
COSTS = Costs(look=0.010, running=0.00005, trial=0.014, suggest=suggest_random)
PODS_PER_SECOND = 55.0  # as the control plane of `make bench-scale` starts bare Jobs: 200 in 3.9 s, 1,000 in 16.8 s

# What was measured: name, load, sampler, seconds, cores of the operator.
MEASURED: list[tuple[str, Load, str, float, float]] = [
    ("b1", Load(1, 600, 200, (30.0, 30.0)), "TPE", 110, 0.161),
    ("b2", Load(1, 2000, 1000, (30.0, 60.0)), "TPE", 152, 0.330),
    ("c", Load(1, 10_000, 1000, (30.0, 60.0)), "Random", 622, 0.176),
]
_MINUTES = 60.0
# What people ask about: the same 100,000 trials, 10,000 at once, as one study or as many.
ASKED = [
    *((1, 100_000, 10_000, minutes) for minutes in (5, 30)),
    *((10, 10_000, 1_000, minutes) for minutes in (5, 30)),
    *((100, 1_000, 100, minutes) for minutes in (5, 30)),
]


def simulate(load: Load, costs: Costs, replicas: int, pods_per_second: float, seed: int = 0) -> Outcome:
    """Runs `load` on so many replicas.

    Args:
        pods_per_second: how many pods the cluster's control plane starts in a second.
    """
    dice = random.Random(seed)
    studies = [_Study(load.trials, load.parallel, i % replicas) for i in range(load.studies)]
    due: list[deque[_Study]] = [deque() for _ in range(replicas)]
    busy = [False] * replicas
    used = [0.0] * replicas
    waits: list[float] = []
    order = itertools.count()
    events: list[tuple[float, int, Callable[[float], None]]] = []
    next_pod = 0.0
    last_end = 0.0

    def at(when: float, what: Callable[[float], None]) -> None:
        heapq.heappush(events, (when, next(order), what))

    def wake(study: _Study, now: float) -> None:
        if not study.due:
            study.due = True
            due[study.replica].append(study)
            work(study.replica, now)

    def work(replica: int, now: float) -> None:
        if busy[replica] or not due[replica]:
            return
        busy[replica] = True
        study = due[replica].popleft()
        study.due = False
        ended, study.ended = study.ended, []
        study.running -= len(ended)
        count = min(study.parallel - study.running, study.trials - study.started)
        took = costs.look + costs.running * study.running
        begun: list[float] = []  # when each Job is created, from now
        for _ in range(count):
            took += costs.suggest(study.started) + costs.trial
            study.started += 1
            study.running += 1
            begun.append(took)
        used[replica] += took
        waits.extend(now + moment - end for moment, end in zip(begun, ended, strict=False))
        for moment in begun:
            at(now + moment, lambda when, study=study: create(study, when))
        at(now + took, lambda when, replica=replica: done(replica, when))

    def done(replica: int, now: float) -> None:
        busy[replica] = False
        work(replica, now)

    def create(study: _Study, now: float) -> None:
        nonlocal next_pod
        next_pod = max(now, next_pod) + 1 / pods_per_second
        at(next_pod + dice.uniform(*load.seconds), lambda when: end(study, when))

    def end(study: _Study, now: float) -> None:
        nonlocal last_end
        last_end = now
        study.ended.append(now)
        wake(study, now)

    for study in studies:
        wake(study, 0.0)
    while events:
        when, _, what = heapq.heappop(events)
        what(when)
    waits.sort()
    middle = (load.seconds[0] + load.seconds[1]) / 2
    return Outcome(
        wall=last_end,
        ideal=load.trials / load.parallel * middle,
        busiest=max(used) / last_end,
        cores=sum(used) / last_end,
        waited=(waits[len(waits) // 2], waits[len(waits) * 99 // 100]) if waits else (0.0, 0.0),
    )


def check() -> None:
    """Prints what was measured beside what is computed for the same."""
    rows = []
    for name, load, sampler, wall, cores in MEASURED:
        found = simulate(load, COSTS._replace(suggest=SAMPLERS[sampler]), 1, PODS_PER_SECOND)
        rows.append((name, sampler, f"{wall:.0f} s", f"{found.wall:.0f} s", f"{cores:.2f}", f"{found.cores:.2f}"))
    table(("scenario", "sampler", "measured", "computed", "cores measured", "computed"), rows)


def ask(replicas: list[int], pods_per_second: float) -> None:
    """Prints what the loads that people ask about come to."""
    rows = []
    for (studies, trials, parallel, minutes), sampler, count in itertools.product(ASKED, SAMPLERS, replicas):
        if count > studies:
            continue  # a study is served by one replica
        load = Load(studies, trials, parallel, (0.8 * minutes * _MINUTES, 1.2 * minutes * _MINUTES))
        progress(f"{studies} studies of {trials} trials of {minutes} minutes, {parallel} at once: {sampler}, {count}")
        found = simulate(load, COSTS._replace(suggest=SAMPLERS[sampler]), count, pods_per_second)
        rows.append(
            (
                f"{studies} x {parallel}",
                f"{minutes} min",
                sampler,
                str(count),
                f"{found.wall / found.ideal:.2f}x",
                f"{found.busiest:.2f}",
                f"{found.waited[0]:.1f} s, {found.waited[1]:.1f} s",
            )
        )
    head = ("studies x parallel", "trial", "sampler", "replicas", "wall time / ideal", "busiest replica (cores)")
    table((*head, "free slot to Job: p50, p99"), rows)


def measure(options: argparse.Namespace) -> None:
    heading("100,000 trials, 10,000 at once: simulated")
    check()
    print()
    ask([int(count) for count in options.replicas.split(",")], options.pods_per_second)


if __name__ == "__main__":
    sys.exit(
        command(
            __doc__,
            measure,
            replicas=(str, "1,2,4,10", "how many replicas of the operator, separated by commas"),
            pods_per_second=(float, 200.0, "pods that the control plane of the cluster asked about starts in a second"),
        )
    )

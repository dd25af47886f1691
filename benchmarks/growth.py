"""How cost grows: figures at ten and a hundred times the work, kept as JSON for plots.py.

reports      clients that report at once, beside Optuna's own and a plain INSERT
parallel     trials of one study that run at once, beside the same bare Jobs
studies      studies that begin at once, each with one trial, beside the same bare Jobs
idle         studies that have ended and stay

Suggestions are measured by suggest.py, which keeps its figures itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import report
from figures import ROOT, Failed, command, progress
from load import STUDIES, Api, cpu, eventually, free_port, operator, peak_memory, ready, services
from scale import Driver, Run, run_bare, run_studies
from workload import Scenario, study_manifest

FIGURES = ROOT / "docs/figures"
_LOGS = Path("/var/tmp/study-operator-bench-scale/growth")
_WINDOW = 120.0  # seconds over which idle studies are measured, with a resync in each half of it
_SETTLE = 20.0  # before it

Curves = dict[str, list[tuple[float, float]]]


def sizes(most: int) -> tuple[int, ...]:
    """How many trials or studies are measured; a tenth of it are clients."""
    return tuple(size for size in (10, 100, 1000) if size <= most)


def keep(name: str, title: str, x: str, y: str, curves: Curves) -> None:
    """Writes one plot's figures, with where and when they were measured."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    machine = f"{os.cpu_count()} cores ({model[1] if model else platform.machine()})"
    figures = {"title": title, "x": x, "y": y, "machine": machine, "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    rounded = {label: [(at, float(f"{value:.3g}")) for at, value in points] for label, points in curves.items()}
    FIGURES.mkdir(exist_ok=True)
    (FIGURES / f"{name}.json").write_text(json.dumps({**figures, "curves": rounded}, indent=1) + "\n")
    for label, points in rounded.items():
        print(f"{title}; {label}: " + ", ".join(f"{at:g}: {value:g}" for at, value in points), flush=True)


def reports(most: int) -> None:
    curves: Curves = {"study_trial": [], "Optuna": [], "plain INSERT": []}
    with report.database() as place:
        for clients in (size // 10 for size in sizes(most)):
            for way, points in curves.items():
                progress(f"reports: {clients} clients, {way}")
                took = [report.run(way, place, report.new_trials(place, clients), 3.0) for _ in range(3)]
                points.append((clients, statistics.median(len(times) / 3.0 for times in took)))
    keep("reports", "Reports stored per second", "clients that report as fast as they can", "reports/s", curves)


def parallel(most: int) -> None:
    runs = {p: _pair(Scenario(f"{p} parallel", 1, 2 * p, p, 30_000)) for p in sizes(most)}
    _keep_fill("parallel-fill", "Time until 95% of a study's slots are filled", "trials at once", runs)
    curves: Curves = {"operator": [(p, 1000 * own.cpu["operator"] / (2 * p)) for p, (own, _) in runs.items()]}
    keep("parallel-cpu", "Operator's CPU per trial, one study", "trials at once", "ms", curves)


def studies(most: int) -> None:
    runs = {n: _pair(Scenario(f"{n} studies", n, 1, 1, 30_000)) for n in sizes(most)}
    _keep_fill("studies-fill", "Time until 95% of all studies have a trial that runs", "studies at once", runs)
    curves: Curves = {"operator": [(n, 1000 * own.cpu["operator"] / n) for n, (own, _) in runs.items()]}
    keep("studies-cpu", "Operator's CPU per study of one trial", "studies at once", "ms", curves)


def _pair(scenario: Scenario) -> tuple[Run, Run]:
    progress(f"growth: {scenario.title}")
    _LOGS.mkdir(parents=True, exist_ok=True)
    bare, own = asyncio.run(run_bare(scenario, _LOGS)), asyncio.run(run_studies(scenario, _LOGS))
    if not (own.finished and bare.finished and own.filled and bare.filled):
        raise Failed(f"{scenario.title}: not finished within {scenario.deadline():.0f} s")
    return own, bare


def _keep_fill(name: str, title: str, x: str, runs: dict[int, tuple[Run, Run]]) -> None:
    curves: Curves = {
        "studies": [(at, own.filled or 0.0) for at, (own, _) in runs.items()],
        "bare Jobs": [(at, bare.filled or 0.0) for at, (_, bare) in runs.items()],
    }
    keep(name, title, x, "s", curves)


def idle(most: int) -> None:
    _LOGS.mkdir(parents=True, exist_ok=True)
    load, memory = asyncio.run(_idle(sizes(most)))
    keep("idle-cpu", "CPU of an operator whose studies have all ended", "studies", "% of a core", {"operator": load})
    keep("idle-memory", "Peak memory of the same operator", "studies", "MB", {"operator": memory})


async def _idle(counts: tuple[int, ...]) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """One operator, to which ever more studies come, and end."""
    found_load: list[tuple[float, float]] = []
    found_memory: list[tuple[float, float]] = []
    scenario = Scenario("idle", max(counts), 1, 1, 5_000)
    async with services(False) as found, Driver.playing(found, True, _LOGS / "driver.log"):
        found.environment["RESYNC_SECONDS"] = str(int(_WINDOW / 2))
        api = Api(found.clients["driver"])
        try:
            port = free_port()
            with operator(found, _LOGS / "operator.log", port) as serving:
                await eventually(lambda: ready(port), "the operator is ready")
                made = 0
                for count in counts:
                    progress(f"idle: {count} studies")
                    for i in range(made, count):
                        await api.call("POST", STUDIES, study_manifest(scenario, f"s{i}"))
                    made = count
                    await _all_ended(api, count)
                    await asyncio.sleep(_SETTLE)
                    used, begun = cpu(serving.pid), time.monotonic()
                    await asyncio.sleep(_WINDOW)
                    busy = (cpu(serving.pid) - used) / (time.monotonic() - begun)
                    found_load.append((count, 100 * busy))
                    found_memory.append((count, peak_memory(serving.pid)))
        finally:
            await api.close()
    return found_load, found_memory


async def _all_ended(api: Api, count: int) -> None:
    deadline = time.monotonic() + 120 + count
    while True:
        items = (await api.call("GET", STUDIES))["items"]
        if sum("completionTime" in (item.get("status") or {}) for item in items) == count:
            return
        if time.monotonic() > deadline:
            raise Failed(f"not all of {count} studies have ended")
        await asyncio.sleep(2)


CURVES: dict[str, Callable[[int], None]] = {"reports": reports, "parallel": parallel, "studies": studies, "idle": idle}


def measure(options: argparse.Namespace) -> None:
    wanted = list(CURVES) if options.only == "all" else options.only.split(",")
    if unknown := [name for name in wanted if name not in CURVES]:
        raise Failed(f"nothing called {', '.join(unknown)}; there are {', '.join(CURVES)}")
    for name in wanted:
        CURVES[name](options.most)


if __name__ == "__main__":
    only = (str, "all", f"which, separated by commas: {', '.join(CURVES)}")
    most = (int, 1000, "trials or studies at the most: 100 gives two points of each curve, in minutes")
    sys.exit(command(__doc__ or "", measure, only=only, most=most))

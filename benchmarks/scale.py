"""Thousands of trials at once on imitated nodes, and the same bare Jobs without any operator on the same control plane.

Everything is real but the nodes: API server, etcd, controllers, scheduler, PostgreSQL and the operator, a process with
an identity of its own. kwok lets each pod run for the time that its trial has, and a driver reports for it five times
and at the end, through the real functions. Bare Jobs have the trials' manifests, and report nothing. Each run has a
control plane that nobody has used before.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from figures import Failed, command, heading, number, progress, table, version
from load import (
    JOBS,
    STUDIES,
    Api,
    Services,
    cpu,
    eventually,
    free_port,
    operator,
    peak_memory,
    ready,
    scrape,
    services,
)
from workload import REPORTS, SCENARIOS, Scenario, bare_job, study_manifest

from study_operator.manifests.job import Reporting
from study_operator.model.study import STUDY_LABEL, Study, parse

HERE = Path(__file__).resolve().parent
_AT_ONCE = 64  # creations in flight
_TICK, _SAY = 1.0, 10.0  # seconds between two samples, and two lines for those who wait


@dataclass
class Run:
    """What came of one run. Times in seconds since the first creation; CPU in seconds; memory in MB."""

    wall: float = 0.0
    finished: bool = False
    ended: int = 0  # trials or Jobs
    filled: float | None = None  # until 95% of the slots had a pod that ran
    most: int = 0  # pods that ran at once
    busy: float = 0.0  # share of the slots, on average over the wall time
    cpu: dict[str, float] = field(default_factory=dict)
    cores: float = 0.0  # of the operator, on average
    busiest: float = 0.0  # and over its busiest 10 s
    memory: float = 0.0
    status: int = 0  # bytes of the largest
    writes: Counter[str] = field(default_factory=Counter)
    distinct: int = 0
    complete: int = 0
    reports: int = 0  # accepted
    stored: int = 0
    refused: int = 0
    late: float = 0.0  # the latest final value, after its moment
    metrics: dict[str, float] = field(default_factory=dict)


class Driver:
    """The process that plays the pods."""

    def __init__(self, pipe: Any, log: Path) -> None:
        self._pipe, self._log = pipe, log
        self.state: dict[str, Any] = {}

    @classmethod
    @asynccontextmanager
    async def playing(cls, found: Services, reports: bool, log: Path) -> AsyncIterator[Driver]:
        with await asyncio.to_thread(open, log, "w") as errors:
            pipe = await asyncio.create_subprocess_exec(
                sys.executable,
                str(HERE / "load_driver.py"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                limit=2**28,
            )
        driver = cls(pipe, log)
        given = {"kubeconfig": found.clients["driver"], "reports": reports}
        pipe.stdin.write(json.dumps(given).encode() + b"\n")
        reading = asyncio.ensure_future(driver._read())
        try:
            await eventually(lambda: driver.state, f"the driver begins (see {log})")
            yield driver
        finally:
            reading.cancel()
            if pipe.returncode is None:
                pipe.kill()
            await pipe.wait()

    @property
    def pid(self) -> int:
        return self._pipe.pid

    def check(self) -> None:
        """Whether it is still there.

        Raises:
            Failed: it is not.
        """
        if self._pipe.returncode is not None:
            raise Failed(f"the driver has ended: {self._log.read_text()[-1000:]}")

    async def _read(self) -> None:
        while line := await self._pipe.stdout.readline():
            self.state = json.loads(line)

    async def end(self) -> dict[str, Any]:
        """Lets it end. Returns all that it has seen."""
        self._pipe.stdin.close()
        await eventually(lambda: "curve" in self.state, "the driver ends")
        return self.state


class Meter:
    """Samples processes while something runs."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._processes = processes
        self._before = {name: cpu(pid) for name, pid in processes.items()}
        self._samples: list[tuple[float, float]] = []
        self.memory = 0.0

    def sample(self) -> None:
        if (pid := self._processes.get("operator")) is not None:
            self._samples.append((time.monotonic(), cpu(pid)))
            self.memory = peak_memory(pid)

    def used(self) -> dict[str, float]:
        return {name: cpu(pid) - self._before[name] for name, pid in self._processes.items()}

    def busiest(self, window: float = 10.0) -> float:
        """The most cores that the operator has used over so many seconds."""
        found = 0.0
        for i, (begun, used) in enumerate(self._samples):
            later = next(((at, cpu) for at, cpu in self._samples[i:] if at - begun >= window), None)
            if later is not None:
                found = max(found, (later[1] - used) / (later[0] - begun))
        return found


async def run_studies(scenario: Scenario, logs: Path) -> Run:
    """The scenario's studies, served by the operator."""
    run = Run()
    async with services(scenario.default_limits) as found, Driver.playing(found, True, logs / "driver.log") as driver:
        api = Api(found.clients["driver"])
        try:
            port = free_port()
            with operator(found, logs / "operator.log", port) as serving:
                await eventually(lambda: ready(port), "the operator is ready")
                meter = Meter({**found.processes, "driver": driver.pid, "operator": serving.pid})
                left = {f"s{i}" for i in range(scenario.studies)}
                watching = asyncio.ensure_future(_watch_studies(api, left, run))
                begun = time.monotonic()
                creating = asyncio.ensure_future(_create_studies(api, scenario, sorted(left)))
                await _wait(scenario, "study", (watching, creating), driver, meter, run, begun)
                run.metrics = scrape(port)
                await _conclude(run, scenario, found, api, driver, meter, begun)
                _check_rows(run, found)
        finally:
            await api.close()
    return run


async def run_bare(scenario: Scenario, logs: Path) -> Run:
    """As many Jobs of the same kind, created as fast as that goes while no more than the same number run at once."""
    run = Run()
    async with services(scenario.default_limits) as found, Driver.playing(found, False, logs / "bare.log") as driver:
        api = Api(found.clients["driver"])
        try:
            meter = Meter({**found.processes, "driver": driver.pid})
            studies = {}
            for i in range(scenario.studies):  # as the API server would store them
                made = await api.call("POST", STUDIES, study_manifest(scenario, f"s{i}"), dryRun="All")
                studies[f"s{i}"] = parse(made)
            reporting = Reporting(found.settings.reporter_url, "0" * 64)
            begun = time.monotonic()
            working = asyncio.ensure_future(_run_jobs(api, scenario, studies, reporting, run))
            await _wait(scenario, "bare Jobs", (working,), driver, meter, run, begun)
            await _conclude(run, scenario, found, api, driver, meter, begun)
        finally:
            await api.close()
    return run


async def _watch_studies(api: Api, left: set[str], run: Run) -> None:
    """Ends when every study has ended well."""
    async for event in api.watch(STUDIES):
        study = event["object"]
        status = study.get("status") or {}
        run.status = max(run.status, len(json.dumps(status, separators=(",", ":")).encode()))
        for condition in status.get("conditions") or ():
            if condition["status"] == "True" and condition["type"] == "Failed":
                raise Failed(f"study {study['metadata']['name']} has failed: {condition['message']}")
            if condition["status"] == "True" and condition["type"] == "Complete":
                left.discard(study["metadata"]["name"])
        if not left:
            return


async def _run_jobs(api: Api, scenario: Scenario, studies: Mapping[str, Study], reporting: Reporting, run: Run) -> None:
    numbers = dict.fromkeys(studies, scenario.slots // scenario.studies)
    gate = asyncio.Semaphore(_AT_ONCE)
    tasks: set[asyncio.Task] = set()

    async def create(name: str, number: int) -> None:
        async with gate:
            await api.call("POST", JOBS, bare_job(studies[name], reporting, number))

    def start(name: str, number: int) -> None:
        task = asyncio.ensure_future(create(name, number))
        tasks.add(task)
        task.add_done_callback(lambda done: (tasks.discard(done), done.cancelled() or done.result()))

    for first in range(scenario.slots // scenario.studies):
        for name in studies:
            start(name, first)
    async for event in api.watch(JOBS, fieldSelector="status.successful=1"):
        if event["type"] != "ADDED":
            continue
        name = event["object"]["metadata"]["labels"][STUDY_LABEL]
        run.ended += 1
        if numbers[name] < scenario.trials:
            start(name, numbers[name])
            numbers[name] += 1
        if run.ended == scenario.total:
            return


async def _create_studies(api: Api, scenario: Scenario, names: list[str]) -> None:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def create(name: str) -> None:
        async with gate:
            await api.call("POST", STUDIES, study_manifest(scenario, name))

    await asyncio.gather(*(create(name) for name in names))


async def _wait(
    scenario: Scenario,
    what: str,
    tasks: tuple[asyncio.Future, ...],
    driver: Driver,
    meter: Meter,
    run: Run,
    begun: float,
) -> None:
    """Waits for the tasks, or until the scenario's deadline; samples and says how far it is meanwhile."""
    said = begun
    try:
        while not all(task.done() for task in tasks):
            await asyncio.wait([task for task in tasks if not task.done()], timeout=_TICK)
            run.wall = time.monotonic() - begun
            meter.sample()
            driver.check()
            for task in tasks:
                if task.done():
                    task.result()
            state = driver.state
            if time.monotonic() - said > _SAY:
                said = time.monotonic()
                trouble = f", {state['refused']} reports refused: {state['trouble']}" if state["refused"] else ""
                progress(
                    f"  {what}: {run.wall:.0f} s, {state['running']} running, {state['started']} of {scenario.total}"
                    f" started{trouble}"
                )
            if run.wall > scenario.deadline():
                progress(f"  {what}: not finished after {run.wall:.0f} s; going on without")
                return
        run.finished = True
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _conclude(
    run: Run, scenario: Scenario, found: Services, api: Api, driver: Driver, meter: Meter, begun: float
) -> None:
    """Puts down what driver, meter and audit log have seen."""
    run.cpu, run.busiest, run.memory = meter.used(), meter.busiest(), meter.memory
    run.cores = run.cpu.get("operator", 0.0) / run.wall
    seen = await driver.end()
    curve = [(at - begun, running, started) for at, running, started in seen["curve"]]
    run.most = max((running for _, running, _ in curve), default=0)
    run.filled = next((at for at, _, started in curve if started >= 0.95 * scenario.slots), None)
    area, before, running = 0.0, 0.0, 0
    for at, now, _ in curve:
        at = min(at, run.wall)
        area += running * (at - before)
        before, running = at, now
    run.busy = (area + running * (run.wall - before)) / (scenario.slots * run.wall)
    run.reports, run.refused = seen["reports"], seen["refused"]
    run.late = seen["late"][-1] if seen["late"] else 0.0
    await found.audited(api)
    run.writes = found.writes("operator")


def _check_rows(run: Run, found: Services) -> None:
    """What the database has: every trial's end and parameters, every report."""
    ((run.ended, run.complete),) = found.query(
        "SELECT count(*) FILTER (WHERE state NOT IN ('RUNNING', 'WAITING')),"
        " count(*) FILTER (WHERE state = 'COMPLETE') FROM trials"
    )
    ((run.distinct,),) = found.query(
        "SELECT count(DISTINCT params) FROM (SELECT t.study_id,"
        " string_agg(p.param_name || '=' || p.param_value::text, ',' ORDER BY p.param_name) AS params"
        " FROM trials t JOIN trial_params p USING (trial_id) GROUP BY t.trial_id, t.study_id) AS of_trials"
    )
    ((run.stored,),) = found.query("SELECT count(*) FROM trial_intermediate_values")


def show(scenario: Scenario, own: Run, bare: Run) -> None:
    """Prints one scenario's table."""
    trials = scenario.total
    ratio = f"{number(own.wall / bare.wall)}x" if own.finished and bare.finished else "-"
    writes = Counter({what: n for what, n in own.writes.items() if not what.endswith("(dry run)")})
    rows = [
        ("wall time", _wall(own, trials), _wall(bare, trials), "", scenario.katib),
        ("study / bare Jobs", ratio, "1", "1.2x", ""),
        ("95% of the slots filled after", _seconds(own.filled), _seconds(bare.filled), "as bare Jobs", ""),
        ("slots busy on average", f"{100 * own.busy:.0f}%", f"{100 * bare.busy:.0f}%", "", ""),
        ("most pods at once", str(own.most), str(bare.most), str(scenario.slots), ""),
        ("trials with parameters of their own", f"{own.distinct} of {trials}", "", "all", ""),
        ("trials COMPLETE", f"{own.complete} of {trials}", "", "all", ""),
        ("reports lost", str(REPORTS * trials - own.stored), "", "0", ""),
        ("operator's CPU, cores; busiest 10 s", f"{number(own.cores)}; {number(own.busiest)}", "", "< 1", ""),
        ("operator's peak memory", f"{own.memory:.0f} MB", "", "< 500 MB", ""),
        ("largest status", f"{own.status / 1024:.1f} KiB", "", "< 16 KiB", ""),
        ("operator's API writes per trial", number(writes.total() / trials), "0", "<= 4", ""),
    ]
    print(f"### {scenario.title}\n")
    table(("", "studies", "bare Jobs", "aim", "Katib 0.19"), rows)
    print("\nWrites: " + ", ".join(f"{what} {n}" for what, n in sorted(own.writes.items())))
    looks, took = (own.metrics.get(f"study_operator_reconcile_seconds_{name}", 0) for name in ("count", "sum"))
    asks, asked = (own.metrics.get(f"study_operator_suggest_seconds_{name}", 0) for name in ("count", "sum"))
    print(
        f"Operator: {looks:.0f} looks, {1000 * took / max(looks, 1):.0f} ms each; {asks:.0f} suggestions,"
        f" {1000 * asked / max(asks, 1):.1f} ms each. Latest final value {own.late:.1f} s late, {own.refused} calls"
        " refused."
    )
    for what, run in (("studies", own), ("bare Jobs", bare)):
        shares = sorted(run.cpu.items(), key=lambda item: -item[1])
        print(f"CPU with {what}, s: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in shares))
    print(flush=True)


def _wall(run: Run, total: int) -> str:
    return f"{number(run.wall)} s" if run.finished else f"> {run.wall:.0f} s, {run.ended} of {total}"


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{number(value)} s"


def measure(options: argparse.Namespace) -> None:
    wanted = (
        [name for name in SCENARIOS if name != "smoke"] if options.scenario == "all" else options.scenario.split(",")
    )
    if unknown := [name for name in wanted if name not in SCENARIOS]:
        raise Failed(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    heading("bench-scale: thousands of trials on imitated nodes", Optuna=version("optuna"))
    kept: dict[str, Any] = {}
    bare_runs: dict[Scenario, Run] = {}  # bare Jobs have no sampler
    for name in wanted:
        scenario = SCENARIOS[name]
        if options.sampler:
            scenario = dataclasses.replace(scenario, sampler=options.sampler)
        logs = Path(options.logs) / name
        logs.mkdir(parents=True, exist_ok=True)
        progress(f"{name}: {scenario.title}, sampler {scenario.sampler}")
        jobs = dataclasses.replace(scenario, title="", sampler="", katib="")
        if jobs not in bare_runs:
            bare_runs[jobs] = asyncio.run(run_bare(scenario, logs))
        bare = bare_runs[jobs]
        own = asyncio.run(run_studies(scenario, logs))
        show(scenario, own, bare)
        kept[name] = {"studies": vars(own), "bare": vars(bare)}
        if options.json:
            Path(options.json).write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(
        command(
            __doc__ or "",
            measure,
            scenario=(str, "all", f"which, separated by commas: {', '.join(SCENARIOS)}"),
            sampler=(str, "", "instead of the scenario's own"),
            logs=(str, "/var/tmp/study-operator-bench-scale", "where the logs of operator and driver go"),
            json=(str, "", "a file for all that was measured"),
        )
    )

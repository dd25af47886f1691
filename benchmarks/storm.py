"""A storm of reports: many trials that each report once a second, through study_trial, while an operator prunes.

  PgBouncer     by way of a PgBouncer in transaction mode, as docs/install.md configures it
  direct        each client with a connection of its own to PostgreSQL
  plain INSERT  the same rows inserted by the same clients, nobody listening: what PostgreSQL, driver and clients take

The operator is a process of its own, on the API server of the component tests and a PostgreSQL of the benchmark's own.
Every fifth trial is hopeless: the report of one step, known beforehand, is the first that Median prunes it for. It is
told with the answer to a later report; "late" is how many reports it has sent in between. A report that is retried
counts once, from the first attempt to the answer. Trials begin one after the other, 50 a second, as pods do in a
cluster, and ask each second whether to stop until all are there: then the storm begins.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import multiprocessing
import os
import random
import resource
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import psycopg2
import yaml
from figures import ROOT, Failed, command, heading, number, percentile, progress, table, version
from load import LOCAL_CLUSTER, Api, process
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT

sys.path.append(str(ROOT / "tests/component/support"))  # the tests' own PostgreSQL and PgBouncer
from pooler import Pooler
from postgres_server import PostgresServer

from study_operator.settings import Settings
from study_operator.storage.migrate import migrate
from study_trial._connection import Call, Connection
from study_trial._delivery import Delivery

WARM = 5  # trials that end before the storm, for Median to compare with
HOPELESS = 5  # every so many-th trial
_BEGINNING = 50  # trials a second
INSERT = (
    "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)"
    " VALUES (%s, %s, %s, 'FINITE')"
)
_processes = multiprocessing.get_context("fork")  # clients start with everything imported


class Program(NamedTuple):
    """What a trial's pod knows."""

    url: str
    key: str
    trial_id: int
    job: str
    hopeless: bool
    ramp: float = 0.0  # for how many seconds before the storm trials begin


class Outcome(NamedTuple):
    """What a client did: for how many seconds each report took, how many were accepted, and at which step it was told
    to stop."""

    took: list[float]
    accepted: int
    stopped: int | None
    hopeless: bool


def client(program: Program, begin: float, seconds: int) -> Outcome:
    """A trial's program: `study_trial`, with a report each second."""
    delivery = Delivery(Connection(program.url, program.key), 30.0, 120.0)
    took, accepted, stopped = [], 0, None
    about = {"call": "report", "trial": program.trial_id, "job": program.job}
    moment = begin - random.random() * program.ramp
    while moment < begin:
        time.sleep(max(0.0, moment - time.monotonic()))
        delivery.ask(Call({**about, "call": "should_stop"}, "a question"))
        moment = max(moment + 1.0, time.monotonic())
    for step, sent in _seconds(begin, seconds):
        call = Call({**about, "step": step, "value": 0.0 if program.hopeless else 1.0}, f"step {step}")
        stop = delivery.send(call)
        took.append(time.perf_counter() - sent)
        if stop:
            stopped = step
            break
        accepted += 1
    if delivery.waiting:
        delivery.send_final(Call({**about, "call": "should_stop"}, "the end"))
    return Outcome(took, accepted, stopped, program.hopeless)


def inserting(program: Program, begin: float, seconds: int) -> Outcome:
    """The same rows without any of that."""
    opened = psycopg2.connect(program.url)
    opened.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
    took = []
    with opened.cursor() as cursor:
        for step, sent in _seconds(begin, seconds):
            cursor.execute(INSERT, (program.trial_id, step, 1.0))
            took.append(time.perf_counter() - sent)
    opened.close()
    return Outcome(took, len(took), None, False)


def _seconds(begin: float, seconds: int) -> Iterator[tuple[int, float]]:
    """Steps, one each second at a moment of the client's own, and when it was (`time.perf_counter`)."""
    offset = random.random()
    for step in range(seconds):
        time.sleep(max(0.0, begin + offset + step - time.monotonic()))
        yield step, time.perf_counter()


def _clients(run: Callable, programs: list[Program], begin: float, seconds: int, answers) -> None:
    """One process with a thread for each of its clients."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who interrupts the benchmark interrupts its whole group
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    outcomes: list[Outcome] = []
    failed: list[str] = []

    def one(program: Program) -> None:
        try:
            outcomes.append(run(program, begin, seconds))
        except Exception as error:
            failed.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=one, args=(program,), daemon=True) for program in programs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used = resource.getrusage(resource.RUSAGE_SELF)
    answers.put((outcomes, failed, used.ru_utime + used.ru_stime))


class Storm(NamedTuple):
    """What a storm was like. `memory` is PostgreSQL's in bytes, `cpu` of the clients in seconds."""

    outcomes: list[Outcome]
    failed: list[str]
    sessions: int
    memory: int
    cpu: float


def storm(run: Callable, programs: list[Program], server: PostgresServer, options: argparse.Namespace) -> Storm:
    """Lets all clients report at once."""
    answers = _processes.Queue()
    begin = time.monotonic() + 3.0 + max(program.ramp for program in programs)
    shares = [programs[i :: options.processes] for i in range(options.processes)]
    started = [
        _processes.Process(target=_clients, args=(run, share, begin, options.seconds, answers), daemon=True)
        for share in shares
        if share
    ]
    for one in started:
        one.start()
    admin = psycopg2.connect(server.url())
    admin.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
    most, memory = 0, 0
    looked_at = begin + options.seconds / 2
    while time.monotonic() < begin + options.seconds:
        with admin.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name = %s",
                ("study-trial",),
            )
            most = max(most, cursor.fetchone()[0])
        if not memory and time.monotonic() > looked_at:
            memory = server.memory()
        time.sleep(0.5)
    admin.close()
    found = [answers.get(timeout=300) for _ in started]
    for one in started:
        one.join(30)
    return Storm(
        [outcome for outcomes, _, _ in found for outcome in outcomes],
        [text for _, failed, _ in found for text in failed],
        most,
        memory,
        sum(cpu for _, _, cpu in found),
    )


# The studies


class Studies:
    """Studies on the API server of the component tests, in a namespace of their own."""

    def __init__(self, api: Api, namespace: str, options: argparse.Namespace) -> None:
        self._api, self._namespace, self._options = api, namespace, options
        self.decides_at = max(1, min(10, options.seconds // 3))

    async def launch(self, way: str, query: Callable[..., list[tuple]]) -> list[Program]:
        """Starts studies for one way, lets their first trials end, and returns the programs of all others."""
        each = self._options.clients // self._options.studies
        names = [f"{way}-{i}" for i in range(self._options.studies)]
        for name in names:
            await self._api.call("POST", self._path("study-operator.io/v1alpha1", "studies"), self._study(name, each))
        jobs = await self._jobs(names, each + WARM)
        keys = {name: await self._secret(jobs[name][0]) for name in names}
        programs = []
        for name in names:
            for job in jobs[name]:
                trial = int(job["metadata"]["labels"]["study-operator.io/trial"])
                url, key = keys[name]
                trial_id = int(job["metadata"]["annotations"]["study-operator.io/trial-id"])
                program = Program(url, key, trial_id, job["metadata"]["name"], trial % HOPELESS == 0)
                if trial < WARM:
                    await self._end(program)
                else:
                    programs.append(program)
        await self._until(
            lambda: (
                query("SELECT count(*) FROM trials WHERE state = 'COMPLETE'")[0][0] % (WARM * len(names)) == 0
                and not query(
                    "SELECT 1 FROM study_operator.results JOIN trials USING (trial_id) WHERE state = 'RUNNING'"
                )
            ),
            "the first trials end",
        )
        return programs

    def _path(self, group: str, resource: str, name: str = "") -> str:
        prefix = "/api/v1" if group == "v1" else f"/apis/{group}"
        return f"{prefix}/namespaces/{self._namespace}/{resource}" + (f"/{name}" if name else "")

    def _study(self, name: str, trials: int) -> dict[str, Any]:
        container = {"name": "trial", "image": "none", "command": ["none"]}
        return {
            "apiVersion": "study-operator.io/v1alpha1",
            "kind": "Study",
            "metadata": {"name": name, "namespace": self._namespace},
            "spec": {
                "objectives": [{"name": "score", "direction": "Maximize"}],
                "parameters": [{"name": "x", "float": {"low": 0, "high": 1}}],
                "sampler": {"name": "Random"},
                "pruner": {"name": "Median", "options": {"n_startup_trials": WARM, "n_warmup_steps": self.decides_at}},
                "parallelism": trials + WARM,
                "maxTrials": trials + WARM,
                "jobTemplate": {
                    "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
                },
            },
        }

    async def _jobs(self, names: list[str], count: int) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}

        async def there() -> bool:
            items = (await self._api.call("GET", self._path("batch/v1", "jobs")))["items"]
            for name in names:
                found[name] = [job for job in items if job["metadata"]["labels"]["study-operator.io/study"] == name]
            return all(len(found[name]) == count for name in names)

        await self._until(there, "the operator creates the Jobs")
        return found

    async def _secret(self, job: dict[str, Any]) -> tuple[str, str]:
        environment = job["spec"]["template"]["spec"]["containers"][0]["env"]
        (name,) = {item["valueFrom"]["secretKeyRef"]["name"] for item in environment if "valueFrom" in item}
        data = (await self._api.call("GET", self._path("v1", "secrets", name)))["data"]
        return base64.b64decode(data["url"]).decode(), base64.b64decode(data["key"]).decode()

    async def _end(self, program: Program) -> None:
        """A trial whose values are between those of the others, and whose Job is complete."""
        connection = Connection(program.url, program.key)
        about = {"trial": program.trial_id, "job": program.job}
        for step in range(self._options.seconds):
            connection.call(Call({**about, "call": "report", "step": step, "value": 0.5}, "a report"), 60)
        connection.call(Call({**about, "call": "finish", "values": [0.5], "pruned": False}, "the end"), 60)
        connection.close()
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        condition = {"status": "True", "lastTransitionTime": now, "lastProbeTime": now, "reason": "CompletionsReached"}
        conditions = [{"type": type_, **condition} for type_ in ("SuccessCriteriaMet", "Complete")]
        status = {"startTime": now, "completionTime": now, "succeeded": 1, "conditions": conditions}
        path = self._path("batch/v1", "jobs", program.job) + "/status"
        await self._api.call("PATCH", path, {"status": status}, "application/merge-patch+json")

    async def _until(self, check: Callable[[], Any], what: str, seconds: float = 900) -> None:
        deadline = time.monotonic() + seconds
        while True:
            answer = check()
            if await answer if asyncio.iscoroutine(answer) else answer:
                return
            if time.monotonic() > deadline:
                raise Failed(f"{what}: not within {seconds:.0f} s")
            await asyncio.sleep(0.5)


# The whole


def measure(options: argparse.Namespace) -> None:
    if options.clients % options.studies:
        raise Failed(f"--clients must be a multiple of --studies, which is {options.studies}")
    up = subprocess.run([*LOCAL_CLUSTER, "test-services", "up"], stdout=subprocess.PIPE, text=True, check=True)
    asyncio.run(_measure(options, json.loads(up.stdout.strip().splitlines()[-1])["kubeconfig"]))


async def _measure(options: argparse.Namespace, kubeconfig: str) -> None:
    # A fifth of the connections is kept for others than trials' pods.
    server = PostgresServer(max_connections=options.clients * 5 // 4 + 100)
    namespace = f"storm-{secrets.token_hex(4)}"
    api = Api(kubeconfig)
    rows: list[tuple[str, ...]] = []
    try:
        server.start()
        environment = {
            "DATABASE_URL": server.url(),
            "REPORTER_PASSWORD": secrets.token_hex(16),
            "REPORTER_LOGINS": "shared",
            "STUDY_KEY_SEED": secrets.token_hex(16),
            "WATCH_NAMESPACES": namespace,
            "HTTP_PORT": "0",
        }
        settings = Settings.from_environment(environment)
        migrate(settings)
        await _prepare(api, namespace)
        studies = Studies(api, namespace, options)
        ((stored,),) = _query(server, "SELECT rolpassword FROM pg_authid WHERE rolname = %s", settings.reporter_user)
        with _operator(environment, kubeconfig), _pooler(settings.reporter_url, stored, options) as pooler:
            heading(
                f"bench-storm: {options.clients} trials of {options.studies} studies, a report each second for "
                f"{options.seconds} s",
                PostgreSQL=server.version(),
                PgBouncer=Pooler.version(),
                **{"psycopg2-binary": version("psycopg2-binary")},
            )
            for way, url in (("PgBouncer", pooler.url), ("direct", settings.reporter_url)):
                progress(f"{way}: waiting for {options.clients} trials")
                programs = await studies.launch(way.lower(), lambda *text: _query(server, *text))
                programs = [program._replace(url=url, ramp=options.clients / _BEGINNING) for program in programs]
                progress(f"{way}: storm")
                done = storm(client, programs, server, options)
                rows.append(_row(way, done, _stored(server, programs), studies.decides_at))
        progress("plain INSERT: storm")
        programs = _bare(server, options.clients)
        done = storm(inserting, programs, server, options)
        rows.append(_row("plain INSERT", done, _stored(server, programs), None))
    finally:
        if rows:  # what one way took holds, though another fails or somebody has enough of it
            _print(rows)
        try:
            await _remove(api, namespace)
        finally:
            await api.close()
            server.remove()
    if lost := [row[0] for row in rows if row[5] != "0"]:
        raise Failed(f"reports were lost: {', '.join(lost)}")


def _row(way: str, done: Storm, stored: int, decides_at: int | None) -> tuple[str, ...]:
    if done.failed:
        raise Failed(f"{way}: {len(done.failed)} clients failed, the first with {done.failed[0]}")
    took = [one for outcome in done.outcomes for one in outcome.took]
    accepted = sum(outcome.accepted for outcome in done.outcomes)
    times = [f"{number(1000 * value)} ms" for value in (percentile(took, 50), percentile(took, 99), max(took))]
    late = "-"
    if decides_at is not None:
        steps = [o.stopped - decides_at - 1 for o in done.outcomes if o.hopeless and o.stopped is not None]
        never = sum(outcome.hopeless and outcome.stopped is None for outcome in done.outcomes)
        wrongly = sum(outcome.stopped is not None and not outcome.hopeless for outcome in done.outcomes)
        if wrongly:
            raise Failed(f"{way}: {wrongly} trials were pruned that were not hopeless")
        late = f"{percentile(steps, 50)}, {percentile(steps, 99)}, {max(steps)}" if steps else "-"
        late += f" ({never} never)" if never else ""
    return (
        way,
        str(len(took)),
        *times,
        str(accepted - stored),
        str(done.sessions),
        f"{done.memory / 2**20:.0f} MiB",
        late,
        f"{number(1000 * done.cpu / len(took))} ms",
    )


def _print(rows: list[tuple[str, ...]]) -> None:
    head = ("", "reports", "p50", "p99", "most", "lost", "server connections", "PostgreSQL's memory")
    table((*head, "steps late: p50, p99, most", "client's CPU a report"), rows)


def _stored(server: PostgresServer, programs: list[Program]) -> int:
    ids = [program.trial_id for program in programs]
    return _query(server, "SELECT count(*) FROM trial_intermediate_values WHERE trial_id = ANY(%s)", ids)[0][0]


def _bare(server: PostgresServer, count: int) -> list[Program]:
    """RUNNING trials that nobody serves."""
    url = f"{server.url()}?application_name=study-trial"
    rows = _query(
        server,
        "WITH s AS (INSERT INTO studies (study_name) VALUES ('bare') RETURNING study_id)"
        " INSERT INTO trials (study_id, number, state) SELECT study_id, n, 'RUNNING' FROM s, generate_series(1, %s) n"
        " RETURNING trial_id",
        count,
    )
    return [Program(url, "", trial_id, "", False) for (trial_id,) in rows]


def _query(server: PostgresServer, text: str, *values: Any) -> list[tuple]:
    opened = psycopg2.connect(server.url())
    try:
        with opened, opened.cursor() as cursor:
            cursor.execute(text, values or None)
            return cursor.fetchall()
    finally:
        opened.close()


async def _prepare(api: Api, namespace: str) -> None:
    crd = yaml.safe_load((ROOT / "crds/study.yaml").read_text())
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    options = {"fieldManager": "storm", "force": "true"}
    await api.call("PATCH", f"{path}/{crd['metadata']['name']}", crd, "application/apply-patch+yaml", **options)
    await api.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    for attempt in itertools.count():
        try:
            await api.call("GET", f"/apis/study-operator.io/v1alpha1/namespaces/{namespace}/studies")
            return
        except Failed:
            if attempt == 100:
                raise
            await asyncio.sleep(0.1)


async def _remove(api: Api, namespace: str) -> None:
    """What would be left on an API server that others use too: no controller there collects anything."""
    for group, kind in (
        ("apis/study-operator.io/v1alpha1", "studies"),
        ("apis/batch/v1", "jobs"),
        ("api/v1", "secrets"),
        ("api/v1", "events"),
    ):
        await api.call("DELETE", f"/{group}/namespaces/{namespace}/{kind}", {"propagationPolicy": "Background"})


@contextmanager
def _operator(environment: dict[str, str], kubeconfig: str) -> Iterator[None]:
    with TemporaryDirectory() as directory:
        environment = {**os.environ, **environment, "KUBECONFIG": kubeconfig, "PYTHONPATH": str(ROOT / "operator")}
        log = Path(directory) / "operator.log"
        with process([sys.executable, "-m", "study_operator", "run"], log, env=environment) as started:
            yield
            if started.poll() is not None:
                raise Failed(f"the operator has ended: {log.read_text()[-500:]}")


@contextmanager
def _pooler(url: str, stored: str, options: argparse.Namespace) -> Iterator[Pooler]:
    no_tls = {"client_tls_sslmode": "disable", "server_tls_sslmode": "disable"}
    pooler = Pooler(url, stored, default_pool_size=options.pool, **no_tls)
    try:
        yield pooler
    finally:
        pooler.close()


if __name__ == "__main__":
    sys.exit(
        command(
            __doc__ or "",
            measure,
            clients=(int, 1000, "trials that report at once"),
            seconds=(int, 60, "for how long"),
            studies=(int, 10, "of how many studies they are"),
            processes=(int, 8, "the clients are threads of so many processes"),
            pool=(int, 16, "PgBouncer's default_pool_size"),
        )
    )

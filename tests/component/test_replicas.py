"""Several replicas of the operator, as processes: who serves what, and what comes of one that dies, stops or is cut
off."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import psycopg2
import pytest
from database import settings_for
from replica import Replica, Write, holders, replica
from waiting import until
from world import World, params_of

from study_operator.fence import HEARTBEAT_SECONDS, LEASE_SECONDS, SESSION_TIMEOUT_SECONDS, Hold, Lease, NotHeld, under
from study_operator.model.placement import share
from study_operator.model.study import StudyKey
from study_operator.storage.database import Database
from study_operator.storage.locks import Locks

PATIENCE_SECONDS = 120.0  # a safety net: starting a process takes seconds on a busy machine
LIMIT = 90.0  # studies go on elsewhere within 10 s; a machine that runs everything else beside this test is slower


@asynccontextmanager
async def replicas(
    world: World, folder: Path, kubeconfig: str, count: int, **settings: str
) -> AsyncIterator[list[Replica]]:
    """So many replicas, which have found each other."""
    async with AsyncExitStack() as stack:
        found = [
            await stack.enter_async_context(replica(world, folder, f"replica-{i}", kubeconfig, **settings))
            for i in range(count)
        ]
        for one in found:
            await joined(one, count)
        yield found


async def joined(one: Replica, members: int) -> None:
    async def has_joined() -> bool:
        assert one.process.process.poll() is None, one.process.log()
        return await one.joined(members)

    await until(has_joined, PATIENCE_SECONDS)


async def apply_and_wait(world: World, names: list[str], **spec: object) -> None:
    """Creates studies, and waits until the first trials of each run."""
    for name in names:
        await world.apply(name, **spec)

    async def all_run() -> bool:
        return all([await world.active(name) for name in names])

    await until(all_run, PATIENCE_SECONDS)


async def shares(found: list[Replica], studies: int) -> list[int]:
    """How many studies each replica serves, once every study is served."""

    async def all_served() -> list[int] | None:
        counts = [await one.serves() for one in found]
        return counts if sum(counts) == studies and min(counts) >= 0 else None

    return await until(all_served, PATIENCE_SECONDS)


async def server_of(found: list[Replica], name: str) -> Replica:
    """The replica that has started the trials of a study, none of which has moved. It says so a moment after the Job is
    there."""
    (one,) = await until(lambda: [one for one in found if f"started as Job {name}-" in one.process.log()])
    return one


async def goes_on(world: World, name: str, number: int) -> None:
    """Ends a trial, and waits until another one has been started instead."""
    before = {job["metadata"]["name"] for job in await world.jobs(name)}
    await world.finish(number, number / 10, study=name)
    await world.end_job(number, study=name)

    async def another() -> bool:
        return bool({job["metadata"]["name"] for job in await world.jobs(name)} - before)

    await until(another, PATIENCE_SECONDS)


async def run_out(world: World, names: list[str]) -> None:
    """Lets the pods of studies run to their ends; each study must end with exactly its trials."""

    async def ended() -> bool:
        for name in names:
            for number in await world.active(name):
                await world.finish(number, number / 10, study=name)
                await world.end_job(number, study=name)
        statuses = [(await world.study(name)).get("status") or {} for name in names]
        return all(status.get("phase") == "Succeeded" for status in statuses)

    await until(ended, PATIENCE_SECONDS)
    for name in names:
        most = (await world.study(name))["spec"]["maxTrials"]
        assert world.rows(name) == [(number, "COMPLETE") for number in range(most)]
        jobs = [job["metadata"]["name"] for job in await world.jobs(name)]
        assert sorted(jobs) == sorted(f"{name}-{number}" for number in range(most)), "one Job for each trial"
        points = [params_of(job)["x"] for job in await world.jobs(name)]
        assert len(set(points)) == most
        assert (await world.study(name))["status"]["progress"] == f"{most}/{most}"


async def test_studies_are_shared_out_and_move_only_to_the_one_that_comes(world, kubeconfig, tmp_path):
    names = [f"study{i}" for i in range(12)]
    keys = [StudyKey(world.namespace, name) for name in names]
    async with replicas(world, tmp_path, kubeconfig, 2) as two:
        await apply_and_wait(world, names, maxTrials=3, parallelism=1)
        counts = await shares(two, 12)
        assert sorted(counts) == sorted(len(share(members(world), member, keys)) for member in members(world))
        before, members_before = holders(world.database), members(world)
        async with replica(world, tmp_path, "replica-2", kubeconfig) as third:
            await joined(third, 3)
            (newcomer,) = members(world) - members_before
            own = {name for _, name in share(members(world), newcomer, keys)}

            def moved() -> bool:
                now = holders(world.database)
                assert all(now[name] == before[name] for name in names if name not in own), "the others stay"
                return all(now[name] > 0 and now[name] != before[name] for name in own)

            await until(moved, PATIENCE_SECONDS)
            assert len(own) == (await shares([*two, third], 12))[2]
            await run_out(world, names)
            assert all("taken over" not in one.process.log() for one in (*two, third)), "all were handed over"


def test_the_waits_together_are_shorter_than_ten_seconds():
    assert HEARTBEAT_SECONDS < LEASE_SECONDS < SESSION_TIMEOUT_SECONDS
    assert LEASE_SECONDS + 2 * HEARTBEAT_SECONDS < 10, "after a SIGKILL"
    assert SESSION_TIMEOUT_SECONDS + 2 * HEARTBEAT_SECONDS < 10, "after the last word of a replica that is stopped"


async def test_studies_of_a_replica_that_is_killed_go_on_within_ten_seconds(world, kubeconfig, tmp_path):
    names = [f"study{i}" for i in range(6)]
    async with replicas(world, tmp_path, kubeconfig, 3) as three:
        await apply_and_wait(world, names, maxTrials=4, parallelism=1)
        await shares(three, 6)
        victim = await server_of(three, "study0")
        killed = time.monotonic()
        victim.signal(signal.SIGKILL)
        await goes_on(world, "study0", 0)
        seconds = time.monotonic() - killed
        print(f"went on {seconds:.1f} s after SIGKILL")
        assert seconds < LIMIT
        await run_out(world, names)


async def test_studies_end_that_were_stopped_while_the_replica_that_serves_them_dies(world, kubeconfig, tmp_path):
    names = [f"study{i}" for i in range(4)]
    async with replicas(world, tmp_path, kubeconfig, 2) as two:
        await apply_and_wait(world, names, maxTrials=9, parallelism=1)
        await shares(two, 4)
        victim = await server_of(two, "study0")
        for name in names:
            await world.edit(name, stop="Terminate")
        victim.signal(signal.SIGKILL)

        async def all_stopped() -> bool:
            await world.remove_finalizers()
            return all([(await world.condition("Complete", name)).get("reason") == "Stopped" for name in names])

        await until(all_stopped, PATIENCE_SECONDS)
        for name in names:
            assert (world.rows(name), await world.jobs(name)) == ([(0, "FAIL")], [])
            await world.edit(name, stop=None, maxTrials=2)

        async def goes_on_alone() -> bool:
            return all([await world.active(name) == [1] for name in names])

        await until(goes_on_alone, PATIENCE_SECONDS)


async def test_a_replica_whose_connection_is_ended_goes_on_with_what_is_its_own(world, kubeconfig, tmp_path):
    async with replicas(world, tmp_path, kubeconfig, 2):
        await apply_and_wait(world, ["study0"], maxTrials=4, parallelism=1)
        world.database.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'study-operator locks' AND datname = current_database()"
        )
        cut = time.monotonic()
        await goes_on(world, "study0", 0)
        seconds = time.monotonic() - cut
        print(f"went on {seconds:.1f} s after all connections for locks were ended")
        assert seconds < LIMIT
        await run_out(world, ["study0"])


async def test_studies_of_a_replica_cut_off_from_the_database_go_on_elsewhere(world, kubeconfig, tmp_path):
    async with replicas(world, tmp_path, kubeconfig, 2) as two:
        await apply_and_wait(world, ["study0"], maxTrials=4, parallelism=1)
        victim = await server_of(two, "study0")
        cut = time.monotonic()
        victim.wire.silent = True
        await goes_on(world, "study0", 0)
        seconds = time.monotonic() - cut
        print(f"went on {seconds:.1f} s after the database fell silent to its replica")
        assert seconds < LIMIT
        taken_over = time.monotonic()
        await run_out(world, ["study0"])
        late = [write for write in victim.wrote_to("study0") if write.at > taken_over]
        assert late == []
        assert (await world.condition("StorageReady", "study0"))["status"] == "True"


async def test_an_outage_is_told_when_no_replica_is_ready(own_world, server, kubeconfig, tmp_path):
    """None of the replicas knows whether another one still has the database; Kubernetes does."""
    world = own_world
    slices = f"/apis/discovery.k8s.io/v1/namespaces/{world.namespace}/endpointslices"

    async def ready(*pods: bool) -> None:
        """What the kubelet and the controller of slices would say."""
        manifest = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "replicas", "labels": {"kubernetes.io/service-name": "replicas"}},
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": [f"10.0.0.{number}"], "conditions": {"ready": ready}}
                for number, ready in enumerate(pods, 1)
            ],
        }
        await world.cluster._call("DELETE", slices)
        await world.cluster._call("POST", slices, body=manifest)

    async def storage_ready() -> str:
        return (await world.condition("StorageReady", "study0")).get("status", "")

    async def told() -> bool:
        return await storage_ready() == "False"

    await ready(False, True)
    async with replicas(world, tmp_path, kubeconfig, 2, OPERATOR_SERVICE=f"{world.namespace}/replicas") as two:
        await apply_and_wait(world, ["study0"], maxTrials=4, parallelism=1)
        await until(storage_ready)
        server.stop()
        await until(lambda: all(one.front.reads.count(slices) >= 2 for one in two), PATIENCE_SECONDS)
        assert await storage_ready() == "True", "another replica may have the database"
        await ready(False, False)
        await until(told, PATIENCE_SECONDS)
        assert (await world.condition("Progressing", "study0"))["reason"] == "WaitingForStorage"
        server.start()
        await run_out(world, ["study0"])
        assert await storage_ready() == "True"


STOPS: dict[str, Callable[[Write], bool]] = {
    "first Job": lambda write: write.method == "POST" and write.path.endswith("/secrets"),
    "status": lambda write: write.method == "PATCH" and write.path.endswith("/status"),
}


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
async def test_a_replica_that_is_stopped_in_the_middle_of_its_work_does_nothing_more_when_it_continues(
    world, kubeconfig, tmp_path, stop
):
    """SIGSTOP at a write to the API server, which is answered only when another replica has taken over."""
    async with replicas(world, tmp_path, kubeconfig, 2) as two:
        for one in two:
            one.front.stop_at = stop
        await world.apply("study0", maxTrials=6, parallelism=3)

        def stopped() -> Replica | None:
            return next((one for one in two if state(one.pid) == "T"), None)

        victim = await until(stopped, PATIENCE_SECONDS)
        at = time.monotonic()
        (other,) = (one for one in two if one is not victim)
        other.front.stop_at = lambda _: False

        async def taken_over() -> bool:
            return len(await world.active("study0")) == 3 and bool(other.wrote_to("study0"))

        await until(taken_over, PATIENCE_SECONDS)
        print(f"taken over {time.monotonic() - at:.1f} s after SIGSTOP")
        assert time.monotonic() - at < LIMIT
        rows, jobs = row_versions(world), job_uids(await world.jobs("study0"))
        version = (await settled(world))["metadata"]["resourceVersion"]

        written = len(victim.front.writes)
        victim.signal(signal.SIGCONT)
        victim.front.go_on.set()
        await joined(victim, 2)  # it has found out, and is back
        await shares(two, 1)
        assert victim.front.writes[written:] == [], "nothing was sent by right of what it had lost"
        if (await other.serves()) == 1:
            assert (row_versions(world), job_uids(await world.jobs("study0"))) == (rows, jobs)
            assert (await world.study("study0"))["metadata"]["resourceVersion"] == version
        await run_out(world, ["study0"])


async def test_the_database_refuses_what_a_replica_still_writes_after_it_was_taken_over(world):
    """The fence in the database alone: a transaction that begins by right of an earlier hold."""
    trial = world.database.running_trial(study_name="team/study")
    studies, own = world.database.studies(), Database(world.settings.dsn)

    def note(value: str) -> None:
        with own.transaction(trial_id=trial) as cursor:
            cursor.execute(
                "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (%s, 'a', %s)"
                " ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json",
                (trial, value),
            )

    lease = Lease()
    lease.confirm(time.monotonic() + 1000)
    earlier, later = Hold(5, lease), Hold(6, lease)
    assert studies.take_over("team", "team/study", 5) == [0]
    with under(earlier):
        note("1")
    assert studies.take_over("team", "team/study", 6) == [5]
    with under(earlier), pytest.raises(NotHeld):
        note("2")
    assert not earlier.valid(), "nothing goes to Kubernetes either"
    with pytest.raises(NotHeld):
        studies.take_over("team", "team/study", 5)
    with under(later):
        note("3")
    studies.release([6])
    assert studies.take_over("team", "team/study", 7) == [-6]
    assert world.database.query("SELECT value_json FROM trial_user_attributes WHERE key = 'a'") == [("3",)]


async def test_a_rolling_update_hands_the_studies_over(world, kubeconfig, tmp_path):
    """As the Deployment does it: the next one is ready before one ends, one after the other, while trials run."""
    names = [f"study{i}" for i in range(4)]
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(replicas(world, tmp_path, kubeconfig, 2))
        await apply_and_wait(world, names, maxTrials=6, parallelism=1)
        new: list[Replica] = []
        gaps = []
        for i, leaving in enumerate(old):
            new.append(await stack.enter_async_context(replica(world, tmp_path, f"new-{i}", kubeconfig)))
            await joined(new[-1], 3)
            ending = asyncio.ensure_future(leaving.end())
            begun = time.monotonic()
            running = [(await world.active(name))[0] for name in names]
            await asyncio.gather(*map(goes_on, [world] * len(names), names, running))
            gaps.append(time.monotonic() - begun)
            assert await ending == 0
        print(f"four studies went on within {max(gaps):.1f} s of SIGTERM")
        assert max(gaps) < LIMIT
        await run_out(world, names)
        assert all("taken over" not in one.process.log() for one in new), "all were handed over"


async def test_a_deleted_study_is_seen_to_by_the_replica_that_served_it(world, kubeconfig, tmp_path):
    names = [f"study{i}" for i in range(4)]
    async with replicas(world, tmp_path, kubeconfig, 2) as two:
        await apply_and_wait(world, names, deletionPolicy="Delete")
        await shares(two, 4)
        for name in names:
            await world.delete_study(name)
        await until(lambda: not any(world.rows(name) for name in names), PATIENCE_SECONDS)

        async def let_go() -> bool:
            return [await one.serves() for one in two] == [0, 0]

        await until(let_go, PATIENCE_SECONDS)


def test_locks_of_another_login_count_for_nothing(database):
    """Any login may take an advisory lock; a pod must not pass for a replica."""

    async def members() -> dict[int, float]:
        with ThreadPoolExecutor(1) as executor:
            locks = await Locks.join(Database(settings_for(database).dsn), executor, 7)
            try:
                return await locks.members()
            finally:
                locks.close()

    database.query("GRANT EXECUTE ON FUNCTION pg_advisory_lock(int, int) TO study_reporter")
    with closing(psycopg2.connect(database.reporter_url)) as pod, pod.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(7, 1)")
        assert len(asyncio.run(members())) == 1


def members(world: World) -> set[int]:
    """The numbers of the replicas, as PostgreSQL shows them to all."""
    rows = world.database.query(
        "SELECT objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    return {number for (number,) in rows}


def state(pid: int) -> str:
    """The state of a process as in /proc."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def row_versions(world: World) -> list[tuple]:
    """Which transaction has written each row of a trial last."""
    return world.database.query("SELECT number, state::text, xmin::text FROM trials ORDER BY 1")


def job_uids(jobs: list[dict]) -> list[tuple[str, str]]:
    return sorted((job["metadata"]["name"], job["metadata"]["uid"]) for job in jobs)


async def settled(world: World) -> dict:
    """The Study, once its status shows the trials that run, and is not written any more."""

    async def shown() -> dict | None:
        study = await world.study("study0")
        running = (study.get("status") or {}).get("trials", {})
        return study if running.get("total") == 3 else None

    study = await until(shown, PATIENCE_SECONDS)
    await asyncio.sleep(1.5)  # not a wait for a condition: the last of the writes that come once a second
    return await world.study("study0") or study

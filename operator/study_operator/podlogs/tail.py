"""Reads the log of one pod on from where reading stopped, and stores the reports and values in it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from study_operator.kube.api_server import ApiError
from study_operator.kube.client import Cluster
from study_operator.model.final_values import joined, keyed
from study_operator.model.log_position import Place, Position, split
from study_operator.model.numerals import Steps
from study_operator.model.pod_status import program_of
from study_operator.model.printed_lines import LONGEST_LINE, Known, Lines, shortened
from study_operator.model.study import Study, StudyKey
from study_operator.podlogs.flow import Flows
from study_operator.podlogs.stream import PodLogs
from study_operator.pool import BlockingPool
from study_operator.storage.printed_output import Output, OutputBatch, OutputStored

# Lines are stored when so many have come, or after so many seconds. A pruner need not know sooner.
BATCH_LINES, BATCH_SECONDS = 500, 0.25
# A followed log that is silent for so long is opened anew, because its other end may be gone without a word.
SILENCE_SECONDS = 300.0
_READ_TIMEOUT_SECONDS = 30.0  # without an answer, when a log is read and not followed
_TIME_BYTES = 64  # at most so many are in front of a line
_LINE_BYTES_KEPT = LONGEST_LINE + _TIME_BYTES  # more than are read


class TrialEnded(Exception):
    """The trial has ended, so that what its program prints is of no use any more."""


class Overtaken(Exception):
    """Another reader of the same log has stored something meanwhile."""


@dataclass(frozen=True)
class Source:
    """A container of a trial's pod.

    Attributes:
        namespace: the pod's.
        pod: its name.
        container: its name.
        restarts: how often the container has been restarted.
    """

    namespace: str
    pod: str
    container: str
    restarts: int

    @classmethod
    def of(cls, pod: Mapping[str, Any], program: str) -> Source | None:
        """Return the container of a pod that runs the program; None if it has not run yet.

        Args:
            pod: the pod.
            program: the name of that container in the Study.
        """
        meta, name = pod["metadata"], program_of(pod, program)
        for container in (pod.get("status") or {}).get("containerStatuses") or ():
            state, restarts = container.get("state") or {}, container.get("restartCount") or 0
            if container["name"] == name and (restarts or "running" in state or "terminated" in state):
                return cls(meta["namespace"], meta["name"], name, restarts)
        return None


@dataclass(frozen=True)
class Tails:
    """Where logs come from, and where their content goes to.

    Attributes:
        cluster: lists pods.
        logs: opens their logs.
        threads: where `output` is used.
        output: stores reports and values.
        flows: bounds how fast logs are read.
    """

    cluster: Cluster
    logs: PodLogs
    threads: BlockingPool
    output: Output
    flows: Flows = field(default_factory=Flows)


class Tail:
    """The part of one pod's log that has not been read yet. After an error take a new one: the database knows the
    place.

    Args:
        tails: where logs come from, and where their content goes to.
        study: whose trial it is.
        lines: reads reports and values off lines.
        trial_id: whose pod it is.
        uid: the pod's.

    Attributes:
        kubelets_word: what the kubelet gave out last instead of the log, because it has lost the log; or "".
    """

    def __init__(self, tails: Tails, study: Study, lines: Lines, trial_id: int, uid: str) -> None:
        self._logs, self._threads, self._output = tails.logs, tails.threads, tails.output
        self._flows, self._key = tails.flows, StudyKey(study.namespace, study.name)
        self._lines, self._study = lines, study
        # Trials with several objectives report nothing before their end.
        self._objective = study.objectives[0].metric if len(study.objectives) == 1 else None
        self._trial_id, self._uid = trial_id, uid
        self._stored: Position | None = None  # as the database has it
        self._place: Place | None = None  # None before the first reading
        self._steps, self._known = Steps(), Known()
        self._warned = False  # of what the steps lose
        self.kubelets_word = ""

    async def follow(self, source: Source) -> int:
        """Read on until the container or the connection ends, or nothing comes for long.

        Returns:
            How many new lines there were.

        Raises:
            ApiError: there is no log, or it cannot be reached.
            TrialEnded: the trial has ended, so that its output is of no use any more.
            Overtaken: another reader of the same log has stored something meanwhile.
        """
        await self._catch_up(source)
        new, _ = await self._read(source, follow=True)
        return new

    async def finish(self, source: Source) -> int:
        """Read the rest of the log of a container that has ended for good. Returns and raises as `follow` does."""
        await self._catch_up(source)
        return await self._read_to_the_end(source)

    async def _catch_up(self, source: Source) -> None:
        """Go to the place where reading stopped, and then over to the latest run of the program."""
        if self._place is None:
            self._stored = await self._threads.run(self._output.position, self._trial_id, self._uid)
            self._place = Place(self._stored or Position())
        if source.restarts > self._place.position.restarts:
            self._place = Place(self._place.position.restarted(source.restarts - 1))
            try:
                await self._read_to_the_end(source, previous=True)
            except ApiError as error:
                if error.status not in (400, 404):  # the kubelet keeps one ended container, if at all
                    raise
            self._place = Place(self._place.position.restarted(source.restarts))

    async def _read_to_the_end(self, source: Source, previous: bool = False) -> int:
        count, before = 0, None
        while True:  # an answer may be cut short without a sign of it, so two answers have to end alike
            new, rest = await self._read(source, previous=previous)
            count += new
            if not new and rest == before:
                return count + await self._take([rest] if rest else [])  # a last line that was never ended
            before = rest

    async def _read(self, source: Source, follow: bool = False, previous: bool = False) -> tuple[int, bytes]:
        """Read and store whole lines. Return how many were new, and what came after the last whole line."""
        assert self._place is not None
        since, self.kubelets_word = self._place.position.since, ""
        self._place = Place(self._place.position)
        patience = SILENCE_SECONDS if follow else _READ_TIMEOUT_SECONDS
        count, waiting = 0, _Waiting(self._lines.says)
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(patience):
                    log = self._logs.open(source.namespace, source.pod, source.container, since, follow, previous)
                    stream = await stack.enter_async_context(log)
                while True:
                    passed = None
                    try:
                        async with asyncio.timeout(waiting.seconds(patience)):
                            chunk = await stream.readany()
                    except TimeoutError:
                        if not waiting.lines:
                            raise
                    else:
                        if not chunk:
                            break
                        passed = len(chunk), waiting.add(chunk)
                    if waiting.due():
                        count += await self._take(waiting.lines)
                        waiting.lines = []
                    if passed:
                        await self._flows.passed(self._key, *passed)
            except TimeoutError:
                if not follow:  # the API server waits for a node that is gone
                    raise ApiError(
                        504, "Timeout", f"its node has not answered for {_READ_TIMEOUT_SECONDS:g} s"
                    ) from None
        return count + await self._take(waiting.lines), waiting.end()

    async def _take(self, lines: Sequence[bytes]) -> int:
        """Store lines, so few at once that no thread is busy with them for long."""
        count = 0
        for start in range(0, len(lines), BATCH_LINES):
            count += await self._threads.run(self._store, lines[start : start + BATCH_LINES])
        return count

    def _store(self, lines: Sequence[bytes]) -> int:
        """Store the reports and values in some lines, with the position behind them. Return how many lines were new."""
        assert self._place is not None
        reports, values, bad, last_bad = list[tuple[int, float]](), dict[str, float](), 0, ""
        count, additional = 0, dict[str, float]()
        self._steps.counted = self._place.position.counted
        for line in lines:
            if (parts := split(line)) is None:
                self.kubelets_word = line.decode("utf-8", "replace").strip()[:200] or self.kubelets_word
                continue
            written_at, text = parts
            if not self._place.passes(written_at):
                continue
            count += 1
            said = self._lines.read(text)
            if said is None:
                continue
            counting = self._known.values(said)
            if (told := self._known.bad(said)) is not None:
                bad, last_bad = bad + 1, told
            values = joined(values, keyed(counting, self._study.objectives, said.unmarked))
            additional.update({name: counting[name] for name in self._study.metrics.additional if name in counting})
            name = self._objective
            if name is not None and name in counting and self._known.reports(said, name):
                value = counting[name]
                step = self._steps.at(value, said.step, said.lost)
                if step is not None:
                    reports.append((step, value))
        position = self._place.position = replace(self._place.position, counted=self._steps.counted)
        warning = "" if self._warned else self._steps.warning
        if batch := OutputBatch(reports, values, bad, last_bad, warning, additional):
            stored = self._output.store(self._trial_id, self._uid, self._stored, position, batch)
            if stored is OutputStored.ENDED:
                raise TrialEnded
            if stored is OutputStored.STALE:
                raise Overtaken
            self._stored, self._warned = position, bool(self._steps.warning)
        return count


class _Waiting:
    """Lines that are still to be stored.

    Args:
        says: whether a state of a progress bar counts, which has something for the study.

    Attributes:
        lines: whole lines.
        rest: the beginning of the next line.
    """

    def __init__(self, says: Callable[[bytes], bool] = bool) -> None:
        self._says = says
        self.lines: list[bytes] = []
        self.rest = b""
        self._due = 0.0

    def add(self, chunk: bytes) -> int:
        """Cut a piece of a log into lines. Return how many lines it ends."""
        *whole, rest = (self.rest + chunk).split(b"\n")
        self.rest = rest if len(rest) <= _LINE_BYTES_KEPT else self._shortened(rest)
        if whole and not self.lines:
            self._due = time.monotonic() + BATCH_SECONDS
        self.lines += whole
        return len(whole)

    def end(self) -> bytes:
        """Return the line that was never ended. It is the same in whatever pieces the log has arrived."""
        return self._shortened(self.rest)

    def _shortened(self, rest: bytes) -> bytes:
        return shortened(rest, self._says, _LINE_BYTES_KEPT, _TIME_BYTES)

    def due(self) -> bool:
        """Return whether the lines are many enough, or old enough, to be stored."""
        return len(self.lines) >= BATCH_LINES or (bool(self.lines) and time.monotonic() >= self._due)

    def seconds(self, patience: float) -> float:
        """Return how long to wait for more, in seconds: until the lines have to be stored, or else `patience`."""
        return max(self._due - time.monotonic(), 0.0) if self.lines else patience

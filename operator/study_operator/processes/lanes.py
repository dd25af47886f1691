"""Which study may compute where and when. Decisions alone: no thread, no socket and no clock.

Half of the optimizer processes, rounded up, are the common lane: each serves many studies, and a request has a second
of CPU time. A namespace has one request there at a time, and the namespace that was served longest ago comes first. A
study whose request takes longer, or whose process dies, goes to the slow lane. There each study has a process of its
own, and a request has the long limit, until the study has behaved for a while. The lanes are apart, so a slow study
never takes a process from the others. Places in the slow lane go round by namespace.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from study_operator.backoff import delay

BEHAVED_SECONDS = 300.0  # a study that has kept the common limit for so long leaves the slow lane
SUSPECT_SECONDS = 30.0  # and one that has done nothing itself, after this time
WATCHED_SECONDS = 600.0  # for so long a namespace's new studies begin in the slow lane, once one of it was ended
TURN_SECONDS = 10.0  # how long a study may keep its place in the slow lane when others wait for it
FRESH_SECONDS = 5.0  # a study that wants a place asks again and again; who has not for so long, wants none
IDLE_SECONDS = 60.0  # a process that nobody has used for so long is ended
# Requests that wait in threads: of one namespace, and of all namespaces that have one there already. Others come again.
# A thread that waits here cannot ask the database, and there are eight.
WAITING, ALL_WAITING = 2, 3
COME_AGAIN_SECONDS, SLOW_AGAIN_SECONDS = 0.2, 2.0
PATIENCE = 3.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 60.0, 3600.0


class StudyId(NamedTuple):
    """A Study, and not another one of its name."""

    namespace: str
    name: str
    uid: str


class End(StrEnum):
    """How a process has ended in the middle of a request."""

    TIME = "ran out of time"
    MEMORY = "ran out of memory"
    DIED = "ended its process"
    AWAY = "the optimizer does not answer"  # nobody's fault: all processes have ended


class Seat(NamedTuple):
    """A process that is reserved for one request.

    Attributes:
        process: its number.
        epoch: how often the process of this number has ended before.
        seconds: how long the request may take, by the clock.
        cpu_seconds: for how long it may compute; 0 for any time.
        slow: whether it is in the slow lane.
    """

    process: int
    epoch: int
    seconds: float
    cpu_seconds: float
    slow: bool


class Later(NamedTuple):
    """There is no place now. Come again in so many seconds."""

    seconds: float


class Paused(NamedTuple):
    """The study has ended its own process, again and again. It is asked again in so many seconds."""

    seconds: float
    end: End
    call: str


@dataclass
class Process:
    """One optimizer process.

    Attributes:
        number: from 0 on.
        slow: whether it is in the slow lane.
        epoch: how often it has ended.
        busy: the study whose request it works on.
        studies: those that it holds, with the time at which each was last used.
        held: those with a batch that is being stored: they may not be let go of.
        begun: when its study took the place, in the slow lane.
        used: when it was last used.
        data: the bytes of data memory that it had then.
    """

    number: int
    slow: bool
    epoch: int = 0
    busy: StudyId | None = None
    studies: dict[StudyId, float] = field(default_factory=dict)
    held: set[StudyId] = field(default_factory=set)
    begun: float = 0.0
    used: float = 0.0
    data: int = 0

    def lose(self) -> None:
        """Note that the process has ended, or is to end."""
        self.epoch += 1
        self.busy, self.data = None, 0
        self.studies.clear()
        self.held.clear()


@dataclass
class _Record:
    """What is known of a study's behaviour.

    Attributes:
        generation: of the spec that this is known of.
        slow: whether it belongs in the slow lane.
        slow_at: when that was last found so.
        good: how many suggestions it has made within the common limit.
        failures: how often it has ended its process while it was alone in it.
        paused_until: when it is asked again.
        end, call: how its process last ended, and in which call.
    """

    generation: int
    slow: bool = False
    slow_at: float = float("-inf")
    good: int = 0
    failures: int = 0
    paused_until: float = float("-inf")
    end: End = End.DIED
    call: str = ""


class Ticket:
    """A request that waits for its `home`, the process in which the study lives or will."""

    def __init__(self, study: StudyId, order: int, home: Process | None) -> None:
        self.study, self.order, self.home = study, order, home


class Lanes:
    """Belongs to one caller at a time. Times are seconds of one monotonic clock.

    Args:
        processes: how many there are, 2 at least.
        common_seconds: for how long a request may compute in the common lane. By the clock it may take PATIENCE times
            as long: on a busy node, nobody is to blame for waiting for a core.
        slow_seconds: how long a request may take in the slow lane, by the clock.
        memory: bytes of data memory that each process may have.
        pause: returns the pause after so many failures in a row; the same as `backoff.delay`.
    """

    def __init__(
        self,
        processes: int,
        common_seconds: float,
        slow_seconds: float,
        memory: int,
        pause: Callable[[int, float, float], float] = delay,
    ) -> None:
        common = (processes + 1) // 2
        self.processes = [Process(number, number >= common) for number in range(processes)]
        self._common, self._slow = self.processes[:common], self.processes[common:]
        self._common_seconds, self._slow_seconds, self._memory, self._pause = (
            common_seconds,
            slow_seconds,
            memory,
            pause,
        )
        self._records: dict[StudyId, _Record] = {}
        self._watched: dict[str, float] = {}  # namespaces, until when
        self._running: set[str] = set()  # namespaces with a request in the common lane
        self._served: dict[str, int] = {}  # namespaces, in the order in which they were last served
        self._waiting: list[Ticket] = []
        self._wanting: dict[StudyId, tuple[float, float]] = {}  # since when, and when last asked for
        self._count = 0

    # Before a request

    def ask(self, study: StudyId, generation: int, now: float, must: bool = False) -> Ticket | Later | Paused:
        """Begin to wait for a process. `leave` ends it.

        Args:
            generation: the Study's: an edit ends a pause.
            must: whether the request waits in any case: a batch is stored, and the optimizer must be told so.
        """
        record = self._record(study, generation)
        if not must and record.paused_until > now:
            return Paused(record.paused_until - now, record.end, record.call)
        if not record.slow and record.good == 0 and self._watched.get(study.namespace, now) > now:
            record.slow, record.slow_at = True, now - BEHAVED_SECONDS + SUSPECT_SECONDS
        if record.slow:
            later = self._take_place(study, now)
            if later is not None:
                return later
            home = self._place_of(study)
        else:
            own = sum(ticket.study.namespace == study.namespace for ticket in self._waiting)
            full = own >= WAITING or len(self._waiting) >= ALL_WAITING
            if full and not must and (own or study.namespace in self._running):
                return Later(COME_AGAIN_SECONDS)
            home = self._home(study)
        self._count += 1
        ticket = Ticket(study, self._count, home)
        self._waiting.append(ticket)
        return ticket

    def seat(self, ticket: Ticket) -> Seat | None:
        """Reserve the process if it is this ticket's turn. `done` sets it free."""
        home, namespace = ticket.home, ticket.study.namespace
        assert home is not None
        if home.busy is not None:
            return None
        if home.slow:
            seconds, cpu_seconds = self._slow_seconds, 0.0
        else:
            if namespace in self._running:
                return None
            rivals = (t for t in self._waiting if t.home is home and t.study.namespace not in self._running)
            if min(rivals, key=self._rank) is not ticket:
                return None
            self._running.add(namespace)
            seconds, cpu_seconds = PATIENCE * self._common_seconds, self._common_seconds
        home.busy = ticket.study
        return Seat(home.number, home.epoch, seconds, cpu_seconds, home.slow)

    def leave(self, ticket: Ticket) -> None:
        """End to wait, with or without a seat."""
        self._waiting.remove(ticket)

    # After a request

    def done(
        self, seat: Seat, study: StudyId, call: str, took: float, data: int, now: float, held: bool
    ) -> list[StudyId]:
        """Set a process free after a request that it has answered.

        Args:
            took: for how many seconds the process has computed.
            data: the bytes of data memory that the process has.
            held: whether a batch of the study is being stored now.

        Returns:
            Studies that the process shall forget, because its memory grows: those that were used longest ago.
        """
        process = self._free(seat, study)
        if process.epoch != seat.epoch:
            return []
        process.studies[study], process.used, process.data = now, now, data
        (process.held.add if held else process.held.discard)(study)
        record = self._records.setdefault(study, _Record(0))
        if took > self._common_seconds:
            record.slow_at = now
        elif call == "suggest":
            record.good += 1
        if call == record.call:
            record.failures, record.call = 0, ""
        if process.slow:
            if not held and now - record.slow_at > BEHAVED_SECONDS:
                record.slow = False
                process.lose()
            return []
        return self._let_go(process, study)

    def ended(self, seat: Seat, study: StudyId, call: str, how: End, now: float) -> None:
        """Note that a process has ended in the middle of a request."""
        process, record = self._free(seat, study), self._records.setdefault(study, _Record(0))
        if process.epoch == seat.epoch:
            process.lose()
        if how is End.AWAY:
            return
        record.slow_at, record.end, record.call = now, how, call
        if process.slow:
            pause = self._pause(record.failures, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
            record.failures, record.paused_until = record.failures + 1, now + pause
        else:
            record.slow, record.good = True, 0
            self._watched[study.namespace] = now + WATCHED_SECONDS

    def paused(self, study: StudyId, now: float) -> float:
        """Return in how many seconds a study is asked again."""
        record = self._records.get(study)
        return 0.0 if record is None else max(record.paused_until - now, 0.0)

    def release(self, seat: Seat, study: StudyId) -> None:
        """Set a process free that was not asked after all."""
        self._free(seat, study)

    def drop(self, study: StudyId) -> None:
        """Note that a study's optimizer is no longer needed."""
        for process in self.processes:
            process.studies.pop(study, None)
            process.held.discard(study)
        self._wanting.pop(study, None)

    def forget(self, study: StudyId) -> None:
        """Forget a Study that is gone, or served elsewhere."""
        self.drop(study)
        self._records.pop(study, None)

    def tidy(self, now: float) -> list[int]:
        """Return the numbers of the processes that are to end, because nobody has used them for a while."""
        found = []
        for process in self.processes:
            idle = process.busy is None and not process.held and now - process.used > IDLE_SECONDS
            if idle and (process.slow or not process.studies) and process.used:
                process.lose()
                process.used = 0.0
                found.append(process.number)
        self._watched = {namespace: until for namespace, until in self._watched.items() if until > now}
        return found

    # The common lane

    def _rank(self, ticket: Ticket) -> tuple[int, int]:
        return self._served.get(ticket.study.namespace, 0), ticket.order

    def _home(self, study: StudyId) -> Process:
        """Return the process that holds the study, else the one with the fewest studies."""
        for process in self._common:
            if study in process.studies:
                return process
        coming = [ticket.home for ticket in self._waiting]
        return min(self._common, key=lambda p: (len({*p.studies, p.busy} - {None}) + coming.count(p), bool(p.busy)))

    def _let_go(self, process: Process, study: StudyId) -> list[StudyId]:
        """Return studies to be forgotten, the least recently used first, while the process uses half of its memory."""
        if process.data <= self._memory // 2:
            return []
        others = sorted(process.studies.keys() - process.held - {study}, key=lambda other: process.studies[other])
        victims = others[: max(1, len(others) // 2)]
        for victim in victims:
            del process.studies[victim]
        return victims

    # The slow lane

    def _place_of(self, study: StudyId) -> Process | None:
        return next((process for process in self._slow if study in process.studies), None)

    def _take_place(self, study: StudyId, now: float) -> Later | None:
        """Give a study a place in the slow lane, or let it keep the one that it has. Return None if it has one."""
        self._wanting = {s: asked for s, asked in self._wanting.items() if now - asked[1] <= FRESH_SECONDS}
        others = self._wanting.keys() - {study}
        place = self._place_of(study)
        if place is not None:
            if place.held or not others or now - place.begun < TURN_SECONDS:
                return None
            place.lose()
        since, _ = self._wanting.get(study, (now, now))
        self._wanting[study] = since, now
        held = [other.namespace for process in self._slow for other in process.studies]
        first = min(self._wanting, key=lambda s: (held.count(s.namespace), self._wanting[s][0]))
        if first != study:
            return Later(SLOW_AGAIN_SECONDS)
        free = [process for process in self._slow if process.busy is None and not process.held]
        free = [p for p in free if not p.studies or now - p.begun >= TURN_SECONDS or now - p.used >= FRESH_SECONDS]
        if not free:
            return Later(SLOW_AGAIN_SECONDS)
        place = min(free, key=lambda process: (bool(process.studies), process.used))
        if place.studies:
            place.lose()
        place.studies[study], place.begun, place.used = now, now, now
        del self._wanting[study]
        return None

    # Both

    def _record(self, study: StudyId, generation: int) -> _Record:
        record = self._records.setdefault(study, _Record(generation))
        if record.generation < generation:
            record.generation, record.failures, record.paused_until = generation, 0, float("-inf")
        return record

    def _free(self, seat: Seat, study: StudyId) -> Process:
        process = self.processes[seat.process]
        if process.epoch == seat.epoch:
            process.busy = None
        if not seat.slow:
            self._count += 1
            self._running.discard(study.namespace)
            self._served.pop(study.namespace, None)
            self._served[study.namespace] = self._count
        return process

"""Optimizers of studies as the rest of the operator uses them: each computes in an optimizer process.

An optimizer is a copy of rows. When its process ends, for whatever reason, `OptimizerLost` or one of its relatives is
raised, and its owner drops it and loads it anew when it is needed again.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from study_operator import metrics
from study_operator.model.batch import StaleHistory
from study_operator.model.history import History, StoredTrial
from study_operator.model.study import Refused, Study
from study_operator.processes import records, wire
from study_operator.processes.connection import Connection, Ended
from study_operator.processes.errors import (
    OptimizerBusy,
    OptimizerError,
    OptimizerLost,
    OptimizerUnavailable,
    SamplerFailed,
)
from study_operator.processes.lanes import End, Lanes, Later, Paused, Seat, StudyId
from study_operator.processes.records import OutlookRecord
from study_operator.processes.remote_optimizer import WRONG_SECONDS, RemoteOptimizer
from study_operator.processes.wire import Outcome, Request

BUSY_SECONDS = 0.25  # until the next attempt when others compute
AWAY_SECONDS = 1.0  # until the next attempt when nobody answers
TIDY_SECONDS = 10.0
_PATIENCE_SECONDS = 30.0  # for a batch that is stored, and whose optimizer must be told so

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What optimizer processes may use.

    Attributes:
        processes: how many there are.
        seconds: how long a request may take in the slow lane.
        memory: bytes of data memory for each.
        common_seconds: for how long a request may compute in the common lane.
    """

    processes: int = 4
    seconds: float = 60.0
    memory: int = 256 * 2**20
    common_seconds: float = 1.0


class Optimizers:
    """All optimizer processes of this manager. Its methods block, and any thread may call them.

    Args:
        path: of the socket of `study-operator optimize`.
        sampler_classes: those that Studies may name.
    """

    def __init__(self, path: str, limits: Limits, sampler_classes: Collection[str] = ()) -> None:
        self._path, self._limits, self._classes = path, limits, list(sampler_classes)
        self._lanes = Lanes(limits.processes, limits.common_seconds, limits.seconds, limits.memory)
        self._changed = threading.Condition()
        self._connections: dict[int, tuple[int, Connection]] = {}  # by process: epoch and connection
        self._forget: dict[int, list[int]] = {}  # handles, by process
        self._loaded: dict[StudyId, tuple[int, Seat]] = {}  # handle, and the seat that it was loaded in
        self._handles = itertools.count(1)
        self._closed = threading.Event()
        threading.Thread(target=self._tidy, name="optimizers", daemon=True).start()

    def check(self, study: Study) -> None:
        """Build the Study's sampler, pruner and convergence test, to find out whether that can be done.

        Raises:
            Refused: when it cannot.
            OptimizerUnavailable: it is not known.
        """
        self.call(study, 0, "check", (records.study_text(study), self._classes))

    def load(self, study: Study, history: History, earlier: Sequence[StoredTrial]) -> RemoteOptimizer:
        """Build an optimizer of a study.

        Args:
            history: the study's trials.
            earlier: finished trials of earlier studies, which the sampler learns from as well.

        Raises:
            Refused: the Study's sampler, pruner or convergence test cannot be built.
            OptimizerUnavailable: there is none now.
        """
        handle = next(self._handles)
        who = study_id(study)
        with self._changed:
            self._drop(who)
        try:
            # The first call chooses the process, also when there is no trial.
            self.call(study, handle, "trials", ([], False), first=True)
            for trials, old in ((history.trials, False), (earlier, True)):
                for piece in records.pieces(trials):
                    self.call(study, handle, "trials", (msgspec.Raw(piece), old))
            stored = records.StudyRecord.of(history.study)
            arguments = (records.study_text(study), history.study_id, stored, self._classes)
            outlook = self.call(study, handle, "build", arguments, OutlookRecord | None)
        except wire.WireError as error:
            self.drop(study, handle)
            raise SamplerFailed(f"the study's history cannot be read: {error}", WRONG_SECONDS) from None
        except BaseException:
            self.drop(study, handle)
            raise
        call, drop = partial(self.call, study, handle), partial(self.drop, study, handle)
        return RemoteOptimizer(call, drop, study, (trial.trial_id for trial in history.trials), outlook)

    def forget(self, study: Study) -> None:
        """Forget a Study that is gone, or served elsewhere."""
        with self._changed:
            self._drop(study_id(study))
            self._lanes.forget(study_id(study))

    def drop(self, study: Study, handle: int) -> None:
        """Let the process forget an optimizer that is no longer needed."""
        with self._changed:
            if (found := self._loaded.get(study_id(study))) is not None and found[0] == handle:
                self._drop(study_id(study))

    def answers(self) -> bool:
        """Return whether `study-operator optimize` answers."""
        try:
            Connection(self._path).close()
        except Ended:
            return False
        return True

    def close(self) -> None:
        """End all processes."""
        self._closed.set()
        with self._changed:
            for _, connection in self._connections.values():
                connection.close()
            self._connections.clear()

    def call(
        self,
        study: Study,
        handle: int,
        call: str,
        arguments: Any,
        result: Any = None,
        *,
        first: bool = False,
        must: bool = False,
        held: bool = False,
    ) -> Any:
        """Let a process answer a call.

        Args:
            handle: the optimizer's; 0 for a call that needs none.
            result: the type of what comes back.
            first: whether this call begins to load the optimizer.
            must: whether to wait for a process in any case.
            held: whether a batch is being stored afterwards.

        Raises:
            Refused, StaleHistory, OptimizerError: the process has answered so.
            OptimizerUnavailable: it has not answered.
        """
        who, encoded = study_id(study), wire.raw(arguments)
        seat = self._seat(who, study, must)
        try:
            connection, forget = self._connection(who, handle, seat, first)
            where = (study.namespace, study.name)
            answer = connection.ask(Request(call, where, handle, seat.seconds, seat.cpu_seconds, encoded, forget))
        except Ended as error:
            raise self._lost(who, study, seat, call, error.how) from None
        except BaseException as error:
            with self._changed:
                self._lanes.release(seat, who)
                self._changed.notify_all()
            if isinstance(error, wire.WireError):
                raise OptimizerError(str(error)) from None
            raise
        held = held and answer.outcome is Outcome.DONE
        now = time.monotonic()
        with self._changed:
            for victim in self._lanes.done(seat, who, call, answer.cpu_seconds, answer.data, now, held):
                self._drop(victim)
            self._end_unused()
            self._changed.notify_all()
        if answer.outcome is Outcome.DONE:
            try:
                return wire.decode(answer.result, result)
            except wire.WireError as error:
                self.drop(study, handle)
                raise OptimizerLost(f"the optimizer's answer cannot be read: {error}", WRONG_SECONDS) from None
        if answer.outcome is Outcome.REFUSED:
            reason, message = (*answer.words, "", "")[:2]
            raise Refused(reason, message)
        words = "".join(answer.words)
        raise StaleHistory(words) if answer.outcome is Outcome.STALE else OptimizerError(words)

    # Inside

    def _seat(self, who: StudyId, study: Study, must: bool) -> Seat:
        with self._changed:
            ticket = self._lanes.ask(who, study.generation, time.monotonic(), must)
            if isinstance(ticket, Later):
                raise OptimizerBusy("other studies are computing", ticket.seconds)
            if isinstance(ticket, Paused):
                raise SamplerFailed(self._failed(study, ticket.end, ticket.call, ticket.seconds), ticket.seconds)
            try:
                until = time.monotonic() + (_PATIENCE_SECONDS if must else 2 * self._limits.common_seconds)
                while (seat := self._lanes.seat(ticket)) is None:
                    if self._closed.is_set() or (left := until - time.monotonic()) <= 0:
                        raise OptimizerBusy("other studies are computing", BUSY_SECONDS)
                    self._changed.wait(left)
                return seat
            finally:
                self._lanes.leave(ticket)
                self._changed.notify_all()

    def _connection(self, who: StudyId, handle: int, seat: Seat, first: bool) -> tuple[Connection, list[int]]:
        """Return the connection of a process, and the handles that it is to forget. Open it if there is none.

        Raises:
            OptimizerLost: the process does not hold this optimizer.
            Ended: nobody answers.
        """
        with self._changed:
            if first:
                self._loaded[who] = handle, seat
            elif handle:
                known, at = self._loaded.get(who, (0, seat))
                if known != handle or (at.process, at.epoch) != (seat.process, seat.epoch):
                    self._loaded.pop(who, None)
                    raise OptimizerLost("the optimizer has been let go of", 0.0)
            epoch, connection = self._connections.get(seat.process, (-1, None))
            if connection is not None and epoch == seat.epoch:
                return connection, self._forget.pop(seat.process, [])
            if connection is not None:
                connection.close()
            self._forget.pop(seat.process, None)
        connection = Connection(self._path)
        with self._changed:
            self._connections[seat.process] = seat.epoch, connection
        return connection, []

    def _lost(self, who: StudyId, study: Study, seat: Seat, call: str, how: End) -> OptimizerUnavailable:
        """Note that a process has ended. Return what to raise."""
        with self._changed:
            self._lanes.ended(seat, who, call, how, time.monotonic())
            self._loaded.pop(who, None)
            _, connection = self._connections.pop(seat.process, (0, None))
            if connection is not None:
                connection.close()
            self._changed.notify_all()
        metrics.OPTIMIZER_ENDS.labels(how.name.lower()).inc()
        if how is End.AWAY:
            return OptimizerLost(how.value, AWAY_SECONDS)
        lane = "slow" if seat.slow else "common"
        log.warning("the study %s in the %s lane when it was asked for: %s", how.value, lane, call)
        if not seat.slow:
            return OptimizerLost(how.value, 0.0)
        with self._changed:
            seconds = self._lanes.paused(who, time.monotonic())
        return SamplerFailed(self._failed(study, how, call, seconds), seconds)

    def _failed(self, study: Study, how: End, call: str, seconds: float) -> str:
        """Return for the user why a study's sampler rests."""
        limit = {
            End.TIME: f" ({self._limits.seconds:g} s)",
            End.MEMORY: f" ({self._limits.memory // 2**20} MiB)",
        }.get(how, "")
        what = "suggesting" if call == "suggest" else _DOING.get(call, "computing")
        options = ", ".join(f"{name}: {value}" for name, value in sorted(study.sampler.options.items()))[:500]
        return (
            f"sampler {study.sampler.name} {how.value}{limit} while {what}; options: {options or 'the defaults'}. "
            f"Trials that run go on. It is asked again in {_rounded(seconds)}, and at once when the Study is edited"
        )

    def _drop(self, who: StudyId) -> None:
        found = self._loaded.pop(who, None)
        self._lanes.drop(who)
        if found is not None:
            handle, seat = found
            if self._connections.get(seat.process, (-1, None))[0] == seat.epoch:
                self._forget.setdefault(seat.process, []).append(handle)

    def _tidy(self) -> None:
        while not self._closed.wait(TIDY_SECONDS):
            with self._changed:
                self._lanes.tidy(time.monotonic())
                self._end_unused()

    def _end_unused(self) -> None:
        """End the processes that the lanes have given up."""
        for process in self._lanes.processes:
            epoch, connection = self._connections.get(process.number, (process.epoch, None))
            if connection is not None and epoch != process.epoch and process.busy is None:
                del self._connections[process.number]
                connection.close()


_DOING = {"check": "being built", "build": "being built", "trials": "reading the study's history"}
_DOING |= {"judge": "judging reports", "outlook": "judging whether the study has converged"}


def study_id(study: Study) -> StudyId:
    """Return who a Study is."""
    return StudyId(study.namespace, study.name, study.uid)


def _rounded(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"

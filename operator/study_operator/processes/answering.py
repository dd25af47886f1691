"""An optimizer process: answers the requests of one connection until it ends.

It holds the optimizers of the studies that the manager has placed here. It keeps nothing else, and nothing that it
holds is the truth: the manager may close the connection at any time, and loads the studies anew in another process.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from study_operator import optimizer
from study_operator.logs import study_context
from study_operator.model.batch import StaleHistory, Stored
from study_operator.model.history import Changes
from study_operator.model.study import Refused
from study_operator.processes import records, wire
from study_operator.processes.records import BatchRecord, EndRecord, OutlookRecord, Reports, RowRecord, TrialRecord
from study_operator.processes.wire import Answer, Outcome, Request

_WORDS = 2000  # characters of an exception's message that are sent
_PAGE = resource.getpagesize()

log = logging.getLogger(__name__)


class _Study:
    """One study in this process: first its trials, as they come, then the optimizer over them."""

    def __init__(self) -> None:
        self.loading = optimizer.Loading()
        self.optimizer: optimizer.StudyOptimizer | None = None
        self.converges = False

    @property
    def loaded(self) -> optimizer.StudyOptimizer:
        if self.optimizer is None:
            raise wire.WireError("the study has not been loaded")
        return self.optimizer

    def outlook(self) -> OutlookRecord | None:
        """Return the outlook if that takes no time: judging whether a study has converged may take seconds."""
        return None if self.converges else OutlookRecord.of(self.loaded.outlook())


class _Call(NamedTuple):
    """One call of the protocol: the type of its arguments, and what answers it."""

    arguments: Any
    answer: Callable[..., Any]


def _check(_: _Study, study: str, classes: list[str]) -> None:
    optimizer.check(records.study_of(study), classes)


def _trials(of: _Study, trials: list[TrialRecord], earlier: bool) -> None:
    of.loading.add(records.trials_in(trials), earlier)


def _build(
    of: _Study, study: str, study_id: int, stored: records.StudyRecord, classes: list[str]
) -> OutlookRecord | None:
    spec, loading = records.study_of(study), of.loading
    of.optimizer = optimizer.StudyOptimizer(spec, study_id, stored.plain(), loading, classes)
    of.loading, of.converges = optimizer.Loading(), spec.convergence is not None
    return of.outlook()


def _outlook(of: _Study) -> OutlookRecord:
    return OutlookRecord.of(of.loaded.outlook())


def _update(of: _Study, study: records.StudyRecord | None, trials: list[TrialRecord]) -> OutlookRecord | None:
    of.loaded.update(Changes(None if study is None else study.plain(), records.trials_in(trials)))
    return of.outlook()


def _last_reports(of: _Study, trial_ids: list[int]) -> dict[int, int]:
    return of.loaded.last_reports(trial_ids)


def _see(of: _Study, reports: Reports) -> None:
    of.loaded.see(records.reports_in(reports))


def _judge(of: _Study, reports: Reports, running: list[int], unread: list[int]) -> records.VerdictsRecord:
    verdicts = of.loaded.judge(records.reports_in(reports), running, set(unread))
    notes = None if verdicts.notes is None else BatchRecord.of(verdicts.notes)
    return records.VerdictsRecord(sorted(verdicts.prune), notes)


def _suggest(of: _Study, count: int, most: int) -> BatchRecord:
    return BatchRecord.of(of.loaded.suggest(count, most))


def _tell(of: _Study, tells: list[EndRecord]) -> BatchRecord:
    return BatchRecord.of(of.loaded.tell([told.tell() for told in tells]))


def _run_again(of: _Study, again: EndRecord, job: str) -> BatchRecord:
    return BatchRecord.of(of.loaded.run_again(again.run_again(), job))


def _commit(of: _Study, stored: Stored) -> records.StartedRecord:
    rows = of.loaded.commit(stored)
    return records.StartedRecord([RowRecord.of(row) for row in rows], of.outlook())


def _rollback(of: _Study) -> None:
    of.loaded.rollback()


CALLS = {
    "check": _Call(tuple[str, list[str]], _check),
    "trials": _Call(tuple[list[TrialRecord], bool], _trials),
    "build": _Call(tuple[str, int, records.StudyRecord, list[str]], _build),
    "outlook": _Call(tuple[()], _outlook),
    "update": _Call(tuple[records.StudyRecord | None, list[TrialRecord]], _update),
    "last_reports": _Call(tuple[list[int]], _last_reports),
    "see": _Call(tuple[Reports], _see),
    "judge": _Call(tuple[Reports, list[int], list[int]], _judge),
    "suggest": _Call(tuple[int, int], _suggest),
    "tell": _Call(tuple[list[EndRecord]], _tell),
    "run_again": _Call(tuple[EndRecord, str], _run_again),
    "commit": _Call(tuple[Stored], _commit),
    "rollback": _Call(tuple[()], _rollback),
}


def answer_requests(connection: socket.socket, memory: int) -> None:
    """Answer requests until the manager closes the connection, or memory runs out.

    Args:
        memory: bytes of data memory that the process may have beyond those that it begins with.
    """
    begun = _data()
    # Data, and not the address space: imports alone map hundreds of megabytes, which the processes share.
    resource.setrlimit(resource.RLIMIT_DATA, (begun + memory, begun + memory))
    studies: dict[int, _Study] = {}
    wire.send(connection, wire.encode(os.getpid()))  # it is ready
    spare = bytearray(2**18)  # for the answer that there is no more memory
    while True:
        try:
            request = wire.request_of(wire.receive(connection))
        except EOFError:
            return
        if request.forget:
            _forget(studies, request.forget)
        # The signals' default action ends the process, also in code in C that never comes back to Python. A sampler may
        # have changed it.
        for number in (signal.SIGALRM, signal.SIGPROF):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM, signal.SIGPROF))
        signal.setitimer(signal.ITIMER_REAL, request.seconds)
        signal.setitimer(signal.ITIMER_PROF, request.cpu_seconds)
        cpu = time.process_time()
        try:
            with study_context(*request.study):
                result = wire.raw(_result(studies, request))
            frame = wire.encode(Answer(Outcome.DONE, _data() - begun, time.process_time() - cpu, result))
        except MemoryError:
            del spare
            studies.clear()
            wire.send(connection, wire.encode(Answer(Outcome.OUT_OF_MEMORY, memory)))
            return
        except Refused as refusal:
            words = refusal.reason, refusal.message
            frame = wire.encode(Answer(Outcome.REFUSED, _data() - begun, words=words))
        except StaleHistory as error:
            frame = wire.encode(Answer(Outcome.STALE, _data() - begun, words=(_words(error),)))
        except Exception as error:
            with study_context(*request.study):
                log.exception("%s has failed", request.call)
            frame = wire.encode(Answer(Outcome.FAILED, _data() - begun, words=(_words(error),)))
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        wire.send(connection, frame)


def _result(studies: dict[int, _Study], request: Request) -> Any:
    call = CALLS.get(request.call)
    if call is None:
        raise wire.WireError(f"there is no call {request.call!r}")
    study = studies.setdefault(request.handle, _Study()) if request.handle else _Study()
    return call.answer(study, *wire.decode(request.arguments, call.arguments))


def _forget(studies: dict[int, _Study], handles: list[int]) -> None:
    for handle in handles:
        studies.pop(handle, None)
    gc.collect()  # optimizers are full of circles


def _words(error: BaseException) -> str:
    return str(error)[:_WORDS].encode(errors="replace").decode()


def _data() -> int:
    """Return the data memory of this process in bytes, as RLIMIT_DATA counts it: nearly, for the stack is in it."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[5]) * _PAGE


def become(connection: socket.socket, memory: int) -> None:
    """Make a process that has just been forked an optimizer process. Returns never."""
    code = 1
    try:
        answer_requests(connection, memory)
        code = 0
    except (OSError, wire.WireError, msgspec.MsgspecError) as error:
        log.warning("the manager is not understood, or has gone: %s", error)
    except BaseException:
        log.exception("an optimizer process has failed")
    finally:
        os._exit(code)

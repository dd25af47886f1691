"""The loop of a local run: start trials, let them report, see how they end, print what came of it."""

from __future__ import annotations

import math
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from study_client.errors import ClientError
from study_client.local.printed import Printed
from study_client.local.processes import Process
from study_client.local.programs import elsewhere, program_of
from study_client.local.reporting import Reporting
from study_client.local.session import LocalTrial, Session
from study_client.local.shown import as_trial, line
from study_client.local.study_file import read_study
from study_client.texts import as_arguments, one_line
from study_client.trial_tables import print_trials
from study_operator.model.plan import PRUNED_GRACE
from study_operator.model.pod_status import last_line
from study_operator.model.study import Refused, Study
from study_operator.model.trial import TrialState

_POLL_SECONDS = 0.05
_LONGEST_SOCKET = 100  # characters of its path, which the system bounds
_SCHEME = "study-local:"  # as study_trial has it


def run_local(file: str, trials: int, parallel: int, instead: Sequence[str] = ()) -> int:
    """Run the first trials of a Study as processes of this machine.

    Args:
        file: the Study's.
        trials: how many.
        parallel: how many at the same time.
        instead: a command in place of the container's.

    Returns:
        0 if a trial has a value, 1 if none has.

    Raises:
        ClientError: the Study cannot be run here.
    """
    study, warnings = read_study(file)
    for warning in warnings:
        print(one_line(f"warning: {warning}"))
    try:
        session = Session(study, trials)
    except Refused as refusal:
        raise ClientError(refusal.message) from None
    print("not as in a cluster:")
    for words in elsewhere(study, instead):
        print(one_line(f"  - {words}"))
    folder = Path(tempfile.mkdtemp(prefix=f"study-{study.name[:20]}-"))
    if len(str(folder)) > _LONGEST_SOCKET:
        folder = Path(tempfile.mkdtemp(prefix="study-", dir="/tmp"))
    reporting = Reporting(session, folder / "socket")
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        Runner(session, folder, f"{_SCHEME}{reporting.path}", instead).run(parallel)
    finally:
        reporting.close()
        reporting.path.unlink(missing_ok=True)
        signal.signal(signal.SIGTERM, previous)
    return _print_end(study, session, folder)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class Runner:
    """Runs trials until there are no more.

    Args:
        session: the study.
        folder: where each trial has a folder of its own.
        url: where trials report to.
        instead: a command in place of the container's.
    """

    def __init__(self, session: Session, folder: Path, url: str, instead: Sequence[str]) -> None:
        self._session, self._folder, self._url, self._instead = session, folder, url, instead
        self._running: dict[int, tuple[LocalTrial, Process, Printed | None]] = {}
        self._said = 0

    def run(self, parallel: int, sleep: Callable[[float], None] = time.sleep) -> None:
        """Run trials, so many at the same time. Ctrl-C ends those that run, and returns."""
        try:
            more = True
            while more or self._running:
                while more and len(self._running) < parallel:
                    more = self._start()
                self._look()
                sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            print("interrupted: trials that run are ended")
        finally:
            for trial, process, _ in self._running.values():
                process.kill()
                with self._session.lock:
                    self._session.give_up(trial.row.trial_id)

    def _start(self) -> bool:
        """Start one more trial. Return whether there was one to start."""
        session = self._session
        with session.lock:
            trial = session.start()
        if trial is None:
            return False
        row = trial.row
        folder = self._folder / str(row.number)
        program = program_of(session.study, row, folder, self._url, self._instead)
        printed = Printed(session.study, session, row.trial_id) if session.study.metrics.source == "Stdout" else None
        process = Process(program, folder, printed.add if printed else lambda chunk: None)
        self._running[row.trial_id] = trial, process, printed
        print(one_line(f"trial {row.number} runs: {as_arguments(row.params)}"), flush=True)
        return True

    def _look(self) -> None:
        session = self._session
        with session.lock:
            over = session.over()
        for trial_id, (trial, process, printed) in list(self._running.items()):
            deadline = session.study.trial_deadline
            too_long = deadline is not None and time.monotonic() - process.started > deadline
            code = process.poll()
            if code is None:
                if too_long or self._is_overdue(trial) or (over and session.study.active_trials_policy == "Terminate"):
                    process.terminate()
                continue
            if printed is not None:
                printed.end()
            last = last_line(process.last_bytes().decode("utf-8", "replace"))
            with session.lock:
                if over and session.study.active_trials_policy == "Terminate" and code:
                    session.give_up(trial_id)
                session.ended(trial_id, code, last, too_long)
            del self._running[trial_id]
            print(line(session.study, trial), flush=True)

    def _is_overdue(self, trial: LocalTrial) -> bool:
        """Return whether a program goes on for too long although its trial has been pruned."""
        if trial.state is not TrialState.PRUNED or trial.ended is None:
            return False
        return datetime.now(UTC) - trial.ended > PRUNED_GRACE


def _print_end(study: Study, session: Session, folder: Path) -> int:
    found = [as_trial(study, one) for one in sorted(session.trials.values(), key=lambda one: one.row.number)]
    print()
    print_trials(found, [one.name for one in study.objectives], "table")
    print()
    if over := session.over():
        print(f"the study has ended: {one_line(over)}")
    good = [one for one in found if one.state == "Complete" and not math.isnan(one.value)]
    if good and len(study.objectives) == 1:
        sign = -1 if study.directions[0] == "MAXIMIZE" else 1
        best = min(good, key=lambda one: (sign * one.value, one.number))
        print(one_line(f"best: trial {best.number}: {as_arguments(best.params)}"))
    print(f"logs are in {folder}/NUMBER/log")
    return 0 if good else 1

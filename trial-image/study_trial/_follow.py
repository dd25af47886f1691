"""What runs beside a program that reports by files (spec.metrics.from: File): reads them, and reports in its place."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from study_trial._channels import Channel
from study_trial._errors import RefusedError, TrialFinishedError, WrongKeyError
from study_trial._output import say
from study_trial._reading.entry import Entry, Names, Source

_POLL_SECONDS = 1.0
# Of the time that the pod has left (terminationGracePeriodSeconds, 30 unless the template says otherwise). What is read
# after the program's end can prune nothing any more, and the final values come after it.
_LAST_REPORTS_SECONDS = 10.0
_ENDING = {signal.SIGTERM, signal.SIGINT}


class Follower:
    """Reports the first objective's values while the program runs, and remembers the last value of each name.

    Whether the program has succeeded it cannot know, so the final values are a candidate, which the operator takes when
    the trial's Job is complete.
    """

    def __init__(
        self, source: Source, names: Names, channel: Channel, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = source
        self._names = names
        self._channel = channel
        self._clock = clock
        self._latest: dict[str, float] = {}
        self._counted = 0  # reports without a step, as long as the file has no steps at all
        self._has_steps = False
        self._bad = 0
        self._bad_sent = 0
        self._last_bad = ""
        self._ended = False  # nothing can be stored for the trial any more
        self._trouble: str | None = None

    def run(self) -> None:
        """Follows until SIGTERM, which the kubelet sends when the program has ended.

        Raises:
            UndeliveredError: the database was away; the message holds the values.
        """
        # Waited for instead of handled: between two calls of the database, and never within one.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        self.begin()
        while True:
            self.poll(stop=lambda: bool(signal.sigpending() & _ENDING))
            if signal.sigtimedwait(_ENDING, _POLL_SECONDS) is not None:
                break
        self.end()

    def begin(self) -> None:
        """Takes back what an earlier pod of the trial may have left."""
        self._send(self._channel.clear_candidate)

    def poll(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Reports what is new. While the database is away nothing more is read: the file keeps it."""
        if self._ended or (self._channel.waiting() and not self._deliver()):
            return
        for entry in self._source.read():
            self._take(entry, report=True)
            if self._ended or self._channel.waiting() or stop():
                break
        self._say_trouble()
        self._count_bad()

    def end(self) -> None:
        """Reads to the end and stores the final values. Raises as `run`."""
        deadline = self._clock() + _LAST_REPORTS_SECONDS
        for entry in [] if self._ended else self._source.read(last=True):
            self._take(entry, report=not self._channel.waiting() and self._clock() < deadline)
            if self._ended:
                break
        if self._ended or self._channel.should_stop():
            return
        self._count_bad()
        missing = [name for name in self._names.objectives if name not in self._latest]
        if missing:
            say("; ".join(filter(None, (f"there is no value of {', '.join(missing)}", self._source.trouble))))
            self._send(self._channel.clear_candidate)
            return
        values = [self._latest[name] for name in self._names.objectives]
        constraints = {name: self._latest[name] for name in self._names.constraints if name in self._latest}
        self._send(lambda: self._channel.candidate(values, constraints))

    def _take(self, entry: Entry, report: bool) -> None:
        if entry.anew:
            self._latest.clear()
            self._counted, self._has_steps = 0, False
        elif entry.bad is not None:
            self._bad, self._last_bad = self._bad + 1, entry.bad
        else:
            self._latest.update(entry.values)
            value = entry.values.get(self._names.objectives[0])
            self._has_steps = self._has_steps or entry.step is not None
            step = entry.step
            if value is None or len(self._names.objectives) > 1:
                return
            if step is None and not self._has_steps:
                step = self._counted
                self._counted += 1
            if step is not None and report:
                self._send(lambda: self._channel.report(step, value))
                self._ended = self._ended or self._channel.should_stop()

    def _count_bad(self) -> None:
        if self._bad > self._bad_sent and not self._ended and not self._channel.waiting():
            self._bad_sent = self._bad
            self._send(lambda: self._channel.bad_report(self._bad, self._last_bad))

    def _deliver(self) -> bool:
        """Tries to send what waits; whether nothing waits any more."""
        self._ended = self._channel.should_stop()
        return not self._ended and not self._channel.waiting()

    def _send(self, call: Callable[[], object]) -> None:
        """A refusal is said. It is no reason to fail: the kubelet would only start the container again."""
        try:
            call()
        except RefusedError as error:
            self._ended = self._ended or isinstance(error, TrialFinishedError | WrongKeyError)
            say(str(error))

    def _say_trouble(self) -> None:
        if self._source.trouble not in (None, self._trouble):
            say(f"{self._source.trouble}; trying again once a second")
        self._trouble = self._source.trouble

"""The sidecar of a program that writes metrics to files (spec.metrics.from: File): reads and reports them."""

from __future__ import annotations

import functools
import json
import math
import signal
import time
from collections.abc import Callable

from study_trial._channels import Channel
from study_trial._errors import RefusedError, TrialFinishedError, WrongKeyError
from study_trial._output import say
from study_trial._reading.entry import Entry, Names, Source
from study_trial._reading.numerals import Steps

_POLL_SECONDS = 1.0
# After the program's end the pod has terminationGracePeriodSeconds left (30 by default). Reports can prune nothing any
# more then, and the final values come after them, so they get only a part of that time.
_LAST_REPORTS_SECONDS = 10.0
_ADDITIONAL_SECONDS = 10.0  # between two times that additional values are stored, because each is a call
_ENDING = {signal.SIGTERM, signal.SIGINT}


class Follower:
    """Reports the first objective's values while the program runs, and remembers those that may be final.

    It cannot know whether the program succeeds. So the final values are provisional: the operator uses them if the
    trial's Job completes.

    Args:
        source: the files.
        names: what to look for.
        channel: where reports go.
        clock: monotonic time in seconds.
    """

    def __init__(
        self, source: Source, names: Names, channel: Channel, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = source
        self._names = names
        self._channel = channel
        self._clock = clock
        self._latest: dict[str, float] = {}  # by what the program calls them
        self._extreme: dict[str, float] = {}  # lowest or highest values, by objective
        self._unmarked: frozenset[str] = frozenset()  # the names of which these values have no mark
        self._kept: dict[str, float] = {}  # additional values as the database has them
        self._kept_at = float("-inf")
        self._steps = Steps()
        self._warned = False
        self._bad = 0
        self._bad_sent = 0
        self._last_bad = ""
        self._ended = False  # the trial has ended: nothing more can be stored
        self._trouble: str | None = None

    def run(self) -> None:
        """Report until SIGTERM, which the kubelet sends when the program has ended. Then store the final values.

        Raises:
            UndeliveredError: the database was away. The message holds the values.
        """
        # The signals are blocked and waited for, so that they never interrupt a call of the database.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        self.begin()
        while True:
            self.poll(stop=lambda: bool(signal.sigpending() & _ENDING))
            if signal.sigtimedwait(_ENDING, _POLL_SECONDS) is not None:
                break
        self.end()

    def begin(self) -> None:
        """Delete the provisional values that an earlier pod of the trial may have left."""
        self._send(self._channel.clear_candidate)

    def poll(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Report what is new in the files.

        While the database is away, nothing more is read, because the file keeps it.

        Args:
            stop: whether to stop reading after the current entry.
        """
        if self._ended or (self._channel.waiting() and not self._deliver()):
            return
        for entry in self._source.read():
            self._take(entry, report=True)
            if self._ended or self._channel.waiting() or stop():
                break
        self._say_trouble()
        self._count_bad()
        if self._clock() - self._kept_at >= _ADDITIONAL_SECONDS:
            self._keep_additional()

    def end(self) -> None:
        """Read to the end and store the final values. Raises the errors of `run`."""
        deadline = self._clock() + _LAST_REPORTS_SECONDS
        for entry in [] if self._ended else self._source.read(last=True):
            self._take(entry, report=not self._channel.waiting() and self._clock() < deadline)
            if self._ended:
                break
        if self._ended or self._channel.should_stop():
            return
        self._count_bad()
        metric, latest = self._names.metric, self._latest
        if missing := [metric(name) for name in self._names.objectives if metric(name) not in latest]:
            self._tell_missing(missing)
            self._send(self._channel.clear_candidate)
        else:
            values = [self._extreme.get(name, latest[metric(name)]) for name in self._names.objectives]
            constraints = {name: latest[metric(name)] for name in self._names.constraints if metric(name) in latest}
            self._send(lambda: self._channel.candidate(values, constraints))
        self._keep_additional()

    def _take(self, entry: Entry, report: bool) -> None:
        if entry.anew:
            self._latest.clear()
            self._extreme.clear()
            self._unmarked = frozenset()
            self._steps = Steps()
            return
        if entry.bad is not None:
            self._bad, self._last_bad = self._bad + 1, entry.bad
        self._latest.pop(entry.void, None)
        self._latest.update(entry.values)
        marked = self._unmarked.intersection(entry.values) - entry.unmarked
        self._unmarked = (self._unmarked | entry.unmarked) - marked
        for name, better in self._names.finals.items():
            if self._names.metric(name) in marked:
                self._extreme.pop(name, None)
            if (found := entry.values.get(self._names.metric(name))) is not None:
                self._extreme[name] = _better(better, self._extreme.get(name, math.nan), found)
        value = entry.values.get(self._names.metric(self._names.objectives[0]))
        if value is None or entry.no_report or len(self._names.objectives) > 1:
            return
        step = self._steps.at(value, entry.step, entry.lost)
        self._warn()
        if step is not None and report:
            self._send(lambda: self._channel.report(step, value))
            self._ended = self._ended or self._channel.should_stop()

    def _warn(self) -> None:
        """Say once what the study cannot see because of the steps. It counts as one bad report."""
        if self._steps.warning and not self._warned:
            self._warned = True
            self._bad, self._last_bad = self._bad + 1, self._steps.warning
            say(f"warning: {self._steps.warning} (this is said once)")

    def _keep_additional(self) -> None:
        """Store the additional values that have changed as attributes of the trial."""
        for name in self._names.additional:
            value = self._latest.get(name)
            # repr(), because NaN does not equal itself.
            if value is not None and repr(value) != repr(self._kept.get(name)) and not self._ended:
                if self._channel.waiting():
                    return
                # JSON has neither NaN nor infinities: they are texts.
                text = json.dumps(value if math.isfinite(value) else repr(value))
                self._send(functools.partial(self._channel.set_user_attr, name, text))
                self._kept[name], self._kept_at = value, self._clock()

    def _tell_missing(self, missing: list[str]) -> None:
        """Say which values are missing, and what is there instead. It is stored, for the trial's failure to say it."""
        seen = f"it has values of {', '.join(self._names.seen)}" if self._names.seen else ""
        instead = [part for part in (self._source.trouble, self._last_bad, seen) if part] or ["it has no other values"]
        several = [f"no value of {', '.join(missing)}"] if len(self._names.objectives) > 1 else []
        say("; ".join([f"there is no value of {', '.join(missing)}", *instead]))
        self._bad, self._last_bad = self._bad + 1, "; ".join([*several, *instead])
        self._count_bad()

    def _count_bad(self) -> None:
        if self._bad > self._bad_sent and not self._ended and not self._channel.waiting():
            self._bad_sent = self._bad
            self._send(lambda: self._channel.bad_report(self._bad, self._last_bad))

    def _deliver(self) -> bool:
        """Try to send the waiting calls. Return whether reporting can go on."""
        self._ended = self._channel.should_stop()
        return not self._ended and not self._channel.waiting()

    def _send(self, call: Callable[[], object]) -> None:
        """Make a call, and print a refusal. It is not raised, because the kubelet would only restart the container."""
        try:
            call()
        except RefusedError as error:
            self._ended = self._ended or isinstance(error, TrialFinishedError | WrongKeyError)
            say(str(error))

    def _say_trouble(self) -> None:
        if self._source.trouble not in (None, self._trouble):
            say(f"{self._source.trouble}; trying again once a second")
        self._trouble = self._source.trouble


def _better(which: str, before: float, value: float) -> float:
    """Return the lower (Min) or higher (Max) of two values. NaN is so only beside another NaN."""
    if math.isnan(before) or math.isnan(value):
        return before if math.isnan(value) else value
    return min(before, value) if which == "Min" else max(before, value)

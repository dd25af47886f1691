"""Where reports go: in a trial's pod to the study's database, outside a cluster to stderr."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from study_trial._connection import Call, Connection
from study_trial._delivery import Caller, Delivery
from study_trial._environment import PodEnvironment
from study_trial._errors import RefusedError, TrialFinishedError
from study_trial._local import SCHEME, LocalConnection
from study_trial._output import say
from study_trial._together import Answers, Listener, answers_path

_ASK_SECONDS = 1.0  # least time between two questions to the database whether to stop


@dataclass(frozen=True)
class Final:
    """How a trial ends.

    Attributes:
        values: the final values, one per objective; empty when there are none.
        pruned: whether the script itself ended the trial early.
        constraints: the constraints' values by name.
        infeasible: why the parameters cannot work; None when they can.
    """

    values: list[float]
    pruned: bool = False
    constraints: dict[str, float] = field(default_factory=dict)
    infeasible: str | None = None


class Channel(Protocol):
    """Where checked values are sent to.

    A value is a float, also NaN or infinite. A step is an int from 0. An attribute is JSON text. RefusedError and its
    subclasses are raised when the database refuses a call.
    """

    def report(self, step: int, value: float) -> None:
        """Store an intermediate value, now or when the database is back."""

    def should_stop(self) -> bool:
        """Return whether the operator is known to have pruned the trial."""

    def set_user_attr(self, name: str, text: str) -> None:
        """Store an attribute, now or when the database is back."""

    def finish(self, final: Final) -> bool:
        """Store the trial's end.

        Returns:
            Whether the operator had pruned the trial, so that the end was not needed.

        Raises:
            UndeliveredError: it could not be delivered within STUDY_FINISH_TIMEOUT.
        """

    def candidate(self, values: list[float], constraints: dict[str, float]) -> None:
        """Store provisional final values, which count if the trial's Job completes. Raises the errors of `finish`."""

    def clear_candidate(self) -> None:
        """Delete what `candidate` has stored, now or when the database is back."""

    def bad_report(self, total: int, message: str) -> None:
        """Store how many reports could not be read, now or when the database is back.

        Args:
            total: their number so far.
            message: what is wrong with the last of them.
        """

    def waiting(self) -> list[str]:
        """Return the calls that were not delivered yet, in words, oldest first."""

    def flush(self, seconds: float) -> None:
        """Try to deliver the waiting calls for so many seconds, or for STUDY_REPORT_TIMEOUT if that is less."""


class PodChannel:
    """Sends to the study's database, by submit() in reporting.sql.

    Args:
        delivery: the queue in front of the connection.
        trial_id: the trial's id in Optuna's tables.
        number: the trial's number in its study.
        job: the name of this pod's Job; None when an older operator started the pod.
        clock: monotonic time in seconds.
        answers: where the trial's other processes find what this one hears; None if there are none.
    """

    def __init__(
        self,
        delivery: Delivery,
        trial_id: int,
        number: int,
        job: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        answers: Answers | None = None,
    ) -> None:
        self._delivery = delivery
        self._trial = {"trial": trial_id} | ({"job": job} if job else {})
        self._number = number
        self._clock = clock
        self._answers = answers
        self._stop = False
        self._answered = float("-inf")  # when the database was last asked whether to stop

    def report(self, step: int, value: float) -> None:
        call = self._call(f"the report {value!r} of step {step}", "report", step=step, value=_json(value))
        self._heard(self._delivery.send(call))

    def should_stop(self) -> bool:
        # A report's answer says so, too. The question is for scripts that want to know between two reports.
        if not self._stop and self._clock() - self._answered >= _ASK_SECONDS:
            self._heard(self._delivery.ask(self._call("the question whether to stop", "should_stop")))
        if self._answers is not None:
            self._answers.note(self._stop)
        return self._stop

    def set_user_attr(self, name: str, text: str) -> None:
        call = self._call(f"the attribute {name!r}", "set_user_attr", name=name, json=text)
        try:
            self._delivery.send(call)
        except TrialFinishedError:
            self._answered = float("-inf")
            if not self.should_stop():
                raise
            say(f"the trial has been pruned; {call.what} is not stored")

    def finish(self, final: Final) -> bool:
        if self._answers is not None:
            self._answers.end()
        what = f"the final value {_text(final)}" if final.values else "the end"
        content = {
            "values": [_json(value) for value in final.values],
            "pruned": final.pruned,
            "constraints": final.constraints,
            "infeasible": final.infeasible,
        }
        try:
            return bool(self._delivery.send_final(self._call(f"{what} of trial {self._number}", "finish", **content)))
        except TrialFinishedError:
            # The refusal has stored nothing. If another end is stored, the study is to say so.
            with contextlib.suppress(RefusedError):  # a database of an earlier version
                self._delivery.send(self._call(f"that {what} is another one", "other_end", **content))
            raise

    def candidate(self, values: list[float], constraints: dict[str, float]) -> None:
        what = f"the final value {_text(Final(values))} of trial {self._number}"
        content = {"values": [_json(value) for value in values], "constraints": constraints}
        self._delivery.send_final(self._call(what, "candidate", **content))

    def clear_candidate(self) -> None:
        self._heard(self._delivery.send(self._call("the beginning", "candidate", values=[])))

    def bad_report(self, total: int, message: str) -> None:
        what = "the number of reports that cannot be read"
        self._delivery.send(self._call(what, "bad_report", total=total, message=message.replace("\0", " ")))

    def waiting(self) -> list[str]:
        return self._delivery.waiting

    def flush(self, seconds: float) -> None:
        self._delivery.flush(seconds)

    def _call(self, what: str, function: str, **content: Any) -> Call:
        return Call({"call": function} | self._trial | content, what)

    def _heard(self, stop: bool | None) -> None:
        self._answered = self._clock()
        self._stop = self._stop or bool(stop)


class LocalChannel:
    """Prints what a trial's pod would send. The trial is never pruned."""

    def report(self, step: int, value: float) -> None:
        say(f"local run: step {step}: {value!r}")

    def should_stop(self) -> bool:
        return False

    def set_user_attr(self, name: str, text: str) -> None:
        say(f"local run: attribute {name} = {text}")

    def finish(self, final: Final) -> bool:
        for name, value in final.constraints.items():
            say(f"local run: constraint {name} = {value!r}")
        if final.infeasible is not None:
            say(f"local run: infeasible: {final.infeasible}")
        else:
            say(f"local run: {'pruned by the script' if final.pruned else 'final value'} {_text(final)}".rstrip())
        return False

    def candidate(self, values: list[float], constraints: dict[str, float]) -> None:
        self.finish(Final(values, constraints=constraints))

    def clear_candidate(self) -> None:
        pass

    def bad_report(self, total: int, message: str) -> None:
        say(f"local run: bad report {total}: {message}")

    def waiting(self) -> list[str]:
        return []

    def flush(self, seconds: float) -> None:
        pass


class SilentChannel:
    """The channel of a trial's other processes and pods: asks whether to stop, and leaves reporting to rank 0.

    Args:
        channel: the channel for the questions.
        why: in words, such as RANK=3.
        listener: what rank 0 has heard; None if its process is elsewhere.
    """

    def __init__(self, channel: Channel, why: str, listener: Listener | None = None) -> None:
        self._channel, self._listener = channel, listener
        self._why = why
        self._said = False

    def report(self, step: int, value: float) -> None:
        self._say_once()

    def should_stop(self) -> bool:
        answer = self._listener.answer() if self._listener is not None else None
        return self._channel.should_stop() if answer is None else answer

    def set_user_attr(self, name: str, text: str) -> None:
        self._say_once()

    def finish(self, final: Final) -> bool:
        self._say_once()
        return False

    def candidate(self, values: list[float], constraints: dict[str, float]) -> None:
        self._say_once()

    def clear_candidate(self) -> None:
        self._say_once()

    def bad_report(self, total: int, message: str) -> None:
        self._say_once()

    def waiting(self) -> list[str]:
        return []

    def flush(self, seconds: float) -> None:
        pass

    def _say_once(self) -> None:
        if not self._said:
            say(f"what this process of the trial reports is not sent: it has {self._why}, and 0 reports for all")
        self._said = True


def open_channel(pod: PodEnvironment | None, together: bool = False) -> Channel:
    """Return the channel of a pod, or for None that of a local run.

    Args:
        pod: the pod's environment.
        together: whether the trial's other processes in the pod call `should_stop` as often as this one.

    Raises:
        SetupError: the database's address or the key cannot be read.
    """
    if pod is None:
        say("local run (this is no trial's pod): parameters are given or defaults, reports are printed")
        return LocalChannel()
    delivery = Delivery(_connection(pod), pod.report_timeout, pod.finish_timeout)
    path = answers_path(f"{pod.optuna_name}/{pod.job}/{pod.trial_id}") if together and pod.one_of_several else None
    if pod.silent_because is not None:
        channel = PodChannel(delivery, pod.trial_id, pod.number, pod.job)
        return SilentChannel(channel, pod.silent_because, Listener(path) if path else None)
    return PodChannel(delivery, pod.trial_id, pod.number, pod.job, answers=Answers(path) if path else None)


def _connection(pod: PodEnvironment) -> Caller:
    """Return the way to the study: its database, or the program that runs it on this machine."""
    if pod.url.startswith(SCHEME):
        return LocalConnection(Path(pod.url.removeprefix(SCHEME)))
    return Connection(pod.url, pod.key, pod.storage_directory)


def _text(final: Final) -> str:
    return ", ".join(map(repr, final.values))


def _json(value: float) -> float | str:
    """Return a number as it is in a message: NaN and infinities as text, because JSON does not have them."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"

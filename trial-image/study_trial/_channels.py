"""Where reports go: to the study's database in a trial's pod, to the screen outside a cluster."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from study_trial._connection import Call, Connection
from study_trial._delivery import Delivery
from study_trial._environment import PodEnvironment
from study_trial._errors import TrialFinishedError
from study_trial._output import say

_ASK_SECONDS = 1.0  # should_prune() asks the database no more often than this


@dataclass(frozen=True)
class Final:
    """How a trial ends: final values, one per objective, and those of the constraints by name; or `pruned` by the
    script itself; or why it is `infeasible`."""

    values: list[float]
    pruned: bool = False
    constraints: dict[str, float] = field(default_factory=dict)
    infeasible: str | None = None


class Channel(Protocol):
    """Takes checked values: finite or not, a value is a float, a step an int >= 0, an attribute JSON text."""

    def report(self, step: int, value: float) -> None:
        """Stores an intermediate value, at once or when the database is back."""

    def should_stop(self) -> bool:
        """Whether the operator has pruned the trial, as far as is known."""

    def set_user_attr(self, name: str, text: str) -> None:
        """Stores an attribute, at once or when the database is back."""

    def finish(self, final: Final) -> bool:
        """Stores the trial's end; true when the operator had pruned the trial, so that it was not needed.

        Raises:
            UndeliveredError: not within STUDY_FINISH_TIMEOUT.
        """

    def candidate(self, values: list[float], constraints: dict[str, float]) -> None:
        """Stores final values that count when the trial's Job is complete. Raises as `finish`."""

    def clear_candidate(self) -> None:
        """Takes back what `candidate` has stored, at once or when the database is back."""

    def bad_report(self, total: int, message: str) -> None:
        """Stores how many reports could not be read so far, and what is wrong with the last of them, at once or when
        the database is back."""

    def waiting(self) -> list[str]:
        """What was reported but not delivered yet, oldest first."""

    def send_rest(self, seconds: float) -> None:
        """Tries for so long, or for STUDY_REPORT_TIMEOUT if that is less, to deliver what waits."""


class PodChannel:
    """The database of the study, which takes messages: submit() in reporting.sql.

    Args:
        job: the Job of this pod; None where the operator that has started it did not tell.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        delivery: Delivery,
        trial_id: int,
        number: int,
        job: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._delivery = delivery
        self._trial = {"trial": trial_id} | ({"job": job} if job else {})
        self._number = number
        self._clock = clock
        self._stop = False
        self._answered = float("-inf")  # when the database last said whether to stop, or could not

    def report(self, step: int, value: float) -> None:
        call = self._call(f"the report {value!r} of step {step}", "report", step=step, value=_json(value))
        self._heard(self._delivery.send(call))

    def should_stop(self) -> bool:
        # A report brings the answer with it; asking is for scripts that want to know between two reports.
        if not self._stop and self._clock() - self._answered >= _ASK_SECONDS:
            self._heard(self._delivery.ask(self._call("the question whether to stop", "should_stop")))
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
        what = f"the final value {_text(final)}" if final.values else "the end"
        call = self._call(
            f"{what} of trial {self._number}",
            "finish",
            values=[_json(value) for value in final.values],
            pruned=final.pruned,
            constraints=final.constraints,
            infeasible=final.infeasible,
        )
        return bool(self._delivery.send_final(call))

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

    def send_rest(self, seconds: float) -> None:
        self._delivery.send_rest(seconds)

    def _call(self, what: str, function: str, **content: Any) -> Call:
        return Call({"call": function} | self._trial | content, what)

    def _heard(self, stop: bool | None) -> None:
        self._answered = self._clock()
        self._stop = self._stop or bool(stop)


class LocalChannel:
    """Prints what a trial's pod would send. Nobody prunes."""

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

    def send_rest(self, seconds: float) -> None:
        pass


class SilentChannel:
    """For the pods of a trial beside the first one: they ask whether to stop, and leave reporting to that one."""

    def __init__(self, channel: Channel, index: int) -> None:
        self._channel = channel
        self._index = index
        self._said = False

    def report(self, step: int, value: float) -> None:
        self._say_once()

    def should_stop(self) -> bool:
        return self._channel.should_stop()

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

    def send_rest(self, seconds: float) -> None:
        pass

    def _say_once(self) -> None:
        if not self._said:
            say(f"this is pod {self._index} of the trial: what it reports is not sent, pod 0 reports for all")
        self._said = True


def open_channel(pod: PodEnvironment | None) -> Channel:
    """The channel of a pod, or that of a local run."""
    if pod is None:
        say("local run (this is no trial's pod): parameters are given or defaults, reports are printed")
        return LocalChannel()
    delivery = Delivery(Connection(pod.url, pod.key), pod.report_timeout, pod.finish_timeout)
    channel = PodChannel(delivery, pod.trial_id, pod.number, pod.job)
    return SilentChannel(channel, pod.index) if pod.index else channel


def _text(final: Final) -> str:
    return ", ".join(map(repr, final.values))


def _json(value: float) -> float | str:
    """A number as a message has it: JSON knows neither NaN nor infinities."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"

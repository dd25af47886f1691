"""The trial that this process runs, in Optuna's own vocabulary."""

from __future__ import annotations

import atexit
import contextlib
import math
import operator
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from study_trial import _checks, _terminating
from study_trial._channels import Channel, Final, SilentChannel, open_channel
from study_trial._environment import read_checkpoint_dir, read_given_params, read_names, read_pod_environment
from study_trial._errors import InvalidValueError, SearchSpaceError, SeveralObjectivesError, Terminated, is_pruned
from study_trial._output import say
from study_trial._search_space import Choices, LocalSpace, Params, Range, Space, StudySpace

_LONGEST_REASON = 1000
_LAST_SECONDS = 10.0  # of the time that a pod has left after SIGTERM: terminationGracePeriodSeconds, mostly 30

_current: Trial | None = None


class Trial:
    """One trial. Get it from `study_trial.current()` or as the argument of an objective. Not thread-safe.

    The methods behave as those of `optuna.Trial`, with two differences that follow from the operator having
    chosen the parameters and being the one that prunes: a suggest call returns the value chosen, and
    `should_prune` may become true one report later than it would in a process that prunes itself.
    """

    def __init__(
        self,
        number: int,
        space: Space,
        channel: Channel,
        objectives: Sequence[str] = (),
        constraints: Sequence[str] | None = None,
    ) -> None:
        """`objectives` and `constraints` are the study's names of them; empty, and None, when they are not known."""
        self._number = number
        self._space = space
        self._channel = channel
        self._objectives = tuple(objectives)
        self._limited = None if constraints is None else tuple(constraints)
        self._constraints: dict[str, float] = {}
        self._user_attrs: dict[str, Any] = {}
        self._finished = False

    @property
    def number(self) -> int:
        """The trial's number in its study, from 0; 0 outside a cluster."""
        return self._number

    @property
    def params(self) -> Params:
        """All parameters that are active in this trial, by name. A categorical one has the Study's type until
        `suggest_categorical` gives it the script's.

        Outside a cluster: those given, and those suggested so far.
        """
        return self._space.params

    @property
    def user_attrs(self) -> dict[str, Any]:
        """The attributes set by this process."""
        return dict(self._user_attrs)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """The value of a float parameter.

        Raises:
            UnknownParameterError: the study has no such parameter.
            InactiveParameterError: it has, but the parameter's `when` is not fulfilled in this trial.
            SearchSpaceError: the study has another range, step or log for it.
        """
        step = None if step is None else float(step)
        return self._suggest(name, lambda: Range("float", float(low), float(high), step, log))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """The value of an int parameter. Raises as `suggest_float`."""
        return self._suggest(
            name, lambda: Range("int", operator.index(low), operator.index(high), operator.index(step), log)
        )

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The value of a categorical parameter: one of `choices`, in its type there. Raises as
        `suggest_float`.

        Where the Study has a choice as text, "32" there is 32 here, "true" is True, "null" or "None" is None.
        """
        return self._suggest(name, lambda: Choices(tuple(choices)))

    def _suggest(self, name: str, asked: Callable[[], Range | Choices]) -> Any:
        try:
            wanted = asked()
        except SearchSpaceError as error:
            raise SearchSpaceError(f"parameter {name!r}: {error}") from None
        return self._space.value(name, wanted)

    def report(self, value: float, step: int) -> None:
        """Reports an intermediate value, for example the validation accuracy after an epoch.

        Returns after STUDY_REPORT_TIMEOUT seconds (5) at the latest; what could not be sent is sent before
        the next report. The first value of a step stands. NaN and infinities are stored as such.

        Args:
            value: anything that `float()` takes, except text.
            step: a whole number from 0 to 2147483647, for example the epoch.

        Raises:
            InvalidValueError: value or step cannot be reported; nothing was sent.
            SeveralObjectivesError: the study has several objectives, and so no pruning.
            RefusedError: the database refused it: a wrong key, or a trial that has ended.
        """
        if len(self._objectives) > 1:
            raise SeveralObjectivesError(
                f"the study has the objectives {', '.join(self._objectives)}, and Optuna has no pruning with several: "
                "there is nothing that could be done with values reported during a trial; return the final ones"
            )
        self._channel.report(_checks.step(step), _checks.number(value, "the reported value"))

    def should_prune(self) -> bool:
        """Whether to stop: true once the operator has pruned the trial. Always false outside a cluster."""
        return self._channel.should_stop()

    def set_user_attr(self, key: str, value: Any) -> None:
        """Stores an attribute that shows in Optuna's tools, for example a checkpoint's path.

        Args:
            key: at most 512 characters.
            value: anything that JSON can hold, at most 64 KiB of it.

        Raises:
            InvalidValueError: the attribute cannot be stored; nothing was sent.
            RefusedError: the database refused it: a wrong key, or a trial that has ended.
        """
        text = _checks.attribute(key, value)
        self._channel.set_user_attr(key, text)
        self._user_attrs[key] = value

    def set_constraint(self, name: str, value: float) -> None:
        """Says what was measured of something that the study limits: a latency, the memory used. Stored by `finish`.

        Args:
            name: that of one of the Study's constraints.
            value: as measured; the Study has the limit. The last value of a name counts.

        Raises:
            InvalidValueError: the study has no such constraint, the value is no finite number, or `finish` was called
            before.
        """
        number = _checks.number(value, f"constraint {name!r}")
        if not math.isfinite(number):
            raise InvalidValueError(f"constraint {name!r} must be a finite number, not {number!r}; nothing was sent")
        if self._limited is not None and name not in self._limited:
            known = ", ".join(self._limited) or "none at all"
            raise InvalidValueError(f"the study has no constraint {name!r}; it has {known} (spec.constraints)")
        if self._finished:
            raise InvalidValueError(f"constraint {name!r} comes too late: set it before the final value is stored")
        self._constraints[name] = number

    def infeasible(self, reason: object) -> None:
        """Ends the trial: these parameters cannot work, for example because the model does not fit into memory.

        That is no failure: samplers learn to avoid such parameters, and nothing is run again. Returns when it is
        stored; then return from the objective, or leave the script.

        Args:
            reason: why, for people: a text or an exception. Of a longer text the first 1000 characters.

        Raises:
            RefusedError, UndeliveredError: as `finish`.
        """
        text = str(reason).replace("\0", "").encode(errors="replace").decode().strip() or repr(reason)
        self._end(Final([], constraints=self._constraints, infeasible=text[:_LONGEST_REASON]))

    def finish(self, value: float | Sequence[float] | None = None, *, pruned: bool = False) -> None:
        """Stores the final value and returns when it is stored; `study_trial.run` does it with what is
        returned.

        A database that is away is waited for, up to STUDY_FINISH_TIMEOUT seconds (3600).

        Args:
            value: the objective's value, or one value per objective in the Study's order.
            pruned: the script itself ended the trial early; then the value may be left out.

        Raises:
            InvalidValueError: not a number, or not one for each objective; nothing was sent.
            RefusedError: the database refused it: a wrong key, another final value before, a trial that has ended.
            UndeliveredError: the database was away for too long; the message holds the value.
        """
        values = _checks.values(value)
        if not values and not pruned:
            raise InvalidValueError("a trial ends with a final value, or as pruned; nothing was sent")
        if values and self._objectives and len(values) != len(self._objectives):
            raise InvalidValueError(
                f"the study has {len(self._objectives)} objective(s), {', '.join(self._objectives)}, and so many final "
                f"values are needed, in this order; there are {len(values)}, and nothing was sent"
            )
        if any(map(math.isnan, values)):
            say("warning: the final value is NaN, so this trial will count as failed (reason InvalidValue)")
        missing = [name for name in self._limited or () if name not in self._constraints]
        if missing and not pruned and not isinstance(self._channel, SilentChannel):
            say(
                f"warning: there is no value for {', '.join(missing)}, so this trial will count as failed (reason "
                "ConstraintMissing): call set_constraint before the final value is stored"
            )
        self._end(Final(values, pruned, self._constraints))

    def _end(self, final: Final) -> None:
        with _terminating.Hold():
            unneeded = self._channel.finish(final)
            self._finished = True
        if unneeded:
            say("the trial has been pruned by the study; its final value was not needed")

    @property
    def finished(self) -> bool:
        """Whether `finish` or `infeasible` has stored the trial's end in this process."""
        return self._finished

    @property
    def checkpoint_dir(self) -> Path | None:
        """The trial's directory for checkpoints, which survives its pods; None when the Study has no `checkpoints`.

        Outside a cluster: STUDY_CHECKPOINT_DIR if that is set.
        """
        return read_checkpoint_dir(os.environ)

    @property
    def undelivered(self) -> list[str]:
        """What was reported but has not reached the database yet, in words, oldest first."""
        return self._channel.waiting()

    def send_rest(self) -> None:
        """Tries for STUDY_REPORT_TIMEOUT seconds, at most 10, to deliver what is `undelivered`, and says what stays so.
        A process does it when it ends."""
        self._channel.send_rest(_LAST_SECONDS)
        for what in self.undelivered:
            say(f"warning: {what} is NOT stored, because the database is still away")


def current() -> Trial:
    """The trial of this pod, or outside a cluster a local one that prints; the same object at every call.

    In a pod, when called in the main thread and unless the program handles the signal itself, it also lets SIGTERM
    raise `study_trial.Terminated`.

    Raises:
        SetupError: a part of the environment that the operator sets is missing or cannot be read.
    """
    global _current
    if _current is None:
        _current = _open()
        atexit.register(send_rest_at_exit, _current, os.getpid())
    if os.environ.get("STUDY_TRIAL_ID"):
        _terminating.install()
    return _current


def send_rest_at_exit(trial: Trial, process: int) -> None:
    """What still waits is tried once more when the process ends, which may be for SIGTERM, and what is lost is said."""
    if os.getpid() == process:  # and no worker forked from it, which has a copy of what waits
        with contextlib.suppress(Terminated), _terminating.Hold():
            trial.send_rest()


def checkpoint_dir() -> Path | None:
    """As `Trial.checkpoint_dir`, for scripts that have no trial at hand."""
    return current().checkpoint_dir


def run(objective: Callable[[Trial], float | Sequence[float] | None]) -> None:
    """Runs an Optuna objective as this pod's trial and stores what it returns as the final value.

    Raising `study_trial.TrialPruned` or `optuna.TrialPruned` ends the trial as pruned, and `run` returns. Any
    other exception is the caller's: nothing is stored, and the trial fails with the process.

    Raises:
        InvalidValueError: the objective returned no number and had not called `finish` either.
        StudyTrialError: as `current` and `Trial.finish`.
    """
    trial = current()
    try:
        value = objective(trial)
    except Exception as error:
        if not is_pruned(error):
            raise
        trial.finish(pruned=True)
        return
    if value is None and trial.finished:
        return
    if value is None:
        raise InvalidValueError(
            "the objective returned None and did not call trial.finish(value); return the value to optimise"
        )
    trial.finish(value)


def _open() -> Trial:
    pod = read_pod_environment(os.environ)
    channel = open_channel(pod)
    if pod is None:
        objectives, constraints = (read_names(os.environ, f"STUDY_{what}") for what in ("OBJECTIVES", "CONSTRAINTS"))
        return Trial(0, LocalSpace(read_given_params(os.environ)), channel, objectives, constraints or None)
    return Trial(pod.number, StudySpace(pod.params, pod.search_space), channel, pod.objectives, pod.constraints)

"""The trial that this process runs, with the names and signatures of `optuna.Trial`."""

from __future__ import annotations

import atexit
import contextlib
import math
import operator
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from study_trial import _checks, _terminating
from study_trial._channels import Channel, Final, SilentChannel, open_channel
from study_trial._environment import (
    read_called,
    read_checkpoint_dir,
    read_directions,
    read_given_params,
    read_names,
    read_param_variables,
    read_pod_environment,
)
from study_trial._errors import (
    InvalidValueError,
    SearchSpaceError,
    SetupError,
    SeveralObjectivesError,
    Terminated,
    is_pruned,
)
from study_trial._output import say
from study_trial._reading.numerals import Steps
from study_trial._search_space import Choices, LocalSpace, Params, Range, Space, StudySpace
from study_trial._study import Study, import_optuna, unsupported_of_trial

_LONGEST_REASON = 1000
_LAST_SECONDS = 10.0  # for a last delivery after SIGTERM; terminationGracePeriodSeconds is mostly 30

_current: Trial | None = None


class Trial:
    """One trial. Get it from `study_trial.current()` or as the argument of an objective. Not thread-safe.

    The methods behave as those of `optuna.Trial`. Two differences follow from the operator, which chooses parameters
    and prunes: a suggest call returns the value that was chosen before, and `should_prune` may become true one report
    later. An attribute of `optuna.Trial` that cannot be provided raises UnsupportedError, an AttributeError.

    Args:
        number: the trial's number in its study.
        space: where parameters come from.
        channel: where reports go.
        objectives: the objectives' names, in order; empty when they are not known.
        constraints: the constraints' names; None when they are not known.
        study: what the pod knows of the study.
        called: what the program calls those constraints that it does not call by their name.
    """

    def __init__(
        self,
        number: int,
        space: Space,
        channel: Channel,
        objectives: Sequence[str] = (),
        constraints: Sequence[str] | None = None,
        study: Study | None = None,
        called: Mapping[str, str] | None = None,
    ) -> None:
        self._number = number
        self._space = space
        self._channel = channel
        self._objectives = tuple(objectives)
        self._limited = None if constraints is None else tuple(constraints)
        self._study = study or Study(None, objectives)
        self._called = dict(called or {})
        self._constraints: dict[str, float] = {}
        self._user_attrs: dict[str, Any] = {}
        self._datetime_start = datetime.now()
        self._steps = Steps()
        self._warned = False
        self._finished = False

    @property
    def number(self) -> int:
        """The trial's number in its study, from 0; 0 outside a cluster."""
        return self._number

    @property
    def study(self) -> Study:
        """The study, with its `study_name`, `direction`, `directions` and `metric_names`."""
        return self._study

    @property
    def params(self) -> Params:
        """All parameters that are active in this trial, by name.

        A categorical value has the Study's type until `suggest_categorical` gives it the script's. Outside a cluster:
        the parameters that were given, and those suggested so far.
        """
        return self._space.params

    @property
    def distributions(self) -> dict[str, Any]:
        """Optuna's distributions of the parameters suggested so far, by name.

        Raises:
            SetupError: Optuna cannot be imported here.
        """
        optuna = import_optuna("distributions")
        if optuna is None:
            raise SetupError(
                "trial.distributions needs Optuna, whose objects they are, and it cannot be imported here: install it, "
                "or use trial.params"
            )

        def distribution(asked: Range | Choices) -> Any:
            if isinstance(asked, Choices):
                return optuna.CategoricalDistribution(asked.choices)
            kind = optuna.IntDistribution if asked.kind == "int" else optuna.FloatDistribution
            return kind(asked.low, asked.high, log=asked.log, step=asked.step)

        return {name: distribution(asked) for name, asked in self._space.asked.items()}

    @property
    def user_attrs(self) -> dict[str, Any]:
        """The attributes that this process has set. Those of the trial's earlier pods are not among them."""
        return dict(self._user_attrs)

    @property
    def constraints(self) -> dict[str, float]:
        """The values that this process has given to `set_constraint`, by name."""
        return dict(self._constraints)

    @property
    def datetime_start(self) -> datetime:
        """When this process began the trial, in local time without a time zone, as Optuna has it.

        The `datetime_start` that Optuna's tools show is earlier: it is when the operator asked for the trial, before
        the pod was started.
        """
        return self._datetime_start

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Return the value of a float parameter.

        Raises:
            UnknownParameterError: the study has no such parameter.
            InactiveParameterError: the parameter's `when` is not fulfilled in this trial.
            SearchSpaceError: the study has another range, step or log for it.
        """
        step = None if step is None else float(step)
        value: float = self._suggest(name, lambda: Range("float", float(low), float(high), step, log))
        return value

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Return the value of an int parameter. Raises the same errors as `suggest_float`."""
        value: int = self._suggest(
            name, lambda: Range("int", operator.index(low), operator.index(high), operator.index(step), log)
        )
        return value

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return the value of a categorical parameter: one of `choices`, in its type there.

        A Study may have a choice as text: "32" there is 32 here, "true" is True, "null" or "None" is None. Raises the
        same errors as `suggest_float`.
        """
        return self._suggest(name, lambda: Choices(tuple(choices)))

    def suggest_uniform(self, name: str, low: float, high: float) -> float:
        """Return the value of a float parameter, as `suggest_float(name, low, high)`. Deprecated in Optuna."""
        _warn_as_optuna("suggest_uniform", "")
        return self.suggest_float(name, low, high)

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        """Return the value of a float parameter, as `suggest_float(..., log=True)`. Deprecated in Optuna."""
        _warn_as_optuna("suggest_loguniform", "(..., log=True)")
        return self.suggest_float(name, low, high, log=True)

    def suggest_discrete_uniform(self, name: str, low: float, high: float, q: float) -> float:
        """Return the value of a float parameter, as `suggest_float(..., step=q)`. Deprecated in Optuna."""
        _warn_as_optuna("suggest_discrete_uniform", "(..., step=...)")
        return self.suggest_float(name, low, high, step=q)

    def _suggest(self, name: str, asked: Callable[[], Range | Choices]) -> Any:
        try:
            wanted = asked()
        except SearchSpaceError as error:
            raise SearchSpaceError(f"parameter {name!r}: {error}") from None
        return self._space.value(name, wanted)

    def report(self, value: float, step: int) -> None:
        """Report an intermediate value, for example the validation accuracy after an epoch.

        Returns after STUDY_REPORT_TIMEOUT seconds (5) at the latest. A report that could not be sent is sent before the
        next one. The first value of a step stands. NaN and infinities are stored as such. What the study cannot see
        because of the steps is printed once.

        Args:
            value: anything that `float()` takes, except text.
            step: for example the epoch. As in Optuna the whole part of a number counts: 2.99 is step 2. A value of a
                step above 2147483647 is no report.

        Raises:
            InvalidValueError: value or step cannot be reported; nothing was sent.
            SeveralObjectivesError: the study has several objectives, and so no pruning.
            RefusedError: the database refused the report: a wrong key, or a trial that has ended.
        """
        if len(self._objectives) > 1:
            raise SeveralObjectivesError(
                f"the study has the objectives {', '.join(self._objectives)}, and Optuna has no pruning with several: "
                "there is nothing that could be done with values reported during a trial; return the final ones"
            )
        number = _checks.number(value, "the reported value")
        at = self._steps.at(number, *_checks.step(step))
        if self._steps.warning and not self._warned and not self.silent:
            self._warned = True
            say(f"warning: {self._steps.warning} (this is said once)")
        if at is not None:
            self._channel.report(at, number)

    def should_prune(self) -> bool:
        """Return whether to stop: true once the operator has pruned the trial. Always false outside a cluster."""
        return self._channel.should_stop()

    def set_user_attr(self, key: str, value: Any) -> None:
        """Store an attribute that shows in Optuna's tools, for example a checkpoint's path.

        Args:
            key: at most 512 characters.
            value: anything that JSON can hold, at most 64 KiB of it.

        Raises:
            InvalidValueError: the attribute cannot be stored; nothing was sent.
            RefusedError: the database refused the attribute: a wrong key, or a trial that has ended.
        """
        text = _checks.attribute(key, value)
        self._channel.set_user_attr(key, text)
        self._user_attrs[key] = value

    def set_constraint(self, name: str, value: float) -> None:
        """Set the measured value of something that the study limits, such as a latency. `finish` stores it.

        Args:
            name: the name of one of the Study's constraints, or its `metric`.
            value: as measured; the Study has the limit. The last value of a name counts.

        Raises:
            InvalidValueError: the study has no such constraint, the value is not a finite number, or `finish` was
                called before.
        """
        number = _checks.number(value, f"constraint {name!r}")
        if not math.isfinite(number):
            raise InvalidValueError(f"constraint {name!r} must be a finite number, not {number!r}; nothing was sent")
        meant = [name] if self._limited is None or name in self._limited else []
        meant = meant or [one for one in self._limited or () if self._called.get(one) == name]
        if not meant:
            known = ", ".join(self._limited or ()) or "none at all"
            raise InvalidValueError(f"the study has no constraint {name!r}; it has {known} (spec.constraints)")
        if self._finished:
            raise InvalidValueError(f"constraint {name!r} comes too late: set it before the final value is stored")
        self._constraints.update(dict.fromkeys(meant, number))

    def mark_infeasible(self, reason: object) -> None:
        """End the trial, because its parameters cannot work: the model does not fit into memory, for example.

        This is not a failure: samplers learn to avoid such parameters, and nothing is run again. Returns when it is
        stored. Then return from the objective, or leave the script.

        Args:
            reason: why, for people: a text or an exception. Only the first 1000 characters are stored.

        Raises:
            RefusedError: the database refused it: a wrong key, another end before, or a trial that has ended.
            UndeliveredError: the database was away for longer than STUDY_FINISH_TIMEOUT.
        """
        text = str(reason).replace("\0", "").encode(errors="replace").decode().strip() or repr(reason)
        self._end(Final([], constraints=self._constraints, infeasible=text[:_LONGEST_REASON]))

    def infeasible(self, reason: object) -> None:
        """Do the same as `mark_infeasible`, under its name of version 0.1. Removed in version 0.4."""
        _warn_of_old_name("infeasible(reason)", "mark_infeasible(reason)")
        self.mark_infeasible(reason)

    def finish(self, value: float | Sequence[float] | None = None, *, pruned: bool = False) -> None:
        """Store the final value, and return when it is stored. `study_trial.run` calls it with the objective's result.

        If the database is away, the call retries for up to STUDY_FINISH_TIMEOUT seconds (3600).

        Args:
            value: the objective's value, or one value per objective in the Study's order.
            pruned: the script itself ended the trial early; then the value may be left out.

        Raises:
            InvalidValueError: a value is not a number, or there is not one for each objective; nothing was sent.
            RefusedError: the database refused it: a wrong key, another final value before, or a trial that has ended.
            UndeliveredError: the database was away for too long; the message holds the value.
        """
        values = _checks.values(value)
        if not values and not pruned:
            raise InvalidValueError("a trial ends with a final value, or as pruned; nothing was sent")
        if values and self._objectives and len(values) != len(self._objectives):
            several = "objective" if len(self._objectives) == 1 else "objectives"
            raise InvalidValueError(
                f"the study has {len(self._objectives)} {several}, {', '.join(self._objectives)}, and so many final "
                f"values are needed, in this order; there are {len(values)}, and nothing was sent"
            )
        if any(map(math.isnan, values)):
            say("warning: the final value is NaN, so this trial will count as failed (reason InvalidValue)")
        missing = [name for name in self._limited or () if name not in self._constraints]
        if missing and not pruned and not self.silent:
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
        """Whether this process has stored the trial's end, by `finish` or `mark_infeasible`."""
        return self._finished

    @property
    def silent(self) -> bool:
        """Whether another process of the trial, that of rank 0, reports for this one."""
        return isinstance(self._channel, SilentChannel)

    @property
    def checkpoint_dir(self) -> Path | None:
        """The trial's directory for checkpoints, which survives its pods; None when the Study has no `checkpoints`.

        Reading this property creates the directory if it does not exist. Outside a cluster it is STUDY_CHECKPOINT_DIR
        if that is set, else None.

        Raises:
            SetupError: the directory cannot be created.
        """
        return read_checkpoint_dir(os.environ)

    @property
    def undelivered(self) -> list[str]:
        """The reports and attributes that have not reached the database yet, in words, oldest first."""
        return self._channel.waiting()

    def flush(self) -> None:
        """Try to deliver what is `undelivered`, for STUDY_REPORT_TIMEOUT seconds, at most 10. Print what stays so.

        A process does this when it ends.
        """
        self._channel.flush(_LAST_SECONDS)
        for what in self.undelivered:
            say(f"warning: {what} is NOT stored, because the database is still away")

    def send_rest(self) -> None:
        """Do the same as `flush`, under its former name. Removed in version 0.4."""
        _warn_of_old_name("send_rest()", "flush()")
        self.flush()

    if not TYPE_CHECKING:  # a type checker must go on to find names that do not exist

        def __getattr__(self, name: str) -> NoReturn:
            raise unsupported_of_trial(name)


def current() -> Trial:
    """Return the trial of this pod, or outside a cluster a local one that prints. Every call returns the same object.

    In a pod, a call in the main thread also makes SIGTERM raise `study_trial.Terminated`, unless the program handles
    the signal itself.

    Raises:
        SetupError: a variable that the operator sets is missing or cannot be read.
    """
    return _get(together=True)


def current_of_command() -> Trial:
    """Do the same as `current`, in a process that calls one method and ends. It has no counterparts in other ranks."""
    return _get(together=False)


def _get(together: bool) -> Trial:
    global _current
    if _current is None:
        _current = _open(together)
        atexit.register(flush_at_exit, _current, os.getpid())
    if os.environ.get("STUDY_TRIAL_ID"):
        _terminating.install()
    return _current


def flush_at_exit(trial: Trial, process: int) -> None:
    """Flush a trial's reports when the process ends, for example because of SIGTERM.

    Args:
        trial: the trial.
        process: id of the process that opened the trial. A forked worker has a copy of the queue and must not send it.
    """
    if os.getpid() == process:
        with contextlib.suppress(Terminated), _terminating.Hold():
            trial.flush()


def checkpoint_dir() -> Path | None:
    """Return `Trial.checkpoint_dir`, for code that has no trial at hand. Creates the directory.

    Raises:
        SetupError: the directory cannot be created, or as `current`.
    """
    return current().checkpoint_dir


def run(objective: Callable[[Trial], float | Sequence[float] | None]) -> None:
    """Run an Optuna objective as this pod's trial, and store the returned value as the final one.

    If the objective raises `study_trial.TrialPruned` or `optuna.TrialPruned`, the trial ends as pruned and `run`
    returns. Any other exception propagates: nothing is stored, and the trial fails with the process.

    Args:
        objective: takes the trial; returns the value, or one value per objective, or None if it has called
            `trial.finish` or `trial.mark_infeasible`, or if the process of rank 0 returns the value.

    Raises:
        InvalidValueError: the objective did not return a number, and had not ended the trial itself.
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
    if value is None and (trial.finished or trial.silent):
        return
    if value is None:
        raise InvalidValueError(
            "the objective returned None and did not call trial.finish(value); return the value to optimise"
        )
    trial.finish(value)


def _open(together: bool) -> Trial:
    pod = read_pod_environment(os.environ)
    channel = open_channel(pod, together)
    if pod is None:
        objectives, constraints = (read_names(os.environ, f"STUDY_{what}") for what in ("OBJECTIVES", "CONSTRAINTS"))
        name = os.environ.get("STUDY_OPTUNA_NAME") or "local"
        study = Study(name, objectives, read_directions(os.environ))
        local = LocalSpace(read_given_params(os.environ), read_param_variables(os.environ))
        return Trial(0, local, channel, objectives, constraints or None, study, read_called(os.environ))
    study = Study(pod.optuna_name, pod.objectives, pod.directions)
    space = StudySpace(pod.params, pod.search_space)
    return Trial(pod.number, space, channel, pod.objectives, pod.constraints, study, pod.called)


def _warn_as_optuna(name: str, arguments: str) -> None:
    """Warn, as Optuna does, that a suggest method will go."""
    message = f"{name} is deprecated in Optuna since 3.0 and will be removed in 6.0: use suggest_float{arguments}"
    warnings.warn(message, FutureWarning, stacklevel=3)


def _warn_of_old_name(old: str, new: str) -> None:
    message = f"trial.{old} is now trial.{new}; the old name will be removed in version 0.4"
    warnings.warn(message, DeprecationWarning, stacklevel=3)

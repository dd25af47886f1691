"""One study's trials in memory, as an Optuna storage: what samplers and pruners read, and what they write.

Optuna's samplers read the whole history again and again. From here that costs what it costs from Optuna's own
`InMemoryStorage`. What they write is collected in a batch (model/batch.py): `begin` opens one, and `commit` takes the
ids and times with which the caller has stored it.
"""

from __future__ import annotations

import copy
import functools
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from optuna.distributions import BaseDistribution, check_distribution_compatibility, distribution_to_json
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from study_operator.model import trial as plain
from study_operator.model.batch import PROVISIONAL, Batch, Change, StaleHistory, Stored
from study_operator.model.thinning import Thinned

T = TypeVar("T")


def _writes(method: Callable[..., T]) -> Callable[..., T]:
    """Make a method a part of the batch that is open; `_alone` says what happens when none is."""

    @functools.wraps(method)
    def write(self: Memory, *args: Any, **kwargs: Any) -> T:
        with self._lock:
            call = functools.partial(method, self, *args, **kwargs)
            return call() if self._batch is not None else self._alone(call)

    return write


class Memory(BaseStorage):
    """The contract is Optuna's `BaseStorage`, for one study that exists already. A trial that has been handed out never
    changes: it is replaced. Only the reports of a running trial are added in place, because copies for each would
    take a time that grows with the square of their number.

    Trials of earlier studies, from which the sampler learns, may come first (`put_first`). Their ids are -1, -2, ...,
    their numbers begin at 0, and the numbers of the study's own trials are that much higher here than in the database.

    Attributes:
        study_id: Optuna's, in the database.
        first: the number of the study's first own trial.
    """

    def __init__(
        self,
        study_id: int,
        name: str,
        directions: Sequence[StudyDirection],
        trials: Iterable[FrozenTrial] = (),
        system_attrs: Mapping[str, Any] | None = None,
        user_attrs: Mapping[str, Any] | None = None,
    ) -> None:
        self.study_id, self._name, self._directions = study_id, name, list(directions)
        self._system_attrs, self._user_attrs = dict(system_attrs or {}), dict(user_attrs or {})
        self._trials: list[FrozenTrial] = []
        self._places: dict[int, int] = {}  # by trial_id
        self._counts: Counter[TrialState] = Counter()
        self._waiting: set[int] = set()  # places
        self._distributions: dict[str, BaseDistribution] = {}
        self._lock = threading.RLock()
        self._batch: Batch | None = None
        self._undo: list[Callable[[], None]] = []
        self._pending: dict[int, dict[str, Any]] = {}  # deferred system attributes, by trial_id
        self._pending_before: dict[int, dict[str, Any]] = {}
        self._deferring = False
        self._thinned: dict[int, Thinned] = {}  # reports of unfinished trials, by trial_id
        self._provisional = itertools.count(PROVISIONAL)
        self.first = 0
        for trial in trials:
            self._append(trial)

    # The study

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        raise NotImplementedError("this storage is of one study, which exists")

    def delete_study(self, study_id: int) -> None:
        raise NotImplementedError("this storage is of one study, which stays")

    @_writes
    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._check_study(study_id)
        before = self._user_attrs
        self._undo.append(lambda: setattr(self, "_user_attrs", before))
        self._user_attrs = before | {key: value}
        self._open.user_attrs[key] = value

    @_writes
    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._check_study(study_id)
        before = self._system_attrs
        self._undo.append(lambda: setattr(self, "_system_attrs", before))
        self._system_attrs = before | {key: value}
        self._open.system_attrs[key] = value

    def get_study_id_from_name(self, study_name: str) -> int:
        if study_name != self._name:
            raise KeyError(f"there is no study {study_name!r} here")
        return self.study_id

    def get_study_name_from_id(self, study_id: int) -> str:
        self._check_study(study_id)
        return self._name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        self._check_study(study_id)
        return self._directions

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        self._check_study(study_id)
        return self._user_attrs

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        self._check_study(study_id)
        return self._system_attrs

    def get_all_studies(self) -> list[FrozenStudy]:
        attrs = copy.deepcopy((self._user_attrs, self._system_attrs))
        return [FrozenStudy(self._name, None, *attrs, self.study_id, directions=self._directions)]

    # Trials

    @_writes
    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        self._check_study(study_id)
        trial_id = next(self._provisional)
        if template_trial is None:
            trial = FrozenTrial(
                number=-1,
                state=TrialState.RUNNING,
                value=None,
                datetime_start=_now(),
                datetime_complete=None,
                params={},
                distributions={},
                user_attrs={},
                system_attrs={},
                intermediate_values={},
                trial_id=trial_id,
            )
        else:
            trial = copy.deepcopy(template_trial)
            trial._trial_id = trial_id
        self._append(trial)
        self._undo.append(functools.partial(self._remove_last, trial_id))
        self._open.trials[trial_id] = Change(
            trial_id,
            trial.number - self.first,
            state=_plain(trial.state),
            times=None if template_trial is None else (template_trial.datetime_start, template_trial.datetime_complete),
            params={
                name: (distribution.to_internal_repr(trial.params[name]), distribution_to_json(distribution))
                for name, distribution in trial.distributions.items()
            },
            values=trial.values,
            user_attrs=dict(trial.user_attrs),
            system_attrs=dict(trial.system_attrs),
            reports=dict(trial.intermediate_values),
        )
        return trial_id

    @_writes
    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        before = self._updatable(trial_id)
        if (known := self._distributions.get(param_name)) is not None:
            check_distribution_compatibility(known, distribution)
        self._distributions[param_name] = distribution
        trial = _copied(before)
        trial.params = {**before.params, param_name: distribution.to_external_repr(param_value_internal)}
        trial.distributions = {**before.distributions, param_name: distribution}
        self._replace(trial)
        self._change(before).params[param_name] = (param_value_internal, distribution_to_json(distribution))

    @_writes
    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        before = self._updatable(trial_id)
        if state is TrialState.RUNNING and before.state is not TrialState.WAITING:
            return False
        trial, now = _copied(before), _now()
        change = self._change(before)
        trial.state, change.state = state, _plain(state)
        if values is not None:
            trial.values = values
            change.values = list(values)
        if state is TrialState.RUNNING:
            trial.datetime_start = now
        if state.is_finished():
            trial.datetime_complete = now
            if (thinned := self._thinned.get(trial_id)) is not None:
                trial.intermediate_values = thinned.whole()
        self._replace(trial)
        return True

    @_writes
    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        before = self._updatable(trial_id)
        trial = _copied(before)
        trial.intermediate_values = {**before.intermediate_values, step: intermediate_value}
        self._replace(trial)
        self._change(before).reports[step] = intermediate_value

    @_writes
    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        before = self._updatable(trial_id)
        trial = _copied(before)
        trial.user_attrs = {**before.user_attrs, key: value}
        self._replace(trial)
        self._change(before).user_attrs[key] = value

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self._lock:
            if self._deferring:
                self._set_system_attr(trial_id, key, value)
                self._pending[trial_id] = {**self._pending.get(trial_id, {}), key: value}
            else:
                self._write_system_attr(trial_id, key, value)

    @_writes
    def _write_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        before = self._set_system_attr(trial_id, key, value)
        self._change(before).system_attrs[key] = value

    def _set_system_attr(self, trial_id: int, key: str, value: Any) -> FrozenTrial:
        before = self._updatable(trial_id)
        trial = _copied(before)
        trial.system_attrs = {**before.system_attrs, key: value}
        self._replace(trial)
        return before

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        with self._lock:
            self._check_study(study_id)
            if not 0 <= trial_number < len(self._trials):
                raise KeyError(f"there is no trial with the number {trial_number}")
            return self._trials[trial_number]._trial_id

    def get_trial(self, trial_id: int) -> FrozenTrial:
        with self._lock:
            trial = self._known(trial_id)
        if trial.state.is_finished():
            return trial
        own = _copied(trial)  # `optuna.Trial` writes into what it gets
        for name in ("_params", "_distributions", "_user_attrs", "_system_attrs", "intermediate_values"):
            setattr(own, name, getattr(trial, name).copy())
        return own

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        with self._lock:
            self._check_study(study_id)
            if states is None:
                trials = self._trials.copy()
            elif states == (TrialState.WAITING,):  # asked for before each suggestion
                trials = [self._trials[place] for place in sorted(self._waiting)]
            else:
                wanted = frozenset(state for state in TrialState if state in states)
                trials = [trial for trial in self._trials if trial.state in wanted]
        return copy.deepcopy(trials) if deepcopy else trials

    def get_n_trials(self, study_id: int, state: tuple[TrialState, ...] | TrialState | None = None) -> int:
        with self._lock:
            self._check_study(study_id)
            wanted = TrialState if state is None else (state,) if isinstance(state, TrialState) else state
            return sum(self._counts[one] for one in set(wanted))

    # What Optuna's contract does not have

    @property
    def size(self) -> int:
        """How many trials the study itself has, those that wait included."""
        return len(self._trials) - self.first

    def knows(self, trial_id: int) -> bool:
        """Return whether the study itself has a trial with this id."""
        return trial_id >= 0 and trial_id in self._places

    def put_first(self, trials: Sequence[FrozenTrial]) -> None:
        """Put finished trials of earlier studies before the study's own. They are never stored."""
        with self._lock:
            own, self._trials, self.first = self._trials[self.first :], [], len(trials)
            self._places, self._counts, self._waiting = {}, Counter(), set()
            for place, trial in enumerate(trials):
                ancestor = _copied(trial)
                ancestor._trial_id = -1 - place
                self._append(ancestor)
            for trial in own:
                self._append(_copied(trial))

    def begin(self, most: int | None = None) -> Batch:
        """Open a batch: what is written from now on is visible here at once, and collected in it.

        Args:
            most: how many trials may have been started when it is stored; None for any number.
        """
        with self._lock:
            assert self._batch is None, "batches do not nest"
            self._undo, self._pending_before = [], dict(self._pending)
            self._batch = Batch(most=most)
            return self._batch

    def commit(self, stored: Stored) -> dict[int, int]:
        """Close the batch, which has been stored, and take over the ids and times with which it was.

        Returns:
            The ids of the new trials, by their provisional ones.
        """
        with self._lock:
            ids, new = iter(stored.ids), dict[int, int]()
            for change in self._open.trials.values():
                place = self._places[change.trial_id]
                trial = _copied(self._trials[place])
                if change.new:
                    del self._places[change.trial_id]
                    trial._trial_id = new[change.trial_id] = next(ids)
                    self._places[trial._trial_id] = place
                    if change.times is None:
                        trial.datetime_start = stored.at
                elif change.state is plain.TrialState.RUNNING:
                    trial.datetime_start = stored.at
                if change.state is not None and change.state.is_finished() and change.times is None:
                    trial.datetime_complete = stored.at
                if trial.state.is_finished():
                    self._thinned.pop(change.trial_id, None)
                self._trials[place] = trial
            self._batch, self._undo = None, []
            return new

    def rollback(self) -> None:
        """Close the batch, which has not been stored, and leave everything as it was before `begin`."""
        with self._lock:
            for undo in reversed(self._undo):
                undo()
            self._pending = self._pending_before
            self._batch, self._undo = None, []

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """Defer writes of trials' system attributes. Inside this context they change memory only. They are stored
        together with the trial's next write, or by `write_deferred`."""
        with self._lock:
            self._deferring = True
            try:
                yield
            finally:
                self._deferring = False

    def write_deferred(self, trial_ids: Iterable[int]) -> None:
        """Add what was deferred of some trials to the open batch."""
        with self._lock:
            for trial_id in trial_ids:
                if trial_id in self._pending:
                    self._change(self._known(trial_id))

    def is_open(self, trial_id: int) -> bool:
        """Return whether the study itself has this trial and it has not ended."""
        return self.knows(trial_id) and not self._known(trial_id).state.is_finished()

    def peek(self, trial_id: int) -> FrozenTrial:
        """Return a trial as it is held here. It must not be changed, and its reports change."""
        return self._known(trial_id)

    def add_report(self, trial_id: int, step: int, value: float) -> bool:
        """Take note of a report that is stored already. Return whether it is one of those that a pruner is shown."""
        with self._lock:
            before = self._known(trial_id)
            thinned = self._thinned.get(trial_id)
            if thinned is None:
                thinned = self._thinned[trial_id] = Thinned(before.intermediate_values)
            kept = thinned.add(step, value)
            if before.intermediate_values is not thinned.values:
                trial = _copied(before)
                trial.intermediate_values = thinned.values
                self._replace(trial)
            return kept

    def last_report(self, trial_id: int) -> float | None:
        """Return the value of the highest step that a trial has reported; None without a report."""
        thinned, reports = self._thinned.get(trial_id), self._known(trial_id).intermediate_values
        if thinned is not None and thinned.highest is not None:
            return thinned.highest[1]
        return reports[max(reports)] if reports else None

    def clear_reports(self, trial_id: int) -> None:
        """Forget the reports of a trial, which will be added again one by one."""
        with self._lock:
            trial = _copied(self._known(trial_id))
            self._thinned[trial_id] = thinned = Thinned()
            trial.intermediate_values = thinned.values
            self._replace(trial)

    def put(self, trial: FrozenTrial) -> None:
        """Take over a trial that another program has created or changed.

        Raises:
            StaleHistory: its number does not follow those of the trials that are known.
        """
        with self._lock:
            place = self._places.get(trial._trial_id)
            if trial.state.is_finished():
                self._thinned.pop(trial._trial_id, None)
            if place is not None:
                trial.number = place
                if deferred := self._pending.get(trial._trial_id):
                    trial.system_attrs = {**trial.system_attrs, **deferred}
                self._replace(trial)
            elif trial.number == self.size:
                self._append(trial)
            else:
                raise StaleHistory(f"trial {trial.number} has come after {self.size} trials")

    def put_attrs(self, system_attrs: Mapping[str, Any], user_attrs: Mapping[str, Any]) -> None:
        """Take over the study's attributes, which another program has changed."""
        with self._lock:
            self._system_attrs, self._user_attrs = dict(system_attrs), dict(user_attrs)

    # Inside

    def _alone(self, call: Callable[[], T]) -> T:
        """Make one write while no batch is open."""
        raise RuntimeError("nothing may be written to a study's trials between two batches")

    @property
    def _open(self) -> Batch:
        assert self._batch is not None
        return self._batch

    def _change(self, before: FrozenTrial) -> Change:
        """Return the batch's change of a trial, which was this before. What was deferred goes with it."""
        changes, trial_id = self._open.trials, before._trial_id
        if trial_id not in changes:
            changes[trial_id] = Change(trial_id, before.number - self.first, frozenset({_plain(before.state)}))
        change = changes[trial_id]
        if trial_id in self._pending:
            change.system_attrs = {**self._pending.pop(trial_id), **change.system_attrs}
        return change

    def _append(self, trial: FrozenTrial) -> None:
        place = trial.number = len(self._trials)
        self._trials.append(trial)
        self._places[trial._trial_id] = place
        self._count(trial, place, 1)

    def _remove_last(self, trial_id: int) -> None:
        trial = self._trials.pop()
        del self._places[trial_id]
        self._count(trial, len(self._trials), -1)

    def _replace(self, trial: FrozenTrial) -> None:
        place = trial.number
        before = self._trials[place]
        if self._batch is not None:
            self._undo.append(functools.partial(self._put, place, before))
        self._put(place, trial)

    def _put(self, place: int, trial: FrozenTrial) -> None:
        self._count(self._trials[place], place, -1)
        self._trials[place] = trial
        self._count(trial, place, 1)

    def _count(self, trial: FrozenTrial, place: int, by: int) -> None:
        self._counts[trial.state] += by
        if trial.state is TrialState.WAITING:
            (self._waiting.add if by > 0 else self._waiting.discard)(place)

    def _updatable(self, trial_id: int) -> FrozenTrial:
        trial = self._known(trial_id)
        self.check_trial_is_updatable(trial_id, trial.state)
        return trial

    def _known(self, trial_id: int) -> FrozenTrial:
        place = self._places.get(trial_id)
        if place is None:
            raise KeyError(f"there is no trial with the id {trial_id}")
        return self._trials[place]

    def _check_study(self, study_id: int) -> None:
        if study_id != self.study_id:
            raise KeyError(f"there is no study with the id {study_id} here")


def _plain(state: TrialState) -> plain.TrialState:
    return plain.TrialState(state.value)


def _now() -> datetime:
    """Return the time as Optuna keeps it: naive, and UTC here."""
    return datetime.now(UTC).replace(tzinfo=None)


def _copied(trial: FrozenTrial) -> FrozenTrial:
    """Return a shallow copy; copy.copy takes ten times as long."""
    own = object.__new__(FrozenTrial)
    own.__dict__.update(trial.__dict__)
    return own

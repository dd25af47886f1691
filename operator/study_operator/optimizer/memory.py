"""One study's trials in memory, as an Optuna storage: what samplers and pruners read, and what they write.

Optuna's samplers read the whole history again and again; from here that costs what it costs from Optuna's own
`InMemoryStorage`. What they write is collected in a batch (batch.py) and goes out in one piece: `_store` says where to.
Here that is nowhere, and ids are made up; storage/mirror.py stores it in the database and takes the database's ids.
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

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from study_operator.model.batch import PROVISIONAL, Batch, Change, NotStored, StaleHistory, Stored

T = TypeVar("T")


def _writes(method: Callable[..., T]) -> Callable[..., T]:
    """A write: part of the batch that is open, otherwise a batch by itself."""

    @functools.wraps(method)
    def write(self: Memory, *args: Any, **kwargs: Any) -> T:
        with self._lock:
            call = functools.partial(method, self, *args, **kwargs)
            return call() if self._batch is not None else self._alone(call)

    return write


class Memory(BaseStorage):
    """The contract is Optuna's `BaseStorage`, for one study that exists already. A trial that has been handed out never
    changes: it is replaced.

    Trials of other studies, from which the sampler learns, may come first (`precede`): their ids are -1, -2, ..., they
    have the numbers from 0 on, and those of the study's own trials are that much higher here than in the database.

    Attributes:
        first: the number of the study's first own trial.
        doubtful: a batch may or may not have been stored. Then this is of no use any more: load it anew.
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
        self._pending: dict[int, dict[str, Any]] = {}  # system attributes that go out with a trial's next change
        self._holding = False
        self._provisional = itertools.count(PROVISIONAL)
        self.first, self.doubtful = 0, False
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
            state=trial.state,
            template=template_trial,
            params={n: (d.to_internal_repr(trial.params[n]), d) for n, d in trial.distributions.items()},
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
        self._change(before).params[param_name] = (param_value_internal, distribution)

    @_writes
    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        before = self._updatable(trial_id)
        if state is TrialState.RUNNING and before.state is not TrialState.WAITING:
            return False
        trial, now = _copied(before), _now()
        change = self._change(before)
        trial.state = change.state = state
        if values is not None:
            trial.values = values
            change.values = list(values)
        if state is TrialState.RUNNING:
            trial.datetime_start = now
        if state.is_finished():
            trial.datetime_complete = now
        self._replace(trial)
        return True

    @_writes
    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        before = self._updatable(trial_id)
        self.see(trial_id, step, intermediate_value)
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
            if self._holding:
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
        """Whether the study itself has a trial with this id."""
        return trial_id >= 0 and trial_id in self._places

    def precede(self, warm: Sequence[FrozenTrial]) -> None:
        """Puts finished trials of other studies before the study's own. They are nowhere else: nothing is stored."""
        with self._lock:
            own, self._trials, self.first = self._trials[self.first :], [], len(warm)
            self._places, self._counts, self._waiting = {}, Counter(), set()
            for place, trial in enumerate(warm):
                ancestor = _copied(trial)
                ancestor._trial_id = -1 - place
                self._append(ancestor)
            for trial in own:
                self._append(_copied(trial))

    @contextmanager
    def batch(self, most: int | None = None) -> Iterator[Batch]:
        """Everything that is written inside is seen here at once, and stored in one piece at the end. An exception
        inside leaves all as it was, and nothing is stored.

        Args:
            most: how many trials may have been started when it is stored.

        Raises:
            NotStored: all is as it was before.
            RuntimeError: this is doubtful since an earlier batch.
        """
        with self._lock:
            if self.doubtful:
                raise RuntimeError("it is not known what the database has of this study: load it again")
            assert self._batch is None, "batches do not nest"
            batch = self._batch = Batch(most=most)
            pending, self._undo = dict(self._pending), []
            stored = False
            try:
                yield batch
                if batch:
                    self.doubtful = True  # until there is an answer
                    self._settle(batch, self._store(batch))
                    self.doubtful = False
                stored = True
            except NotStored:
                self.doubtful = False
                raise
            finally:
                if not stored:
                    for undo in reversed(self._undo):
                        undo()
                    self._pending = pending
                self._batch, self._undo = None, []

    @contextmanager
    def hold(self) -> Iterator[None]:
        """System attributes of trials that are set inside are seen here at once, and stored with whatever is written to
        the trial next; `release` writes them by themselves."""
        with self._lock:
            self._holding = True
            try:
                yield
            finally:
                self._holding = False

    def release(self, trial_ids: Iterable[int]) -> None:
        """Stores what is held of some trials, as one batch."""
        with self._lock:
            held = [trial_id for trial_id in trial_ids if trial_id in self._pending]
            if held:
                with self.batch():
                    for trial_id in held:
                        self._change(self._known(trial_id))

    def see(self, trial_id: int, step: int, value: float) -> None:
        """Takes note of a report that is stored already."""
        with self._lock:
            before = self._known(trial_id)
            trial = _copied(before)
            trial.intermediate_values = {**before.intermediate_values, step: value}
            self._replace(trial)

    def unsee(self, trial_id: int) -> None:
        """Forgets the reports of a trial, which will be shown again."""
        with self._lock:
            trial = _copied(self._known(trial_id))
            trial.intermediate_values = {}
            self._replace(trial)

    def take(self, trial: FrozenTrial) -> None:
        """A trial as somebody else has made or changed it.

        Raises:
            StaleHistory: it does not follow the trials that are known.
        """
        with self._lock:
            place = self._places.get(trial._trial_id)
            if place is not None:
                trial.number = place
                if held := self._pending.get(trial._trial_id):
                    trial.system_attrs = {**trial.system_attrs, **held}
                self._replace(trial)
            elif trial.number == self.size:
                self._append(trial)
            else:
                raise StaleHistory(f"trial {trial.number} has come after {self.size} trials")

    # Inside

    def _store(self, batch: Batch) -> Stored:
        """Stores a batch, whole or not at all.

        Raises:
            NotStored: it is not stored.
            Exception: any other one: it may be stored.
        """
        last = max((trial_id for trial_id in self._places if 0 <= trial_id < PROVISIONAL), default=-1)
        new = sum(change.new for change in batch.trials.values())
        return Stored(_now(), range(last + 1, last + 1 + new))

    def _alone(self, call: Callable[[], T]) -> T:
        """One write that is not part of a batch."""
        with self.batch() as batch:
            result = call()
        return batch.ids.get(result, result)  # what `create_new_trial` answers with was provisional

    def _settle(self, batch: Batch, stored: Stored) -> None:
        """Gives trials the ids and times that were stored."""
        ids = iter(stored.ids)
        for change in batch.trials.values():
            place = self._places[change.trial_id]
            trial = _copied(self._trials[place])
            if change.new:
                del self._places[change.trial_id]
                trial._trial_id = batch.ids[change.trial_id] = next(ids)
                self._places[trial._trial_id] = place
                if change.template is None:
                    trial.datetime_start = stored.at
            elif change.state is TrialState.RUNNING:
                trial.datetime_start = stored.at
            if change.state is not None and change.state.is_finished() and change.template is None:
                trial.datetime_complete = stored.at
            self._trials[place] = trial

    @property
    def _open(self) -> Batch:
        assert self._batch is not None
        return self._batch

    def _change(self, before: FrozenTrial) -> Change:
        """The batch's change of a trial, which was this before; with it goes what was held back."""
        changes, trial_id = self._open.trials, before._trial_id
        if trial_id not in changes:
            changes[trial_id] = Change(trial_id, before.number - self.first, frozenset({before.state}))
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


def _now() -> datetime:
    """As Optuna keeps times: naive, and UTC here."""
    return datetime.now(UTC).replace(tzinfo=None)


def _copied(trial: FrozenTrial) -> FrozenTrial:
    """A shallow copy; copy.copy takes ten times as long."""
    own = object.__new__(FrozenTrial)
    own.__dict__.update(trial.__dict__)
    return own

"""What a study begins with, in a real database: its own initial trials, and trials of earlier studies."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import optuna
import pytest
from building import study
from database import TestDatabase, settings_for
from optuna.trial import TrialState

from study_operator.model.study import Refused, Study
from study_operator.optimizer.distributions import optuna_distributions
from study_operator.storage.database import Database
from study_operator.storage.initial_trials import INITIAL_ATTR, WARM_ATTR, InitialTrials

PARAMETERS = [
    {"name": "x", "float": {"low": 0, "high": 1}},
    {"name": "kind", "categorical": {"choices": ["a", "b", 3]}},
    {"name": "y", "float": {"low": 0, "high": 1}, "when": {"parameter": "kind", "in": ["b"]}},
]


def uid(number: int) -> str:
    return f"{number:08d}-bbfd-4b2d-9b5d-ab8dfbbd4bed"


class Place:
    """Studies of one namespace of one cluster."""

    def __init__(self, database: TestDatabase, namespace: str = "team-a", cluster_id: str = "here") -> None:
        self.database, self.namespace = database, namespace
        self.studies = database.studies(cluster_id)
        self.beginnings = InitialTrials(Database(settings_for(database).dsn), cluster_id)

    def study(self, number: int, **spec: Any) -> tuple[Study, int]:
        """A Study with its rows; Optuna's study_id."""
        made = study(f"s{number}", self.namespace, uid(number), **{"parameters": PARAMETERS, **spec})
        return made, self.studies.ensure(
            made.optuna_name,
            made.directions,
            made.namespace,
            made.name,
            made.uid,
            made.deletion_policy,
            hashlib.sha256(made.uid.encode()).digest(),
            [objective.name for objective in made.objectives],
        )

    def earlier(self, number: int, *values: float, **spec: Any) -> str:
        """A Study with a complete trial of each value. Returns its name in Optuna."""
        made, _ = self.study(number, **spec)
        for value in values:
            self.add(made.optuna_name, value)
        return made.optuna_name

    def add(self, name: str, value: float, **params: Any) -> None:
        with self.database.optuna_study(name) as there:
            given = {"x": 0.5, "kind": "a", **params}
            space = {n: optuna.distributions.FloatDistribution(-9, 9) for n in given} | {
                "kind": optuna.distributions.CategoricalDistribution(("a", "b", "c", 3))
            }
            there.add_trial(optuna.create_trial(value=value, params=given, distributions=space))

    def load(self, number: int, *names: str, **spec: Any) -> tuple[list[float], list[tuple[int, int, str]]]:
        """Values of the trials that a Study begins with, and what came of each source."""
        made, study_id = self.study(number, warmStart={"studies": list(names)}, **spec)
        trials, came = self.beginnings.load(made, study_id)
        assert [one.study for one in came] == list(names)
        return [trial.values[0] for trial in trials], [(one.taken, one.left, one.message) for one in came]


@pytest.fixture
def place(database: TestDatabase) -> Place:
    return Place(database)


# Trials of earlier studies


def test_trials_of_several_studies_in_the_order_in_which_they_are_named(place):
    first, second = place.earlier(1, 0.1, 0.2), place.earlier(2, 0.3)
    place.add(first, 0.15, kind="b", y=0.5)
    place.add(first, 0.9, kind="c")
    values, came = place.load(3, second, first)
    assert values == [0.3, 0.1, 0.2, 0.15]
    assert came == [(1, 0, ""), (3, 1, "1 whose kind is not possible here")]


def test_pruned_and_failed_trials(place, database):
    name = place.earlier(1)
    with database.optuna_study(name) as there:
        for state in (TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING):
            space = optuna_distributions(study(parameters=PARAMETERS).space)
            trial = there.ask(space | {"y": optuna.distributions.IntDistribution(0, 0)})
            trial.report(0.25, step=2)
            if state is not TrialState.RUNNING:
                there.tell(trial, state=state)
    made, study_id = place.study(2, warmStart={"studies": [name]}, parameters=[
        {"name": "x", "float": {"low": 0, "high": 1}},
        {"name": "kind", "categorical": {"choices": ["a", "b", 3]}},
        {"name": "y", "int": {"low": 0, "high": 0}},
    ])  # fmt: skip
    (taken,), (came,) = place.beginnings.load(made, study_id)
    assert (taken.state, taken.reports) == (TrialState.PRUNED, {2: 0.25})
    assert (came.taken, came.left, came.message) == (1, 1, "1 failed")


def test_the_same_trials_after_a_restart_though_the_source_goes_on(place):
    name = place.earlier(1, 0.1)
    first = place.load(2, name)
    place.add(name, 0.2)
    assert place.load(2, name) == first == ([0.1], [(1, 0, "")])
    assert place.load(3, name) == ([0.1, 0.2], [(2, 0, "")])


def test_a_source_by_the_name_of_its_study(place):
    name = place.earlier(1, 0.1)
    made, study_id = place.study(2, warmStart={"studies": ["s1", name]})
    (taken,), (came,) = place.beginnings.load(made, study_id)
    assert (taken.values, came.study, came.taken) == ([0.1], name, 1)
    later, other = place.study(3)  # a Study that was created under that name since
    place.database.query("UPDATE study_operator.access SET name = 's1' WHERE study_id = %s", other)
    place.add(later.optuna_name, 0.3)
    assert place.beginnings.load(made, study_id)[1] == (came,)
    assert [trial.values for trial in place.beginnings.load(made, study_id)[0]] == [[0.1]], "the same after a restart"
    newest, newest_id = place.study(4, warmStart={"studies": ["s1"]})
    assert [trial.values for trial in place.beginnings.load(newest, newest_id)[0]] == [[0.3]], "the latest of the name"


def test_a_study_may_begin_with_its_predecessor_of_the_same_name(place):
    place.earlier(1, 0.1)
    place.database.query("UPDATE study_operator.access SET name = 's2'")
    made, study_id = place.study(2, warmStart={"studies": ["s2"]})
    assert [trial.values for trial in place.beginnings.load(made, study_id)[0]] == [[0.1]]


def test_a_study_of_another_namespace_is_not_found_by_its_studys_name_either(place, database):
    Place(database, "team-b").earlier(1, 0.1)
    made, study_id = place.study(2, warmStart={"studies": ["s1"]})
    with pytest.raises(Refused, match="'s1' is neither the name nor"):
        place.beginnings.load(made, study_id)


def test_a_source_that_is_kept_after_its_study_was_deleted(place):
    name = place.earlier(1, 0.1)
    (known,) = place.studies.known()
    place.studies.forget(known)
    assert place.load(2, name)[0] == [0.1]


def test_a_source_that_is_removed_later_just_has_fewer(place):
    gone, kept = place.earlier(1, 0.1, deletionPolicy="Delete"), place.earlier(2, 0.2)
    came = place.load(3, gone, kept)[1]
    place.studies.forget(next(known for known in place.studies.known() if known.name == "s1"))
    assert place.load(3, gone, kept) == ([0.2], came)


def test_a_study_of_another_namespace_or_cluster_is_refused_as_one_that_there_is_not(place, database):
    foreign = Place(database, "team-b").earlier(1, 0.1)
    elsewhere = Place(database, "team-a", "another cluster").earlier(2, 0.1)
    own = place.earlier(3, 0.1)
    said = set()
    for name in (foreign, elsewhere, "team-b/no-00000000", "notebook"):
        made, study_id = place.study(4, warmStart={"studies": [own, name]})
        with pytest.raises(Refused) as refusal:
            place.beginnings.load(made, study_id)
        assert refusal.value.reason == "WarmStartRefused"
        said.add(refusal.value.message.replace(name, "NAME"))
    assert said == {
        "warmStart: 'NAME' is neither the name nor the status.studyName of a study of namespace team-a that has begun; "
        f"there are {own}. warmStart is fixed: delete this Study and create it with another name"
    }
    assert database.query("SELECT FROM study_system_attributes WHERE key = %s", WARM_ATTR) == []


def test_ten_names_are_offered_at_most_and_the_studys_own_is_not(place):
    made, study_id = place.study(1, warmStart={"studies": ["digits"]})
    with pytest.raises(Refused, match="there is no other one yet"):
        place.beginnings.load(made, study_id)
    names = [place.earlier(number) for number in range(2, 14)]
    with pytest.raises(Refused) as refusal:
        place.beginnings.load(made, study_id)
    assert ", ".join(reversed(names[2:])) + " and 2 more" in refusal.value.message


def test_a_refused_study_can_begin_when_the_source_is_there(place):
    made, study_id = place.study(1, warmStart={"studies": [f"team-a/s2-{uid(2)[:8]}"]})
    with pytest.raises(Refused):
        place.beginnings.load(made, study_id)
    place.earlier(2, 0.2)
    assert [trial.values[0] for trial in place.beginnings.load(made, study_id)[0]] == [0.2]


def test_two_processes_begin_with_the_same(place):
    name = place.earlier(1, 0.1)
    made, study_id = place.study(2, warmStart={"studies": [name]})
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: place.beginnings.load(made, study_id)[1], range(8)))
    assert len(set(found)) == 1


def test_constraints_as_pods_reported_them(place, database):
    limit = {"constraints": [{"name": "ms", "max": 50}]}
    name = place.earlier(1, 0.1, 0.2, **limit)
    database.query(
        "INSERT INTO study_operator.results (trial_id, vals, pruned, constraint_values)"
        " SELECT trial_id, '{0.1}', false, '{\"ms\": 60}' FROM trials WHERE number = 0 RETURNING 1"
    )
    made, study_id = place.study(2, warmStart={"studies": [name]}, constraints=[{"name": "ms", "max": 45}])
    (taken,), (came,) = place.beginnings.load(made, study_id)
    assert taken.system_attrs == {"constraints:ms": 15.0}
    assert came.message == "1 without a value of the constraint ms"


# Initial trials


def test_initial_trials_wait_as_if_a_notebook_had_enqueued_them(place, database):
    made, study_id = place.study(1, initialTrials=[{"x": 1}, {"kind": "b", "y": 0.5}])
    for _ in range(2):
        place.beginnings.enqueue(made, study_id)
    with database.optuna_study(made.optuna_name) as there:
        there.enqueue_trial({"x": 0.25})
        assert [(t.number, t.state.name, t.system_attrs, t.datetime_start) for t in there.trials] == [
            (0, "WAITING", {"fixed_params": {"x": 1.0}}, None),
            (1, "WAITING", {"fixed_params": {"kind": "b", "y": 0.5}}, None),
            (2, "WAITING", {"fixed_params": {"x": 0.25}}, None),
        ]
        asked = [there.ask(optuna_distributions(made.space)).params for _ in range(3)]
    assert [asked[0]["x"], asked[1]["kind"], asked[1]["y"], asked[2]["x"]] == [1.0, "b", 0.5, 0.25]


def test_two_processes_store_initial_trials_once(place, database):
    made, study_id = place.study(1, initialTrials=[{"x": 1}] * 3)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: place.beginnings.enqueue(made, study_id), range(8)))
    assert database.query("SELECT number FROM trials ORDER BY 1") == [(0,), (1,), (2,)]


def test_initial_trials_that_were_edited_are_refused_and_the_first_ones_named(place, database):
    made, study_id = place.study(1, initialTrials=[{"x": 1}])
    place.beginnings.enqueue(made, study_id)
    edited, _ = place.study(1, initialTrials=[{"x": 0.5}])
    with pytest.raises(Refused, match=r"write them as they were.*") as refusal:
        place.beginnings.enqueue(edited, study_id)
    assert (refusal.value.reason, '[{"x": 1.0}]' in refusal.value.message) == ("InitialTrialsChanged", True)
    place.beginnings.enqueue(made, study_id)
    assert database.query("SELECT key FROM study_system_attributes ORDER BY 1") == [
        ("study:metric_names",),
        (INITIAL_ATTR,),
    ]


def test_impossible_initial_trials_can_be_corrected(place, database):
    made, study_id = place.study(1, initialTrials=[{"x": 2}])
    with pytest.raises(Refused, match="x is 2; it must be a number"):
        place.beginnings.enqueue(made, study_id)
    corrected, _ = place.study(1, initialTrials=[{"x": 0.2}])
    place.beginnings.enqueue(corrected, study_id)
    with database.optuna_study(made.optuna_name) as there:
        assert [trial.system_attrs for trial in there.trials] == [{"fixed_params": {"x": 0.2}}]


def test_objectives_have_their_names_in_optuna(place, database):
    objectives = [{"name": "accuracy", "direction": "Maximize"}, {"name": "loss", "direction": "Minimize"}]
    made, _ = place.study(1, objectives=objectives)
    with database.optuna_study(made.optuna_name) as there:
        assert there.metric_names == ["accuracy", "loss"]

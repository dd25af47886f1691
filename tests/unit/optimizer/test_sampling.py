"""One study's sampler and pruner in memory, held against a stock Optuna study that is fed the same."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import optuna
import pytest
from building import study
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import (
    BruteForceSampler,
    CmaEsSampler,
    GridSampler,
    NSGAIIISampler,
    NSGAIISampler,
    PartialFixedSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState
from sampled import COMPLETE, FAIL, PRUNED, ask, frozen, sampling_of, tell, trial_id, waiting_trial, with_our_numbers

from study_operator.model.study import Study
from study_operator.model.trial import Report
from study_operator.optimizer.distributions import optuna_distributions
from study_operator.optimizer.pruners import build_pruner

SPACE = [
    {"name": "lr", "float": {"low": 1e-5, "high": 0.1, "log": True}},
    {"name": "dropout", "float": {"low": 0, "high": 0.5, "step": 0.1}},
    {"name": "layers", "int": {"low": 1, "high": 4}},
    {"name": "kind", "categorical": {"choices": ["a", "b", "c"]}},
]
MINIMIZE = {"name": "loss", "direction": "Minimize"}
NUMBERS = [{"name": "x", "float": {"low": 0, "high": 1}}, {"name": "y", "float": {"low": -1, "high": 1}}]
CELLS = [{"name": "n", "int": {"low": 1, "high": 3}}, {"name": "x", "float": {"low": 0, "high": 0.3, "step": 0.1}}]
SAMPLERS = {
    "TPE": (SPACE, {"n_startup_trials": 4}),
    "Random": (SPACE, {}),
    "Grid": (CELLS, {}),
    "QMC": (SPACE, {"scramble": True}),
    "CmaES": (NUMBERS, {"n_startup_trials": 2, "popsize": 4}),
    "BruteForce": (CELLS, {}),
    "NSGAII": (SPACE, {"population_size": 3}),
    "NSGAIII": (SPACE, {"population_size": 3}),
    "PartialFixed": (SPACE, {"fixed_params": {"layers": 3}, "base_sampler": {"name": "Random"}}),
}
STOCK_SAMPLERS = {
    "TPE": lambda: TPESampler(seed=7, n_startup_trials=4),
    "Random": lambda: RandomSampler(seed=7),
    "Grid": lambda: GridSampler({"n": [1, 2, 3], "x": [0.0, 0.1, 0.2, 0.3]}, seed=7),
    "QMC": lambda: QMCSampler(seed=7, scramble=True),
    "CmaES": lambda: CmaEsSampler(seed=7, n_startup_trials=2, popsize=4),
    "BruteForce": lambda: BruteForceSampler(seed=7),
    "NSGAII": lambda: NSGAIISampler(seed=7, population_size=3),
    "NSGAIII": lambda: NSGAIIISampler(seed=7, population_size=3),
    "PartialFixed": lambda: PartialFixedSampler({"layers": 3}, RandomSampler(seed=7)),
}


def tuned(sampler: str = "Random", pruner: str | None = None, options: dict[str, Any] | None = None) -> Study:
    """A Study with this sampler and this pruner, which has these options."""
    parameters, sampler_options = SAMPLERS[sampler]
    spec = {"sampler": {"name": sampler, "seed": 7, "options": sampler_options}, "parameters": parameters}
    if pruner:
        spec["pruner"] = {"name": pruner, "options": options or {}}
    return study(**spec)


def stock(of: Study) -> optuna.Study:
    """The same study as a notebook would make it."""
    made = optuna.create_study(
        storage=InMemoryStorage(),
        sampler=STOCK_SAMPLERS[of.sampler.name](),
        pruner=build_pruner(of) or optuna.pruners.NopPruner(),
        study_name=of.optuna_name,
        directions=[direction.lower() for direction in of.directions],
    )
    return with_our_numbers(of, made)


def loss(params: dict[str, Any]) -> float:
    """Something that a sampler can learn from."""
    return sum(float(ord(value[0]) if isinstance(value, str) else value) for value in params.values())


def tell_stock(of: optuna.Study, number: int, value: float | None, state: TrialState) -> None:
    """Optuna's own `tell`, which at a grid's end calls `stop`, allowed inside `optimize` only; the value is stored."""
    with contextlib.suppress(RuntimeError):
        of.tell(number, value, state)
    assert of.trials[number].state is state


# Suggestions


@pytest.mark.filterwarnings("ignore:.*Sampler is experimental")
@pytest.mark.parametrize("parallel", [1, 3])
@pytest.mark.parametrize("name", SAMPLERS)
def test_suggestions_are_those_of_a_stock_study(name, parallel):
    of = tuned(name)
    ours, theirs = sampling_of(of), stock(of)
    chance = random.Random(3)
    running: dict[int, optuna.Trial] = {}
    for report_id in range(1, 13):
        while len(running) < parallel and len(theirs.trials) < 12:
            suggestion, trial = ask(ours), theirs.ask(optuna_distributions(of.space))
            assert (suggestion.number, suggestion.params) == (trial.number, trial.params)
            assert suggestion.distributions == trial.distributions == optuna_distributions(of.space)
            assert suggestion.system_attrs == theirs.trials[-1].system_attrs
            assert suggestion.waiting is None
            running[trial.number] = trial
        trial = running.pop(chance.choice(list(running)))
        state = chance.choice([COMPLETE, COMPLETE, COMPLETE, PRUNED, FAIL])
        value = loss(trial.params) if state is COMPLETE else None
        if state is PRUNED:  # samplers learn from what it had reported
            trial.report(loss(trial.params), 3)
            ours.see(Report(report_id, trial_id(trial.number), 3, loss(trial.params)))
        tell(ours, trial.number, state, None if value is None else (value,))
        tell_stock(theirs, trial.number, value, state)
    assert [trial.values for trial in ours._study.trials] == [trial.values for trial in theirs.trials]


def test_what_a_sampler_notes_in_the_study_is_part_of_the_suggestion():
    of = tuned("QMC")
    ours = sampling_of(of)
    ask(ours)
    notes = [ask(ours).study_attrs for _ in range(3)]
    assert [list(note.values()) for note in notes] == [[0], [1], [2]]
    assert len({name for note in notes for name in note}) == 1


def test_a_sequence_goes_on_after_a_restart_where_it_was():
    of = tuned("QMC")
    whole, before = sampling_of(of), sampling_of(of)
    expected = [dict(ask(whole).params) for _ in range(6)]
    first = [ask(before) for _ in range(3)]
    attrs = {name: value for suggestion in first for name, value in suggestion.study_attrs.items()}
    after = sampling_of(of, frozen(before), attrs=attrs)
    rest = [ask(after) for _ in range(3)]
    assert [dict(suggestion.params) for suggestion in (*first, *rest)] == expected


@pytest.mark.filterwarnings("ignore:.*Sampler is experimental")
@pytest.mark.parametrize("seed", [7, None])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_lost_process_changes_no_suggestion(name, seed):
    """One life is undisturbed, in the other the sampler is built anew before each suggestion."""
    parameters, options = SAMPLERS[name]
    of = study(sampler={"name": name, "seed": seed, "options": options}, parameters=parameters)
    whole, trials, attrs = sampling_of(of), [], {}
    for number in range(12):
        anew = sampling_of(of, trials, attrs=attrs)
        expected, found = ask(whole), ask(anew)
        assert (found.number, found.params) == (expected.number, expected.params) == (number, found.params)
        attrs = attrs | dict(found.study_attrs)
        for life in (whole, anew):
            tell(life, number, COMPLETE, [loss(dict(found.params))])
        trials = frozen(anew)


@pytest.mark.parametrize("name", ["TPE", "Random", "CmaES", "NSGAII", "BruteForce"])
def test_after_a_restart_nothing_is_suggested_twice(name):
    of = tuned(name)
    seen: list[dict[str, Any]] = []
    trials: list[FrozenTrial] = []
    most = 12 if name == "BruteForce" else 15
    for _ in range(most // 3):
        ours = sampling_of(of, trials)
        seen += [dict(ask(ours).params) for _ in range(3)]
        trials = frozen(ours)
    assert len(set(map(repr, seen))) == len(seen) == most


# Trials that others make


def test_trials_that_wait_come_first_as_they_were_enqueued():
    of = tuned("TPE")
    wishes = [{"lr": 0.01, "dropout": 0.2, "layers": 3, "kind": "b"}, {"layers": 4}]
    ours = sampling_of(of, [waiting_trial(n, of, **wish) for n, wish in enumerate(wishes)])
    first, second, third = (ask(ours) for _ in range(3))
    assert (first.waiting, second.waiting, third.waiting) == (trial_id(0), trial_id(1), None)
    assert first.params == wishes[0]
    assert second.params["layers"] == 4
    assert set(second.params) == set(of.distributions)
    assert [first.number, second.number, third.number] == [0, 1, 2]
    assert ours.memory.size == 3


def test_a_trial_enqueued_in_between_keeps_its_number():
    of = tuned("Random")
    before = sampling_of(of)
    ask(before)
    ours = sampling_of(of, [*frozen(before), waiting_trial(1, of, layers=4), waiting_trial(2, of, layers=1)])
    assert [(s.number, s.waiting) for s in (ask(ours), ask(ours), ask(ours))] == [
        (1, trial_id(1)),
        (2, trial_id(2)),
        (3, None),
    ]


def test_it_knows_its_trials():
    of = tuned()
    ours = sampling_of(of, [waiting_trial(0, of)])
    assert (ours.memory.size, ours.memory.knows(trial_id(0)), ours.memory.knows(0)) == (1, True, False)
    assert ask(ours).waiting == trial_id(0)
    assert not ours.memory.knows(trial_id(1))
    ask(ours)
    assert ours.memory.knows(trial_id(1))


def test_a_trial_that_has_ended_is_not_told_again():
    of = tuned()
    ours = sampling_of(of)
    ask(ours)
    tell(ours, 0, COMPLETE, (1.0,))
    with pytest.raises(UpdateFinishedTrialError):
        tell(ours, 0, FAIL, None)
    (trial,) = ours._study.trials
    assert (trial.state, trial.values) == (COMPLETE, [1.0])


# Grids


def test_a_grid_is_exhausted_when_every_cell_has_been_given_out_once():
    of = tuned("Grid")
    ours = sampling_of(of)
    cells = []
    while not ours.exhausted:
        cells.append(dict(ask(ours).params))
        assert len(cells) <= 12, "a cell was given out again"
    assert len({repr(cell) for cell in cells}) == 12
    for number in range(12):
        tell(ours, number, FAIL if number % 3 else COMPLETE, None if number % 3 else (1.0,))
        assert ours.exhausted


def test_a_grid_goes_on_after_a_restart_where_it_was():
    of = tuned("Grid")
    ours, cells = sampling_of(of), []
    for _ in range(4):
        for _ in range(3):
            assert not ours.exhausted
            cells.append(ask(ours).params)
        tell(ours, len(cells) - 1, COMPLETE, (1.0,))
        ours = sampling_of(of, frozen(ours))
    assert ours.exhausted
    assert len({repr(cell) for cell in cells}) == 12


def test_enqueued_trials_run_beside_a_grid_and_take_no_cell():
    of = tuned("Grid")
    wish = {"n": 2, "x": 0.1}
    ours = sampling_of(of, [waiting_trial(0, of, **wish)])
    suggestions = []
    while not ours.exhausted:
        suggestions.append(ask(ours))
        assert len(suggestions) <= 13
    assert suggestions[0].params == wish
    assert len({repr(suggestion.params) for suggestion in suggestions[1:]}) == 12
    for suggestion in (*suggestions[2:], *suggestions[:2]):  # the enqueued one when one cell is left
        tell(ours, suggestion.number, COMPLETE, (1.0,))
    late = sampling_of(of, [*frozen(ours), waiting_trial(13, of, **wish)])
    assert not late.exhausted
    assert ask(late).waiting == trial_id(13)
    assert late.exhausted


@pytest.mark.parametrize("pruner", [None, "Hyperband"])
def test_the_last_cell_of_a_grid_can_be_told(pruner):
    of = tuned("Grid", pruner, {"max_resource": 9} if pruner else None)
    ours = sampling_of(of)
    for number in range(12):
        ask(ours)
        if pruner:
            ours.feed(Report(number + 1, trial_id(number), 1, 0.5))
        tell(ours, number, COMPLETE, (1.0,))
    assert ours.exhausted
    assert all(trial.state is COMPLETE for trial in ours._study.trials)


@pytest.mark.parametrize("name", ["TPE", "Random", "QMC", "CmaES", "NSGAII", "PartialFixed"])
def test_other_samplers_have_no_end(name):
    of = tuned(name)
    ours = sampling_of(of)
    for number in range(5):
        ask(ours)
        tell(ours, number, COMPLETE, (1.0,))
        assert not ours.exhausted


# Pruning

FORGETFUL = [  # what they compare a report with changes, and they do not note what it was
    ("Median", {"n_startup_trials": 2}),
    ("Median", {"n_startup_trials": 2, "n_warmup_steps": 2, "interval_steps": 3}),
    ("Percentile", {"percentile": 60.0, "n_startup_trials": 2}),
    ("Patient", {"patience": 1, "wrapped_pruner": {"name": "Median", "options": {"n_startup_trials": 1}}}),
    ("Wilcoxon", {"p_threshold": 0.5}),
]
ALONE = [  # they look at the trial's own values
    ("Threshold", {"upper": 0.8, "n_warmup_steps": 2}),
    ("Patient", {"patience": 1, "min_delta": 0.05}),
]
BOOKED = [  # each rung is noted for the report that reached it
    ("SuccessiveHalving", {"min_resource": 1, "reduction_factor": 2}),
    ("SuccessiveHalving", {"min_resource": 2, "reduction_factor": 3, "min_early_stopping_rate": 1}),
    ("SuccessiveHalving", {}),
    ("Hyperband", {"min_resource": 1, "max_resource": 9, "reduction_factor": 3}),
    ("Hyperband", {}),
]
PRUNERS = [*FORGETFUL, *ALONE, *BOOKED]


class Race:
    """Trials that report in turn, four at a time, to this operator's sampling and to a stock study.

    The database's order of reports is that of their ids; a trial that is given up is told PRUNED.
    """

    def __init__(self, of: Study, seed: int) -> None:
        self.of, self.chance = of, random.Random(seed)
        self.ours, self.theirs = sampling_of(of), stock(of)
        self.trials: dict[int, optuna.Trial] = {}
        self.steps: dict[int, int] = {}
        self.reports: dict[int, list[Report]] = {}
        self.report_id = 0
        self.decisions: list[bool] = []

    def run(self, reports: int, reload_every: int | None = None) -> None:
        for n in range(reports):
            while len(self.trials) < 4:
                suggestion, trial = ask(self.ours), self.theirs.ask(optuna_distributions(self.of.space))
                assert suggestion.number == trial.number
                self.trials[trial.number], self.steps[trial.number] = trial, 0
                self.reports[trial.number] = []
            self.report(self.chance.choice(list(self.trials)))
            if reload_every and n % reload_every == 0:
                self.reload()

    def report(self, number: int) -> None:
        self.steps[number] += self.chance.choice([1, 1, 1, 2])
        self.report_id += 1
        value = self.chance.choice([self.chance.random()] * 9 + [float("nan")])
        report = Report(self.report_id, trial_id(number), self.steps[number], value)
        self.reports[number].append(report)
        given_up = self.ours.feed(report)
        trial = self.trials[number]
        trial.report(value, report.step)
        assert given_up == trial.should_prune(), f"report {self.report_id}, trial {number}, step {report.step}"
        self.decisions.append(given_up)
        if given_up:
            self.end(number, PRUNED, None)
        elif self.steps[number] >= 9:
            self.end(number, COMPLETE, value if value == value else 0.5)

    def end(self, number: int, state: TrialState, value: float | None) -> None:
        del self.trials[number]
        tell(self.ours, number, state, None if value is None else (value,))
        tell_stock(self.theirs, number, value, state)

    def reload(self) -> None:
        """The process starts anew: the history is read, and the reports of running trials are shown again."""
        running = [trial_id(number) for number in self.trials]
        self.ours = sampling_of(self.of, frozen(self.ours), replay=running)
        reports = [report for number in self.trials for report in self.reports[number]]
        latest = {number: self.reports[number][-1] for number in self.trials if self.reports[number]}
        given_up = dict.fromkeys(latest, False)
        for report in sorted(reports, key=lambda report: report.report_id):
            number = next(number for number in latest if trial_id(number) == report.trial_id)
            given_up[number] |= self.ours.feed(report, report is latest[number])
        for number, decision in given_up.items():
            # Asked about their latest reports again, both say the same; what came before decides nothing any more.
            assert decision == self.trials[number].should_prune()
            if decision:
                self.end(number, PRUNED, None)


@pytest.mark.filterwarnings("ignore:All-NaN")
@pytest.mark.filterwarnings("ignore:.*contain infinity/NaNs")
@pytest.mark.filterwarnings("ignore:WilcoxonPruner finds steps existing in the current trial")
@pytest.mark.filterwarnings("ignore:The best trial has no intermediate values")
@pytest.mark.filterwarnings("ignore:.*Pruner is experimental")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "options"), PRUNERS)
def test_trials_are_pruned_as_in_a_stock_study(name, options, seed):
    race = Race(tuned("Random", name, options), seed)
    race.run(150)
    assert {True, False} == set(race.decisions)


@pytest.mark.filterwarnings("ignore:All-NaN")
@pytest.mark.filterwarnings("ignore:.*contain infinity/NaNs")
@pytest.mark.filterwarnings("ignore:WilcoxonPruner finds steps existing in the current trial")
@pytest.mark.filterwarnings("ignore:The best trial has no intermediate values")
@pytest.mark.filterwarnings("ignore:.*Pruner is experimental")
# "auto" is estimated once for each process, from the trials there are then: set it, says the documentation.
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "options"), [(name, options) for name, options in PRUNERS if options])
def test_a_restart_changes_neither_rungs_nor_decisions(name, options, seed):
    race = Race(tuned("Random", name, options), seed)
    race.run(150, reload_every=10)
    ours, theirs = race.ours._study.trials, race.theirs.trials
    rungs = [
        [{k: v for k, v in trial.system_attrs.items() if k.startswith("completed_rung")} for trial in trials]
        for trials in (ours, theirs)
    ]
    assert repr(rungs[0]) == repr(rungs[1])
    assert [trial.state for trial in ours] == [trial.state for trial in theirs]


@pytest.mark.parametrize(("name", "options"), [(name, options) for name, options in BOOKED if options])
def test_reports_that_arrive_while_the_operator_is_away_are_judged_one_by_one(name, options):
    of = tuned("Random", name, options)
    theirs, before = stock(of), sampling_of(of)
    for value in (0.9, 0.1, 0.5, 0.7):
        ask(before)
        trial = theirs.ask(optuna_distributions(of.space))
        for step in range(1, 10):
            trial.report(value * step, step)
            if trial.should_prune():
                break
    away = frozen(before)
    for trial, known in zip(away, theirs.trials, strict=True):
        trial.intermediate_values = dict(known.intermediate_values)  # the database has them all
    after = sampling_of(of, away, replay=[trial._trial_id for trial in away])
    report_id = 0
    for known in theirs.trials:
        for step, value in known.intermediate_values.items():
            report_id += 1
            last = step == known.last_step
            given_up = after.feed(Report(report_id, trial_id(known.number), step, value), last)
            assert given_up == (last and step < 9)
    assert [trial.system_attrs for trial in after._study.trials] == [trial.system_attrs for trial in theirs.trials]
    assert any(trial.system_attrs for trial in theirs.trials)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *ALONE,
        ("Patient", {"patience": 1, "wrapped_pruner": {"name": "Threshold", "options": {"upper": 0.8}}}),
    ],
)
@pytest.mark.parametrize("away", [False, True])
def test_one_bad_report_among_many_that_arrive_at_once_is_enough(name, options, away):
    """Whether it is the latest or not, and whether the operator saw them arrive or finds them after a restart."""
    of = study(pruner={"name": name, "options": options}, parameters=NUMBERS, objectives=[MINIMIZE])
    ours = sampling_of(of)
    ask(ours)
    if away:
        ours = sampling_of(of, frozen(ours), replay=[trial_id(0)])
    values = [0.1, 0.5, 0.9, 0.1] if name == "Threshold" else [0.1, 0.5, 0.9, 0.95]
    decisions = [
        ours.feed(Report(step, trial_id(0), step, value), step == len(values))
        for step, value in enumerate(values, start=1)
    ]
    assert decisions.index(True) == 2


@pytest.mark.parametrize(("name", "options"), FORGETFUL[:1])
def test_a_report_of_long_ago_is_not_compared_with_trials_that_have_ended_since(name, options):
    of = study(pruner={"name": name, "options": options}, parameters=NUMBERS, objectives=[MINIMIZE])
    ours, report_id = sampling_of(of), 0
    for number, values in enumerate([(0.9, 0.2), (0.1, 0.3), (0.1, 0.3), (0.1, 0.3)]):
        ask(ours)
        for step, value in enumerate(values):
            report_id += 1
            assert not ours.feed(Report(report_id, trial_id(number), step, value))
        if number:
            tell(ours, number, COMPLETE, (values[-1],))
    after = sampling_of(of, frozen(ours), replay=[trial_id(0)])
    assert not after.feed(Report(1, trial_id(0), 0, 0.9), latest=False)  # now among the worst at step 0
    assert not after.feed(Report(2, trial_id(0), 1, 0.2))
    assert after.feed(Report(report_id + 1, trial_id(0), 2, 0.9)) is False  # nobody has been there

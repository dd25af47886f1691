"""A Study's status: conditions, phases, bounds, and the patch that brings it up to date."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from building import (
    COMPLETE,
    FAIL,
    NOW,
    PRUNED,
    RUNNING,
    WAITING,
    job_state,
    manifest,
    observe,
    result,
    rows_of,
    study,
    trial_row,
)
from crd_schema import status_schema, violations
from hypothesis import given, settings
from hypothesis import strategies as st

from study_operator.model.job_state import JobPhase
from study_operator.model.observed import Observed
from study_operator.model.status import (
    Condition,
    Situation,
    accepted,
    difference,
    refused,
    rows_missing,
    shorten,
    status,
    storage_down,
    storage_ready,
)
from study_operator.model.study_outcome import Outcome
from study_operator.model.trial import BestTrial, Failure, Rows
from study_operator.model.warm_start import WarmStarted
from study_operator.texts import one_line

STOPPED = Outcome(True, "Stopped", "the study was stopped after 3 trials: spec.stop is Drain; remove it to go on")
SUCCEEDED = Outcome(True, "MaxTrialsReached", "100 of 100 trials have ended")
BROKEN = Outcome(False, "MaxFailedTrialsExceeded", "11 trials failed")
IN_USE = observe(trial_row(0), jobs=[job_state(0)], counts={COMPLETE: 2, PRUNED: 1, FAIL: 1, WAITING: 4})


def situation(observed: Observed | None = IN_USE, **fields: Any) -> Situation:
    """A study that is accepted and whose database answers."""
    return Situation(**{"accepted": accepted(), "storage": storage_ready(), "observed": observed, **fields})


def compute(now: Situation, old: dict[str, Any] | None = None, at: Any = NOW) -> dict[str, Any]:
    seen = manifest() if old is None else {**manifest(), "status": old}
    return status(seen, now.observed.study if now.observed else study(), now, at)


def draining(**spec: Any) -> Observed:
    """A study that was stopped: a trial still runs."""
    return observe(trial_row(0), jobs=[job_state(0)], counts={COMPLETE: 2, PRUNED: 1}, spec={"stop": "Drain", **spec})


def condition(of: dict[str, Any], type_: str) -> dict[str, Any]:
    (found,) = [c for c in of["conditions"] if c["type"] == type_]
    return found


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386, as the API server applies it."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def stored(computed: dict[str, Any]) -> dict[str, Any]:
    """A computed status as the API server keeps it."""
    return merge_patch({}, computed)


# Counts, best trial, failures


def test_a_status_says_how_far_the_study_is():
    best = BestTrial(31, (0.97344444,), {"lr": 3.1e-3, "layers": 2, "optimizer": "sgd"}, "digits-31")
    failures = [(7, Failure("OOMKilled", "", 137, "epoch 3")), (3, Failure("JobMissing", "Job digits-3 was deleted"))]
    rows = rows_of(
        trial_row(0), counts={COMPLETE: 21, PRUNED: 6, FAIL: 2, WAITING: 4}, best=best, recent_failures=failures
    )
    found = compute(situation(replace(IN_USE, rows=rows)))
    assert found["trials"] == {
        "total": 30,
        "running": 1,
        "queued": 0,
        "complete": 21,
        "pruned": 6,
        "failed": 2,
        "infeasible": 0,
        "terminated": 0,
    }
    assert found["progress"] == "29/100"
    assert stored(found)["bestTrial"] == {
        "number": 31,
        "values": ["0.97344444"],
        "params": {"lr": 3.1e-3, "layers": 2, "optimizer": "sgd"},
        "parameters": {"lr": "0.0031", "layers": "2", "optimizer": "sgd"},
        "jobName": "digits-31",
    }
    assert (found["bestValue"], found["best"]) == ("0.973444", "0.973444 (max)")
    assert found["recentFailures"] == [
        {"trial": 7, "class": "Program", "reason": "OOMKilled", "lastLogLine": "epoch 3", "exitCode": 137},
        {"trial": 3, "class": "Program", "reason": "JobMissing", "message": "Job digits-3 was deleted"},
    ]
    assert found["studyName"] == "team-a/digits-1b9d6bcd"
    assert found["observedGeneration"] == 3
    assert list(violations(stored(found), status_schema())) == []


@pytest.mark.parametrize(("value", "text"), [(float("inf"), "inf"), (float("-inf"), "-inf"), (1e-300, "1e-300")])
def test_a_best_value_may_be_any_number(value, text):
    rows = rows_of(counts={COMPLETE: 1}, best=BestTrial(0, (value,), {}, None))
    found = compute(situation(replace(IN_USE, rows=rows)))
    assert found["bestValue"] == text
    assert float(found["bestTrial"]["values"][0]) == value
    assert "jobName" not in found["bestTrial"]


def test_what_cannot_be_observed_stays_as_it_was():
    old = stored(compute(situation(), stored(compute(situation(outcome=SUCCEEDED)))))
    found = compute(situation(None, storage=storage_down("timeout")), old)
    for field in ("trials", "progress", "startTime", "studyName"):
        assert found[field] == old[field]
    assert condition(found, "Complete") == condition(old, "Complete")
    assert found["phase"] == "Waiting"


@pytest.mark.parametrize("storage", [storage_down("timeout"), rows_missing("database 1 does not know this study")])
@pytest.mark.parametrize("end", [SUCCEEDED, BROKEN])
def test_an_end_stays_the_end_while_rows_cannot_be_read(storage, end):
    old = stored(compute(situation(outcome=end)))
    for _ in range(2):
        found = compute(situation(None, storage=storage), old, NOW + timedelta(hours=1))
        assert condition(found, "StorageReady")["status"] == "False"
        assert (condition(found, "Progressing")["reason"], condition(found, "Progressing")["message"]) == (
            "Finished",
            end.message,
        )
        for type_ in ("Finished", "Complete" if end.succeeded else "Failed"):
            assert condition(found, type_) == condition(old, type_)
        assert (found["phase"], found["completionTime"]) == (old["phase"], old["completionTime"])
        old = stored(found)


def test_an_edit_of_an_ended_study_waits_for_the_database():
    old = stored(compute(situation(outcome=SUCCEEDED)))
    seen = manifest()
    seen = {**seen, "metadata": {**seen["metadata"], "generation": 4}, "status": old}
    for _ in range(2):
        found = status(seen, study(), situation(None, storage=storage_down("timeout")), NOW)
        assert (found["phase"], condition(found, "Progressing")["reason"]) == ("Waiting", "WaitingForStorage")
        assert condition(found, "Finished")["observedGeneration"] == 3  # kubectl wait does not take it for the new end
        seen["status"] = stored(found)


def test_a_study_that_cannot_be_parsed_has_a_status_too():
    seen = manifest(parameters=[{"name": "x", "float": {"low": 2, "high": 1}}])
    found = status(seen, None, Situation(refused("InvalidSearchSpace", "parameter 'x': …")), NOW)
    assert found["phase"] == "Refused"
    assert condition(found, "Accepted")["reason"] == "InvalidSearchSpace"
    assert condition(found, "Progressing")["reason"] == "NotAccepted"
    assert list(violations(stored(found), status_schema())) == []


def best_of(params: dict[str, Any]) -> dict[str, Any]:
    """The best trial in a status, as the API server keeps it."""
    rows = rows_of(counts={COMPLETE: 1}, best=BestTrial(0, (0.5,), params, "digits-0"))
    found = stored(compute(situation(replace(IN_USE, rows=rows))))
    assert list(violations(found, status_schema())) == []
    return found["bestTrial"]


def test_the_best_parameters_have_their_types_in_full():
    params = {"lr": 1e-05, "layers": 2, "bias": True, "optimizer": "a" * 128, "batch": "32"}
    found = best_of(params)
    assert found["params"] == params
    assert [type(value) for value in found["params"].values()] == [float, int, bool, str, str]
    assert "paramsLeftOut" not in found


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({f"p{n}": "x" * 128 for n in range(40)}, "they take more than 4096 bytes: read them in the database"),
        ({"x": None}, "x is null, which a status cannot hold: read them in the database"),
        ({"x": "a\u202eb"}, "x has characters that cannot be seen: read them in the database"),
    ],
)
def test_best_parameters_that_a_status_cannot_hold_are_left_out_and_it_says_so(params, why):
    found = best_of(params)
    assert "params" not in found
    assert found["paramsLeftOut"] == why
    assert set(found["parameters"]) == set(params)


# Phases and times


@pytest.mark.parametrize(
    ("now", "phase"),
    [
        (situation(None, accepted=refused("UnknownSampler", "…"), storage=None), "Refused"),
        (situation(accepted=refused("JobTemplateRefused", "…")), "Refused"),
        (situation(accepted=refused("JobTemplateRefused", "…"), outcome=SUCCEEDED), "Succeeded"),
        (situation(None, storage=storage_down("timeout")), "Waiting"),
        (situation(None, storage=rows_missing("database 1 does not know this study")), "Waiting"),
        (situation(pending="the pod of trial 0 waits: Unschedulable"), "Waiting"),
        (situation(observe(counts={COMPLETE: 1}), sampler_failed="out of memory"), "Waiting"),
        (situation(troubles=("exceeded quota",)), "Waiting"),
        (situation(observe()), "Pending"),
        (situation(observe(counts={WAITING: 3})), "Pending"),
        (situation(draining(suspend=True)), "Running"),
        (situation(draining(), pending="the pod of trial 0 waits: Unschedulable"), "Running"),
        (situation(observe(spec={"stop": "Drain"}), outcome=STOPPED), "Succeeded"),
        (situation(accepted=refused("JobTemplateRefused", "…"), outcome=STOPPED), "Succeeded"),
        (situation(), "Running"),
        (situation(observe(counts={COMPLETE: 1})), "Running"),
        (situation(outcome=SUCCEEDED), "Succeeded"),
        (situation(outcome=BROKEN), "Failed"),
    ],
)
def test_phases(now, phase):
    found = compute(now)
    assert found["phase"] == phase
    assert list(violations(stored(found), status_schema())) == []


@pytest.mark.parametrize(
    ("end", "there"),
    [(None, set()), (SUCCEEDED, {"Complete"}), (STOPPED, {"Complete"}), (BROKEN, {"Failed"})],
    ids=["none", "good", "stopped", "bad"],
)
def test_how_a_study_ended_can_be_waited_for(end, there):
    found = compute(situation(outcome=end))
    types = {one["type"] for one in found["conditions"]}
    assert types == {"Accepted", "StorageReady", "Progressing", "Finished", *there}, "not what the study is not"
    assert condition(found, "Finished")["status"] == str(end is not None)
    if end is not None:
        true = [condition(found, type_) for type_ in ("Finished", *there)]
        assert {(one["status"], one["reason"], one["message"]) for one in true} == {("True", end.reason, end.message)}


def test_a_condition_that_was_true_says_that_it_is_not_any_more():
    failed = stored(compute(situation(outcome=BROKEN)))
    assert condition(compute(situation(), failed), "Failed")["status"] == "False"
    complete = compute(situation(outcome=SUCCEEDED), failed)
    assert condition(complete, "Failed")["status"] == "False"
    assert BROKEN.message not in condition(complete, "Failed")["message"]


def test_start_and_completion_are_noted_once_and_completion_is_taken_back():
    times = [NOW + timedelta(seconds=n) for n in range(6)]
    text = [time.strftime("%Y-%m-%dT%H:%M:%SZ") for time in times]
    found = stored(compute(situation(observe()), None, times[0]))
    assert "startTime" not in found
    found = stored(compute(situation(), found, times[1]))
    found = stored(compute(situation(), found, times[2]))
    assert found["startTime"] == text[1]
    assert "completionTime" not in found
    found = stored(compute(situation(outcome=SUCCEEDED), found, times[3]))
    found = stored(compute(situation(outcome=SUCCEEDED), found, times[4]))
    assert found["completionTime"] == text[3]
    found = stored(compute(situation(), found, times[5]))  # maxTrials was raised
    assert "completionTime" not in found
    assert found["startTime"] == text[1]


# Conditions


@pytest.mark.parametrize(
    ("now", "state", "reason", "message"),
    [
        (situation(), "True", "TrialsRunning", "1 trial runs, 4 of 100 have ended"),
        (
            situation(throttled=True),
            "True",
            "Throttled",
            "1 trial runs, 4 of 100 have ended; this study takes more than its share of the operator's time, so it "
            "waits while others are served: let trials report more seldom, or run longer or fewer at once",
        ),
        (
            situation(observe(trial_row(0, PRUNED), jobs=[job_state(0)])),
            "True",
            "TrialsRunning",
            "0 trials run, 1 of 100 has ended; waiting for the pods of Job digits-0 to end",
        ),
        (
            situation(observe(trial_row(0, COMPLETE), jobs=[job_state(0, JobPhase.COMPLETE)])),
            "True",
            "TrialsRunning",
            "0 trials run, 1 of 100 has ended",
        ),
        (
            situation(pending="the pod of trial 0 waits: Unschedulable: 0/3 nodes are available"),
            "False",
            "TrialPending",
            "the pod of trial 0 waits: Unschedulable: 0/3 nodes are available",
        ),
        (
            situation(None, storage=storage_down("connection refused")),
            "False",
            "WaitingForStorage",
            "waiting for the database; trials that run go on, and report when it is back",
        ),
        (
            situation(None, accepted=refused("UnknownSampler", "there is no sampler 'X'"), storage=None),
            "False",
            "NotAccepted",
            "there is no sampler 'X'",
        ),
        (
            situation(accepted=refused("JobTemplateRefused", "spec.template: Required")),
            "False",
            "NotAccepted",
            "no new trials are started, 1 trial still runs: spec.template: Required",
        ),
        (situation(outcome=SUCCEEDED), "False", "Finished", "100 of 100 trials have ended"),
        (situation(outcome=BROKEN, pending="…"), "False", "Finished", "11 trials failed"),
        (
            situation(accepted=refused("JobTemplateRefused", "…"), outcome=SUCCEEDED),
            "False",
            "Finished",
            "100 of 100 trials have ended",
        ),
        (
            situation(draining()),
            "True",
            "Ending",
            "the study was stopped after 3 trials: spec.stop is Drain; remove it to go on; 1 trial still runs",
        ),
        (
            situation(draining(suspend=True), pending="the pod of trial 0 waits: Unschedulable"),
            "True",
            "Ending",
            "the study was stopped after 3 trials: spec.stop is Drain; remove it to go on; 1 trial still runs; the pod "
            "of trial 0 waits: Unschedulable",
        ),
        (situation(troubles=("exceeded quota",)), "False", "TrialsCannotStart", "exceeded quota"),
        (
            situation(troubles=("exceeded quota", "again", "and again"), pending="…"),
            "False",
            "TrialsCannotStart",
            "exceeded quota (and 2 more like it)",
        ),
    ],
)
def test_progressing_says_what_the_study_does_or_why_it_does_nothing(now, state, reason, message):
    found = compute(now)
    progressing = condition(found, "Progressing")
    assert (progressing["status"], progressing["reason"], progressing["message"]) == (state, reason, message)
    assert list(violations(stored(found), status_schema())) == []


@pytest.mark.parametrize(
    ("storage", "state"), [(storage_ready(), "True"), (storage_down("timeout"), "False"), (None, None)]
)
def test_storage_ready_is_said_when_it_is_known(storage, state):
    found = {c["type"]: c["status"] for c in compute(situation(None, storage=storage))["conditions"]}
    assert found.get("StorageReady") == state


def test_a_transition_time_changes_with_the_status_of_a_condition_and_with_nothing_else():
    later, last = NOW + timedelta(minutes=1), NOW + timedelta(minutes=2)
    first = stored(compute(situation()))
    other_words = stored(compute(situation(observe(counts={COMPLETE: 9})), first, later))
    before, after = condition(first, "Progressing"), condition(other_words, "Progressing")
    assert before["message"] != after["message"]
    assert before["lastTransitionTime"] == after["lastTransitionTime"] == "2030-01-02T03:04:05Z"
    done = stored(compute(situation(outcome=SUCCEEDED), other_words, last))
    assert condition(done, "Progressing")["lastTransitionTime"] == "2030-01-02T03:06:05Z"
    assert condition(done, "Complete")["lastTransitionTime"] == "2030-01-02T03:06:05Z"
    assert condition(done, "Accepted")["lastTransitionTime"] == "2030-01-02T03:04:05Z"


def test_an_unknown_condition_is_kept_and_each_type_is_there_once():
    other = {**condition(compute(situation()), "Accepted"), "type": "Reviewed"}
    found = compute(situation(), {"conditions": [other]})
    types = [c["type"] for c in found["conditions"]]
    assert "Reviewed" in types
    assert len(set(types)) == len(types)


def test_a_condition_may_be_unknown():
    found = compute(situation(accepted=Condition("Accepted", None, "NotJudged", "…")))
    assert condition(found, "Accepted")["status"] == "Unknown"


# Size


def size(computed: dict[str, Any]) -> int:
    return len(json.dumps(stored(computed), ensure_ascii=False).encode())


def crowded(text: str, parameters: int = 100, value: str | None = None) -> Situation:
    """A situation in which every text is this one, and there is as much of everything as there may be."""
    value = text if value is None else value
    params = {f"p{n}".ljust(63, "x"): value[:128] for n in range(parameters)}
    failures = [(n, Failure(text[:64] or "Error", text, -1, text)) for n in range(5)]
    rows = rows_of(
        *(trial_row(n) for n in range(9)),
        counts=dict.fromkeys((COMPLETE, PRUNED, FAIL), 10**6),
        best=BestTrial(999_999, (-1.2345678901234567e-300,) * 4, params, "j" * 63),
        recent_failures=failures,
    )
    observed = replace(IN_USE, rows=rows)
    return Situation(refused("JobTemplateRefused", text), storage_ready(), observed, Outcome(False, "A" * 64, text))


@pytest.mark.parametrize("character", ["x", "é", "漢", "🙂", '"', "\\", "\x07"])
def test_a_status_stays_small_whatever_is_in_it(character):
    now = crowded(character * 10_000)
    found = compute(now)
    assert size(found) < 16 * 1024
    again = compute(now, stored(found), NOW + timedelta(hours=1))
    assert difference(stored(found), again) == {}  # shortening what is short already changes nothing


@given(
    text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=3).map(lambda text: text * 1000),
    parameters=st.integers(0, 100),
)
@settings(max_examples=10)
def test_a_status_stays_small_and_within_the_schemas_bounds(text, parameters):
    found = compute(crowded(text, parameters))
    assert size(found) < 16 * 1024
    bounds = [v for v in violations(stored(found), status_schema()) if ".reason is" not in v]  # reasons are CamelCase
    assert bounds == []


def test_short_texts_are_left_alone():
    params = {"lr": "0.1" * 40, "optimizer": "x" * 128}
    rows = rows_of(counts={COMPLETE: 1}, best=BestTrial(0, (1.0,), params, None))
    now = situation(replace(IN_USE, rows=rows), accepted=refused("JobTemplateRefused", "y" * 2048))
    found = compute(now)
    assert found["bestTrial"]["parameters"] == params
    assert condition(found, "Accepted")["message"] == "y" * 2048


@given(st.text(), st.integers(1, 50))
def test_a_shortened_text_is_short_and_says_so(text, most):
    found = shorten(text, most)
    assert len(found) <= most
    whole = one_line(text)
    assert found == whole or (found.endswith("…") and whole.startswith(found[:-1]))


def texts(of: Any) -> list[str]:
    """All texts in a status, names of fields included."""
    if isinstance(of, dict):
        return [*of, *(text for value in of.values() for text in texts(value))]
    if isinstance(of, list):
        return [text for value in of for text in texts(value)]
    return [of] if isinstance(of, str) else []


def test_nothing_that_a_tenant_says_gets_into_a_status_unseen():
    nasty = "x\n2026-11-29 error namespace=team-z \x1b[31m\x9b \u202e\u2066 \u2028 \x00 \ud800"
    failure = Failure(nasty, nasty, 1, nasty)
    rows = rows_of(
        trial_row(0),
        counts={COMPLETE: 1, FAIL: 1},
        best=BestTrial(0, (1.0,), {nasty: nasty}, "digits-0"),
        recent_failures=[(1, failure)],
        bad_reports=1,
        last_bad_report=nasty,
    )
    for now in (
        situation(replace(IN_USE, rows=rows), pending=nasty, warm_started=(WarmStarted("earlier", 0, 0, nasty),)),
        situation(replace(IN_USE, rows=rows), troubles=(nasty,)),
        situation(None, accepted=refused("JobTemplateRefused", nasty), storage=storage_down(nasty)),
        situation(replace(IN_USE, rows=rows), outcome=Outcome(False, "MaxFailedTrialsExceeded", nasty)),
    ):
        assert [text for text in texts(compute(now)) if not text.isprintable()] == []
    assert failure.sentence().isprintable()


# Patches

NAMES = st.sampled_from(["a", "b", "c", "bestTrial", "parameters"])
LEAVES = st.none() | st.integers(0, 3) | st.text(max_size=2) | st.lists(st.integers(0, 3), max_size=2)
INNER = st.dictionaries(NAMES, LEAVES | st.dictionaries(NAMES, LEAVES, max_size=2), max_size=3)
OBJECTS = st.dictionaries(NAMES, LEAVES | INNER, max_size=4)


@given(OBJECTS, OBJECTS)
def test_a_difference_turns_the_one_into_the_other(old, new):
    old = stored(old)
    assert merge_patch(old, difference(old, new)) == stored(new)


@given(OBJECTS)
def test_nothing_is_written_when_nothing_has_changed(new):
    assert difference(stored(new), new) == {}


BESTS = [
    None,
    BestTrial(1, (0.5,), {"a": 1, "b": "x"}, "digits-1"),
    BestTrial(2, (0.6,), {"b": "y"}, None),
    BestTrial(3, (0.7,), {}, "digits-3"),
    BestTrial(4, (0.8,), {"a": True, "b": None}, "digits-4"),
]


@pytest.mark.parametrize("before", BESTS)
@pytest.mark.parametrize("after", BESTS)
def test_a_patch_leaves_nothing_of_the_previous_best_trial(before, after):
    def with_best(best: BestTrial | None, failures: tuple = ()) -> Situation:
        rows = Rows({RUNNING: 1, COMPLETE: 3}, {}, best, failures)
        return situation(replace(IN_USE, rows=rows))

    old = stored(compute(with_best(before, ((1, Failure("Error", "", 1)),))))
    seen = copy.deepcopy(old)
    new = compute(with_best(after), old, NOW + timedelta(minutes=1))
    assert merge_patch(old, difference(old, new)) == stored(new)
    assert old == seen
    assert stored(new).get("bestTrial") == stored(compute(with_best(after))).get("bestTrial")


def test_a_finished_trial_changes_little_in_the_patch():
    old = stored(compute(situation()))
    new = compute(situation(observe(trial_row(1, result=result(1)), counts={COMPLETE: 3})), old, NOW)
    assert "phase" not in difference(old, new)
    assert "startTime" not in difference(old, new)


def test_what_came_of_earlier_studies_stays_when_it_is_not_looked_up_again():
    came = (
        WarmStarted("team-a/old-12345678", 5, 2, "2 failed" + "!" * 300),
        WarmStarted("team-a/other-12345678", 0, 0, ""),
    )
    old = compute(situation(warm_started=came))
    first, second = old["warmStart"]
    assert (first["study"], first["taken"], first["left"], len(first["message"])) == ("team-a/old-12345678", 5, 2, 256)
    assert second == {"study": "team-a/other-12345678", "taken": 0, "left": 0}
    assert compute(situation(), old)["warmStart"] == old["warmStart"]
    assert "warmStart" not in compute(situation())
    assert list(violations({"warmStart": old["warmStart"]}, status_schema())) == []


@pytest.mark.parametrize(
    ("shown", "value"), [(-9223372036854776000, -(2.0**63)), (100000000000000000000, 1e20), (3, 3.0)]
)
def test_a_number_is_not_written_again_because_the_api_server_shows_it_without_a_point(shown, value):
    assert difference({"params": {"x": shown}}, {"params": {"x": value}}) == {}
    assert difference({"params": {"x": 2 * shown}}, {"params": {"x": value}}) == {"params": {"x": value}}

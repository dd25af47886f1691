"""`trials`, `describe`, `compare` and `export`: trials as tables and files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from study_client.errors import ClientError
from study_client.kubectl import Kubectl
from study_client.output import csv_text, print_as, print_names, print_table
from study_client.showing import print_params
from study_client.studies import StudyView, TrialName
from study_client.texts import number_text, one_line, shorten, shown_lines, value_text
from study_client.times import span
from study_client.trials import Trial, Trials, to_float

STATES = ("Waiting", "Running", "Complete", "Pruned", "Failed", "Infeasible", "Terminated")
FORMS = ("table", "wide", "csv", "json", "jsonl", "yaml", "name")
_GOOD = ("Complete",)  # the trials whose values count


def trials(
    kubectl: Kubectl, name: str, form: str, best: int | None, state: str | None, sort: str | None, reverse: bool
) -> int:
    """Print a study's trials.

    Args:
        best: so many, the best first; None for all.
        state: of this state alone; None for all.
        sort: by what: value, number, duration, or a parameter; None for the order of their numbers.
        reverse: the other way round.
    """
    study = StudyView(kubectl.study(name))
    if best is not None and study.several:
        raise ClientError(f"{name} has several objectives, and no best trial: --sort orders by one of them")
    found = [one for one in Trials(kubectl).of(name) if state is None or one.state.lower() == state.lower()]
    chosen = choose(found, study, best, sort, reverse)
    print_trials(chosen, study.objectives, form)
    return 0


def choose(
    found: Sequence[Trial], study: StudyView, best: int | None, sort: str | None, reverse: bool = False
) -> list[Trial]:
    """Return trials in the order that is wanted. What has no such value comes last. Args as `trials`."""
    if best is not None:
        good = [one for one in found if one.state in _GOOD and not math.isnan(one.value)]
        return sorted(good, key=lambda one: (-one.value if study.maximised else one.value, one.number))[:best]
    if sort is None:
        return list(reversed(found)) if reverse else list(found)
    key = _key(sort, found, study)
    having = [one for one in found if key(one) is not None]
    without = [one for one in found if key(one) is None]
    return sorted(having, key=lambda one: _comparable(key(one)), reverse=reverse) + without


def _comparable(value: Any) -> tuple[bool, float, str]:
    """Return what sorts numbers before texts."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True, 0.0, value_text(value)
    return False, float(value), ""


def _key(sort: str, found: Sequence[Trial], study: StudyView) -> Callable[[Trial], Any]:
    if sort == "number":
        return lambda one: one.number
    if sort == "duration":
        return lambda one: one.seconds
    if sort == "value" or sort in study.objectives:
        place = study.objectives.index(sort) if sort in study.objectives else 0

        def value(one: Trial) -> float | None:
            number = to_float(one.values[place]) if place < len(one.values) else math.nan
            return None if math.isnan(number) else number

        return value
    names = parameter_names(found)
    if sort not in names and found:
        known = ", ".join(["value", "number", "duration", *study.objectives, *names])
        raise ClientError(f"--sort is {sort!r}: there are {one_line(known)}")
    return lambda one: one.params.get(sort)


def parameter_names(found: Iterable[Trial]) -> list[str]:
    """Return the names of all parameters that trials have, in order."""
    return list(dict.fromkeys(name for one in found for name in one.params))


def print_trials(found: Sequence[Trial], objectives: Sequence[str], form: str) -> None:
    """Print trials in one of `FORMS`."""
    if form == "name":
        print_names("studytrial.results.study-operator.io", (one.manifest for one in found))
    elif form == "jsonl":
        for one in found:
            print(json.dumps(one.manifest))
    elif form in ("json", "yaml"):
        print_as(form, {"apiVersion": "v1", "kind": "List", "items": [one.manifest for one in found]})
    elif form == "csv":
        print(as_csv(found, objectives), end="")
    else:
        names = parameter_names(found)
        head = ["TRIAL", "STATE", *(one.upper() for one in objectives), *names, "DURATION"]
        rows = [_row(one, objectives, names) for one in found]
        if form == "wide":
            head += ["REASON", "JOB"]
            rows = [[*row, one.reason, one.job] for row, one in zip(rows, found, strict=True)]
        print_table(head, rows)


def _row(one: Trial, objectives: Sequence[str], names: Sequence[str]) -> list[str]:
    values = [number_text(value) for value in one.values[: len(objectives)]]
    values += [""] * (len(objectives) - len(values))
    params = [_shown(one.params[name]) if name in one.params else "" for name in names]
    return [str(one.number), one.state, *values, *params, span(one.seconds)]


def _shown(value: Any) -> str:
    return number_text(value) if isinstance(value, float) else shorten(value_text(value), 40)


def as_csv(found: Sequence[Trial], objectives: Sequence[str]) -> str:
    """Return trials as a CSV file, with a column for each objective, parameter and attribute."""
    names = parameter_names(found)
    attributes = list(dict.fromkeys(name for one in found for name in one.attributes))
    head = ["number", "state", *objectives, *(f"params_{name}" for name in names), "start", "end", "seconds", "reason"]
    rows = [
        [
            one.number,
            one.state,
            *(one.values[place] if place < len(one.values) else None for place in range(len(objectives))),
            # A text "null" is a value; an empty cell is a parameter that the trial does not have.
            *(value_text(one.params[name]) if name in one.params else None for name in names),
            one.status.get("startTime"),
            one.status.get("completionTime"),
            one.seconds,
            one.reason,
            *(_attribute(one.attributes[name]) if name in one.attributes else None for name in attributes),
        ]
        for one in found
    ]
    return csv_text([*head, *(f"attr_{name}" for name in attributes)], rows)


def _attribute(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else value_text(value)


def describe(kubectl: Kubectl, trial: TrialName, form: str) -> int:
    """Print everything that is known of one trial, or its parameters as arguments or variables."""
    found = Trials(kubectl).one(trial.study, trial.number)
    if form in ("args", "env"):
        print_params(found.params, form)
        return 0
    if form in ("json", "yaml"):
        print_as(form, found.manifest)
        return 0
    study = StudyView(kubectl.study(trial.study))
    print(shown_lines("\n".join(described(found, study.objectives))))
    return 0


def described(found: Trial, objectives: Sequence[str]) -> list[str]:
    """Return what is known of one trial, line by line."""
    status = found.status
    lines = [f"Trial {found.study}/{found.number}: {found.state}"]
    lines += [f"  {name:<20} {one_line(value)}" for name, value in zip(objectives, found.values, strict=False)]
    parts: list[tuple[str, dict[str, Any]]] = [
        ("parameters", dict(found.params)),
        ("constraints", dict(status.get("constraints") or {})),
        ("attributes", dict(found.attributes)),
        ("failure", dict(status.get("failure") or {})),
    ]
    for title, values in parts:
        if values:
            lines += [f"{title}:", *(f"  {one_line(name):<20} {one_line(_attribute(v))}" for name, v in values.items())]
    report = status.get("lastReport")
    facts = {
        "started": status.get("startTime"),
        "ended": status.get("completionTime"),
        "took": span(found.seconds),
        "job": found.job,
        "attempts": status.get("attempts"),
        "last report": f"{report['value']} at step {report['step']}" if report else None,
    }
    return lines + [f"{name + ':':<22} {one_line(str(value))}" for name, value in facts.items() if value]


def compare(kubectl: Kubectl, names: Sequence[str]) -> int:
    """Print studies beside each other: how far they are, what is best, and the best parameters."""
    studies = [StudyView(kubectl.study(name)) for name in names]
    params = [((one.status.get("bestTrial") or {}).get("params") or {}) for one in studies]
    rows = [
        ["phase", *(str(one.status.get("phase") or "") for one in studies)],
        ["trials", *(f"{one.finished}/{one.max_trials}" for one in studies)],
        ["objective", *(", ".join(one.objectives) for one in studies)],
        ["sampler", *(str((one.spec.get("sampler") or {}).get("name") or "") for one in studies)],
        ["best", *(str(one.status.get("best") or "") for one in studies)],
        ["best trial", *(str((one.status.get("bestTrial") or {}).get("number", "")) for one in studies)],
    ]
    for name in dict.fromkeys(name for one in params for name in one):
        rows.append([name, *(_shown(one[name]) if name in one else "" for one in params)])
    print_table(["", *(one.name for one in studies)], rows)
    return 0


def export(kubectl: Kubectl, name: str, form: str, file: str) -> int:
    """Write all trials of a study to a file; `-` is standard output."""
    study = StudyView(kubectl.study(name))
    found = Trials(kubectl).of(name)
    if form == "csv":
        text = as_csv(found, study.objectives)
    else:
        text = json.dumps([one.manifest for one in found], indent=1) + "\n"
    if file == "-":
        print(text, end="")
        return 0
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ClientError(f"{file} cannot be written: {error.strerror}") from None
    print(f"{len(found)} trials of {name} are in {file}")
    return 0

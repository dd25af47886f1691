"""`list` and `best`: what the Studies themselves say."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from study_client import texts
from study_client.errors import ClientError, NotServedError
from study_client.kubectl import STUDIES, Kubectl
from study_client.output import print_as, print_names, print_table
from study_client.studies import StudyView
from study_client.times import age
from study_client.trials import Trials


def list_studies(kubectl: Kubectl, form: str, selector: str | None, now: datetime) -> int:
    """Print the Studies of a namespace, or of all."""
    found = kubectl.studies(selector)
    if form == "name":
        print_names("study.study-operator.io", found)
        return 0
    if form in ("json", "yaml"):
        print_as(form, {"apiVersion": "v1", "kind": "List", "items": found})
        return 0
    if not found:
        where = "" if kubectl.everywhere else " here: -n names another namespace, -A asks for all"
        print(f"there are no {STUDIES}{where}")
        return 0
    head = ["NAME", "PHASE", "TRIALS", "RUNNING", "FAILED", "BEST", "TRIAL", "AGE"]
    rows = [_row(StudyView(one), now) for one in found]
    if form == "wide":
        head = [*head, "SAMPLER", "MESSAGE"]
        rows = [[*row, _sampler(one), StudyView(one).why] for row, one in zip(rows, found, strict=True)]
    if kubectl.everywhere:
        head = ["NAMESPACE", *head]
        rows = [[StudyView(one).namespace, *row] for row, one in zip(rows, found, strict=True)]
    print_table(head, rows)
    return 0


def _row(study: StudyView, now: datetime) -> list[str]:
    status, counts = study.status, study.trials
    best = (status.get("bestTrial") or {}).get("number")
    return [
        study.name,
        str(status.get("phase") or ""),
        f"{study.finished}/{study.max_trials}",
        str(counts.get("running", "")),
        str(counts.get("failed", "")),
        str(status.get("best") or ""),
        "" if best is None else str(best),
        age(study.manifest["metadata"].get("creationTimestamp"), now),
    ]


def _sampler(manifest: dict[str, Any]) -> str:
    sampler = manifest["spec"].get("sampler") or {}
    return str(sampler.get("name") or sampler.get("class") or "")


def best(kubectl: Kubectl, name: str, form: str) -> int:
    """Print the best trial's parameters: for people, or as arguments, as variables, as YAML or JSON."""
    study = StudyView(kubectl.study(name))
    if study.several:
        return _front(study, form)
    found = study.status.get("bestTrial")
    if not found:
        raise ClientError(f"{name} has no best trial yet: {study.why}")
    params = found.get("params")
    if params is None:
        params = _from_the_trials(kubectl, study, found)
    if form != "table":
        print_params(params, form)
    else:
        shown = ", ".join(texts.one_line(str(value)) for value in found["values"])
        print(f"trial {found['number']}: {texts.one_line(study.objectives[0])} {shown}")
        print_table(["PARAMETER", "VALUE"], [[key, texts.value_text(value)] for key, value in params.items()])
    return 0


def print_params(params: Mapping[str, Any], form: str) -> None:
    """Print parameters as `args`, `env`, `yaml` or `json`.

    Raises:
        ClientError: one of them cannot stand in a command line.
    """
    if form in ("json", "yaml"):
        print_as(form, params)
        return
    for name, value in params.items():
        # A shell would get it, and the terminal on the way there.
        if texts.one_line(texts.value_text(value)) != texts.value_text(value):
            raise ClientError(f"{texts.one_line(name)} has characters that cannot be seen: write -o json")
    print(texts.as_arguments(params) if form == "args" else texts.as_environment(params))


def _from_the_trials(kubectl: Kubectl, study: StudyView, found: dict[str, Any]) -> dict[str, Any]:
    """Return the best trial's parameters from the trials API, where the status cannot hold them."""
    try:
        return dict(Trials(kubectl).one(study.name, found["number"]).params)
    except NotServedError:
        why = found.get("paramsLeftOut") or "the status does not have them"
        raise ClientError(
            f"the parameters of trial {found['number']} cannot be read: {texts.one_line(why)}, and this cluster does "
            "not serve trials"
        ) from None


def _front(study: StudyView, form: str) -> int:
    """Print the Pareto front of a study with several objectives."""
    front = study.status.get("paretoFront") or []
    if form in ("args", "env"):
        numbers = ", ".join(str(one["number"]) for one in front) or "none yet"
        raise ClientError(
            f"{study.name} has several objectives and no single best trial; on its Pareto front are {numbers}. Choose "
            f"one: `kubectl study describe {study.name}/NUMBER -o {form}`"
        )
    if form in ("json", "yaml"):
        print_as(form, front)
        return 0
    names = list(dict.fromkeys(key for one in front for key in one.get("parameters") or {}))
    head = ["TRIAL", *(one.upper() for one in study.objectives), *names]
    rows = [
        [
            str(one["number"]),
            *(texts.number_text(value) for value in one["values"]),
            *(str((one.get("parameters") or {}).get(key, "")) for key in names),
        ]
        for one in front
    ]
    print_table(head, rows)
    size = study.status.get("paretoFrontSize") or 0
    if size > len(front):
        print(f"{size - len(front)} more are on the front: `kubectl study trials {study.name}` lists all trials")
    return 0

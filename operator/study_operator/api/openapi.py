"""Describes the trials API for `kubectl explain` and for clients that read schemas: OpenAPI v2 and v3.

Neither needs the database, and both are the same as long as the process lives.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from study_operator.api.resources import (
    GROUP,
    GROUP_VERSION,
    PURGE,
    REPORTS,
    RESOURCES,
    SETS,
    STOP,
    TRIALS,
    VERSION,
    Resource,
)

_PREFIX = "io.study-operator.results.v1alpha1."
_TEXT, _NUMBER = {"type": "string"}, {"type": "number"}
# Each state of a trial; model/readable.py has them.
_STATES = "Waiting, Running, Complete, Pruned, Failed, Infeasible or Terminated"


def _said(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {**schema, "description": description}


def _map(values: dict[str, Any], description: str) -> dict[str, Any]:
    return {"type": "object", "description": description, "additionalProperties": values}


def _list(items: dict[str, Any], description: str) -> dict[str, Any]:
    return {"type": "array", "description": description, "items": items}


def _record(description: str, **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "description": description, "properties": properties}


_INTEGER = {"type": "integer", "format": "int64"}
_TIME = {"type": "string", "format": "date-time"}
_ACTIONS = {"create": "post"}  # Kubernetes' words for what a path does
_ANY: dict[str, Any] = {"x-kubernetes-preserve-unknown-fields": True}

_TRIAL = _record(
    "StudyTrial is a trial of a Study: its parameters and what came of them. It is read from the operator's database, "
    "and lies in no other place. Only the operator changes it.",
    spec=_record(
        "What the trial was given.",
        study=_said(_TEXT, "The name of the Study."),
        number=_said(_INTEGER, "The trial's number in its study, from 0 on."),
        parameters=_map(_ANY, "Its parameters by name, as numbers, texts, booleans or null."),
    ),
    status=_record(
        "What came of it.",
        state=_said(_TEXT, f"{_STATES}."),
        value=_said(
            _NUMBER,
            "The final value, to sort by: kubectl cannot compare whole numbers with others, so of a whole number it is "
            "the next one above. It is absent with several objectives, before there is one, and if it is infinite or "
            "above 4.5e15. status.values has it exactly.",
        ),
        values=_list(_TEXT, "The final values, one for each objective, as texts: 0.93, inf, nan."),
        startTime=_said(_TIME, "When it was started."),
        completionTime=_said(_TIME, "When it ended."),
        durationSeconds=_said(_NUMBER, "How long it ran, in seconds. Absent while it has not ended."),
        attempts=_said(_INTEGER, "How many Jobs it has had: more than one, if the cluster failed beneath it."),
        jobName=_said(_TEXT, "The Job that runs it, or has run it last."),
        constraints=_map(_TEXT, "The values that the Study's constraints limit, by name, as texts."),
        violations=_map(_TEXT, "By how much each constraint is violated, as texts: 0 or less if it is kept."),
        attributes=_map(_ANY, "What the program has stored by set_user_attr. Long ones are left out."),
        attributesLeftOut=_said(_INTEGER, "How many attributes are left out."),
        lastReport=_record(
            "The intermediate value with the highest step.",
            step=_said(_INTEGER, "The step."),
            value=_said(_TEXT, "The value, as text."),
        ),
        failure=_record(
            "Why it has failed, or is infeasible; or, while it runs again, why it has failed before.",
            reason=_said(_TEXT, "In CamelCase, such as OOMKilled or MetricMissing."),
            **{"class": _said(_TEXT, "Whose fault it is: Program, Infrastructure, Infeasible or Terminated.")},
            message=_said(_TEXT, "A sentence."),
            exitCode=_said(_INTEGER, "Of the container that ended."),
            lastLogLine=_said(_TEXT, "The last line that the program logged."),
        ),
    ),
)
_REPORTS = _record(
    "StudyTrialReports are all reports of a trial.",
    steps=_list(_INTEGER, "The steps, in order."),
    values=_list(_ANY, "A value for each step: a number, or one of the texts inf, -inf and nan."),
)
_SET = _record(
    "StudyTrialSet is a whole study in one object, by columns. Ask for one by its name; a list has no trials.",
    objectives=_list(
        _record("An objective.", name=_said(_TEXT, "Its name."), direction=_said(_TEXT, "Minimize or Maximize.")),
        "What is optimised.",
    ),
    blocks=_list(
        {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "At most 500 trials each. Every list in a block has one element for each of its trials.",
    ),
)
_STOP = _record(
    "StudyTrialStop asks the operator to end a running trial now. That is no failure, and the trial runs no more.",
    **{"as": _said(_TEXT, "Pruned, with its last report as its value, or Failed. Pruned unless it is set.")},
    by=_said(_TEXT, "Who has asked first. Set by the server."),
    time=_said(_TIME, "When they asked. Set by the server."),
)
_PURGE = _record(
    "StudyTrialSetPurge asks the operator to remove the rows that a deleted Study has left.",
    by=_said(_TEXT, "Who has asked first. Set by the server."),
    time=_said(_TIME, "When they asked. Set by the server."),
)
_SCHEMAS = {TRIALS: _TRIAL, REPORTS: _REPORTS, STOP: _STOP, SETS: _SET, PURGE: _PURGE}


def v3_index() -> dict[str, Any]:
    """Return which documents there are, each with a hash of its content in its URL."""
    path = f"/openapi/v3/apis/{GROUP_VERSION}"
    return {"paths": {f"apis/{GROUP_VERSION}": {"serverRelativeURL": f"{path}?hash={digest(v3())}"}}}


def v3() -> dict[str, Any]:
    """Return the OpenAPI v3 document."""
    answer = {"200": {"description": "OK", "content": {"application/json": {"schema": {"type": "object"}}}}}
    document = {"openapi": "3.0.0", "info": {"title": "study-operator", "version": VERSION}}
    return document | {
        "paths": dict(_paths(answer, {"schema": _TEXT})),
        "components": {"schemas": dict(_schemas("#/components/schemas/"))},
    }


def v2() -> dict[str, Any]:
    """Return the OpenAPI v2 document."""
    document = {"swagger": "2.0", "info": {"title": "study-operator", "version": VERSION}}
    return document | {
        "paths": dict(_paths({"200": {"description": "OK"}}, _TEXT)),
        "definitions": dict(_schemas("#/definitions/")),
    }


def digest(document: dict[str, Any]) -> str:
    """Return a hash of a document."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest().upper()


def _kind(kind: str) -> dict[str, str]:
    return {"group": GROUP, "version": VERSION, "kind": kind}


def _schemas(reference: str) -> Iterator[tuple[str, dict[str, Any]]]:
    meta = {"type": "object", "description": "Standard object's metadata."}
    for resource, schema in _SCHEMAS.items():
        first = {
            "apiVersion": _said(_TEXT, f"Always {GROUP_VERSION}."),
            "kind": _said(_TEXT, f"Always {resource.kind}."),
            "metadata": meta,
        }
        properties = first | schema["properties"]
        gvk = {"x-kubernetes-group-version-kind": [_kind(resource.kind)]}
        yield _PREFIX + resource.kind, {**schema, "properties": properties, **gvk}
        if "list" in resource.verbs:
            items = {"type": "array", "items": {"$ref": f"{reference}{_PREFIX}{resource.kind}"}}
            gvk = {"x-kubernetes-group-version-kind": [_kind(resource.list_kind)]}
            yield (
                _PREFIX + resource.list_kind,
                {
                    "type": "object",
                    "description": f"{resource.list_kind} is a list of {resource.kind}.",
                    "properties": first | {"items": _said(items, "The objects."), "metadata": meta},
                    **gvk,
                },
            )


def _paths(answers: dict[str, Any], text: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a path for each resource in a namespace, and for its objects."""

    def parameter(name: str) -> dict[str, Any]:
        return {"name": name, "in": "path", "required": True, **text}

    def doing(verb: str, resource: Resource) -> dict[str, Any]:
        called = f"{verb}{GROUP.partition('.')[0].title()}{VERSION.title()}Namespaced{resource.kind}"
        return {
            "post" if verb == "create" else "get": {
                "operationId": called,
                "description": f"{verb} {resource.name}",
                "responses": answers,
                "x-kubernetes-action": _ACTIONS.get(verb, verb),
                "x-kubernetes-group-version-kind": _kind(resource.kind),
            }
        }

    for resource in RESOURCES:
        plural, _, subresource = resource.name.partition("/")
        base = f"/apis/{GROUP_VERSION}/namespaces/{{namespace}}/{plural}"
        if "list" in resource.verbs:
            yield base, doing("list", resource) | {"parameters": [parameter("namespace")]}
        one = f"{base}/{{name}}" + (f"/{subresource}" if subresource else "")
        verb = "get" if "get" in resource.verbs else "create"
        yield one, doing(verb, resource) | {"parameters": [parameter("namespace"), parameter("name")]}

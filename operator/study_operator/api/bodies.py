"""Reads the body of a request: a small JSON object of known fields. Everything else is refused in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from study_operator.api.refusals import bad_request
from study_operator.api.resources import GROUP_VERSION, Resource


async def body(request: web.Request, resource: Resource, fields: Sequence[str]) -> Mapping[str, Any]:
    """Return the object that a request has sent; an empty one if it has sent nothing.

    Args:
        resource: what is created; a body may say its kind.
        fields: names of the fields that it may have beside apiVersion, kind and metadata.

    Raises:
        Refusal: it is no such object, or is only to be tried.
    """
    if request.query.get("dryRun"):
        raise bad_request("dryRun is not offered here: what is asked for is noted, and cannot be tried only")
    text = await request.read()
    try:
        found = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        raise bad_request("the body is no JSON") from None
    if not isinstance(found, dict):
        raise bad_request("the body is no JSON object: write {} if there is nothing to say")
    wanted = {"apiVersion": GROUP_VERSION, "kind": resource.kind}
    for name, only in wanted.items():
        if (given := found.get(name, only)) != only:
            raise bad_request(f"{name} is {_shown(given)}: write {only}, or leave it out")
    if unknown := [name for name in found if name not in (*wanted, "metadata", *fields)]:
        known = f"write {', '.join(fields)}" if fields else "leave it out"
        raise bad_request(f"{resource.kind} has no field {_shown(unknown[0])}: {known}")
    return found


def choice(found: Mapping[str, Any], name: str, choices: Sequence[str]) -> str:
    """Return the value of a field that has one of some texts; the first one if it is not set.

    Raises:
        Refusal: it has another value.
    """
    given = found.get(name, choices[0])
    if given not in choices:
        raise bad_request(f"{name} is {_shown(given)}: write {' or '.join(choices)}")
    return str(given)


def _shown(value: Any) -> str:
    return json.dumps(value)[:100]

"""The bounds that crds/study.yaml sets on a Study's status, for what the operator computes to be held against."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

_CRD = Path(__file__).resolve().parents[2] / "crds/study.yaml"
_TYPES = {"object": dict, "array": list, "string": str, "integer": int}


def status_schema() -> dict[str, Any]:
    """The schema of `.status`."""
    return _properties()["status"]


def spec_schema() -> dict[str, Any]:
    """The schema of `.spec`."""
    return _properties()["spec"]


def defaulted(spec: dict[str, Any]) -> dict[str, Any]:
    """A spec with the defaults that the API server fills in."""
    return _defaulted(spec, spec_schema())


@cache
def _properties() -> dict[str, Any]:
    version = yaml.safe_load(_CRD.read_text())["spec"]["versions"][0]
    return version["schema"]["openAPIV3Schema"]["properties"]


def _defaulted(value: Any, schema: dict[str, Any]) -> Any:
    if isinstance(value, list) and "items" in schema:
        return [_defaulted(item, schema["items"]) for item in value]
    if not isinstance(value, dict):
        return value
    filled = dict(value)
    for name, member in schema.get("properties", {}).items():
        if name not in filled and "default" in member:
            filled[name] = copy.deepcopy(member["default"])
        if name in filled:
            filled[name] = _defaulted(filled[name], member)
    return filled


def violations(value: Any, schema: dict[str, Any], where: str = "status") -> Iterator[str]:
    """What the API server would refuse, or drop as unknown, in a value of this schema."""
    if not isinstance(value, _TYPES[schema["type"]]):
        yield f"{where} is a {type(value).__name__}, not {schema['type']}"
        return
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties")
        if len(value) > schema.get("maxProperties", len(value)):
            yield f"{where} has {len(value)} properties"
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{where}.{name} is missing"
        for name, member in value.items():
            if (known := properties.get(name, others)) is None:
                if schema.get("x-kubernetes-preserve-unknown-fields"):
                    continue
                yield f"{where}.{name} is unknown"
            else:
                yield from violations(member, known, f"{where}.{name}")
    elif isinstance(value, list):
        if len(value) > schema.get("maxItems", len(value)):
            yield f"{where} has {len(value)} items"
        for i, item in enumerate(value):
            yield from violations(item, schema["items"], f"{where}[{i}]")
    elif isinstance(value, str):
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            yield f"{where} has {len(value)} characters"
        if "enum" in schema and value not in schema["enum"]:
            yield f"{where} is {value!r}"
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{where} is {value!r}, which does not match {schema['pattern']}"
    elif value < schema.get("minimum", value):
        yield f"{where} is {value}"

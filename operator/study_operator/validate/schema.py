"""Check a Study against the schema of crds/study.yaml, in sentences, and fill in its defaults."""

from __future__ import annotations

import copy
import difflib
import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from study_operator.manifests.quotes import no_text
from study_operator.validate import cel

Schema = Mapping[str, Any]
_BESIDE = Path(__file__).with_name("study.yaml")  # in a distribution
_REPOSITORY = Path(__file__).resolve().parents[3] / "crds/study.yaml"
# Fields of every object, which the API server adds to the schema.
_EVERYWHERE = ("apiVersion", "kind", "metadata")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


class Finding(NamedTuple):
    """What was found about one field.

    Attributes:
        path: such as spec.parameters[0].name; empty for the whole Study.
        message: what is wrong and what to write, without the path; a sentence by itself where the path is empty.
        refused: whether the Study would be refused; False for a warning.
    """

    path: str
    message: str
    refused: bool = True


@functools.cache
def study_schema() -> Schema:
    """Return the schema of a Study, as the API server has it."""
    file = _BESIDE if _BESIDE.exists() else _REPOSITORY
    version = yaml.safe_load(file.read_text())["spec"]["versions"][0]
    schema: Schema = version["schema"]["openAPIV3Schema"]
    return schema


def check(study: Mapping[str, Any], schema: Schema) -> Iterator[Finding]:
    """Yield what the API server would object to, but for rules."""
    yield from _metadata(study.get("metadata"))
    own = {name: value for name, value in study.items() if name not in (*_EVERYWHERE, "status")}
    properties = {"spec": schema["properties"]["spec"]}
    yield from _check(own, {**schema, "properties": properties}, "")


def defaulted(value: Any, schema: Schema) -> Any:
    """Return a value with the schema's defaults, and without null where null is nothing."""
    if isinstance(value, list) and "items" in schema:
        return [defaulted(item, schema["items"]) for item in value]
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties", {})
    found = {
        name: item
        for name, item in value.items()
        if not (item is None and name in properties and not _open(properties[name]))
    }
    for name, member in properties.items():
        if name not in found and "default" in member:
            found[name] = copy.deepcopy(member["default"])
        if name in found:
            found[name] = defaulted(found[name], member)
    return found


def rules(value: Any, schema: Schema, path: str = "") -> Iterator[Finding]:
    """Yield the rules (CEL) that a value breaks. Its defaults are filled in, and it fits the schema.

    Rules about a change of an existing Study hold here: there is none.
    """
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" not in rule["rule"] and not cel.holds(rule["rule"], value):
            yield Finding((path + rule.get("fieldPath", "")).removeprefix("."), rule["message"])
    if isinstance(value, list) and "items" in schema:
        for place, item in enumerate(value):
            yield from rules(item, schema["items"], f"{path}[{place}]")
    elif isinstance(value, dict):
        for name, member in schema.get("properties", {}).items():
            if name in value:
                yield from rules(value[name], member, _join(path, name))


def _metadata(metadata: Any) -> Iterator[Finding]:
    if not isinstance(metadata, dict) or not (metadata.get("name") or metadata.get("generateName")):
        yield Finding("metadata.name", "is missing: give the Study a name")
        return
    for field in ("name", "namespace"):
        name = metadata.get(field)
        if name is None:
            continue
        if not isinstance(name, str):
            yield Finding(f"metadata.{field}", no_text(name))
        elif not _NAME.fullmatch(name):
            yield Finding(
                f"metadata.{field}",
                f"is {name!r}: write lower-case letters, digits and '-', beginning and ending with a letter or digit",
            )
    for field in ("labels", "annotations"):
        for name, value in (metadata.get(field) or {}).items():
            if not isinstance(value, str):
                yield Finding(f"metadata.{field}.{name}", no_text(value))


def _check(value: Any, schema: Schema, path: str) -> Iterator[Finding]:
    if value is None and schema.get("nullable"):
        return
    kind = schema.get("type")
    if kind is not None and not _is(value, kind):
        yield Finding(path, _other_kind(value, schema, path))
        return
    if isinstance(value, str):
        yield from _text(value, schema, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _number(value, schema, path)
    elif isinstance(value, list):
        yield from _list(value, schema, path)
    elif isinstance(value, dict):
        yield from _object(value, schema, path)


def _is(value: Any, kind: str) -> bool:
    if kind in ("number", "integer"):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and (kind == "number" or float(value).is_integer())
    return isinstance(value, {"string": str, "boolean": bool, "array": list, "object": dict}[kind])


def _other_kind(value: Any, schema: Schema, path: str) -> str:
    """Return what to write in place of a value of another kind."""
    kind, shown = schema["type"], _shown(value)
    if kind == "string":
        return no_text(value)
    if kind == "boolean":
        return f"is {shown}: write true or false, without quotes"
    if kind in ("number", "integer"):
        whole = "a whole number" if kind == "integer" else "a number"
        if isinstance(value, str) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", value):
            return f"is the text {shown} and must be {whole}: remove the quotes"
        return f"is {shown} and must be {whole}"
    if kind == "array":
        items = schema.get("items", {})
        example = _example(items)
        if isinstance(value, dict):
            return f'is an object and must be a list: begin each item with "-", such as {example}'
        return f"is {shown} and must be a list: write {example}"
    properties = schema.get("properties", {})
    if isinstance(value, str) and "name" in properties:
        return f"is the text {shown} and must be an object: write {{name: {value}}}"
    if isinstance(value, list) and "choices" in properties:
        return f"is a list and must be an object: write {{choices: {shown}}}"
    fields = ", ".join(schema.get("required") or list(properties)[:5])
    return f"is {shown} and must be an object" + (f" with the fields {fields}" if fields else ", names with values")


def _example(items: Schema) -> str:
    if items.get("type") == "object":
        return "- {" + ", ".join(f"{name}: ..." for name in items.get("required") or ["name"]) + "}"
    return "[...]"


def _text(value: str, schema: Schema, path: str) -> Iterator[Finding]:
    if "enum" in schema and value not in schema["enum"]:
        write = _similar(value, schema["enum"]) or f"one of {', '.join(schema['enum'])}"
        yield Finding(path, f"is {_shown(value)}: write {write}")
        return
    if len(value) < schema.get("minLength", 0):
        yield Finding(path, f"is too short: it needs {schema['minLength']} characters")
    elif len(value) > schema.get("maxLength", len(value)):
        yield Finding(path, f"has {len(value)} characters and may have {schema['maxLength']}")
    elif "pattern" in schema and not re.search(schema["pattern"], value):
        words = schema.get("description", "").split(";")[0]
        yield Finding(path, f"is {_shown(value)}, which does not match {schema['pattern']}: {words}")


def _number(value: float, schema: Schema, path: str) -> Iterator[Finding]:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and (value < least or (value == least and schema.get("exclusiveMinimum"))):
        yield Finding(
            path, f"is {value}: it must be {'above' if schema.get('exclusiveMinimum') else 'at least'} {least}"
        )
    if most is not None and value > most:
        yield Finding(path, f"is {value}: it must be at most {most}")


def _list(value: list[Any], schema: Schema, path: str) -> Iterator[Finding]:
    if len(value) < schema.get("minItems", 0):
        yield Finding(path, f"has {len(value)} items: it needs at least {schema['minItems']}")
    if len(value) > schema.get("maxItems", len(value)):
        if "type" not in schema:  # a choice
            yield Finding(path, f"{no_text(value)}; a script's suggest_categorical takes it for its list or tuple")
        else:
            yield Finding(path, f"has {len(value)} items: it may have {schema['maxItems']}")
        return
    keys = schema.get("x-kubernetes-list-map-keys")
    seen: list[Any] = []
    for place, item in enumerate(value):
        where = f"{path}[{place}]"
        yield from _check(item, schema.get("items", {}), where)
        key = [item.get(name) for name in keys] if keys and isinstance(item, dict) else item
        if (keys or schema.get("x-kubernetes-list-type") == "set") and key in seen:
            yield Finding(where, f"is there twice: {_shown(key[0] if keys else key)}; rename or remove one of them")
        seen.append(key)


def _object(value: dict[str, Any], schema: Schema, path: str) -> Iterator[Finding]:
    properties, others = schema.get("properties", {}), schema.get("additionalProperties")
    if len(value) > schema.get("maxProperties", len(value)):
        if "type" not in schema:  # a choice
            yield Finding(path, no_text(value))
        else:
            yield Finding(path, f"has {len(value)} fields: it may have {schema['maxProperties']}")
        return
    if len(value) < schema.get("minProperties", 0):
        yield Finding(path, f"has {len(value)} fields: it needs {schema['minProperties']}")
    for name in schema.get("required", ()):
        if value.get(name) is None:
            yield Finding(_join(path, name), f"is missing: {_first_sentence(properties.get(name, {}))}")
    for name, item in value.items():
        if name in properties:
            if item is not None or _open(properties[name]):
                yield from _check(item, properties[name], _join(path, name))
        elif others is not None:
            yield from _check(item, others, _join(path, name))
        elif not schema.get("x-kubernetes-preserve-unknown-fields") and "type" in schema:
            known = _similar(name, properties)
            write = f"write {known}" if known else f"there are {', '.join(properties)}"
            yield Finding(_join(path, name), f"is no field: {write}")


def _open(schema: Schema) -> bool:
    """Return whether null is a value of a field, and not its absence."""
    return bool(schema.get("nullable")) or "type" not in schema


def _similar(name: Any, known: Iterable[Any]) -> str | None:
    """Return what to write instead of a word, if one of those that there are is like it."""
    by_spelling = {str(one).lower(): str(one) for one in known}
    similar = difflib.get_close_matches(str(name).lower(), by_spelling, 1)
    return f"{by_spelling[similar[0]]} instead" if similar else None


def _first_sentence(schema: Schema) -> str:
    return re.split(r"(?<=[a-z)])\. |; ", schema.get("description", "add it"))[0].rstrip(".")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."

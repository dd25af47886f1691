"""Reads the Study of a file as the operator would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from study_client.errors import ClientError
from study_client.texts import one_line
from study_operator.model.study import GROUP, KIND, VERSION, Refused, Study, parse
from study_operator.validate.checks import findings
from study_operator.validate.documents import read
from study_operator.validate.schema import defaulted, study_schema

_UID = "10ca1000-0000-0000-0000-000000000000"


def read_study(file: str) -> tuple[Study, list[str]]:
    """Return the Study of a file, and warnings about it.

    Raises:
        ClientError: the file cannot be read, has not one Study, or the Study would be refused.
    """
    try:
        documents = list(read(Path(file).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ClientError(f"{file} cannot be read: {one_line(str(error))}") from None
    studies = [one.value for one in documents if _is_study(one.value)]
    if len(studies) != 1:
        raise ClientError(f"{file} has {len(studies)} Studies ({GROUP}/{VERSION}), and one is run")
    manifest, schema = studies[0], study_schema()
    found, _ = findings(manifest, schema)
    refused = [f"{one.path}: {one.message}" if one.path else one.message for one in found if one.refused]
    if refused:
        more = f" (and {len(refused) - 1} more: kubectl study validate {file})" if len(refused) > 1 else ""
        raise ClientError(f"{file} would be refused: {one_line(refused[0])}{more}")
    spec = defaulted({"spec": manifest["spec"]}, {"properties": {"spec": schema["properties"]["spec"]}})["spec"]
    given = manifest["metadata"]
    name = given.get("name") or f"{given['generateName']}local"
    metadata = {"name": name, "namespace": given.get("namespace") or "default", "uid": _UID, "generation": 1}
    try:
        study = parse({**manifest, "spec": spec, "metadata": metadata})
    except Refused as refusal:
        raise ClientError(f"{file} would be refused: {refusal.message}") from None
    return study, [f"{one.path}: {one.message}" if one.path else one.message for one in found]


def _is_study(value: Any) -> bool:
    return isinstance(value, dict) and (value.get("apiVersion"), value.get("kind")) == (f"{GROUP}/{VERSION}", KIND)

"""Makes the object of a whole study, by columns: block after block, so that none is ever in memory whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from study_operator.api import numbers
from study_operator.api.resources import GROUP_VERSION, SETS
from study_operator.api.trial_objects import set_metadata
from study_operator.model.readable import ABSENT, Columns, ReadableStudy


def summary(study: ReadableStudy, version: int) -> dict[str, Any]:
    """Return a study as a StudyTrialSet without its trials.

    Args:
        version: the resource version.
    """
    objectives = [{"name": one.name, "direction": one.direction.capitalize()} for one in study.objectives]
    metadata = set_metadata(study, version)
    return {"kind": SETS.kind, "apiVersion": GROUP_VERSION, "metadata": metadata, "objectives": objectives}


def write(study: ReadableStudy, version: int, blocks: Iterator[Columns], with_reports: bool, out: IO[bytes]) -> None:
    """Write the JSON of a whole study.

    Args:
        version: the resource version.
        blocks: its trials.
        out: a file.
    """
    out.write(numbers.encode(summary(study, version)).removesuffix(b"}") + b',"blocks":[')
    comma = b""
    for one in blocks:
        out.write(comma + _block(one, with_reports))
        comma = b","
    out.write(b"]}\n")


def _block(columns: Columns, with_reports: bool) -> bytes:
    """Return the JSON of one block."""
    absent = {"parameters": _absent(columns.params), "attributes": _absent(columns.attributes)}
    found: dict[str, Any] = {
        "number": columns.numbers,
        "state": [str(state) for state in columns.states],
        "startTime": [numbers.moment(at) for at in columns.started],
        "completionTime": [numbers.moment(at) for at in columns.ended],
        "values": [[numbers.number(value) for value in values] for values in columns.values],
        "parameters": _present(columns.params),
        "constraints": {name: _numbers(column) for name, column in columns.constraints.items()},
        "attributes": _present(columns.attributes),
        "absent": {name: found for name, found in absent.items() if found},
        "jobName": columns.jobs,
        "attempts": columns.attempts,
        "reason": columns.reasons,
        "exitCode": columns.exit_codes,
    }
    if with_reports:
        steps = [steps for steps, _ in columns.reports]
        found["reports"] = {"steps": steps, "values": [_numbers(values) for _, values in columns.reports]}
    return numbers.encode(found)


def _numbers(values: Sequence[float | None]) -> list[float | str | None]:
    return [None if value is None else numbers.number(value) for value in values]


def _present(columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: [None if value is ABSENT else value for value in column] for name, column in columns.items()}


def _absent(columns: Mapping[str, list[Any]]) -> dict[str, list[int]]:
    """Return at which places of a block trials do not have a parameter or an attribute, which may also be null."""
    found = {name: [at for at, value in enumerate(column) if value is ABSENT] for name, column in columns.items()}
    return {name: places for name, places in found.items() if places}

"""Say what a program has written instead of a value that is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from study_operator.model import final_values
from study_operator.model.seen_names import LINES_READ, names_in
from study_operator.model.study import SIDECAR, Constraint, Study
from study_operator.model.trial import TrialRow
from study_operator.texts import one_line

REASONS = ("MetricMissing", "ConstraintMissing")  # of the failures that this is about
_LONGEST_BAD = 120


def message(study: Study, missing: Sequence[str], bad: str = "", why: str = "") -> str:
    """Return why a trial has failed whose program has ended well without all of its values.

    Args:
        study: the trial's.
        missing: what the program calls the values that are missing.
        bad: the last thing that looked like a value and could not be read; or "".
        why: why not all that it has written could be read; or "".
    """
    if study.metrics.source == "Sdk":
        return "the program ended without a final value: let it call finish(), or `study-trial finish VALUE`"
    words = f"no last value of {', '.join(missing)} is known: {why}" if why else ""
    if not words:
        of = f"each of {', '.join(missing)}" if len(missing) > 1 else missing[0]
        words = f"the program ended without a value of {of} where spec.metrics says that it reports"
    return f"{words}; last bad report: {one_line(bad)[:_LONGEST_BAD]}" if bad else words


def at_deadline(study: Study, known: str, row: TrialRow, printed: Mapping[str, float], reported: float | None) -> str:
    """Add to the message of a trial that has run out of time which values it had: they are not its final ones.

    Args:
        study: the trial's.
        known: the message.
        row: the trial, with a provisional result if its sidecar has stored one.
        printed: what its program has printed, by key (final_values).
        reported: what it has reported at its highest step; None if nothing.
    """
    objectives = study.objectives
    if row.result is not None and len(row.result.values) == len(objectives):
        had = {one.name: value for one, value in zip(objectives, row.result.values, strict=True)}
    else:
        had = {one.name: printed[final_values.key(one)] for one in objectives if final_values.key(one) in printed}
    if not had and reported is not None:
        had = {objectives[0].name: reported}
    if not had:
        return known
    words = " and ".join(f"{name} {value!r}" for name, value in had.items())
    return (
        f"{known}; it had {words} so far, which is not final because the program had not ended: raise "
        "activeDeadlineSeconds, or let the program end in time"
    )


def of_constraints(missing: Sequence[Constraint], bad: str) -> str:
    """Return why a trial has failed whose result came without the values of some constraints. `bad`: as `message`."""
    words = ", ".join(one.name if one.called is None else f"{one.name} ({one.metric})" for one in missing)
    words = f"no value of {words} came with the result: let the program report it as spec.metrics says"
    return f"{words}; last bad report: {one_line(bad)[:_LONGEST_BAD]}" if bad else words


def with_output(study: Study, known: str, log: str, pods: Iterable[Mapping[str, Any]]) -> str:
    """Add to a message what there is instead of the value.

    Args:
        study: the trial's.
        known: the message.
        log: the last lines that the program has logged.
        pods: the trial's.
    """
    if study.metrics.source == "Stdout" and (names := names_in(log.splitlines()[-LINES_READ:])):
        return f"{known}; its last lines have values of {', '.join(names)}"
    if study.metrics.source == "File" and (crash := _sidecars_end(pods)):
        return f"{known}; {crash}"
    return known


def _sidecars_end(pods: Iterable[Mapping[str, Any]]) -> str:
    """Return how the sidecar that reads a file has failed, in words; "" if it has not."""
    for pod in pods:
        for container in (pod.get("status") or {}).get("initContainerStatuses") or ():
            for state in ("state", "lastState") if container["name"] == SIDECAR else ():
                ended = (container.get(state) or {}).get("terminated") or {}
                if code := ended.get("exitCode"):
                    return f"container {SIDECAR} failed: {ended.get('reason') or 'Error'}, exit code {code}"
    return ""

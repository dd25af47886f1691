"""Say what a program has written instead of a value that is missing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from study_operator.model.study import SIDECAR, Constraint, Study
from study_operator.texts import one_line

REASONS = ("MetricMissing", "ConstraintMissing")  # of the failures that this is about
_LINES_READ = 100  # of the end of a log, to find names in it
_MOST_NAMES, _LONGEST_NAME, _LONGEST_LINE, _LONGEST_BAD = 8, 64, 2000, 120

# What stands between a name and its value, and the beginning of that value.
_VALUE = re.compile(r"[\"']?[ \t]{0,3}[:=][ \t]{0,3}[\"']?(?:[-+]?\.?[0-9]|[-+]?(?:nan|inf)\b)", re.I)
_WORD = r"[^\W\d_][^\s,;|\[\]{}\"'=:]*"
# A name in quotes; or one word, with up to two words before it if these begin the line or follow a separator.
_NAME = re.compile(
    rf"[\"']([^\"']+)$|(?:^|[,;|()\[\]{{}}>]|\s-|\s\s)\s*((?:{_WORD} ){{1,2}}[^\s,;|\[\]{{}}\"'=:]+)$|({_WORD})$"
)
_LEVEL = re.compile(r"^(?:trace|debug|info|notice|warn|warning|error|critical|fatal) ", re.I)


def names_in(lines: Iterable[str]) -> list[str]:
    """Return what lines give numbers to, each name once, in order: loss and lr for `loss=0.3 lr: 1e-3`."""
    found: dict[str, None] = {}
    for line in lines:
        for match in _VALUE.finditer(line[:_LONGEST_LINE]):
            before = line[max(match.start() - _LONGEST_NAME, 0) : match.start()]
            if (name := _NAME.search(before)) is not None:
                found[_LEVEL.sub("", name[1] or name[2] or name[3])] = None
                if len(found) == _MOST_NAMES:
                    return list(found)
    return list(found)


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
    if study.metrics.source == "Stdout" and (names := names_in(log.splitlines()[-_LINES_READ:])):
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

"""Make the reader of a study's printed lines, and check the pattern that a user gives for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import re2

from study_operator.model.pairs import Pairs
from study_operator.model.printed_lines import Lines
from study_operator.model.study import Refused, Study

# What RE2 and Python's re take both, with two meanings: a class of POSIX, and a repetition without a lower bound.
_TWO_MEANINGS = (
    (re.compile(r"\[:\^?[a-z]+:\]"), "write a class such as [a-z] or \\w"),
    (re.compile(r"\{,[0-9]+\}"), "write {0,n}"),
)
_WHERE = "spec.metrics.pattern"


def build(study: Study) -> Lines | None:
    """Return what reads the logs of a study's trials; None if they do not report by what they print.

    It checks what the sidecar reads files of text with as well.

    Raises:
        Refused: the pattern cannot be used (InvalidMetricsPattern), or a name means two things (InvalidMetrics).
    """
    metrics = study.metrics
    if not metrics.of_lines:
        return None
    objectives = [objective.metric for objective in study.objectives]
    constraints = [constraint.metric for constraint in study.constraints]
    step_name = metrics.step_name
    if step_name in (*objectives, *constraints):
        raise Refused(
            "InvalidMetrics",
            f"spec.metrics.stepName is {step_name!r}, which is what an objective or constraint is called as well: "
            "write the name under which the program prints the step",
        )
    find = _given(metrics.pattern) if metrics.pattern is not None else None
    if metrics.source == "File":
        if metrics.pattern is not None:
            _check_for_python(metrics.pattern)
        return None
    return Lines(objectives, constraints, step_name, metrics.additional, find)


def _given(pattern: str) -> Callable[[str], Pairs]:
    """Find what a user's pattern matches. RE2 needs linear time, whatever the pattern."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20  # bytes, for the compiled pattern and its cache
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        (reason,) = error.args
        reason = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise Refused("InvalidMetricsPattern", f"{_WHERE} is not a regular expression of RE2: {reason}") from None
    missing = [name for name in ("name", "value") if name not in compiled.groupindex]
    if missing:
        raise Refused(
            "InvalidMetricsPattern",
            f"{_WHERE} has no group named {' and none named '.join(missing)}: write it like "
            "(?P<name>[a-z_]+) is (?P<value>[-+.0-9eE]+)",
        )

    def find(line: str) -> Iterator[tuple[str, str]]:
        for match in compiled.finditer(line):
            if match["name"]:
                yield match["name"], match["value"] or ""

    return find


def _check_for_python(pattern: str) -> None:
    """Check that a pattern means the same to Python's engine, with which the sidecar reads a file in the trial's pod.

    RE2 has taken it before, which leaves few differences.

    Raises:
        Refused: it does not.
    """
    for found, instead in _TWO_MEANINGS:
        if (part := found.search(pattern)) is not None:
            raise Refused(
                "InvalidMetricsPattern",
                f"{_WHERE} has {part[0]}, which RE2 and Python's re read differently, and the sidecar reads a file "
                f"with the latter: {instead}",
            )
    try:
        re.compile(pattern, re.ASCII)
    except (re.error, OverflowError, RecursionError) as error:
        raise Refused(
            "InvalidMetricsPattern",
            f"{_WHERE} is not a regular expression of Python's re, with which the sidecar reads a file: {error}; write "
            "it with what RE2 and re have in common",
        ) from None

"""What a trial's pod says in its log while it cannot reach the database: the words of `study_trial`."""

from __future__ import annotations

import re

from study_operator.texts import one_line

_AWAY = re.compile(
    r"study-trial: (?:the database is away \((?P<first>.*)\); training goes on"
    r"|.* waits for the database, \d+ s of at most [^:]* so far: (?P<last>.*))"
)
_BACK = "study-trial: the database is back"
# How a program ends that could not store its final value, with study_trial or the command.
_UNDELIVERED = re.compile(r"could not be delivered within \S+ s and is NOT stored; the last attempt: (?P<why>.*)")


_LONGEST_LINE = 2000  # characters; `study_trial` writes shorter ones, and the patterns go back and forth in a line


def why_unreachable(log: str) -> str | None:
    """Return why a pod cannot reach the database, in its driver's words; None if its log does not say so any more."""
    why = None
    for line in log.splitlines():
        if found := _AWAY.search(line[:_LONGEST_LINE]):
            why = found["first"] or found["last"] or "no reason is known"
        elif _BACK in line:
            why = None
    return None if why is None else one_line(why)


def why_undelivered(line: str) -> str | None:
    """Return why a final value could not be stored, if the last line of a program's log says so; else None."""
    found = _UNDELIVERED.search(line)
    return None if found is None else one_line(found["why"])

"""Find names of values in what a program has written, whatever they are, to say them where the study's are missing.

The operator and the trials' library have the same file, as `numerals`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from study_trial._reading.terminal import shown

LINES_READ = 100  # of the end of a log, or of a file
_MOST_NAMES, _LONGEST_NAME, _LONGEST_LINE = 8, 64, 2000

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
        line = shown(line)[:_LONGEST_LINE]
        for match in _VALUE.finditer(line):
            before = line[max(match.start() - _LONGEST_NAME, 0) : match.start()]
            if (name := _NAME.search(before)) is not None:
                found[_LEVEL.sub("", name[1] or name[2] or name[3])] = None
                if len(found) == _MOST_NAMES:
                    return list(found)
    return list(found)

"""Find values in a line beside their names: `name=value` and `name: value`, also in JSON and printed dicts.

The operator and the trials' library have the same file, as `numerals`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from study_operator.model.numerals import is_number
from study_operator.model.terminal import unescaped

_WORD = r"\w./-"
GOES_ON = re.compile(r"[0-9.]+[\"']?[ \t]*[:=][ \t]*[-+.0-9]")  # of a name that only began like another one

# A value is one word, or what a library shows for a number, which has brackets around more than a word. A word ends
# only at a character that separates values. So 0.91s or 0,91 is read as a whole, instead of being read as 0.91 or 0.
# After a digit it also ends at one of the names, which stands there if two writers have written into one line.
_VALUE = (
    r"(?:[A-Za-z_][\w.]{0,63})?\([^()]{0,200}(?:\([^()]{0,200}\)[^()]{0,200}){0,9}\)"
    r"|\[[^\[\]]{0,200}\]"
    r"|<[^<>]{1,200}>"
    r"|(?!{names}{sign})(?:(?!(?<=[0-9]){names}{sign})[^\s\x00-\x1f,;|)\]}\"'`\\\uff0c\uff1b\u3002]|,(?=[0-9]))*"
    r"|"
)

Pairs = Iterable[tuple[str, str]]


def finder(names: list[str]) -> Callable[[str], Pairs]:
    """Find `name=value` and `name: value`, also with quotes, as in JSON or a printed dict."""
    # The names are escaped and the pattern is the operator's own. So Python's engine is safe; it is ten times as fast.
    # A name may begin as another one does (mAP@0.5 and mAP@0.5:0.95), so the longest is tried first.
    longest_first = sorted(set(names), key=len, reverse=True)
    alternatives, sign = f"({'|'.join(map(re.escape, longest_first))})", r"[\"'`*]{0,3}[ \t]*[:=\uff1a][=>]?"
    value = _VALUE.replace("{names}", alternatives.replace("(", "(?:", 1)).replace("{sign}", sign)
    glued = re.compile(rf"{alternatives}{sign}[ \t]*(?:[\"'`*]{{1,3}}[ \t]*)?({value})")
    pattern = re.compile(rf"(?<![{_WORD}]){glued.pattern}")

    def find(line: str) -> Iterator[tuple[str, str]]:
        line = unescaped(line) if "\\" in line else line
        match = pattern.search(line)
        while match is not None:
            name, word = match.groups()
            if line[match.end(1) : match.start(2)] == ":" and GOES_ON.match(line, match.start(2)):
                match = pattern.search(line, match.end())  # mAP@0.5:0.95 = 0.41 is no value of mAP@0.5
                continue
            # The full stop of a sentence is no part of the value.
            yield name, word[:-1] if len(word) > 1 and word[-1] in ".:" else word
            end, match = match.end(), None
            # Another writer's name may follow without a gap, but only after a number: val_accuracy is not accuracy.
            # It is tried first, because a search goes through the rest of the line.
            if line[end : end + 1].isalnum() and is_number(word):
                match = glued.match(line, end)
            match = match or pattern.search(line, end)

    return find

"""Take from a printed line what a terminal does not show, and what JSON puts into it.

The operator and the trials' library have the same file, as `numerals`.
"""

from __future__ import annotations

import re

_MOST_UNESCAPES = 3  # JSON in JSON in JSON

# Control sequences, whose forms are in ECMA-48. Some movements of the cursor begin the line anew, as a carriage return
# does, or go back in it, as backspaces do.
_ANEW = re.compile("(?:\x1b\\[|\x9b)(?:[0-9;]*[ABEFHdf]|[01]?G)")
_BACK = re.compile("(?:\x1b\\[|\x9b)([0-9]{0,3})D")
_ON = re.compile("(?:\x1b\\[|\x9b)[0-9]*[CG]")
_INVISIBLE = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours and the like
    "|(?:\x1b\\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\\\|\x9c)"  # titles and links
    "|\x1b[PX^_][^\x1b]*\x1b\\\\"
    "|\x1b[ -/]+[0-~]"  # character sets
    "|\x1b[0-~]?"
    "|[\x0e\x0f]"
)
SEQUENCES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")  # most of them
_JSON_ESCAPE = re.compile(r'\\(?:(u[0-9a-fA-F]{4})|(["\\/])|[bfnrt])')


def shown(text: str) -> str:
    """Return what of a line a terminal shows; its states in their order, with carriage returns between them."""
    if "\x1b" in text or "\x9b" in text:
        text = _BACK.sub(lambda found: "\b" * int(found[1] or 1), _ANEW.sub("\r", text))
        text = _INVISIBLE.sub("", _ON.sub(" ", text))
    if "\b" not in text:
        return text
    shown: list[str] = []
    for character in text:
        if character != "\b":
            shown.append(character)
        elif shown and shown[-1] != "\r":
            shown.pop()
    return "".join(shown)


def unescaped(text: str) -> str:
    """Return a line with the texts in it as they were before they were written as JSON, also in JSON in JSON."""
    for _ in range(_MOST_UNESCAPES):
        if "\\" not in text:
            break
        text = shown(_JSON_ESCAPE.sub(_unescape, text))
    # A character beyond the first plane is two escapes.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _unescape(found: re.Match[str]) -> str:
    if found[1]:
        return chr(int(found[1][1:], 16))
    return found[2] or " "

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
_ANEW_BYTES = re.compile(rb"\x1b\[(?:[0-9;]*[ABEFHdf]|[01]?G)")
_BACK_BYTES = re.compile(rb"(\x08+)|\x1b\[([0-9]{0,3})D")
_ON_BYTES = re.compile(rb"\x1b\[[0-9]*[CG]")
_BEGUN = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]*|[ -/]*)")  # a sequence whose end is to come
# How many characters are taken back at once, in `shown`: half a surrogate pair, which no decoded text has.
_FIRST_HALF = 0xD800
_BACKS = "[\b\ud800-\udbff]"
_ANY_BACK = re.compile(_BACKS)
# Which takes nothing back, because nothing is written there.
_BACK_AT_END = re.compile(f"(?<!{_BACKS}){_BACKS}+(?=\r|\\Z)")
_COPIES = 64  # times so many bytes as are taken back may be copied, so that the time is linear
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
        text = _BACK.sub(_back, _ANEW.sub("\r", text))
        text = _INVISIBLE.sub("", _ON.sub(" ", text))
    if not _ANY_BACK.search(text):
        return text
    text = _BACK_AT_END.sub("", text)
    shown: list[str] = []
    for character in text:
        if not _ANY_BACK.match(character):
            shown.append(character)
            continue
        back = 1 if character == "\b" else ord(character) - _FIRST_HALF
        while back and shown and shown[-1] != "\r":
            shown.pop()
            back -= 1
    return "".join(shown)


def _back(found: re.Match[str]) -> str:
    count = int(found[1] or 1)
    return chr(_FIRST_HALF + count) if count else ""


def states(line: bytes, most: int) -> list[bytes]:
    """Return the states of a line in their order: a progress bar writes over what it has written.

    It may do so with a carriage return, by moving the cursor to the beginning, or by taking back much of the line, as
    with backspaces. The line may be a beginning: then the last state is one to which what comes next can be added.

    Args:
        line: without its line end.
        most: a state that gets so many bytes at some time is too long to be read. It stays so: the rest is left out.
    """
    if b"\x1b" in line:
        line = _ANEW_BYTES.sub(b"\r", line)
    return [state for part in line.split(b"\r") for state in _taken_back(part, most)]


def _taken_back(part: bytes, most: int) -> list[bytes]:
    """Return the states of a part without carriage returns, without most control sequences."""
    if b"\x1b" not in part and b"\b" not in part:
        return [part[:most]]
    begun = max(part.rfind(b"\x1b"), 0)
    end = begun if _BEGUN.fullmatch(part, begun) else len(part)
    done, left, back, place = list[bytes](), bytearray(), 0, 0
    for found in [*_BACK_BYTES.finditer(part, 0, end), None]:
        if text := _without_sequences(part[place : end if found is None else found.start()]):
            if back and back * _COPIES >= len(left):
                done.append(bytes(left))
            _take_back(left, back)
            left += text
            back = 0
            if len(left) >= most:
                return [*done, bytes(left[:most])]
        if found is not None:
            place, back = found.end(), back + (len(found[1]) if found[1] else int(found[2] or 1))
    begun_sequence = part[end:][:most]
    if back >= len(left):
        return [*done, bytes(left), begun_sequence]
    # What is taken back is still to be seen until something is written there.
    return [*done, bytes(left + b"\b" * back + begun_sequence)]


def _take_back(left: bytearray, back: int) -> None:
    while back and left:
        back -= left.pop() & 0xC0 != 0x80  # a character has several bytes


def _without_sequences(text: bytes) -> bytes:
    return SEQUENCES.sub(b"", _ON_BYTES.sub(b" ", text)) if b"\x1b" in text else text


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

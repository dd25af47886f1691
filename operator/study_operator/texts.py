"""Makes text of tenants and of other programs safe to show: in a line of log, an Event, a status.

A termination message, a line of output or an exception's text may hold anything. A newline in it would begin a line of
the log that looks like one about another study. An escape sequence would speak to the terminal of whoever reads it, and
a bidi character would turn around what stands after it.
"""

from __future__ import annotations

import re

# Control characters; lone surrogates; line and paragraph separators; and what formats text and cannot be seen, bidi
# characters among it. The joiners U+200C and U+200D stay, because scripts and emoji need them.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e00ff]"
)
_BREAKS = frozenset("\t\n\v\f\r\x85\u2028\u2029")


def one_line(text: str) -> str:
    """Return a text as one line that shows all that it has.

    A tab, and whatever breaks a line, becomes a space; every other character that cannot be seen becomes its escape,
    such as `\\x1b`. A text without such characters comes back as it is.
    """
    return text if text.isprintable() else _UNSAFE.sub(_shown, text)


def shown_lines(text: str) -> str:
    """Return a text of several lines, each of them as `one_line` returns it."""
    return "\n".join(map(one_line, text.splitlines()))


def _shown(found: re.Match[str]) -> str:
    character = found[0]
    return " " if character in _BREAKS else ascii(character)[1:-1]


def many(count: int, one: str, several: str) -> str:
    """Return a number with the words that follow it: those for one, or those for any other number."""
    return f"{count} {one if count == 1 else several}"

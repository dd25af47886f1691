"""Text of tenants: one line, and nothing in it that cannot be seen."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from study_operator.texts import one_line

FORGED = "x\n2026-11-29T09:00:00.000+00:00 error   namespace=team-z study=prod trial=- FORGED LINE \x1b[31mred"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("CUDA out of memory", "CUDA out of memory"),
        ("Größe 図 🙂 👩‍💻 می‌خواهم", "Größe 図 🙂 👩‍💻 می‌خواهم"),
        ("two\nlines", "two lines"),
        ("two\r\nlines", "two  lines"),
        ("a\ttab", "a tab"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\x00", "\\x00"),
        ("\x9b31m", "\\x9b31m"),
        ("\x85 \u2028 \u2029", "    " + " "),
        ("user\u202egpj.exe", "user\\u202egpj.exe"),
        ("\u2066isolated\u2069 \u061c\u200e\u200f", "\\u2066isolated\\u2069 \\u061c\\u200e\\u200f"),
        ("half a pair: \ud83d", "half a pair: \\ud83d"),
        ("\ufeffinvisible\u200b\U000e0041", "\\ufeffinvisible\\u200b\\U000e0041"),
        (FORGED, FORGED.replace("\n", " ").replace("\x1b", "\\x1b")),
    ],
)
def test_what_is_shown(text, shown):
    assert one_line(text) == shown
    assert one_line(shown) == shown


def test_no_character_that_unicode_calls_invisible_gets_through():
    joiners = "\u200c\u200d"
    left = [
        f"U+{code:04X}"
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        and chr(code) not in joiners
        and chr(code) in one_line(chr(code))
    ]
    assert left == []


def test_what_can_be_seen_stays():
    changed = [
        f"U+{code:04X}"
        for code in range(sys.maxunicode + 1)
        if chr(code).isprintable() and one_line(f"\n{chr(code)}") != f" {chr(code)}"
    ]
    assert changed == []

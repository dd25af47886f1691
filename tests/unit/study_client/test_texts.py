"""Text of tenants on terminals and in spreadsheets, and YAML that kubectl reads as it was meant."""

from __future__ import annotations

import csv
import io
import math

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from study_client.output import csv_text, table_text
from study_client.texts import as_arguments, as_environment, csv_cell, one_line, shorten, value_text
from study_client.times import span
from study_client.yaml_text import to_yaml
from study_operator.validate import documents


@given(st.text())
def test_what_is_shown_speaks_to_no_terminal(text: str):
    shown = one_line(text)
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in shown)
    assert not set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f") & set(shown)
    assert one_line(shown) == shown


def test_escapes_can_be_seen():
    assert one_line("a\x1b[31mb\tc\nd\u202ee") == "a\\x1b[31mb c d\\u202ee"
    assert shorten("a" * 50, 10) == "a" * 9 + "…"


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd", "'+cmd"),
        ("-cmd|x", "'-cmd|x"),
        ("@sum", "'@sum"),
        ("\t=1", "' =1"),
        ("\x00=1", "'=1"),
        ("\u200b@x", "'@x"),
        ("-0.5", "-0.5"),
        (-1e-05, "-1e-05"),
        ("+3", "+3"),
        (-math.inf, "-inf"),
        ("a\x1b[31m", "a[31m"),
        (None, ""),
        (True, "true"),
        ("plain, text", "plain, text"),
    ],
)
def test_no_cell_is_a_formula(value: object, cell: str):
    assert csv_cell(value) == cell
    assert list(csv.reader(io.StringIO(csv_text(["a"], [[value]])))) == [["a"], [cell]]


def test_parameters_are_options_and_variables():
    params = {"lr": 1e-05, "batch-size": 64, "bias": True, "kind": "a b", "none": None}
    assert as_arguments(params) == "--lr=1e-05 --batch-size=64 --bias=true '--kind=a b' --none=null"
    assert as_environment(params).splitlines()[1] == "PARAM_batch_size=64"
    assert value_text(2.0) == "2.0"


def test_a_table_is_as_wide_as_its_cells():
    assert table_text(["A", "LONG"], [["1", "x"], ["three", ""]]) == "A       LONG\n1       x\nthree"


def test_spans_have_two_units_at_most():
    found = [span(seconds) for seconds in (None, -1, 59, 192, 3600, 3 * 86400 + 7200, 40 * 86400)]
    assert found == ["", "0s", "59s", "3m12s", "1h", "3d2h", "40d"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(min_size=1), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(min_size=1), VALUES, min_size=1, max_size=4))
def test_yaml_says_what_was_meant(value: dict[str, object]):
    written = to_yaml(value)
    assert yaml.safe_load(written) == value


@example({"a": "\n 0"})
@given(st.dictionaries(st.text("abcyno0x1.-_ e:+", min_size=1), st.text("abcyno0x1.-_ e:+#\n"), min_size=1))
def test_yaml_is_text_for_kubectl_too(value: dict[str, object]):
    (document,) = documents.read(to_yaml(value))
    assert document.value == value

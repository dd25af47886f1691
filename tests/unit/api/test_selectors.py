"""Label and field selectors: what they match, and what is refused."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study_operator.api import selectors
from study_operator.api.refusals import Refusal

HAVING = {"a": "1", "study-operator.io/study": "digits", "empty": ""}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("a=1", True),
        ("a==1", True),
        ("a = 1 , study-operator.io/study = digits", True),
        ("a=2", False),
        ("a!=1", False),
        ("a!=2", True),
        ("b!=2", True),
        ("a in (1,2)", True),
        ("a in (2, 3)", False),
        ("a notin (2)", True),
        ("b notin (2)", True),
        ("a", True),
        ("b", False),
        ("!b", True),
        ("!a", False),
        ("a,!b", True),
        ("empty=", True),
        ("empty=,a=1", True),
        ("a=", False),
        ("a in (,1)", True),
        ("a>0", True),
        ("a<1", False),
        ("study-operator.io/study<3", False),
    ],
)
def test_a_label_selector_matches(text, matches):
    assert all(one.matches(HAVING) for one in selectors.labels(text)) is matches


@pytest.mark.parametrize(
    "text",
    ["a=1,", ",", "=", "a in", "a in (", "a in (1", "a in 1", "a in (1 2)", "a b", "a=1 b=2", "!", "a>x", "a=(1)"],
)
def test_a_label_selector_that_cannot_be_read_is_refused_in_words(text):
    with pytest.raises(Refusal) as refused:
        selectors.labels(text)
    assert (refused.value.code, refused.value.reason) == (400, "BadRequest")
    assert "cannot be read" in refused.value.message


FIELDS = ("metadata.name", "status.state")


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("metadata.name=x,y", None),
        (r"metadata.name=x\,y", True),
        ("metadata.name==other", False),
        ("metadata.name!=other,status.state=Complete", True),
        ("status.state!=Complete", False),
        ("status.phase=Complete", None),
        ("status.state", None),
    ],
)
def test_a_field_selector(text, matches):
    having = {"metadata.name": "x,y", "status.state": "Complete"}
    if matches is None:
        with pytest.raises(Refusal):
            selectors.fields(text, FIELDS)
    else:
        assert all(one.matches(having) for one in selectors.fields(text, FIELDS)) is matches


@given(st.text(alphabet="ab=!<>(), in notin\\\n\x1b", max_size=40))
def test_any_text_is_read_or_refused(text):
    for read in (selectors.labels, lambda text: selectors.fields(text, FIELDS)):
        with _either():
            read(text)


@pytest.mark.parametrize("piece", ["(", "a,", "!", "=", "a in (b", "\\", " ", "a=b"])
def test_a_selector_costs_no_more_than_its_length(piece):
    began = time.process_time()
    for read in (selectors.labels, lambda text: selectors.fields(text, FIELDS)):
        for length in (selectors.MOST, 1 << 20):
            with pytest.raises(Refusal) if length > selectors.MOST else _either():
                read((piece * length)[:length])
    assert time.process_time() - began < 1.0


class _either:
    """Lets a refusal pass, if it can be shown."""

    def __enter__(self):
        return self

    def __exit__(self, _, raised, *__):
        return raised is None or (isinstance(raised, Refusal) and raised.message.isprintable())

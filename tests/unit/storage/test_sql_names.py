"""Names that the .sql files repeat, because SQL cannot import them, are those of `model`."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from study_operator.model.trial import FAILURE_ATTR, JOB_ATTR

SQL = {
    path.name: path.read_text(encoding="utf-8")
    for path in resources.files("study_operator.storage").iterdir()
    if path.name.endswith(".sql")
}


def attributes_in(name: str) -> set[str]:
    """The attributes of the operator that a file's statements look up by their whole name."""
    statements = re.sub(r"--.*", "", SQL[name])
    return set(re.findall(r"\.key = '(study_operator:[^']*)'", statements))


def test_the_attribute_that_names_a_trials_job_is_looked_up_under_the_name_that_it_is_stored_under():
    assert attributes_in("mirror.sql") == {JOB_ATTR}
    assert attributes_in("reporting.sql") == {JOB_ATTR}
    assert attributes_in("reading.sql") == {JOB_ATTR}
    assert attributes_in("wishes.sql") == {JOB_ATTR}


def test_failures_of_schema_1_are_looked_up_under_the_name_that_they_were_stored_under():
    assert attributes_in("tables.sql") == {FAILURE_ATTR}


@pytest.mark.parametrize("name", sorted(SQL))
def test_no_other_text_in_a_statement_begins_like_an_attribute_of_the_operator(name):
    """Else a name could be misspelt in a place where the tests above do not look."""
    statements = re.sub(r"--.*", "", SQL[name])
    for text in re.findall(r"'(study_operator:[^']*)'", statements):
        assert text in (JOB_ATTR, FAILURE_ATTR, "study_operator:%", "study_operator:%%")

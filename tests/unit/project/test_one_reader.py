"""The two distributions read lines, numbers and steps by the same rule, although neither imports the other."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["numerals", "pairs", "printed_lines", "seen_names", "terminal", "unmarked"])
def test_the_operator_and_the_trials_library_have_the_same_reader(name):
    of_the_operator = (ROOT / f"operator/study_operator/model/{name}.py").read_text()
    of_the_library = (ROOT / f"trial-image/study_trial/_reading/{name}.py").read_text()
    assert of_the_operator.replace("study_operator.model", "study_trial._reading") == of_the_library, "change both"

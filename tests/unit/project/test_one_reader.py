"""The two distributions read numbers and steps by the same rule, although neither imports the other."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_operator_and_the_trials_library_have_the_same_reader():
    of_the_operator = ROOT / "operator/study_operator/model/numerals.py"
    of_the_library = ROOT / "trial-image/study_trial/_reading/numerals.py"
    assert of_the_operator.read_text() == of_the_library.read_text(), "change both"

"""What is a number and what is a step, whoever has written it."""

from __future__ import annotations

import contextlib
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study_operator.model.numerals import HIGHEST_STEP, Steps, TooHigh, Unreadable, number, step

FINITE = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("+.5", 0.5),
        ("5.", 5.0),
        ("-1E-3", -0.001),
        ("91 %", 91.0),
        ("-0,5", -0.5),
        ("0,912", 0.912),
        ("1234,567", 1234.567),
        ("1,5e-3", 0.0015),
        ("1,234.", 1234.0),
        ("1,234,567.8", 1234567.8),
        ("1.234.567,8", 1234567.8),
        ("jnp.float32(0.5)", 0.5),
        ("Array(0.5, dtype=float32)", 0.5),
        ("tensor([0.5], device='cuda:0')", 0.5),
        ("tensor(1e-05, grad_fn=<DivBackward0>)", 1e-5),
        ("INF", math.inf),
        ("-Infinity", -math.inf),
    ],
)
def test_numbers(text, value):
    assert number(text) == value


@pytest.mark.parametrize(
    "text",
    ["", ",5", "5,", "1,23,456", "1.2.3", "0,1,2", "1_000", "\uff11", "٣", "0x1", "1e", "nano", "f(1)", "tensor()"],
)
def test_what_is_no_number(text):
    with pytest.raises(Unreadable, match="is no number"):
        number(text)


@pytest.mark.parametrize("text", ["1e999", "-1e999", "9" * 400, "np.float64(1e999)"])
def test_what_is_too_large_is_no_infinity(text):
    with pytest.raises(Unreadable, match=r"^\S+ is too large for a number$"):
        number(text)


@given(st.integers(1, 999), st.integers(0, 999), st.sampled_from(["", "-", "+"]))
def test_one_comma_before_three_digits_has_two_readings(whole, rest, sign):
    text = f"{sign}{whole},{rest:03}"
    with pytest.raises(Unreadable) as refused:
        number(text)
    assert f"{sign}{whole}{rest:03} and {sign}{whole}.{rest:03}" in refused.value.why


@given(FINITE, st.sampled_from(["{}", " {} ", "+{}", "np.float64({})", "tensor({}, dtype=torch.float64)", "({})"]))
def test_numbers_as_they_are_shown(value, form):
    for shown in (repr(abs(value)), repr(abs(value)).upper(), f"{abs(value):.17g}"):
        assert number(form.format(shown)) == abs(value)


@given(st.integers(-(10**15), 10**15), st.integers(1, 4))
def test_thousands_with_commas_and_a_point(whole, digits):
    value = whole / 10**digits
    assert number(f"{value:,.{digits}f}") == float(f"{value:.{digits}f}")


@given(st.text(max_size=12))
def test_any_text_is_a_number_or_is_not(text):
    with contextlib.suppress(Unreadable):
        assert isinstance(number(text), float)
        assert text.strip().isascii()
    with contextlib.suppress(Unreadable):
        assert 0 <= step(text) <= HIGHEST_STEP


@given(st.floats(0, HIGHEST_STEP))
def test_the_whole_part_is_the_step_as_in_optuna(value):
    assert step(repr(value)) == int(value)


@pytest.mark.parametrize("text", ["3", " 3.0 ", "2.99e0", "[3/30]", "3/30", "(3)", "'3'", "np.int64(3)", "3,5"])
def test_steps(text):
    assert step(text) == int(float(text) if text == "2.99e0" else 3)


def test_what_is_no_step():
    for text in ("-1", "nan", "inf", "one", "", "3/", "/3", "1,234", "[]", "1_0"):
        with pytest.raises(Unreadable):
            step(text)
    with pytest.raises(TooHigh):
        step(str(HIGHEST_STEP + 1))
    assert step("-0.5") == 0, "as Optuna's int(step)"


@pytest.mark.parametrize(
    ("given", "at", "warning"),
    [
        ([None, None, None], [0, 1, 2], ""),
        ([None, 7, None], [0, 7, 1], "step 1 came after step 7"),
        ([1, 2, None], [1, 2, None], ""),
        ([1, None, None], [1, None, None], "several values have no step"),
        ([1, 1], [1, 1], "step 1 came twice, with 0.0 and then 1.0"),
        ([3, 2, 3], [3, 2, 3], "step 2 came after step 3"),
    ],
)
def test_at_which_steps_values_are_reported(given, at, warning):
    steps = Steps()
    assert [steps.at(float(value), written) for value, written in enumerate(given)] == at
    assert steps.warning.startswith(warning)
    assert bool(steps.warning) == bool(warning)


def test_a_step_that_cannot_be_used_is_no_report():
    steps = Steps()
    assert [steps.at(0.5, None, "epoch is x"), steps.at(0.5, 1)] == [None, 1]
    assert steps.warning.startswith("epoch is x: the value counts, but is no report")


@pytest.mark.parametrize("text", ["1" * 8000 + "x", "<tf.T " + "numpy=a" * 1150, "(" + ", a" * 2700 + ")"])
def test_a_text_that_is_nearly_a_number_takes_no_time(text):
    # Thousands of digits before a letter took four seconds, of the process that serves everybody.
    begun = time.process_time()
    with pytest.raises(Unreadable):
        number(text)
    assert time.process_time() - begun < 1

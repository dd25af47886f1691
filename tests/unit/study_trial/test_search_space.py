"""Suggest calls against a study's search space, and outside a cluster."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study_trial._errors import InactiveParameterError, SearchSpaceError, UnknownParameterError
from study_trial._search_space import Choices, LocalSpace, Range, StudySpace

PARAMETERS = [
    {"name": "lr", "float": {"low": 1e-5, "high": 1e-1, "log": True}},
    {"name": "dropout", "float": {"low": 0, "high": 0.5, "step": 0.1}},
    {"name": "layers", "int": {"low": 1, "high": 4}},
    {"name": "width", "int": {"low": 16, "high": 256, "log": True, "step": 1}},
    {"name": "batch", "categorical": {"choices": ["16", "32"]}},
    {"name": "nesterov", "categorical": {"choices": ["true", "false"]}},
    {"name": "optimizer", "categorical": {"choices": ["adam", "sgd"]}},
    {"name": "heads", "categorical": {"choices": [4, 8.0, "16"]}},
    {"name": "bias", "categorical": {"choices": [True, False, None, "null", 1, "1"]}},
]
PARAMS = {
    "lr": 0.003,
    "dropout": 0.2,
    "layers": 2,
    "width": 64,
    "batch": "32",
    "nesterov": "false",
    "optimizer": "sgd",
    "heads": 8,
    "bias": None,
}


@pytest.fixture
def space() -> StudySpace:
    return StudySpace(PARAMS, PARAMETERS)


@pytest.mark.parametrize(
    ("name", "asked", "value"),
    [
        ("lr", Range("float", 1e-5, 1e-1, None, True), 0.003),
        ("lr", Range("float", 0.1**5, 1e-1, None, True), 0.003),  # 1.0000000000000003e-05
        ("dropout", Range("float", 0.0, 0.5, 0.1), 0.2),
        ("layers", Range("int", 1, 4, 1), 2),
        ("width", Range("int", 16, 256, 1, True), 64),
        ("batch", Choices((16, 32)), 32),
        ("batch", Choices((32.0, 16.0)), 32.0),
        ("batch", Choices(("16", "32")), "32"),
        ("nesterov", Choices((True, False)), False),
        ("optimizer", Choices(("sgd", "adam")), "sgd"),
        ("heads", Choices((4, 8, 16)), 8),
        ("heads", Choices((4.0, 8.0, "16")), 8.0),
        ("heads", Choices(("16", "8", "4")), "8"),
        ("bias", Choices(("null", None, "1", 1, True, False)), None),
    ],
)
def test_a_suggest_call_gives_the_value_chosen_in_the_scripts_type(space, name, asked, value):
    got = space.value(name, asked)
    assert got == value
    assert type(got) is type(value)
    assert space.params[name] == value
    assert type(space.params[name]) is type(value)


@pytest.mark.parametrize(
    ("name", "asked", "theirs"),
    [
        ("lr", Range("float", 1e-4, 1e-1, None, True), "float from 1e-05 to 0.1, log"),
        ("lr", Range("float", 1e-5, 1, None, True), "float from 1e-05 to 0.1, log"),
        ("lr", Range("float", 1e-5, 1e-1), "float from 1e-05 to 0.1, log"),
        ("dropout", Range("float", 0, 0.5), "float from 0.0 to 0.5, step 0.1"),
        ("dropout", Range("float", 0, 0.5, 0.05), "float from 0.0 to 0.5, step 0.1"),
        ("layers", Range("float", 1, 4), "int from 1 to 4"),
        ("layers", Range("int", 1, 4, 2), "int from 1 to 4"),
        ("layers", Choices((1, 2, 3, 4)), "int from 1 to 4"),
        ("optimizer", Choices(("adam", "sgd", "lion")), "one of 'adam', 'sgd'"),
        ("optimizer", Choices(("adam", "lion")), "one of 'adam', 'sgd'"),
        ("batch", Choices((16, 64)), "one of '16', '32'"),
        ("heads", Choices((4, 8, 32)), "one of 4, 8.0, '16'"),
        ("bias", Choices((True, False, None, "null", 1, 2)), "one of True, False, None, 'null', 1, '1'"),
        ("bias", Choices((True, False, None, "null", True, 1)), "one of True, False, None, 'null', 1, '1'"),
        ("batch", Range("int", 16, 32), "one of '16', '32'"),
    ],
)
def test_refuses_a_range_other_than_the_studys_and_names_both(space, name, asked, theirs):
    with pytest.raises(SearchSpaceError) as caught:
        space.value(name, asked)
    for part in (repr(name), str(asked), theirs):
        assert part in str(caught.value)


def test_an_unknown_parameter_is_answered_with_those_that_exist(space):
    with pytest.raises(UnknownParameterError) as caught:
        space.value("learning_rate", Range("float", 0, 1))
    known = "lr, dropout, layers, width, batch, nesterov, optimizer, heads, bias"
    assert str(caught.value) == f"there is no parameter 'learning_rate'; there is {known}"
    with pytest.raises(KeyError):
        space.params["learning_rate"]
    assert space.params.get("learning_rate") is None


@pytest.mark.parametrize(
    ("value", "choices", "chosen"),
    [
        (1, ("1", True, 1), 1),
        (True, (1, "true", True), True),
        ("1", (1, True, "1"), "1"),
        (None, ("null", None), None),
        ("null", (None, "null"), "null"),
        (1, (1.0,), 1.0),
        ("[64, 32]", ((32, 64), (64, 32)), (64, 32)),
        ("(64,32)", ([32, 64], [64, 32]), [64, 32]),
        ("[ 64 ]", ((64,), 64), (64,)),
        ("('relu', None)", (("relu", None),), ("relu", None)),
        ('["relu", null]', (("relu", None),), ("relu", None)),
        ("[[1, 2], [3.0]]", (((1, 2), (3,)),), ((1, 2), (3,))),
        ("{'a': 1}", ({"a": 1},), {"a": 1}),
        ([64, 32], ((64, 32),), (64, 32)),
    ],
)
def test_a_choice_that_is_the_value_itself_goes_before_one_that_only_spells_it(value, choices, chosen):
    got = Choices(choices).cast(value)
    assert (got, type(got)) == (chosen, type(chosen))


@pytest.mark.parametrize("text", ["[64]", "(1, 0)", "[64, 32", "64, 32, 1", "f(64, 32)", "[True, 32]", "((" * 60])
def test_another_list_is_another_choice(text):
    with pytest.raises(SearchSpaceError):
        Choices(((64, 32), (1, 32))).cast(text)


CONDITIONAL = [
    {"name": "optimizer", "categorical": {"choices": ["adam", "sgd"]}},
    {"name": "momentum", "float": {"low": 0, "high": 1}, "when": {"parameter": "optimizer", "in": ["sgd"]}},
    {"name": "nesterov", "categorical": {"choices": [True]}, "when": {"parameter": "momentum", "in": [1, 2]}},
]


def test_a_parameter_that_is_not_active_says_why():
    space = StudySpace({"optimizer": "adam"}, CONDITIONAL)
    assert dict(space.params) == {"optimizer": "adam"}
    with pytest.raises(InactiveParameterError) as caught:
        space.value("momentum", Range("float", 0, 1))
    assert str(caught.value) == (
        "parameter 'momentum' is not active in this trial: it is so when optimizer is 'sgd', and optimizer is 'adam' "
        "here"
    )
    with pytest.raises(KeyError, match="when momentum is 1 or 2, and momentum is not active either here"):
        space.params["nesterov"]
    with pytest.raises(UnknownParameterError, match=r"there is no parameter 'beta'; there is optimizer$"):
        space.params["beta"]
    assert "momentum" not in space.params


def test_a_conditional_parameter_that_is_active_is_as_any_other():
    space = StudySpace({"optimizer": "sgd", "momentum": 0.9}, CONDITIONAL)
    assert space.value("momentum", Range("float", 0, 1)) == 0.9


@pytest.mark.parametrize(
    ("asked", "value"),
    [
        (Range("float", 0.0, 1.0), 0.5),
        (Range("float", 1e-4, 1.0, None, True), 0.01),
        (Range("float", 0.0, 1.0, 0.3), 0.6),
        (Range("int", 1, 5, 1), 3),
        (Range("int", 1, 2, 1), 1),
        (Range("int", 16, 256, 1, True), 64),
        (Choices(("adam", "sgd")), "adam"),
    ],
)
def test_a_local_run_takes_the_middle_or_the_first_choice(asked, value, capsys):
    space = LocalSpace({})
    assert space.value("x", asked) == pytest.approx(value) if isinstance(value, float) else value
    assert type(space.value("x", asked)) is type(value)
    assert capsys.readouterr().err.count("local run: x = ") == 1  # said once, asked for twice


@pytest.mark.parametrize(
    ("asked", "text", "value"),
    [
        (Range("float", 0.0, 1.0), 1, 1.0),
        (Range("float", 0.0, 1.0), "0.25", 0.25),
        (Range("int", 1, 5, 1), 5.0, 5),
        (Choices((16, 32)), "32", 32),
        (Choices((None, "l2")), "none", None),
        (Choices(("16", "32")), 32, "32"),
        (Choices((1e-3, 1e-2)), "1e-2", 1e-2),
    ],
)
def test_a_local_run_takes_given_values_in_the_scripts_type(asked, text, value):
    if value is None:
        text = "null"
    got = LocalSpace({"x": text}).value("x", asked)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("asked", "value"),
    [
        (Range("float", 0.0, 1.0), 1.5),
        (Range("float", 0.0, 1.0), float("nan")),
        (Range("float", 0.0, 1.0), "much"),
        (Range("int", 1, 5, 1), 2.5),
        (Range("int", 1, 5, 1), 6),
        (Choices(("adam",)), "sgd"),
        (Choices((1, 2)), True),
    ],
)
def test_a_local_run_refuses_a_given_value_that_does_not_fit(asked, value):
    with pytest.raises(SearchSpaceError, match="parameter 'x': the value given"):
        LocalSpace({"x": value}).value("x", asked)


@pytest.mark.parametrize(
    ("name", "asked", "variable", "text", "value"),
    [
        ("lr", Range("float", 1e-5, 1e-1, log=True), "lr", "0.00314", 0.00314),
        ("model.depth", Range("int", 1, 9, 1), "model_depth", "5", 5),
        ("batch-size", Choices((16, 32)), "batch_size", "32", 32),
        ("size", Choices(("32", "1e3")), "size", "1e3", "1e3"),
        ("bias", Choices((True, False)), "bias", "false", False),
        ("extra", Choices(("a", None)), "extra", "null", None),
    ],
)
def test_a_copied_job_takes_its_variables_and_not_the_middle(name, asked, variable, text, value, capsys):
    space = LocalSpace({}, {variable: text, "other": "x"})
    assert space.value(name, asked) == value == space.value(name, asked)
    assert space.params == {name: value, "other": "x"}
    assert f"(PARAM_{variable}; {asked})" in capsys.readouterr().err


def test_variables_are_there_without_a_suggest_call():
    texts = {"lr": "1e-05", "layers": "3", "bias": "true", "name": "adam", "odd": '["a"', "none": "null"}
    found = LocalSpace({"layers": 4}, texts).params
    assert found == {"lr": 1e-05, "layers": 4, "bias": True, "name": "adam", "odd": '["a"', "none": None}


def test_a_variable_that_does_not_fit_is_named():
    with pytest.raises(SearchSpaceError, match=r"parameter 'a.b': PARAM_a_b, 'x' is not a number"):
        LocalSpace({}, {"a_b": "x"}).value("a.b", Range("float", 0, 1))


def test_a_local_run_refuses_two_ranges_for_one_name():
    space = LocalSpace({})
    space.value("x", Range("int", 1, 5, 1))
    with pytest.raises(SearchSpaceError, match="before that as int from 1 to 5"):
        space.value("x", Range("int", 1, 6, 1))


@pytest.mark.parametrize(
    "build",
    [
        lambda: Range("float", 2, 1),
        lambda: Range("float", float("nan"), 1),
        lambda: Range("float", 0, 1, None, True),
        lambda: Range("float", 1, 2, 0.1, True),
        lambda: Range("int", 1, 2, 0),
        lambda: Choices(()),
    ],
)
def test_impossible_ranges_are_refused(build):
    with pytest.raises(SearchSpaceError):
        build()


@given(
    low=st.integers(-1000, 1000),
    width=st.integers(0, 10_000),
    step=st.integers(1, 500),
    log=st.booleans(),
)
def test_the_default_of_an_int_is_on_its_grid(low, width, step, log):
    log = log and low > 0
    step = 1 if log else step
    value = Range("int", low, low + width, step, log).default()
    assert low <= value <= low + width
    assert (value - low) % step == 0


@given(
    low=st.floats(1e-300, 1e300),
    factor=st.floats(1, 1e6),
    log=st.booleans(),
)
def test_the_default_of_a_float_is_in_its_range(low, factor, log):
    high = low * factor
    asked = Range("float", low, high, None, log)
    assert low * (1 - 1e-9) <= asked.default() <= high * (1 + 1e-9)

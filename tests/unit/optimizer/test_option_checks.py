"""Options checked against a class's own signature."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Optional, Union

import pytest

from study_operator.optimizer.option_checks import check_nested, check_options, valid_options

if TYPE_CHECKING:
    from numpy import ndarray


class Tuned:
    """Something with arguments of every kind that Optuna's classes have."""

    def __init__(
        self,
        positional: int = 0,
        whole: int = 1,
        *rest: int,
        number: float = 1.0,
        flag: bool = False,
        text: str = "",
        maybe: int | None = None,
        old_style: Optional[float] = None,  # noqa: UP045
        either: Union[str, int] = "auto",  # noqa: UP007
        mode: Literal["fast", "slow"] = "fast",
        callback: Callable[[int], int] | None = None,
        array: ndarray | None = None,  # a name that only type checkers know
        mapping: dict[str, Any] | None = None,
        unannotated=None,
        seed: int | None = None,
        **others: int,
    ) -> None: ...


def refusal(**options: Any) -> str:
    with pytest.raises(ValueError) as refused:
        check_options("sampler Tuned", Tuned, options, ("seed",))
    return str(refused.value)


def test_options_are_the_arguments_that_json_can_express():
    found = valid_options(Tuned, reserved=("seed",))
    expected = ["positional", "whole", "number", "flag", "text", "maybe", "old_style", "either", "mode"]
    assert list(found) == expected


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"whole": 3, "number": 2, "flag": True, "text": "x"},
        {"number": 2.5},
        {"maybe": None},
        {"maybe": 3},
        {"old_style": None},
        {"old_style": 1},
        {"either": "auto"},
        {"either": 3},
        {"mode": "slow"},
    ],
)
def test_options_that_fit(options):
    check_options("sampler Tuned", Tuned, options)


@pytest.mark.parametrize(
    ("options", "must_be"),
    [
        ({"whole": 1.5}, "a whole number"),
        ({"whole": "1"}, "a whole number"),
        ({"whole": True}, "a whole number"),
        ({"whole": None}, "a whole number"),
        ({"whole": [1]}, "a whole number"),
        ({"number": "1"}, "a number"),
        ({"number": False}, "a number"),
        ({"flag": 1}, "true or false"),
        ({"flag": "true"}, "true or false"),
        ({"text": 1}, "text"),
        ({"text": {"a": 1}}, "text"),
        ({"maybe": "x"}, "a whole number or null"),
        ({"old_style": "x"}, "a number or null"),
        ({"either": None}, "text or a whole number"),
        ({"mode": "medium"}, "'fast' or 'slow'"),
        ({"mode": ["fast"]}, "'fast' or 'slow'"),
    ],
)
def test_an_option_of_the_wrong_type_is_told_what_it_must_be(options, must_be):
    ((name, value),) = options.items()
    quotes = ": remove the quotes" if value in ("1", "true") else ""
    assert refusal(**options) == f"option {name!r} of sampler Tuned is {value!r}; it must be {must_be}{quotes}"


@pytest.mark.parametrize("name", ["n_startup", "callback", "array", "mapping", "rest", "others", "self", ""])
def test_an_unknown_option_is_told_which_there_are(name):
    assert refusal(**{name: 1}) == (
        f"sampler Tuned has no option {name!r}; its options are "
        "either, flag, maybe, mode, number, old_style, positional, text, whole"
    )


@pytest.mark.parametrize("name", ["seed", "random_state"])
def test_a_seed_is_told_its_place(name):
    assert refusal(**{name: 1}) == f"sampler Tuned has no option {name!r}: write seed beside name and options"


def test_a_class_without_options_says_so():
    class Plain:
        """Nothing to choose."""

        def __init__(self, seed: int | None = None) -> None: ...

    with pytest.raises(ValueError, match=r"^pruner Plain has no option 'x'; its options are none$"):
        check_options("pruner Plain", Plain, {"x": 1}, ("seed",))


class Needy:
    def __init__(self, share: float, seed: int, whole: int = 1) -> None: ...


def test_an_option_without_default_is_asked_for():
    check_options("sampler Needy", Needy, {"share": 0.5}, ("seed",))
    with pytest.raises(ValueError, match=r"^sampler Needy needs the option 'share', a number$"):
        check_options("sampler Needy", Needy, {"whole": 3}, ("seed",))


def test_an_option_that_the_caller_checks_may_be_anything():
    check_options("sampler Needy", Needy, {"share": ["x"]}, ("seed",), also=("share",))
    with pytest.raises(ValueError, match=r"has no option 'rest'; its options are share, whole$"):
        check_options("sampler Needy", Needy, {"share": ["x"], "rest": 1}, ("seed",), also=("share",))


@pytest.mark.parametrize(
    "value", [{"name": "TPE"}, {"name": "TPE", "options": {}}, {"name": "TPE", "options": {"a": 1}}]
)
def test_an_option_may_be_another_sampler(value):
    check_nested("sampler Outer", "inner", value, ("options",))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            "TPE",
            "option 'inner' of sampler Outer is 'TPE'; it must be {name: ..., options: ...}, of which name is required",
        ),
        ({}, "option 'inner' of sampler Outer is {}; it must be {name: ..., options: ...}"),
        ({"name": 3}, "it must be {name: ..., options: ...}"),
        (
            {"name": "TPE", "seed": 3},
            "option 'inner' of sampler Outer has the field 'seed'; it must be {name: ..., options",
        ),
        ({"name": "TPE", "options": [1]}, "the options in 'inner' of sampler Outer are [1]; write names and values"),
    ],
)
def test_another_sampler_that_is_none_is_explained(value, words):
    with pytest.raises(ValueError) as refused:
        check_nested("sampler Outer", "inner", value, ("options",))
    assert words in str(refused.value)

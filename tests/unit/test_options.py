"""Options checked against a class's own signature."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Optional, Union

import pytest

from study_operator.model.options import check_options, valid_options

if TYPE_CHECKING:
    from numpy import ndarray


class Tuned:
    """Something with arguments of every kind that Optuna's classes have."""

    def __init__(
        self,
        positional: int,
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
    assert refusal(**options) == f"option {name!r} of sampler Tuned is {value!r}; it must be {must_be}"


@pytest.mark.parametrize("name", ["n_startup", "seed", "callback", "array", "mapping", "rest", "others", "self", ""])
def test_an_unknown_option_is_told_which_there_are(name):
    assert refusal(**{name: 1}) == (
        f"sampler Tuned has no option {name!r}; its options are "
        "either, flag, maybe, mode, number, old_style, positional, text, whole"
    )


def test_a_class_without_options_says_so():
    class Plain:
        """Nothing to choose."""

        def __init__(self, seed: int | None = None) -> None: ...

    with pytest.raises(ValueError, match=r"^pruner Plain has no option 'x'; its options are none$"):
        check_options("pruner Plain", Plain, {"x": 1}, ("seed",))

"""Samplers by class: the list decides, nothing else is imported, and whatever a plug-in does ends in a sentence."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from building import study
from hypothesis import given
from hypothesis import strategies as st
from optuna.samplers import BaseSampler

from study_operator.model.study import Algorithm, Refused
from study_operator.optimizer.distributions import optuna_distributions
from study_operator.optimizer.plugins import build

MODULE = """
from __future__ import annotations

from collections.abc import Callable

from optuna.samplers import BaseSampler, RandomSampler


class Good(RandomSampler):
    def __init__(self, n: int = 1, *, mode=None, callback: Callable | None = None, seed: int | None = None) -> None:
        super().__init__(seed)
        self.given = {"n": n, "mode": mode, "callback": callback, "seed": seed}


class Lazy(RandomSampler):
    def __init__(self, n: int = 1, device: "lazy" | None = None, mode: int[3] = 1) -> None:  # raise when evaluated
        super().__init__()


class Seedless(RandomSampler):
    def __init__(self, n: int = 1) -> None:
        super().__init__()


class Open(RandomSampler):
    def __init__(self, n: int = 1, **others) -> None:
        super().__init__()
        self.given = {"n": n, **others}


class Picky(RandomSampler):
    def __init__(self, n: int = 1) -> None:
        raise ValueError("n must be\\nodd")


class Unreadable(RandomSampler):
    def __init__(self, n: np.ndarray = 1) -> None:  # resolved from its text, which needs no import
        super().__init__()


Unreadable.__signature__ = "none"


class Stranger:
    pass


def function():
    raise AssertionError("called")


instance = Good()
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory on Python's path with a package of plug-ins, and modules that fail in several ways."""
    directory = tmp_path_factory.mktemp("plugins")
    (directory / "tuners").mkdir()
    (directory / "tuners" / "__init__.py").write_text("")
    (directory / "tuners" / "samplers.py").write_text(MODULE)
    (directory / "tuners_broken.py").write_text("import no_such_package_at_all")
    (directory / "tuners_exits.py").write_text("raise SystemExit(3)")
    (directory / "tuners_syntax.py").write_text("def (:")
    (directory / "tuners_marked.py").write_text("raise AssertionError('imported')")
    sys.path.insert(0, str(directory))
    yield directory
    sys.path.remove(str(directory))


def sampler_of(
    cls: str,
    options: dict[str, Any] | None = None,
    *,
    seed: int | None = None,
    allowed: Collection[str] | None = None,
) -> BaseSampler:
    given = {"class": cls, "options": options or {}, **({} if seed is None else {"seed": seed})}
    return build(study(sampler=given), seed, [cls] if allowed is None else allowed)


def refusal(cls: str, options: dict[str, Any] | None = None, **given: Any) -> tuple[str, str]:
    with pytest.raises(Refused) as refused:
        sampler_of(cls, options, **given)
    assert refused.value.__cause__ is None
    assert "\n" not in refused.value.message
    return refused.value.reason, refused.value.message


def test_a_class_of_the_list_is_built_with_its_options_and_the_seed(plugin):
    sampler = sampler_of("tuners.samplers:Good", {"n": 3, "mode": {"any": ["thing"]}}, seed=7)
    assert sampler.given == {"n": 3, "mode": {"any": ["thing"]}, "callback": None, "seed": 7}
    space = optuna_distributions(study().space)
    assert optuna.create_study(sampler=sampler).ask(space).params.keys() == space.keys()


def test_a_class_that_takes_any_name_gets_any(plugin):
    assert sampler_of("tuners.samplers:Open", {"whatever": 1}, seed=7).given == {"n": 1, "whatever": 1, "seed": 7}
    assert sampler_of("tuners.samplers:Open", {"n": 2}).given == {"n": 2}


@pytest.mark.parametrize("allowed", [[], ["tuners.samplers:Good"]])
@pytest.mark.parametrize(
    "cls",
    [
        "tuners_marked:Sampler",
        "os:system",
        "subprocess:Popen",
        "tuners.samplers:Seedless",
        "optuna.samplers:TPESampler",
    ],
)
def test_a_class_that_is_not_in_the_list_is_never_imported(plugin, cls, allowed):
    reason, message = refusal(cls, allowed=allowed)
    assert reason == "SamplerNotAllowed"
    assert message.startswith(f"spec.sampler.class: {cls!r} is not a class that may be used here; ")
    assert ("write one of tuners.samplers:Good" in message) == bool(allowed)
    assert "tuners_marked" not in sys.modules


NAMES = st.text(alphabet="tuners.ampl:Good_ T\n\0", max_size=24)


@given(NAMES)
def test_only_the_very_text_of_the_list_will_do(name):
    if name == "tuners.samplers:Good":
        return
    of = replace(study(), sampler=Algorithm(name, {}, None, name))
    with pytest.raises(Refused) as refused:
        build(of, None, ["tuners.samplers:Good"])
    assert refused.value.reason == "SamplerNotAllowed"


@pytest.mark.parametrize(
    "near",
    [
        "tuners.samplers:good",
        " tuners.samplers:Good",
        "tuners.samplers:Good ",
        "tuners.samplers.Good",
        "tuners:samplers.Good",
        "tuners.samplers:Good.__init__",
    ],
)
def test_what_is_nearly_in_the_list_is_not(plugin, near):
    assert refusal(near, allowed=["tuners.samplers:Good"])[0] == "SamplerNotAllowed"


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        ("no_such_module_here:Sampler", "ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("tuners.samplers:Missing", "AttributeError: module 'tuners.samplers' has no attribute 'Missing'"),
        ("tuners_broken:Sampler", "ModuleNotFoundError: No module named 'no_such_package_at_all'"),
        ("tuners_exits:Sampler", "SystemExit: 3"),
        ("tuners_syntax:Sampler", "SyntaxError: "),
        ("tuners.samplers:Stranger", "is not a subclass of optuna.samplers.BaseSampler"),
        ("tuners.samplers:function", "is not a subclass of optuna.samplers.BaseSampler"),
        ("tuners.samplers:instance", "is not a subclass of optuna.samplers.BaseSampler"),
        ("tuners.samplers:Unreadable", "(TypeError: "),
    ],
)
def test_what_cannot_be_loaded_is_explained(plugin, cls, words):
    reason, message = refusal(cls)
    assert reason == "SamplerNotInstalled"
    assert message.startswith(f"spec.sampler.class: {cls} ")
    assert words in message
    assert "those who run the operator" in message


@pytest.mark.parametrize(
    ("cls", "options", "words"),
    [
        ("Good", {"m": 1}, "tuners.samplers:Good has no option 'm'; its options are mode, n"),
        ("Good", {"seed": 1}, "tuners.samplers:Good has no option 'seed'; its options are mode, n"),
        ("Good", {"callback": "os:system"}, "tuners.samplers:Good has no option 'callback'; its options are mode, n"),
        ("Good", {"n": "1"}, "option 'n' of tuners.samplers:Good is '1'; it must be a whole number: remove the quotes"),
        ("Lazy", {"device": "gpu"}, "tuners.samplers:Lazy has no option 'device'; its options are n"),
        ("Open", {"n": "1"}, "option 'n' of tuners.samplers:Open is '1'; it must be a whole number: remove the quotes"),
        ("Open", {"seed": 1}, "tuners.samplers:Open has no option 'seed'; its options are n"),
        ("Picky", {}, "tuners.samplers:Picky does not take these options: ValueError: n must be"),
    ],
)
def test_bad_options_are_explained(plugin, cls, options, words):
    assert refusal(f"tuners.samplers:{cls}", options) == ("InvalidSamplerOptions", f"spec.sampler: {words}")


def test_a_seed_that_the_class_does_not_take_is_not_just_ignored(plugin):
    assert refusal("tuners.samplers:Seedless", seed=3) == (
        "InvalidSamplerOptions",
        "spec.sampler: tuners.samplers:Seedless takes no seed; remove spec.sampler.seed",
    )
    assert isinstance(sampler_of("tuners.samplers:Seedless"), BaseSampler)

"""Studies that once stopped everybody, by what they say alone."""

from __future__ import annotations

from typing import Any

from neighbours import Neighbour, job_template, one, several

NESTED = "nested"  # where a Study is nested deeply
_JUNK = "[" + ",".join(["[]"] * 430_000) + "]"  # 1.3 MB, of which Python makes 20 times as much
_PARAMETERS = [{"name": name, "float": {"low": 0, "high": 1}} for name in "xy"]
_OBJECTIVES = [{"name": f"o{number}", "direction": "Minimize"} for number in range(4)]


def nested(depth: int, opening: str = "[", closing: str = "]", innermost: str = "") -> str:
    """JSON that is nested so deeply."""
    return opening * depth + innermost + closing * depth


def _nested_in(where: str, depth: int = 1500, **spec: Any) -> Neighbour:
    return Neighbour(f"JSON nested {depth} levels deep in {where}", one({NESTED: nested(depth)}, **spec))


def _junk(**spec: Any) -> dict[str, Any]:
    template = job_template()
    template["spec"] |= spec
    return template


def _sampler(what: str, name: str, jobs: int = 6, options: dict[str, Any] | None = None, **spec: Any) -> Neighbour:
    sampler = {"name": name, "options": options or {}}
    spec = {"parameters": _PARAMETERS, "sampler": sampler, **spec}
    return Neighbour(f"{name} with {what}", one(**spec), jobs)


def _categories(parameters: int, choices: int, length: int = 8) -> list[dict[str, Any]]:
    """A search space of categories with texts of that length."""
    texts = [str(number).rjust(length, "x") for number in range(choices)]
    return [{"name": f"p{number}", "categorical": {"choices": texts}} for number in range(parameters)]


DEPTH = (
    _nested_in("a sampler's options", sampler={"name": "TPE", "options": {"foo": NESTED}}),
    _nested_in("a Job's spec, suspended", suspend=True, jobTemplate=_junk(junk=NESTED)),
    _nested_in("initialTrials", initialTrials=[{"x": NESTED}]),
    _nested_in("a pruner's options", pruner={"name": "Median", "options": {"foo": NESTED}}),
    _nested_in("the options of convergence", convergence={"options": {"foo": NESTED}}),
    _nested_in("a sampler's options", 9_900, sampler={"name": "TPE", "options": {"foo": NESTED}}),
)

OPTIONS = (
    _sampler("10^9 candidates", "TPE", options={"n_startup_trials": 0, "n_ei_candidates": 1_000_000_000}),
    _sampler(
        "1.3 * 10^9 reference points",
        "NSGAIII",
        options={"dividing_parameter": 2000, "population_size": 2},
        objectives=_OBJECTIVES,
    ),
    _sampler("a population of 3 * 10^8", "CmaES", options={"n_startup_trials": 1, "popsize": 300_000_000}),
    _sampler(
        "so many categories that it computes for minutes",
        "TPE",
        jobs=1,
        options={"n_startup_trials": 0, "n_ei_candidates": 50_000},
        parameters=_categories(100, 100),
        parallelism=200,
    ),
)

SIZE = (
    Neighbour(
        "20 suspended Studies of 1.3 MB",
        several(20, {"junk": _JUNK}, suspend=True, jobTemplate=_junk(junk="junk")),
        jobs=0,
    ),
    Neighbour(
        "an environment of 1.1 MB in each of 300 containers",
        one(
            parameters=_categories(90, 100, 123),
            jobTemplate=job_template(*({"name": f"c{number}", "image": "i"} for number in range(300))),
        ),
    ),
)

GRIDS = (
    Neighbour(
        "16 Studies with Grids of 10^6 cells",
        several(
            16,
            sampler={"name": "Grid"},
            parameters=[{"name": name, "int": {"low": 1, "high": 1000}} for name in "xy"],
        ),
        patience=240.0,  # its own Studies wait for each other
    ),
)

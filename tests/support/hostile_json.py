"""Studies that say what no schema keeps out: depth, size, junk, NUL, surrogates and huge numbers, in any field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

from neighbours import job_template, study_text

_PLACE = "what is hostile"
_DEPTHS = (10, 63, 64, 65, 300, 990, 1500, 5000, 9900)
_NUMBERS = (
    "1e308",
    "-1.7976931348623157e308",
    "5e-324",
    "9007199254740993",
    "-9223372036854775808",
    "1e400",
    "0.1e-999",
)
_STRINGS = ('"\\u0000"', '"a\\u0000b"', '"\\ud800"', '"\\udfff\\ud800"', '"\\u202e\\u001b[31m\\n"', '"\\ufffe"', '""')


def hostile_studies(seed: int, count: int, namespace: str) -> Iterator[tuple[str, str]]:
    """Name and JSON text of some Studies. The API server refuses a part of them."""
    for number in range(count):
        random, name = Random(f"{seed}/{number}"), f"hostile-{number}"
        text = study_text(namespace, name, suspend=random.random() < 0.2, maxTrials=3, **_spec(random))
        yield name, text.replace(json.dumps(_PLACE), _value(random))


def _value(random: Random) -> str:
    """JSON as a hostile user writes it."""
    depth, length = random.choice(_DEPTHS), random.choice((1, 100, 3_000, 40_000))
    return random.choice(
        (
            lambda: "[" * depth + "]" * depth,
            lambda: '{"a":' * depth + "1" + "}" * depth,
            lambda: '[{"a":' * (depth // 2) + "null" + "}]" * (depth // 2),
            lambda: "[" + ",".join(["[]"] * length) + "]",
            lambda: "{" + ",".join(f'"k{n}":{{}}' for n in range(min(length, 3_000))) + "}",
            lambda: json.dumps("x" * length * 4),
            lambda: json.dumps("\0\x1b" * length),
            lambda: "{" + random.choice(_STRINGS) + ":" + random.choice(_STRINGS) + "}",
            lambda: '{"a":1,"a":[2],"":{}}',
            lambda: "1" * random.choice((19, 20, 400, 5_000)),
            lambda: random.choice(_NUMBERS),
            lambda: random.choice(_STRINGS),
            lambda: random.choice(("null", "true", "[]", "{}", "[[[]]]")),
        )
    )()


def _spec(random: Random) -> dict[str, Any]:
    """A spec with the hostile value somewhere in it."""
    category = {"name": "c", "categorical": {"choices": ["a", "b"]}}
    return random.choice(
        (
            lambda: {"sampler": {"name": "TPE", "options": {"n_startup_trials": _PLACE}}},
            lambda: {"sampler": {"name": "PartialFixed", "options": {"fixed_params": _PLACE}}},
            lambda: {
                "sampler": {"name": "PartialFixed", "options": {"fixed_params": {"x": 1}, "base_sampler": _PLACE}}
            },
            lambda: {"pruner": {"name": "Patient", "options": {"patience": 1, "wrapped_pruner": _PLACE}}},
            lambda: {"convergence": {"options": {"max_stagnation_trials": _PLACE}}},
            lambda: {"initialTrials": [{"x": _PLACE}]},
            lambda: {"parameters": [category, {"name": "d", "categorical": {"choices": [1, _PLACE]}}]},
            lambda: {
                "parameters": [
                    category,
                    {"name": "d", "int": {"low": 1, "high": 2}, "when": {"parameter": "c", "in": [_PLACE]}},
                ]
            },
            lambda: {"jobTemplate": _template({"junk": _PLACE}, {}, {})},
            lambda: {"jobTemplate": _template({}, {"junk": _PLACE}, {})},
            lambda: {"jobTemplate": _template({}, {}, {"args": ["a", _PLACE]})},
            lambda: {"jobTemplate": {**job_template(), "metadata": {"annotations": {"a": _PLACE}}}},
            lambda: {"checkpoints": {"claimTemplate": {"spec": {"resources": _PLACE}}}},
            lambda: {"objectives": [{"name": "score", "direction": "Maximize", "goal": _PLACE}]},
            lambda: {"parameters": [{"name": "x", "float": {"low": 0, "high": _PLACE}}]},
        )
    )()


def _template(job: dict[str, Any], pod: dict[str, Any], container: dict[str, Any]) -> dict[str, Any]:
    template = job_template({"name": "trial", "image": "trial:1", **container})
    template["spec"] |= job
    template["spec"]["template"]["spec"] |= pod
    return template

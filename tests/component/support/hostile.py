"""Hypothesis strategies for Studies, made from the CRD's own schema: valid, nearly valid, and hostile."""

from __future__ import annotations

import copy
from typing import Any

from crd_schema import spec_schema
from hypothesis import strategies as st
from world import job_template

TEXTS = [
    *("", " ", "nan", "NaN", "-Infinity", "1e999", "null", "true", "0x10", "1_000", "a" * 64, "b" * 5000),
    *("'; DROP TABLE trials; --", "$(PARAM_x)", "{{ .Values }}", "../../etc/passwd", "a\nb", "a\u0000b", "\u202eabc"),
    *("é", "名前", "🔥" * 20, "study_operator:job", "__proto__", "-", ".", "a.b-c", "a_b_c"),
]
NUMBERS = [
    *(0, 1, -1, 2, 3, 2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63)),
    *(0.0, -0.0, 0.1 + 0.2, 5e-324, 1e-320, 1e300, -1e300, 1e308, 0.5, 1.5),
]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.sampled_from(TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(TEXTS), inner, max_size=2),
    max_leaves=4,
)
# Options of samplers, pruners and evaluators, of which the schema says nothing.
OPTIONS = st.dictionaries(
    st.sampled_from(
        [
            *("n_startup_trials", "n_warmup_steps", "interval_steps", "percentile", "min_resource", "max_resource"),
            *("reduction_factor", "lower", "upper", "patience", "p_threshold", "wrapped_pruner", "multivariate"),
            *(
                "n_ei_candidates",
                "constant_liar",
                "group",
                "prior_weight",
                "population_size",
                "mutation_prob",
                "qmc_type",
            ),
            *("scramble", "sigma0", "x0", "restart_strategy", "n_min_trials", "max_stagnation_trials", "fixed_params"),
            *("seed", "gamma", "weights", "base_sampler", ""),
        ]
    ),
    st.integers(-1, 5) | st.floats(0, 1) | ANYTHING,
    max_size=3,
)


def _of(schema: dict[str, Any], name: str = "") -> st.SearchStrategy[Any]:
    """Values that a schema allows, as far as it says without rules in CEL."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "preserve-unknown-fields" in str(schema.get("additionalProperties")):
        return (
            OPTIONS if name == "options" else st.dictionaries(st.sampled_from(["x", "kind", "y"]), ANYTHING, max_size=2)
        )
    match schema.get("type"):
        case "boolean":
            return st.booleans()
        case "integer":
            low, high = schema.get("minimum", -(2**31)), schema.get("maximum", 2**31 - 1)
            few = st.integers(max(low, 0), min(max(low, 0) + 5, high))
            return few | st.integers(low, high)
        case "number":
            return st.floats(-10, 10) | st.floats(allow_nan=False, allow_infinity=False)
        case "string":
            return st.sampled_from(["x", "y", "kind", "a", "score", "/data", "epoch"]) | _texts(schema)
        case "array":
            return st.lists(_of(schema["items"], name), min_size=schema.get("minItems", 0), max_size=3)
        case "object":
            return _object(schema)
    return ANYTHING


def _texts(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    if "pattern" in schema:
        return st.from_regex(schema["pattern"], fullmatch=True).map(lambda text: text[: schema.get("maxLength", 1000)])
    return st.text(max_size=20).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))


@st.composite
def _object(draw: st.DrawFn, schema: dict[str, Any]) -> dict[str, Any]:
    properties, required = schema.get("properties", {}), schema.get("required", [])
    optional = [name for name in properties if name not in required]
    names = [
        *required,
        *draw(st.lists(st.sampled_from(optional), unique=True, max_size=3) if optional else st.just([])),
    ]
    return {name: draw(_of(properties[name], name)) for name in names}


@st.composite
def parameters(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Search spaces that keep the rules, mostly."""
    made: list[dict[str, Any]] = []
    for name in ["x", "y.z", "kind"][: draw(st.integers(1, 3))]:
        match draw(st.sampled_from(["float", "int", "categorical"])):
            case "categorical":
                choices = st.lists(
                    st.sampled_from([*TEXTS, *NUMBERS, None, True]), min_size=1, max_size=4, unique_by=repr
                )
                made.append({"name": name, "categorical": {"choices": draw(choices)}})
            case kind:
                number = st.integers(-5, 20) if kind == "int" else st.floats(-5, 20) | st.sampled_from(NUMBERS)
                low, high = sorted((draw(number), draw(number)))
                step = abs(draw(number)) or 1
                extra = draw(st.sampled_from([{}, {}, {"log": True} if low > 0 else {}, {"step": 1}, {"step": step}]))
                made.append({"name": name, kind: {"low": low, "high": high, **extra}})
        if len(made) > 1 and draw(st.integers(0, 3)) == 0:
            choices = made[0].get("categorical", {}).get("choices", [1])
            made[-1]["when"] = {"parameter": made[0]["name"], "in": choices[:1]}
    return made


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Specs of Studies: a small one, with fields replaced by what the schema allows, of which some are then spoilt."""
    spec: dict[str, Any] = {
        "objectives": [{"name": "score", "direction": "Maximize"}],
        "parameters": draw(parameters()),
        "parallelism": 2,
        "maxTrials": draw(st.integers(2, 5)),
        "jobTemplate": job_template(),
    }
    properties = spec_schema()["properties"]
    fields = sorted(set(properties) - {"parameters", "jobTemplate", "checkpoints"})
    for name in draw(st.lists(st.sampled_from(fields), unique=True, max_size=3)):
        spec[name] = draw(_of(properties[name], name))
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 2]))):
        _spoil(draw, spec)
    if isinstance(spec.get("parallelism"), int):
        spec["parallelism"] = min(spec["parallelism"], 3)  # a test need not start thousands
    return spec


def _spoil(draw: st.DrawFn, spec: dict[str, Any]) -> None:
    """Replaces, removes or adds something somewhere."""
    place: Any = spec
    while True:
        keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 3)):
            place = place[key]
            continue
        match draw(st.sampled_from(["replace", "replace", "remove", "add", "double"])):
            case "replace":
                place[key] = draw(ANYTHING)
            case "remove":
                del place[key]
            case "add" if isinstance(place, dict):
                place[draw(st.sampled_from([text for text in TEXTS if text]))] = draw(ANYTHING)
            case _ if isinstance(place, list):
                place.append(copy.deepcopy(place[key]))
        return

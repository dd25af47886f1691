"""A Job template costs no more than its length, whatever it says: it is judged on the loop that serves everybody."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from building import job_template, study

from study_operator.manifests.job import Reporting, check_variables, job_manifest
from study_operator.manifests.metrics_directory import check_directory
from study_operator.model.search_space import example_params
from study_operator.model.study import Refused

LENGTH = 60_000  # what the API server takes of a template, nearly
AT_MOST_SECONDS = 1.0  # of computing; by the square of the length it takes eight
PARAMETERS = [
    *({"name": f"p{n}", "float": {"low": 0, "high": 1}} for n in range(90)),
    {"name": "opt", "categorical": {"choices": [True, False, "x"]}},
    *({"name": f"d{n}", "float": {"low": 0, "high": 1}, "when": {"parameter": "opt", "in": ["x"]}} for n in range(5)),
]
WORDS = [
    "$(",
    "$()",
    "$$(",
    "$(PARAM_",
    "PARAM_a ",
    "$(PARAM_p0)",
    "$(PARAM_d0)=",
    "$PARAM_p0 ",
    "${trialSpec.",
    "/",
    "gpu",
    "a",
]


def judge(**container: object) -> float:
    """Return the seconds of computing that it takes to judge a template, and to make a Job of it."""
    judged = study(
        parameters=PARAMETERS, metrics={"from": "File", "path": "/out/m"}, jobTemplate=job_template(**container)
    )
    began = time.process_time()
    for look in (
        lambda: check_directory(judged),
        lambda: check_variables(judged, Reporting("postgresql://x", "key")),
        lambda: job_manifest(judged, Reporting("postgresql://x", "key"), 0, 0, example_params(judged.space)),
    ):
        with suppress(Refused):
            look()
    return time.process_time() - began


@pytest.mark.parametrize("word", WORDS)
def test_a_template_costs_no_more_than_its_length(word):
    whole = word * (LENGTH // len(word))
    parts = [whole[start : start + 24] for start in range(0, LENGTH // 2, 24)]
    assert judge(args=[whole]) < AT_MOST_SECONDS
    assert judge(image=whole) < AT_MOST_SECONDS
    assert judge(command=["train"], args=parts) < AT_MOST_SECONDS
    assert judge(resources={"limits": {f"example.com/{whole}": 1}}) < AT_MOST_SECONDS
    assert judge(env=[{"name": f"E{n}", "value": part} for n, part in enumerate(parts)]) < AT_MOST_SECONDS


@pytest.mark.parametrize("word", ["9", ".", "9.", "1k"])
def test_an_amount_costs_no_more_than_its_length(word):
    assert judge(resources={"limits": {"memory": word * (LENGTH // len(word)) + "x"}}) < AT_MOST_SECONDS


def test_so_many_likely_mistakes_are_told_in_a_message_that_can_be_read():
    told = check_variables(
        study(jobTemplate=job_template(args=[" ".join(f"PARAM_{n}" for n in range(500))])),
        Reporting("postgresql://x", "key"),
    )
    assert len(told) == 11
    assert told[-1] == "there are more like these"

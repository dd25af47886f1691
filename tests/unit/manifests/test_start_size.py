"""What Linux takes as arguments and environment of a program."""

from __future__ import annotations

import json
import subprocess

import pytest
from building import job_template, study

from study_operator.manifests.job import Reporting, check_environment, job_manifest
from study_operator.manifests.start_size import LONGEST_TEXT
from study_operator.model.search_space import longest_params
from study_operator.model.study import Refused, Study

REPORTING = Reporting("postgresql://x", "key")


def choices(letters: str, many: int = 100) -> list[dict]:
    """Parameters with many long choices, which are all in STUDY_SEARCH_SPACE."""
    return [
        {"name": f"p{i}", "categorical": {"choices": [letters + f"{j:03d}" for j in range(100)]}}
        for i in range(many // 100)
    ]


def check(of: Study) -> None:
    check_environment(of, REPORTING, longest_params(of.space))


def search_space(of: Study) -> str:
    pod = job_manifest(of, REPORTING, 0, 0, longest_params(of.space))["spec"]["template"]["spec"]
    return next(v["value"] for v in pod["containers"][0]["env"] if v["name"] == "STUDY_SEARCH_SPACE")


def test_a_long_search_space_is_written_in_utf_8_and_starts():
    of = study(parameters=choices("数据" * 62, 200))
    check(of)
    text = search_space(of)
    assert json.loads(text) == list(of.parameters)
    assert not text.isascii()
    subprocess.run(["true"], env={"STUDY_SEARCH_SPACE": text}, check=True)


def test_a_short_one_stays_ascii():
    of = study(parameters=choices("数据"))
    assert search_space(of) == json.dumps(list(of.parameters))


def test_a_search_space_that_no_program_can_be_given_is_refused_with_its_size():
    of = study(parameters=choices("数" * 120, 600))
    with pytest.raises(
        Refused, match=r"STUDY_SEARCH_SPACE of container 'trial' would have 2\d\d,\d{3} bytes"
    ) as refused:
        check(of)
    assert refused.value.reason == "JobTemplateInvalid"
    assert "shorten spec.parameters: use fewer or shorter choices" in refused.value.message
    with pytest.raises(OSError, match="Argument list too long"):
        subprocess.run(["true"], env={"STUDY_SEARCH_SPACE": search_space(of)}, check=True)


def test_the_longest_text_is_as_long_as_linux_says():
    subprocess.run(["true", "x" * (LONGEST_TEXT - 1)], check=True)
    with pytest.raises(OSError, match="Argument list too long"):
        subprocess.run(["true", "x" * LONGEST_TEXT], check=True)


LONG = "x" * 30_000


@pytest.mark.parametrize(
    ("container", "words"),
    [
        ({"args": ["a", f"{LONG}$(A)$(A)$(A)$(A)"], "env": [{"name": "A", "value": LONG}]}, r"args\[1\] of container"),
        ({"env": [{"name": "A", "value": LONG}, {"name": "B", "value": "$(A)" * 5}]}, "B of container 'trial' would"),
        (
            {"args": ["$(A)$(A)$(A)$(A)"] * 20, "env": [{"name": "A", "value": LONG}]},
            r"command, args and env of container 'trial' would have 2,\d{3},\d{3} bytes together",
        ),
    ],
)
def test_variables_are_put_in_before_it_is_measured(container, words):
    with pytest.raises(Refused, match=words):
        check(study(jobTemplate=job_template(**container)))


@pytest.mark.parametrize(
    "container",
    [
        {"args": ["$$(A)" * 10], "env": [{"name": "A", "value": LONG}]},
        {"args": ["$(UNKNOWN)" * 10], "env": [{"name": "A", "value": "$(A)"}]},
        {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}], "args": ["$(A)"]},
    ],
)
def test_what_is_not_put_in_is_not_measured(container):
    check(study(jobTemplate=job_template(**container)))

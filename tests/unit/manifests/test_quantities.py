"""Amounts in a Job template: those that are none are told with their place."""

from __future__ import annotations

from typing import Any

import pytest
from building import job_template, study

from study_operator.manifests.job import Reporting, check_variables
from study_operator.model.study import Refused

POD = "spec.jobTemplate.spec.template.spec"


def check(container: dict[str, Any], pod: dict[str, Any]) -> None:
    template = job_template(**container)
    template["spec"]["template"]["spec"] |= pod
    check_variables(study(jobTemplate=template), Reporting("postgresql://x", "key"))


@pytest.mark.parametrize(
    "amount",
    ["1", "500m", "2Gi", "2G", "1.5", ".5", "1.", "1e3", "1E-3", "1E", "+1", " 2Gi ", "100n", "5Ki", 2, 0.5, None],
)
def test_amounts_that_kubernetes_reads_are_left_to_it(amount):
    check({"resources": {"limits": {"memory": amount}}}, {})


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        ("2GB", 'is "2GB", which is no quantity of Kubernetes: write 2Gi'),
        ("2 gb", "write 2Gi"),
        ("512mib", "write 512Mi"),
        ("4g", "write 4Gi"),
        ("1.5K", "write 1.5Ki"),
        ("1 core", "write an amount such as 2, 500m or 4Gi"),
        ("", 'is "", which'),
        ("1,5", 'is "1,5", which'),
        (True, "is true, which"),
        ({"cpu": 1}, 'is {"cpu": 1}, which'),
        ("x" * 1000, 'is "' + "x" * 36 + "..., which"),
    ],
)
def test_another_amount_is_told_with_its_place(amount, words):
    with pytest.raises(Refused) as refused:
        check({"resources": {"requests": {"cpu": "1"}, "limits": {"memory": amount}}}, {})
    assert refused.value.reason == "JobTemplateInvalid"
    assert refused.value.message.startswith(f"{POD}.containers[0].resources.limits.memory is ")
    assert words in refused.value.message


@pytest.mark.parametrize(
    ("pod", "where"),
    [
        ({"volumes": [{"name": "m", "emptyDir": {"sizeLimit": "2GB"}}]}, "volumes[0].emptyDir.sizeLimit"),
        ({"resources": {"limits": {"cpu": "2 cores"}}}, "resources.limits.cpu"),
        (
            {"initContainers": [{"name": "i", "image": "i", "resources": {"requests": {"cpu": "x"}}}]},
            "initContainers[0].resources.requests.cpu",
        ),
    ],
)
def test_amounts_are_in_several_places(pod, where):
    with pytest.raises(Refused) as refused:
        check({}, pod)
    assert refused.value.message.startswith(f"{POD}.{where} is ")

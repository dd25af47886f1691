"""Where Studies are refused: Kubernetes' namespaces, and the operator's own."""

from __future__ import annotations

import pytest

from study_operator.model.namespaces import Reserved
from study_operator.model.study import Refused, StudyKey

RESERVED = Reserved("system", StudyKey("system", "study-operator-test"), ("kube-ml",))


@pytest.mark.parametrize(
    ("namespace", "name", "whose"),
    [
        ("kube-system", "digits", "one of Kubernetes itself"),
        ("kube-public", "study-operator-test", "one of Kubernetes itself"),
        ("kube-node-lease", "digits", "one of Kubernetes itself"),
        ("kube-anything", "digits", "one of Kubernetes itself"),
        ("system", "digits", "the operator's own"),
        ("system", "study-operator-test-2", "the operator's own"),
    ],
)
def test_reserved(namespace, name, whose):
    with pytest.raises(Refused) as refused:
        RESERVED.check(StudyKey(namespace, name))
    assert refused.value.reason == "NamespaceReserved"
    assert refused.value.message.startswith(f"the namespace {namespace} is {whose}, where ")
    assert "allowedNamespaces" in refused.value.message


@pytest.mark.parametrize(
    ("namespace", "name"),
    [
        ("team-a", "digits"),
        ("kube", "digits"),
        ("kubeflow", "digits"),
        ("my-kube-system", "digits"),
        ("system", "study-operator-test"),
        ("system-2", "digits"),
        ("kube-ml", "digits"),
    ],
)
def test_served(namespace, name):
    RESERVED.check(StudyKey(namespace, name))


def test_an_operator_that_does_not_know_where_it_is_refuses_kubernetes_namespaces():
    Reserved().check(StudyKey("system", "digits"))
    with pytest.raises(Refused):
        Reserved().check(StudyKey("kube-system", "digits"))

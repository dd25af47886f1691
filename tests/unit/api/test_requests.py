"""What a request says: its Accept header, its options, its continue token, the name that it asks for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study_operator.api import accepting, continuing, discovery, names, options
from study_operator.api.accepting import Form
from study_operator.api.continuing import Position
from study_operator.api.names import Named
from study_operator.api.refusals import Refusal

KUBECTL = (
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
)
CLIENT_GO = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
ALL = (Form.TABLE, Form.METADATA_LIST)


@pytest.mark.parametrize(
    ("header", "form"),
    [
        (KUBECTL, (Form.TABLE, "v1")),
        ("application/json;as=Table;v=v1beta1;g=meta.k8s.io", (Form.TABLE, "v1beta1")),
        ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", (Form.METADATA_LIST, "v1")),
        (CLIENT_GO, (Form.OBJECT, "")),
        ("application/vnd.kubernetes.protobuf, */*;q=0.1", (Form.OBJECT, "")),
        ("application/json;q=0.5,application/json;as=Table;v=v1;g=meta.k8s.io", (Form.TABLE, "v1")),
        ("application/json;stream=watch", (Form.OBJECT, "")),
        ("", (Form.OBJECT, "")),
        ("application/json;as=Table;v=v2;g=meta.k8s.io", None),
        ("application/yaml", None),
        ("application/json;q=0", None),
        ("application/json;q=x", None),
    ],
)
def test_the_form_of_an_answer(header, form):
    assert accepting.form(header, ALL) == form


@pytest.mark.parametrize(
    ("header", "version"),
    [
        (
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,"
            "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json",
            "v2",
        ),
        ("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json", "v2beta1"),
        ("application/json", None),
        ("application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,*/*", None),
        ("application/json;g=apidiscovery.k8s.io;v=v3;as=APIGroupDiscoveryList,application/json", None),
    ],
)
def test_in_which_version_all_resources_are_told_at_once(header, version):
    assert discovery.aggregated_version(header) == version


def test_no_resource_can_be_deleted_and_none_is_called_studies():
    """The garbage collector, the namespace controller and quotas list and watch what can be deleted."""
    found = {one["name"]: one for one in discovery.resources()["resources"]}
    trials = {"studytrials", "studytrials/reports", "studytrials/stop"}
    assert set(found) == trials | {"studytrialsets", "studytrialsets/purge"}
    assert not any("delete" in verb for one in found.values() for verb in one["verbs"])
    (group,) = discovery.aggregated("v2")[0]["items"]
    (version,) = group["versions"]
    told = {one["resource"]: one for one in version["resources"]}
    assert {name for name in found if "/" not in name} == set(told)
    assert told["studytrials"]["subresources"][0]["subresource"] == "reports"
    assert all(told[name]["verbs"] == found[name]["verbs"] for name in told)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"limit": "x"}, "limit is 'x'"),
        ({"limit": "-1"}, "whole number"),
        ({"resourceVersion": "9" * 30}, "whole number"),
        ({"watch": "maybe"}, "true or false"),
        ({"resourceVersionMatch": "Exact"}, "unless there is a resourceVersion"),
        ({"resourceVersionMatch": "Newest", "resourceVersion": "1"}, "Exact or NotOlderThan"),
        ({"resourceVersionMatch": "Exact", "resourceVersion": "0"}, "forbidden for resourceVersion"),
        (
            {"resourceVersionMatch": "NotOlderThan", "resourceVersion": "1", "continue": "x"},
            "when continue is provided",
        ),
        ({"resourceVersion": "1", "continue": "x"}, "when using continue"),
        ({"sendInitialEvents": "true"}, "forbidden for list"),
        ({"watch": "1", "sendInitialEvents": "true"}, "requires setting resourceVersionMatch"),
        ({"watch": "1", "resourceVersionMatch": "NotOlderThan"}, "forbidden for watch unless"),
        ({"includeObject": "All"}, "includeObject"),
    ],
)
def test_options_that_contradict_are_refused_in_words(query, words):
    with pytest.raises(Refusal, match=words) as refused:
        options.parse(query)
    assert refused.value.code in (400, 422)


def test_options_of_a_watch_list():
    found = options.parse(
        {
            "watch": "true",
            "sendInitialEvents": "true",
            "resourceVersionMatch": "NotOlderThan",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": "400",
        }
    )
    assert (found.watch, found.initial, found.bookmarks, found.seconds, found.version) == (True, True, True, 400, None)
    assert options.parse({"watch": ""}).watch, "Kubernetes reads ?watch so"


NUMBERS = st.integers(0, 2**63 - 1)


@given(NUMBERS, NUMBERS, NUMBERS)
def test_a_continue_token_comes_back(at, study, number):
    asked = continuing.question("/path", "a=b", "")
    position = Position(at, study, number)
    assert continuing.position(continuing.token(position, asked), asked) == position


def test_a_continue_token_of_another_list_is_refused():
    token = continuing.token(Position(1, 2, 3), continuing.question("/path", "a=b", ""))
    with pytest.raises(Refusal, match="other selectors"):
        continuing.position(token, continuing.question("/path", "", "a=b"))


@given(st.text(max_size=60))
def test_any_other_continue_token_is_refused(text):
    with pytest.raises(Refusal, match="continue key is not valid"):
        continuing.position(text, "x")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("digits-7", [Named("digits", 7)]),
        ("a-1-2", [Named("a-1", 2)]),
        ("digits-7-1b9d6bcd", [Named("digits", 7, "1b9d6bcd")]),
        ("digits-7-12345678", [Named("digits-7", 12345678), Named("digits", 7, "12345678")]),
        ("digits-07", []),
        ("digits", []),
        ("-7", []),
        ("digits-\u0667", []),
        ("digits-99999999999", []),
    ],
)
def test_what_a_name_may_stand_for(name, found):
    assert list(names.trials_named(name)) == found


def test_a_trials_name_says_which_it_is():
    for study, number, uid in (("digits", 0, ""), ("a-1", 12, "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed")):
        name = names.trial_name(study, number, uid)
        assert Named(study, number, uid[:8]) in names.trials_named(name)
    assert list(names.sets_named("a-1b9d6bcd")) == [Named("a-1b9d6bcd", None), Named("a", None, "1b9d6bcd")]

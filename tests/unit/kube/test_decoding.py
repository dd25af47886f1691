"""What is read of the API server's answers, and what is left."""

from __future__ import annotations

import json
import re

import pytest

from study_operator.kube import decoding
from study_operator.model.intake import Unreadable
from study_operator.model.study import (
    GENERATION_ANNOTATION,
    JOB_LABEL,
    STUDY_LABEL,
    TRIAL_ID_ANNOTATION,
    TRIAL_LABEL,
)


def test_what_decisions_depend_on_is_read_and_nothing_else():
    job = {
        "metadata": {
            "name": "digits-7",
            "uid": "u",
            "labels": {"study-operator.io/trial": "7"},
            "annotations": {"study-operator.io/trial-id": "70"},
            "ownerReferences": [{"uid": "s", "controller": True, "kind": "Study"}],
            "creationTimestamp": "2026-11-22T06:00:00Z",
            "deletionTimestamp": "2026-11-22T06:01:00Z",
            "managedFields": [{"manager": "study-operator", "fieldsV1": {"f:metadata": {}}}],
        },
        "spec": {
            "parallelism": 2,
            "suspend": True,
            "backoffLimit": 0,
            "template": {
                "metadata": {"labels": {"app": "x"}},
                "spec": {
                    "initContainers": [{"name": "s", "restartPolicy": "Always", "resources": {"limits": {"a/b": 1}}}],
                    "containers": [
                        {"name": "a", "image": "i", "resources": {"limits": {"nvidia.com/gpu": "2"}}},
                        {"name": "b", "env": [{"name": "PARAM_x", "value": "1"}]},
                    ],
                },
            },
        },
        "status": {"active": 1, "conditions": [{"type": "Complete", "status": "True", "message": None}]},
    }
    listed = decoding.jobs(json.dumps({"kind": "JobList", "metadata": {"resourceVersion": "1"}, "items": [job]}))
    (read,) = listed.items
    del job["metadata"]["managedFields"]
    job["spec"] = {
        "parallelism": 2,
        "suspend": True,
        "backoffLimit": 0,
        "template": {
            "spec": {
                "initContainers": [{"restartPolicy": "Always", "resources": {"limits": {"a/b": 1}}}],
                "containers": [{"resources": {"limits": {"nvidia.com/gpu": "2"}}}, {}],
            }
        },
    }
    assert read == job


def test_what_is_missing_or_null_is_no_error():
    job = {
        "metadata": {"name": "j", "uid": "u", "labels": None, "creationTimestamp": "2026-11-22T06:00:00Z"},
        "spec": {"template": {"spec": {"containers": [{"resources": None}, {"resources": {"limits": None}}]}}},
    }
    assert decoding.jobs(json.dumps({"items": [job]})).items == [job]
    assert decoding.jobs('{"items": []}').items == []


def test_of_labels_and_annotations_only_the_operators_own_are_read():
    own = {STUDY_LABEL: "s", TRIAL_LABEL: "7", JOB_LABEL: "s-7"}
    notes = {TRIAL_ID_ANNOTATION: "70", GENERATION_ANNOTATION: "1"}
    meta = {"name": "s-7", "labels": {**own, "team": "a"}, "annotations": {**notes, "junk": "x" * 1000}}
    pod = {"metadata": meta, "spec": {"nodeName": "n", "containers": [{"name": "trial", "env": [{"name": "A"}]}]}}
    page = decoding.pods(json.dumps({"metadata": {"continue": "more"}, "items": [pod]}))
    assert page.metadata["continue"] == "more"
    assert page.items == [
        {
            "metadata": {"name": "s-7", "labels": own, "annotations": notes},
            "spec": {"containers": [{"name": "trial"}]},
        }
    ]


META = {"name": "s", "namespace": "n", "uid": "u", "generation": 1, "resourceVersion": "9"}


def study(spec: str, status: str = "{}", managed: str = "[]") -> bytes:
    meta = json.dumps(META)[:-1] + f', "managedFields": {managed}}}'
    return f'{{"kind": "Study", "metadata": {meta}, "spec": {spec}, "status": {status}}}'.encode()


def test_a_study_is_read_without_what_the_api_server_notes_for_itself():
    read = decoding.study(study('{"suspend": true, "jobTemplate": {"spec": {}}}', '{"phase": "Running"}', "[{}]"))
    spec = {"suspend": True, "jobTemplate": {"spec": {}}}
    assert read == {"kind": "Study", "metadata": META, "spec": spec, "status": {"phase": "Running"}}


@pytest.mark.parametrize(
    ("text", "reason", "words"),
    {
        "deep": (
            study(f'{{"sampler": {"[" * 65 + "]" * 65}}}'),
            "Unreadable",
            "spec.sampler: lists and objects may be",
        ),
        "deeper than Python reads": (study(f'{{"jobTemplate": {"[" * 5000 + "]" * 5000}}}'), "Unreadable", "64 levels"),
        "deep in what the API server notes": (study("{}", managed="[" * 5000 + "]" * 5000), "Unreadable", "64 levels"),
        "long template": (
            study(f'{{"jobTemplate": "{"x" * 65537}"}}'),
            "TooLarge",
            "spec.jobTemplate has 65 KiB as JSON, and may have 64: make it smaller",
        ),
        "long field": (study(f'{{"pruner": [{"[]," * 10_000}1]}}'), "TooLarge", "spec.pruner has 30 KiB as JSON"),
        "no study": (study("[]"), "Unreadable", "the Study cannot be decoded"),
        "no JSON": (b"nonsense", "Unreadable", "the Study cannot be decoded"),
    }.values(),
)
def test_a_study_beyond_a_bound_is_not_read(text, reason, words):
    with pytest.raises(Unreadable, match=re.escape(words)) as caught:
        decoding.study(text)
    assert caught.value.reason == reason


def test_a_study_at_the_bounds_is_read():
    decoding.study(study(f'{{"sampler": {"[" * 64 + "]" * 64}, "jobTemplate": "{"x" * 65534}"}}'))

"""The Jobs of a list, and what of them is read."""

from __future__ import annotations

import json

from study_operator.kube import decoding


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
                    "containers": [
                        {"name": "a", "image": "i", "resources": {"limits": {"nvidia.com/gpu": "2"}}},
                        {"name": "b", "env": [{"name": "PARAM_x", "value": "1"}]},
                    ]
                },
            },
        },
        "status": {"active": 1, "conditions": [{"type": "Complete", "status": "True", "message": None}]},
    }
    (read,) = decoding.jobs(json.dumps({"kind": "JobList", "metadata": {"resourceVersion": "1"}, "items": [job]}))
    del job["metadata"]["managedFields"]
    job["spec"] = {
        "parallelism": 2,
        "suspend": True,
        "template": {"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "2"}}}, {}]}},
    }
    assert read == job


def test_what_is_missing_or_null_is_no_error():
    job = {
        "metadata": {"name": "j", "uid": "u", "labels": None, "creationTimestamp": "2026-11-22T06:00:00Z"},
        "spec": {"template": {"spec": {"containers": [{"resources": None}, {"resources": {"limits": None}}]}}},
    }
    assert decoding.jobs(json.dumps({"items": [job]})) == [job]
    assert decoding.jobs('{"items": []}') == []

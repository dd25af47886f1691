"""Which process of a trial reports."""

from __future__ import annotations

import pytest

from study_trial._ranks import is_one_of_several, silent_because

OVER_PODS = {"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}


@pytest.mark.parametrize(
    ("env", "why"),
    [
        ({}, None),
        ({"RANK": "0", "LOCAL_RANK": "0"}, None),
        ({"RANK": "3", "LOCAL_RANK": "3"}, "RANK=3"),
        ({"RANK": "2"}, "RANK=2"),
        ({"LOCAL_RANK": "1"}, "LOCAL_RANK=1"),
        ({"SLURM_PROCID": "1"}, "SLURM_PROCID=1"),
        ({"OMPI_COMM_WORLD_RANK": "5"}, "OMPI_COMM_WORLD_RANK=5"),
        ({"PMI_RANK": "7"}, "PMI_RANK=7"),
        ({"JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETION_INDEX=2"),
        # Each pod has processes of its own.
        ({"JOB_COMPLETION_INDEX": "1", "LOCAL_RANK": "0"}, "JOB_COMPLETION_INDEX=1"),
        (
            {"JOB_COMPLETION_INDEX": "1", "RANK": "0", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8"},
            "JOB_COMPLETION_INDEX=1",
        ),
        # The processes of all pods have ranks, and rank 0 may be in any pod.
        ({"JOB_COMPLETION_INDEX": "1", "RANK": "0", "LOCAL_RANK": "0", **OVER_PODS}, None),
        ({"JOB_COMPLETION_INDEX": "0", "RANK": "8", "LOCAL_RANK": "0", **OVER_PODS}, "RANK=8"),
        # What is no number is something else.
        ({"RANK": ""}, None),
        ({"RANK": "high"}, None),
    ],
)
def test_the_process_of_rank_0_reports(env, why):
    assert silent_because(env) == why


@pytest.mark.parametrize(
    ("env", "several"),
    [
        ({}, False),
        ({"RANK": "0"}, True),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}, True),
        ({"LOCAL_RANK": "0"}, True),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"JOB_COMPLETION_INDEX": "0", "RANK": "1"}, True),
        ({"RANK": "0", "WORLD_SIZE": "1"}, False),
        ({"JOB_COMPLETION_INDEX": "1", "RANK": "1"}, False),
        ({"JOB_COMPLETION_INDEX": "0"}, False),
        ({"RANK": "8", **OVER_PODS}, False),
    ],
)
def test_processes_of_one_pod_know_of_each_other(env, several):
    assert is_one_of_several(env) is several

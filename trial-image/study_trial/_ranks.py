"""Which of a trial's processes speaks: launchers start several that run the same script, and one reports for all."""

from __future__ import annotations

from collections.abc import Mapping

# Where launchers say which process this is, of all of a trial's: torchrun and accelerate, Slurm, Open MPI, MPICH.
_OF_ALL = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
# The same within one pod, and the pod's index in an Indexed Job.
_OF_POD, _POD = "LOCAL_RANK", "JOB_COMPLETION_INDEX"
# How many processes there are, of all and of this pod's.
_SIZES = (("WORLD_SIZE", "LOCAL_WORLD_SIZE"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"))


def silent_because(env: Mapping[str, str]) -> str | None:
    """Return why this process is to be silent, in words such as RANK=3; None if it reports.

    The process of rank 0 in the pod of index 0 reports. If the processes of several pods have ranks of their own, their
    rank alone decides: a launcher may have rank 0 in any pod.

    Args:
        env: the process's environment.
    """
    ranked = next((name for name in _OF_ALL if _number(env, name) is not None), None)
    names = [ranked or _OF_POD]
    if ranked is None or not _over_pods(env):
        names.append(_POD)
    return next((f"{name}={env[name].strip()}" for name in names if _number(env, name)), None)


def is_one_of_several(env: Mapping[str, str]) -> bool:
    """Return whether this process is one of several of a trial's, all of which are in the pod of rank 0.

    Args:
        env: the process's environment.
    """
    ranked = any(_number(env, name) is not None for name in (*_OF_ALL, _OF_POD))
    alone = any(_number(env, whole) == 1 for whole, _ in _SIZES)
    return ranked and not (alone or _number(env, _POD) or _over_pods(env))


def _over_pods(env: Mapping[str, str]) -> bool:
    """Return whether the processes that are ranked are in several pods."""
    return any((_number(env, whole) or 0) > (_number(env, local) or 2**31) for whole, local in _SIZES)


def _number(env: Mapping[str, str], name: str) -> int | None:
    text = (env.get(name) or "").strip()
    return int(text) if text.isascii() and text.isdecimal() else None

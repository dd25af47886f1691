"""The environment of a trial's pod: read once, checked as a whole, with secrets kept out of `repr`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study_trial._errors import SetupError

# The operator sets all of these in every container of a trial. STUDY_PARAMS alone means a local run with
# given parameters; any other one without the rest is a container whose environment got lost on the way.
_POD_VARIABLES = (
    "STUDY_NAME",
    "STUDY_NAMESPACE",
    "STUDY_TRIAL_NUMBER",
    "STUDY_TRIAL_ID",
    "STUDY_PARAMS",
    "STUDY_SEARCH_SPACE",
    "STUDY_STORAGE_URL",
    "STUDY_STORAGE_KEY",
)


@dataclass(frozen=True)
class PodEnvironment:
    """What the operator tells a trial's pod. Timeouts are in seconds.

    `objectives` are the names of the study's objectives, in order; empty when an operator that did not tell them yet
    has started the pod. `constraints` are the names of what the study limits. `index` is the pod's in its Job, and
    `job` the Job's name; None when the operator did not tell.
    """

    study: str
    namespace: str
    number: int
    trial_id: int
    params: dict[str, Any]
    search_space: list[dict[str, Any]]
    url: str = field(repr=False)
    key: str = field(repr=False)
    report_timeout: float
    finish_timeout: float
    objectives: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    index: int = 0
    job: str | None = None


def read_pod_environment(env: Mapping[str, str]) -> PodEnvironment | None:
    """The pod's environment, or None outside a cluster.

    Raises:
        SetupError: some of the variables are missing, or one cannot be read.
    """
    if not any(env.get(name) for name in _POD_VARIABLES if name != "STUDY_PARAMS"):
        return None
    if missing := [name for name in _POD_VARIABLES if not env.get(name)]:
        raise SetupError(
            f"{', '.join(missing)} not set, although other STUDY_* variables are. In a trial's pod the "
            "operator sets all of them in every container: pass the whole environment on to the process that "
            "reports (sudo, ssh, mpirun and `env -i` drop it). For a local run unset every STUDY_* variable."
        )
    return PodEnvironment(
        study=env["STUDY_NAME"],
        namespace=env["STUDY_NAMESPACE"],
        number=_integer(env, "STUDY_TRIAL_NUMBER"),
        trial_id=_integer(env, "STUDY_TRIAL_ID"),
        params=_json(env, "STUDY_PARAMS", dict),
        search_space=_json(env, "STUDY_SEARCH_SPACE", list),
        url=env["STUDY_STORAGE_URL"],
        key=env["STUDY_STORAGE_KEY"],
        report_timeout=_seconds(env, "STUDY_REPORT_TIMEOUT", 5.0),
        finish_timeout=_seconds(env, "STUDY_FINISH_TIMEOUT", 3600.0),
        objectives=read_names(env, "STUDY_OBJECTIVES"),
        constraints=read_names(env, "STUDY_CONSTRAINTS"),
        index=_integer(env, "JOB_COMPLETION_INDEX") if env.get("JOB_COMPLETION_INDEX") else 0,
        job=env.get("STUDY_TRIAL_JOB") or None,
    )


def read_given_params(env: Mapping[str, str]) -> dict[str, Any]:
    """The parameters given for a local run in STUDY_PARAMS, empty when it is not set."""
    return _json(env, "STUDY_PARAMS", dict) if env.get("STUDY_PARAMS") else {}


def read_names(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    """The names in STUDY_OBJECTIVES or STUDY_CONSTRAINTS, empty when it is not set.

    Raises:
        SetupError: it is no JSON list.
    """
    return tuple(map(str, _json(env, name, list))) if env.get(name) else ()


def read_checkpoint_dir(env: Mapping[str, str]) -> Path | None:
    """The trial's directory for checkpoints, which is made if it is not there; None when there is none.

    Raises:
        SetupError: it cannot be made.
    """
    if not env.get("STUDY_CHECKPOINT_DIR"):
        return None
    path = Path(env["STUDY_CHECKPOINT_DIR"])
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"STUDY_CHECKPOINT_DIR is {str(path)!r}, which cannot be used: {error.strerror}") from None
    return path


def _integer(env: Mapping[str, str], name: str) -> int:
    try:
        return int(env[name])
    except ValueError:
        raise SetupError(f"{name} is {env[name]!r}, which is not a whole number") from None


def _seconds(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name) or str(default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise SetupError(f"{name} is {text!r}; write a number of seconds above 0, for example {default:g}")
    return seconds


def _json(env: Mapping[str, str], name: str, kind: type) -> Any:
    try:
        value = json.loads(env[name])
    except json.JSONDecodeError as error:
        raise SetupError(f"{name} is not valid JSON ({error}); it is {env[name][:200]!r}") from None
    if not isinstance(value, kind):
        wanted = "a JSON object" if kind is dict else "a JSON list"
        raise SetupError(f"{name} must be {wanted}; it is {env[name][:200]!r}")
    return value

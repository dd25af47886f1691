"""The environment of a trial's pod.

It is read once and checked as a whole. `repr` does not show its secrets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study_trial._errors import SetupError
from study_trial._ranks import is_one_of_several, silent_because
from study_trial._study import DIRECTIONS

# The operator sets all of these in every container of a trial. STUDY_PARAMS alone means a local run with given
# parameters. Any other variable without the rest means that the environment got lost between container and process.
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
    """What the operator passes on to a trial's pod.

    Attributes:
        study: the Study's name.
        namespace: the Study's namespace.
        number: the trial's number in its study, from 0.
        trial_id: the trial's id in Optuna's tables.
        params: the parameters that are active in this trial, by name.
        search_space: the Study's `spec.parameters`.
        url: libpq URL of the database, with the password, as it was when the container started.
        storage_directory: where the study's Secret is mounted, whose file `url` has the URL of now; None when an older
            operator started the pod.
        key: the study's key, which proves that a message comes from one of its pods.
        report_timeout: how long a report may wait for the database, in seconds.
        finish_timeout: how long final values are retried for, in seconds.
        objectives: the objectives' names, in order; empty when an older operator started the pod.
        constraints: the constraints' names, in order.
        silent_because: why another process of the trial reports, in words; None if this one does.
        one_of_several: whether this process is one of several of the trial's, all of them in this pod.
        job: the Job's name; None when an older operator started the pod.
        called: what the program calls those objectives and constraints that it does not call by their name.
        directions: "minimize" or "maximize" for each objective; empty when an older operator started the pod.
        optuna_name: the study's name in Optuna; None when an older operator started the pod.
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
    silent_because: str | None = None
    one_of_several: bool = False
    job: str | None = None
    directions: tuple[str, ...] = ()
    optuna_name: str | None = None
    storage_directory: Path | None = None
    called: Mapping[str, str] = field(default_factory=dict)


def read_pod_environment(env: Mapping[str, str]) -> PodEnvironment | None:
    """Return the pod's environment, or None outside a cluster.

    Raises:
        SetupError: some of the variables are missing, or one of them cannot be read.
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
        called=read_called(env),
        silent_because=silent_because(env),
        one_of_several=is_one_of_several(env),
        job=env.get("STUDY_TRIAL_JOB") or None,
        directions=read_directions(env),
        optuna_name=env.get("STUDY_OPTUNA_NAME") or None,
        storage_directory=Path(env["STUDY_STORAGE_DIRECTORY"]) if env.get("STUDY_STORAGE_DIRECTORY") else None,
    )


def read_given_params(env: Mapping[str, str]) -> dict[str, Any]:
    """Return the parameters that STUDY_PARAMS gives for a local run, none when it is not set.

    Raises:
        SetupError: it is not a JSON object.
    """
    return _json(env, "STUDY_PARAMS", dict) if env.get("STUDY_PARAMS") else {}


def read_param_variables(env: Mapping[str, str]) -> dict[str, str]:
    """Return the texts of PARAM_<name>, by the name as the variable has it: '.' and '-' of a parameter are '_' there.

    A copy of a trial's Job has these variables, without those of the study. PARAM_<name>_FLAG is no parameter of its
    own: it is PARAM_<name> as an option for a command line.
    """
    found = {name.removeprefix("PARAM_"): text for name, text in env.items() if name.startswith("PARAM_")}
    flags = {
        name
        for name, text in found.items()
        if name.endswith("_FLAG") and name.removesuffix("_FLAG") in found and (not text or text.startswith("--"))
    }
    return {name: text for name, text in found.items() if name not in flags}


def read_names(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Return the names in STUDY_OBJECTIVES or STUDY_CONSTRAINTS, none when it is not set.

    Args:
        name: the variable's name.

    Raises:
        SetupError: it is not a JSON list.
    """
    return tuple(map(str, _json(env, name, list))) if env.get(name) else ()


def read_called(env: Mapping[str, str]) -> dict[str, str]:
    """Return what the program calls objectives and constraints, by their names, as STUDY_METRICS has it.

    Returns:
        Only those that it does not call by their name.

    Raises:
        SetupError: it is not a JSON object.
    """
    given = _json(env, "STUDY_METRICS", dict) if env.get("STUDY_METRICS") else {}
    return {name: str(metric) for name, metric in given.items()}


def read_directions(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the objectives' directions in STUDY_DIRECTIONS, none when it is not set.

    Returns:
        "minimize" or "maximize" for each objective.

    Raises:
        SetupError: it is not a JSON list of these words.
    """
    directions = tuple(direction.lower() for direction in read_names(env, "STUDY_DIRECTIONS"))
    if any(direction not in DIRECTIONS for direction in directions):
        raise SetupError(
            f"STUDY_DIRECTIONS must be a JSON list of {' or '.join(map(repr, DIRECTIONS))}, one per objective; "
            f"it is {env['STUDY_DIRECTIONS'][:200]!r}"
        )
    return directions


def read_checkpoint_dir(env: Mapping[str, str]) -> Path | None:
    """Return the trial's directory for checkpoints, None when STUDY_CHECKPOINT_DIR is not set.

    Creates the directory if it does not exist.

    Raises:
        SetupError: the directory cannot be created.
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


def _json(env: Mapping[str, str], name: str, kind: type[Any]) -> Any:
    try:
        value = json.loads(env[name])
    except json.JSONDecodeError as error:
        raise SetupError(f"{name} is not valid JSON ({error}); it is {env[name][:200]!r}") from None
    if not isinstance(value, kind):
        wanted = "a JSON object" if kind is dict else "a JSON list"
        raise SetupError(f"{name} must be {wanted}; it is {env[name][:200]!r}")
    return value

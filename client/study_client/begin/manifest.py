"""Makes a Study of what a script has, and says what in it is guessed."""

from __future__ import annotations

import math
import re
from typing import Any

from study_client.begin.scripts import Found, Parameter
from study_client.errors import ClientError
from study_client.yaml_text import to_yaml

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
# What is tuned over orders of magnitude, by the names that programs give it.
_LOGARITHMIC = re.compile(r"(^|_)(lr|rate|decay|wd|alpha|lambda|eps|epsilon|gamma|reg|c)(_|$)|lr$|^lr", re.IGNORECASE)
_SHARE = re.compile(r"dropout|momentum|ratio|fraction|prob", re.IGNORECASE)
# Options that say how long or where a program runs, and make no better model.
_NOT_TUNED = re.compile(r"(^|_)(epochs?|seed|workers|gpus?|rank|port|verbose|debug|log_interval|steps|print)(_|$)")
_IMAGE = "registry.example.com/IMAGE:TAG"


def written(found: Found, script: str) -> tuple[str, list[str]]:
    """Return a Study as YAML, and what to check in it.

    Raises:
        ClientError: nothing is left to tune.
    """
    checks: list[str] = []
    parameters, arguments = [], []
    for one in found.parameters:
        if one.option and _NOT_TUNED.search(one.name.lower()):
            checks.append(f"{one.option} is not tuned: add it to spec.parameters if it makes a better model")
            continue
        if not _NAME.fullmatch(one.name):
            checks.append(f"{one.name!r} cannot be the name of a parameter, and is left out")
            continue
        parameters.append(_parameter(one, checks))
        if one.option:
            arguments.append(_argument(one))
    if not parameters:
        raise ClientError(f"{script} has no option that makes a better model, as far as their names say")
    objectives = _objectives(found, checks)
    checks += [f"{what}: it is not in the Study" for what in found.unclear]
    checks += [
        f"{option} has a text, and is not tuned: add it to args if the program needs it" for option in found.fixed
    ]
    if found.suggests:
        checks.append("which parameters only some trials suggest: give those a `when`")
    spec: dict[str, Any] = {"objectives": objectives, "parameters": parameters}
    if not found.library and not found.suggests:
        spec["metrics"] = {"from": "Stdout"}
        checks.append("metrics.from is Stdout: the program prints lines such as epoch=3 loss=0.31")
    elif not found.library:
        checks.append("the script begins with `import study_trial`, and ends with study_trial.run(objective)")
    container = {"name": "trial", "image": _IMAGE, "command": ["python", "-u", script]}
    container |= {"args": arguments} if arguments else {}
    pod = {"containers": [container]}
    spec |= {"maxTrials": 50, "parallelism": 2, "gpusPerTrial": 0}
    spec["jobTemplate"] = {"spec": {"activeDeadlineSeconds": 3600, "template": {"spec": pod}}}
    checks.append(f"image is {_IMAGE}: write one that has {script}, and the command that starts it there")
    checks.append("gpusPerTrial is 0, activeDeadlineSeconds 3600: what one trial gets, and may take")
    name = re.sub(r"[^a-z0-9]+", "-", script.removesuffix(".py").lower()).strip("-")[:50].strip("-") or "study"
    head = {"apiVersion": "study-operator.io/v1alpha1", "kind": "Study", "metadata": {"name": name}}
    comment = f"# Written for {re.sub(r'[^ -~]', '?', script)} by `kubectl study init`. What is guessed:\n"
    comment += "".join(f"#   - {re.sub(r'[^ -~]', '?', check)}\n" for check in checks)
    return comment + to_yaml({**head, "spec": spec}), checks


def _objectives(found: Found, checks: list[str]) -> list[dict[str, str]]:
    known = {"minimize": "Minimize", "maximize": "Maximize"}
    directions = [known[one] for one in found.directions if one in known]
    if not directions:
        checks.append("the objective is called loss and is minimised: write its name, and Maximize for an accuracy")
        return [{"name": "loss", "direction": "Minimize"}]
    checks.append("objectives have their directions from create_study, and no names of their own")
    if len(directions) == 1:
        return [{"name": "value", "direction": directions[0]}]
    return [{"name": f"value{place}", "direction": one} for place, one in enumerate(directions)]


def _parameter(one: Parameter, checks: list[str]) -> dict[str, Any]:
    if one.kind == "categorical":
        return {"name": one.name, "categorical": {"choices": list(one.choices)}}
    if one.low is not None and one.high is not None:
        bounds: dict[str, Any] = {"low": one.low, "high": one.high}
        log = one.log
    else:
        bounds, log = _guessed(one)
        default = "no default" if one.default is None else f"the default {one.default}"
        checks.append(f"the range of {one.name} is guessed from {default}: {bounds['low']} to {bounds['high']}")
    if one.kind == "float":
        bounds = {name: float(value) for name, value in bounds.items()}
    bounds |= {"log": True} if log else {}
    bounds |= {"step": one.step} if one.step is not None and not log else {}
    return {"name": one.name, one.kind: bounds}


def _guessed(one: Parameter) -> tuple[dict[str, Any], bool]:
    """Return a range about a default, and whether it is logarithmic."""
    default = one.default
    if _SHARE.search(one.name) and (default is None or 0 <= default < 1):
        return {"low": 0.0, "high": 0.95 if "momentum" in one.name.lower() else 0.5}, False
    if one.kind == "int":
        middle = default if default and default > 0 else 16
        return {"low": max(middle // 4, 1), "high": middle * 4}, middle >= 8
    if default is None or default == 0 or not math.isfinite(default) or default < 0:
        return {"low": 1e-5, "high": 1e-1}, True
    if _LOGARITHMIC.search(one.name) or default < 0.05:
        return {"low": _short(default / 100), "high": _short(default * 10)}, True
    return {"low": _short(default / 4), "high": _short(default * 4)}, True


def _short(value: float) -> float:
    return float(f"{value:.2g}")


def _argument(one: Parameter) -> str:
    variable = f"PARAM_{one.name.replace('.', '_').replace('-', '_')}"
    # A flag that is off is no argument at all.
    return f"$({variable}_FLAG)" if one.flag else f"{one.option}=$({variable})"

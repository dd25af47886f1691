"""The variables in which a trial has its parameters, and the arguments that a trial has not, because it has not those.

Kubernetes puts `$(NAME)` of a container's variables into `command`, `args` and `env`, and leaves every other `$(NAME)`
as it stands, so that a program would get the text itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from study_operator.model.distributions import Categorical
from study_operator.model.search_space import as_text
from study_operator.model.study import Study

# As Kubernetes reads it: a doubled dollar sign stands for itself, and a name ends at the first parenthesis.
_REFERENCE = re.compile(r"\$\$|\$\(([^)]*)\)")


def variable_name(parameter: str) -> str:
    """Return a parameter's name as part of an environment variable's name: '.' and '-' become '_'."""
    return parameter.replace(".", "_").replace("-", "_")


def parameter_variables(study: Study, params: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables in which a trial has its parameters, by name.

    A parameter that may be true, false or null has a second one, PARAM_<name>_FLAG, for command lines. It is the option
    `--<name>` for true, nothing for false and null, and `--<name>=<value>` for any other value. Programs commonly take
    the text false for true.

    Args:
        params: the parameters that are active in the trial.
    """
    found = {f"PARAM_{variable_name(name)}": as_text(value) for name, value in params.items()}
    for variable, name in flags_of(study).items():
        if name in params:
            found[variable] = _flag(name, params[name])
    return found


def _flag(name: str, value: Any) -> str:
    if value is None or value is False:
        return ""
    return f"--{name}" if value is True else f"--{name}={as_text(value)}"


def flags_of(study: Study) -> dict[str, str]:
    """Return the parameters that have a PARAM_<name>_FLAG, by that name. A parameter of that name has it for itself."""
    taken = {f"PARAM_{variable_name(name)}" for name in study.distributions}
    return {
        variable: name
        for name, known in study.distributions.items()
        if isinstance(known, Categorical)
        and any(choice is None or isinstance(choice, bool) for choice in known.choices)
        if (variable := f"PARAM_{variable_name(name)}_FLAG") not in taken
    }


def about(study: Study) -> dict[str, str]:
    """Return the parameter that each variable is about, by the variable's name."""
    return {**{f"PARAM_{variable_name(name)}": name for name in study.distributions}, **flags_of(study)}


def references(text: str) -> list[str]:
    """Return the names in a text that Kubernetes would replace, if there are such variables."""
    # Up to the last parenthesis: after it each beginning would be followed in vain, to the text's end.
    return [match[1] for match in _REFERENCE.finditer(text, 0, text.rfind(")") + 1) if match[1] is not None]


def leave_out_inactive(study: Study, container: dict[str, Any], variables: Mapping[str, str]) -> None:
    """Leave out the args of a container that refer to a parameter which the trial does not have, or to an empty flag.

    Args:
        container: a container of the trial's pod; it is changed.
        variables: the variables in which the trial has its parameters.
    """
    args = container.get("args")
    if not isinstance(args, list):
        return
    known = about(study)
    flags = flags_of(study)
    kept = []
    for place, text in enumerate(args):
        names = set(references(text)) & known.keys() if isinstance(text, str) else set()
        gone = {name for name in names if not variables.get(name) and (name in flags or name not in variables)}
        if not gone or not stands_alone(container, place, flags):
            kept.append(text)
    if len(kept) < len(args):
        container["args"] = kept


def stands_alone(container: Mapping[str, Any], place: int, flags: Mapping[str, str]) -> bool:
    """Return whether an element of args is one argument of the program that refers to one variable, and no other.

    A text with blanks is a script or a sentence, and what follows `-c` is a shell's. The element after an option
    without a value may be that value.
    """
    args, command = container["args"], container.get("command") or ()
    names, text = references(args[place]), args[place]
    if len(set(names)) != 1 or re.search(r"\s", text):
        return False
    before = str(args[place - 1] if place else command[-1] if command else "")
    if re.fullmatch(r"-[a-z]*c", before):
        return False
    bare = text == f"$({names[0]})" and names[0] not in flags
    return not (bare and before.startswith("-") and "=" not in before)

"""Find what a Job template says of variables that no trial has, before the first trial gets it as it stands.

Kubernetes leaves an unknown `$(NAME)` as it is, so a typing error would reach the program of each trial.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

from study_operator.manifests.variables import about, flags_of, references, stands_alone, variable_name
from study_operator.model.search_space import one_of
from study_operator.model.study import Refused, Study

_WHERE = "spec.jobTemplate.spec.template.spec"
_KATIB = re.compile(r"\$[({]trial(?:Parameters|Spec)\.[^)}\s]*[)}]?")
# In fields that Kubernetes takes as they are.
_ANYWHERE = re.compile(r"\$\(\s*PARAM_[^)]*\)|\$[({]trial(?:Parameters|Spec)\.[^)}\s]*[)}]?")
_REPLACED = re.compile(
    r"\.(?:initC|c)ontainers\[\d+\]\.(?:command\[|args\[|env\[\d+\]\.value$|volumeMounts.*subPathExpr$)"
)
_UNCLOSED = re.compile(r"(?<!\$)\$\(\s*((?:PARAM|STUDY)_[A-Za-z0-9_.-]*)[^)]*$", re.IGNORECASE)
# Other ways to a variable: $PARAM_x and ${PARAM_x} of a shell, os.environ["PARAM_x"] of a script in args. A name that
# ends in "_" is put together by the program.
_WORD = re.compile(r"(?<![A-Za-z0-9_])(PARAM_[A-Za-z0-9_]*[A-Za-z0-9])(?![A-Za-z0-9_])")
_ASSIGNED = re.compile(r"(?<![A-Za-z0-9_$])(PARAM_[A-Za-z0-9_]+)=(?!=)")
_SHELL_FORM = re.compile(r"\$\{?(PARAM_[A-Za-z0-9_]+)")
_INTERPRETER = re.compile(r"(?:.*/)?(?:[a-z]*sh|busybox|python[0-9.]*|perl|ruby|node)")
# Variables of these names are the operator's, as check_template has it. So none of them comes from envFrom.
_OPERATORS = ("PARAM_", "STUDY_STORAGE_", "STUDY_TRIAL_")
_MOST_NAMES = 20  # in a message


class _Text(NamedTuple):
    """A text of a container in which Kubernetes replaces variables.

    Attributes:
        where: its place in the Study.
        text: as it is written.
        container: the container.
        field: command, args, env or volumeMounts.
        place: its place in that list.
    """

    where: str
    text: str
    container: Mapping[str, Any]
    field: str
    place: int


def check_references(study: Study, own: Collection[str]) -> list[str]:
    """Check that the Job template refers to variables that there are.

    Args:
        study: the Study, whose template has the shape of a Job's.
        own: the names of the variables that the operator sets in a trial with every parameter.

    Returns:
        What is likely a mistake, and may be none: sentences for the user.

    Raises:
        Refused: a reference would reach the program as it stands. The message says where, and what there is.
    """
    warnings: dict[str, None] = {}
    for text in _texts(study):
        for name in references(text.text):
            warnings |= dict.fromkeys(_check_reference(study, own, text, name))
        # After the last parenthesis: before it each beginning would be followed in vain.
        if match := _UNCLOSED.search(text.text, text.text.rfind(")") + 1):
            _refuse(text, f"begins $({match[1]} and has no closing parenthesis: write $({match[1]})")
        if match := _KATIB.search(text.text):
            write = f"$(PARAM_<name>), such as {_names(own)}, or $(STUDY_TRIAL_NUMBER)"
            if "trialSpec" in match[0]:
                write = "$(STUDY_TRIAL_JOB) for the Job's name, and for the rest a variable in env with a fieldRef"
            _refuse(text, f"has {match[0]}, which is Katib's: write {write}")
        warnings |= dict.fromkeys(_check_words(own, text))
    template = study.job_template["spec"]["template"]
    _check_elsewhere(template["spec"], _WHERE)
    for kind, number, container in _containers(template["spec"]):
        warnings |= dict.fromkeys(_check_all_left_out(study, container, f"{_WHERE}.{kind}[{number}]"))
    return list(warnings)


def _check_reference(study: Study, own: Collection[str], text: _Text, name: str) -> Iterator[str]:
    variable = name.strip()
    if name in own:
        _check_conditional(study, text, name)
        if name in flags_of(study) and text.text != f"$({name})" and not re.search(r"\s", text.text):
            _refuse(text, f"has $({name}), which is an option by itself, or nothing: write $({name}) alone")
        yield from _check_boolean(study, text, name)
        return
    if any(name == other.get("name") for other in text.container.get("env") or ()):
        return
    if inner := re.search(r"\$\((PARAM_[A-Za-z0-9_.-]*)", name):
        _refuse(
            text,
            f"has $({inner[1]}) inside other parentheses, where Kubernetes does not look: write "
            f"${variable_name(inner[1])}",
        )
    if variable.upper().startswith(_OPERATORS):
        _refuse(text, f"refers to $({name}), which no trial has: {_closest(own, variable)}")
    if variable == "STUDY_CHECKPOINT_DIR":
        _refuse(text, f"refers to $({name}), which trials have with spec.checkpoints alone: add it, or remove this")
    if variable.upper().startswith("STUDY_") and not text.container.get("envFrom"):
        _refuse(text, f"refers to $({name}), which no trial has: {_closest(own, variable)}")
    for known in study.distributions:
        if variable_name(variable).lower() == variable_name(known).lower():
            yield (
                f"{text.where} has $({name}), which is no variable: if it means the parameter {known}, write "
                f"$(PARAM_{variable_name(known)})"
            )


def _check_conditional(study: Study, text: _Text, variable: str) -> None:
    """Check that a parameter that some trials do not have is named only where it can be left out."""
    name = about(study).get(variable)
    if name is None or study.space.always(name):
        return
    if text.field == "args" and stands_alone(text.container, text.place, flags_of(study)):
        return
    condition = study.space.conditions.get(name)
    when = f" only when {condition.parent} is {one_of(condition.values)}" if condition else " not always"
    _refuse(
        text,
        f"refers to $({variable}), and a trial has {name}{when}: give it an element of args of its own, such as "
        f'"--{name}=$({variable})", which is left out of other trials; or let a shell decide: '
        f"sh -c 'exec train ${{{variable}:+--{name}=${variable}}}'",
    )


def _check_boolean(study: Study, text: _Text, variable: str) -> Iterator[str]:
    flag = f"{variable}_FLAG"
    option = re.fullmatch(r"(-[^=\s]+)=\$\(\w+\)", text.text)
    if flag in flags_of(study) and text.field == "args" and option:
        yield (
            f"{text.where} is {option[1]}=true or {option[1]}=false, and programs whose option has Python's type bool "
            f"take both for True: if so, write $({flag}), which is {option[1]} or nothing"
        )


def _check_words(own: Collection[str], text: _Text) -> Iterator[str]:
    referred = {name.strip() for name in references(text.text)} | set(_ASSIGNED.findall(text.text))
    for word in dict.fromkeys(_WORD.findall(text.text)):
        if word not in own and word not in referred:
            yield f"{text.where} names {word}, which no trial has: {_closest(own, word)}"
    if text.field == "volumeMounts":
        return
    program = [word for name in ("command", "args") for word in _list(text.container, name) if isinstance(word, str)]
    if text.field != "env" and (
        not _list(text.container, "command") or any(_INTERPRETER.fullmatch(word) for word in program)
    ):
        return  # a shell may see the text
    for match in _SHELL_FORM.finditer(text.text):
        if match[1] in own:
            yield (
                f"{text.where} has {match[0]}{'}' if '{' in match[0] else ''}, which only a shell replaces, and there "
                f"is none: write $({match[1]})"
            )


def _check_elsewhere(value: Any, where: str) -> None:
    """Check that no other field of the pod refers to a parameter, such as its image: Kubernetes looks at none of them.

    Raises:
        Refused: one does.
    """
    if isinstance(value, str):
        if (match := _ANYWHERE.search(value)) and not _REPLACED.search(where):
            raise Refused(
                "JobTemplateInvalid",
                f"{where} has {match[0]}, and Kubernetes replaces variables in command, args, env and subPathExpr of "
                "containers alone: write the value itself, or let the program read the variable",
            )
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            _check_elsewhere(inner, f"{where}.{name}")
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            _check_elsewhere(inner, f"{where}[{place}]")


def _check_all_left_out(study: Study, container: Mapping[str, Any], where: str) -> Iterator[str]:
    args, flags = _list(container, "args"), flags_of(study)
    if not args or container.get("command") or not all(isinstance(text, str) for text in args):
        return
    known = about(study)
    names = [name for text in args for name in references(text)[:1] if name in known]
    if len(names) == len(args) and all(
        (name in flags or not study.space.always(known[name])) and stands_alone(container, place, flags)
        for place, name in enumerate(names)
    ):
        yield (
            f"{where}.args may all be left out of a trial, and Kubernetes then runs the arguments (CMD) of the image: "
            "give the container a command"
        )


def _containers(pod: Mapping[str, Any]) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    for kind in ("initContainers", "containers"):
        yield from ((kind, number, container) for number, container in enumerate(pod.get(kind) or ()))


def _texts(study: Study) -> Iterator[_Text]:
    for kind, number, container in _containers(study.job_template["spec"]["template"]["spec"]):
        where = f"{_WHERE}.{kind}[{number}]"
        for field in ("command", "args"):
            for place, text in enumerate(_list(container, field)):
                if isinstance(text, str):
                    yield _Text(f"{where}.{field}[{place}]", text, container, field, place)
        for field, inner in (("env", "value"), ("volumeMounts", "subPathExpr")):
            for place, item in enumerate(_list(container, field)):
                if isinstance(item.get(inner), str):
                    yield _Text(f"{where}.{field}[{place}].{inner}", item[inner], container, field, place)


def _list(container: Mapping[str, Any], field: str) -> list[Any]:
    found = container.get(field)
    return found if isinstance(found, list) else []


def _closest(own: Collection[str], name: str) -> str:
    """Return what a name could have meant, and what there is."""
    by_spelling = {known.lower(): known for known in own}
    similar = difflib.get_close_matches(variable_name(name).lower(), by_spelling, 1)
    meant = f"write $({by_spelling[similar[0]]}); " if similar else ""
    return f"{meant}there are {_names(own)}"


def _names(own: Collection[str]) -> str:
    known = sorted(name for name in own if name.startswith("PARAM_"))
    return ", ".join(f"$({name})" for name in known[:_MOST_NAMES]) + (", ..." if len(known) > _MOST_NAMES else "")


def _refuse(text: _Text, words: str) -> NoReturn:
    raise Refused("JobTemplateInvalid", f"{text.where} {words}")

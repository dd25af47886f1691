"""Find what a Job template says of variables that no trial has, before the first trial gets it as it stands.

Kubernetes leaves an unknown `$(NAME)` as it is, so a typing error would reach the program of each trial.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, NoReturn

from study_operator.manifests.variables import about, flags_of, references, stands_alone, variable_name
from study_operator.model.search_space import one_of
from study_operator.model.study import Refused, Study

_WHERE = "spec.jobTemplate.spec.template.spec"
_KATIB = re.compile(r"\$[({]trial(?:Parameters|Spec)\.[^)}\s]*[)}]?")
# In fields that Kubernetes takes as they are.
_ANYWHERE = re.compile(r"\$\(\s*PARAM_[^()]*\)|\$[({]trial(?:Parameters|Spec)\.[^)}\s]*[)}]?")
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
_MOST_WARNINGS = 10  # more help nobody, and each takes time to word


_Sentence = Callable[[], str]  # words a warning: that may take longer than to find it


class _Known(NamedTuple):
    """What a Study's texts can refer to.

    Attributes:
        study: the Study.
        own: the names of the operator's variables.
        about: the parameter that each variable is about.
        flags: the parameters that have a flag, by its variable.
        spelt: the parameters by the lower-case form of their variables' names, without PARAM_.
    """

    study: Study
    own: frozenset[str]
    about: Mapping[str, str]
    flags: Mapping[str, str]
    spelt: Mapping[str, str]


class _Text(NamedTuple):
    """A text of a container in which Kubernetes replaces variables.

    Attributes:
        where: its place in the Study.
        text: as it is written.
        container: the container.
        variables: the names of the container's own variables.
        shell: whether a shell's form of a variable may be replaced in it.
        field: command, args, env or volumeMounts.
        place: its place in that list.
    """

    where: str
    text: str
    container: Mapping[str, Any]
    variables: frozenset[str]
    shell: bool
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
    known = _Known(
        study,
        frozenset(own),
        about(study),
        flags_of(study),
        {variable_name(name).lower(): name for name in study.distributions},
    )
    warnings: dict[str, None] = {}
    for say in list(_warnings(known)):  # a list: what is refused comes before all warnings
        if len(warnings) == _MOST_WARNINGS:
            return [*warnings, "there are more like these"]
        warnings[say()] = None
    return list(warnings)


def _warnings(known: _Known) -> Iterator[_Sentence]:
    for text in _texts(known.study):
        for name in dict.fromkeys(references(text.text)):
            yield from _check_reference(known, text, name)
        # After the last parenthesis: before it each beginning would be followed in vain.
        if match := _UNCLOSED.search(text.text, text.text.rfind(")") + 1):
            _refuse(text, f"begins $({match[1]} and has no closing parenthesis: write $({match[1]})")
        if match := _KATIB.search(text.text):
            write = f"$(PARAM_<name>), such as {_names(known)}, or $(STUDY_TRIAL_NUMBER)"
            if "trialSpec" in match[0]:
                write = "$(STUDY_TRIAL_JOB) for the Job's name, and for the rest a variable in env with a fieldRef"
            _refuse(text, f"has {match[0]}, which is Katib's: write {write}")
        yield from _check_words(known, text)
    template = known.study.job_template["spec"]["template"]
    _check_elsewhere(template["spec"], _WHERE)
    for kind, number, container in _containers(template["spec"]):
        yield from _check_all_left_out(known, container, f"{_WHERE}.{kind}[{number}]")


def _check_reference(known: _Known, text: _Text, name: str) -> Iterator[_Sentence]:
    variable = name.strip()
    if name in known.own:
        _check_conditional(known, text, name)
        if name in known.flags and text.text != f"$({name})" and not re.search(r"\s", text.text):
            _refuse(text, f"has $({name}), which is an option by itself, or nothing: write $({name}) alone")
        yield from _check_boolean(known, text, name)
        return
    if name in text.variables:
        return
    if inner := re.search(r"\$\((PARAM_[A-Za-z0-9_.-]*)", name):
        _refuse(
            text,
            f"has $({inner[1]}) inside other parentheses, where Kubernetes does not look: write "
            f"${variable_name(inner[1])}",
        )
    if variable.upper().startswith(_OPERATORS):
        _refuse(text, f"refers to $({name}), which no trial has: {_closest(known, variable)}")
    if variable == "STUDY_CHECKPOINT_DIR":
        _refuse(text, f"refers to $({name}), which trials have with spec.checkpoints alone: add it, or remove this")
    if variable.upper().startswith("STUDY_") and not text.container.get("envFrom"):
        _refuse(text, f"refers to $({name}), which no trial has: {_closest(known, variable)}")
    if parameter := known.spelt.get(variable_name(variable).lower()):
        yield (
            lambda: (
                f"{text.where} has $({name}), which is no variable: if it means the parameter {parameter}, write "
                f"$(PARAM_{variable_name(parameter)})"
            )
        )


def _check_conditional(known: _Known, text: _Text, variable: str) -> None:
    """Check that a parameter that some trials do not have is named only where it can be left out."""
    name, space = known.about.get(variable), known.study.space
    if name is None or space.always(name):
        return
    if text.field == "args" and stands_alone(text.container, text.place, known.flags):
        return
    condition = space.conditions.get(name)
    when = f" only when {condition.parent} is {one_of(condition.values)}" if condition else " not always"
    _refuse(
        text,
        f"refers to $({variable}), and a trial has {name}{when}: give it an element of args of its own, such as "
        f'"--{name}=$({variable})", which is left out of other trials; or let a shell decide: '
        f"sh -c 'exec train ${{{variable}:+--{name}=${variable}}}'",
    )


def _check_boolean(known: _Known, text: _Text, variable: str) -> Iterator[_Sentence]:
    flag = f"{variable}_FLAG"
    if flag not in known.flags or text.field != "args":
        return
    if option := re.fullmatch(r"(-[^=\s]+)=\$\(\w+\)", text.text):
        yield (
            lambda: (
                f"{text.where} is {option[1]}=true or {option[1]}=false, and programs whose option has Python's type "
                f"bool take both for True: if so, write $({flag}), which is {option[1]} or nothing"
            )
        )


def _check_words(known: _Known, text: _Text) -> Iterator[_Sentence]:
    referred = {name.strip() for name in references(text.text)} | set(_ASSIGNED.findall(text.text))
    for word in dict.fromkeys(_WORD.findall(text.text)):
        if word not in known.own and word not in referred:
            yield partial(_word_of_none, known, text.where, word)
    if text.shell:
        return
    for form, name in dict.fromkeys((match[0], match[1]) for match in _SHELL_FORM.finditer(text.text)):
        if name in known.own:
            yield partial(_shell_form, text.where, form, name)


def _word_of_none(known: _Known, where: str, word: str) -> str:
    return f"{where} names {word}, which no trial has: {_closest(known, word)}"


def _shell_form(where: str, form: str, name: str) -> str:
    whole = f"{form}}}" if "{" in form else form
    return f"{where} has {whole}, which only a shell replaces, and there is none: write $({name})"


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


def _check_all_left_out(known: _Known, container: Mapping[str, Any], where: str) -> Iterator[_Sentence]:
    args, flags = _list(container, "args"), known.flags
    if not args or container.get("command") or not all(isinstance(text, str) for text in args):
        return
    names = [name for text in args for name in references(text)[:1] if name in known.about]
    if len(names) == len(args) and all(
        (name in flags or not known.study.space.always(known.about[name])) and stands_alone(container, place, flags)
        for place, name in enumerate(names)
    ):
        yield (
            lambda: (
                f"{where}.args may all be left out of a trial, and Kubernetes then runs the arguments (CMD) of the "
                "image: give the container a command"
            )
        )


def _containers(pod: Mapping[str, Any]) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    for kind in ("initContainers", "containers"):
        yield from ((kind, number, container) for number, container in enumerate(pod.get(kind) or ()))


def _texts(study: Study) -> Iterator[_Text]:
    for kind, number, container in _containers(study.job_template["spec"]["template"]["spec"]):
        where = f"{_WHERE}.{kind}[{number}]"
        variables = frozenset(
            name for other in container.get("env") or () if isinstance(name := other.get("name"), str)
        )
        shell = _may_have_a_shell(container)
        for field in ("command", "args"):
            for place, text in enumerate(_list(container, field)):
                if isinstance(text, str):
                    yield _Text(f"{where}.{field}[{place}]", text, container, variables, shell, field, place)
        for field, inner, seen in (("env", "value", False), ("volumeMounts", "subPathExpr", True)):
            for place, item in enumerate(_list(container, field)):
                if isinstance(text := item.get(inner), str):
                    yield _Text(f"{where}.{field}[{place}].{inner}", text, container, variables, seen, field, place)


def _may_have_a_shell(container: Mapping[str, Any]) -> bool:
    """Return whether a shell may see a container's arguments: the image's own program may be one."""
    command = _list(container, "command")
    words = [word for word in (*command, *_list(container, "args")) if isinstance(word, str)]
    return not command or any(_INTERPRETER.fullmatch(word) for word in words)


def _list(container: Mapping[str, Any], field: str) -> list[Any]:
    found = container.get(field)
    return found if isinstance(found, list) else []


def _closest(known: _Known, name: str) -> str:
    """Return what a name could have meant, and what there is."""
    by_spelling = {own.lower(): own for own in sorted(known.own)}
    similar = difflib.get_close_matches(variable_name(name).lower(), by_spelling, 1)
    meant = f"write $({by_spelling[similar[0]]}); " if similar else ""
    return f"{meant}there are {_names(known)}"


def _names(known: _Known) -> str:
    names = sorted(name for name in known.own if name.startswith("PARAM_"))
    return ", ".join(f"$({name})" for name in names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")


def _refuse(text: _Text, words: str) -> NoReturn:
    raise Refused("JobTemplateInvalid", f"{text.where} {words}")

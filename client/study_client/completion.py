"""Completion: kubectl calls `kubectl_complete-study` with what stands on the command line so far."""

from __future__ import annotations

import re
from collections.abc import Sequence

from study_client.arguments import COMMANDS, Options
from study_client.errors import ClientError
from study_client.kubectl import Kubectl
from study_client.trials import Trials

_NO_FILES = ":4"  # the directive of kubectl's completion: nothing but these words
_FILES = ":0"
_OF_TRIALS = ("describe", "logs")
_WITHOUT_STUDY = ("list", "init", "validate", "run", "version")
_NAME = re.compile(r"[a-z0-9][a-z0-9./-]*")


def completions(words: Sequence[str]) -> tuple[list[str], str]:
    """Return what may stand in place of the last word, and kubectl's directive.

    Args:
        words: what stands after `kubectl study`; the last one is not finished, and may be empty.
    """
    *before, last = words or [""]
    options, plain = Options.taken_from(before)
    if not plain:
        return [name for name in COMMANDS if name.startswith(last)], _NO_FILES
    command = plain[0]
    if command in ("init", "validate", "run"):
        return [], _FILES
    if command in _WITHOUT_STUDY or last.startswith("-"):
        return [], _NO_FILES
    kubectl = Kubectl(options.kubectl, options.namespace)
    try:
        return [name for name in _names(kubectl, command, last) if name.startswith(last)], _NO_FILES
    except ClientError:
        return [], _NO_FILES  # a completion has nowhere to say why


def _names(kubectl: Kubectl, command: str, last: str) -> list[str]:
    study, slash, _ = last.partition("/")
    if command in _OF_TRIALS and slash:
        return [f"{study}/{trial.number}" for trial in Trials(kubectl).of(study)]
    # What a shell would take for more than a name is no name.
    return [name for one in kubectl.studies() if _NAME.fullmatch(name := one["metadata"]["name"])]

"""Calls what a command does."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from study_client import (
    VERSION,
    acting,
    begin,
    curves,
    doctor,
    importance,
    logs,
    operators_rooms,
    showing,
    status,
    trial_tables,
    waiting,
)
from study_client.arguments import duration, options_of
from study_client.errors import ClientError
from study_client.kubectl import Kubectl
from study_client.studies import trial_name


def run(given: argparse.Namespace) -> int:
    """Run a command, and return its exit code.

    Raises:
        ClientError: it cannot do what it was asked.
    """
    match given.command:
        case "version":
            print(f"kubectl study {VERSION}")
            return 0
        case "init" | "validate" | "run":
            return _without_cluster(given)
    everywhere = getattr(given, "all_namespaces", False)
    kubectl = Kubectl(options_of(given), given.namespace, everywhere)
    name = getattr(given, "name", None)
    if name and given.command != "logs" and "/" in name:
        raise ClientError(f"{name!r} is no name of a Study; trials are named so in describe and logs")
    return _reading(given, kubectl) if given.command in _READING else _changing(given, kubectl)


_READING = (
    *("list", "status", "best", "trials", "describe", "logs", "curve", "compare", "importance", "export", "wait"),
    "doctor",
)


def _reading(given: argparse.Namespace, kubectl: Kubectl) -> int:
    match given.command:
        case "list":
            return showing.list_studies(kubectl, given.output, given.selector, datetime.now(UTC))
        case "status":
            return status.status(kubectl, given.name, given.watch)
        case "best":
            return showing.best(kubectl, given.name, given.output)
        case "trials":
            return trial_tables.trials(
                kubectl, given.name, given.output, given.best, given.state, given.sort, given.reverse
            )
        case "describe":
            return trial_tables.describe(kubectl, trial_name(given.trial), given.output)
        case "logs":
            more = [f"--tail={given.tail}"] if given.tail is not None else []
            more += ["--previous"] if given.previous else []
            return logs.logs(kubectl, given.name, given.best, given.failed, given.follow, more)
        case "curve":
            return curves.curve(kubectl, given.name, given.numbers)
        case "compare":
            return trial_tables.compare(kubectl, given.names)
        case "importance":
            return importance.importance(kubectl, given.name)
        case "export":
            return trial_tables.export(kubectl, given.name, given.output, given.file)
        case "wait":
            timeout = duration(given.timeout) if given.timeout else None
            return waiting.wait(kubectl, given.name, given.wanted, timeout)
    return doctor.doctor(kubectl, given.name)


def _changing(given: argparse.Namespace, kubectl: Kubectl) -> int:
    match given.command:
        case "suspend":
            return acting.suspend(kubectl, given.name)
        case "resume":
            return acting.resume(kubectl, given.name)
        case "scale":
            return acting.scale(kubectl, given.name, given.slots)
        case "extend":
            return acting.extend(kubectl, given.name, given.trials)
        case "stop":
            return acting.stop(kubectl, given.name, given.now)
    return acting.clone(kubectl, given.name, given.changes, given.new_name, given.output)


def _without_cluster(given: argparse.Namespace) -> int:
    match given.command:
        case "init":
            return begin.init(given.script, given.file)
        case "validate":
            return operators_rooms.validate(given.files)
    return operators_rooms.run_local(given.file, given.trials, given.parallel, given.program)

"""The command `study-trial`, which does for any language what `study_trial` does for Python."""

from __future__ import annotations

import argparse
import atexit
import importlib
import importlib.util
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from study_trial._channels import open_channel
from study_trial._environment import read_called, read_given_params, read_names, read_pod_environment
from study_trial._errors import InvalidValueError, StudyTrialError
from study_trial._follow import Follower
from study_trial._output import say
from study_trial._reading import numerals
from study_trial._reading.entry import Names, Source
from study_trial._reading.jsonlines import JsonLines
from study_trial._reading.tensorboard import TensorBoard
from study_trial._reading.text import Text
from study_trial._trial import Trial, current, current_of_command, flush_at_exit, run

_DESCRIPTION = """\
Lets a program in any language be a trial of a Study.

In a trial's pod the operator has set everything that is needed in the environment. Outside a cluster the same
commands run locally: parameters are those in STUDY_PARAMS (JSON) or defaults, and reports are printed to
stderr.
"""

_EPILOG = """\
exit codes: 0 done; 1 refused, or a final value could not be delivered; 2 the command line is wrong and
nothing was sent; 3 the trial is to stop (only `report --exit-code`).

environment: STUDY_REPORT_TIMEOUT, how many seconds a report or attribute may take (default 5);
STUDY_FINISH_TIMEOUT, how many seconds a final value is retried for (default 3600).
"""

_REPORT = """\
Reports an intermediate value and prints "stop" when the study has pruned this trial, else "continue".

A database that is away is retried for STUDY_REPORT_TIMEOUT seconds (5). After that the value is lost, with a
warning on stderr; the command prints "continue" and exits with 0: one lost report must not end a training
run.
"""

_FINISH = """\
Stores the final value, or with several objectives one for each, in the Study's order; and with --constraint
what was measured of that which the Study limits. A database that is away is retried for STUDY_FINISH_TIMEOUT
seconds (3600); if it is still away then, the value is printed to stderr and the exit code is 1.
"""

_INFEASIBLE = """\
Ends the trial without a value: these parameters cannot work, for example because the model does not fit into
memory. That is no failure; the study learns to avoid such parameters. A database that is away is treated as
by `study-trial finish`.
"""

_RUN = """\
Runs an objective function, as Optuna has it, and stores what it returns: `study-trial run train.py:objective`
or `study-trial run package.module:objective`. Further arguments, after --, become the script's sys.argv.
"""

_PARAMS = """\
Prints all parameters that are active in this trial as one JSON object, or the one named as text. In a local
run: those that were given.
"""

_ATTR = """\
Stores an attribute that shows in Optuna's tools. VALUE is stored as JSON if it is JSON (0.5, true, [1, 2]),
else as text. A database that is away is treated as by `study-trial report`.
"""

_FOLLOW = """\
Reads metrics that a program writes to a file, and reports them in its place, live, until SIGTERM. The operator runs
this beside the program where the Study has metrics from File. Names are those in STUDY_OBJECTIVES and
STUDY_CONSTRAINTS (JSON lists), or what STUDY_METRICS (a JSON object) says that the program calls them; the last value
of each is the final one. In a local run end it by Ctrl-C.
"""

STOP_EXIT_CODE = 3
_NEGATIVE = re.compile(r"-(?:\.?[0-9]|inf(?:inity)?$|nan$)", re.I)

_Command = Callable[[argparse.Namespace], int]


class _UsageError(Exception):
    """The command line is wrong, and argparse cannot see it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the command line without the program's name; None for that of this process.

    Returns:
        The exit code.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    script_arguments: list[str] = []
    if argv[:1] == ["run"] and "--" in argv:  # argparse would want these arguments before the options
        split = argv.index("--")
        argv, script_arguments = argv[:split], argv[split + 1 :]
    arguments = _parser().parse_args(_protect_numbers(argv))
    arguments.script_arguments = script_arguments
    command: _Command = arguments.command
    try:
        return command(arguments)
    except (_UsageError, InvalidValueError) as error:
        say(str(error))
        return 2
    except StudyTrialError as error:
        say(str(error))
        return 1


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("study-trial", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function: _Command, summary: str, description: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=description, formatter_class=raw)
        command.set_defaults(command=function)
        return command

    report = add("report", _report, "report an intermediate value", _REPORT)
    report.add_argument("--step", required=True, help="for example the epoch; the whole part of a number from 0 counts")
    report.add_argument("--exit-code", action="store_true", help=f"exit with {STOP_EXIT_CODE} for stop")
    report.add_argument("value", help="a number; nan, inf and -inf are taken")
    finish = add("finish", _finish, "store the final value", _FINISH)
    finish.add_argument("--pruned", action="store_true", help="the program itself ended the trial early")
    finish.add_argument(
        "--constraint",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="the value of one of the Study's constraints, for example latency_ms=43; repeatable",
    )
    finish.add_argument("values", nargs="*", metavar="value", help="a number, one per objective")
    infeasible = add("infeasible", _infeasible, "end the trial: its parameters cannot work", _INFEASIBLE)
    infeasible.add_argument("reason", help="why, in a text of at most 1000 characters")
    runs = add("run", _run, "run an Optuna objective", _RUN)
    runs.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of a local run; repeatable",
    )
    runs.add_argument("objective", help="FILE.py:FUNCTION or MODULE:FUNCTION")
    params = add("params", _params, "print the parameters", _PARAMS)
    params.add_argument("name", nargs="?")
    follow = add("follow", _follow, "report what a program writes to a file", _FOLLOW)
    follow.add_argument(
        "--format", choices=["JsonLines", "Text", "TensorBoard"], default="JsonLines", help="default: JsonLines"
    )
    follow.add_argument("--path", required=True, help="the file; for TensorBoard the directory of its event files")
    follow.add_argument("--step-name", default="epoch", help="of the step in a line; default: epoch")
    follow.add_argument(
        "--pattern", help="with Text, a regular expression of one value, with the named groups name and value"
    )
    follow.add_argument(
        "--final",
        action="append",
        default=[],
        metavar="NAME=Min|Max",
        help="take an objective's lowest or highest value as the final one; repeatable; default: the last one",
    )
    follow.add_argument(
        "--additional",
        action="append",
        default=[],
        metavar="NAME",
        help="store the last value of this name as an attribute of the trial; repeatable",
    )
    attr = add("attr", _attr, "store an attribute of the trial", _ATTR)
    attr.add_argument("name")
    attr.add_argument("value")
    return parser


def _protect_numbers(argv: Sequence[str]) -> list[str]:
    """Put a space before negative numbers, because argparse takes -1e-5 and -inf for options."""
    protected: list[str] = []
    for position, argument in enumerate(argv):
        if argument == "--":
            return [*protected, *argv[position:]]
        protected.append(f" {argument}" if _NEGATIVE.match(argument) else argument)
    return protected


def _number(text: str, what: str) -> float:
    try:
        return numerals.number(text)
    except numerals.Unreadable as error:
        if error.why == "is no number":
            raise _UsageError(f"{what} must be a number, not {text.strip()!r}; nothing was sent") from None
        raise _UsageError(f"{what}: {error}; nothing was sent") from None


def _report(arguments: argparse.Namespace) -> int:
    value = _number(arguments.value, "the reported value")
    trial = current_of_command()
    trial.report(value, arguments.step)
    _warn_of_losses(trial)
    stop = trial.should_prune()
    print("stop" if stop else "continue")
    return STOP_EXIT_CODE if stop and arguments.exit_code else 0


def _finish(arguments: argparse.Namespace) -> int:
    values = [_number(text, "the final value") for text in arguments.values]
    constraints = {}
    for text in arguments.constraint:
        name, separator, value = text.rpartition("=")
        if not separator or not name:
            raise _UsageError(
                f"--constraint takes NAME=VALUE, for example latency_ms=43, not {text!r}; nothing was sent"
            )
        constraints[name] = _number(value, f"constraint {name!r}")
    trial = current_of_command()
    for name, value in constraints.items():
        trial.set_constraint(name, value)
    trial.finish(values, pruned=arguments.pruned)
    return 0


def _infeasible(arguments: argparse.Namespace) -> int:
    current_of_command().mark_infeasible(arguments.reason)
    return 0


def _attr(arguments: argparse.Namespace) -> int:
    try:
        value = json.loads(arguments.value)
    except json.JSONDecodeError:
        value = arguments.value
    trial = current_of_command()
    trial.set_user_attr(arguments.name, value)
    _warn_of_losses(trial)
    return 0


def _params(arguments: argparse.Namespace) -> int:
    params = current_of_command().params
    if arguments.name is None:
        print(json.dumps(params))
    else:
        value = params[arguments.name]
        print(value if isinstance(value, str) else json.dumps(value))
    return 0


def _follow(arguments: argparse.Namespace) -> int:
    pod = read_pod_environment(os.environ)
    objectives, constraints = (read_names(os.environ, f"STUDY_{what}") for what in ("OBJECTIVES", "CONSTRAINTS"))
    if not objectives:
        raise _UsageError('STUDY_OBJECTIVES is not set: a JSON list of names, for example ["accuracy"]')
    finals = dict(_final(text) for text in arguments.final)
    names = Names(objectives, constraints, read_called(os.environ), finals, arguments.additional)
    Follower(_source(arguments, names), names, open_channel(pod)).run()
    return 0


def _source(arguments: argparse.Namespace, names: Names) -> Source:
    if arguments.pattern is not None and arguments.format != "Text":
        raise _UsageError("--pattern is for --format Text: remove it")
    if arguments.format == "TensorBoard":
        return TensorBoard(arguments.path, names)
    if arguments.format == "JsonLines":
        return JsonLines(arguments.path, names, arguments.step_name)
    try:
        return Text(arguments.path, names, arguments.step_name, arguments.pattern)
    except (re.error, IndexError) as error:
        raise _UsageError(f"--pattern: {error}") from None


def _final(text: str) -> tuple[str, str]:
    name, _, word = text.partition("=")
    if word not in ("Min", "Max"):
        raise _UsageError(f"--final takes NAME=Min or NAME=Max, for example accuracy=Max, not {text!r}")
    return name, word


def _run(arguments: argparse.Namespace) -> int:
    given = dict(_given(text) for text in arguments.param)
    if given:
        if os.environ.get("STUDY_TRIAL_ID"):
            raise _UsageError("--param is for local runs; in a trial's pod the study has chosen the values")
        # Through the environment, so that processes that the objective starts see them as well.
        os.environ["STUDY_PARAMS"] = json.dumps({**read_given_params(os.environ), **given})
    current()  # first, so that a broken environment is reported before a long import
    try:
        run(_load(arguments.objective, arguments.script_arguments))
    except StudyTrialError:
        traceback.print_exc()  # the error comes from the user's script, so its line matters as well
        return 1
    return 0


def _given(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not name or not separator:
        raise _UsageError(f"--param takes NAME=VALUE, for example lr=0.1, not {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _load(target: str, arguments: list[str]) -> Callable[[Trial], Any]:
    """Return the objective that `FILE.py:FUNCTION` or `MODULE:FUNCTION` names.

    Args:
        target: the objective's name.
        arguments: the script's sys.argv, without its own name.

    Raises:
        _UsageError: there is no such file or function. The script's own errors propagate.
    """
    where, separator, name = target.rpartition(":")
    if not separator or not name:
        raise _UsageError(f"name the objective as FILE.py:FUNCTION or MODULE:FUNCTION, not {target!r}")
    if where.endswith(".py"):
        path = Path(where).resolve()
        if not path.is_file():
            raise _UsageError(f"there is no file {where}")
        sys.argv = [where, *arguments]
        sys.path.insert(0, str(path.parent))  # as `python train.py` does
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise _UsageError(f"there is no file {where}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module  # so that what the script defines can be pickled for worker processes
        spec.loader.exec_module(module)
    else:
        sys.argv = [where, *arguments]
        sys.path.insert(0, os.getcwd())  # as `python -m package.module` does
        module = importlib.import_module(where)
    objective: Callable[[Trial], Any] | None = getattr(module, name, None)
    if not callable(objective):
        raise _UsageError(f"{where} has no function {name}")
    return objective


def _warn_of_losses(trial: Trial) -> None:
    atexit.unregister(flush_at_exit)  # the report has had its time already
    for what in trial.undelivered:
        say(f"warning: {what} is NOT stored, because the database is still away; going on without it")

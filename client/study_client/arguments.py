"""The command line: commands, their options, and those of kubectl, which are passed on."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from study_client.errors import ClientError
from study_client.trial_tables import FORMS, STATES

# kubectl's own options that take a value and say which cluster is meant, and as whom.
_PASSED_ON = ("context", "kubeconfig", "cluster", "user", "as", "as-group", "as-uid", "server", "request-timeout")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

Fill = Callable[[argparse.ArgumentParser], None]


@dataclass
class Options:
    """kubectl's options as they stand on a command line.

    Attributes:
        kubectl: those to be passed on.
        namespace: that of -n; None without.
    """

    kubectl: list[str] = field(default_factory=list)
    namespace: str | None = None

    @classmethod
    def taken_from(cls, words: Sequence[str]) -> tuple[Options, list[str]]:
        """Return kubectl's options among the words of a command line that is not finished, and the other words."""
        found, plain = cls(), list[str]()
        rest = iter(words)
        for word in rest:
            name, equals, value = word.partition("=")
            if name in ("-n", "--namespace"):
                found.namespace = value if equals else next(rest, None)
            elif name.startswith("--") and name.removeprefix("--") in _PASSED_ON:
                found.kubectl.append(f"{name}={value if equals else next(rest, '')}")
            elif not word.startswith("-"):
                plain.append(word)
        return found, plain


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print what is wrong in one line; argparse would print all options before it."""
        self.exit(2, f"error: {message}; `{self.prog} -h` shows what there is\n")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return a command line, read. Prints and exits as argparse does."""
    parser = _Parser(
        prog="kubectl study",
        description="Hyperparameter studies of study-operator, from the command line.",
        epilog="`kubectl study COMMAND -h` explains a command. docs/client.md has examples of each.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (summary, fill, cluster) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        fill(command)
        if cluster:
            _cluster_options(command)
    if arguments[:1] == ["run"] and "--" in arguments:  # argparse takes what follows for more options of `run`
        end = list(arguments).index("--")
        given = parser.parse_args(arguments[:end])
        given.program = list(arguments[end + 1 :])
        return given
    return parser.parse_args(arguments)


def options_of(given: argparse.Namespace) -> list[str]:
    """Return the options to be passed on to kubectl."""
    found = []
    for name in _PASSED_ON:
        value = getattr(given, f"kubectl_{name.replace('-', '_')}", None)
        for one in value if isinstance(value, list) else [value] if value is not None else []:
            found.append(f"--{name}={one}")
    return found


def duration(text: str) -> float:
    """Read a duration such as 90s, 30m or 24h, or a number of seconds.

    Raises:
        ClientError: it is none.
    """
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    if not (number.isascii() and number.isdecimal() and len(number) < 10):
        raise ClientError(f"--timeout is {text!r}: write 90s, 30m or 24h")
    return float(int(number) * _UNITS[unit])


def _cluster_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("as in kubectl")
    group.add_argument("-n", "--namespace", help="the namespace; unless given, that of the context")
    for name in _PASSED_ON:
        action = "append" if name == "as-group" else "store"
        group.add_argument(f"--{name}", dest=f"kubectl_{name.replace('-', '_')}", action=action, help=argparse.SUPPRESS)
    group.description = f"Also --{', --'.join(_PASSED_ON)}."


def _form(command: argparse.ArgumentParser, *forms: str) -> None:
    command.add_argument("-o", "--output", choices=forms, default="table", help=", ".join(forms))


def _study(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", metavar="NAME", help="the Study")


def _list(command: argparse.ArgumentParser) -> None:
    command.add_argument("-A", "--all-namespaces", action="store_true", help="of all namespaces")
    command.add_argument("-l", "--selector", help="labels that they have, such as team=vision")
    _form(command, "table", "wide", "json", "yaml", "name")


def _status(command: argparse.ArgumentParser) -> None:
    _study(command)
    command.add_argument("-w", "--watch", action="store_true", help="go on until the study has ended")


def _best(command: argparse.ArgumentParser) -> None:
    _study(command)
    _form(command, "table", "args", "env", "yaml", "json")


def _trials(command: argparse.ArgumentParser) -> None:
    _study(command)
    command.add_argument("--best", type=_count, metavar="N", help="the N best")
    command.add_argument("--state", type=_state, metavar="STATE", help=f"of one state: {', '.join(STATES)}")
    command.add_argument("--sort", metavar="WHAT", help="by value, an objective, number, duration, or a parameter")
    command.add_argument("--reverse", action="store_true", help="the other way round")
    _form(command, *FORMS)


def _describe(command: argparse.ArgumentParser) -> None:
    command.add_argument("trial", metavar="NAME/NUMBER", help="the trial, such as digits/7")
    _form(command, "table", "args", "env", "yaml", "json")


def _logs(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", metavar="NAME[/NUMBER]", help="the trial, such as digits/7; or the Study")
    which = command.add_mutually_exclusive_group()
    which.add_argument("--best", action="store_true", help="of the best trial so far")
    which.add_argument("--failed", action="store_true", help="of the trial that has failed last")
    command.add_argument("-f", "--follow", action="store_true", help="go on while the trial runs")
    command.add_argument("--tail", type=_count, metavar="N", help="the last N lines")
    command.add_argument("-p", "--previous", action="store_true", help="of the container's run before")


def _curve(command: argparse.ArgumentParser) -> None:
    _study(command)
    command.add_argument("numbers", metavar="NUMBER", type=_count, nargs="*", help="trials; unless given, the best")


def _compare(command: argparse.ArgumentParser) -> None:
    command.add_argument("names", metavar="NAME", nargs="+", help="two Studies or more")


def _export(command: argparse.ArgumentParser) -> None:
    _study(command)
    command.add_argument("-o", "--output", choices=("csv", "json"), required=True)
    command.add_argument("file", metavar="FILE", help="- for standard output")


def _scale(command: argparse.ArgumentParser) -> None:
    _study(command)
    command.add_argument("slots", metavar="N", type=_count, help="how many trials run at the same time")


def _extend(command: argparse.ArgumentParser) -> None:
    _study(command)
    command.add_argument("--trials", required=True, metavar="+N", help="+50 for fifty more, 200 for so many in all")


def _stop(command: argparse.ArgumentParser) -> None:
    _study(command)
    command.add_argument("--now", action="store_true", help="end running trials, too")


def _wait(command: argparse.ArgumentParser) -> None:
    _study(command)
    wanted = "complete, goal, or a value such as 0.95"
    command.add_argument("--for", dest="wanted", required=True, metavar="WHAT", help=wanted)
    command.add_argument("--timeout", metavar="TIME", help="such as 30m; unless given, for ever")


def _clone(command: argparse.ArgumentParser) -> None:
    _study(command)
    change = "a field of the spec, such as maxTrials=50"
    command.add_argument("--set", dest="changes", action="append", default=[], metavar="FIELD=VALUE", help=change)
    command.add_argument("--name", dest="new_name", help="of the new Study; unless given, NAME-2 or the next free one")
    command.add_argument("-o", "--output", choices=("json", "yaml"), help="print it, and do not create it")


def _doctor(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", metavar="NAME", nargs="?", help="a Study whose GPUs are looked for on the nodes")


def _init(command: argparse.ArgumentParser) -> None:
    command.add_argument("script", metavar="SCRIPT", help="a Python file with argparse options or an Optuna objective")
    command.add_argument("--file", default="study.yaml", help="where the Study is written to; - for standard output")


def _validate(command: argparse.ArgumentParser) -> None:
    command.add_argument("files", metavar="FILE", nargs="+", help="YAML with Studies; - is standard input")


def _run(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", metavar="FILE", help="YAML with one Study")
    command.usage = "kubectl study run --local FILE [--trials N] [--parallel N] [-- PROGRAM ...]"
    command.epilog = "PROGRAM is a command in place of the container's, such as: -- python train.py"
    command.set_defaults(program=[])
    command.add_argument("--local", action="store_true", required=True, help="as processes of this machine")
    command.add_argument("--trials", type=_positive, default=5, metavar="N", help="how many; 5 unless given")
    command.add_argument("--parallel", type=_positive, default=1, metavar="N", help="how many at the same time; 1")


def _nothing(command: argparse.ArgumentParser) -> None:
    pass


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)


def _positive(text: str) -> int:
    if not (number := _count(text)):
        raise argparse.ArgumentTypeError("write at least 1")
    return number


def _state(text: str) -> str:
    for state in STATES:
        if state.lower() == text.lower():
            return state
    raise argparse.ArgumentTypeError(f"{text!r} is no state: there are {', '.join(STATES)}")


# Name: what it does, its options, and whether it speaks to a cluster.
COMMANDS: dict[str, tuple[str, Fill, bool]] = {
    "list": ("show the Studies", _list, True),
    "status": ("show how far a study is, and why it does what it does", _status, True),
    "best": ("show the best trial's parameters", _best, True),
    "trials": ("show a study's trials", _trials, True),
    "describe": ("show everything about one trial", _describe, True),
    "logs": ("show what a trial's program has printed", _logs, True),
    "curve": ("draw what trials have reported", _curve, True),
    "compare": ("show studies beside each other", _compare, True),
    "importance": ("rank the parameters by how far the value follows them", _study, True),
    "export": ("write all trials of a study to a file", _export, True),
    "suspend": ("start no more trials", _study, True),
    "resume": ("go on with a study that was suspended or stopped", _study, True),
    "scale": ("set how many trials run at the same time", _scale, True),
    "extend": ("give a study more trials", _extend, True),
    "stop": ("end a study", _stop, True),
    "wait": ("wait until a study has ended, or is good enough", _wait, True),
    "clone": ("create a Study like another one, with changes", _clone, True),
    "init": ("write a Study for a training script", _init, False),
    "validate": ("check a Study without a cluster", _validate, False),
    "run": ("run a study's first trials on this machine", _run, False),
    "doctor": ("say what the cluster has, and what you may do", _doctor, True),
    "version": ("show this program's version", _nothing, False),
}

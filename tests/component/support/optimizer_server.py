"""`study-operator optimize`, as the tests of one process share it: it starts once, and forks for each manager.

Its processes know one call more, which tells tests what they hold in memory.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from waiting import wait_until

from study_operator.processes.connection import Connection, Ended
from study_operator.processes.lanes import StudyId

ROOT = Path(__file__).resolve().parents[3]
_PATHS = ("operator", "examples/plugins/hyperopt", "tests/component/support")


@contextmanager
def optimizer_server(*paths: str, memory_mib: int = 256, **env_more: str) -> Iterator[str]:
    """A server of the test's own. `paths` come first where it looks for modules, and `env_more` are more of its
    variables. Yields its socket's path."""
    with tempfile.TemporaryDirectory(prefix="optimizer-") as directory:
        path = f"{directory}/optimizer.sock"
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": ":".join((*paths, *(str(ROOT / each) for each in _PATHS))),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OPTIMIZER_SOCKET": path,
            "OPTIMIZER_MEMORY_MIB": str(memory_mib),
            **env_more,
        }
        process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, env=env)
        try:
            wait_until(lambda: _answers(path), patience=180)
            yield path
        finally:
            process.kill()
            process.communicate()


@cache
def shared_socket() -> str:
    """The socket of the server that all tests of this process share."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(optimizer_server())


def remembered(optimizer) -> list[tuple[int, str]] | None:
    """Number and state of every trial that the process of a `RemoteOptimizer` has in memory; None when it is lost."""
    from study_operator.processes.errors import OptimizerUnavailable

    try:
        return optimizer._call("remembered", (), list[tuple[int, str]])
    except OptimizerUnavailable:
        return None


def process_of(optimizers, study: StudyId) -> int | None:
    """The pid of the process that holds a study."""
    found = optimizers._loaded.get(study)
    if found is None or found[1].process not in optimizers._connections:
        return None
    return optimizers._connections[found[1].process][1].pid


def _answers(path: str) -> bool:
    try:
        Connection(path).close()
    except Ended:
        return False
    return True


def _remembered(of) -> list[tuple[int, str]]:
    memory = of.loaded._memory
    trials, first = memory.get_all_trials(memory.study_id), memory.first  # those before it are of earlier studies
    return [(trial.number - first, trial.state.name) for trial in trials[first:]]


if __name__ == "__main__":
    from study_operator.__main__ import main
    from study_operator.processes import answering

    answering.CALLS["remembered"] = answering._Call(tuple[()], _remembered)
    main(["optimize", "--until-eof"])

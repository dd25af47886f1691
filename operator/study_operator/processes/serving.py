"""`study-operator optimize`: imports Optuna once, listens, and forks an optimizer process for each connection.

The parent only accepts, forks and reaps. So it has no thread, no state, and nothing that a study could harm. What it
has imported, all of its children share.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import logging
import os
import random
import selectors
import signal
import socket
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from study_operator.settings import OptimizeSettings

_HEALTHY = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"
_PR_SET_PDEATHSIG = 1
_IMPORTED_LATE = ("cmaes", "scipy.stats.qmc")  # by samplers and pruners, which would take a second for it
_BACKLOG = 64
_CLIENTS = 16  # of the probes, at once

log = logging.getLogger(__name__)


def optimize(settings: OptimizeSettings, until_eof: bool = False) -> None:
    """Serve until SIGTERM.

    Args:
        until_eof: whether to end when standard input does: the manager that has started this holds its other end.
    """
    # Before NumPy is imported. Its threads would not survive a fork, and one process is to use one core.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    become = _import(settings.sampler_classes)
    gc.collect()
    gc.freeze()  # so that no collection touches, and thus copies, the pages that children share
    listener = listen(settings.socket)  # not before: who connects, expects an answer
    log.info("optimizer processes are forked here, each with at most %d MiB", settings.memory // 2**20)
    probes = _listen_for_probes(settings.http_port)
    with selectors.DefaultSelector() as ready:
        ready.register(listener, selectors.EVENT_READ)
        if probes is not None:
            ready.register(probes, selectors.EVENT_READ)
        if until_eof:
            ready.register(sys.stdin, selectors.EVENT_READ)
        asking: list[socket.socket] = []  # clients of the probes that have not sent their request yet
        while True:
            for key, _ in ready.select(timeout=1.0):
                if key.fileobj is listener:
                    _fork(listener, [*asking, *([probes] if probes else [])], become, settings.memory)
                elif key.fileobj is probes and probes is not None:
                    _hear(probes, asking, ready)
                elif key.fileobj is sys.stdin:
                    if not os.read(0, 4096):
                        return
                elif isinstance(key.fileobj, socket.socket) and key.fileobj in asking:
                    _leave(key.fileobj, asking, ready)
            _reap()


def listen(path: str) -> socket.socket:
    """Listen on a Unix socket for processes of this user alone. What an earlier process left there is removed."""
    Path(path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def _import(classes: Iterable[str]):  # type: ignore[no-untyped-def]
    """Import what children need. Return what a child does."""
    from study_operator.processes.answering import become

    for module in _IMPORTED_LATE:
        importlib.import_module(module)
    if find_spec("torch") is not None:  # the variant gp: three seconds, which no study should wait
        importlib.import_module("torch").set_num_threads(1)
    for name in classes:
        try:
            importlib.import_module(name.partition(":")[0])
        except (Exception, SystemExit):
            log.warning("sampler class %s cannot be imported; Studies that name it are told so", name, exc_info=True)
    return become


def _listen_for_probes(port: int | None) -> socket.socket | None:
    if port is None:
        return None
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    probes = socket.create_server(("", port), family=family, dualstack_ipv6=family is socket.AF_INET6)
    probes.setblocking(False)
    return probes


def _hear(probes: socket.socket, asking: list[socket.socket], ready: selectors.BaseSelector) -> None:
    """Take a client of the probes. The one that has been silent for longest gives way."""
    with contextlib.suppress(OSError):
        client, _ = probes.accept()
        client.setblocking(False)
        asking.append(client)
        ready.register(client, selectors.EVENT_READ)
    if len(asking) > _CLIENTS:
        _leave(asking[0], asking, ready)


def _leave(client: socket.socket, asking: list[socket.socket], ready: selectors.BaseSelector) -> None:
    """Answer a client of the probes as far as that does not block, and close its connection."""
    ready.unregister(client)
    asking.remove(client)
    with client, contextlib.suppress(OSError):
        client.recv(4096)  # a request that is unread when the connection is closed would reset it
        client.send(_HEALTHY)


def _fork(listener: socket.socket, others: list[socket.socket], become, memory: int) -> None:  # type: ignore[no-untyped-def]
    try:
        connection, _ = listener.accept()
    except OSError:
        return
    parent = os.getpid()
    try:
        child = os.fork()
    except OSError as error:
        log.warning("no process for a connection: %s", error)
        connection.close()
        return
    if child:
        connection.close()
        return
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for inherited in (listener, *others):
            inherited.close()
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        random.seed()
        connection.setblocking(True)
        become(connection, memory)
    finally:
        os._exit(1)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
